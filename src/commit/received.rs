//! Keys of requests whose bodies are streams. The rows are written before the key is taken, since only
//! the end of the body tells whether it is the same request; nobody sees them until then.

use futures::TryStreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::once::Attempt;
use super::{CommitOutcome, CommitRequest, Engine, Once};
use crate::catalog::{idempotency, transactions, uploads};
use crate::error::{Error, Result};
use crate::lake::Batches;
use crate::model::{Caller, StreamKey, Table, Upload, UploadState};

/// What is known of a key before the body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Not,
    /// A request has it, or had it when it died.
    Taken,
    Answered,
}

/// Reads rows to their end, and answers how many there were.
pub(super) async fn drain(mut batches: Batches) -> Result<u64> {
    let mut num_rows = 0;
    while let Some(batch) = batches.stream.try_next().await? {
        num_rows += batch.num_rows() as u64;
    }
    Ok(num_rows)
}

/// The answer that was kept went while the body was read.
pub(super) fn answer_expired() -> Error {
    Error::ServiceUnavailable("the answer that was kept for this key has expired; try again".into())
}

impl Engine {
    /// What is known of the key that a request brought.
    pub(super) async fn known(&self, caller: &Caller) -> Result<Known> {
        let Some(key) = caller.key() else { return Ok(Known::Not) };
        let mut tx = self.catalog.read().await?;
        let found = idempotency::find_key(&mut tx, &Once::hash_of(key.bound())).await?;
        Ok(match found {
            None => Known::Not,
            Some(found) if found.response.is_none() => Known::Taken,
            Some(_) => Known::Answered,
        })
    }

    /// What a request with this key was answered before, for which all of the body is read; or the
    /// rows, of which nothing was read then.
    ///
    /// # Errors
    /// `InvalidInput` when it had another body; what the stream of batches ends with.
    pub async fn first_answer<T: DeserializeOwned>(
        &self,
        caller: &Caller,
        batches: Batches,
    ) -> Result<std::result::Result<Batches, T>> {
        let Some(key) = caller.key() else { return Ok(Ok(batches)) };
        if self.known(caller).await? != Known::Answered {
            return Ok(Ok(batches));
        }
        drain(batches).await?;
        self.answer_again(key).await.map(Err)
    }

    /// The answer of a key that has one, after the end of the body.
    ///
    /// # Errors
    /// `InvalidInput` when it had another body.
    pub(super) async fn answer_again<T: DeserializeOwned>(&self, key: &StreamKey) -> Result<T> {
        let once = Once::of_stream(key)?;
        match self.take_once(&once).await? {
            Err(answer) => Ok(answer),
            Ok(_) => {
                self.release(&once).await?;
                Err(answer_expired())
            }
        }
    }

    /// Keeps the answer to a request that has staged something which nobody sees yet, unless one with
    /// the same key was answered before: then it is given that answer, and `undo` removes what was
    /// staged. A crash between the two leaves what was staged to the sweep.
    ///
    /// # Errors
    /// `InvalidInput` when that one had another body; `ServiceUnavailable` while it is at work.
    pub async fn keep_first<T, U, F>(&self, caller: &Caller, answer: T, undo: U) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        U: FnOnce() -> F,
        F: Future<Output = ()>,
    {
        let Some(key) = caller.key() else { return Ok(answer) };
        let once = Once::of_stream(key)?;
        match self.take_once(&once).await {
            Ok(Ok(_)) => {
                self.keep_answer(&once, &answer).await?;
                Ok(answer)
            }
            Ok(Err(first)) => {
                undo().await;
                Ok(first)
            }
            Err(error) => {
                undo().await;
                Err(error)
            }
        }
    }

    /// Commits rows that were staged for a request, once. `upload` is absent when there was an answer
    /// before they came.
    pub(super) async fn commit_received(
        &self,
        table: &Table,
        upload: Option<&Upload>,
        request: &CommitRequest,
        transaction_id: Uuid,
        caller: &Caller,
    ) -> Result<CommitOutcome> {
        let Some(key) = caller.key() else {
            let first = Attempt::First;
            return self.commit_now(table, request, first, transaction_id, None, caller).await;
        };
        let once = &Once::of_stream(key)?;
        let attempt = match self.take_once(once).await {
            Ok(Ok(attempt)) => attempt,
            Ok(Err(answer)) => {
                self.discard(table, upload, caller).await;
                return Ok(answer);
            }
            Err(error) => {
                self.discard(table, upload, caller).await;
                return Err(error);
            }
        };
        let work = async {
            let caller = self.marked_by(caller, Some(once), attempt).await?;
            if attempt == Attempt::AfterAnother {
                if let Some(outcome) = self.find_commit(table, once, &caller).await? {
                    return Ok(outcome);
                }
                // What the other staged is for the sweep: these rows are the same.
                self.give_uploads_back(once.transaction_id()).await;
            }
            if upload.is_none() {
                return Err(answer_expired());
            }
            let id = once.transaction_id();
            let committed = self.commit_now(table, request, attempt, id, Some(once), &caller);
            match committed.await {
                // Another process took the request over and did it, or storage did and did not say so.
                Err(error) if !error.is_certainly_not_committed() => {
                    let found = self.find_commit(table, once, &caller).await;
                    found.ok().flatten().ok_or(error)
                }
                committed => committed,
            }
        };
        let outcome = self.while_alive(Some(once), work).await?;
        // They were committed, or the same ones were before.
        self.discard(table, upload, caller).await;
        Ok(outcome)
    }

    /// What an earlier try of the request committed, noted as it would have been then.
    pub(super) async fn find_commit(
        &self,
        table: &Table,
        once: &Once,
        caller: &Caller,
    ) -> Result<Option<CommitOutcome>> {
        let Some(mark) = caller.mark() else { return Ok(None) };
        let Some(found) = self.find_marked(table, mark, 0).await? else { return Ok(None) };
        self.record_found(table, &found, caller).await;
        let version = found.marked.version;
        let outcome = CommitOutcome {
            version,
            read_version: version.saturating_sub(1),
            transaction_id: mark.id.to_string(),
            rebased: false,
            num_rows: found.snapshot.num_rows().await?,
        };
        {
            let id = mark.id.to_string();
            let mut tx = self.catalog.write().await?;
            uploads::end_claim(&mut tx, &id, UploadState::Committed).await?;
            if found.marked.transaction_id != id {
                let now_us = self.now_us();
                transactions::insert_shared(&mut tx, &id, table, version, caller, now_us).await?;
            }
            tx.commit().await?;
        }
        self.keep_answer(once, &outcome).await?;
        Ok(Some(outcome))
    }

    /// Removes rows that were staged for nothing; those that were committed stay.
    async fn discard(&self, table: &Table, upload: Option<&Upload>, caller: &Caller) {
        let Some(upload) = upload else { return };
        let discarded = async {
            let found = self.find_upload(table, upload.key).await?;
            match found.state {
                UploadState::Staged => self.abort_upload(table, upload.key, caller).await,
                _ => Ok(()),
            }
        };
        if let Err(error) = discarded.await {
            tracing::warn!(upload.id = %upload.key, %error, "could not abort yet");
        }
    }
}
