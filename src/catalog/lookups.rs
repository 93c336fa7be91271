//! Rows of SQLite that are looked up by their key, where every request and every commit begins.
//!
//! A connection of sqlx to SQLite is a thread of its own, and waking it takes several times as long as
//! finding a row. So the few statements here run in the thread that asks, over connections of their
//! own. They never wait: what another holds, and whatever goes wrong, is left to [`super::readers`].

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags, Params, Row};

/// A handle on the connections; cheap to clone.
#[derive(Clone)]
pub(super) struct Lookups(Arc<[Mutex<Option<Connection>>]>);

impl Lookups {
    /// As many connections as there are threads that ask, `most` at most; none to what is no file, such
    /// as a database in memory.
    pub(super) fn open(file: &Path, most: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let opened: rusqlite::Result<_> =
            (0..threads.clamp(1, most)).map(|_| connect(file).map(Some).map(Mutex::new)).collect();
        Self(opened.unwrap_or_else(|error| {
            tracing::debug!(%error, "rows are looked up in another way");
            Arc::default()
        }))
    }

    /// The one row that a statement finds, if any; nothing at all when it has to be asked in another
    /// way.
    pub(super) fn find<T>(
        &self,
        sql: &'static str,
        bound: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Option<Option<T>> {
        let (before, after) = self.0.split_at(own_slot() % self.0.len().max(1));
        let mut slot = after.iter().chain(before).find_map(|slot| slot.try_lock().ok())?;
        let connection = slot.as_mut()?;
        let _span = tracing::debug_span!("sql", otel.kind = "client", db.statement = sql).entered();
        match connection.prepare_cached(sql).and_then(|mut found| found.query_row(bound, read)) {
            Ok(row) => Some(Some(row)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Some(None),
            Err(error) => {
                tracing::debug!(%error, "a row is looked up in another way");
                None
            }
        }
    }

    /// Closes all connections, each after what it is at.
    pub(super) fn close(&self) {
        for slot in self.0.iter() {
            slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        }
    }
}

/// Where this thread looks first: what a connection remembers is then near to the processor.
fn own_slot() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    OWN.with(|own| *own)
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    // A lock of each connection, where nobody else has it. A larger cache than SQLite's own was slower in
    // measurements; a mapped file was faster, but each change of it by anyone takes the map away, and what
    // is first touched of a new one holds up the thread.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(std::time::Duration::ZERO)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQL: &str = "SELECT number FROM rows WHERE name = $1";

    fn number(row: &Row<'_>) -> rusqlite::Result<i64> {
        row.get(0)
    }

    #[test]
    fn rows_are_found_as_they_are_and_what_cannot_be_is_left_to_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("lookups.db");
        let writer = Connection::open(&file).expect("a database");
        let lookups = Lookups::open(&file, 2);
        let find = |name| lookups.find(SQL, (name,), number);
        assert_eq!(find("a"), None, "there is no such table yet");
        let made = "PRAGMA journal_mode = wal; CREATE TABLE rows (name TEXT, number BIGINT)";
        writer.execute_batch(made).expect("a table");
        assert_eq!(find("a"), Some(None));
        writer.execute_batch("INSERT INTO rows VALUES ('a', 1)").expect("a row");
        assert_eq!(find("a"), Some(Some(1)));
        writer.execute_batch("BEGIN IMMEDIATE; UPDATE rows SET number = 2").expect("a change");
        assert_eq!(find("a"), Some(Some(1)), "it is not committed, and nobody waits for it");
        writer.execute_batch("COMMIT").expect("a change");
        assert_eq!(find("a"), Some(Some(2)));
        assert_eq!(lookups.find("DELETE FROM rows RETURNING number", (), number), None);

        let held: Vec<_> = lookups.0.iter().map(|slot| slot.lock().expect("a slot")).collect();
        assert_eq!(find("a"), None, "all connections are taken");
        drop(held);
        lookups.close();
        assert_eq!(find("a"), None, "it is closed");
        let nowhere = Lookups::open(&folder.path().join("nowhere.db"), 2);
        assert_eq!(nowhere.find(SQL, ("a",), number), None, "there is no such file");
    }
}
