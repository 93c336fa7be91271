//! Settings as they may be shown, in a log or in an error: without the secrets that are in them.

use std::fmt;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command};
use figment::error::Kind;
use serde::Serialize;
use serde_json::Value;

use super::{Overrides, Settings, StorageProfile, Webhook};

/// What stands in the place of a secret.
const HIDDEN: &str = "…";
/// The settings whose text is shown. What is on neither list is hidden, so that a new secret is, too.
const SHOWN: [&str; 12] = [
    "client_timeout",
    "commit_arbiter",
    "event_retention",
    "gc_interval",
    "grace",
    "listen",
    "log",
    "log_format",
    "request_timeout",
    "tls_certificate",
    "tls_key",
    "upload_ttl",
];
/// Those that are shown but for the passwords in them.
const URLS: [&str; 5] = ["allow_locations", "database", "otlp_endpoint", "root", "storage_root"];
/// Whose keys are anybody's choice, and whose values are not shown.
const OPTIONS: [&str; 2] = ["storage_options", "client_storage_options"];

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("Settings", self, f)
    }
}

impl fmt::Debug for StorageProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("StorageProfile", self, f)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("Webhook", self, f)
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("Overrides", self, f)
    }
}

fn show(name: &str, settings: &impl Serialize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match serde_json::to_value(settings) {
        Ok(settings) => write!(f, "{name} {}", shown("", settings)),
        Err(_) => f.write_str(name),
    }
}

fn shown(key: &str, value: Value) -> Value {
    match value {
        Value::Object(settings) => {
            let all_hidden = OPTIONS.contains(&key);
            let shown = settings.into_iter().map(|(key, value)| {
                let value = if all_hidden { HIDDEN.into() } else { shown(&key, value) };
                (key, value)
            });
            Value::Object(shown.collect())
        }
        Value::Array(values) => values.into_iter().map(|value| shown(key, value)).collect(),
        Value::String(url) if URLS.contains(&key) => without_secrets(&url).into(),
        Value::String(_) if !SHOWN.contains(&key) => HIDDEN.into(),
        value => value,
    }
}

/// A URL as it may be shown: a password may stand before the host, and in the query.
pub fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    if scheme == "sqlite" {
        return url.into();
    }
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // Where a password has characters that a URL must not have, nobody knows where it ends.
    if authority.contains(':') && rest.contains('@') {
        return format!("{scheme}://{HIDDEN}");
    }
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{host}{path}")
        }
        None => format!("{scheme}://{authority}{path}"),
    }
}

/// What is wrong with a file or a variable, without what stands there: it may be a secret that lacks its
/// quotation marks.
pub(super) fn reason(error: figment::Error) -> String {
    let reasons = error.into_iter().map(|error| {
        let what = match &error.kind {
            Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
                format!("what is there is not {expected}")
            }
            Kind::Unsupported(_) | Kind::UnsupportedKey(..) => "it cannot be that".into(),
            Kind::UnknownVariant(_, known) => format!("it is none of {}", known.join(", ")),
            Kind::Message(text) => without_excerpt(text),
            kind => kind.to_string(),
        };
        let at = error.path.join(".");
        let source = error.metadata.as_ref().and_then(|metadata| metadata.source.as_ref());
        let source = source.map(|source| format!(" in {source}")).unwrap_or_default();
        if at.is_empty() { format!("{what}{source}") } else { format!("{at}: {what}{source}") }
    });
    reasons.collect::<Vec<_>>().join("; ")
}

/// The parser of TOML shows the line that it stumbled over, between the place and the reason.
fn without_excerpt(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_excerpt = |line: &str| {
        let number = line.split('|').next().unwrap_or_default().trim();
        line.contains('|') && number.chars().all(|c| c.is_ascii_digit())
    };
    lines.filter(|line| !is_excerpt(line)).collect::<Vec<_>>().join(": ")
}

/// Reads `K=V`. Clap's own would show what it cannot read, and a secret with a comma in it is split.
#[derive(Clone)]
pub(super) struct KeyValue;

