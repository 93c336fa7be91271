//! What came back, and what an error must look like.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// Traces of the inside of a server, which no error may carry.
const LEAKS: [&str; 7] =
    ["panicked", "stack backtrace", ".rs:", "/.cargo/", "registry/src", "sqlx::", "lance::"];

/// An answer, read to its end.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// The body, where it is JSON; else `Null`.
    pub body: Value,
    /// The body as it came.
    pub raw: Vec<u8>,
    /// Path and query of the request.
    pub path: String,
    /// What the client itself said: an answer may repeat it.
    pub said: String,
    /// The folder of the server under test: an answer must not show it.
    pub home: String,
}

impl Reply {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        self.expect(200)
    }

    /// The body of an answer with this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.path, self.text());
        self.body
    }

    pub fn text(&self) -> String {
        let shown = &self.raw[..self.raw.len().min(4_000)];
        String::from_utf8_lossy(shown).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// This status, this code, in the shape of the spec, and nothing of the server's inside.
#[track_caller]
pub fn assert_error(reply: &Reply, status: u16, code: u64) {
    assert_error_in(reply, status, &[code]);
}

/// As [`assert_error`], where the documents allow more than one code.
#[track_caller]
pub fn assert_error_in(reply: &Reply, status: u16, codes: &[u64]) {
    let context = format!("{} answered {}", reply.path, reply.text());
    assert_eq!(reply.status, status, "status: {context}");
    let code = reply.body["code"].as_u64();
    assert!(code.is_some_and(|code| codes.contains(&code)), "code is not in {codes:?}: {context}");
    assert_shape(reply);
}

/// Some 4xx in the shape of the spec: for refusals whose code the documents leave open.
#[track_caller]
pub fn assert_refused(reply: &Reply) {
    let context = format!("{} answered {}", reply.path, reply.text());
    assert!(
        (400..500).contains(&reply.status),
        "status {} is not a refusal: {context}",
        reply.status
    );
    assert_shape(reply);
}

#[track_caller]
fn assert_shape(reply: &Reply) {
    let context = format!("{} answered {}", reply.path, reply.text());
    let body = reply.body.as_object();
    let body = body.unwrap_or_else(|| panic!("no JSON object: {context}"));
    let text = |field: &str| body.get(field).and_then(Value::as_str);
    let sentence = text("error").unwrap_or_default();
    assert!(
        sentence.split_whitespace().count() >= 2,
        "`error` is no sentence that helps: {context}"
    );
    assert!(body.get("code").is_some_and(Value::is_u64), "`code` is no number: {context}");
    assert!(
        text("instance").is_some_and(|instance| !instance.is_empty()),
        "`instance` is missing: {context}"
    );
    let detail = body.get("detail").unwrap_or(&Value::Null);
    assert!(detail.is_null() || detail.is_string(), "`detail` is no text: {context}");
    let whole = String::from_utf8_lossy(&reply.raw);
    for leak in LEAKS {
        assert!(!whole.contains(leak), "`{leak}` leaks: {context}");
    }
    assert!(
        reply.said.contains(&reply.home) || !whole.contains(&reply.home),
        "a path of the server leaks: {context}"
    );
}
