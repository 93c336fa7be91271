//! Making, renaming and deregistering tables, without their data.

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::Engine;
use super::arbiter::standing_versions;
use super::namespaces::STORAGE_PROFILE;
use crate::catalog::access::{self, Granted};
use crate::catalog::tables::NewTable;
use crate::catalog::{Tx, claims, dropped, events, namespaces, removals, tables};
use crate::error::{Error, Result};
use crate::lake::Location;
use crate::model::{
    Branch, Caller, Event, EventKind, Namespace, NamespaceId, Origin, Properties, Role, Table,
    TableId, TableState,
};

/// Where a new table is to stand.
#[derive(Debug, Clone, Copy)]
pub enum NewLocation<'a> {
    /// A folder of its own under the storage root.
    Own,
    /// Where the caller says, if that is allowed.
    At(&'a str),
}

/// What registering does when the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterMode {
    Create,
    /// The name points to the new location; the files of the old one stay.
    Overwrite,
}

/// How long removing a folder may take before it is taken to be given up, in microseconds.
pub(super) const REMOVAL_US: i64 = 60 * 60 * 1_000_000;

impl Engine {
    /// Gives a name a location, without touching storage.
    ///
    /// # Errors
    /// `NamespaceNotFound`, `TableAlreadyExists`, `InvalidInput` for the location.
    pub async fn declare_table(
        &self,
        id: &TableId,
        location: NewLocation<'_>,
        properties: Properties,
        caller: &Caller,
    ) -> Result<Table> {
        let key = Uuid::now_v7();
        let location_of_it = self.new_location(id, key, location).await?;
        let mut tx = self.catalog.write().await?;
        let namespace = namespaces::get_namespace(&mut tx, &id.namespace).await?;
        if tables::find_table(&mut tx, id).await?.is_some() {
            return Err(Error::TableAlreadyExists(id.clone()));
        }
        if let NewLocation::At(_) = location {
            ensure_free(&mut tx, id, &location_of_it).await?;
        }
        let table = Table {
            key,
            id: id.clone(),
            location: location_of_it.to_string(),
            branch: Branch::main(),
            state: TableState::Declared,
            origin: Origin::Catalog,
            properties,
        };
        self.insert_table(&mut tx, &namespace, &table, caller).await?;
        tx.commit().await?;
        tracing::info!(table.id = %id, %caller, "declared table");
        Ok(table)
    }

    /// Gives a name to a table that stands in storage already.
    ///
    /// # Errors
    /// `NamespaceNotFound`, `TableAlreadyExists`, `InvalidInput` when there is no Lance table at the
    /// location or it may not be used, and `InvalidTableState` when the one in whose place it would
    /// come is protected.
    pub async fn register_table(
        &self,
        id: &TableId,
        location: &str,
        mode: RegisterMode,
        properties: Properties,
        caller: &Caller,
    ) -> Result<Table> {
        let location = self.lake.locations().check(location)?;
        let found = self.lake.list_manifests(&location).await?;
        if found.is_empty() {
            return Err(Error::invalid_input("there is no Lance table at the location"));
        }
        let standing = standing_versions(&self.lake, &location, &found).await?;
        let mut tx = self.catalog.write().await?;
        let namespace = namespaces::get_namespace(&mut tx, &id.namespace).await?;
        if let Some(existing) = tables::find_table(&mut tx, id).await? {
            match mode {
                RegisterMode::Create => return Err(Error::TableAlreadyExists(id.clone())),
                RegisterMode::Overwrite => {
                    tables::delete_table(&mut tx, &existing).await?;
                    let kind = EventKind::TableDeregistered;
                    let event = Event::of_table(kind, &existing, caller, self.now_us());
                    events::insert_event(&mut tx, event).await?;
                }
            }
        }
        ensure_free(&mut tx, id, &location).await?;
        let table = Table {
            key: Uuid::now_v7(),
            id: id.clone(),
            location: location.to_string(),
            branch: Branch::main(),
            state: TableState::Created,
            origin: Origin::Foreign,
            properties,
        };
        self.insert_table(&mut tx, &namespace, &table, caller).await?;
        if !standing.is_empty() {
            // What stands now is what the table is, whoever made it.
            claims::delete_claims(&mut tx, location.as_str()).await?;
        }
        for (folder, entry) in &standing {
            let claim = entry.as_claim();
            claims::insert_claim(&mut tx, folder.as_str(), &claim, self.now_us()).await?;
        }
        tx.commit().await?;
        tracing::info!(table.id = %id, %caller, "registered table");
        // Its versions get their rows now or when somebody asks for them.
        if let Err(error) = self.latest(&table).await {
            tracing::warn!(table.id = %id, %error, "could not adopt the versions yet");
        }
        Ok(table)
    }

