//! Settings: a flag, else an environment variable `TILTYARD_…`, else a key of the TOML file given
//! with `--config`, else the default. With nothing set, `tiltyard serve` just works.
//!
//! | flag | environment | TOML key |
//! |---|---|---|
//! | `--listen` | `TILTYARD_LISTEN` | `listen` |
//! | `--database` | `TILTYARD_DATABASE` | `database` |
//! | `--no-migrate` | `TILTYARD_NO_MIGRATE` | `migrate = false` |
//! | `--storage-root` | `TILTYARD_STORAGE_ROOT` | `storage_root` |
//! | `--storage-option K=V` | `TILTYARD_STORAGE_OPTION` | `[storage_options]` |
//! | `--client-storage-option K=V` | `TILTYARD_CLIENT_STORAGE_OPTION` | `[client_storage_options]` |
//! | `--vend-role-arn` | `TILTYARD_VEND_ROLE_ARN` | `[vending]`, `role_arn` |
//! | | | `[storage_profiles.NAME]` |
//! | | | `[token_issuers.NAME]` |
//! | `--allow-location` | `TILTYARD_ALLOW_LOCATION` | `allow_locations` |
//! | `--commit-arbiter` | `TILTYARD_COMMIT_ARBITER` | `commit_arbiter` |
//! | `--no-managed-versioning` | `TILTYARD_NO_MANAGED_VERSIONING` | `managed_versioning = false` |
//! | `--no-create-databases` | `TILTYARD_NO_CREATE_DATABASES` | `create_databases = false` |
//! | `--gc-interval` | `TILTYARD_GC_INTERVAL` | `gc_interval` |
//! | `--upload-ttl` | `TILTYARD_UPLOAD_TTL` | `upload_ttl` |
//! | `--drop-retention` | `TILTYARD_DROP_RETENTION` | `drop_retention` |
//! | `--max-body-bytes` | `TILTYARD_MAX_BODY_BYTES` | `max_body_bytes` |
//! | `--max-batch-bytes` | `TILTYARD_MAX_BATCH_BYTES` | `max_batch_bytes` |
//! | `--max-waiting` | `TILTYARD_MAX_WAITING` | `max_waiting` |
//! | `--max-upload-bytes` | `TILTYARD_MAX_UPLOAD_BYTES` | `max_upload_bytes` |
//! | `--max-requests` | `TILTYARD_MAX_REQUESTS` | `max_requests` |
//! | `--rate-limit` | `TILTYARD_RATE_LIMIT` | `rate_limit` |
//! | `--rate-burst` | `TILTYARD_RATE_BURST` | `rate_burst` |
//! | `--request-timeout` | `TILTYARD_REQUEST_TIMEOUT` | `request_timeout` |
//! | `--client-timeout` | `TILTYARD_CLIENT_TIMEOUT` | `client_timeout` |
//! | `--max-connections` | `TILTYARD_MAX_CONNECTIONS` | `max_connections` |
//! | `--tls-certificate` | `TILTYARD_TLS_CERTIFICATE` | `tls_certificate` |
//! | `--tls-key` | `TILTYARD_TLS_KEY` | `tls_key` |
//! | `--auth` | `TILTYARD_AUTH` | `auth` |
//! | `--insecure` | `TILTYARD_INSECURE` | `insecure` |
//! | `--event-retention` | `TILTYARD_EVENT_RETENTION` | `event_retention` |
//! | | | `[webhooks.NAME]` |
//! | `--grace` | `TILTYARD_GRACE` | `grace` |
//! | `--log-format` | `TILTYARD_LOG_FORMAT` | `log_format` |
//! | `--log` | `TILTYARD_LOG` | `log` |
//! | `--otlp-endpoint` | `TILTYARD_OTLP_ENDPOINT` | `otlp_endpoint` |

mod shown;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::telemetry::LogFormat;
use shown::KeyValue;

pub use shown::without_secrets;

