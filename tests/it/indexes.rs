//! Indexes: every kind built, listed, described, used and dropped; what is refused; names; builds
//! that outlast their request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, ListArray, RecordBatch,
    StringArray, StructArray, UInt8Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use serde_json::{Value, json};

use crate::support::batches::{batch, int_values, ints, ipc_without_rows};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, enc, foreign, table, text};

const DIMENSION: i32 = 16;
const ROWS: i32 = 600;
/// Rows of a table whose graph takes some seconds.
const LONG: i32 = 2_000;
/// How long the slowest index may take.
const PATIENCE: Duration = Duration::from_secs(170);

fn fixed_lists(values: ArrayRef, dimension: i32) -> ArrayRef {
    let item = Arc::new(Field::new("item", values.data_type().clone(), true));
    let lists = FixedSizeListArray::try_new(item, dimension, values, None);
    Arc::new(lists.expect("whole lists"))
}

/// Vectors that lie apart: row `i` has a peak whose place and height tell `i`.
fn vector(row: i32) -> Vec<f32> {
    let peak = row % DIMENSION;
    (0..DIMENSION).map(|at| if at == peak { 1.0 + row as f32 } else { 0.5 }).collect()
}

fn vectors(rows: std::ops::Range<i32>) -> ArrayRef {
    let numbers = rows.flat_map(vector);
    fixed_lists(Arc::new(Float32Array::from_iter_values(numbers)), DIMENSION)
}

fn lists(values: ArrayRef, per_row: usize) -> ArrayRef {
    let item = Arc::new(Field::new("item", values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_repeated_length(per_row, values.len() / per_row);
    Arc::new(ListArray::new(item, offsets, values, None))
}

/// A column of every type that some index is built on.
fn zoo(rows: std::ops::Range<i32>) -> RecordBatch {
    let text = |words: &dyn Fn(i32) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.clone().map(words)))
    };
    let count = (rows.end - rows.start) as usize;
    let bytes = (0..count * 8).map(|at| (at * 37 % 251) as u8);
    let pairs: Vec<String> =
        rows.clone().flat_map(|row| [format!("tag{}", row % 5), format!("own{row}")]).collect();
    let pairs: ArrayRef = Arc::new(StringArray::from(pairs));
    let multi = rows.clone().flat_map(|row| [vector(row), vector(row + 1)].concat());
    let multi = fixed_lists(Arc::new(Float32Array::from_iter_values(multi)), DIMENSION);
    let fields: Fields =
        vec![Field::new("depth", DataType::Int32, true), Field::new("a.b", DataType::Int32, true)]
            .into();
    let nested: ArrayRef =
        Arc::new(StructArray::new(fields, vec![ints(rows.clone()), ints(rows.clone())], None));
    let flags = rows.clone().map(|row| Some(row % 2 == 0)).collect::<BooleanArray>();
    batch(&[
        ("a", ints(rows.clone())),
        ("word", text(&|row| format!("w{}", row % 7))),
        ("body", text(&|row| format!("the quick fox number{row} jumps over café tables"))),
        ("tags", lists(pairs, 2)),
        ("flag", Arc::new(flags)),
        ("v", vectors(rows.clone())),
        ("bits", fixed_lists(Arc::new(UInt8Array::from_iter_values(bytes)), 8)),
        ("many", lists(multi, 2)),
        ("s", nested),
    ])
}

async fn with_zoo(server: &TestServer) -> String {
    server.create_namespace("ns").await;
    server.create("ns$t", &zoo(0..ROWS)).await;
    server.location("ns$t").await
}

async fn create_index(server: &TestServer, body: Value) -> Reply {
    server.post(&table("ns$t", "create_index"), body).await
}

async fn list(server: &TestServer, body: Value) -> Vec<Value> {
    let listed = server.post(&table("ns$t", "index/list"), body).await.ok();
    listed["indexes"].as_array().expect("a list of indexes").clone()
}

