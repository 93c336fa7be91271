//! Many tables at once: all of it or nothing, for everyone who reads through the catalog.
//!
//! 1. **Intend.** One transaction notes the batch and every version that it is about to make. From
//!    here on those versions are nobody's latest, and nobody else commits to those tables.
//! 2. **Put** every manifest, if nothing is at its place.
//! 3. **Flip.** One transaction makes all of it true: the rows of versions and tables, and the end
//!    of the intents. If a put was refused, what was put is taken back instead.
//!
//! Manifests that the batch deletes go after that; until they are gone its note keeps everyone from
//! adopting them anew, and from writing to those tables.
//!
//! A batch whose maker fell silent is taken up by whoever meets it after its lease: forward if every
//! put still can be made, else back.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::managed::{VersionRange, record_deletion};
use super::settlement::Settlement;
use super::tables::ensure_free;
use super::{Engine, NewLocation, location_of, root_of};
use crate::catalog::batches::{self, Batch, BatchState};
use crate::catalog::{Tx, dropped, events, namespaces, tables, versions};
use crate::error::{Conflict, Error, Result};
use crate::lake::{Claim, Put, StagedManifest, Told};
use crate::model::{
    Branch, Caller, Event, EventKind, ManifestEntry, NamingScheme, Origin, Properties, Table,
    TableId, TableState, TableVersion, protection_of,
};

/// How long a batch is taken to be alive without a sign of life.
const LEASE: Duration = Duration::from_secs(8);
/// How often it gives one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// The most changes of one batch.
pub const MAX_CHANGES: usize = 1_000;
/// How many abandoned batches one sweep takes up.
const BATCH: i64 = 64;
/// How many versions of a batch are put side by side.
pub(super) const AT_ONCE: usize = 8;

/// One change of a batch, as a caller asks for it.
#[derive(Debug, Clone)]
pub enum TableChange {
    Declare {
        id: TableId,
        location: Option<String>,
        properties: Properties,
        /// Whether who declares it gets a role of their own on it.
        is_owned: bool,
    },
    CreateVersion {
        table: Table,
        claim: Claim,
        metadata: Properties,
    },
    DeleteVersions {
        table: Table,
        ranges: Vec<VersionRange>,
    },
    Deregister {
        table: Table,
    },
}

/// What a change of a batch came to.
#[derive(Debug, Clone)]
pub enum TableChanged {
    Declared(Table),
    Created(TableVersion),
    Deleted { versions: u64 },
    Deregistered(Table),
}

/// A change in the form in which it is kept until it is done: everything is decided.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Step {
    Declare {
        table: Uuid,
        id: Vec<String>,
        location: String,
        explicit: bool,
        properties: Properties,
        #[serde(default)]
        is_owned: bool,
    },
    CreateVersion {
        table: Uuid,
        branch: String,
        version: u64,
        path: String,
        v1_names: bool,
        /// Of the manifest's bytes, so that it is known wherever it stands.
        hash: String,
        metadata: Properties,
        /// For a version that was staged here, and goes when it is not put.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        told: Option<Told>,
    },
    DeleteVersions {
        table: Uuid,
        branch: String,
        versions: Vec<(u64, String)>,
        keeps: usize,
    },
    Deregister {
        table: Uuid,
        id: Vec<String>,
        location: String,
        properties: Properties,
    },
    /// What ends together with a commit to several tables.
    Settle(Settlement),
}

/// A version that a batch puts.
pub(super) struct Creation {
    /// Of the change in the request.
    pub(super) index: usize,
    pub(super) table: Table,
    pub(super) staged: StagedManifest,
    pub(super) metadata: Properties,
    /// For a version that was staged here.
    pub(super) told: Option<Told>,
}

impl Creation {
    /// Whether it is what a step puts.
    fn is_of(&self, step: &Step) -> bool {
        let key = self.table.key;
        matches!(step, Step::CreateVersion { table, path, .. }
            if *table == key && *path == self.staged.path())
    }
}

/// When a batch was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    Now,
    /// Somebody did so before, and is at it.
    Before,
}

