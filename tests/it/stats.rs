//! GetTableStats.

use serde_json::{Value, json};

use crate::support::batches::{batch_ab, ipc, ipc_without_rows};
use crate::support::code::*;
use crate::support::{TestServer, assert_error, foreign, table};

async fn stats(server: &TestServer, body: Value) -> Value {
    server.post(&table("ns$t", "stats"), body).await.ok()
}

both! {
    async fn rows_bytes_and_fragments_are_counted(server: TestServer) {
        let location = server.with_table("ns$t", 10).await;
        server.insert("ns$t", &batch_ab(10..40)).await;
        server.insert("ns$t", &batch_ab(40..42)).await;
        let stats = stats(&server, json!({})).await;
        assert_eq!(stats["num_rows"], 42);
        assert_eq!(stats["num_indices"], 0);
        assert!(stats["total_bytes"].as_u64() > Some(42 * 4), "{stats}");
        let fragments = &stats["fragment_stats"];
        assert_eq!(fragments["num_fragments"], 3);
        assert_eq!(fragments["num_small_fragments"], 3);
        let expected = json!({
            "min": 2, "max": 30, "mean": 14, "p25": 2, "p50": 10, "p75": 30, "p99": 30,
        });
        assert_eq!(fragments["lengths"], expected);
        // Deleted rows are in the fragments still.
        foreign::delete(&location, "a < 5").await;
        let path = table("ns$t", "stats");
        let after = server.post_empty(&path).await.ok();
        assert_eq!(after["num_rows"], 37);
        assert_eq!(after["fragment_stats"]["lengths"]["p50"], 10);
    }
}

both! {
    async fn large_fragments_are_not_small(server: TestServer) {
        server.with_table("ns$t", 100_000).await;
        server.insert("ns$t", &batch_ab(0..99_999)).await;
        let stats = stats(&server, json!({})).await;
        assert_eq!(stats["fragment_stats"]["num_fragments"], 2);
        assert_eq!(stats["fragment_stats"]["num_small_fragments"], 1);
    }
}

both! {
    async fn an_empty_table_has_zeros(server: TestServer) {
        server.create_namespace("ns").await;
        let empty = ipc_without_rows(&batch_ab(0..1).schema());
        server.post_arrow(&table("ns$t", "create"), empty).await.ok();
        let stats = stats(&server, json!({})).await;
        let zeros = json!({"min": 0, "max": 0, "mean": 0, "p25": 0, "p50": 0, "p75": 0, "p99": 0});
        let expected = json!({
            "total_bytes": 0, "num_rows": 0, "num_indices": 0,
            "fragment_stats": {"num_fragments": 0, "num_small_fragments": 0, "lengths": zeros},
        });
        assert_eq!(stats, expected);
    }
}

both! {
    async fn a_branch_has_its_own(server: TestServer) {
        server.with_table("ns$t", 10).await;
        server.post(&table("ns$t", "branches/create"), json!({"name": "b"})).await.ok();
        let insert = table("ns$t", "insert?branch=b");
        server.post_arrow(&insert, ipc(&[batch_ab(0..5)])).await.ok();
        let on_branch = stats(&server, json!({"branch": "b"})).await;
        assert_eq!(on_branch["num_rows"], 15);
        assert_eq!(on_branch["fragment_stats"]["num_fragments"], 2);
        let on_main = stats(&server, json!({"branch": "main"})).await;
        assert_eq!(on_main["num_rows"], 10);
        // The files of the parent count on the branch as well.
        assert!(on_branch["total_bytes"].as_u64() > on_main["total_bytes"].as_u64());
        let nowhere = server.post(&table("ns$t", "stats"), json!({"branch": "nowhere"})).await;
        assert_error(&nowhere, 404, TABLE_BRANCH_NOT_FOUND);
    }
}

both! {
    async fn stats_need_a_table_with_a_version(server: TestServer) {
        server.with_declared("ns$d").await;
        let declared = server.post_empty(&table("ns$d", "stats")).await;
        assert_error(&declared, 409, INVALID_TABLE_STATE);
        let absent = server.post_empty(&table("ns$none", "stats")).await;
        assert_error(&absent, 404, TABLE_NOT_FOUND);
        let body = json!({"branch": 1});
        assert_error(&server.post(&table("ns$d", "stats"), body).await, 400, INVALID_INPUT);
    }
}