async fn uuids(server: &TestServer) -> BTreeSet<String> {
    list(server, json!({})).await.iter().map(|index| text(index, "index_uuid")).collect()
}

/// Creates an index and waits until it is there: a slow machine builds none within a request.
async fn built(server: &TestServer, request: Value) -> String {
    let before = uuids(server).await;
    let started = Instant::now();
    let job = text(&create_index(server, request.clone()).await.ok(), "transaction_id");
    while uuids(server).await.is_subset(&before) {
        assert!(started.elapsed() < PATIENCE, "{request}: the index never came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    job
}

async fn names(server: &TestServer) -> Vec<String> {
    list(server, json!({})).await.iter().map(|index| text(index, "index_name")).collect()
}

fn operation(name: &str, what: &str) -> String {
    table("ns$t", &format!("index/{}/{what}", enc(name)))
}

async fn stats(server: &TestServer, name: &str) -> Reply {
    server.post(&operation(name, "stats"), json!({})).await
}

async fn drop_index(server: &TestServer, name: &str) -> Reply {
    server.post_empty(&operation(name, "drop")).await
}

/// Lance's own plan of a filter, from the files: which index would answer it.
async fn plan_of(location: &str, filter: &str) -> String {
    let dataset = foreign::open(location).await;
    let mut scan = dataset.scan();
    scan.filter(filter).expect("a filter");
    Box::pin(scan.explain_plan(true)).await.expect("a plan")
}

/// Builds, lists, describes and drops one index; `use_it` looks at it in between.
async fn goes_through_life(server: &TestServer, request: Value, kind: &str, column: &str) {
    let job = built(server, request.clone()).await;
    uuid::Uuid::parse_str(&job).expect("the id of a job");
    let listed = list(server, json!({})).await;
    assert_eq!(listed.len(), 1, "{request}: {listed:?}");
    let index = &listed[0];
    let name = text(index, "index_name");
    assert_eq!(index["index_type"], kind, "{request}");
    assert_eq!(index["columns"], json!([column]), "{request}");
    assert_eq!(index["status"], "SUCCEEDED");
    assert_eq!(index["num_indexed_rows"], ROWS, "{request}");
    assert_eq!(index["num_unindexed_rows"], 0, "{request}");
    assert_eq!(index["num_segments"], 1);
    assert!(index["size_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{index}");
    assert!(index["index_version"].is_i64(), "{index}");
    assert!(text(index, "type_url").ends_with("IndexDetails"), "{index}");
    uuid::Uuid::parse_str(&text(index, "index_uuid")).expect("a UUID");
    let created = text(index, "created_at");
    chrono::DateTime::parse_from_rfc3339(&created).expect("a time");
    let details: Value = serde_json::from_str(&text(index, "index_details")).expect("JSON");
    assert!(details.is_object(), "{details}");
    let stats = stats(server, &name).await.ok();
    assert_eq!(stats["index_type"], kind);
    assert_eq!(stats["num_indexed_rows"], ROWS);
    assert_eq!(stats["num_unindexed_rows"], 0);
    assert_eq!(stats["num_indices"], 1);
    let dropped = drop_index(server, &name).await.ok();
    assert!(!text(&dropped, "transaction_id").is_empty());
    assert_eq!(names(server).await, [""; 0], "{request}");
    assert_error(&self::stats(server, &name).await, 404, TABLE_INDEX_NOT_FOUND);
    assert_error(&drop_index(server, &name).await, 404, TABLE_INDEX_NOT_FOUND);
}

everywhere! {
    async fn every_scalar_kind(server: TestServer) {
        with_zoo(&server).await;
        for (word, kind, column) in [
            ("BTREE", "BTREE", "a"),
            ("btree", "BTREE", "body"),
            ("Scalar", "BTREE", "flag"),
            ("BITMAP", "BITMAP", "word"),
            ("LABEL_LIST", "LABEL_LIST", "tags"),
            ("LabelList", "LABEL_LIST", "tags"),
            ("NGRAM", "NGRAM", "body"),
            ("ZONEMAP", "ZONEMAP", "a"),
            ("BLOOMFILTER", "BLOOM_FILTER", "word"),
            ("bloom_filter", "BLOOM_FILTER", "a"),
            ("FM", "FM", "body"),
            ("MINHASH_LSH", "MINHASH_LSH", "body"),
            ("FTS", "FTS", "body"),
            ("inverted", "FTS", "tags"),
        ] {
            let request = json!({"column": column, "index_type": word});
            goes_through_life(&server, request, kind, column).await;
        }
        let request = json!({"column": "a", "index_type": "BTREE"});
        server.post(&table("ns$t", "create_scalar_index"), request).await.ok();
        assert_eq!(names(&server).await, ["a_idx"]);
    }
}

everywhere! {
    async fn every_vector_kind(server: TestServer) {
        with_zoo(&server).await;
        for (request, kind, column) in [
            (json!({"column": "v", "index_type": "IVF_FLAT"}), "IVF_FLAT", "v"),
            (json!({"column": "v", "index_type": "ivf_pq", "num_sub_vectors": 4}), "IVF_PQ", "v"),
            (json!({"column": "v", "index_type": "VECTOR", "num_bits": 4, "num_sub_vectors": 8,
                "num_partitions": 2}), "IVF_PQ", "v"),
            (json!({"column": "v", "index_type": "IVF_SQ", "num_bits": 8}), "IVF_SQ", "v"),
            (json!({"column": "v", "index_type": "IVF_RQ", "num_bits": 1}), "IVF_RQ", "v"),
            (json!({"column": "v", "index_type": "IVF_HNSW_FLAT", "m": 8, "ef_construction": 32}),
                "IVF_HNSW_FLAT", "v"),
            (json!({"column": "v", "index_type": "IVF_HNSW_PQ", "m": 8, "ef_construction": 32}),
                "IVF_HNSW_PQ", "v"),
            (json!({"column": "v", "index_type": "IVF_HNSW_SQ", "m": 8, "ef_construction": 32}),
                "IVF_HNSW_SQ", "v"),
            (json!({"column": "bits", "index_type": "IVF_FLAT"}), "IVF_FLAT", "bits"),
            (json!({"column": "many", "index_type": "IVF_FLAT"}), "IVF_FLAT", "many"),
        ] {
            goes_through_life(&server, request, kind, column).await;
        }
    }
}

everywhere! {
    /// Lance's own planner, on the files, answers from the index that was built here.
    async fn an_index_is_used(server: TestServer) {
        let location = with_zoo(&server).await;
        for (kind, column, filter, name) in [
            ("BTREE", "a", "a = 41", "of_a"),
            ("BITMAP", "word", "word = 'w3'", "of_word"),
            ("LABEL_LIST", "tags", "array_has(tags, 'own41')", "of_tags"),
            ("NGRAM", "body", "contains(body, 'number41')", "of_body"),
        ] {
            let request = json!({"column": column, "index_type": kind, "name": name});
            let before = server.count_where(filter).await;
            built(&server, request).await;
            let plan = plan_of(&location, filter).await;
            assert!(plan.contains(name), "{kind}: {plan}");
            assert_eq!(server.count_where(filter).await, before, "{kind}");
        }
    }
}

everywhere! {
    async fn nearest_rows_are_found_through_an_index(server: TestServer) {
        with_zoo(&server).await;
        for request in [
            json!({"column": "v", "index_type": "IVF_FLAT", "num_partitions": 4}),
            json!({"column": "v", "index_type": "IVF_PQ", "num_partitions": 2,
                "num_sub_vectors": 16, "replace": true}),
            json!({"column": "v", "index_type": "IVF_HNSW_SQ", "m": 16, "ef_construction": 64,
                "replace": true}),
        ] {
            built(&server, request.clone()).await;
            let query = json!({"vector": {"single_vector": vector(77)}, "vector_column": "v",
                "k": 3, "nprobes": 4, "refine_factor": 20, "fast_search": true,
                "columns": {"column_names": ["a"]}});
            let found = int_values(&server.query("ns$t", query).await, "a");
            assert_eq!(found.first(), Some(&77), "{request}: {found:?}");
        }
        assert_eq!(names(&server).await, ["v_idx"], "each took the place of the one before");
        let stats = stats(&server, "v_idx").await.ok();
        assert_eq!(stats["index_type"], "IVF_HNSW_SQ");
        assert_eq!(stats["distance_type"], "l2");
        let cosine = json!({"column": "v", "index_type": "IVF_FLAT", "metric_type": "Cosine",
            "replace": true});
        built(&server, cosine).await;
        assert_eq!(self::stats(&server, "v_idx").await.ok()["distance_type"], "cosine");
    }
}

everywhere! {
    async fn text_options_reach_the_index(server: TestServer) {
        with_zoo(&server).await;
        let request = json!({"column": "body", "index_type": "FTS", "with_position": true,
            "base_tokenizer": "whitespace", "language": "french", "max_token_length": 20,
            "lower_case": false, "stem": false, "remove_stop_words": false,
            "ascii_folding": false});
        built(&server, request).await;
        let details = text(&list(&server, json!({})).await[0], "index_details");
        let details: Value = serde_json::from_str(&details).expect("JSON");
        for (field, value) in [
            ("with_position", json!(true)),
            ("base_tokenizer", json!("whitespace")),
            ("language", json!("French")),
            ("max_token_length", json!(20)),
            ("lower_case", json!(false)),
            ("stem", json!(false)),
            ("remove_stop_words", json!(false)),
            ("ascii_folding", json!(false)),
        ] {
            assert_eq!(details[field], value, "{field} in {details}");
        }
    }
}

everywhere! {
    async fn nested_fields(server: TestServer) {
        let location = with_zoo(&server).await;
        for (column, canonical, name) in [
            ("s.depth", "s.depth", "s.depth_idx"),
            ("S.Depth", "s.depth", "s.depth_idx"),
            ("s.`a.b`", "s.`a.b`", "s.`a.b`_idx"),
        ] {
            let request = json!({"column": column, "index_type": "BTREE", "replace": true});
            built(&server, request).await;
            let listed = list(&server, json!({})).await;
            assert_eq!(listed.len(), 1, "{column}");
            assert_eq!(listed[0]["columns"], json!([canonical]), "{column}");
            assert_eq!(listed[0]["index_name"], name, "{column}");
            let plan = plan_of(&location, &format!("{canonical} = 5")).await;
            assert!(plan.contains("ScalarIndexQuery"), "{column}: {plan}");
            if column != "s.depth" {
                drop_index(&server, name).await.ok();
            }
        }
        for column in ["depth", "a.b", "s.a.b", "s.depth.x", "nope", "s.nope"] {
            let reply = create_index(&server, json!({"column": column, "index_type": "BTREE"}));
            assert_error(&reply.await, 404, TABLE_COLUMN_NOT_FOUND);
            let reply = create_index(&server, json!({"column": column, "index_type": "FTS"}));
            assert_error(&reply.await, 404, TABLE_COLUMN_NOT_FOUND);
        }
        assert_eq!(names(&server).await, [""; 0]);
    }
}

fn bad_requests() -> Vec<Value> {
    let vector = |more: Value| {
        let mut body = json!({"column": "v", "index_type": "IVF_PQ"});
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        body
    };
    let text = |more: Value| {
        let mut body = vector(more);
        body["column"] = json!("body");
        body["index_type"] = json!("FTS");
        body
    };
    vec![
        json!({}),
        json!({"column": "a"}),
        json!({"index_type": "BTREE"}),
        json!({"column": 7, "index_type": "BTREE"}),
        json!({"column": "a", "index_type": ["BTREE"]}),
        json!({"column": "a", "index_type": ""}),
        json!({"column": "a", "index_type": "HASH"}),
        json!({"column": "a", "index_type": "x".repeat(5_000)}),
        json!({"column": "", "index_type": "BTREE"}),
        json!({"column": "s.`a", "index_type": "BTREE"}),
        json!({"column": "s..depth", "index_type": "BTREE"}),
        json!({"column": "a", "index_type": "BTREE", "name": ""}),
        json!({"column": "a", "index_type": "BTREE", "name": "  "}),
        json!({"column": "a", "index_type": "BTREE", "name": "a/b"}),
        json!({"column": "a", "index_type": "BTREE", "name": "a\nb"}),
        json!({"column": "a", "index_type": "BTREE", "name": "__lance_frag_reuse"}),
        json!({"column": "a", "index_type": "BTREE", "name": "n".repeat(5_000)}),
        // Columns of the wrong type.
        json!({"column": "a", "index_type": "IVF_FLAT"}),
        json!({"column": "tags", "index_type": "IVF_PQ"}),
        json!({"column": "v", "index_type": "BTREE"}),
        json!({"column": "s", "index_type": "BTREE"}),
        json!({"column": "s", "index_type": "ZONEMAP"}),
        json!({"column": "tags", "index_type": "BITMAP"}),
        json!({"column": "a", "index_type": "LABEL_LIST"}),
        json!({"column": "many", "index_type": "LABEL_LIST"}),
        json!({"column": "a", "index_type": "NGRAM"}),
        json!({"column": "flag", "index_type": "BLOOM_FILTER"}),
        json!({"column": "a", "index_type": "FM"}),
        json!({"column": "a", "index_type": "MINHASH_LSH"}),
        json!({"column": "a", "index_type": "FTS"}),
        json!({"column": "s", "index_type": "FTS"}),
        json!({"column": "bits", "index_type": "IVF_PQ"}),
        // Numbers that cannot be.
        vector(json!({"num_partitions": 0})),
        vector(json!({"num_partitions": -1})),
        vector(json!({"num_partitions": i64::MAX})),
        vector(json!({"num_partitions": 1.5})),
        vector(json!({"num_partitions": "2"})),
        vector(json!({"num_partitions": 2, "target_partition_size": 10})),
        vector(json!({"target_partition_size": 0})),
        vector(json!({"num_sub_vectors": 0})),
        vector(json!({"num_sub_vectors": 3})),
        vector(json!({"num_sub_vectors": 17})),
        vector(json!({"num_sub_vectors": i64::MAX})),
        vector(json!({"num_sub_vectors": 1, "num_bits": 4})),
        vector(json!({"num_bits": 3})),
        vector(json!({"num_bits": 64})),
        vector(json!({"num_bits": 0})),
        vector(json!({"index_type": "IVF_SQ", "num_bits": 4})),
        vector(json!({"index_type": "IVF_RQ", "num_bits": 10})),
        vector(json!({"sample_rate": 0})),
        vector(json!({"sample_rate": i64::MAX})),
        vector(json!({"max_iterations": 0})),
        vector(json!({"max_iterations": i64::MAX})),
        vector(json!({"index_type": "IVF_HNSW_SQ", "m": 0})),
        vector(json!({"index_type": "IVF_HNSW_SQ", "m": i64::MAX})),
        vector(json!({"index_type": "IVF_HNSW_SQ", "ef_construction": 0})),
        vector(json!({"index_type": "IVF_HNSW_SQ", "ef_construction": i64::MAX})),
        vector(json!({"distance_type": "manhattan"})),
        vector(json!({"distance_type": "hamming"})),
        vector(json!({"column": "bits", "index_type": "IVF_FLAT", "distance_type": "l2"})),
        vector(json!({"column": "many", "index_type": "IVF_FLAT", "distance_type": "l2"})),
        // Options that the kind has no use for.
        vector(json!({"m": 16})),
        vector(json!({"index_type": "IVF_SQ", "num_sub_vectors": 4})),
        vector(json!({"index_type": "IVF_FLAT", "num_bits": 8})),
        vector(json!({"stem": true})),
        json!({"column": "a", "index_type": "BTREE", "distance_type": "l2"}),
        json!({"column": "a", "index_type": "BTREE", "language": "English"}),
        text(json!({"num_partitions": 2})),
        text(json!({"language": "Klingon"})),
        text(json!({"language": "English\", \"x"})),
        text(json!({"base_tokenizer": "magic"})),
        text(json!({"base_tokenizer": "jieba/default"})),
        text(json!({"base_tokenizer": "lindera/../../etc"})),
        text(json!({"max_token_length": 0})),
        text(json!({"max_token_length": -4})),
        text(json!({"stem": "yes"})),
    ]
}

both! {
    async fn bad_requests_change_nothing(server: TestServer) {
        with_zoo(&server).await;
        let before = server.snapshot().await;
        for request in bad_requests() {
            assert_error(&create_index(&server, request).await, 400, INVALID_INPUT);
        }
        for kind in ["RTREE", "Json"] {
            let request = json!({"column": "body", "index_type": kind});
            assert_error(&create_index(&server, request).await, 406, UNSUPPORTED);
        }
        let vector = json!({"column": "v", "index_type": "IVF_FLAT"});
        let reply = server.post(&table("ns$t", "create_scalar_index"), vector).await;
        assert_error(&reply, 400, INVALID_INPUT);
        let request = json!({"column": "a", "index_type": "BTREE", "id": ["ns", "other"]});
        assert_error(&create_index(&server, request).await, 400, INVALID_INPUT);
        server.assert_unchanged(&before, "refused indexes").await;
        assert_eq!(server.versions("ns$t").await, [1]);
        let request = json!({"column": "a", "index_type": "BTREE"});
        let reply = server.post(&table("ns$none", "create_index"), request.clone()).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        server.with_declared("ns$declared").await;
        let reply = server.post(&table("ns$declared", "create_index"), request).await;
        assert_error(&reply, 409, INVALID_TABLE_STATE);
    }
}

both! {
    /// A codebook of 8 bits has 256 entries, and none is trained on fewer vectors.
    async fn too_few_vectors(server: TestServer) {
        server.create_namespace("ns").await;
        let nulls = FixedSizeListArray::new_null(
            Arc::new(Field::new("item", DataType::Float32, true)), DIMENSION, 300);
        let rows = batch(&[("a", ints(0..300)), ("v", Arc::new(nulls))]);
        server.create("ns$t", &rows).await;
        let before = server.snapshot().await;
        for kind in ["IVF_PQ", "IVF_FLAT", "IVF_SQ", "IVF_HNSW_SQ"] {
            let request = json!({"column": "v", "index_type": kind});
            assert_error(&create_index(&server, request).await, 400, INVALID_INPUT);
        }
        server.assert_unchanged(&before, "indexes that could not be trained").await;
        server.insert("ns$t", &batch(&[("a", ints(0..255)), ("v", vectors(0..255))])).await;
        let pq = json!({"column": "v", "index_type": "IVF_PQ"});
        assert_error(&create_index(&server, pq.clone()).await, 400, INVALID_INPUT);
        server.insert("ns$t", &batch(&[("a", ints(0..1)), ("v", vectors(0..1))])).await;
        built(&server, pq).await;
        assert_eq!(names(&server).await, ["v_idx"]);
    }
}

everywhere! {
    async fn an_empty_table(server: TestServer) {
        server.create_namespace("ns").await;
        let stream = ipc_without_rows(&zoo(0..1).schema());
        server.post_arrow(&table("ns$t", "create"), stream).await.ok();
        for kind in ["IVF_FLAT", "IVF_PQ"] {
            let request = json!({"column": "v", "index_type": kind});
            assert_error(&create_index(&server, request).await, 400, INVALID_INPUT);
        }
        built(&server, json!({"column": "a", "index_type": "BTREE"})).await;
        built(&server, json!({"column": "body", "index_type": "FTS"})).await;
        let stats = stats(&server, "a_idx").await.ok();
        assert_eq!((&stats["num_indexed_rows"], &stats["num_unindexed_rows"]), (&json!(0), &json!(0)));
        server.insert("ns$t", &zoo(0..10)).await;
        let stats = self::stats(&server, "a_idx").await.ok();
        assert_eq!(stats["num_unindexed_rows"], 10);
        assert_eq!(server.count_where("a = 4").await, 1);
    }
}

everywhere! {
    async fn names_and_replacing(server: TestServer) {
        with_zoo(&server).await;
        let named = |column: &str, kind: &str, name: &str| {
            json!({"column": column, "index_type": kind, "name": name})
        };
        built(&server, named("a", "BTREE", "mine")).await;
        let first = text(&list(&server, json!({})).await[0], "index_uuid");
        // On another column the name is taken.
        let reply = create_index(&server, named("word", "BTREE", "mine")).await;
        assert_error(&reply, 409, TABLE_INDEX_ALREADY_EXISTS);
        // On the same column the new one takes its place if it may, whatever the kinds.
        let again = |kind: &str| {
            let mut request = named("a", kind, "mine");
            request["replace"] = json!(true);
            request
        };
        built(&server, again("BTREE")).await;
        let second = text(&list(&server, json!({})).await[0], "index_uuid");
        assert_ne!(first, second);
        built(&server, again("ZONEMAP")).await;
        let listed = list(&server, json!({})).await;
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0]["index_type"], "ZONEMAP");
        // It may not unless the caller says so.
        for name in [json!("mine"), json!(null)] {
            let mut request = named("a", "BTREE", "");
            request["name"] = name.clone();
            if name.is_null() {
                built(&server, request.clone()).await;
            }
            let reply = create_index(&server, request).await;
            assert_error(&reply, 409, TABLE_INDEX_ALREADY_EXISTS);
        }
        // A name of Lance's making stays out of the way of one on another column.
        built(&server, named("flag", "BITMAP", "word_idx")).await;
        built(&server, json!({"column": "word", "index_type": "BITMAP"})).await;
        assert_eq!(names(&server).await, ["a_idx", "mine", "word_idx", "word_idx_2"]);
        // Names that a path must encode.
        let odd = "größe of 50%? #1";
        built(&server, named("body", "BTREE", odd)).await;
        stats(&server, odd).await.ok();
        drop_index(&server, odd).await.ok();
        assert_error(&stats(&server, odd).await, 404, TABLE_INDEX_NOT_FOUND);
    }
}

everywhere! {
    async fn pages_and_versions(server: TestServer) {
        with_zoo(&server).await;
        for column in ["a", "word", "body", "flag", "s.depth"] {
            built(&server, json!({"column": column, "index_type": "BTREE"})).await;
        }
        assert!(list(&server, json!({"version": 1})).await.is_empty());
        assert_eq!(list(&server, json!({"version": 3})).await.len(), 2);
        let path = table("ns$t", "index/list");
        let reply = server.post(&path, json!({"version": 99})).await;
        assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        let mut seen = BTreeSet::new();
        let mut body = json!({"limit": 2});
        let mut pages = 0;
        loop {
            let page = server.post(&path, body.clone()).await.ok();
            let indexes = page["indexes"].as_array().expect("a list");
            assert!(indexes.len() <= 2);
            seen.extend(indexes.iter().map(|index| text(index, "index_name")));
            pages += 1;
            match page["page_token"].as_str() {
                Some(token) => body["page_token"] = json!(token),
                None => break,
            }
        }
        assert_eq!((pages, seen.len()), (3, 5));
        let page = server.post_empty(&format!("{path}?limit=1")).await.ok();
        assert_eq!(page["indexes"].as_array().map(Vec::len), Some(1));
        for bad in [json!({"limit": 0}), json!({"page_token": "zzz"}), json!({"version": -1})] {
            assert_error(&server.post(&path, bad).await, 400, INVALID_INPUT);
        }
        let stats = server.post(&operation("a_idx", "stats"), json!({"version": 1})).await;
        assert_error(&stats, 404, TABLE_INDEX_NOT_FOUND);
        let stats = server.post(&operation("a_idx", "stats"), json!({"index_name": "b_idx"})).await;
        assert_error(&stats, 400, INVALID_INPUT);
        let stats = server.post(&operation("a_idx", "stats"), json!({"index_name": "a_idx"})).await;
        stats.ok();
        assert_error(&drop_index(&server, "__lance_frag_reuse").await, 404, TABLE_INDEX_NOT_FOUND);
    }
}

everywhere! {
    /// Other programs see what is built here, and what they build is seen here.
    async fn indexes_are_lances_own(server: TestServer) {
        use lance::index::DatasetIndexExt;
        use lance_index::IndexType;
        use lance_index::scalar::ScalarIndexParams;

        let location = with_zoo(&server).await;
        built(&server, json!({"column": "a", "index_type": "BTREE"})).await;
        let mut dataset = foreign::open(&location).await;
        let found = dataset.load_indices().await.expect("indices");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "a_idx");
        let params = ScalarIndexParams::default();
        let built = Box::pin(dataset.create_index(
            &["word"], IndexType::Bitmap, Some("theirs".into()), &params, false));
        built.await.expect("a foreign index");
        foreign::append(&location, zoo(ROWS..ROWS + 5)).await;
        assert_eq!(names(&server).await, ["a_idx", "theirs"]);
        let stats = stats(&server, "theirs").await.ok();
        assert_eq!(stats["num_indexed_rows"], ROWS);
        assert_eq!(stats["num_unindexed_rows"], 5);
        foreign::delete(&location, "a < 10").await;
        let stats = self::stats(&server, "theirs").await.ok();
        assert_eq!(stats["num_indexed_rows"], ROWS - 10);
        assert_eq!(stats["num_unindexed_rows"], 5);
        drop_index(&server, "theirs").await.ok();
        let found = foreign::open(&location).await.load_indices().await.expect("indices");
        assert_eq!(found.iter().map(|index| index.name.as_str()).collect::<Vec<_>>(), ["a_idx"]);
    }
}

