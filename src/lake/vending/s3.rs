//! S3: a role is assumed with a policy for one folder. AWS lets the session do what both the role and
//! the policy allow.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_config::meta::region::RegionProviderChain;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_sts::Client;
use aws_sdk_sts::config::Credentials as Keys;
use aws_sdk_sts::error::ProvideErrorMetadata;
use lance_io::object_store::StorageOptions;
use object_store::ClientConfigKey;
use object_store::aws::AmazonS3ConfigKey as Key;
use serde_json::{Value, json};

use super::{
    Credentials, Folder, Permission, Vending, cannot_be_limited, duration_of, refuse_others,
    unavailable, wrong,
};
use crate::error::{Error, Result};
use crate::lake::Location;

/// What sessions are called in the logs of AWS.
const SESSION_NAME: &str = "tiltyard";
/// Where nothing says where the token service is.
const USUAL_REGION: &str = "us-east-1";
/// The longest session of a role.
const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);
/// The longest policy that a session takes, in characters.
const MAX_POLICY: usize = 2048;

/// Which options say where a store is, and in which region; the first one counts.
const ENDPOINT: [Key; 2] = [Key::S3Endpoint, Key::Endpoint];
const REGION: [Key; 2] = [Key::Region, Key::DefaultRegion];

/// Whether a storage option lets somebody in.
pub(super) fn is_credential(name: &str) -> bool {
    matches!(name.parse(), Ok(Key::AccessKeyId | Key::SecretAccessKey | Key::Token))
}

pub(super) struct S3 {
    client: Client,
    role_arn: String,
    external_id: Option<String>,
    seconds: i32,
    /// `aws`, or that of another set of regions.
    partition: String,
    /// What clients are told with their credentials.
    told: Vec<(&'static str, String)>,
}

impl S3 {
    /// # Errors
    /// `InvalidInput` for settings that cannot work.
    pub(super) async fn open(
        root: &Location,
        options: &BTreeMap<String, String>,
        client_options: &BTreeMap<String, String>,
        vending: &Vending,
    ) -> Result<Self> {
        refuse_others(root, &[("service_account", &vending.service_account)])?;
        let role_arn = vending.role_arn.clone().filter(|arn| arn.starts_with("arn:"));
        let role_arn = role_arn
            .ok_or_else(|| wrong(root, "role_arn must be the ARN of the role that is assumed"))?;
        let duration = duration_of(root, vending, LONGEST)?;
        let mut merged = StorageOptions::new(options.clone().into_iter().collect());
        merged.with_env_s3();
        let options = merged.as_s3_options();
        let partition = role_arn.split(':').nth(1).filter(|name| name.starts_with("aws"));
        Ok(Self {
            told: told(&options, client_options),
            client: client(options, vending.sts_endpoint.as_deref()).await,
            partition: partition.unwrap_or("aws").to_owned(),
            role_arn,
            external_id: vending.external_id.clone(),
            seconds: i32::try_from(duration.as_secs()).unwrap_or(i32::MAX),
        })
    }

