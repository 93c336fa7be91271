//! Short-lived credentials for one table, on Azure and GCS. There are no such stores here: what the
//! clouds' token services are sent is looked at, and they answer as they are documented to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tiltyard::config::{Settings, Vending};

use crate::support::code::*;
use crate::support::{Backend, TestServer, assert_error, table, text};

/// What a token service was sent.
#[derive(Debug, Clone)]
struct Sent {
    path: String,
    authorization: String,
    body: String,
}

impl Sent {
    fn form(&self) -> BTreeMap<String, String> {
        let url = Url::parse(&format!("form:?{}", self.body)).expect("a form");
        url.query_pairs().into_owned().collect()
    }
}

/// Keeps what it is sent, and answers by the end of the path.
#[derive(Clone)]
struct Tokens {
    base: String,
    sent: Arc<Mutex<Vec<Sent>>>,
    answers: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Tokens {
    async fn start(answers: &[(&'static str, String)]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let answers = Arc::new(Mutex::new(answers.iter().cloned().collect()));
        let tokens = Self { base, sent: Arc::default(), answers };
        let router = Router::new().fallback(answer).with_state(tokens.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        tokens
    }

    fn take(&self) -> Vec<Sent> {
        std::mem::take(&mut *self.sent.lock().expect("what was sent"))
    }

    fn refuse_all(&self) {
        self.answers.lock().expect("the answers").clear();
    }
}

async fn answer(State(tokens): State<Tokens>, request: Request) -> (StatusCode, String) {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let path = parts.uri.to_string();
    let authorization = parts.headers.get("authorization");
    let authorization = authorization.map(|text| text.to_str().expect("text").to_owned());
    let sent = Sent {
        path: path.clone(),
        authorization: authorization.unwrap_or_default(),
        body: String::from_utf8(body.to_vec()).expect("text"),
    };
    tokens.sent.lock().expect("what was sent").push(sent);
    let answers = tokens.answers.lock().expect("the answers");
    let found = answers.iter().find(|(end, _)| path.ends_with(**end));
    let refused = json!({"error": "invalid_grant", "error_description": "hush-hush"}).to_string();
    found.map_or((StatusCode::BAD_REQUEST, refused), |(_, answer)| (StatusCode::OK, answer.clone()))
}

fn set(settings: &mut Settings, root: &str, options: &[(&str, &str)], vending: Vending) {
    settings.storage_root = root.to_owned();
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    settings.storage_options = options.collect();
    settings.vending = Some(vending);
}

/// Tables are declared and described without their storage.
async fn declared(server: &TestServer, id: &str, location: &str) {
    let body = json!({"location": location, "vend_credentials": false});
    server.post(&table(id, "declare"), body).await.ok();
}

async fn options(server: &TestServer, id: &str) -> BTreeMap<String, String> {
    let body = json!({"vend_credentials": true});
    let described = server.post(&table(id, "describe"), body).await.ok();
    serde_json::from_value(described["storage_options"].clone()).expect("a map of texts")
}

fn in_time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(seconds)).to_string()
}

#[track_caller]
fn assert_left(options: &BTreeMap<String, String>, seconds: u64) {
    let end: u64 = options["expires_at_millis"].parse().expect("a time");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let left = (end / 1000).saturating_sub(now);
    assert!((seconds - 60..=seconds).contains(&left), "{left}");
}

const SECRET: &[u8] = b"a user delegation key";

fn delegation_key(expiry: &str) -> String {
    format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><UserDelegationKey>\
         <SignedOid>oid</SignedOid><SignedTid>tid</SignedTid>\
         <SignedStart>2030-01-01T00:00:00Z</SignedStart><SignedExpiry>{expiry}</SignedExpiry>\
         <SignedService>b</SignedService><SignedVersion>2022-11-02</SignedVersion>\
         <Value>{}</Value></UserDelegationKey>",
        STANDARD.encode(SECRET)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_signs_for_one_directory() {
    let expiry = in_time(30 * 60);
    let tokens =
        Tokens::start(&[("?restype=service&comp=userdelegationkey", delegation_key(&expiry))])
            .await;
    let endpoint = tokens.base.clone();
    let server = TestServer::guarded_with(Backend::Sqlite, move |settings| {
        let options = [
            ("account_name", "acc"),
            ("azure_storage_token", "of-the-server"),
            ("azure_storage_endpoint", endpoint.as_str()),
            ("allow_http", "true"),
        ];
        let duration = Some(Duration::from_secs(30 * 60));
        set(settings, "az://c/lake", &options, Vending { duration, ..Vending::default() });
    });
    let server = server.await.expect("SQLite is always there");
    server.create_namespace("ns").await;
    declared(&server, "ns$orders", "orders").await;
    declared(&server, "ns$odd", "Käse und mehr/orders+2").await;
    let grant = json!({"principal": "anna", "role": "reader", "namespace": ["ns"]});
    server.post("/v1/access/grants/create", grant).await.ok();
    let anna = server.post("/v1/access/keys/create", json!({"principal": "anna"})).await.ok();
    let read = server.bare_request(Method::POST, &table("ns$orders", "describe"));
    let read =
        server.send(read.header("x-api-key", text(&anna, "api_key")).json(&json!({}))).await.ok();
    let read = serde_json::from_value(read["storage_options"].clone()).expect("a map of texts");
    let written = [options(&server, "ns$orders").await, options(&server, "ns$odd").await];
    let mut sent = tokens.take().into_iter();
    let [orders, odd] = written;
    for (told, directory, depth, permissions) in [
        (read, "/blob/acc/c/lake/orders", "2", "rl"),
        (orders, "/blob/acc/c/lake/orders", "2", "racwl"),
        (odd, "/blob/acc/c/lake/Käse und mehr/orders+2", "3", "racwl"),
    ] {
        let sent = sent.next().unwrap_or_else(|| panic!("nothing was asked for {directory}"));
        assert_eq!(sent.authorization, "Bearer of-the-server");
        assert!(sent.body.contains("<Expiry>2"), "{}", sent.body);
        assert_left(&told, 30 * 60);
        assert_eq!(told["azure_storage_account_name"], "acc");
        let sas =
            Url::parse(&format!("sas:?{}", told["azure_storage_sas_token"])).expect("a query");
        let sas: BTreeMap<String, String> = sas.query_pairs().into_owned().collect();
        // As Azure documents it for this version.
        let signed = format!(
            "{permissions}\n\n{expiry}\n{directory}\noid\ntid\n2030-01-01T00:00:00Z\n{expiry}\nb\n\
             2022-11-02\n\n\n\n\nhttps\n2022-11-02\nd\n\n\n\n\n\n\n"
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
        let signature = STANDARD.encode(hmac::sign(&key, signed.as_bytes()));
        let start = "2030-01-01T00:00:00Z";
        let expected = [
            ("sv", "2022-11-02"),
            ("sr", "d"),
            ("sdd", depth),
            ("sp", permissions),
            ("se", &expiry),
            ("spr", "https"),
            ("skoid", "oid"),
            ("sktid", "tid"),
            ("skt", start),
            ("ske", &expiry),
            ("sks", "b"),
            ("skv", "2022-11-02"),
            ("sig", &signature),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(sas, BTreeMap::from(expected), "{directory}");
    }
    tokens.refuse_all();
    declared(&server, "ns$late", "late").await;
    let reply = server.post(&table("ns$late", "describe"), json!({})).await;
    assert_error(&reply, 503, SERVICE_UNAVAILABLE);
    assert!(!reply.text().contains("hush"), "{}", reply.text());
}

/// A service account, and what checks what it signs.
fn service_account(token_uri: &str) -> (String, Vec<u8>) {
    let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).expect("a key");
    let text = STANDARD.encode(der.as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
    let account = json!({"type": "service_account", "client_email": "me@project", "private_key": pem,
        "private_key_id": "k1", "token_uri": token_uri});
    (account.to_string(), key.public_key().as_ref().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_gcs_has_a_boundary() {
    let own = json!({"access_token": "of-the-server", "expires_in": 1800}).to_string();
    let cut = json!({"access_token": "for-a-table", "expires_in": 3600}).to_string();
    let tokens = Tokens::start(&[("/token", own), ("/sts", cut)]).await;
    let uri = format!("{}/token", tokens.base);
    let (account, public) = service_account(&uri);
    let sts_endpoint = Some(format!("{}/sts", tokens.base));
    let server = TestServer::guarded_with(Backend::Sqlite, move |settings| {
        let options = [("google_service_account_key", account.as_str())];
        let sts_endpoint = sts_endpoint.clone();
        set(settings, "gs://b/lake", &options, Vending { sts_endpoint, ..Vending::default() });
    });
    let server = server.await.expect("SQLite is always there");
    server.create_namespace("ns").await;
    declared(&server, "ns$orders", "orders").await;
    let told = options(&server, "ns$orders").await;
    assert_eq!(told["google_storage_token"], "for-a-table");
    // It does not live longer than what it was made of.
    assert_left(&told, 1800);
    let [own, cut] = &tokens.take()[..] else { panic!("two requests") };
    assert_eq!((own.path.as_str(), cut.path.as_str()), ("/token", "/sts"));
    let assertion = own.form()["assertion"].clone();
    let (message, signature) = assertion.rsplit_once('.').expect("a signature");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public);
    public.verify(message.as_bytes(), &signature).expect("the account's signature");
    let (header, claims) = message.split_once('.').expect("claims");
    let parsed = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
    };
    assert_eq!(parsed(header), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
    let claims = parsed(claims);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("me@project"), &json!(uri)));
    let form = cut.form();
    assert_eq!(form["subject_token"], "of-the-server");
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:token-exchange");
    let boundary: Value = serde_json::from_str(&form["options"]).expect("JSON");
    let resource = "//storage.googleapis.com/projects/_/buckets/b";
    let within = "resource.name.startsWith('projects/_/buckets/b/objects/lake/orders/')";
    let listed = "api.getAttribute('storage.googleapis.com/objectListPrefix', '')\
                  .startsWith('lake/orders/')";
    let expected = json!({"accessBoundary": {"accessBoundaryRules": [
        {"availableResource": resource,
            "availablePermissions": ["inRole:roles/storage.objectViewer"],
            "availabilityCondition": {"expression": format!("{within} || {listed}")}},
        {"availableResource": resource,
            "availablePermissions": ["inRole:roles/storage.objectCreator"],
            "availabilityCondition": {"expression": within}}]}});
    assert_eq!(boundary, expected);

    // A reader's has no second rule.
    let grant = json!({"principal": "anna", "role": "reader", "namespace": ["ns"]});
    server.post("/v1/access/grants/create", grant).await.ok();
    let anna = server.post("/v1/access/keys/create", json!({"principal": "anna"})).await.ok();
    let read = server.bare_request(Method::POST, &table("ns$orders", "describe"));
    server.send(read.header("x-api-key", text(&anna, "api_key")).json(&json!({}))).await.ok();
    let cut = tokens.take().pop().expect("a request").form();
    let boundary: Value = serde_json::from_str(&cut["options"]).expect("JSON");
    let rules = boundary["accessBoundary"]["accessBoundaryRules"].as_array().expect("rules");
    assert_eq!(
        rules[..],
        expected["accessBoundary"]["accessBoundaryRules"].as_array().unwrap()[..1]
    );

    // What would end the text of the condition gets none.
    for (number, name) in ["a'||true||'", "a\"b"].into_iter().enumerate() {
        let id = format!("ns$odd{number}");
        declared(&server, &id, name).await;
        let body = json!({"vend_credentials": true});
        assert_error(&server.post(&table(&id, "describe"), body).await, 406, UNSUPPORTED);
    }
    assert!(tokens.take().is_empty());
    tokens.refuse_all();
    declared(&server, "ns$late", "late").await;
    let reply = server.post(&table("ns$late", "describe"), json!({})).await;
    assert_error(&reply, 503, SERVICE_UNAVAILABLE);
    assert!(!reply.text().contains("hush"), "{}", reply.text());
}
