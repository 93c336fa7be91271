//! CommitTable: operations, version checks, bad input, idempotency.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::batches::{batch, batch_ab, ints, texts};
use crate::support::code::*;
use crate::support::{
    Reply, TestServer, assert_error, assert_error_in, assert_refused, foreign, table, text,
};

const MISFIT: [u64; 2] = [INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR];

fn append_of(read_version: u64, upload: &Value) -> Value {
    let uploads = [&upload["upload_id"]];
    json!({"operation": "append", "read_version": read_version, "uploads": uploads})
}

async fn commit_with_key(server: &TestServer, id: &str, key: &str, body: &Value) -> Reply {
    let request = server
        .request(Method::POST, &table(id, "commit"))
        .header("idempotency-key", key)
        .json(body);
    server.send(request).await
}

everywhere! {
    async fn append_by_upload(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let upload = server.upload("ns$t", &batch_ab(3..5)).await;
        let done = server.commit("ns$t", append_of(1, &upload)).await.ok();
        assert_eq!(done["version"], 2, "{done}");
        assert_eq!(done["read_version"], 1, "{done}");
        assert_eq!(done["rebased"], false, "{done}");
        assert!(done["num_rows"].is_u64(), "{done}");
        assert!(!text(&done, "transaction_id").is_empty(), "{done}");
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
    }
}

everywhere! {
    /// Explicit nulls, as pylance writes them, are fine.
    async fn append_by_bare_fragments(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let upload = server.upload("ns$t", &batch_ab(3..5)).await;
        let mut fragment = upload["fragments"][0].clone();
        for field in [
            "deletion_file",
            "row_id_meta",
            "created_at_version_meta",
            "last_updated_at_version_meta",
        ] {
            fragment[field] = Value::Null;
        }
        fragment["files"][0]["base_id"] = Value::Null;
        let body = json!({"operation": "append", "read_version": 1, "fragments": [fragment]});
        assert_eq!(server.commit("ns$t", body).await.ok()["version"], 2);
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
    }
}

everywhere! {
    async fn append_by_uploads_and_fragments_together(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let first = server.upload("ns$t", &batch_ab(1..3)).await;
        let second = server.upload("ns$t", &batch_ab(3..5)).await;
        let third = server.upload("ns$t", &batch_ab(5..7)).await;
        let body = json!({
            "operation": "append", "read_version": 1, "fragments": third["fragments"],
            "uploads": [first["upload_id"], second["upload_id"]],
            "coalesce": false, "branch": null, "properties": {"k": "v"}, "on_conflict": "rebase",
        });
        assert_eq!(server.commit("ns$t", body).await.ok()["version"], 2);
        assert_eq!(foreign::values(&location).await, (0..7).collect::<Vec<_>>());
    }
}

everywhere! {
    async fn overwrite_by_bare_fragments_needs_the_schema(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let other = batch(&[("a", ints(8..9)), ("z", texts(8..9))]);
        let upload = server
            .upload_to(&table("ns$t", "fragments?mode=overwrite"), &other)
            .await;
        let mut body = json!({
            "operation": "overwrite", "read_version": 1, "fragments": upload["fragments"],
        });
        assert_error_in(&server.commit("ns$t", body.clone()).await, 400, &MISFIT);
        assert_eq!(foreign::values(&location).await, [0, 1, 2]);
        body["schema"] = upload["schema"].clone();
        server.commit("ns$t", body).await.ok();
        assert_eq!(foreign::values(&location).await, [8]);
        assert_eq!(
            server.describe("ns$t").await["schema"]["fields"][1]["name"],
            "z"
        );
    }
}

