//! Committing: the version check, the put, the record.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::change::{PATIENCE, PAUSE, deadline_in};
use super::group::Shared;
use super::once::Attempt;
use super::record::{Record, UploadsAfter};
use super::{Engine, Once, jitter, location_of};
use crate::catalog::{Tx, batches, uploads};
use crate::error::{Conflict, Error, Result};
use crate::lake::{Change, Input, Published, Rules, Snapshot, check_data_file, data_files};
use crate::model::{
    Caller, Origin, Properties, Table, TableVersion, Upload, UploadKind, UploadState,
};
use crate::telemetry::meters;

/// What happens when others committed since the version that a commit was made against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Lance's own rules: what goes together lands, what does not is refused.
    Rebase,
    /// Refuse unless the newest version still is the one read.
    Fail,
    /// The change names no version: it goes on top of whatever is there, and is made anew on what
    /// others put meanwhile. Of `read_version` only counts that the change comes after it.
    Follow,
}

/// A commit as a caller asks for it.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    pub change: Change,
    /// 0 for a table that has no version yet.
    pub read_version: u64,
    /// Lance's own JSON of each fragment.
    pub fragments: Vec<serde_json::Value>,
    pub uploads: Vec<Uuid>,
    /// The multipart write that all of the uploads are the parts of.
    pub session: Option<Uuid>,
    /// The JSON Arrow schema that the caller expects.
    pub schema: Option<serde_json::Value>,
    pub on_conflict: OnConflict,
    /// Kept in the manifest's transaction.
    pub properties: Properties,
    /// Whether an append may share its version with others that wait.
    pub coalesce: bool,
    /// Rows that came with the request.
    pub brought: Option<Brought>,
    /// What becomes of the rows of the uploads.
    pub uploads_after: UploadsAfter,
}

/// An upload of rows that are committed at once.
#[derive(Debug, Clone)]
pub struct Brought {
    pub upload: Upload,
    /// Whether the catalog knows of it. If so, it was claimed for the commit when it was staged.
    pub is_noted: bool,
}

impl CommitRequest {
    /// The version that it was made against. Of a table that got its first version since, what was
    /// read is nothing, and the rows go with whatever is there.
    pub(super) fn read_or(&self, latest: u64) -> u64 {
        if self.read_version == 0 { latest } else { self.read_version }
    }

    /// Whether the catalog may say of an upload that this commit has it.
    pub(super) fn may_have_claims(&self) -> bool {
        self.brought.as_ref().is_none_or(|brought| brought.is_noted)
    }
}

/// A commit that landed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitOutcome {
    pub version: u64,
    pub read_version: u64,
    pub transaction_id: String,
    /// Whether others had committed since `read_version`.
    pub rebased: bool,
    /// How many rows live in the new version.
    pub num_rows: u64,
}

/// An upload that a commit has.
pub(super) struct Taken {
    pub(super) upload: Upload,
    pub(super) by: NamedBy,
}

impl Taken {
    /// Whether the catalog says that this commit has it.
    pub(super) fn is_claimed(&self) -> bool {
        self.by != NamedBy::Nobody
    }
}

/// How a commit names an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamedBy {
    Id,
    /// By the JSON of fragments that the upload wrote.
    Fragments,
    /// The rows came with the commit, and the catalog knows nothing of them.
    Nobody,
}

/// How long a commit may have its uploads before it is taken to be dead, in microseconds; twice
/// what Lance is given to put a version.
pub(super) const CLAIM_US: i64 = 5 * 60 * 1_000_000;
/// How often a first commit that lost to another first commit goes again as an append.
const MAX_FIRST_TRIES: usize = 3;

