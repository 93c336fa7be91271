//! Columns that come, change and go, and what is kept with them.

use std::slice::from_ref;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, TimeUnit};
use serde_json::{Value, json};

use crate::support::batches::{
    batch, batch_ab, batch_not_null, columns, int_values, ints, ints_or_null, ipc,
    ipc_without_rows, optional_ints, text_values, texts,
};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, assert_error_in, foreign, table, text};

async fn add(server: &TestServer, new_columns: Value) -> Reply {
    server.post(&table("ns$t", "add_columns"), json!({"new_columns": new_columns})).await
}

async fn alter(server: &TestServer, alterations: Value) -> Reply {
    server.post(&table("ns$t", "alter_columns"), json!({"alterations": alterations})).await
}

async fn drop(server: &TestServer, columns: Value) -> Reply {
    server.post(&table("ns$t", "drop_columns"), json!({"columns": columns})).await
}

async fn field_metadata(server: &TestServer, updates: Value) -> Reply {
    server.post(&table("ns$t", "update_field_metadata"), json!({"updates": updates})).await
}

async fn all(server: &TestServer) -> Vec<RecordBatch> {
    server.query("ns$t", json!({"k": 1_000})).await
}

/// A table with `a`, and `p` that holds `x` and `y`.
async fn with_nested(server: &TestServer) -> String {
    let field = |name: &str| Arc::new(Field::new(name, DataType::Int32, true));
    let fields: Fields = ["x", "y"].map(field).into();
    let points = StructArray::new(fields, vec![ints(0..3), ints(10..13)], None);
    let rows = batch(&[("a", ints(0..3)), ("p", Arc::new(points) as ArrayRef)]);
    server.create_namespace("ns").await;
    server.create("ns$t", &rows).await;
    server.location("ns$t").await
}

async fn operation_of(server: &TestServer, version: u64) -> Value {
    let path = table("ns$t", "version/describe");
    let described = server.post(&path, json!({"version": version})).await.ok();
    described["version"]["metadata"].clone()
}

everywhere! {
    async fn columns_are_computed_from_others(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        server.insert("ns$t", &batch_ab(3..5)).await;
        let added = add(&server, json!([
            {"name": "twice", "expression": "a * 2"},
            {"name": "shout", "expression": "upper(b)", "computed": null},
            {"name": "one", "expression": "CAST(1 AS INT)"},
        ])).await.ok();
        assert_eq!(added, json!({"version": 3}));
        let made = operation_of(&server, 3).await;
        assert_eq!((&made["origin"], &made["operation"]), (&json!("catalog"), &json!("Merge")));
        assert!(text(&made, "committed_by").contains("anonymous"), "{made}");
        let rows = foreign::rows(&location).await;
        assert_eq!(columns(from_ref(&rows)), ["a", "b", "twice", "shout", "one"]);
        let twice = arrow::compute::cast(&rows["twice"], &DataType::Int64).expect("numbers");
        assert_eq!(twice.as_primitive::<Int64Type>().values().to_vec(), [0, 2, 4, 6, 8]);
        assert_eq!(text_values(from_ref(&rows), "shout")[4], Some("S4".into()));
        assert_eq!(int_values(&[rows], "one"), [1; 5]);
        // Rows that come later read as null, even where the expression is a constant.
        server.insert("ns$t", &batch_ab(5..6)).await;
        assert_eq!(optional_ints(&all(&server).await, "one").last(), Some(&None));
    }
}

everywhere! {
    async fn nested_and_missing_values_are_read(server: TestServer) {
        let location = with_nested(&server).await;
        foreign::delete(&location, "a = 1").await;
        add(&server, json!([{"name": "sum", "expression": "p.x + p.y"}])).await.ok();
        assert_eq!(int_values(&all(&server).await, "sum"), [10, 14]);
        let rows = foreign::rows(&location).await;
        assert_eq!(int_values(&[rows], "sum"), [10, 14]);
    }
}

