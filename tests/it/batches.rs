//! BatchCreateTableVersions and BatchCommitTables: all of it or nothing.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::staging::{Staged, stage, stage_line, staging};
use crate::support::{Backend, Reply, TestServer, assert_error, foreign, sql, table, text};

const CREATE: &str = "/v1/table/version/batch-create";
const COMMIT: &str = "/v1/table/batch-commit";

/// Keys without answers, that nobody holds any more.
const LOST: &str = "UPDATE idempotency_keys SET response = NULL, lease_us = 0";

async fn commit(server: &TestServer, operations: Vec<Value>) -> Reply {
    server.post(COMMIT, json!({"operations": operations})).await
}

fn declare(name: &str) -> Value {
    json!({"declare_table": {"id": ["ns", name]}})
}

fn deregister(name: &str) -> Value {
    json!({"deregister_table": {"id": ["ns", name]}})
}

fn delete(name: &str, start: i64, end: i64) -> Value {
    let ranges = [json!({"start_version": start, "end_version": end})];
    json!({"delete_table_versions": {"id": ["ns", name], "ranges": ranges}})
}

/// Tables `ns$a`, `ns$b` and `ns$c` of one row each.
async fn with_three(server: &TestServer) -> [String; 3] {
    let mut locations = Vec::new();
    for name in ["a", "b", "c"] {
        locations.push(server.with_table(&format!("ns${name}"), 1).await);
    }
    locations.try_into().expect("three")
}

/// One operation of each kind about those tables, the first of which stands at a location.
async fn of_every_kind(server: &TestServer, a: &str) -> Vec<Value> {
    server.insert("ns$b", &batch_ab(1..2)).await;
    let staged = stage(a, batch_ab(1..4)).await;
    vec![declare("new"), staged.operation(&["ns", "a"]), delete("b", 1, 2), deregister("c")]
}

async fn newest(server: &TestServer, id: &str) -> u64 {
    let path = table(id, "version/list?descending=true&limit=1");
    let listed = server.post_empty(&path).await.ok();
    listed["versions"][0]["version"].as_u64().unwrap_or(0)
}

both! {
    async fn a_batch_does_all_of_it(server: TestServer) {
        let [a, b, _] = with_three(&server).await;
        let operations = of_every_kind(&server, &a).await;
        let done = commit(&server, operations).await.ok();
        let results = done["results"].as_array().expect("results");
        assert!(!text(&results[0]["declare_table"], "location").is_empty(), "{done}");
        assert_eq!(results[0]["declare_table"]["managed_versioning"], true, "{done}");
        assert_eq!(results[1]["create_table_version"]["version"]["version"], 2, "{done}");
        assert_eq!(results[2]["delete_table_versions"]["deleted_count"], 1, "{done}");
        assert!(!text(&results[3]["deregister_table"], "location").is_empty(), "{done}");
        assert!(results.iter().all(|result| result.as_object().map(|one| one.len()) == Some(1)));
        assert!(server.exists("ns$new").await);
        assert_eq!(server.values("ns$a").await, [0, 1, 2, 3]);
        assert_eq!(server.versions("ns$b").await, [2]);
        assert!(!server.exists("ns$c").await);
        assert!(staging(&a).is_empty());
        assert_eq!(foreign::values(&a).await, [0, 1, 2, 3]);
        assert_eq!(foreign::values(&b).await, [0, 1]);
        let path = format!("/v1/transaction/{}/describe", text(&done, "transaction_id"));
        let described = server.post(&path, json!({})).await.ok();
        assert_eq!(described["status"], "Succeeded", "{described}");
        assert_eq!(described["properties"]["kind"], "batch", "{described}");
        assert!(!text(&described["properties"], "created_by").is_empty(), "{described}");
        // Each table goes on by itself.
        for id in ["ns$a", "ns$b", "ns$new"] {
            server.insert(id, &batch_ab(9..10)).await;
        }
    }
}

