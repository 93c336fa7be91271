//! QueryTable and CountTableRows.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};

use crate::support::batches::{
    batch, batch_ab, batch_vectors, columns, float_values, int_values, ints, read_file, row_count,
    texts,
};
use crate::support::code::*;
use crate::support::{TestServer, assert_error, assert_error_in, assert_refused, foreign, table};

/// A bad expression is wrong input, or names a column that is not there.
const BAD_EXPRESSION: [u64; 2] = [INVALID_INPUT, TABLE_COLUMN_NOT_FOUND];

/// The integers of column `a` of a query's result, in its order.
async fn found(server: &TestServer, id: &str, body: Value) -> Vec<i32> {
    int_values(&server.query(id, body).await, "a")
}

/// The result, or `None` where this form of the query is refused. What must not happen is that a
/// field is taken and ignored.
async fn right_or_refused(server: &TestServer, id: &str, body: Value) -> Option<Vec<RecordBatch>> {
    let reply = server.post(&table(id, "query"), body).await;
    if reply.status == 200 {
        return Some(read_file(&reply.raw));
    }
    assert_refused(&reply);
    None
}

/// Ten vectors `[i, i]`, with `id` = i.
async fn with_vectors(server: &TestServer) {
    server.create_namespace("ns").await;
    server.create("ns$v", &batch_vectors(10, 2)).await;
}

everywhere! {
    async fn the_reply_is_an_arrow_file(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let reply = server.post(&table("ns$t", "query"), json!({"k": 10})).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(
            reply.header("content-type"),
            Some("application/vnd.apache.arrow.file")
        );
        let rows = read_file(&reply.raw);
        assert_eq!(columns(&rows), ["a", "b"]);
        assert_eq!(int_values(&rows, "a"), [0, 1, 2]);
    }
}

everywhere! {
    /// A null where the document has an optional object is as good as none.
    async fn explicit_nulls_are_fine(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let body = json!({"id": ["ns", "t"], "k": 2, "vector": null, "columns": null,
            "full_text_query": null, "filter": null, "offset": null, "version": null});
        assert_eq!(row_count(&server.query("ns$t", body).await), 2);
    }
}

everywhere! {
    async fn filter_limit_and_offset(server: TestServer) {
        server.with_table("ns$t", 10).await;
        for (body, expected) in [
            (json!({"k": 100, "filter": "a > 6"}), vec![7, 8, 9]),
            (json!({"k": 2, "filter": "a > 6"}), vec![7, 8]),
            (json!({"k": 2, "offset": 1, "filter": "a > 6"}), vec![8, 9]),
            (json!({"k": 3}), vec![0, 1, 2]),
            (json!({"k": 3, "offset": 8}), vec![8, 9]),
            (json!({"k": 3, "offset": 99}), vec![]),
            (json!({"k": 5, "filter": "b = 's4' OR a = 1"}), vec![1, 4]),
            (json!({"k": 5, "filter": "a < 0"}), vec![]),
        ] {
            assert_eq!(
                found(&server, "ns$t", body.clone()).await,
                expected,
                "{body}"
            );
        }
    }
}

everywhere! {
    async fn columns_and_aliases(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let body = json!({"k": 10, "columns": {"column_names": ["b"]}});
        assert_eq!(columns(&server.query("ns$t", body).await), ["b"]);
        let body = json!({"k": 10, "columns": {"column_names": ["b"]}, "filter": "a = 1"});
        let rows = server.query("ns$t", body).await;
        assert_eq!(
            (columns(&rows), row_count(&rows)),
            (vec!["b".to_string()], 1)
        );
        let body = json!({"k": 10, "columns": {"column_aliases": {"number": "a"}}});
        if let Some(rows) = right_or_refused(&server, "ns$t", body).await {
            assert_eq!(columns(&rows), ["number"]);
            assert_eq!(int_values(&rows, "number"), [0, 1, 2]);
        }
    }
}