impl TypedValueParser for KeyValue {
    type Value = (String, String);

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<(String, String), clap::Error> {
        let pair = value.to_str().and_then(|text| text.split_once('='));
        let pair = pair.map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| {
            let name = arg.map(Arg::to_string).unwrap_or_default();
            let text = format!("'{name}': expected KEY=VALUE, and no comma in VALUE\n");
            clap::Error::raw(ErrorKind::ValueValidation, text).with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "Hb7sNq2Lx0";

    /// Settings with a secret wherever there may be one.
    fn secretive() -> Settings {
        let names = ["secret_access_key", "listen", "log", "root", "database"];
        let options = || names.map(|name| (name.to_owned(), SECRET.to_owned())).into();
        let profile = StorageProfile {
            root: format!("az://a:{SECRET}@c/p?sig={SECRET}"),
            storage_options: options(),
            client_storage_options: options(),
            ..StorageProfile::default()
        };
        let (url, secret) = (format!("https://a/{SECRET}"), SECRET.to_owned());
        let webhook = Webhook { url, secret, ..Webhook::default() };
        Settings {
            database: format!("postgres://me:{SECRET}@db/t?password={SECRET}"),
            storage_root: format!("s3://key:{SECRET}@bucket/lake"),
            storage_options: options(),
            client_storage_options: options(),
            storage_profiles: [("cold".to_owned(), profile)].into(),
            allow_locations: vec![format!("s3://key:{SECRET}@other/lake")],
            otlp_endpoint: Some(format!("https://me:{SECRET}@traces:4318")),
            webhooks: [("told".to_owned(), webhook)].into(),
            ..Settings::default()
        }
    }

    #[test]
    fn settings_show_no_secret() {
        let settings = secretive();
        let overrides = Overrides {
            database: Some(settings.database.clone()),
            storage_root: Some(settings.storage_root.clone()),
            storage_option: vec![("log".into(), SECRET.into())],
            client_storage_option: vec![("log".into(), SECRET.into())],
            allow_location: settings.allow_locations.clone(),
            otlp_endpoint: settings.otlp_endpoint.clone(),
            ..Overrides::default()
        };
        let profile = &settings.storage_profiles["cold"];
        for shown in [
            format!("{settings:?}"),
            format!("{settings:#?}"),
            format!("{overrides:?} {profile:?} {:?}", settings.webhooks),
        ] {
            assert!(!shown.contains(SECRET), "{shown}");
            assert!(shown.contains("secret_access_key") && shown.contains("me@db"), "{shown}");
        }
        let shown = format!("{settings:?}");
        for plain in ["127.0.0.1:2333", "\"max_requests\":2048", "10m", "s3://key@bucket/lake"] {
            assert!(shown.contains(plain), "{plain} in {shown}");
        }
    }

    /// What others add is not shown before somebody said that it may be.
    #[test]
    fn every_text_is_on_a_list_or_hidden() {
        let Ok(Value::Object(all)) = serde_json::to_value(secretive()) else { panic!("no object") };
        for key in all.keys().filter(|key| !SHOWN.contains(&key.as_str())) {
            let as_text = shown(key, SECRET.into());
            let is_url = URLS.contains(&key.as_str());
            assert!(is_url || as_text == HIDDEN, "{key}: {as_text}");
        }
    }

    #[test]
    fn urls_lose_their_passwords() {
        for (url, shown) in [
            ("postgres://me:secret@db:5432/t?sslmode=require", "postgres://me@db:5432/t"),
            ("postgres://db/t?user=me&password=secret", "postgres://db/t"),
            ("postgres://db:5432/t", "postgres://db:5432/t"),
            ("postgres://me:sec/ret@db/t", "postgres://…"),
            ("postgres://me:sec?ret@db/t", "postgres://…"),
            ("postgres://me:sec@r/et@db/t", "postgres://…"),
            ("sqlite://a/b.db", "sqlite://a/b.db"),
            ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
            ("tiltyard-data/lake", "tiltyard-data/lake"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in [
            format!("[storage_options]\nsecret_access_key = {SECRET}\n"),
            format!("[storage_options]\nsecret_access_key = '{SECRET}\n"),
            format!("storage_options = '{SECRET}'\n"),
            format!("max_requests = '{SECRET}'\n"),
            format!("gc_interval = '{SECRET}'\n"),
            format!("commit_arbiter = '{SECRET}'\n"),
            format!("[storage_profiles]\ncold = '{SECRET}'\n"),
        ] {
            std::fs::write(file.path(), &text).unwrap();
            let overrides = Overrides { config: Some(file.path().into()), ..Overrides::default() };
            let told = Settings::load(&overrides).unwrap_err();
            assert!(!told.contains(SECRET), "{text}: {told}");
            assert!(told.len() > 20, "{text}: {told}");
        }
    }
}
