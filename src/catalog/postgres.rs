//! Connections to PostgreSQL that wait for it only so long.
//!
//! When its host vanishes, no word of that comes over the network, and sqlx waits for an answer
//! without end. What is not answered in time is as a connection that is lost: what became of it
//! nobody knows, and the connection is closed. One that is given back has to answer in time, too.

use std::io;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Executor, PgConnection, PgPool, Postgres};
use tokio::runtime::Handle;

/// How long a statement may take, which waits for locks for less.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that only reads, or one with a transaction, which rolls back unless committed.
pub struct Held {
    /// Absent once it was lost.
    connection: Option<PoolConnection<Postgres>>,
    in_transaction: bool,
}

impl Held {
    pub(super) async fn reading(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: Some(pool.acquire().await?), in_transaction: false })
    }

    pub(super) async fn writing(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let mut held = Self::reading(pool).await?;
        // It may begin even if nobody comes to know.
        held.in_transaction = true;
        held.run("BEGIN").await?;
        Ok(held)
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        if self.in_transaction {
            self.run("COMMIT").await?;
            self.in_transaction = false;
        }
        Ok(())
    }

    async fn run(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        let work = async { self.connection()?.execute(sql).await.map(drop) };
        let done = in_time(work).await;
        self.unless_lost(done)
    }

    /// # Errors
    /// That it was lost before.
    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        let lost = || sqlx::Error::Io(io::ErrorKind::NotConnected.into());
        self.connection.as_deref_mut().ok_or_else(lost)
    }

    /// The outcome of work with the connection, which is closed if it was lost at that.
    pub(super) fn unless_lost<T>(
        &mut self,
        outcome: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        if let Err(sqlx::Error::Io(_)) = &outcome
            && let Some(mut lost) = self.connection.take()
        {
            lost.close_on_drop();
        }
        outcome
    }
}

/// Waits for work only so long.
pub(super) async fn in_time<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())),
    }
}

impl Drop for Held {
    /// What the pool does itself, it does without end.
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let Ok(runtime) = Handle::try_current() else {
            // The process ends, and the pool with it.
            drop(connection.leak());
            return;
        };
        let in_transaction = self.in_transaction;
        runtime.spawn(async move {
            let given_back = async {
                if in_transaction {
                    connection.execute("ROLLBACK").await?;
                }
                connection.return_to_pool().await;
                Ok::<(), sqlx::Error>(())
            };
            if in_time(given_back).await.is_err() {
                connection.close_on_drop();
            }
        });
    }
}
