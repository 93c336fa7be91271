//! Appends that wait for each other share a version; everything else is as if each had come alone.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::support::batches::{batch_a, batch_ab, ipc};
use crate::support::code::*;
use crate::support::{
    Backend, Database, Reply, TestServer, assert_error, foreign, sql, table, text,
};

/// A batch of nobody, which keeps everyone from changing a table while there is a row of it.
const HOLD_SQLITE: &str = "INSERT INTO batches (batch_id, state, changes, properties, created_by, \
    created_at_us, lease_us) VALUES (x'00000000000000000000000000000001', 'open', '[]', '{}', \
    'test', 0, 9000000000000000); \
    INSERT INTO batch_versions (table_id, branch, version, batch_id) \
    SELECT table_id, branch, 9999, x'00000000000000000000000000000001' FROM table_versions LIMIT 1";
const HOLD_POSTGRES: &str = "INSERT INTO batches (batch_id, state, changes, properties, created_by, \
    created_at_us, lease_us) VALUES ('00000000-0000-0000-0000-000000000001', 'open', '[]', '{}', \
    'test', 0, 9000000000000000); \
    INSERT INTO batch_versions (table_id, branch, version, batch_id) \
    SELECT table_id, branch, 9999, '00000000-0000-0000-0000-000000000001'::uuid \
    FROM table_versions LIMIT 1";
const RELEASE: &str = "DELETE FROM batches WHERE created_by = 'test'";
const CLAIMED: &str = "SELECT count(*) FROM uploads WHERE state = 'committing'";

async fn run(database: &Database, sqlite: &'static str, postgres: &'static str) {
    match database {
        Database::Sqlite { .. } => {
            let connected = SqliteConnection::connect(database.url()).await;
            let mut connection = connected.expect("the database");
            sqlx::raw_sql(sqlite).execute(&mut connection).await.expect(sqlite);
        }
        Database::Postgres { .. } => {
            let mut connection = PgConnection::connect(database.url()).await.expect("the database");
            sqlx::raw_sql(postgres).execute(&mut connection).await.expect(postgres);
        }
    }
}

/// Keeps everyone from changing a table.
pub async fn hold(server: &TestServer) {
    run(server.database(), HOLD_SQLITE, HOLD_POSTGRES).await;
}

/// Lets them again.
pub async fn release(server: &TestServer) {
    run(server.database(), RELEASE, RELEASE).await;
}

async fn claimed(database: &Database) -> i64 {
    let asked = match database {
        Database::Sqlite { .. } => {
            let connected = SqliteConnection::connect(database.url()).await;
            let mut connection = connected.expect("the database");
            sqlx::query_scalar::<_, i64>(CLAIMED).fetch_one(&mut connection).await
        }
        Database::Postgres { .. } => {
            let mut connection = PgConnection::connect(database.url()).await.expect("the database");
            sqlx::query_scalar::<_, i64>(CLAIMED).fetch_one(&mut connection).await
        }
    };
    asked.expect(CLAIMED)
}

/// An upload that a commit is about to name.
async fn upload(server: &TestServer, value: i32) -> String {
    text(&server.upload("ns$t", &batch_ab(value..value + 1)).await, "upload_id")
}

fn append(upload: &str, read_version: u64) -> Value {
    json!({"operation": "append", "read_version": read_version, "uploads": [upload]})
}

/// Sends commits, of which so many name uploads, while nobody may change the table, and lets them go
/// once they wait.
async fn together(server: &TestServer, bodies: Vec<Value>, uploads: i64) -> Vec<Reply> {
    hold(server).await;
    let path = table("ns$t", "commit");
    let sent = join_all(bodies.into_iter().map(|body| server.post(&path, body)));
    let release = async {
        while claimed(server.database()).await < uploads {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // From the claim to the place in the queue nothing is waited for.
        tokio::time::sleep(Duration::from_millis(500)).await;
        release(server).await;
    };
    tokio::join!(sent, release).0
}

fn version(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.body["version"].as_u64().expect("a version")
}

everywhere! {
    async fn appends_that_wait_share_a_version(server: TestServer) {
        server.with_table("ns$t", 10).await;
        let mut bodies = Vec::new();
        for value in 0..12 {
            bodies.push(append(&upload(&server, 100 + value).await, 1));
        }
        let replies = together(&server, bodies, 12).await;
        assert!(replies.iter().all(|reply| version(reply) == 2));
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        let mut ids: Vec<String> =
            replies.iter().map(|reply| text(&reply.body, "transaction_id")).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 12, "each has a transaction of its own");
        for id in ids {
            let path = format!("/v1/transaction/{id}/describe");
            let told = server.post(&path, json!({})).await.ok();
            assert_eq!(told["properties"]["version"], "2", "{told}");
        }
        assert!(replies.iter().all(|reply| reply.body["num_rows"] == 22));
        assert!(replies.iter().all(|reply| reply.body["rebased"] == false));
        let mut expected: Vec<i32> = (0..10).chain(100..112).collect();
        expected.sort_unstable();
        assert_eq!(server.values("ns$t").await, expected);
        assert_eq!(foreign::values(&server.location("ns$t").await).await, expected);
    }
}

