//! Tells webhooks what happens: each event at least once, in the order of their numbers. Requests
//! are signed as the Standard Webhooks specification says.
//!
//! How far a webhook was told is a row. One process at a time tells it, which says so every few
//! seconds; when it falls silent, another goes on. What is not taken is sent again, less of it at
//! once, for as long as it takes, and nothing that it was not told of is forgotten meanwhile.

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
/// How many events a request tells of at most, and how many are read for it.
const AT_ONCE: usize = 100;
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

/// What is kept between two requests.
struct Pace {
    /// How many events the next one tells of at most: what was too much for the receiver is sent in
    /// parts.
    most: usize,
    /// The numbers after which and up to which the last one told, until it is certainly over: what
    /// happened since is not put into it when it is sent again.
    sent: Option<(i64, i64)>,
    pause: Duration,
}

impl Pace {
    /// That so many events were not taken.
    fn slow_down(&mut self, events: usize) {
        // What cannot be less is sent as it was.
        if events > 1 {
            (self.most, self.sent) = (events / 2, None);
        }
    }

    fn go_on(&mut self) {
        (self.most, self.sent, self.pause) = ((self.most + 1).min(AT_ONCE), None, LOOK);
    }

    fn wait_longer(&mut self) {
        let is_first = self.pause == LOOK;
        self.pause = if is_first { FIRST_PAUSE * 2 } else { (self.pause * 2).min(LONGEST_PAUSE) };
    }
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

    /// # Errors
    /// Why it was not taken.
    async fn send(
        &self,
        client: &reqwest::Client,
        id: &str,
        message: &Message,
        now_s: i64,
    ) -> Result<(), String> {
        let body = serde_json::to_string(message).map_err(|error| error.to_string())?;
        let signed = self.sign(id, &body, now_s);
        let mut request = client.post(self.url.clone()).header("content-type", "application/json");
        for (name, value) in signed {
            request = request.header(name, value);
        }
        // The URL may hold a secret.
        let answer = request.body(body).send().await;
        let answer = answer.map_err(|error| error.without_url().to_string())?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("it answered {status}")),
        }
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
    let mut pace = Pace { most: AT_ONCE, sent: None, pause: LOOK };
    while stop.run_until_cancelled(tokio::time::sleep(pace.pause)).await.is_some() {
        let telling = tell(&engine, &webhook, &client, holder, &mut pace);
        match stop.run_until_cancelled(telling).await {
            Some(Ok(())) => pace.pause = LOOK,
            Some(Err(why)) => {
                tracing::warn!(webhook = webhook.name, why, "a webhook was not told; it will be");
                pace.wait_longer();
            }
            None => break,
        }
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
    pace: &mut Pace,
) -> Result<(), String> {
    let failed = |error: Error| error.to_string();
    loop {
        let held = engine.hold_webhook(&webhook.name, holder, HOLD).await.map_err(failed)?;
        let Some(after) = held else { return Ok(()) };
        let found = engine.events_after(after, &Filter::default(), AT_ONCE as i64).await;
        let found = found.map_err(failed)?;
        if found.until <= after {
            return Ok(());
        }
        let before = pace.sent.filter(|(from, _)| *from == after);
        let end = before.map_or(found.until, |(_, end)| end.min(found.until));
        let wanted = found.events.into_iter();
        let mut wanted: Vec<(i64, Event)> =
            wanted.filter(|(seq, event)| *seq <= end && webhook.wants(event)).collect();
        let last = if wanted.len() > pace.most {
            wanted.truncate(pace.most);
            wanted.last().map_or(end, |(seq, _)| *seq)
        } else {
            end
        };
        let (is_told, number) = (!wanted.is_empty(), wanted.len());
        if is_told {
            pace.sent = Some((after, last));
            // The same when the same is sent again.
            let id = format!("{}_{after}_{last}", webhook.name);
            let events = wanted.into_iter().map(|(seq, event)| EventInfo::new(seq, event));
            let message = Message { events: events.collect() };
            let now_s = engine.now_us() / 1_000_000;
            let sent = webhook.send(client, &id, &message, now_s).await;
            if sent.is_err() {
                pace.slow_down(number);
            }
            sent?;
        }
        engine.advance_webhook(&webhook.name, holder, last).await.map_err(failed)?;
        if is_told {
            pace.go_on();
        }
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
