//! Identifiers: delimiters, encoding, strange names, and what is no identifier.

use serde_json::json;

use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::{assert_error, enc, namespace, raw, table};

/// Names that are awkward for SQL, for paths and for URLs.
const STRANGE_NAMES: [&str; 12] = [
    "o'brien",
    "say \"hi\"",
    "100% sure",
    "under_score%",
    "naïve 表 🦀",
    "we$ird",
    "a/b",
    "back\\slash",
    "semi;colon -- drop",
    "question?mark#hash&amp=1",
    "...",
    "plus+and space",
];

/// Identifiers that are refused, as they stand in a path.
fn bad_ids() -> Vec<String> {
    vec![
        "a$$b".into(),
        "$a".into(),
        "a$".into(),
        "$$".into(),
        "a%24%24b".into(),
        "a$..".into(),
        "..$a".into(),
        "a$%2E%2E$b".into(),
        "%00".into(),
        "a%00b".into(),
        "a$b%00".into(),
        "line%0Abreak".into(),
        "%FF%FE".into(),
        "x".repeat(10_000),
        format!("a${}", "x".repeat(10_000)),
        enc(&"表".repeat(3_000)),
    ]
}

both! {
    async fn another_delimiter_splits_elsewhere(server: TestServer) {
        server
            .post_empty("/v1/namespace/a/create?delimiter=.")
            .await
            .ok();
        server
            .post_empty("/v1/namespace/a.b/create?delimiter=.")
            .await
            .ok();
        server
            .post_empty("/v1/table/a.b.t/declare?delimiter=.")
            .await
            .ok();
        server.post_empty("/v1/namespace/a$b/exists").await.ok();
        server.post_empty("/v1/table/a$b$t/exists").await.ok();
        server
            .post_empty("/v1/table/a%24b%24t/exists?delimiter=%24")
            .await
            .ok();
        let listed = server
            .names("/v1/namespace/a.b/table/list?delimiter=.", "tables")
            .await;
        assert_eq!(listed, ["t"]);
    }
}

both! {
    /// Where `$` is not the delimiter it is a letter, and `a$b` one name.
    async fn a_name_may_hold_the_default_delimiter(server: TestServer) {
        server
            .post_empty("/v1/namespace/a$b/create?delimiter=.")
            .await
            .ok();
        server
            .post_empty("/v1/table/a$b.t$u/declare?delimiter=.")
            .await
            .ok();
        assert_eq!(
            server.names("/v1/namespace/$/list", "namespaces").await,
            ["a$b"]
        );
        let reply = server.post_empty("/v1/namespace/a$b/exists").await;
        assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
        let described = server
            .post(
                "/v1/table/a$b.t$u/describe?delimiter=.",
                json!({"id": ["a$b", "t$u"]}),
            )
            .await
            .ok();
        assert!(described["location"].is_string(), "{described}");
    }
}

both! {
    async fn strange_names_live_a_whole_life(server: TestServer) {
        for name in STRANGE_NAMES {
            let path =
                |operation: &str| format!("{}?delimiter=%7C", namespace(&enc(name), operation));
            server
                .post(&path("create"), json!({"id": [name]}))
                .await
                .ok();
            server
                .post(&path("exists"), json!({"id": [name]}))
                .await
                .ok();
            let listed = server.names("/v1/namespace/$/list", "namespaces").await;
            assert_eq!(listed, [name]);

            let id = enc(&format!("{name}|{name}"));
            let path = |operation: &str| format!("{}?delimiter=%7C", table(&id, operation));
            let declared = server.post_empty(&path("declare")).await.ok();
            assert!(declared["location"].is_string(), "{declared}");
            let in_namespace = format!("{}?delimiter=%7C", namespace(&enc(name), "table/list"));
            assert_eq!(server.names(&in_namespace, "tables").await, [name]);
            let all = server.names("/v1/table?delimiter=%7C", "tables").await;
            assert_eq!(all, [format!("{name}|{name}")]);
            server.post_empty(&path("describe")).await.ok();
            server.post_empty(&path("drop")).await.ok();

            let dropped = format!("{}?delimiter=%7C", namespace(&enc(name), "drop"));
            server
                .post(&dropped, json!({"behavior": "cascade"}))
                .await
                .ok();
            assert!(
                server
                    .names("/v1/namespace/$/list", "namespaces")
                    .await
                    .is_empty()
            );
        }
    }
}

