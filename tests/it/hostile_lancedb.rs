//! The LanceDB dialect: what is made to cost the server its memory, its time or a table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, RecordBatch, StringArray,
    new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Value, json};

use crate::support::batches::{
    batch, ints, ipc, ipc_without_rows, read_file, row_count, text_values,
};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error};

fn path(id: &str, operation: &str) -> String {
    format!("/v1/table/{id}/{operation}/")
}

async fn ask(server: &TestServer, id: &str, more: Value) -> Reply {
    let mut body = json!({"k": 100, "vector": []});
    for (field, value) in more.as_object().expect("fields") {
        body[field] = value.clone();
    }
    server.post(&path(id, "query"), body).await
}

#[track_caller]
fn assert_invalid(reply: &Reply, words: &str) {
    assert_error(reply, 400, INVALID_INPUT);
    assert!(reply.text().contains(words), "`{words}` is not in: {}", reply.text());
    assert!(!reply.text().contains("LanceError"), "{}", reply.text());
}

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, true))
}

fn fixed(of: DataType) -> DataType {
    DataType::FixedSizeList(item(of), 2)
}

fn structure(of: DataType) -> DataType {
    DataType::Struct(vec![Field::new("x", of, true)].into())
}

fn marked(name: &str, data_type: DataType, key: &str, value: &str) -> Field {
    Field::new(name, data_type, true).with_metadata(HashMap::from([(key.into(), value.into())]))
}

/// One row of nulls.
fn nulls(field: Field) -> RecordBatch {
    let values = new_null_array(field.data_type(), 1);
    RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![values]).expect("a row")
}

/// As many texts, each as long.
fn long_texts(rows: usize, length: usize) -> ArrayRef {
    Arc::new(StringArray::from(vec!["x".repeat(length); rows]))
}

everywhere! {
    /// Each batch is sent whole, so that how long they are says what the server held.
    async fn a_column_that_is_answered_often_comes_in_small_batches(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch(&[("s", long_texts(100, 100_000))])).await;
        let columns = |count: usize| -> Value {
            (0..count).map(|n| (format!("c{n}"), json!("s"))).collect::<serde_json::Map<_, _>>().into()
        };
        assert_invalid(&ask(&server, "ns$t", json!({"columns": columns(257)})).await, "256");
        let aliases = json!({"k": 1, "vector": [], "columns": {"column_aliases": columns(257)}});
        let reply = server.post("/v1/table/ns$t/query", aliases).await;
        assert_invalid(&reply, "256");
        let reply = ask(&server, "ns$t", json!({"k": 4, "columns": columns(256)})).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let batches = read_file(&reply.raw);
        assert_eq!(row_count(&batches), 4);
        assert!(batches.iter().all(|batch| batch.num_rows() == 1), "{} batches", batches.len());
        let sorted = json!({"k": 4, "columns": columns(256), "order_by": [{"column_name": "s"}]});
        let reply = ask(&server, "ns$t", sorted).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(row_count(&read_file(&reply.raw)), 4);
    }
}

everywhere! {
    async fn long_values_are_not_compared_with_each_other(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch(&[("s", long_texts(100, 100_000))])).await;
        for text in ["levenshtein(s, s)", "LEVENSHTEIN (s, concat(s, 'x'))", "`levenshtein`(s, s)",
            "1 + levenshtein(upper(s), lower(s))", "levenshtein(levenshtein(s, 'x'), s)",
        ] {
            let started = Instant::now();
            let reply = ask(&server, "ns$t", json!({"columns": {"x": text}})).await;
            assert_invalid(&reply, "levenshtein");
            let filter = json!({"filter": format!("({text}) > 1")});
            assert_invalid(&ask(&server, "ns$t", filter).await, "levenshtein");
            assert!(started.elapsed() < Duration::from_secs(10), "{text}");
        }
        for text in ["levenshtein(s, 'xy')", "levenshtein('xy', substr(s, 1, 2))"] {
            let reply = ask(&server, "ns$t", json!({"k": 1, "columns": {"x": text}})).await;
            assert_eq!(reply.status, 200, "{text}: {}", reply.text());
        }
    }
}

