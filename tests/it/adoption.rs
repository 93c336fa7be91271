//! Versions that others committed straight to storage: seen at once, never overwritten.

use serde_json::json;

use crate::support::batches::{batch, batch_ab, ints, row_count, texts};
use crate::support::code::*;
use crate::support::{assert_error, foreign, table, text};

everywhere! {
    async fn a_foreign_append_is_seen_at_once(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        assert_eq!(foreign::append(&location, batch_ab(3..5)).await, 2);
        assert_eq!(server.count("ns$t").await, 5);
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        assert_eq!(server.describe("ns$t").await["version"], 2);
        let path = table("ns$t", "version/describe");
        let described = server.post(&path, json!({"version": 2})).await.ok();
        assert_eq!(described["version"]["version"], 2);
        let listed = server.get(&table("ns$t", "fragments")).await.ok();
        assert_eq!(listed["version"], 2);
    }
}

/// Each way of looking must find the foreign version by itself, not in the wake of another.
mod each_look_adopts {
    use super::*;

    both! {
        async fn list_versions(server: TestServer) {
            let location = server.with_table("ns$t", 3).await;
            foreign::append(&location, batch_ab(3..5)).await;
            assert_eq!(server.versions("ns$t").await, [1, 2]);
        }
    }

    both! {
        async fn describe(server: TestServer) {
            let location = server.with_table("ns$t", 3).await;
            foreign::append(&location, batch_ab(3..5)).await;
            let body = json!({"version": 2});
            server
                .post(&table("ns$t", "describe"), body.clone())
                .await
                .ok();
            server.post(&table("ns$t", "exists"), body).await.ok();
        }
    }

    both! {
        async fn describe_version(server: TestServer) {
            let location = server.with_table("ns$t", 3).await;
            foreign::append(&location, batch_ab(3..5)).await;
            let body = json!({"version": 2});
            server
                .post(&table("ns$t", "version/describe"), body)
                .await
                .ok();
        }
    }

    both! {
        async fn query(server: TestServer) {
            let location = server.with_table("ns$t", 3).await;
            foreign::append(&location, batch_ab(3..5)).await;
            let rows = server.query("ns$t", json!({"k": 100})).await;
            assert_eq!(row_count(&rows), 5);
        }
    }

    both! {
        async fn insert(server: TestServer) {
            let location = server.with_table("ns$t", 3).await;
            foreign::append(&location, batch_ab(3..5)).await;
            assert_eq!(server.insert("ns$t", &batch_ab(5..6)).await["version"], 3);
            assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4, 5]);
        }
    }
}

everywhere! {
    /// What the real client does with `declare`: it writes the first version by itself.
    async fn a_foreign_first_version_creates_the_table(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        assert_eq!(foreign::create(&location, batch_ab(0..4)).await, 1);
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3]);
        let path = table("ns$t", "describe?check_declared=true");
        let described = server.post_empty(&path).await.ok();
        assert_eq!(described["is_only_declared"], false, "{described}");
        let path = "/v1/namespace/ns/table/list?include_declared=false";
        assert_eq!(server.names(path, "tables").await, ["t"]);
    }
}

everywhere! {
    async fn many_foreign_versions_are_found(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        for value in 1..25 {
            foreign::append(&location, batch_ab(value..value + 1)).await;
        }
        assert_eq!(server.count("ns$t").await, 25);
        assert_eq!(server.versions("ns$t").await, (1..26).collect::<Vec<u64>>());
        let path = table("ns$t", "version/list?limit=1&descending=true");
        let newest = server.post_empty(&path).await.ok();
        assert_eq!(newest["versions"][0]["version"], 25);
    }
}

everywhere! {
    async fn a_foreign_delete_and_overwrite_are_seen(server: TestServer) {
        let location = server.with_table("ns$t", 10).await;
        foreign::delete(&location, "a >= 4").await;
        assert_eq!(server.count("ns$t").await, 4);
        let other = batch(&[("a", ints(70..72)), ("z", texts(0..2))]);
        foreign::overwrite(&location, other).await;
        assert_eq!(server.values("ns$t").await, [70, 71]);
        let described = server.describe("ns$t").await;
        assert_eq!(described["version"], 3, "{described}");
        assert_eq!(described["schema"]["fields"][1]["name"], "z", "{described}");
    }
}

