//! GCS: a token of the server's own identity, or of a service account that it impersonates, is
//! exchanged for one with a boundary around one folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use lance_io::object_store::StorageOptions;
use object_store::gcp::GoogleConfigKey as Key;
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Credentials, Folder, Permission, Vending, duration_of, refuse_others, tokens, unavailable,
    wrong,
};
use crate::error::Result;
use crate::lake::Location;

const STS: &str = "https://sts.googleapis.com/v1/token";
const IAM: &str = "https://iamcredentials.googleapis.com/v1";
const OAUTH: &str = "https://oauth2.googleapis.com/token";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const METADATA_HOST: &str = "metadata.google.internal";
/// Where the command line of Google Cloud leaves a person's credentials.
const OF_COMMAND_LINE: &str = ".config/gcloud/application_default_credentials.json";
/// The longest life of a token of an impersonated account.
const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);
/// How long an assertion of a service account may be exchanged for a token, in seconds.
const ASSERTION: u64 = 60 * 60;

/// Whether a storage option lets somebody in.
pub(super) fn is_credential(name: &str) -> bool {
    let keys = [
        Key::ServiceAccount,
        Key::ServiceAccountKey,
        Key::ApplicationCredentials,
        Key::BearerToken,
    ];
    name == "google_storage_token" || name.parse().is_ok_and(|key| keys.contains(&key))
}

pub(super) struct Gcs {
    http: Client,
    identity: Identity,
    impersonated: Option<String>,
    lifetime: Duration,
    sts: String,
    iam: String,
}

/// Who the server is to Google.
enum Identity {
    ServiceAccount(ServiceAccount),
    Person(Person),
    /// The one of the machine, which this host knows.
    Machine(String),
}

#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key_id: String,
    /// In PEM.
    private_key: String,
    token_uri: Option<String>,
}

#[derive(Deserialize)]
struct Person {
    client_id: String,
    client_secret: String,
    refresh_token: String,
}

/// A token and how many seconds it is good for.
#[derive(Deserialize)]
struct Token {
    access_token: String,
    expires_in: Option<u64>,
}

impl Gcs {
    /// # Errors
    /// `InvalidInput` for settings that cannot work.
    pub(super) fn open(
        root: &Location,
        options: &BTreeMap<String, String>,
        vending: &Vending,
    ) -> Result<Self> {
        refuse_others(
            root,
            &[("role_arn", &vending.role_arn), ("external_id", &vending.external_id)],
        )?;
        let lifetime = duration_of(root, vending, LONGEST)?;
        let impersonated = vending.service_account.clone();
        if impersonated.is_none() && vending.duration.is_some() {
            let what = "a token lives as long as the server's own: a duration takes a \
                        service_account";
            return Err(wrong(root, what));
        }
        let mut merged = StorageOptions::new(options.clone().into_iter().collect());
        merged.with_env_gcs();
        let options = merged.as_gcs_options();
        let in_file =
            options.get(&Key::ServiceAccount).or(options.get(&Key::ApplicationCredentials));
        let identity = match (options.get(&Key::ServiceAccountKey), in_file) {
            (Some(key), _) => Identity::parse(root, key)?,
            (None, Some(path)) => Identity::read(root, &PathBuf::from(path))?,
            (None, None) => {
                let home = std::env::home_dir().map(|home| home.join(OF_COMMAND_LINE));
                match home.filter(|path| path.exists()) {
                    Some(path) => Identity::read(root, &path)?,
                    None => Identity::Machine(
                        std::env::var("GCE_METADATA_HOST").unwrap_or(METADATA_HOST.into()),
                    ),
                }
            }
        };
        Ok(Self {
            http: tokens::client()?,
            identity,
            impersonated,
            lifetime,
            sts: vending.sts_endpoint.clone().unwrap_or_else(|| STS.into()),
            iam: IAM.into(),
        })
    }

