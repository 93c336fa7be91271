//! Clones: tables made of a version of another.

use serde_json::json;

use crate::support::batches::{batch_a, ipc};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, foreign, table};

async fn location(server: &TestServer, id: &str) -> String {
    let described = server.post_empty(&format!("/v1/table/{id}/describe/")).await.ok();
    described["location"].as_str().expect("a location").to_owned()
}

async fn clone(server: &TestServer, id: &str, body: serde_json::Value) -> Reply {
    server.post(&format!("/v1/table/{id}/clone"), body).await
}

/// A table `t` of three versions: 0..2, 0..4, and without 0.
async fn with_source(server: &TestServer) -> String {
    server.post_arrow("/v1/table/t/create/", ipc(&[batch_a(0..2)])).await.ok();
    server.post_arrow("/v1/table/t/insert/", ipc(&[batch_a(2..4)])).await.ok();
    server.post("/v1/table/t/delete/", json!({"predicate": "a = 0"})).await.ok();
    location(server, "t").await
}

everywhere! {
    async fn a_clone_is_a_table_of_its_own(server: TestServer) {
        let source = with_source(&server).await;
        for (name, is_shallow) in [("shallow", true), ("deep", false)] {
            let body = json!({"source_location": source, "is_shallow": is_shallow});
            let reply = clone(&server, name, body).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let version = reply.header("x-lancedb-version").expect("a version").to_owned();
            assert_eq!(reply.ok()["version"].to_string(), version);
            assert_eq!(server.values(name).await, [1, 2, 3], "{name}");
            // It changes in every way, and the source does not.
            server.post_arrow(&format!("/v1/table/{name}/insert/"), ipc(&[batch_a(7..9)])).await.ok();
            server.post(&format!("/v1/table/{name}/delete/"), json!({"predicate": "a = 1"})).await.ok();
            let update = json!({"updates": [["a", "a + 10"]], "predicate": "a = 2"});
            server.post(&format!("/v1/table/{name}/update/"), update).await.ok();
            let index = json!({"column": "a", "index_type": "BTREE"});
            let job = server.post(&format!("/v1/table/{name}/create_index/"), index).await.ok();
            server.succeeded(job["job_id"].as_str().expect("a job")).await;
            assert_eq!(server.values(name).await, [3, 7, 8, 12], "{name}");
            assert_eq!(server.values("t").await, [1, 2, 3]);
            let folder = location(&server, name).await;
            assert_ne!(folder, source);
            assert_eq!(foreign::values(folder.trim_start_matches("file://")).await, [3, 7, 8, 12]);
            server.post_empty(&format!("/v1/table/{name}/drop/")).await.ok();
            assert_eq!(server.values("t").await, [1, 2, 3], "after {name} was dropped");
        }
    }
}

everywhere! {
    async fn any_version_can_be_cloned(server: TestServer) {
        let source = with_source(&server).await;
        let first = json!({"source_location": source, "source_version": 1, "is_shallow": true});
        clone(&server, "first", first).await.ok();
        assert_eq!(server.values("first").await, [0, 1]);
        server.post("/v1/table/t/tags/create/", json!({"tag": "all", "version": 2})).await.ok();
        for (name, is_shallow) in [("shallow", true), ("deep", false)] {
            let tagged = json!({"source_location": source, "source_tag": "all", "is_shallow": is_shallow});
            clone(&server, name, tagged).await.ok();
            assert_eq!(server.values(name).await, [0, 1, 2, 3]);
        }
        // Of a branch, by a tag on it.
        server.post("/v1/table/t/branches/create/", json!({"name": "side"})).await.ok();
        let on_side = json!({"predicate": "a = 3", "branch": "side"});
        let version = server.post("/v1/table/t/delete/", on_side).await.ok()["version"].clone();
        let tag = json!({"tag": "aside", "version": version, "branch": "side"});
        server.post("/v1/table/t/tags/create/", tag).await.ok();
        let tagged = json!({"source_location": source, "source_tag": "aside"});
        clone(&server, "side", tagged).await.ok();
        assert_eq!(server.values("side").await, [1, 2]);
        server.post("/v1/table/t/tags/delete/", json!({"tag": "aside"})).await.ok();
        let refused = server.post("/v1/table/t/branches/delete/", json!({"name": "side"})).await;
        assert_error(&refused, 400, INVALID_TABLE_STATE);
        server.post_empty("/v1/table/side/drop/").await.ok();
        server.post("/v1/table/t/branches/delete/", json!({"name": "side"})).await.ok();
    }
}