/// Numbers without a pattern, so that a graph of them takes its time.
fn scattered(rows: i32) -> RecordBatch {
    let mut state = 7_u32;
    let numbers = (0..rows * 64).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32
    });
    let numbers = Float32Array::from_iter_values(numbers);
    batch(&[("a", ints(0..rows)), ("v", fixed_lists(Arc::new(numbers), 64))])
}

everywhere! {
    /// An index that takes longer than a request waits is built while others write to the table.
    async fn a_build_outlasts_its_request(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &scattered(LONG)).await;
        let started = Instant::now();
        let request = json!({"column": "v", "index_type": "IVF_HNSW_FLAT", "m": 32,
            "ef_construction": 400, "name": "slow"});
        create_index(&server, request).await.ok();
        assert!(started.elapsed() < Duration::from_secs(20), "the request waited for the build");
        // On a quick machine it may be there already; then the rest still has to hold.
        if names(&server).await.is_empty() {
            println!("the build outlasts its request");
        }
        server.insert("ns$t", &scattered(10)).await;
        built(&server, json!({"column": "a", "index_type": "BTREE"})).await;
        assert!(names(&server).await.contains(&"a_idx".to_string()));
        assert_eq!(server.count("ns$t").await, (LONG + 10) as u64);
        while !names(&server).await.contains(&"slow".to_string()) {
            assert!(started.elapsed() < PATIENCE, "the index never came");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let stats = stats(&server, "slow").await.ok();
        assert_eq!(stats["num_indexed_rows"], LONG);
        assert_eq!(stats["num_unindexed_rows"], 10);
        assert_eq!(server.count("ns$t").await, (LONG + 10) as u64);
    }
}

impl TestServer {
    async fn count_where(&self, predicate: &str) -> u64 {
        let body = json!({"predicate": predicate});
        let counted = self.post(&table("ns$t", "count_rows"), body).await.ok();
        counted.as_u64().expect("a number")
    }
}