    /// Takes a name away and leaves the files where they are.
    ///
    /// # Errors
    /// `TableNotFound`, `InvalidTableState` for one that is protected.
    pub async fn deregister_table(&self, id: &TableId, caller: &Caller) -> Result<Table> {
        let _turn = self.turn_of(id).await?;
        let mut tx = self.catalog.write().await?;
        let table = tables::get_table(&mut tx, id).await?;
        tables::delete_table(&mut tx, &table).await?;
        let event = Event::of_table(EventKind::TableDeregistered, &table, caller, self.now_us());
        events::insert_event(&mut tx, event).await?;
        tx.commit().await?;
        tracing::info!(table.id = %id, %caller, "deregistered table");
        Ok(table)
    }

    /// Whether the table that had the name at a time is not there any more, even if another has its
    /// name by now. The files of one that was dropped and is kept are there: nothing fails of that.
    pub async fn went_since(&self, id: &TableId, time_us: i64) -> Result<bool> {
        let mut tx = self.catalog.read().await?;
        let created_us = tables::find_creation(&mut tx, id).await?;
        if created_us.is_some_and(|created_us| created_us < time_us) {
            return Ok(false);
        }
        let kept = dropped::list_named(&mut tx, id, None, 1).await?.pop();
        Ok(kept.is_none_or(|kept| kept.dropped_at_us < time_us))
    }

    /// As [`Self::turn_of`], for the table's branches too.
    pub(super) async fn turns_of(&self, id: &TableId) -> Result<Vec<OwnedMutexGuard<()>>> {
        self.turns_of_all(vec![self.named(id).await?]).await
    }

    /// Waits for the changes and the batches that are at tables which are about to go.
    pub(super) async fn turns_of_all(
        &self,
        tables: Vec<Table>,
    ) -> Result<Vec<OwnedMutexGuard<()>>> {
        let mut lines: Vec<Table> = Vec::new();
        for table in tables {
            for branch in self.lines.branches_at_work(table.key) {
                lines.push(Table { branch, ..table.clone() });
            }
            lines.push(table);
        }
        // The same order for everyone, or two would wait for each other.
        lines.sort_by_key(|table| (table.key, table.branch.clone()));
        let mut turns = Vec::new();
        for line in &lines {
            turns.push(self.turn(line).await?);
        }
        Ok(turns)
    }

    /// Waits for the changes and the batches that are at a table which is about to go.
    async fn turn_of(&self, id: &TableId) -> Result<OwnedMutexGuard<()>> {
        self.turn(&self.named(id).await?).await
    }

    async fn named(&self, id: &TableId) -> Result<Table> {
        let mut tx = self.catalog.read().await?;
        tables::get_table(&mut tx, id).await
    }

