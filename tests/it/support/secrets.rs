//! What must not come to light: secrets that the tests know, looked for in every answer, in all that is
//! logged, and in what programs print. A test that makes another kind of secret tells of it with
//! [`register`].

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::{Debug, Write};
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError, RwLock};

use reqwest::header::HeaderMap;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Anything shorter may stand somewhere by chance.
const LEAST_BYTES: usize = 8;
/// A credential that is made of fewer bytes that differ is nothing that a server would take.
const LEAST_MADE_OF: usize = 16;
/// Every API key begins so; then come 32 hexadecimal digits, `_`, and 43 characters.
const KEY: &str = "tiltyard_";
const ID_DIGITS: usize = 32;
const SECRET_CHARACTERS: usize = 43;
/// Parts of the names of storage options that are credentials.
const SECRET_OPTIONS: [&str; 5] = ["account_key", "password", "sas", "secret", "token"];
/// More than people let a server log.
const LOGGED: &str = "info,tiltyard=debug,object_store=debug";
/// How much of the log is looked through for what turns out to be a secret later.
const KEPT_BYTES: usize = 16 << 20;

/// Secrets, and what was found of them.
struct Watch {
    secrets: RwLock<Secrets>,
    heard: Mutex<Heard>,
}

struct Secrets {
    all: HashSet<String>,
    /// Those that begin with two bytes, by these.
    by_head: Vec<Vec<String>>,
}

#[derive(Default)]
struct Heard {
    lines: VecDeque<String>,
    bytes: usize,
    /// Where secrets were found that no test has failed for yet.
    found: Vec<String>,
}

/// What all tests of the process look for.
static ALL: LazyLock<Watch> = LazyLock::new(Watch::new);

/// Makes a text known as a secret.
pub fn register(secret: &str) {
    ALL.register(secret);
}

/// As [`register`], of what is secret in an API key. All of one is known for what it is anyway.
pub fn register_key(key: &str) {
    if let Some(secret) = key.strip_prefix(KEY).and_then(|rest| rest.get(ID_DIGITS + 1..)) {
        ALL.register(secret);
    }
}

/// As [`register`], of a credential that a test sends, unless it is made of little.
pub fn register_credential(sent: &str) {
    let sent = sent.strip_prefix("Bearer ").unwrap_or(sent);
    let made_of: HashSet<u8> = sent.bytes().collect();
    if made_of.len() >= LEAST_MADE_OF && !is_key(sent.as_bytes()) {
        ALL.register(sent);
    }
}

/// As [`register`], of the credentials in storage options.
pub fn register_options(options: &BTreeMap<String, String>) {
    let is_secret = |name: &str| SECRET_OPTIONS.iter().any(|part| name.contains(part));
    for (_, value) in options.iter().filter(|(name, _)| is_secret(name)) {
        let meant = match value.strip_prefix("env:") {
            Some(name) => std::env::var(name).unwrap_or_default(),
            None => value.clone(),
        };
        if !meant.is_empty() {
            ALL.register(&meant);
        }
    }
}

/// Fails if there is a secret in an answer. Only who makes an API key is told it.
#[track_caller]
pub fn assert_none_answered(path: &str, headers: &HeaderMap, raw: &[u8], body: &Value) {
    for (name, value) in headers {
        assert_none_in(&format!("{path}: {name}"), value.as_bytes());
    }
    let makes_key = path == "/v1/access/keys/create" || path.ends_with("/rotate");
    match body["api_key"].as_str().filter(|_| makes_key) {
        Some(key) => {
            register_key(key);
            let rest = String::from_utf8_lossy(raw).replacen(key, "", 1);
            assert_none_in(path, rest.as_bytes());
        }
        None => assert_none_in(path, raw),
    }
}

/// Fails if there is a secret in what came from `place`, or was in anything before.
#[track_caller]
pub fn assert_none_in(place: &str, text: &[u8]) {
    if let Some(found) = ALL.find(text) {
        panic!("a secret leaks in {place}: {found}");
    }
    assert_none_found();
}

/// As [`assert_none_in`], on a thread whose failure nobody would see.
pub fn look_in(place: &str, text: &[u8]) {
    if let Some(found) = ALL.find(text) {
        ALL.heard().found.push(format!("{place}: {found}"));
    }
}

/// Fails if there was a secret in anything that was logged.
#[track_caller]
pub fn assert_none_found() {
    // One test fails for it, and not all that come after.
    let found = std::mem::take(&mut ALL.heard().found);
    assert!(found.is_empty(), "secrets leak: {found:#?}");
}

/// Begins to look at what the servers of this process log, and shows it if `TILTYARD_TEST_LOG` says
/// what of it.
pub fn watch_log() {
    static BEGIN: Once = Once::new();
    BEGIN.call_once(|| {
        let shown = std::env::var("TILTYARD_TEST_LOG").ok().map(|filter| {
            let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            lines.with_filter(EnvFilter::new(filter))
        });
        let watched = Listener(&ALL).with_filter(EnvFilter::new(LOGGED));
        tracing_subscriber::registry().with(watched).with(shown).init();
    });
}