/// Everything that can be set, with its default. What is secret of it is not shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `HOST:PORT`; port 0 picks one. The default is the port of the reference adapter.
    pub listen: String,
    /// `sqlite://PATH` (made if absent) or `postgres://…`.
    pub database: String,
    /// Whether the schema of the database is brought up to date at start.
    pub migrate: bool,
    /// Where new tables go: a path, or `s3://`, `gs://`, `az://`, `file://`.
    pub storage_root: String,
    /// Lance's `storage_options`. Of a value `env:NAME`, that variable holds what is meant.
    pub storage_options: BTreeMap<String, String>,
    /// The `storage_options` that clients are told to use, if any.
    pub client_storage_options: BTreeMap<String, String>,
    /// How clients get credentials for one table; they get none when absent.
    pub vending: Option<Vending>,
    /// Other places for new tables, by the names under which namespaces name them (`storage_profile`).
    pub storage_profiles: BTreeMap<String, StorageProfile>,
    /// Where a caller may point a table to, besides the storage root.
    pub allow_locations: Vec<String>,
    /// What decides which of two commits at once becomes a version.
    pub commit_arbiter: CommitArbiter,
    /// Whether clients are asked to commit through this server to the tables that it made.
    pub managed_versioning: bool,
    /// Whether the first table of a database that a LanceDB client names makes the database.
    pub create_databases: bool,
    /// How often garbage is swept.
    #[serde(with = "humantime_serde")]
    pub gc_interval: Duration,
    /// How long an uncommitted upload lives.
    #[serde(with = "humantime_serde")]
    pub upload_ttl: Duration,
    /// How long a dropped table can be had back; zero for not at all.
    #[serde(with = "humantime_serde")]
    pub drop_retention: Duration,
    /// The largest request body; no limit when absent.
    pub max_body_bytes: Option<u64>,
    /// The largest single Arrow record batch: what one upload may hold in memory.
    pub max_batch_bytes: u64,
    /// How many changes of one branch may wait for each other; more are told to come again.
    pub max_waiting: usize,
    /// How much of uploads may be in memory at once, in bytes of their Arrow messages and of the bodies
    /// of large commits.
    pub max_upload_bytes: u64,
    /// How many requests that read or change tables may be at work at once.
    pub max_requests: usize,
    /// How many requests a second each caller may send; 0 for no limit.
    pub rate_limit: u32,
    /// How many they may send at once after a pause; as many as in two seconds when absent.
    pub rate_burst: Option<u32>,
    /// How long an answer may take to begin, but for uploads.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long a client may neither send nor take anything in the middle of a request.
    #[serde(with = "humantime_serde")]
    pub client_timeout: Duration,
    /// How many connections to PostgreSQL this process may have.
    pub max_connections: u32,
    /// The PEM file of the certificate, with those that it was issued by.
    pub tls_certificate: Option<PathBuf>,
    /// The PEM file of its private key.
    pub tls_key: Option<PathBuf>,
    /// Whether callers have to say who they are, and may do only what they were granted.
    pub auth: bool,
    /// Whose tokens say who a caller is, by the names that begin those of their users and groups.
    pub token_issuers: BTreeMap<String, TokenIssuer>,
    /// Whether everybody who reaches an address other than this machine's own may do everything.
    pub insecure: bool,
    /// How long it is known what happened, at least.
    #[serde(with = "humantime_serde")]
    pub event_retention: Duration,
    /// Who is told what happens, by names that stay the same while their URLs may change.
    pub webhooks: BTreeMap<String, Webhook>,
    /// How long running requests may go on after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    pub log_format: LogFormat,
    /// A filter in the syntax of the `tracing` crate.
    pub log: String,
    /// Where an OpenTelemetry collector takes traces by OTLP over HTTP, `http://HOST:PORT`.
    pub otlp_endpoint: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:2333".into(),
            database: "sqlite://tiltyard-data/catalog.db".into(),
            migrate: true,
            storage_root: "tiltyard-data/lake".into(),
            storage_options: BTreeMap::new(),
            client_storage_options: BTreeMap::new(),
            vending: None,
            storage_profiles: BTreeMap::new(),
            allow_locations: Vec::new(),
            commit_arbiter: CommitArbiter::Storage,
            managed_versioning: true,
            create_databases: true,
            gc_interval: Duration::from_secs(10 * 60),
            upload_ttl: Duration::from_secs(24 * 60 * 60),
            drop_retention: Duration::from_secs(7 * 24 * 60 * 60),
            max_body_bytes: None,
            max_batch_bytes: 2 << 30,
            max_waiting: 1024,
            max_upload_bytes: 4 << 30,
            max_requests: 2048,
            rate_limit: 0,
            rate_burst: None,
            request_timeout: Duration::from_secs(10 * 60),
            client_timeout: Duration::from_secs(60),
            max_connections: 20,
            tls_certificate: None,
            tls_key: None,
            auth: false,
            token_issuers: BTreeMap::new(),
            insecure: false,
            event_retention: Duration::from_secs(30 * 24 * 60 * 60),
            webhooks: BTreeMap::new(),
            grace: Duration::from_secs(30),
            log_format: LogFormat::Text,
            log: "info,lance=warn".into(),
            otlp_endpoint: None,
        }
    }
}

