//! DeclareTable, DescribeTable, TableExists, ListTables, ListAllTables, DropTable,
//! DeregisterTable, RenameTable.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::{assert_error, assert_refused, foreign, namespace, table, text};

both! {
    async fn declare_touches_no_storage(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.files();
        let body = json!({"properties": {"owner": "Ralph"}});
        let declared = server.post(&table("ns$t", "declare"), body).await.ok();
        assert_eq!(declared["properties"]["owner"], "Ralph");
        assert!(foreign::folder(&text(&declared, "location")).starts_with(server.lake()));
        assert_eq!(server.files(), before);
        let described = server.post_empty(&table("ns$t", "describe")).await.ok();
        assert_eq!(described["location"], declared["location"]);
        assert_eq!(described["properties"]["owner"], "Ralph");
        assert!(server.exists("ns$t").await);
    }
}

both! {
    /// Whoever asks at the same time as others is told of the table that they asked for.
    async fn many_ask_at_once(server: TestServer) {
        let (mut names, mut locations) = (Vec::new(), Vec::new());
        for number in 0..20 {
            // The same name in two namespaces.
            let name = format!("n{}$t{}", number % 2, number / 2);
            locations.push(Some(server.with_declared(&name).await));
            names.push(name);
        }
        names.extend(["n0$none", "none$t1", "n1$t10"].map(str::to_owned));
        locations.resize(names.len(), None);
        let location = async |name: &String| {
            let reply = server.post_empty(&table(name, "describe")).await;
            (reply.status == 200).then(|| text(&reply.body, "location"))
        };
        for _ in 0..5 {
            let asked = names.iter().chain(&names).map(location);
            assert_eq!(join_all(asked).await, [&locations[..], &locations].concat());
        }
    }
}

everywhere! {
    async fn declare_again_is_refused(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        let again = server.post_empty(&table("ns$t", "declare")).await;
        assert_error(&again, 409, TABLE_ALREADY_EXISTS);
        assert_eq!(server.location("ns$t").await, location);
    }
}

everywhere! {
    async fn a_missing_table_is_404_everywhere(server: TestServer) {
        server.create_namespace("ns").await;
        for operation in [
            "describe",
            "exists",
            "drop",
            "deregister",
            "version/list",
            "count_rows",
        ] {
            let reply = server.post_empty(&table("ns$nope", operation)).await;
            assert_error(&reply, 404, TABLE_NOT_FOUND);
        }
        let version = json!({"version": 1});
        let reply = server
            .post(&table("ns$nope", "version/describe"), version)
            .await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        let rename = json!({"new_table_name": "other"});
        let reply = server.post(&table("ns$nope", "rename"), rename).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        let reply = server
            .post(&table("ns$nope", "query"), json!({"k": 1}))
            .await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        assert_error(
            &server.get(&table("ns$nope", "uploads")).await,
            404,
            TABLE_NOT_FOUND,
        );
        assert_error(
            &server.get(&table("ns$nope", "fragments")).await,
            404,
            TABLE_NOT_FOUND,
        );
        let commit = json!({"operation": "append", "read_version": 1, "fragments": []});
        assert_error(
            &server.commit("ns$nope", commit).await,
            404,
            TABLE_NOT_FOUND,
        );
    }
}

everywhere! {
    async fn exists_answers_without_a_body(server: TestServer) {
        server.with_declared("ns$t").await;
        let reply = server.post_empty(&table("ns$t", "exists")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.raw.is_empty(), "a body: {}", reply.text());
    }
}

everywhere! {
    /// It behaves as describe does, versions included.
    async fn exists_knows_versions(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server
            .post(&table("ns$t", "exists"), json!({"version": 1}))
            .await
            .ok();
        let reply = server
            .post(&table("ns$t", "exists"), json!({"version": 9}))
            .await;
        assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
    }
}

