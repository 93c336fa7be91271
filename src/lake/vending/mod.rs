//! Credentials for the folder of one table, which a client uses instead of the server's own.
//!
//! The credentials of `orders` do not open `orders2`: what they are limited to ends with a slash. A
//! location that could not be written down without meaning more than itself gets none.
//!
//! Lance's own vendors (`lance-namespace-impls`) are not used: they do not escape what stands for
//! more in a policy, limit credentials to the percent-encoded path instead of the key, let a token of
//! GCS list by the bare prefix, which shows the names in `orders2`, and write the first characters of
//! credentials to the log.

mod azure;
mod gcs;
mod s3;
mod tokens;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lance_io::object_store::uri_to_url;
use moka::sync::Cache;
use object_store::path::Path;
use tokio::sync::Mutex;

use super::{Lake, Location};
use crate::error::{Error, Result};

/// How many credentials are remembered, of one place.
const REMEMBERED: u64 = 10_000;
/// How long the clouds may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The shortest life of credentials; AWS gives none for less.
const SHORTEST: Duration = Duration::from_secs(15 * 60);
/// For how long they are good when nothing else is said.
const USUAL: Duration = Duration::from_secs(60 * 60);

/// The option that says until when the others are good, in milliseconds since the Unix epoch: Lance's
/// clients ask again shortly before.
const EXPIRES_AT_MILLIS: &str = "expires_at_millis";

/// How credentials for one table are had, as the configuration has it. Which cloud is asked follows
/// from the scheme of the place's root.
#[derive(Debug, Clone, Default)]
pub struct Vending {
    /// For S3: the role that is assumed, for each table with a policy for its folder only.
    pub role_arn: Option<String>,
    /// For S3: what the role's trust policy may ask for.
    pub external_id: Option<String>,
    /// For how long credentials are good; an hour when absent.
    pub duration: Option<Duration>,
    /// The token service, where it is not the cloud's own.
    pub sts_endpoint: Option<String>,
    /// For GCS: the service account that is impersonated.
    pub service_account: Option<String>,
}

/// What credentials let somebody do with the files of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// List and read.
    Read,
    /// Add files, too. Nothing is ever removed with vended credentials: Lance writes without, and what
    /// is no longer needed the server removes.
    Write,
}

impl Permission {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Credentials that somebody may have. They are secret, and so not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    options: BTreeMap<String, String>,
    expires_at_millis: u64,
}

impl Credentials {
    fn new<'a>(
        options: impl IntoIterator<Item = (&'a str, String)>,
        expires_at_millis: u64,
    ) -> Self {
        let options = options.into_iter().map(|(name, value)| (name.to_owned(), value));
        let expires = (EXPIRES_AT_MILLIS.to_owned(), expires_at_millis.to_string());
        Self { options: options.chain([expires]).collect(), expires_at_millis }
    }

    /// As Lance's `storage_options`, with the time at which they end.
    pub fn options(&self) -> &BTreeMap<String, String> {
        &self.options
    }

    /// When they end, in milliseconds since the Unix epoch.
    pub fn expires_at_millis(&self) -> u64 {
        self.expires_at_millis
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expires_at_millis = &self.expires_at_millis;
        f.debug_struct("Credentials")
            .field("expires_at_millis", expires_at_millis)
            .finish_non_exhaustive()
    }
}

/// A folder in an object store, in the words of its cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Folder {
    /// The bucket, or Azure's container.
    bucket: String,
    /// The host behind an `@`, which names Azure's account.
    host: Option<String>,
    /// The key, as it is stored, without slashes around it; never empty.
    key: String,
}

