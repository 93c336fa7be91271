//! The two databases: the same migrations by name, and the same tables and columns in the end.

use std::collections::BTreeSet;
use std::path::Path;

use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::support::{Backend, Database, TestServer, files_under};

/// The migrations of one database, by their names.
fn migrations(database: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
    let files = files_under(&folder);
    let names = files.iter().filter_map(|file| file.file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Every `(table, column)` of a catalog, but for what the migrator keeps for itself.
async fn columns(database: &Database) -> BTreeSet<(String, String)> {
    let rows: Vec<(String, String)> = match database {
        Database::Sqlite { url } => {
            let mut connection = SqliteConnection::connect(url).await.expect("the catalog");
            let sql = "SELECT m.name, p.name FROM sqlite_master AS m \
                       JOIN pragma_table_info(m.name) AS p \
                       WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
            let rows = sqlx::query_as::<_, (String, String)>(sql).fetch_all(&mut connection).await;
            rows.expect("the columns")
        }
        Database::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url).await.expect("the catalog");
            let sql = "SELECT table_name::text, column_name::text FROM information_schema.columns \
                       WHERE table_schema = 'public'";
            let rows = sqlx::query_as::<_, (String, String)>(sql).fetch_all(&mut connection).await;
            rows.expect("the columns")
        }
    };
    rows.into_iter().filter(|(table, _)| table != "_sqlx_migrations").collect()
}

#[test]
fn migrations_come_in_pairs() {
    let (sqlite, postgres) = (migrations("sqlite"), migrations("postgres"));
    assert!(!sqlite.is_empty(), "there are no migrations");
    assert_eq!(sqlite, postgres);
}

/// `0001_name.sql`, without gaps: what was released is never renumbered.
#[test]
fn migrations_are_numbered() {
    for (index, name) in migrations("sqlite").iter().enumerate() {
        let number = format!("{:04}_", index + 1);
        assert!(name.starts_with(&number) && name.ends_with(".sql"), "{name} is not {number}*.sql");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_databases_end_with_the_same_tables_and_columns() {
    let Some(postgres) = TestServer::spawn(Backend::Postgres).await else {
        return;
    };
    let sqlite = TestServer::spawn(Backend::Sqlite).await;
    let sqlite = sqlite.expect("SQLite is always there");
    let (postgres, sqlite) = (columns(postgres.database()).await, columns(sqlite.database()).await);
    assert!(!sqlite.is_empty(), "there are no tables");
    assert_eq!(sqlite, postgres);
}

both! {
    /// A start on a database that is up to date changes nothing.
    async fn migrations_run_once(server: TestServer) {
        let mut server = server;
        server.create_namespace("a").await;
        let before = columns(server.database()).await;
        server.restart().await;
        assert_eq!(columns(server.database()).await, before);
        assert_eq!(
            server.names("/v1/namespace/$/list", "namespaces").await,
            ["a"]
        );
    }
}
