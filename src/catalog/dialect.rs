//! Every difference between SQLite and PostgreSQL.

use std::str::FromStr;
use std::time::Duration;

use sqlx::Executor;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::lookups::Lookups;
use super::postgres::in_time;
use super::readers::Readers;
use super::{Connection, Pools, Tx};
use crate::error::{Error, Result};

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// How long a request waits for a connection before it is told that the catalog is busy.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most connections to PostgreSQL for what is not a request.
const FEW_CONNECTIONS: u32 = 4;
/// How many may read SQLite at once.
const SQLITE_READERS: usize = 8;
/// How much of the file each connection to SQLite remembers at most, in KiB: the upper pages of the
/// trees of a million tables, so that a name is found with a read or two. SQLite's own is 2000.
const SQLITE_CACHE_KIB: u32 = 16 << 10;

/// What a server that froze or vanished may hold: the others wait no longer for its rows, and the
/// database gives them up by itself. The keepalives are in seconds, and in their number.
const POSTGRES_LIMITS: &str = "SET idle_in_transaction_session_timeout = '15s'; \
    SET lock_timeout = '20s'; SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; \
    SET tcp_keepalives_count = 3";
/// Codes of PostgreSQL for what may go well the next time: a deadlock, a failed serialization, a wait
/// for a lock or a statement that took too long, a transaction that was given up, a shutdown, a start,
/// too many connections.
const PASSING: [&str; 9] =
    ["40P01", "40001", "55P03", "57014", "25P03", "57P01", "57P02", "57P03", "53300"];

/// Whether what failed may go well the next time. Nothing of its transaction was kept.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().is_some_and(|code| PASSING.contains(&code.as_ref()))
}

/// Connecting is where the two differ most: a file that is made if absent, with one writer and a
/// log beside it, against a server with a pool.
pub(super) async fn open(url: &str, max_connections: u32) -> Result<Pools> {
    if let Some(folder) = sqlite_file(url).and_then(std::path::Path::parent)
        && !folder.as_os_str().is_empty()
    {
        std::fs::create_dir_all(folder).map_err(|error| {
            Error::invalid_input(format!("the folder of the database cannot be made: {error}"))
        })?;
    }
    connect(url, max_connections).await
}

/// As [`open`], of a database that is there: who only looks would else look into a new, empty one.
pub(super) async fn open_existing(url: &str) -> Result<Pools> {
    if sqlite_file(url).is_some_and(|file| !file.is_file()) {
        return Err(Error::invalid_input("there is no such database file"));
    }
    connect(url, FEW_CONNECTIONS).await
}

/// Connections beside those that there are, opened when they are first needed. SQLite has as many
/// readers as it can use, and one writer, for whom everyone waits in order.
pub(super) fn in_background(pools: &Pools) -> Option<Pools> {
    let Pools::Postgres(pool) = pools else { return None };
    let options = pool.options().clone().max_connections(FEW_CONNECTIONS).min_connections(0);
    Some(Pools::Postgres(options.connect_lazy_with((*pool.connect_options()).clone())))
}

fn sqlite_file(url: &str) -> Option<&std::path::Path> {
    let path = url.strip_prefix("sqlite://").filter(|path| !path.is_empty())?;
    Some(std::path::Path::new(path.split('?').next().unwrap_or(path)))
}

async fn connect(url: &str, max_connections: u32) -> Result<Pools> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let pool = PgPoolOptions::new()
            .max_connections(max_connections.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Not as options of the connection, which poolers refuse.
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(POSTGRES_LIMITS).await.map(drop) })
            })
            .connect(url)
            .await
            .map_err(|error| unreachable(&error))?;
        return Ok(Pools::Postgres(pool));
    }
    if sqlite_file(url).is_none() {
        return Err(Error::invalid_input("the database must be sqlite://PATH or postgres://…"));
    }
    let options = SqliteConnectOptions::from_str(url)
        .map_err(|error| Error::invalid_input(format!("the database URL is wrong: {error}")))?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // What was acknowledged survives a power cut, not only a crash of ours.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(ACQUIRE_TIMEOUT)
        .pragma("cache_size", format!("-{SQLITE_CACHE_KIB}"))
        .foreign_keys(true);
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // There is no server that could have gone away since.
        .test_before_acquire(false)
        .connect_with(options.clone())
        .await
        .map_err(|error| unreachable(&error))?;
    let lookups = Lookups::open(options.get_filename(), SQLITE_READERS);
    let readers = Readers::open(options, SQLITE_READERS, ACQUIRE_TIMEOUT).await;
    let readers = readers.map_err(|error| unreachable(&error))?;
    Ok(Pools::Sqlite { readers, lookups, writer })
}

fn unreachable(error: &sqlx::Error) -> Error {
    Error::ServiceUnavailable(format!("the catalog database cannot be opened: {error}"))
}

/// Two who look for overlapping locations at once would both see a free place. A write on SQLite
/// has the database to itself already; PostgreSQL needs to be told.
pub(super) async fn lock_locations(tx: &mut Tx) -> Result<(), sqlx::Error> {
    // Any number will do that no other lock of ours has.
    const SQL: &str = "SELECT pg_advisory_xact_lock(8391652017)";
    let Connection::Postgres(held) = &mut tx.connection else { return Ok(()) };
    let work = async { sqlx::query(SQL).execute(held.connection()?).await.map(drop) };
    let locked = in_time(work).await;
    held.unless_lost(locked)
}

/// # Errors
/// `InvalidInput` for a database that does not have all migrations of this version, or has more.
pub(super) async fn ensure_current(pools: &Pools) -> Result<()> {
    const SQL: &str = "SELECT version FROM _sqlx_migrations WHERE success";
    let (done, known) = match pools {
        Pools::Sqlite { writer, .. } => {
            (sqlx::query_scalar::<_, i64>(SQL).fetch_all(writer).await, &SQLITE)
        }
        Pools::Postgres(pool) => {
            (sqlx::query_scalar::<_, i64>(SQL).fetch_all(pool).await, &POSTGRES)
        }
    };
    let done = match done {
        Ok(done) => done,
        // There is no such table: nothing was ever done.
        Err(sqlx::Error::Database(_)) => Vec::new(),
        Err(error) => return Err(unreachable(&error)),
    };
    if let Some(newer) = done.iter().find(|version| !known.version_exists(**version)) {
        return Err(from_the_future(*newer));
    }
    if known.iter().any(|migration| !done.contains(&migration.version)) {
        return Err(Error::invalid_input(
            "the database does not have the schema of this version: `tiltyard migrate` brings it \
             up to date",
        ));
    }
    Ok(())
}

/// A newer version brought the schema up to date; this one would not understand what it finds.
fn from_the_future(migration: i64) -> Error {
    Error::invalid_input(format!(
        "the database has the schema of a newer version of tiltyard (migration {migration} is not \
         known to this one); use that version, or a copy of the database from before"
    ))
}

/// Each database has its own column types, so each has its own migrations, always in pairs.
/// sqlx takes an advisory lock on PostgreSQL and wraps each migration in a transaction.
pub(super) async fn migrate(pools: &Pools) -> Result<()> {
    let migrated = match pools {
        Pools::Sqlite { writer, .. } => SQLITE.run(writer).await,
        Pools::Postgres(pool) => POSTGRES.run(pool).await,
    };
    migrated.map_err(|error| match error {
        MigrateError::VersionMissing(version) => from_the_future(version),
        error => Error::ServiceUnavailable(format!(
            "the database schema cannot be brought up to date: {error}"
        )),
    })
}
