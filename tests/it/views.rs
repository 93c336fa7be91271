//! Materialized views: made, filled, refreshed; what is refused.

use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, LargeBinaryArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::batches::{
    batch, batch_ab, batch_vectors, columns, int_values, ints, ipc_without_rows, optional_ints,
    text_values, texts,
};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, foreign, namespace, table, text};

fn view(id: &str, operation: &str) -> String {
    format!("/v1/materialized_view/{id}/{operation}")
}

/// The body that makes a view of a query.
fn of(query: Value) -> Value {
    json!({"kind": "query", "source_query": query.to_string(), "output_schema": ""})
}

/// Those of `ns$t` whose `a` is at least 2.
fn of_t() -> Value {
    of(json!({"table_id": ["ns", "t"], "filter": "a >= 2"}))
}

async fn create(server: &TestServer, id: &str, body: Value) -> Reply {
    server.post(&view(id, "create"), body).await
}

async fn refresh(server: &TestServer, id: &str, body: Value) -> Reply {
    server.post(&view(id, "refresh"), body).await
}

/// Refreshes and waits; answers the version of the view.
async fn refreshed(server: &TestServer, id: &str, body: Value) -> u64 {
    let begun = refresh(server, id, body).await.expect(202);
    server.succeeded(&text(&begun, "job_id")).await
}

async fn all(server: &TestServer, id: &str) -> Vec<RecordBatch> {
    server.query(id, json!({"k": 100_000})).await
}

fn encoded(schema: &Schema) -> String {
    STANDARD.encode(ipc_without_rows(schema))
}

fn schema(fields: &[(&str, DataType)]) -> Schema {
    let fields = fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true));
    Schema::new(fields.collect::<Vec<_>>())
}

everywhere! {
    async fn a_view_is_made_filled_and_refreshed(server: TestServer) {
        server.with_table("ns$t", 5).await;
        let made = create(&server, "ns$v", of_t()).await.expect(201);
        assert_eq!(made, json!({"version": 1}));
        // A table like any other, without rows yet.
        assert_eq!(server.count("ns$v").await, 0);
        let described = server.describe("ns$v").await;
        assert_eq!(described["schema"]["fields"].as_array().map(Vec::len), Some(2), "{described}");
        assert!(server.exists("ns$v").await);
        assert_eq!(refreshed(&server, "ns$v", json!({})).await, 2);
        assert_eq!(server.values("ns$v").await, [2, 3, 4]);
        let location = server.location("ns$v").await;
        let rows = [foreign::rows(&location).await];
        assert_eq!(text_values(&rows, "b")[0], Some("s2".into()));
        let made = server.post(&table("ns$v", "version/describe"), json!({"version": 2})).await.ok();
        let metadata = &made["version"]["metadata"];
        assert_eq!(metadata["operation"], "Overwrite", "{made}");
        // The source goes on by itself.
        server.insert("ns$t", &batch_ab(5..7)).await;
        server.post(&table("ns$t", "delete"), json!({"predicate": "a = 3"})).await.ok();
        assert_eq!(server.values("ns$v").await, [2, 3, 4]);
        assert_eq!(refreshed(&server, "ns$v", json!({})).await, 3);
        assert_eq!(server.values("ns$v").await, [2, 4, 5, 6]);
        // An older version of the source, and a request without a body.
        refreshed(&server, "ns$v", json!({"src_version": 1})).await;
        assert_eq!(server.values("ns$v").await, [2, 3, 4]);
        let begun = server.post_empty(&view("ns$v", "refresh")).await.expect(202);
        assert_eq!(server.succeeded(&text(&begun, "job_id")).await, 5);
        assert_eq!(server.values("ns$v").await, [2, 4, 5, 6]);
    }
}

