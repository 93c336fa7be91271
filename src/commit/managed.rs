//! Versions that clients make themselves: they write data and a manifest, stage the manifest, and ask
//! for it to become a version. So each version has its author, and storage still decides.

use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::batch::{TableChange, TableChanged};
use super::{Engine, location_of, root_of};
use crate::catalog::{Tx, batches, events, protection, tables, versions};
use crate::error::{Conflict, Error, Result};
use crate::lake::{Claim, Landed, Put, StagedManifest, check_new_branch};
use crate::model::{
    Caller, Event, EventKind, ManifestEntry, Origin, Properties, Table, TableVersion,
};

/// How long a change waits for a batch that is at the same table.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it looks.
const PAUSE: Duration = Duration::from_millis(25);
/// How many ranges of versions an event tells of.
const MAX_RANGES: usize = 100;

/// Versions from `start` up to and without `end`; to the newest when there is none.
#[derive(Debug, Clone, Copy)]
pub struct VersionRange {
    pub start: u64,
    pub end: Option<u64>,
}

impl VersionRange {
    fn holds(&self, version: u64) -> bool {
        self.start <= version && self.end.is_none_or(|end| version < end)
    }
}

/// Whom clients that know the namespace are told to commit through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    /// This server: each version gets its author.
    Managed,
    /// Nobody: they commit to storage, and what they commit is adopted. (Not where the catalog decides
    /// the versions: storage alone would let two of them overwrite each other.)
    Adopted,
}

/// The property of a table that says it for that table.
const PROPERTY: &str = "managed_versioning";

impl Engine {
    /// Whether clients are to make the table's versions through this server: those that the table's
    /// property says, else those that this server made, if it is set so. A client that does not
    /// know of it, or does not care, is as safe, unless the catalog decides the versions: then it has
    /// to, whatever a table says.
    pub fn manages_versions(&self, table: &Table) -> bool {
        if self.lake.is_arbitrated(&super::root_of(table)) {
            return true;
        }
        match table.properties.get(PROPERTY).map(|word| word.to_lowercase()).as_deref() {
            Some("true") => true,
            Some("false") => false,
            _ => self.versioning == Versioning::Managed && table.origin == Origin::Catalog,
        }
    }

    /// Makes a version of a manifest that a client staged, if it is the one after the newest.
    ///
    /// # Errors
    /// `ConcurrentModification` when the version is there already, `InvalidInput` for a manifest
    /// that is not what is claimed.
    pub async fn create_version(
        &self,
        table: &Table,
        claim: &Claim,
        metadata: Properties,
        caller: &Caller,
    ) -> Result<TableVersion> {
        let _turn = self.turn(table).await?;
        let location = location_of(table);
        let staged = match self.read_next(table, claim).await {
            Ok(staged) => staged,
            Err(error) => return self.repeated(table, claim, error).await,
        };
        let landed = match self.lake.put_staged(&location, &staged, self.now_us()).await? {
            Put::Landed(landed) | Put::StoodAlready(landed) => landed,
            Put::Taken => return Err(self.taken(table, claim.version).await),
        };
        let version = self.version_of(&staged, landed, metadata, caller);
        let recorded = async {
            let mut tx = self.catalog.write().await?;
            versions::insert_version(&mut tx, table, &version, Some(caller)).await?;
            tables::mark_created(&mut tx, table.key, caller, self.now_us()).await?;
            tx.commit().await
        };
        if let Err(error) = recorded.await {
            tracing::error!(
                table.id = %table.id, version = version.manifest.version, %error,
                "a version stands in storage but could not be recorded; it will be adopted"
            );
        }
        self.lake.remove_staged(&location, &staged).await;
        tracing::info!(
            table.id = %table.id, %caller, version = version.manifest.version,
            "created a version of {}", table.id
        );
        Ok(version)
    }

    /// Reads a staged manifest, if its version is the one after the newest.
    pub(super) async fn read_next(&self, table: &Table, claim: &Claim) -> Result<StagedManifest> {
        let latest = self.latest(table).await?;
        let newest = latest.as_ref().map_or(0, |latest| latest.manifest.version);
        if claim.version == 0 {
            return Err(Error::invalid_input("the first version of a table is version 1"));
        }
        if claim.version <= newest {
            return Err(self.taken(table, claim.version).await);
        }
        // A branch begins with the number of the version that it starts from.
        let begins_branch = newest == 0 && !table.branch.is_main();
        if claim.version > newest + 1 && !begins_branch {
            let conflict = Conflict {
                message: format!(
                    "version {} would leave a gap: the newest of table '{}' is {newest}",
                    claim.version, table.id
                ),
                retryable: true,
                ..Conflict::default()
            };
            return Err(self.explain(table, newest, conflict).await);
        }
        let stands = latest.as_ref().map(|latest| &latest.manifest);
        let staged = self.lake.read_staged(&root_of(table), &table.branch, claim, stands).await?;
        // A client makes a branch by the version that clones what it starts from; the branch gets
        // its entry afterwards.
        if !table.branch.is_main() && !self.lake.has_branch(&root_of(table), &table.branch).await? {
            check_new_branch(&table.branch)?;
            if newest > 0 || staged.operation() != Some("Clone") {
                let (table, branch) = (table.id.clone(), table.branch.clone());
                return Err(Error::TableBranchNotFound { table, branch });
            }
        }
        Ok(staged)
    }

