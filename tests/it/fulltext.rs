//! Searching for words: both forms of a query, with and without an index, and what is refused.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use lance_index::IndexType;
use lance_index::scalar::InvertedIndexParams;
use serde_json::{Value, json};

use crate::support::batches::{
    batch, batch_vectors, columns, float_values, int_values, ints, row_count,
};
use crate::support::code::*;
use crate::support::{TestServer, assert_error, foreign, table};

const TITLES: [&str; 6] = [
    "the quick brown fox",
    "a lazy dog",
    "quick silver",
    "brown bread and quick butter",
    "fox and dog",
    "nothing here",
];
const BODIES: [&str; 6] = ["dog", "cat", "bird", "horse", "quick cow", "fish"];

/// `id`, `title` and `body`, the same `title` as `meta.title`, and `only` without an index.
async fn with_texts(server: &TestServer) -> String {
    server.create_namespace("ns").await;
    let title: ArrayRef = Arc::new(StringArray::from(TITLES.to_vec()));
    let body: ArrayRef = Arc::new(StringArray::from(BODIES.to_vec()));
    let field = Arc::new(Field::new("title", DataType::Utf8, true));
    let meta: ArrayRef = Arc::new(StructArray::from(vec![(field, title.clone())]));
    let rows = batch(&[
        ("id", ints(0..6)),
        ("title", title.clone()),
        ("body", body),
        ("meta", meta),
        ("only", title),
    ]);
    server.create("ns$t", &rows).await;
    server.location("ns$t").await
}

async fn with_indexes(server: &TestServer) {
    let location = with_texts(server).await;
    let params = InvertedIndexParams::default().with_position(true).stem(false);
    let params = params.remove_stop_words(false);
    for column in ["title", "body"] {
        foreign::index(&location, column, IndexType::Inverted, &params).await;
    }
}

async fn ids(server: &TestServer, body: Value) -> Vec<i32> {
    int_values(&server.query("ns$t", body).await, "id")
}

fn sorted(mut ids: Vec<i32>) -> Vec<i32> {
    ids.sort_unstable();
    ids
}

fn words(text: &str, columns: &[&str]) -> Value {
    let mut query = json!({"query": text});
    if !columns.is_empty() {
        query["columns"] = json!(columns);
    }
    json!({"full_text_query": {"string_query": query}, "k": 10})
}

fn structured(query: Value) -> Value {
    json!({"full_text_query": {"structured_query": {"query": query}}, "k": 10})
}

async fn assert_bad(server: &TestServer, body: Value, words: &[&str]) {
    for operation in ["query", "analyze_plan"] {
        let reply = server.post(&table("ns$t", operation), body.clone()).await;
        let status = if reply.status == 404 { 404 } else { 400 };
        let code = if status == 404 { TABLE_COLUMN_NOT_FOUND } else { INVALID_INPUT };
        assert_error(&reply, status, code);
        let sentence = reply.body["error"].as_str().unwrap_or_default();
        for word in words {
            assert!(sentence.contains(word), "{body}: `{word}` is not in: {sentence}");
        }
    }
}

everywhere! {
    async fn words_are_found(server: TestServer) {
        with_indexes(&server).await;
        let rows = server.query("ns$t", words("quick", &["title"])).await;
        assert_eq!(sorted(int_values(&rows, "id")), [0, 2, 3]);
        let scores = float_values(&rows, "_score");
        assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] > 0.0, "{scores:?}");
        // All that have an index.
        assert_eq!(sorted(ids(&server, words("quick", &[])).await), [0, 2, 3, 4]);
        let both = words("quick", &["title", "body", "title"]);
        assert_eq!(sorted(ids(&server, both).await), [0, 2, 3, 4]);
        assert_eq!(sorted(ids(&server, words("QUICK dog", &["title"])).await), [0, 1, 2, 3, 4]);
        for nothing in ["unheard", "", "  ", "!!"] {
            assert_eq!(ids(&server, words(nothing, &["title"])).await, [0; 0], "{nothing}");
        }
    }
}

everywhere! {
    /// Lance reads the column where there is no index.
    async fn an_index_is_not_needed_for_a_named_column(server: TestServer) {
        with_texts(&server).await;
        for column in ["title", "meta.title", "`meta`.`title`"] {
            let found = ids(&server, words("quick", &[column])).await;
            assert_eq!(sorted(found), [0, 2, 3], "{column}");
        }
        let body = structured(json!({"phrase": {"column": "title", "terms": "quick butter"}}));
        assert_eq!(ids(&server, body).await, [3]);
        // Without an index nobody knows where to look.
        assert_bad(&server, words("quick", &[]), &["index"]).await;
        let body = structured(json!({"match": {"terms": "quick"}}));
        assert_bad(&server, body, &["index"]).await;
    }
}