everywhere! {
    async fn a_view_may_be_filled_at_once(server: TestServer) {
        server.with_table("ns$t", 5).await;
        let mut body = of_t();
        body["with_no_data"] = json!(false);
        let made = create(&server, "ns$v", body).await.expect(201);
        let job = text(&made, "job_id");
        assert_eq!((server.succeeded(&job).await, &made["version"]), (2, &json!(1)));
        let described = server.ended(&job).await["properties"].clone();
        assert_eq!(described["kind"], "refresh_view", "{described}");
        assert_eq!(described["table"], r#"["ns","v"]"#, "{described}");
        assert_eq!(server.values("ns$v").await, [2, 3, 4]);
        let mut body = of_t();
        body["with_no_data"] = json!(true);
        let made = create(&server, "ns$w", body).await.expect(201);
        assert_eq!(made.get("job_id"), None, "{made}");
    }
}

everywhere! {
    /// All the ways to say which columns and rows.
    async fn a_query_chooses_columns_and_rows(server: TestServer) {
        server.with_table("ns$t", 10).await;
        for (name, query, names, values) in [
            ("all", json!({"table": "ns$t"}), vec!["a", "b"], (0..10).collect::<Vec<i32>>()),
            ("names", json!({"columns": {"column_names": ["a"]}}), vec!["a"], (0..10).collect()),
            ("list", json!({"columns": ["b", "a"], "filter": "a = 3"}), vec!["b", "a"], vec![3]),
            (
                "aliases",
                json!({"columns": {"column_aliases": {"a": "a", "text": "b"}}}),
                vec!["a", "text"],
                (0..10).collect(),
            ),
            ("some", json!({"limit": 3, "offset": 4}), vec!["a", "b"], vec![4, 5, 6]),
            (
                "nulls",
                json!({"filter": null, "columns": null, "limit": null, "vector": null}),
                vec!["a", "b"],
                (0..10).collect(),
            ),
            ("none", json!({"filter": "a > 100"}), vec!["a", "b"], vec![]),
        ] {
            let mut query = query;
            if query.get("table").is_none() {
                query["table_id"] = json!(["ns", "t"]);
            }
            let id = format!("ns${name}");
            create(&server, &id, of(query)).await.expect(201);
            refreshed(&server, &id, json!({})).await;
            assert_eq!(server.values(&id).await, values, "{name}");
            let location = server.location(&id).await;
            let fields = foreign::rows(&location).await;
            assert_eq!(columns(&[fields]), names, "{name}");
        }
    }
}

everywhere! {
    /// Vectors, nested columns, and what is computed in the source.
    async fn columns_of_every_kind(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch_vectors(4, 8)).await;
        let computed = json!({"new_columns": [{"name": "c", "computed": "CAST(id AS INT)"}]});
        server.post(&table("ns$t", "add_columns"), computed).await.ok();
        let all_of = of(json!({"table_id": ["ns", "t"]}));
        create(&server, "ns$v", all_of).await.expect(201);
        refreshed(&server, "ns$v", json!({})).await;
        let rows = all(&server, "ns$v").await;
        assert_eq!(columns(&rows), ["id", "vec", "c"]);
        assert_eq!(optional_ints(&rows, "c"), [None; 4]);
        // The view has values of the source, and none of its own.
        let body = json!({"column": "c"});
        let reply = server.post(&table("ns$v", "backfill_column"), body).await;
        assert_error(&reply, 400, INVALID_INPUT);
        let search = json!({"vector": {"single_vector": vec![3.0; 8]}, "k": 1});
        assert_eq!(int_values(&server.query("ns$v", search).await, "id"), [3]);
    }
}

