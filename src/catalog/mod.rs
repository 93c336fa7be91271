//! The truth about names, in SQL; the only module that names sqlx (and rusqlite, for `lookups.rs`).
//!
//! Every statement is one text for SQLite and PostgreSQL (`$1` placeholders, time as `BIGINT`
//! microseconds, no `FOR UPDATE`), compiled once for each driver by [`run!`]. What cannot be the
//! same lives in `dialect.rs`, named and explained.

pub mod access;
pub mod batches;
pub mod claims;
pub mod clones;
mod dialect;
pub mod dropped;
pub mod events;
mod grouped;
pub mod idempotency;
pub mod jobs;
mod lookups;
pub mod multipart;
pub mod namespaces;
mod postgres;
pub mod protection;
mod readers;
pub mod removals;
pub mod survey;
pub mod tables;
pub mod transactions;
mod transfer;
pub mod uploads;
pub mod versions;
pub mod views;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures::future::BoxFuture;
use sqlx::{PgPool, Sqlite, SqliteConnection, SqlitePool};

use crate::error::{Error, Result};
use crate::model::Event;
use crate::telemetry::meters;

pub use transfer::move_catalog;

/// Runs the same body against whichever driver the transaction holds, as a span of its own: sqlx tells
/// the statement within it. PostgreSQL is waited for only so long.
macro_rules! run {
    ($tx:expr, |$connection:ident| $body:expr) => {{
        let span = tracing::debug_span!("sql", otel.kind = "client");
        let work = async {
            match &mut $tx.connection {
                $crate::catalog::Connection::Sqlite(session) => {
                    let $connection = &mut **session;
                    $body
                }
                $crate::catalog::Connection::Postgres(held) => {
                    let work = async {
                        let $connection = held.connection()?;
                        $body
                    };
                    let outcome = $crate::catalog::postgres::in_time(work).await;
                    held.unless_lost(outcome)
                }
            }
        };
        tracing::Instrument::instrument(work, span).await
    }};
}
use run;

/// A handle on the catalog database; cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    pools: Pools,
    group: grouped::Group,
    /// The same, with connections of its own, where those of requests may all be taken.
    background: Option<Arc<Catalog>>,
}

#[derive(Clone)]
enum Pools {
    /// SQLite has one writer at a time: a pool of one makes the others queue here, in order,
    /// where they would otherwise poll the file's lock.
    Sqlite {
        readers: readers::Readers,
        lookups: lookups::Lookups,
        writer: SqlitePool,
    },
    Postgres(PgPool),
}

/// One connection for the length of some work. It must not be held across storage I/O.
pub struct Tx {
    connection: Connection,
    /// What is recorded at its end: many commits share a transaction, and each statement waits for its
    /// own answer, so that what can be is one.
    versions: Vec<versions::NewVersion>,
    /// What happened in it and is not written down yet.
    events: Vec<Event>,
}

enum Connection {
    Sqlite(Session),
    Postgres(postgres::Held),
}

/// A connection to SQLite that only reads, or a transaction that rolls back unless it is committed.
enum Session {
    Read(readers::Reader),
    Write(sqlx::Transaction<'static, Sqlite>),
}

impl Deref for Session {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match self {
            Self::Read(connection) => connection,
            Self::Write(transaction) => transaction,
        }
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Read(connection) => connection,
            Self::Write(transaction) => transaction,
        }
    }
}

impl Session {
    async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Read(_) => Ok(()),
            Self::Write(transaction) => transaction.commit().await,
        }
    }
}

impl Tx {
    fn on(connection: Connection) -> Self {
        Self { connection, versions: Vec::new(), events: Vec::new() }
    }

    /// What waits for its end. Versions are events, too.
    async fn write_down(&mut self) -> Result<()> {
        versions::write_down(self).await?;
        events::write_down(self).await
    }

    /// Makes the changes durable. An error here means that the outcome is unknown.
    pub async fn commit(mut self) -> Result<()> {
        self.write_down().await?;
        let committed = match self.connection {
            Connection::Sqlite(session) => session.commit().await,
            Connection::Postgres(held) => held.commit().await,
        };
        committed.map_err(|error| failed(error, "committing to the catalog"))
    }
}

impl Catalog {
    /// Opens the database that `url` names: `sqlite://PATH` (made if absent) or `postgres://…`, with
    /// at most so many connections for requests.
    ///
    /// # Errors
    /// `InvalidInput` for another kind of URL, `ServiceUnavailable` when it does not answer.
    pub async fn open(url: &str, max_connections: u32) -> Result<Self> {
        dialect::open(url, max_connections).await.map(Self::of)
    }

    /// As [`Self::open`], of a database that is there and has the schema of this version. Nothing is
    /// made or changed.
    ///
    /// # Errors
    /// `InvalidInput` when it is not; `ServiceUnavailable` when it does not answer.
    pub async fn open_existing(url: &str) -> Result<Self> {
        let pools = dialect::open_existing(url).await?;
        dialect::ensure_current(&pools).await?;
        Ok(Self::of(pools))
    }

    fn of(pools: Pools) -> Self {
        let background = dialect::in_background(&pools);
        let background = background.map(|pools| Arc::new(Self::with(pools, None)));
        Self::with(pools, background)
    }

    fn with(pools: Pools, background: Option<Arc<Self>>) -> Self {
        let writers = match &pools {
            Pools::Sqlite { .. } => 1,
            // One that waits for a row does not hold up all the others.
            Pools::Postgres(_) => 4,
        };
        Self { group: grouped::Group::start(&pools, writers), pools, background }
    }