/// A place for the tables of some namespaces, with settings of its own.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageProfile {
    /// As [`Settings::storage_root`]; no other root may be in it.
    pub root: String,
    /// As [`Settings::storage_options`].
    pub storage_options: BTreeMap<String, String>,
    /// As [`Settings::client_storage_options`].
    pub client_storage_options: BTreeMap<String, String>,
    /// As [`Settings::vending`].
    pub vending: Option<Vending>,
    /// As [`Settings::commit_arbiter`].
    pub commit_arbiter: CommitArbiter,
}

/// An OpenID Connect issuer whose tokens are taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenIssuer {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The `aud` of its tokens has to name one of these.
    pub audiences: Vec<String>,
    /// The URL or the file of its keys, a JWK set. Without, its discovery document says where.
    pub jwks: Option<String>,
    /// By how much its clock may differ from ours.
    #[serde(with = "humantime_serde")]
    pub clock_skew: Duration,
    /// The claim with the groups of a user.
    pub groups_claim: String,
    /// What members of its groups may do.
    pub roles: Vec<GroupRole>,
}

impl Default for TokenIssuer {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audiences: Vec::new(),
            jwks: None,
            clock_skew: Duration::from_secs(60),
            groups_claim: "groups".into(),
            roles: Vec::new(),
        }
    }
}

/// Where events are sent to.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// An `https` URL, or an `http` one.
    pub url: String,
    /// What requests are signed with: `whsec_` and base64 of 24 to 64 bytes, or `env:NAME` of a variable
    /// that holds it.
    pub secret: String,
    /// Of these kinds only, or of those that begin with one of these words and a dot.
    pub kinds: Vec<String>,
    /// Of this namespace only, and of all that is within it.
    pub namespace: Vec<String>,
}

/// A role of the members of a group, besides those that are granted to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRole {
    pub group: String,
    /// `reader`, `writer`, `manager` or `admin`.
    pub role: String,
    /// The names of the namespace that it is on; none for the root.
    #[serde(default)]
    pub namespace: Vec<String>,
}

/// How short-lived credentials for the folder of one table are had. The scheme of the root says from
/// which cloud.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vending {
    /// For S3: the ARN of the role that is assumed.
    pub role_arn: Option<String>,
    /// For S3: the external id that the role's trust policy asks for.
    pub external_id: Option<String>,
    /// For how long credentials are good; an hour when absent.
    #[serde(with = "humantime_serde::option")]
    pub duration: Option<Duration>,
    /// The token service, where it is not the cloud's own, nor that of an S3 endpoint in the storage
    /// options.
    pub sts_endpoint: Option<String>,
    /// For GCS: the service account that is impersonated.
    pub service_account: Option<String>,
}

/// What decides which manifest becomes a version when two are there at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CommitArbiter {
    #[default]
    /// The storage, which puts a file only if nothing is there: local disks, S3, GCS, Azure
    Storage,
    /// The catalog, for storage that cannot; writers that go past the catalog are not supported
    Catalog,
}

