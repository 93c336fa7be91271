//! The LanceDB dialect: queries as its clients write them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, DictionaryArray, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, UInt64Type};
use lance_index::IndexType;
use lance_index::scalar::InvertedIndexParams;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::batches::{
    batch, batch_vectors, columns, float_values, int_values, ints, ints_or_null, ipc, read_file,
    read_stream, row_count, text_values,
};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, assert_error_in, foreign};

/// What the clients send for "all rows".
const NO_LIMIT: i64 = i64::MAX;

fn path(id: &str, operation: &str) -> String {
    format!("/v1/table/{id}/{operation}/")
}

/// A query whose body is text: JSON values of tests have no order.
async fn ask_text(server: &TestServer, id: &str, body: &str) -> Reply {
    let request = server.request(Method::POST, &path(id, "query"));
    let request = request.header("content-type", "application/json").body(body.to_owned());
    server.send(request).await
}

async fn ask(server: &TestServer, id: &str, body: Value) -> Reply {
    server.post(&path(id, "query"), body).await
}

/// What the clients always send, and what is given.
fn scan(more: Value) -> Value {
    let mut body = json!({"version": null, "prefilter": true, "k": NO_LIMIT, "vector": []});
    for (field, value) in more.as_object().expect("fields") {
        body[field] = value.clone();
    }
    body
}

#[track_caller]
fn rows_of(reply: Reply) -> Vec<RecordBatch> {
    assert_eq!(reply.status, 200, "{} {}: {}", reply.path, reply.said, reply.text());
    read_file(&reply.raw)
}

async fn rows(server: &TestServer, id: &str, more: Value) -> Vec<RecordBatch> {
    rows_of(ask(server, id, scan(more)).await)
}

async fn found(server: &TestServer, id: &str, column: &str, more: Value) -> Vec<i32> {
    int_values(&rows(server, id, more).await, column)
}

/// 400, with words of the sentence: another status would be a table that is not there, or be tried
/// again.
async fn assert_bad(server: &TestServer, id: &str, more: Value, words: &[&str]) {
    let reply = ask(server, id, scan(more.clone())).await;
    assert_error_in(&reply, 400, &[INVALID_INPUT, TABLE_COLUMN_NOT_FOUND]);
    let sentence = reply.body["error"].as_str().unwrap_or_default();
    for word in words {
        assert!(sentence.contains(word), "{more}: `{word}` is not in: {sentence}");
    }
}

fn big_numbers(batches: &[RecordBatch], name: &str) -> Vec<u64> {
    let column = |batch: &RecordBatch| batch.column_by_name(name).expect("the column").clone();
    let columns: Vec<ArrayRef> = batches.iter().map(column).collect();
    let numbers = columns.iter().flat_map(|column| column.as_primitive::<UInt64Type>().values());
    numbers.copied().collect()
}

everywhere! {
    /// The body that the clients send for a plain scan, with what they send besides.
    async fn a_scan_of_the_clients(server: TestServer) {
        server.with_table("ns$t", 4).await;
        let body = json!({"version": null, "branch": null, "prefilter": true, "k": NO_LIMIT,
            "vector": [], "nprobes": 20, "minimum_nprobes": 20, "maximum_nprobes": 20, "ef": null,
            "refine_factor": null, "lower_bound": null, "upper_bound": null, "filter": null,
            "columns": null, "order_by": null, "full_text_query": null, "vector_column": null,
            "offset": null, "use_rte": false, "approx_mode": null, "search_effort": null,
            "with_row_id": null, "fast_search": null, "bypass_vector_index": null,
            "distance_type": null, "something_new": {"a": 1}});
        let reply = ask(&server, "ns$t", body).await;
        assert_eq!(reply.header("content-type"), Some("application/vnd.apache.arrow.file"));
        assert_eq!(reply.header("x-lancedb-version"), Some("1"));
        assert!(reply.header("phalanx-version").is_some());
        let all = rows_of(reply);
        assert_eq!(columns(&all), ["a", "b"]);
        assert_eq!(int_values(&all, "a"), [0, 1, 2, 3]);
        assert_eq!(found(&server, "ns$t", "a", json!({"k": 2, "offset": 1})).await, [1, 2]);
        assert_eq!(found(&server, "ns$t", "a", json!({"offset": 3})).await, [3]);
        assert_eq!(found(&server, "ns$t", "a", json!({"filter": "a % 2 = 1"})).await, [1, 3]);
        assert_eq!(row_count(&rows(&server, "ns$t", json!({"k": 0})).await), 0);
        assert_eq!(row_count(&rows_of(ask(&server, "ns$t", json!({})).await)), 4);
        let reply = server.post_empty(&path("ns$t", "query")).await;
        assert_eq!(row_count(&rows_of(reply)), 4);
    }
}

