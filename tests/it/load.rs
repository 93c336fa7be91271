//! Load: what is too much is told to come again, at once, while small questions are answered; who
//! dawdles is given up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use reqwest::{Body, Method, Response};
use serde_json::json;
use tiltyard::config::Settings;
use tokio::task::JoinHandle;

use crate::group_commits::{hold, release};
use crate::support::batches::{batch_ab, batch_vectors, ipc};
use crate::support::code::*;
use crate::support::{Backend, Reply, TestServer, assert_error, raw, table};

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

    /// Goes on with so many bytes at a time, a moment between them, until there is an answer.
    async fn dawdle(mut self, bytes: usize) -> Response {
        for piece in self.rest.chunks(bytes) {
            let next = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                // Nobody takes it once there is an answer.
                let _ = self.sender.send(Ok(piece.to_vec())).await;
            };
            tokio::select! {
                answer = &mut self.answer => return answer.expect("a task").expect("an answer"),
                () = next => {}
            }
        }
        panic!("it was let go on");
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

/// A commit names as many fragments as it likes, and is read before anybody knows what it is about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_commits_wait_for_room_and_then_are_told_to_come_again() {
    let server = server(|settings| settings.max_upload_bytes = 256 << 10).await;
    let upload = server.upload("ns$t", &batch_ab(3..5)).await;
    let commit = json!({
        "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
        "on_conflict": "rebase",
    });
    let commit = commit.to_string() + &" ".repeat(200 << 10);
    let half = commit.len() / 2;
    let path = table("ns$t", "commit");
    let json = [("content-type", "application/json")];
    let mut first = raw::Begun::of(&server, &path, &json, commit.len());
    first.send(&commit.as_bytes()[..half]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Of some it is not known how long they are, nor in how many pieces they come.
    let pieces = |bytes| {
        let pieces: Vec<_> = commit.as_bytes().chunks(bytes).map(<[u8]>::to_vec).collect();
        let pieces = futures::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
        Body::wrap_stream(pieces.then(|piece| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            piece
        }))
    };
    let bodies = || [commit.clone().into(), pieces(commit.len()), pieces(10 << 10)];
    let asked = Instant::now();
    let replies = [path.as_str(), "/v1/commit"].into_iter().flat_map(|path| {
        bodies().map(|body| server.send(server.request(Method::POST, path).body(body)))
    });
    for reply in futures::future::join_all(replies).await {
        assert_told_to_come_again(&reply);
    }
    assert!(asked.elapsed() < Duration::from_secs(30), "for too long: {:?}", asked.elapsed());
    assert_small_questions_are_answered(&server).await;
    // Small ones take none.
    server.append("ns$t", 1, &batch_ab(5..6)).await;
    first.send(&commit.as_bytes()[half..]);
    let (status, told) = first.answer();
    assert_eq!(status, 200, "{told}");
    assert_eq!(server.count("ns$t").await, 3 + 2 + 1);
    // There is room again.
    let request = server.request(Method::POST, &path).body(commit);
    let reply = server.send(request).await;
    assert_error(&reply, 400, INVALID_INPUT);
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
    // That a body does not say how long it is makes no upload of it.
    let body = br#"{"predicate": "a = 1000"}"#.to_vec();
    let body = futures::stream::iter([Ok::<_, std::io::Error>(body)]);
    let request = server.request(Method::POST, &table("ns$t", "delete"));
    assert_told_to_come_again(&server.send(request.body(Body::wrap_stream(body))).await);
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

/// Each of them holds a place among the requests at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_a_byte_now_and_then_is_given_up() {
    let server = server(|settings| {
        settings.client_timeout = Duration::from_secs(1);
        settings.max_requests = 1;
    })
    .await;
    let before = server.files();
    let mut socket = TcpStream::connect(server.address()).expect("a connection");
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/vnd.apache.arrow.stream\r\n\
         content-length: 1000000\r\n\r\n",
        table("ns$t", "insert"),
        server.address()
    );
    socket.write_all(head.as_bytes()).expect("the request");
    let mut trickling = socket.try_clone().expect("the connection");
    let trickle = std::thread::spawn(move || {
        // Until the server closes the connection; a byte came in time, each time.
        for byte in rows().iter().take(200) {
            if trickling.write_all(&[*byte]).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    });
    let reply = tokio::task::spawn_blocking(move || {
        let mut reply = Vec::new();
        // What it sent meanwhile may close the connection before it has read the end.
        let _ = socket.read_to_end(&mut reply);
        String::from_utf8_lossy(&reply).into_owned()
    })
    .await
    .expect("a task");
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
    assert!(reply.contains("less than 240 bytes of it came each second"), "{reply}");
    assert!(trickle.join().expect("a thread"), "it was let go on");
    assert_eq!(server.files(), before, "something was left behind");
    assert_eq!(server.count("ns$t").await, 3);
}