everywhere! {
    async fn each_kind_of_query_is_served(server: TestServer) {
        with_indexes(&server).await;
        let quick = json!({"match": {"column": "title", "terms": "quick"}});
        let brown = json!({"match": {"column": "title", "terms": "brown"}});
        for (query, expected) in [
            (json!({"match": {"column": "title", "terms": "brown quick"}}), vec![0, 2, 3]),
            (json!({"match": {"column": "title", "terms": "brown quick", "operator": "and"}}),
                vec![0, 3]),
            (json!({"match": {"column": "title", "terms": "brown quick", "operator": "AND",
                "boost": 2, "prefix_length": 0, "max_expansions": 10, "fuzziness": 0}}),
                vec![0, 3]),
            (json!({"match": {"column": "title", "terms": "quikc", "fuzziness": 2}}),
                vec![0, 2, 3]),
            (json!({"match": {"column": "title", "terms": "quikc"}}), vec![]),
            (json!({"match": {"column": "title", "terms": "wuick", "fuzziness": 1,
                "prefix_length": 1}}), vec![]),
            (json!({"match": {"terms": "quick"}}), vec![0, 2, 3, 4]),
            (json!({"phrase": {"column": "title", "terms": "quick brown"}}), vec![0]),
            (json!({"phrase": {"column": "title", "terms": "brown quick"}}), vec![]),
            (json!({"phrase": {"column": "title", "terms": "brown quick", "slop": 2}}), vec![3]),
            (json!({"multi_match": {"match_queries": [
                {"column": "title", "terms": "bread"}, {"column": "body", "terms": "cow"}]}}),
                vec![3, 4]),
            (json!({"boolean": {"must": [quick, brown], "must_not": [], "should": []}}),
                vec![0, 3]),
            (json!({"boolean": {"must": [quick], "must_not": [brown], "should": []}}), vec![2]),
            (json!({"boolean": {"should": [brown, {"match": {"column": "title",
                "terms": "lazy"}}]}}), vec![0, 1, 3]),
            (json!({"boolean": {"must": [{"boolean": {"should": [quick]}}],
                "must_not": [{"phrase": {"column": "title", "terms": "brown fox"}}]}}),
                vec![2, 3]),
            (json!({"boost": {"positive": quick, "negative": brown}}), vec![0, 2, 3]),
            (json!({"boost": {"positive": quick, "negative": brown, "negative_boost": 0.9}}),
                vec![0, 2, 3]),
        ] {
            let found = ids(&server, structured(query.clone())).await;
            assert_eq!(sorted(found), expected, "{query}");
        }
        let boosted = structured(json!({"boost": {"positive": quick, "negative": brown,
            "negative_boost": 0.9}}));
        assert_eq!(ids(&server, boosted).await[0], 2, "what is not brown comes first");
    }
}

everywhere! {
    async fn what_goes_with_it(server: TestServer) {
        with_indexes(&server).await;
        let quick = |more: Value| {
            let mut body = words("quick", &["title"]);
            for (field, value) in more.as_object().expect("fields") {
                body[field] = value.clone();
            }
            body
        };
        let all = ids(&server, quick(json!({}))).await;
        assert_eq!(ids(&server, quick(json!({"k": 2}))).await, all[..2]);
        assert_eq!(ids(&server, quick(json!({"k": 2, "offset": 1}))).await, all[1..]);
        assert_eq!(ids(&server, quick(json!({"offset": u64::MAX}))).await, [0; 0]);
        assert_eq!(ids(&server, quick(json!({"k": u64::MAX}))).await, all);
        assert_eq!(ids(&server, quick(json!({"k": u64::MAX, "offset": 2}))).await, all[2..]);
        let only_three = json!({"filter": "id = 3", "prefilter": true, "k": 1});
        assert_eq!(ids(&server, quick(only_three)).await, [3]);
        let not_the_best = json!({"filter": format!("id <> {}", all[0]), "k": 1});
        assert_eq!(ids(&server, quick(not_the_best)).await, [0; 0], "the filter comes after");
        let body = quick(json!({"columns": {"column_names": ["id", "meta.title"]},
            "with_row_id": true}));
        let rows = server.query("ns$t", body).await;
        assert_eq!(columns(&rows), ["id", "meta.title", "_score", "_rowid"]);
        let body = quick(json!({"columns": {"column_aliases": {"rank": "_score"}}}));
        assert_eq!(columns(&server.query("ns$t", body).await), ["rank", "_score"]);
        // What came after the index is read as it is, unless only the index is asked.
        let more: ArrayRef = Arc::new(StringArray::from(vec!["quick again"]));
        let before = server.versions("ns$t").await;
        server.insert("ns$t", &batch(&[("id", ints(6..7)), ("title", more)])).await;
        assert_eq!(ids(&server, quick(json!({}))).await.len(), 4);
        assert_eq!(ids(&server, quick(json!({"fast_search": true}))).await.len(), 3);
        let version = before.last().expect("a version");
        assert_eq!(ids(&server, quick(json!({"version": version}))).await.len(), 3);
    }
}

