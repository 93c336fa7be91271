//! A server that is killed in the middle of commits to several tables: all of it is there or none,
//! and whoever sends the request again under its key gets the answer of the first.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::commit_tables::append;
use crate::support::batches::batch_ab;
use crate::support::process::{Serving, tiltyard};
use crate::support::staging::staging;
use crate::support::{Backend, TestServer, foreign, table};

const ROUNDS: usize = 10;
const REQUESTS: i32 = 6;
/// How long after the death of a server its work may be in the way.
const PATIENCE: Duration = Duration::from_secs(100);

/// Two tables that are always changed together.
struct Pair {
    ids: [String; 2],
    locations: Vec<String>,
    /// What is sent, each under a key of its own.
    bodies: Vec<Value>,
    keys: Keys,
}

/// Whether the client can send a request again.
#[derive(Clone, Copy, PartialEq)]
enum Keys {
    Given,
    Absent,
}

impl Pair {
    async fn new(server: &TestServer, number: usize, keys: Keys) -> Self {
        let names = [format!("a{number}"), format!("b{number}")];
        let ids = names.clone().map(|name| format!("ns${name}"));
        let mut locations = Vec::new();
        for id in &ids {
            locations.push(server.with_table(id, 1).await);
        }
        let mut bodies = Vec::new();
        for value in 1..=REQUESTS {
            let mut commits = Vec::new();
            for (id, name) in ids.iter().zip(&names) {
                let upload = server.upload(id, &batch_ab(value..value + 1)).await;
                commits.push(append(name, 1, &[&upload]));
            }
            bodies.push(json!({"commits": commits}));
        }
        Self { ids, locations, bodies, keys }
    }

    fn key(&self, at: usize) -> Option<String> {
        (self.keys == Keys::Given).then(|| format!("{}-{at}", self.ids[0]))
    }

    /// Sends the requests one after the other until the server dies. Gives the answers.
    async fn send_until_it_dies(&self, base: &str) -> Vec<Value> {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut answers = Vec::new();
        for (at, body) in self.bodies.iter().enumerate() {
            let mut request = client.post(format!("{base}/v1/commit")).json(body);
            if let Some(key) = self.key(at) {
                request = request.header("idempotency-key", key);
            }
            let Ok(reply) = request.send().await else { break };
            let status = reply.status();
            let Ok(answer) = reply.json::<Value>().await else { break };
            assert_eq!(status, 200, "{answer}");
            answers.push(answer);
        }
        answers
    }

    /// Both tables hold the rows of the same requests, and not less than was acknowledged.
    async fn assert_whole(&self, server: &TestServer, acknowledged: usize) {
        let (a, b) = loop {
            let a = server.count(&self.ids[0]).await;
            let b = server.count(&self.ids[1]).await;
            // Unless a batch was brought to its end just between.
            if a == server.count(&self.ids[0]).await {
                break (a, b);
            }
        };
        assert_eq!(a, b, "half a request stands in {:?}", self.ids);
        let done = usize::try_from(a).expect("a small number") - 1;
        assert!(done == acknowledged || done == acknowledged + 1, "{done}, {acknowledged}");
    }

    /// Sends all requests again, each until it is answered: who had an answer gets the same, and in
    /// the end all rows are there once.
    async fn send_again(&self, server: &TestServer, answers: &[Value]) {
        for (at, body) in self.bodies.iter().enumerate() {
            let started = Instant::now();
            let answer = loop {
                let mut request = server.request(Method::POST, "/v1/commit").json(body);
                request = request.header("idempotency-key", self.key(at).expect("a key"));
                let reply = server.send(request).await;
                if reply.status == 200 {
                    break reply.ok();
                }
                assert_eq!(reply.status, 503, "{}", reply.text());
                assert!(started.elapsed() < PATIENCE, "it stays shut: {}", reply.text());
            };
            if let Some(known) = answers.get(at) {
                assert_eq!(answer, *known, "another answer under the same key");
            }
            for commit in answer["commits"].as_array().expect("commits") {
                assert_eq!(commit["version"], at + 2, "{answer}");
            }
        }
        let expected: Vec<i32> = (0..=REQUESTS).collect();
        for (id, location) in self.ids.iter().zip(&self.locations) {
            let mut values = foreign::values(location).await;
            values.sort_unstable();
            assert_eq!(values, expected, "{id}");
            assert_eq!(server.values(id).await, expected, "{id}");
            let versions = server.versions(id).await;
            assert_eq!(versions, (1..=expected.len() as u64).collect::<Vec<_>>(), "{id}");
            let listed = server.get(&table(id, "uploads")).await.ok();
            assert_eq!(listed["uploads"], json!([]), "{id}");
        }
    }

