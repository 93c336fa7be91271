//! Tags and branches. They are in storage, not in the catalog; what is here keeps them from being
//! made and removed while a commit to the same branch is under way.

use tokio::sync::OwnedMutexGuard;

use super::clones::{Files, ensure_not_cloned};
use super::versions::no_data;
use super::{Engine, location_of, root_of};
use crate::catalog::jobs;
use crate::catalog::{events, multipart, uploads, versions};
use crate::error::{Error, Result};
use crate::lake::{Before, BranchEntry, Tag, check_new_branch};
use crate::model::{
    Branch, Caller, Event, EventKind, Origin, Page, Properties, Table, TableVersion,
};

impl Engine {
    /// A page of the tags of all branches, by name, and the token of the next.
    ///
    /// # Errors
    /// `InvalidTableState` for a table that was never written to, as for all that follow.
    pub async fn list_tags(
        &self,
        table: &Table,
        page: &Page,
    ) -> Result<(Vec<Tag>, Option<String>)> {
        self.check_written(table).await?;
        let mut tags = self.lake.list_tags(&root_of(table), page).await?;
        let next = page.finish(&mut tags, |tag| tag.name.clone());
        Ok((tags, next))
    }

    /// # Errors
    /// `TableTagNotFound`, `InvalidInput` for what cannot be a tag's name.
    pub async fn find_tag(&self, table: &Table, tag: &str) -> Result<Tag> {
        let found = self.open(table, None).await?.find_tag(tag).await?;
        found.ok_or_else(|| tag_not_found(table, tag))
    }

    /// Names a version of the table's branch.
    ///
    /// # Errors
    /// `TableTagAlreadyExists`, `TableVersionNotFound`, `InvalidInput`.
    pub async fn create_tag(
        &self,
        table: &Table,
        tag: &str,
        version: u64,
        caller: &Caller,
    ) -> Result<()> {
        let _turn = self.take_turn(table).await?;
        match self.open(table, Some(version)).await?.create_tag(tag).await? {
            Before::Absent => {
                let kind = EventKind::TagCreated;
                self.tell_of_tag(kind, table, tag, Some(version), caller).await;
                Ok(())
            }
            Before::There => {
                Err(Error::TableTagAlreadyExists { table: table.id.clone(), tag: tag.into() })
            }
        }
    }

    /// Gives a tag to a version of the table's branch.
    ///
    /// # Errors
    /// `TableTagNotFound`, `TableVersionNotFound`, `InvalidInput`.
    pub async fn move_tag(
        &self,
        table: &Table,
        tag: &str,
        version: u64,
        caller: &Caller,
    ) -> Result<()> {
        let _turn = self.take_turn(table).await?;
        match self.open(table, Some(version)).await?.move_tag(tag).await? {
            Before::There => {
                let kind = EventKind::TagUpdated;
                self.tell_of_tag(kind, table, tag, Some(version), caller).await;
                Ok(())
            }
            Before::Absent => Err(tag_not_found(table, tag)),
        }
    }

    /// # Errors
    /// `TableTagNotFound`, `InvalidInput`.
    pub async fn delete_tag(&self, table: &Table, tag: &str, caller: &Caller) -> Result<()> {
        match self.open(table, None).await?.delete_tag(tag).await? {
            Before::There => {
                self.tell_of_tag(EventKind::TagDeleted, table, tag, None, caller).await;
                Ok(())
            }
            Before::Absent => Err(tag_not_found(table, tag)),
        }
    }

    async fn tell_of_tag(
        &self,
        kind: EventKind,
        table: &Table,
        tag: &str,
        version: Option<u64>,
        caller: &Caller,
    ) {
        let branch = Some(table.branch.clone());
        let event =
            Event { branch, version, ..Event::of_table(kind, table, caller, self.now_us()) };
        self.tell(&event.with("tag", tag)).await;
    }

    /// Writes down what storage decided. A failure here is no failure of the change.
    async fn tell(&self, event: &Event) {
        let told = self.record_event(event).await;
        if let Err(error) = told {
            tracing::error!(kind = event.kind.as_str(), %error, "an event could not be written down");
        }
    }

    /// A page of the branches beside the main one, by name, and the token of the next.
    pub async fn list_branches(
        &self,
        table: &Table,
        page: &Page,
    ) -> Result<(Vec<BranchEntry>, Option<String>)> {
        self.check_written(table).await?;
        let mut branches = self.lake.list_branches(&root_of(table), page).await?;
        let next = page.finish(&mut branches, |branch| branch.name.clone());
        Ok((branches, next))
    }

