//! Writing down a version that stands: the last step of a commit.

use std::sync::Arc;

use super::multipart::KEPT_US;
use super::{CommitOutcome, CommitRequest, Engine, Once};
use crate::catalog::{Tx, idempotency, multipart, tables, transactions, uploads, versions};
use crate::error::Result;
use crate::model::{Caller, Table, TableState, TableVersion, UploadState};

/// What becomes of the rows of uploads that were committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadsAfter {
    /// They stay for a while, to say that they are committed.
    Kept,
    /// Nobody knows of them but the request that made them.
    Forgotten,
}

/// A version that stands, and the commits whose rows it holds.
pub(super) struct Record {
    pub(super) table: Table,
    pub(super) version: TableVersion,
    pub(super) finished: Vec<Finished>,
}

/// A commit that landed.
pub(super) struct Finished {
    pub(super) outcome: CommitOutcome,
    /// The multipart write that it completes.
    pub(super) session: Option<uuid::Uuid>,
    /// `None` when it is known to have none.
    pub(super) uploads: Option<UploadsAfter>,
    pub(super) once: Option<Once>,
    pub(super) caller: Caller,
}

impl Record {
    /// A version of one commit alone.
    pub(super) fn alone(
        table: &Table,
        version: TableVersion,
        request: &CommitRequest,
        outcome: &CommitOutcome,
        once: Option<&Once>,
        caller: &Caller,
    ) -> Self {
        let finished = Finished {
            outcome: outcome.clone(),
            session: request.session,
            uploads: request.may_have_claims().then_some(request.uploads_after),
            once: once.cloned(),
            caller: caller.clone(),
        };
        Self { table: table.clone(), version, finished: vec![finished] }
    }
}

impl Engine {
    /// Writes down a commit that stands. A failure here is no failure of the commit: whoever looks
    /// next adopts the version. Answers whether it went well.
    pub(super) async fn record(&self, record: Record) -> bool {
        let (engine, record) = (self.clone(), Arc::new(record));
        let kept = record.clone();
        let recorded = self.catalog.write_with_others(move |tx| {
            let (engine, record) = (engine.clone(), record.clone());
            Box::pin(async move { engine.write_record(tx, &record).await })
        });
        let Err(error) = recorded.await else { return true };
        tracing::error!(
            table.id = %kept.table.id, version = kept.version.manifest.version, %error,
            "a commit stands in storage but could not be recorded; it will be adopted"
        );
        false
    }

    async fn write_record(&self, tx: &mut Tx, record: &Record) -> Result<()> {
        let Record { table, version, finished } = record;
        for one in finished {
            if let Some(session) = one.session {
                let keep_until_us = self.now_us().saturating_add(KEPT_US);
                multipart::finish_session(tx, session, one.outcome.version, keep_until_us).await?;
            }
        }
        // Commits that share it are events of their own.
        let maker = finished
            .iter()
            .find(|one| version.transaction_id.as_ref() == Some(&one.outcome.transaction_id));
        let caller = maker.map(|one| &one.caller);
        if let Some(first) = finished.first()
            && (table.state == TableState::Declared || version.manifest.version == 1)
        {
            // The version before its table, as whoever adopts it does, or the two wait for each other.
            versions::insert_version(tx, table, version, caller).await?;
            tables::mark_created(tx, table.key, &first.caller, self.now_us()).await?;
        } else {
            versions::insert_version_later(tx, table, version, caller).await?;
        }
        for one in finished {
            let transaction_id = &one.outcome.transaction_id;
            match one.uploads {
                None => {}
                Some(UploadsAfter::Kept) => {
                    uploads::end_claim(tx, transaction_id, UploadState::Committed).await?;
                }
                Some(UploadsAfter::Forgotten) => {
                    uploads::delete_claimed(tx, transaction_id).await?;
                }
            }
            if version.transaction_id.as_ref() != Some(transaction_id) {
                let (number, now_us) = (version.manifest.version, self.now_us());
                transactions::insert_shared(tx, transaction_id, table, number, &one.caller, now_us)
                    .await?;
            }
            if let Some(once) = &one.once {
                let answer = Self::answer_to_keep(&one.outcome)?;
                let until_us = self.after_us(once.kept());
                idempotency::finish_key(tx, once.key_hash(), &answer, until_us).await?;
            }
        }
        Ok(())
    }
}
