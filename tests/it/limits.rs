//! Sizes: none by default, and the configured one.

use std::time::{Duration, Instant};

use futures::SinkExt;
use futures::channel::mpsc;
use reqwest::Body;
use serde_json::json;

use crate::support::batches::{batch, batch_ab, batch_vectors, ints, ipc};
use crate::support::code::*;
use crate::support::{Backend, TestServer, assert_error, foreign, table};

const MEBIBYTE: usize = 1 << 20;
/// 16 384 vectors of 1 024 numbers of four bytes: 64 MiB.
const LARGE: (i32, i32) = (16_384, 1_024);

async fn limited(backend: Backend) -> Option<TestServer> {
    TestServer::spawn_with(backend, |settings| {
        settings.max_body_bytes = Some(MEBIBYTE as u64);
    })
    .await
}

both! {
    /// The reference server stops at 2 MiB.
    async fn a_large_body_passes(server: TestServer) {
        server.create_namespace("ns").await;
        let (rows, dimension) = LARGE;
        let stream = ipc(&[batch_vectors(rows, dimension)]);
        assert!(stream.len() > 64 * MEBIBYTE);
        server
            .post_arrow(&table("ns$t", "create"), stream.clone())
            .await
            .ok();
        assert_eq!(server.count("ns$t").await, 16_384);
        let upload = server
            .post_arrow(&table("ns$t", "fragments"), stream)
            .await
            .ok();
        assert_eq!(upload["num_rows"], rows, "{upload}");
        let body = json!({
            "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
        });
        server.commit("ns$t", body).await.ok();
        assert_eq!(server.count("ns$t").await, 32_768);
    }
}

async fn a_body_over_the_limit_is_refused(server: TestServer) {
    server.with_table("ns$t", 3).await;
    let before = server.snapshot().await;
    // Half as much again: the whole of it fits into the buffers of a connection, so that the
    // client has sent it all before it reads the answer.
    let stream = ipc(&[batch_vectors(375, 1_024)]);
    assert!(stream.len() > MEBIBYTE && stream.len() < 2 * MEBIBYTE);
    for operation in ["create?mode=overwrite", "insert?mode=overwrite", "fragments?mode=overwrite"]
    {
        let path = table("ns$t", operation);
        let reply = server.post_arrow(&path, stream.clone()).await;
        assert_error(&reply, 400, INVALID_INPUT);
        server.assert_unchanged(&before, operation).await;
        // Without a content length, the limit is met on the way.
        let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
            stream.chunks(64 * 1_024).map(|piece| Ok(piece.to_vec())).collect();
        let body = Body::wrap_stream(futures::stream::iter(pieces));
        let reply = server.send(server.arrow_request(&path).body(body)).await;
        assert_error(&reply, 400, INVALID_INPUT);
        server.assert_unchanged(&before, operation).await;
    }
    server.insert("ns$t", &batch_ab(3..5)).await;
    assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_on_sqlite() {
    let server = limited(Backend::Sqlite).await;
    a_body_over_the_limit_is_refused(server.expect("SQLite is always there")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_on_postgres() {
    if let Some(server) = limited(Backend::Postgres).await {
        a_body_over_the_limit_is_refused(server).await;
    }
}

/// A body up to the limit is not over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_under_the_limit_passes() {
    let server = limited(Backend::Sqlite).await;
    let server = server.expect("SQLite is always there");
    server.create_namespace("ns").await;
    let rows = batch_vectors(200, 1_024);
    assert!(ipc(std::slice::from_ref(&rows)).len() < MEBIBYTE);
    server.create("ns$t", &rows).await;
    server.insert("ns$t", &rows).await;
    assert_eq!(server.count("ns$t").await, 400);
}

both! {
    /// Many small files and many columns in one upload.
    async fn a_wide_and_a_split_upload_pass(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        let names: Vec<String> = (0..300).map(|column| format!("c{column}")).collect();
        let columns: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), ints(0..20)))
            .collect();
        let rows = batch(&columns);
        let path = table("ns$t", "fragments?max_rows_per_file=1");
        let upload = server.upload_to(&path, &rows).await;
        assert_eq!(upload["fragments"].as_array().map(Vec::len), Some(20));
        let body = json!({
            "operation": "overwrite", "read_version": 0, "uploads": [upload["upload_id"]],
        });
        server.commit("ns$t", body).await.ok();
        assert_eq!(server.count("ns$t").await, 20);
        assert_eq!(foreign::rows(&location).await.num_columns(), 300);
    }
}

both! {
    /// No transaction and no slot of the database pool is held while a body comes in: uploads that
    /// stall, however many, keep nobody else waiting.
    async fn stalled_bodies_starve_nobody(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let stream = ipc(&[batch_ab(0..1_000), batch_ab(1_000..2_000)]);
        let mut stalled = Vec::new();
        for number in 0..40 {
            let (mut sender, receiver) = mpsc::channel::<Result<Vec<u8>, std::io::Error>>(2);
            let operation = match number % 3 {
                0 => "insert",
                1 => "fragments",
                _ => "create?mode=overwrite",
            };
            let request = server
                .arrow_request(&table("ns$t", operation))
                .body(Body::wrap_stream(receiver));
            let answer = tokio::spawn(request.send());
            let half = stream[..stream.len() / 2].to_vec();
            sender.send(Ok(half)).await.expect("the first half");
            stalled.push((sender, answer));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let started = Instant::now();
        for number in 0..5 {
            server.create_namespace(&format!("n{number}")).await;
            server.with_table(&format!("n{number}$t"), 2).await;
            assert_eq!(server.count("ns$t").await, 3);
            server.get("/readyz").await.ok();
        }
        let took = started.elapsed();
        assert!(
            took < Duration::from_secs(30),
            "the others had to wait: {took:?}"
        );
        for number in 0..5 {
            let body = json!({"behavior": "cascade"});
            let path = format!("/v1/namespace/n{number}/drop");
            server.post(&path, body).await.ok();
        }
        for (mut sender, answer) in stalled {
            let broken = std::io::Error::other("the client gives up");
            // The server may have hung up already.
            let _ = sender.send(Err(broken)).await;
            let _ = answer.await;
        }
        server.assert_unchanged(&before, "stalled bodies").await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}
