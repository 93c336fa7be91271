//! Requests with an `Idempotency-Key` take effect once, whatever they do and whatever happens between
//! the put of a manifest and its record.

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tiltyard::config::Settings;

use crate::support::batches::{batch, batch_ab, ints, ipc, texts};
use crate::support::{
    Backend, Reply, TestServer, assert_error, enc, foreign, namespace, sql, table, text,
};

const UPSERT: &str =
    "merge_insert?on=a&when_matched_update_all=true&when_not_matched_insert_all=true";

/// What is sent: JSON, or rows.
enum Body {
    Json(Value),
    Rows(RecordBatch),
}

async fn send(server: &TestServer, key: &str, path: &str, body: &Body) -> Reply {
    let request = match body {
        Body::Json(body) => server.request(Method::POST, path).json(body),
        Body::Rows(rows) => server.arrow_request(path).body(ipc(std::slice::from_ref(rows))),
    };
    server.send(request.header("Idempotency-Key", key)).await
}

async fn post(server: &TestServer, key: &str, path: &str, body: Value) -> Reply {
    send(server, key, path, &Body::Json(body)).await
}

async fn insert(server: &TestServer, key: &str, path: &str, rows: RecordBatch) -> Reply {
    send(server, key, path, &Body::Rows(rows)).await
}

/// Changes of `ns$t`, which has the versions 1 and 2: each makes one version.
fn changes() -> Vec<(String, Body)> {
    let on = |operation: &str| table("ns$t", operation);
    vec![
        (on("update"), Body::Json(json!({"updates": [["a", "a + 1"]], "predicate": "a < 2"}))),
        (on("update/"), Body::Json(json!({"updates": [["a", "a + 1"]], "predicate": null}))),
        (on("delete"), Body::Json(json!({"predicate": "a = 3"}))),
        (on("delete/"), Body::Json(json!({"predicate": "a > 100"}))),
        (on(UPSERT), Body::Rows(batch_ab(4..20))),
        (on(&UPSERT.replace('?', "/?")), Body::Rows(batch_ab(19..22))),
        (on("insert"), Body::Rows(batch_ab(30..33))),
        (on("insert/"), Body::Rows(batch_ab(33..34))),
        (on("add_columns"), Body::Json(json!({"new_columns": [{"name": "c", "expression": "a"}]}))),
        (on("alter_columns"), Body::Json(json!({"alterations": [{"path": "c", "rename": "d"}]}))),
        (
            on("update_field_metadata"),
            Body::Json(json!({"updates": [{"path": "d", "metadata": {"k": "v"}}]})),
        ),
        (on("schema_metadata/update"), Body::Json(json!({"one": "two"}))),
        (on("drop_columns"), Body::Json(json!({"columns": ["d"]}))),
        (on("insert?mode=Overwrite"), Body::Rows(batch_ab(50..60))),
        (on("create?mode=Overwrite"), Body::Rows(batch_ab(60..70))),
        (on("create/?mode=overwrite"), Body::Rows(batch_ab(70..80))),
        (on("restore"), Body::Json(json!({"version": 2}))),
    ]
}

both! {
    /// The answer that was kept.
    async fn a_change_that_comes_again_changes_nothing(server: TestServer) {
        server.with_table("ns$t", 5).await;
        server.insert("ns$t", &batch_ab(5..8)).await;
        let mut versions = 2;
        for (number, (path, body)) in changes().iter().enumerate() {
            let key = format!("key-{number}");
            let first = send(&server, &key, path, body).await;
            assert_eq!(first.status, 200, "{path}: {}", first.text());
            versions += 1;
            let files = server.files();
            for _ in 0..2 {
                let again = send(&server, &key, path, body).await;
                assert_eq!((again.status, &again.raw), (200, &first.raw), "{path}");
                for name in ["content-type", "x-lancedb-version"] {
                    assert_eq!(again.header(name), first.header(name), "{path}: {name}");
                }
            }
            assert_eq!(server.versions("ns$t").await.len(), versions, "{path}");
            server.assert_files(&files, path).await;
        }
    }
}

