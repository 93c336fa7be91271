//! MergeInsertIntoTable, on the main branch and beside it.

use arrow::array::RecordBatch;
use serde_json::json;

use crate::support::bad_arrow::bad_bodies;
use crate::support::batches::{
    batch, batch_a, batch_ab, batch_not_null, int_values, ints, ints_or_null, ipc,
    ipc_without_rows, text_values, texts,
};
use crate::support::code::*;
use crate::support::rows::{LINES, assert_recorded, newest, row, rows, rows_of, with_side};
use crate::support::{
    Reply, TestServer, assert_error, assert_error_in, assert_refused, enc, foreign, table,
};

const UPSERT: &str = "on=a&when_matched_update_all=true&when_not_matched_insert_all=true";

/// `a` and its names with another letter: `n3`, …
fn renamed(values: std::ops::Range<i32>) -> RecordBatch {
    let names = values.clone().map(|value| format!("n{value}"));
    let names = std::sync::Arc::new(arrow::array::StringArray::from_iter_values(names));
    batch(&[("a", ints(values)), ("b", names)])
}

async fn merge(server: &TestServer, id: &str, query: &str, rows: &[RecordBatch]) -> Reply {
    server.post_arrow(&table(id, &format!("merge_insert?{query}")), ipc(rows)).await
}

everywhere! {
    async fn a_merge_updates_and_inserts(server: TestServer) {
        let location = with_side(&server).await;
        for branch in LINES {
            let on = branch.map(|branch| format!("&branch={branch}")).unwrap_or_default();
            let reply = merge(&server, "ns$t", &format!("{UPSERT}{on}"), &[renamed(8..13)]).await;
            let merged = reply.ok();
            assert_eq!(merged["num_updated_rows"], 2, "{merged}");
            assert_eq!(merged["num_inserted_rows"], 3, "{merged}");
            assert_eq!(merged["num_deleted_rows"], 0, "{merged}");
            assert_recorded(&server, branch, &merged, "Update").await;
            let expected = [rows_of("s", 0..8), rows_of("n", 8..13)].concat();
            assert_eq!(rows(&server, "ns$t", branch).await, expected);
            if branch.is_none() {
                let beside = rows(&server, "ns$t", Some("side")).await;
                assert_eq!(beside, rows_of("s", 0..10), "the branch moved with main");
            }
        }
        assert_eq!(foreign::values(&location).await, (0..13).collect::<Vec<_>>());
    }
}

everywhere! {
    /// A table of rows 0 to 3 and a source of rows 2 to 5: what every flag and filter makes of them.
    async fn every_flag_of_a_merge(server: TestServer) {
        server.create_namespace("ns").await;
        let (s, n) = (|at| row("s", at), |at| row("n", at));
        let update = "when_matched_update_all=true";
        let insert = "when_not_matched_insert_all=true";
        let delete = "when_not_matched_by_source_delete=true";
        let update_if = |filter: &str| format!("when_matched_update_all_filt={}", enc(filter));
        let delete_if =
            |filter: &str| format!("when_not_matched_by_source_delete_filt={}", enc(filter));
        let cases = [
            (update.to_string(), vec![s(0), s(1), n(2), n(3)], [2, 0, 0]),
            (insert.to_string(), vec![s(0), s(1), s(2), s(3), n(4), n(5)], [0, 2, 0]),
            (delete.to_string(), vec![s(2), s(3)], [0, 0, 2]),
            (format!("{update}&{insert}&{delete}"), rows_of("n", 2..6), [2, 2, 2]),
            (format!("{update}&{}", update_if("source.a > 2")), vec![s(0), s(1), s(2), n(3)], [1, 0, 0]),
            (update_if("target.b = 's2'"), vec![s(0), s(1), n(2), s(3)], [1, 0, 0]),
            (format!("{update}&{delete}&{}", delete_if("a < 1")), vec![s(1), n(2), n(3)], [2, 0, 1]),
            (delete_if("b = 's1' OR a = 3"), vec![s(0), s(2), s(3)], [0, 0, 1]),
            (
                format!("{insert}&when_matched_update_all=false&{}", update_if("source.a > 2")),
                vec![s(0), s(1), s(2), s(3), n(4), n(5)],
                [0, 2, 0],
            ),
        ];
        for (number, (flags, expected, [updated, inserted, deleted])) in cases.iter().enumerate() {
            for use_index in ["", "&use_index=true", "&use_index=false"] {
                let id = format!("ns$t{number}{}", use_index.len());
                server.create(&id, &batch_ab(0..4)).await;
                let query = format!("on=a&{flags}{use_index}");
                let merged = merge(&server, &id, &query, &[renamed(2..6)]).await.ok();
                assert_eq!(rows(&server, &id, None).await, *expected, "{query}");
                assert_eq!(merged["num_updated_rows"], *updated, "{query}: {merged}");
                assert_eq!(merged["num_inserted_rows"], *inserted, "{query}: {merged}");
                assert_eq!(merged["num_deleted_rows"], *deleted, "{query}: {merged}");
                assert_eq!(merged["version"], 2, "{query}: {merged}");
            }
        }
    }
}