/// The same settings as flags and environment variables; what is absent is not set.
#[derive(Clone, Default, clap::Args, Serialize)]
pub struct Overrides {
    /// TOML file with the same settings; flags and TILTYARD_… variables win over it
    #[arg(long, env = "TILTYARD_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Address to listen on; port 0 picks one [default: 127.0.0.1:2333]
    #[arg(long, env = "TILTYARD_LISTEN", value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,

    /// Catalog database, sqlite://PATH or postgres://… [default: sqlite://tiltyard-data/catalog.db]
    #[arg(long, env = "TILTYARD_DATABASE", value_name = "URL", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,

    /// Do not bring the database schema up to date at start
    #[arg(
        long,
        env = "TILTYARD_NO_MIGRATE",
        value_name = "BOOL",
        value_parser = clap::builder::BoolishValueParser::new(),
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    #[serde(
        rename = "migrate",
        skip_serializing_if = "Option::is_none",
        serialize_with = "negate"
    )]
    pub no_migrate: Option<bool>,

    /// What decides which commit becomes a version [default: storage]
    #[arg(long, env = "TILTYARD_COMMIT_ARBITER", value_name = "WHO", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_arbiter: Option<CommitArbiter>,

    /// Do not ask clients to commit through this server; a table's property `managed_versioning` wins
    #[arg(
        long,
        env = "TILTYARD_NO_MANAGED_VERSIONING",
        value_name = "BOOL",
        value_parser = clap::builder::BoolishValueParser::new(),
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    #[serde(
        rename = "managed_versioning",
        skip_serializing_if = "Option::is_none",
        serialize_with = "negate"
    )]
    pub no_managed_versioning: Option<bool>,

    /// Refuse databases of LanceDB clients that are no namespaces yet, instead of making them
    #[arg(
        long,
        env = "TILTYARD_NO_CREATE_DATABASES",
        value_name = "BOOL",
        value_parser = clap::builder::BoolishValueParser::new(),
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    #[serde(
        rename = "create_databases",
        skip_serializing_if = "Option::is_none",
        serialize_with = "negate"
    )]
    pub no_create_databases: Option<bool>,

    /// Where new tables go: a path or s3://, gs://, az://, file:// [default: tiltyard-data/lake]
    #[arg(long, env = "TILTYARD_STORAGE_ROOT", value_name = "URI")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_root: Option<String>,

    /// One of Lance's storage options; may be repeated
    #[arg(
        long = "storage-option",
        env = "TILTYARD_STORAGE_OPTION",
        value_name = "K=V",
        value_delimiter = ',',
        value_parser = KeyValue,
        hide_env_values = true
    )]
    #[serde(
        rename = "storage_options",
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "as_map"
    )]
    pub storage_option: Vec<(String, String)>,

    /// One of the storage options that clients are told to use; may be repeated
    #[arg(
        long = "client-storage-option",
        env = "TILTYARD_CLIENT_STORAGE_OPTION",
        value_name = "K=V",
        value_delimiter = ',',
        value_parser = KeyValue,
        hide_env_values = true
    )]
    #[serde(
        rename = "client_storage_options",
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "as_map"
    )]
    pub client_storage_option: Vec<(String, String)>,

    /// Hand clients credentials for one table's folder on S3, of this role that is assumed
    #[arg(long = "vend-role-arn", env = "TILTYARD_VEND_ROLE_ARN", value_name = "ARN")]
    #[serde(
        rename = "vending",
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_vending"
    )]
    pub vend_role_arn: Option<String>,

    /// Where tables may be registered or declared besides the storage root; may be repeated
    #[arg(
        long = "allow-location",
        env = "TILTYARD_ALLOW_LOCATION",
        value_name = "PREFIX",
        value_delimiter = ','
    )]
    #[serde(rename = "allow_locations", skip_serializing_if = "Vec::is_empty")]
    pub allow_location: Vec<String>,

    /// How often garbage is swept [default: 10m]
    #[arg(long, env = "TILTYARD_GC_INTERVAL", value_name = "TIME", value_parser = duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub gc_interval: Option<Duration>,

    /// How long an uncommitted upload lives [default: 24h]
    #[arg(long, env = "TILTYARD_UPLOAD_TTL", value_name = "TIME", value_parser = duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub upload_ttl: Option<Duration>,

    /// How long a dropped table can be had back before it is purged; 0s for not at all [default: 7d]
    #[arg(long, env = "TILTYARD_DROP_RETENTION", value_name = "TIME", value_parser = duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub drop_retention: Option<Duration>,

    /// Refuse request bodies larger than this [default: no limit]
    #[arg(long, env = "TILTYARD_MAX_BODY_BYTES", value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,

    /// Refuse Arrow record batches larger than this [default: 2 GiB]
    #[arg(long, env = "TILTYARD_MAX_BATCH_BYTES", value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_bytes: Option<u64>,

    /// Answer 429 when more changes of one table wait for each other [default: 1024]
    #[arg(long, env = "TILTYARD_MAX_WAITING", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_waiting: Option<usize>,

    /// Let uploads wait when this process holds more bytes of them [default: 4 GiB]
    #[arg(long, env = "TILTYARD_MAX_UPLOAD_BYTES", value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_upload_bytes: Option<u64>,

    /// Answer 503 when more requests that read or change tables are at work [default: 2048]
    #[arg(long, env = "TILTYARD_MAX_REQUESTS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<usize>,

    /// Answer 429 to callers who send more requests a second [default: no limit]
    #[arg(long, env = "TILTYARD_RATE_LIMIT", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,

    /// How many requests a caller may send at once after a pause [default: those of two seconds]
    #[arg(long, env = "TILTYARD_RATE_BURST", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_burst: Option<u32>,

    /// Answer 503 when this takes longer, but for uploads [default: 10m]
    #[arg(long, env = "TILTYARD_REQUEST_TIMEOUT", value_name = "TIME", value_parser = duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub request_timeout: Option<Duration>,

    /// Give up clients that neither send nor take anything for this long [default: 60s]
    #[arg(long, env = "TILTYARD_CLIENT_TIMEOUT", value_name = "TIME", value_parser = duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub client_timeout: Option<Duration>,

    /// The most connections to PostgreSQL [default: 20]
    #[arg(long, env = "TILTYARD_MAX_CONNECTIONS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,

    /// Serve HTTPS with the certificate of this PEM file; read again when it changes
    #[arg(long, env = "TILTYARD_TLS_CERTIFICATE", value_name = "FILE", requires = "tls_key")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,

    /// The PEM file of the certificate's private key
    #[arg(long, env = "TILTYARD_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,

    /// Make callers say who they are, by an API key, and allow what they were granted
    #[arg(
        long,
        env = "TILTYARD_AUTH",
        value_name = "BOOL",
        value_parser = clap::builder::BoolishValueParser::new(),
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<bool>,

    /// Listen on other than this machine's own address without --auth: whoever reaches it may do all
    #[arg(
        long,
        env = "TILTYARD_INSECURE",
        value_name = "BOOL",
        value_parser = clap::builder::BoolishValueParser::new(),
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,

    /// How long it is known what happened: GET /v1/events [default: 30d]
    #[arg(long, env = "TILTYARD_EVENT_RETENTION", value_name = "TIME", value_parser = duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub event_retention: Option<Duration>,

    /// How long running requests may go on after SIGTERM [default: 30s]
    #[arg(long, env = "TILTYARD_GRACE", value_name = "TIME", value_parser = duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub grace: Option<Duration>,

    /// How log lines look [default: text]
    #[arg(long, env = "TILTYARD_LOG_FORMAT", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,

    /// What is logged, such as info,tiltyard=debug [default: info,lance=warn]
    #[arg(long, env = "TILTYARD_LOG", value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,

    /// Send traces to an OpenTelemetry collector by OTLP, such as http://localhost:4318
    #[arg(long, env = "TILTYARD_OTLP_ENDPOINT", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

