//! Servers that are killed, or frozen, between the put of a manifest and its record: whoever sends
//! the request again gets the answer that the first try would have given, and the change is there once.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::support::batches::{batch_ab, ipc};
use crate::support::process::{Serving, tiltyard};
use crate::support::{Backend, Database, TestServer, files_under, foreign, sql, table};

/// Long enough for a lease to run out by itself.
const LIMIT: Duration = Duration::from_secs(60);
const UPSERT: &str =
    "merge_insert?on=a&when_matched_update_all=true&when_not_matched_insert_all=true";
/// Whoever records a version is at it until killed.
const STALL_SQLITE: &str = "CREATE TRIGGER stall BEFORE INSERT ON table_versions \
    WHEN NEW.operation IS NOT NULL BEGIN SELECT COUNT(*) FROM (WITH RECURSIVE counted(x) AS \
    (SELECT 1 UNION ALL SELECT x + 1 FROM counted WHERE x < 4000000000) SELECT x FROM counted); END";
const GO_ON_SQLITE: &str = "DROP TRIGGER stall";

enum Sent {
    Json(Value),
    Rows(RecordBatch),
}

/// Sends a request with a key. `None` when the server dies before it answers.
async fn send(base: &str, path: &str, sent: &Sent) -> Option<(u16, String)> {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client.post(format!("{base}{path}")).header("Idempotency-Key", "one");
    let request = match sent {
        Sent::Json(body) => request.json(body),
        Sent::Rows(rows) => request.body(ipc(std::slice::from_ref(rows))),
    };
    let reply = request.send().await.ok()?;
    let status = reply.status().as_u16();
    Some((status, reply.text().await.ok()?))
}

/// A server of the same catalog as a process of its own.
fn process_beside(server: &TestServer) -> Serving {
    let lake = server.lake().display().to_string();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--storage-root", &lake];
    let mut command = tiltyard(server.home(), &arguments);
    command.env("TILTYARD_DATABASE", server.database().url());
    Serving::start(command)
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status();
    assert!(sent.expect("sh runs").success(), "the signal was not sent");
}

/// Keeps every version from being recorded while it stands.
struct Stalled(Option<PgConnection>);

impl Stalled {
    async fn begin(database: &Database) -> Self {
        match database {
            Database::Sqlite { .. } => {
                sql::run(database, STALL_SQLITE).await;
                Self(None)
            }
            Database::Postgres { .. } => Self(Some(lock(database, LOCK_VERSIONS).await)),
        }
    }

    async fn end(self, database: &Database) {
        match self.0 {
            None => sql::run(database, GO_ON_SQLITE).await,
            Some(connection) => connection.close().await.expect("the end of the lock"),
        }
    }
}

const LOCK_VERSIONS: &str = "BEGIN; LOCK TABLE table_versions IN EXCLUSIVE MODE";
const LOCK_INTENTS: &str = "BEGIN; LOCK TABLE batch_versions IN ACCESS EXCLUSIVE MODE";

/// A connection that holds a lock until it is closed.
async fn lock(database: &Database, sql: &'static str) -> PgConnection {
    let mut connection = PgConnection::connect(database.url()).await.expect("the catalog");
    sqlx::raw_sql(sql).execute(&mut connection).await.expect(sql);
    connection
}

fn manifests(location: &str) -> usize {
    let files = files_under(&Path::new(&foreign::folder(location)).join("_versions"));
    let is_manifest = |file: &&std::path::PathBuf| {
        file.extension().is_some_and(|extension| extension == "manifest")
    };
    files.iter().filter(is_manifest).count()
}