    /// # Errors
    /// `Unsupported` for a folder that a condition cannot name alone; `ServiceUnavailable` when Google
    /// gives no token.
    pub(super) async fn vend(
        &self,
        folder: &Folder,
        permission: Permission,
    ) -> Result<Credentials> {
        let boundary = boundary(folder, permission)?.to_string();
        let (source, ends) = self.source().await?;
        let of_access_token = "urn:ietf:params:oauth:token-type:access_token";
        let request = self.http.post(&self.sts);
        let request = tokens::form(
            request,
            &[
                ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                ("subject_token_type", of_access_token),
                ("requested_token_type", of_access_token),
                ("subject_token", &source),
                ("options", &boundary),
            ],
        );
        let token: Token = tokens::json("Google's token exchange", request).await?;
        // The token that comes does not live longer than the one that it is for.
        let ends = token.expires_in.map_or(ends, |seconds| ends.min(tokens::in_seconds(seconds)));
        let options = [("google_storage_token", token.access_token)];
        Ok(Credentials::new(options, tokens::millis(ends)))
    }

    /// The token whose rights are cut down, and when it ends.
    async fn source(&self) -> Result<(String, SystemTime)> {
        let own = self.identity.token(&self.http).await?;
        let Some(account) = &self.impersonated else {
            let seconds = own.expires_in;
            let seconds = seconds.ok_or_else(|| unavailable("Google's token has no expiry"))?;
            return Ok((own.access_token, tokens::in_seconds(seconds)));
        };
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Impersonated {
            access_token: String,
            expire_time: String,
        }
        let url = format!("{}/projects/-/serviceAccounts/{account}:generateAccessToken", self.iam);
        let lifetime = format!("{}s", self.lifetime.as_secs());
        let body = json!({"scope": [SCOPE], "lifetime": lifetime});
        let request = self.http.post(url).bearer_auth(own.access_token).json(&body);
        let token: Impersonated = tokens::json("Google's impersonation", request).await?;
        let ends = humantime::parse_rfc3339(&token.expire_time);
        let ends = ends.map_err(|_| unavailable("Google's impersonation: no expiry"))?;
        Ok((token.access_token, ends))
    }
}

impl Identity {
    /// # Errors
    /// `InvalidInput`, without what is in the file.
    fn read(root: &Location, path: &std::path::Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            wrong(root, &format!("the file of Google's credentials cannot be read: {error}"))
        })?;
        Self::parse(root, &text)
    }

    fn parse(root: &Location, text: &str) -> Result<Self> {
        let no = || {
            wrong(
                root,
                "Google's credentials must be those of a service account with its key, of a \
                 person (authorized_user) or of the machine",
            )
        };
        let json: Value = serde_json::from_str(text).map_err(|_| no())?;
        let identity = match json["type"].as_str() {
            Some("service_account") => {
                let account: ServiceAccount = serde_json::from_value(json).map_err(|_| no())?;
                account.key().ok_or_else(no)?;
                Self::ServiceAccount(account)
            }
            Some("authorized_user") => {
                Self::Person(serde_json::from_value(json).map_err(|_| no())?)
            }
            _ => return Err(no()),
        };
        Ok(identity)
    }

    async fn token(&self, http: &Client) -> Result<Token> {
        match self {
            Self::ServiceAccount(account) => {
                let url = account.token_uri.as_deref().unwrap_or(OAUTH);
                let assertion = account.assertion(url, SystemTime::now());
                let assertion = assertion
                    .ok_or_else(|| unavailable("a service account's key signs nothing"))?;
                let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
                let pairs = [("grant_type", grant), ("assertion", assertion.as_str())];
                tokens::json("Google's tokens", tokens::form(http.post(url), &pairs)).await
            }
            Self::Person(person) => {
                let pairs = [
                    ("grant_type", "refresh_token"),
                    ("client_id", person.client_id.as_str()),
                    ("client_secret", person.client_secret.as_str()),
                    ("refresh_token", person.refresh_token.as_str()),
                ];
                tokens::json("Google's tokens", tokens::form(http.post(OAUTH), &pairs)).await
            }
            Self::Machine(host) => {
                let path = "computeMetadata/v1/instance/service-accounts/default/token";
                let request = http.get(format!("http://{host}/{path}"));
                tokens::json("the machine's metadata", request.header("metadata-flavor", "Google"))
                    .await
            }
        }
    }
}

impl ServiceAccount {
    fn key(&self) -> Option<KeyPair> {
        let lines = self.private_key.lines().map(str::trim);
        let text: String = lines.filter(|line| !line.starts_with("-----")).collect();
        KeyPair::from_pkcs8(&STANDARD.decode(text).ok()?).ok()
    }