/// What came at once buys no time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_half_and_then_a_byte_now_and_then_is_given_up() {
    let server = server(|settings| settings.client_timeout = Duration::from_secs(1)).await;
    let before = server.files();
    let stream = ipc(&[batch_ab(3..200_000)]);
    let half = stream.len() / 2;
    let response = Begun::begin(&server, stream, half).await.dawdle(1).await;
    assert_eq!(response.status(), 400);
    let text = response.text().await.expect("a body");
    assert!(text.contains("less than 240 bytes of it came each second"), "{text}");
    assert_eq!(server.files(), before, "something was left behind");
    assert_eq!(server.count("ns$t").await, 3);
}

/// The room for a batch is held from when its size is known: a large one has to come faster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_batch_that_comes_slowly_is_given_up() {
    let server = server(|settings| settings.client_timeout = Duration::from_secs(1)).await;
    let before = server.files();
    // Some 20 MB, at 1 kB a second.
    let stream = ipc(&[batch_ab(3..1_000_000)]);
    let response = Begun::begin(&server, stream, 1 << 10).await.dawdle(100).await;
    assert_eq!(response.status(), 400);
    let text = response.text().await.expect("a body");
    assert!(text.contains("came so slowly") && text.contains("1h"), "{text}");
    assert_eq!(server.files(), before, "something was left behind");
    assert_eq!(server.count("ns$t").await, 3);
}

/// Before a client says which version of HTTP it speaks, behind the first bytes of one too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_says_nothing_is_given_up() {
    let server = server(|settings| settings.client_timeout = Duration::from_secs(1)).await;
    let connect = || {
        let socket = TcpStream::connect(server.address()).expect("a connection");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
        socket
    };
    for beginning in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut socket = connect();
        socket.write_all(beginning).expect("the beginning");
        let end = tokio::task::spawn_blocking(move || socket.read(&mut [0]));
        assert_eq!(end.await.expect("a task").expect("an end"), 0, "{beginning:?}");
    }
    // Who has spoken once may be silent for longer.
    let mut socket = connect();
    for _ in 0..2 {
        let asked = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", server.address());
        socket.write_all(asked.as_bytes()).expect("a request");
        let mut answer = [0; 1_000];
        let read = socket.read(&mut answer).expect("an answer");
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{read} bytes");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The frame of a request without a body: 2 is GET, 3 is POST in the table of the protocol.
fn request(server: &TestServer, stream: u8, method: u8, path: &str) -> Vec<u8> {
    let text = |name: u8, value: &str| {
        let length = u8::try_from(value.len()).expect("a length");
        [&[name, length][..], value.as_bytes()].concat()
    };
    // The scheme is http; 1 is the authority, and 4 the path.
    let head = [vec![0x80 | method, 0x86], text(1, server.address()), text(4, path)].concat();
    frame(1, 0x5, stream, &head)
}

/// With HTTP/2 it is the client who says how much is sent, and its connection is as good as any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_lets_nothing_be_sent_is_given_up() {
    let server = server(|settings| {
        settings.client_timeout = Duration::from_secs(2);
        settings.max_requests = 1;
    })
    .await;
    let count = table("ns$t", "count_rows");
    let mut socket = TcpStream::connect(server.address()).expect("a connection");
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the beginning");
    // Of each answer, nothing.
    socket.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).expect("the settings");
    // What is there as a whole takes no place while it waits.
    socket.write_all(&request(&server, 1, 3, &count)).expect("a request");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    while server.post(&count, json!({})).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(10), "a number takes a place");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rows = table("ns$t", "fragments/0/rows");
    socket.write_all(&request(&server, 3, 2, &rows)).expect("another request");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_told_to_come_again(&server.post(&count, json!({})).await);
    let began = Instant::now();
    while server.post(&count, json!({})).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "it is still waited for");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(socket);
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
