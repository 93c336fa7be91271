//! Requests that a LanceDB client sends again under the same `x-request-id` take effect once.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::batches::{batch_ab, int_values};
use crate::support::{Reply, TestServer, table, text};

const ID: &str = "0b8d3f5e-8a4e-4a57-9a53-3c9a5f4f7f11";

/// A request with this id.
async fn post(server: &TestServer, id: &str, path: &str, body: Value) -> Reply {
    let request = server.request(Method::POST, path).header("x-request-id", id);
    server.send(request.json(&body)).await
}

fn one_more() -> Value {
    json!({"updates": [["a", "a + 1"]], "predicate": null})
}

everywhere! {
    async fn an_update_that_comes_again_changes_nothing(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let path = table("ns$t", "update/");
        let first = post(&server, ID, &path, one_more()).await.ok();
        assert_eq!(first["rows_updated"], 3, "{first}");
        assert_eq!(post(&server, ID, &path, one_more()).await.ok(), first);
        assert_eq!(server.values("ns$t").await, [1, 2, 3]);
        // From another server of the catalog, and after a restart.
        let other = server.beside().await;
        assert_eq!(post(&other, ID, &path, one_more()).await.ok(), first);
        let mut server = server;
        server.restart().await;
        assert_eq!(post(&server, ID, &path, one_more()).await.ok(), first);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
    }
}

everywhere! {
    async fn updates_at_once_under_one_id_are_one(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let other = server.beside().await;
        let path = table("ns$t", "update/");
        let answers = join_all((0..6).map(|number| {
            let server = if number % 2 == 0 { &server } else { &other };
            let path = &path;
            async move { post(server, ID, path, one_more()).await.ok() }
        }))
        .await;
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(server.values("ns$t").await, [1, 2, 3]);
    }
}

everywhere! {
    /// The id alone does not make it the same request.
    async fn another_request_under_the_same_id_is_another(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_table("ns$u", 3).await;
        let path = table("ns$t", "update/");
        post(&server, ID, &path, one_more()).await.ok();
        // Another body, another table, another database, another operation, another id.
        let body = json!({"updates": [["a", "a + 10"]], "predicate": null});
        post(&server, ID, &path, body).await.ok();
        post(&server, ID, &table("ns$u", "update/"), one_more()).await.ok();
        let request = server.request(Method::POST, &table("t", "update/"));
        let request = request.header("x-request-id", ID).header("x-lancedb-database", "ns");
        server.send(request.json(&one_more())).await.ok();
        post(&server, &ID.replace('0', "1"), &path, one_more()).await.ok();
        assert_eq!(server.values("ns$t").await, [13, 14, 15]);
        assert_eq!(server.values("ns$u").await, [1, 2, 3]);
        // Without one each is its own.
        for _ in 0..2 {
            let path = table("ns$u", "update/");
            let answer = server.post(&path, one_more()).await.ok();
            assert_eq!(answer["rows_updated"], 3);
        }
        assert_eq!(server.values("ns$u").await, [3, 4, 5]);
    }
}

everywhere! {
    async fn a_delete_that_comes_again_tells_what_it_deleted(server: TestServer) {
        server.with_table("ns$t", 5).await;
        let path = table("ns$t", "delete/");
        let body = json!({"predicate": "a < 2"});
        let first = post(&server, ID, &path, body.clone()).await.ok();
        assert_eq!(first["num_deleted_rows"], 2, "{first}");
        server.insert("ns$t", &batch_ab(0..1)).await;
        assert_eq!(post(&server, ID, &path, body).await.ok(), first);
        assert_eq!(server.values("ns$t").await, [0, 2, 3, 4]);
    }
}

everywhere! {
    /// The second answer is the first, with what the client reads of its headers.
    async fn a_tag_that_is_made_again_is_not_there_already(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let body = json!({"tag": "v1", "version": 1});
        let path = table("ns$t", "tags/create/");
        for _ in 0..2 {
            post(&server, ID, &path, body.clone()).await.ok();
        }
        assert_eq!(server.post(&path, body).await.status, 400);
        let path = table("ns$t", "update/");
        let first = post(&server, ID, &path, one_more()).await;
        server.insert("ns$t", &batch_ab(9..10)).await;
        let second = post(&server, ID, &path, one_more()).await;
        for name in ["x-lancedb-version", "content-type"] {
            assert!(first.header(name).is_some(), "no {name}");
            assert_eq!(second.header(name), first.header(name), "{name}");
        }
        let other = "5d0a3a0e-4a57-4c07-9d4e-2f7d1d7c0a11";
        let gone = table("ns$t", "delete/");
        let body = json!({"predicate": "no_such_column = 1"});
        for _ in 0..2 {
            let refused = post(&server, other, &gone, body.clone()).await;
            assert_eq!(refused.status, 400, "{}", refused.text());
        }
    }
}

everywhere! {
    /// What was refused is tried anew: it may be right by then.
    async fn an_error_is_not_kept(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let path = table("ns$t", "update/");
        let body = json!({"updates": [["c", "7"]], "predicate": null});
        let refused = post(&server, ID, &path, body.clone()).await;
        assert_eq!(refused.status, 400, "{}", refused.text());
        let column = json!({"new_columns": [{"name": "c", "expression": "a"}]});
        server.post(&table("ns$t", "add_columns"), column).await.ok();
        post(&server, ID, &path, body).await.ok();
        let rows = server.query("ns$t", json!({"k": 10, "columns": {"column_names": ["c"]}}));
        assert_eq!(int_values(&rows.await, "c").len(), 3);
    }
}

everywhere! {
    async fn one_multipart_write_is_begun(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_table("ns$u", 3).await;
        let begin = async |id: &str, request_id: &str| {
            let path = table(id, "multipart_write/create");
            let request = server.request(Method::POST, &path).header("x-request-id", request_id);
            text(&server.send(request).await.ok(), "upload_id")
        };
        let first = begin("ns$t", ID).await;
        assert_eq!(begin("ns$t", ID).await, first);
        assert_ne!(begin("ns$u", ID).await, first);
        assert_ne!(begin("ns$t", "another").await, first);
    }
}

everywhere! {
    /// What is no UUID is not of these clients, and may stand on any number of requests.
    async fn an_id_of_many_requests_is_no_key(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let path = table("ns$t", "update/");
        for version in [2, 3] {
            let answer = post(&server, "trace-7", &path, one_more()).await.ok();
            assert_eq!(answer["version"], version);
        }
        assert_eq!(server.values("ns$t").await, [2, 3, 4]);
    }
}
