//! HTTP by hand, for what a proper client would not send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{TestServer, secrets};

/// Sends one request just as it is written here, and gives the status and the body.
pub fn exchange(
    server: &TestServer,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String) {
    let mut socket = open(server);
    let length = body.len();
    let mut head = head(server, method, path, headers);
    head.push_str(&format!("content-length: {length}\r\nconnection: close\r\n\r\n"));
    socket.write_all(head.as_bytes()).expect("the head is sent");
    socket.write_all(body).expect("the body is sent");
    answer(socket, path)
}

/// A request whose body the server waits for.
pub struct Begun {
    socket: TcpStream,
    path: String,
}

impl Begun {
    /// Sends the head of a request with a body that is `length` bytes long, and waits until the server
    /// begins to read that.
    pub fn of(server: &TestServer, path: &str, headers: &[(&str, &str)], length: usize) -> Self {
        let (socket, status) = ask(server, path, headers, length);
        assert_eq!(status, 100, "{path}");
        Self { socket, path: path.into() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // The server may have answered already, and closed the connection.
        let _ = self.socket.write_all(bytes);
    }

    pub fn answer(self) -> (u16, String) {
        answer(self.socket, &self.path)
    }
}

/// What comes until the connection is closed.
fn answer(mut socket: TcpStream, path: &str) -> (u16, String) {
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer");
    secrets::assert_none_in(path, &answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string());
    (status.unwrap_or(0), body.unwrap_or_default())
}

/// Sends the head and the beginning of a body that is said to be `length` bytes long, and hangs up.
pub fn hang_up(server: &TestServer, path: &str, length: usize, beginning: &[u8]) {
    let mut socket = open(server);
    let kind = [("content-type", "application/vnd.apache.arrow.stream")];
    let mut head = head(server, "POST", path, &kind);
    head.push_str(&format!("content-length: {length}\r\n\r\n"));
    socket.write_all(head.as_bytes()).expect("the head is sent");
    socket.write_all(beginning).expect("the beginning is sent");
    // The server has begun to read by then.
    std::thread::sleep(Duration::from_millis(300));
}

/// Sends two requests over one connection, the body of the first a moment after its head, and gives
/// the status of both; 0 where the connection was closed instead.
pub fn slow_body_then_another(server: &TestServer, path: &str, body: &[u8]) -> [u16; 2] {
    let mut socket = open(server);
    let mut first = head(server, "POST", path, &[("content-type", "application/json")]);
    first.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    socket.write_all(first.as_bytes()).expect("the head is sent");
    std::thread::sleep(Duration::from_millis(100));
    // The server may have closed the connection by now, which the status then tells.
    let _ = socket.write_all(body);
    let first = status(&mut socket);
    let second = head(server, "GET", "/healthz", &[]) + "connection: close\r\n\r\n";
    let _ = socket.write_all(second.as_bytes());
    [first, status(&mut socket)]
}

/// The status of the answer to the head of a request that asks whether to send its body.
pub fn asked(server: &TestServer, path: &str, length: usize) -> u16 {
    ask(server, path, &[], length).1
}

fn ask(
    server: &TestServer,
    path: &str,
    headers: &[(&str, &str)],
    length: usize,
) -> (TcpStream, u16) {
    let mut socket = open(server);
    let mut head = head(server, "POST", path, headers);
    head.push_str(&format!("content-length: {length}\r\nexpect: 100-continue\r\n"));
    head.push_str("connection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).expect("the head is sent");
    let status = status(&mut socket);
    (socket, status)
}

/// The status of the next answer, whose body is read too.
fn status(socket: &mut TcpStream) -> u16 {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte) {
            Ok(1) => answer.push(byte[0]),
            _ => return 0,
        }
    }
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    socket.read_exact(&mut body).expect("the body of the answer");
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn open(server: &TestServer) -> TcpStream {
    let socket = TcpStream::connect(server.address()).expect("a connection");
    let limit = Some(Duration::from_secs(30));
    socket.set_read_timeout(limit).expect("a time limit");
    socket
}

fn head(server: &TestServer, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", server.address());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head
}