everywhere! {
    async fn a_computed_column_waits(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        let computed = add(&server, json!([{"name": "c", "computed": "a + 1"}])).await.ok();
        assert_eq!(computed["version"], 2);
        let dataset = foreign::open(&location).await;
        let field = dataset.schema().field("c").expect("the column");
        assert_eq!(field.metadata["tiltyard:computed"], "a + 1");
        assert!(field.nullable && field.data_type().is_integer(), "{field:?}");
        let rows = foreign::rows(&location).await;
        assert_eq!(rows["c"].null_count(), 2);
        // Beside one that is filled at once.
        add(&server, json!([
            {"name": "d", "computed": "b"},
            {"name": "e", "expression": "a"},
        ])).await.ok();
        let rows = foreign::rows(&location).await;
        assert_eq!((rows["d"].null_count(), rows["d"].data_type()), (2, &DataType::Utf8));
        assert_eq!(int_values(&[rows], "e"), [0, 1]);
        let dataset = foreign::open(&location).await;
        assert_eq!(dataset.schema().field("d").expect("d").metadata["tiltyard:computed"], "b");
        assert!(dataset.schema().field("e").expect("e").metadata.is_empty());
    }
}

everywhere! {
    async fn a_table_without_rows_gets_columns_too(server: TestServer) {
        server.create_namespace("ns").await;
        let empty = ipc_without_rows(&batch_ab(0..1).schema());
        server.post_arrow(&table("ns$t", "create"), empty).await.ok();
        add(&server, json!([{"name": "c", "expression": "a + 1"}])).await.ok();
        add(&server, json!([{"name": "d", "computed": "c"}])).await.ok();
        server.insert("ns$t", &batch_ab(0..1)).await;
        assert_eq!(columns(&all(&server).await), ["a", "b", "c", "d"]);
    }
}

both! {
    async fn bad_new_columns_change_nothing(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let one = |name: &str, expression: &str| json!([{"name": name, "expression": expression}]);
        for columns in [
            json!([]),
            json!([{"name": "c"}]),
            json!([{"name": "c", "expression": "a", "computed": "a"}]),
            json!([{"name": "c", "expression": "a", "virtual_column": {}}]),
            json!([{"expression": "a"}]),
            json!([{"name": "c", "expression": "a"}, {"name": "c", "expression": "a"}]),
            one("a", "a"),
            one("", "a"),
            one("x.y", "a"),
            one("_rowid", "a"),
            one("c\u{0}", "a"),
            one("c", ""),
            one("c", "  "),
            one("c", "a +"),
            one("c", "a a a"),
            one("c", "(a"),
            one("c", "SELECT 1"),
            one("c", "no_such_function(a)"),
            one("c", "sum(a)"),
            one("c", "a / 0"),
            one("c", "CAST(b AS INT)"),
            one("c", "repeat('a', 1000000000)"),
            one("c", &format!("a{}", " + 1".repeat(2_000))),
            json!([{"name": "c", "computed": "a +"}]),
        ] {
            let reply = add(&server, columns.clone()).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let named = add(&server, one("col_7", "a +")).await;
        assert!(text(&named.body, "error").contains("col_7"), "{}", named.text());
        for column in [one("c", "nowhere"), json!([{"name": "c", "computed": "nowhere + 1"}])] {
            assert_error(&add(&server, column).await, 404, TABLE_COLUMN_NOT_FOUND);
        }
        let reply = add(&server, json!([{"name": "c", "virtual_column": {"udf": "x"}}])).await;
        assert_error(&reply, 406, UNSUPPORTED);
        server.assert_unchanged(&before, "bad new columns").await;
        assert_eq!(server.versions("ns$t").await, [1]);
    }
}

both! {
    async fn a_failure_in_the_middle_leaves_no_files(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.insert("ns$t", &batch_ab(3..6)).await;
        let before = server.files();
        // Only the second fragment has the value that cannot be divided by.
        let reply = add(&server, json!([{"name": "c", "expression": "10 / (a - 4)"}])).await;
        assert_error(&reply, 400, INVALID_INPUT);
        server.assert_files(&before, "an expression that fails").await;
        assert_eq!(columns(&all(&server).await), ["a", "b"]);
    }
}

everywhere! {
    async fn columns_are_renamed_and_cast(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let renamed = alter(&server, json!([{"path": "b", "rename": "name"}])).await.ok();
        assert_eq!(renamed, json!({"version": 2}));
        alter(&server, json!([{"path": "a", "data_type": {"type": "int64"}}])).await.ok();
        let rows = foreign::rows(&location).await;
        assert_eq!(columns(from_ref(&rows)), ["a", "name"]);
        assert_eq!(rows["a"].data_type(), &DataType::Int64);
        assert_eq!(rows["a"].as_primitive::<Int64Type>().values().to_vec(), [0, 1, 2]);
        // Two names may change places.
        alter(&server, json!([
            {"path": "a", "rename": "name"},
            {"path": "name", "rename": "a"},
        ])).await.ok();
        assert_eq!(columns(&all(&server).await), ["name", "a"]);
        let old = server.query("ns$t", json!({"k": 10, "version": 1})).await;
        assert_eq!(columns(&old), ["a", "b"]);
        assert_eq!(operation_of(&server, 2).await["operation"], "Project");
    }
}

everywhere! {
    async fn a_nested_field_is_altered(server: TestServer) {
        let location = with_nested(&server).await;
        alter(&server, json!([{"path": "p.x", "rename": "left"}])).await.ok();
        let dataset = foreign::open(&location).await;
        assert!(dataset.schema().field("p.left").is_some());
        let taken = alter(&server, json!([{"path": "p.left", "rename": "y"}])).await;
        assert_error(&taken, 400, INVALID_INPUT);
        drop(&server, json!(["p.y"])).await.ok();
        let dataset = foreign::open(&location).await;
        assert!(dataset.schema().field("p.y").is_none());
        let rows = foreign::rows(&location).await;
        let left = rows["p"].as_struct().column(0).as_any().downcast_ref::<Int32Array>();
        assert_eq!(left.expect("integers").values().to_vec(), [0, 1, 2]);
    }
}

everywhere! {
    async fn nulls_are_allowed_and_forbidden(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch_not_null("n", 0..2)).await;
        alter(&server, json!([{"path": "n", "nullable": true}])).await.ok();
        let more = batch(&[("n", ints_or_null(&[Some(2), None]))]);
        server.insert("ns$t", &more).await;
        let refused = alter(&server, json!([{"path": "n", "nullable": false}])).await;
        assert_error(&refused, 400, INVALID_INPUT);
        foreign::delete(&server.location("ns$t").await, "n IS NULL").await;
        alter(&server, json!([{"path": "n", "nullable": false}])).await.ok();
        let refused = server.post_arrow(&table("ns$t", "insert"), ipc(&[more])).await;
        assert_error_in(&refused, 400, &[INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR]);
    }
}

