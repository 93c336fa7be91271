//! Rows in one request: making a table from an Arrow stream, and adding to one.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::received::{Known, drain};
use super::uploads::For;
use super::{
    Brought, CommitRequest, Engine, NewLocation, OnConflict, Once, UploadsAfter, location_of,
};
use crate::catalog::{idempotency, namespaces, removals, tables, versions, views};
use crate::error::{Conflict, Error, Result};
use crate::lake::{
    Batches, Change, FileLog, Input, Location, Rules, WriteMode, WriteOptions, data_files,
};
use crate::model::{
    Branch, Caller, DELETION_PROTECTION, InsertMode, Origin, Properties, Staged, Table, TableId,
    TableState, TableVersion, Upload, View, protection_of,
};

/// What making a table does when the name is taken by a table with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateMode {
    Create,
    ExistOk,
    /// The rows take the place of those that are there, as a new version of the table.
    Overwrite,
}

/// Where a new table goes when its namespace is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// It must be there.
    Known,
    /// It is a child of the root, which is made with its first table.
    MadeOnDemand,
}

/// A table to be made of rows.
#[derive(Debug)]
pub struct NewTable<'a> {
    pub id: &'a TableId,
    pub mode: CreateMode,
    pub location: NewLocation<'a>,
    pub properties: Properties,
    pub home: Home,
}

/// A table that was made, or found.
pub struct Created {
    pub table: Table,
    pub version: u64,
    /// Absent when the table was there and was left as it was.
    pub transaction_id: Option<String>,
}

/// The answer to a creation in the form in which it is kept. Of a table that was there before, as a
/// declared one is, only what a commit keeps.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u64,
    transaction_id: Option<String>,
    /// The location and the properties.
    #[serde(default)]
    table: Option<(String, Properties)>,
}

impl Kept {
    /// # Errors
    /// `TableNotFound` when the table was there before the request and is not there any more.
    fn into_created(self, id: &TableId, existing: Option<Table>) -> Result<Created> {
        let (version, transaction_id) = (self.version, self.transaction_id);
        let table = match (self.table, existing) {
            (Some((location, properties)), _) => Table {
                key: Uuid::nil(),
                id: id.clone(),
                location,
                branch: Branch::main(),
                state: TableState::Created,
                origin: Origin::Catalog,
                properties,
            },
            (None, Some(table)) => table,
            (None, None) => return Err(Error::TableNotFound(id.clone())),
        };
        Ok(Created { table, version, transaction_id })
    }
}

/// How the first version of a new table came about.
enum First {
    Made(Created),
    /// A request with the same key made it before.
    Before(Kept),
}

/// Rows that landed.
pub struct Inserted {
    pub version: u64,
    pub num_rows: u64,
    pub transaction_id: String,
}

impl Engine {
    /// Makes a table of the rows. The name appears with the first version, not before; a table
    /// that was only declared gets its first version where it was declared.
    ///
    /// # Errors
    /// `NamespaceNotFound`, `TableAlreadyExists`, `InvalidInput` for a property that cannot be, and what
    /// the stream of batches ends with.
    pub async fn create_table(
        &self,
        new: NewTable<'_>,
        batches: Batches,
        caller: &Caller,
    ) -> Result<Created> {
        let NewTable { id, mode, .. } = new;
        protection_of(&new.properties)?;
        let existing = {
            let mut tx = self.catalog.read().await?;
            match namespaces::find_namespace(&mut tx, &id.namespace).await? {
                Some(_) => tables::find_table(&mut tx, id).await?,
                None if new.home == Home::MadeOnDemand => None,
                None => return Err(Error::NamespaceNotFound(id.namespace.clone())),
            }
        };
        // After the name was looked up: with the table came the answer.
        let batches = match self.first_answer::<Kept>(caller, batches).await? {
            Ok(batches) => batches,
            Err(kept) => return kept.into_created(id, existing),
        };
        let table = match (existing, new.location) {
            (Some(table), _) => table,
            (None, NewLocation::Own) => return self.create_new(new, batches, None, caller).await,
            (None, NewLocation::At(location)) => {
                self.make_home(id, new.home, caller).await?;
                return self.create_at(id, location, new.properties, batches, caller).await;
            }
        };
        let properties = new.properties;
        let latest = self.latest(&table).await?.map_or(0, |latest| latest.manifest.version);
        if latest > 0 && mode != CreateMode::Overwrite {
            // An earlier try of this very request may have made it, and died then.
            if self.known(caller).await? == Known::Taken
                && let Some(created) = self.created_before(&table, batches, caller).await?
            {
                return Ok(created);
            }
            return match mode {
                CreateMode::ExistOk => Ok(Created { table, version: latest, transaction_id: None }),
                _ => Err(Error::TableAlreadyExists(id.clone())),
            };
        }
        // Of two who make a declared table one is told so; whoever replaces rows replaces whatever
        // rows there are.
        let (write_mode, on_conflict) = match latest {
            0 => (WriteMode::Create, OnConflict::Rebase),
            _ => (WriteMode::Overwrite, OnConflict::Follow),
        };
        let inserted = self
            .write_and_commit(
                &table,
                Some(write_mode),
                Change::Overwrite,
                on_conflict,
                batches,
                caller,
            )
            .await
            .map_err(|error| match error {
                // Another made the declared table meanwhile.
                Error::ConcurrentModification(_) if latest == 0 => {
                    Error::TableAlreadyExists(id.clone())
                }
                error => error,
            })?;
        let mut table = table;
        if !properties.is_empty() {
            // The rows have landed: what fails from here on is no failure of the request.
            match self.set_properties(&table, &properties, caller).await {
                Ok(()) => {
                    let protection = table.properties.remove_entry(DELETION_PROTECTION);
                    table.properties = properties;
                    table.properties.extend(protection);
                }
                Err(error) => {
                    tracing::error!(table.id = %id, %error, "could not set the properties");
                }
            }
        }
        Ok(Created {
            table,
            version: inserted.version,
            transaction_id: Some(inserted.transaction_id),
        })
    }