both! {
    /// The server died between the batch and the answer that is kept.
    async fn a_batch_whose_answer_was_lost_is_answered_the_same(server: TestServer) {
        let [a, b, _] = with_three(&server).await;
        let operations = of_every_kind(&server, &a).await;
        let entries = vec![stage(&b, batch_ab(2..5)).await.claim_of(&["ns", "b"])];
        let requests = [
            (COMMIT, json!({"operations": operations})),
            (CREATE, json!({"entries": entries})),
        ];
        for (path, body) in requests {
            let send = async || {
                let request = server.request(reqwest::Method::POST, path).json(&body);
                server.send(request.header("Idempotency-Key", path)).await
            };
            let first = send().await;
            assert_eq!(first.status, 200, "{path}: {}", first.text());
            sql::run(server.database(), LOST).await;
            let again = send().await;
            assert_eq!((again.status, again.text()), (200, first.text()), "{path}");
        }
        assert_eq!(server.versions("ns$a").await, [1, 2]);
        assert_eq!(server.versions("ns$b").await, [2, 3]);
        assert!(!server.exists("ns$c").await);
    }
}

both! {
    async fn versions_of_several_tables(server: TestServer) {
        let locations = with_three(&server).await;
        let mut entries = Vec::new();
        for (name, location) in ["a", "b", "c"].into_iter().zip(&locations) {
            let mut entry = stage(location, batch_ab(1..3)).await.claim_of(&["ns", name]);
            entry["metadata"] = json!({"by": name});
            entries.push(entry);
        }
        let done = server.post(CREATE, json!({"entries": entries})).await.ok();
        let versions = done["versions"].as_array().expect("versions");
        assert_eq!(versions.len(), 3, "{done}");
        for (version, name) in versions.iter().zip(["a", "b", "c"]) {
            assert_eq!(version["version"], 2, "{done}");
            assert_eq!(version["metadata"]["operation"], "Append", "{done}");
            assert_eq!(version["metadata"]["by"], name, "{done}");
            assert_eq!(server.values(&format!("ns${name}")).await, [0, 1, 2]);
        }
        assert!(!text(&done, "transaction_id").is_empty(), "{done}");
    }
}

both! {
    /// Wherever the wrong operation stands, none of the others is done.
    async fn one_wrong_operation_undoes_all(server: TestServer) {
        let [a, b, c] = with_three(&server).await;
        let tag = json!({"tag": "kept", "version": 1});
        server.insert("ns$c", &batch_ab(1..2)).await;
        server.post(&table("ns$c", "tags/create"), tag).await.ok();
        let good = stage(&a, batch_ab(1..2)).await;
        let line = stage_line(&b, vec![batch_ab(1..2), batch_ab(2..3)]).await;
        let rival = stage(&c, batch_ab(5..6)).await;
        let stale = Staged { version: 1, ..rival.clone() };
        let lost = Staged { version: 1, manifest: line[0].manifest.clone() };
        let bad = [
            (line[1].operation(&["ns", "b"]), 409, CONCURRENT_MODIFICATION),
            (stale.operation(&["ns", "c"]), 409, CONCURRENT_MODIFICATION),
            (rival.operation(&["ns", "nope"]), 404, TABLE_NOT_FOUND),
            (lost.operation(&["ns", "declared"]), 400, INVALID_INPUT),
            (declare("b"), 409, TABLE_ALREADY_EXISTS),
            (json!({"declare_table": {"id": ["nope", "t"]}}), 404, NAMESPACE_NOT_FOUND),
            (json!({"declare_table": {"id": []}}), 400, INVALID_INPUT),
            (json!({"declare_table": {}}), 400, INVALID_INPUT),
            (json!({"declare_table": {"id": ["ns", "x"], "location": "/etc"}}), 400, INVALID_INPUT),
            (deregister("nope"), 404, TABLE_NOT_FOUND),
            (deregister("a"), 400, INVALID_INPUT),
            (delete("a", 1, 1), 400, INVALID_INPUT),
            (delete("nope", 1, 2), 404, TABLE_NOT_FOUND),
            (delete("c", 1, 2), 409, INVALID_TABLE_STATE),
            (delete("c", 2, 3), 400, INVALID_INPUT),
            (delete("c", 3, 1), 400, INVALID_INPUT),
            (good.operation(&["ns", "a"]), 400, INVALID_INPUT),
            (declare("last"), 400, INVALID_INPUT),
            (json!({}), 400, INVALID_INPUT),
            (json!(null), 400, INVALID_INPUT),
            (json!("declare"), 400, INVALID_INPUT),
            (json!({"unknown": {}}), 400, INVALID_INPUT),
            (
                json!({"declare_table": {"id": ["ns", "x"]}, "deregister_table": {"id": ["ns", "b"]}}),
                400,
                INVALID_INPUT,
            ),
        ];
        server.with_declared("ns$declared").await;
        let before = server.snapshot().await;
        for (operation, status, code) in bad {
            let rest = || [declare("first"), good.operation(&["ns", "a"]), declare("last")];
            for at in 0..4 {
                let mut operations = rest().to_vec();
                operations.insert(at, operation.clone());
                let reply = commit(&server, operations).await;
                assert_error(&reply, status, code);
            }
        }
        server.assert_unchanged(&before, "batches that are wrong").await;
        for (id, expected) in [("ns$a", 1), ("ns$b", 1), ("ns$c", 2), ("ns$declared", 0)] {
            assert_eq!(newest(&server, id).await, expected, "{id}");
        }
        let operations =
            vec![declare("first"), good.operation(&["ns", "a"]), line[0].operation(&["ns", "b"])];
        commit(&server, operations).await.ok();
        assert_eq!(server.values("ns$b").await, [0, 1]);
    }
}