everywhere! {
    /// The answer that has to be found in storage.
    async fn a_change_whose_answer_was_lost_changes_nothing(server: TestServer) {
        let location = server.with_table("ns$t", 5).await;
        server.insert("ns$t", &batch_ab(5..8)).await;
        let mut versions = 2;
        for (number, (path, body)) in changes().iter().enumerate() {
            let key = format!("key-{number}");
            let first = send(&server, &key, path, body).await;
            assert_eq!(first.status, 200, "{path}: {}", first.text());
            versions += 1;
            let values = foreign::values(&location).await;
            sql::forget_what_landed(server.database()).await;
            let again = send(&server, &key, path, body).await;
            assert_eq!(again.text(), first.text(), "{path}");
            assert_eq!(again.status, 200, "{path}");
            // Others have committed meanwhile, and it is still found.
            foreign::append(&location, rows_like(&server).await).await;
            versions += 1;
            sql::forget_what_landed(server.database()).await;
            let again = send(&server, &key, path, body).await;
            assert_eq!(again.text(), first.text(), "{path}, after a foreign commit");
            assert_eq!(server.versions("ns$t").await.len(), versions, "{path}");
            let gone = json!({"predicate": "a = 999"});
            server.post(&table("ns$t", "delete"), gone).await.ok();
            versions += 1;
            assert_eq!(foreign::values(&location).await, values, "{path}");
        }
    }
}

/// One row that fits the table as it is.
async fn rows_like(server: &TestServer) -> RecordBatch {
    let described = server.describe("ns$t").await;
    let fields = described["schema"]["fields"].as_array().expect("fields").clone();
    let columns: Vec<String> = fields.iter().map(|field| text(field, "name")).collect();
    let values = |name: &str| match name {
        "b" => texts(999..1_000),
        _ => ints(999..1_000),
    };
    let columns: Vec<_> = columns.iter().map(|name| (name.as_str(), values(name))).collect();
    batch(&columns)
}

everywhere! {
    async fn what_only_changes_names_comes_once(server: TestServer) {
        let steps = [
            (namespace("ns", "create"), json!({})),
            (namespace("ns$in", "create"), json!({})),
            (table("ns$t", "declare"), json!({})),
            (table("ns$t", "rename"), json!({"new_table_name": "u"})),
            (table("ns$u", "drop"), json!({})),
            (namespace("ns$in", "drop"), json!({})),
        ];
        for (number, (path, body)) in steps.iter().enumerate() {
            let key = format!("key-{number}");
            let first = post(&server, &key, path, body.clone()).await;
            assert_eq!(first.status, 200, "{path}: {}", first.text());
            let again = post(&server, &key, path, body.clone()).await;
            assert_eq!((again.status, again.raw), (200, first.raw), "{path}");
            // Without the key it is another request.
            assert!(server.post(path, body.clone()).await.status >= 400, "{path}");
        }
    }
}

everywhere! {
    async fn tags_branches_and_jobs_come_once(server: TestServer) {
        server.with_table("ns$t", 300).await;
        let index = json!({"column": "a", "index_type": "BTREE", "name": "by_a"});
        let steps = [
            ("tags/create", json!({"tag": "v1", "version": 1})),
            ("tags/update", json!({"tag": "v1", "version": 1})),
            ("branches/create", json!({"name": "side"})),
            ("create_scalar_index", index),
            ("branches/delete", json!({"name": "side"})),
            ("tags/delete", json!({"tag": "v1"})),
        ];
        for (number, (operation, body)) in steps.iter().enumerate() {
            let (key, path) = (format!("key-{number}"), table("ns$t", operation));
            let first = post(&server, &key, &path, body.clone()).await;
            assert_eq!(first.status, 200, "{path}: {}", first.text());
            let again = post(&server, &key, &path, body.clone()).await;
            assert_eq!((again.status, again.raw), (200, first.raw), "{path}");
        }
        let drop = table("ns$t", "index/by_a/drop");
        let first = post(&server, "drop", &drop, json!({})).await;
        assert_eq!(first.status, 200, "{}", first.text());
        let versions = server.versions("ns$t").await;
        sql::forget_what_landed(server.database()).await;
        assert_eq!(post(&server, "drop", &drop, json!({})).await.text(), first.text());
        assert_eq!(server.versions("ns$t").await, versions);
    }
}