impl Folder {
    /// # Errors
    /// `Unsupported` for a location that is no folder in a bucket.
    fn of(location: &Location) -> Result<Self> {
        let none = || cannot_be_limited("it is not a folder in a bucket");
        let url = uri_to_url(location.as_str()).map_err(|_| none())?;
        let host = url.host_str().ok_or_else(none)?;
        let (bucket, host) = match (url.username(), url.scheme()) {
            ("", _) => (host, None),
            (bucket, "az" | "abfss") => (bucket, Some(host.to_owned())),
            _ => return Err(none()),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if bucket.is_empty() || !bucket.chars().all(is_plain) {
            return Err(cannot_be_limited("the name of its bucket is not one"));
        }
        // As Lance finds the key of a file.
        let key = Path::from_url_path(url.path()).map_err(|_| none())?.to_string();
        if key.is_empty() {
            return Err(cannot_be_limited("it is a whole bucket"));
        }
        // A URL leaves out some characters, and reads others; none of that may make it another's key.
        let written =
            location.as_str().split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        let is_as_written = written.is_some_and(|(_, path)| path.trim_end_matches('/') == key);
        if !is_as_written || key.chars().any(char::is_control) {
            return Err(cannot_be_limited("it is read as another or holds a control character"));
        }
        Ok(Self { bucket: bucket.to_owned(), host, key })
    }

    /// # Errors
    /// `Unsupported` when one of `texts` is in the key: there it would mean more than itself.
    fn refuse(&self, texts: &[&str]) -> Result<()> {
        match texts.iter().find(|text| self.key.contains(**text)) {
            Some(text) => Err(cannot_be_limited(&format!("it holds {text}"))),
            None => Ok(()),
        }
    }
}

/// The refusal to hand out credentials that would open more than one table.
fn cannot_be_limited(why: &str) -> Error {
    Error::Unsupported(format!(
        "no credentials are handed out for this table, since they could not be limited to its \
         location: {why}"
    ))
}

/// The refusal of a place's settings.
fn wrong(root: &Location, what: &str) -> Error {
    Error::invalid_input(format!("vending credentials for {root}: {what}"))
}

/// # Errors
/// `InvalidInput` for a time that the cloud would not give.
fn duration_of(root: &Location, vending: &Vending, longest: Duration) -> Result<Duration> {
    let duration = vending.duration.unwrap_or(USUAL);
    if duration < SHORTEST || duration > longest {
        let hours = longest.as_secs() / 3600;
        let what = format!("the duration must be at least 15 minutes and at most {hours} hours");
        return Err(wrong(root, &what));
    }
    Ok(Duration::from_secs(duration.as_secs()))
}

/// # Errors
/// `InvalidInput` for what only other clouds know.
fn refuse_others(root: &Location, settings: &[(&str, &Option<String>)]) -> Result<()> {
    match settings.iter().find(|(_, value)| value.is_some()) {
        Some((name, _)) => Err(wrong(root, &format!("{name} is for other stores"))),
        None => Ok(()),
    }
}

fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

enum Cloud {
    S3(s3::S3),
    Azure(azure::Azure),
    Gcs(gcs::Gcs),
}

/// Credentials, and when they came.
struct Held {
    credentials: Arc<Credentials>,
    since_millis: u64,
}

impl Held {
    /// Whether at least half of their life is left: nobody gets credentials that end at once.
    fn is_fresh(&self) -> bool {
        let (now, end) = (now_millis(), self.credentials.expires_at_millis);
        end > now && end - now >= end.saturating_sub(self.since_millis) / 2
    }
}

/// What is remembered of one folder. One asks the cloud at a time; others wait for the answer.
type Slot = Arc<Mutex<Option<Held>>>;

/// Hands out credentials for the tables of one place.
pub(super) struct Vendor {
    cloud: Cloud,
    remembered: Cache<(Location, Permission), Slot>,
}

impl Vendor {
    /// # Errors
    /// `InvalidInput` for settings that cannot work, and where `client_options` hold credentials, which
    /// would open all of the place.
    pub(super) async fn open(
        root: &Location,
        options: &BTreeMap<String, String>,
        client_options: &BTreeMap<String, String>,
        vending: &Vending,
    ) -> Result<Self> {
        let cloud = match scheme(root) {
            "s3" => Cloud::S3(s3::S3::open(root, options, client_options, vending).await?),
            "az" | "abfss" => Cloud::Azure(azure::Azure::open(root, options, vending)?),
            "gs" => Cloud::Gcs(gcs::Gcs::open(root, options, vending)?),
            _ => return Err(wrong(root, "there are credentials for s3://, az:// and gs:// only")),
        };
        let is_credential = match cloud {
            Cloud::S3(_) => s3::is_credential,
            Cloud::Azure(_) => azure::is_credential,
            Cloud::Gcs(_) => gcs::is_credential,
        };
        let mut names = client_options.keys();
        if let Some(name) = names.find(|name| is_credential(&name.to_ascii_lowercase())) {
            let what = format!(
                "client_storage_options tell every client '{name}', which opens more than one table"
            );
            return Err(wrong(root, &what));
        }
        Ok(Self { cloud, remembered: Cache::new(REMEMBERED) })
    }

