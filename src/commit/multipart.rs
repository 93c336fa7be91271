//! Multipart writes: rows in parts, which several requests bring at once, and one commit of all of
//! them.
//!
//! A part is an upload of a session. It counts from the transaction in which it is staged, and that
//! transaction holds the session open; completing waits for it, and from then on the session takes no
//! part any more. What is committed is exactly what was there at that moment: the number of parts is
//! noted, so that none can get lost when completing is tried again later.

use uuid::Uuid;

use super::once::Attempt;
use super::uploads::For;
use super::{CommitRequest, Engine, OnConflict, Once, UploadsAfter};
use crate::catalog::{Tx, idempotency, multipart, tables, uploads};
use crate::error::{Error, Result};
use crate::lake::{Batches, Change, WriteMode, WriteOptions};
use crate::model::{Caller, InsertMode, MultipartState, MultipartWrite, Part, Properties, Table};

/// How long the row of a session that is over answers those that ask again, in microseconds.
pub(super) const KEPT_US: i64 = 24 * 60 * 60 * 1_000_000;
/// The longest name of a part, in bytes; clients send UUIDs.
const MAX_NAME_BYTES: usize = 256;

/// A part that is about to be received.
#[derive(Clone)]
pub(super) struct NewPart {
    pub part: Part,
    pub mode: InsertMode,
}

/// What completing finds.
enum Closed {
    /// It was completed before, as this version.
    Before(u64),
    Now(Box<CommitRequest>, Attempt),
}

impl Engine {
    /// Begins a multipart write to the table's branch. Its id is all that is needed to add to it.
    ///
    /// # Errors
    /// `TableNotFound` when the table is gone meanwhile.
    pub async fn begin_multipart(&self, table: &Table, caller: &Caller) -> Result<Uuid> {
        let session = Uuid::new_v4();
        let (now_us, expires_at_us) = (self.now_us(), self.after_us(self.upload_ttl));
        let mut tx = self.catalog.write().await?;
        multipart::insert_session(&mut tx, table, session, caller, now_us, expires_at_us).await?;
        tx.commit().await?;
        tracing::info!(table.id = %table.id, %caller, %session, "began a multipart write");
        Ok(session)
    }

    /// Stages one part, which nobody sees before the session is completed. One of the same name takes
    /// the place of the former; one without a name is a part of its own. Answers the version that the
    /// rows were checked against. On an error nothing is left behind.
    ///
    /// # Errors
    /// `InvalidInput` for a session that the table's branch does not have or that takes no more
    /// parts, and for another mode than that of the parts before; as
    /// [`Self::upload_fragments`] for the rows.
    pub async fn upload_part(
        &self,
        table: &Table,
        session: Uuid,
        name: Option<&str>,
        mode: InsertMode,
        batches: Batches,
        caller: &Caller,
    ) -> Result<u64> {
        let name = name.map(check_name).transpose()?;
        let write_mode = match mode {
            InsertMode::Append => None,
            InsertMode::Overwrite => Some(WriteMode::Overwrite),
        };
        let part = NewPart { part: Part { session, name }, mode };
        {
            // Before the rows are looked at: whose session is over need not be told about them.
            let mut tx = self.catalog.read().await?;
            self.check_takes(&mut tx, table, &part).await?;
        }
        let batches = match self.first_answer(caller, batches).await? {
            Ok(batches) => batches,
            Err(version) => return Ok(version),
        };
        let options = WriteOptions::default();
        let is_named = part.part.name.is_some();
        let whom = For::Session(part);
        let staged = self.upload_rows(table, write_mode, batches, &options, whom, caller);
        let upload = match staged.await {
            Ok(staged) => staged.upload,
            Err(error) => return Err(self.unless_gone(table, error).await),
        };
        // One with a name has taken the place of the same part.
        let undo = || async {
            if !is_named {
                self.remove_parts(table, &[upload.key]).await;
            }
        };
        self.keep_first(caller, upload.read_version, undo).await
    }