everywhere! {
    async fn describe_in_detail(server: TestServer) {
        server.with_table("ns$t", 10).await;
        server.insert("ns$t", &batch_ab(10..20)).await;
        let from_body = server
            .post(
                &table("ns$t", "describe"),
                json!({"load_detailed_metadata": true}),
            )
            .await
            .ok();
        for described in [server.describe("ns$t").await, from_body] {
            assert_eq!(described["version"], 2, "{described}");
            assert_eq!(described["table"], "t", "{described}");
            assert_eq!(described["namespace"], json!(["ns"]), "{described}");
            assert_eq!(described["stats"]["num_fragments"], 2, "{described}");
            assert_eq!(described["stats"]["num_deleted_rows"], 0, "{described}");
            let fields = described["schema"]["fields"].as_array().expect("fields");
            let names: Vec<&Value> = fields.iter().map(|field| &field["name"]).collect();
            assert_eq!(names, ["a", "b"]);
            assert_eq!(fields[0]["type"]["type"], "int32", "{described}");
            assert_eq!(fields[1]["type"]["type"], "utf8", "{described}");
            assert_eq!(fields[0]["nullable"], true, "{described}");
        }
    }
}

everywhere! {
    /// The reference server counts deleted rows as rows.
    async fn describe_counts_deleted_rows(server: TestServer) {
        let location = server.with_table("ns$t", 10).await;
        foreign::delete(&location, "a < 4").await;
        let described = server.describe("ns$t").await;
        assert_eq!(described["stats"]["num_deleted_rows"], 4, "{described}");
        assert_eq!(described["version"], 2, "{described}");
        assert_eq!(server.count("ns$t").await, 6);
    }
}