    /// Starts a branch from a version of the table's branch, the newest when none is named. Answers
    /// the transaction that made its first version.
    ///
    /// # Errors
    /// `TableBranchAlreadyExists`, `TableVersionNotFound`, `InvalidInput`; `ConcurrentModification`
    /// while another makes a branch of the same name.
    pub async fn create_branch(
        &self,
        source: &Table,
        version: Option<u64>,
        branch: &Branch,
        caller: &Caller,
    ) -> Result<Option<String>> {
        check_new_branch(branch)?;
        let exists =
            || Error::TableBranchAlreadyExists { table: source.id.clone(), branch: branch.clone() };
        let target = Table { branch: branch.clone(), ..source.clone() };
        if source.branch == target.branch {
            return Err(exists());
        }
        let _branch_turn = self.branch_turns.take(&root_line(source)).await;
        // Nobody deletes the version that it starts from meanwhile.
        let _turn = self.take_turn(source).await?;
        let start = self.open(source, version).await?;
        if self.lake.has_branch(&root_of(source), branch).await? {
            return Err(exists());
        }
        self.lake.clear_unfinished_branch(&location_of(&target), self.now_us()).await?;
        // What is known under the name is of another branch, which was removed by somebody else.
        self.forget_branch(&target).await?;
        let made = start.create_branch(branch).await?.ok_or_else(exists)?;
        let first = TableVersion {
            manifest: made.manifest,
            origin: Origin::Catalog,
            operation: Some("Clone".into()),
            transaction_id: made.transaction_id.clone(),
            committed_by: Some(caller.name().into()),
            committed_at_us: self.now_us(),
            properties: Properties::new(),
        };
        if let Err(error) = self.record_branch(&target, &first, caller).await {
            tracing::error!(
                table.id = %target.id, %branch, %error,
                "a branch stands in storage but its first version could not be recorded"
            );
        }
        tracing::info!(table.id = %target.id, %branch, "made a branch");
        Ok(made.transaction_id)
    }

    async fn record_branch(
        &self,
        table: &Table,
        first: &TableVersion,
        caller: &Caller,
    ) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        let event = Event {
            branch: Some(table.branch.clone()),
            version: Some(first.manifest.version),
            transaction_id: first.transaction_id.clone(),
            ..Event::of_table(EventKind::BranchCreated, table, caller, self.now_us())
        };
        versions::insert_version(&mut tx, table, first, None).await?;
        events::insert_event(&mut tx, event).await?;
        tx.commit().await
    }

    /// Removes the table's branch: its entry, its files, and what the catalog knows of it.
    ///
    /// # Errors
    /// `TableBranchNotFound`; `InvalidTableState` when a tag or another branch starts from it.
    pub async fn delete_branch(&self, table: &Table, caller: &Caller) -> Result<()> {
        // From the main branch: of the one that goes perhaps nothing can be opened any more.
        let main = root_line(table);
        let _branch_turn = self.branch_turns.take(&main).await;
        let _turn = self.turn(table).await?;
        {
            let mut tx = self.catalog.read().await?;
            if jobs::has_running(&mut tx, table).await? {
                return Err(Error::InvalidTableState(format!(
                    "a job is at branch '{}'; wait for it, or cancel it",
                    table.branch
                )));
            }
            ensure_not_cloned(&mut tx, table, Files::Go).await?;
        }
        let newest = self.open(&main, None).await?;
        if newest.delete_branch(&table.branch).await? == Before::Absent {
            let (table, branch) = (table.id.clone(), table.branch.clone());
            return Err(Error::TableBranchNotFound { table, branch });
        }
        let event = Event {
            branch: Some(table.branch.clone()),
            ..Event::of_table(EventKind::BranchDeleted, table, caller, self.now_us())
        };
        self.tell(&event).await;
        // The branch is gone. What is left of it now only takes up room.
        let (forgotten, removed) =
            (self.forget_branch(table).await, self.lake.remove(&location_of(table)).await);
        for error in [forgotten.err(), removed.err()].into_iter().flatten() {
            tracing::warn!(table.id = %table.id, branch = %table.branch, %error,
                "could not clear away all that a deleted branch had");
        }
        tracing::info!(table.id = %table.id, branch = %table.branch, "deleted a branch");
        Ok(())
    }

    /// Forgets the versions of a branch, and what was uploaded to it: the files went with its folder.
    pub(super) async fn forget_branch(&self, table: &Table) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        versions::delete_versions(&mut tx, table).await?;
        multipart::delete_sessions(&mut tx, table).await?;
        uploads::delete_uploads(&mut tx, table).await?;
        tx.commit().await
    }

    async fn check_written(&self, table: &Table) -> Result<()> {
        match self.latest(table).await? {
            Some(_) => Ok(()),
            None => Err(no_data(table)),
        }
    }

    /// Waits for the turn to change the table's branch, which may be gone by then.
    ///
    /// # Errors
    /// `TableBranchNotFound`.
    pub(super) async fn take_turn(&self, table: &Table) -> Result<OwnedMutexGuard<()>> {
        let turn = self.turn(table).await?;
        self.check_branch(table).await?;
        Ok(turn)
    }

    /// The error, or that the table or its branch is gone, of which it may be a consequence.
    pub(super) async fn unless_gone(&self, table: &Table, error: Error) -> Error {
        if matches!(error, Error::Internal { .. }) && self.is_gone(table.key).await {
            return Error::TableNotFound(table.id.clone());
        }
        match self.check_branch(table).await {
            Err(gone @ Error::TableBranchNotFound { .. }) => gone,
            _ => error,
        }
    }

    async fn check_branch(&self, table: &Table) -> Result<()> {
        let root = root_of(table);
        if table.branch.is_main() || self.lake.has_branch(&root, &table.branch).await? {
            return Ok(());
        }
        let (table, branch) = (table.id.clone(), table.branch.clone());
        Err(Error::TableBranchNotFound { table, branch })
    }
}

/// The table on its main branch.
pub(super) fn root_line(table: &Table) -> Table {
    Table { branch: Branch::main(), ..table.clone() }
}

fn tag_not_found(table: &Table, tag: &str) -> Error {
    Error::TableTagNotFound { table: table.id.clone(), tag: tag.into() }
}
