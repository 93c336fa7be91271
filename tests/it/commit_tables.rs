//! CommitTables: commits to several tables in one request are all there or not at all.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::batches::{batch, batch_a, batch_ab, ints, texts};
use crate::support::code::*;
use crate::support::staging::staging;
use crate::support::{Reply, TestServer, assert_error, foreign, table, text};

const COMMIT: &str = "/v1/commit";

pub async fn commit(server: &TestServer, commits: &[Value]) -> Reply {
    server.post(COMMIT, json!({"commits": commits})).await
}

async fn commit_with_key(server: &TestServer, key: &str, body: &Value) -> Reply {
    let request = server.request(Method::POST, COMMIT).header("idempotency-key", key).json(body);
    server.send(request).await
}

/// An entry that appends uploads to `ns$NAME`.
pub fn append(name: &str, read_version: u64, uploads: &[&Value]) -> Value {
    let uploads: Vec<&Value> = uploads.iter().map(|upload| &upload["upload_id"]).collect();
    json!({
        "id": ["ns", name], "operation": "append", "read_version": read_version, "uploads": uploads,
    })
}

fn with(entry: &Value, field: &str, value: Value) -> Value {
    let mut entry = entry.clone();
    entry[field] = value;
    entry
}

/// The uploads that a table lists.
async fn uploads(server: &TestServer, id: &str) -> usize {
    let listed = server.get(&table(id, "uploads")).await.ok();
    listed["uploads"].as_array().expect("uploads").len()
}

async fn newest(server: &TestServer, id: &str) -> Value {
    let path = table(id, "version/list?descending=true&limit=1");
    server.post_empty(&path).await.ok()["versions"][0].take()
}

everywhere! {
    async fn every_operation_in_one_request(server: TestServer) {
        let a = server.with_table("ns$a", 2).await;
        let b = server.with_table("ns$b", 2).await;
        let c = server.with_table("ns$c", 2).await;
        let d = server.with_declared("ns$d").await;
        let e = server.with_declared("ns$e").await;
        let of_a = server.upload("ns$a", &batch_ab(2..5)).await;
        let path = table("ns$b", "fragments?mode=overwrite");
        let of_b = server.upload_to(&path, &batch(&[("a", ints(7..9)), ("z", texts(7..9))])).await;
        let path = table("ns$c", "fragments/0/columns?read_version=1");
        let of_c = server.upload_to(&path, &batch(&[("x", ints(5..7))])).await;
        let of_d = server.upload("ns$d", &batch_ab(0..4)).await;
        let of_e = server.upload("ns$e", &batch_ab(0..1)).await;
        let fragments = json!({
            "id": ["ns", "a"], "operation": "append", "read_version": 1,
            "fragments": of_a["fragments"], "properties": {"by": "me"}, "coalesce": true,
        });
        let commits = [
            with(&append("e", 0, &[&of_e]), "operation", json!("overwrite")),
            fragments,
            with(&append("b", 1, &[&of_b]), "operation", json!("overwrite")),
            with(&append("c", 1, &[&of_c]), "operation", json!("merge")),
            append("d", 0, &[&of_d]),
        ];
        let done = commit(&server, &commits).await.ok();
        let expected = json!([
            {"id": ["ns", "e"], "version": 1, "read_version": 0, "rebased": false, "num_rows": 1},
            {"id": ["ns", "a"], "version": 2, "read_version": 1, "rebased": false, "num_rows": 5},
            {"id": ["ns", "b"], "version": 2, "read_version": 1, "rebased": false, "num_rows": 2},
            {"id": ["ns", "c"], "version": 2, "read_version": 1, "rebased": false, "num_rows": 2},
            {"id": ["ns", "d"], "version": 1, "read_version": 0, "rebased": false, "num_rows": 4},
        ]);
        assert_eq!(done["commits"], expected, "{done}");
        assert_eq!(foreign::values(&a).await, [0, 1, 2, 3, 4]);
        assert_eq!(foreign::values(&b).await, [7, 8]);
        assert_eq!(server.values_of("ns$c", "x").await, [5, 6]);
        assert_eq!(foreign::values(&d).await, [0, 1, 2, 3]);
        assert_eq!(server.values("ns$e").await, [0]);
        for (id, location, operation) in [
            ("ns$a", &a, "Append"),
            ("ns$b", &b, "Overwrite"),
            ("ns$c", &c, "Merge"),
            ("ns$d", &d, "Overwrite"),
            ("ns$e", &e, "Overwrite"),
        ] {
            assert!(staging(location).is_empty(), "{id}");
            assert_eq!(uploads(&server, id).await, 0, "{id}");
            let version = newest(&server, id).await;
            assert_eq!(version["metadata"]["operation"], operation, "{id}: {version}");
            assert!(!text(&version["metadata"], "committed_by").is_empty(), "{id}: {version}");
            let by = &version["metadata"]["by"];
            assert_eq!(*by == "me", id == "ns$a", "{id}: {version}");
            // Each goes on by itself.
            server.post(&table(id, "delete"), json!({"predicate": "a = 0"})).await.ok();
        }
        let path = format!("/v1/transaction/{}/describe", text(&done, "transaction_id"));
        let described = server.post(&path, json!({})).await.ok();
        assert_eq!(described["status"], "Succeeded", "{described}");
        assert_eq!(described["properties"]["kind"], "batch", "{described}");
        // What was committed once is not committed again.
        let again = [append("d", 1, &[&of_d]), append("e", 1, &[])];
        assert_error(&commit(&server, &again).await, 400, INVALID_INPUT);
        assert_error(&commit(&server, &again[..1]).await, 400, INVALID_INPUT);
        let again = with(&commits[1], "read_version", json!(2));
        assert_error(&commit(&server, &[again]).await, 400, INVALID_INPUT);
        assert_eq!(server.count("ns$a").await, 4);
    }
}

