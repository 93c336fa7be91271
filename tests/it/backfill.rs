//! AlterTableBackfillColumns: computed columns and the jobs that fill them.

use serde_json::{Value, json};

use crate::support::batches::{
    batch, batch_ab, int_values, ints_or_null, optional_ints, text_values,
};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, assert_refused, foreign, table, text};

async fn add(server: &TestServer, column: Value) {
    let body = json!({"new_columns": [column]});
    server.post(&table("ns$t", "add_columns"), body).await.ok();
}

async fn backfill(server: &TestServer, body: Value) -> Reply {
    server.post(&table("ns$t", "backfill_column"), body).await
}

/// Fills and waits; answers the version that the job tells.
async fn filled(server: &TestServer, body: Value) -> u64 {
    let begun = backfill(server, body).await.expect(202);
    server.succeeded(&text(&begun, "job_id")).await
}

async fn optional(server: &TestServer, column: &str) -> Vec<Option<i32>> {
    let rows = server.query("ns$t", json!({"k": 1_000})).await;
    let mut pairs: Vec<(i32, Option<i32>)> =
        int_values(&rows, "a").into_iter().zip(optional_ints(&rows, column)).collect();
    pairs.sort_unstable();
    pairs.into_iter().map(|(_, value)| value).collect()
}

/// A table of `a` and `b`, and `c`, which is to be `a + 1`.
async fn with_computed(server: &TestServer, rows: i32) -> String {
    let location = server.with_table("ns$t", rows).await;
    add(server, json!({"name": "c", "computed": "CAST(a + 1 AS INT)"})).await;
    location
}

both! {
    async fn what_is_null_gets_its_value(server: TestServer) {
        let location = with_computed(&server, 3).await;
        server.insert("ns$t", &batch_ab(3..5)).await;
        let begun = backfill(&server, json!({"column": "c"})).await.expect(202);
        let job = text(&begun, "job_id");
        assert_eq!(server.succeeded(&job).await, 4);
        let described = server.ended(&job).await["properties"].clone();
        assert_eq!(described["kind"], "backfill_column", "{described}");
        assert_eq!(described["table"], r#"["ns","t"]"#, "{described}");
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4], "one version for all rows");
        assert_eq!(optional(&server, "c").await, [1, 2, 3, 4, 5].map(Some));
        let rows = foreign::rows(&location).await;
        assert_eq!(text_values(std::slice::from_ref(&rows), "b").len(), 5);
        // It still is a computed column: what comes later is filled later.
        server.insert("ns$t", &batch_ab(5..6)).await;
        assert_eq!(optional(&server, "c").await[5], None);
        assert_eq!(filled(&server, json!({"column": "c"})).await, 6);
        assert_eq!(optional(&server, "c").await[4..], [Some(5), Some(6)]);
        let made = server.post(&table("ns$t", "version/describe"), json!({"version": 6})).await.ok();
        assert_eq!(made["version"]["metadata"]["operation"], "Update", "{made}");
    }
}

both! {
    /// A second time changes nothing, and what has a value keeps it, be it another one.
    async fn what_has_a_value_keeps_it(server: TestServer) {
        with_computed(&server, 4).await;
        let update = json!({"predicate": "a < 2", "updates": [["c", "77"]]});
        server.post(&table("ns$t", "update"), update).await.ok();
        assert_eq!(filled(&server, json!({"column": "c"})).await, 4);
        assert_eq!(optional(&server, "c").await, [77, 77, 3, 4].map(Some));
        assert_eq!(filled(&server, json!({"column": "c"})).await, 4, "there is nothing to do");
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4]);
    }
}

both! {
    /// Rows whose value is null by the expression itself make no version again and again.
    async fn a_value_may_be_null(server: TestServer) {
        server.create_namespace("ns").await;
        let rows = batch(&[("a", ints_or_null(&[Some(0), None, Some(2)]))]);
        server.create("ns$t", &rows).await;
        add(&server, json!({"name": "c", "computed": "CAST(a * 10 AS INT)"})).await;
        assert_eq!(filled(&server, json!({"column": "c"})).await, 3);
        let rows = server.query("ns$t", json!({"k": 9})).await;
        let mut values = optional_ints(&rows, "c");
        values.sort_unstable();
        assert_eq!(values, [None, Some(0), Some(20)]);
        assert_eq!(filled(&server, json!({"column": "c"})).await, 3);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3]);
    }
}