    /// What an earlier try of the request made of a declared table, if it did.
    async fn created_before(
        &self,
        table: &Table,
        batches: Batches,
        caller: &Caller,
    ) -> Result<Option<Created>> {
        drain(batches).await?;
        let Some(key) = caller.key() else { return Ok(None) };
        let once = Once::of_stream(key)?;
        let attempt = match self.take_once::<Kept>(&once).await? {
            Ok(attempt) => attempt,
            Err(kept) => return kept.into_created(&table.id, Some(table.clone())).map(Some),
        };
        let marked = self.marked_by(caller, Some(&once), attempt).await?;
        let Some(outcome) = self.find_commit(table, &once, &marked).await? else {
            self.release(&once).await?;
            return Ok(None);
        };
        Ok(Some(Created {
            table: table.clone(),
            version: outcome.version,
            transaction_id: Some(outcome.transaction_id),
        }))
    }

    pub(super) async fn make_home(&self, id: &TableId, home: Home, caller: &Caller) -> Result<()> {
        match home {
            Home::Known => Ok(()),
            Home::MadeOnDemand => self.make_if_missing(&id.namespace, caller).await,
        }
    }

    async fn set_properties(
        &self,
        table: &Table,
        properties: &Properties,
        caller: &Caller,
    ) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        tables::update_properties(&mut tx, table, properties, caller, self.now_us()).await?;
        tx.commit().await
    }

    /// A location that the caller chose may hold files of others, so that its folder is never
    /// removed as a whole on a failure: the table is declared first, and what was uploaded goes
    /// file by file.
    async fn create_at(
        &self,
        id: &TableId,
        location: &str,
        properties: Properties,
        batches: Batches,
        caller: &Caller,
    ) -> Result<Created> {
        let folder = self.lake.locations().check(location)?;
        if !self.lake.list_manifests(&folder).await?.is_empty() {
            return Err(Error::invalid_input("there is a Lance table at the location already"));
        }
        let table = self.declare_table(id, NewLocation::At(location), properties, caller).await?;
        match self.write_first_rows(&table, batches, caller).await {
            Ok(inserted) => Ok(Created {
                table,
                version: inserted.version,
                transaction_id: Some(inserted.transaction_id),
            }),
            Err(error) => {
                if error.is_certainly_not_committed() {
                    self.take_back(&table, caller).await;
                }
                Err(error)
            }
        }
    }

    /// Takes back a table that was declared for a creation that failed, unless it was written to.
    async fn take_back(&self, table: &Table, caller: &Caller) {
        let taken = async {
            let mut tx = self.catalog.write().await?;
            tables::delete_if_declared(&mut tx, table, caller, self.now_us()).await?;
            tx.commit().await
        };
        if let Err(error) = taken.await {
            tracing::warn!(table.id = %table.id, %error, "could not take a table back");
        }
    }

    /// The table is written whole in a folder that nobody knows of, and gets its name at the end:
    /// of two who make the same name at once, the database lets one in. With a `view` it is one.
    pub(super) async fn create_new(
        &self,
        new: NewTable<'_>,
        batches: Batches,
        view: Option<&View>,
        caller: &Caller,
    ) -> Result<Created> {
        let NewTable { id, mode, .. } = new;
        let (table, folder) = self.begin_table(id, new.properties.clone()).await?;
        match self.write_first(&table, &folder, batches, new.home, view, caller).await {
            Ok(First::Made(created)) => Ok(created),
            Ok(First::Before(kept)) => {
                self.remove_unfinished(&folder).await;
                kept.into_created(id, None)
            }
            Err(error) => {
                if error.is_certainly_not_committed() {
                    self.remove_unfinished(&folder).await;
                }
                match (mode, error) {
                    // Whose rows are to stay nobody can say; sent again, these are.
                    (CreateMode::Overwrite, Error::TableAlreadyExists(_)) => {
                        Err(Error::conflict(Conflict {
                            message: format!("another made table '{id}' meanwhile"),
                            retryable: true,
                            ..Conflict::default()
                        }))
                    }
                    // It is there now, which is all that was asked for.
                    (CreateMode::ExistOk, Error::TableAlreadyExists(_)) => {
                        let table = {
                            let mut tx = self.catalog.read().await?;
                            tables::get_table(&mut tx, id).await?
                        };
                        let latest = self.latest(&table).await?;
                        let version = latest.map_or(0, |latest| latest.manifest.version);
                        Ok(Created { table, version, transaction_id: None })
                    }
                    (_, error) => Err(error),
                }
            }
        }
    }

    /// A table in a folder that nobody knows of. The folder is noted as to be removed, so that what is
    /// never finished goes.
    pub(super) async fn begin_table(
        &self,
        id: &TableId,
        properties: Properties,
    ) -> Result<(Table, Location)> {
        let key = Uuid::now_v7();
        let folder = self.new_location(id, key, NewLocation::Own).await?;
        let mut tx = self.catalog.write().await?;
        removals::insert_removal(&mut tx, folder.as_str(), self.after_us(self.upload_ttl)).await?;
        tx.commit().await?;
        let table = Table {
            key,
            id: id.clone(),
            location: folder.to_string(),
            branch: Branch::main(),
            state: TableState::Created,
            origin: Origin::Catalog,
            properties,
        };
        Ok((table, folder))
    }

    async fn write_first(
        &self,
        table: &Table,
        folder: &Location,
        batches: Batches,
        home: Home,
        view: Option<&View>,
        caller: &Caller,
    ) -> Result<First> {
        let options = WriteOptions::default();
        // The whole folder is noted for removal: no file needs a note of its own.
        let log = Arc::new(Unnoted);
        let staged: Staged =
            self.lake.write(folder, None, WriteMode::Create, batches, &options, log).await?;
        let input = Input { staged: vec![staged], ..Input::default() };
        let prepared = self.lake.prepare(folder, None, Change::Overwrite, &input).await?;
        let transaction_id = Uuid::now_v7();
        let rules = Rules { read_version: 0, transaction_id, strict: true, ..Rules::default() };
        let published = self.lake.publish(folder, None, prepared, &rules).await?;
        let version = TableVersion {
            manifest: published.manifest,
            origin: Origin::Catalog,
            operation: Some(Change::Overwrite.name().into()),
            transaction_id: Some(transaction_id.to_string()),
            committed_by: Some(caller.name().into()),
            committed_at_us: self.now_us(),
            properties: Properties::new(),
        };
        self.make_home(&table.id, home, caller).await?;
        let once = caller.key().map(Once::of_stream).transpose()?;
        if let Some(once) = &once
            && let Err(kept) = self.take_once(once).await?
        {
            return Ok(First::Before(kept));
        }
        let named = self.name_first(table, &version, view, once.as_ref(), caller);
        self.while_alive(once.as_ref(), named).await?;
        tracing::info!(table.id = %table.id, %caller, num_rows = published.num_rows, "created table");
        Ok(First::Made(Created {
            table: table.clone(),
            version: version.manifest.version,
            transaction_id: Some(transaction_id.to_string()),
        }))
    }

    /// The one transaction that gives a table its name, and keeps the answer.
    async fn name_first(
        &self,
        table: &Table,
        version: &TableVersion,
        view: Option<&View>,
        once: Option<&Once>,
        caller: &Caller,
    ) -> Result<()> {
        let kept = Kept {
            version: version.manifest.version,
            transaction_id: version.transaction_id.clone(),
            table: Some((table.location.clone(), table.properties.clone())),
        };
        let answer = Self::answer_to_keep(&kept)?;
        let mut tx = self.catalog.write().await?;
        let namespace = namespaces::get_namespace(&mut tx, &table.id.namespace).await?;
        self.insert_table(&mut tx, &namespace, table, caller).await?;
        versions::insert_version(&mut tx, table, version, Some(caller)).await?;
        if let Some(view) = view {
            views::insert_view(&mut tx, table.key, view).await?;
        }
        if !removals::cancel_removal(&mut tx, &table.location).await? {
            return Err(Error::InvalidTableState(
                "making the table took longer than an upload may live".into(),
            ));
        }
        if let Some(once) = once {
            let until_us = self.after_us(once.kept());
            idempotency::finish_key(&mut tx, once.key_hash(), &answer, until_us).await?;
        }
        tx.commit().await
    }

    /// Adds rows to a table, or puts them in the place of those that are there. The first rows of
    /// a declared table make its schema.
    ///
    /// # Errors
    /// `TableSchemaValidation`, and what the stream of batches ends with.
    pub async fn insert_rows(
        &self,
        table: &Table,
        mode: InsertMode,
        batches: Batches,
        caller: &Caller,
    ) -> Result<Inserted> {
        // Whether a declared table has its first version by the time the rows are written, that
        // writing sees.
        let (mode, change) = match mode {
            InsertMode::Append => (None, Change::Append),
            InsertMode::Overwrite => (Some(WriteMode::Overwrite), Change::Overwrite),
        };
        let on_conflict = OnConflict::Follow;
        match self.write_and_commit(table, mode, change, on_conflict, batches, caller).await {
            Ok(inserted) => Ok(inserted),
            Err(error) => Err(self.unless_gone(table, error).await),
        }
    }

    /// The first rows of a table that was only declared.
    ///
    /// # Errors
    /// `ConcurrentModification` and `TableAlreadyExists` when another's first rows are there.
    pub(super) async fn write_first_rows(
        &self,
        table: &Table,
        batches: Batches,
        caller: &Caller,
    ) -> Result<Inserted> {
        let (mode, change) = (Some(WriteMode::Create), Change::Overwrite);
        self.write_and_commit(table, mode, change, OnConflict::Rebase, batches, caller).await
    }

    async fn write_and_commit(
        &self,
        table: &Table,
        mode: Option<WriteMode>,
        change: Change,
        on_conflict: OnConflict,
        batches: Batches,
        caller: &Caller,
    ) -> Result<Inserted> {
        let options = WriteOptions::default();
        let transaction_id = caller.mark().map_or_else(Uuid::now_v7, |mark| mark.id);
        // With a key the rows are claimed when all of them have come.
        let is_keyed = caller.key().is_some();
        let whom = if is_keyed { For::Anyone } else { For::Commit(transaction_id) };
        let (num_rows, upload) = if self.known(caller).await? == Known::Answered {
            (drain(batches).await?, None)
        } else {
            let staged = self.upload_rows(table, mode, batches, &options, whom, caller).await?;
            (staged.upload.staged.num_rows, Some(staged))
        };
        let (upload, is_noted) =
            upload.map_or((None, true), |one| (Some(one.upload), one.is_noted));
        let request = CommitRequest {
            change,
            read_version: upload.as_ref().map_or(0, |upload| upload.read_version),
            fragments: Vec::new(),
            uploads: upload.iter().filter(|_| is_keyed).map(|upload| upload.key).collect(),
            session: None,
            schema: None,
            on_conflict,
            properties: Properties::new(),
            coalesce: true,
            brought: upload
                .clone()
                .filter(|_| !is_keyed)
                .map(|upload| Brought { upload, is_noted }),
            uploads_after: UploadsAfter::Forgotten,
        };
        let committed =
            self.commit_received(table, upload.as_ref(), &request, transaction_id, caller);
        match committed.await {
            Ok(outcome) => Ok(Inserted {
                version: outcome.version,
                num_rows,
                transaction_id: outcome.transaction_id,
            }),
            Err(error) => {
                if let Some(upload) = &upload
                    && error.is_certainly_not_committed()
                    && let Err(failure) = self.take_back_rows(table, upload, is_noted, caller).await
                {
                    tracing::warn!(upload.id = %upload.key, error = %failure, "could not abort yet");
                }
                Err(error)
            }
        }
    }

    /// Removes rows that a commit brought along, and that certainly were not committed.
    async fn take_back_rows(
        &self,
        table: &Table,
        upload: &Upload,
        is_noted: bool,
        caller: &Caller,
    ) -> Result<()> {
        if is_noted {
            return self.abort_upload(table, upload.key, caller).await;
        }
        let files = data_files(&upload.staged.fragments);
        self.lake.remove_files(&location_of(table), &files).await
    }
}

/// A log for files that need no note.
#[derive(Debug)]
struct Unnoted;

#[async_trait]
impl FileLog for Unnoted {
    async fn note(&self, _: &str) -> Result<()> {
        Ok(())
    }
}