everywhere! {
    /// The reference server breaks on an apostrophe; rows, not only names, must pass.
    async fn a_table_with_an_apostrophe_takes_rows(server: TestServer) {
        let id = format!("{}${}", enc("o'brien"), enc("kids' table"));
        server.create_namespace(&enc("o'brien")).await;
        server.create(&id, &batch_ab(0..3)).await;
        server.insert(&id, &batch_ab(3..5)).await;
        assert_eq!(server.values(&id).await, [0, 1, 2, 3, 4]);
        let upload = server.upload(&id, &batch_ab(5..6)).await;
        let commit =
            json!({"operation": "append", "read_version": 2, "uploads": [upload["upload_id"]]});
        server.commit(&id, commit).await.ok();
        assert_eq!(server.count(&id).await, 6);
        assert_eq!(server.versions(&id).await, [1, 2, 3]);
        let rename = json!({"new_table_name": "it's", "new_namespace_id": ["o'brien"]});
        server.post(&table(&id, "rename"), rename).await.ok();
        assert_eq!(
            server
                .count(&format!("{}${}", enc("o'brien"), enc("it's")))
                .await,
            6
        );
    }
}

both! {
    /// Names that look alike to a pattern are still two names.
    async fn patterns_in_names_match_only_themselves(server: TestServer) {
        for name in ["a_c", "abc", "a%c", "aXc"] {
            server.create_namespace(&enc(name)).await;
            let id = format!("{}$t", enc(name));
            server.post_empty(&table(&id, "declare")).await.ok();
        }
        let path = namespace(&enc("a_c"), "drop");
        server
            .post(&path, json!({"behavior": "cascade"}))
            .await
            .ok();
        let path = namespace(&enc("a%c"), "drop");
        server
            .post(&path, json!({"behavior": "cascade"}))
            .await
            .ok();
        let mut left = server.names("/v1/namespace/$/list", "namespaces").await;
        left.sort();
        assert_eq!(left, ["aXc", "abc"]);
        let mut left = server.names("/v1/table", "tables").await;
        left.sort();
        assert_eq!(left, ["aXc$t", "abc$t"]);
    }
}

both! {
    async fn bad_identifiers_are_refused(server: TestServer) {
        server.create_namespace("a").await;
        let before = server.snapshot().await;
        for id in bad_ids() {
            let shown: String = id.chars().take(40).collect();
            for operation in ["create", "describe", "exists", "drop"] {
                let reply = server.post_empty(&namespace(&id, operation)).await;
                assert_error(&reply, 400, INVALID_INPUT);
            }
            for operation in [
                "declare",
                "describe",
                "exists",
                "drop",
                "deregister",
                "count_rows",
            ] {
                let reply = server.post_empty(&table(&id, operation)).await;
                assert_error(&reply, 400, INVALID_INPUT);
            }
            assert_error(
                &server.get(&namespace(&id, "list")).await,
                400,
                INVALID_INPUT,
            );
            assert_error(
                &server.get(&table(&id, "uploads")).await,
                400,
                INVALID_INPUT,
            );
            server.assert_unchanged(&before, &shown).await;
        }
    }
}