everywhere! {
    async fn a_search_has_so_many_words(server: TestServer) {
        server.create_namespace("ns").await;
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["some words", "others"]));
        server.create("ns$t", &batch(&[("s", texts)])).await;
        let words = |count: usize| (0..count).map(|n| format!("w{n} ")).collect::<String>();
        let search = |text: String, fuzziness: Value| {
            let one = json!({"terms": text, "column": "s", "fuzziness": fuzziness});
            json!({"full_text_query": {"query": {"match": one}}})
        };
        for (count, fuzziness) in [(65, json!(2)), (65, json!(null)), (1_025, json!(0))] {
            let reply = ask(&server, "ns$t", search(words(count), fuzziness)).await;
            assert_invalid(&reply, &format!("{count} words"));
        }
        let reply = ask(&server, "ns$t", search("語".repeat(65), json!(1))).await;
        assert_invalid(&reply, "65 words");
        let halves = [search(words(600), json!(0)), search(words(600), json!(0))];
        let halves = halves.map(|half| half["full_text_query"]["query"].clone());
        let both = json!({"full_text_query": {"query": {"boolean": {"should": halves, "must": [],
            "must_not": []}}}});
        assert_invalid(&ask(&server, "ns$t", both).await, "1200 words");
        for (text, fuzziness) in [("some", json!(0)), ("somee", json!(1))] {
            let text = format!("{text} {}", words(60));
            let reply = ask(&server, "ns$t", search(text, fuzziness.clone())).await;
            assert_eq!(reply.status, 200, "{fuzziness}: {}", reply.text());
        }
    }
}

/// What is written, and then cannot be read.
fn unreadable() -> Vec<Field> {
    let field = |data_type| Field::new("x", data_type, true);
    let packed = |key, value| marked("x", structure(DataType::Utf8), key, value);
    vec![
        field(fixed(structure(DataType::Int8))),
        field(fixed(DataType::Utf8)),
        field(fixed(DataType::Binary)),
        field(fixed(DataType::List(item(DataType::Int8)))),
        field(DataType::List(item(fixed(structure(DataType::Int8))))),
        field(structure(DataType::List(item(fixed(DataType::LargeUtf8))))),
        packed("lance-encoding:packed", "true"),
        packed("packed", "TRUE"),
        packed("packed", "1"),
        field(DataType::List(Arc::new(packed("packed", "yes")))),
    ]
}

both! {
    async fn what_could_not_be_read_is_not_written(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        for field in unreadable() {
            let what = format!("{field}");
            let rows = ipc(&[nulls(field.clone())]);
            for path in [path("ns$new", "create"), format!("{}?mode=overwrite", path("ns$t", "insert"))] {
                let reply = server.post_arrow(&path, rows.clone()).await;
                assert_eq!(reply.status, 400, "{what}: {path}: {}", reply.text());
            }
            let stream = ipc_without_rows(&Schema::new(vec![field]));
            let reply = server.post_arrow(&path("ns$t", "add_columns"), stream).await;
            assert_eq!(reply.status, 400, "{what}: {}", reply.text());
        }
        server.assert_unchanged(&before, "unreadable types").await;
        assert!(!server.exists("ns$new").await);
        let packed = marked("p", structure(DataType::Int32), "lance-encoding:packed", "true");
        server.create("ns$packed", &nulls(Field::new("p", fixed(DataType::Boolean), true))).await;
        let values: ArrayRef = new_null_array(packed.data_type(), 0);
        let empty = RecordBatch::try_new(Arc::new(Schema::new(vec![packed])), vec![values]);
        server.create("ns$numbers", &empty.expect("no rows")).await;
    }
}

both! {
    async fn types_are_whole(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let kind = |kind: Value| json!({"name": "item", "nullable": true, "type": kind});
        let int = || kind(json!({"type": "int32"}));
        for bad in [
            json!({"type": "list", "fields": []}),
            json!({"type": "list"}),
            json!({"type": "large_list", "fields": [int(), int()]}),
            json!({"type": "fixed_size_list", "length": 2, "fields": []}),
            json!({"type": "fixed_size_list", "length": 0, "fields": [int()]}),
            json!({"type": "fixed_size_list", "length": 4_294_967_296_u64, "fields": [int()]}),
            json!({"type": "fixed_size_list", "length": 2, "fields": [kind(json!({"type": "string"}))]}),
            json!({"type": "fixed_size_binary"}),
            json!({"type": "fixed_size_binary", "length": 0}),
            json!({"type": "struct", "fields": [kind(json!({"type": "list", "fields": []}))]}),
            json!({"type": "nothing"}),
        ] {
            let body = json!({"alterations": [{"path": "a", "data_type": bad}]});
            let reply = server.post(&path("ns$t", "alter_columns"), body).await;
            assert_invalid(&reply, "");
        }
        let update = json!({"updates": [["a", "'x'"]]});
        let reply = server.post(&path("ns$t", "update"), update).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert!(!reply.text().contains("LanceError"), "{}", reply.text());
        server.assert_unchanged(&before, "types that are none").await;
    }
}