    /// Without keys: what the dead server was at is brought to its end by itself, and both tables can
    /// be written to again.
    async fn assert_alive(&self, server: &TestServer) {
        for (id, location) in self.ids.iter().zip(&self.locations) {
            let started = Instant::now();
            loop {
                let stream = crate::support::batches::ipc(&[batch_ab(50..51)]);
                let reply = server.post_arrow(&table(id, "insert"), stream).await;
                if reply.status == 200 {
                    break;
                }
                assert!([409, 503].contains(&reply.status), "{}", reply.text());
                assert!(started.elapsed() < PATIENCE, "{id} stays shut: {}", reply.text());
            }
            assert_eq!(server.values(id).await, foreign::values(location).await);
            let versions = server.versions(id).await;
            assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
        }
    }
}

async fn a_killed_server_leaves_no_half(backend: Backend, keys: Keys) {
    let Some(mut server) = TestServer::spawn(backend).await else { return };
    let mut left = Vec::new();
    for round in 0..ROUNDS {
        let pair = Pair::new(&server, round, keys).await;
        let lake = server.lake().display().to_string();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--storage-root", &lake];
        let mut command = tiltyard(server.home(), &arguments);
        command.env("TILTYARD_DATABASE", server.database().url());
        let doomed = Serving::start(command);
        let base = doomed.base.clone();
        let sent = pair.send_until_it_dies(&base);
        let kill = async {
            tokio::time::sleep(Duration::from_millis(25 + 41 * round as u64)).await;
            // SIGKILL.
            drop(doomed);
        };
        let (answers, ()) = futures::join!(sent, kill);
        pair.assert_whole(&server, answers.len()).await;
        left.push((pair, answers));
    }
    let is_cut = |(_, answers): &(Pair, Vec<Value>)| answers.len() < REQUESTS as usize;
    assert!(left.iter().any(is_cut), "every server was done before it was killed");
    server.restart().await;
    for (pair, answers) in &left {
        pair.assert_whole(&server, answers.len()).await;
    }
    match keys {
        // What the dead ones held is free after a while; all wait for it at once.
        Keys::Given => {
            let server = &server;
            let again = left.iter().map(|(pair, answers)| pair.send_again(server, answers));
            join_all(again).await;
        }
        Keys::Absent => {
            for (pair, answers) in &left {
                pair.assert_alive(&server).await;
                let [a, b] = &pair.ids;
                assert_eq!(server.count(a).await, server.count(b).await, "half of it came later");
                let done = usize::try_from(server.count(a).await).expect("a small number") - 2;
                assert!(done <= answers.len() + 1, "{done} of {}", answers.len());
            }
        }
    }
    // A version that was staged by who died before it was noted may wait for the sweeper.
    for (pair, _) in &left {
        for location in &pair.locations {
            assert!(staging(location).len() <= 1, "{:?}", staging(location));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_no_half_on_sqlite() {
    a_killed_server_leaves_no_half(Backend::Sqlite, Keys::Given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_no_half_on_postgres() {
    a_killed_server_leaves_no_half(Backend::Postgres, Keys::Given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_without_keys_leaves_no_half_on_sqlite() {
    a_killed_server_leaves_no_half(Backend::Sqlite, Keys::Absent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_without_keys_leaves_no_half_on_postgres() {
    a_killed_server_leaves_no_half(Backend::Postgres, Keys::Absent).await;
}