/// Another server that finds a first version records it, and then that the table has one. Who commits
/// it does so in the same order, since PostgreSQL ends one of two that wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_version_and_its_adoption_do_not_wait_for_each_other() {
    const ADOPTING: &str = "BEGIN; SET LOCAL lock_timeout = '500ms'; \
        INSERT INTO table_versions (table_id, branch, version, manifest_path, naming_scheme, origin, \
        committed_at_us, properties) \
        SELECT table_id, 'main', 1, 'somewhere', 'V2', 'foreign', 0, '{}' FROM tables";
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    const ADOPTED: &str = "UPDATE tables SET state = 'created'; ROLLBACK";
    let Some(server) = TestServer::spawn(Backend::Postgres).await else { return };
    server.with_declared("ns$t").await;
    let connect = || PgConnection::connect(server.database().url());
    let mut other = connect().await.expect("the database");
    // A transaction sees all the time what it saw first of the others' state.
    let mut watching = connect().await.expect("the database");
    sqlx::raw_sql(ADOPTING).execute(&mut other).await.expect("a version that is being adopted");
    let adopts = async {
        let waits = async {
            let mut count = async || {
                sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut watching).await.expect(WAITING)
            };
            while count().await == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waits).await.expect("nobody waits");
        sqlx::raw_sql(ADOPTED).execute(&mut other).await.expect("nobody holds the table");
    };
    let rows = batch_ab(0..3);
    let ((), inserted) = tokio::join!(adopts, server.insert("ns$t", &rows));
    assert_eq!(inserted["version"], 1, "{inserted}");
    assert_eq!(server.values("ns$t").await, [0, 1, 2]);
}

everywhere! {
    async fn who_does_not_want_to_share_does_not(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let mut bodies = Vec::new();
        for value in 0..4 {
            let mut body = append(&upload(&server, 10 + value).await, 1);
            match value {
                0 => body["coalesce"] = json!(false),
                1 => body["properties"] = json!({"by": "one"}),
                2 => body["properties"] = json!({"by": "two"}),
                _ => {}
            }
            bodies.push(body);
        }
        let replies = together(&server, bodies, 4).await;
        let mut versions: Vec<u64> = replies.iter().map(version).collect();
        versions.sort_unstable();
        assert_eq!(versions, [2, 3, 4, 5]);
        for (reply, by) in replies[1..3].iter().zip(["one", "two"]) {
            let path = format!("/v1/transaction/{}/describe", text(&reply.body, "transaction_id"));
            let told = server.post(&path, json!({})).await.ok();
            assert_eq!(told["properties"]["by"], by, "{told}");
        }
        assert_eq!(server.values("ns$t").await, [0, 10, 11, 12, 13]);
    }
}