everywhere! {
    async fn a_merge_through_an_index(server: TestServer) {
        server.with_table("ns$t", 2_000).await;
        let index = json!({"column": "a", "index_type": "BTREE"});
        server.post(&table("ns$t", "create_scalar_index"), index).await.ok();
        server.insert("ns$t", &batch_ab(2_000..2_010)).await;
        for use_index in [true, false] {
            let query = format!("{UPSERT}&use_index={use_index}");
            let merged = merge(&server, "ns$t", &query, &[renamed(1_998..2_012)]).await.ok();
            let inserted = if use_index { 2 } else { 0 };
            assert_eq!(merged["num_inserted_rows"], inserted, "{merged}");
            assert_eq!(merged["num_updated_rows"], 14 - inserted, "{merged}");
            assert_eq!(server.values("ns$t").await, (0..2_012).collect::<Vec<_>>());
        }
    }
}

everywhere! {
    async fn rows_are_matched_by_several_columns(server: TestServer) {
        server.create_namespace("ns").await;
        let keyed = |keys: [i32; 3], names: std::ops::Range<i32>, value: i32| {
            batch(&[
                ("a", ints_or_null(&keys.map(Some))),
                ("b", texts(names)),
                ("c", ints(value..value + 3)),
            ])
        };
        server.create("ns$t", &keyed([1, 1, 2], 0..3, 0)).await;
        let query = "on=a&on=b&when_matched_update_all=true&when_not_matched_insert_all=true";
        // (1, s1) is there; (1, s2) and (1, s3) are not.
        let merged = merge(&server, "ns$t", query, &[keyed([1, 1, 1], 1..4, 10)]).await.ok();
        assert_eq!(merged["num_updated_rows"], 1, "{merged}");
        assert_eq!(merged["num_inserted_rows"], 2, "{merged}");
        let found = server.query("ns$t", json!({"k": 100})).await;
        let mut found: Vec<_> = int_values(&found, "a")
            .into_iter()
            .zip(text_values(&found, "b"))
            .zip(int_values(&found, "c"))
            .map(|((a, b), c)| (a, b.unwrap_or_default(), c))
            .collect();
        found.sort();
        let expected = [(1, "s0", 0), (1, "s1", 10), (1, "s2", 11), (1, "s3", 12), (2, "s2", 2)];
        assert_eq!(found, expected.map(|(a, b, c)| (a, b.to_string(), c)));
    }
}

everywhere! {
    /// There is nothing to merge with, so the table is made of the rows.
    async fn a_merge_makes_a_declared_table(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        for query in ["on=nope&when_not_matched_insert_all=true", "on=c&when_matched_update_all=true"] {
            let reply = merge(&server, "ns$t", query, &[batch_ab(0..5)]).await;
            assert_refused(&reply);
            assert_eq!(server.versions("ns$t").await, [0_u64; 0], "{query} made the table");
        }
        let merged = merge(&server, "ns$t", UPSERT, &[batch_ab(0..5)]).await.ok();
        assert_eq!(merged["num_inserted_rows"], 5, "{merged}");
        assert_eq!(merged["version"], 1, "{merged}");
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
        let merged = merge(&server, "ns$t", UPSERT, &[renamed(4..6)]).await.ok();
        assert_eq!(merged["num_inserted_rows"], 1, "{merged}");
        let expected = [rows_of("s", 0..4), rows_of("n", 4..6)].concat();
        assert_eq!(rows(&server, "ns$t", None).await, expected);
    }
}

