//! Load: what is too much is told to come again, at once, while small questions are answered; who
//! dawdles is given up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures::SinkExt;
use futures::channel::mpsc;
use reqwest::{Body, Response};
use serde_json::json;
use tiltyard::config::Settings;
use tokio::task::JoinHandle;

use crate::group_commits::{hold, release};
use crate::support::batches::{batch_ab, batch_vectors, ipc};
use crate::support::code::*;
use crate::support::{Backend, Reply, TestServer, assert_error, table};

/// A server with a table of three rows.
async fn server(configure: impl Fn(&mut Settings) + Send + Sync + 'static) -> TestServer {
    let server = TestServer::spawn_with(Backend::Sqlite, configure).await;
    let server = server.expect("SQLite is always there");
    server.with_table("ns$t", 3).await;
    server
}

/// An insert of which the rest is still to come.
struct Begun {
    rest: Vec<u8>,
    sender: mpsc::Sender<Result<Vec<u8>, std::io::Error>>,
    answer: JoinHandle<reqwest::Result<Response>>,
}

impl Begun {
    /// Sends the body up to a byte, and waits until the server has seen that.
    async fn begin(server: &TestServer, stream: Vec<u8>, until: usize) -> Self {
        let (mut sender, receiver) = mpsc::channel(2);
        let request = server.arrow_request(&table("ns$t", "insert"));
        let answer = tokio::spawn(request.body(Body::wrap_stream(receiver)).send());
        let mut stream = stream;
        let rest = stream.split_off(until);
        sender.send(Ok(stream)).await.expect("the first part");
        tokio::time::sleep(Duration::from_millis(500)).await;
        Self { rest, sender, answer }
    }

    async fn end(mut self) {
        self.sender.send(Ok(self.rest)).await.expect("the rest");
        drop(self.sender);
        let response = self.answer.await.expect("a task").expect("an answer");
        assert_eq!(response.status(), 200);
    }
}

fn rows() -> Vec<u8> {
    ipc(&[batch_ab(3..1_000), batch_ab(1_000..2_000)])
}

fn assert_told_to_come_again(reply: &Reply) {
    assert_error(reply, 503, SERVICE_UNAVAILABLE);
    assert_eq!(reply.header("retry-after"), Some("1"));
}

async fn assert_small_questions_are_answered(server: &TestServer) {
    for path in
        ["/healthz", "/readyz", "/metrics", "/v1/capabilities", "/v1/namespace/ns/table/list"]
    {
        server.get(path).await.ok();
    }
    server.describe("ns$t").await;
    assert!(server.exists("ns$t").await);
    server.post(&table("ns$t", "version/list"), json!({})).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_may_be_are_told_to_come_again() {
    let server = server(|settings| settings.max_requests = 2).await;
    let stream = rows();
    let half = stream.len() / 2;
    let first = Begun::begin(&server, stream.clone(), half).await;
    let second = Begun::begin(&server, stream, half).await;
    let asked = Instant::now();
    assert_told_to_come_again(&server.post(&table("ns$t", "count_rows"), json!({})).await);
    assert_told_to_come_again(&server.post_arrow(&table("ns$t", "insert"), rows()).await);
    let path = "/v1/table/ns$t/count_rows/";
    assert_told_to_come_again(&server.post(path, json!({})).await);
    assert!(asked.elapsed() < Duration::from_secs(3), "it had to wait: {:?}", asked.elapsed());
    assert_small_questions_are_answered(&server).await;
    let told = server.get("/metrics").await;
    let told = String::from_utf8_lossy(&told.raw);
    assert!(told.contains("tiltyard_http_turned_away_total{limit=\"requests\"}"), "{told}");
    first.end().await;
    assert_eq!(server.count("ns$t").await, 3 + 1_997);
    second.end().await;
    assert_eq!(server.count("ns$t").await, 3 + 2 * 1_997);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_wait_for_room_and_then_are_told_to_come_again() {
    let server = server(|settings| settings.max_upload_bytes = 1 << 10).await;
    let stream = rows();
    // In the middle of the second batch.
    let until = stream.len() * 3 / 4;
    let first = Begun::begin(&server, stream, until).await;
    let before = server.files();
    let asked = Instant::now();
    assert_told_to_come_again(&server.post_arrow(&table("ns$t", "insert"), rows()).await);
    assert!(asked.elapsed() < Duration::from_secs(20), "for too long: {:?}", asked.elapsed());
    assert_eq!(server.files(), before, "something was left behind");
    assert_small_questions_are_answered(&server).await;
    assert_eq!(server.count("ns$t").await, 3);
    // It waits for its turn, and then all is well.
    let path = table("ns$t", "insert");
    let waiting = server.post_arrow(&path, rows());
    let (waited, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        first.end().await;
    });
    waited.ok();
    assert_eq!(server.count("ns$t").await, 3 + 2 * 1_997);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_too_long_is_answered() {
    let server = server(|settings| settings.request_timeout = Duration::from_millis(300)).await;
    hold(&server).await;
    let asked = Instant::now();
    let path = table("ns$t", "insert");
    let reply = server.post_arrow(&path, ipc(&[batch_ab(3..4)])).await;
    assert_told_to_come_again(&reply);
    assert!(reply.text().contains("300ms"), "{}", reply.text());
    assert!(asked.elapsed() < Duration::from_secs(3), "only after {:?}", asked.elapsed());
    assert_small_questions_are_answered(&server).await;
    // What was begun comes to its end, as it does when a client hangs up.
    release(&server).await;
    let began = Instant::now();
    while server.count("ns$t").await != 4 {
        assert!(began.elapsed() < Duration::from_secs(30), "it was broken off");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_sending_is_given_up() {
    let server = server(|settings| settings.client_timeout = Duration::from_secs(1)).await;
    let before = server.files();
    let stream = rows();
    let half = stream.len() / 2;
    let begun = Begun::begin(&server, stream, half).await;
    let response = begun.answer.await.expect("a task").expect("an answer");
    assert_eq!(response.status(), 400);
    let text = response.text().await.expect("a body");
    assert!(text.contains("nothing of it came for too long"), "{text}");
    assert_eq!(server.files(), before, "something was left behind");
    assert_eq!(server.count("ns$t").await, 3);
}

/// The rows of a large answer would be kept for as long as the client does not read them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_is_given_up() {
    let server = server(|settings| {
        settings.client_timeout = Duration::from_secs(1);
        settings.max_requests = 1;
    })
    .await;
    // 64 MiB, more than the buffers of a connection hold.
    server.create("ns$large", &batch_vectors(16_384, 1_024)).await;
    let mut socket = TcpStream::connect(server.address()).expect("a connection");
    let head = format!(
        "GET /v1/table/ns$large/fragments/0/rows HTTP/1.1\r\nhost: {}\r\n\r\n",
        server.address()
    );
    socket.write_all(head.as_bytes()).expect("the request");
    let mut beginning = [0; 15];
    socket.read_exact(&mut beginning).expect("the beginning of the answer");
    assert_eq!(&beginning, b"HTTP/1.1 200 OK");
    let reply = server.post(&table("ns$t", "count_rows"), json!({})).await;
    assert_told_to_come_again(&reply);
    // Its place is free again once it is given up.
    let began = Instant::now();
    while server.post(&table("ns$t", "count_rows"), json!({})).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "it is still waited for");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