both! {
    /// Wherever the wrong entry stands, none of the others is done; the answer says which it was.
    async fn one_wrong_entry_refuses_all(server: TestServer) {
        server.with_table("ns$a", 1).await;
        server.with_table("ns$b", 1).await;
        server.with_declared("ns$d").await;
        server.with_table("ns$x", 1).await;
        server.insert("ns$x", &batch_ab(1..2)).await;
        let of_a = server.upload("ns$a", &batch_ab(1..2)).await;
        let of_b = server.upload("ns$b", &batch_ab(1..2)).await;
        let of_d = server.upload("ns$d", &batch_ab(1..2)).await;
        let of_x = server.upload("ns$x", &batch_ab(2..3)).await;
        let path = table("ns$x", "fragments?mode=overwrite");
        let misfit = server.upload_to(&path, &batch(&[("other", ints(0..1))])).await;
        let path = table("ns$x", "fragments/0/columns?read_version=1");
        let columns = server.upload_to(&path, &batch(&[("y", ints(0..1))])).await;
        let good = append("x", 2, &[&of_x]);
        let mut nameless = good.clone();
        nameless.as_object_mut().expect("an object").remove("id");
        let mut bare = with(&good, "fragments", misfit["fragments"].clone());
        bare.as_object_mut().expect("an object").remove("uploads");
        let stale = with(&append("x", 1, &[&of_x]), "on_conflict", json!("fail"));
        let bad = [
            (with(&good, "id", json!(["ns", "nope"])), 404, TABLE_NOT_FOUND),
            (with(&good, "id", json!([])), 400, INVALID_INPUT),
            (nameless, 400, INVALID_INPUT),
            (with(&good, "branch", json!("nope")), 404, TABLE_BRANCH_NOT_FOUND),
            (with(&good, "branch", json!("../x")), 400, INVALID_INPUT),
            (with(&good, "operation", json!("replace")), 400, INVALID_INPUT),
            (with(&good, "on_conflict", json!("shrug")), 400, INVALID_INPUT),
            (with(&good, "read_version", json!(3)), 400, INVALID_INPUT),
            (with(&good, "uploads", json!([])), 400, INVALID_INPUT),
            (with(&good, "uploads", json!(["../x"])), 400, INVALID_INPUT),
            (append("x", 2, &[&of_a]), 400, INVALID_INPUT),
            (append("x", 2, &[&of_x, &of_x]), 400, INVALID_INPUT),
            (append("x", 2, &[&columns]), 400, INVALID_INPUT),
            (append("x", 2, &[&misfit]), 400, TABLE_SCHEMA_VALIDATION_ERROR),
            (bare, 400, TABLE_SCHEMA_VALIDATION_ERROR),
            (append("a", 1, &[&of_a]), 400, INVALID_INPUT),
            (stale, 409, CONCURRENT_MODIFICATION),
            (
                with(&append("x", 0, &[&of_x]), "operation", json!("overwrite")),
                409,
                CONCURRENT_MODIFICATION,
            ),
            (
                with(&append("x", 1, &[&columns]), "operation", json!("merge")),
                409,
                CONCURRENT_MODIFICATION,
            ),
        ];
        let rest =
            [append("a", 1, &[&of_a]), append("b", 1, &[&of_b]), append("d", 0, &[&of_d])];
        let before = server.snapshot().await;
        for (number, (entry, status, code)) in bad.iter().enumerate() {
            let at = number % 4;
            let mut commits = rest.to_vec();
            commits.insert(at, entry.clone());
            let reply = commit(&server, &commits).await;
            assert_error(&reply, *status, *code);
            // Of two that name one table the second is the one too many.
            let at = if entry["id"][1] == "a" { at.max(1) } else { at };
            assert_eq!(reply.body["index"], at, "{}", reply.text());
            if *status == 409 {
                assert_eq!(reply.body["current_version"], 2, "{}", reply.text());
                let winner = if entry["read_version"] == 0 { "Overwrite" } else { "Append" };
                assert_eq!(reply.body["conflicting_operation"], winner, "{}", reply.text());
                assert!(reply.body["retryable"].is_boolean(), "{}", reply.text());
            }
        }
        server.assert_unchanged(&before, "commits to tables that are wrong").await;
        for (id, version) in [("ns$a", 1), ("ns$b", 1), ("ns$x", 2)] {
            assert_eq!(newest(&server, id).await["version"], version, "{id}");
        }
        let mut commits = rest.to_vec();
        commits.push(good);
        commit(&server, &commits).await.ok();
        assert_eq!(server.values("ns$x").await, [0, 1, 2]);
        assert_eq!(server.values("ns$d").await, [1]);
    }
}

