//! Tables that are dropped: kept for a while, had back, and purged.
//!
//! One SQL statement takes the name away, and that is the drop: who still is at the table finds it gone
//! just before a put (`change.rs`, `group.rs`). What a batch put nevertheless is taken back as from any
//! table, so that nothing of it is there when somebody has the table back.

use uuid::Uuid;

use super::clones::{Files, ensure_not_cloned};
use super::sweep::{BATCH, Report, Sweeping, Swept};
use super::{Engine, location_of};
use crate::catalog::{Tx, dropped, events, namespaces, removals, tables};
use crate::error::{Error, Result};
use crate::model::{Caller, DroppedTable, Event, EventKind, NamespaceId, Page, Table, TableId};

impl Engine {
    /// Takes a name away. The table is kept for the retention time, and its files until it is purged.
    ///
    /// # Errors
    /// `TableNotFound`, `InvalidTableState` for one of which there is a shallow clone, and for one that
    /// is protected.
    pub async fn drop_table(&self, id: &TableId, caller: &Caller) -> Result<Table> {
        let _turns = self.turns_of(id).await?;
        let mut tx = self.catalog.write().await?;
        let table = tables::get_table(&mut tx, id).await?;
        if !self.drop_within(&mut tx, &table, caller).await? {
            return Err(Error::TableNotFound(id.clone()));
        }
        self.ensure_may_drop(&mut tx, &table).await?;
        tx.commit().await?;
        self.remove_dropped(std::slice::from_ref(&table)).await;
        tracing::info!(table.id = %id, %caller, "dropped table");
        Ok(table)
    }

    /// Drops a table in a transaction. Answers false when it is not there under its name any more.
    /// [`Self::ensure_may_drop`] is to follow, and [`Self::remove_dropped`] after the commit.
    pub(super) async fn drop_within(
        &self,
        tx: &mut Tx,
        table: &Table,
        caller: &Caller,
    ) -> Result<bool> {
        let (now_us, until_us) = (self.now_us(), self.after_us(self.drop_retention));
        if !dropped::drop_table(tx, table, caller, now_us, until_us).await? {
            return Ok(false);
        }
        let event = Event::of_table(EventKind::TableDropped, table, caller, now_us);
        events::insert_event(tx, event).await?;
        if self.keeps_dropped() {
            return Ok(true);
        }
        self.purge_within(tx, table, None).await
    }

    /// Makes sure, once all tables that go together are dropped, that no other reads what goes.
    pub(super) async fn ensure_may_drop(&self, tx: &mut Tx, table: &Table) -> Result<()> {
        let files = if self.keeps_dropped() { Files::Stay } else { Files::Go };
        ensure_not_cloned(tx, table, files).await
    }

    /// Removes the folders of dropped tables, if they are not kept. What fails stays noted and is swept
    /// later: the tables are gone, so this is no error.
    pub(super) async fn remove_dropped(&self, dropped: &[Table]) {
        if self.keeps_dropped() {
            return;
        }
        for table in dropped {
            self.remove_folder(&location_of(table)).await;
        }
    }

    fn keeps_dropped(&self) -> bool {
        !self.drop_retention.is_zero()
    }

    /// Gives a dropped table a name again: the one of `key`, or the one that was dropped last of those
    /// that had the name.
    ///
    /// # Errors
    /// `TableNotFound` when none that had the name can be had back, `NamespaceNotFound` and
    /// `TableAlreadyExists` for the new name.
    pub async fn undrop_table(
        &self,
        id: &TableId,
        key: Option<Uuid>,
        new_id: &TableId,
        caller: &Caller,
    ) -> Result<Table> {
        let mut tx = self.catalog.write().await?;
        let found = dropped::list_named(&mut tx, id, key, 1).await?.pop();
        let table = found.ok_or_else(|| Error::TableNotFound(id.clone()))?.table;
        let namespace = namespaces::get_namespace(&mut tx, &new_id.namespace).await?;
        let now_us = self.now_us();
        dropped::undrop_table(&mut tx, &table, &namespace, new_id, caller, now_us).await?;
        let event = Event::of_table(EventKind::TableUndropped, &table, caller, now_us);
        events::insert_event(&mut tx, event.with("new_id", new_id.to_list())).await?;
        tx.commit().await?;
        tracing::info!(table.id = %id, %new_id, %caller, "undropped table");
        Ok(Table { id: new_id.clone(), ..table })
    }

