//! ExplainTableQueryPlan and AnalyzeTableQueryPlan.

use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_linalg::distance::MetricType;
use serde_json::{Value, json};

use crate::support::batches::{batch_ab, batch_vectors};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, assert_refused, enc, foreign, table};

/// The text of a plan, in which nothing tells where the table is.
#[track_caller]
fn plan(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let plan = reply.body.as_str().expect("a plain JSON text").to_string();
    let home = reply.home.trim_start_matches('/');
    for leak in [home, "tiltyard-it", ".lance\"", "lake/", "/tmp"] {
        assert!(!plan.contains(leak), "`{leak}` leaks: {plan}");
    }
    plan
}

async fn explain(server: &TestServer, id: &str, query: Value) -> String {
    plan(&server.post(&table(id, "explain_plan"), json!({"query": query})).await)
}

async fn analyze(server: &TestServer, id: &str, query: Value) -> String {
    plan(&server.post(&table(id, "analyze_plan"), query).await)
}

everywhere! {
    async fn a_plan_tells_how(server: TestServer) {
        server.with_table("ns$t", 10).await;
        let query = json!({"filter": "a > 6", "k": 3, "vector": {}});
        let short = explain(&server, "ns$t", query.clone()).await;
        assert!(short.contains("LanceRead") && short.contains("a > "), "{short}");
        let body = json!({"query": query, "verbose": true, "id": ["ns", "t"]});
        let full = plan(&server.post(&table("ns$t", "explain_plan"), body).await);
        assert!(full.contains("LanceRead"), "{full}");
        let analysis = analyze(&server, "ns$t", query).await;
        assert!(analysis.contains("output_rows=3"), "{analysis}");
    }
}

everywhere! {
    async fn an_index_shows_in_the_plan(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$v", &batch_vectors(300, 4)).await;
        let query = json!({"vector": {"single_vector": [7, 7, 7, 7]}, "k": 2,
            "minimum_nprobes": 2, "maximum_nprobes": 3});
        let flat = explain(&server, "ns$v", query.clone()).await;
        assert!(flat.contains("KNNVectorDistance"), "{flat}");
        let params = VectorIndexParams::ivf_flat(4, MetricType::L2);
        let location = server.location("ns$v").await;
        foreign::index(&location, "vec", IndexType::Vector, &params).await;
        let indexed = explain(&server, "ns$v", query.clone()).await;
        assert!(indexed.contains("ANNIvfPartition"), "{indexed}");
        assert!(indexed.contains("minimum_nprobes=2"), "{indexed}");
        assert!(indexed.contains("maximum_nprobes=Some(3)"), "{indexed}");
        let analysis = analyze(&server, "ns$v", query.clone()).await;
        assert!(analysis.contains("ANNIvfPartition"), "{analysis}");
        let mut bypass = query.clone();
        bypass["bypass_vector_index"] = json!(true);
        assert!(!explain(&server, "ns$v", bypass).await.contains("ANN"));
        // The version before the index.
        let mut before = query;
        before["version"] = json!(1);
        assert!(!explain(&server, "ns$v", before).await.contains("ANN"));
    }
}

everywhere! {
    async fn words_show_in_the_plan(server: TestServer) {
        server.with_table("ns$t", 10).await;
        let query = json!({"k": 3, "vector": null,
            "full_text_query": {"string_query": {"query": "s7 s8", "columns": ["b"]}}});
        let explained = explain(&server, "ns$t", query.clone()).await;
        assert!(explained.contains("FlatMatchQuery"), "{explained}");
        let analysis = analyze(&server, "ns$t", query).await;
        assert!(analysis.contains("output_rows=2"), "{analysis}");
    }
}

both! {
    /// In a folder whose name storage writes in another way.
    async fn an_unusual_folder_does_not_show(server: TestServer) {
        server.create_namespace("ns").await;
        let place = server.lake().join("a b%c").display().to_string();
        let path = format!("{}?location={}", table("ns$t", "create"), enc(&place));
        let stream = crate::support::batches::ipc(&[batch_ab(0..5)]);
        let reply = server.post_arrow(&path, stream).await;
        if reply.status != 200 {
            assert_refused(&reply);
            return;
        }
        for query in [json!({"k": 1}), json!({"k": 1, "filter": "a > 1"})] {
            let explained = explain(&server, "ns$t", query.clone()).await;
            assert!(!explained.contains("a b") && !explained.contains("a%20b"), "{explained}");
            let analysis = analyze(&server, "ns$t", query).await;
            assert!(!analysis.contains("a b") && !analysis.contains("a%20b"), "{analysis}");
        }
    }
}

everywhere! {
    async fn a_bad_question_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_declared("ns$empty").await;
        for (query, status, code) in [
            (json!({"k": 1, "filter": "nope = 1"}), 404, TABLE_COLUMN_NOT_FOUND),
            (json!({"k": 1, "filter": "a >>> 1"}), 400, INVALID_INPUT),
            (json!({"k": 0}), 400, INVALID_INPUT),
            (json!({"k": 1, "vector": [1, 2]}), 400, INVALID_INPUT),
            (json!({"k": 1, "version": 7}), 404, TABLE_VERSION_NOT_FOUND),
            (json!({"k": 1, "id": ["ns", "other"]}), 400, INVALID_INPUT),
            (json!({"k": 1, "columns": {"column_names": ["nope"]}}), 404, TABLE_COLUMN_NOT_FOUND),
        ] {
            let reply = server.post(&table("ns$t", "analyze_plan"), query.clone()).await;
            assert_error(&reply, status, code);
            let body = json!({"query": query});
            let reply = server.post(&table("ns$t", "explain_plan"), body).await;
            assert_error(&reply, status, code);
        }
        for body in [
            json!({}),
            json!({"query": null}),
            json!({"query": {"k": 1}, "verbose": "very"}),
            json!({"query": {"k": 1}, "id": ["other"]}),
        ] {
            let reply = server.post(&table("ns$t", "explain_plan"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        for operation in ["explain_plan", "analyze_plan"] {
            let body = json!({"query": {"k": 1}, "k": 1});
            assert_refused(&server.post(&table("ns$empty", operation), body.clone()).await);
            let reply = server.post(&table("ns$nope", operation), body).await;
            assert_error(&reply, 404, TABLE_NOT_FOUND);
        }
    }
}

everywhere! {
    /// An error in the middle is an error, and no plan of what did not happen.
    async fn an_analysis_that_fails_says_so(server: TestServer) {
        server.with_table("ns$t", 10).await;
        let query = json!({"k": 10, "filter": "10 / (a - 5) > 1"});
        let reply = server.post(&table("ns$t", "analyze_plan"), query.clone()).await;
        assert_error(&reply, 400, INVALID_INPUT);
        explain(&server, "ns$t", query).await;
    }
}