both! {
    async fn batches_that_are_no_batches(server: TestServer) {
        let [a, ..] = with_three(&server).await;
        let good = stage(&a, batch_ab(1..2)).await.claim_of(&["ns", "a"]);
        let mut nameless = good.clone();
        nameless["id"] = Value::Null;
        let before = server.snapshot().await;
        for body in [
            json!({}),
            json!({"entries": []}),
            json!({"entries": null}),
            json!({"entries": good}),
            json!({"entries": [null]}),
            json!({"entries": [good, nameless]}),
            json!({"entries": [good, good]}),
            json!([good]),
        ] {
            assert_error(&server.post(CREATE, body).await, 400, INVALID_INPUT);
        }
        for body in [
            json!({}),
            json!({"operations": []}),
            json!({"operations": null}),
            json!({"operations": {}}),
            json!({"operations": vec![declare("x"); 2]}),
            json!({"operations": (0..1_001).map(|at| declare(&format!("t{at}"))).collect::<Vec<_>>()}),
        ] {
            assert_error(&server.post(COMMIT, body).await, 400, INVALID_INPUT);
        }
        server.assert_unchanged(&before, "no batches").await;
    }
}

/// Batches over the same tables in opposite orders: in each round one is done, and no other.
async fn opposite_orders(servers: &[&TestServer]) {
    let locations = with_three(servers[0]).await;
    let names = ["a", "b", "c"];
    for round in 0..4_i32 {
        let mut batches = Vec::new();
        for writer in 0..4_i32 {
            let value = 100 * (round + 1) + writer;
            let mut operations = Vec::new();
            for (name, location) in names.iter().zip(&locations) {
                let staged = stage(location, batch_ab(value..value + 1)).await;
                operations.push(staged.operation(&["ns", name]));
            }
            operations.rotate_left(writer as usize % 3);
            if writer % 2 == 1 {
                operations.reverse();
            }
            batches.push((value, operations));
        }
        let sent = batches.into_iter().enumerate().map(|(writer, (value, operations))| {
            let server = servers[writer % servers.len()];
            async move { (value, commit(server, operations).await) }
        });
        let replies = join_all(sent).await;
        let won: Vec<i32> = replies
            .iter()
            .filter(|(_, reply)| reply.status == 200)
            .map(|(value, _)| *value)
            .collect();
        for (_, loser) in replies.iter().filter(|(_, reply)| reply.status != 200) {
            assert_error(loser, 409, CONCURRENT_MODIFICATION);
            assert_eq!(loser.body["retryable"], true, "{}", loser.text());
        }
        assert_eq!(won.len(), 1, "batches that were done in round {round}");
        for (name, server) in names.iter().zip(servers.iter().cycle()) {
            let values = server.values(&format!("ns${name}")).await;
            assert_eq!(values.len() as i32, round + 2, "rows of {name}: {values:?}");
            assert_eq!(values.last(), won.last(), "newest row of {name}");
        }
    }
    for location in &locations {
        assert_eq!(foreign::values(location).await.len(), 5);
    }
}