everywhere! {
    async fn only_some_rows(server: TestServer) {
        with_computed(&server, 5).await;
        let version = filled(&server, json!({"column": "c", "where": "a >= 3 -- the last"})).await;
        assert_eq!(version, 3);
        assert_eq!(optional(&server, "c").await, [None, None, None, Some(4), Some(5)]);
        // The filter reaches no row that has a value, and not past its parentheses.
        filled(&server, json!({"column": "c", "where": "a = 0 OR a = 4"})).await;
        assert_eq!(optional(&server, "c").await, [Some(1), None, None, Some(4), Some(5)]);
        assert_eq!(filled(&server, json!({"column": "c", "where": "a = 99"})).await, 4);
        filled(&server, json!({"column": "c", "where": null})).await;
        assert_eq!(optional(&server, "c").await, [1, 2, 3, 4, 5].map(Some));
    }
}

both! {
    /// The rows that the filter leaves out are not computed: they may be those that cannot be.
    async fn rows_that_cannot_be_computed_are_left_out(server: TestServer) {
        server.with_table("ns$t", 3).await;
        add(&server, json!({"name": "c", "computed": "CAST(12 / a AS INT)"})).await;
        let begun = backfill(&server, json!({"column": "c"})).await.expect(202);
        let ended = server.ended(&text(&begun, "job_id")).await;
        assert_eq!(ended["status"], "Failed", "{ended}");
        let why = text(&ended["properties"], "error");
        assert!(why.contains("zero") && !why.contains(".rs"), "{why}");
        assert_eq!(server.versions("ns$t").await, [1, 2], "nothing was changed");
        filled(&server, json!({"column": "c", "where": "a <> 0"})).await;
        assert_eq!(optional(&server, "c").await, [None, Some(12), Some(6)]);
    }
}

both! {
    async fn names_constants_and_texts(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        add(&server, json!({"name": "one more name", "computed": "CAST(7 AS INT)"})).await;
        add(&server, json!({"name": "shout", "computed": "upper(b)"})).await;
        filled(&server, json!({"column": "`one more name`"})).await;
        filled(&server, json!({"column": "shout"})).await;
        let rows = [foreign::rows(&location).await];
        assert_eq!(int_values(&rows, "one more name"), [7; 3]);
        assert_eq!(text_values(&rows, "shout")[2], Some("S2".into()));
    }
}

both! {
    async fn a_branch_is_filled_by_itself(server: TestServer) {
        with_computed(&server, 3).await;
        let branch = json!({"name": "dev"});
        server.post(&table("ns$t", "branches/create"), branch).await.ok();
        filled(&server, json!({"column": "c", "branch": "dev"})).await;
        assert_eq!(optional(&server, "c").await, [None; 3]);
        let body = json!({"k": 9, "branch": "dev"});
        assert_eq!(int_values(&server.query("ns$t", body).await, "c"), [1, 2, 3]);
        let reply = backfill(&server, json!({"column": "c", "branch": "none"})).await;
        assert_error(&reply, 404, TABLE_BRANCH_NOT_FOUND);
    }
}

