//! UpdateTable and DeleteFromTable, on the main branch and beside it.

use serde_json::{Value, json};

use crate::support::batches::{batch_ab, int_values};
use crate::support::code::*;
use crate::support::rows::{LINES, Row, assert_recorded, newest, rows, rows_of, with_side};
use crate::support::{assert_error, foreign, table};

fn with_branch(mut body: Value, branch: Option<&str>) -> Value {
    if let Some(branch) = branch {
        body["branch"] = json!(branch);
    }
    body
}

everywhere! {
    async fn an_update_computes_from_the_row_as_it_is(server: TestServer) {
        with_side(&server).await;
        for branch in LINES {
            let body = json!({
                "predicate": "a >= 8",
                "updates": [["a", "a * 10"], ["b", "concat(b, '-', b)"]],
            });
            let updated = server.post(&table("ns$t", "update"), with_branch(body, branch)).await.ok();
            assert_eq!(updated["updated_rows"], 2, "{updated}");
            assert!(updated["properties"].is_object(), "{updated}");
            assert_recorded(&server, branch, &updated, "Update").await;
            let mut expected = rows_of("s", 0..8);
            expected.extend([(80, Some("s8-s8".into())), (90, Some("s9-s9".into()))]);
            assert_eq!(rows(&server, "ns$t", branch).await, expected);
            let read = json!({"k": 100, "version": 1});
            assert_eq!(int_values(&server.query("ns$t", read).await, "a"), (0..10).collect::<Vec<_>>());
        }
    }
}

everywhere! {
    /// Lance would compute the one from the other as it becomes, or as it was, as luck has it.
    async fn columns_that_change_together_are_not_mixed(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for updates in [
            json!([["a", "a * 10"], ["b", "concat(b, '-', cast(a as string))"]]),
            json!([["b", "cast(a as string)"], ["a", "length(b)"]]),
        ] {
            let reply = server.post(&table("ns$t", "update"), json!({"updates": updates})).await;
            assert_error(&reply, 406, UNSUPPORTED);
        }
        assert_eq!(rows(&server, "ns$t", None).await, rows_of("s", 0..3));
        let body = json!({"updates": [["b", "concat(b, '-', cast(a as string))"]]});
        server.post(&table("ns$t", "update"), body).await.ok();
        let expected: Vec<Row> = (0..3).map(|a| (a, Some(format!("s{a}-{a}")))).collect();
        assert_eq!(rows(&server, "ns$t", None).await, expected);
    }
}

everywhere! {
    async fn an_update_without_a_predicate_is_of_all_rows(server: TestServer) {
        server.with_table("ns$t", 10).await;
        for (turn, predicate) in [Value::Null, json!(""), json!("true")].into_iter().enumerate() {
            let body = json!({"predicate": predicate, "updates": [["b", format!("'{turn}'")]]});
            let updated = server.post(&table("ns$t", "update"), body).await.ok();
            assert_eq!(updated["updated_rows"], 10, "{updated}");
            let all: Vec<Row> = (0..10).map(|a| (a, Some(turn.to_string()))).collect();
            assert_eq!(rows(&server, "ns$t", None).await, all);
        }
        let body = json!({"updates": [["b", "null"]]});
        server.post(&table("ns$t", "update"), body).await.ok();
        assert!(rows(&server, "ns$t", None).await.iter().all(|(_, b)| b.is_none()));
    }
}

everywhere! {
    /// The version that is answered is the newest one, whether or not there was something to do.
    async fn changes_that_match_nothing(server: TestServer) {
        with_side(&server).await;
        for branch in LINES {
            let body = json!({"predicate": "a > 100", "updates": [["b", "'x'"]]});
            let updated = server.post(&table("ns$t", "update"), with_branch(body, branch)).await.ok();
            assert_eq!(updated["updated_rows"], 0, "{updated}");
            assert_eq!(newest(&server, "ns$t", branch).await["version"], updated["version"]);
            let body = with_branch(json!({"predicate": "a > 100"}), branch);
            let deleted = server.post(&table("ns$t", "delete"), body).await.ok();
            assert_eq!(newest(&server, "ns$t", branch).await["version"], deleted["version"]);
            assert_eq!(rows(&server, "ns$t", branch).await, rows_of("s", 0..10));
        }
    }
}

everywhere! {
    async fn an_update_keeps_properties(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let body = json!({"updates": [["b", "'x'"]], "properties": {"k": "1", "ö": ""}});
        let updated = server.post(&table("ns$t", "update"), body).await.ok();
        assert_eq!(updated["properties"], json!({"k": "1", "ö": ""}), "{updated}");
        let body = json!({"updates": [["b", "'y'"]], "properties": {"k": "2"}});
        server.post(&table("ns$t", "update"), body).await.ok();
        let described = server.describe("ns$t").await;
        assert_eq!(described["properties"], json!({"k": "2", "ö": ""}), "{described}");
    }
}