    fn knows(&self, location: &Location) -> bool {
        let schemes: &[&str] = match &self.cloud {
            Cloud::S3(_) => &["s3"],
            Cloud::Azure(_) => &["az", "abfss"],
            Cloud::Gcs(_) => &["gs"],
        };
        schemes.contains(&scheme(location))
    }

    async fn vend(&self, location: &Location, permission: Permission) -> Result<Arc<Credentials>> {
        let slot = self.remembered.get_with((location.clone(), permission), Slot::default);
        let mut slot = slot.lock().await;
        if let Some(held) = slot.as_ref().filter(|held| held.is_fresh()) {
            return Ok(held.credentials.clone());
        }
        let folder = Folder::of(location)?;
        let credentials = match &self.cloud {
            Cloud::S3(s3) => s3.vend(&folder, permission).await?,
            Cloud::Azure(azure) => azure.vend(&folder, permission).await?,
            Cloud::Gcs(gcs) => gcs.vend(&folder, permission).await?,
        };
        let since_millis = now_millis();
        if credentials.expires_at_millis <= since_millis {
            return Err(unavailable("the credentials that came had ended already"));
        }
        let credentials = Arc::new(credentials);
        *slot = Some(Held { credentials: credentials.clone(), since_millis });
        Ok(credentials)
    }
}

fn scheme(location: &Location) -> &str {
    location.as_str().split_once("://").map_or("", |(scheme, _)| scheme)
}

/// Why there are no credentials goes to the log, and must name no secret; the caller is told to come
/// again.
fn unavailable(why: impl fmt::Display) -> Error {
    tracing::warn!(%why, "could not get credentials for a table");
    Error::ServiceUnavailable(
        "credentials for the table's storage cannot be had now; the server's log tells why".into(),
    )
}

impl Lake {
    /// Whether credentials for a table alone can be had where it stands.
    pub fn vends(&self, location: &Location) -> bool {
        self.vendor_of(location).is_some_and(|vendor| vendor.knows(location))
    }