everywhere! {
    /// Parts of columns, dictionaries, and what cannot be shown.
    async fn odd_columns(server: TestServer) {
        server.create_namespace("ns").await;
        let words = DictionaryArray::<Int32Type>::from_iter(["x", "y", "x"]);
        let parts: Fields = ["p", "q"].map(|name| Arc::new(Field::new(name, DataType::Int32, true))).into();
        let parts = StructArray::new(parts, vec![ints(0..3), ints(10..13)], None);
        let rows = batch(&[
            ("a", ints(0..3)),
            ("w", Arc::new(words) as ArrayRef),
            ("s", Arc::new(parts) as ArrayRef),
        ]);
        server.create("ns$t", &rows).await;
        for (name, columns, names) in [
            ("words", json!(["w", "a"]), vec!["w", "a"]),
            (
                "alias",
                json!({"column_aliases": {"a": "s.q", "w": "w"}}),
                vec!["a", "w"],
            ),
        ] {
            let id = format!("ns${name}");
            let body = of(json!({"table": "ns$t", "columns": columns}));
            create(&server, &id, body).await.expect(201);
            refreshed(&server, &id, json!({})).await;
            assert_eq!(crate::support::batches::columns(&all(&server, &id).await), names, "{name}");
            let values = if name == "alias" { [10, 11, 12] } else { [0, 1, 2] };
            assert_eq!(server.values(&id).await, values, "{name}");
        }
        let part = of(json!({"table": "ns$t", "columns": ["s.q"]}));
        let reply = create(&server, "ns$no", part).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert!(reply.text().contains("column_aliases"), "{}", reply.text());
        let blob = Field::new("blob", DataType::LargeBinary, true)
            .with_metadata([("lance-encoding:blob".to_string(), "true".to_string())].into());
        let fields = Schema::new(vec![Field::new("a", DataType::Int32, true), blob]);
        let bytes: ArrayRef = Arc::new(LargeBinaryArray::from_vec(vec![b"one", b"two"]));
        let rows = RecordBatch::try_new(Arc::new(fields), vec![ints(0..2), bytes]);
        server.create("ns$blobs", &rows.expect("two columns")).await;
        for columns in [json!(null), json!(["blob"]), json!({"column_aliases": {"x": "blob"}})] {
            let body = of(json!({"table": "ns$blobs", "columns": columns}));
            assert_error(&create(&server, "ns$no", body).await, 406, UNSUPPORTED);
        }
        let body = of(json!({"table": "ns$blobs", "columns": ["a"]}));
        create(&server, "ns$v", body).await.expect(201);
        refreshed(&server, "ns$v", json!({})).await;
        assert_eq!(server.values("ns$v").await, [0, 1]);
    }
}

everywhere! {
    /// A view over a view, and names that change.
    async fn views_follow_their_source(server: TestServer) {
        server.with_table("ns$t", 5).await;
        create(&server, "ns$v", of_t()).await.expect(201);
        refreshed(&server, "ns$v", json!({})).await;
        let of_v = of(json!({"table_id": ["ns", "v"], "filter": "a < 4"}));
        create(&server, "ns$w", of_v).await.expect(201);
        refreshed(&server, "ns$w", json!({})).await;
        assert_eq!(server.values("ns$w").await, [2, 3]);
        for (from, to) in [("ns$t", "s"), ("ns$v", "x")] {
            let renamed = json!({"new_table_name": to});
            server.post(&table(from, "rename"), renamed).await.ok();
        }
        // Another table of the old name is another table.
        server.create("ns$t", &batch_ab(50..60)).await;
        server.insert("ns$s", &batch_ab(7..8)).await;
        refreshed(&server, "ns$x", json!({})).await;
        assert_eq!(server.values("ns$x").await, [2, 3, 4, 7]);
        // The source goes: the view stays as it is.
        server.post_empty(&table("ns$s", "drop")).await.ok();
        let reply = refresh(&server, "ns$x", json!({})).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert_eq!(server.values("ns$x").await, [2, 3, 4, 7]);
        // A view is dropped as any table, and its name is free.
        server.post_empty(&table("ns$x", "drop")).await.ok();
        assert_error(&refresh(&server, "ns$x", json!({})).await, 404, TABLE_NOT_FOUND);
        server.create("ns$x", &batch_ab(0..1)).await;
        assert_error(&refresh(&server, "ns$x", json!({})).await, 400, INVALID_INPUT);
    }
}

