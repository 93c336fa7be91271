//! What a query may cost: memory while it runs, and nothing once its client has gone.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::batches::{batch, batch_ab, ints, ipc};
use crate::support::process::{Serving, tiltyard};
use crate::support::{foreign, table};

/// How long a query may work on after its client has gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// The kernel counts in hundredths of a second.
const TICKS_PER_SECOND: u64 = 100;

/// A server in a process of its own, whose use of the machine can be told from that of the tests.
struct Process {
    serving: Serving,
    client: Client,
    _home: TempDir,
}

impl Process {
    fn start() -> Self {
        let home = TempDir::with_prefix("tiltyard-limits-").expect("a temporary folder");
        let serving = Serving::start(tiltyard(home.path(), &["serve", "--listen", "127.0.0.1:0"]));
        let client = Client::builder().no_proxy().build().expect("a client");
        Self { serving, client, _home: home }
    }

    async fn send(&self, path: &str, body: Value) -> Response {
        let url = format!("{}{path}", self.serving.base);
        self.client.post(url).json(&body).send().await.expect("an answer")
    }

    async fn create(&self, rows: &RecordBatch) {
        let url = format!("{}{}", self.serving.base, table("t", "create"));
        let request = self.client.post(url).body(ipc(std::slice::from_ref(rows)));
        let kind = "application/vnd.apache.arrow.stream";
        let reply = request.header("content-type", kind).send().await.expect("an answer");
        assert_eq!(reply.status(), 200, "{:?}", reply.text().await);
    }

    async fn count(&self) -> u64 {
        let reply = self.send(&table("t", "count_rows"), json!({})).await;
        reply.json().await.expect("a number")
    }

    fn file(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.serving.process());
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The time on processors, in ticks.
    fn work(&self) -> u64 {
        let stat = self.file("stat");
        // The name in parentheses may have spaces; user and system time are the 14th and 15th.
        let after_name = stat.rsplit(')').next().expect("fields after the name");
        let fields = after_name.split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().expect("a number of ticks")).sum()
    }

    /// The most memory held since [`Self::forget_peak`], in bytes.
    fn peak(&self) -> u64 {
        let status = self.file("status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the peak");
        let kilobytes = line.split_whitespace().nth(1).expect("a number");
        kilobytes.parse::<u64>().expect("a number of kilobytes") * 1_024
    }

    fn forget_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.serving.process());
        std::fs::write(path, "5").expect("the peak is forgotten");
    }

    /// Waits until the server has worked for a second since `before`.
    async fn wait_for_work(&self, before: u64) {
        let started = Instant::now();
        while self.work() < before + TICKS_PER_SECOND {
            assert!(started.elapsed() < Duration::from_secs(60), "the server does nothing");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether there is a second soon in which the server does next to nothing.
    async fn comes_to_rest(&self) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let before = self.work();
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.work() < before + TICKS_PER_SECOND / 10 {
                return true;
            }
        }
        false
    }
}

