//! The shape of errors.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::json;

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::{
    TestServer, assert_error, assert_refused, foreign, namespace, raw, table, text, upstream,
};

/// What a body of no sense must not do to any operation that takes JSON.
const NO_OBJECTS: [&str; 9] = [
    "{",
    "[]",
    "5",
    "\"text\"",
    "null and void",
    "{\"id\": 5}",
    "{\"id\": [5]}",
    "{\"identity\": [null, null]}",
    "\u{0}",
];

both! {
    async fn an_error_has_the_shape_of_the_spec(server: TestServer) {
        let reply = server.post_empty("/v1/table/nope$nope/describe").await;
        assert_eq!(reply.status, 404, "{}", reply.text());
        assert_eq!(reply.body["instance"], "/v1/table/nope$nope/describe");
        assert!(
            text(&reply.body, "error").contains("nope"),
            "{}",
            reply.text()
        );
        assert_refused(&reply);
    }
}

both! {
    // A client that keeps connections sends its next request over the one that carried the refusal.
    async fn a_refusal_leaves_its_connection_usable(server: TestServer) {
        for (path, body, expected) in [
            // No such table; the last takes no body and is sent one, as lancedb does.
            (table("nope$t", "describe"), "{}", 404),
            (table("nope$t", "drop"), "{\"id\": [\"nope\", \"t\"]}", 404),
            (table("nope$t", "version/list"), "null", 404),
            // Refused for its path alone, and for having no route.
            (table("a$$b", "describe"), "{}", 400),
            ("/v1/nonsense".to_owned(), "{}", 404),
        ] {
            let statuses = tokio::task::block_in_place(|| {
                raw::slow_body_then_another(&server, &path, body.as_bytes())
            });
            assert_eq!(statuses, [expected, 200], "{path}");
        }
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    // A client that sends all before it looks at the answer is told why, not that the pipe is broken.
    async fn a_refusal_reaches_who_is_still_sending(server: TestServer) {
        let insert = table("ns$t", "insert");
        for (path, expected) in [
            (insert.as_str(), 401),
            ("/v1/commit", 401),
            ("/v1/nonsense", 404),
            ("/healthz", 405),
        ] {
            let body = vec![0; 32 << 20];
            let statuses =
                tokio::task::block_in_place(|| raw::slow_body_then_another(&server, path, &body));
            assert_eq!(statuses, [expected, 200], "{path}");
            // Who asks first is spared the sending.
            let status = tokio::task::block_in_place(|| raw::asked(&server, path, body.len()));
            assert_eq!(status, expected, "{path}");
        }
    }
}

both! {
    async fn an_unknown_route_is_404_in_the_same_shape(server: TestServer) {
        for path in [
            "/v1",
            "/v2/table",
            "/v1/nonsense",
            "/v1/table/a$t/nonsense",
            "/v1/table/a$t",
        ] {
            for method in [Method::GET, Method::POST] {
                let reply = server.send(server.request(method, path)).await;
                assert_eq!(reply.status, 404, "{path}: {}", reply.text());
                assert_refused(&reply);
            }
        }
    }
}

both! {
    async fn another_method_is_refused_in_the_same_shape(server: TestServer) {
        server.create_namespace("a").await;
        for (method, path) in [
            (Method::GET, "/v1/namespace/a/describe"),
            (Method::POST, "/v1/namespace/a/list"),
            (Method::PUT, "/v1/namespace/a/create"),
            (Method::DELETE, "/v1/namespace/a/drop"),
            (Method::PATCH, "/v1/table/a$t/describe"),
            (Method::POST, "/healthz"),
        ] {
            assert_refused(&server.send(server.request(method, path)).await);
        }
        server.post_empty("/v1/namespace/a/exists").await.ok();
    }
}

both! {
    /// A trailing slash is another dialect's route: never a redirect, which clients follow with
    /// another method.
    async fn a_trailing_slash_is_no_redirect(server: TestServer) {
        for path in [
            "/v1/table/t/describe/",
            "/v1/namespace/a/create/",
            "/v1/table//describe",
        ] {
            let reply = server.post(path, json!({})).await;
            assert!(
                !(300..400).contains(&reply.status),
                "{path}: {}",
                reply.status
            );
            assert_refused(&reply);
        }
    }
}

both! {
    async fn a_body_that_is_no_object_is_refused(server: TestServer) {
        server.with_table("a$t", 3).await;
        let before = server.snapshot().await;
        let mut paths: Vec<String> = ["create", "describe", "exists", "drop"]
            .map(|operation| namespace("a", operation))
            .to_vec();
        paths.extend(
            [
                "declare",
                "register",
                "describe",
                "exists",
                "deregister",
                "rename",
                "count_rows",
                "query",
                "version/describe",
                "commit",
            ]
            .map(|operation| table("a$t", operation)),
        );
        for path in paths {
            for body in NO_OBJECTS {
                let request = server
                    .request(Method::POST, &path)
                    .header("content-type", "application/json")
                    .body(body);
                assert_error(&server.send(request).await, 400, INVALID_INPUT);
            }
        }
        server.assert_unchanged(&before, "bodies of no sense").await;
    }
}

both! {
    async fn a_body_nested_without_end_is_refused(server: TestServer) {
        let deep = format!(
            "{{\"properties\": {}{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let request = server
            .request(Method::POST, "/v1/namespace/a/create")
            .header("content-type", "application/json")
            .body(deep);
        assert_error(&server.send(request).await, 400, INVALID_INPUT);
        server.get("/healthz").await.ok();
    }
}

both! {
    /// Clients send `identity` and `context` everywhere, and newer ones fields we do not know.
    async fn fields_of_other_concern_are_no_error(server: TestServer) {
        let body = json!({
            "identity": {"api_key": "k", "auth_token": null}, "context": {"header.x": "y"},
            "from_the_future": [1],
        });
        server
            .post("/v1/namespace/a/create", body.clone())
            .await
            .ok();
        server
            .post("/v1/table/a$t/declare", body.clone())
            .await
            .ok();
        server
            .post("/v1/table/a$t/describe", body.clone())
            .await
            .ok();
        server
            .post("/v1/table/a$t/deregister", body.clone())
            .await
            .ok();
        server.post("/v1/namespace/a/drop", body).await.ok();
    }
}

both! {
    /// Nothing of the spec is left out: each operation is known by its path and method.
    async fn all_of_the_spec_is_served(server: TestServer) {
        let served = server.served().await;
        for operation in upstream::operations(&upstream::document()) {
            let id = &operation.id;
            assert!(served.contains(id), "{id} is not served");
            let path = operation.path.replace("{id}", "no$t").replace("{index_name}", "i");
            let method = Method::from_bytes(operation.method.as_bytes()).expect("a method");
            let reply = server.send(server.request(method, &path)).await;
            let whole = reply.text();
            let unknown = reply.status == 405 || whole.contains("no operation has this path");
            assert!(!unknown && reply.status != 406, "{id}: {} {whole}", reply.status);
        }
        let capabilities = server.get("/v1/capabilities").await.ok();
        assert_eq!(capabilities["unsupported_operations"], json!([]));
    }
}

both! {
    async fn every_answer_carries_the_request_id(server: TestServer) {
        let request = server
            .request(Method::POST, "/v1/namespace/nope/describe")
            .header("x-request-id", "my-own-id");
        assert_eq!(
            server.send(request).await.header("x-request-id"),
            Some("my-own-id")
        );
        let mut seen = BTreeSet::new();
        for path in [
            "/healthz",
            "/v1/table",
            "/nowhere",
            "/v1/namespace/nope/list",
        ] {
            let id = server
                .get(path)
                .await
                .header("x-request-id")
                .map(str::to_string);
            assert!(
                seen.insert(id.expect("an id")),
                "an id of {path} came before"
            );
        }
    }
}

both! {
    /// Text from the outside is repeated as text, if at all.
    async fn an_error_is_json_whatever_it_repeats(server: TestServer) {
        for name in ["%22%7D", "%3Cscript%3E", "%5Cn", "%7B0%7D"] {
            let reply = server.post_empty(&namespace(name, "describe")).await;
            assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
            let kind = reply.header("content-type").unwrap_or_default();
            assert!(kind.starts_with("application/json"), "{kind}");
        }
    }
}

both! {
    /// A body of JSON where Arrow is due, and the reverse.
    async fn bodies_of_the_wrong_kind_are_refused(server: TestServer) {
        server.with_table("a$t", 3).await;
        let before = server.snapshot().await;
        for operation in ["insert", "create?mode=overwrite", "fragments"] {
            let reply = server
                .post(&table("a$t", operation), json!({"a": [1]}))
                .await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let stream = ipc(&[batch_ab(0..2)]);
        for operation in ["commit", "rename", "query"] {
            let reply = server
                .post_arrow(&table("a$t", operation), stream.clone())
                .await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        server
            .assert_unchanged(&before, "bodies of the wrong kind")
            .await;
    }
}

both! {
    /// The table's folder is gone: whatever the server makes of it, it keeps its paths to itself.
    async fn a_broken_table_shows_no_paths(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        std::fs::remove_dir_all(foreign::folder(&location)).expect("the table's folder");
        let home = server.home().display().to_string();
        let path = table("ns$t", "describe?load_detailed_metadata=true");
        let replies = [
            server.post_empty(&path).await,
            server.post_empty(&table("ns$t", "count_rows")).await,
            server
                .post(&table("ns$t", "count_rows"), json!({"version": 1}))
                .await,
            server.get(&table("ns$t", "fragments")).await,
            server
                .post_arrow(&table("ns$t", "insert"), ipc(&[batch_ab(0..2)]))
                .await,
        ];
        for reply in replies.iter().filter(|reply| reply.status >= 400) {
            let shown = reply.text();
            assert!(!shown.contains(&home), "{shown}");
            assert!(
                reply.body["code"].is_u64() && reply.body["error"].is_string(),
                "{shown}"
            );
        }
        server.get("/healthz").await.ok();
    }
}