everywhere! {
    /// The view gets the columns that its source has by now; a query that does not fit any more is
    /// refused, and leaves the view as it is.
    async fn the_source_may_change_its_columns(server: TestServer) {
        server.with_table("ns$t", 3).await;
        create(&server, "ns$all", of(json!({"table": "ns$t"}))).await.expect(201);
        let some = of(json!({"table": "ns$t", "columns": ["a"], "filter": "b <> ''"}));
        create(&server, "ns$some", some).await.expect(201);
        refreshed(&server, "ns$some", json!({})).await;
        let more = json!({"new_columns": [{"name": "c", "expression": "CAST(a AS INT)"}]});
        server.post(&table("ns$t", "add_columns"), more).await.ok();
        server.post(&table("ns$t", "drop_columns"), json!({"columns": ["b"]})).await.ok();
        refreshed(&server, "ns$all", json!({})).await;
        assert_eq!(columns(&all(&server, "ns$all").await), ["a", "c"]);
        let reply = refresh(&server, "ns$some", json!({})).await;
        assert_error(&reply, 404, TABLE_COLUMN_NOT_FOUND);
        assert_eq!(server.values("ns$some").await, [0, 1, 2]);
        refreshed(&server, "ns$some", json!({"src_version": 1})).await;
    }
}

everywhere! {
    /// Whatever others did to the rows of the view, a refresh makes them those of the query.
    async fn foreign_rows_do_not_stay(server: TestServer) {
        server.with_table("ns$t", 5).await;
        create(&server, "ns$v", of_t()).await.expect(201);
        refreshed(&server, "ns$v", json!({})).await;
        let location = server.location("ns$v").await;
        foreign::append(&location, batch_ab(90..95)).await;
        foreign::delete(&location, "a = 2").await;
        server.insert("ns$v", &batch_ab(80..81)).await;
        refreshed(&server, "ns$v", json!({})).await;
        assert_eq!(server.values("ns$v").await, [2, 3, 4]);
        let options = json!({"max_rows_per_fragment": 2, "concurrency": 3, "cluster": "c",
            "intra_applier_concurrency": 1, "source_task_size": 10, "manifest": "{}",
            "output_limit": null, "src_version": null});
        refreshed(&server, "ns$v", options).await;
        assert_eq!(foreign::open(&location).await.count_fragments(), 2);
        assert_eq!(server.values("ns$v").await, [2, 3, 4]);
    }
}

everywhere! {
    async fn refreshes_at_once_neither_lose_nor_double(server: TestServer) {
        server.with_table("ns$t", 500).await;
        create(&server, "ns$v", of_t()).await.expect(201);
        let mut jobs = Vec::new();
        for round in 0..6 {
            let begun = refresh(&server, "ns$v", json!({})).await.expect(202);
            jobs.push(text(&begun, "job_id"));
            let first = 500 + round * 5;
            server.insert("ns$t", &batch_ab(first..first + 5)).await;
        }
        let mut versions = Vec::new();
        for job in jobs {
            versions.push(server.succeeded(&job).await);
        }
        versions.sort_unstable();
        assert_eq!(versions, [2, 3, 4, 5, 6, 7], "each has a version of its own");
        let values = server.values("ns$v").await;
        let end = 2 + values.len() as i32;
        assert_eq!(values, (2..end).collect::<Vec<_>>());
        assert!((end - 500) % 5 == 0 && (500..=530).contains(&end), "{end}");
        refreshed(&server, "ns$v", json!({})).await;
        assert_eq!(server.values("ns$v").await, (2..530).collect::<Vec<_>>());
    }
}

both! {
    async fn the_output_schema_is_compared(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let (int, utf8) = (DataType::Int32, DataType::Utf8);
        let good = schema(&[("b", utf8.clone()), ("a", int.clone())]);
        let mut body = of_t();
        body["output_schema"] = json!(encoded(&good));
        create(&server, "ns$v", body).await.expect(201);
        // The message of a schema alone, as pyarrow's `Schema.serialize()` makes it.
        let stream = ipc_without_rows(&good);
        let mut body = of_t();
        body["output_schema"] = json!(STANDARD.encode(&stream[..stream.len() - 8]));
        create(&server, "ns$w", body).await.expect(201);
        let before = server.snapshot().await;
        for fields in [
            vec![("a", int.clone())],
            vec![("a", int.clone()), ("b", int.clone())],
            vec![("a", int.clone()), ("b", utf8.clone()), ("c", int.clone())],
            vec![("a", int.clone()), ("b", utf8.clone()), ("b", utf8)],
            vec![("a", DataType::Int64), ("b", DataType::Utf8)],
            vec![],
        ] {
            let mut body = of_t();
            body["output_schema"] = json!(encoded(&schema(&fields)));
            let reply = create(&server, "ns$no", body).await;
            assert_error(&reply, 400, TABLE_SCHEMA_VALIDATION_ERROR);
        }
        server.assert_unchanged(&before, "views of another schema").await;
    }
}

