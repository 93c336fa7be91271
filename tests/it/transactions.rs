//! DescribeTransaction and AlterTransaction: of versions, of batches and of jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};

use crate::support::batches::{batch, batch_ab, ints};
use crate::support::code::*;
use crate::support::staging::stage;
use crate::support::{Reply, TestServer, assert_error, enc, foreign, table, text};

const PATIENCE: Duration = Duration::from_secs(150);

async fn describe(server: &TestServer, id: &str) -> Reply {
    server.post(&format!("/v1/transaction/{}/describe", enc(id)), json!({})).await
}

async fn alter(server: &TestServer, id: &str, actions: Value) -> Reply {
    let path = format!("/v1/transaction/{}/alter", enc(id));
    server.post(&path, json!({"actions": actions})).await
}

fn set(key: &str, value: &str) -> Value {
    json!({"setPropertyAction": {"key": key, "value": value}})
}

fn set_if(key: &str, value: &str, mode: &str) -> Value {
    json!({"setPropertyAction": {"key": key, "value": value, "mode": mode}})
}

fn unset(key: &str, mode: &str) -> Value {
    json!({"unsetPropertyAction": {"key": key, "mode": mode}})
}

fn status(word: &str) -> Value {
    json!({"setStatusAction": {"status": word}})
}

/// The transaction of an insert.
async fn inserted(server: &TestServer) -> String {
    server.with_table("ns$t", 1).await;
    text(&server.insert("ns$t", &batch_ab(1..2)).await, "transaction_id")
}

