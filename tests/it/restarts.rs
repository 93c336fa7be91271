//! PostgreSQL is restarted under load: nothing that was acknowledged is lost, nothing is doubled, and
//! the server goes on by itself.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::Value;

use crate::support::batches::{batch_ab, ipc};
use crate::support::process::{Serving, tiltyard};
use crate::support::{Database, foreign};

const WRITERS: i32 = 6;
const RESTARTS: usize = 3;
/// How long a writer goes on with one request.
const LIMIT: Duration = Duration::from_secs(60);

/// A PostgreSQL of this test's own.
struct Postgres {
    child: Child,
    url: String,
    /// Who restarts it at SIGUSR1.
    owner: String,
}

impl Postgres {
    fn start() -> Self {
        let told = "echo $TILTYARD_TEST_POSTGRES $TILTYARD_TEST_POSTGRES_OWNER; exec cat";
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/with-postgres");
        let mut command = Command::new(script);
        command.args(["sh", "-c", told]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the script runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let (url, owner) = line.trim().split_once(' ').expect("a URL and a process");
        Self { url: url.into(), owner: owner.into(), child }
    }

    fn restart(&self) {
        let sent = Command::new("kill").args(["-USR1", &self.owner]).status();
        assert!(sent.expect("kill runs").success());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The end of its input is the end of the command, and so of the server.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Sends an insert until it is acknowledged, under one key. Answers how often it was told to come
/// again.
async fn insert(client: &Client, base: &str, value: i32) -> usize {
    let rows = ipc(&[batch_ab(value..value + 1)]);
    let (began, mut tries) = (Instant::now(), 0);
    loop {
        let request = client.post(format!("{base}/v1/table/ns$t/insert")).body(rows.clone());
        let request = request.header("idempotency-key", format!("value-{value}"));
        let answer = request.send().await.expect("an answer: the server itself is up");
        let (status, headers) = (answer.status(), answer.headers().clone());
        if status == 200 {
            return tries;
        }
        let text = answer.text().await.unwrap_or_default();
        assert_eq!(status, 503, "{text}");
        assert!(headers.contains_key("retry-after"), "{text}");
        assert!(began.elapsed() < LIMIT, "it is never done: {text}");
        tries += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_postgres_loses_nothing() {
    if !Database::has_postgres() {
        return;
    }
    let home = tempfile::TempDir::with_prefix("tiltyard-restarts-").expect("a folder");
    let postgres = Postgres::start();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database", &postgres.url];
    let mut serving = Serving::start(tiltyard(home.path(), &arguments));
    let client = Client::builder().no_proxy().timeout(LIMIT).build().expect("a client");
    let base = Arc::new(serving.base.clone());
    let post = async |path: &str, body: Vec<u8>| {
        let answer = client.post(format!("{base}{path}")).body(body).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.expect("JSON")
    };
    post("/v1/namespace/ns/create", b"{}".to_vec()).await;
    post("/v1/table/ns$t/create", ipc(&[batch_ab(0..1)])).await;
    let (over, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers = (0..WRITERS).map(|writer| {
        let (client, base) = (client.clone(), base.clone());
        let (over, told) = (over.clone(), told.clone());
        tokio::spawn(async move {
            let mut written = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let value = 1 + written.len() as i32 * WRITERS + writer;
                let tries = insert(&client, &base, value).await;
                told.fetch_add(tries, Ordering::Relaxed);
                written.push(value);
            }
            written
        })
    });
    let writers: Vec<_> = writers.collect();
    for _ in 0..RESTARTS {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        postgres.restart();
    }
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    over.store(true, Ordering::Relaxed);
    let mut expected = vec![0];
    for writer in writers {
        expected.extend(writer.await.expect("a writer"));
    }
    expected.sort_unstable();
    assert!(expected.len() > 20, "next to nothing was written: {expected:?}");
    // It was down under load; whoever was told to come again did.
    println!("{} rows, {} answers of 503", expected.len(), told.load(Ordering::Relaxed));
    let count = post("/v1/table/ns$t/count_rows", b"{}".to_vec()).await;
    assert_eq!(count, expected.len());
    let location = post("/v1/table/ns$t/describe", b"{}".to_vec()).await["location"].clone();
    let location = home.path().join(location.as_str().expect("a location"));
    assert_eq!(foreign::values(&location.display().to_string()).await, expected);
    let status = tokio::task::spawn_blocking(move || serving.terminate()).await.expect("a task");
    assert!(status.success());
}