everywhere! {
    /// What is wrong with one is told to that one.
    async fn one_that_does_not_fit_does_not_keep_the_others(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let fragments = foreign::fragments(&location, batch_ab(50..51)).await;
        let by_json = || json!({"operation": "append", "read_version": 1, "fragments": fragments});
        let other = foreign::fragments(&location, batch_a(60..61)).await;
        let mut bodies = vec![by_json(), by_json()];
        bodies.push(json!({"operation": "append", "read_version": 1, "fragments": other}));
        bodies.push(append(&upload(&server, 10).await, 1));
        bodies.push(append(&upload(&server, 11).await, 9));
        let mut strict = append(&upload(&server, 12).await, 1);
        strict["on_conflict"] = json!("fail");
        bodies.push(strict);
        let replies = together(&server, bodies, 2).await;
        let [one, two, lacking, good, ahead, strict] = &replies[..] else { panic!("six") };
        let (landed, doubled) = if one.status == 200 { (one, two) } else { (two, one) };
        version(landed);
        assert_error(doubled, 400, INVALID_INPUT);
        version(lacking);
        version(good);
        assert_error(ahead, 400, INVALID_INPUT);
        // It was strict, and came before or after the others.
        if strict.status != 200 {
            assert_error(strict, 409, CONCURRENT_MODIFICATION);
        }
        let rows = if strict.status == 200 { 5 } else { 4 };
        assert_eq!(server.count("ns$t").await, rows);
        // The upload of a refused commit can be committed still.
        let uploads = server.get(&table("ns$t", "uploads")).await.ok();
        let left = uploads["uploads"].as_array().expect("a list").len();
        assert_eq!(left as u64, 6 - rows);
    }
}

everywhere! {
    async fn an_append_does_not_go_over_an_overwrite_that_it_does_not_know(server: TestServer) {
        server.with_table("ns$t", 5).await;
        let (old, new) = (upload(&server, 10).await, upload(&server, 11).await);
        let path = format!("{}?mode=overwrite", table("ns$t", "insert"));
        server.post_arrow(&path, ipc(&[batch_ab(70..72)])).await.ok();
        server.append("ns$t", 2, &batch_ab(80..81)).await;
        let replies = together(&server, vec![append(&old, 1), append(&new, 2)], 2).await;
        assert_error(&replies[0], 409, CONCURRENT_MODIFICATION);
        assert_eq!(replies[0].body["conflicting_operation"], "Overwrite");
        assert_eq!(version(&replies[1]), 4);
        assert_eq!(server.values("ns$t").await, [11, 70, 71, 80]);
    }
}

everywhere! {
    /// As it is when a version stands and could not be recorded, and the next one could.
    async fn an_append_does_not_go_over_an_overwrite_that_has_no_row(server: TestServer) {
        server.with_table("ns$t", 5).await;
        let old = upload(&server, 10).await;
        let path = format!("{}?mode=overwrite", table("ns$t", "insert"));
        server.post_arrow(&path, ipc(&[batch_ab(70..72)])).await.ok();
        server.append("ns$t", 2, &batch_ab(80..81)).await;
        sql::run(server.database(), "DELETE FROM table_versions WHERE version = 2").await;
        let reply = server.post(&table("ns$t", "commit"), append(&old, 1)).await;
        assert_error(&reply, 409, CONCURRENT_MODIFICATION);
        assert_eq!(reply.body["conflicting_operation"], "Overwrite");
        assert_eq!(server.values("ns$t").await, [70, 71, 80]);
    }
}

everywhere! {
    /// Versions of others, which have no operation in their rows, are looked at.
    async fn an_append_goes_over_appends_past_the_server(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let mut bodies = Vec::new();
        for value in 0..3 {
            bodies.push(append(&upload(&server, 10 + value).await, 1));
        }
        for value in 0..3 {
            foreign::append(&location, batch_ab(20 + value..21 + value)).await;
        }
        let replies = together(&server, bodies, 3).await;
        assert!(replies.iter().all(|reply| version(reply) == 5 && reply.body["rebased"] == true));
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4, 5]);
        assert_eq!(server.values("ns$t").await, [0, 10, 11, 12, 20, 21, 22]);
    }
}

both! {
    async fn inserts_that_wait_share_a_version(server: TestServer) {
        server.with_table("ns$t", 1).await;
        hold(&server).await;
        let path = table("ns$t", "insert");
        let data_files = || server.files().iter().filter(|path| path.extension().is_some_and(|end| end == "lance")).count();
        let before = data_files();
        let inserts = (0..6).map(|value| server.post_arrow(&path, ipc(&[batch_ab(value..value + 1)])));
        let release = async {
            while data_files() < before + 6 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            release(&server).await;
        };
        let (replies, ()) = tokio::join!(join_all(inserts), release);
        assert!(replies.iter().all(|reply| reply.status == 200));
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        assert_eq!(server.values("ns$t").await, [0, 0, 1, 2, 3, 4, 5]);
        assert_eq!(claimed(server.database()).await, 0);
        let uploads = server.get(&table("ns$t", "uploads")).await.ok();
        assert_eq!(uploads["uploads"], json!([]));
    }
}