everywhere! {
    async fn a_version_is_a_transaction(server: TestServer) {
        let id = inserted(&server).await;
        let described = describe(&server, &id).await.ok();
        assert_eq!(described["status"], "Succeeded", "{described}");
        let known = &described["properties"];
        assert_eq!(known["kind"], "commit", "{described}");
        assert_eq!(known["version"], "2", "{described}");
        assert_eq!(known["operation"], "Append", "{described}");
        assert_eq!(known["table"], r#"["ns","t"]"#, "{described}");
        let made: i64 = text(known, "committed_at_millis").parse().expect("a number");
        assert!(made > 1_600_000_000_000, "{described}");
        assert!(!text(known, "committed_by").is_empty(), "{described}");
    }
}

both! {
    /// Whatever changes a table answers a transaction that can be described.
    async fn every_change_is_a_transaction(server: TestServer) {
        let location = server.with_table("ns$t", 5).await;
        let staged = stage(&location, batch_ab(5..6)).await.claim();
        for (operation, body, name) in [
            ("version/create", staged, "Append"),
            ("update", json!({"updates": [["b", "'x'"]]}), "Update"),
            ("delete", json!({"predicate": "a = 1"}), "Delete"),
            ("restore", json!({"version": 1}), "Restore"),
        ] {
            let answer = server.post(&table("ns$t", operation), body).await.ok();
            let described = describe(&server, &text(&answer, "transaction_id")).await.ok();
            assert_eq!(described["status"], "Succeeded", "{operation}: {described}");
            assert_eq!(described["properties"]["operation"], name, "{operation}: {described}");
        }
    }
}

everywhere! {
    async fn properties_are_set_and_taken_away(server: TestServer) {
        let id = inserted(&server).await;
        let before = describe(&server, &id).await.ok()["properties"].take();
        let altered = alter(&server, &id, json!([set("k", "1"), set("ö", "")])).await.ok();
        assert_eq!(altered["status"], "Succeeded", "{altered}");
        assert_eq!(altered["properties"]["k"], "1", "{altered}");
        assert_eq!(altered["properties"]["ö"], "", "{altered}");
        assert_eq!(altered["properties"]["version"], "2", "{altered}");
        for (actions, expected) in [
            (json!([set("k", "2")]), json!("2")),
            (json!([set_if("k", "3", "Overwrite")]), json!("3")),
            (json!([set_if("k", "4", "skip")]), json!("3")),
            (json!([set_if("k", "5", "OVERWRITE"), set_if("k", "6", "Skip")]), json!("5")),
            (json!([unset("k", "Fail")]), Value::Null),
            (json!([unset("k", "skip")]), Value::Null),
            (json!([{"unsetPropertyAction": {"key": "k"}}]), Value::Null),
            (json!([set_if("k", "7", "fail")]), json!("7")),
            (json!([unset("k", "fail"), set_if("k", "8", "FAIL"), status("succeeded")]), json!("8")),
        ] {
            let altered = alter(&server, &id, actions.clone()).await.ok();
            assert_eq!(altered["properties"]["k"], expected, "{actions}");
            assert_eq!(describe(&server, &id).await.ok(), altered, "{actions}");
        }
        alter(&server, &id, json!([unset("k", "Fail"), unset("ö", "Fail")])).await.ok();
        assert_eq!(describe(&server, &id).await.ok()["properties"], before);
    }
}

everywhere! {
    /// The actions before the one that fails are not done either.
    async fn one_wrong_action_undoes_all(server: TestServer) {
        let id = inserted(&server).await;
        alter(&server, &id, json!([set("k", "1")])).await.ok();
        let before = describe(&server, &id).await.ok();
        let mut wrong = vec![
            set_if("k", "2", "Fail"),
            set_if("k", "2", "Perhaps"),
            unset("nothing", "Fail"),
            unset("k", "Overwrite"),
            set("", "x"),
            set("nul\u{0}", "x"),
            set("x", "nul\u{0}"),
            set("x", &"y".repeat(100_000)),
            json!({"setPropertyAction": {"key": "x"}}),
            json!({"setPropertyAction": {"value": "x"}}),
            json!({"setPropertyAction": {"key": "x", "value": 1}}),
            json!({"setPropertyAction": null}),
            json!({"unsetPropertyAction": {}}),
            json!({"setStatusAction": {}}),
            json!({"unsetPropertyAction": {"key": "k"}, "setStatusAction": {"status": "Succeeded"}}),
            json!({"set_property": {"key": "x", "value": "y"}}),
            json!({}),
            json!(null),
            json!("Canceled"),
            status("Finished"),
            status(""),
            // What is over stays as it is.
            status("Canceled"),
            status("canceled"),
            status("CANCELED"),
            status("Running"),
            status("queued"),
            status("Failed"),
        ];
        for reserved in ["kind", "table", "version", "operation", "committed_by", "error"] {
            wrong.push(set(reserved, "x"));
        }
        for action in wrong {
            let actions = json!([set("other", "x"), set("k", "9"), action, set("last", "y")]);
            let reply = alter(&server, &id, actions).await;
            assert_error(&reply, 400, INVALID_INPUT);
            assert_eq!(describe(&server, &id).await.ok(), before, "{action}");
        }
        for actions in [json!([]), Value::Null, json!({}), json!("x")] {
            assert_error(&alter(&server, &id, actions).await, 400, INVALID_INPUT);
        }
        let many: Vec<Value> = (0..2_000).map(|at| set(&format!("k{at}"), "x")).collect();
        assert_error(&alter(&server, &id, json!(many)).await, 400, INVALID_INPUT);
        assert_eq!(describe(&server, &id).await.ok(), before);
    }
}

everywhere! {
    async fn alterations_at_once_lose_nothing(server: TestServer) {
        let id = inserted(&server).await;
        let setters = (0..8).map(|writer| {
            let (server, id) = (&server, &id);
            async move {
                loop {
                    let reply = alter(server, id, json!([set(&format!("k{writer}"), "x")])).await;
                    if reply.status == 200 {
                        break;
                    }
                    assert_error(&reply, 409, CONCURRENT_MODIFICATION);
                    assert_eq!(reply.body["retryable"], true, "{}", reply.text());
                }
            }
        });
        futures::future::join_all(setters).await;
        let described = describe(&server, &id).await.ok();
        for writer in 0..8 {
            assert_eq!(described["properties"][format!("k{writer}")], "x", "{described}");
        }
    }
}

everywhere! {
    /// Lance's own transactions that were committed past the server among them.
    async fn what_the_server_does_not_know(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        foreign::append(&location, batch_ab(1..2)).await;
        let dataset = foreign::open(&location).await;
        let theirs = dataset.read_transaction().await.expect("a transaction");
        let theirs = theirs.expect("a transaction").uuid;
        assert_eq!(server.count("ns$t").await, 2);
        let unknown = uuid::Uuid::new_v4().to_string();
        for id in [theirs.as_str(), unknown.as_str(), "nothing", "%", "a b", "' OR 1=1 --", "ö"] {
            assert_error(&describe(&server, id).await, 404, TRANSACTION_NOT_FOUND);
            let reply = alter(&server, id, json!([set("k", "v")])).await;
            assert_error(&reply, 404, TRANSACTION_NOT_FOUND);
        }
    }
}

/// Numbers without a pattern, so that a graph of them takes its time.
fn scattered(rows: i32) -> RecordBatch {
    let mut state = 7_u32;
    let numbers = (0..rows * 64).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32
    });
    let numbers = Float32Array::from_iter_values(numbers);
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::try_new(item, 64, Arc::new(numbers), None);
    let vectors: ArrayRef = Arc::new(vectors.expect("whole vectors"));
    batch(&[("a", ints(0..rows)), ("v", vectors)])
}

