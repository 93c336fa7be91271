//! Tells webhooks what happens: each event at least once, in the order of their numbers, and so in that
//! of every table. Requests are signed as the Standard Webhooks specification says.
//!
//! How far a webhook was told is a row. One process at a time tells it, which says so every few seconds;
//! when it falls silent, another goes on. What is not taken is sent again, for as long as it takes, and
//! nothing that it was not told of is forgotten meanwhile.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalog::events::Filter;
use crate::commit::Engine;
use crate::error::{Error, Result};
use crate::model::{Event, EventInfo, NamespaceId, Object};

/// How often it is looked for events.
const LOOK: Duration = Duration::from_secs(1);
/// How many events a request tells of at most.
const AT_ONCE: i64 = 100;
/// For how long a process tells a webhook, unless it says again that it does.
const HOLD: Duration = Duration::from_secs(60);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long it is waited after a failure: twice as long each time, up to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Begins the secret of a webhook.
const SECRET_PREFIX: &str = "whsec_";

/// Somebody who is told.
#[derive(Clone)]
pub struct Webhook {
    name: String,
    url: reqwest::Url,
    key: hmac::Key,
    kinds: Vec<String>,
    /// What it is told of.
    object: Object,
}

#[derive(Serialize)]
struct Message {
    events: Vec<EventInfo>,
}

impl Webhook {
    /// # Errors
    /// `InvalidInput` for a URL that is none, and for a secret that protects nothing.
    pub fn new(
        name: &str,
        url: &str,
        secret: &str,
        kinds: Vec<String>,
        namespace: &[String],
    ) -> Result<Self> {
        let wrong = |what: &str| Error::invalid_input(format!("webhooks.{name}: {what}"));
        let url =
            reqwest::Url::parse(url).ok().filter(|url| ["https", "http"].contains(&url.scheme()));
        let url = url.ok_or_else(|| wrong("'url' is to be an https or http URL"))?;
        let secret = secret.strip_prefix(SECRET_PREFIX);
        let secret = secret.and_then(|text| BASE64_STANDARD.decode(text).ok());
        let secret = secret.filter(|secret| (24..=64).contains(&secret.len()));
        let secret = secret
            .ok_or_else(|| wrong("'secret' is to be whsec_ and base64 of 24 to 64 random bytes"))?;
        let namespace = NamespaceId::from_list(namespace)?;
        Ok(Self {
            name: name.to_owned(),
            url,
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            kinds,
            object: Object::Namespace(namespace),
        })
    }

    fn wants(&self, event: &Event) -> bool {
        let kind = event.kind.as_str();
        let is_of = |word: &String| {
            kind.strip_prefix(word.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let is_wanted = self.kinds.is_empty() || self.kinds.iter().any(is_of);
        is_wanted && self.object.holds(&event.object)
    }

    /// The headers that say that a body is ours, and of when.
    fn sign(&self, id: &str, body: &str, now_s: i64) -> [(&'static str, String); 3] {
        let tag = hmac::sign(&self.key, format!("{id}.{now_s}.{body}").as_bytes());
        let signature = format!("v1,{}", BASE64_STANDARD.encode(tag));
        [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", now_s.to_string()),
            ("webhook-signature", signature),
        ]
    }
}

/// Tells one webhook until it is stopped.
pub(super) async fn run(engine: Engine, webhook: Webhook, stop: CancellationToken) {
    let holder = Uuid::now_v7();
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("tiltyard/", env!("CARGO_PKG_VERSION")))
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(webhook = webhook.name, %error, "a webhook cannot be told");
            return;
        }
    };
    let mut pause = LOOK;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let telling = tell(&engine, &webhook, &client, holder);
        pause = match stop.run_until_cancelled(telling).await {
            Some(Ok(())) => LOOK,
            Some(Err(why)) => {
                tracing::warn!(webhook = webhook.name, why, "a webhook was not told; it will be");
                if pause == LOOK { FIRST_PAUSE * 2 } else { (pause * 2).min(LONGEST_PAUSE) }
            }
            None => break,
        };
    }
    if let Err(error) = engine.release_webhook(&webhook.name, holder).await {
        tracing::warn!(webhook = webhook.name, %error, "others wait to tell a webhook");
    }
}

/// Tells all that there is, if nobody else does.
async fn tell(
    engine: &Engine,
    webhook: &Webhook,
    client: &reqwest::Client,
    holder: Uuid,
) -> Result<(), String> {
    let failed = |error: Error| error.to_string();
    loop {
        let held = engine.hold_webhook(&webhook.name, holder, HOLD).await.map_err(failed)?;
        let Some(after) = held else { return Ok(()) };
        let found =
            engine.events_after(after, &Filter::default(), AT_ONCE).await.map_err(failed)?;
        let Some((last, _)) = found.last() else { return Ok(()) };
        let last = *last;
        let wanted = found.into_iter().filter(|(_, event)| webhook.wants(event));
        let events: Vec<EventInfo> =
            wanted.map(|(seq, event)| EventInfo::new(seq, event)).collect();
        if !events.is_empty() {
            let body =
                serde_json::to_string(&Message { events }).map_err(|error| error.to_string())?;
            // The same when it is sent again.
            let id = format!("{}_{after}_{last}", webhook.name);
            let now_s = engine.now_us() / 1_000_000;
            let mut request = client.post(webhook.url.clone()).body(body.clone());
            request = request.header("content-type", "application/json");
            for (name, value) in webhook.sign(&id, &body, now_s) {
                request = request.header(name, value);
            }
            // The URL may hold a secret.
            let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
            if !answer.status().is_success() {
                return Err(format!("it answered {}", answer.status()));
            }
        }
        engine.advance_webhook(&webhook.name, holder, last).await.map_err(failed)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's own libraries.
    #[test]
    fn signatures_are_those_of_the_specification() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let webhook = Webhook::new("w", "https://example.com", secret, Vec::new(), &[]).unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signed = webhook.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", body, 1_614_265_330);
        assert_eq!(signed[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn settings_that_protect_nothing_are_refused() {
        for (url, secret) in [
            ("https://example.com", "whsec_"),
            ("https://example.com", "whsec_c2hvcnQ="),
            ("https://example.com", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            ("ftp://example.com", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            ("example.com", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ] {
            assert!(Webhook::new("w", url, secret, Vec::new(), &[]).is_err(), "{url} {secret}");
        }
    }
}
