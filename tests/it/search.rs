//! Searching for the nearest vectors: kinds of vectors, settings, and what is refused.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, ListArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;
use lance_linalg::distance::MetricType;
use serde_json::{Value, json};

use crate::support::batches::{
    batch, batch_vectors, columns, float_values, int_values, ints, row_count, texts,
};
use crate::support::code::*;
use crate::support::{TestServer, assert_error, foreign, table};

/// Vectors `[i, i, …]` whose numbers are of a kind.
fn vectors(rows: i32, dimension: i32, kind: &DataType) -> ArrayRef {
    let numbers = (0..rows).flat_map(|row| (0..dimension).map(move |_| row as f32));
    let numbers: ArrayRef = Arc::new(Float32Array::from_iter_values(numbers));
    let numbers = cast(&numbers, kind).expect("numbers of the kind");
    let item = Arc::new(Field::new("item", kind.clone(), true));
    Arc::new(FixedSizeListArray::try_new(item, dimension, numbers, None).expect("whole vectors"))
}

async fn ids(server: &TestServer, id: &str, body: Value) -> Vec<i32> {
    int_values(&server.query(id, body).await, "id")
}

async fn assert_bad(server: &TestServer, id: &str, body: Value, words: &[&str]) {
    let reply = server.post(&table(id, "query"), body.clone()).await;
    let code = if reply.status == 404 { TABLE_COLUMN_NOT_FOUND } else { INVALID_INPUT };
    let status = if reply.status == 404 { 404 } else { 400 };
    assert_error(&reply, status, code);
    let sentence = reply.body["error"].as_str().unwrap_or_default();
    for word in words {
        assert!(sentence.contains(word), "{body}: `{word}` is not in: {sentence}");
    }
}

/// Ten vectors `[i, i]`, with `id` = i.
async fn with_vectors(server: &TestServer) {
    server.create_namespace("ns").await;
    server.create("ns$v", &batch_vectors(10, 2)).await;
}

everywhere! {
    async fn every_kind_of_number_is_searched(server: TestServer) {
        server.create_namespace("ns").await;
        for kind in [DataType::Float16, DataType::Float32, DataType::Float64, DataType::Int8] {
            let id = format!("ns${}", kind.to_string().to_lowercase());
            let rows = batch(&[("id", ints(0..9)), ("vec", vectors(9, 4, &kind))]);
            server.create(&id, &rows).await;
            let body = json!({"vector": {"single_vector": [6, 6, 6, 6]}, "k": 1});
            assert_eq!(ids(&server, &id, body).await, [6], "{kind}");
            let body = json!({"vector": {"multi_vector": [[2, 2, 2, 2], [7, 7, 7, 7]]}, "k": 1});
            assert_eq!(ids(&server, &id, body).await, [2, 7], "{kind}");
        }
        let body = json!({"vector": {"single_vector": [0.5, 1, 1, 1]}, "k": 1});
        assert_bad(&server, "ns$int8", body, &["Int8"]).await;
        let body = json!({"vector": {"single_vector": [128, 1, 1, 1]}, "k": 1});
        assert_bad(&server, "ns$int8", body, &["Int8"]).await;
        let body = json!({"vector": {"single_vector": [1e30, 1, 1, 1]}, "k": 1});
        assert_bad(&server, "ns$float16", body, &["Float16"]).await;
        let body = json!({"vector": {"single_vector": [1e300, 1, 1, 1]}, "k": 1});
        assert_bad(&server, "ns$float32", body, &["Float32"]).await;
    }
}

everywhere! {
    async fn bytes_are_compared_bit_by_bit(server: TestServer) {
        server.create_namespace("ns").await;
        let rows = batch(&[("id", ints(0..16)), ("vec", vectors(16, 8, &DataType::UInt8))]);
        server.create("ns$v", &rows).await;
        let query = json!({"single_vector": [7, 7, 7, 7, 7, 7, 7, 7]});
        for measure in [json!("hamming"), json!("Hamming"), Value::Null] {
            let body = json!({"vector": query, "k": 4, "distance_type": measure});
            let rows = server.query("ns$v", body).await;
            // One bit of each of the eight bytes makes 8.
            assert_eq!(int_values(&rows, "id"), [7, 3, 5, 6]);
            assert_eq!(float_values(&rows, "_distance"), [0.0, 8.0, 8.0, 8.0]);
        }
        let body = json!({"vector": query, "k": 4, "distance_type": "l2"});
        assert_bad(&server, "ns$v", body, &["l2", "UInt8"]).await;
    }
}