/// A build that takes longer than its request; answers its job.
async fn begun(server: &TestServer) -> String {
    server.create_namespace("ns").await;
    server.create("ns$t", &scattered(2_500)).await;
    let request = json!({"column": "v", "index_type": "IVF_HNSW_FLAT", "m": 32,
        "ef_construction": 400, "name": "slow"});
    let answer = server.post(&table("ns$t", "create_index"), request).await.ok();
    let job = text(&answer, "transaction_id");
    let described = describe(server, &job).await.ok();
    assert_eq!(described["status"], "Running", "the build was too quick: {described}");
    assert_eq!(described["properties"]["kind"], "create_index", "{described}");
    assert_eq!(described["properties"]["table"], r#"["ns","t"]"#, "{described}");
    assert!(!text(&described["properties"], "created_by").is_empty(), "{described}");
    job
}

async fn indexes(server: &TestServer) -> usize {
    let listed = server.post(&table("ns$t", "index/list"), json!({})).await.ok();
    listed["indexes"].as_array().expect("a list").len()
}

everywhere! {
    async fn a_job_is_canceled(server: TestServer) {
        let job = begun(&server).await;
        for word in ["Succeeded", "failed", "queued"] {
            let reply = alter(&server, &job, json!([set("k", "v"), status(word)])).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        assert!(describe(&server, &job).await.ok()["properties"]["k"].is_null());
        let altered = alter(&server, &job, json!([set("k", "v"), status("cAnCeLeD")])).await.ok();
        assert_eq!(altered["status"], "Canceled", "{altered}");
        assert_eq!(altered["properties"]["k"], "v", "{altered}");
        let again = alter(&server, &job, json!([status("Canceled")])).await.ok();
        assert_eq!(again["status"], "Canceled", "{again}");
        let reply = alter(&server, &job, json!([status("Running")])).await;
        assert_error(&reply, 400, INVALID_INPUT);
        // The signs of life are seconds apart; the build would take longer than this.
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(describe(&server, &job).await.ok()["status"], "Canceled");
        assert_eq!(indexes(&server).await, 0, "a canceled build has made its index");
        server.insert("ns$t", &scattered(5)).await;
    }
}

everywhere! {
    async fn a_job_goes_on_after_a_restart(server: TestServer) {
        let mut server = server;
        let job = begun(&server).await;
        server.restart().await;
        let started = Instant::now();
        loop {
            let described = describe(&server, &job).await.ok();
            if described["status"] == "Succeeded" {
                break;
            }
            let status = text(&described, "status");
            assert!(["Queued", "Running"].contains(&status.as_str()), "{described}");
            assert!(started.elapsed() < PATIENCE, "the job does not go on: {described}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(indexes(&server).await, 1);
    }
}

everywhere! {
    async fn a_failed_job_says_why(server: TestServer) {
        let job = begun(&server).await;
        server.post(&table("ns$t", "drop"), json!({})).await.ok();
        let started = Instant::now();
        loop {
            let reply = describe(&server, &job).await;
            // With its table, what is known of the job may be gone.
            if reply.status == 404 {
                assert_error(&reply, 404, TRANSACTION_NOT_FOUND);
                break;
            }
            let described = reply.ok();
            if described["status"] == "Failed" {
                assert!(!text(&described["properties"], "error").is_empty(), "{described}");
                break;
            }
            assert!(started.elapsed() < PATIENCE, "the job does not end: {described}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        server.get("/readyz").await.ok();
    }
}