both! {
    async fn batches_in_opposite_orders(server: TestServer) {
        opposite_orders(&[&server]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_in_opposite_orders_on_two_servers() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    opposite_orders(&[&one, &other]).await;
}

/// Whoever asks for the newest version of the one table, the other, and the one again while batches
/// give both their next version, sees the other between the two.
async fn readers_see_no_half(server: &TestServer, other: &TestServer) {
    let [a, b, _] = with_three(server).await;
    let rows = || (1..16).map(|value| batch_ab(value..value + 1)).collect::<Vec<_>>();
    let (of_a, of_b) = (stage_line(&a, rows()).await, stage_line(&b, rows()).await);
    let batches = async {
        for (at, (a, b)) in of_a.iter().zip(&of_b).enumerate() {
            let mut operations = vec![a.operation(&["ns", "a"]), b.operation(&["ns", "b"])];
            if at % 2 == 1 {
                operations.reverse();
            }
            commit(server, operations).await.ok();
        }
    };
    let listings = async {
        let mut seen = 0;
        while seen < 16 {
            let before = newest(other, "ns$a").await;
            let between = newest(server, "ns$b").await;
            let after = newest(other, "ns$a").await;
            assert!((before..=after).contains(&between), "{before}, {between}, {after}");
            seen = after.min(between);
        }
    };
    let counts = async {
        let mut seen = 0;
        while seen < 16 {
            let before = server.count("ns$b").await;
            let between = other.count("ns$a").await;
            let after = server.count("ns$b").await;
            assert!((before..=after).contains(&between), "{before}, {between}, {after}");
            seen = after.min(between);
        }
    };
    futures::join!(batches, listings, counts);
    assert_eq!(foreign::values(&a).await, foreign::values(&b).await);
}

both! {
    async fn readers_never_see_half_a_batch(server: TestServer) {
        readers_see_no_half(&server, &server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_two_servers_never_see_half_a_batch() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    readers_see_no_half(&one, &other).await;
}

/// Two batches want one name, so that one of them has to take back the version that it put; nobody
/// may see that version, not even after.
async fn what_is_taken_back_was_never_there(servers: &[&TestServer]) {
    let [a, b, _] = with_three(servers[0]).await;
    let (one, other) = (servers[0], servers[servers.len() - 1]);
    for round in 0..8 {
        let name = format!("prize{round}");
        let (of_a, of_b) = (stage(&a, batch_ab(1..2)).await, stage(&b, batch_ab(1..2)).await);
        let versions = [newest(one, "ns$a").await, newest(one, "ns$b").await];
        let first = commit(one, vec![of_a.operation(&["ns", "a"]), declare(&name)]);
        let second = commit(other, vec![of_b.operation(&["ns", "b"]), declare(&name)]);
        let stop = tokio::sync::Notify::new();
        let race = async {
            let replies = futures::join!(first, second);
            stop.notify_one();
            replies
        };
        let polls = async {
            let poll = async {
                loop {
                    let seen = [newest(one, "ns$a").await, newest(other, "ns$b").await];
                    assert!(seen != [versions[0] + 1, versions[1] + 1], "both have landed");
                }
            };
            tokio::select! { () = poll => {}, () = stop.notified() => {} }
        };
        let ((first, second), ()) = futures::join!(race, polls);
        let (winner, loser) = if first.status == 200 { (first, second) } else { (second, first) };
        winner.ok();
        assert_error(&loser, 409, TABLE_ALREADY_EXISTS);
        let after = [newest(one, "ns$a").await, newest(other, "ns$b").await];
        assert_eq!(after.iter().sum::<u64>(), versions.iter().sum::<u64>() + 1, "round {round}");
        for id in ["ns$a", "ns$b"] {
            one.insert(id, &batch_ab(7..8)).await;
            assert_eq!(one.versions(id).await, other.versions(id).await);
            let versions = one.versions(id).await;
            assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
        }
    }
}

both! {
    async fn what_a_batch_takes_back(server: TestServer) {
        what_is_taken_back_was_never_there(&[&server]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_takes_back_on_two_servers() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    what_is_taken_back_was_never_there(&[&one, &other]).await;
}