    /// Commits all parts as one version, on top of whatever is there, and answers it. One that was
    /// completed answers the same version again, whoever asks and however often. Without parts
    /// nothing is committed, and the newest version is answered.
    ///
    /// # Errors
    /// `InvalidInput` for a session that the table's branch does not have, or that was aborted or
    /// expired; `TableSchemaValidation` for parts that do not fit the table any more. Then nothing
    /// was changed, and the session is as it was. `ServiceUnavailable` and `Internal` when the
    /// outcome is unknown; the next try finds it out.
    pub async fn complete_multipart(
        &self,
        table: &Table,
        session: Uuid,
        caller: &Caller,
    ) -> Result<u64> {
        let found = {
            let mut tx = self.catalog.read().await?;
            multipart::find_session(&mut tx, table, session).await?
        };
        if let Some(version) = found.as_ref().and_then(|found| found.version) {
            return Ok(version);
        }
        self.check_not_over(table, session, found)?;
        let once = Once::of_session(session);
        let attempt = match self.take_once::<super::CommitOutcome>(&once).await? {
            Ok(attempt) => attempt,
            Err(answer) => return Ok(answer.version),
        };
        let work = async {
            let caller = self.marked_by(caller, Some(&once), attempt).await?;
            self.complete_once(table, session, attempt, &once, &caller).await
        };
        let version = self.while_alive(Some(&once), work).await?;
        tracing::info!(table.id = %table.id, %caller, %session, version, "completed");
        Ok(version)
    }

    async fn complete_once(
        &self,
        table: &Table,
        session: Uuid,
        attempt: Attempt,
        once: &Once,
        caller: &Caller,
    ) -> Result<u64> {
        let newest = self.latest(table).await?.map_or(0, |latest| latest.manifest.version);
        let (request, attempt) = match self.close_session(table, session, newest, attempt).await? {
            Closed::Now(request, attempt) => (request, attempt),
            Closed::Before(version) => {
                self.finish_without_commit(session, version, once).await?;
                return Ok(version);
            }
        };
        if request.uploads.is_empty() {
            self.finish_without_commit(session, newest, once).await?;
            return Ok(newest);
        }
        let id = once.transaction_id();
        match self.commit_now(table, &request, attempt, id, Some(once), caller).await {
            Ok(outcome) => Ok(outcome.version),
            Err(error) => {
                let error = self.unless_gone(table, error).await;
                if error.is_certainly_not_committed() {
                    self.reopen(table, session).await;
                }
                Err(error)
            }
        }
    }

    /// Ends the taking of parts, or finds that it was ended before.
    ///
    /// # Errors
    /// `InvalidInput` for one that is over without having been completed, and for one that lost
    /// parts since it was closed.
    async fn close_session(
        &self,
        table: &Table,
        session: Uuid,
        newest: u64,
        attempt: Attempt,
    ) -> Result<Closed> {
        let mut tx = self.catalog.write().await?;
        // In the order in which a drop takes the rows, or the two would wait for each other.
        tables::hold(&mut tx, table).await?;
        let closed = multipart::close_session(&mut tx, session, newest, self.now_us()).await?;
        let found = multipart::find_session(&mut tx, table, session).await?;
        if let Some(version) = found.as_ref().and_then(|found| found.version) {
            return Ok(Closed::Before(version));
        }
        let found = self.check_not_over(table, session, found)?;
        let parts = multipart::list_parts(&mut tx, session).await?;
        if closed {
            multipart::note_parts(&mut tx, session, parts.len() as u64).await?;
            tx.commit().await?;
        } else if found.num_parts != Some(parts.len() as u64) {
            return Err(over(session, "expired before it was completed"));
        }
        let change = match found.mode {
            Some(InsertMode::Overwrite) => Change::Overwrite,
            Some(InsertMode::Append) | None => Change::Append,
        };
        // One that was closed before may have been committed too.
        let attempt = if closed { attempt } else { Attempt::AfterAnother };
        let request = CommitRequest {
            change,
            read_version: found.read_version,
            fragments: Vec::new(),
            uploads: parts,
            session: Some(session),
            schema: None,
            on_conflict: OnConflict::Follow,
            properties: Properties::new(),
            coalesce: true,
            brought: None,
            uploads_after: UploadsAfter::Kept,
        };
        Ok(Closed::Now(Box::new(request), attempt))
    }

    async fn finish_without_commit(&self, session: Uuid, version: u64, once: &Once) -> Result<()> {
        let keep_until_us = self.now_us().saturating_add(KEPT_US);
        let mut tx = self.catalog.write().await?;
        multipart::finish_session(&mut tx, session, version, keep_until_us).await?;
        // From here on the row of the session answers.
        idempotency::release_key(&mut tx, once.key_hash(), once.holder()).await?;
        tx.commit().await
    }

