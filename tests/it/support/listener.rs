//! Somebody who is told by webhooks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::issuer::now;
use super::secrets;

#[derive(Default)]
struct Heard {
    events: Mutex<Vec<Value>>,
    /// How many requests are still to fail.
    deaf: AtomicUsize,
    /// How many events one may tell of; 0 is any number.
    most: AtomicUsize,
    /// The id of each that came, and of how many events it told.
    asked: Mutex<Vec<(String, usize)>>,
    wrong: Mutex<Vec<String>>,
}

/// Takes what is signed with its secret, and notes what is not.
pub struct Listener {
    pub url: String,
    pub secret: String,
    heard: Arc<Heard>,
    server: tokio::task::JoinHandle<()>,
}

impl Listener {
    pub async fn start() -> Self {
        let raw: [u8; 32] = std::array::from_fn(|_| uuid::Uuid::new_v4().as_bytes()[0]);
        let secret = format!("whsec_{}", BASE64_STANDARD.encode(raw));
        secrets::register(&secret);
        let heard = Arc::new(Heard::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &raw);
        let hear =
            async move |State(heard): State<Arc<Heard>>, headers: HeaderMap, body: String| {
                let said: Value = serde_json::from_str(&body).expect("JSON");
                let events = said["events"].as_array().expect("events").clone();
                let id = headers["webhook-id"].to_str().expect("an id").to_owned();
                heard.asked.lock().expect("a lock").push((id, events.len()));
                let deaf = heard.deaf.load(Ordering::SeqCst);
                if deaf > 0 {
                    heard.deaf.store(deaf - 1, Ordering::SeqCst);
                    return StatusCode::INTERNAL_SERVER_ERROR;
                }
                let most = heard.most.load(Ordering::SeqCst);
                if most > 0 && events.len() > most {
                    return StatusCode::PAYLOAD_TOO_LARGE;
                }
                if let Err(why) = check(&key, &headers, &body) {
                    heard.wrong.lock().expect("a lock").push(why);
                    return StatusCode::BAD_REQUEST;
                }
                heard.events.lock().expect("a lock").extend(events);
                StatusCode::NO_CONTENT
            };
        let router = Router::new().route("/hook", post(hear)).with_state(heard.clone());
        let serve = async move { axum::serve(listener, router).await.expect("it serves") };
        Self { url, secret, heard, server: tokio::spawn(serve) }
    }

    /// Fails so many requests before it takes one.
    pub fn be_deaf(&self, times: usize) {
        self.heard.deaf.store(times, Ordering::SeqCst);
    }

    /// From now on takes no request that tells of more events.
    pub fn take_at_most(&self, events: usize) {
        self.heard.most.store(events, Ordering::SeqCst);
    }

    /// The id of each request that came, taken or not, and of how many events it told.
    pub fn asked(&self) -> Vec<(String, usize)> {
        self.heard.asked.lock().expect("a lock").clone()
    }

    /// What it heard, in order, each once: what is told again is known by its id.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(*self.heard.wrong.lock().expect("a lock"), Vec::<String>::new());
        let mut seen = std::collections::BTreeSet::new();
        let mut events = self.heard.events.lock().expect("a lock").clone();
        events.retain(|event| seen.insert(event["event_id"].to_string()));
        events
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn check(key: &hmac::Key, headers: &HeaderMap, body: &str) -> Result<(), String> {
    let text = |name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).ok_or(format!("no {name}"))
    };
    let (id, at) = (text("webhook-id")?, text("webhook-timestamp")?);
    let sent: u64 = at.parse().map_err(|_| format!("no time: {at}"))?;
    if sent.abs_diff(now()) > 60 {
        return Err(format!("of another time: {at}"));
    }
    let signature = text("webhook-signature")?;
    let tag = signature.strip_prefix("v1,").and_then(|tag| BASE64_STANDARD.decode(tag).ok());
    let tag = tag.ok_or(format!("no signature: {signature}"))?;
    hmac::verify(key, format!("{id}.{at}.{body}").as_bytes(), &tag)
        .map_err(|_| format!("a wrong signature: {signature}"))
}