everywhere! {
    async fn times_keep_their_units(server: TestServer) {
        server.create_namespace("ns").await;
        let seconds = arrow::array::TimestampSecondArray::from(vec![1, 2]);
        server.create("ns$t", &batch(&[("t", Arc::new(seconds) as ArrayRef)])).await;
        let kind = json!({"type": "timestamp:ns:-"});
        alter(&server, json!([{"path": "t", "data_type": kind}])).await.ok();
        let expected = DataType::Timestamp(TimeUnit::Nanosecond, None);
        assert_eq!(all(&server).await[0]["t"].data_type(), &expected);
        // Without a unit, microseconds are meant.
        let kind = json!({"type": "timestamp"});
        alter(&server, json!([{"path": "t", "data_type": kind}])).await.ok();
        let expected = DataType::Timestamp(TimeUnit::Microsecond, None);
        assert_eq!(all(&server).await[0]["t"].data_type(), &expected);
    }
}

both! {
    async fn bad_alterations_change_nothing(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        for alterations in [
            json!([]),
            json!([{"path": "a"}]),
            json!([{"rename": "c"}]),
            json!([{"path": "", "rename": "c"}]),
            json!([{"path": "a", "rename": ""}]),
            json!([{"path": "a", "rename": "b"}]),
            json!([{"path": "a", "rename": "x.y"}]),
            json!([{"path": "a", "rename": "_rowid"}]),
            json!([{"path": "`a", "rename": "c"}]),
            json!([{"path": "a", "rename": "c"}, {"path": "b", "rename": "c"}]),
            json!([{"path": "a", "rename": "c"}, {"path": "a", "nullable": true}]),
            json!([{"path": "a", "data_type": 64}]),
            json!([{"path": "a", "data_type": {"type": "int65"}}]),
            json!([{"path": "a", "data_type": {"type": "list"}}]),
            json!([{"path": "a", "data_type": {"type": "fixed_size_binary", "length": -1}}]),
            json!([{"path": "b", "data_type": {"type": "int32"}}]),
            json!([{"path": "a", "data_type": {"type": "decimal128", "length": i64::MAX}}]),
        ] {
            let reply = alter(&server, alterations.clone()).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        for path in ["nowhere", "a.b", "A"] {
            let reply = alter(&server, json!([{"path": path, "rename": "c"}])).await;
            assert_error(&reply, 404, TABLE_COLUMN_NOT_FOUND);
        }
        let virtual_column = json!([{"path": "a", "rename": "c", "virtual_column": {"udf": "x"}}]);
        assert_error(&alter(&server, virtual_column).await, 406, UNSUPPORTED);
        server.assert_unchanged(&before, "bad alterations").await;
    }
}

both! {
    async fn a_value_that_does_not_fit_stops_the_cast(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch(&[("a", ints_or_null(&[Some(1), Some(300)]))])).await;
        let before = server.files();
        let reply = alter(&server, json!([{"path": "a", "data_type": {"type": "int8"}}])).await;
        assert_error(&reply, 400, INVALID_INPUT);
        server.assert_files(&before, "a cast that fails").await;
    }
}