    /// What the account says of itself, signed.
    fn assertion(&self, audience: &str, now: SystemTime) -> Option<String> {
        let now = tokens::millis(now) / 1000;
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.private_key_id});
        let claims = json!({"iss": self.client_email, "scope": SCOPE, "aud": audience, "iat": now,
            "exp": now + ASSERTION});
        let encoded = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let key = self.key()?;
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .ok()?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// What of the source's rights is left: for the objects in the folder, and for lists that begin
/// there, slash and all.
///
/// # Errors
/// `Unsupported` for a key that would end the text of a condition.
fn boundary(folder: &Folder, permission: Permission) -> Result<Value> {
    folder.refuse(&["'", "\"", "\\"])?;
    let Folder { bucket, key, .. } = folder;
    let resource = format!("//storage.googleapis.com/projects/_/buckets/{bucket}");
    let within = format!("resource.name.startsWith('projects/_/buckets/{bucket}/objects/{key}/')");
    let listed = format!(
        "api.getAttribute('storage.googleapis.com/objectListPrefix', '').startsWith('{key}/')"
    );
    let rule = |role: &str, condition: String| {
        json!({
            "availableResource": resource,
            "availablePermissions": [format!("inRole:roles/storage.{role}")],
            "availabilityCondition": {"expression": condition},
        })
    };
    let mut rules = vec![rule("objectViewer", format!("{within} || {listed}"))];
    if permission == Permission::Write {
        rules.push(rule("objectCreator", within));
    }
    Ok(json!({"accessBoundary": {"accessBoundaryRules": rules}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers so many requests by what is in their first line; gives their texts.
    async fn google(listener: TcpListener, answers: Vec<(&'static str, Value)>) -> Vec<String> {
        let mut requests = Vec::new();
        for _ in 0..answers.len() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = String::new();
            let is_whole = |text: &str| {
                let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
                let head = head.to_ascii_lowercase();
                let length = head.split_once("content-length: ").map(|(_, rest)| rest);
                let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
                body.len() >= length.unwrap_or(0)
            };
            while !is_whole(&text) {
                let mut bytes = [0; 4096];
                let count = stream.read(&mut bytes).await.unwrap();
                text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            }
            let line = text.lines().next().unwrap();
            let answer =
                answers.iter().find(|(part, _)| line.contains(part)).unwrap().1.to_string();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
            let answer = format!("{head}: {}\r\n\r\n{answer}", answer.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            requests.push(text);
        }
        requests
    }

    #[tokio::test]
    async fn a_service_account_is_impersonated_by_the_machine() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let gcs = Gcs {
            http: Client::builder().no_proxy().build().unwrap(),
            identity: Identity::Machine(host.clone()),
            impersonated: Some("tables@project".into()),
            lifetime: Duration::from_secs(1200),
            sts: format!("http://{host}/sts"),
            iam: format!("http://{host}/v1"),
        };
        let expire_time = humantime::format_rfc3339(tokens::in_seconds(1200)).to_string();
        let answers = vec![
            ("/computeMetadata/", json!({"access_token": "machine", "expires_in": 60})),
            ("tables@project", json!({"accessToken": "account", "expireTime": expire_time})),
            ("/sts", json!({"access_token": "cut"})),
        ];
        let google = tokio::spawn(google(listener, answers));
        let folder = Folder { bucket: "b".into(), host: None, key: "lake/t".into() };
        let credentials = gcs.vend(&folder, Permission::Read).await.unwrap();
        assert_eq!(credentials.options()["google_storage_token"], "cut");
        // As long as the account's, not the machine's.
        let left = credentials.expires_at_millis().saturating_sub(super::super::now_millis());
        assert!((1_100_000..=1_200_000).contains(&left), "{left}");
        let [machine, account, cut] = &google.await.unwrap()[..] else { panic!("three requests") };
        assert!(machine.to_ascii_lowercase().contains("metadata-flavor: google"), "{machine}");
        assert!(account.starts_with("POST /v1/projects/-/serviceAccounts/tables@project:gene"));
        assert!(account.contains("\"lifetime\":\"1200s\""), "{account}");
        assert!(
            account.to_ascii_lowercase().contains("authorization: bearer machine"),
            "{account}"
        );
        assert!(cut.contains("subject_token=account&options=%7B%22accessBoundary%22"), "{cut}");
    }
}