both! {
    async fn what_a_clone_reads_is_not_dropped(server: TestServer) {
        server.create_namespace("a").await;
        server.create_namespace("b").await;
        server.with_table("a$t", 3).await;
        let source = location(&server, "a$t").await;
        clone(&server, "b$c", json!({"source_location": source})).await.ok();
        let refused = server.post_empty("/v1/table/a$t/drop/").await;
        assert_error(&refused, 400, INVALID_TABLE_STATE);
        assert!(refused.text().contains("b$c"), "{}", refused.text());
        assert_error(&server.post_empty(&table("a$t", "drop")).await, 409, INVALID_TABLE_STATE);
        let cascade = json!({"behavior": "Cascade"});
        let refused = server.post("/v1/namespace/a/drop", cascade.clone()).await;
        assert_error(&refused, 409, INVALID_TABLE_STATE);
        assert_eq!(server.count("a$t").await, 3);
        assert_eq!(server.count("b$c").await, 3);
        // Both together may go.
        server.post_empty("/v1/table/b$c/drop/").await.ok();
        clone(&server, "a$c", json!({"source_location": source})).await.ok();
        server.post("/v1/namespace/a/drop", cascade).await.ok();
        server.assert_files(&[], "everything was dropped").await;
    }
}

both! {
    async fn bad_clones_make_nothing(server: TestServer) {
        let source = with_source(&server).await;
        let before = server.snapshot().await;
        for (id, body, status, code) in [
            ("t", json!({"source_location": source}), 400, TABLE_ALREADY_EXISTS),
            ("nowhere$c", json!({"source_location": source}), 404, NAMESPACE_NOT_FOUND),
            ("c", json!({}), 400, INVALID_INPUT),
            ("c", json!({"source_location": "file:///etc"}), 400, INVALID_INPUT),
            ("c", json!({"source_location": format!("{source}/data")}), 400, INVALID_INPUT),
            ("c", json!({"source_location": format!("{source}/../x")}), 400, INVALID_INPUT),
            ("c", json!({"source_location": source, "source_version": 99}), 400, TABLE_VERSION_NOT_FOUND),
            ("c", json!({"source_location": source, "source_tag": "nothing"}), 400, TABLE_TAG_NOT_FOUND),
            ("c", json!({"source_location": source, "source_tag": "x", "source_version": 1}), 400, INVALID_INPUT),
        ] {
            let reply = clone(&server, id, body.clone()).await;
            assert_error(&reply, status, code);
        }
        server.assert_unchanged(&before, "bad clones").await;
    }
}

everywhere! {
    /// What a clone reads is a place, whatever name leads there.
    async fn another_name_for_the_source_does_not_drop_it(server: TestServer) {
        let source = with_source(&server).await;
        clone(&server, "c", json!({"source_location": source})).await.ok();
        server.post("/v1/table/t/deregister", json!({})).await.ok();
        let place = json!({"location": source});
        server.post("/v1/table/u/register", place).await.ok();
        assert_error(&server.post_empty("/v1/table/u/drop/").await, 400, INVALID_TABLE_STATE);
        assert_eq!(server.values("c").await, [1, 2, 3]);
        server.post_empty("/v1/table/c/drop/").await.ok();
        server.post_empty("/v1/table/u/drop/").await.ok();
    }
}
