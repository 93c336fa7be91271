//! BatchDeleteTableVersions and RestoreTable.

use serde_json::{Value, json};

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::staging::stage;
use crate::support::{Reply, TestServer, assert_error, foreign, table, text};

/// Four versions: rows 0 to 2, and one more row in each of the others.
async fn with_versions(server: &TestServer) -> String {
    let location = server.with_table("ns$t", 3).await;
    for value in 3..6 {
        server.insert("ns$t", &batch_ab(value..value + 1)).await;
    }
    location
}

async fn delete(server: &TestServer, ranges: &[(i64, i64)]) -> Reply {
    let ranges: Vec<Value> = ranges
        .iter()
        .map(|(start, end)| json!({"start_version": start, "end_version": end}))
        .collect();
    server.post(&table("ns$t", "version/delete"), json!({"ranges": ranges})).await
}

/// What Lance itself sees.
async fn seen_by_lance(location: &str) -> Vec<u64> {
    let versions = foreign::open(location).await.versions().await.expect("versions");
    versions.iter().map(|version| version.version).collect()
}

everywhere! {
    async fn ranges_of_versions_go(server: TestServer) {
        let location = with_versions(&server).await;
        let deleted = delete(&server, &[(1, 2), (3, 4)]).await.ok();
        assert_eq!(deleted["deleted_count"], 2, "{deleted}");
        assert_eq!(server.versions("ns$t").await, [2, 4]);
        assert_eq!(seen_by_lance(&location).await, [2, 4]);
        for gone in [1, 3] {
            let body = json!({"version": gone});
            let reply = server.post(&table("ns$t", "version/describe"), body.clone()).await;
            assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
            let reply = server.post(&table("ns$t", "count_rows"), body).await;
            assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        }
        let body = json!({"version": 2});
        assert_eq!(server.post(&table("ns$t", "count_rows"), body).await.ok(), 4);
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4, 5]);
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4, 5]);
        // Overlapping ranges count a version once; what is not there counts nothing.
        let deleted = delete(&server, &[(0, 3), (1, 4), (7, 9)]).await.ok();
        assert_eq!(deleted["deleted_count"], 1, "{deleted}");
        for nothing in [vec![(1, 4)], vec![(2, 2)], vec![(50, -1)]] {
            assert_eq!(delete(&server, &nothing).await.ok()["deleted_count"], 0);
        }
        assert_eq!(server.versions("ns$t").await, [4]);
        server.insert("ns$t", &batch_ab(6..7)).await;
        assert_eq!(server.versions("ns$t").await, [4, 5]);
    }
}

everywhere! {
    async fn the_newest_goes_only_with_all_others(server: TestServer) {
        let location = with_versions(&server).await;
        for range in [(4, 5), (4, -1), (2, -1), (3, 100)] {
            assert_error(&delete(&server, &[range]).await, 400, INVALID_INPUT);
        }
        foreign::append(&location, batch_ab(6..7)).await;
        assert_error(&delete(&server, &[(5, 6)]).await, 400, INVALID_INPUT);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4, 5]);
        assert_eq!(delete(&server, &[(4, 5)]).await.ok()["deleted_count"], 1);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 5]);
    }
}

everywhere! {
    async fn bad_ranges_are_refused(server: TestServer) {
        with_versions(&server).await;
        for ranges in [
            json!([{"start_version": 3, "end_version": 1}]),
            json!([{"start_version": -1, "end_version": 2}]),
            json!([{"start_version": 1, "end_version": -2}]),
            json!([{"start_version": "1", "end_version": 2}]),
            json!([{"start_version": 1}]),
            json!([{"start_version": 1, "end_version": 2}, {"start_version": 3, "end_version": 2}]),
            json!([[1, 2]]),
            json!("all"),
            Value::Null,
        ] {
            let body = json!({"ranges": ranges});
            let reply = server.post(&table("ns$t", "version/delete"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let body = json!({"ranges": [{"start_version": 1, "end_version": 2}], "branch": "nope"});
        let reply = server.post(&table("ns$t", "version/delete"), body.clone()).await;
        assert_error(&reply, 404, TABLE_BRANCH_NOT_FOUND);
        let reply = server.post(&table("ns$nope", "version/delete"), body).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4]);
    }
}

everywhere! {
    async fn what_a_tag_or_a_branch_refers_to_stays(server: TestServer) {
        let location = with_versions(&server).await;
        let tag = json!({"tag": "kept", "version": 2});
        server.post(&table("ns$t", "tags/create"), tag).await.ok();
        let branch = json!({"name": "b", "from_version": 3});
        server.post(&table("ns$t", "branches/create"), branch).await.ok();
        for ranges in [vec![(2, 3)], vec![(3, 4)], vec![(1, 4)], vec![(0, -1)], vec![(1, 2), (2, 3)]] {
            assert_error(&delete(&server, &ranges).await, 409, INVALID_TABLE_STATE);
        }
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4]);
        assert_eq!(delete(&server, &[(1, 2)]).await.ok()["deleted_count"], 1);
        server.post(&table("ns$t", "tags/delete"), json!({"tag": "kept"})).await.ok();
        assert_eq!(delete(&server, &[(2, 3)]).await.ok()["deleted_count"], 1);
        let body = json!({"branch": "b"});
        assert_eq!(server.post(&table("ns$t", "count_rows"), body).await.ok(), 5);
        // The versions of a branch are its own.
        let path = table("ns$t", "insert?branch=b");
        server.post_arrow(&path, ipc(&[batch_ab(9..10)])).await.ok();
        let of_branch = foreign::open(&format!("{location}/tree/b")).await.version().version;
        let range = json!({"start_version": 0, "end_version": of_branch});
        let body = json!({"ranges": [range], "branch": "b"});
        let deleted = server.post(&table("ns$t", "version/delete"), body).await.ok();
        assert_eq!(deleted["deleted_count"], 1, "{deleted}");
        assert_eq!(server.versions("ns$t").await, [3, 4], "main has changed");
        let body = json!({"branch": "b"});
        assert_eq!(server.post(&table("ns$t", "count_rows"), body).await.ok(), 6);
    }
}