    /// Gives a table another name, in its namespace or in another. Its location stays.
    ///
    /// # Errors
    /// `TableNotFound`, `TableAlreadyExists`, `NamespaceNotFound`.
    pub async fn rename_table(
        &self,
        id: &TableId,
        new_id: &TableId,
        caller: &Caller,
    ) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        let table = tables::get_table(&mut tx, id).await?;
        let namespace = namespaces::get_namespace(&mut tx, &new_id.namespace).await?;
        tables::rename_table(&mut tx, &table, &namespace, new_id, caller, self.now_us()).await?;
        tx.commit().await?;
        tracing::info!(table.id = %id, new_id = %new_id, %caller, "renamed table");
        Ok(())
    }

    /// Removes the folder of a table that came to nothing. The sweep may have done so before, and
    /// more may have been written since, so that it is noted once more.
    pub(super) async fn remove_unfinished(&self, folder: &Location) {
        let noted = async {
            let mut tx = self.catalog.write().await?;
            removals::insert_removal(&mut tx, folder.as_str(), self.now_us()).await?;
            tx.commit().await
        };
        if let Err(error) = noted.await {
            tracing::warn!(location = %folder, %error, "could not note a folder for removal");
        }
        self.remove_folder(folder).await;
    }

    /// Removes a folder that is noted for removal, if nobody else is at it. A failure leaves the
    /// note for the sweep.
    pub(super) async fn remove_folder(&self, location: &Location) {
        let removed = async {
            let claim = Uuid::now_v7().to_string();
            let now_us = self.now_us();
            let mut tx = self.catalog.write().await?;
            let stale_us = now_us.saturating_sub(REMOVAL_US);
            let may = removals::claim_removal(&mut tx, location.as_str(), &claim, now_us, stale_us)
                .await?;
            tx.commit().await?;
            if !may {
                return Ok(());
            }
            self.lake.remove(location).await?;
            let mut tx = self.catalog.write().await?;
            removals::finish_removal(&mut tx, location.as_str(), &claim).await?;
            tx.commit().await
        };
        if let Err(error) = removed.await {
            tracing::warn!(%location, %error, "could not remove a folder; the sweep will try again");
        }
    }

    /// # Errors
    /// `InvalidInput` for a place where no table may be, and for a storage profile that the namespace
    /// names and that is not there.
    pub(super) async fn new_location(
        &self,
        id: &TableId,
        key: Uuid,
        location: NewLocation<'_>,
    ) -> Result<Location> {
        let locations = self.lake.locations();
        if let NewLocation::At(location) = location {
            return locations.check(location);
        }
        let profile = self.profile_of(&id.namespace).await?;
        let root = profile.map_or(Ok(locations.root()), |profile| self.lake.root_of(&profile))?;
        Ok(locations.new_location(root, id.name.as_str(), key))
    }

    /// The storage profile of a namespace: its own, or that of the nearest one above it.
    async fn profile_of(&self, namespace: &NamespaceId) -> Result<Option<String>> {
        let mut tx = self.catalog.read().await?;
        let mut next = Some(namespace.clone());
        while let Some(id) = next {
            // One that is not there is about to be made, or refused.
            let found = namespaces::find_namespace(&mut tx, &id).await?;
            let profile = found.and_then(|mut found| found.properties.remove(STORAGE_PROFILE));
            if profile.is_some() {
                return Ok(profile);
            }
            next = id.split().map(|(parent, _)| parent);
        }
        Ok(None)
    }

    pub(super) async fn insert_table(
        &self,
        tx: &mut Tx,
        namespace: &Namespace,
        table: &Table,
        caller: &Caller,
    ) -> Result<()> {
        let new = NewTable {
            key: table.key,
            location: &table.location,
            state: table.state,
            origin: table.origin,
            properties: &table.properties,
        };
        let now_us = self.now_us();
        tables::insert_table(tx, namespace, &table.id, new, caller, now_us).await?;
        if !caller.owns() {
            return Ok(());
        }
        let (by, on) = (caller.name(), Granted::Table(table.clone()));
        access::put_grant(tx, by, &on, Role::Manager, caller, now_us).await
    }
}

/// Two tables in one folder would drop each other's files.
pub(super) async fn ensure_free(tx: &mut Tx, id: &TableId, location: &Location) -> Result<()> {
    tables::lock_locations(tx).await?;
    // Another may have taken name and place while this one waited for the lock.
    if tables::find_table(tx, id).await?.is_some() {
        return Err(Error::TableAlreadyExists(id.clone()));
    }
    if tables::find_overlapping_location(tx, location.as_str()).await?.is_some() {
        return Err(Error::invalid_input(
            "the location is that of another table, perhaps of one that was dropped, or of one that is \
             being removed, or overlaps it",
        ));
    }
    Ok(())
}
