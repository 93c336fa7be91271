//! What ends in the one transaction that makes a commit to several tables true, beside the versions:
//! the claims on uploads, and the wait of whoever sends the request again.

use serde::{Deserialize, Serialize};

use super::batch::Step;
use super::{Engine, Once, TablesCommitted};
use crate::catalog::{Tx, idempotency, uploads};
use crate::error::{Conflict, Error, Result};
use crate::model::UploadState;

/// As it is kept with the batch until that is done, so that whoever brings it to its end can settle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Settlement {
    /// Under which the batch has its uploads.
    claim: String,
    /// How many those are.
    uploads: u64,
    pub(super) answer: TablesCommitted,
    key: Option<Key>,
}

/// The key of the request.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Key {
    hash: String,
    /// How long the answer is kept, in microseconds.
    kept_us: i64,
}

impl Settlement {
    pub(super) fn new(
        claim: String,
        uploads: u64,
        answer: TablesCommitted,
        once: Option<&Once>,
    ) -> Self {
        let key = once.map(|once| Key {
            hash: once.key_hash().to_owned(),
            kept_us: i64::try_from(once.kept().as_micros()).unwrap_or(i64::MAX),
        });
        Self { claim, uploads, answer, key }
    }

    /// That of a batch, if it has one.
    pub(super) fn of(steps: &[Step]) -> Option<&Self> {
        steps.iter().find_map(|step| match step {
            Step::Settle(settlement) => Some(settlement),
            _ => None,
        })
    }
}

impl Engine {
    /// Settles within the transaction that makes the batch true.
    ///
    /// # Errors
    /// `ConcurrentModification` when an upload is not the batch's any more: nothing of it may stand.
    pub(super) async fn settle_batch(&self, tx: &mut Tx, settlement: &Settlement) -> Result<()> {
        let now_us = self.now_us();
        if settlement.uploads > 0 {
            let held = uploads::renew_claim(tx, &settlement.claim, now_us).await?;
            check_held(held, settlement.uploads)?;
            uploads::end_claim(tx, &settlement.claim, UploadState::Committed).await?;
        }
        if let Some(key) = &settlement.key {
            let answer = Self::answer_to_keep(&settlement.answer)?;
            let until_us = now_us.saturating_add(key.kept_us);
            idempotency::finish_key(tx, &key.hash, &answer, until_us).await?;
        }
        Ok(())
    }

    /// Gives the uploads of a batch back, within the transaction that ends it.
    pub(super) async fn unsettle_batch(&self, tx: &mut Tx, steps: &[Step]) -> Result<()> {
        match Settlement::of(steps) {
            Some(settlement) if settlement.uploads > 0 => {
                uploads::end_claim(tx, &settlement.claim, UploadState::Staged).await
            }
            _ => Ok(()),
        }
    }
}

/// # Errors
/// `ConcurrentModification` when a claim does not hold all of its uploads any more.
pub(super) fn check_held(held: u64, wanted: u64) -> Result<()> {
    if held == wanted {
        return Ok(());
    }
    Err(Error::conflict(Conflict {
        message: "another commit took an upload of this one".into(),
        retryable: true,
        ..Conflict::default()
    }))
}
