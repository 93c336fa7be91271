//! That no secret comes to light: where programs start and fail, at every level of the log, and that the
//! tests would see one.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tiltyard::config::Settings;

use crate::support::process::{Serving, tiltyard};
use crate::support::{Backend, TestServer, batches, namespace, secrets, table, text};

/// A secret that nothing else knows.
fn secret() -> String {
    let secret = uuid::Uuid::new_v4().simple().to_string();
    secrets::register(&secret);
    secret
}

/// What a client puts into a namespace it gets back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "a secret leaks")]
async fn a_secret_in_an_answer_is_seen() {
    let server = TestServer::spawn(Backend::Sqlite).await.expect("SQLite is always there");
    let body = json!({"properties": {"comment": secret()}});
    server.post(&namespace("ns", "create"), body).await;
}

#[test]
#[should_panic(expected = "a secret leaks")]
fn a_secret_that_a_program_prints_is_seen() {
    let home = tempfile::TempDir::with_prefix("tiltyard-leaks-").expect("a folder");
    // It says what it does not know.
    let unknown = format!("--{}", secret());
    let _ = tiltyard(home.path(), &["serve", &unknown]).output();
}

/// Whatever is wrong with where a secret stands: the program says so without it.
#[test]
fn programs_that_fail_tell_no_secret() {
    let home = tempfile::TempDir::with_prefix("tiltyard-leaks-").expect("a folder");
    let (password, file) = (secret(), home.path().join("settings.toml"));
    std::fs::write(&file, format!("[storage_options]\nsecret_access_key = {password}\n"))
        .expect("the settings");
    let file = file.display().to_string();
    let fails = |arguments: &[&str], variable: Option<(&str, &str)>| {
        let mut program = tiltyard(home.path(), arguments);
        if let Some((name, value)) = variable {
            program.env(name, value);
        }
        let output = program.output().expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !told.is_empty(), "{arguments:?}: {told}");
    };
    fails(&["serve", "--config", &file], None);
    fails(&["serve", "--storage-option", &password], None);
    let split = format!("secret_access_key={password},{password}");
    fails(&["serve"], Some(("TILTYARD_STORAGE_OPTION", &split)));
    fails(&["serve"], Some(("TILTYARD_CLIENT_STORAGE_OPTION", &password)));
    for url in [
        format!("mysql://me:{password}@127.0.0.1:1/x"),
        format!("postgres://me:{password}@127.0.0.1:port/x"),
        format!("postgres://me:{password}/more@127.0.0.1:1/x"),
        format!("postgres://me:{password}@127.0.0.1:1/x?sslmode=unheard-of"),
    ] {
        for arguments in [&["serve"][..], &["gc"], &["key", "list"]] {
            fails(arguments, Some(("TILTYARD_DATABASE", &url)));
        }
        fails(&["migrate", "--from", &url, "--to", "sqlite://x.db"], None);
        fails(&["migrate", "--from", "sqlite://x.db", "--to", &url], None);
    }
    // Where nobody answers.
    for url in [
        format!("postgres://me:{password}@127.0.0.1:1/x"),
        format!("postgres://127.0.0.1:1/x?user=me&password={password}"),
    ] {
        fails(&["serve", "--log", "trace"], Some(("TILTYARD_DATABASE", &url)));
    }
}