everywhere! {
    async fn columns_are_dropped(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        add(&server, json!([{"name": "c", "expression": "a"}])).await.ok();
        let dropped = drop(&server, json!(["b", "c", "b"])).await.ok();
        assert_eq!(dropped["version"], 3);
        let transaction = text(&dropped, "transaction_id");
        assert_eq!(operation_of(&server, 3).await["transaction_id"], transaction.as_str());
        assert_eq!(columns(&[foreign::rows(&location).await]), ["a"]);
        for columns in [json!([]), json!(["a"]), json!([""]), json!([1]), json!(["`a"])] {
            assert_error(&drop(&server, columns).await, 400, INVALID_INPUT);
        }
        for columns in [json!(["b"]), json!(["a", "nowhere"])] {
            assert_error(&drop(&server, columns).await, 404, TABLE_COLUMN_NOT_FOUND);
        }
        assert_eq!(server.versions("ns$t").await, [1, 2, 3]);
        let old = server.query("ns$t", json!({"k": 10, "version": 2})).await;
        assert_eq!(columns(&old), ["a", "b", "c"]);
    }
}

everywhere! {
    async fn field_metadata_is_merged_and_replaced(server: TestServer) {
        let location = with_nested(&server).await;
        let first = field_metadata(&server, json!([
            {"path": "a", "metadata": {"k": "1", "l": "2"}},
            {"path": "p.x", "metadata": {"unit": "m"}},
        ])).await.ok();
        assert_eq!(first, json!({
            "version": 2, "fields": {"a": {"k": "1", "l": "2"}, "p.x": {"unit": "m"}},
        }));
        let merged = json!([{"path": "a", "metadata": {"k": null, "m": "3"}, "replace": null}]);
        let merged = field_metadata(&server, merged).await.ok();
        assert_eq!(merged["fields"], json!({"a": {"l": "2", "m": "3"}}));
        let replaced = json!([{"path": "a", "metadata": {"z": "", "l": null}, "replace": true}]);
        let replaced = field_metadata(&server, replaced).await.ok();
        assert_eq!(replaced, json!({"version": 4, "fields": {"a": {"z": ""}}}));
        let dataset = foreign::open(&location).await;
        assert_eq!(dataset.schema().field("a").expect("a").metadata["z"], "");
        assert_eq!(dataset.schema().field("p.x").expect("p.x").metadata["unit"], "m");
        for updates in [
            json!([]),
            json!([{"path": "a"}]),
            json!([{"path": "", "metadata": {}}]),
            json!([{"path": "a", "metadata": {"k": 1}}]),
            json!([{"path": "a", "metadata": {}}, {"path": "`a`", "metadata": {}}]),
        ] {
            assert_error(&field_metadata(&server, updates).await, 400, INVALID_INPUT);
        }
        let nowhere = json!([{"path": "p.z", "metadata": {"k": "v"}}]);
        assert_error(&field_metadata(&server, nowhere).await, 404, TABLE_COLUMN_NOT_FOUND);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4]);
    }
}

everywhere! {
    async fn schema_metadata_is_replaced(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let path = table("ns$t", "schema_metadata/update");
        let first = json!({"a": "1", "b": "2"});
        assert_eq!(server.post(&path, first.clone()).await.ok(), first);
        let second = json!({"b": "3"});
        assert_eq!(server.post(&path, second.clone()).await.ok(), second);
        let dataset = foreign::open(&location).await;
        assert_eq!(dataset.schema().metadata.len(), 1);
        assert_eq!(dataset.schema().metadata["b"], "3");
        assert_eq!(server.describe("ns$t").await["metadata"], second);
        assert_eq!(server.post(&path, json!({})).await.ok(), json!({}));
        for body in [json!([]), json!({"a": 1}), json!({"a": null}), json!("a")] {
            assert_error(&server.post(&path, body).await, 400, INVALID_INPUT);
        }
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4]);
    }
}