both! {
    /// Bytes of callers are as bad here as in any upload.
    async fn bad_output_schemas_are_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let good = ipc_without_rows(&batch_ab(0..1).schema());
        let mut file = b"ARROW1\0\0".to_vec();
        file.extend(&good);
        let mut long = good.clone();
        long[4..8].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
        let mut only_end = Vec::new();
        only_end.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        let mut schemas = vec![
            "!".to_string(),
            "abc".to_string(),
            STANDARD.encode(b"no Arrow at all"),
            STANDARD.encode(&good[..9]),
            STANDARD.encode(&good[..good.len() / 2]),
            STANDARD.encode(&file),
            STANDARD.encode(&long),
            STANDARD.encode(&only_end),
        ];
        // Every byte of the description, turned over: refused or, where it says nothing, read.
        let flips: Vec<String> = (8..good.len() - 8)
            .step_by(3)
            .map(|at| {
                let mut bytes = good.clone();
                bytes[at] ^= 0xff;
                STANDARD.encode(bytes)
            })
            .collect();
        for schema in schemas.drain(..) {
            let mut body = of_t();
            body["output_schema"] = json!(schema);
            let reply = create(&server, "ns$no", body).await;
            assert_error(&reply, 400, INVALID_INPUT);
            assert!(reply.text().contains("output_schema"), "{}", reply.text());
        }
        server.assert_unchanged(&before, "bad schemas").await;
        for (at, schema) in flips.into_iter().enumerate() {
            let mut body = of_t();
            body["output_schema"] = json!(schema);
            let reply = create(&server, &format!("ns$flip{at}"), body).await;
            assert!([201, 400].contains(&reply.status), "flip {at}: {}", reply.text());
        }
        server.get("/healthz").await.ok();
    }
}