everywhere! {
    async fn a_query_that_cannot_be_read_is_refused(server: TestServer) {
        server.with_table("ns$t", 4).await;
        for body in ["{", "[]", "{\"k\": -1}", "{\"k\": \"all\"}", "{\"vector\": [\"a\"]}",
            "{\"vector\": 3}", "{\"columns\": 3}", "{\"columns\": [3]}", "{\"columns\": {\"a\": 3}}",
            "{\"order_by\": \"a\"}", "{\"order_by\": [{\"ascending\": true}]}",
            "{\"full_text_query\": \"a\"}", "{\"full_text_query\": {\"query\": 3}}",
            "{\"nprobes\": -1, \"vector\": [1.0]}", "{\"offset\": -3}", "{\"filter\": 3}",
            "{\"approx_mode\": 3}", "{\"version\": -1}",
        ] {
            let reply = ask_text(&server, "ns$t", body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let reply = ask(&server, "ns$none", scan(json!({}))).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        let reply = ask(&server, "ns$t", scan(json!({"version": 9}))).await;
        assert_error(&reply, 400, TABLE_VERSION_NOT_FOUND);
        let reply = ask(&server, "ns$t", scan(json!({"branch": "none"}))).await;
        assert_error(&reply, 404, TABLE_BRANCH_NOT_FOUND);
        assert_bad(&server, "ns$t", json!({"filter": "nothing > 1"}), &["nothing"]).await;
        assert_bad(&server, "ns$t", json!({"columns": ["nothing"]}), &["nothing", "a, b"]).await;
    }
}

everywhere! {
    /// An object of columns is a list of expressions, whose order is that of the answer.
    async fn columns_are_expressions_in_order(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let body = r#"{"k": 10, "columns": {"z": "a * 2", "b": "upper(b)", "a": "a",
            "_rowid": "_rowid", "m": "concat(b, '!')", "r": "_rowid + 1", "one": "1"},
            "filter": "a > 0"}"#;
        let answer = rows_of(ask_text(&server, "ns$t", body).await);
        assert_eq!(columns(&answer), ["z", "b", "a", "_rowid", "m", "r", "one"]);
        assert_eq!(int_values(&answer, "a"), [1, 2]);
        assert_eq!(text_values(&answer, "b"), [Some("S1".into()), Some("S2".into())]);
        assert_eq!(text_values(&answer, "m"), [Some("s1!".into()), Some("s2!".into())]);
        assert_eq!(big_numbers(&answer, "_rowid"), [1, 2]);
        let body = r#"{"columns": {"one": "'1'", "r": "_rowid"}, "filter": "a < 2"}"#;
        let answer = rows_of(ask_text(&server, "ns$t", body).await);
        assert_eq!(columns(&answer), ["one", "r"]);
        assert_eq!(text_values(&answer, "one"), [Some("1".into()), Some("1".into())]);
        assert_eq!(big_numbers(&answer, "r"), [0, 1]);
        let body = r#"{"columns": {"c": "b", "a": "a"}, "with_row_id": true}"#;
        let answer = rows_of(ask_text(&server, "ns$t", body).await);
        assert_eq!(columns(&answer), ["c", "a", "_rowid"]);
        let body = r#"{"columns": {"a": "_rowoffset", "_rowoffset": "_rowoffset"}}"#;
        let answer = rows_of(ask_text(&server, "ns$t", body).await);
        assert_eq!(big_numbers(&answer, "a"), [0, 1, 2]);
    }
}

everywhere! {
    async fn a_bad_expression_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let deep = format!("{}a{}", "(".repeat(40), ")".repeat(40));
        for (columns, words) in [
            (json!({}), "columns is empty"),
            (json!({"x": ""}), "expression"),
            (json!({"x": "a +"}), "expression"),
            (json!({"x": "nothing"}), "nothing"),
            (json!({"x": "nothing(a)"}), "nothing"),
            (json!({"x": "count(*)"}), ""),
            (json!({"x": "sum(a)"}), "aggregate"),
            (json!({"x": "row_number() OVER ()"}), "aggregate"),
            (json!({"x": "(SELECT 1)"}), "query"),
            (json!({"x": "a FROM t"}), "FROM"),
            (json!({"x": "a; DROP TABLE t"}), ";"),
            (json!({"x": "repeat('a', 1000000000)"}), "repeat"),
            (json!({"x": deep}), "deep"),
            (json!({"x": "upper(a, b, a)"}), ""),
            (json!({"x": "a / 0"}), "zero"),
            (json!({"_rowid": "a"}), "_rowid"),
            (json!({"_score": "a"}), "_score"),
            (json!({"x": "_distance"}), "_distance"),
            (json!({"x": "CASE WHEN a > 1 THEN 1 END"}), "CASE"),
            (json!({"x": "_rowoffset + 1"}), "_rowoffset"),
        ] {
            let reply = ask(&server, "ns$t", scan(json!({"columns": columns}))).await;
            assert_error_in(&reply, 400, &[INVALID_INPUT, TABLE_COLUMN_NOT_FOUND]);
            assert!(reply.text().contains(words), "{columns}: {}", reply.text());
        }
        let reply = ask_text(&server, "ns$t", r#"{"columns": {"a": "a", "a": "b"}}"#).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert!(reply.text().contains("twice"), "{}", reply.text());
        let many: serde_json::Map<String, Value> =
            (0..257).map(|n| (format!("c{n}"), json!("a"))).collect();
        assert_bad(&server, "ns$t", json!({"columns": many}), &["257", "256"]).await;
        assert_bad(&server, "ns$t", json!({"columns": []}), &["empty"]).await;
        assert_bad(&server, "ns$t", json!({"columns": ["a", "a"]}), &["a"]).await;
    }
}