    /// Nothing was committed: it may be completed again, or aborted.
    async fn reopen(&self, table: &Table, session: Uuid) {
        let (from, to) = (MultipartState::Completing, MultipartState::Open);
        if let Err(error) = self.move_session(table, session, from, to, None).await {
            tracing::warn!(%session, %error, "could not reopen a multipart write");
        }
    }

    /// Gives up a multipart write and removes its parts. One that is being completed, or was, is left
    /// alone, and so is one that there is not.
    pub async fn abort_multipart(
        &self,
        table: &Table,
        session: Uuid,
        caller: &Caller,
    ) -> Result<()> {
        let (from, to) = (MultipartState::Open, MultipartState::Aborted);
        let keep_until_us = self.now_us().saturating_add(KEPT_US);
        if !self.move_session(table, session, from, to, Some(keep_until_us)).await? {
            return Ok(());
        }
        let parts = {
            let mut tx = self.catalog.read().await?;
            multipart::list_parts(&mut tx, session).await?
        };
        self.remove_parts(table, &parts).await;
        tracing::info!(table.id = %table.id, %caller, %session, "aborted a multipart write");
        Ok(())
    }

    async fn move_session(
        &self,
        table: &Table,
        session: Uuid,
        from: MultipartState,
        to: MultipartState,
        expires_at_us: Option<i64>,
    ) -> Result<bool> {
        let mut tx = self.catalog.write().await?;
        let moved =
            multipart::move_session(&mut tx, table, session, from, to, expires_at_us).await?;
        tx.commit().await?;
        Ok(moved)
    }

    /// Removes parts that nobody will commit. What cannot be removed now the sweep removes.
    pub(super) async fn remove_parts(&self, table: &Table, parts: &[Uuid]) {
        for part in parts {
            let removed = async {
                let found = {
                    let mut tx = self.catalog.read().await?;
                    uploads::find_upload(&mut tx, *part).await?
                };
                match found {
                    Some(upload) => self.remove_unused(table, &upload).await.map(drop),
                    None => Ok(()),
                }
            };
            if let Err(error) = removed.await {
                tracing::warn!(upload.id = %part, %error, "could not remove a part yet");
            }
        }
    }

    /// Finds the session of a part that is about to come.
    ///
    /// # Errors
    /// `InvalidInput` when it does not take the part.
    pub(super) async fn check_takes(
        &self,
        tx: &mut Tx,
        table: &Table,
        part: &NewPart,
    ) -> Result<MultipartWrite> {
        let session = part.part.session;
        let found = multipart::find_session(tx, table, session).await?;
        let found = self.check_not_over(table, session, found)?;
        if found.state != MultipartState::Open {
            return Err(over(session, "was completed"));
        }
        match found.mode {
            Some(mode) if mode != part.mode => Err(Error::invalid_input(format!(
                "all parts of a multipart write have the same mode; those of {session} {}",
                mode.as_str()
            ))),
            _ => Ok(found),
        }
    }

    /// Holds the session of a part until the end of the transaction.
    ///
    /// # Errors
    /// As [`Self::check_takes`].
    pub(super) async fn hold_open(&self, tx: &mut Tx, table: &Table, part: &NewPart) -> Result<()> {
        let session = part.part.session;
        if multipart::hold_open(tx, table, session, part.mode, self.now_us()).await? {
            return Ok(());
        }
        self.check_takes(tx, table, part).await?;
        Err(over(session, "was completed"))
    }

    /// # Errors
    /// `InvalidInput` for a session that there is not, and for one that came to nothing.
    fn check_not_over(
        &self,
        table: &Table,
        session: Uuid,
        found: Option<MultipartWrite>,
    ) -> Result<MultipartWrite> {
        let Some(found) = found else {
            return Err(Error::invalid_input(format!(
                "branch '{}' of table '{}' has no multipart write {session}",
                table.branch, table.id
            )));
        };
        match found.state {
            MultipartState::Aborted => Err(over(session, "was aborted, or has expired")),
            MultipartState::Open if found.expires_at_us <= self.now_us() => {
                Err(over(session, "has expired"))
            }
            _ => Ok(found),
        }
    }
}

fn over(session: Uuid, why: &str) -> Error {
    Error::invalid_input(format!("multipart write {session} {why}; begin another"))
}

/// # Errors
/// `InvalidInput` for what cannot be the name of a part.
fn check_name(name: &str) -> Result<String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(Error::invalid_input(format!(
            "upload_part_id must have 1 to {MAX_NAME_BYTES} bytes and no control characters"
        )));
    }
    Ok(name.to_owned())
}