/// All that is said at the lowest level of the log, of storage and a database that take secrets and of
/// requests that bring them.
async fn a_log_without_secrets(format: &str) {
    let seen = Arc::new(Mutex::new(None));
    let keep = seen.clone();
    let configure = move |settings: &mut Settings| {
        *keep.lock().expect("the settings") = Some(settings.clone());
    };
    let Some(server) = TestServer::spawn_with(Backend::S3, configure).await else { return };
    let settings = seen.lock().expect("the settings").take().expect("settings");
    let shown = format!("{settings:?}");
    secrets::assert_none_in("the settings", shown.as_bytes());
    let mut arguments: Vec<String> =
        ["serve", "--listen", "127.0.0.1:0", "--auth", "--log", "trace", "--log-format", format]
            .map(str::to_owned)
            .into();
    arguments.extend(["--storage-root".into(), settings.storage_root]);
    let mut credential = String::new();
    for (name, value) in settings.storage_options {
        let value = if name.contains("secret") {
            credential = value;
            "env:LAKE_CREDENTIAL".to_owned()
        } else {
            value
        };
        arguments.extend(["--storage-option".into(), format!("{name}={value}")]);
    }
    assert!(!credential.is_empty(), "{arguments:?}");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut program = tiltyard(server.home(), &arguments);
    program.env("LAKE_CREDENTIAL", credential).env("TILTYARD_DATABASE", settings.database);
    let mut serving = Serving::start(program);
    let first = serving.before.iter().find_map(|line| line.split_once("shown this once: "));
    let first = first.expect("the first key").1.to_owned();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let send = async |key: &str, path: &str, body: Vec<u8>| {
        let request = client.post(format!("{}{path}", serving.base)).header("x-api-key", key);
        let reply = request.body(body).send().await.expect("an answer");
        let status = reply.status().as_u16();
        (status, reply.bytes().await.expect("the body").to_vec())
    };
    let rows = || batches::ipc(&[batches::batch_ab(0..3)]);
    let wrong = format!("{}{}", &first[..first.len() - 32], secret());
    for (key, path, body, expected) in [
        (&first, namespace("ns", "create"), b"{}".to_vec(), 200),
        (&first, table("ns$t", "create"), rows(), 200),
        (&first, table("ns$t", "insert"), rows(), 200),
        (&first, table("ns$t", "count_rows"), b"{}".to_vec(), 200),
        (&first, "/v1/table/ns$t/describe/".to_owned(), b"{}".to_vec(), 200),
        (&first, table("ns$none", "describe"), b"{}".to_vec(), 404),
        (&wrong, table("ns$t", "describe"), b"{}".to_vec(), 401),
    ] {
        let (status, told) = send(key, &path, body).await;
        secrets::assert_none_in(&path, &told);
        assert_eq!(status, expected, "{path}: {}", String::from_utf8_lossy(&told));
    }
    let body = json!({"principal": "anna"}).to_string();
    let (status, made) = send(&first, "/v1/access/keys/create", body.into_bytes()).await;
    assert_eq!(status, 200);
    let made: Value = serde_json::from_slice(&made).expect("JSON");
    secrets::register_key(&text(&made, "api_key"));
    let ended = tokio::task::spawn_blocking(move || serving.terminate()).await.expect("a thread");
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_has_no_secrets_as_text() {
    a_log_without_secrets("text").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_has_no_secrets_as_json() {
    a_log_without_secrets("json").await;
}

/// Database and storage that do not answer are told of without what they would have been shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_does_not_answer_is_told_of_without_secrets() {
    let home = tempfile::TempDir::with_prefix("tiltyard-leaks-").expect("a folder");
    let option = format!(
        "endpoint=http://127.0.0.1:1,allow_http=true,region=us-east-1,access_key_id=tests,\
         secret_access_key={},session_token={},client_max_retries=0,client_retry_timeout=1",
        secret(),
        secret()
    );
    let arguments =
        ["serve", "--listen", "127.0.0.1:0", "--log", "debug", "--storage-root", "s3://lake/x"];
    let mut program = tiltyard(home.path(), &arguments);
    program.env("TILTYARD_STORAGE_OPTION", option);
    let mut serving = Serving::start(program);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let rows = batches::ipc(&[batches::batch_ab(0..3)]);
    for (path, body) in
        [(namespace("ns", "create"), b"{}".to_vec()), (table("ns$t", "create"), rows)]
    {
        let request = client.post(format!("{}{path}", serving.base)).body(body);
        let reply = request.send().await.expect("an answer");
        let is_table = path.ends_with("t/create");
        assert_eq!(reply.status().is_success(), !is_table, "{path}: {}", reply.status());
        secrets::assert_none_in(&path, &reply.bytes().await.expect("the body"));
    }
    let ready = client.get(format!("{}/readyz", serving.base)).send().await.expect("an answer");
    assert_eq!(ready.status(), 503);
    secrets::assert_none_in("/readyz", &ready.bytes().await.expect("the body"));
    let ended = tokio::task::spawn_blocking(move || serving.terminate()).await.expect("a thread");
    assert!(ended.success());
}
