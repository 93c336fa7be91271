//! CreateTable and InsertIntoTable.

use serde_json::json;

use crate::support::batches::{
    batch, batch_a, batch_ab, batch_not_null, ints, ipc, ipc_without_rows, row_count, texts,
};
use crate::support::code::*;
use crate::support::{assert_error, assert_error_in, assert_refused, enc, foreign, table, text};

/// A misfit is wrong input or a schema error; the documents allow both.
const MISFIT: [u64; 2] = [INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR];

everywhere! {
    async fn create_then_read(server: TestServer) {
        server.create_namespace("ns").await;
        let created = server.create("ns$t", &batch_ab(0..10)).await;
        assert_eq!(created["version"], 1, "{created}");
        assert!(created["properties"].is_object(), "{created}");
        let location = text(&created, "location");
        assert_eq!(server.location("ns$t").await, location);
        assert_eq!(server.values("ns$t").await, (0..10).collect::<Vec<_>>());
        // The table needs no catalog to be read.
        assert_eq!(
            foreign::values(&location).await,
            (0..10).collect::<Vec<_>>()
        );
    }
}

everywhere! {
    async fn create_from_a_stream_without_rows(server: TestServer) {
        server.create_namespace("ns").await;
        let stream = ipc_without_rows(&batch_ab(0..1).schema());
        server
            .post_arrow(&table("ns$t", "create"), stream)
            .await
            .ok();
        assert_eq!(server.count("ns$t").await, 0);
        let described = server.describe("ns$t").await;
        assert_eq!(
            described["schema"]["fields"].as_array().map(Vec::len),
            Some(2)
        );
        server.insert("ns$t", &batch_ab(0..3)).await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

both! {
    async fn create_again_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        for mode in ["create", "create?mode=create", "create?mode=Create"] {
            let reply = server
                .post_arrow(&table("ns$t", mode), ipc(&[batch_ab(50..60)]))
                .await;
            assert_error(&reply, 409, TABLE_ALREADY_EXISTS);
        }
        server.assert_unchanged(&before, "creating twice").await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

both! {
    async fn create_exist_ok_keeps_the_table(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let before = server.files();
        for mode in ["exist_ok", "ExistOk"] {
            let path = table("ns$t", &format!("create?mode={mode}"));
            let kept = server
                .post_arrow(&path, ipc(&[batch_ab(50..60)]))
                .await
                .ok();
            assert_eq!(kept["location"], json!(location));
        }
        server.assert_files(&before, "exist_ok").await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        let path = table("ns$fresh", "create?mode=exist_ok");
        server.post_arrow(&path, ipc(&[batch_ab(0..4)])).await.ok();
        assert_eq!(server.count("ns$fresh").await, 4);
    }
}

everywhere! {
    async fn create_overwrite_makes_the_table_anew(server: TestServer) {
        server.with_table("ns$t", 30).await;
        let other = batch(&[("a", ints(7..9)), ("other", texts(7..9))]);
        let path = table("ns$t", "create?mode=Overwrite");
        server.post_arrow(&path, ipc(&[other])).await.ok();
        assert_eq!(server.values("ns$t").await, [7, 8]);
        let described = server.describe("ns$t").await;
        assert_eq!(described["schema"]["fields"][1]["name"], "other");
        let path = table("ns$fresh", "create?mode=overwrite");
        server.post_arrow(&path, ipc(&[batch_ab(0..4)])).await.ok();
        assert_eq!(server.count("ns$fresh").await, 4);
    }
}

both! {
    async fn create_overwrite_that_fails_keeps_the_table(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let mut stream = ipc(&[batch_ab(50..60)]);
        stream.truncate(stream.len() - 8);
        let reply = server
            .post_arrow(&table("ns$t", "create?mode=overwrite"), stream)
            .await;
        assert_error(&reply, 400, INVALID_INPUT);
        server.assert_unchanged(&before, "a failed overwrite").await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

both! {
    async fn create_in_a_missing_namespace(server: TestServer) {
        let before = server.snapshot().await;
        let reply = server
            .post_arrow("/v1/table/nope$t/create", ipc(&[batch_ab(0..3)]))
            .await;
        assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
        server
            .assert_unchanged(&before, "a missing namespace")
            .await;
    }
}

both! {
    async fn unknown_modes_are_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        for operation in [
            "create?mode=sometimes",
            "insert?mode=sometimes",
            "insert?mode=create",
        ] {
            let reply = server
                .post_arrow(&table("ns$t", operation), ipc(&[batch_ab(3..4)]))
                .await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        server.assert_unchanged(&before, "unknown modes").await;
    }
}

everywhere! {
    /// By query in the document, by header in its prose: clients do either.
    async fn create_takes_properties_both_ways(server: TestServer) {
        server.create_namespace("ns").await;
        let properties = json!({"user": "alice", "note": "it's 表"}).to_string();
        let path = table(
            "ns$query",
            &format!("create?properties={}", enc(&properties)),
        );
        let created = server.post_arrow(&path, ipc(&[batch_ab(0..1)])).await.ok();
        assert_eq!(created["properties"]["user"], "alice");
        let request = server
            .arrow_request(&table("ns$header", "create"))
            .header(
                "x-lance-table-properties",
                r#"{"user": "alice", "note": "plain"}"#,
            )
            .body(ipc(&[batch_ab(0..1)]));
        let created = server.send(request).await.ok();
        assert_eq!(created["properties"]["user"], "alice");
        for (id, note) in [("ns$query", "it's 表"), ("ns$header", "plain")] {
            let described = server.post_empty(&table(id, "describe")).await.ok();
            assert_eq!(described["properties"]["user"], "alice", "{id}");
            assert_eq!(described["properties"]["note"], note, "{id}");
        }
    }
}

both! {
    async fn create_refuses_bad_properties(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.snapshot().await;
        for properties in ["x", "[1]", r#"{"a": 1}"#, r#"{"a": null}"#] {
            for parameter in ["properties", "storage_options"] {
                let path = table("ns$t", &format!("create?{parameter}={}", enc(properties)));
                let reply = server.post_arrow(&path, ipc(&[batch_ab(0..1)])).await;
                assert_error(&reply, 400, INVALID_INPUT);
            }
        }
        server.assert_unchanged(&before, "bad properties").await;
    }
}

everywhere! {
    async fn insert_appends(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for (mode, first) in [
            ("insert", 3),
            ("insert?mode=append", 5),
            ("insert?mode=Append", 7),
        ] {
            let stream = ipc(&[batch_ab(first..first + 1), batch_ab(first + 1..first + 2)]);
            let inserted = server.post_arrow(&table("ns$t", mode), stream).await.ok();
            assert_eq!(inserted["num_inserted_rows"], 2, "{inserted}");
        }
        assert_eq!(server.values("ns$t").await, (0..9).collect::<Vec<_>>());
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4]);
    }
}

everywhere! {
    async fn insert_answers_its_version(server: TestServer) {
        server.with_table("ns$t", 3).await;
        assert_eq!(server.insert("ns$t", &batch_ab(3..4)).await["version"], 2);
        assert_eq!(server.insert("ns$t", &batch_ab(4..5)).await["version"], 3);
    }
}

everywhere! {
    async fn insert_overwrite_replaces_the_rows(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        for (mode, value) in [("overwrite", 70), ("Overwrite", 80)] {
            let path = table("ns$t", &format!("insert?mode={mode}"));
            server
                .post_arrow(&path, ipc(&[batch_ab(value..value + 1)]))
                .await
                .ok();
            assert_eq!(server.values("ns$t").await, [value]);
        }
        assert_eq!(server.location("ns$t").await, location);
        let first = server.query("ns$t", json!({"k": 10, "version": 1})).await;
        assert_eq!(row_count(&first), 3, "history is kept");
    }
}

everywhere! {
    async fn insert_makes_a_declared_table(server: TestServer) {
        for mode in ["insert", "insert?mode=overwrite"] {
            let location = server.with_declared("ns$t").await;
            let stream = ipc(&[batch_ab(0..3)]);
            let inserted = server.post_arrow(&table("ns$t", mode), stream).await.ok();
            assert_eq!(inserted["version"], 1, "{inserted}");
            assert_eq!(server.values("ns$t").await, [0, 1, 2]);
            assert_eq!(foreign::values(&location).await, [0, 1, 2]);
            let path = table("ns$t", "describe?check_declared=true");
            let described = server.post_empty(&path).await.ok();
            assert_eq!(described["is_only_declared"], false);
            server.post_empty(&table("ns$t", "drop")).await.ok();
        }
    }
}

both! {
    async fn insert_into_a_missing_table(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.snapshot().await;
        let reply = server
            .post_arrow(&table("ns$t", "insert"), ipc(&[batch_ab(0..3)]))
            .await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        server.assert_unchanged(&before, "a missing table").await;
    }
}

both! {
    async fn insert_of_a_misfit_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let misfits = [
            (
                "another type",
                batch(&[("a", texts(0..2)), ("b", texts(0..2))]),
            ),
            (
                "one column more",
                batch(&[("a", ints(0..2)), ("b", texts(0..2)), ("c", ints(0..2))]),
            ),
            (
                "other names",
                batch(&[("x", ints(0..2)), ("y", texts(0..2))]),
            ),
        ];
        for (what, rows) in misfits {
            let reply = server
                .post_arrow(&table("ns$t", "insert"), ipc(&[rows]))
                .await;
            assert_error_in(&reply, 400, &MISFIT);
            server.assert_unchanged(&before, what).await;
        }
        assert_eq!(server.versions("ns$t").await, [1]);
    }
}

both! {
    async fn insert_without_a_required_column_is_refused(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch_not_null("must", 0..3)).await;
        let before = server.snapshot().await;
        let reply = server
            .post_arrow(&table("ns$t", "insert"), ipc(&[batch_a(0..3)]))
            .await;
        assert_error_in(&reply, 400, &MISFIT);
        server.assert_unchanged(&before, "a missing column").await;
        assert_eq!(server.count("ns$t").await, 3);
    }
}

both! {
    /// A write meant for a branch must not land on main.
    async fn insert_into_an_unknown_branch_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let path = table("ns$t", "insert?branch=nope");
        assert_refused(&server.post_arrow(&path, ipc(&[batch_ab(3..4)])).await);
        server.assert_unchanged(&before, "an unknown branch").await;
        assert_eq!(server.count("ns$t").await, 3);
    }
}