everywhere! {
    /// A key stays one's own in company: the same answer, and the rows once.
    async fn a_member_with_a_key_is_answered_again(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let mut bodies = Vec::new();
        for value in 0..3 {
            bodies.push(append(&upload(&server, 10 + value).await, 1));
        }
        hold(&server).await;
        let path = table("ns$t", "commit");
        let keyed = |key: usize, body: &Value| {
            let request = server.request(reqwest::Method::POST, &path).json(body);
            server.send(request.header("idempotency-key", key.to_string()))
        };
        let sent = join_all(bodies.iter().enumerate().map(|(key, body)| keyed(key, body)));
        let release = async {
            while claimed(server.database()).await < 3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            release(&server).await;
        };
        let (replies, ()) = tokio::join!(sent, release);
        assert!(replies.iter().all(|reply| version(reply) == 2));
        for (key, (body, reply)) in bodies.iter().zip(&replies).enumerate() {
            let again = keyed(key, body).await.ok();
            assert_eq!(again, reply.body);
        }
        assert_eq!(server.values("ns$t").await, [0, 10, 11, 12]);
    }
}

/// More than may wait are told to come again, and left nothing behind.
async fn too_many_are_told_to_come_again(backend: Backend) {
    let server = TestServer::spawn_with(backend, |settings| settings.max_waiting = 3).await;
    let Some(server) = server else { return };
    server.with_table("ns$t", 1).await;
    let mut bodies = Vec::new();
    for value in 0..8 {
        bodies.push(append(&upload(&server, 10 + value).await, 1));
    }
    // Those that are turned away give their uploads back, so that three are claimed at the end.
    let replies = together(&server, bodies.clone(), 3).await;
    let (landed, turned_away): (Vec<_>, Vec<_>) =
        replies.iter().partition(|reply| reply.status == 200);
    assert!(landed.len() >= 3 && !turned_away.is_empty(), "{} landed", landed.len());
    for reply in &turned_away {
        assert_error(reply, 429, THROTTLING);
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    assert_eq!(server.count("ns$t").await as usize, 1 + landed.len());
    for (body, reply) in bodies.into_iter().zip(&replies) {
        if reply.status == 429 {
            version(&server.post(&table("ns$t", "commit"), body).await);
        }
    }
    assert_eq!(server.values("ns$t").await, [0, 10, 11, 12, 13, 14, 15, 16, 17]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_are_told_to_come_again_on_sqlite() {
    too_many_are_told_to_come_again(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_are_told_to_come_again_on_postgres() {
    too_many_are_told_to_come_again(Backend::Postgres).await;
}

everywhere! {
    /// Whoever is second finds a table, whichever came first.
    async fn first_inserts_at_once_all_land(server: TestServer) {
        server.with_declared("ns$t").await;
        let path = table("ns$t", "insert");
        let inserts = (0..8).map(|value| server.post_arrow(&path, ipc(&[batch_ab(value..value + 1)])));
        for reply in join_all(inserts).await {
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        assert_eq!(server.values("ns$t").await, (0..8).collect::<Vec<i32>>());
    }
}

everywhere! {
    /// Its versions count from the beginning again, which what is remembered of the old ones does not
    /// hold up.
    async fn a_branch_that_is_made_again_takes_rows_at_once(server: TestServer) {
        server.with_table("ns$t", 1).await;
        for _ in 0..2 {
            let body = json!({"name": "b"});
            server.post(&table("ns$t", "branches/create"), body.clone()).await.ok();
            for version in 2..4 {
                let started = std::time::Instant::now();
                let path = table("ns$t", "insert?branch=b");
                let inserted = server.post_arrow(&path, ipc(&[batch_ab(1..2)])).await.ok();
                assert_eq!(inserted["version"], version, "{inserted}");
                let took = started.elapsed();
                assert!(took < Duration::from_secs(10), "an insert took {took:?}");
            }
            server.post(&table("ns$t", "branches/delete"), body).await.ok();
        }
    }
}