everywhere! {
    async fn a_row_may_have_many_vectors(server: TestServer) {
        server.create_namespace("ns").await;
        // Row i has the vectors [2i, 2i] and [2i + 1, 2i + 1].
        let all = vectors(12, 2, &DataType::Float32);
        let item = Arc::new(Field::new("item", all.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([2; 6]);
        let lists = ListArray::try_new(item, offsets, all, None).expect("lists");
        let rows = batch(&[("id", ints(0..6)), ("vec", Arc::new(lists) as ArrayRef)]);
        server.create("ns$m", &rows).await;
        let body = json!({"vector": {"multi_vector": [[6, 6], [7, 7]]}, "k": 2,
            "distance_type": "l2"});
        let rows = server.query("ns$m", body).await;
        assert_eq!(int_values(&rows, "id")[0], 3);
        assert_eq!(row_count(&rows), 2, "several vectors are one search here");
        assert!(!columns(&rows).contains(&"query_index".to_string()));
        let body = json!({"vector": {"single_vector": [8.1, 8.1]}, "k": 1, "offset": 1});
        assert_eq!(row_count(&server.query("ns$m", body).await), 1);
        let body = json!({"vector": {"multi_vector": [[6, 6], [7]]}, "k": 2});
        assert_bad(&server, "ns$m", body, &["1 numbers", "have 2"]).await;
    }
}

everywhere! {
    async fn each_of_several_queries_has_its_answer(server: TestServer) {
        with_vectors(&server).await;
        let body = json!({"vector": {"multi_vector": [[9, 9], [0.2, 0]]}, "k": 2,
            "columns": {"column_names": ["id"]}});
        let rows = server.query("ns$v", body).await;
        assert_eq!(int_values(&rows, "query_index"), [0, 0, 1, 1]);
        assert_eq!(int_values(&rows, "id"), [9, 8, 0, 1]);
        assert!(!columns(&rows).contains(&"vec".to_string()));
        let body = json!({"vector": {"multi_vector": [[9, 9], [0, 0]]}, "k": 2, "offset": 1});
        let rows = server.query("ns$v", body).await;
        assert_eq!(int_values(&rows, "query_index"), [0, 0, 1, 1]);
        assert_eq!(int_values(&rows, "id"), [8, 7, 1, 2]);
        let many = vec![vec![1.0, 1.0]; 2_000];
        let body = json!({"vector": {"multi_vector": many}, "k": 2});
        assert_bad(&server, "ns$v", body, &["2000"]).await;
    }
}

everywhere! {
    async fn vectors_come_in_several_forms(server: TestServer) {
        with_vectors(&server).await;
        for vector in [json!([4, 4]), json!([[4, 4]]), json!({"multi_vector": [[4, 4]]}),
            json!({"single_vector": [4, 4], "multi_vector": null})] {
            let body = json!({"vector": vector, "k": 1});
            assert_eq!(ids(&server, "ns$v", body).await, [4], "{vector}");
        }
        for vector in [json!([]), json!({}), json!(null),
            json!({"single_vector": null, "multi_vector": null})] {
            let rows = server.query("ns$v", json!({"vector": vector, "k": 3})).await;
            assert_eq!(int_values(&rows, "id"), [0, 1, 2], "{vector}");
            assert!(!columns(&rows).contains(&"_distance".to_string()));
        }
    }
}

everywhere! {
    async fn bounds_measures_and_offsets_hold(server: TestServer) {
        with_vectors(&server).await;
        let near_zero = json!({"single_vector": [0, 0]});
        for (body, expected) in [
            // The distances are 0, 2, 8, 18, 32, …
            (json!({"lower_bound": 2, "upper_bound": 18}), vec![1, 2]),
            (json!({"upper_bound": 8.5}), vec![0, 1, 2]),
            (json!({"lower_bound": 100}), vec![8, 9]),
            (json!({"lower_bound": 5, "upper_bound": 1}), vec![]),
            (json!({"offset": 7}), vec![7, 8, 9]),
            (json!({"offset": 1_000_000}), vec![]),
            (json!({"k": 2, "offset": u64::MAX}), vec![]),
            (json!({"k": u64::MAX, "offset": 8}), vec![8, 9]),
            (json!({"k": 2, "offset": 3}), vec![3, 4]),
            (json!({"k": 3, "filter": "id > 1"}), vec![2]),
            (json!({"k": 3, "filter": "id > 1", "prefilter": true}), vec![2, 3, 4]),
            (json!({"k": 1, "filter": "_distance > 1"}), vec![]),
            (json!({"k": 1, "distance_type": "EUCLIDEAN"}), vec![0]),
            (json!({"k": 2, "bypass_vector_index": true, "refine_factor": 7}), vec![0, 1]),
            (json!({"k": 2, "nprobes": 5, "minimum_nprobes": 1, "ef": 30}), vec![0, 1]),
            // There is no index, and nothing else is looked at.
            (json!({"k": 2, "fast_search": true}), vec![]),
        ] {
            let mut body = body;
            body["vector"] = near_zero.clone();
            if body["k"].is_null() {
                body["k"] = json!(10);
            }
            assert_eq!(ids(&server, "ns$v", body.clone()).await, expected, "{body}");
        }
    }
}

everywhere! {
    async fn ten_are_found_when_nothing_is_said(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$v", &batch_vectors(30, 2)).await;
        let body = json!({"vector": {"single_vector": [20, 20]}});
        assert_eq!(ids(&server, "ns$v", body).await.len(), 10);
    }
}

everywhere! {
    async fn the_distance_can_be_a_column(server: TestServer) {
        with_vectors(&server).await;
        let body = json!({"vector": {"single_vector": [3, 3]}, "k": 2, "with_row_id": true,
            "columns": {"column_names": ["_distance", "id"]}});
        let rows = server.query("ns$v", body).await;
        assert_eq!(columns(&rows), ["_distance", "id", "_rowid"]);
        let body = json!({"vector": {"single_vector": [3, 3]}, "k": 2,
            "columns": {"column_aliases": {"far": "_distance", "number": "id"}}});
        let rows = server.query("ns$v", body).await;
        assert_eq!(float_values(&rows, "far"), [0.0, 2.0]);
        let body = json!({"k": 2, "columns": {"column_names": ["_distance"]}});
        let reply = server.post(&table("ns$v", "query"), body).await;
        assert_error(&reply, 404, TABLE_COLUMN_NOT_FOUND);
    }
}

everywhere! {
    async fn vectors_may_stand_inside_of_a_struct(server: TestServer) {
        server.create_namespace("ns").await;
        let inner = vectors(5, 3, &DataType::Float32);
        let field = Arc::new(Field::new("vec.x", inner.data_type().clone(), true));
        let outer: ArrayRef = Arc::new(StructArray::from(vec![(field, inner)]));
        let top = vectors(5, 2, &DataType::Float32);
        let rows = batch(&[("id", ints(0..5)), ("data", outer), ("top", top)]);
        server.create("ns$n", &rows).await;
        let found = |column: Value, vector: Value| {
            json!({"vector": {"single_vector": vector}, "k": 1, "vector_column": column,
                "columns": {"column_names": ["id"]}})
        };
        for body in [
            found(json!("data.`vec.x`"), json!([3, 3, 3])),
            found(json!("`top`"), json!([3, 3])),
            // The only one at the top.
            found(Value::Null, json!([3, 3])),
        ] {
            assert_eq!(ids(&server, "ns$n", body.clone()).await, [3], "{body}");
        }
        for column in ["vec.x", "`vec.x`", "data.vec.x", "data.nope", "Top", "``", "data."] {
            let body = found(json!(column), json!([3, 3]));
            let reply = server.post(&table("ns$n", "query"), body).await;
            assert_error(&reply, 404, TABLE_COLUMN_NOT_FOUND);
        }
        assert_bad(&server, "ns$n", found(json!("data"), json!([3, 3])), &["no vectors"]).await;
    }
}

everywhere! {
    async fn a_search_that_does_not_fit_is_refused(server: TestServer) {
        server.create_namespace("ns").await;
        let vec = vectors(10, 2, &DataType::Float32);
        let rows = batch(&[("id", ints(0..10)), ("name", texts(0..10)), ("vec", vec.clone())]);
        server.create("ns$v", &rows).await;
        server.create("ns$two", &batch(&[("x", vec.clone()), ("y", vec)])).await;
        let with = |field: &str, value: Value| {
            let mut body = json!({"vector": {"single_vector": [1, 1]}, "k": 3});
            body[field] = value;
            body
        };
        for (body, words) in [
            (with("k", json!(0)), vec!["k", "at least 1"]),
            (with("k", json!(-1)), vec!["-1"]),
            (with("offset", json!(-1)), vec!["-1"]),
            (with("nprobes", json!(0)), vec!["nprobes"]),
            (with("minimum_nprobes", json!(0)), vec!["minimum_nprobes"]),
            (with("maximum_nprobes", json!(0)), vec!["maximum_nprobes"]),
            (with("refine_factor", json!(0)), vec!["refine_factor"]),
            (with("refine_factor", json!(-2)), vec!["-2"]),
            (with("ef", json!(0)), vec!["ef"]),
            (with("ef", json!(2)), vec!["ef is 2", "3 rows"]),
            (with("lower_bound", json!("near")), vec!["near"]),
            (with("lower_bound", json!(1e300)), vec!["lower_bound"]),
            (with("distance_type", json!("by feel")), vec!["by feel", "cosine"]),
            (with("distance_type", json!("hamming")), vec!["hamming", "Float32"]),
            (with("vector_column", json!("nope")), vec!["nope", "vec"]),
            (with("vector_column", json!("")), vec![]),
            (with("vector_column", json!("name")), vec!["name", "no vectors", "Utf8"]),
            (with("vector_column", json!("id")), vec!["id", "no vectors", "Int32"]),
            (with("vector_column", json!("_rowid")), vec!["no vectors"]),
            (with("filter", json!("vec = 1")), vec![]),
            (with("filter", json!("vec > name")), vec![]),
            (with("vector", json!({"multi_vector": [[], []]})), vec!["empty"]),
            (with("vector", json!({"single_vector": [1, 2, 3]})), vec!["3 numbers", "have 2"]),
            (with("vector", json!({"multi_vector": [[1, 2], [1]]})), vec!["1 numbers", "have 2"]),
            (with("vector", json!({"single_vector": [1, null]})), vec!["single_vector"]),
            (with("vector", json!({"single_vector": ["1", "2"]})), vec!["list of numbers"]),
            (with("vector", json!({"single_vector": [1, 2], "multi_vector": [[1, 2]]})),
                vec!["not both"]),
            (with("vector", json!("1, 2")), vec!["single_vector"]),
        ] {
            assert_bad(&server, "ns$v", body, &words).await;
        }
        let body = json!({"vector": {"single_vector": [1, 1]}, "k": 3, "minimum_nprobes": 5,
            "maximum_nprobes": 2});
        assert_bad(&server, "ns$v", body, &["5", "2"]).await;
        let body = json!({"vector": {"single_vector": [1, 1]}, "k": 3, "fast_search": true,
            "bypass_vector_index": true});
        assert_bad(&server, "ns$v", body, &["bypass_vector_index"]).await;
        assert_bad(&server, "ns$two", with("k", json!(1)), &["several", "vector_column"]).await;
        // JSON has no NaN; who sends it all the same is told where.
        let request = server.request(reqwest::Method::POST, &table("ns$v", "query"));
        let reply = server.send(request.body(r#"{"vector": {"single_vector": [NaN, 1]}}"#)).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert_eq!(server.count("ns$v").await, 10);
    }
}

everywhere! {
    /// An index is used, its settings hold, and none of them costs more than the table has rows.
    async fn an_index_is_searched(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$flat", &batch_vectors(400, 4)).await;
        server.create("ns$hnsw", &batch_vectors(400, 4)).await;
        let flat = VectorIndexParams::ivf_flat(4, MetricType::L2);
        let hnsw = VectorIndexParams::with_ivf_hnsw_sq_params(
            MetricType::L2,
            IvfBuildParams::new(1),
            HnswBuildParams::default(),
            SQBuildParams::default(),
        );
        for (id, params) in [("ns$flat", flat), ("ns$hnsw", hnsw)] {
            foreign::index(&server.location(id).await, "vec", IndexType::Vector, &params).await;
            // These are in no index.
            server.insert(id, &batch_vectors(3, 4)).await;
            for more in [
                json!({}),
                json!({"nprobes": 4}),
                json!({"nprobes": u64::from(u32::MAX)}),
                json!({"minimum_nprobes": 1, "maximum_nprobes": 4}),
                json!({"refine_factor": 3}),
                json!({"refine_factor": u32::MAX}),
                json!({"ef": 100}),
                json!({"ef": u64::from(u32::MAX)}),
                json!({"k": u64::MAX}),
                json!({"k": u64::MAX, "refine_factor": u32::MAX, "ef": u64::from(u32::MAX)}),
                json!({"offset": u64::MAX}),
                json!({"fast_search": true}),
                json!({"bypass_vector_index": true}),
                json!({"prefilter": true, "filter": "id <> 100"}),
                json!({"distance_type": "cosine"}),
            ] {
                let mut body = json!({"vector": {"single_vector": [100, 100, 100, 101]}, "k": 5});
                for (field, value) in more.as_object().expect("fields") {
                    body[field] = value.clone();
                }
                let reply = server.post(&table(id, "query"), body).await;
                assert_eq!(reply.status, 200, "{id} {more}: {}", reply.text());
            }
            let nearest = json!({"vector": {"single_vector": [1, 1, 1, 1]}, "k": 2, "nprobes": 4});
            assert_eq!(ids(&server, id, nearest.clone()).await, [1, 1], "{id}");
            let mut fast = nearest.clone();
            fast["fast_search"] = json!(true);
            let found = ids(&server, id, fast).await;
            assert_eq!(found.iter().filter(|id| **id == 1).count(), 1, "{id}: {found:?}");
            let several = json!({"vector": {"multi_vector": [[1, 1, 1, 1], [50, 50, 50, 50]]},
                "k": 1, "nprobes": 4, "refine_factor": 20, "columns": {"column_names": ["id"]}});
            assert_eq!(ids(&server, id, several).await, [1, 50], "{id}");
        }
    }
}