both! {
    async fn updates_that_are_wrong_change_nothing(server: TestServer) {
        with_side(&server).await;
        let before = server.snapshot().await;
        let deep = format!("a{}", "+1".repeat(20_000));
        let cases = [
            (json!({"updates": [["nope", "1"]]}), 404, TABLE_COLUMN_NOT_FOUND),
            (json!({"updates": [["b", "nope"]]}), 404, TABLE_COLUMN_NOT_FOUND),
            (json!({"updates": [["b", "'x'"]], "predicate": "nope = 1"}), 404, TABLE_COLUMN_NOT_FOUND),
            (json!({"updates": [["b", "'x'"]], "branch": "nope"}), 404, TABLE_BRANCH_NOT_FOUND),
            (json!({"updates": [["b", "'x'"], ["b", "'y'"]]}), 400, INVALID_INPUT),
            (json!({"updates": []}), 400, INVALID_INPUT),
            (json!({}), 400, INVALID_INPUT),
            (json!({"updates": null}), 400, INVALID_INPUT),
            (json!({"updates": ["b", "1"]}), 400, INVALID_INPUT),
            (json!({"updates": [["b"]]}), 400, INVALID_INPUT),
            (json!({"updates": [["b", "1", "2"]]}), 400, INVALID_INPUT),
            (json!({"updates": [{"b": "1"}]}), 400, INVALID_INPUT),
            (json!({"updates": [["b", 1]]}), 400, INVALID_INPUT),
            (json!({"updates": [["b", ""]]}), 400, INVALID_INPUT),
            (json!({"updates": [["", "1"]]}), 404, TABLE_COLUMN_NOT_FOUND),
            (json!({"updates": [["a", "'not a number'"]]}), 400, INVALID_INPUT),
            (json!({"updates": [["a", "1 +"]]}), 400, INVALID_INPUT),
            (json!({"updates": [["a", "a / 0"]]}), 400, INVALID_INPUT),
            (json!({"updates": [["a", deep]]}), 400, INVALID_INPUT),
            (json!({"updates": [["a", "1"]], "predicate": deep}), 400, INVALID_INPUT),
            (json!({"updates": [["b", "'x'"]], "predicate": "a ="}), 400, INVALID_INPUT),
            (json!({"updates": [["b", "'x'"]], "predicate": "a + 1"}), 400, INVALID_INPUT),
            (json!({"updates": [["b", "'x'"]], "predicate": 5}), 400, INVALID_INPUT),
            (json!({"updates": [["b", "'x'"]], "id": ["ns", "other"]}), 400, INVALID_INPUT),
        ];
        for (body, status, code) in cases {
            let reply = server.post(&table("ns$t", "update"), body).await;
            assert_error(&reply, status, code);
        }
        let body = json!({"updates": [["b", "'x'"]]});
        let reply = server.post(&table("ns$nope", "update"), body).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        server.assert_unchanged(&before, "wrong updates").await;
        assert_eq!(rows(&server, "ns$t", None).await, rows_of("s", 0..10));
        assert_eq!(server.versions("ns$t").await, [1]);
    }
}

everywhere! {
    async fn a_delete_removes_what_fits(server: TestServer) {
        let location = with_side(&server).await;
        for branch in LINES {
            let body = with_branch(json!({"predicate": "a < 4 OR b = 's9'"}), branch);
            let deleted = server.post(&table("ns$t", "delete"), body).await.ok();
            assert_recorded(&server, branch, &deleted, "Delete").await;
            assert_eq!(rows(&server, "ns$t", branch).await, rows_of("s", 4..9));
        }
        assert_eq!(foreign::values(&location).await, (4..9).collect::<Vec<_>>());
        let deleted = server.post(&table("ns$t", "delete"), json!({"predicate": "true"})).await;
        assert_eq!(deleted.ok()["version"], 3);
        assert_eq!(server.count("ns$t").await, 0);
        server.insert("ns$t", &batch_ab(0..2)).await;
        assert_eq!(server.values("ns$t").await, [0, 1]);
    }
}

both! {
    async fn deletes_that_are_wrong_change_nothing(server: TestServer) {
        with_side(&server).await;
        let before = server.snapshot().await;
        let cases = [
            (json!({"predicate": ""}), 400, INVALID_INPUT),
            (json!({"predicate": "  "}), 400, INVALID_INPUT),
            (json!({}), 400, INVALID_INPUT),
            (json!({"predicate": null}), 400, INVALID_INPUT),
            (json!({"predicate": 1}), 400, INVALID_INPUT),
            (json!({"predicate": "a ="}), 400, INVALID_INPUT),
            (json!({"predicate": "a + 1"}), 400, INVALID_INPUT),
            (json!({"predicate": "b"}), 400, INVALID_INPUT),
            (json!({"predicate": "a = 1; drop"}), 400, INVALID_INPUT),
            (json!({"predicate": "nope = 1"}), 404, TABLE_COLUMN_NOT_FOUND),
            (json!({"predicate": format!("{}true", "NOT ".repeat(5_000))}), 400, INVALID_INPUT),
            (json!({"predicate": "true", "branch": "nope"}), 404, TABLE_BRANCH_NOT_FOUND),
        ];
        for (body, status, code) in cases {
            let reply = server.post(&table("ns$t", "delete"), body).await;
            assert_error(&reply, status, code);
        }
        let reply = server.post(&table("ns$nope", "delete"), json!({"predicate": "true"})).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        server.assert_unchanged(&before, "wrong deletes").await;
        assert_eq!(rows(&server, "ns$t", None).await, rows_of("s", 0..10));
        assert_eq!(server.versions("ns$t").await, [1]);
    }
}

everywhere! {
    async fn a_declared_table_has_no_rows_to_change(server: TestServer) {
        server.with_declared("ns$t").await;
        let body = json!({"updates": [["a", "1"]], "predicate": "true"});
        for operation in ["update", "delete"] {
            let reply = server.post(&table("ns$t", operation), body.clone()).await;
            assert_error(&reply, 409, INVALID_TABLE_STATE);
        }
    }
}