/// `n` is 3, null, 1, 3, 2; `id` counts; `s.x` is `n`; `l` is a list.
async fn with_numbers(server: &TestServer) {
    server.create_namespace("ns").await;
    let n = ints_or_null(&[Some(3), None, Some(1), Some(3), Some(2)]);
    let x = Arc::new(Field::new("x", DataType::Int32, true));
    let s: ArrayRef = Arc::new(StructArray::from(vec![(x, n.clone())]));
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let l = ListArray::try_new(item, OffsetBuffer::from_lengths([1; 5]), ints(0..5), None);
    let t: ArrayRef = Arc::new(StringArray::from(vec!["c", "a", "d", "b", "e"]));
    let l: ArrayRef = Arc::new(l.expect("lists"));
    server
        .create("ns$n", &batch(&[("id", ints(0..5)), ("n", n), ("s", s), ("l", l), ("t", t)]))
        .await;
}

everywhere! {
    async fn rows_come_in_the_order_asked_for(server: TestServer) {
        with_numbers(&server).await;
        let by = |column: &str, ascending: bool, nulls_first: bool| {
            json!({"column_name": column, "ascending": ascending, "nulls_first": nulls_first})
        };
        for (keys, more, expected) in [
            (json!([by("n", true, false), by("id", true, false)]), json!({}), vec![2, 4, 0, 3, 1]),
            (json!([by("n", true, true), by("id", true, false)]), json!({}), vec![1, 2, 4, 0, 3]),
            (json!([by("n", false, false), by("id", false, false)]), json!({}),
                vec![3, 0, 4, 2, 1]),
            (json!([by("s.x", false, true), by("t", true, true)]), json!({}), vec![1, 3, 0, 4, 2]),
            (json!([by("t", true, true)]), json!({"k": 2}), vec![1, 3]),
            (json!([by("t", true, true)]), json!({"k": 2, "offset": 2}), vec![0, 2]),
            (json!([by("t", false, true)]), json!({"filter": "n = 3", "columns": ["id"]}),
                vec![0, 3]),
            (json!([by("t", false, true)]), json!({"columns": {"id": "id"}, "k": 1}), vec![4]),
            (json!([by("t", false, true)]), json!({"columns": ["id"], "k": 2}), vec![4, 2]),
            (json!([by("s.x", true, false), by("t", true, true)]),
                json!({"columns": ["id", "_rowoffset"]}), vec![2, 4, 3, 0, 1]),
            (json!([{"column_name": "t"}]), json!({}), vec![1, 3, 0, 2, 4]),
            (json!([]), json!({}), vec![0, 1, 2, 3, 4]),
        ] {
            let mut body = more.clone();
            body["order_by"] = keys.clone();
            assert_eq!(found(&server, "ns$n", "id", body).await, expected, "{keys} {more}");
        }
        let hidden = rows(&server, "ns$n", json!({"columns": ["id"],
            "order_by": [by("t", true, true)]})).await;
        assert_eq!(columns(&hidden), ["id"]);
        for (keys, word) in [
            (json!([by("nothing", true, true)]), "nothing"),
            (json!([by("l", true, true)]), "order"),
            (json!([by("s", true, true)]), "order"),
            (json!([by("_distance", true, true)]), "_distance"),
            (json!(vec![by("n", true, true); 33]), "33"),
        ] {
            assert_bad(&server, "ns$n", json!({"order_by": keys}), &[word]).await;
        }
    }
}

everywhere! {
    /// What is found is sorted, not searched, by the columns.
    async fn what_a_search_found_is_sorted(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$v", &batch_vectors(10, 2)).await;
        let order = json!([{"column_name": "id", "ascending": false, "nulls_first": false}]);
        let body = json!({"vector": [3, 3], "k": 3, "order_by": order});
        assert_eq!(found(&server, "ns$v", "id", body).await, [4, 3, 2]);
    }
}