both! {
    /// The root is a namespace, and no table.
    async fn the_root_is_no_table(server: TestServer) {
        for operation in ["declare", "describe", "drop", "count_rows"] {
            let reply = server.post_empty(&table("$", operation)).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
    }
}

both! {
    /// An HTTP client would fold `..` away, so this speaks to the socket.
    async fn dots_in_a_raw_path_lead_nowhere(server: TestServer) {
        server.create_namespace("a").await;
        let before = server.snapshot().await;
        for path in [
            "/v1/namespace/../create",
            "/v1/namespace/%2e%2e/create",
            "/v1/table/../declare",
            "/v1/table/a$%2e%2e/declare",
            "/v1/table/a$..%2f..%2fx/../declare",
        ] {
            let (status, body) = raw::exchange(&server, "POST", path, &[], b"");
            assert!((400..500).contains(&status), "{path}: {status} {body}");
            assert!(body.contains("\"code\""), "{path}: {body}");
        }
        server.assert_unchanged(&before, "dots in a path").await;
    }
}

both! {
    async fn the_id_of_the_body_must_be_the_id_of_the_path(server: TestServer) {
        server.with_table("a$t", 3).await;
        let before = server.snapshot().await;
        for id in [
            json!(["a"]),
            json!(["a", "u"]),
            json!(["a", "t", "x"]),
            json!([]),
            json!(["a$t"]),
        ] {
            let body = json!({"id": id, "new_table_name": "u", "location": "x", "version": 1});
            for operation in [
                "describe",
                "exists",
                "declare",
                "register",
                "deregister",
                "rename",
                "count_rows",
                "query",
                "version/describe",
            ] {
                let reply = server.post(&table("a$t", operation), body.clone()).await;
                assert_error(&reply, 400, INVALID_INPUT);
            }
        }
        for id in [json!(["b"]), json!(["a", "t"]), json!([])] {
            for operation in ["create", "describe", "exists", "drop"] {
                let reply = server
                    .post(&namespace("a", operation), json!({"id": id}))
                    .await;
                assert_error(&reply, 400, INVALID_INPUT);
            }
        }
        server.assert_unchanged(&before, "ids that differ").await;
        assert_eq!(server.count("a$t").await, 3);
    }
}

both! {
    async fn the_same_id_in_body_and_path_is_fine(server: TestServer) {
        server
            .post("/v1/namespace/a/create", json!({"id": ["a"]}))
            .await
            .ok();
        server
            .post("/v1/table/a$t/declare", json!({"id": ["a", "t"]}))
            .await
            .ok();
        server
            .post("/v1/table/a$t/describe", json!({"id": ["a", "t"]}))
            .await
            .ok();
        let path =
            "/v1/table/a%24t/describe?delimiter=%24&with_table_uri=false&check_declared=false";
        let body = json!({"id": ["a", "t"], "with_table_uri": false, "check_declared": false});
        server.post(path, body).await.ok();
        server
            .post("/v1/table/a$t/drop", json!({"id": ["a", "t"]}))
            .await
            .ok();
    }
}

both! {
    /// No body, an empty one and `{}` are the same, whatever the content type says.
    async fn an_empty_body_is_an_empty_object(server: TestServer) {
        server.post_empty("/v1/namespace/a/create").await.ok();
        let typed = server
            .request(reqwest::Method::POST, "/v1/table/a$t/declare")
            .header("content-type", "application/json");
        server.send(typed).await.ok();
        server.post("/v1/table/a$t/describe", json!({})).await.ok();
        server.post_empty("/v1/table/a$t/describe").await.ok();
        server.post_empty("/v1/table/a$t/exists").await.ok();
        server.post_empty("/v1/table/a$t/version/list").await.ok();
        server.post_empty("/v1/table/a$t/deregister").await.ok();
        server.post_empty("/v1/namespace/a/drop").await.ok();
    }
}

both! {
    /// A table may stand in the root, where its identifier has one part.
    async fn tables_live_in_the_root_too(server: TestServer) {
        server.post_empty("/v1/table/t/declare").await.ok();
        assert_eq!(
            server.names("/v1/namespace/$/table/list", "tables").await,
            ["t"]
        );
        server
            .post("/v1/table/t/describe", json!({"id": ["t"]}))
            .await
            .ok();
        server.post_empty("/v1/table/t/drop").await.ok();
        assert!(
            server
                .names("/v1/namespace/$/table/list", "tables")
                .await
                .is_empty()
        );
    }
}
