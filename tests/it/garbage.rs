//! The sweep: what nobody will commit goes, what a version refers to stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tiltyard::model::Clock;
use tiltyard::server::Parts;

use crate::commit_tables::commit;
use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::{Backend, TestServer, assert_error, foreign, table};

/// A server on which uploads live for `ttl` and the sweep goes all the time.
async fn sweeping(backend: Backend, ttl: Duration) -> Option<TestServer> {
    let configure = move |settings: &mut tiltyard::config::Settings| {
        settings.upload_ttl = ttl;
        settings.gc_interval = Duration::from_millis(100);
    };
    TestServer::spawn_with(backend, configure).await
}

async fn uploads(server: &TestServer) -> usize {
    let listed = server.get(&table("ns$t", "uploads")).await.ok();
    listed["uploads"].as_array().expect("a list").len()
}

/// Waits until the table has no upload left.
async fn until_swept(server: &TestServer) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while uploads(server).await > 0 {
        assert!(Instant::now() < deadline, "nothing was swept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn an_expired_upload_goes(backend: Backend) {
    let Some(server) = sweeping(backend, Duration::from_secs(2)).await else { return };
    let location = server.with_table("ns$t", 3).await;
    let before = server.files();
    server.upload("ns$t", &batch_ab(3..10)).await;
    assert!(server.files().len() > before.len());
    until_swept(&server).await;
    server.assert_files(&before, "a sweep").await;
    assert_eq!(foreign::values(&location).await, [0, 1, 2]);
}

/// An upload whose time is over is nobody's to commit, though no sweep came by yet.
async fn an_expired_upload_is_refused(backend: Backend) {
    let ahead_us = Arc::new(AtomicI64::new(0));
    let clock = {
        let ahead_us = ahead_us.clone();
        Clock::ahead_by(move || ahead_us.load(Ordering::Relaxed))
    };
    let configure = |settings: &mut tiltyard::config::Settings| {
        settings.gc_interval = Duration::from_secs(3_600);
    };
    let parts = Parts { clock, ..Parts::default() };
    let Some(server) = TestServer::spawn_of(backend, parts, configure).await else { return };
    let location = server.with_table("ns$t", 3).await;
    let upload = server.upload("ns$t", &batch_ab(3..4)).await;
    let id = upload["upload_id"].as_str().expect("an id");
    let by_id = json!({"operation": "append", "read_version": 1, "uploads": [id]});
    let alone = json!({
        "operation": "append", "read_version": 1, "uploads": [id], "coalesce": false,
    });
    let by_fragments = json!({
        "operation": "append", "read_version": 1, "fragments": upload["fragments"],
    });
    ahead_us.store(3 * 24 * 60 * 60 * 1_000_000, Ordering::Relaxed);
    for body in [&by_id, &alone, &by_fragments] {
        let reply = server.commit("ns$t", body.clone()).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert!(reply.text().contains(&format!("upload {id} expired")), "{}", reply.text());
    }
    let mut entry = by_id.clone();
    entry["id"] = json!(["ns", "t"]);
    let reply = commit(&server, &[entry]).await;
    assert_error(&reply, 400, INVALID_INPUT);
    assert!(reply.text().contains("expired"), "{}", reply.text());
    assert_eq!(foreign::values(&location).await, [0, 1, 2]);
    // Nobody kept it from whoever comes in time.
    ahead_us.store(0, Ordering::Relaxed);
    server.commit("ns$t", by_id.clone()).await.ok();
    assert_eq!(foreign::values(&location).await, [0, 1, 2, 3]);
    // What is committed is told as committed, however long ago.
    ahead_us.store(3 * 24 * 60 * 60 * 1_000_000, Ordering::Relaxed);
    let reply = server.commit("ns$t", by_id).await;
    assert_error(&reply, 400, INVALID_INPUT);
    assert!(reply.text().contains("committed already"), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_upload_is_refused_on_sqlite() {
    an_expired_upload_is_refused(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_upload_is_refused_on_postgres() {
    an_expired_upload_is_refused(Backend::Postgres).await;
}

async fn what_is_committed_stays(backend: Backend) {
    let Some(server) = sweeping(backend, Duration::from_secs(4)).await else { return };
    let location = server.with_table("ns$t", 3).await;
    // One by its id, one by its fragments, one past the server.
    let by_id = server.upload("ns$t", &batch_ab(3..4)).await;
    let body = json!({"operation": "append", "read_version": 1, "uploads": [by_id["upload_id"]]});
    server.commit("ns$t", body).await.ok();
    let by_fragments = server.upload("ns$t", &batch_ab(4..5)).await;
    let body = json!({
        "operation": "append", "read_version": 2, "fragments": by_fragments["fragments"],
    });
    server.commit("ns$t", body).await.ok();
    let past = server.upload("ns$t", &batch_ab(5..6)).await;
    foreign::commit_append(&location, &past["fragments"]).await;
    // One more that nobody commits, to see when the sweep has been.
    server.upload("ns$t", &batch_ab(6..7)).await;
    until_swept(&server).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4, 5]);
}

async fn an_expired_upload_cannot_be_committed(backend: Backend) {
    let Some(server) = sweeping(backend, Duration::from_secs(1)).await else { return };
    server.with_table("ns$t", 3).await;
    let upload = server.upload("ns$t", &batch_ab(3..4)).await;
    until_swept(&server).await;
    for body in [
        json!({"operation": "append", "read_version": 1, "uploads": [upload["upload_id"]]}),
        json!({"operation": "append", "read_version": 1, "fragments": upload["fragments"]}),
    ] {
        assert_eq!(server.commit("ns$t", body).await.status, 400);
    }
    assert_eq!(server.versions("ns$t").await, [1]);
}

macro_rules! on_both {
    ($($name:ident)*) => { $(
        mod $name {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name(Backend::Sqlite).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$name(Backend::Postgres).await;
            }
        }
    )* };
}

on_both! { an_expired_upload_goes what_is_committed_stays an_expired_upload_cannot_be_committed }
