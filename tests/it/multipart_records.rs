//! Multipart writes whose records were lost or are old: storage says what landed.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::parts::Parts;
use crate::support::{Backend, Database, TestServer, assert_error, foreign};

/// Keeps a version of ours from being written down, as a crash right after its put would.
const LOSE_SQLITE: &str = "CREATE TRIGGER lose BEFORE INSERT ON table_versions \
    WHEN NEW.operation IS NOT NULL BEGIN SELECT RAISE(ABORT, 'lost'); END";
const LOSE_POSTGRES: &str = "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS \
    'BEGIN IF NEW.operation IS NOT NULL THEN RAISE EXCEPTION ''lost''; END IF; RETURN NEW; END'; \
    CREATE TRIGGER lose BEFORE INSERT ON table_versions FOR EACH ROW EXECUTE FUNCTION lose()";
const KEEP_SQLITE: &str = "DROP TRIGGER lose";
const KEEP_POSTGRES: &str = "DROP TRIGGER lose ON table_versions; DROP FUNCTION lose";

/// Runs SQL past the server.
async fn run(database: &Database, sqlite: &'static str, postgres: &'static str) {
    match database {
        Database::Sqlite { url } => {
            let mut connection = SqliteConnection::connect(url).await.expect("the catalog");
            let done = sqlx::raw_sql(sqlite).execute(&mut connection).await;
            done.expect(sqlite);
        }
        Database::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url).await.expect("the catalog");
            let done = sqlx::raw_sql(postgres).execute(&mut connection).await;
            done.expect(postgres);
        }
    }
}

async fn same(database: &Database, sql: &'static str) {
    run(database, sql, sql).await;
}

async fn count(database: &Database, sql: &'static str) -> i64 {
    match database {
        Database::Sqlite { url } => {
            let mut connection = SqliteConnection::connect(url).await.expect("the catalog");
            sqlx::query_scalar(sql).fetch_one(&mut connection).await.expect(sql)
        }
        Database::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url).await.expect("the catalog");
            sqlx::query_scalar(sql).fetch_one(&mut connection).await.expect(sql)
        }
    }
}

both! {
    /// The manifest stands, and no row says so.
    async fn what_landed_unrecorded_is_found_in_storage(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let other = server.beside().await;
        let ways = ["UPDATE idempotency_keys SET lease_us = 0", "DELETE FROM idempotency_keys"];
        for (round, forget) in (0..).zip(ways) {
            let parts = Parts::begin(&server, "ns$t").await;
            let from = 1 + round * 2;
            parts.part("x", &batch_ab(from..from + 1)).await;
            parts.part("y", &batch_ab(from + 1..from + 2)).await;
            run(server.database(), LOSE_SQLITE, LOSE_POSTGRES).await;
            let version = parts.completed().await;
            run(server.database(), KEEP_SQLITE, KEEP_POSTGRES).await;
            let files = server.files();
            let lost = "SELECT COUNT(*) FROM multipart_writes WHERE state = 'completing'";
            assert_eq!(count(server.database(), lost).await, 1, "it was recorded");
            // Whoever made it is dead for the others.
            same(server.database(), forget).await;
            server.post_empty(&crate::support::table("ns$t", "describe")).await.ok();
            parts.abort().await.ok();
            let late = parts.send("&upload_part_id=z", &batch_ab(99..100)).await;
            assert_error(&late, 400, INVALID_INPUT);
            // Others go on before it is asked for again.
            other.insert("ns$t", &batch_ab(100 + round..101 + round)).await;
            assert_eq!(parts.seen(&other, "ns$t", "").completed().await, version);
            assert_eq!(parts.completed().await, version);
            assert!(files.iter().all(|file| file.exists()), "files are gone");
        }
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4, 100, 101]);
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4, 5]);
    }
}

both! {
    /// A part that is gone keeps the others from being committed without it.
    async fn a_lost_part_is_not_left_out(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("x", &batch_ab(1..2)).await;
        parts.part("y", &batch_ab(2..3)).await;
        // Closed by one who died before anything was put.
        same(
            server.database(),
            "UPDATE multipart_writes SET state = 'completing', num_parts = 2, read_version = 1",
        )
        .await;
        same(server.database(), "DELETE FROM uploads WHERE part_id = 'x'").await;
        for _ in 0..2 {
            assert_error(&parts.complete().await, 400, INVALID_INPUT);
        }
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(server.values("ns$t").await, [0]);
    }
}

/// The rows of writes that are over go with time.
async fn old_rows_go(backend: Backend) {
    let configure = |settings: &mut tiltyard::config::Settings| {
        settings.gc_interval = Duration::from_millis(100);
    };
    let Some(server) = TestServer::spawn_with(backend, configure).await else { return };
    server.with_table("ns$t", 1).await;
    let writes = "SELECT COUNT(*) FROM multipart_writes";
    let [open, aborted, done, stuck] = [
        Parts::begin(&server, "ns$t").await,
        Parts::begin(&server, "ns$t").await,
        Parts::begin(&server, "ns$t").await,
        Parts::begin(&server, "ns$t").await,
    ];
    for parts in [&open, &done, &stuck] {
        parts.part("x", &batch_ab(1..2)).await;
    }
    aborted.abort().await.ok();
    done.completed().await;
    let before = server.files().len();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(count(server.database(), writes).await, 4, "gone before their time");
    // One whose commit nobody brought to an end; then a long time passes.
    same(
        server.database(),
        "UPDATE multipart_writes SET state = 'completing', num_parts = 1 \
         WHERE created_at_us = (SELECT MAX(created_at_us) FROM multipart_writes)",
    )
    .await;
    same(server.database(), "UPDATE multipart_writes SET expires_at_us = 1").await;
    same(server.database(), "UPDATE uploads SET expires_at_us = 1 WHERE state = 'staged'").await;
    let started = Instant::now();
    // The open one is over now, and stays for a while to say so.
    while count(server.database(), writes).await > 1 || server.files().len() > before - 2 {
        assert!(started.elapsed() < Duration::from_secs(20), "rows or files are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(count(server.database(), writes).await, 1);
    for parts in [&open, &aborted, &done, &stuck] {
        assert_error(&parts.complete().await, 400, INVALID_INPUT);
        parts.abort().await.ok();
    }
    assert_eq!(server.values("ns$t").await, [0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_rows_go_on_sqlite() {
    old_rows_go(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_rows_go_on_postgres() {
    old_rows_go(Backend::Postgres).await;
}
