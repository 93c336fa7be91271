//! How multipart writes end: once, whatever is asked for when.

use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::future::join_all;
use reqwest::{Body, Method};
use serde_json::json;

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::parts::{Parts, version};
use crate::support::{Backend, Reply, TestServer, assert_error, foreign, table};

const SIDE: &str = "&branch=side";

both! {
    async fn completing_again_answers_the_same_version(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(3..5)).await;
        assert_eq!(parts.completed().await, 2);
        server.insert("ns$t", &batch_ab(5..6)).await;
        assert_eq!(parts.completed().await, 2);
        let upload = parts.upload;
        let mut server = server;
        server.restart().await;
        let path = table("ns$t", &format!("multipart_write/complete?upload_id={upload}"));
        assert_eq!(version(&server.post_empty(&path).await.ok()), 2);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3]);
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4, 5]);
    }
}

both! {
    async fn completing_at_once_commits_once(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let other = server.beside().await;
        for round in 0..5 {
            let parts = Parts::begin(&server, "ns$t").await;
            let from = 1 + round * 2;
            parts.part("x", &batch_ab(from..from + 1)).await;
            parts.part("y", &batch_ab(from + 1..from + 2)).await;
            let versions = join_all((0..6).map(|number| {
                let server = if number % 2 == 0 { &server } else { &other };
                let parts = parts.seen(server, "ns$t", "");
                async move { parts.completed().await }
            }))
            .await;
            let expected = 2 + u64::try_from(round).expect("small");
            assert_eq!(versions, [expected; 6]);
        }
        assert_eq!(foreign::values(&location).await, (0..11).collect::<Vec<i32>>());
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4, 5, 6]);
    }
}

both! {
    async fn nothing_to_complete_is_the_newest_version(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.insert("ns$t", &batch_ab(3..4)).await;
        let parts = Parts::begin(&server, "ns$t").await;
        assert_eq!(parts.completed().await, 2);
        server.insert("ns$t", &batch_ab(4..5)).await;
        assert_eq!(parts.completed().await, 2);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3]);
        let reply = parts.send("", &batch_ab(9..10)).await;
        assert_error(&reply, 400, INVALID_INPUT);
    }
}

both! {
    /// The answer to complete was lost, so that the client aborts.
    async fn aborting_what_was_completed_does_no_harm(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(3..5)).await;
        parts.completed().await;
        let files = server.files();
        for _ in 0..2 {
            parts.abort().await.ok();
        }
        assert_eq!(server.files(), files);
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
        assert_eq!(parts.completed().await, 2);
        let reply = parts.send("&upload_part_id=x", &batch_ab(5..6)).await;
        assert_error(&reply, 400, INVALID_INPUT);
        server.assert_files(&files, "a part that came too late").await;
    }
}

both! {
    async fn aborting_leaves_nothing(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let parts = Parts::begin(&server, "ns$t").await;
        for name in ["x", "y", "z"] {
            parts.part(name, &batch_ab(3..5)).await;
        }
        for _ in 0..2 {
            parts.abort().await.ok();
        }
        assert_eq!(server.snapshot().await, before, "parts are left after the abort");
        assert_error(&parts.complete().await, 400, INVALID_INPUT);
        for more in ["", "&upload_part_id=x"] {
            assert_error(&parts.send(more, &batch_ab(5..6)).await, 400, INVALID_INPUT);
        }
        assert_eq!(server.snapshot().await, before);
        let uploads = server.get(&table("ns$t", "uploads")).await.ok();
        assert_eq!(uploads["uploads"], json!([]));
        assert_eq!(server.versions("ns$t").await, [1]);
    }
}

/// The requests that end what there is not.
async fn ends_of(server: &TestServer, id: &str, upload: &str) -> [Reply; 3] {
    let parts = Parts { server, id: id.into(), of: String::new(), upload: upload.into() };
    [parts.send("", &batch_ab(3..4)).await, parts.complete().await, parts.abort().await]
}

both! {
    async fn what_there_is_not_has_no_parts(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        for upload in ["b9ec3e1c-54ac-4a4e-9b0b-3b3a83d1a5a1", "nothing", ""] {
            let [part, complete, abort] = ends_of(&server, "ns$t", upload).await;
            assert_error(&part, 400, INVALID_INPUT);
            assert_error(&complete, 400, INVALID_INPUT);
            abort.ok();
        }
        for how in ["complete", "abort"] {
            let reply = server.post_empty(&table("ns$t", &format!("multipart_write/{how}"))).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let begun = server.post_empty(&table("ns$none", "multipart_write/create")).await;
        assert_error(&begun, 404, TABLE_NOT_FOUND);
        let reply = server.post_empty(&table("ns$t", "multipart_write/create?branch=no")).await;
        assert_error(&reply, 404, TABLE_BRANCH_NOT_FOUND);
        server.assert_unchanged(&before, "what there is not").await;
    }
}

both! {
    async fn an_upload_is_of_one_table_and_branch(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_table("ns$u", 3).await;
        server.post(&table("ns$t", "branches/create"), json!({"name": "side"})).await.ok();
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(3..4)).await;
        let before = server.snapshot().await;
        for wrong in [parts.seen(&server, "ns$u", ""), parts.seen(&server, "ns$t", SIDE)] {
            assert_error(&wrong.send("", &batch_ab(4..5)).await, 400, INVALID_INPUT);
            assert_error(&wrong.complete().await, 400, INVALID_INPUT);
            wrong.abort().await.ok();
        }
        server.assert_unchanged(&before, "the wrong table").await;
        // A table goes by another name, and is the same.
        let renamed = json!({"new_table_name": "v"});
        server.post(&table("ns$t", "rename"), renamed).await.ok();
        let parts = parts.seen(&server, "ns$v", "");
        parts.completed().await;
        assert_eq!(server.values("ns$v").await, [0, 1, 2, 3]);
    }
}

