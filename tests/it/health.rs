//! Liveness, readiness, capabilities, the pages, and a stop that loses nothing.

use std::time::{Duration, Instant};

use futures::SinkExt;
use futures::channel::mpsc;
use futures::future::join_all;
use reqwest::{Body, Method};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tiltyard::config::Settings;

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::{Backend, Reply, TestServer, assert_error_in, foreign, table};

both! {
    async fn a_fresh_server_is_healthy_and_ready(server: TestServer) {
        server.get("/healthz").await.ok();
        server.get("/readyz").await.ok();
    }
}

/// What is answered by `/readyz` once it has looked again.
async fn readiness(server: &TestServer) -> Reply {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    server.get("/readyz").await
}

/// Ready means that the database answers; alive does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_a_server_is_not_ready() {
    let Some(server) = TestServer::spawn(Backend::Postgres).await else {
        return;
    };
    server.get("/readyz").await.ok();
    server.database().remove().await;
    let reply = readiness(&server).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    let text = reply.text().to_lowercase();
    assert!(text.contains("database"), "which one? {text}");
    server.get("/healthz").await.ok();
    let reply = server.post_empty("/v1/namespace/a/create").await;
    assert!(reply.status >= 500, "{}", reply.text());
    assert!(!reply.text().contains("postgres://"), "{}", reply.text());
}

both! {
    /// Ready means that the storage answers, too. Its folder became a file.
    async fn without_its_storage_a_server_is_not_ready(server: TestServer) {
        server.get("/readyz").await.ok();
        std::fs::remove_dir_all(server.lake()).expect("the lake's folder");
        std::fs::write(server.lake(), "no folder").expect("a file in its place");
        let reply = readiness(&server).await;
        assert_eq!(reply.status, 503, "{}", reply.text());
        let text = reply.text().to_lowercase();
        assert!(text.contains("storage"), "which one? {text}");
        assert!(
            !text.contains(&server.home().display().to_string().to_lowercase()),
            "{text}"
        );
        server.get("/healthz").await.ok();
        std::fs::remove_file(server.lake()).expect("the file");
        std::fs::create_dir_all(server.lake()).expect("the lake's folder");
        readiness(&server).await.ok();
    }
}

/// Anybody may ask, as often as they like: it is not looked each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_look_is_for_all_who_ask() {
    let server = TestServer::spawn(Backend::Sqlite).await.expect("SQLite is always there");
    let asked = || join_all((0..50).map(|_| server.get("/readyz")));
    let began = Instant::now();
    for reply in asked().await {
        reply.ok();
    }
    std::fs::remove_dir_all(server.lake()).expect("the lake's folder");
    std::fs::write(server.lake(), "no folder").expect("a file in its place");
    let replies = asked().await;
    let is_soon = began.elapsed() < Duration::from_secs(1);
    assert!(!is_soon || replies.iter().all(|reply| reply.status == 200), "it was looked again");
    assert_eq!(readiness(&server).await.status, 503);
}

/// A replica whose connections are all in use is busy: no reason to leave all to the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_is_ready() {
    let few = |settings: &mut Settings| settings.max_connections = 1;
    let Some(server) = TestServer::spawn_with(Backend::Postgres, few).await else { return };
    let mut other = PgConnection::connect(server.database().url()).await.expect("the database");
    let lock = sqlx::raw_sql("BEGIN; LOCK TABLE namespaces IN ACCESS EXCLUSIVE MODE");
    lock.execute(&mut other).await.expect("the lock");
    let waiting = server.request(Method::POST, "/v1/namespace/ns/create").send();
    let waiting = tokio::spawn(waiting);
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.get("/readyz").await.ok();
    assert!(!waiting.is_finished(), "it waits for nothing");
    other.close().await.expect("the end of the lock");
    waiting.await.expect("a task").expect("an answer");
}