both! {
    async fn the_same_key_with_another_body_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let path = table("ns$t", "delete");
        post(&server, "one", &path, json!({"predicate": "a = 0"})).await.ok();
        let other = post(&server, "one", &path, json!({"predicate": "a = 1"})).await;
        assert_error(&other, 400, 13);
        for operation in ["insert", UPSERT, "create", "fragments"] {
            let path = table(if operation == "create" { "ns$new" } else { "ns$t" }, operation);
            insert(&server, "two", &path, batch_ab(5..7)).await.ok();
            let before = server.snapshot().await;
            let other = insert(&server, "two", &path, batch_ab(5..8)).await;
            assert_error(&other, 400, 13);
            server.assert_unchanged(&before, operation).await;
        }
        assert_eq!(server.values("ns$t").await, [1, 2, 5, 6]);
    }
}

everywhere! {
    /// The key alone does not make it the same request.
    async fn another_path_under_the_same_key_is_another_request(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_table("ns$u", 3).await;
        let body = json!({"updates": [["a", "a + 1"]], "predicate": null});
        for id in ["ns$t", "ns$u", "ns$t", "ns$u"] {
            post(&server, "one", &table(id, "update"), body.clone()).await.ok();
        }
        post(&server, "one", &table("ns$t", "update/"), body.clone()).await.ok();
        assert_eq!(server.values("ns$t").await, [2, 3, 4]);
        assert_eq!(server.values("ns$u").await, [1, 2, 3]);
        for path in ["insert", "insert?mode=append"] {
            insert(&server, "one", &table("ns$u", path), batch_ab(7..8)).await.ok();
        }
        assert_eq!(server.values("ns$u").await, [1, 2, 3, 7, 7]);
    }
}

everywhere! {
    async fn many_at_once_under_one_key_are_one(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let other = server.beside().await;
        let ways = [
            (table("ns$t", "insert"), Body::Rows(batch_ab(10..12))),
            (table("ns$t", UPSERT), Body::Rows(batch_ab(12..14))),
            (table("ns$new", "create"), Body::Rows(batch_ab(0..2))),
            (table("ns$t", "fragments"), Body::Rows(batch_ab(0..2))),
            (
                table("ns$t", "update"),
                Body::Json(json!({"updates": [["a", "a + 1"]], "predicate": null})),
            ),
        ];
        for (path, body) in &ways {
            let answers = join_all((0..6).map(|number| {
                let server = if number % 2 == 0 { &server } else { &other };
                async move { send(server, "one", path, body).await }
            }))
            .await;
            for answer in &answers {
                assert_eq!(answer.status, 200, "{path}: {}", answer.text());
                assert_eq!(answer.raw, answers[0].raw, "{path}");
            }
        }
        assert_eq!(server.values("ns$t").await, [1, 2, 3, 11, 12, 13, 14]);
        assert_eq!(server.values("ns$new").await, [0, 1]);
        let uploads = server.get(&table("ns$t", "uploads")).await.ok();
        assert_eq!(uploads["uploads"].as_array().expect("a list").len(), 1, "{uploads}");
    }
}

