//! Making and dropping namespaces.

use tokio::sync::OwnedMutexGuard;

use super::Engine;
use crate::catalog::access::{self, Granted};
use crate::catalog::{Tx, events, namespaces, tables};
use crate::error::{Error, Result};
use crate::model::{
    Caller, Event, EventKind, Namespace, NamespaceId, Object, Properties, Role, Table,
    protection_of,
};

/// The property of a namespace that names the storage profile of its tables, and of those below it.
pub(super) const STORAGE_PROFILE: &str = "storage_profile";

/// What making a namespace does when it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    Fail,
    Keep,
    /// Drop it with all that it holds, and make an empty one.
    Replace,
}

/// What dropping a namespace does when it is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    Fail,
    Skip,
}

/// What dropping a namespace does when it holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    Restrict,
    Cascade,
}

impl Engine {
    /// Makes a namespace unless it is there.
    ///
    /// # Errors
    /// `NamespaceNotFound` for the parent.
    pub async fn make_if_missing(&self, id: &NamespaceId, caller: &Caller) -> Result<()> {
        let found = {
            let mut tx = self.catalog.read().await?;
            namespaces::find_namespace(&mut tx, id).await?
        };
        if found.is_none() {
            self.create_namespace(id, IfExists::Keep, Properties::new(), caller).await?;
        }
        Ok(())
    }

    /// Answers the properties that the namespace has afterwards.
    ///
    /// # Errors
    /// `NamespaceAlreadyExists`, `NamespaceNotFound` for the parent, `InvalidInput` for a storage profile
    /// that is not there, `InvalidTableState` when something protected would have to go.
    pub async fn create_namespace(
        &self,
        id: &NamespaceId,
        if_exists: IfExists,
        properties: Properties,
        caller: &Caller,
    ) -> Result<Properties> {
        protection_of(&properties)?;
        let Some((parent_id, name)) = id.split() else {
            return match if_exists {
                IfExists::Keep => Ok(Properties::new()),
                IfExists::Fail => Err(Error::NamespaceAlreadyExists(id.clone())),
                IfExists::Replace => {
                    Err(Error::invalid_input("the root namespace cannot be replaced"))
                }
            };
        };
        if let Some(profile) = properties.get(STORAGE_PROFILE) {
            self.lake.root_of(profile)?;
        }
        let _turns = match if_exists {
            IfExists::Replace => self.turns_within(id).await?,
            IfExists::Fail | IfExists::Keep => Vec::new(),
        };
        let mut tx = self.catalog.write().await?;
        let parent = namespaces::get_namespace(&mut tx, &parent_id).await?;
        let mut dropped = Vec::new();
        if let Some(existing) = namespaces::find_namespace(&mut tx, id).await? {
            match if_exists {
                IfExists::Fail => return Err(Error::NamespaceAlreadyExists(id.clone())),
                IfExists::Keep => return Ok(existing.properties),
                IfExists::Replace => {
                    dropped = self.empty_namespace(&mut tx, id, caller).await?;
                    self.delete_namespace(&mut tx, &existing, caller).await?;
                }
            }
        }
        let inserted = namespaces::insert_namespace(
            &mut tx,
            &parent,
            id,
            name,
            &properties,
            caller,
            self.now_us(),
        )
        .await;
        match inserted {
            // Another made it between the look and the insert.
            Err(Error::NamespaceAlreadyExists(_)) if if_exists == IfExists::Keep => {
                drop(tx);
                let mut tx = self.catalog.read().await?;
                return Ok(namespaces::get_namespace(&mut tx, id).await?.properties);
            }
            other => other?,
        }
        if caller.owns() {
            let made = namespaces::get_namespace(&mut tx, id).await?;
            let (by, on) = (caller.name(), Granted::Namespace(made));
            access::put_grant(&mut tx, by, &on, Role::Manager, caller, self.now_us()).await?;
        }
        tx.commit().await?;
        self.remove_dropped(&dropped).await;
        tracing::info!(namespace.id = %id, %caller, "created namespace");
        Ok(properties)
    }

    /// Answers the properties that the namespace had, or `None` when it was not there.
    ///
    /// # Errors
    /// `NamespaceNotFound`, `NamespaceNotEmpty`, `InvalidInput` for the root, `InvalidTableState` when
    /// it, or something in it, is protected, or read by a shallow clone elsewhere.
    pub async fn drop_namespace(
        &self,
        id: &NamespaceId,
        if_missing: IfMissing,
        behavior: Behavior,
        caller: &Caller,
    ) -> Result<Option<Properties>> {
        if id.is_root() {
            return Err(Error::invalid_input("the root namespace cannot be dropped"));
        }
        let _turns = match behavior {
            Behavior::Cascade => self.turns_within(id).await?,
            Behavior::Restrict => Vec::new(),
        };
        let mut tx = self.catalog.write().await?;
        let Some(namespace) = namespaces::find_namespace(&mut tx, id).await? else {
            return match if_missing {
                IfMissing::Skip => Ok(None),
                IfMissing::Fail => Err(Error::NamespaceNotFound(id.clone())),
            };
        };
        let dropped = match behavior {
            Behavior::Restrict => Vec::new(),
            Behavior::Cascade => self.empty_namespace(&mut tx, id, caller).await?,
        };
        self.delete_namespace(&mut tx, &namespace, caller).await?;
        tx.commit().await?;
        self.remove_dropped(&dropped).await;
        tracing::info!(namespace.id = %id, %caller, tables = dropped.len(), "dropped namespace");
        Ok(Some(namespace.properties))
    }

    /// Waits for the changes that are at tables which are about to go with their namespace.
    async fn turns_within(&self, id: &NamespaceId) -> Result<Vec<OwnedMutexGuard<()>>> {
        let mut found = Vec::new();
        {
            let mut tx = self.catalog.read().await?;
            let Some(root) = namespaces::find_namespace(&mut tx, id).await? else {
                return Ok(Vec::new());
            };
            found.extend(tables::list_for_drop(&mut tx, &root).await?);
            for namespace in namespaces::list_descendants(&mut tx, id).await? {
                found.extend(tables::list_for_drop(&mut tx, &namespace).await?);
            }
        }
        self.turns_of_all(found).await
    }

    /// Drops all that a namespace holds.
    async fn empty_namespace(
        &self,
        tx: &mut Tx,
        id: &NamespaceId,
        caller: &Caller,
    ) -> Result<Vec<Table>> {
        let root = namespaces::get_namespace(tx, id).await?;
        let descendants = namespaces::list_descendants(tx, id).await?;
        let mut dropped = Vec::new();
        for namespace in descendants.iter().chain(std::iter::once(&root)) {
            for table in tables::list_for_drop(tx, namespace).await? {
                // One that went meanwhile is not there to be dropped.
                if self.drop_within(tx, &table, caller).await? {
                    dropped.push(table);
                }
            }
        }
        // Clones that go along are gone by now.
        for table in &dropped {
            self.ensure_may_drop(tx, table).await?;
        }
        for namespace in &descendants {
            self.delete_namespace(tx, namespace, caller).await?;
        }
        Ok(dropped)
    }

    async fn delete_namespace(
        &self,
        tx: &mut Tx,
        namespace: &Namespace,
        caller: &Caller,
    ) -> Result<()> {
        namespaces::delete_namespace(tx, namespace).await?;
        let object = Object::Namespace(namespace.id.clone());
        let event = Event::new(EventKind::NamespaceDropped, object, caller, self.now_us());
        events::insert_event(tx, event).await
    }
}