everywhere! {
    async fn row_ids_on_request(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let body = json!({"k": 10, "with_row_id": true});
        if let Some(rows) = right_or_refused(&server, "ns$t", body).await {
            assert!(columns(&rows).contains(&"_rowid".to_string()));
        }
        let body = json!({"k": 10, "with_row_id": false});
        assert_eq!(columns(&server.query("ns$t", body).await), ["a", "b"]);
    }
}

everywhere! {
    async fn an_older_version_is_still_there(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.insert("ns$t", &batch_ab(3..5)).await;
        assert_eq!(
            found(&server, "ns$t", json!({"k": 10, "version": 1})).await,
            [0, 1, 2]
        );
        assert_eq!(found(&server, "ns$t", json!({"k": 10})).await.len(), 5);
        let reply = server
            .post(&table("ns$t", "query"), json!({"k": 10, "version": 9}))
            .await;
        assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
    }
}

everywhere! {
    async fn the_nearest_vectors(server: TestServer) {
        with_vectors(&server).await;
        let body = json!({"vector": {"single_vector": [4.1, 4.1]}, "k": 2});
        let rows = server.query("ns$v", body).await;
        assert_eq!(int_values(&rows, "id"), [4, 5]);
        let distances = float_values(&rows, "_distance");
        assert!(distances[0] < distances[1], "{distances:?}");
        assert!(
            (distances[0] - 0.02).abs() < 1e-3,
            "{distances:?} is not L2"
        );
        let body = json!({"vector": {"single_vector": [4.1, 4.1]}, "k": 2, "vector_column": "vec"});
        assert_eq!(int_values(&server.query("ns$v", body).await, "id"), [4, 5]);
        let body = json!({
            "vector": {"single_vector": [0.0, 0.0]}, "k": 2, "columns": {"column_names": ["id"]},
        });
        assert_eq!(int_values(&server.query("ns$v", body).await, "id"), [0, 1]);
    }
}

everywhere! {
    async fn the_nearest_of_those_that_pass(server: TestServer) {
        with_vectors(&server).await;
        let body = json!({
            "vector": {"single_vector": [0.0, 0.0]}, "k": 3, "filter": "id > 6", "prefilter": true,
        });
        if let Some(rows) = right_or_refused(&server, "ns$v", body).await {
            assert_eq!(int_values(&rows, "id"), [7, 8, 9]);
        }
        let body = json!({"vector": {"single_vector": [0.0, 0.0]}, "k": 2, "offset": 1});
        if let Some(rows) = right_or_refused(&server, "ns$v", body).await {
            assert_eq!(int_values(&rows, "id"), [1, 2]);
        }
    }
}

everywhere! {
    async fn the_nearest_by_another_measure(server: TestServer) {
        with_vectors(&server).await;
        let by = |measure: &str| json!({"vector": {"single_vector": [1.0, 1.0]}, "k": 1, "distance_type": measure});
        if let Some(rows) = right_or_refused(&server, "ns$v", by("dot")).await {
            assert_eq!(int_values(&rows, "id"), [9]);
        }
        assert_refused(&server.post(&table("ns$v", "query"), by("by feel")).await);
    }
}

everywhere! {
    /// The reference server drops all query vectors but the first.
    async fn several_query_vectors_all_count(server: TestServer) {
        with_vectors(&server).await;
        let body = json!({"vector": {"multi_vector": [[0.0, 0.0], [9.0, 9.0]]}, "k": 2});
        if let Some(rows) = right_or_refused(&server, "ns$v", body).await {
            let mut ids = int_values(&rows, "id");
            ids.sort_unstable();
            assert_eq!(ids, [0, 1, 8, 9]);
        }
    }
}

