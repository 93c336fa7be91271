//! Two servers behind nginx, as `deploy/` sets them up, are one: each request goes to the other of
//! them than the one before, and sees what that did.

use serde_json::json;

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::{Backend, TestServer, assert_error, namespace, table};

macro_rules! on_replicas {
    ($(#[$meta:meta])* async fn $name:ident($server:ident: TestServer) $body:block) => {
        on! { TestServer::replicas; postgres: Postgres, s3: S3;
            $(#[$meta])* async fn $name($server: TestServer) $body }
    };
}

on_replicas! {
    /// One request more or less between two looks, so that each kind of look comes to each server.
    async fn what_was_written_is_read(server: TestServer) {
        server.create_namespace("ns").await;
        for round in 0..6_i32 {
            let id = format!("ns$t{round}");
            if round % 2 == 1 {
                server.get("/healthz").await.ok();
            }
            server.create(&id, &batch_ab(0..3)).await;
            assert_eq!(server.count(&id).await, 3, "{id}");
            server.insert(&id, &batch_ab(3..5)).await;
            assert_eq!(server.values(&id).await, [0, 1, 2, 3, 4], "{id}");
            assert_eq!(server.describe(&id).await["version"], 2, "{id}");
            let upload = server.upload(&id, &batch_ab(5..6)).await;
            let body = json!({"operation": "append", "read_version": 2, "uploads": [upload["upload_id"]]});
            let done = server.commit(&id, body).await.ok();
            assert_eq!(done["version"], 3, "{id}");
            assert_eq!(server.versions(&id).await, [1, 2, 3], "{id}");
            let gone = json!({"predicate": "a < 2"});
            server.post(&table(&id, "delete"), gone).await.ok();
            assert_eq!(server.count(&id).await, 4, "{id}");
            let tag = json!({"tag": "good", "version": 3});
            server.post(&table(&id, "tags/create"), tag).await.ok();
            let tagged = server.post(&table(&id, "tags/version"), json!({"tag": "good"})).await;
            assert_eq!(tagged.ok()["version"], 3, "{id}");
            let column = json!({"new_columns": [{"name": "c", "expression": "a + 1"}]});
            server.post(&table(&id, "add_columns"), column).await.ok();
            assert_eq!(server.values_of(&id, "c").await, [3, 4, 5, 6], "{id}");
            // A table of the same name is another table.
            server.post_empty(&table(&id, "drop")).await.ok();
            assert!(!server.exists(&id).await, "{id}");
            server.create(&id, &batch_ab(7..8)).await;
            assert_eq!(server.values(&id).await, [7], "{id}");
            let renamed = json!({"new_table_name": format!("u{round}")});
            server.post(&table(&id, "rename"), renamed).await.ok();
            let missing = server.post_empty(&table(&id, "describe")).await;
            assert_error(&missing, 404, TABLE_NOT_FOUND);
            assert_eq!(server.values(&format!("ns$u{round}")).await, [7], "{id}");
            let names = server.names(&namespace("ns", "table/list"), "tables").await;
            assert_eq!(names.len(), round as usize + 1, "{names:?}");
        }
    }
}

on_replicas! {
    /// A request that is sent again under its key comes to the other server, and is answered the same.
    async fn a_key_is_known_to_both(server: TestServer) {
        server.with_table("ns$t", 1).await;
        for round in 0..4_i32 {
            let send = async || {
                let rows = ipc(&[batch_ab(10 + round..11 + round)]);
                let request = server.arrow_request(&table("ns$t", "insert")).body(rows);
                server.send(request.header("idempotency-key", format!("key-{round}"))).await.ok()
            };
            let first = send().await;
            for _ in 0..3 {
                assert_eq!(send().await, first);
            }
        }
        assert_eq!(server.values("ns$t").await, [0, 10, 11, 12, 13]);
    }
}

on_replicas! {
    /// An upload of any size goes through, in pieces as they come.
    async fn a_large_upload_goes_through(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let rows = 3_000_000;
        server.insert("ns$t", &batch_ab(1..rows)).await;
        assert_eq!(server.count("ns$t").await, rows as u64);
    }
}

/// The one that is left answers everything, and nothing that was said is forgotten.
async fn one_goes_away(number: usize) {
    let Some(mut server) = TestServer::replicas(Backend::Postgres).await else { return };
    server.with_table("ns$t", 1).await;
    for value in 1..20_i32 {
        if value == 8 {
            server.stop_replica(number);
        }
        server.insert("ns$t", &batch_ab(value..value + 1)).await;
        assert_eq!(server.count("ns$t").await, value as u64 + 1);
    }
    let index = json!({"column": "a", "index_type": "BTREE"});
    server.post(&table("ns$t", "create_index"), index).await.ok();
    assert_eq!(server.values("ns$t").await, Vec::from_iter(0..20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_goes_away() {
    one_goes_away(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_goes_away() {
    one_goes_away(1).await;
}
