//! Protection from deletion, put on and lifted.

use super::Engine;
use crate::catalog::{Tx, events, protection};
use crate::error::{Error, Result};
use crate::model::{Caller, DELETION_PROTECTION, Event, EventKind, NamespaceId, Object, TableId};

impl Engine {
    /// Keeps a table from being dropped, or lets it be.
    ///
    /// # Errors
    /// `TableNotFound`.
    pub async fn protect_table(
        &self,
        id: &TableId,
        is_protected: bool,
        caller: &Caller,
    ) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        protection::protect_table(&mut tx, id, is_protected, caller, self.now_us()).await?;
        let (kind, object) = (EventKind::TableProtected, Object::Table(id.clone()));
        self.tell_of_protection(&mut tx, kind, object, is_protected, caller).await?;
        tx.commit().await?;
        tracing::info!(table.id = %id, %caller, is_protected, "protected table");
        Ok(())
    }

    /// Keeps a namespace from being dropped, or lets it be. What is in it can be dropped all the same.
    ///
    /// # Errors
    /// `NamespaceNotFound`, `InvalidInput` for the root.
    pub async fn protect_namespace(
        &self,
        id: &NamespaceId,
        is_protected: bool,
        caller: &Caller,
    ) -> Result<()> {
        if id.is_root() {
            return Err(Error::invalid_input("the root namespace cannot be dropped anyway"));
        }
        let mut tx = self.catalog.write().await?;
        protection::protect_namespace(&mut tx, id, is_protected).await?;
        let (kind, object) = (EventKind::NamespaceProtected, Object::Namespace(id.clone()));
        self.tell_of_protection(&mut tx, kind, object, is_protected, caller).await?;
        tx.commit().await?;
        tracing::info!(namespace.id = %id, %caller, is_protected, "protected namespace");
        Ok(())
    }

    async fn tell_of_protection(
        &self,
        tx: &mut Tx,
        kind: EventKind,
        object: Object,
        is_protected: bool,
        caller: &Caller,
    ) -> Result<()> {
        let event = Event::new(kind, object, caller, self.now_us());
        events::insert_event(tx, event.with(DELETION_PROTECTION, is_protected)).await
    }
}
