//! Rows in parts, several requests at once, that become one version.

use futures::future::join_all;
use serde_json::json;

use crate::support::batches::{END_OF_STREAM, batch_ab, batch_vectors, ipc, ipc_without_rows};
use crate::support::code::*;
use crate::support::parts::{Parts, version};
use crate::support::raw::hang_up;
use crate::support::{Backend, TestServer, assert_error, enc, foreign, table};

fn range(values: std::ops::Range<i32>) -> Vec<i32> {
    values.collect()
}

both! {
    async fn parts_become_one_version(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let parts = Parts::begin(&server, "ns$t").await;
        let other = Parts::begin(&server, "ns$t").await;
        assert_ne!(parts.upload, other.upload);
        join_all((0..8).map(|number| {
            let (parts, from) = (&parts, 3 + number * 10);
            async move {
                parts.part(&format!("part-{number}"), &batch_ab(from..from + 10)).await;
            }
        }))
        .await;
        assert_eq!(server.values("ns$t").await, range(0..3), "staged rows can be seen");
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(parts.completed().await, 2);
        assert_eq!(server.values("ns$t").await, range(0..83));
        assert_eq!(foreign::values(&location).await, range(0..83));
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        // The other one has nothing of it.
        assert_eq!(other.completed().await, 2);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
    }
}

both! {
    async fn a_part_that_comes_again_replaces_the_former(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.files();
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(10..20)).await;
        let one_part = server.files();
        parts.part("x", &batch_ab(20..25)).await;
        assert_eq!(server.files().len(), one_part.len(), "the files of the former are left");
        assert_ne!(server.files(), one_part);
        // Five at once: one of them is the last.
        join_all((1..6).map(|number| {
            let parts = &parts;
            async move {
                let from = number * 100;
                parts.part("y", &batch_ab(from..from + 1)).await;
            }
        }))
        .await;
        assert_eq!(server.files().len(), before.len() + 2, "{:?}", server.files());
        parts.completed().await;
        let values = server.values("ns$t").await;
        assert_eq!(values[..8], [0, 1, 2, 20, 21, 22, 23, 24]);
        assert!(values.len() == 9 && values[8] % 100 == 0, "{values:?}");
    }
}

everywhere! {
    async fn parts_without_a_name_are_parts_of_their_own(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let parts = Parts::begin(&server, "ns$t").await;
        for _ in 0..2 {
            parts.send("", &batch_ab(7..8)).await.ok();
        }
        parts.part("x", &batch_ab(8..9)).await;
        parts.completed().await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 7, 7, 8]);
        for bad in [String::new(), "x".repeat(300), enc("a\u{0}b")] {
            let reply = parts.send(&format!("&upload_part_id={bad}"), &batch_ab(0..1)).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
    }
}

everywhere! {
    async fn parts_overwrite_once(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let parts = Parts::begin(&server, "ns$t").await;
        for name in ["p", "q", "r"] {
            let more = format!("&upload_part_id={name}&mode=overwrite");
            parts.send(&more, &batch_vectors(2, 4)).await.ok();
        }
        // A table that changes meanwhile is overwritten all the same.
        server.insert("ns$t", &batch_ab(3..5)).await;
        assert_eq!(parts.completed().await, 3);
        assert_eq!(server.count("ns$t").await, 6);
        let columns = server.describe("ns$t").await["schema"]["fields"].clone();
        assert_eq!(columns.as_array().expect("fields").len(), 2, "{columns}");
        assert_eq!(columns[0]["name"], "id");
    }
}