everywhere! {
    /// `take_offsets` and `take_row_ids` of the clients.
    async fn rows_are_taken_by_offset_and_by_id(server: TestServer) {
        server.with_table("ns$t", 6).await;
        server.insert("ns$t", &crate::support::batches::batch_ab(6..10)).await;
        let deletion = json!({"predicate": "a = 1 OR a = 7"});
        server.post(&path("ns$t", "delete"), deletion).await.ok();
        // What is left: 0, 2, 3, 4, 5, 6, 8, 9.
        let take = |filter: &str| json!({"filter": filter, "columns": ["a", "_rowoffset"]});
        for (filter, expected, offsets) in [
            ("_rowoffset IN (0, 1, 6)", vec![0, 2, 8], vec![0, 1, 6]),
            ("_rowoffset IN (7)", vec![9], vec![7]),
            ("_rowoffset = 1", vec![2], vec![1]),
            ("_rowoffset IN (1, 100, 1)", vec![2], vec![1]),
            ("_rowoffset IN (100)", vec![], vec![]),
            ("_rowoffset IN (18446744073709551615)", vec![], vec![]),
            ("_rowoffset IN (0, 1, 2) AND a > 0", vec![2, 3], vec![1, 2]),
        ] {
            let answer = rows(&server, "ns$t", take(filter)).await;
            assert_eq!(int_values(&answer, "a"), expected, "{filter}");
            assert_eq!(big_numbers(&answer, "_rowoffset"), offsets, "{filter}");
        }
        let all = rows(&server, "ns$t", json!({"columns": ["_rowoffset"]})).await;
        assert_eq!(big_numbers(&all, "_rowoffset"), (0..8).collect::<Vec<u64>>());
        let ids = rows(&server, "ns$t", json!({"with_row_id": true})).await;
        let ids: Vec<u64> = big_numbers(&ids, "_rowid");
        let three = format!("_rowid IN ({}, {}, {})", ids[7], ids[0], ids[2]);
        let answer = rows(&server, "ns$t", json!({"filter": three, "with_row_id": true})).await;
        let mut taken = int_values(&answer, "a");
        taken.sort_unstable();
        assert_eq!(taken, [0, 3, 9]);
        for nothing in ["_rowid IN (1)", "_rowid IN (18446744073709551615)", "_rowid = 99",
            "_rowaddr IN (77309411328)"] {
            let answer = rows(&server, "ns$t", json!({"filter": nothing})).await;
            assert_eq!(row_count(&answer), 0, "{nothing}");
        }
        let many: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
        let many = format!("_rowoffset IN ({})", many.join(", "));
        assert_eq!(row_count(&rows(&server, "ns$t", json!({"filter": many})).await), 8);
        // Lance finds rows by their offsets, and does not compare them.
        let near = json!({"columns": ["a", "_rowoffset"], "filter": "a > 4"});
        assert_eq!(big_numbers(&rows(&server, "ns$t", near).await, "_rowoffset"), [4, 5, 6, 7]);
        for filter in ["_rowoffset > 2", "NOT _rowoffset IN (1, 2)", "_rowoffset + 1 = 2"] {
            assert_bad(&server, "ns$t", json!({"filter": filter}), &["_rowoffset"]).await;
        }
    }
}

