//! Which versions a table has: what storage holds, and the index of it in SQL.

use std::collections::HashSet;

use super::change::Made;
use super::{Engine, location_of, root_of};
use crate::catalog::versions::{self, Order};
use crate::catalog::{batches, events, tables};
use crate::error::{Error, Result};
use crate::lake::{Snapshot, Terms};
use crate::model::{
    Branch, Caller, Event, EventKind, ManifestEntry, Origin, Page, PageScope, Properties, Table,
    TableVersion,
};

impl Engine {
    /// The table on another of its branches.
    ///
    /// # Errors
    /// `TableBranchNotFound`.
    pub async fn on_branch(&self, table: Table, branch: Branch) -> Result<Table> {
        if !branch.is_main() && !self.lake.has_branch(&root_of(&table), &branch).await? {
            return Err(Error::TableBranchNotFound { table: table.id, branch });
        }
        Ok(Table { branch, ..table })
    }

    /// The newest version that storage holds now, adopting what others committed meanwhile.
    /// `None` for a table that was never written to.
    pub async fn latest(&self, table: &Table) -> Result<Option<TableVersion>> {
        let known = {
            let mut tx = self.catalog.read().await?;
            versions::find_latest(&mut tx, table).await?
        };
        let newer = self
            .lake
            .versions_after(&location_of(table), known.as_ref().map(|known| &known.manifest))
            .await?;
        let newer = self.visible(table, newer).await?;
        if newer.is_empty() {
            return Ok(known);
        }
        Box::pin(self.adopt(table, newer)).await
    }

    /// Those of versions without rows that may be adopted: not one that a batch is about to make,
    /// which is nobody's to see until all of the batch stands, nor what was built on it. The batch
    /// noted it before it was put, so looking after storage was seen misses none; one that was seen
    /// and then taken back does not stand any more.
    pub(super) async fn visible(
        &self,
        table: &Table,
        mut found: Vec<ManifestEntry>,
    ) -> Result<Vec<ManifestEntry>> {
        self.hide_intended(table, &mut found).await?;
        let Some(newest) = found.last() else { return Ok(found) };
        if self.lake.find_manifest(&location_of(table), newest.version).await?.is_none() {
            found.pop();
        }
        // It may have been taken back before, and put once more by the next batch.
        self.hide_intended(table, &mut found).await?;
        Ok(found)
    }