impl Watch {
    fn new() -> Self {
        let secrets = Secrets { all: HashSet::new(), by_head: vec![Vec::new(); 1 << 16] };
        Self { secrets: RwLock::new(secrets), heard: Mutex::default() }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, secret: &str) {
        assert!(secret.len() >= LEAST_BYTES, "'{secret}' may be anything");
        if self.secrets.read().unwrap_or_else(PoisonError::into_inner).all.contains(secret) {
            return;
        }
        let mut secrets = self.secrets.write().unwrap_or_else(PoisonError::into_inner);
        if secrets.all.insert(secret.to_owned()) {
            secrets.by_head[head(secret.as_bytes(), 0)].push(secret.to_owned());
        }
        drop(secrets);
        // A server knows its secrets before the tests do.
        let mut heard = self.heard();
        let told = heard.lines.iter().filter(|line| line.contains(secret));
        let told: Vec<String> = told.map(|line| format!("the log: {line}")).collect();
        heard.found.extend(told);
    }

    /// What is around a secret in some text, if there is one. That goes byte by byte, once, however many
    /// secrets there are.
    fn find(&self, text: &[u8]) -> Option<String> {
        let secrets = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        let first_of_key = KEY.as_bytes()[0];
        let mut at = 0;
        while at + LEAST_BYTES <= text.len() {
            let begins = &secrets.by_head[head(text, at)];
            if !begins.is_empty() || text[at] == first_of_key {
                let rest = &text[at..];
                let is_there = |secret: &String| rest.starts_with(secret.as_bytes());
                if begins.iter().any(is_there) || is_key(rest) {
                    let around = &text[at.saturating_sub(100)..text.len().min(at + 100)];
                    return Some(format!("at {at}: {}", String::from_utf8_lossy(around)));
                }
            }
            at += 1;
        }
        None
    }

    fn hear(&self, line: String) {
        let mut heard = self.heard();
        heard.bytes += line.len();
        heard.lines.push_back(line.clone());
        while heard.bytes > KEPT_BYTES {
            let oldest = heard.lines.pop_front().unwrap_or_default();
            heard.bytes -= oldest.len();
        }
        drop(heard);
        // After that, so that whoever registers a secret meanwhile finds it there.
        if let Some(found) = self.find(line.as_bytes()) {
            self.heard().found.push(format!("the log {found}"));
        }
    }
}

fn head(text: &[u8], at: usize) -> usize {
    usize::from(text[at]) << 8 | usize::from(text[at + 1])
}

/// Whether a text begins with an API key, known or not.
fn is_key(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(KEY.as_bytes()) else { return false };
    let (Some(id), Some(secret)) =
        (rest.get(..ID_DIGITS), rest.get(ID_DIGITS + 1..ID_DIGITS + 1 + SECRET_CHARACTERS))
    else {
        return false;
    };
    let of_secret = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    id.iter().all(u8::is_ascii_hexdigit) && rest[ID_DIGITS] == b'_' && secret.iter().all(of_secret)
}

/// Hears all that is logged.
struct Listener(&'static Watch);

/// The fields of an event or a span, as a line.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn on_new_span(&self, span: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut line = Line(span.metadata().name().to_owned());
        span.record(&mut line);
        self.0.hear(line.0);
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        self.0.hear(line.0);
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(event.metadata().target().to_owned());
        event.record(&mut line);
        self.0.hear(line.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "Zr4wqT09-kLm";

    fn watch() -> &'static Watch {
        Box::leak(Box::new(Watch::new()))
    }

    fn said_to(watch: &'static Watch, say: impl FnOnce()) -> Vec<String> {
        let subscriber = tracing_subscriber::registry().with(Listener(watch));
        tracing::subscriber::with_default(subscriber, say);
        watch.heard().found.clone()
    }

    #[test]
    fn a_secret_is_seen_wherever_it_stands() {
        let watch = watch();
        watch.register(SECRET);
        for text in [SECRET.into(), format!("{{\"a\":\"x{SECRET}\"}}"), format!("aZ{SECRET}")] {
            assert!(watch.find(text.as_bytes()).is_some(), "{text}");
        }
        for text in ["", "Z", &SECRET[1..], &SECRET[..SECRET.len() - 1], "Zr4wqT09-kLM"] {
            assert!(watch.find(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_key_is_seen_that_nobody_knew() {
        let (id, secret) = ("0123456789abcdef".repeat(2), "aB3-_".repeat(9));
        let key = format!("so: tiltyard_{id}_{} and on", &secret[..SECRET_CHARACTERS]);
        assert!(watch().find(key.as_bytes()).is_some());
        for other in [key.replace("so: tiltyard_0", "tiltyard_x"), key[..60].into()] {
            assert!(watch().find(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn a_secret_is_heard_in_the_log() {
        let said: [fn(); 4] = [
            || tracing::info!(url = SECRET, "connected"),
            || tracing::warn!("no {SECRET} there"),
            || drop(tracing::info_span!("request", key = ?Some(SECRET))),
            || {
                let span = tracing::info_span!("request", key = tracing::field::Empty);
                span.record("key", SECRET);
            },
        ];
        for say in said {
            let watch = watch();
            watch.register(SECRET);
            assert_eq!(said_to(watch, say).len(), 1);
        }
        let watch = watch();
        watch.register(SECRET);
        assert!(said_to(watch, || tracing::info!("nothing")).is_empty());
    }

    #[test]
    fn what_was_logged_before_is_heard_too() {
        let watch = watch();
        assert!(said_to(watch, || tracing::info!(key = SECRET, "made")).is_empty());
        watch.register(SECRET);
        assert_eq!(watch.heard().found.len(), 1);
    }
}
