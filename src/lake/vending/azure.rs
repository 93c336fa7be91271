//! Azure: a shared access signature for one directory, made with a key that Azure gives the server's
//! identity (a user delegation SAS). It takes a storage account with a hierarchical namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lance_io::object_store::StorageOptions;
use object_store::CredentialProvider;
use object_store::azure::{AzureConfigKey as Key, AzureCredential, MicrosoftAzureBuilder};
use reqwest::Client;

use super::{
    Credentials, Folder, Permission, Vending, cannot_be_limited, duration_of, refuse_others,
    tokens, unavailable, wrong,
};
use crate::error::Result;
use crate::lake::Location;

/// The version of the protocol, and so of the text that is signed.
const VERSION: &str = "2022-11-02";
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How far the clocks of Azure may be behind this one.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// Whether a storage option lets somebody in.
pub(super) fn is_credential(name: &str) -> bool {
    matches!(
        name.parse(),
        Ok(Key::AccessKey | Key::SasKey | Key::Token | Key::ClientSecret | Key::FabricSessionToken)
    )
}

pub(super) struct Azure {
    http: Client,
    identity: Arc<dyn CredentialProvider<Credential = AzureCredential>>,
    account: String,
    endpoint: String,
    duration: Duration,
}

/// What Azure lets the identity sign with.
struct DelegationKey {
    object: String,
    tenant: String,
    start: String,
    expiry: String,
    service: String,
    version: String,
    /// Secret.
    value: Vec<u8>,
}

impl Azure {
    /// # Errors
    /// `InvalidInput` for settings that cannot work.
    pub(super) fn open(
        root: &Location,
        options: &BTreeMap<String, String>,
        vending: &Vending,
    ) -> Result<Self> {
        refuse_others(
            root,
            &[
                ("role_arn", &vending.role_arn),
                ("external_id", &vending.external_id),
                ("sts_endpoint", &vending.sts_endpoint),
                ("service_account", &vending.service_account),
            ],
        )?;
        let duration = duration_of(root, vending, LONGEST)?;
        let mut merged = StorageOptions::new(options.clone().into_iter().collect());
        merged.with_env_azure();
        let options = merged.as_azure_options();
        if options.contains_key(&Key::AccessKey) || options.contains_key(&Key::SasKey) {
            let what = "it takes an identity (a client secret, a federated token or a managed \
                        identity), not an account key or a SAS";
            return Err(wrong(root, what));
        }
        let table = Folder::of(&Location::from_stored(format!("{root}/table")));
        let host = table.map_err(|_| wrong(root, "it is in no container"))?.host;
        let of_host = host.as_deref().and_then(account_of_host);
        let account = options.get(&Key::AccountName).map(String::as_str).or(of_host);
        let account = account.map(str::to_owned);
        let account = account.ok_or_else(|| wrong(root, "the option account_name is missing"))?;
        let endpoint = match options.get(&Key::Endpoint) {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://{account}.blob.core.windows.net"),
        };
        let mut builder = MicrosoftAzureBuilder::new().with_url(root.as_str());
        for (key, value) in options {
            builder = builder.with_config(key, value);
        }
        // The error may show an option.
        let store = builder.with_account(&account).build();
        let store = store.map_err(|_| wrong(root, "the storage options make no store"))?;
        let identity = store.credentials().clone();
        Ok(Self { http: tokens::client()?, identity, account, endpoint, duration })
    }

    /// # Errors
    /// `Unsupported` for a folder in another account; `ServiceUnavailable` when Azure gives no key.
    pub(super) async fn vend(
        &self,
        folder: &Folder,
        permission: Permission,
    ) -> Result<Credentials> {
        let host = folder.host.as_deref();
        if host.is_some_and(|host| account_of_host(host) != Some(self.account.as_str())) {
            return Err(cannot_be_limited("it is in another storage account"));
        }
        let key = self.delegation_key().await?;
        let expiry = humantime::parse_rfc3339(&key.expiry);
        let expiry = expiry.map_err(|_| unavailable("Azure's key has no expiry"))?;
        let token = signature(&self.account, folder, permission, &key);
        let options = [
            ("azure_storage_account_name", self.account.clone()),
            ("azure_storage_sas_token", token),
        ];
        Ok(Credentials::new(options, tokens::millis(expiry)))
    }