everywhere! {
    async fn vectors_are_searched_as_clients_ask(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$v", &batch_vectors(20, 2)).await;
        let near = |more: Value| {
            let mut body = json!({"vector": [5.1, 5.0], "k": 3, "nprobes": 20,
                "minimum_nprobes": 20, "maximum_nprobes": 20, "ef": null, "refine_factor": null,
                "lower_bound": null, "upper_bound": null});
            for (field, value) in more.as_object().expect("fields") {
                body[field] = value.clone();
            }
            body
        };
        let answer = rows(&server, "ns$v", near(json!({}))).await;
        assert_eq!(columns(&answer), ["id", "vec", "_distance"]);
        for (more, expected) in [
            (json!({}), vec![5, 6, 4]),
            (json!({"offset": 1}), vec![6, 4, 7]),
            (json!({"k": NO_LIMIT, "upper_bound": 1.0}), vec![5]),
            (json!({"k": NO_LIMIT, "offset": 18}), vec![18, 19]),
            (json!({"maximum_nprobes": 0}), vec![5, 6, 4]),
            (json!({"maximum_nprobes": 0, "minimum_nprobes": null}), vec![5, 6, 4]),
            (json!({"search_effort": 0.5, "nprobes": 5, "minimum_nprobes": 9,
                "maximum_nprobes": null}), vec![5, 6, 4]),
            (json!({"approx_mode": "fast"}), vec![5, 6, 4]),
            (json!({"approx_mode": "accurate"}), vec![5, 6, 4]),
            (json!({"distance_type": "l2", "bypass_vector_index": true}), vec![5, 6, 4]),
            (json!({"filter": "id > 10"}), vec![11, 12, 13]),
            (json!({"filter": "id > 4", "prefilter": false}), vec![5, 6]),
            (json!({"vector_column": "vec", "columns": ["id"]}), vec![5, 6, 4]),
            (json!({"fast_search": true}), vec![]),
        ] {
            let body = near(more.clone());
            assert_eq!(found(&server, "ns$v", "id", body).await, expected, "{more}");
        }
        let all = near(json!({"k": NO_LIMIT}));
        assert_eq!(row_count(&rows(&server, "ns$v", all).await), 20);
        let body = r#"{"vector": [1, 1], "k": 1, "columns": {"d": "_distance * 2 + 1",
            "_distance": "_distance", "i": "id"}, "with_row_id": true}"#;
        let answer = rows_of(ask_text(&server, "ns$v", body).await);
        assert_eq!(columns(&answer), ["d", "_distance", "i", "_rowid"]);
        assert_eq!(float_values(&answer, "_distance"), [0.0]);
        for (more, word) in [
            (json!({"search_effort": 1.5}), "search_effort"),
            (json!({"search_effort": -0.1}), "search_effort"),
            (json!({"approx_mode": "guess"}), "approx_mode"),
            (json!({"minimum_nprobes": 30}), "minimum_nprobes"),
            (json!({"nprobes": 0}), "nprobes"),
            (json!({"distance_type": "taxi"}), "distance_type"),
            (json!({"vector": [1.0]}), "1 numbers"),
            (json!({"vector": [[1.0, 2.0], []]}), "empty"),
            (json!({"k": 0}), ""),
            (json!({"vector_column": "id"}), "id"),
            (json!({"vector_column": "_rowoffset"}), "_rowoffset"),
        ] {
            assert_bad(&server, "ns$v", near(more), &[word]).await;
        }
    }
}

everywhere! {
    async fn each_query_vector_has_its_answer_and_its_offset(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$v", &batch_vectors(10, 2)).await;
        let two = |more: Value| {
            let mut body = json!({"vector": [[9, 9], [0.2, 0]], "k": 2});
            for (field, value) in more.as_object().expect("fields") {
                body[field] = value.clone();
            }
            body
        };
        for (more, expected) in [
            (json!({}), vec![9, 8, 0, 1]),
            (json!({"offset": 1}), vec![8, 7, 1, 2]),
            (json!({"offset": 9}), vec![0, 9]),
            (json!({"offset": 10}), vec![]),
            (json!({"offset": 1, "filter": "id % 2 = 0"}), vec![6, 4, 2, 4]),
            (json!({"k": NO_LIMIT, "offset": 7}), vec![2, 1, 0, 7, 8, 9]),
            (json!({"columns": ["id"], "with_row_id": true, "offset": 1}), vec![8, 7, 1, 2]),
        ] {
            let answer = rows(&server, "ns$v", two(more.clone())).await;
            assert_eq!(int_values(&answer, "id"), expected, "{more}");
            let half = expected.len() / 2;
            let indexes: Vec<i32> =
                [0, 1].iter().flat_map(|query| std::iter::repeat_n(*query, half)).collect();
            assert_eq!(int_values(&answer, "query_index"), indexes, "{more}");
        }
    }
}

everywhere! {
    /// Of several vector columns the one is meant whose vectors are as long as the query.
    async fn the_column_is_told_by_the_length(server: TestServer) {
        server.create_namespace("ns").await;
        let short = batch_vectors(5, 2).column(1).clone();
        let long = batch_vectors(5, 4).column(1).clone();
        let same = short.clone();
        let two = batch(&[("id", ints(0..5)), ("short", short.clone()), ("long", long)]);
        server.create("ns$two", &two).await;
        let answer = found(&server, "ns$two", "id", json!({"vector": [2, 2, 2, 2], "k": 1})).await;
        assert_eq!(answer, [2]);
        assert_eq!(found(&server, "ns$two", "id", json!({"vector": [3, 3], "k": 1})).await, [3]);
        assert_bad(&server, "ns$two", json!({"vector": [3, 3, 3], "k": 1}), &["several"]).await;
        server.create("ns$same", &batch(&[("short", short), ("same", same)])).await;
        assert_bad(&server, "ns$same", json!({"vector": [3, 3], "k": 1}), &["several"]).await;
    }
}

const TITLES: [&str; 4] =
    ["the quick brown fox", "a lazy dog", "quick silver", "brown bread and quick butter"];
const BODIES: [&str; 4] = ["dog", "cat quick", "bird", "horse"];

