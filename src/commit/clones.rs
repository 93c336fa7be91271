//! Clones: a table made of a version of another.

use super::refs::root_line;
use super::{Engine, Home};
use crate::catalog::clones::CloneOf;
use crate::catalog::{Tx, clones, namespaces, removals, tables, versions};
use crate::error::{Error, Result};
use crate::lake::Depth;
use crate::model::{
    Caller, DELETION_PROTECTION, NamespaceId, Origin, Properties, Table, TableId, TableVersion,
};

/// Which state of which table is cloned.
#[derive(Debug)]
pub struct CloneSource<'a> {
    /// Where the table stands, as a description tells it.
    pub location: &'a str,
    /// The namespace in which, however deep, it has to be.
    pub within: &'a NamespaceId,
    /// The newest when absent.
    pub version: Option<u64>,
    /// Instead of a version.
    pub tag: Option<&'a str>,
}

impl Engine {
    /// Makes a table of a version of another. Answers its first version.
    ///
    /// # Errors
    /// `InvalidInput` for a location of no table that the caller can name; `TableVersionNotFound`,
    /// `TableTagNotFound`, `TableAlreadyExists`, `NamespaceNotFound`.
    pub async fn clone_table(
        &self,
        id: &TableId,
        home: Home,
        source: &CloneSource<'_>,
        depth: Depth,
        caller: &Caller,
    ) -> Result<u64> {
        {
            let mut tx = self.catalog.read().await?;
            let known = namespaces::find_namespace(&mut tx, &id.namespace).await?.is_some();
            if !known && home == Home::Known {
                return Err(Error::NamespaceNotFound(id.namespace.clone()));
            }
            if known && tables::find_table(&mut tx, id).await?.is_some() {
                return Err(Error::TableAlreadyExists(id.clone()));
            }
        }
        let (source, version) = self.find_source(source).await?;
        // A branch does not go while it is cloned.
        let _branch_turn = match source.branch.is_main() {
            true => None,
            false => Some(self.branch_turns.take(&root_line(&source)).await),
        };
        let snapshot = self.open(&source, version).await?;
        let mut properties = source.properties.clone();
        // A clone can be dropped: who wants it protected says so.
        properties.remove(DELETION_PROTECTION);
        let (table, folder) = self.begin_table(id, properties).await?;
        let made = async {
            let cloned = snapshot.clone_to(&folder, depth).await?;
            self.make_home(id, home, caller).await?;
            let first = TableVersion {
                manifest: cloned.manifest,
                origin: Origin::Catalog,
                operation: Some("Clone".into()),
                transaction_id: cloned.transaction_id,
                committed_by: Some(caller.name().into()),
                committed_at_us: self.now_us(),
                properties: Properties::new(),
            };
            self.record_clone(&table, &first, &source, depth, caller).await?;
            Ok(first.manifest.version)
        };
        match made.await {
            Ok(version) => {
                tracing::info!(table.id = %id, source = %source.id, %caller, "cloned a table");
                Ok(version)
            }
            Err(error) => {
                let error = self.unless_gone(&source, error).await;
                if error.is_certainly_not_committed() {
                    self.remove_unfinished(&folder).await;
                }
                Err(error)
            }
        }
    }

    /// The table that is to be cloned, of which nothing else is looked at.
    ///
    /// # Errors
    /// `InvalidInput` for a location of no table that the caller can name.
    pub async fn clone_source(&self, source: &CloneSource<'_>) -> Result<Table> {
        let location = self.lake.locations().check(source.location)?;
        let found = {
            let mut tx = self.catalog.read().await?;
            tables::find_table_at(&mut tx, location.as_str()).await?
        };
        let table = found.filter(|table| source.within.holds(&table.id.namespace));
        table.ok_or_else(CloneSource::unknown)
    }

    async fn find_source(&self, source: &CloneSource<'_>) -> Result<(Table, Option<u64>)> {
        let table = self.clone_source(source).await?;
        match (source.version, source.tag) {
            (Some(_), Some(_)) => {
                Err(Error::invalid_input("give source_version or source_tag, not both"))
            }
            (version, None) => Ok((table, version)),
            (None, Some(tag)) => {
                let tag = self.find_tag(&table, tag).await?;
                Ok((Table { branch: tag.branch, ..table }, Some(tag.version)))
            }
        }
    }

    async fn record_clone(
        &self,
        table: &Table,
        first: &TableVersion,
        source: &Table,
        depth: Depth,
        caller: &Caller,
    ) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        let namespace = namespaces::get_namespace(&mut tx, &table.id.namespace).await?;
        self.insert_table(&mut tx, &namespace, table, caller).await?;
        versions::insert_version(&mut tx, table, first, Some(caller)).await?;
        if depth == Depth::Shallow {
            clones::insert_clone(&mut tx, table, source).await?;
        }
        if !removals::cancel_removal(&mut tx, &table.location).await? {
            return Err(Error::InvalidTableState(
                "making the clone took longer than an upload may live".into(),
            ));
        }
        tx.commit().await
    }
}

/// What becomes of the files of something that is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// They are kept: a clone that was dropped too can be had back.
    Stay,
    Go,
}

/// # Errors
/// `InvalidTableState` for a table, or a branch of one, to whose files another table refers.
pub(super) async fn ensure_not_cloned(tx: &mut Tx, table: &Table, files: Files) -> Result<()> {
    let Some(CloneOf { id: clone, is_dropped }) = clones::find_clone_of(tx, table).await? else {
        return Ok(());
    };
    let id = &table.id;
    match (is_dropped, files) {
        (true, Files::Stay) => Ok(()),
        (true, Files::Go) => Err(Error::InvalidTableState(format!(
            "'{id}' cannot go: '{clone}', which was dropped and can be had back, is a shallow clone of \
             it, and reads its files; PurgeTable removes that"
        ))),
        (false, _) => Err(Error::InvalidTableState(format!(
            "'{id}' cannot be dropped: '{clone}' is a shallow clone of it, and reads its files"
        ))),
    }
}

impl CloneSource<'_> {
    /// What is said of a location of no table that the caller can name.
    pub fn unknown() -> Error {
        Error::invalid_input(
            "source_location is not the location of a table here; describe tells it",
        )
    }
}