impl Step {
    /// The table that it declares.
    pub(super) fn declared(&self) -> Result<Table> {
        let Self::Declare { table, id, location, properties, .. } = self else {
            return Err(Error::internal("reading a batch", "it declares no table"));
        };
        Ok(Table {
            key: *table,
            id: TableId::from_list(id)?,
            location: location.clone(),
            branch: Branch::main(),
            state: TableState::Declared,
            origin: Origin::Catalog,
            properties: properties.clone(),
        })
    }

    pub(super) fn of_creation(creation: &Creation) -> Self {
        Self::CreateVersion {
            table: creation.table.key,
            branch: creation.table.branch.to_string(),
            version: creation.staged.version(),
            path: creation.staged.path(),
            v1_names: creation.staged.naming_scheme() == NamingScheme::V1,
            hash: creation.staged.hash(),
            metadata: creation.metadata.clone(),
            told: creation.told.clone(),
        }
    }
}

impl Engine {
    /// Makes all of the changes or none. Answers the batch's id, which is that of its transaction,
    /// and what each change came to, in order.
    ///
    /// # Errors
    /// Those of the changes, each naming its place; `ConcurrentModification` when another was faster
    /// or another batch is at one of the tables. Then nothing was changed.
    pub async fn commit_batch(
        &self,
        changes: Vec<TableChange>,
        caller: &Caller,
    ) -> Result<(Uuid, Vec<TableChanged>)> {
        check_distinct(&changes)?;
        let key = match self.next_marked_try(caller.mark().map(AsRef::as_ref)).await? {
            Ok(key) => key,
            Err(done) => return Ok(done),
        };
        let mut lines: Vec<&Table> = changes.iter().filter_map(TableChange::table).collect();
        // The same order for everyone, or two batches would wait for each other.
        lines.sort_by_key(|table| (table.key, table.branch.clone()));
        let mut turns = Vec::new();
        for table in lines {
            turns.push(self.turn(table).await?);
        }
        let mut steps = Vec::new();
        for (index, change) in changes.into_iter().enumerate() {
            steps.push(self.decide(change).await.map_err(|error| at(index, error))?);
        }
        let batch = Batch {
            key,
            state: BatchState::Open,
            changes: serde_json::to_string(&steps)
                .map_err(|error| Error::internal("noting a batch", error))?,
            properties: Properties::new(),
            created_by: caller.name().into(),
            created_at_us: self.now_us(),
        };
        let creations = self.creations(&steps).await?;
        if self.intend(&batch, &steps, &creations).await? == Noted::Before {
            return Err(Error::ServiceUnavailable(
                "another process is at a request with this key; try again".into(),
            ));
        }
        let work = self.carry_out(&batch, &steps, &creations, caller);
        let done = self.while_at_it(batch.key, work).await?;
        tracing::info!(batch.id = %batch.key, %caller, changes = done.len(), "committed a batch");
        Ok((batch.key, done))
    }

    /// Decides what a change needs decided before it is noted.
    async fn decide(&self, change: TableChange) -> Result<Step> {
        Ok(match change {
            TableChange::Declare { id, location, properties, is_owned } => {
                protection_of(&properties)?;
                let table = Uuid::now_v7();
                let place = location.as_deref().map_or(NewLocation::Own, NewLocation::At);
                {
                    let mut tx = self.catalog.read().await?;
                    namespaces::get_namespace(&mut tx, &id.namespace).await?;
                    if tables::find_table(&mut tx, &id).await?.is_some() {
                        return Err(Error::TableAlreadyExists(id));
                    }
                }
                Step::Declare {
                    location: self.new_location(&id, table, place).await?.to_string(),
                    table,
                    id: id.to_list(),
                    explicit: location.is_some(),
                    properties,
                    is_owned,
                }
            }
            TableChange::CreateVersion { table, claim, metadata } => {
                let staged = self.read_next(&table, &claim).await?;
                if staged.is_in_place() {
                    return Err(Error::invalid_input("a manifest at its final name is not staged"));
                }
                Step::CreateVersion {
                    table: table.key,
                    branch: table.branch.to_string(),
                    version: claim.version,
                    path: claim.path,
                    v1_names: staged.naming_scheme() == NamingScheme::V1,
                    hash: staged.hash(),
                    metadata,
                    told: None,
                }
            }
            TableChange::DeleteVersions { table, ranges } => {
                let (doomed, keeps) = self.doomed_versions(&table, &ranges).await?;
                Step::DeleteVersions {
                    table: table.key,
                    branch: table.branch.to_string(),
                    versions: doomed.into_iter().map(|entry| (entry.version, entry.path)).collect(),
                    keeps,
                }
            }
            TableChange::Deregister { table } => Step::Deregister {
                table: table.key,
                id: table.id.to_list(),
                location: table.location,
                properties: table.properties,
            },
        })
    }