    /// A request that was sent twice: when the version stands and is of the very manifest that is
    /// staged still, that is the answer.
    async fn repeated(&self, table: &Table, claim: &Claim, error: Error) -> Result<TableVersion> {
        if !matches!(error, Error::ConcurrentModification(_)) {
            return Err(error);
        }
        let location = location_of(table);
        let known = self.describe_version(table, claim.version).await;
        let Ok(known) = known else { return Err(error) };
        let stands = Some(&known.manifest);
        let Ok(staged) = self.lake.read_staged(&root_of(table), &table.branch, claim, stands).await
        else {
            return Err(error);
        };
        if !self.lake.stands(&location, &staged).await? {
            return Err(error);
        }
        self.lake.remove_staged(&location, &staged).await;
        Ok(known)
    }

    pub(super) fn version_of(
        &self,
        staged: &StagedManifest,
        landed: Landed,
        metadata: Properties,
        caller: &Caller,
    ) -> TableVersion {
        let mut properties = staged.properties.clone();
        properties.extend(metadata);
        TableVersion {
            manifest: landed.manifest,
            origin: Origin::Catalog,
            operation: landed.operation,
            transaction_id: landed.transaction_id,
            committed_by: Some(caller.name().into()),
            committed_at_us: self.now_us(),
            properties,
        }
    }

    pub(super) async fn taken(&self, table: &Table, version: u64) -> Error {
        let conflict = Conflict {
            message: format!("version {version} of table '{}' exists already", table.id),
            conflicting_version: Some(version),
            retryable: true,
            ..Conflict::default()
        };
        self.explain(table, version.saturating_sub(1), conflict).await
    }

    /// Deletes versions, not their data. Answers how many.
    ///
    /// # Errors
    /// `InvalidTableState` when a tag or a branch refers to one of them, and when they are all that
    /// a protected table has; `InvalidInput` when the newest is among them and an older one is not:
    /// nobody would have committed that state.
    pub async fn delete_versions(
        &self,
        table: &Table,
        ranges: &[VersionRange],
        caller: &Caller,
    ) -> Result<u64> {
        let turn = self.take_turn(table).await?;
        let (doomed, keeps) = self.doomed_versions(table, ranges).await?;
        if keeps == 0 && !doomed.is_empty() {
            drop(turn);
            return self.delete_all_versions(table, ranges, caller).await;
        }
        self.lake.remove_manifests(&location_of(table), &doomed).await?;
        let mut tx = self.catalog.write().await?;
        for manifest in &doomed {
            versions::delete_version(&mut tx, table, manifest.version).await?;
        }
        let numbers = doomed.iter().map(|manifest| manifest.version);
        record_deletion(&mut tx, table, numbers, caller, self.now_us()).await?;
        tx.commit().await?;
        tracing::info!(table.id = %table.id, %caller, versions = doomed.len(), "deleted versions");
        Ok(doomed.len() as u64)
    }

    /// Deletes all versions of a table, as a batch does: SQL decides whether it may lose them
    /// before the first of them goes, and none of them is seen after that.
    async fn delete_all_versions(
        &self,
        table: &Table,
        ranges: &[VersionRange],
        caller: &Caller,
    ) -> Result<u64> {
        let (of, ranges) = (table.clone(), ranges.to_vec());
        let change = TableChange::DeleteVersions { table: of, ranges };
        let done = Box::pin(self.commit_batch(vec![change], caller)).await;
        let (_, changed) = done.map_err(|error| match error {
            Error::Entry { error, .. } => *error,
            error => error,
        })?;
        // The next version is version 1 again.
        self.lines.forget(table);
        let deleted = changed.iter().map(|change| match change {
            TableChanged::Deleted { versions } => *versions,
            _ => 0,
        });
        Ok(deleted.sum())
    }