everywhere! {
    async fn the_first_version_of_a_declared_table(server: TestServer) {
        for operation in ["overwrite", "append"] {
            let location = server.with_declared("ns$t").await;
            let upload = server.upload("ns$t", &batch_ab(0..3)).await;
            let mut body = append_of(0, &upload);
            body["operation"] = json!(operation);
            let reply = server.commit("ns$t", body).await;
            // An append to what has no version yet is either its first version or refused.
            if operation == "overwrite" || reply.status == 200 {
                assert_eq!(reply.ok()["version"], 1);
                assert_eq!(foreign::values(&location).await, [0, 1, 2]);
            } else {
                assert_refused(&reply);
            }
            server.post_empty(&table("ns$t", "drop")).await.ok();
        }
    }
}

everywhere! {
    async fn a_stale_append_is_rebased(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let upload = server.upload("ns$t", &batch_ab(3..4)).await;
        server.insert("ns$t", &batch_ab(1..2)).await;
        server.insert("ns$t", &batch_ab(2..3)).await;
        let done = server.commit("ns$t", append_of(1, &upload)).await.ok();
        assert_eq!(done["version"], 4, "{done}");
        assert_eq!(done["read_version"], 1, "{done}");
        assert_eq!(done["rebased"], true, "{done}");
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3]);
    }
}

everywhere! {
    /// A refusal says what is current, what won, and whether to try again.
    async fn a_stale_strict_commit_is_refused(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.insert("ns$t", &batch_ab(1..2)).await;
        let upload = server.upload("ns$t", &batch_ab(3..4)).await;
        let mut body = append_of(1, &upload);
        body["on_conflict"] = json!("fail");
        let reply = server.commit("ns$t", body.clone()).await;
        assert_error(&reply, 409, CONCURRENT_MODIFICATION);
        assert_eq!(reply.body["current_version"], 2, "{}", reply.text());
        assert!(
            !text(&reply.body, "conflicting_operation").is_empty(),
            "{}",
            reply.text()
        );
        assert!(reply.body["retryable"].is_boolean(), "{}", reply.text());
        assert_eq!(server.values("ns$t").await, [0, 1]);
        // The upload is still there for a commit that knows the version.
        body["read_version"] = json!(2);
        let done = server.commit("ns$t", body).await.ok();
        assert_eq!(done["version"], 3, "{done}");
        assert_eq!(done["rebased"], false, "{done}");
        assert_eq!(server.values("ns$t").await, [0, 1, 3]);
    }
}

everywhere! {
    /// An append cannot survive an overwrite that changed the schema under it.
    async fn an_append_over_another_schema_is_refused(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let upload = server.upload("ns$t", &batch_ab(1..2)).await;
        foreign::overwrite(&location, batch(&[("other", ints(0..4))])).await;
        let reply = server.commit("ns$t", append_of(1, &upload)).await;
        assert_refused(&reply);
        assert_eq!(server.count("ns$t").await, 4);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
    }
}

both! {
    async fn wrong_input_changes_nothing(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.with_table("ns$other", 1).await;
        let upload = server.upload("ns$t", &batch_ab(1..2)).await;
        let others = server.upload("ns$other", &batch_ab(1..2)).await;
        let unknown = json!(uuid::Uuid::new_v4().to_string());
        let good = append_of(1, &upload);
        let with = |field: &str, value: Value| {
            let mut body = good.clone();
            body[field] = value;
            body
        };
        let mut no_version = good.clone();
        no_version
            .as_object_mut()
            .expect("an object")
            .remove("read_version");
        let before = server.snapshot().await;
        for (what, body) in [
            ("no read_version", no_version),
            ("a read_version of null", with("read_version", Value::Null)),
            ("a negative read_version", with("read_version", json!(-1))),
            ("a read_version of text", with("read_version", json!("1"))),
            ("an unknown operation", with("operation", json!("replace"))),
            ("no operation", with("operation", Value::Null)),
            (
                "an unknown on_conflict",
                with("on_conflict", json!("shrug")),
            ),
            ("an unknown upload", with("uploads", json!([unknown]))),
            (
                "a known and an unknown upload",
                with("uploads", json!([upload["upload_id"], unknown])),
            ),
            (
                "another table's upload",
                with("uploads", json!([others["upload_id"]])),
            ),
            ("an upload that is no id", with("uploads", json!(["../x"]))),
            ("uploads that are no list", with("uploads", json!("x"))),
            (
                "fragments that are none",
                with("fragments", json!([{"id": "x"}])),
            ),
            (
                "properties that are no text",
                with("properties", json!({"k": 1})),
            ),
            ("columns that are none", with("operation", json!("merge"))),
        ] {
            let reply = server.commit("ns$t", body).await;
            assert_eq!(reply.status, 400, "{what}: {}", reply.text());
            assert_error_in(&reply, 400, &MISFIT);
            server.assert_unchanged(&before, what).await;
            assert_eq!(server.versions("ns$t").await, [1], "{what}");
        }
        server.commit("ns$t", good).await.ok();
        assert_eq!(server.values("ns$t").await, [0, 1]);
    }
}

