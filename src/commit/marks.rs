//! Finding what an earlier try of a request landed, by the mark that it left in the manifest.

use futures::TryStreamExt;

use super::change::Made;
use super::once::Attempt;
use super::{Engine, location_of};
use crate::catalog::tables;
use crate::catalog::versions::{self, Order};
use crate::error::{Error, Result};
use crate::lake::{Change, Marked, Snapshot};
use crate::model::{Caller, Mark, Origin, Page, PageScope, Properties, Table, TableVersion};

/// By how much the clocks of the processes of one catalog may differ, in microseconds.
pub(super) const SKEW_US: i64 = 60 * 1_000_000;
/// Likewise those of writers past the catalog, whose versions are no reason to stop before.
const FOREIGN_SKEW_US: i64 = 60 * 60 * 1_000_000;

/// What an earlier try of a request landed.
pub(super) struct Found {
    /// The version that it made, opened.
    pub snapshot: Snapshot,
    pub marked: Marked,
    row: TableVersion,
}

impl Found {
    /// Whether the rows of the request took the place of whatever was there, as the first of a table do.
    pub(super) fn made_the_table(&self) -> bool {
        self.marked.operation == Change::Overwrite.name()
    }
}

/// For a change that is made by no request: there is nothing to be found.
pub(super) fn not_of_a_request<T>(_: &Found) -> Result<T> {
    Err(Error::internal("looking for what landed", "the change was not marked"))
}

impl Engine {
    /// The version above `floor` that an earlier try of the request made, if one did: from the newest
    /// back to those that stood before the key was first taken. What was cleaned up since is not
    /// found.
    pub(super) async fn find_marked(
        &self,
        table: &Table,
        mark: &Mark,
        floor: u64,
    ) -> Result<Option<Found>> {
        let Some(latest) = self.latest(table).await? else { return Ok(None) };
        let newest = self.open(table, Some(latest.manifest.version)).await?;
        let scope = PageScope::new("marks", "");
        let mut page = Page::new(scope, Some(i64::from(Page::MAX_LIMIT)), None)?;
        loop {
            let after = page.after.as_deref().and_then(|key| key.parse().ok());
            let mut rows = {
                let mut tx = self.catalog.read().await?;
                versions::list_versions(&mut tx, table, Order::NewestFirst, after, &page).await?
            };
            let more = page.finish(&mut rows, |row| row.manifest.version.to_string()).is_some();
            page.after = rows.last().map(|row| row.manifest.version.to_string());
            let above =
                |row: &TableVersion| row.manifest.version > floor && !stood_before(row, mark);
            let ends = !more || !rows.iter().all(above);
            let numbers: Vec<u64> =
                rows.iter().take_while(|row| above(row)).map(|row| row.manifest.version).collect();
            let mut makers = newest.makers(numbers);
            while let Some(maker) = makers.try_next().await? {
                let Some(marked) = maker.marked(mark.id) else { continue };
                let snapshot = self.lake.snapshot(&location_of(table), maker.version).await?;
                let row = rows.into_iter().find(|row| row.manifest.version == maker.version);
                return Ok(row.map(|row| Found { snapshot, marked, row }));
            }
            if ends {
                return Ok(None);
            }
        }
    }

    /// What an earlier try of the request made, with what it would have answered. The version gets
    /// its author, if nobody could note it at the time.
    pub(super) async fn made_before<T>(
        &self,
        table: &Table,
        mark: &Mark,
        caller: &Caller,
        found: impl Fn(&Found) -> Result<T>,
    ) -> Result<Option<Made<T>>> {
        let Some(before) = self.find_marked(table, mark, 0).await? else { return Ok(None) };
        self.record_found(table, &before, caller).await;
        let version = before.marked.version;
        tracing::info!(
            table.id = %table.id, %caller, version,
            "an earlier try of the request changed {}", table.id
        );
        let transaction_id = Some(before.marked.transaction_id.clone());
        Ok(Some(Made { value: found(&before)?, version, transaction_id }))
    }

    /// As for any record of what stands, a failure here is no failure of the change.
    pub(super) async fn record_found(&self, table: &Table, found: &Found, caller: &Caller) {
        let recorded = async {
            let version = TableVersion {
                manifest: found.row.manifest.clone(),
                origin: Origin::Catalog,
                operation: Some(found.marked.operation.clone()),
                transaction_id: Some(found.marked.transaction_id.clone()),
                committed_by: Some(caller.name().into()),
                committed_at_us: found.row.committed_at_us,
                properties: Properties::new(),
            };
            let mut tx = self.catalog.write().await?;
            versions::insert_version(&mut tx, table, &version, Some(caller)).await?;
            tables::mark_created(&mut tx, table.key, caller, self.now_us()).await?;
            tx.commit().await
        };
        if let Err(error) = recorded.await {
            tracing::error!(table.id = %table.id, %error, "could not record what was found");
        }
    }

    /// # Errors
    /// `ServiceUnavailable` when another try of the request made a version since the one read: to go
    /// again would make the change on top of it.
    pub(super) async fn refuse_twin(
        &self,
        table: &Table,
        caller: &Caller,
        read_version: u64,
    ) -> Result<()> {
        let Some(mark) = caller.mark() else { return Ok(()) };
        if mark.attempt == Attempt::First
            || self.find_marked(table, mark, read_version).await?.is_none()
        {
            return Ok(());
        }
        Err(Error::ServiceUnavailable(
            "another process made the change of this request; try again with the same key".into(),
        ))
    }
}

/// Whether a version, and so every older one, was there when the key was first taken.
fn stood_before(row: &TableVersion, mark: &Mark) -> bool {
    let skew_us = match row.origin {
        Origin::Catalog => SKEW_US,
        Origin::Foreign => FOREIGN_SKEW_US,
    };
    row.committed_at_us < mark.since_us.saturating_sub(skew_us)
}