async fn with_texts(server: &TestServer) {
    server.create_namespace("ns").await;
    let title: ArrayRef = Arc::new(StringArray::from(TITLES.to_vec()));
    let body: ArrayRef = Arc::new(StringArray::from(BODIES.to_vec()));
    server.create("ns$t", &batch(&[("id", ints(0..4)), ("title", title), ("body", body)])).await;
    let location = server.location("ns$t").await;
    let params = InvertedIndexParams::default().with_position(true).stem(false);
    for column in ["title", "body"] {
        foreign::index(&location, column, IndexType::Inverted, &params).await;
    }
}

everywhere! {
    /// Lance's own JSON of a query, as the clients write it, and the words of older ones.
    async fn words_are_searched_as_clients_ask(server: TestServer) {
        with_texts(&server).await;
        let matching = |column: Value, terms: &str| {
            json!({"match": {"column": column, "terms": terms, "boost": 1.0, "fuzziness": 0,
                "max_expansions": 50, "operator": "Or", "prefix_length": 0}})
        };
        for (query, expected) in [
            (matching(json!("title"), "quick"), vec![0, 2, 3]),
            (matching(json!(null), "quick"), vec![0, 1, 2, 3]),
            (json!({"phrase": {"column": "title", "terms": "quick brown", "slop": 0}}), vec![0]),
            (json!({"boost": {"positive": matching(json!("title"), "quick"),
                "negative": matching(json!("title"), "brown"), "negative_boost": 0.5}}),
                vec![0, 2, 3]),
            (json!({"multi_match": {"query": "quick dog", "columns": ["title", "body"],
                "boost": [1.0, 2.0]}}), vec![0, 1, 2, 3]),
            (json!({"multi_match": {"query": "bird", "columns": ["title", "body"],
                "match_queries": [{"column": "body", "terms": "bird", "fuzziness": 0}]}}), vec![2]),
            (json!({"combined_fields": {"query": "quick dog", "columns": ["title", "body"],
                "boost": [1.0, 1.0], "operator": "And"}}), vec![0, 1]),
            (json!({"boolean": {"must": [matching(json!("title"), "quick")], "should": [],
                "must_not": [matching(json!("title"), "brown")]}}), vec![2]),
        ] {
            let body = json!({"full_text_query": {"query": query.clone()}, "k": 10});
            let answer = rows(&server, "ns$t", body).await;
            let mut ids = int_values(&answer, "id");
            ids.sort_unstable();
            assert_eq!(ids, expected, "{query}");
            assert!(columns(&answer).contains(&"_score".to_string()));
        }
        for (words, expected) in [
            (json!({"columns": [], "query": "quick"}), 4),
            (json!({"columns": ["title"], "query": "quick"}), 3),
            (json!({"columns": ["body", "title"], "query": "dog"}), 2),
            (json!({"query": "nowhere"}), 0),
            (json!({"query": ""}), 0),
        ] {
            let body = json!({"full_text_query": words, "k": NO_LIMIT});
            assert_eq!(row_count(&rows(&server, "ns$t", body).await), expected, "{words}");
        }
        let body = json!({"full_text_query": {"query": matching(json!("title"), "quick")},
            "k": 2, "offset": 1, "filter": "id < 3", "columns": ["id"], "with_row_id": true,
            "order_by": [{"column_name": "id", "ascending": false}]});
        let answer = rows(&server, "ns$t", body).await;
        assert_eq!(columns(&answer), ["id", "_score", "_rowid"]);
        assert_eq!(row_count(&answer), 1);
    }
}

everywhere! {
    /// Each element of a list is a document of its own, where the index was built so.
    async fn elements_of_lists_are_found(server: TestServer) {
        server.create_namespace("ns").await;
        let words: ArrayRef = Arc::new(StringArray::from(vec!["red fox", "blue", "red", "fox"]));
        let item = Arc::new(Field::new("item", DataType::Utf8, true));
        let lists = ListArray::try_new(item, OffsetBuffer::from_lengths([2, 2]), words, None);
        let lists: ArrayRef = Arc::new(lists.expect("lists"));
        server.create("ns$l", &batch(&[("id", ints(0..2)), ("tags", lists)])).await;
        let mut index = json!({"column": "tags", "index_type": "FTS", "stem": false,
            "with_position": false, "base_tokenizer": "simple", "language": "English",
            "max_token_length": 40, "lower_case": true, "remove_stop_words": false,
            "custom_stop_words": ["blue"], "ascii_folding": true, "min_ngram_length": 3,
            "max_ngram_length": 3, "prefix_only": false, "block_size": 128,
            "lance_tokenizer": null, "split_identifiers": false, "split_on_numerics": false,
            "preserve_original": false, "index_operators": false});
        index["document_granularity"] = json!("letter");
        let reply = server.post(&path("ns$l", "create_index"), index.clone()).await;
        assert_error(&reply, 400, INVALID_INPUT);
        index["document_granularity"] = json!("list_element");
        let job = server.post(&path("ns$l", "create_index"), index).await.ok();
        server.succeeded(job["job_id"].as_str().expect("an id")).await;
        let both = |granularity: Value| json!({"full_text_query": {"query": {"match": {
            "column": "tags", "terms": "red fox", "operator": "And", "fuzziness": 0,
            "document_granularity": granularity}}}, "k": 10});
        let answer = rows(&server, "ns$l", both(json!("list_element"))).await;
        assert_eq!(int_values(&answer, "id"), [0], "no element of the other has both");
        assert!(columns(&answer).contains(&"_doc_index".to_string()));
        let mut some = both(json!("list_element"));
        some["columns"] = json!(["id", "_doc_index", "_score"]);
        assert_eq!(int_values(&rows(&server, "ns$l", some).await, "id"), [0]);
        assert_bad(&server, "ns$l", both(json!("letter")), &["letter"]).await;
    }
}