impl Settings {
    /// # Errors
    /// A sentence that names the setting, for a file that is absent or does not parse.
    pub fn load(overrides: &Overrides) -> Result<Self, String> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = &overrides.config {
            figment = figment.merge(Toml::file_exact(path));
        }
        figment.merge(Serialized::defaults(overrides)).extract().map_err(shown::reason)
    }
}

fn negate<S: serde::Serializer>(value: &Option<bool>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| !value).serialize(serializer)
}

fn as_vending<S: serde::Serializer>(
    role_arn: &Option<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(role_arn.iter().map(|role_arn| ("role_arn", role_arn)))
}

fn as_map<S: serde::Serializer>(
    pairs: &[(String, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}

/// Reads a time as it is written in settings, such as `10m`.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn duration(raw: &str) -> Result<Duration, String> {
    humantime::parse_duration(raw).map_err(|error| format!("{error}; expected such as 10m or 24h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "listen = '127.0.0.1:1'\nupload_ttl = '1h'\n[storage_options]\nk = 'file'\n";
        std::fs::write(file.path(), text).unwrap();
        let overrides = Overrides {
            config: Some(file.path().into()),
            listen: Some("127.0.0.1:2".into()),
            no_migrate: Some(true),
            storage_option: vec![("k2".into(), "flag".into())],
            ..Overrides::default()
        };
        let settings = Settings::load(&overrides).unwrap();
        assert_eq!(settings.listen, "127.0.0.1:2");
        assert_eq!(settings.upload_ttl, Duration::from_secs(3600));
        assert_eq!(settings.gc_interval, Duration::from_secs(600));
        assert!(!settings.migrate);
        assert_eq!(settings.storage_options.len(), 2);
    }

    #[test]
    fn a_profile_has_settings_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[storage_profiles.cold]\nroot = 's3://cold'\ncommit_arbiter = 'catalog'\n\
            [storage_profiles.cold.storage_options]\nregion = 'env:REGION'\n";
        std::fs::write(file.path(), text).unwrap();
        let load = || {
            let config = Some(file.path().into());
            Settings::load(&Overrides { config, ..Overrides::default() })
        };
        let profile = load().unwrap().storage_profiles.remove("cold").unwrap();
        assert_eq!((profile.root.as_str(), profile.storage_options.len()), ("s3://cold", 1));
        assert_eq!(profile.commit_arbiter, CommitArbiter::Catalog);
        std::fs::write(file.path(), text.replace("root =", "rot =")).unwrap();
        assert!(load().is_err());
    }

    #[test]
    fn a_flag_and_the_file_say_together_how_credentials_are_had() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[vending]\nduration = '30m'\n[storage_profiles.cold]\nroot = 's3://cold'\n\
            [storage_profiles.cold.vending]\nrole_arn = 'arn:cold'\n";
        std::fs::write(file.path(), text).unwrap();
        let config = Some(file.path().into());
        let vend_role_arn = Some("arn:main".into());
        let settings =
            Settings::load(&Overrides { config, vend_role_arn, ..Overrides::default() }).unwrap();
        let main = settings.vending.unwrap();
        assert_eq!(main.role_arn.as_deref(), Some("arn:main"));
        assert_eq!(main.duration, Some(Duration::from_secs(30 * 60)));
        let cold = settings.storage_profiles["cold"].vending.as_ref().unwrap();
        assert_eq!((cold.role_arn.as_deref(), cold.duration), (Some("arn:cold"), None));
        assert_eq!(Settings::load(&Overrides::default()).unwrap().vending, None);
        std::fs::write(file.path(), "[vending]\nrole = 'x'\n").unwrap();
        let config = Some(file.path().into());
        assert!(Settings::load(&Overrides { config, ..Overrides::default() }).is_err());
    }

    #[test]
    fn a_misspelt_key_and_an_absent_file_are_errors() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "lisen = 'x'").unwrap();
        for config in [file.path().into(), PathBuf::from("no/such/file.toml")] {
            let overrides = Overrides { config: Some(config), ..Overrides::default() };
            assert!(Settings::load(&overrides).is_err());
        }
    }
}