    /// The versions that the steps put, read from where they are staged.
    async fn creations(&self, steps: &[Step]) -> Result<Vec<Creation>> {
        let mut creations = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            creations.extend(self.creation(index, step).await.map_err(|error| at(index, error))?);
        }
        Ok(creations)
    }

    async fn creation(&self, index: usize, step: &Step) -> Result<Option<Creation>> {
        let Step::CreateVersion { table, branch, version, path, v1_names, hash, metadata, told } =
            step
        else {
            return Ok(None);
        };
        let table = self.table_of(*table, branch).await?;
        let scheme = if *v1_names { NamingScheme::V1 } else { NamingScheme::V2 };
        let staged = if let Some(told) = told {
            let location = location_of(&table);
            self.lake.staged_before(&location, *version, scheme, path, told).await?
        } else {
            let claim = Claim {
                version: *version,
                path: path.clone(),
                size_bytes: None,
                naming_scheme: Some(scheme),
            };
            let newest = self.latest(&table).await?.map(|latest| latest.manifest);
            let root = root_of(&table);
            self.lake.read_staged(&root, &table.branch, &claim, newest.as_ref()).await?
        };
        if staged.hash() != *hash {
            return Err(Error::invalid_input("the staged manifest changed meanwhile"));
        }
        let (metadata, told) = (metadata.clone(), told.clone());
        Ok(Some(Creation { index, table, staged, metadata, told }))
    }

    pub(super) async fn table_of(&self, key: Uuid, branch: &str) -> Result<Table> {
        let mut tx = self.catalog.read().await?;
        let table = tables::find_table_by_key(&mut tx, key).await?.ok_or_else(gone)?;
        Ok(Table { branch: Branch::from_stored(branch), ..table })
    }

    /// The table as long as it has files: one that was dropped too, which somebody may have back.
    async fn table_with_files(&self, key: Uuid, branch: &str) -> Result<Option<Table>> {
        let mut tx = self.catalog.read().await?;
        let table = dropped::find_with_dropped(&mut tx, key).await?;
        Ok(table.map(|table| Table { branch: Branch::from_stored(branch), ..table }))
    }

    /// Notes the batch, and every branch of a table whose versions it changes.
    ///
    /// # Errors
    /// `ConcurrentModification` when another batch is at one of them; then it is not noted.
    pub(super) async fn intend(
        &self,
        batch: &Batch,
        steps: &[Step],
        creations: &[Creation],
    ) -> Result<Noted> {
        let mut lines = Vec::new();
        for creation in creations {
            lines.push((creation.index, creation.table.clone(), creation.staged.version()));
        }
        for (index, step) in steps.iter().enumerate() {
            if let Step::DeleteVersions { table, branch, .. } = step {
                let table = self.table_of(*table, branch).await;
                lines.push((index, table.map_err(|error| at(index, error))?, batches::ANY_VERSION));
            }
        }
        // The same order for everyone, or two databases' sessions would wait for each other.
        lines.sort_by(|(_, one, _), (_, other, _)| {
            (one.key, one.branch.as_str()).cmp(&(other.key, other.branch.as_str()))
        });
        let mut tx = self.catalog.write().await?;
        if !batches::insert_batch(&mut tx, batch, self.after_us(LEASE)).await? {
            return Ok(Noted::Before);
        }
        for (index, table, version) in lines {
            if !batches::insert_intent(&mut tx, batch.key, &table, version).await? {
                let conflict = Conflict {
                    message: format!("another commit to several tables is at '{}'", table.id),
                    retryable: true,
                    ..Conflict::default()
                };
                return Err(at(index, Error::conflict(conflict)));
            }
        }
        tx.commit().await?;
        Ok(Noted::Now)
    }

    /// Does the work on a batch while giving signs of life.
    pub(super) async fn while_at_it<T>(&self, batch: Uuid, work: impl Future<Output = T>) -> T {
        // A task of its own: the work may hold the connection that the sign of life waits for.
        let engine = self.in_background();
        let signs = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(SIGN_OF_LIFE).await;
                if let Err(error) = engine.extend_batch(batch).await {
                    tracing::warn!(batch.id = %batch, %error, "could not extend a batch");
                }
            }
        }));
        let done = work.await;
        drop(signs);
        done
    }

    async fn extend_batch(&self, batch: Uuid) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        batches::extend_batch(&mut tx, batch, self.after_us(LEASE)).await?;
        tx.commit().await
    }

    /// Puts what is to be put, and makes all of it true, or takes all of it back.
    pub(super) async fn carry_out(
        &self,
        batch: &Batch,
        steps: &[Step],
        creations: &[Creation],
        caller: &Caller,
    ) -> Result<Vec<TableChanged>> {
        let mut put: Vec<(&Creation, TableVersion)> = Vec::new();
        for some in creations.chunks(AT_ONCE) {
            let outcomes =
                join_all(some.iter().map(|creation| self.put(batch.key, creation))).await;
            let outcomes: Result<Vec<Put>> = outcomes.into_iter().collect();
            let outcomes = match outcomes {
                Ok(outcomes) => outcomes,
                Err(error) => return Err(self.give_up(batch.key, steps, error).await),
            };
            for (creation, outcome) in some.iter().zip(outcomes) {
                match outcome {
                    Put::Landed(landed) | Put::StoodAlready(landed) => {
                        let metadata = creation.metadata.clone();
                        let version = self.version_of(&creation.staged, landed, metadata, caller);
                        put.push((creation, version));
                    }
                    Put::Taken => {
                        self.take_own_back(batch.key, steps).await?;
                        let error = self.taken(&creation.table, creation.staged.version()).await;
                        return Err(at(creation.index, error));
                    }
                }
            }
        }
        match self.flip(batch, steps, &put, caller).await {
            Ok(done) => {
                for some in creations.chunks(AT_ONCE) {
                    join_all(some.iter().map(|creation| self.remove_staged(creation))).await;
                }
                if let Err(error) = self.finish_deletions(batch.key, steps).await {
                    tracing::warn!(batch.id = %batch.key, %error, "could not delete all versions yet");
                }
                Ok(done)
            }
            Err(error) => {
                if error.is_certainly_not_committed() {
                    self.take_own_back(batch.key, steps).await?;
                } else if self.is_aborted(batch.key).await {
                    // Whoever took the batch over ended it before the last of the puts.
                    self.take_puts_back(batch.key, steps).await?;
                }
                Err(error)
            }
        }
    }

    /// Puts one version. What storage did not say the first time a second put finds out: it lands, or
    /// what stands there is compared with what was to; and a first that comes late is refused.
    async fn put(&self, batch: Uuid, creation: &Creation) -> Result<Put> {
        let location = location_of(&creation.table);
        match self.lake.put_staged(&location, &creation.staged, self.now_us()).await {
            Ok(put) => Ok(put),
            // Of a batch that another ended by now, nothing more may come to stand.
            Err(error) if !self.is_open(batch).await => Err(error),
            Err(error) => {
                tracing::warn!(table.id = %creation.table.id, %error, "putting a version once more");
                self.lake.put_staged(&location, &creation.staged, self.now_us()).await
            }
        }
    }

    async fn remove_staged(&self, creation: &Creation) {
        self.lake.remove_staged(&location_of(&creation.table), &creation.staged).await;
    }

    /// How far a batch has come, if that can be known.
    async fn state_of(&self, batch: Uuid) -> Option<BatchState> {
        let mut tx = self.catalog.read().await.ok()?;
        let batch = batches::find_batch(&mut tx, batch).await.ok()?;
        batch.map(|batch| batch.state)
    }

    async fn is_open(&self, batch: Uuid) -> bool {
        self.state_of(batch).await == Some(BatchState::Open)
    }

    pub(super) async fn is_aborted(&self, batch: Uuid) -> bool {
        let aborted = [BatchState::Aborting, BatchState::Aborted];
        self.state_of(batch).await.is_some_and(|state| aborted.contains(&state))
    }

    /// The one transaction that makes a batch true.
    async fn flip(
        &self,
        batch: &Batch,
        steps: &[Step],
        put: &[(&Creation, TableVersion)],
        caller: &Caller,
    ) -> Result<Vec<TableChanged>> {
        let mut tx = self.catalog.write().await?;
        // First of all: of two who are at one batch, the database lets one go on.
        let (open, committed) = (BatchState::Open, BatchState::Committed);
        if !batches::move_batch(&mut tx, batch.key, open, committed).await? {
            return Err(Error::ServiceUnavailable(
                "another process took the commit over; look at the tables' versions".into(),
            ));
        }
        let mut done = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            if let Step::Settle(settlement) = step {
                self.settle_batch(&mut tx, settlement).await?;
                continue;
            }
            let created = put.iter().find(|(creation, _)| creation.is_of(step));
            let index = created.map_or(index, |(creation, _)| creation.index);
            let changed = self.apply(&mut tx, step, created, caller).await;
            done.push(changed.map_err(|error| at(index, error))?);
        }
        batches::delete_intents_to_put(&mut tx, batch.key).await?;
        tx.commit().await?;
        Ok(done)
    }

    async fn apply(
        &self,
        tx: &mut Tx,
        step: &Step,
        created: Option<&(&Creation, TableVersion)>,
        caller: &Caller,
    ) -> Result<TableChanged> {
        let now_us = self.now_us();
        match step {
            Step::Declare { location, explicit, is_owned, .. } => {
                let table = step.declared()?;
                let namespace = namespaces::get_namespace(tx, &table.id.namespace).await?;
                if *explicit {
                    let location = crate::lake::Location::from_stored(location.clone());
                    ensure_free(tx, &table.id, &location).await?;
                }
                // Whoever brings the batch to its end, it is that of who sent it.
                let caller = caller.clone().who_owns(*is_owned);
                self.insert_table(tx, &namespace, &table, &caller).await?;
                Ok(TableChanged::Declared(table))
            }
            Step::CreateVersion { .. } => {
                let (creation, version) =
                    created.ok_or_else(|| Error::internal("committing a batch", "nothing put"))?;
                tables::find_table_by_key(tx, creation.table.key).await?.ok_or_else(gone)?;
                versions::insert_version(tx, &creation.table, version, Some(caller)).await?;
                tables::mark_created(tx, creation.table.key, caller, now_us).await?;
                Ok(TableChanged::Created(version.clone()))
            }
            Step::DeleteVersions { table, branch, versions: doomed, keeps } => {
                let found = tables::find_table_by_key(tx, *table).await?;
                let table = found.ok_or_else(gone)?;
                let table = Table { branch: Branch::from_stored(branch), ..table };
                for (version, _) in doomed {
                    versions::delete_version(tx, &table, *version).await?;
                }
                let numbers = doomed.iter().map(|(version, _)| *version);
                record_deletion(tx, &table, numbers, caller, now_us).await?;
                if *keeps == 0 && table.branch.is_main() && !doomed.is_empty() {
                    tables::mark_declared(tx, &table, caller, now_us).await?;
                }
                Ok(TableChanged::Deleted { versions: doomed.len() as u64 })
            }
            Step::Deregister { table, .. } => {
                let table = tables::find_table_by_key(tx, *table).await?.ok_or_else(gone)?;
                tables::delete_table(tx, &table).await?;
                let event = Event::of_table(EventKind::TableDeregistered, &table, caller, now_us);
                events::insert_event(tx, event).await?;
                Ok(TableChanged::Deregistered(table))
            }
            Step::Settle(_) => Err(Error::internal("committing a batch", "it changes no table")),
        }
    }

    /// Takes back what a batch put, and ends it. That it will not be is noted first, so that nobody
    /// brings it forward meanwhile.
    ///
    /// # Errors
    /// `ServiceUnavailable` when another was faster to end it.
    async fn take_back_batch(&self, batch: Uuid, from: BatchState, steps: &[Step]) -> Result<()> {
        if from != BatchState::Aborting {
            self.abort(batch, from).await?;
        }
        self.end_aborting(batch, steps).await
    }

    /// Notes that a batch will not be.
    pub(super) async fn abort(&self, batch: Uuid, from: BatchState) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        if !batches::move_batch(&mut tx, batch, from, BatchState::Aborting).await? {
            return Err(Error::ServiceUnavailable(
                "another process took the commit over; look at the tables' versions".into(),
            ));
        }
        tx.commit().await
    }

    /// Takes back what a batch put that will not be, and ends it.
    pub(super) async fn end_aborting(&self, batch: Uuid, steps: &[Step]) -> Result<()> {
        self.take_puts_back(batch, steps).await?;
        let mut tx = self.catalog.write().await?;
        self.unsettle_batch(&mut tx, steps).await?;
        let (aborting, aborted) = (BatchState::Aborting, BatchState::Aborted);
        batches::move_batch(&mut tx, batch, aborting, aborted).await?;
        batches::delete_intents(&mut tx, batch).await?;
        tx.commit().await
    }

    /// Removes the manifests that a batch put, known by their hash.
    pub(super) async fn take_puts_back(&self, batch: Uuid, steps: &[Step]) -> Result<()> {
        for step in steps {
            let Step::CreateVersion { table, branch, version, v1_names, hash, path, told, .. } =
                step
            else {
                continue;
            };
            // A table that is gone since took its versions with it.
            let Some(table) = self.table_with_files(*table, branch).await? else { continue };
            let location = location_of(&table);
            let scheme = if *v1_names { NamingScheme::V1 } else { NamingScheme::V2 };
            let stays = !self.lake.take_back(&location, *version, scheme, hash).await?;
            if stays {
                tracing::error!(
                    batch.id = %batch, table.id = %table.id, version,
                    "somebody past the catalog built on a version of a batch that did not land; \
                     it stays, and will be adopted"
                );
            }
            if let Some(told) = told {
                // A version that stays goes on naming its transaction file.
                let file = told.transaction_file.as_deref().filter(|_| !stays);
                self.lake.discard_staged(&location, path, file).await;
            }
        }
        Ok(())
    }

    /// Removes the manifests that a batch deleted.
    async fn finish_deletions(&self, batch: Uuid, steps: &[Step]) -> Result<()> {
        for step in steps {
            let Step::DeleteVersions { table, branch, versions, .. } = step else { continue };
            // A table that is gone since took its versions with it.
            let Some(table) = self.table_with_files(*table, branch).await? else { continue };
            let doomed: Vec<ManifestEntry> = versions
                .iter()
                .map(|(version, path)| ManifestEntry {
                    version: *version,
                    path: path.clone(),
                    size_bytes: None,
                    e_tag: None,
                    naming_scheme: NamingScheme::V2,
                    modified_at_us: 0,
                })
                .collect();
            self.lake.remove_manifests(&location_of(&table), &doomed).await?;
        }
        let mut tx = self.catalog.write().await?;
        batches::move_batch(&mut tx, batch, BatchState::Committed, BatchState::Done).await?;
        batches::delete_intents(&mut tx, batch).await?;
        tx.commit().await
    }

    /// Takes up batches whose makers fell silent. Answers how many.
    pub async fn recover_batches(&self) -> Result<usize> {
        let abandoned = {
            let mut tx = self.catalog.read().await?;
            batches::list_abandoned(&mut tx, self.now_us(), BATCH).await?
        };
        for batch in &abandoned {
            if let Err(error) = self.recover_batch(*batch).await {
                tracing::warn!(batch.id = %batch, %error, "could not bring a batch to its end");
            }
        }
        Ok(abandoned.len())
    }

    /// Brings a batch whose maker fell silent to its end: forward if every put can be made, else
    /// back. Nothing happens when somebody else is at it.
    pub(super) async fn recover_batch(&self, key: Uuid) -> Result<()> {
        let batch = {
            let mut tx = self.catalog.write().await?;
            let (now_us, lease_us) = (self.now_us(), self.after_us(LEASE));
            let taken = batches::take_batch(&mut tx, key, now_us, lease_us).await?;
            let batch = batches::find_batch(&mut tx, key).await?;
            tx.commit().await?;
            batch.filter(|_| taken)
        };
        let Some(batch) = batch else { return Ok(()) };
        let steps: Vec<Step> = serde_json::from_str(&batch.changes)
            .map_err(|error| Error::internal("reading a batch", error))?;
        match batch.state {
            BatchState::Committed => {
                self.while_at_it(key, self.finish_deletions(key, &steps)).await
            }
            BatchState::Done | BatchState::Aborted => Ok(()),
            BatchState::Aborting => {
                let work = self.take_back_batch(key, BatchState::Aborting, &steps);
                self.while_at_it(key, work).await
            }
            BatchState::Open => {
                tracing::info!(batch.id = %key, "bringing a batch that was left to its end");
                let caller = Caller::from_stored(&batch.created_by);
                let outcome = match self.creations(&steps).await {
                    Ok(creations) => {
                        let work = self.carry_out(&batch, &steps, &creations, &caller);
                        self.while_at_it(key, work).await
                    }
                    // Something that was staged is gone, or a table is: nothing of it can stand.
                    Err(error) if error.is_certainly_not_committed() => {
                        self.take_back_batch(key, BatchState::Open, &steps).await?;
                        Err(error)
                    }
                    Err(error) => Err(error),
                };
                match outcome {
                    Err(error) if !error.is_certainly_not_committed() => Err(error),
                    Err(error) => {
                        tracing::info!(batch.id = %key, %error, "took a batch back");
                        Ok(())
                    }
                    Ok(_) => Ok(()),
                }
            }
        }
    }
}