everywhere! {
    async fn bad_words_are_refused(server: TestServer) {
        with_texts(&server).await;
        for (query, word) in [
            (json!({}), "full_text_query"),
            (json!({"unheard": {"terms": "a"}}), "unheard"),
            (json!({"match": {"column": "nothing", "terms": "a", "fuzziness": 0}}), "nothing"),
            (json!({"match": {"column": "id", "terms": "a", "fuzziness": 0}}), "id"),
            (json!({"match": {"column": "title", "terms": "a", "fuzziness": 0, "boost": -1.0}}),
                "boost"),
            (json!({"match": {"column": "title", "terms": "a", "fuzziness": 0, "boost": 1e39}}),
                "boost"),
            (json!({"multi_match": {"query": "a", "columns": []}}), "columns"),
            (json!({"multi_match": {"query": "a", "columns": ["title"], "boost": [1.0, 2.0]}}),
                "boost"),
            (json!({"combined_fields": {"query": "a", "columns": ["title", "title"]}}), "unique"),
            (json!({"combined_fields": {"query": "a", "columns": ["title"], "boost": [0.5]}}),
                "boost"),
            (json!({"boolean": {"must": [], "should": [], "must_not": []}}), "boolean"),
        ] {
            assert_bad(&server, "ns$t", json!({"full_text_query": {"query": query}}), &[word]).await;
        }
    }
}

everywhere! {
    async fn other_versions_and_branches_are_read(server: TestServer) {
        server.with_table("ns$t", 2).await;
        server.insert("ns$t", &crate::support::batches::batch_ab(2..3)).await;
        let body = json!({"name": "side", "from_version": 1});
        server.post(&path("ns$t", "branches/create"), body).await.ok();
        assert_eq!(found(&server, "ns$t", "a", json!({"version": 1})).await, [0, 1]);
        assert_eq!(found(&server, "ns$t", "a", json!({"branch": "side"})).await, [0, 1]);
        let reply = ask(&server, "ns$t", scan(json!({"version": 1}))).await;
        assert_eq!(reply.header("x-lancedb-version"), Some("1"));
        for (body, expected) in [
            (json!({"version": null}), 3),
            (json!({"version": 1}), 2),
            (json!({"version": null, "branch": "side"}), 2),
            (json!({"version": null, "predicate": "a >= 1"}), 2),
            (json!({"version": null, "predicate": "_rowid IN (0, 1)"}), 2),
        ] {
            let reply = server.post(&path("ns$t", "count_rows"), body.clone()).await;
            assert!(reply.header("x-lancedb-version").is_some());
            assert_eq!(reply.ok(), json!(expected), "{body}");
        }
        let body = json!({"version": null, "predicate": "nothing = 1"});
        let reply = server.post(&path("ns$t", "count_rows"), body).await;
        assert_error_in(&reply, 400, &[INVALID_INPUT, TABLE_COLUMN_NOT_FOUND]);
    }
}

everywhere! {
    async fn a_plan_is_told_as_json_text(server: TestServer) {
        server.with_table("ns$t", 20).await;
        let query = scan(json!({"filter": "a > 3", "order_by": [{"column_name": "a"}]}));
        for verbose in [true, false] {
            let body = json!({"verbose": verbose, "query": query});
            let reply = server.post(&path("ns$t", "explain_plan"), body).await;
            assert!(reply.header("x-lancedb-version").is_some());
            let plan = reply.ok();
            assert!(plan.as_str().is_some_and(|plan| plan.contains("Sort")), "{plan}");
        }
        let analyze = format!("{}?distributed_metrics=per_worker", path("ns$t", "analyze_plan"));
        let plan = server.post(&analyze, query).await.ok();
        assert!(plan.as_str().is_some_and(|plan| plan.contains("metrics")), "{plan}");
        let body = json!({"verbose": true, "query": scan(json!({"filter": "nothing = 1"}))});
        let reply = server.post(&path("ns$t", "explain_plan"), body).await;
        assert_error_in(&reply, 400, &[INVALID_INPUT, TABLE_COLUMN_NOT_FOUND]);
        let reply = server.post(&path("ns$t", "explain_plan"), json!({"verbose": true})).await;
        assert_error(&reply, 400, INVALID_INPUT);
    }
}