everywhere! {
    async fn a_path_ends_at_a_list(server: TestServer) {
        server.create_namespace("ns").await;
        let numbers: ArrayRef = Arc::new(Float32Array::from(vec![1.0, 2.0, 3.0, 4.0]));
        let inner = item(DataType::Float32);
        let vectors = FixedSizeListArray::new(inner, 2, numbers, None);
        let of = item(vectors.data_type().clone());
        let lists = ListArray::new(of, OffsetBuffer::from_lengths([2]), Arc::new(vectors), None);
        server.create("ns$t", &batch(&[("mv", Arc::new(lists) as ArrayRef)])).await;
        let reply = ask(&server, "ns$t", json!({"columns": ["mv.item"]})).await;
        assert_invalid(&reply, "mv");
        let reply = ask(&server, "ns$t", json!({"columns": ["mv"]})).await;
        assert_eq!(row_count(&read_file(&reply.raw)), 1);
    }
}

both! {
    async fn new_columns_bring_no_metadata_of_formats(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        for key in ["lance-encoding:blob", "tiltyard:computed", "packed", "ARROW:extension:name"] {
            let field = marked("x", DataType::Utf8, key, "true");
            let deep = DataType::List(Arc::new(Field::new_struct("item", vec![field.clone()], true)));
            for field in [field, Field::new("deep", deep, true)] {
                let stream = ipc_without_rows(&Schema::new(vec![field]));
                let reply = server.post_arrow(&path("ns$t", "add_columns"), stream).await;
                assert_invalid(&reply, key);
            }
        }
        let body = json!({"updates": [{"path": "a", "metadata": {"packed": "true"}}]});
        let reply = server.post("/v1/table/ns$t/update_field_metadata", body).await;
        assert_invalid(&reply, "packed");
        server.assert_unchanged(&before, "reserved metadata").await;
    }
}

both! {
    async fn columns_have_no_names_of_answers(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        for name in ["_distance", "_score", "_doc_index", "query_index"] {
            let rows = ipc(&[batch(&[(name, ints(0..1))])]);
            assert_invalid(&server.post_arrow(&path("ns$new", "create"), rows).await, name);
            let added = json!({"new_columns": [{"name": name, "expression": "a"}]});
            assert_invalid(&server.post(&path("ns$t", "add_columns"), added).await, name);
            let renamed = json!({"alterations": [{"path": "a", "rename": name}]});
            assert_invalid(&server.post(&path("ns$t", "alter_columns"), renamed).await, name);
        }
        server.assert_unchanged(&before, "names of answers").await;
    }
}

everywhere! {
    async fn json_can_be_appended(server: TestServer) {
        server.create_namespace("ns").await;
        let rows = |texts: &[&str]| {
            let field = marked("j", DataType::Utf8, "ARROW:extension:name", "arrow.json");
            let values: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
            RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![values]).expect("rows")
        };
        server.post_arrow(&path("ns$t", "create"), ipc(&[rows(&["{\"a\":1}"])])).await.ok();
        server.post_arrow(&path("ns$t", "insert"), ipc(&[rows(&["{\"a\":2}", "[3]"])])).await.ok();
        let reply = ask(&server, "ns$t", json!({"columns": {"j": "j"}})).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let reply = ask(&server, "ns$t", json!({})).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let texts = text_values(&read_file(&reply.raw), "j");
        let expected = ["{\"a\":1}", "{\"a\":2}", "[3]"].map(|text| Some(text.to_owned()));
        assert_eq!(texts, expected);
        let plain = ipc(&[batch(&[("j", long_texts(1, 3))])]);
        let reply = server.post_arrow(&path("ns$t", "insert"), plain).await;
        assert_error(&reply, 400, TABLE_SCHEMA_VALIDATION_ERROR);
        assert_eq!(server.count("ns$t").await, 3);
    }
}

everywhere! {
    async fn the_row_of_a_blob_is_a_number(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for row in ["abc", "-1", "18446744073709551616", "1.5"] {
            let reply = server.get(&format!("/v1/table/ns$t/blob/a/{row}/bytes")).await;
            assert_invalid(&reply, row);
        }
    }
}
