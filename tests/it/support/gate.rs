//! An S3 server that lets a session do what its policy allows and nothing else, as AWS does: it stands
//! before the S3 server of the tests, which takes no notice of policies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use reqwest::{Client, Url};
use serde_json::Value;

/// How the token service answers.
#[derive(Debug, Clone, Copy, Default)]
pub enum Answers {
    #[default]
    Well,
    /// With credentials that end so soon.
    For(Duration),
    /// That the server may not have any.
    No,
    Never,
}

/// A role that was assumed.
#[derive(Debug, Clone)]
pub struct Session {
    pub access_key_id: String,
    /// What the token service was sent.
    pub form: BTreeMap<String, String>,
    pub policy: Value,
}

#[derive(Default)]
struct Seen {
    answers: Answers,
    sessions: Vec<Session>,
    /// What sessions asked for and may not do.
    refused: Vec<String>,
    /// What they asked for and got.
    served: Vec<String>,
}

/// It ends with the test.
#[derive(Clone)]
pub struct Gate {
    /// `http://host:port`.
    pub base: String,
    behind: String,
    client: Client,
    seen: Arc<Mutex<Seen>>,
}

impl Gate {
    /// Before the S3 server with this URL.
    pub async fn start(behind: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = Client::builder().no_proxy().build().expect("a client");
        let (base, behind) = (format!("http://{address}"), behind.to_owned());
        let gate = Self { base, behind, client, seen: Arc::default() };
        let router = Router::new().fallback(pass).with_state(gate.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        gate
    }

    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn answer(&self, answers: Answers) {
        self.seen(|seen| seen.answers = answers);
    }

    pub fn sessions(&self) -> Vec<Session> {
        self.seen(|seen| seen.sessions.clone())
    }

    /// All that the S3 server knows. It cannot tell while others change it.
    pub async fn known(&self) -> Value {
        let url = format!("{}/moto-api/data.json", self.behind);
        for _ in 0..60 {
            let answer = self.client.get(&url).send().await.expect("an answer");
            if let Ok(known) = answer.json().await {
                return known;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("the S3 server never tells what it knows");
    }

    /// The session of some vended options.
    pub fn session_of(&self, options: &Value) -> Session {
        let id = options["aws_access_key_id"].as_str().unwrap_or_default();
        let found = self.sessions().into_iter().find(|session| session.access_key_id == id);
        found.unwrap_or_else(|| panic!("nobody assumed a role for {options}"))
    }

    /// What sessions asked for since the last time, first what was refused.
    pub fn take_requests(&self) -> (Vec<String>, Vec<String>) {
        self.seen(|seen| (std::mem::take(&mut seen.refused), std::mem::take(&mut seen.served)))
    }

    async fn forward(&self, request: Request, body: Bytes) -> (StatusCode, HeaderMap, Bytes) {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let mut headers = request.headers().clone();
        headers.remove(header::HOST);
        headers.remove(header::CONTENT_LENGTH);
        let url = format!("{}{path}", self.behind);
        let sent = self.client.request(request.method().clone(), url).headers(headers).body(body);
        let answer = sent.send().await.expect("the S3 server answers");
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        headers.remove(header::TRANSFER_ENCODING);
        (status, headers, answer.bytes().await.expect("a whole answer"))
    }

    async fn assume_role(&self, request: Request, form: Bytes) -> Response {
        let refused = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>\
                       not authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>";
        let answers = self.seen(|seen| seen.answers);
        match answers {
            Answers::Never => return std::future::pending().await,
            Answers::No => return (StatusCode::FORBIDDEN, refused).into_response(),
            Answers::Well | Answers::For(_) => {}
        }
        let url = format!("form:?{}", String::from_utf8_lossy(&form));
        let pairs = Url::parse(&url).expect("a form");
        let form: BTreeMap<String, String> = pairs.query_pairs().into_owned().collect();
        let (status, headers, body) = self.forward(request, url[6..].to_owned().into()).await;
        let mut body = String::from_utf8(body.to_vec()).expect("XML");
        let access_key_id = element(&body, "AccessKeyId").to_owned();
        let policy = serde_json::from_str(&form["Policy"]).expect("a policy");
        self.seen(|seen| seen.sessions.push(Session { access_key_id, form, policy }));
        if let Answers::For(time) = answers {
            let end = humantime::format_rfc3339_millis(SystemTime::now() + time).to_string();
            body = body.replace(element(&body, "Expiration"), &end);
        }
        let kind = headers.get(header::CONTENT_TYPE).cloned();
        (status, kind.map(|kind| [(header::CONTENT_TYPE, kind)]), body).into_response()
    }
}

/// The text of an element of XML.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("{xml}"));
    rest.split_once("</").expect("its end").0
}

async fn pass(State(gate): State<Gate>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a whole body");
    let request = Request::from_parts(parts, Body::empty());
    if request.method() == Method::POST && body.starts_with(b"Action=AssumeRole&") {
        return gate.assume_role(request, body).await;
    }
    let signed = request.headers().get(header::AUTHORIZATION).and_then(|text| text.to_str().ok());
    let id = signed
        .and_then(|text| text.split_once("Credential="))
        .and_then(|(_, rest)| rest.split_once('/').map(|(id, _)| id.to_owned()));
    let session =
        gate.sessions().into_iter().find(|session| Some(&session.access_key_id) == id.as_ref());
    if let Some(session) = session {
        let wanted = wanted(&request);
        let said = format!("{wanted:?}");
        let is_allowed = wanted.iter().all(|wish| wish.is_allowed(&session.policy));
        let has_token = request.headers().contains_key("x-amz-security-token");
        gate.seen(|seen| {
            let list = if is_allowed { &mut seen.served } else { &mut seen.refused };
            list.push(said);
        });
        if !is_allowed || !has_token {
            let text = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
            return (StatusCode::FORBIDDEN, text).into_response();
        }
    }
    let is_head = request.method() == Method::HEAD;
    let (status, headers, body) = gate.forward(request, body).await;
    let body = if is_head { Body::empty() } else { Body::from(body) };
    (status, headers, body).into_response()
}

/// Something that a policy allows or not.
#[derive(Debug, PartialEq, Eq)]
pub struct Wish {
    pub action: &'static str,
    /// The ARN.
    pub resource: String,
    /// Of a list.
    pub prefix: Option<String>,
}

impl Wish {
    pub fn of_object(action: &'static str, bucket: &str, key: &str) -> Self {
        Self { action, resource: format!("arn:aws:s3:::{bucket}/{key}"), prefix: None }
    }

    pub fn of_list(bucket: &str, prefix: Option<&str>) -> Self {
        let resource = format!("arn:aws:s3:::{bucket}");
        Self { action: "s3:ListBucket", resource, prefix: prefix.map(str::to_owned) }
    }

    /// As AWS decides.
    pub fn is_allowed(&self, policy: &Value) -> bool {
        let one_or_more = |value: &Value| match value {
            Value::Array(values) => values.clone(),
            value => vec![value.clone()],
        };
        let matches = |patterns: &Value, text: &str| {
            let patterns = one_or_more(patterns);
            patterns.iter().any(|pattern| matches(pattern.as_str().expect("text"), text))
        };
        let statements = policy["Statement"].as_array().expect("statements");
        statements.iter().any(|statement| {
            assert_eq!(statement["Effect"], "Allow");
            let condition = &statement["Condition"]["StringLike"]["s3:prefix"];
            let is_met = condition.is_null()
                || self.prefix.as_ref().is_some_and(|prefix| matches(condition, prefix));
            matches(&statement["Action"], self.action)
                && matches(&statement["Resource"], &self.resource)
                && is_met
        })
    }
}

/// Whether a text is as a pattern of a policy says.
fn matches(pattern: &str, text: &str) -> bool {
    assert!(!pattern.contains("${"), "variables are not known here: {pattern}");
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    let mut left = text.chars();
    match first {
        '*' => text.char_indices().any(|(at, _)| matches(rest, &text[at..])) || matches(rest, ""),
        '?' => left.next().is_some() && matches(rest, left.as_str()),
        first => left.next() == Some(first) && matches(rest, left.as_str()),
    }
}

/// What a request does, in the words of policies.
fn wanted(request: &Request) -> Vec<Wish> {
    let url = Url::parse(&format!("http://s3{}", request.uri())).expect("a URL");
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    let (bucket, key) = split(&decoded(url.path()));
    if key.is_empty() {
        assert_eq!(request.method(), Method::GET, "on a bucket: {url}");
        return vec![Wish::of_list(&bucket, query.get("prefix").map(String::as_str))];
    }
    let action = match *request.method() {
        Method::GET | Method::HEAD => "s3:GetObject",
        Method::PUT | Method::POST => "s3:PutObject",
        Method::DELETE if query.contains_key("uploadId") => "s3:AbortMultipartUpload",
        Method::DELETE => "s3:DeleteObject",
        _ => panic!("{} {url}", request.method()),
    };
    let mut all = vec![Wish::of_object(action, &bucket, &key)];
    if let Some(from) = request.headers().get("x-amz-copy-source") {
        let (bucket, key) = split(&decoded(from.to_str().expect("text")));
        all.push(Wish::of_object("s3:GetObject", &bucket, &key));
    }
    all
}

fn split(path: &str) -> (String, String) {
    let path = path.trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    (bucket.to_owned(), key.to_owned())
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        rest = others;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = std::str::from_utf8(&rest[..2]).expect("two digits");
        bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
        rest = &rest[2..];
    }
    String::from_utf8(bytes).expect("UTF-8")
}
