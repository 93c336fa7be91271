//! The subcommands that look after a catalog, and what they may and may not change.

use std::path::Path;
use std::time::{Duration, SystemTime};

use sqlx::{Connection, PgConnection, Postgres, QueryBuilder, Row, Sqlite, SqliteConnection};

use super::process::tiltyard;
use super::{Database, TestServer, files_under};

/// Longer than any age at which something is garbage by default.
const DAYS: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// Every table of the catalog.
const TABLES: [&str; 20] = [
    "namespaces",
    "tables",
    "dropped_tables",
    "table_versions",
    "manifest_claims",
    "shared_transactions",
    "multipart_writes",
    "uploads",
    "upload_files",
    "pending_removals",
    "idempotency_keys",
    "jobs",
    "views",
    "clones",
    "batches",
    "batch_versions",
    "access_epoch",
    "api_keys",
    "namespace_grants",
    "table_grants",
];

/// How a subcommand ended, and what it printed.
#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub lines: Vec<String>,
    pub error: String,
}

impl Told {
    /// Lines that hold all of some words.
    pub fn about(&self, words: &[&str]) -> Vec<&String> {
        let holds = |line: &&String| words.iter().all(|word| line.contains(word));
        self.lines.iter().filter(holds).collect()
    }

    /// There is exactly one line with these words.
    #[track_caller]
    pub fn tells(&self, words: &[&str]) {
        assert_eq!(self.about(words).len(), 1, "{words:?} in {self:#?}");
    }

    pub fn last(&self) -> &str {
        self.lines.last().map_or("", String::as_str)
    }
}

/// Runs a subcommand on the database and the lake of a server, which runs on meanwhile.
pub async fn tell(server: &TestServer, arguments: &[&str]) -> Told {
    let lake = server.lake().display().to_string();
    let mut command = tiltyard(server.home(), arguments);
    command.args(["--storage-root", &lake]);
    command.env("TILTYARD_DATABASE", server.database().url());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread");
    let output = output.expect("the binary runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!error.contains("panicked"), "{error}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Told {
        code: output.status.code().expect("an exit code"),
        lines: text.lines().map(str::to_owned).collect(),
        error,
    }
}

/// Runs a statement past the server; it is the test's own.
pub async fn sql(database: &Database, text: &str) {
    let done = match database {
        Database::Sqlite { url } => {
            let mut connection = SqliteConnection::connect(url).await.expect("the catalog");
            let mut statement = QueryBuilder::<Sqlite>::new("");
            statement.push(text);
            statement.build().persistent(false).execute(&mut connection).await.map(drop)
        }
        Database::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url).await.expect("the catalog");
            let mut statement = QueryBuilder::<Postgres>::new("");
            statement.push(text);
            statement.build().persistent(false).execute(&mut connection).await.map(drop)
        }
    };
    done.unwrap_or_else(|error| panic!("{text}: {error}"));
}

/// The first column of the answer, as text.
pub async fn column(database: &Database, text: &str) -> Vec<String> {
    match database {
        Database::Sqlite { url } => {
            let mut connection = SqliteConnection::connect(url).await.expect("the catalog");
            let mut statement = QueryBuilder::<Sqlite>::new("");
            statement.push(text);
            let rows = statement.build().persistent(false).fetch_all(&mut connection).await;
            rows.expect(text).iter().map(|row| row.get(0)).collect()
        }
        Database::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url).await.expect("the catalog");
            let mut statement = QueryBuilder::<Postgres>::new("");
            statement.push(text);
            let rows = statement.build().persistent(false).fetch_all(&mut connection).await;
            rows.expect(text).iter().map(|row| row.get(0)).collect()
        }
    }
}

/// A UUID as the database takes it in SQL.
pub fn literal(database: &Database, key: uuid::Uuid) -> String {
    match database {
        Database::Sqlite { .. } => format!("x'{}'", key.simple()),
        Database::Postgres { .. } => format!("'{key}'"),
    }
}

/// Every row of the catalog and every file of the lake, each with what would show a change.
pub async fn everything(server: &TestServer) -> Vec<String> {
    let mut all = every_row(server.database()).await;
    for file in server.files() {
        let meta = std::fs::metadata(&file).expect("a file");
        all.push(format!("{} {} {:?}", file.display(), meta.len(), meta.modified()));
    }
    all
}

/// Every row of the catalog.
pub async fn every_row(database: &Database) -> Vec<String> {
    let mut all = Vec::new();
    for table in TABLES {
        let rows = match database {
            Database::Postgres { .. } => {
                column(database, &format!("SELECT t::text FROM {table} t")).await
            }
            Database::Sqlite { .. } => {
                let columns = format!("SELECT name FROM pragma_table_info('{table}')");
                let columns = column(database, &columns).await;
                let columns: Vec<String> =
                    columns.iter().map(|name| format!("quote({name})")).collect();
                let text = format!("SELECT {} FROM {table}", columns.join(" || ',' || "));
                column(database, &text).await
            }
        };
        let mut rows: Vec<String> = rows.iter().map(|row| format!("{table}: {row}")).collect();
        rows.sort();
        all.extend(rows);
    }
    all
}

/// Makes a file as old as garbage is.
pub fn make_old(file: &Path) {
    let opened = std::fs::File::options().write(true).open(file).expect("a file");
    opened.set_modified(SystemTime::now() - DAYS).expect("its time");
}

/// Makes all that is under a folder as old as garbage is.
pub fn make_all_old(folder: &Path) {
    for file in files_under(folder) {
        make_old(&file);
    }
}

/// Puts a file with a few bytes in it, as old as garbage is.
pub fn put_old(file: &Path) {
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    std::fs::write(file, b"nothing in particular").expect("a file");
    make_old(file);
}