both! {
    async fn what_cannot_be_filled_is_refused(server: TestServer) {
        with_computed(&server, 3).await;
        let before = server.snapshot().await;
        for (body, status, code) in [
            (json!({}), 400, INVALID_INPUT),
            (json!({"column": ""}), 400, INVALID_INPUT),
            (json!({"column": 7}), 400, INVALID_INPUT),
            (json!({"column": "a"}), 400, INVALID_INPUT),
            (json!({"column": "a.`"}), 400, INVALID_INPUT),
            (json!({"column": "no"}), 404, TABLE_COLUMN_NOT_FOUND),
            (json!({"column": "c", "where": "no > 1"}), 404, TABLE_COLUMN_NOT_FOUND),
            (json!({"column": "c", "where": "a >"}), 400, INVALID_INPUT),
            (json!({"column": "c", "where": "a = 1) OR (a = 2"}), 400, INVALID_INPUT),
            (json!({"column": "c", "where": "b"}), 400, INVALID_INPUT),
            (json!({"column": "c", "where": "(".repeat(1_000)}), 400, INVALID_INPUT),
            (json!({"column": "c", "read_version": 9}), 404, TABLE_VERSION_NOT_FOUND),
            (json!({"column": "c", "read_version": -1}), 400, INVALID_INPUT),
            (json!({"column": "c", "concurrency": -1}), 400, INVALID_INPUT),
            (json!({"column": "c", "task_size": -1}), 400, INVALID_INPUT),
            (json!({"column": "c", "num_frags": 0.5}), 400, INVALID_INPUT),
            (
                json!({"column": "c", "batch_checkpoint_flush_interval_seconds": -0.5}),
                400,
                INVALID_INPUT,
            ),
            (json!({"column": "c", "id": ["ns", "other"]}), 400, INVALID_INPUT),
        ] {
            let reply = backfill(&server, body.clone()).await;
            assert_eq!(reply.status, status, "{body}: {}", reply.text());
            assert_error(&reply, status, code);
            assert!(!reply.text().contains(".rs"), "{}", reply.text());
        }
        let reply = server.post(&table("ns$no", "backfill_column"), json!({"column": "c"})).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        server.with_declared("ns$empty").await;
        let path = table("ns$empty", "backfill_column");
        assert_refused(&server.post(&path, json!({"column": "c"})).await);
        server.post_empty(&table("ns$empty", "deregister")).await.ok();
        server.assert_unchanged(&before, "backfills of nothing").await;
        // What only tunes is read.
        let body = json!({"column": "c", "read_version": 1, "concurrency": 4, "cluster": "x",
            "intra_applier_concurrency": 2, "min_checkpoint_size": 1, "max_checkpoint_size": 2,
            "batch_checkpoint_flush_interval_seconds": 0.5, "task_size": 10, "num_frags": 1,
            "checkpoint_size": 10, "commit_granularity": 1, "manifest": "{}"});
        filled(&server, body).await;
        assert_eq!(optional(&server, "c").await, [1, 2, 3].map(Some));
    }
}

both! {
    /// What is kept with a column is anybody's to write.
    async fn the_expression_is_not_trusted(server: TestServer) {
        let location = with_computed(&server, 3).await;
        for (expression, status, code) in [
            ("repeat('x', 1000000000)".to_string(), 400, INVALID_INPUT),
            ("(".repeat(10_000), 400, INVALID_INPUT),
            (format!("a{}", " + a".repeat(5_000)), 400, INVALID_INPUT),
            ("a +".to_string(), 400, INVALID_INPUT),
            ("nothing + 1".to_string(), 404, TABLE_COLUMN_NOT_FOUND),
            (String::new(), 400, INVALID_INPUT),
        ] {
            foreign::set_field_metadata(&location, "c", "tiltyard:computed", &expression).await;
            let reply = backfill(&server, json!({"column": "c"})).await;
            assert_eq!(reply.status, status, "{:.40}: {}", expression, reply.text());
            assert_error(&reply, status, code);
        }
        server.get("/healthz").await.ok();
    }
}

both! {
    /// Rows that come, go and change while a column is filled are neither lost nor doubled.
    async fn others_write_meanwhile(server: TestServer) {
        with_computed(&server, 2_000).await;
        let mut jobs = Vec::new();
        for round in 0..4 {
            let begun = backfill(&server, json!({"column": "c"})).await.expect(202);
            jobs.push(text(&begun, "job_id"));
            let first = 2_000 + round * 10;
            server.insert("ns$t", &batch_ab(first..first + 10)).await;
            let delete = json!({"predicate": format!("a = {round}")});
            server.post(&table("ns$t", "delete"), delete).await.ok();
        }
        for job in jobs {
            server.succeeded(&job).await;
        }
        filled(&server, json!({"column": "c"})).await;
        assert_eq!(server.values("ns$t").await, (4..2_040).collect::<Vec<_>>());
        let rows = server.query("ns$t", json!({"filter": "c IS NULL OR c <> a + 1"})).await;
        assert_eq!(rows.iter().map(|rows| rows.num_rows()).sum::<usize>(), 0);
    }
}

both! {
    /// A job that is over cannot be canceled; one whose table is dropped ends.
    async fn jobs_end(server: TestServer) {
        with_computed(&server, 3).await;
        let begun = backfill(&server, json!({"column": "c"})).await.expect(202);
        let job = text(&begun, "job_id");
        server.succeeded(&job).await;
        let path = format!("/v1/transaction/{job}/alter");
        let cancel = json!({"actions": [{"setStatusAction": {"status": "Canceled"}}]});
        assert_error(&server.post(&path, cancel).await, 400, INVALID_INPUT);
        server.post_empty(&table("ns$t", "drop")).await.ok();
        let path = format!("/v1/transaction/{job}/describe");
        assert_error(&server.post(&path, json!({})).await, 404, TRANSACTION_NOT_FOUND);
    }
}