everywhere! {
    /// What takes longer than the client waits is given up, and is nothing to try again.
    async fn a_query_ends_with_the_patience_of_its_client(server: TestServer) {
        server.with_table("ns$t", 20_000).await;
        let costly = (0..90).map(|n| format!("regexp_replace(b, '(s|{n})+.*', '')")).map(|call| format!("{call} = 'x'"));
        let costly: Vec<String> = costly.collect();
        let body = scan(json!({"filter": costly.join(" OR ")}));
        let within = |millis: &str| {
            let request = server.request(Method::POST, &path("ns$t", "query")).json(&body);
            server.send(request.header("x-request-timeout-ms", millis.to_owned()))
        };
        let reply = within("1").await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert!(reply.text().contains("x-request-timeout-ms"), "{}", reply.text());
        for bad in ["0", "-1", "soon", ""] {
            assert_error(&within(bad).await, 400, INVALID_INPUT);
        }
        let request = server.request(Method::POST, &path("ns$t", "query"));
        let request = request.header("x-request-timeout-ms", u64::MAX.to_string());
        let reply = server.send(request.json(&scan(json!({"k": 1})))).await;
        assert_eq!(row_count(&rows_of(reply)), 1);
    }
}

everywhere! {
    /// Clients since 0.38 read streams, which can hold what a file cannot.
    async fn new_clients_get_streams(server: TestServer) {
        let words: DictionaryArray<Int32Type> = ["red", "blue", "red"].into_iter().collect();
        let rows = batch(&[("a", ints(0..3)), ("word", Arc::new(words) as ArrayRef)]);
        server.post_arrow("/v1/table/t/create/", ipc(&[rows])).await.ok();
        let words: DictionaryArray<Int32Type> = ["green", "red"].into_iter().collect();
        let rows = batch(&[("a", ints(3..5)), ("word", Arc::new(words) as ArrayRef)]);
        server.post_arrow("/v1/table/t/insert/", ipc(&[rows])).await.ok();
        for (agent, is_new) in [
            ("LanceDB-Python-Client/0.40.0", true),
            ("LanceDB-Node-Client/1.0.0-beta.1", true),
            ("LanceDB-Rust-Client/0.37.9", false),
            ("LanceDB-Rust-Client/x", false),
            ("curl/8.0", false),
        ] {
            let request = server.request(Method::POST, "/v1/table/t/query/");
            let request = request.header("user-agent", agent).json(&json!({"vector": []}));
            let reply = server.send(request).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let kind = reply.header("content-type").expect("a type").to_owned();
            let back = if is_new { read_stream(&reply.raw) } else { read_file(&reply.raw) };
            let expected = if is_new { "stream" } else { "file" };
            assert_eq!(kind, format!("application/vnd.apache.arrow.{expected}"), "{agent}");
            let is_dictionary = matches!(back[0].schema().field(1).data_type(), DataType::Dictionary(..));
            assert_eq!(is_dictionary, is_new, "{agent}");
            let column = |batch: &RecordBatch| cast(batch.column(1), &DataType::Utf8).expect("text");
            let words: Vec<String> = back
                .iter()
                .flat_map(|batch| column(batch).as_string::<i32>().iter().map(|word| word.unwrap_or("").to_owned()).collect::<Vec<_>>())
                .collect();
            assert_eq!(words, ["red", "blue", "red", "green", "red"], "{agent}");
        }
    }
}

everywhere! {
    async fn rows_of_a_log_are_not_served(server: TestServer) {
        server.post_arrow("/v1/table/t/create/", ipc(&[batch(&[("a", ints(0..3))])])).await.ok();
        for name in ["use_rte", "use_lsm"] {
            let asked = server.post("/v1/table/t/query/", json!({"vector": [], name: true})).await;
            assert_error(&asked, 501, UNSUPPORTED);
            server.post("/v1/table/t/query/", json!({"vector": [], name: false})).await.expect(200);
            let path = format!("/v1/table/t/merge_insert/?on=a&when_not_matched_insert_all=true&{name}=true");
            let merged = server.post_arrow(&path, ipc(&[batch(&[("a", ints(0..5))])])).await;
            assert_error(&merged, 501, UNSUPPORTED);
        }
        assert_eq!(server.count("t").await, 3);
    }
}