    /// For what nobody waits for, and for signs of life, which must not wait behind requests.
    pub fn background(&self) -> Self {
        self.background.as_ref().map_or_else(|| self.clone(), |catalog| Self::clone(catalog))
    }

    /// Brings the schema up to date: every migration that the database does not have yet.
    ///
    /// # Errors
    /// `InvalidInput` when a newer version of this program did so before.
    pub async fn migrate(&self) -> Result<()> {
        dialect::migrate(&self.pools).await
    }

    /// # Errors
    /// `InvalidInput` when the schema is not that of this version.
    pub async fn ensure_current(&self) -> Result<()> {
        dialect::ensure_current(&self.pools).await
    }

    /// A connection to read with.
    pub async fn read(&self) -> Result<Tx> {
        let connection = match &self.pools {
            Pools::Sqlite { readers, .. } => {
                readers.acquire().await.map(|reader| Connection::Sqlite(Session::Read(reader)))
            }
            Pools::Postgres(pool) => postgres::Held::reading(pool).await.map(Connection::Postgres),
        };
        connection.map(Tx::on).map_err(|error| failed(error, "connecting to the catalog"))
    }

    /// See [`lookups`]; of SQLite only.
    fn look_up<T>(
        &self,
        sql: &'static str,
        bound: impl rusqlite::Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Option<Option<T>> {
        match &self.pools {
            Pools::Sqlite { lookups, .. } => lookups.find(sql, bound, read),
            Pools::Postgres(_) => None,
        }
    }

    /// A transaction to change with; it rolls back unless [`Tx::commit`] is called.
    pub async fn write(&self) -> Result<Tx> {
        write(&self.pools).await
    }

    /// Changes with a transaction that other small writes of this process may share. `work` may be
    /// run twice, but only one run is kept; an error takes back what it did, and nobody else's.
    ///
    /// # Errors
    /// That of `work`. Any other means that the outcome is unknown.
    pub async fn write_with_others<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + Sync + 'static,
    {
        self.group.write(work).await
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        let mut tx = self.read().await?;
        run!(&mut tx, |c| sqlx::query("SELECT 1").execute(c).await.map(drop))
            .map_err(|error| failed(error, "asking the catalog"))
    }

    /// Tells the meters how busy the pools are.
    pub fn measure(&self) {
        let measured = |name, size: u32, idle: usize, most: u32| {
            let size = size as usize;
            meters::connections(name, size.saturating_sub(idle), idle, most as usize);
        };
        match &self.pools {
            Pools::Sqlite { readers, writer, .. } => {
                let (used, most) = readers.used();
                meters::connections("readers", used, most - used, most);
                let most = writer.options().get_max_connections();
                measured("writer", writer.size(), writer.num_idle(), most);
            }
            Pools::Postgres(pool) => {
                let most = pool.options().get_max_connections();
                let name = if self.background.is_some() { "requests" } else { "background" };
                measured(name, pool.size(), pool.num_idle(), most);
            }
        }
        if let Some(background) = &self.background {
            background.measure();
        }
    }

    /// Closes the pools after the statements under way.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { readers, lookups, writer } => {
                lookups.close();
                readers.close().await;
                writer.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
        if let Some(background) = &self.background {
            Box::pin(background.close()).await;
        }
    }
}

/// A transaction of its own.
async fn write(pools: &Pools) -> Result<Tx> {
    let connection = match pools {
        // Taking the write lock at the start spares a deadlock when a read turns to a write.
        Pools::Sqlite { writer, .. } => writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map(|transaction| Connection::Sqlite(Session::Write(transaction))),
        Pools::Postgres(pool) => postgres::Held::writing(pool).await.map(Connection::Postgres),
    };
    connection.map(Tx::on).map_err(|error| failed(error, "connecting to the catalog"))
}

/// What a driver's error means when nothing in particular was expected.
fn failed(error: sqlx::Error, doing: &'static str) -> Error {
    match &error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => {
            tracing::warn!(%error, "the catalog database does not answer");
            Error::ServiceUnavailable("the catalog database does not answer".into())
        }
        passing if dialect::is_passing(passing) => {
            tracing::warn!(%error, doing, "the catalog database is busy");
            Error::ServiceUnavailable("the catalog database is busy; try again".into())
        }
        // PostgreSQL keeps no text with U+0000.
        sqlx::Error::Database(refused) if refused.code().as_deref() == Some("22021") => {
            Error::invalid_input(
                "what was sent holds the character U+0000, which is in no text here",
            )
        }
        _ => Error::internal(doing, error),
    }
}

/// Whether a statement failed because the row is there already.
fn is_unique_violation(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.kind() == sqlx::error::ErrorKind::UniqueViolation)
}

/// Whether a statement failed because a row that it refers to is not there, or because one that
/// it removes is still referred to.
fn is_foreign_key_violation(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Database(e) if e.kind() == sqlx::error::ErrorKind::ForeignKeyViolation
    )
}

/// JSON text of a column that this module wrote itself.
fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::internal("reading the catalog", error))
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("writing the catalog", error))
}

/// The most rows that one statement inserts.
const INSERTED_AT_ONCE: usize = 64;

/// What one statement inserts after the other: as many rows as a power of two, so that few texts have to
/// be prepared.
fn parts<T>(mut rows: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let later = rows.split_off(1 << rows.len().checked_ilog2()?);
        Some(std::mem::replace(&mut rows, later))
    })
}

/// Versions and counts are `u64` in Lance and `BIGINT` in SQL.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