everywhere! {
    async fn a_version_or_branch_that_is_not_there_is_refused(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let upload = server.upload("ns$t", &batch_ab(1..2)).await;
        for version in [json!(9), json!(i64::MAX), json!(u64::MAX)] {
            let mut body = append_of(1, &upload);
            body["read_version"] = version;
            assert_refused(&server.commit("ns$t", body).await);
        }
        let mut body = append_of(1, &upload);
        body["branch"] = json!("nope");
        assert_refused(&server.commit("ns$t", body).await);
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(server.count("ns$t").await, 1);
    }
}

both! {
    /// A fragment may name only files that are there, in the table's own data folder, of the size
    /// that it says.
    async fn fragments_that_name_other_files_are_refused(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let other = server.with_table("ns$other", 1).await;
        let victim = server.get(&table("ns$other", "fragments")).await.ok();
        let victims_file = text(&victim["fragments"][0]["files"][0], "path");
        let victims_path = foreign::folder(&other).join("data").join(&victims_file);
        let secret = server.home().join("secret.lance");
        std::fs::copy(&victims_path, &secret).expect("a copy outside the lake");
        let upload = server.upload("ns$t", &batch_ab(1..2)).await;
        let good = text(&upload["fragments"][0]["files"][0], "path");
        let up = |levels: usize| "../".repeat(levels);
        let other_folder = foreign::folder(&other);
        let other_name = other_folder
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let before = server.snapshot().await;
        for path in [
            format!("{}{other_name}/data/{victims_file}", up(2)),
            format!("{}{}", up(12), secret.display()),
            format!("{}{}", up(12), victims_path.display()),
            victims_path.display().to_string(),
            format!("file://{}", victims_path.display()),
            format!("../data/{good}"),
            format!("./../data/{good}"),
            format!("x/../{good}"),
            format!("%2e%2e/data/{good}"),
            victims_file.clone(),
            "missing.lance".to_string(),
            String::new(),
            ".".to_string(),
            "..".to_string(),
            format!("{good}\u{0}"),
        ] {
            let mut fragment = upload["fragments"][0].clone();
            fragment["files"][0]["path"] = json!(path);
            let body = json!({"operation": "append", "read_version": 1, "fragments": [fragment]});
            let reply = server.commit("ns$t", body).await;
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
            assert_error_in(&reply, 400, &MISFIT);
            server.assert_unchanged(&before, &path).await;
        }
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(foreign::values(&location).await, [0]);
        assert_eq!(server.values("ns$other").await, [0]);
    }
}