both! {
    async fn capabilities_name_what_is_served(server: TestServer) {
        let served = server.served().await;
        for operation in [
            "CreateNamespace",
            "ListNamespaces",
            "DescribeNamespace",
            "DropNamespace",
            "NamespaceExists",
            "DeclareTable",
            "RegisterTable",
            "DescribeTable",
            "TableExists",
            "ListTables",
            "ListAllTables",
            "DropTable",
            "DeregisterTable",
            "RenameTable",
            "ListTableVersions",
            "DescribeTableVersion",
            "CreateTable",
            "InsertIntoTable",
            "UploadFragments",
            "ListFragments",
            "ReadFragment",
            "UploadFragmentColumns",
            "CommitTable",
            "CommitTables",
            "ListUploads",
            "AbortUpload",
            "QueryTable",
            "CountTableRows",
        ] {
            assert!(
                served.contains(operation),
                "{operation} is missing: {served:?}"
            );
        }
        let capabilities = server.get("/v1/capabilities").await.ok().to_string();
        assert!(
            capabilities.contains(env!("CARGO_PKG_VERSION")),
            "{capabilities}"
        );
    }
}

both! {
    async fn the_page_is_served(server: TestServer) {
        let reply = server.get("/docs").await;
        let reply = match reply.header("location").map(str::to_string) {
            Some(location) => {
                let path = location.trim_start_matches(server.base()).to_string();
                let path = if path.starts_with('/') {
                    path
                } else {
                    format!("/{path}")
                };
                server.get(&path).await
            }
            None => reply,
        };
        assert_eq!(reply.status, 200, "{}", reply.text());
        let kind = reply.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/html"), "{kind}");
    }
}

both! {
    /// A running upload is finished when the server is asked to stop; nothing new is begun.
    async fn a_stop_waits_for_what_is_running(server: TestServer) {
        let mut server = server;
        let location = server.with_table("ns$t", 3).await;
        let stream = ipc(&[batch_ab(3..1_000), batch_ab(1_000..2_000)]);
        let (first, second) = stream.split_at(stream.len() / 2);
        let (mut sender, receiver) = mpsc::channel::<Result<Vec<u8>, std::io::Error>>(4);
        let body = Body::wrap_stream(receiver);
        let request = server.arrow_request(&table("ns$t", "insert")).body(body);
        let upload = tokio::spawn(request.send());
        sender
            .send(Ok(first.to_vec()))
            .await
            .expect("the first half");
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.begin_shutdown();
        tokio::time::sleep(Duration::from_millis(500)).await;
        sender
            .send(Ok(second.to_vec()))
            .await
            .expect("the second half");
        drop(sender);
        let response = upload.await.expect("a task").expect("an answer");
        assert_eq!(response.status(), 200);
        drop(response);
        assert!(server.wait_until_down(), "the server does not stop");
        assert_eq!(foreign::values(&location).await.len(), 2_000);
    }
}

both! {
    /// A client that never finishes does not keep the server alive past its grace time.
    async fn a_stop_does_not_wait_for_ever(server: TestServer) {
        let mut server = server;
        let location = server.with_table("ns$t", 3).await;
        let stream = ipc(&[batch_ab(3..1_000)]);
        let (mut sender, receiver) = mpsc::channel::<Result<Vec<u8>, std::io::Error>>(4);
        let body = Body::wrap_stream(receiver);
        let request = server.arrow_request(&table("ns$t", "insert")).body(body);
        let upload = tokio::spawn(request.send());
        let half = stream[..stream.len() / 2].to_vec();
        sender.send(Ok(half)).await.expect("the first half");
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.begin_shutdown();
        assert!(server.wait_until_down(), "the server does not stop");
        drop(sender);
        let _ = upload.await;
        assert_eq!(foreign::values(&location).await, [0, 1, 2]);
    }
}

/// Where the catalog is lost in the middle, nothing pretends to have worked, and nobody is told
/// that it was the client's fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_catalog_is_not_a_client_error() {
    let Some(server) = TestServer::spawn(Backend::Postgres).await else {
        return;
    };
    server.with_table("ns$t", 3).await;
    let upload = server.upload("ns$t", &batch_ab(3..4)).await;
    server.database().remove().await;
    let body = json!({
        "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
    });
    let reply = server.commit("ns$t", body).await;
    assert!([500, 503].contains(&reply.status), "{}", reply.text());
    assert_error_in(&reply, reply.status, &[INTERNAL, SERVICE_UNAVAILABLE]);
}