both! {
    async fn tables_and_branches_take_their_uploads_along(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.post(&table("ns$t", "branches/create"), json!({"name": "side"})).await.ok();
        let parts = Parts::begin_on(&server, "ns$t", SIDE).await;
        parts.part("x", &batch_ab(3..4)).await;
        server.post(&table("ns$t", "branches/delete"), json!({"name": "side"})).await.ok();
        server.post(&table("ns$t", "branches/create"), json!({"name": "side"})).await.ok();
        assert_error(&parts.complete().await, 400, INVALID_INPUT);
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(3..4)).await;
        server.post_empty(&table("ns$t", "drop")).await.ok();
        assert_error(&parts.complete().await, 404, TABLE_NOT_FOUND);
        server.assert_files(&[], "a dropped table").await;
        server.create("ns$t", &batch_ab(0..1)).await;
        assert_error(&parts.complete().await, 400, INVALID_INPUT);
        parts.abort().await.ok();
    }
}

/// A part whose body is half sent while its write is ended by `how`.
async fn ended_meanwhile(server: &TestServer, how: &str) {
    server.with_table("ns$t", 3).await;
    let parts = Parts::begin(server, "ns$t").await;
    if how == "complete" {
        parts.part("x", &batch_ab(3..5)).await;
    }
    let stream = ipc(&[batch_ab(100..4_000), batch_ab(4_000..9_000)]);
    let (first, rest) = stream.split_at(40_000);
    let (sender, receiver) = mpsc::unbounded::<Result<Vec<u8>, std::io::Error>>();
    sender.unbounded_send(Ok(first.to_vec())).expect("a reader");
    let request = server.arrow_request(&parts.path("&upload_part_id=late"));
    let sent = server.send(request.body(Body::wrap_stream(receiver)));
    let ended = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let path = format!("multipart_write/{how}?upload_id={}", parts.upload);
        server.send(server.request(Method::POST, &table("ns$t", &path))).await.ok();
        let files = server.files();
        // The server may have answered, and hung up, by now.
        let _ = sender.unbounded_send(Ok(rest.to_vec()));
        drop(sender);
        files
    };
    let (late, files) = tokio::join!(sent, ended);
    assert_error(&late, 400, INVALID_INPUT);
    server.assert_files(&files, "a part that came too late").await;
    let uploads = server.get(&table("ns$t", "uploads")).await.ok();
    assert_eq!(uploads["uploads"], json!([]), "{how}");
}

both! {
    async fn a_part_that_ends_after_complete_does_not_count(server: TestServer) {
        ended_meanwhile(&server, "complete").await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
    }
}

both! {
    async fn a_part_that_ends_after_abort_does_not_count(server: TestServer) {
        ended_meanwhile(&server, "abort").await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

/// Writes that nobody ends come to nothing; what was completed stays.
async fn the_sweep_ends_what_nobody_ends(backend: Backend) {
    let configure = |settings: &mut tiltyard::config::Settings| {
        settings.upload_ttl = Duration::from_secs(2);
        settings.gc_interval = Duration::from_millis(100);
    };
    let Some(server) = TestServer::spawn_with(backend, configure).await else { return };
    let location = server.with_table("ns$t", 3).await;
    let done = Parts::begin(&server, "ns$t").await;
    done.part("x", &batch_ab(3..4)).await;
    assert_eq!(done.completed().await, 2);
    let before = server.files();
    let started = Instant::now();
    let left = Parts::begin(&server, "ns$t").await;
    left.part("x", &batch_ab(4..5)).await;
    left.part("y", &batch_ab(5..6)).await;
    assert_eq!(server.files().len(), before.len() + 2);
    server.assert_files(&before, "a sweep").await;
    assert!(started.elapsed() >= Duration::from_secs(2), "swept before its time");
    assert_error(&left.complete().await, 400, INVALID_INPUT);
    assert_error(&left.send("", &batch_ab(6..7)).await, 400, INVALID_INPUT);
    left.abort().await.ok();
    server.assert_files(&before, "a part of what has expired").await;
    // What was completed answers as before, long after its parts were forgotten.
    assert_eq!(done.completed().await, 2);
    done.abort().await.ok();
    assert_eq!(foreign::values(&location).await, [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_ends_what_nobody_ends_on_sqlite() {
    the_sweep_ends_what_nobody_ends(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_ends_what_nobody_ends_on_postgres() {
    the_sweep_ends_what_nobody_ends(Backend::Postgres).await;
}