everywhere! {
    /// Explicit nulls, and empty objects, are as good as nothing.
    async fn nothing_to_search_for_is_no_search(server: TestServer) {
        with_texts(&server).await;
        for query in [json!(null), json!({}),
            json!({"string_query": null, "structured_query": null})] {
            let rows = server.query("ns$t", json!({"full_text_query": query, "k": 4})).await;
            assert_eq!(row_count(&rows), 4);
            assert!(!columns(&rows).contains(&"_score".to_string()));
        }
    }
}

everywhere! {
    async fn a_phrase_needs_positions_in_the_index(server: TestServer) {
        let location = with_texts(&server).await;
        let params = InvertedIndexParams::default();
        foreign::index(&location, "title", IndexType::Inverted, &params).await;
        let body = structured(json!({"phrase": {"column": "title", "terms": "quick brown"}}));
        assert_bad(&server, body, &["position"]).await;
    }
}

everywhere! {
    async fn words_and_vectors_do_not_go_together(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch_vectors(3, 2)).await;
        let mut body = words("quick", &["id"]);
        body["vector"] = json!({"single_vector": [1, 1]});
        let reply = server.post(&table("ns$t", "query"), body).await;
        assert_error(&reply, 406, UNSUPPORTED);
    }
}

everywhere! {
    async fn a_bad_query_is_refused(server: TestServer) {
        with_indexes(&server).await;
        let quick = json!({"match": {"column": "title", "terms": "quick"}});
        let with = |field: &str, value: Value| {
            let mut query = quick.clone();
            query["match"][field] = value;
            structured(query)
        };
        let mut deep = quick.clone();
        for _ in 0..20 {
            deep = json!({"boolean": {"must": [deep]}});
        }
        let one_of = "exactly one of";
        for (body, expected) in [
            (structured(json!({})), vec![one_of]),
            (structured(json!({"regexp": {"terms": "x"}})), vec![one_of]),
            (structured(json!({"match": quick["match"], "phrase": {"terms": "x"}})), vec![one_of]),
            (structured(json!({"boolean": {"must": [{}]}})), vec![one_of]),
            (structured(json!({"boost": {"positive": quick, "negative": {}}})), vec![one_of]),
            (structured(json!({"boost": {"positive": quick}})), vec!["negative"]),
            (structured(json!({"boolean": {"must": [], "must_not": [], "should": []}})),
                vec!["must"]),
            (structured(json!({"boolean": {"must_not": [quick]}})), vec!["must"]),
            (structured(json!({"multi_match": {"match_queries": []}})), vec!["no match queries"]),
            (structured(json!({"match": {"column": "title"}})), vec!["terms"]),
            (structured(json!({"match": "quick"})), vec![]),
            (structured(deep), vec!["nests"]),
            (structured(json!({"boolean": {"should": vec![quick.clone(); 300]}})), vec!["300"]),
            (words(&"quick ".repeat(20_000), &["title"]), vec!["120000"]),
            (with("operator", json!("xor")), vec!["xor", "And"]),
            (with("fuzziness", json!(-1)), vec!["-1"]),
            (with("fuzziness", json!(1_000)), vec!["fuzziness"]),
            (with("max_expansions", json!(u64::MAX)), vec!["max_expansions"]),
            (with("boost", json!(-1)), vec!["boost"]),
            (with("boost", json!(1e300)), vec!["boost"]),
            (with("column", json!("nope")), vec!["nope", "title"]),
            (with("column", json!("meta.nope")), vec!["meta.nope"]),
            (with("column", json!("")), vec![]),
            (with("column", json!("id")), vec!["id", "no text", "Int32"]),
            (with("column", json!("meta")), vec!["meta", "no text"]),
            (words("quick", &["nope"]), vec!["nope"]),
            (words("quick", &["title", "id"]), vec!["id", "no text"]),
            (json!({"k": 3, "full_text_query": {"string_query": {"query": "quick"},
                "structured_query": {"query": quick}}}), vec!["not both"]),
            (json!({"k": 3, "full_text_query": {"string_query": {}}}), vec!["query"]),
            (json!({"k": 3, "full_text_query": "quick"}), vec![]),
            (json!({"k": 0, "full_text_query": {"string_query": {"query": "quick"}}}),
                vec!["k must be"]),
        ] {
            assert_bad(&server, body, &expected).await;
        }
        assert_eq!(server.count("ns$t").await, 6);
    }
}

everywhere! {
    /// A long word and a large fuzziness would make a large automaton.
    async fn a_costly_word_is_served_or_refused(server: TestServer) {
        with_indexes(&server).await;
        for length in [10, 40, 1_000, 20_000] {
            let query = json!({"match": {"column": "title", "terms": "é".repeat(length),
                "fuzziness": 8, "max_expansions": 10_000}});
            let reply = server.post(&table("ns$t", "query"), structured(query)).await;
            if reply.status != 200 {
                assert_error(&reply, 400, INVALID_INPUT);
                assert!(reply.text().contains("fuzziness"), "{}", reply.text());
            }
        }
        assert_eq!(server.count("ns$t").await, 6);
    }
}