impl TableChange {
    /// The branch of a table whose versions it changes.
    fn table(&self) -> Option<&Table> {
        match self {
            Self::Declare { .. } => None,
            Self::CreateVersion { table, .. }
            | Self::DeleteVersions { table, .. }
            | Self::Deregister { table, .. } => Some(table),
        }
    }
}

/// Two changes of one batch must not be about the same thing: neither could be checked before the
/// other is done.
fn check_distinct(changes: &[TableChange]) -> Result<()> {
    if changes.is_empty() || changes.len() > MAX_CHANGES {
        return Err(Error::invalid_input(format!(
            "a batch has at least one operation and at most {MAX_CHANGES}"
        )));
    }
    let mut lines = HashSet::new();
    let mut names = HashSet::new();
    let mut dropped = HashSet::new();
    for change in changes {
        let is_new = match change {
            TableChange::Declare { id, .. } => names.insert(id.to_list()),
            TableChange::Deregister { table } => {
                names.insert(table.id.to_list()) && dropped.insert(table.key)
            }
            TableChange::CreateVersion { table, .. }
            | TableChange::DeleteVersions { table, .. } => {
                lines.insert((table.key, table.branch.clone()))
            }
        };
        if !is_new {
            return Err(Error::invalid_input(
                "a batch may change each branch of a table, and each name, once",
            ));
        }
    }
    if lines.iter().any(|(key, _)| dropped.contains(key)) {
        return Err(Error::invalid_input(
            "a batch cannot change the versions of a table that it deregisters",
        ));
    }
    Ok(())
}

/// The error of one change, with the place of the change.
pub(super) fn at(index: usize, error: Error) -> Error {
    Error::of_entry(index, error)
}

/// Where the manifests are staged that a batch, as it is kept, puts; as rows of versions have paths.
pub(super) fn staged_paths(changes: &str) -> Result<Vec<String>> {
    let steps: Vec<Step> =
        serde_json::from_str(changes).map_err(|error| Error::internal("reading a batch", error))?;
    let paths = steps.into_iter().filter_map(|step| match step {
        Step::CreateVersion { path, .. } => Some(path.trim_start_matches('/').to_owned()),
        _ => None,
    });
    Ok(paths.collect())
}

fn gone() -> Error {
    Error::InvalidTableState("the table is gone".into())
}