    /// # Errors
    /// `Unsupported` for a folder that a policy cannot name alone; `ServiceUnavailable` when AWS gives
    /// no credentials.
    pub(super) async fn vend(
        &self,
        folder: &Folder,
        permission: Permission,
    ) -> Result<Credentials> {
        let policy = policy(&self.partition, folder, permission)?;
        let request = self
            .client
            .assume_role()
            .role_arn(&self.role_arn)
            .role_session_name(SESSION_NAME)
            .set_external_id(self.external_id.clone())
            .duration_seconds(self.seconds)
            .policy(policy);
        let answer = request.send().await.map_err(|error| {
            let service = error.as_service_error();
            if service.is_some_and(|error| error.is_packed_policy_too_large_exception()) {
                return too_long();
            }
            // Not the error as a whole, of which nobody knows what all it shows.
            match (error.code(), error.message()) {
                (None, None) => unavailable(format!("AssumeRole: {}", causes(&error))),
                (code, message) => unavailable(format!(
                    "AssumeRole: {} {}",
                    code.unwrap_or_default(),
                    message.unwrap_or_default()
                )),
            }
        })?;
        let keys = answer.credentials();
        let keys = keys.ok_or_else(|| unavailable("AssumeRole answered no credentials"))?;
        let expires = keys.expiration().to_millis().ok().and_then(|at| u64::try_from(at).ok());
        let expires = expires.ok_or_else(|| unavailable("AssumeRole answered no expiration"))?;
        let options = [
            ("aws_access_key_id", keys.access_key_id().to_owned()),
            ("aws_secret_access_key", keys.secret_access_key().to_owned()),
            ("aws_session_token", keys.session_token().to_owned()),
        ];
        Ok(Credentials::new(options.into_iter().chain(self.told.clone()), expires))
    }
}

/// The endpoint of a store that is not AWS.
fn own_endpoint(options: &HashMap<Key, String>) -> Option<&String> {
    let endpoint = ENDPOINT.iter().find_map(|key| options.get(key));
    endpoint.filter(|url| !url.contains(".amazonaws."))
}

/// Where the server has its store, and how that is spoken to, as far as clients are told nothing of
/// it: credentials are of no use elsewhere.
fn told(
    options: &HashMap<Key, String>,
    client_options: &BTreeMap<String, String>,
) -> Vec<(&'static str, String)> {
    let names = client_options.keys().map(|name| name.to_ascii_lowercase());
    let known: Vec<Key> = names.filter_map(|name| name.parse().ok()).collect();
    let is_known = |keys: &[Key]| keys.iter().any(|key| known.contains(key));
    let mut told = Vec::new();
    // One with a password in it is nobody else's.
    let endpoint = own_endpoint(options).filter(|url| !url.contains('@'));
    if let Some(endpoint) = endpoint.filter(|_| !is_known(&ENDPOINT)) {
        told.push(("aws_endpoint", endpoint.clone()));
        for (name, key) in [
            ("allow_http", Key::Client(ClientConfigKey::AllowHttp)),
            ("aws_virtual_hosted_style_request", Key::VirtualHostedStyleRequest),
        ] {
            let value = options.get(&key).filter(|_| !is_known(&[key]));
            told.extend(value.map(|value| (name, value.clone())));
        }
    }
    let region = REGION.iter().find_map(|key| options.get(key)).filter(|_| !is_known(&REGION));
    told.extend(region.map(|region| ("aws_region", region.clone())));
    told
}

/// What went wrong on the way, without what was sent or came.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Speaks to the token service as the storage options say, and else as the process is set up.
async fn client(options: HashMap<Key, String>, endpoint: Option<&str>) -> Client {
    let said = |keys: &[Key]| keys.iter().find_map(|key| options.get(key)).cloned();
    let region = said(&REGION).map(Region::new);
    let region = RegionProviderChain::first_try(region).or_default_provider();
    let mut config =
        aws_config::defaults(BehaviorVersion::latest()).region(region.or_else(USUAL_REGION));
    // A store that is not AWS has its token service where it has the buckets.
    let of_store = own_endpoint(&options).cloned();
    if let Some(endpoint) = endpoint.map(str::to_owned).or(of_store) {
        config = config.endpoint_url(endpoint);
    }
    if let (Some(id), Some(secret)) = (said(&[Key::AccessKeyId]), said(&[Key::SecretAccessKey])) {
        config = config.credentials_provider(Keys::new(
            id,
            secret,
            said(&[Key::Token]),
            None,
            "storage options",
        ));
    }
    Client::new(&config.load().await)
}

fn too_long() -> Error {
    cannot_be_limited("it is too long for a policy")
}

/// The policy of a session for one folder.
///
/// Reading is getting objects and listing them. Writing is putting objects too, whole or in parts, and
/// giving up parts. There is no deleting, and no listing but within the folder; so AWS answers 403
/// instead of 404 for a file that is not there.
///
/// # Errors
/// `Unsupported` for a key that holds a wildcard or a variable of policies, and for one that is too
/// long.
fn policy(partition: &str, folder: &Folder, permission: Permission) -> Result<String> {
    folder.refuse(&["*", "?", "${"])?;
    let Folder { bucket, key, .. } = folder;
    let mut actions = vec!["s3:GetObject"];
    if permission == Permission::Write {
        actions.extend(["s3:PutObject", "s3:AbortMultipartUpload"]);
    }
    let bucket_arn = format!("arn:{partition}:s3:::{bucket}");
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": actions,
                "Resource": format!("{bucket_arn}/{key}/*"),
            },
            {
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": bucket_arn,
                "Condition": {"StringLike": {"s3:prefix": format!("{key}/*")}},
            },
        ],
    });
    let policy = in_ascii(&policy);
    if policy.len() > MAX_POLICY { Err(too_long()) } else { Ok(policy) }
}