everywhere! {
    async fn an_append_goes_on_top_of_a_foreign_version(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let upload = server.upload("ns$t", &batch_ab(5..6)).await;
        foreign::append(&location, batch_ab(3..5)).await;
        let body = json!({
            "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
            "on_conflict": "rebase",
        });
        let done = server.commit("ns$t", body).await.ok();
        assert_eq!(done["version"], 3, "{done}");
        assert_eq!(done["rebased"], true, "{done}");
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4, 5]);
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4, 5]);
    }
}

everywhere! {
    /// `max_retries(0)` would rebase over a version that it did not know of.
    async fn a_strict_commit_sees_the_foreign_version(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let upload = server.upload("ns$t", &batch_ab(5..6)).await;
        foreign::append(&location, batch_ab(3..5)).await;
        let body = json!({
            "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
            "on_conflict": "fail",
        });
        let reply = server.commit("ns$t", body).await;
        assert_error(&reply, 409, CONCURRENT_MODIFICATION);
        assert_eq!(reply.body["current_version"], 2, "{}", reply.text());
        assert!(
            !text(&reply.body, "conflicting_operation").is_empty(),
            "{}",
            reply.text()
        );
        assert!(reply.body["retryable"].is_boolean(), "{}", reply.text());
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
    }
}

everywhere! {
    async fn a_strict_first_commit_sees_the_foreign_version(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        let upload = server.upload("ns$t", &batch_ab(5..6)).await;
        foreign::create(&location, batch_ab(0..2)).await;
        let body = json!({
            "operation": "overwrite", "read_version": 0, "uploads": [upload["upload_id"]],
            "on_conflict": "fail",
        });
        let reply = server.commit("ns$t", body).await;
        assert_error(&reply, 409, CONCURRENT_MODIFICATION);
        assert_eq!(reply.body["current_version"], 1, "{}", reply.text());
        assert_eq!(foreign::values(&location).await, [0, 1]);
    }
}

everywhere! {
    /// Taking turns, with the server's handle on the table kept warm.
    async fn taking_turns_loses_nothing(server: TestServer) {
        let location = server.with_table("ns$t", 0).await;
        for turn in 0..5 {
            server
                .insert("ns$t", &batch_ab(turn * 2..turn * 2 + 1))
                .await;
            foreign::append(&location, batch_ab(turn * 2 + 1..turn * 2 + 2)).await;
            assert_eq!(
                server.values("ns$t").await,
                (0..turn * 2 + 2).collect::<Vec<_>>()
            );
        }
        assert_eq!(server.versions("ns$t").await, (1..12).collect::<Vec<u64>>());
        assert_eq!(
            foreign::values(&location).await,
            (0..10).collect::<Vec<_>>()
        );
    }
}

everywhere! {
    /// Some workers upload here, some write with Lance: one commit for both kinds.
    async fn foreign_fragments_and_uploads_land_together(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        foreign::append(&location, batch_ab(1..2)).await;
        let upload = server.upload("ns$t", &batch_ab(2..4)).await;
        let fragments = foreign::fragments(&location, batch_ab(4..6)).await;
        let body = json!({
            "operation": "append", "read_version": 2, "uploads": [upload["upload_id"]],
            "fragments": fragments,
        });
        let done = server.commit("ns$t", body).await.ok();
        assert_eq!(done["version"], 3, "{done}");
        assert_eq!(done["rebased"], false, "{done}");
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4, 5]);
    }
}

everywhere! {
    async fn foreign_fragments_make_a_declared_table(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        let upload = server.upload("ns$t", &batch_ab(0..2)).await;
        let fragments = foreign::fragments(&location, batch_ab(2..4)).await;
        let body = json!({
            "operation": "overwrite", "read_version": 0, "uploads": [upload["upload_id"]],
            "fragments": fragments,
        });
        assert_eq!(server.commit("ns$t", body).await.ok()["version"], 1);
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3]);
    }
}

everywhere! {
    /// SQL is an index of what storage holds: it is all still there after a restart.
    async fn a_restart_loses_nothing(server: TestServer) {
        let mut server = server;
        let location = server.with_table("ns$t", 3).await;
        server.with_declared("ns$declared").await;
        server.insert("ns$t", &batch_ab(3..4)).await;
        let upload = server.upload("ns$t", &batch_ab(5..6)).await;
        server.restart().await;
        // And what others did while the server was down is found.
        foreign::append(&location, batch_ab(4..5)).await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3]);
        assert_eq!(server.names("/v1/table", "tables").await.len(), 2);
        let body = json!({
            "operation": "append", "read_version": 2, "uploads": [upload["upload_id"]],
        });
        server.commit("ns$t", body).await.ok();
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4, 5]);
    }
}
