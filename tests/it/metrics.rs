//! What a server tells of itself: metrics in the format of Prometheus, traces by OTLP.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use serde_json::json;

use crate::support::batches::{batch_ab, ipc};
use crate::support::process::{Serving, tiltyard};
use crate::support::{Backend, TestServer, raw, table};

/// The value of a series, 0 when it is not there.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

async fn metrics(server: &TestServer) -> String {
    let reply = server.get("/metrics").await;
    assert_eq!(reply.status, 200);
    let kind = reply.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    String::from_utf8(reply.raw).expect("text")
}

everywhere! {
    async fn what_happens_is_counted(server: TestServer) {
        server.with_table("ns$secret_table", 3).await;
        let before = metrics(&server).await;
        server.insert("ns$secret_table", &batch_ab(3..5)).await;
        server.describe("ns$secret_table").await;
        server.post(&table("ns$nothing", "describe"), json!({})).await;
        server.post("/v1/table/ns$secret_table/count_rows/", json!({})).await.ok();
        server.post(&table("ns$secret_table", "delete"), json!({"predicate": "a = 1"})).await.ok();
        let after = metrics(&server).await;
        // All servers of this process are counted together: at least what happened here did.
        for series in [
            "tiltyard_http_requests_total{operation=\"InsertIntoTable\",status=\"200\"}",
            "tiltyard_http_requests_total{operation=\"DescribeTable\",status=\"404\"}",
            "tiltyard_http_requests_total{operation=\"POST /v1/table/{id}/count_rows/\",status=\"200\"}",
            "tiltyard_http_request_duration_seconds_count{operation=\"InsertIntoTable\"}",
            "tiltyard_http_received_bytes_total{operation=\"InsertIntoTable\"}",
            "tiltyard_http_sent_bytes_total{operation=\"DescribeTable\"}",
            "tiltyard_versions_total{origin=\"catalog\",operation=\"Append\"}",
            "tiltyard_versions_total{origin=\"catalog\",operation=\"Delete\"}",
            "tiltyard_commit_group_size_count",
        ] {
            assert!(value(&after, series) > value(&before, series), "{series} in {after}");
        }
        assert!(value(&after, "tiltyard_http_requests_in_flight") >= 1.0, "{after}");
        for name in [
            "tiltyard_changes_waiting",
            "tiltyard_database_connections",
            "tiltyard_database_connections_max",
            "tiltyard_open_versions",
            "tiltyard_lance_cache_bytes",
            "tiltyard_jobs_running",
            "lance_object_store_",
        ] {
            assert!(after.contains(name), "{name} is missing in {after}");
        }
        assert!(!after.contains("secret_table"), "a table has a series of its own: {after}");
        assert_well_formed(&after);
    }
}

/// What clients make up is no label: there would be a series for each word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_word_of_a_client_is_a_label() {
    let server = TestServer::spawn(Backend::Sqlite).await.expect("SQLite is always there");
    for (method, path) in [("MADEUP1", "/healthz"), ("GET", "/madeup2"), ("MADEUP3", "/madeup4")] {
        let (status, _) = raw::exchange(&server, method, path, &[], b"");
        assert!([404, 405].contains(&status), "{method} {path}: {status}");
    }
    let told = metrics(&server).await;
    assert!(told.contains("operation=\"OTHER /healthz\""), "{told}");
    assert!(!told.to_lowercase().contains("madeup"), "{told}");
}

/// Each series has a name, perhaps labels, and a number, and its kind was told before.
fn assert_well_formed(text: &str) {
    let mut kinds = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            kinds.push(kind.split(' ').next().expect("a name").to_owned());
        } else if !line.starts_with("# ") {
            let (series, number) = line.rsplit_once(' ').expect("a series and a number");
            assert!(number.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().expect("a name");
            assert!(kinds.iter().any(|kind| name.starts_with(kind.as_str())), "{line}");
        }
    }
}

type Received = Arc<Mutex<Vec<u8>>>;

/// A collector, which keeps what it gets.
async fn collector() -> (String, Received) {
    let received = Received::default();
    let keep = |State(received): State<Received>, body: Bytes| async move {
        received.lock().expect("what was received").extend_from_slice(&body);
    };
    let router = Router::new().route("/v1/traces", post(keep)).with_state(received.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), received)
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A request is one trace, with that of its caller, down to statements and storage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_traced() {
    /// Of many, since it were a few that were lost.
    const TURNS: i32 = 50;
    let (endpoint, received) = collector().await;
    let home = tempfile::TempDir::with_prefix("tiltyard-traces-").expect("a folder");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--otlp-endpoint", &endpoint];
    let mut server = tiltyard(home.path(), &arguments);
    // What does not fit in is lost.
    server.env("OTEL_BSP_MAX_QUEUE_SIZE", "100000");
    let mut serving = Serving::start(server);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let send = async |path: &str, body: Vec<u8>| {
        let request = client.post(format!("{}{path}", serving.base)).body(body);
        let request = request
            .header("traceparent", "00-0102030405060708090a0b0c0d0e0f10-1112131415161718-01");
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
    };
    send("/v1/namespace/ns/create", b"{}".to_vec()).await;
    send("/v1/table/ns$t/create", ipc(&[batch_ab(0..3)])).await;
    for turn in 0..TURNS {
        let rows = ipc(&[batch_ab(turn..turn + 1)]);
        send("/v1/table/ns$t/insert", rows).await;
        send("/v1/table/ns$t/count_rows", b"{}".to_vec()).await;
    }
    // What was not sent yet is sent at the end.
    let status = tokio::task::spawn_blocking(move || serving.terminate()).await.expect("a task");
    assert!(status.success());
    let received = received.lock().expect("what was received").clone();
    let trace: Vec<u8> = (1..=16).collect();
    assert!(holds(&received, &trace), "the caller's trace is not continued");
    for name in ["tiltyard", "CreateTable", "sql", "INSERT INTO table_versions"] {
        assert!(holds(&received, name.as_bytes()), "{name} is missing");
    }
    for name in [&b"InsertIntoTable"[..], b"CountTableRows"] {
        let spans = received.windows(name.len()).filter(|window| *window == name).count();
        assert_eq!(spans, TURNS as usize, "{}", String::from_utf8_lossy(name));
    }
    assert!(holds(&received, b"get_opts") || holds(&received, b"get_range"), "no call of storage");
}