everywhere! {
    async fn vectors_that_do_not_fit_are_refused(server: TestServer) {
        with_vectors(&server).await;
        server.with_table("ns$t", 3).await;
        for vector in [json!([1.0, 2.0, 3.0]), json!([1.0]), json!(["x", "y"])] {
            let body = json!({"vector": {"single_vector": vector}, "k": 2});
            let reply = server.post(&table("ns$v", "query"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let vector = json!({"single_vector": [1.0, 2.0]});
        let body = json!({"vector": vector, "k": 2, "vector_column": "nope"});
        let reply = server.post(&table("ns$v", "query"), body).await;
        assert_refused(&reply);
        let body = json!({"vector": vector, "k": 2, "vector_column": "id"});
        assert_refused(&server.post(&table("ns$v", "query"), body).await);
        // There is no vector in this table at all.
        let body = json!({"vector": vector, "k": 2});
        assert_refused(&server.post(&table("ns$t", "query"), body).await);
    }
}

everywhere! {
    async fn a_bad_query_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for filter in ["a >>> 1", "nope = 1", "a = 'x", "DROP TABLE t", "a +", "("] {
            let body = json!({"k": 10, "filter": filter});
            let reply = server.post(&table("ns$t", "query"), body).await;
            assert!(
                reply.status == 400 || reply.status == 404,
                "{filter}: {}",
                reply.text()
            );
            assert_error_in(&reply, reply.status, &BAD_EXPRESSION);
        }
        for body in [
            json!({"k": 10, "columns": {"column_names": ["nope"]}}),
            json!({"k": 10, "columns": {"column_aliases": {"x": "nope"}}}),
            json!({"k": 10, "columns": {"column_names": ["a"], "column_aliases": {"x": "a"}}}),
            json!({"k": -1}),
            json!({"k": "ten"}),
            json!({"k": 10, "offset": -1}),
            json!({"k": 10, "columns": 5}),
            json!({"k": 10, "branch": "nope"}),
        ] {
            assert_refused(&server.post(&table("ns$t", "query"), body).await);
        }
        assert_eq!(found(&server, "ns$t", json!({"k": 10})).await, [0, 1, 2]);
    }
}

everywhere! {
    async fn a_query_of_a_declared_table_is_refused(server: TestServer) {
        server.with_declared("ns$t").await;
        assert_refused(&server.post(&table("ns$t", "query"), json!({"k": 10})).await);
    }
}

everywhere! {
    async fn a_filter_with_an_apostrophe(server: TestServer) {
        server.create_namespace("ns").await;
        let names: ArrayRef = Arc::new(StringArray::from(vec!["O'Brien", "plain"]));
        server
            .create("ns$t", &batch(&[("a", ints(0..2)), ("it's", names)]))
            .await;
        let body = json!({"k": 10, "filter": "`it's` = 'O''Brien'"});
        assert_eq!(found(&server, "ns$t", body).await, [0]);
        let path = table("ns$t", "count_rows");
        let counted = server
            .post(&path, json!({"predicate": "`it's` = 'O''Brien'"}))
            .await;
        assert_eq!(counted.ok(), 1);
    }
}

everywhere! {
    async fn a_long_result_comes_whole(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch_ab(0..100_000)).await;
        let rows = server.query("ns$t", json!({"k": 1_000_000})).await;
        assert_eq!(row_count(&rows), 100_000);
        assert_eq!(
            server.values("ns$t").await,
            (0..100_000).collect::<Vec<_>>()
        );
    }
}

everywhere! {
    async fn count_is_a_bare_integer(server: TestServer) {
        server.with_table("ns$t", 10).await;
        let reply = server.post(&table("ns$t", "count_rows"), json!({})).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(String::from_utf8_lossy(&reply.raw).trim(), "10");
        for (predicate, expected) in [("a < 3", 3), ("b = 's5'", 1), ("a > 100", 0), ("true", 10)] {
            let body = json!({"predicate": predicate});
            let counted = server.post(&table("ns$t", "count_rows"), body).await.ok();
            assert_eq!(counted, expected, "{predicate}");
        }
    }
}

everywhere! {
    /// The reference server counts deleted rows as rows.
    async fn count_does_not_count_the_deleted(server: TestServer) {
        let location = server.with_table("ns$t", 10).await;
        foreign::delete(&location, "a < 4").await;
        assert_eq!(server.count("ns$t").await, 6);
        let body = json!({"predicate": "a < 6"});
        let counted = server.post(&table("ns$t", "count_rows"), body).await.ok();
        assert_eq!(counted, 2);
        let body = json!({"version": 1});
        let counted = server.post(&table("ns$t", "count_rows"), body).await.ok();
        assert_eq!(counted, 10);
    }
}

everywhere! {
    async fn a_bad_count_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for predicate in ["a >>> 1", "nope = 1", "a = 'x", "("] {
            let body = json!({"predicate": predicate});
            let reply = server.post(&table("ns$t", "count_rows"), body).await;
            assert!(
                reply.status == 400 || reply.status == 404,
                "{predicate}: {}",
                reply.text()
            );
            assert_error_in(&reply, reply.status, &BAD_EXPRESSION);
        }
        let reply = server
            .post(&table("ns$t", "count_rows"), json!({"version": 9}))
            .await;
        assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        assert_refused(
            &server
                .post(&table("ns$t", "count_rows"), json!({"branch": "nope"}))
                .await,
        );
        assert_refused(
            &server
                .post(&table("ns$t", "count_rows"), json!({"predicate": 5}))
                .await,
        );
    }
}