    async fn delegation_key(&self) -> Result<DelegationKey> {
        // The error may show what was sent.
        let identity = self.identity.get_credential().await;
        let identity =
            identity.map_err(|_| unavailable("Azure knows no identity of the server"))?;
        let AzureCredential::BearerToken(token) = identity.as_ref() else {
            return Err(unavailable("the server's credential for Azure is not an identity"));
        };
        let now = SystemTime::now();
        let from = now.checked_sub(SKEW).unwrap_or(now);
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><KeyInfo><Start>{}</Start>\
             <Expiry>{}</Expiry></KeyInfo>",
            humantime::format_rfc3339_seconds(from),
            humantime::format_rfc3339_seconds(tokens::in_seconds(self.duration.as_secs())),
        );
        let request = self
            .http
            .post(format!("{}/?restype=service&comp=userdelegationkey", self.endpoint))
            .bearer_auth(token)
            .header("x-ms-version", VERSION)
            .header("content-type", "application/xml")
            .body(body);
        let answer = tokens::answer("Azure's user delegation key", request).await?;
        DelegationKey::parse(&answer)
            .ok_or_else(|| unavailable("Azure's user delegation key: not what was asked for"))
    }
}

fn account_of_host(host: &str) -> Option<&str> {
    host.split('.').next().filter(|account| !account.is_empty())
}

impl DelegationKey {
    /// The seven elements that Azure answers have text only.
    fn parse(xml: &str) -> Option<Self> {
        let element = |name: &str| {
            let (_, rest) = xml.split_once(&format!("<{name}>"))?;
            let (text, _) = rest.split_once(&format!("</{name}>"))?;
            let text = text.trim();
            (!text.is_empty() && !text.contains(['<', '&', '\n'])).then(|| text.to_owned())
        };
        Some(Self {
            object: element("SignedOid")?,
            tenant: element("SignedTid")?,
            start: element("SignedStart")?,
            expiry: element("SignedExpiry")?,
            service: element("SignedService")?,
            version: element("SignedVersion")?,
            value: STANDARD.decode(element("Value")?).ok()?,
        })
    }
}

/// The token for a directory, for as long as the key is good and by HTTPS only. Azure takes as many
/// parts of a path as the token says the directory has, and looks whether that is what was signed.
fn signature(
    account: &str,
    folder: &Folder,
    permission: Permission,
    key: &DelegationKey,
) -> String {
    let permissions = match permission {
        Permission::Read => "rl",
        Permission::Write => "racwl",
    };
    let directory = format!("/blob/{account}/{}/{}", folder.bucket, folder.key);
    let depth = folder.key.split('/').count().to_string();
    // Each field of the version has its line, most of them empty.
    let text = [
        permissions,
        "", // signed start
        &key.expiry,
        &directory,
        &key.object,
        &key.tenant,
        &key.start,
        &key.expiry,
        &key.service,
        &key.version,
        "", // signed authorized object id
        "", // signed unauthorized object id
        "", // signed correlation id
        "", // signed IP
        "https",
        VERSION,
        "d",
        "", // signed snapshot time
        "", // signed encryption scope
        "", // Cache-Control
        "", // Content-Disposition
        "", // Content-Encoding
        "", // Content-Language
        "", // Content-Type
    ]
    .join("\n");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key.value), text.as_bytes());
    tokens::encoded(&[
        ("sv", VERSION),
        ("sr", "d"),
        ("sdd", &depth),
        ("sp", permissions),
        ("se", &key.expiry),
        ("spr", "https"),
        ("skoid", &key.object),
        ("sktid", &key.tenant),
        ("skt", &key.start),
        ("ske", &key.expiry),
        ("sks", &key.service),
        ("skv", &key.version),
        ("sig", &STANDARD.encode(signature)),
    ])
}