both! {
    async fn bodies_that_are_no_commits(server: TestServer) {
        server.with_table("ns$a", 1).await;
        let upload = server.upload("ns$a", &batch_ab(1..2)).await;
        let good = append("a", 1, &[&upload]);
        let before = server.snapshot().await;
        for body in [
            json!({}),
            json!([good]),
            json!({"commits": null}),
            json!({"commits": []}),
            json!({"commits": good}),
            json!({"commits": [null]}),
            json!({"commits": [[]]}),
            json!({"commits": [good, "x"]}),
            json!({"commits": [with(&good, "read_version", Value::Null)]}),
            json!({"commits": [with(&good, "read_version", json!(-1))]}),
            json!({"commits": [with(&good, "properties", json!({"k": 1}))]}),
            json!({"commits": vec![good.clone(); 1_001]}),
            json!({"commits": vec![good.clone(); 2]}),
        ] {
            assert_error(&server.post(COMMIT, body).await, 400, INVALID_INPUT);
        }
        let long = "k".repeat(300);
        for key in ["", &long] {
            let reply = commit_with_key(&server, key, &json!({"commits": [good]})).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        server.assert_unchanged(&before, "bodies that are no commits").await;
        commit(&server, &[good]).await.ok();
    }
}

everywhere! {
    async fn what_others_did_meanwhile_is_no_hindrance(server: TestServer) {
        let a = server.with_table("ns$a", 1).await;
        server.with_table("ns$b", 1).await;
        let of_a = server.upload("ns$a", &batch_ab(7..8)).await;
        let of_b = server.upload("ns$b", &batch_ab(7..8)).await;
        server.insert("ns$a", &batch_ab(1..2)).await;
        foreign::append(&a, batch_ab(2..3)).await;
        let commits = [append("a", 1, &[&of_a]), append("b", 1, &[&of_b])];
        let done = commit(&server, &commits).await.ok();
        assert_eq!(done["commits"][0]["version"], 4, "{done}");
        assert_eq!(done["commits"][0]["read_version"], 1, "{done}");
        assert_eq!(done["commits"][0]["rebased"], true, "{done}");
        assert_eq!(done["commits"][1]["rebased"], false, "{done}");
        assert_eq!(server.values("ns$a").await, [0, 1, 2, 7]);
        assert_eq!(foreign::values(&a).await, [0, 1, 2, 7]);
        assert_eq!(server.versions("ns$a").await, [1, 2, 3, 4]);
        // An append does not survive that the columns became others.
        let of_a = server.upload("ns$a", &batch_ab(8..9)).await;
        let of_b = server.upload("ns$b", &batch_ab(8..9)).await;
        foreign::overwrite(&a, batch(&[("other", ints(0..4))])).await;
        let commits = [append("b", 2, &[&of_b]), append("a", 4, &[&of_a])];
        let reply = commit(&server, &commits).await;
        assert!([400, 409].contains(&reply.status), "{}", reply.text());
        assert_eq!(reply.body["index"], 1, "{}", reply.text());
        assert_eq!(server.count("ns$b").await, 2);
        commit(&server, &commits[..1]).await.ok();
    }
}

everywhere! {
    async fn branches_are_lines_of_their_own(server: TestServer) {
        server.with_table("ns$a", 1).await;
        server.with_table("ns$b", 1).await;
        server.post(&table("ns$a", "branches/create"), json!({"name": "exp"})).await.ok();
        let main = server.upload("ns$a", &batch_ab(1..2)).await;
        let path = table("ns$a", "fragments?branch=exp");
        let exp = server.upload_to(&path, &batch_ab(5..6)).await;
        let of_b = server.upload("ns$b", &batch_ab(1..2)).await;
        let path = table("ns$a", "version/list?branch=exp&descending=true&limit=1");
        let listed = server.post_empty(&path).await.ok();
        let newest = listed["versions"][0]["version"].as_u64().expect("a version");
        let on_branch = with(&append("a", newest, &[&exp]), "branch", json!("exp"));
        // An upload belongs to its branch.
        let crossed = [append("b", 1, &[&of_b]), append("a", 1, &[&exp])];
        let reply = commit(&server, &crossed).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert_eq!(reply.body["index"], 1, "{}", reply.text());
        let twice = [on_branch.clone(), append("b", 1, &[&of_b]), on_branch.clone()];
        let reply = commit(&server, &twice).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert_eq!(reply.body["index"], 2, "{}", reply.text());
        let commits = [on_branch, append("b", 1, &[&of_b]), append("a", 1, &[&main])];
        let done = commit(&server, &commits).await.ok();
        assert_eq!(done["commits"][0]["version"], newest + 1, "{done}");
        assert_eq!(done["commits"][2]["version"], 2, "{done}");
        assert_eq!(server.values("ns$a").await, [0, 1]);
        let body = json!({"k": 10, "branch": "exp", "columns": {"column_names": ["a"]}});
        let rows = server.query("ns$a", body).await;
        assert_eq!(crate::support::batches::int_values(&rows, "a").len(), 2);
    }
}

everywhere! {
    /// The database of a LanceDB client stands before every name, and not in the answer.
    async fn within_a_database(server: TestServer) {
        server.with_table("ns$a", 1).await;
        let upload = server.upload("ns$a", &batch_ab(1..2)).await;
        let entry = with(&append("a", 1, &[&upload]), "id", json!(["a"]));
        let request = server.request(Method::POST, COMMIT).header("x-lancedb-database", "ns");
        let done = server.send(request.json(&json!({"commits": [entry]}))).await.ok();
        assert_eq!(done["commits"][0]["id"], json!(["a"]), "{done}");
        assert_eq!(server.values("ns$a").await, [0, 1]);
    }
}

everywhere! {
    async fn a_key_makes_a_retry_harmless(server: TestServer) {
        let mut server = server;
        server.with_table("ns$a", 1).await;
        server.with_table("ns$b", 1).await;
        let of_a = server.upload("ns$a", &batch_ab(1..2)).await;
        let of_b = server.upload("ns$b", &batch_ab(1..2)).await;
        let body = json!({"commits": [append("a", 1, &[&of_a]), append("b", 1, &[&of_b])]});
        // A refusal is no answer that is kept.
        let strict = with(&append("a", 1, &[&of_a]), "on_conflict", json!("fail"));
        let wrong = json!({"commits": [strict, append("nope", 1, &[&of_b])]});
        assert_error(&commit_with_key(&server, "k0", &wrong).await, 404, TABLE_NOT_FOUND);
        assert_error(&commit_with_key(&server, "k0", &wrong).await, 404, TABLE_NOT_FOUND);
        let other = server.beside().await;
        let sent = (0..6).map(|at| {
            let server = if at % 2 == 0 { &server } else { &other };
            let body = &body;
            async move { commit_with_key(server, "k1", body).await.ok() }
        });
        let answers = futures::future::join_all(sent).await;
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        server.insert("ns$a", &batch_ab(2..3)).await;
        server.restart().await;
        assert_eq!(commit_with_key(&server, "k1", &body).await.ok(), answers[0]);
        assert_eq!(server.versions("ns$a").await, [1, 2, 3]);
        assert_eq!(server.versions("ns$b").await, [1, 2]);
        let less = json!({"commits": [append("a", 1, &[&of_a])]});
        assert_error(&commit_with_key(&server, "k1", &less).await, 400, INVALID_INPUT);
        // The answer does not depend on what became of the tables.
        server.post_empty(&table("ns$b", "drop")).await.ok();
        assert_eq!(commit_with_key(&server, "k1", &body).await.ok(), answers[0]);
        assert_eq!(server.values("ns$a").await, [0, 1, 2]);
    }
}

everywhere! {
    /// More tables than are worked on side by side.
    async fn many_tables(server: TestServer) {
        let mut commits = Vec::new();
        for number in 0..20 {
            let id = format!("ns$t{number}");
            server.with_declared(&id).await;
            let upload = server.upload(&id, &batch_a(number..number + 1)).await;
            commits.push(append(&format!("t{number}"), 0, &[&upload]));
        }
        let mut wrong = commits.clone();
        wrong[17]["read_version"] = json!(9);
        let reply = commit(&server, &wrong).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert_eq!(reply.body["index"], 17, "{}", reply.text());
        let done = commit(&server, &commits).await.ok();
        assert_eq!(done["commits"].as_array().map(Vec::len), Some(20), "{done}");
        for number in 0..20 {
            assert_eq!(server.values(&format!("ns$t{number}")).await, [number]);
        }
    }
}