async fn wait_for(what: &str, mut is_there: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_there().await {
        assert!(started.elapsed() < LIMIT, "{what} never came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What each request does, and the values of `a` after it, which were 0, 1 and 2.
fn requests() -> Vec<(&'static str, Sent, Vec<i32>)> {
    let update = json!({"updates": [["a", "a + 1"]], "predicate": null});
    vec![
        ("update", Sent::Json(update.clone()), vec![1, 2, 3]),
        ("update/", Sent::Json(update), vec![1, 2, 3]),
        ("delete", Sent::Json(json!({"predicate": "a = 1"})), vec![0, 2]),
        (UPSERT, Sent::Rows(batch_ab(2..5)), vec![0, 1, 2, 3, 4]),
        ("insert", Sent::Rows(batch_ab(7..9)), vec![0, 1, 2, 7, 8]),
        ("insert?mode=overwrite", Sent::Rows(batch_ab(7..9)), vec![7, 8]),
        ("create?mode=overwrite", Sent::Rows(batch_ab(7..9)), vec![7, 8]),
    ]
}

async fn a_killed_server_changes_once(backend: Backend) {
    let Some(server) = TestServer::spawn(backend).await else { return };
    let mut left = Vec::new();
    for (number, (operation, sent, expected)) in requests().into_iter().enumerate() {
        let id = format!("ns$t{number}");
        let location = server.with_table(&id, 3).await;
        let path = table(&id, operation);
        let doomed = process_beside(&server);
        let stalled = Stalled::begin(server.database()).await;
        let first = async { send(&doomed.base, &path, &sent).await };
        let killed = async {
            wait_for("the manifest", async || manifests(&location) == 2).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            signal(doomed.process(), "KILL");
        };
        let (first, ()) = futures::join!(first, killed);
        assert_eq!(first, None, "{path} was answered");
        drop(doomed);
        stalled.end(server.database()).await;
        left.push((id, location, path, sent, expected));
    }
    sql::let_leases_run_out(server.database()).await;
    for (id, location, path, sent, expected) in &left {
        let first = send(server.base(), path, sent).await.expect("an answer");
        assert_eq!(first.0, 200, "{path}: {}", first.1);
        assert_eq!(send(server.base(), path, sent).await.as_ref(), Some(&first), "{path}");
        assert_eq!(&foreign::values(location).await, expected, "{path}");
        assert_eq!(&server.values(id).await, expected, "{path}");
        assert_eq!(server.versions(id).await, [1, 2], "{path}");
        let answer: Value = serde_json::from_str(&first.1).expect("JSON");
        assert_eq!(answer["version"], 2, "{path}: {answer}");
        let counts = [
            ("updated_rows", 3),
            ("rows_updated", 3),
            ("num_inserted_rows", 2),
            ("num_updated_rows", 1),
            ("num_deleted_rows", 0),
        ];
        for (name, count) in counts {
            let told = &answer[name];
            assert!(told.is_null() || *told == count, "{path}: {name} in {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_changes_once_on_sqlite() {
    a_killed_server_changes_once(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_changes_once_on_postgres() {
    a_killed_server_changes_once(Backend::Postgres).await;
}

/// The first server has asked all that it asks before the put, and then stands still for longer than
/// its lease. When it goes on, the change has been made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_does_not_make_the_change_again() {
    let Some(server) = TestServer::spawn(Backend::Postgres).await else { return };
    for (number, (operation, sent, expected)) in requests().into_iter().enumerate() {
        let id = format!("ns$t{number}");
        let location = server.with_table(&id, 3).await;
        let path = table(&id, operation);
        let frozen = process_beside(&server);
        let held = lock(server.database(), LOCK_INTENTS).await;
        let first = async { send(&frozen.base, &path, &sent).await };
        let second = async {
            let mut looking = PgConnection::connect(server.database().url()).await.expect("it");
            let waits = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted \
                AND relation = 'batch_versions'::regclass";
            wait_for("the put", async || {
                let waiting = sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut looking).await;
                waiting.expect(waits) > 0
            })
            .await;
            signal(frozen.process(), "STOP");
            held.close().await.expect("the end of the lock");
            sql::let_leases_run_out(server.database()).await;
            let second = send(server.base(), &path, &sent).await;
            signal(frozen.process(), "CONT");
            second
        };
        let (first, second) = futures::join!(first, second);
        assert_eq!(second.as_ref().map(|answer| answer.0), Some(200), "{path}: {second:?}");
        assert_eq!(first, second, "{path}");
        assert_eq!(&foreign::values(&location).await, &expected, "{path}");
        assert_eq!(server.versions(&id).await, [1, 2], "{path}");
    }
}