both! {
    async fn bad_source_queries_are_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_declared("ns$declared").await;
        let before = server.snapshot().await;
        let t = || json!({"table_id": ["ns", "t"]});
        let with = |key: &str, value: Value| {
            let mut query = t();
            query[key] = value;
            query.to_string()
        };
        for (query, status, code) in [
            (String::new(), 400, INVALID_INPUT),
            ("{".into(), 400, INVALID_INPUT),
            ("[]".into(), 400, INVALID_INPUT),
            ("7".into(), 400, INVALID_INPUT),
            ("SELECT * FROM t".into(), 400, INVALID_INPUT),
            ("[".repeat(100_000), 400, INVALID_INPUT),
            ("{}".into(), 400, INVALID_INPUT),
            (json!({"table_id": []}).to_string(), 400, INVALID_INPUT),
            (json!({"table_id": ["ns", ""]}).to_string(), 400, INVALID_INPUT),
            (json!({"table_id": ["ns", "t"], "table": "ns$t"}).to_string(), 400, INVALID_INPUT),
            (json!({"table": "ns$no"}).to_string(), 404, TABLE_NOT_FOUND),
            (json!({"table": "no$t"}).to_string(), 404, TABLE_NOT_FOUND),
            (json!({"table": "ns$new"}).to_string(), 404, TABLE_NOT_FOUND),
            (with("unknown", json!(1)), 400, INVALID_INPUT),
            (with("filter", json!(1)), 400, INVALID_INPUT),
            (with("filter", json!("a >")), 400, INVALID_INPUT),
            (with("filter", json!("a > 1; DROP")), 400, INVALID_INPUT),
            (with("filter", json!("repeat(b, 1000000000) = 'x'")), 400, INVALID_INPUT),
            (with("filter", json!("(".repeat(10_000))), 400, INVALID_INPUT),
            (with("filter", json!("no = 1")), 404, TABLE_COLUMN_NOT_FOUND),
            (with("columns", json!([])), 400, INVALID_INPUT),
            (with("columns", json!([1])), 400, INVALID_INPUT),
            (with("columns", json!("a")), 400, INVALID_INPUT),
            (with("columns", json!(["no"])), 404, TABLE_COLUMN_NOT_FOUND),
            (with("columns", json!(["_rowid"])), 400, INVALID_INPUT),
            (with("columns", json!(["a", "a"])), 400, INVALID_INPUT),
            (with("columns", json!({"names": ["a"]})), 400, INVALID_INPUT),
            (with("columns", json!({"column_aliases": {"x": "no"}})), 404, TABLE_COLUMN_NOT_FOUND),
            (with("columns", json!({"column_aliases": {"x.y": "a"}})), 400, INVALID_INPUT),
            (with("columns", json!({"column_aliases": {"": "a"}})), 400, INVALID_INPUT),
            (with("columns", json!({"column_aliases": {"_rowid": "a"}})), 400, INVALID_INPUT),
            (
                with("columns", json!({"column_aliases": {"x": "a"}, "column_names": ["a"]})),
                400,
                INVALID_INPUT,
            ),
            (with("limit", json!(-1)), 400, INVALID_INPUT),
            (with("limit", json!(0)), 400, INVALID_INPUT),
            (with("offset", json!(1.5)), 400, INVALID_INPUT),
            (with("version", json!(1)), 400, INVALID_INPUT),
            (with("branch", json!("main")), 400, INVALID_INPUT),
            (with("vector", json!([1.0])), 406, UNSUPPORTED),
            (with("full_text_query", json!({"string_query": {"query": "x"}})), 406, UNSUPPORTED),
        ] {
            let mut body = of_t();
            body["source_query"] = json!(query);
            let reply = create(&server, "ns$new", body).await;
            assert_eq!(reply.status, status, "{query:.80}: {}", reply.text());
            assert_error(&reply, status, code);
            assert!(!reply.text().contains(".rs"), "{}", reply.text());
        }
        let mut body = of_t();
        body["source_query"] = json!(json!({"table": "ns$declared"}).to_string());
        let reply = create(&server, "ns$new", body).await;
        assert!((400..500).contains(&reply.status), "{}", reply.text());
        server.assert_unchanged(&before, "views of nothing").await;
    }
}

both! {
    async fn what_else_cannot_be_made_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        create(&server, "ns$taken", of_t()).await.expect(201);
        let before = server.snapshot().await;
        let with = |key: &str, value: Value| {
            let mut body = of_t();
            body[key] = value;
            body
        };
        for (id, body, status, code) in [
            ("ns$taken", of_t(), 409, TABLE_ALREADY_EXISTS),
            ("ns$t", of_t(), 409, TABLE_ALREADY_EXISTS),
            ("no$v", of_t(), 404, NAMESPACE_NOT_FOUND),
            ("ns$v", json!({}), 400, INVALID_INPUT),
            ("ns$v", with("kind", json!("table")), 400, INVALID_INPUT),
            ("ns$v", with("kind", json!("udtf")), 406, UNSUPPORTED),
            ("ns$v", with("kind", json!("chunker")), 406, UNSUPPORTED),
            ("ns$v", with("udtf_spec", json!({"kind": "udtf"})), 400, INVALID_INPUT),
            ("ns$v", with("auto_refresh", json!(true)), 406, UNSUPPORTED),
            ("ns$v", with("output_schema", Value::Null), 400, INVALID_INPUT),
            ("ns$v", with("id", json!(["ns", "w"])), 400, INVALID_INPUT),
        ] {
            let reply = create(&server, id, body.clone()).await;
            assert_eq!(reply.status, status, "{id} {body}: {}", reply.text());
            assert_error(&reply, status, code);
        }
        for (id, body, status, code) in [
            ("ns$t", json!({}), 400, INVALID_INPUT),
            ("ns$no", json!({}), 404, TABLE_NOT_FOUND),
            ("ns$taken", json!({"src_version": 9}), 404, TABLE_VERSION_NOT_FOUND),
            ("ns$taken", json!({"src_version": -1}), 400, INVALID_INPUT),
            ("ns$taken", json!({"max_rows_per_fragment": 0}), 400, INVALID_INPUT),
            ("ns$taken", json!({"max_rows_per_fragment": -5}), 400, INVALID_INPUT),
            ("ns$taken", json!({"concurrency": -1}), 400, INVALID_INPUT),
            ("ns$taken", json!({"output_limit": 10}), 400, INVALID_INPUT),
        ] {
            let reply = refresh(&server, id, body.clone()).await;
            assert_eq!(reply.status, status, "{id} {body}: {}", reply.text());
            assert_error(&reply, status, code);
        }
        server.assert_unchanged(&before, "what cannot be made").await;
    }
}