both! {
    async fn all_parts_have_one_mode(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let parts = Parts::begin(&server, "ns$t").await;
        // What did not count says nothing about the mode.
        let reply = server.post_arrow(&parts.path("&mode=overwrite"), b"no Arrow".to_vec()).await;
        assert_error(&reply, 400, INVALID_INPUT);
        parts.part("x", &batch_ab(3..4)).await;
        let before = server.snapshot().await;
        let reply = parts.send("&mode=overwrite", &batch_ab(4..5)).await;
        assert_error(&reply, 400, INVALID_INPUT);
        server.assert_unchanged(&before, "a part of another mode").await;
        parts.completed().await;
        assert_eq!(server.values("ns$t").await, range(0..4));
    }
}

both! {
    async fn only_whole_parts_count(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let parts = Parts::begin(&server, "ns$t").await;
        let whole = ipc(&[batch_ab(100..5_000), batch_ab(5_000..9_000)]);
        let cut = whole[..whole.len() - END_OF_STREAM.len()].to_vec();
        let reply = server.post_arrow(&parts.path("&upload_part_id=cut"), cut).await;
        assert_error(&reply, 400, INVALID_INPUT);
        hang_up(&server, &parts.path("&upload_part_id=gone"), whole.len(), &whole[..9_000]);
        server.assert_unchanged(&before, "parts that are not whole").await;
        parts.part("ok", &batch_ab(3..5)).await;
        // A part without rows is whole too.
        let nothing = ipc_without_rows(&batch_ab(0..1).schema());
        server.post_arrow(&parts.path("&upload_part_id=none"), nothing).await.ok();
        parts.completed().await;
        assert_eq!(server.values("ns$t").await, range(0..5));
    }
}

both! {
    async fn rows_that_do_not_fit_are_no_part(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let parts = Parts::begin(&server, "ns$t").await;
        let reply = parts.send("", &batch_vectors(2, 4)).await;
        assert_error(&reply, 400, TABLE_SCHEMA_VALIDATION_ERROR);
        server.assert_unchanged(&before, "a part that does not fit").await;
        assert_eq!(parts.completed().await, 1);
    }
}

everywhere! {
    async fn parts_make_the_first_version_of_a_declared_table(server: TestServer) {
        server.with_declared("ns$t").await;
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(0..5)).await;
        parts.part("y", &batch_ab(5..9)).await;
        assert_eq!(parts.completed().await, 1);
        assert_eq!(server.values("ns$t").await, range(0..9));
    }
}

everywhere! {
    async fn parts_go_to_their_branch(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.post(&table("ns$t", "branches/create"), json!({"name": "side"})).await.ok();
        let parts = Parts::begin_on(&server, "ns$t", "&branch=side").await;
        parts.part("x", &batch_ab(3..6)).await;
        let completed = parts.completed().await;
        assert_eq!(server.values("ns$t").await, range(0..3));
        let counted = server.post(&table("ns$t", "count_rows"), json!({"branch": "side"})).await;
        assert_eq!(counted.ok(), 6);
        let path = table("ns$t", "version/list?branch=side");
        let listed = server.post_empty(&path).await.ok();
        let listed = listed["versions"].as_array().expect("versions").clone();
        assert!(listed.iter().any(|one| version(one) == completed), "{listed:?}");
    }
}

both! {
    /// What others committed since the parts were staged does not keep them from being added.
    async fn parts_go_on_top_of_what_is_there(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(10..12)).await;
        server.insert("ns$t", &batch_ab(3..5)).await;
        server.post(&table("ns$t", "delete"), json!({"predicate": "a = 0"})).await.ok();
        parts.part("y", &batch_ab(12..14)).await;
        assert_eq!(parts.completed().await, 4);
        assert_eq!(server.values("ns$t").await, [1, 2, 3, 4, 10, 11, 12, 13]);
        // An overwrite with the same columns, by this server and by another program.
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(20..22)).await;
        let stream = ipc(&[batch_ab(0..1)]);
        server.post_arrow(&table("ns$t", "insert?mode=overwrite"), stream).await.ok();
        foreign::overwrite(&location, batch_ab(1..2)).await;
        assert_eq!(parts.completed().await, 7);
        assert_eq!(server.values("ns$t").await, [1, 20, 21]);
    }
}