both! {
    async fn a_merge_that_is_wrong_changes_nothing(server: TestServer) {
        with_side(&server).await;
        let before = server.snapshot().await;
        let bomb = format!("{}source.a=1{}", "(".repeat(3_000), ")".repeat(3_000));
        let cases = [
            ("on=nope&when_not_matched_insert_all=true", 404, TABLE_COLUMN_NOT_FOUND),
            ("when_not_matched_insert_all=true", 400, INVALID_INPUT),
            ("on=&when_not_matched_insert_all=true", 400, INVALID_INPUT),
            ("on=a", 400, INVALID_INPUT),
            ("on=a&when_matched_update_all=false", 400, INVALID_INPUT),
            ("on=a&on=a&when_matched_update_all=true", 400, INVALID_INPUT),
            ("on=a&when_matched_update_all=perhaps", 400, INVALID_INPUT),
            ("on=a&when_matched_update_all=true&use_index=perhaps", 400, INVALID_INPUT),
            ("on=a&when_matched_update_all=true&timeout=soon", 400, INVALID_INPUT),
            ("on=a&when_matched_update_all=true&timeout=-5s", 400, INVALID_INPUT),
            ("on=a&when_matched_update_all=true&timeout=0s", 400, INVALID_INPUT),
            ("on=a&when_matched_update_all_filt=source.a+%3E%3E%3E+1", 400, INVALID_INPUT),
            ("on=a&when_matched_update_all_filt=source.nope+%3D+1", 404, TABLE_COLUMN_NOT_FOUND),
            ("on=a&when_matched_update_all_filt=source.b", 400, INVALID_INPUT),
            ("on=a&when_not_matched_by_source_delete_filt=a+%3D", 400, INVALID_INPUT),
            ("on=a&when_not_matched_by_source_delete_filt=nope+%3D+1", 404, TABLE_COLUMN_NOT_FOUND),
            ("on=a&when_not_matched_by_source_delete_filt=a+%2B+1", 400, INVALID_INPUT),
            ("on=a&when_matched_update_all=true&branch=nope", 404, TABLE_BRANCH_NOT_FOUND),
        ];
        for (query, status, code) in cases {
            let reply = merge(&server, "ns$t", query, &[renamed(8..12)]).await;
            assert_error(&reply, status, code);
        }
        for filter in ["when_matched_update_all_filt", "when_not_matched_by_source_delete_filt"] {
            let query = format!("on=a&{filter}={}", enc(&bomb));
            assert_error(&merge(&server, "ns$t", &query, &[renamed(8..12)]).await, 400, INVALID_INPUT);
        }
        let reply = merge(&server, "ns$nope", UPSERT, &[renamed(8..12)]).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        server.assert_unchanged(&before, "wrong merges").await;
        assert_eq!(rows(&server, "ns$t", None).await, rows_of("s", 0..10));
        assert_eq!(server.versions("ns$t").await, [1]);
    }
}

both! {
    async fn rows_that_do_not_fit_change_nothing(server: TestServer) {
        server.with_table("ns$t", 10).await;
        let before = server.snapshot().await;
        let misfits = [
            ("no key", batch(&[("b", texts(0..3))])),
            ("another type", batch(&[("a", ints(8..12)), ("b", ints(8..12))])),
            ("another type of the key", batch(&[("a", texts(8..12)), ("b", texts(8..12))])),
            ("one column too many", batch(&[("a", ints(8..12)), ("b", texts(8..12)), ("c", ints(0..4))])),
        ];
        for (what, rows) in misfits {
            let reply = merge(&server, "ns$t", UPSERT, &[rows]).await;
            assert_error_in(&reply, 400, &[INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR]);
            assert!(what != "another type" || reply.body["code"] == TABLE_SCHEMA_VALIDATION_ERROR, "{}", reply.text());
        }
        for (what, body) in bad_bodies(["a", "b"]) {
            let reply = server.post_arrow(&table("ns$t", &format!("merge_insert?{UPSERT}")), body).await;
            assert_eq!(reply.status, 400, "{what}: {}", reply.text());
            assert_error_in(&reply, 400, &[INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR]);
        }
        server.assert_unchanged(&before, "rows that do not fit").await;
        assert_eq!(rows(&server, "ns$t", None).await, rows_of("s", 0..10));
        assert_eq!(server.versions("ns$t").await, [1]);
    }
}