both! {
    /// Without a version a table is only declared, and can be written anew.
    async fn all_versions_go(server: TestServer) {
        let location = with_versions(&server).await;
        let deleted = delete(&server, &[(0, -1)]).await.ok();
        assert_eq!(deleted["deleted_count"], 4, "{deleted}");
        assert_eq!(server.versions("ns$t").await, [0_u64; 0]);
        let described = server.post(&table("ns$t", "describe?check_declared=true"), json!({})).await;
        assert_eq!(described.ok()["is_only_declared"], true);
        let read = server.post(&table("ns$t", "query"), json!({"k": 10})).await;
        assert_error(&read, 409, INVALID_TABLE_STATE);
        assert!(Box::pin(lance::Dataset::open(&location)).await.is_err(), "Lance sees a version");
        assert_eq!(delete(&server, &[(0, -1)]).await.ok()["deleted_count"], 0);
        server.insert("ns$t", &batch_ab(10..12)).await;
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(server.values("ns$t").await, [10, 11]);
        assert_eq!(foreign::values(&location).await, [10, 11]);
        delete(&server, &[(0, -1)]).await.ok();
        let staged = stage(&location, batch_ab(20..21)).await;
        server.post(&table("ns$t", "version/create"), staged.claim()).await.ok();
        assert_eq!(server.values("ns$t").await, [20]);
    }
}

everywhere! {
    async fn a_restored_version_is_a_new_one(server: TestServer) {
        let location = with_versions(&server).await;
        let restored = server.post(&table("ns$t", "restore"), json!({"version": 2})).await.ok();
        assert_eq!(restored["version"], 5, "{restored}");
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4, 5]);
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3]);
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3]);
        let body = json!({"version": 4});
        assert_eq!(server.post(&table("ns$t", "count_rows"), body).await.ok(), 6);
        let described =
            server.post(&table("ns$t", "version/describe"), json!({"version": 5})).await.ok();
        let metadata = &described["version"]["metadata"];
        assert_eq!(metadata["operation"], "Restore", "{described}");
        assert_eq!(metadata["transaction_id"], text(&restored, "transaction_id"));
        assert!(!text(metadata, "committed_by").is_empty(), "{described}");
        server.insert("ns$t", &batch_ab(9..10)).await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 9]);
    }
}

everywhere! {
    async fn a_branch_is_restored_on_its_own(server: TestServer) {
        with_versions(&server).await;
        server.post(&table("ns$t", "branches/create"), json!({"name": "b"})).await.ok();
        let path = table("ns$t", "version/list?branch=b");
        let first = server.post_empty(&path).await.ok()["versions"][0]["version"].take();
        let insert = table("ns$t", "insert?branch=b");
        server.post_arrow(&insert, ipc(&[batch_ab(9..10)])).await.ok();
        let body = json!({"version": first, "branch": "b"});
        server.post(&table("ns$t", "restore"), body).await.ok();
        let on_branch = json!({"branch": "b"});
        assert_eq!(server.post(&table("ns$t", "count_rows"), on_branch).await.ok(), 6);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4]);
    }
}

everywhere! {
    async fn what_cannot_be_restored(server: TestServer) {
        with_versions(&server).await;
        server.with_declared("ns$declared").await;
        for (id, body, status, code) in [
            ("ns$t", json!({"version": 99}), 404, TABLE_VERSION_NOT_FOUND),
            ("ns$t", json!({"version": 0}), 404, TABLE_VERSION_NOT_FOUND),
            ("ns$t", json!({"version": -1}), 400, INVALID_INPUT),
            ("ns$t", json!({"version": "1"}), 400, INVALID_INPUT),
            ("ns$t", json!({}), 400, INVALID_INPUT),
            ("ns$t", json!({"version": 1, "branch": "nope"}), 404, TABLE_BRANCH_NOT_FOUND),
            ("ns$nope", json!({"version": 1}), 404, TABLE_NOT_FOUND),
            ("ns$declared", json!({"version": 1}), 404, TABLE_VERSION_NOT_FOUND),
        ] {
            let reply = server.post(&table(id, "restore"), body).await;
            assert_error(&reply, status, code);
        }
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4]);
        delete(&server, &[(2, 3)]).await.ok();
        let reply = server.post(&table("ns$t", "restore"), json!({"version": 2})).await;
        assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        assert_eq!(server.versions("ns$t").await, [1, 3, 4]);
    }
}