both! {
    /// Parts that cannot be added any more are not lost: they stay until they are aborted.
    async fn parts_that_no_longer_fit_are_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let parts = Parts::begin(&server, "ns$t").await;
        let stream = ipc(&[batch_vectors(2, 4)]);
        parts.part("x", &batch_ab(10..12)).await;
        server.post_arrow(&table("ns$t", "insert?mode=overwrite"), stream).await.ok();
        let staged = server.files();
        for _ in 0..2 {
            assert_error(&parts.complete().await, 400, TABLE_SCHEMA_VALIDATION_ERROR);
        }
        assert_eq!(server.files(), staged);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        // Back to columns that they fit.
        let restored = server.post(&table("ns$t", "restore"), json!({"version": 1})).await;
        restored.ok();
        assert_eq!(parts.completed().await, 4);
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 10, 11]);
    }
}

everywhere! {
    /// Each overwrite is a version of its own, whatever the others add or replace meanwhile.
    async fn inserts_follow_overwrites(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let other = server.beside().await;
        let replies = join_all((0..16).map(|number| {
            let server = if number % 2 == 0 { &server } else { &other };
            let mode = if number % 4 < 2 { "append" } else { "overwrite" };
            let stream = ipc(&[batch_ab(number..number + 1)]);
            async move {
                server.post_arrow(&table("ns$t", &format!("insert?mode={mode}")), stream).await
            }
        }))
        .await;
        let mut versions: Vec<u64> =
            replies.into_iter().map(|reply| version(&reply.ok())).collect();
        let mut replacing: Vec<u64> = versions.iter().copied().skip(2).step_by(4).collect();
        replacing.extend(versions.iter().copied().skip(3).step_by(4));
        for version in replacing {
            assert_eq!(versions.iter().filter(|other| **other == version).count(), 1);
        }
        versions.sort_unstable();
        versions.dedup();
        assert_eq!(versions, (2..2 + versions.len() as u64).collect::<Vec<u64>>());
        let values = server.values("ns$t").await;
        let replaced = values.iter().filter(|value| *value % 4 >= 2).count();
        assert_eq!(replaced, 1, "{values:?}");
    }
}

everywhere! {
    /// A part is not committed or aborted for itself.
    async fn parts_stay_together(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(3..4)).await;
        parts.part("y", &batch_ab(4..5)).await;
        let uploads = server.get(&table("ns$t", "uploads")).await.ok();
        let upload = &uploads["uploads"][0]["upload_id"];
        let body = json!({"operation": "append", "read_version": 1, "uploads": [upload]});
        assert_error(&server.commit("ns$t", body).await, 400, INVALID_INPUT);
        let path = format!("uploads/{}", upload.as_str().expect("an upload"));
        let reply = server.delete(&table("ns$t", &path)).await;
        assert_error(&reply, 409, INVALID_TABLE_STATE);
        parts.completed().await;
        assert_eq!(server.values("ns$t").await, range(0..5));
    }
}

/// Two servers of one catalog serve one multipart write.
async fn any_server_does(backend: Backend) {
    let Some(server) = TestServer::spawn(backend).await else { return };
    server.with_table("ns$t", 3).await;
    let other = server.beside().await;
    let here = Parts::begin(&server, "ns$t").await;
    let there = here.seen(&other, "ns$t", "");
    here.part("x", &batch_ab(3..5)).await;
    there.part("y", &batch_ab(5..7)).await;
    // The part of the other server is replaced here.
    here.part("y", &batch_ab(7..9)).await;
    assert_eq!(there.completed().await, 2);
    assert_eq!(here.completed().await, 2);
    assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4, 7, 8]);
    assert_eq!(other.versions("ns$t").await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_server_does_on_sqlite() {
    any_server_does(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_server_does_on_postgres() {
    any_server_does(Backend::Postgres).await;
}