    /// Credentials for the files of one table, with at least half of their life before them.
    ///
    /// # Errors
    /// `Unsupported` where none are handed out, or could not be limited to the table;
    /// `ServiceUnavailable` when the cloud does not give any, or not in time.
    pub async fn vend(
        &self,
        location: &Location,
        permission: Permission,
    ) -> Result<Arc<Credentials>> {
        let vendor = self.vendor_of(location).filter(|vendor| vendor.knows(location));
        let vendor = vendor.ok_or_else(|| {
            Error::Unsupported("no credentials are handed out for this table's storage".into())
        })?;
        match tokio::time::timeout(PATIENCE, vendor.vend(location, permission)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(unavailable(format!("no answer within {PATIENCE:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(location: &str) -> Result<Folder> {
        Folder::of(&Location::from_stored(location))
    }

    #[test]
    fn a_location_is_a_bucket_and_a_key() {
        for (location, bucket, key) in [
            ("s3://b/lake/orders", "b", "lake/orders"),
            ("s3://b/a b/Käse", "b", "a b/Käse"),
            ("s3://b/a+b/ns$t", "b", "a+b/ns$t"),
            ("az://c/lake/t", "c", "lake/t"),
        ] {
            let folder = folder(location).unwrap();
            assert_eq!((folder.bucket.as_str(), folder.key.as_str()), (bucket, key), "{location}");
        }
        let azure = folder("abfss://c@acc.dfs.core.windows.net/lake/t").unwrap();
        assert_eq!(azure.bucket, "c");
        assert_eq!(azure.host.as_deref(), Some("acc.dfs.core.windows.net"));
        for location in [
            "s3://b",
            "s3://b/",
            "s3:///t",
            "s3://b*/t",
            "s3://a@b/t",
            "s3://b/or\nders",
            "s3://b/orders ",
            "s3://b/%6frders",
            "s3://b/a/../orders",
            "s3://b/\u{1}",
        ] {
            assert!(matches!(folder(location), Err(Error::Unsupported(_))), "{location}");
        }
    }

    #[test]
    fn credentials_are_handed_out_in_the_first_half_of_their_life() {
        let now = now_millis();
        let held = |since: u64, end: u64| {
            let credentials = Arc::new(Credentials::new([], end));
            Held { credentials, since_millis: since }
        };
        assert!(held(now, now + 60_000).is_fresh());
        assert!(held(now - 20_000, now + 40_000).is_fresh());
        assert!(!held(now - 40_000, now + 20_000).is_fresh());
        assert!(!held(now - 2, now - 1).is_fresh());
    }

    #[test]
    fn credentials_are_not_shown() {
        let credentials = Credentials::new([("aws_secret_access_key", "hush".into())], 7);
        assert_eq!(credentials.options()[EXPIRES_AT_MILLIS], "7");
        let shown = format!("{credentials:?}");
        assert!(shown.contains('7') && !shown.contains("hush"), "{shown}");
    }

    #[tokio::test]
    async fn settings_that_cannot_work_are_refused() {
        let role = || Some("arn:aws:iam::123456789012:role/tables".to_owned());
        let options = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        let good = Vending { role_arn: role(), ..Vending::default() };
        let account = [("account_name", "acc"), ("azure_storage_token", "x")];
        for (root, own, told, vending, says) in [
            ("/lake", &[][..], &[][..], good.clone(), "s3://, az:// and gs:// only"),
            ("s3://b", &[], &[], Vending::default(), "role_arn"),
            (
                "s3://b",
                &[],
                &[],
                Vending { role_arn: Some("me".into()), ..good.clone() },
                "role_arn",
            ),
            ("s3://b", &[], &[], Vending { duration: minutes(14), ..good.clone() }, "15 minutes"),
            ("s3://b", &[], &[], Vending { duration: minutes(721), ..good.clone() }, "12 hours"),
            (
                "s3://b",
                &[],
                &[],
                Vending { service_account: role(), ..good.clone() },
                "other stores",
            ),
            ("s3://b", &[], &[("SECRET_ACCESS_KEY", "x")], good.clone(), "SECRET_ACCESS_KEY"),
            ("az://c", &account, &[], good.clone(), "other stores"),
            ("az://c", &[("azure_storage_token", "x")], &[], Vending::default(), "account_name"),
            (
                "az://c",
                &[("account_name", "acc"), ("account_key", "eA==")],
                &[],
                Vending::default(),
                "account key",
            ),
            ("az://c", &account, &[("sas_token", "x")], Vending::default(), "sas_token"),
            ("gs://b", &[], &[], good.clone(), "other stores"),
            (
                "gs://b",
                &[],
                &[],
                Vending { duration: minutes(30), ..Vending::default() },
                "service_account",
            ),
            (
                "gs://b",
                &[("service_account_key", "{}")],
                &[],
                Vending::default(),
                "service account",
            ),
        ] {
            let root = Location::from_stored(root);
            let opened = Vendor::open(&root, &options(own), &options(told), &vending).await;
            match opened {
                Err(Error::InvalidInput(text)) => assert!(text.contains(says), "{says}: {text}"),
                Err(error) => panic!("{says}: {error}"),
                Ok(_) => panic!("{root}: {says} was let pass"),
            }
        }
        let region = options(&[("region", "here")]);
        let root = Location::from_stored("s3://b");
        assert!(Vendor::open(&root, &region, &region, &good).await.is_ok());
    }
}
