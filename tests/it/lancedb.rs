//! The LanceDB dialect, where it differs from the namespace dialect on the same port.

use arrow::array::{ArrayRef, Float32Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

use crate::support::batches::{batch, batch_ab, ints, ipc, ipc_without_rows};
use crate::support::code::*;
use crate::support::{TestServer, assert_error, table};

/// A path of an operation on a table in this dialect.
fn slash(id: &str, operation: &str) -> String {
    format!("/v1/table/{id}/{operation}/")
}

/// A table `t` in the root, with one column of each kind that has two names.
async fn with_t(server: &TestServer) {
    let rows = batch(&[
        ("id", ints(0..3)),
        ("name", Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef),
        ("score", Arc::new(Float32Array::from(vec![0.5, 1.5, 2.5])) as ArrayRef),
    ]);
    server.post_arrow(&slash("t", "create"), ipc(&[rows])).await.ok();
}

both! {
    async fn the_slash_tells_the_dialect(server: TestServer) {
        with_t(&server).await;
        let theirs = server.post_empty(&slash("t", "describe")).await;
        assert_eq!(theirs.header("x-lancedb-version"), Some("1"));
        let theirs = theirs.ok();
        assert_eq!(theirs["version"], 1);
        let kinds = |described: &Value| -> Vec<String> {
            let fields = described["schema"]["fields"].as_array().expect("fields");
            fields.iter().map(|field| field["type"]["type"].as_str().expect("a type").into()).collect()
        };
        assert_eq!(kinds(&theirs), ["int32", "string", "float"]);
        let detailed = json!({"load_detailed_metadata": true});
        let spec = server.post("/v1/table/t/describe", detailed).await.ok();
        assert_eq!(kinds(&spec), ["int32", "utf8", "float32"]);
        // The spec's form is lazy, and this one never is.
        assert!(server.post_empty("/v1/table/t/describe").await.ok().get("version").is_none());
        let location = theirs["location"].as_str().expect("a location");
        assert!(location.starts_with("file:///"), "{location}");
    }
}

everywhere! {
    async fn every_answer_says_what_is_spoken(server: TestServer) {
        with_t(&server).await;
        for path in ["/healthz", "/v1/table/", "/v1/table", "/v1/table/nothing/describe/", "/nowhere"] {
            let reply = server.get(path).await;
            let spoken = reply.header("phalanx-version").unwrap_or_default().to_owned();
            assert!(spoken.split('.').count() == 3, "{path}: '{spoken}'");
        }
        // What is about a table says at which version it is, whoever serves it.
        let tag = json!({"tag": "first", "version": 1});
        let replies = [
            server.post(&slash("t", "update"), json!({"updates": [["id", "id"]]})).await,
            server.post(&slash("t", "delete"), json!({"predicate": "id = 2"})).await,
            server.post(&slash("t", "tags/create"), tag).await,
            server.post_empty(&slash("t", "tags/list")).await,
            server.post_empty(&slash("t", "version/list")).await,
            server.post_empty(&slash("t", "stats")).await,
            server.post(&slash("t", "index/list"), json!({"version": null})).await,
        ];
        let versions: Vec<_> = replies.iter().map(|reply| reply.header("x-lancedb-version")).collect();
        assert_eq!(versions, [Some("2"), Some("3"), Some("3"), Some("3"), Some("3"), Some("3"), Some("3")]);
    }
}

everywhere! {
    async fn statuses_are_those_that_these_clients_understand(server: TestServer) {
        with_t(&server).await;
        let again = server.post_arrow(&slash("t", "create"), ipc(&[batch_ab(0..1)])).await;
        assert_error(&again, 400, TABLE_ALREADY_EXISTS);
        assert!(again.text().contains("already exists"), "{}", again.text());
        let path = format!("{}?mode=exist_ok", slash("t", "create"));
        let kept = server.post_arrow(&path, ipc(&[batch_ab(0..1)])).await;
        // The client compares the schemas then.
        assert_error(&kept, 400, TABLE_ALREADY_EXISTS);
        assert!(kept.text().contains("already exists"), "{}", kept.text());
        assert_eq!(server.count("t").await, 3);
        let tag = json!({"tag": "first", "version": 1});
        server.post(&slash("t", "tags/create"), tag.clone()).await.ok();
        assert_error(&server.post(&slash("t", "tags/create"), tag).await, 400, TABLE_TAG_ALREADY_EXISTS);
        let unknown = server.post_empty(&slash("nothing", "describe")).await;
        assert_error(&unknown, 404, TABLE_NOT_FOUND);
        let column = server.post(&slash("t", "drop_columns"), json!({"columns": ["nothing"]})).await;
        assert_error(&column, 400, TABLE_COLUMN_NOT_FOUND);
        let filter = server.post(&slash("t", "delete"), json!({"predicate": "id ="})).await;
        assert_error(&filter, 400, INVALID_INPUT);
        let index = server.post_empty(&slash("t", "index/nothing/drop")).await;
        assert_error(&index, 404, TABLE_INDEX_NOT_FOUND);
        // The same in the spec's own dialect.
        let again = server.post_arrow("/v1/table/t/create", ipc(&[batch_ab(0..1)])).await;
        assert_error(&again, 409, TABLE_ALREADY_EXISTS);
        let column = server.post("/v1/table/t/drop_columns", json!({"columns": ["nothing"]})).await;
        assert_error(&column, 404, TABLE_COLUMN_NOT_FOUND);
    }
}

both! {
    async fn what_is_not_served_is_501_in_the_shape_of_errors(server: TestServer) {
        with_t(&server).await;
        let before = server.snapshot().await;
        for path in [
            slash("t", "branches/diff"),
            slash("t", "branches/cherry_pick"),
            slash("t", "page_cache/prewarm"),
            slash("t", "enable_rte"),
            slash("t", "set_lsm_write_spec"),
            slash("t", "anything"),
            "/v1/table/t/errors".into(),
            "/v1/jobs/pause".into(),
            "/v1/jobs/resume".into(),
            "/v1/jobs/query_events".into(),
            "/v1/function/f/create".into(),
            "/v1/secret/s/describe".into(),
            "/v1/view/v/create".into(),
        ] {
            let reply = server.post(&path, json!({})).await;
            assert_eq!(reply.status, 501, "{path}: {}", reply.text());
            assert_eq!(reply.body["code"], 0, "{path}");
            assert!(reply.body["error"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
        }
        server.assert_unchanged(&before, "operations that are not served").await;
    }
}

everywhere! {
    async fn rows_that_change_are_counted_under_the_clients_names(server: TestServer) {
        with_t(&server).await;
        let update = json!({"updates": [["score", "score + 1"]], "predicate": null});
        let updated = server.post(&slash("t", "update"), update).await.ok();
        // Both names at once would be refused.
        assert_eq!(updated, json!({"rows_updated": 3, "version": 2}));
        let deleted = server.post(&slash("t", "delete"), json!({"predicate": "id < 2"})).await.ok();
        assert_eq!(deleted, json!({"num_deleted_rows": 2, "version": 3}));
        let merge = "?on=id&when_matched_update_all=true&when_not_matched_insert_all=true";
        let rows = batch(&[
            ("id", ints(2..4)),
            ("name", Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
            ("score", Arc::new(Float32Array::from(vec![7.0, 8.0])) as ArrayRef),
        ]);
        let path = format!("{}{merge}", slash("t", "merge_insert"));
        let merged = server.post_arrow(&path, ipc(&[rows])).await.ok();
        let expected = json!({"version": 4, "num_inserted_rows": 1, "num_updated_rows": 1,
            "num_deleted_rows": 0, "num_attempts": 1, "num_rows": 2});
        assert_eq!(merged, expected);
        assert_eq!(server.count("t").await, 2);
    }
}

both! {
    async fn columns_have_lances_types(server: TestServer) {
        with_t(&server).await;
        let added = json!({"new_columns": [{"name": "twice", "expression": "id * 2"}]});
        assert_eq!(server.post(&slash("t", "add_columns"), added).await.ok()["version"], 2);
        let nested = DataType::Struct(vec![Field::new("x", DataType::Int8, true)].into());
        let note = Field::new("note", nested, true)
            .with_metadata(HashMap::from([("kind".to_owned(), "note".to_owned())]));
        let schema = Schema::new(vec![note]);
        let path = slash("t", "add_columns");
        assert_eq!(server.post_arrow(&path, ipc_without_rows(&schema)).await.ok()["version"], 3);
        let altered = json!({"alterations": [
            {"path": "score", "data_type": {"type": "double"}},
            {"path": "name", "rename": "title", "nullable": true}]});
        assert_eq!(server.post(&slash("t", "alter_columns"), altered).await.ok()["version"], 4);
        let described = server.post_empty(&slash("t", "describe")).await.ok();
        let fields = described["schema"]["fields"].as_array().expect("fields").clone();
        let named = |name: &str| fields.iter().find(|field| field["name"] == name).cloned();
        assert_eq!(named("score").expect("score")["type"]["type"], "double");
        assert_eq!(named("title").expect("title")["type"]["type"], "string");
        assert_eq!(named("note").expect("note")["type"]["type"], "struct");
        assert_eq!(named("note").expect("note")["metadata"]["kind"], "note");
        assert_eq!(server.values_of("t", "twice").await, [0, 2, 4]);

        let before = server.snapshot().await;
        for (body, why) in [
            (json!({"alterations": [{"path": "id", "data_type": {"type": "float32"}}]}), "a type of the other form"),
            (json!({"alterations": [{"path": "id", "data_type": {"type": "fixed_size_list"}}]}), "half a type"),
            (json!({"alterations": [{"path": "id", "data_type": 7}]}), "no type"),
        ] {
            let reply = server.post(&slash("t", "alter_columns"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
            assert!(!reply.text().contains(".rs"), "{why}: {}", reply.text());
        }
        let with_rows = ipc(&[batch(&[("more", ints(0..3))])]);
        assert_error(&server.post_arrow(&path, with_rows).await, 400, INVALID_INPUT);
        let required = Schema::new(vec![Field::new("more", DataType::Int32, false)]);
        assert_error(&server.post_arrow(&path, ipc_without_rows(&required)).await, 400, INVALID_INPUT);
        let known = Schema::new(vec![Field::new("id", DataType::Int32, true)]);
        assert_error(&server.post_arrow(&path, ipc_without_rows(&known)).await, 400, INVALID_INPUT);
        server.assert_unchanged(&before, "columns that cannot be").await;
    }
}

everywhere! {
    async fn versions_tags_and_branches_have_their_own_shapes(server: TestServer) {
        with_t(&server).await;
        server.post(&slash("t", "delete"), json!({"predicate": "id = 0"})).await.ok();
        let listed = server.post_empty(&slash("t", "version/list")).await.ok();
        let versions = listed["versions"].as_array().expect("versions");
        assert_eq!(versions.len(), 2);
        assert!(versions.iter().all(|version| version["timestamp_millis"].is_i64()), "{listed}");
        let tag = json!({"tag": "first", "version": 1});
        server.post(&slash("t", "tags/create"), tag).await.ok();
        let tags = server.post_empty(&slash("t", "tags/list")).await.ok();
        assert_eq!(tags["first"]["version"], 1);
        assert!(tags["first"]["manifestSize"].is_u64() && tags.get("tags").is_none(), "{tags}");
        let found = server.post(&slash("t", "tags/version"), json!({"tag": "first"})).await.ok();
        assert_eq!(found["version"], 1);
        let branch = json!({"name": "side", "from_version": 1});
        server.post(&slash("t", "branches/create"), branch.clone()).await.ok();
        assert_error(&server.post(&slash("t", "branches/create"), branch).await, 409, TABLE_BRANCH_ALREADY_EXISTS);
        let branches = server.post_empty(&slash("t", "branches/list")).await.ok();
        assert_eq!(branches["branches"]["side"]["parentVersion"], 1);
        let on_side = json!({"predicate": "id = 1", "branch": "side"});
        assert_eq!(server.post(&slash("t", "delete"), on_side).await.ok()["version"], 2);
        let restored = server.post(&slash("t", "restore"), json!({"version": 1})).await;
        assert_eq!(restored.header("x-lancedb-version"), Some("3"));
        assert_eq!(restored.ok()["version"], 3);
        assert_eq!(server.count("t").await, 3);
    }
}

everywhere! {
    async fn indexes_are_jobs_with_words_that_clients_know(server: TestServer) {
        with_t(&server).await;
        let body = json!({"column": "id", "index_type": "BTREE"});
        let begun = server.post(&slash("t", "create_index"), body.clone()).await.ok();
        let job = begun["job_id"].as_str().expect("a job").to_owned();
        server.succeeded(&job).await;
        // Absent means that an older one gives way.
        let again = server.post(&slash("t", "create_index"), body.clone()).await.ok();
        server.succeeded(again["job_id"].as_str().expect("a job")).await;
        let mut refused = body;
        refused["replace"] = json!(false);
        assert_error(&server.post(&slash("t", "create_index"), refused).await, 400, TABLE_INDEX_ALREADY_EXISTS);
        let text = json!({"column": "name", "index_type": "FTS", "base_tokenizer": "ngram",
            "min_ngram_length": 2, "max_ngram_length": 4, "prefix_only": true, "custom_stop_words": null,
            "with_position": false, "language": "English", "max_token_length": 40, "lower_case": true,
            "stem": true, "remove_stop_words": true, "ascii_folding": true, "block_size": 128});
        let begun = server.post(&slash("t", "create_index"), text).await.ok();
        server.succeeded(begun["job_id"].as_str().expect("a job")).await;
        let listed = server.post(&slash("t", "index/list"), json!({"version": null})).await.ok();
        let kinds: Vec<&Value> = listed["indexes"].as_array().expect("indexes").iter().map(|i| &i["index_type"]).collect();
        assert_eq!(kinds, ["BTREE", "FTS"]);
        let stats = server.post(&slash("t", "index/id_idx/stats"), json!({"version": null})).await.ok();
        assert_eq!((&stats["num_indexed_rows"], &stats["num_unindexed_rows"]), (&json!(3), &json!(0)));

        let described = server.post("/v1/jobs/describe", json!({"job_id": job})).await.ok();
        assert_eq!(described["job_state"], "DONE");
        assert_eq!(described["job_type"], "create_index");
        assert_eq!(described["spec"]["column"], "id");
        let jobs = server.post("/v1/jobs/list", json!({"limit": 2})).await.ok();
        assert_eq!(jobs["jobs"].as_array().expect("jobs").len(), 2);
        assert_eq!(jobs["jobs"][0]["table"], "t");
        let token = jobs["page_token"].as_str().expect("a token");
        let rest = server.post("/v1/jobs/list", json!({"page_token": token})).await.ok();
        assert_eq!(rest["jobs"][0]["job_id"], job.as_str());
        assert!(rest.get("page_token").is_none(), "{rest}");
        // There is nothing to cancel any more, which is as well.
        server.post("/v1/jobs/cancel", json!({"job_id": job})).await.ok();
        let still = server.post("/v1/jobs/describe", json!({"job_id": job})).await.ok();
        assert_eq!(still["job_state"], "DONE");
        for unknown in ["nothing", "01900000-0000-7000-8000-000000000000"] {
            let reply = server.post("/v1/jobs/describe", json!({"job_id": unknown})).await;
            assert_error(&reply, 404, TRANSACTION_NOT_FOUND);
        }
        server.post_empty(&slash("t", "index/name_idx/drop")).await.expect(200);
        let listed = server.post(&slash("t", "index/list"), json!({})).await.ok();
        assert_eq!(listed["indexes"].as_array().map(Vec::len), Some(1));
    }
}

everywhere! {
    async fn a_listing_is_one_that_clients_can_read(server: TestServer) {
        for name in ["b", "a", "c"] {
            server.post_arrow(&slash(name, "create"), ipc(&[batch_ab(0..1)])).await.ok();
        }
        server.create_namespace("ns").await;
        server.with_table("ns$inner", 1).await;
        // A name that these clients cannot have makes them refuse the whole listing.
        server.post("/v1/table/no%20name/declare", json!({})).await.ok();
        let all = server.get("/v1/table/").await.ok();
        assert_eq!(all, json!({"tables": ["a", "b", "c"]}));
        let first = server.get("/v1/table/?limit=1").await.ok();
        assert_eq!(first, json!({"tables": ["a"], "page_token": "a"}));
        // The token is a name, of a table or not.
        let rest = server.get("/v1/table/?limit=10&page_token=aa").await.ok();
        assert_eq!(rest, json!({"tables": ["b", "c"]}));
        assert_error(&server.get("/v1/table/?limit=0").await, 400, INVALID_INPUT);
        let listed = server.get("/v1/namespace/$/table/list").await.ok();
        assert_eq!(listed["tables"], json!(["a", "b", "c", "no name"]));
    }
}

everywhere! {
    async fn a_table_is_renamed_and_dropped(server: TestServer) {
        with_t(&server).await;
        server.create_namespace("ns").await;
        for name in ["", "my table", "../db/x"] {
            let reply = server.post(&slash("t", "rename"), json!({"new_table_name": name})).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        server.post(&slash("t", "rename"), json!({"new_table_name": "u"})).await.ok();
        let moved = json!({"new_table_name": "v", "new_namespace": ["ns"]});
        server.post(&slash("u", "rename"), moved).await.ok();
        assert_eq!(server.count("ns$v").await, 3);
        server.post_empty(&slash("ns$v", "drop")).await.ok();
        assert_error(&server.post_empty(&slash("ns$v", "drop")).await, 404, TABLE_NOT_FOUND);
    }
}

both! {
    async fn bodies_of_the_wrong_kind_are_refused(server: TestServer) {
        with_t(&server).await;
        let before = server.snapshot().await;
        for operation in ["describe", "update", "delete", "create_index", "restore", "tags/create",
            "add_columns", "alter_columns", "drop_columns", "update_field_metadata", "rename"]
        {
            let request = server.request(Method::POST, &slash("t", operation)).body("[not json");
            assert_error(&server.send(request).await, 400, INVALID_INPUT);
        }
        for operation in ["create", "insert", "merge_insert?on=id&when_not_matched_insert_all=true"] {
            let (name, query) = operation.split_once('?').unwrap_or((operation, ""));
            let path = format!("{}?{query}", slash("u", name));
            let reply = server.post_arrow(&path, b"no arrow".to_vec()).await;
            assert!((400..500).contains(&reply.status), "{operation}: {}", reply.text());
        }
        let negative = json!({"version": -1});
        assert_error(&server.post(&slash("t", "describe"), negative.clone()).await, 400, INVALID_INPUT);
        assert_error(&server.post(&slash("t", "restore"), negative).await, 400, INVALID_INPUT);
        let timeout = server
            .arrow_request(&format!("{}?on=id&when_not_matched_insert_all=true", slash("t", "merge_insert")))
            .header("x-request-timeout-ms", "soon")
            .body(ipc(&[batch_ab(0..1)]));
        assert_error(&server.send(timeout).await, 400, INVALID_INPUT);
        server.assert_unchanged(&before, "bodies of the wrong kind").await;
    }
}

everywhere! {
    async fn a_declared_table_has_nothing_to_describe(server: TestServer) {
        server.create_namespace("ns").await;
        server.post(&table("ns$d", "declare"), json!({})).await.ok();
        let described = server.post_empty(&slash("ns$d", "describe")).await;
        assert!(described.status == 400 || described.status == 404, "{}", described.text());
        // Its first rows make it, as they do for those who see it only then.
        server.post_arrow(&slash("ns$d", "create"), ipc(&[batch_ab(0..2)])).await.ok();
        assert_eq!(server.post_empty(&slash("ns$d", "describe")).await.ok()["version"], 1);
    }
}

everywhere! {
    /// Its clients could not read the table any more.
    async fn a_type_without_a_word_is_refused(server: TestServer) {
        let field = |name: &str, kind| Arc::new(Field::new(name, kind, name == "values"));
        let entries = DataType::Struct(vec![field("keys", DataType::Utf8), field("values", DataType::Int32)].into());
        let schema = Schema::new(vec![Field::new("m", DataType::Map(field("entries", entries), false), true)]);
        let refused = server.post_arrow(&slash("t", "create"), ipc_without_rows(&schema)).await;
        assert_error(&refused, 400, INVALID_INPUT);
        assert!(refused.text().contains("'m'") && !refused.text().contains(".rs"), "{}", refused.text());
        server.post_arrow("/v1/table/t/create", ipc_without_rows(&schema)).await.ok();
        let described = server.post_empty(&slash("t", "describe")).await;
        assert_error(&described, 501, UNSUPPORTED);
        assert!(!described.text().contains(".rs"), "{}", described.text());
    }
}

both! {
    async fn an_empty_predicate_is_not_every_row(server: TestServer) {
        with_t(&server).await;
        let before = server.snapshot().await;
        let update = json!({"updates": [["id", "0"]], "predicate": " "});
        assert_error(&server.post(&slash("t", "update"), update).await, 400, INVALID_INPUT);
        assert_error(&server.post(&slash("t", "delete"), json!({"predicate": ""})).await, 400, INVALID_INPUT);
        server.assert_unchanged(&before, "empty predicates").await;
    }
}

everywhere! {
    /// Whoever drops a namespace waits for nobody, and what was at its tables then is told so.
    async fn a_table_that_goes_meanwhile_is_no_failure(server: TestServer) {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let again = async {
            for _ in 0..12 {
                let body = json!({"mode": "Overwrite"});
                server.post("/v1/namespace/ns/create", body).await.ok();
                server.post_arrow(&slash("ns$t", "create"), ipc(&[batch_ab(0..50)])).await;
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        };
        let ask = async {
            let mut worst = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for (operation, body) in [
                    ("query", json!({"vector": []})),
                    ("branches/create", json!({"name": "side"})),
                    ("tags/create", json!({"tag": "x", "version": 1})),
                    ("version/list", json!({})),
                    ("update", json!({"updates": [["a", "a + 1"]]})),
                    ("create_index", json!({"column": "a", "index_type": "BTREE"})),
                ] {
                    let reply = server.post(&slash("ns$t", operation), body).await;
                    assert!(reply.status < 500, "{operation}: {}", reply.text());
                    worst = worst.max(reply.status);
                }
            }
            worst
        };
        let (worst, ()) = tokio::join!(ask, again);
        assert!(worst >= 200);
    }
}