/// An expression that no row fits, and that takes its time with each.
fn slow_filter() -> String {
    let terms = (0..200).map(|n| format!("regexp_like(b, '^(s|t)+[0-9]*(1|2|3)*x{n}$')"));
    terms.collect::<Vec<_>>().join(" OR ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_work_ends_with_the_client() {
    let server = Process::start();
    server.create(&batch_ab(0..1_000_000)).await;
    let slow = slow_filter();
    let bodies = [
        ("query", json!({"filter": slow})),
        ("analyze_plan", json!({"filter": slow})),
        ("count_rows", json!({"predicate": slow})),
    ];
    for (operation, body) in bodies {
        assert!(server.comes_to_rest().await, "before {operation}");
        let before = server.work();
        let path = table("t", operation);
        let asked = server.send(&path, body);
        // Dropping the request closes its connection.
        tokio::select! {
            reply = asked => panic!("{operation} was too fast to be stopped: {}", reply.status()),
            () = server.wait_for_work(before) => {}
        }
        assert!(server.comes_to_rest().await, "{operation} works on without its client");
        assert_eq!(server.count().await, 1_000_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_work_ends_in_the_middle_of_an_answer() {
    let server = Process::start();
    server.create(&batch_ab(0..1_000_000)).await;
    let before = server.work();
    // Every row fits, after a while.
    let filter = format!("{} OR a >= 0", slow_filter());
    let mut reply = server.send(&table("t", "query"), json!({"filter": filter})).await;
    assert_eq!(reply.status(), 200);
    assert!(reply.chunk().await.expect("a chunk").is_some());
    server.wait_for_work(before).await;
    drop(reply);
    assert!(server.comes_to_rest().await, "the query works on without its client");
    assert_eq!(server.count().await, 1_000_000);
}

const DIMENSION: i32 = 2_000;
const ROWS: i32 = 12_500;
/// How often the same data stands in the table.
const COPIES: usize = 20;
const TABLE_BYTES: u64 = 4 * DIMENSION as u64 * ROWS as u64 * COPIES as u64;

/// Vectors that no encoding makes small.
fn long_vectors() -> RecordBatch {
    let mut state = 1_u32;
    let numbers = (0..ROWS * DIMENSION).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32
    });
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let numbers = Arc::new(Float32Array::from_iter_values(numbers));
    let vectors = FixedSizeListArray::try_new(item, DIMENSION, numbers, None);
    let vectors: ArrayRef = Arc::new(vectors.expect("whole vectors"));
    batch(&[("a", ints(0..ROWS)), ("vec", vectors)])
}

/// Commits the rows many times over, in files that are copies of one.
async fn multiply(location: &str, rows: RecordBatch) {
    let fragment = foreign::fragments(location, rows).await.remove(0);
    let file = fragment["files"][0]["path"].as_str().expect("a file").to_string();
    let data = foreign::folder(location).join("data");
    let mut fragments = vec![fragment.clone()];
    for copy in 1..COPIES {
        let name = format!("copy{copy}.lance");
        link(&data.join(&file), &data.join(&name));
        let mut fragment = fragment.clone();
        fragment["files"][0]["path"] = json!(name);
        fragments.push(fragment);
    }
    foreign::commit_append(location, &Value::from(fragments)).await;
}

/// A second name costs nothing.
fn link(file: &Path, name: &Path) {
    std::fs::hard_link(file, name).expect("a second name");
}

/// Reads an answer to its end and forgets it.
async fn length(mut reply: Response) -> u64 {
    let mut length = 0;
    while let Some(chunk) = reply.chunk().await.expect("the next chunk") {
        length += chunk.len() as u64;
    }
    length
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_needs_less_memory_than_the_table() {
    let server = Process::start();
    let rows = long_vectors();
    server.create(&rows.slice(0, 1)).await;
    let described = server.send(&table("t", "describe"), json!({})).await;
    let described: Value = described.json().await.expect("a description");
    multiply(described["location"].as_str().expect("a location"), rows).await;
    let all = u64::from(ROWS.unsigned_abs()) * COPIES as u64 + 1;
    assert_eq!(server.count().await, all);

    let vector = vec![1.0; DIMENSION as usize];
    let nearest = |k: u64| json!({"vector": {"single_vector": vector}, "k": k});
    for (what, body, statuses) in [
        ("everything", json!({}), [200, 200]),
        ("a filter", json!({"filter": "a % 2 = 0"}), [200, 200]),
        ("the nearest", nearest(100), [200, 200]),
        ("all by distance", nearest(all), [200, 400]),
        ("the last", json!({"k": 1, "offset": all - 1}), [200, 200]),
    ] {
        server.forget_peak();
        let before = server.peak();
        let reply = server.send(&table("t", "query"), body).await;
        let status = reply.status().as_u16();
        let length = length(reply).await;
        let grown = server.peak().saturating_sub(before);
        assert!(statuses.contains(&status), "{what}: {status}");
        if what == "everything" {
            assert!(length > TABLE_BYTES, "{what}: {length} bytes");
        }
        assert!(
            grown < TABLE_BYTES / 2,
            "{what}: {} MiB more, where the table has {}",
            grown >> 20,
            TABLE_BYTES >> 20
        );
    }
}
