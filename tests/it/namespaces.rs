//! CreateNamespace, DescribeNamespace, ListNamespaces, NamespaceExists, DropNamespace.

use serde_json::json;

use crate::support::code::*;
use crate::support::{assert_error, assert_refused, namespace, table};

both! {
    async fn create_then_describe(server: TestServer) {
        let body = json!({"properties": {"owner": "Ralph", "team": "eng"}});
        let created = server.post("/v1/namespace/a/create", body).await.ok();
        assert_eq!(created["properties"]["owner"], "Ralph");
        let described = server.post_empty("/v1/namespace/a/describe").await.ok();
        assert_eq!(described["properties"]["owner"], "Ralph");
        assert_eq!(described["properties"]["team"], "eng");
    }
}

both! {
    /// Supported but not set is an empty object, not null.
    async fn without_properties_there_is_an_object(server: TestServer) {
        server.create_namespace("a").await;
        let described = server
            .post("/v1/namespace/a/describe", json!({}))
            .await
            .ok();
        assert!(described["properties"].is_object(), "{described}");
    }
}

both! {
    async fn create_again_is_refused(server: TestServer) {
        let properties = json!({"properties": {"k": "old"}});
        server.post("/v1/namespace/a/create", properties).await.ok();
        for mode in [
            json!({}),
            json!({"mode": "create"}),
            json!({"mode": "Create"}),
        ] {
            let again = server.post("/v1/namespace/a/create", mode).await;
            assert_error(&again, 409, NAMESPACE_ALREADY_EXISTS);
        }
        let described = server.post_empty("/v1/namespace/a/describe").await.ok();
        assert_eq!(described["properties"]["k"], "old");
    }
}

both! {
    async fn create_exist_ok_keeps_what_is_there(server: TestServer) {
        let properties = json!({"properties": {"k": "old"}});
        server.post("/v1/namespace/a/create", properties).await.ok();
        server.create_namespace("a$child").await;
        for mode in ["exist_ok", "ExistOk", "EXIST_OK"] {
            let body = json!({"mode": mode, "properties": {"k": "new"}});
            let kept = server.post("/v1/namespace/a/create", body).await.ok();
            assert_eq!(kept["properties"]["k"], "old", "{mode}");
        }
        let children = server.names("/v1/namespace/a/list", "namespaces").await;
        assert_eq!(children, ["child"]);
        let fresh = json!({"mode": "exist_ok", "properties": {"k": "made"}});
        let made = server.post("/v1/namespace/b/create", fresh).await.ok();
        assert_eq!(made["properties"]["k"], "made");
    }
}

both! {
    async fn create_overwrite_makes_it_new_and_empty(server: TestServer) {
        let properties = json!({"properties": {"k": "old", "gone": "yes"}});
        server.post("/v1/namespace/a/create", properties).await.ok();
        server.create_namespace("a$child").await;
        server.with_table("a$t", 3).await;
        let body = json!({"mode": "Overwrite", "properties": {"k": "new"}});
        let made = server.post("/v1/namespace/a/create", body).await.ok();
        assert_eq!(made["properties"]["k"], "new");
        assert!(made["properties"].get("gone").is_none(), "{made}");
        let children = server.names("/v1/namespace/a/list", "namespaces").await;
        assert!(children.is_empty(), "{children:?}");
        let tables = server.names("/v1/namespace/a/table/list", "tables").await;
        assert!(tables.is_empty(), "{tables:?}");
    }
}

