//! `tiltyard migrate --from … --to …`: a catalog moves from SQLite to PostgreSQL and back.

use serde_json::json;
use tempfile::TempDir;

use crate::support::batches::batch_ab;
use crate::support::process::tiltyard;
use crate::support::upkeep::{column, every_row, sql};
use crate::support::{Backend, Database, TestServer, namespace, table};

/// Runs `migrate` in an empty folder. Answers whether it went well, and what it said.
async fn migrate(arguments: &[&str]) -> (bool, String) {
    let home = TempDir::with_prefix("tiltyard-move-").expect("a temporary folder");
    let mut command = tiltyard(home.path(), &[&["migrate"], arguments].concat());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread");
    let output = output.expect("the binary runs");
    let (out, err) = (&output.stdout, &output.stderr);
    let said = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(!said.contains("panicked"), "{said}");
    let made = home.path().read_dir().expect("the folder").count();
    assert_eq!(made, 0, "made by {arguments:?}");
    (output.status.success(), said)
}

/// Something in almost every table of the catalog.
async fn fill(server: &TestServer) {
    server.with_table("a$b", 3).await;
    server.create_namespace("a$deep").await;
    server.create_namespace("a$deep$er").await;
    server.insert("a$b", &batch_ab(3..5)).await;
    server.upload("a$b", &batch_ab(9..10)).await;
    server.post(&table("a$b", "tags/create"), json!({"tag": "first", "version": 1})).await.ok();
    server.with_declared("a$deep$er$declared").await;
    let begun = table("a$b", "multipart_write/create");
    server.post(&begun, json!({})).await.ok();
    let insert = server.request(reqwest::Method::POST, &table("a$b", "commit"));
    let uploaded = server.upload("a$b", &batch_ab(5..6)).await;
    let body = json!({"operation": "append", "read_version": 2,
        "uploads": [uploaded["upload_id"]], "properties": {"é'\"": "\u{1F600}"}});
    server.send(insert.header("Idempotency-Key", "once").json(&body)).await.ok();
    let index = json!({"column": "a", "index_type": "BTREE"});
    server.post(&table("a$b", "create_scalar_index"), index).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_moves_to_postgres_and_back() {
    let mut server = TestServer::spawn(Backend::Sqlite).await.expect("SQLite is always there");
    let folder = TempDir::with_prefix("tiltyard-move-").expect("a temporary folder");
    let Some(postgres) = Database::create(Backend::Postgres, folder.path()).await else { return };
    let back = Database::create(Backend::Sqlite, folder.path()).await.expect("SQLite");
    fill(&server).await;
    assert!({
        server.begin_shutdown();
        server.wait_until_down()
    });
    let rows = every_row(server.database()).await;

    let from_sqlite = ["--from", server.database().url(), "--to", postgres.url()];
    let (well, said) = migrate(&from_sqlite).await;
    assert!(well, "{said}");
    for what in ["         5 namespaces", "         2 tables", "         1 idempotency_keys"] {
        assert!(said.contains(what), "{what}: {said}");
    }
    // Every table that the migrations made is named.
    let names = column(
        &postgres,
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' \
         AND table_name <> '_sqlx_migrations'",
    );
    for name in names.await {
        assert!(said.contains(&format!(" {name}\n")), "{name}: {said}");
    }
    assert_eq!(every_row(server.database()).await, rows, "what was there stays");
    let there = every_row(&postgres).await;
    assert_eq!(there.len(), rows.len());

    // What has rows is left alone.
    let (well, said) = migrate(&from_sqlite).await;
    assert!(!well && said.contains("not empty"), "{said}");
    assert_eq!(every_row(&postgres).await, there);

    let (well, said) = migrate(&["--from", postgres.url(), "--to", back.url()]).await;
    assert!(well, "{said}");
    assert_eq!(every_row(&back).await, rows);

    let (url, lake) = (postgres.url().to_owned(), server.lake().display().to_string());
    let moved = TestServer::spawn_with(Backend::Sqlite, move |settings| {
        settings.database = url.clone();
        settings.storage_root = lake.clone();
    });
    let moved = moved.await.expect("SQLite is always there");
    assert_eq!(moved.values("a$b").await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(moved.names(&namespace("a$deep", "list"), "namespaces").await, ["er"]);
    let versions = moved.versions("a$b").await;
    moved.insert("a$b", &batch_ab(6..7)).await;
    assert_eq!(moved.values("a$b").await, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(moved.versions("a$b").await.len(), versions.len() + 1);
    // The database goes on counting after the events that came with the rest.
    let told = moved.get("/v1/events?table=a$b&kind=version.created&limit=1000").await.ok();
    let newest = told["events"].as_array().and_then(|events| events.last()).expect("an event");
    assert_eq!(newest["version"].as_u64(), versions.last().map(|last| last + 1), "{told}");
    drop(moved);
    postgres.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_moved_is_refused() {
    let server = TestServer::spawn(Backend::Sqlite).await.expect("SQLite is always there");
    let url = server.database().url();
    let same = ["--from", url, "--to", "sqlite://other.db"];
    let absent = ["--from", "sqlite://no/such.db", "--to", "postgres://nobody@127.0.0.1:1/x"];
    for (arguments, why) in [
        (&same[..], "its own tools"),
        (&absent[..], "no such database file"),
        (&["--from", url], "--to"),
        (&["--from", "mysql://x", "--to", url], "sqlite://PATH or postgres://"),
    ] {
        let (well, said) = migrate(arguments).await;
        assert!(!well && said.contains(why), "{arguments:?}: {said}");
    }
}

both! {
    /// A binary that is older than the schema says so and touches nothing.
    async fn a_schema_of_a_newer_version_is_refused(server: TestServer) {
        let mut server = server;
        assert!({ server.begin_shutdown(); server.wait_until_down() });
        let database = server.database();
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, \
                     execution_time) VALUES (9999, 'later', TRUE, ";
        let checksum = match database {
            Database::Sqlite { .. } => "x'00', 0)",
            Database::Postgres { .. } => "'\\x00', 0)",
        };
        sql(database, &format!("{newer}{checksum}")).await;
        let (well, said) = migrate(&["--database", database.url()]).await;
        assert!(!well && said.contains("newer version of tiltyard"), "{said}");
        for serve in [&["serve"][..], &["serve", "--no-migrate"]] {
            let url = ["--database", database.url(), "--listen", "127.0.0.1:0"];
            let mut command = tiltyard(server.home(), &[serve, &url].concat());
            let output = tokio::task::spawn_blocking(move || command.output()).await;
            let output = output.expect("a thread").expect("the binary runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{said}");
            assert!(said.contains("newer version of tiltyard"), "{said}");
        }
    }
}
