//! How often a caller may ask: who asks too often is told to come again, and nobody else is.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::{Client, Method};
use serde_json::json;
use tiltyard::config::Settings;

use crate::support::code::*;
use crate::support::{Backend, Reply, TestServer, assert_error, table, text};

/// More than all that the tests do before, and the rate is so low that a slow machine sends more.
const BURST: u32 = 30;
/// How many requests are sent at once to be too many.
const FLOOD: usize = 150;
/// How long a caller who was told to come again tries.
const PATIENCE: Duration = Duration::from_secs(60);
/// More wrong keys than any server takes.
const GUESSES: usize = 20_000;

/// Each replica counts for itself, so the tests ask one.
async fn one_of(server: Option<TestServer>) -> Option<TestServer> {
    match server {
        Some(server) => Some(server.beside().await),
        None => None,
    }
}

fn limit(settings: &mut Settings) {
    settings.rate_limit = 1;
    settings.rate_burst = Some(BURST);
}

async fn guarded(backend: Backend) -> Option<TestServer> {
    one_of(TestServer::guarded_with(backend, limit).await).await
}

async fn open(backend: Backend) -> Option<TestServer> {
    one_of(TestServer::spawn_with(backend, limit).await).await
}

async fn unlimited(backend: Backend) -> Option<TestServer> {
    one_of(TestServer::guarded(backend).await).await
}

/// Sends the same many times at once, in turn with each of some keys. Answers who was let in, and who
/// was told to come again.
async fn flood(server: &TestServer, path: &str, keys: &[&str]) -> (Vec<Reply>, Vec<Reply>) {
    let requests = (0..FLOOD).map(|number| {
        let request = server.bare_request(Method::POST, path).json(&json!({}));
        // Whatever a caller says of where it is.
        let request = request.header("x-forwarded-for", format!("192.0.2.{number}"));
        let key = keys.get(number % keys.len().max(1));
        let request = match key {
            Some(key) => request.header("x-api-key", *key),
            None => request,
        };
        server.send(request)
    });
    join_all(requests).await.into_iter().partition(|reply| reply.status != 429)
}

fn assert_told_to_come_again(refused: &[Reply]) {
    assert!(!refused.is_empty(), "all of {FLOOD} were let in");
    for reply in refused {
        assert_error(reply, 429, THROTTLING);
        let seconds = reply.header("retry-after").and_then(|value| value.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds > 0), "{:?}", reply.headers);
    }
}

async fn post_as(server: &TestServer, key: &str, path: &str) -> Reply {
    let request = server.bare_request(Method::POST, path).header("x-api-key", key);
    server.send(request.json(&json!({}))).await
}

async fn key_of(server: &TestServer, principal: &str) -> String {
    let made = server.post("/v1/access/keys/create", json!({"principal": principal})).await.ok();
    text(&made, "api_key")
}

macro_rules! limited {
    ($spawn:ident; $(#[$meta:meta])* async fn $name:ident($server:ident: TestServer) $body:block) => {
        on! { $spawn; sqlite: Sqlite, postgres: Postgres;
            $(#[$meta])* async fn $name($server: TestServer) $body }
    };
}

limited! { guarded;
    async fn callers_are_limited_each_for_themselves(server: TestServer) {
        server.with_declared("ns$t").await;
        for principal in ["anna", "bert"] {
            let body = json!({"principal": principal, "role": "reader", "namespace": []});
            server.post("/v1/access/grants/create", body).await.ok();
        }
        let (first, second) = (key_of(&server, "anna").await, key_of(&server, "anna").await);
        let bert = key_of(&server, "bert").await;
        // By the specification's path, and by that of LanceDB's clients.
        for (path, least) in [("exists", BURST as usize), ("describe/", 0)] {
            let (let_in, refused) = flood(&server, &table("ns$t", path), &[&first, &second]).await;
            assert!(let_in.len() >= least, "{} of a burst of {BURST} were let in", let_in.len());
            assert!(let_in.iter().all(|reply| reply.status == 200 || path == "describe/"));
            assert_told_to_come_again(&refused);
        }
        // From the same address.
        post_as(&server, &bert, &table("ns$t", "describe")).await.ok();
        for path in ["/healthz", "/readyz", "/metrics"] {
            for _ in 0..3 {
                let request = server.bare_request(Method::GET, path).header("x-api-key", &first);
                let reply = server.send(request).await;
                assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            }
        }
        let told = server.send(server.bare_request(Method::GET, "/metrics").header("x-api-key", bert));
        let told = String::from_utf8(told.await.raw).expect("text");
        assert!(told.contains("tiltyard_http_turned_away_total{limit=\"rate\"}"), "{told}");
        assert!(!told.contains("anna") && !told.contains("127.0.0.1"), "{told}");
        let refused = Instant::now();
        while post_as(&server, &first, &table("ns$t", "describe")).await.status != 200 {
            assert!(refused.elapsed() < PATIENCE, "still refused");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

limited! { open;
    async fn without_names_addresses_are_limited(server: TestServer) {
        server.with_declared("ns$t").await;
        let (let_in, refused) = flood(&server, &table("ns$t", "exists"), &[]).await;
        assert!(!let_in.is_empty());
        assert_told_to_come_again(&refused);
        let (_, refused) = flood(&server, &table("ns$t", "describe/"), &[]).await;
        assert_told_to_come_again(&refused);
        for path in ["/healthz", "/readyz", "/metrics"] {
            for _ in 0..3 {
                server.get(path).await.ok();
            }
        }
        // All of 127.0.0.0/8 is this machine.
        let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let client = Client::builder().no_proxy().local_address(elsewhere).build().expect("a client");
        let url = format!("{}{}", server.base(), table("ns$t", "exists"));
        let reply = client.post(url).json(&json!({})).send().await.expect("an answer");
        assert_eq!(reply.status(), 200);
        let refused = Instant::now();
        while server.post(&table("ns$t", "exists"), json!({})).await.status != 200 {
            assert!(refused.elapsed() < PATIENCE, "still refused");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// By default nobody is limited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_nobody_is_refused() {
    let server = TestServer::spawn(Backend::Sqlite).await.expect("SQLite is always there");
    server.with_declared("ns$t").await;
    for _ in 0..3 {
        let (let_in, _) = flood(&server, &table("ns$t", "exists"), &[]).await;
        assert_eq!(let_in.len(), FLOOD);
    }
}

limited! { unlimited;
    /// Who guesses is told so, and does not keep others out who come from the same address.
    async fn guesses_are_limited(server: TestServer) {
        server.create_namespace("ns").await;
        let (known, _) = server.key().and_then(|key| key.rsplit_once('_')).expect("a key");
        let wrong = format!("{known}_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        let path = "/v1/namespace/ns/describe";
        let mut sent = 0;
        let refused = loop {
            let (guessed, refused) = flood(&server, path, &[&wrong, "nonsense"]).await;
            guessed.iter().for_each(|reply| assert_error(reply, 401, UNAUTHENTICATED));
            assert!(sent > 0 || refused.is_empty(), "a few mistakes are no flood");
            sent += FLOOD;
            if !refused.is_empty() {
                break refused;
            }
            assert!(sent < GUESSES, "{sent} wrong keys were looked at");
        };
        assert_told_to_come_again(&refused);
        server.post(path, json!({})).await.ok();
    }
}