impl Engine {
    /// Commits fragments and uploads as one version, which an append may share with others.
    ///
    /// # Errors
    /// `ConcurrentModification` when the version check refuses it, `InvalidInput` and
    /// `TableSchemaValidation` for what does not fit, `Throttling` when too many wait; then nothing
    /// was changed. `Internal` and `ServiceUnavailable` when the outcome is unknown; a retry with the
    /// same key settles it.
    pub async fn commit_table(
        &self,
        table: &Table,
        request: CommitRequest,
        once: Option<&Once>,
        caller: &Caller,
    ) -> Result<CommitOutcome> {
        let attempt = match once {
            None => Attempt::First,
            Some(once) => match self.take_once(once).await? {
                Ok(attempt) => attempt,
                Err(answer) => return Ok(answer),
            },
        };
        // On the heap at once: it would be copied with every future that it is a part of.
        let work = Box::pin(async {
            let caller = self.marked_by(caller, once, attempt).await?;
            let of_caller = || caller.mark().map_or_else(Uuid::now_v7, |mark| mark.id);
            let transaction_id = once.map_or_else(of_caller, Once::transaction_id);
            self.commit_now(table, &request, attempt, transaction_id, once, &caller).await
        });
        self.while_alive(once, work).await
    }

    /// As [`Self::commit_table`], for a key that was taken.
    pub(super) async fn commit_now(
        &self,
        table: &Table,
        request: &CommitRequest,
        attempt: Attempt,
        transaction_id: Uuid,
        once: Option<&Once>,
        caller: &Caller,
    ) -> Result<CommitOutcome> {
        if attempt == Attempt::AfterAnother {
            let _turn = self.take_turn(table).await?;
            let landed = self.record_landed(table, request, transaction_id, once, caller).await?;
            if let Some(outcome) = landed {
                return Ok(outcome);
            }
        }
        let committed = self.claim_and_commit(table, request, transaction_id, once, caller).await;
        let error = match committed {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        // A twin of this request, on another replica that took it for dead, may have landed it; and
        // storage may have taken it without saying so.
        if (once.is_some() || !error.is_certainly_not_committed())
            && let Ok(Some(outcome)) =
                self.record_landed(table, request, transaction_id, once, caller).await
        {
            return Ok(outcome);
        }
        if error.is_certainly_not_committed() {
            self.give_uploads_back(transaction_id).await;
        }
        Err(error)
    }

    async fn claim_and_commit(
        &self,
        table: &Table,
        request: &CommitRequest,
        transaction_id: Uuid,
        once: Option<&Once>,
        caller: &Caller,
    ) -> Result<CommitOutcome> {
        let taken = match request.may_share() {
            false => self.uploads_of(table, request, transaction_id).await?,
            true => {
                let shared = self.append_with_others(table, request, transaction_id, once, caller);
                match shared.await? {
                    Shared::Landed(outcome) => return Ok(outcome),
                    Shared::Alone(taken) => taken,
                }
            }
        };
        let _place = self.lines.queue(table)?;
        let _turn = self.take_turn(table).await?;
        let (version, published) =
            Box::pin(self.publish(table, request, &taken, transaction_id, caller)).await?;
        let number = version.manifest.version;
        let outcome = CommitOutcome::of(request, number, published.num_rows, transaction_id);
        match &published.snapshot {
            Some(snapshot) => self.lines.keep(table, snapshot, &version, number),
            None => self.lines.forget(table),
        }
        self.record(Record::alone(table, version, request, &outcome, once, caller)).await;
        tracing::info!(
            table.id = %table.id, %caller, operation = request.change.name(),
            "committed version {number} of {}", table.id
        );
        Ok(outcome)
    }

    /// What the commit brought with it, or else [`Self::take_uploads`].
    pub(super) async fn uploads_of(
        &self,
        table: &Table,
        request: &CommitRequest,
        transaction_id: Uuid,
    ) -> Result<Vec<Taken>> {
        let Some(Brought { upload, is_noted }) = &request.brought else {
            return self.take_uploads(table, request, transaction_id).await;
        };
        let by = if *is_noted { NamedBy::Id } else { NamedBy::Nobody };
        Ok(vec![Taken { upload: upload.clone(), by }])
    }

    /// Records what this transaction landed before, if it did.
    pub(super) async fn record_landed(
        &self,
        table: &Table,
        request: &CommitRequest,
        transaction_id: Uuid,
        once: Option<&Once>,
        caller: &Caller,
    ) -> Result<Option<CommitOutcome>> {
        let landed = Box::pin(self.find_landed(table, request, transaction_id)).await?;
        let Some((version, num_rows)) = landed else { return Ok(None) };
        let number = version.manifest.version;
        let outcome = CommitOutcome::of(request, number, num_rows, transaction_id);
        self.record(Record::alone(table, version, request, &outcome, once, caller)).await;
        Ok(Some(outcome))
    }

    /// The version check and the put.
    async fn publish(
        &self,
        table: &Table,
        request: &CommitRequest,
        taken: &[Taken],
        transaction_id: Uuid,
        caller: &Caller,
    ) -> Result<(TableVersion, Published)> {
        let location = location_of(table);
        let input = input(request, taken);
        let claimed_at = Instant::now();
        let follows = request.on_conflict == OnConflict::Follow;
        let patience = caller.patience().unwrap_or(PATIENCE);
        let (deadline, mut pause) = (deadline_in(patience), PAUSE);
        let mut tries = 0;
        let mut seen = None;
        loop {
            tries += 1;
            let latest = self.newest_after(table, seen.take()).await?;
            if !follows {
                self.check_version(table, request, latest).await?;
            }
            let base = self.base(table, request, latest).await?;
            let newest = base.as_ref().map_or(0, Snapshot::version);
            let prepared =
                self.lake.prepare(&location, base.as_ref(), request.change, &input).await?;
            // Where others are fast, they would be faster every time than this is prepared.
            let looked_at = if tries > 1 { self.newest_number(table).await? } else { latest };
            let read_version = if follows { newest } else { request.read_or(latest) };
            // Lance would look at each version in between once more.
            let goes_beside = match &base {
                Some(base) if request.may_pass() && read_version < newest => {
                    self.goes_beside(table, base, read_version, newest).await
                }
                _ => false,
            };
            let rules = Rules {
                newest: Some(looked_at.max(newest)),
                read_version: if goes_beside { newest } else { read_version },
                transaction_id,
                strict: request.on_conflict == OnConflict::Fail,
                properties: request.properties.clone(),
                fence: Some(self.fence_for(table, caller)),
            };
            if claimed_at.elapsed() > renew_after() {
                self.renew_claim(taken, transaction_id).await?;
            }
            match self.lake.publish(&location, base.as_ref(), prepared, &rules).await {
                Ok(published) => {
                    let now_us = self.now_us();
                    let version = version_of(&published, request, transaction_id, caller, now_us);
                    return Ok((version, published));
                }
                Err(Error::ConcurrentModification(conflict))
                    if (follows || is_rebased(request, &conflict))
                        && Instant::now() + pause < deadline =>
                {
                    tracing::debug!(table.id = %table.id, error = conflict.message, "going again");
                    meters::went_again();
                    seen = conflict.current_version;
                    tokio::time::sleep(jitter(pause)).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                // Another's first version stands now; an append goes on top of it.
                Err(Error::ConcurrentModification(_))
                    if latest == 0
                        && request.change == Change::Append
                        && request.on_conflict == OnConflict::Rebase
                        && tries < MAX_FIRST_TRIES => {}
                Err(Error::ConcurrentModification(conflict)) => {
                    let read_version = if follows { newest } else { request.read_version };
                    return Err(self.explain(table, read_version, *conflict).await);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`Self::newest_number`], once Lance has met a version that had not landed when it was asked
    /// for before.
    async fn newest_after(&self, table: &Table, seen: Option<u64>) -> Result<u64> {
        let of_batch = seen.is_some() && self.wait_for_batch(table).await?;
        let latest = self.newest_number(table).await?;
        if seen.is_some_and(|seen| of_batch || latest < seen) {
            // Lance remembers what it met, by its number, and another may come to have that.
            self.lake.forget();
        }
        Ok(latest)
    }

    async fn newest_number(&self, table: &Table) -> Result<u64> {
        Ok(self.latest(table).await?.map_or(0, |latest| latest.manifest.version))
    }

    /// Waits until what a batch put is a version for everyone, or gone. Answers whether one was there.
    async fn wait_for_batch(&self, table: &Table) -> Result<bool> {
        let intent = {
            let mut tx = self.catalog.read().await?;
            batches::find_intent(&mut tx, table).await?
        };
        if intent.is_some() {
            self.wait_for_batches(table).await?;
        }
        Ok(intent.is_some())
    }

    /// What can be refused before anything is read.
    pub(super) async fn check_version(
        &self,
        table: &Table,
        request: &CommitRequest,
        latest: u64,
    ) -> Result<()> {
        if request.read_version > latest {
            return Err(Error::invalid_input(format!(
                "read_version {} is newer than version {latest}, the newest of table '{}'",
                request.read_version, table.id
            )));
        }
        let moved = request.read_version != latest;
        // Whoever makes a table does not mean to replace one that another made meanwhile.
        let replaces = request.read_version == 0 && request.change != Change::Append;
        if !moved || !(replaces || request.on_conflict == OnConflict::Fail) {
            return Ok(());
        }
        let conflict = Conflict {
            message: format!(
                "table '{}' is at version {latest}, not at version {}",
                table.id, request.read_version
            ),
            conflicting_version: Some(request.read_version + 1),
            retryable: true,
            ..Conflict::default()
        };
        Err(self.explain(table, request.read_version, conflict).await)
    }

    /// The version to check against: the newest, except that a merge is about the fragments of
    /// the version that it read.
    pub(super) async fn base(
        &self,
        table: &Table,
        request: &CommitRequest,
        latest: u64,
    ) -> Result<Option<Snapshot>> {
        if latest == 0 {
            return Ok(None);
        }
        let location = location_of(table);
        if request.change == Change::Merge && request.read_version > 0 {
            let version = self.describe_version(table, request.read_version).await?;
            return self.lake.snapshot(&location, version.manifest.version).await.map(Some);
        }
        self.open(table, None).await.map(Some)
    }

    /// A version after the one read that this transaction made, if there is one, and its rows.
    async fn find_landed(
        &self,
        table: &Table,
        request: &CommitRequest,
        transaction_id: Uuid,
    ) -> Result<Option<(TableVersion, u64)>> {
        let Some(latest) = self.latest(table).await? else { return Ok(None) };
        let after_it = request.read_version + 1..=latest.manifest.version;
        let mut makers = self.open_newest(table, latest).await?.makers(after_it.rev());
        while let Some(maker) = makers.try_next().await? {
            if !maker.is(transaction_id) {
                continue;
            }
            match self.describe_version(table, maker.version).await {
                Ok(version) => {
                    let snapshot = self.lake.snapshot(&location_of(table), maker.version).await?;
                    return Ok(Some((version, snapshot.num_rows().await?)));
                }
                Err(Error::TableVersionNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Takes the uploads of a commit, so that no abort, no sweep and no other commit can: those
    /// that it names, and those that wrote the fragments that it names.
    ///
    /// # Errors
    /// `InvalidInput` for one that is unknown, unfinished, expired or committed, and for columns
    /// in a commit that is not a merge; `ConcurrentModification` when another commit has it.
    pub(super) async fn take_uploads(
        &self,
        table: &Table,
        request: &CommitRequest,
        transaction_id: Uuid,
    ) -> Result<Vec<Taken>> {
        let mut taken = Vec::new();
        for key in &request.uploads {
            if taken.iter().any(|known: &Taken| known.upload.key == *key) {
                return Err(Error::invalid_input(format!("upload {key} is named twice")));
            }
            let upload = self.find_upload(table, *key).await?;
            check_kind(table, &upload, request)?;
            taken.push(Taken { upload, by: NamedBy::Id });
        }
        let files = data_files(&request.fragments);
        let mut wrote = BTreeSet::new();
        {
            let mut tx = self.catalog.read().await?;
            for file in &files {
                check_data_file(file)?;
                wrote.extend(uploads::find_upload_of_file(&mut tx, table.key, file).await?);
            }
        }
        for key in wrote {
            if taken.iter().all(|known| known.upload.key != key) {
                let upload = self.find_upload(table, key).await?;
                check_session(&upload, request)?;
                taken.push(Taken { upload, by: NamedBy::Fragments });
            }
        }
        // What a version refers to already is nobody's to take. (Its files may be named again all
        // the same, as an overwrite does that goes back to them.)
        taken.retain(|one| one.by == NamedBy::Id || one.upload.state != UploadState::Committed);
        self.claim_uploads(&taken, transaction_id).await?;
        let mut kept = Vec::new();
        for one in taken {
            // Its commit died: whether before or after its manifest stood, storage says.
            let dead = one.upload.state == UploadState::Committing;
            if !dead || !self.is_in_use(table, &one.upload).await? {
                self.check_expiry(&one.upload)?;
                kept.push(one);
                continue;
            }
            let mut tx = self.catalog.write().await?;
            let (from, to) = (UploadState::Committing, UploadState::Committed);
            uploads::move_upload(&mut tx, one.upload.key, from, to).await?;
            tx.commit().await?;
            if one.by == NamedBy::Id {
                return Err(committed_already(&one.upload));
            }
        }
        Ok(kept)
    }

    /// An upload whose time is over is the sweep's, whether that came by already or not. A part has
    /// the time of its multipart write.
    fn check_expiry(&self, upload: &Upload) -> Result<()> {
        if upload.part.is_some() || upload.expires_at_us > self.now_us() {
            return Ok(());
        }
        Err(Error::invalid_input(format!("upload {} expired; upload the data again", upload.key)))
    }

    async fn claim_uploads(&self, taken: &[Taken], transaction_id: Uuid) -> Result<()> {
        if taken.is_empty() {
            return Ok(());
        }
        let keys: Vec<Uuid> = taken.iter().map(|one| one.upload.key).collect();
        let now_us = self.now_us();
        let claimed = self.catalog.write_with_others(move |tx| {
            let keys = keys.clone();
            Box::pin(async move { claim_all(tx, &keys, transaction_id, now_us).await })
        });
        let Some(refused) = claimed.await? else { return Ok(()) };
        let refused = taken.iter().find(|one| one.upload.key == refused);
        refused.map_or(Ok(()), |Taken { upload, .. }| {
            Err(match upload.state {
                UploadState::Committed => committed_already(upload),
                UploadState::Writing => {
                    Error::invalid_input(format!("upload {} is not finished", upload.key))
                }
                _ => Error::conflict(Conflict {
                    message: format!("another commit has upload {}", upload.key),
                    retryable: true,
                    ..Conflict::default()
                }),
            })
        })
    }

    /// Makes sure, just before the put, that no sweep and no other commit took the uploads.
    pub(super) async fn renew_claim(&self, taken: &[Taken], transaction_id: Uuid) -> Result<()> {
        let claimed = taken.iter().filter(|one| one.is_claimed()).count();
        if claimed == 0 {
            return Ok(());
        }
        let mut tx = self.catalog.write().await?;
        let claim = transaction_id.to_string();
        let held = uploads::renew_claim(&mut tx, &claim, self.now_us()).await?;
        tx.commit().await?;
        if held == claimed as u64 {
            return Ok(());
        }
        Err(Error::conflict(Conflict {
            message: "another commit took an upload of this one".into(),
            retryable: true,
            ..Conflict::default()
        }))
    }

    pub(super) async fn give_uploads_back(&self, transaction_id: Uuid) {
        let given = async {
            let mut tx = self.catalog.write().await?;
            let claim = transaction_id.to_string();
            uploads::end_claim(&mut tx, &claim, UploadState::Staged).await?;
            tx.commit().await
        };
        if let Err(error) = given.await {
            tracing::warn!(%error, "could not give uploads back; their claim will run out");
        }
    }
}

/// Whether a commit that follows what others did can be made on top of what it met.
fn is_rebased(request: &CommitRequest, conflict: &Conflict) -> bool {
    request.on_conflict == OnConflict::Rebase
        && conflict.retryable
        && conflict.current_version.is_some()
}

/// Claims all of some uploads, or none. Answers the one that could not be had.
async fn claim_all(
    tx: &mut Tx,
    uploads: &[Uuid],
    transaction_id: Uuid,
    now_us: i64,
) -> Result<Option<Uuid>> {
    let claim = transaction_id.to_string();
    let stale_us = now_us.saturating_sub(CLAIM_US);
    for upload in uploads {
        if !uploads::claim_upload(tx, *upload, &claim, now_us, stale_us).await? {
            uploads::end_claim(tx, &claim, UploadState::Staged).await?;
            return Ok(Some(*upload));
        }
    }
    Ok(None)
}

fn check_kind(table: &Table, upload: &Upload, request: &CommitRequest) -> Result<()> {
    if upload.branch != table.branch {
        return Err(Error::invalid_input(format!(
            "upload {} was made for branch '{}', not for '{}'",
            upload.key, upload.branch, table.branch
        )));
    }
    check_session(upload, request)?;
    let wanted = match request.change {
        Change::Merge => UploadKind::Columns,
        Change::Append | Change::Overwrite => UploadKind::Fragments,
    };
    if upload.kind != wanted {
        return Err(Error::invalid_input(format!(
            "upload {} holds {}, which {} does not take",
            upload.key,
            upload.kind.as_str(),
            request.change.name()
        )));
    }
    if upload.kind == UploadKind::Columns && upload.read_version != request.read_version {
        return Err(Error::invalid_input(format!(
            "upload {} was made against version {}, not {}",
            upload.key, upload.read_version, request.read_version
        )));
    }
    Ok(())
}

/// A part of a multipart write is committed with all the others or not at all.
fn check_session(upload: &Upload, request: &CommitRequest) -> Result<()> {
    match &upload.part {
        Some(part) if Some(part.session) != request.session => Err(Error::invalid_input(format!(
            "upload {} is a part of multipart write {}, which is completed as a whole",
            upload.key, part.session
        ))),
        _ => Ok(()),
    }
}

fn committed_already(upload: &Upload) -> Error {
    Error::invalid_input(format!("upload {} was committed already", upload.key))
}

/// What a commit adds to a table.
pub(super) fn input(request: &CommitRequest, taken: &[Taken]) -> Input {
    // What is named by its fragments is among the request's.
    let further = taken.iter().filter(|one| one.by != NamedBy::Fragments);
    Input {
        staged: further.map(|one| one.upload.staged.clone()).collect(),
        fragments: request.fragments.clone(),
        schema: request.schema.clone(),
    }
}

pub(super) fn version_of(
    published: &Published,
    request: &CommitRequest,
    transaction_id: Uuid,
    caller: &Caller,
    now_us: i64,
) -> TableVersion {
    TableVersion {
        manifest: published.manifest.clone(),
        origin: Origin::Catalog,
        operation: Some(request.change.name().into()),
        transaction_id: Some(transaction_id.to_string()),
        committed_by: Some(caller.name().into()),
        committed_at_us: now_us,
        properties: request.properties.clone(),
    }
}

/// How long a claim is good for without a sign of life: putting a version has to fit into what is
/// left of it.
pub(super) fn renew_after() -> Duration {
    Duration::from_micros(CLAIM_US.unsigned_abs() / 5)
}

impl CommitOutcome {
    pub(super) fn of(
        request: &CommitRequest,
        version: u64,
        num_rows: u64,
        transaction_id: Uuid,
    ) -> Self {
        Self {
            version,
            read_version: request.read_version,
            transaction_id: transaction_id.to_string(),
            rebased: version != request.read_version + 1,
            num_rows,
        }
    }
}