    /// The versions in some ranges, oldest first, and how many others there are.
    pub(super) async fn doomed_versions(
        &self,
        table: &Table,
        ranges: &[VersionRange],
    ) -> Result<(Vec<ManifestEntry>, usize)> {
        let all = self.lake.list_manifests(&location_of(table)).await?;
        let total = all.len();
        let newest = all.last().map(|manifest| manifest.version);
        let is_doomed =
            |manifest: &ManifestEntry| ranges.iter().any(|range| range.holds(manifest.version));
        let doomed: Vec<ManifestEntry> = all.into_iter().filter(is_doomed).collect();
        if doomed.len() < total
            && let Some(last) = doomed.last().filter(|last| Some(last.version) == newest)
        {
            return Err(Error::invalid_input(format!(
                "version {} is the newest: without it the table would be what it was before, \
                 which restoring a version does",
                last.version
            )));
        }
        if !doomed.is_empty() {
            let pinned = self.lake.pinned_versions(&root_of(table), &table.branch).await?;
            for (version, by) in pinned {
                if doomed.iter().any(|manifest| manifest.version == version) {
                    return Err(Error::InvalidTableState(format!(
                        "version {version} cannot be deleted: {by} refers to it"
                    )));
                }
            }
        }
        let keeps = total - doomed.len();
        if keeps == 0 && !doomed.is_empty() {
            if !table.branch.is_main() {
                return Err(Error::InvalidTableState(
                    "a branch has at least one version; DeleteTableBranch takes all of them".into(),
                ));
            }
            let mut tx = self.catalog.read().await?;
            protection::ensure_table_unprotected(&mut tx, table).await?;
        }
        Ok((doomed, keeps))
    }

    /// Takes the table's turn, and waits for a batch of another process that is at the table.
    ///
    /// # Errors
    /// `ConcurrentModification` when that takes too long.
    pub(super) async fn turn(&self, table: &Table) -> Result<OwnedMutexGuard<()>> {
        let turn = self.lines.take(table).await;
        self.wait_for_batches(table).await?;
        Ok(turn)
    }

    /// Waits for a batch of another process that is at the table, whose turn is taken.
    ///
    /// # Errors
    /// `ConcurrentModification` when that takes too long.
    pub(super) async fn wait_for_batches(&self, table: &Table) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let intent = {
                let mut tx = self.catalog.read().await?;
                batches::find_intent(&mut tx, table).await?
            };
            let Some(intent) = intent else { return Ok(()) };
            if intent.lease_us <= self.now_us() {
                // Rare, and large: it would make every future large that waits for a batch.
                Box::pin(self.recover_batch(intent.batch)).await?;
            } else if Instant::now() >= deadline {
                return Err(Error::conflict(Conflict {
                    message: format!(
                        "a commit to several tables is at table '{}' all the time",
                        table.id
                    ),
                    retryable: true,
                    ..Conflict::default()
                }));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Writes down that versions were deleted, oldest first, as one event: how many, and which.
pub(super) async fn record_deletion(
    tx: &mut Tx,
    table: &Table,
    versions: impl Iterator<Item = u64>,
    caller: &Caller,
    now_us: i64,
) -> Result<()> {
    let versions: Vec<u64> = versions.collect();
    if versions.is_empty() {
        return Ok(());
    }
    let event = Event {
        branch: Some(table.branch.clone()),
        ..Event::of_table(EventKind::VersionDeleted, table, caller, now_us)
    };
    let ranges = ranges_of(&versions).into_iter().map(|(start, end)| {
        // As the specification names them.
        serde_json::json!({"start_version": start, "end_version": end})
    });
    let ranges: Vec<serde_json::Value> = ranges.collect();
    let event = event.with("count", versions.len()).with("ranges", ranges);
    events::insert_event(tx, event).await
}

/// The ranges of some versions, oldest first, each up to and without its end: one around all of
/// them if they would be too many.
fn ranges_of(versions: &[u64]) -> Vec<(u64, u64)> {
    let around = |some: &[u64]| Some((*some.first()?, some.last()?.saturating_add(1)));
    let runs = versions.chunk_by(|one, next| one.saturating_add(1) == *next);
    let ranges: Vec<(u64, u64)> = runs.filter_map(around).collect();
    if ranges.len() <= MAX_RANGES { ranges } else { around(versions).into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_as_ranges() {
        assert!(ranges_of(&[]).is_empty());
        assert_eq!(ranges_of(&[7]), [(7, 8)]);
        assert_eq!(ranges_of(&[1, 2, 3, 5, 8, 9]), [(1, 4), (5, 6), (8, 10)]);
        let odd: Vec<u64> = (0..MAX_RANGES as u64).map(|number| 2 * number + 1).collect();
        assert_eq!(ranges_of(&odd).len(), MAX_RANGES);
        let more: Vec<u64> = odd.into_iter().chain([1_000]).collect();
        assert_eq!(ranges_of(&more), [(1, 1_001)]);
        assert_eq!(ranges_of(&[u64::MAX]), [(u64::MAX, u64::MAX)]);
    }
}
