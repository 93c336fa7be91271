//! Connections that read a SQLite database.
//!
//! sqlx's own pool asks a connection that comes back whether it is well. Over a network that finds
//! what broke; SQLite answers from another thread of this process, which takes about as long as most
//! of what is read here. These connections have no transactions that could be left open.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Opened when it is first asked for.
type Slot = Arc<Mutex<Option<SqliteConnection>>>;

/// A handle on the connections; cheap to clone.
#[derive(Clone)]
pub(super) struct Readers(Arc<Shared>);

struct Shared {
    options: SqliteConnectOptions,
    slots: Vec<Slot>,
    /// As many as there are slots: whoever has one finds a slot.
    places: Arc<Semaphore>,
    /// How long one who asks waits while all are at work.
    patience: Duration,
}

/// A connection, until it is dropped.
pub struct Reader {
    // Given back before the place is, since fields are dropped in order.
    connection: OwnedMappedMutexGuard<Option<SqliteConnection>, SqliteConnection>,
    _place: OwnedSemaphorePermit,
}

impl Readers {
    /// # Errors
    /// Why the database cannot be opened.
    pub(super) async fn open(
        options: SqliteConnectOptions,
        size: usize,
        patience: Duration,
    ) -> Result<Self, sqlx::Error> {
        let slots = (0..size).map(|_| Slot::default()).collect();
        let places = Arc::new(Semaphore::new(size));
        let readers = Self(Arc::new(Shared { options, slots, places, patience }));
        readers.acquire().await?;
        Ok(readers)
    }

    /// # Errors
    /// As of sqlx's pools: that all are at work for too long, or closed.
    pub(super) async fn acquire(&self) -> Result<Reader, sqlx::Error> {
        let place = self.0.places.clone().acquire_owned();
        let place = tokio::time::timeout(self.0.patience, place)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        let mut slot = self.free_slot().await;
        if slot.is_none() {
            *slot = Some(self.0.options.connect().await?);
        }
        let connection = OwnedMutexGuard::try_map(slot, Option::as_mut);
        let connection = connection.map_err(|_| sqlx::Error::PoolClosed)?;
        Ok(Reader { connection, _place: place })
    }

    /// For whoever has a place. The first ones are taken first, so that few are opened.
    async fn free_slot(&self) -> OwnedMutexGuard<Option<SqliteConnection>> {
        loop {
            let free = self.0.slots.iter().find_map(|slot| slot.clone().try_lock_owned().ok());
            match free {
                Some(slot) => return slot,
                // One that was looked at while it was taken is free by now.
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// How many are at work, of how many.
    pub(super) fn used(&self) -> (usize, usize) {
        let most = self.0.slots.len();
        (most - self.0.places.available_permits().min(most), most)
    }

    /// Closes all connections, each after what it is at.
    pub(super) async fn close(&self) {
        self.0.places.close();
        for slot in &self.0.slots {
            let Some(connection) = slot.lock().await.take() else { continue };
            if let Err(error) = connection.close().await {
                tracing::warn!(%error, "a connection to the catalog did not close");
            }
        }
    }
}

impl std::ops::Deref for Reader {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl std::ops::DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}