    /// A page of the dropped tables that were within a namespace, and the token of the next.
    ///
    /// # Errors
    /// `NamespaceNotFound` when the namespace is not there, and nothing that was in it.
    pub async fn list_dropped(
        &self,
        within: &NamespaceId,
        page: &Page,
    ) -> Result<(Vec<DroppedTable>, Option<String>)> {
        let mut tx = self.catalog.read().await?;
        let mut found = dropped::list_within(&mut tx, within, page).await?;
        if found.is_empty() && page.after.is_none() {
            namespaces::get_namespace(&mut tx, within).await?;
        }
        let next = page.finish(&mut found, |one| one.table.key.to_string());
        Ok((found, next))
    }

    /// Removes dropped tables before their time: the one of `key`, or all that had the name.
    ///
    /// # Errors
    /// `TableNotFound` when there is none, `InvalidTableState` for one of which there is a shallow
    /// clone, even one that was dropped.
    pub async fn purge_tables(
        &self,
        id: &TableId,
        key: Option<Uuid>,
        caller: &Caller,
    ) -> Result<Vec<Table>> {
        let mut tx = self.catalog.write().await?;
        let mut purged = Vec::new();
        for DroppedTable { table, .. } in dropped::list_named(&mut tx, id, key, i64::MAX).await? {
            if self.purge_within(&mut tx, &table, Some(caller)).await? {
                purged.push(table);
            }
        }
        if purged.is_empty() {
            return Err(Error::TableNotFound(id.clone()));
        }
        for table in &purged {
            ensure_not_cloned(&mut tx, table, Files::Go).await?;
        }
        tx.commit().await?;
        for table in &purged {
            self.remove_folder(&location_of(table)).await;
        }
        tracing::info!(table.id = %id, %caller, tables = purged.len(), "purged dropped tables");
        Ok(purged)
    }

    /// Answers false when another purged it, or had it back. Without a caller it is no event of its own.
    async fn purge_within(
        &self,
        tx: &mut Tx,
        table: &Table,
        caller: Option<&Caller>,
    ) -> Result<bool> {
        if !dropped::purge_table(tx, table).await? {
            return Ok(false);
        }
        removals::insert_removal(tx, &table.location, self.now_us()).await?;
        if let Some(caller) = caller {
            let event = Event::of_table(EventKind::TablePurged, table, caller, self.now_us());
            events::insert_event(tx, event).await?;
        }
        Ok(true)
    }

    /// Purges the dropped tables whose time is over. Their folders are noted then.
    pub(super) async fn sweep_dropped(&self, how: Sweeping, report: Report<'_>) -> Result<()> {
        loop {
            // The clones of a table may go in this sweep too, and after it.
            let left = self.sweep_dropped_once(how, report).await?;
            if left == Left::None || how == Sweeping::DryRun {
                return Ok(());
            }
        }
    }

    async fn sweep_dropped_once(&self, how: Sweeping, report: Report<'_>) -> Result<Left> {
        let now_us = self.now_us();
        let (mut purged, mut waiting) = (false, false);
        let mut after = (i64::MIN, Uuid::nil());
        loop {
            let due = {
                let mut tx = self.catalog.read().await?;
                dropped::list_due(&mut tx, now_us, after, BATCH).await?
            };
            let Some(last) = due.last() else { break };
            after = (last.purge_after_us, last.table.key);
            for DroppedTable { table, .. } in due {
                match self.purge_due(&table, how).await {
                    Ok(true) => {
                        purged = true;
                        report(Swept::Table { table: table.id.to_string() });
                    }
                    Ok(false) => {}
                    Err(Error::InvalidTableState(why)) => {
                        tracing::debug!(table.id = %table.id, why, "a dropped table has to stay");
                        waiting = true;
                    }
                    Err(error) => {
                        tracing::warn!(table.id = %table.id, %error, "could not purge a table");
                        let what = format!("dropped table {}", table.id);
                        report(Swept::Failed { what, why: error.to_string() });
                    }
                }
            }
        }
        Ok(if purged && waiting { Left::Some } else { Left::None })
    }

    async fn purge_due(&self, table: &Table, how: Sweeping) -> Result<bool> {
        if how == Sweeping::DryRun {
            let mut tx = self.catalog.read().await?;
            ensure_not_cloned(&mut tx, table, Files::Go).await?;
            return Ok(true);
        }
        let mut tx = self.catalog.write().await?;
        if !self.purge_within(&mut tx, table, Some(&Caller::server())).await? {
            return Ok(false);
        }
        ensure_not_cloned(&mut tx, table, Files::Go).await?;
        tx.commit().await?;
        tracing::info!(table.id = %table.id, "purged a table that was dropped");
        Ok(true)
    }
}

/// Whether tables were left that others, which went, had kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    None,
    Some,
}
