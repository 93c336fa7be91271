//! HTTP by hand, for what a proper client would not send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::TestServer;

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
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer");
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