everywhere! {
    /// Lance asks for versions by describe; a refusal breaks writers.
    async fn describe_at_a_version(server: TestServer) {
        server.with_table("ns$t", 10).await;
        server.insert("ns$t", &batch_ab(10..20)).await;
        let path = table("ns$t", "describe?load_detailed_metadata=true");
        let first = server.post(&path, json!({"version": 1})).await.ok();
        assert_eq!(first["version"], 1, "{first}");
        assert_eq!(first["stats"]["num_fragments"], 1, "{first}");
        let plain = server
            .post(&table("ns$t", "describe"), json!({"version": 1}))
            .await
            .ok();
        assert!(plain["location"].is_string(), "{plain}");
        for path in [path, table("ns$t", "describe")] {
            let reply = server.post(&path, json!({"version": 99})).await;
            assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        }
        for version in [json!(-1), json!("one"), json!(1.5)] {
            let body = json!({"version": version});
            let reply = server.post(&table("ns$t", "describe"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
    }
}

everywhere! {
    /// Asking for one that is not there must not silently give the newest version of main.
    async fn describe_ignores_neither_tag_nor_branch(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for body in [
            json!({"tag": "nope"}),
            json!({"branch": "nope"}),
            json!({"tag": "nope", "version": 1}),
        ] {
            assert_refused(&server.post(&table("ns$t", "describe"), body).await);
        }
    }
}

both! {
    async fn describe_gives_a_uri_on_request(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let plain = server.post_empty(&table("ns$t", "describe")).await.ok();
        assert!(plain["table_uri"].is_null(), "{plain}");
        let path = table("ns$t", "describe?with_table_uri=true");
        let by_query = server.post_empty(&path).await.ok();
        let body = json!({"with_table_uri": true});
        let by_body = server.post(&table("ns$t", "describe"), body).await.ok();
        for described in [by_query, by_body] {
            let uri = text(&described, "table_uri");
            assert!(uri.contains("://"), "{uri} is no whole URI");
            let location = text(&described, "location");
            let folder = foreign::folder(&location);
            assert!(
                uri.ends_with(&folder.display().to_string()),
                "{uri} and {location}"
            );
        }
    }
}

everywhere! {
    async fn describe_tells_declared_from_created(server: TestServer) {
        server.with_declared("ns$declared").await;
        server.with_table("ns$created", 1).await;
        for (id, only_declared) in [("ns$declared", true), ("ns$created", false)] {
            let path = table(id, "describe?check_declared=true");
            let by_query = server.post_empty(&path).await.ok();
            let body = json!({"check_declared": true});
            let by_body = server.post(&table(id, "describe"), body).await.ok();
            assert_eq!(
                by_query["is_only_declared"], only_declared,
                "{id}: {by_query}"
            );
            assert_eq!(
                by_body["is_only_declared"], only_declared,
                "{id}: {by_body}"
            );
        }
        let plain = server
            .post_empty(&table("ns$declared", "describe"))
            .await
            .ok();
        assert!(plain["is_only_declared"].is_null(), "{plain}");
    }
}

everywhere! {
    async fn describe_refuses_flags_that_are_none(server: TestServer) {
        server.with_table("ns$t", 1).await;
        for flag in ["with_table_uri", "load_detailed_metadata", "check_declared"] {
            let path = table("ns$t", &format!("describe?{flag}=perhaps"));
            assert_error(&server.post_empty(&path).await, 400, INVALID_INPUT);
        }
    }
}

everywhere! {
    async fn list_with_and_without_the_declared(server: TestServer) {
        server.with_declared("ns$b_declared").await;
        server.with_table("ns$a_created", 1).await;
        server.create_namespace("ns$child").await;
        server.with_table("ns$child$deeper", 1).await;
        let list = namespace("ns", "table/list");
        assert_eq!(
            server.names(&list, "tables").await,
            ["a_created", "b_declared"]
        );
        let path = format!("{list}?include_declared=true");
        assert_eq!(
            server.names(&path, "tables").await,
            ["a_created", "b_declared"]
        );
        let path = format!("{list}?include_declared=false");
        assert_eq!(server.names(&path, "tables").await, ["a_created"]);
    }
}

everywhere! {
    async fn list_all_gives_whole_identifiers(server: TestServer) {
        server.with_declared("ns$declared").await;
        server.with_table("ns$t", 1).await;
        server.create_namespace("ns$child").await;
        server.with_table("ns$child$t", 1).await;
        let mut all = server.names("/v1/table", "tables").await;
        all.sort();
        assert_eq!(all, ["ns$child$t", "ns$declared", "ns$t"]);
        let mut dotted = server.names("/v1/table?delimiter=.", "tables").await;
        dotted.sort();
        assert_eq!(dotted, ["ns.child.t", "ns.declared", "ns.t"]);
        let mut created = server
            .names("/v1/table?include_declared=false", "tables")
            .await;
        created.sort();
        assert_eq!(created, ["ns$child$t", "ns$t"]);
    }
}

both! {
    async fn drop_deletes_the_files(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.files();
        let location = server.with_table("ns$t", 10).await;
        assert_ne!(server.files(), before);
        let dropped = server.post_empty(&table("ns$t", "drop")).await.ok();
        assert_eq!(dropped["location"], json!(location));
        assert_eq!(dropped["id"], json!(["ns", "t"]));
        server.assert_files(&before, "a dropped table").await;
        for operation in ["describe", "drop"] {
            let reply = server.post_empty(&table("ns$t", operation)).await;
            assert_error(&reply, 404, TABLE_NOT_FOUND);
        }
        assert!(server.names("/v1/table", "tables").await.is_empty());
    }
}

everywhere! {
    /// A table of a similar name, or one that is only declared, is nobody else's business.
    async fn drop_leaves_the_neighbours_alone(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_table("ns$t2", 4).await;
        server.with_declared("ns$d").await;
        server.post_empty(&table("ns$d", "drop")).await.ok();
        server.post_empty(&table("ns$t", "drop")).await.ok();
        assert_eq!(server.count("ns$t2").await, 4);
        assert_eq!(server.names("/v1/table", "tables").await, ["ns$t2"]);
    }
}

both! {
    async fn deregister_keeps_the_files_and_register_brings_them_back(server: TestServer) {
        let location = server.with_table("ns$t", 10).await;
        let before = server.files();
        let gone = server.post_empty(&table("ns$t", "deregister")).await.ok();
        assert_eq!(gone["location"], json!(location));
        assert_eq!(gone["id"], json!(["ns", "t"]));
        assert!(!server.exists("ns$t").await);
        assert_eq!(server.files(), before);
        let body = json!({"location": location, "properties": {"back": "yes"}});
        let registered = server.post(&table("ns$u", "register"), body).await.ok();
        assert_eq!(registered["properties"]["back"], "yes");
        assert_eq!(server.values("ns$u").await, (0..10).collect::<Vec<_>>());
        server.insert("ns$u", &batch_ab(10..11)).await;
        assert_eq!(server.versions("ns$u").await, [1, 2]);
    }
}

both! {
    async fn rename_is_only_a_new_name(server: TestServer) {
        let location = server.with_table("ns$t", 10).await;
        let before = server.files();
        let body = json!({"new_table_name": "u"});
        server.post(&table("ns$t", "rename"), body).await.ok();
        let reply = server.post_empty(&table("ns$t", "describe")).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        assert_eq!(server.location("ns$u").await, location);
        assert_eq!(server.files(), before, "a rename moves no file");
        assert_eq!(server.count("ns$u").await, 10);
        server.insert("ns$u", &batch_ab(10..12)).await;
        assert_eq!(server.versions("ns$u").await, [1, 2]);
        assert_eq!(foreign::values(&location).await.len(), 12);
    }
}

everywhere! {
    async fn rename_into_another_namespace(server: TestServer) {
        let location = server.with_table("ns$t", 10).await;
        server.create_namespace("other").await;
        server.create_namespace("other$deep").await;
        let body = json!({"new_table_name": "moved", "new_namespace_id": ["other", "deep"]});
        server.post(&table("ns$t", "rename"), body).await.ok();
        assert_eq!(
            server.names("/v1/table", "tables").await,
            ["other$deep$moved"]
        );
        assert_eq!(server.location("other$deep$moved").await, location);
        assert_eq!(
            server.values("other$deep$moved").await,
            (0..10).collect::<Vec<_>>()
        );
        server.post_empty("/v1/namespace/ns/drop").await.ok();
    }
}

both! {
    async fn rename_that_cannot_be_changes_nothing(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_table("ns$taken", 4).await;
        let before = server.snapshot().await;
        let path = table("ns$t", "rename");
        let taken = json!({"new_table_name": "taken"});
        assert_error(&server.post(&path, taken).await, 409, TABLE_ALREADY_EXISTS);
        let nowhere = json!({"new_table_name": "u", "new_namespace_id": ["nope"]});
        assert_error(&server.post(&path, nowhere).await, 404, NAMESPACE_NOT_FOUND);
        let long = "x".repeat(10_000);
        for name in ["", "..", "a\u{0}b", long.as_str()] {
            let body = json!({"new_table_name": name});
            assert_error(&server.post(&path, body).await, 400, INVALID_INPUT);
            let body = json!({"new_table_name": "u", "new_namespace_id": [name]});
            assert_error(&server.post(&path, body).await, 400, INVALID_INPUT);
        }
        for body in [
            json!({}),
            json!({"new_table_name": null}),
            json!({"new_table_name": 5}),
        ] {
            assert_error(&server.post(&path, body).await, 400, INVALID_INPUT);
        }
        server.assert_unchanged(&before, "failed renames").await;
        assert_eq!(server.count("ns$t").await, 3);
        assert_eq!(server.count("ns$taken").await, 4);
    }
}

everywhere! {
    /// What is made under an old name never meets the old files.
    async fn an_old_name_gets_a_new_place(server: TestServer) {
        let first = server.with_table("ns$t", 10).await;
        let body = json!({"new_table_name": "u"});
        server.post(&table("ns$t", "rename"), body).await.ok();
        let second = server.with_declared("ns$t").await;
        assert_ne!(first, second, "after a rename");
        assert!(server.versions("ns$t").await.is_empty());
        server.insert("ns$t", &batch_ab(50..53)).await;
        assert_eq!(server.values("ns$t").await, [50, 51, 52]);
        assert_eq!(server.count("ns$u").await, 10);

        server.post_empty(&table("ns$t", "drop")).await.ok();
        let third = server.with_declared("ns$t").await;
        assert!(third != first && third != second, "after a drop");
        assert_eq!(server.count("ns$u").await, 10);

        server.post_empty(&table("ns$u", "deregister")).await.ok();
        let fourth = server.with_declared("ns$u").await;
        assert_ne!(fourth, first, "after deregistering");
        assert_eq!(foreign::values(&first).await.len(), 10);
    }
}