everywhere! {
    async fn a_nested_column_is_reached_by_its_path(server: TestServer) {
        server.create_namespace("ns").await;
        let x = Arc::new(Field::new("x", DataType::Int32, true));
        let point: ArrayRef = Arc::new(StructArray::from(vec![(x, ints(5..8))]));
        let rows = batch(&[("a", ints(0..3)), ("point", point), ("b", texts(0..3))]);
        server.create("ns$t", &rows).await;
        let body = json!({"k": 10, "filter": "point.x = 6"});
        assert_eq!(found(&server, "ns$t", body).await, [1]);
    }
}

/// `a` and `it's`, and `point` with `x`, `in.ner` and `deep.z`.
async fn with_nested(server: &TestServer) {
    server.create_namespace("ns").await;
    let field = |name: &str| Arc::new(Field::new(name, DataType::Int32, true));
    let deep: ArrayRef = Arc::new(StructArray::from(vec![(field("z"), ints(20..23))]));
    let deep_field = Arc::new(Field::new("deep", deep.data_type().clone(), true));
    let point: ArrayRef = Arc::new(StructArray::from(vec![
        (field("x"), ints(5..8)),
        (field("in.ner"), ints(10..13)),
        (deep_field, deep),
    ]));
    let rows = batch(&[("a", ints(0..3)), ("point", point), ("it's", texts(0..3))]);
    server.create("ns$t", &rows).await;
}

everywhere! {
    async fn nested_columns_are_answered_by_their_paths(server: TestServer) {
        with_nested(&server).await;
        let names = json!(["point.x", "point.`in.ner`", "`point`.deep.`z`", "a"]);
        let rows = server.query("ns$t", json!({"columns": {"column_names": names}})).await;
        assert_eq!(columns(&rows), ["point.x", "point.`in.ner`", "`point`.deep.`z`", "a"]);
        assert_eq!(int_values(&rows, "point.x"), [5, 6, 7]);
        assert_eq!(int_values(&rows, "point.`in.ner`"), [10, 11, 12]);
        let aliases = json!({"x": "point.x", "inner": "point.`in.ner`", "z": "point.deep.z",
            "who": "it's", "row": "_rowid", "whole": "point"});
        let body = json!({"columns": {"column_aliases": aliases}, "offset": 1,
            "filter": "point.deep.z > 19 AND point.`in.ner` < 12"});
        let rows = server.query("ns$t", body).await;
        assert_eq!(columns(&rows), ["inner", "row", "who", "whole", "x", "z"]);
        assert_eq!(int_values(&rows, "inner"), [11]);
        assert_eq!(int_values(&rows, "z"), [21]);
        let body = json!({"predicate": "point.deep.z = 21"});
        assert_eq!(server.post(&table("ns$t", "count_rows"), body).await.ok(), 1);
    }
}