both! {
    /// A filter that cannot be evaluated makes the job fail, and leaves nothing behind.
    async fn a_refresh_that_fails_leaves_the_view(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let body = of(json!({"table": "ns$t", "filter": "12 / (a - 5) < 100"}));
        create(&server, "ns$v", body).await.expect(201);
        refreshed(&server, "ns$v", json!({})).await;
        server.insert("ns$t", &batch_ab(3..7)).await;
        let before = server.snapshot().await;
        let begun = refresh(&server, "ns$v", json!({})).await.expect(202);
        let ended = server.ended(&text(&begun, "job_id")).await;
        assert_eq!(ended["status"], "Failed", "{ended}");
        let why = text(&ended["properties"], "error");
        assert!(why.contains("zero") && !why.contains(".rs"), "{why}");
        server.assert_unchanged(&before, "a refresh that failed").await;
        assert_eq!(server.values("ns$v").await, [0, 1, 2]);
    }
}

both! {
    /// A name is one view's, whoever asks at once.
    async fn one_name_one_view(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let made = futures::future::join_all((0..4).map(|_| create(&server, "ns$v", of_t()))).await;
        let mut statuses: Vec<u16> = made.iter().map(|reply| reply.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409]);
        refreshed(&server, "ns$v", json!({})).await;
        assert_eq!(server.values("ns$v").await, [2]);
        // A namespace goes with its views.
        let drop = json!({"behavior": "Cascade"});
        server.post(&namespace("ns", "drop"), drop).await.ok();
        server.assert_files(&[], "a namespace that was dropped").await;
    }
}

everywhere! {
    /// A job that waits for its turn can be canceled, and does nothing then.
    async fn a_job_can_be_canceled(server: TestServer) {
        server.create_namespace("ns").await;
        let rows = batch(&[("a", ints(0..60_000)), ("b", texts(0..60_000))]);
        server.create("ns$t", &rows).await;
        create(&server, "ns$v", of(json!({"table": "ns$t"}))).await.expect(201);
        let mut jobs = Vec::new();
        for _ in 0..8 {
            let begun = refresh(&server, "ns$v", json!({"max_rows_per_fragment": 500})).await;
            jobs.push(text(&begun.expect(202), "job_id"));
        }
        let last = jobs.pop().expect("a job");
        let cancel = json!({"actions": [{"setStatusAction": {"status": "Canceled"}}]});
        let reply = server.post(&format!("/v1/transaction/{last}/alter"), cancel).await.ok();
        assert_eq!(reply["status"], "Canceled", "{reply}");
        for job in jobs {
            server.succeeded(&job).await;
        }
        // Its turn has come and gone once a later one's has.
        refreshed(&server, "ns$v", json!({})).await;
        assert_eq!(server.ended(&last).await["status"], "Canceled");
        assert_eq!(server.versions("ns$v").await, (1..=9).collect::<Vec<u64>>());
        assert_eq!(server.count("ns$v").await, 60_000);
    }
}

everywhere! {
    /// What a view is made of outlasts the process.
    async fn a_restart_forgets_no_view(server: TestServer) {
        let mut server = server;
        server.with_table("ns$t", 4).await;
        create(&server, "ns$v", of_t()).await.expect(201);
        server.restart().await;
        refreshed(&server, "ns$v", json!({})).await;
        assert_eq!(server.values("ns$v").await, [2, 3]);
    }
}
