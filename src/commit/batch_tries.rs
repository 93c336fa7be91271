//! A request for a batch may come again: each of its tries is a batch whose id is made of the
//! request's, so that whoever takes the request up finds what the earlier ones came to.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::batch::{Step, TableChanged};
use super::change::PATIENCE;
use super::marks::SKEW_US;
use super::{Engine, Once};
use crate::catalog::batches::{self, Batch, BatchState};
use crate::catalog::versions;
use crate::error::{Error, Result};
use crate::model::{Attempt, Branch, Caller, Mark, Origin, Table, TableId, TableState};

/// How often it is looked whether a batch that is under way has come to its end.
const LOOK: Duration = Duration::from_millis(100);

/// What the tries of one request have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tries {
    request: Uuid,
    /// A batch from before that is of another request, which had the same key when nobody remembers
    /// it any more.
    since_us: i64,
}

impl Tries {
    pub(super) fn of_key(once: &Once, now_us: i64) -> Self {
        let kept_us = i64::try_from(once.kept().as_micros()).unwrap_or(i64::MAX);
        Self { request: once.transaction_id(), since_us: now_us.saturating_sub(kept_us) }
    }

    fn of_mark(mark: &Mark) -> Self {
        Self { request: mark.id, since_us: mark.since_us.saturating_sub(SKEW_US) }
    }
}

impl Engine {
    /// The id of the next try, or the batch that an earlier one made true. One that was left in the
    /// middle is brought to its end first.
    pub(super) async fn next_try(
        &self,
        of: Option<Tries>,
        tries: &mut u64,
    ) -> Result<Result<Uuid, Batch>> {
        let Some(Tries { request, since_us }) = of else { return Ok(Ok(Uuid::now_v7())) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let key = Uuid::new_v5(&request, &tries.to_be_bytes());
            let batch = {
                let mut tx = self.catalog.read().await?;
                batches::find_batch(&mut tx, key).await?
            };
            let Some(batch) = batch else { return Ok(Ok(key)) };
            match batch.state {
                BatchState::Aborted => {
                    // Two who sent the same request may both have taken the uploads for this try.
                    self.give_uploads_back(key).await;
                    *tries += 1;
                }
                BatchState::Committed | BatchState::Done => {
                    if batch.created_at_us > since_us {
                        return Ok(Err(batch));
                    }
                    *tries += 1;
                }
                BatchState::Open | BatchState::Aborting => {
                    self.recover_batch(key).await?;
                    if Instant::now() >= deadline {
                        return Err(Error::ServiceUnavailable(
                            "a request with this key is still at work; try again".into(),
                        ));
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// As [`Self::next_try`], of the request whose mark it is.
    pub(super) async fn next_marked_try(
        &self,
        mark: Option<&Mark>,
    ) -> Result<Result<Uuid, (Uuid, Vec<TableChanged>)>> {
        match self.next_try(mark.map(Tries::of_mark), &mut 0).await? {
            Ok(key) => Ok(Ok(key)),
            Err(batch) => Ok(Err((batch.key, self.changed_by(&batch).await?))),
        }
    }

    /// The batch that an earlier try of the request made true, and what each change came to. To be
    /// asked before anything that the request names is looked up: it may be gone by that.
    pub async fn batch_before(&self, caller: &Caller) -> Result<Option<(Uuid, Vec<TableChanged>)>> {
        match caller.mark() {
            Some(mark) if mark.attempt == Attempt::AfterAnother => {
                Ok(self.next_marked_try(Some(mark)).await?.err())
            }
            _ => Ok(None),
        }
    }

    /// What the changes of a batch that is true came to.
    async fn changed_by(&self, batch: &Batch) -> Result<Vec<TableChanged>> {
        let steps: Vec<Step> = serde_json::from_str(&batch.changes)
            .map_err(|error| Error::internal("reading a batch", error))?;
        let mut changed = Vec::new();
        for step in &steps {
            changed.push(match step {
                Step::Declare { .. } => TableChanged::Declared(step.declared()?),
                Step::CreateVersion { table, branch, version, .. } => {
                    let table = self.table_of(*table, branch).await?;
                    let mut tx = self.catalog.read().await?;
                    let row = versions::find_version(&mut tx, &table, *version).await?;
                    let (table, version) = (table.id, *version);
                    TableChanged::Created(
                        row.ok_or(Error::TableVersionNotFound { table, version })?,
                    )
                }
                Step::DeleteVersions { versions, .. } => {
                    TableChanged::Deleted { versions: versions.len() as u64 }
                }
                Step::Deregister { table, id, location, properties } => {
                    TableChanged::Deregistered(Table {
                        key: *table,
                        id: TableId::from_list(id)?,
                        location: location.clone(),
                        branch: Branch::main(),
                        state: TableState::Created,
                        origin: Origin::Catalog,
                        properties: properties.clone(),
                    })
                }
                Step::Settle(_) => continue,
            });
        }
        Ok(changed)
    }
}