both! {
    /// A column that the source lacks keeps its values, and is null in new rows.
    async fn a_source_of_some_columns(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let merged = merge(&server, "ns$t", UPSERT, &[batch_a(2..4)]).await.ok();
        assert_eq!(merged["num_updated_rows"], 1, "{merged}");
        let mut expected = rows_of("s", 0..3);
        expected.push((3, None));
        assert_eq!(rows(&server, "ns$t", None).await, expected);
        let strict = batch_not_null("b", 0..3);
        let strict = RecordBatch::try_from_iter_with_nullable([
            ("a", ints(0..3), true),
            ("b", strict.column(0).clone(), false),
        ]);
        server.create("ns$strict", &strict.expect("columns of one length")).await;
        let before = server.snapshot().await;
        let reply = merge(&server, "ns$strict", UPSERT, &[batch_a(2..4)]).await;
        assert_error_in(&reply, 400, &[INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR]);
        server.assert_unchanged(&before, "a null where none may be").await;
        assert_eq!(server.versions("ns$strict").await, [1]);
    }
}

everywhere! {
    /// Which of two rows is to update a row is not the server's to guess. Rows of one new key are
    /// all inserted, as Lance does.
    async fn keys_that_come_twice(server: TestServer) {
        server.with_table("ns$t", 10).await;
        let twice = [renamed(8..11), renamed(9..12)];
        let reply = merge(&server, "ns$t", UPSERT, &twice).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert_eq!(rows(&server, "ns$t", None).await, rows_of("s", 0..10));
        assert_eq!(server.versions("ns$t").await, [1]);
        let new = [renamed(20..21), renamed(20..21)];
        let merged = merge(&server, "ns$t", UPSERT, &new).await.ok();
        assert_eq!(merged["num_inserted_rows"], 2, "{merged}");
        assert_eq!(server.count("ns$t").await, 12);
    }
}

everywhere! {
    /// Null is no key: it matches nothing, not even null.
    async fn null_keys(server: TestServer) {
        server.create_namespace("ns").await;
        let with_null =
            || batch(&[("a", ints_or_null(&[Some(1), None])), ("b", texts(0..2))]);
        server.create("ns$t", &with_null()).await;
        let reply = merge(&server, "ns$t", UPSERT, &[with_null()]).await;
        assert!(reply.status < 500, "{}", reply.text());
        let ones = server.post(&table("ns$t", "count_rows"), json!({"predicate": "a = 1"})).await;
        assert_eq!(ones.ok(), 1);
    }
}

both! {
    async fn a_merge_that_runs_out_of_time_changes_nothing(server: TestServer) {
        server.with_table("ns$t", 10).await;
        let before = server.snapshot().await;
        for timeout in ["1us", "1ms"] {
            let query = format!("{UPSERT}&timeout={timeout}");
            let reply = merge(&server, "ns$t", &query, &[renamed(5..5_000)]).await;
            assert_error(&reply, 503, SERVICE_UNAVAILABLE);
            assert!(reply.header("retry-after").is_some());
        }
        server.assert_unchanged(&before, "a merge without time").await;
        assert_eq!(rows(&server, "ns$t", None).await, rows_of("s", 0..10));
        assert_eq!(server.versions("ns$t").await, [1]);
        let query = format!("{UPSERT}&timeout=1m");
        merge(&server, "ns$t", &query, &[renamed(9..11)]).await.ok();
        assert_eq!(server.count("ns$t").await, 11);
    }
}

everywhere! {
    async fn a_source_without_rows(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let stream = || ipc_without_rows(&batch_ab(0..1).schema());
        let path = table("ns$t", &format!("merge_insert?{UPSERT}"));
        let merged = server.post_arrow(&path, stream()).await.ok();
        assert_eq!(merged["num_inserted_rows"], 0, "{merged}");
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        assert_eq!(merged["version"], newest(&server, "ns$t", None).await["version"]);
        let path = table("ns$t", "merge_insert?on=a&when_not_matched_by_source_delete=true");
        let merged = server.post_arrow(&path, stream()).await.ok();
        assert_eq!(merged["num_deleted_rows"], 3, "{merged}");
        assert_eq!(server.count("ns$t").await, 0);
    }
}