    async fn hide_intended(&self, table: &Table, found: &mut Vec<ManifestEntry>) -> Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let mut tx = self.catalog.read().await?;
        if let Some(intent) = batches::find_intent(&mut tx, table).await? {
            found.retain(|manifest| manifest.version < intent.version);
        }
        Ok(())
    }

    /// Gives rows to versions that were committed past this server. Answers the last of them.
    ///
    /// # Errors
    /// `InvalidTableState` for one that was committed past an arbiter, which may not be adopted.
    pub(super) async fn adopt(
        &self,
        table: &Table,
        found: Vec<ManifestEntry>,
    ) -> Result<Option<TableVersion>> {
        self.lake.check_claimed(&location_of(table), &found).await?;
        tracing::info!(table.id = %table.id, versions = found.len(), "adopting versions");
        let mut tx = self.catalog.write().await?;
        let mut last = None;
        let (newest, server) = (found.last().map(|manifest| manifest.version), Caller::server());
        for manifest in found {
            let version = TableVersion {
                committed_at_us: manifest.modified_at_us,
                manifest,
                origin: Origin::Foreign,
                operation: None,
                transaction_id: None,
                committed_by: None,
                properties: Properties::new(),
            };
            let is_news = versions::insert_version(&mut tx, table, &version, None).await?;
            // Of many that are found at once, the newest is the event, which happens now.
            if is_news && newest == Some(version.manifest.version) {
                let kind = EventKind::VersionFound;
                let event = Event {
                    branch: Some(table.branch.clone()),
                    version: newest,
                    ..Event::of_table(kind, table, &server, self.now_us())
                };
                events::insert_event(&mut tx, event).await?;
            }
            last = Some(version);
        }
        tables::mark_created(&mut tx, table.key, &server, self.now_us()).await?;
        tx.commit().await?;
        Ok(last)
    }

    /// Opens a version; the newest when none is named.
    ///
    /// # Errors
    /// `TableVersionNotFound`; `InvalidTableState` for a table that was never written to.
    pub async fn open(&self, table: &Table, version: Option<u64>) -> Result<Snapshot> {
        match self.open_there(table, version).await {
            Ok(snapshot) => Ok(snapshot),
            Err(error) => Err(self.unless_gone(table, error).await),
        }
    }

    /// Reads a version, the newest when none is named. A table that is dropped while it is read is a
    /// table that is not there, and no failure of the server.
    ///
    /// # Errors
    /// As [`Self::open`], and what `work` ends with.
    pub async fn read<T>(
        &self,
        table: &Table,
        version: Option<u64>,
        work: impl AsyncFnOnce(Snapshot) -> Result<T>,
    ) -> Result<T> {
        let snapshot = self.open(table, version).await?;
        match work(snapshot).await {
            Err(error @ Error::Internal { .. }) => Err(self.unless_gone(table, error).await),
            outcome => outcome,
        }
    }

    async fn open_there(&self, table: &Table, version: Option<u64>) -> Result<Snapshot> {
        let location = location_of(table);
        if let Some(version) = version {
            let version = self.describe_version(table, version).await?.manifest.version;
            return self.lake.snapshot(&location, version).await;
        }
        let newest = self.newest(table).await?;
        self.open_newest(table, newest).await
    }

    /// Opens the newest version, of which `newest` is the row, unless it is open already.
    pub(super) async fn open_newest(
        &self,
        table: &Table,
        newest: TableVersion,
    ) -> Result<Snapshot> {
        if let Some(snapshot) = self.lines.open(table, &newest) {
            return Ok(snapshot);
        }
        let location = location_of(table);
        let (snapshot, row) = match self.lake.snapshot(&location, newest.manifest.version).await {
            Ok(snapshot) => (snapshot, newest),
            // The newest that has a row need not stand any more: others may have removed it, or
            // removed a branch and made it anew.
            Err(Error::Internal { .. }) => {
                self.reconcile(table).await?;
                let newest = self.newest(table).await?;
                (self.lake.snapshot(&location, newest.manifest.version).await?, newest)
            }
            Err(error) => return Err(error),
        };
        self.lines.keep(table, &snapshot, &row, snapshot.version());
        Ok(snapshot)
    }

    async fn newest(&self, table: &Table) -> Result<TableVersion> {
        self.latest(table).await?.ok_or_else(|| no_data(table))
    }

    /// # Errors
    /// `TableVersionNotFound`.
    pub async fn describe_version(&self, table: &Table, version: u64) -> Result<TableVersion> {
        // The row first: what has a row has been put, so that a manifest that is not there after
        // that was removed.
        let known = {
            let mut tx = self.catalog.read().await?;
            versions::find_version(&mut tx, table, version).await?
        };
        let found = self.lake.find_manifest(&location_of(table), version).await?;
        match (found, known) {
            (Some(_), Some(known)) => Ok(known),
            (Some(manifest), None) => {
                let visible = self.visible(table, vec![manifest]).await?;
                if visible.is_empty() {
                    return Err(not_found(table, version));
                }
                let adopted = self.adopt(table, visible).await?;
                adopted.ok_or_else(|| not_found(table, version))
            }
            (None, Some(_)) => {
                self.forget_versions(table, &[version]).await?;
                Err(not_found(table, version))
            }
            (None, None) => Err(not_found(table, version)),
        }
    }

    /// Makes the state of an older version the newest again, as a version of its own.
    ///
    /// # Errors
    /// `TableVersionNotFound`, `ConcurrentModification`.
    pub async fn restore_version(
        &self,
        table: &Table,
        version: u64,
        caller: &Caller,
    ) -> Result<Made<()>> {
        self.describe_version(table, version).await?;
        let terms = Terms::REBASE;
        let work = |snapshot: Snapshot| async move { snapshot.restore(version, &terms).await };
        self.change(table, caller, work, |_| Ok(())).await
    }

    /// A page of versions, and the token of the next. A first page that asks for more than the
    /// newest version also drops the rows of versions that a clean-up removed from storage.
    pub async fn list_versions(
        &self,
        table: &Table,
        order: Order,
        page: &Page,
    ) -> Result<(Vec<TableVersion>, Option<String>)> {
        let after = page
            .after
            .as_deref()
            .map(|key| {
                key.parse().map_err(|_| {
                    Error::invalid_input("page_token is not one that this listing answered")
                })
            })
            .transpose()?;
        if order == Order::NewestFirst && page.limit == 1 {
            self.latest(table).await?;
        } else if after.is_none() {
            self.reconcile(table).await?;
        }
        let mut tx = self.catalog.read().await?;
        let mut rows = versions::list_versions(&mut tx, table, order, after, page).await?;
        let next = page.finish(&mut rows, |row| row.manifest.version.to_string());
        Ok((rows, next))
    }

    /// Makes the rows agree with storage. The rows are read first: whatever has a row has been
    /// put, so a version that the later listing lacks was removed.
    async fn reconcile(&self, table: &Table) -> Result<()> {
        let mut known = HashSet::new();
        let mut page =
            Page::new(PageScope::new("reconcile", ""), Some(i64::from(Page::MAX_LIMIT)), None)?;
        loop {
            let after = page.after.as_deref().and_then(|key| key.parse().ok());
            let mut tx = self.catalog.read().await?;
            let mut rows =
                versions::list_versions(&mut tx, table, Order::OldestFirst, after, &page).await?;
            let more = page.finish(&mut rows, |row| row.manifest.version.to_string()).is_some();
            page.after = rows.last().map(|row| row.manifest.version.to_string());
            known.extend(rows.into_iter().map(|row| row.manifest.version));
            if !more {
                break;
            }
        }
        let found = self.lake.list_manifests(&location_of(table)).await?;
        let there: HashSet<u64> = found.iter().map(|manifest| manifest.version).collect();
        let gone: Vec<u64> = known.difference(&there).copied().collect();
        self.forget_versions(table, &gone).await?;
        let new: Vec<ManifestEntry> =
            found.into_iter().filter(|manifest| !known.contains(&manifest.version)).collect();
        let new = self.visible(table, new).await?;
        if !new.is_empty() {
            self.adopt(table, new).await?;
        }
        Ok(())
    }
}

/// What it means that a table has no version.
pub(super) fn no_data(table: &Table) -> Error {
    Error::InvalidTableState(format!("table '{}' is declared but has no data yet", table.id))
}

fn not_found(table: &Table, version: u64) -> Error {
    Error::TableVersionNotFound { table: table.id.clone(), version }
}