both! {
    async fn create_with_an_unknown_mode_is_refused(server: TestServer) {
        let before = server.snapshot().await;
        for mode in [json!("sometimes"), json!(5), json!({})] {
            let body = json!({"mode": mode});
            let reply = server.post("/v1/namespace/a/create", body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        server.assert_unchanged(&before, "unknown modes").await;
    }
}

both! {
    async fn namespaces_nest_to_any_depth(server: TestServer) {
        let mut id = "n0".to_string();
        server.create_namespace(&id).await;
        for level in 1..10 {
            let child = format!("{id}$n{level}");
            server.create_namespace(&child).await;
            let listed = server.names(&namespace(&id, "list"), "namespaces").await;
            assert_eq!(
                listed,
                [format!("n{level}")],
                "names are relative to the parent"
            );
            id = child;
        }
        server.post_empty(&namespace(&id, "exists")).await.ok();
        let root = server.names("/v1/namespace/$/list", "namespaces").await;
        assert_eq!(root, ["n0"]);
    }
}

both! {
    async fn create_needs_the_parent(server: TestServer) {
        let before = server.snapshot().await;
        let reply = server.post_empty("/v1/namespace/nope$child/create").await;
        assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
        server.assert_unchanged(&before, "a missing parent").await;
    }
}

both! {
    /// A listing of what is not there is not an empty listing.
    async fn a_missing_namespace_is_404_everywhere(server: TestServer) {
        for path in ["/v1/namespace/nope/list", "/v1/namespace/nope/table/list"] {
            assert_error(&server.get(path).await, 404, NAMESPACE_NOT_FOUND);
        }
        for operation in ["describe", "exists"] {
            let reply = server.post_empty(&namespace("nope", operation)).await;
            assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
        }
        let reply = server.post_empty("/v1/table/nope$t/declare").await;
        assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
    }
}

both! {
    async fn exists_answers_without_a_body(server: TestServer) {
        server.create_namespace("a").await;
        let reply = server.post_empty("/v1/namespace/a/exists").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.raw.is_empty(), "a body: {}", reply.text());
    }
}

both! {
    /// The delimiter alone is the root, encoded or not.
    async fn the_root_is_always_there(server: TestServer) {
        for id in ["$", "%24"] {
            server.post_empty(&namespace(id, "exists")).await.ok();
            let described = server.post_empty(&namespace(id, "describe")).await.ok();
            assert!(described["properties"].is_object(), "{described}");
            let listed = server.names(&namespace(id, "list"), "namespaces").await;
            assert!(listed.is_empty(), "{listed:?}");
        }
        let with_body = server
            .post("/v1/namespace/$/describe", json!({"id": []}))
            .await;
        with_body.ok();
        let path = "/v1/namespace/:/list?delimiter=%3A";
        assert!(server.names(path, "namespaces").await.is_empty());
    }
}

both! {
    async fn the_root_is_neither_made_nor_dropped(server: TestServer) {
        server.create_namespace("a").await;
        assert_refused(&server.post_empty("/v1/namespace/$/create").await);
        let body = json!({"mode": "overwrite"});
        assert_refused(&server.post("/v1/namespace/$/create", body).await);
        let body = json!({"behavior": "cascade"});
        assert_refused(&server.post("/v1/namespace/$/drop", body).await);
        assert_eq!(
            server.names("/v1/namespace/$/list", "namespaces").await,
            ["a"]
        );
    }
}

both! {
    async fn drop_takes_an_empty_namespace_away(server: TestServer) {
        let body = json!({"properties": {"k": "v"}});
        server.post("/v1/namespace/a/create", body).await.ok();
        let dropped = server.post_empty("/v1/namespace/a/drop").await.ok();
        assert_eq!(dropped["properties"]["k"], "v");
        let reply = server.post_empty("/v1/namespace/a/describe").await;
        assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
        server.create_namespace("a").await;
        let described = server.post_empty("/v1/namespace/a/describe").await.ok();
        assert!(described["properties"].get("k").is_none(), "{described}");
    }
}

both! {
    /// Restrict, the default, refuses whatever holds something.
    async fn drop_restrict_refuses_what_is_not_empty(server: TestServer) {
        server.create_namespace("a").await;
        server.create_namespace("a$child").await;
        server.create_namespace("b").await;
        server.post_empty("/v1/table/b$t/declare").await.ok();
        let before = server.snapshot().await;
        for id in ["a", "b"] {
            for body in [
                json!({}),
                json!({"behavior": "restrict"}),
                json!({"behavior": "Restrict"}),
            ] {
                let reply = server.post(&namespace(id, "drop"), body).await;
                assert_error(&reply, 409, NAMESPACE_NOT_EMPTY);
            }
        }
        server.assert_unchanged(&before, "a restricted drop").await;
    }
}

both! {
    async fn drop_cascade_takes_all_that_is_inside(server: TestServer) {
        let before = server.files();
        server.create_namespace("a").await;
        server.create_namespace("a$b").await;
        server.with_table("a$b$t", 10).await;
        server.with_table("a$t", 10).await;
        server.post_empty("/v1/table/a$declared/declare").await.ok();
        // Neighbours whose names begin alike stay.
        server.create_namespace("ab").await;
        server.with_table("ab$t", 4).await;
        let body = json!({"behavior": "Cascade"});
        server.post("/v1/namespace/a/drop", body).await.ok();
        for id in ["a", "a$b"] {
            let reply = server.post_empty(&namespace(id, "exists")).await;
            assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
        }
        let reply = server.post_empty("/v1/table/a$t/describe").await;
        assert_eq!(reply.status, 404, "{}", reply.text());
        assert_eq!(server.count("ab$t").await, 4);
        server.post_empty("/v1/table/ab$t/drop").await.ok();
        server.assert_files(&before, "dropped tables").await;
        assert_eq!(
            server.names("/v1/namespace/$/list", "namespaces").await,
            ["ab"]
        );
    }
}

both! {
    /// The document says 400 in its prose, and its table of codes says 404 for code 1.
    async fn drop_of_a_missing_namespace(server: TestServer) {
        for body in [json!({}), json!({"mode": "fail"}), json!({"mode": "Fail"})] {
            let reply = server.post("/v1/namespace/nope/drop", body).await;
            assert!([400, 404].contains(&reply.status), "{}", reply.text());
            assert_error(&reply, reply.status, NAMESPACE_NOT_FOUND);
        }
        for mode in ["skip", "Skip"] {
            let reply = server
                .post("/v1/namespace/nope/drop", json!({"mode": mode}))
                .await;
            assert!([200, 204].contains(&reply.status), "{}", reply.text());
        }
    }
}

both! {
    async fn drop_with_unknown_words_is_refused(server: TestServer) {
        server.create_namespace("a").await;
        for body in [json!({"mode": "perhaps"}), json!({"behavior": "gently"})] {
            let reply = server.post("/v1/namespace/a/drop", body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        server.post_empty("/v1/namespace/a/exists").await.ok();
    }
}

both! {
    /// A namespace and a table of one name do not hide each other's contents.
    async fn tables_and_namespaces_are_listed_apart(server: TestServer) {
        server.create_namespace("a").await;
        server.create_namespace("a$child").await;
        server.post_empty(&table("a$t", "declare")).await.ok();
        let namespaces = server.names("/v1/namespace/a/list", "namespaces").await;
        assert_eq!(namespaces, ["child"]);
        let tables = server.names("/v1/namespace/a/table/list", "tables").await;
        assert_eq!(tables, ["t"]);
    }
}

both! {
    async fn properties_must_be_text(server: TestServer) {
        let before = server.snapshot().await;
        for properties in [
            json!({"k": 1}),
            json!({"k": null}),
            json!(["k"]),
            json!("k"),
        ] {
            let body = json!({"properties": properties});
            let reply = server.post("/v1/namespace/a/create", body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        server.assert_unchanged(&before, "bad properties").await;
    }
}

both! {
    /// They are the namespace's own words, whatever they hold.
    async fn properties_hold_any_text(server: TestServer) {
        let long = "x".repeat(20_000);
        let properties =
            json!({"it's": "a 'quote'", "naïve": "表 🦀", "empty": "", "long": long, "$1": "?"});
        let body = json!({"properties": properties});
        server.post("/v1/namespace/a/create", body).await.ok();
        let described = server.post_empty("/v1/namespace/a/describe").await.ok();
        for (key, value) in properties.as_object().expect("an object") {
            assert_eq!(described["properties"][key], *value, "{key}");
        }
    }
}