/// As JSON whose letters AWS all takes.
fn in_ascii(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        match character {
            '\u{7f}'.. => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(key: &str) -> Folder {
        Folder { bucket: "b".into(), host: None, key: key.into() }
    }

    #[test]
    fn clients_are_told_where_the_store_is_unless_they_know() {
        let own = |endpoint: &str| {
            HashMap::from([
                (Key::Endpoint, endpoint.to_owned()),
                (Key::Client(ClientConfigKey::AllowHttp), "true".to_owned()),
                (Key::VirtualHostedStyleRequest, "false".to_owned()),
                (Key::Region, "here".to_owned()),
                (Key::SecretAccessKey, "hush".to_owned()),
            ])
        };
        let names = |endpoint: &str, known: &[&str]| {
            let known = known.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
            let told = told(&own(endpoint), &known);
            assert!(told.iter().all(|(_, value)| value != "hush"));
            told.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let store = "http://s3:9000";
        let all = ["aws_endpoint", "allow_http", "aws_virtual_hosted_style_request", "aws_region"];
        assert_eq!(names(store, &[]), all);
        assert_eq!(names(store, &["REGION", "aws_allow_http"]), [all[0], all[2]]);
        assert_eq!(names(store, &["endpoint_url"]), ["aws_region"]);
        assert_eq!(names("https://s3.eu-west-1.amazonaws.com", &[]), ["aws_region"]);
        assert_eq!(names("http://me:hush@s3:9000", &[]), ["aws_region"]);
    }

    #[test]
    fn a_policy_names_the_folder_and_nothing_else() {
        let read = policy("aws", &folder("lake/orders"), Permission::Read).unwrap();
        let expected = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject"],
                "Resource": "arn:aws:s3:::b/lake/orders/*"},
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::b",
                "Condition": {"StringLike": {"s3:prefix": "lake/orders/*"}}}]});
        assert_eq!(serde_json::from_str::<Value>(&read).unwrap(), expected);
        let write = policy("aws-cn", &folder("t"), Permission::Write).unwrap();
        let write: Value = serde_json::from_str(&write).unwrap();
        let actions = json!(["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]);
        assert_eq!(write["Statement"][0]["Action"], actions);
        assert_eq!(write["Statement"][0]["Resource"], "arn:aws-cn:s3:::b/t/*");
    }

    #[test]
    fn odd_characters_stay_what_they_are_or_are_refused() {
        for key in ["a b/t", "ns$t", "Käse/🧀", "a\"b", "a'b", "a{b}", "a\\b"] {
            let text = policy("aws", &folder(key), Permission::Read).unwrap();
            assert!(text.is_ascii(), "{text}");
            let policy: Value = serde_json::from_str(&text).unwrap();
            let resource = policy["Statement"][0]["Resource"].as_str().unwrap();
            assert_eq!(resource, format!("arn:aws:s3:::b/{key}/*"));
        }
        let long = "x".repeat(950);
        for key in ["a*", "a?b/t", "${aws:username}", "a/${*}", long.as_str()] {
            let refused = policy("aws", &folder(key), Permission::Read);
            assert!(matches!(refused, Err(Error::Unsupported(_))), "{key}");
        }
    }
}