everywhere! {
    async fn a_column_that_is_not_there_is_named(server: TestServer) {
        with_nested(&server).await;
        for path in ["nope", "x", "point.nope", "point.deep.z.more", "in.ner", "point.in.ner",
            "A", "a b", "a + 1", "*", "", ".", "point.", "`a", "_score", "_distance"] {
            for body in [json!({"columns": {"column_names": ["a", path]}}),
                json!({"columns": {"column_aliases": {"b": path}}})] {
                let reply = server.post(&table("ns$t", "query"), body).await;
                assert_error(&reply, 404, TABLE_COLUMN_NOT_FOUND);
                let sentence = reply.body["error"].as_str().unwrap_or_default();
                assert!(sentence.contains(&format!("'{path}'")), "{path}: {sentence}");
                assert!(sentence.contains("point"), "what is there: {sentence}");
            }
        }
        for filter in ["nope = 1", "point.nope = 1", "point.deep.nope = 1"] {
            let body = json!({"filter": filter});
            let reply = server.post(&table("ns$t", "query"), body).await;
            assert!(reply.text().contains("nope"), "{}", reply.text());
            assert_error_in(&reply, reply.status, &BAD_EXPRESSION);
        }
    }
}

everywhere! {
    async fn a_bad_choice_of_columns_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for columns in [
            json!({"column_names": []}),
            json!({"column_aliases": {}}),
            json!({"column_names": ["a", "a"]}),
            json!({"column_names": [null]}),
            json!({"column_names": "a"}),
            json!({"column_aliases": {"_rowid": "a"}}),
            json!({"column_aliases": {"_distance": "a"}}),
            json!({"column_aliases": {"x": ["a"]}}),
        ] {
            let body = json!({"k": 2, "columns": columns});
            let reply = server.post(&table("ns$t", "query"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let rows = server.query("ns$t", json!({"k": 2, "columns": {}})).await;
        assert_eq!(columns(&rows), ["a", "b"]);
        let body = json!({"k": 2, "columns": {"column_names": ["_rowid"]}});
        assert_eq!(columns(&server.query("ns$t", body).await), ["_rowid"]);
        let body = json!({"k": 2, "columns": {"column_names": []}, "with_row_id": true});
        assert_eq!(columns(&server.query("ns$t", body).await), ["_rowid"]);
    }
}

everywhere! {
    async fn huge_numbers_cost_nothing(server: TestServer) {
        server.with_table("ns$t", 5).await;
        for (body, expected) in [
            (json!({"k": u64::MAX}), vec![0, 1, 2, 3, 4]),
            (json!({"k": u64::MAX, "offset": 3}), vec![3, 4]),
            (json!({"k": 2, "offset": u64::MAX}), vec![]),
            (json!({"k": u64::MAX, "offset": u64::MAX}), vec![]),
            (json!({"k": u64::MAX, "offset": 1, "filter": "a > 2"}), vec![4]),
            (json!({"offset": 4}), vec![4]),
        ] {
            assert_eq!(found(&server, "ns$t", body.clone()).await, expected, "{body}");
        }
        for body in [json!({"k": 0}), json!({"k": 1.5}), json!({"k": 1e30}), json!({"k": -1}),
            json!({"k": 1, "offset": -1}), json!({"k": 1, "version": -1})] {
            let reply = server.post(&table("ns$t", "query"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
    }
}

everywhere! {
    /// The place in the text, or the word that does not fit.
    async fn a_broken_filter_is_told_where_it_breaks(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for (filter, word) in [
            ("a = 'x", "Column: 5"),
            ("a ==== 1", "="),
            ("a > 1 AND", "EOF"),
            ("a > 1 b", "b"),
            ("a > 1)", "parenthesis"),
            ("no_such_function(a) = 1", "no_such_function"),
            ("a + 1", "boolean"),
            ("b > 5 + 'x'", "x"),
        ] {
            let body = json!({"filter": filter});
            let reply = server.post(&table("ns$t", "query"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
            let sentence = reply.body["error"].as_str().unwrap_or_default().to_lowercase();
            assert!(sentence.contains(&word.to_lowercase()), "{filter}: {sentence}");
        }
    }
}