everywhere! {
    async fn a_branch_has_columns_of_its_own(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        server.post(&table("ns$t", "branches/create"), json!({"name": "b"})).await.ok();
        let on_branch = |operation: &str, mut body: Value| {
            body["branch"] = json!("b");
            (table("ns$t", operation), body)
        };
        let added = json!({"new_columns": [{"name": "c", "expression": "a"}]});
        let (path, body) = on_branch("add_columns", added);
        assert_eq!(server.post(&path, body).await.ok()["version"], 2);
        let altered = json!({"alterations": [{"path": "c", "rename": "d"}]});
        let (path, body) = on_branch("alter_columns", altered);
        server.post(&path, body).await.ok();
        let (path, body) = on_branch("drop_columns", json!({"columns": ["b"]}));
        server.post(&path, body).await.ok();
        let updates = json!({"updates": [{"path": "d", "metadata": {"k": "v"}}]});
        let (path, body) = on_branch("update_field_metadata", updates);
        assert_eq!(server.post(&path, body).await.ok()["version"], 5);
        let path = table("ns$t", "schema_metadata/update?branch=b");
        server.post(&path, json!({"k": "v"})).await.ok();
        let there = foreign::open(&location).await;
        let theirs = there.checkout_branch("b").await.expect("the branch");
        let rows = Box::pin(theirs.scan().try_into_batch()).await.expect("rows");
        assert_eq!(columns(from_ref(&rows)), ["a", "d"]);
        assert_eq!(int_values(&[rows], "d"), [0, 1]);
        assert_eq!(columns(&all(&server).await), ["a", "b"]);
        assert_eq!(server.versions("ns$t").await, [1]);
        for (operation, body) in [
            ("add_columns", json!({"branch": "x", "new_columns": [{"name": "c", "expression": "a"}]})),
            ("drop_columns", json!({"branch": "x", "columns": ["a"]})),
            ("schema_metadata/update?branch=x", json!({})),
        ] {
            let reply = server.post(&table("ns$t", operation), body).await;
            assert_error(&reply, 404, TABLE_BRANCH_NOT_FOUND);
        }
    }
}

everywhere! {
    async fn altering_needs_a_table_with_a_version(server: TestServer) {
        server.with_declared("ns$d").await;
        for (operation, body) in [
            ("add_columns", json!({"new_columns": [{"name": "c", "expression": "a"}]})),
            ("alter_columns", json!({"alterations": [{"path": "a", "rename": "c"}]})),
            ("drop_columns", json!({"columns": ["a"]})),
            ("update_field_metadata", json!({"updates": [{"path": "a", "metadata": {}}]})),
            ("schema_metadata/update", json!({"k": "v"})),
        ] {
            let declared = server.post(&table("ns$d", operation), body.clone()).await;
            assert_error(&declared, 409, INVALID_TABLE_STATE);
            let absent = server.post(&table("ns$none", operation), body).await;
            assert_error(&absent, 404, TABLE_NOT_FOUND);
        }
    }
}

everywhere! {
    async fn changes_and_inserts_do_not_lose_each_other(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let insert = table("ns$t", "insert");
        let inserts = (1..5).map(|value| server.post_arrow(&insert, ipc(&[batch_ab(value..value + 1)])));
        let names = ["c", "d", "e"];
        let adds = names.map(|name| add(&server, json!([{"name": name, "expression": "a"}])));
        let (inserted, added) =
            tokio::join!(futures::future::join_all(inserts), futures::future::join_all(adds));
        for reply in inserted.into_iter().chain(added) {
            reply.ok();
        }
        let rows = foreign::rows(&location).await;
        assert_eq!((rows.num_rows(), rows.num_columns()), (5, 5));
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
        // Inserts that waited for each other share a version.
        let versions = server.versions("ns$t").await.len();
        assert!((5..=8).contains(&versions), "{versions}");
    }
}

everywhere! {
    async fn others_may_write_while_a_column_is_added(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let foreign_writes = async {
            for value in 1..6 {
                foreign::append(&location, batch(&[
                    ("a", ints(value..value + 1)), ("b", texts(value..value + 1)),
                ])).await;
            }
        };
        let added = add(&server, json!([{"name": "c", "computed": "a"}]));
        let (_, added) = tokio::join!(foreign_writes, added);
        added.ok();
        let rows = foreign::rows(&location).await;
        assert_eq!((rows.num_rows(), rows.num_columns()), (6, 3));
    }
}