both! {
    /// The first answer, even where it could not be given any more.
    async fn a_table_is_created_once(server: TestServer) {
        server.create_namespace("ns").await;
        for (id, query) in [("ns$a", "create"), ("ns$b", "create?mode=ExistOk"), ("ns$c", "create/")] {
            let path = table(id, query);
            let first = insert(&server, id, &path, batch_ab(0..3)).await;
            assert_eq!(first.status, 200, "{}", first.text());
            let before = server.snapshot().await;
            let again = insert(&server, id, &path, batch_ab(0..3)).await;
            assert_eq!((again.status, &again.raw), (200, &first.raw), "{path}");
            server.assert_unchanged(&before, &path).await;
            server.post(&table(id, "rename"), json!({"new_table_name": format!("{}2", &id[3..])})).await.ok();
            let again = insert(&server, id, &path, batch_ab(0..3)).await;
            assert_eq!((again.status, &again.raw), (200, &first.raw), "{path}, renamed");
        }
        // A declared table gets its first rows once, found in storage too.
        server.post(&table("ns$d", "declare"), json!({})).await.ok();
        let path = table("ns$d", "create");
        let first = insert(&server, "d", &path, batch_ab(0..3)).await;
        assert_eq!(first.status, 200, "{}", first.text());
        sql::run(server.database(), "DELETE FROM table_versions").await;
        sql::forget_what_landed(server.database()).await;
        let again = insert(&server, "d", &path, batch_ab(0..3)).await;
        assert_eq!((again.status, again.text()), (200, first.text()));
        assert_eq!(server.versions("ns$d").await, [1]);
        assert_eq!(server.post_arrow(&path, ipc(&[batch_ab(0..3)])).await.status, 409);
    }
}

both! {
    async fn the_key_of_what_failed_can_be_used_again(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let path = table("ns$t", "update");
        let body = json!({"updates": [["c", "7"]], "predicate": null});
        assert_eq!(post(&server, "one", &path, body.clone()).await.status, 404);
        let rows = || batch(&[("a", ints(5..6)), ("c", ints(5..6))]);
        let before = server.snapshot().await;
        let refused = insert(&server, "two", &table("ns$t", "insert"), rows()).await;
        assert!(refused.status == 400, "{}", refused.text());
        server.assert_unchanged(&before, "a refused insert").await;
        let column = json!({"new_columns": [{"name": "c", "expression": "a"}]});
        server.post(&table("ns$t", "add_columns"), column).await.ok();
        post(&server, "one", &path, body).await.ok();
        insert(&server, "two", &table("ns$t", "insert"), rows()).await.ok();
        assert_eq!(server.values_of("ns$t", "c").await, [5, 7, 7, 7]);
    }
}

everywhere! {
    async fn what_cannot_be_a_key_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let long = "k".repeat(257);
        for path in ["delete", "insert", "commit"].map(|operation| table("ns$t", operation)) {
            for key in ["", long.as_str()] {
                let body = json!({"predicate": "a = 0", "operation": "append", "read_version": 1,
                    "uploads": []});
                assert_error(&post(&server, key, &path, body).await, 400, 13);
            }
        }
        let twice = server.request(Method::POST, &table("ns$t", "delete"));
        let twice = twice.header("Idempotency-Key", "a").header("Idempotency-Key", "b");
        assert_error(&server.send(twice.json(&json!({"predicate": "a = 0"}))).await, 400, 13);
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        // It may be any text, and says nothing where nothing is changed.
        let key = enc("any text ' \" {}");
        post(&server, &key, &table("ns$t", "delete"), json!({"predicate": "a = 0"})).await.ok();
        assert_eq!(post(&server, &key, &table("ns$t", "count_rows"), json!({})).await.ok(), 2);
        server.insert("ns$t", &batch_ab(7..8)).await;
        assert_eq!(post(&server, &key, &table("ns$t", "count_rows"), json!({})).await.ok(), 3);
    }
}

async fn keys_expire(backend: Backend) {
    let sweeping = |settings: &mut Settings| settings.gc_interval = Duration::from_millis(100);
    let Some(server) = TestServer::spawn_with(backend, sweeping).await else { return };
    server.with_table("ns$t", 3).await;
    let path = table("ns$t", "update");
    let body = json!({"updates": [["a", "a + 1"]], "predicate": null});
    let first = post(&server, "one", &path, body.clone()).await.ok();
    assert_eq!(post(&server, "one", &path, body.clone()).await.ok(), first);
    let over = "UPDATE idempotency_keys SET expires_at_us = 0, lease_us = 0";
    sql::run(server.database(), over).await;
    let started = Instant::now();
    while post(&server, "one", &path, body.clone()).await.ok() == first {
        assert!(started.elapsed() < Duration::from_secs(60), "the key is never forgotten");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(server.values("ns$t").await, [2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_expire_on_sqlite() {
    keys_expire(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_expire_on_postgres() {
    keys_expire(Backend::Postgres).await;
}
