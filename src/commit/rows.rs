//! Changing rows: delete, update, merge-insert.

use std::time::Duration;

use tokio::time::Instant;

use super::change::{Made, PATIENCE, Turn};
use super::marks::Found;
use super::{Engine, location_of};
use crate::catalog::tables;
use crate::error::{Error, Result};
use crate::lake::{Batches, Meanwhile, Merge, Merged, RowUpdate, Snapshot, Spooled, Terms};
use crate::model::{Caller, Properties, Table};

impl Engine {
    /// Deletes the rows that fit. Answers how many there were.
    ///
    /// # Errors
    /// `InvalidTableState` for a table that was never written to, `InvalidInput` and
    /// `TableColumnNotFound` for the predicate, `ConcurrentModification`.
    pub async fn delete_rows(
        &self,
        table: &Table,
        predicate: &str,
        caller: &Caller,
    ) -> Result<Made<u64>> {
        let terms = terms(Meanwhile::Rebase, None);
        let work =
            |snapshot: Snapshot| async move { snapshot.delete_rows(predicate, &terms).await };
        self.change(table, caller, work, |found| found.marked.rows_deleted()).await
    }

    /// Gives rows new values. Answers how many rows.
    ///
    /// # Errors
    /// As [`Self::delete_rows`], for the columns and their values too.
    pub async fn update_rows(
        &self,
        table: &Table,
        update: &RowUpdate,
        caller: &Caller,
    ) -> Result<Made<u64>> {
        let terms = terms(Meanwhile::Rebase, None);
        let work = |snapshot: Snapshot| async move { snapshot.update_rows(update, &terms).await };
        self.change(table, caller, work, |found| Ok(found.marked.rows_updated())).await
    }

    /// Brings the rows of a request and those of the table together. A table that was only declared
    /// is made of the rows.
    ///
    /// A merge decides which keys are new by what it reads, so it may land only on exactly that
    /// version: whatever others put meanwhile, in this process or past it, it is made anew on top.
    ///
    /// # Errors
    /// `TableColumnNotFound` for a key that the table does not have, `TableSchemaValidation` for
    /// rows that do not fit, `InvalidInput` for the rest, `ConcurrentModification`;
    /// `ServiceUnavailable` when `timeout` is over, and nothing was changed.
    pub async fn merge_rows(
        &self,
        table: &Table,
        merge: &Merge,
        batches: Batches,
        timeout: Option<Duration>,
        caller: &Caller,
    ) -> Result<Made<Merged>> {
        let batches = match self.first_answer(caller, batches).await? {
            Ok(batches) => batches,
            Err(answer) => return Ok(answer),
        };
        let source = &Spooled::receive(batches, &location_of(table)).await?;
        self.once_received(caller, |caller| async move {
            self.merge_spooled(table, merge, source, timeout, &caller).await
        })
        .await
    }

    async fn merge_spooled(
        &self,
        table: &Table,
        merge: &Merge,
        source: &Spooled,
        timeout: Option<Duration>,
        caller: &Caller,
    ) -> Result<Made<Merged>> {
        let patience = timeout.unwrap_or(PATIENCE);
        let until = timeout.map(|timeout| Instant::now() + timeout);
        if self.latest(table).await?.is_none() {
            merge.check_source(&source.schema)?;
            match self.make_of(table, source, caller).await {
                // Another made it meanwhile.
                Err(Error::ConcurrentModification(_) | Error::TableAlreadyExists(_)) => {}
                made => return made,
            }
        }
        let terms = terms(Meanwhile::Refuse, until);
        let work = |snapshot: Snapshot| {
            let source = source.clone();
            async move { snapshot.merge_rows(merge, &source, &terms).await }
        };
        let merged = |found: &Found| match found.made_the_table() {
            // The rows of the request made the table.
            true => Ok(Merged { inserted: source.num_rows, ..Merged::default() }),
            false => found.marked.rows_merged(),
        };
        self.change_within(table, Turn::Take, patience, caller, work, merged).await
    }

    /// The first version of a declared table, unless another makes it first.
    async fn make_of(
        &self,
        table: &Table,
        source: &Spooled,
        caller: &Caller,
    ) -> Result<Made<Merged>> {
        let batches = source.batches(&location_of(table)).await?;
        let inserted = self.write_first_rows(table, batches, caller).await?;
        Ok(Made {
            value: Merged { inserted: inserted.num_rows, ..Merged::default() },
            version: inserted.version,
            transaction_id: Some(inserted.transaction_id),
        })
    }

    /// Adds to a table's properties.
    ///
    /// # Errors
    /// `TableNotFound` when it is gone meanwhile.
    pub async fn add_properties(
        &self,
        table: &Table,
        added: Properties,
        caller: &Caller,
    ) -> Result<Properties> {
        let mut tx = self.catalog.write().await?;
        let table = tables::get_table(&mut tx, &table.id).await?;
        let mut properties = table.properties.clone();
        if !added.is_empty() {
            properties.extend(added);
            tables::update_properties(&mut tx, &table, &properties, caller, self.now_us()).await?;
            tx.commit().await?;
        }
        Ok(properties)
    }
}

fn terms(meanwhile: Meanwhile, until: Option<Instant>) -> Terms {
    Terms { meanwhile, until }
}
