//! The keys that an issuer publishes, read from where it does, again and again.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::Jwk;
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// For how long keys are not read again, but for one that is not among them.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// For how long keys hold that cannot be read again.
const HOLD: Duration = Duration::from_secs(60 * 60);
/// How often they are read at most, whatever keys are asked for.
const PAUSE: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest document of an issuer.
const MAX_BYTES: usize = 1 << 20;

pub(super) struct IssuerKeys(Arc<Reader>);

struct Reader {
    place: Place,
    client: reqwest::Client,
    read: RwLock<Read>,
    /// One reads at a time.
    reading: Arc<tokio::sync::Mutex<()>>,
}

/// What was read last, and when it was tried.
#[derive(Default, Clone)]
struct Read {
    keys: Arc<Vec<Jwk>>,
    read_at: Option<Instant>,
    tried_at: Option<Instant>,
    /// The last try failed.
    is_away: bool,
}

enum Place {
    File(PathBuf),
    Url(Url),
    /// Where the discovery document of this issuer says.
    Discovered {
        issuer: String,
        document: Url,
    },
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl IssuerKeys {
    /// # Errors
    /// `InvalidInput` for a place that cannot be, and for a file without keys. An issuer that does not
    /// answer yet is no error.
    pub(super) async fn open(issuer: &str, jwks: Option<&str>) -> Result<Self> {
        let place = match jwks {
            Some(text) if text.contains("://") => Place::Url(safe_url(text)?),
            Some(path) => Place::File(path.into()),
            None => {
                let start = issuer.trim_end_matches('/');
                let document = safe_url(&format!("{start}/.well-known/openid-configuration"))?;
                Place::Discovered { issuer: issuer.into(), document }
            }
        };
        // A redirect could lead anywhere, to what only this server reaches too.
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::internal("preparing to read keys", error))?;
        let opened = Reader { place, client, read: RwLock::default(), reading: Arc::default() };
        if let Place::File(path) = &opened.place {
            opened.fetch().await.map_err(|why| {
                Error::invalid_input(format!("no keys in '{}': {why}", path.display()))
            })?;
        }
        Ok(Self(Arc::new(opened)))
    }

    /// The keys that fit. Looks for new ones where none does.
    ///
    /// # Errors
    /// `ServiceUnavailable` when the issuer does not tell its keys.
    pub(super) async fn find(&self, fits: impl Fn(&Jwk) -> bool) -> Result<Vec<Jwk>> {
        let fitting = |read: &Read| -> Vec<Jwk> {
            read.keys.iter().filter(|key| fits(key)).cloned().collect()
        };
        let within = |at: Option<Instant>, span| at.is_some_and(|at| at.elapsed() < span);
        let reader = &self.0;
        let mut read = reader.now_read();
        let found = fitting(&read);
        if !found.is_empty() && within(read.read_at, FRESH) {
            return Ok(found);
        }
        let one = match reader.reading.clone().try_lock_owned() {
            Ok(one) => Some(one),
            // Another reads them again; meanwhile these hold.
            Err(_) if !found.is_empty() && within(read.read_at, HOLD) => return Ok(found),
            // For one that was silent a moment ago not everybody waits.
            Err(_) if read.is_away => None,
            Err(_) => Some(reader.reading.clone().lock_owned().await),
        };
        if let Some(one) = one {
            if !within(reader.now_read().tried_at, PAUSE) {
                let reader = reader.clone();
                // Whoever asks may hang up, and what was found out holds for others.
                let work = tokio::spawn(async move {
                    reader.read_again().await;
                    drop(one);
                });
                work.await.map_err(|error| Error::internal("reading keys", error))?;
            }
            read = reader.now_read();
        }
        if !within(read.read_at, HOLD) {
            return Err(Error::ServiceUnavailable(
                "the issuer of the token does not tell its keys; try again in a moment".into(),
            ));
        }
        Ok(fitting(&read))
    }
}

impl Reader {
    fn now_read(&self) -> Read {
        self.read.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read_again(&self) {
        let began = Instant::now();
        let fetched = self.fetch().await;
        let mut read = self.now_read();
        // The pause is one after the answer, however long that took.
        (read.tried_at, read.is_away) = (Some(Instant::now()), fetched.is_err());
        match fetched {
            Ok(keys) => (read.keys, read.read_at) = (Arc::new(keys), Some(began)),
            Err(why) => tracing::warn!(%why, "could not read the keys of a token issuer"),
        }
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = read;
    }

    async fn fetch(&self) -> Result<Vec<Jwk>, String> {
        let set: KeySet = match &self.place {
            Place::File(path) => {
                let text = tokio::fs::read(path).await.map_err(|error| error.to_string())?;
                serde_json::from_slice(&text).map_err(|error| error.to_string())?
            }
            Place::Url(url) => self.get(url.clone()).await?,
            Place::Discovered { issuer, document } => {
                let found: Discovery = self.get(document.clone()).await?;
                // OpenID Connect Discovery 1.0, section 4.3.
                if found.issuer != *issuer {
                    return Err(format!("the document is of '{}', not '{issuer}'", found.issuer));
                }
                self.get(safe_url(&found.jwks_uri).map_err(|error| error.to_string())?).await?
            }
        };
        // Of kinds that we do not know there may be others among them (RFC 7517, section 5).
        Ok(set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect())
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, String> {
        let get = async {
            let mut answer = self.client.get(url).send().await?.error_for_status()?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > MAX_BYTES {
                    break;
                }
            }
            Ok(body)
        };
        let body = get.await.map_err(|error: reqwest::Error| error.to_string())?;
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }
}

/// # Errors
/// `InvalidInput` for what is no URL, and for one where somebody on the way could give keys of theirs.
fn safe_url(text: &str) -> Result<Url> {
    let url = Url::parse(text)
        .map_err(|error| Error::invalid_input(format!("'{text}' is no URL: {error}")))?;
    let is_local = || matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_local() => Ok(url),
        _ => Err(Error::invalid_input(format!("'{text}' is to be an https URL"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_safe_ways_only() {
        for good in ["https://login.example.com/x", "http://localhost:1", "http://127.0.0.1:9/a"] {
            assert!(safe_url(good).is_ok(), "{good}");
        }
        for bad in
            ["http://login.example.com", "file:///etc/keys", "http://localhost.example.com", "x"]
        {
            assert!(safe_url(bad).is_err(), "{bad}");
        }
    }
}