everywhere! {
    async fn fragments_that_do_not_match_their_files_are_refused(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let upload = server.upload("ns$t", &batch_ab(1..4)).await;
        let size = upload["fragments"][0]["files"][0]["file_size_bytes"].as_u64();
        let size = size.expect("the size of the file");
        let other = batch(&[("z", ints(0..3))]);
        let misfit = server
            .upload_to(&table("ns$t", "fragments?mode=overwrite"), &other)
            .await;
        let bent = |field: &str, value: Value| {
            let mut fragment = upload["fragments"][0].clone();
            fragment["files"][0][field] = value;
            fragment
        };
        for (what, fragment) in [
            ("a size too large", bent("file_size_bytes", json!(size + 1))),
            ("a size too small", bent("file_size_bytes", json!(1))),
            ("a base that is not there", bent("base_id", json!(7))),
            (
                "fields that are not in the table",
                bent("fields", json!([70, 71])),
            ),
            ("another schema", misfit["fragments"][0].clone()),
        ] {
            let body = json!({"operation": "append", "read_version": 1, "fragments": [fragment]});
            let reply = server.commit("ns$t", body).await;
            assert_eq!(reply.status, 400, "{what}: {}", reply.text());
            assert_error_in(&reply, 400, &MISFIT);
            assert_eq!(server.versions("ns$t").await, [1], "{what}");
        }
        assert_eq!(server.values("ns$t").await, [0]);
    }
}

everywhere! {
    /// What is committed once cannot be committed again.
    async fn an_upload_lands_once(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let upload = server.upload("ns$t", &batch_ab(1..3)).await;
        server.commit("ns$t", append_of(1, &upload)).await.ok();
        assert_refused(&server.commit("ns$t", append_of(2, &upload)).await);
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

everywhere! {
    /// Named twice in one commit it is one mistake or one upload, never twice the rows.
    async fn an_upload_named_twice_does_not_land_twice(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let upload = server.upload("ns$t", &batch_ab(1..2)).await;
        let mut body = append_of(1, &upload);
        body["uploads"] = json!([upload["upload_id"], upload["upload_id"]]);
        let reply = server.commit("ns$t", body).await;
        if reply.status == 200 {
            assert_eq!(server.values("ns$t").await, [0, 1]);
        } else {
            assert_refused(&reply);
            assert_eq!(server.values("ns$t").await, [0]);
        }
    }
}

everywhere! {
    async fn a_key_makes_a_retry_harmless(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let upload = server.upload("ns$t", &batch_ab(1..3)).await;
        let body = append_of(1, &upload);
        let first = commit_with_key(&server, "ns$t", "key-1", &body).await.ok();
        assert_eq!(first["version"], 2);
        server.insert("ns$t", &batch_ab(3..4)).await;
        for _ in 0..3 {
            let again = commit_with_key(&server, "ns$t", "key-1", &body).await.ok();
            assert_eq!(again, first, "the first answer, whatever happened since");
        }
        assert_eq!(server.versions("ns$t").await, [1, 2, 3]);
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3]);
    }
}

everywhere! {
    async fn a_key_belongs_to_its_body(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let first = server.upload("ns$t", &batch_ab(1..2)).await;
        let second = server.upload("ns$t", &batch_ab(2..3)).await;
        commit_with_key(&server, "ns$t", "key-1", &append_of(1, &first))
            .await
            .ok();
        let reply = commit_with_key(&server, "ns$t", "key-1", &append_of(2, &second)).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert_eq!(server.values("ns$t").await, [0, 1]);
        commit_with_key(&server, "ns$t", "key-2", &append_of(2, &second))
            .await
            .ok();
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

everywhere! {
    /// The answer is remembered by the catalog, not by the process.
    async fn a_key_outlives_a_restart(server: TestServer) {
        let mut server = server;
        server.with_table("ns$t", 1).await;
        let upload = server.upload("ns$t", &batch_ab(1..3)).await;
        let body = append_of(1, &upload);
        let first = commit_with_key(&server, "ns$t", "key-1", &body).await.ok();
        server.restart().await;
        let again = commit_with_key(&server, "ns$t", "key-1", &body).await.ok();
        assert_eq!(again, first);
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

everywhere! {
    async fn every_commit_has_its_own_transaction(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let first = server.append("ns$t", 1, &batch_ab(1..2)).await;
        let second = server.append("ns$t", 2, &batch_ab(2..3)).await;
        assert_ne!(
            text(&first, "transaction_id"),
            text(&second, "transaction_id")
        );
    }
}
