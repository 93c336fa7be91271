//! Changes that Lance commits itself: rows that change, columns, indexes, metadata.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::marks::Found;
use super::once::Attempt;
use super::{Engine, jitter, location_of};
use crate::catalog::{batches, idempotency, tables, versions};
use crate::error::{Conflict, Error, Result};
use crate::lake::{Changed, Fence, Landed, Snapshot};
use crate::model::{Caller, Mark, Origin, Properties, Table, TableVersion};
use crate::telemetry::meters;

/// Whether others in this process wait while a change is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// One after the other: what would otherwise race in storage and have to go again.
    Take,
    /// The change takes long and Lance can rebase it: others commit meanwhile.
    Leave,
}

/// A change that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made<T> {
    pub value: T,
    /// The newest version that it put; that on which it found nothing to do, when it put none.
    pub version: u64,
    /// The UUID of the transaction of that version; `None` when nothing was put.
    pub transaction_id: Option<String>,
}

/// Keeps a commit off a table that is gone, and off a version that a batch is about to make: Lance
/// would rebase over it and build on what may yet be taken back. Keeps a request back too whose key
/// another has by now.
struct Batches {
    engine: Engine,
    table: Table,
    mark: Option<Arc<Mark>>,
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batches({})", self.table.id)
    }
}

#[async_trait]
impl Fence for Batches {
    async fn check(&self, version: u64) -> Result<()> {
        let mut tx = self.engine.catalog.read().await?;
        // What is put for a table that was dropped stands where nobody looks.
        if tables::find_table_by_key(&mut tx, self.table.key).await?.is_none() {
            return Err(Error::TableNotFound(self.table.id.clone()));
        }
        if let Some(mark) = &self.mark
            && !idempotency::is_held(&mut tx, &mark.key_hash, mark.holder).await?
        {
            return Err(taken_over());
        }
        match batches::find_intent(&mut tx, &self.table).await? {
            None => Ok(()),
            Some(_) => Err(batch_in_the_way(&self.table, version)),
        }
    }
}

/// The longest that a change may take up its place, whatever its caller says.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60 * 60);

pub(super) fn deadline_in(patience: Duration) -> Instant {
    Instant::now() + patience.min(LONGEST_PATIENCE)
}

pub(super) fn taken_over() -> Error {
    Error::ServiceUnavailable(
        "another process took this request over; try again with the same key".into(),
    )
}

pub(super) fn batch_in_the_way(table: &Table, version: u64) -> Error {
    Error::conflict(Conflict {
        message: format!(
            "a commit to several tables is at '{}': version {version} has to wait",
            table.id
        ),
        current_version: Some(version.saturating_sub(1)),
        retryable: true,
        ..Conflict::default()
    })
}

/// How long a change that others get in the way of is made anew.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long it waits before it is, at first.
pub(super) const PAUSE: Duration = Duration::from_millis(10);

impl Engine {
    /// Makes a change on the newest version of the table and records what landed, while others in
    /// this process wait. A change that others got in the way of, and that a later try can make, is
    /// made anew on what they left.
    ///
    /// `found` tells what the change answers when an earlier try of the same request made it.
    ///
    /// # Errors
    /// `InvalidTableState` for a table that was never written to; `ConcurrentModification` when
    /// others were in the way every time; what the change itself ends with.
    pub(super) async fn change<T, W, F, G>(
        &self,
        table: &Table,
        caller: &Caller,
        work: W,
        found: G,
    ) -> Result<Made<T>>
    where
        W: Fn(Snapshot) -> F,
        F: Future<Output = Changed<T>>,
        G: Fn(&Found) -> Result<T>,
    {
        let patience = caller.patience().unwrap_or(PATIENCE);
        self.change_within(table, Turn::Take, patience, caller, work, found).await
    }

    /// As [`Self::change`], with another patience, and perhaps without keeping others waiting.
    pub(super) async fn change_within<T, W, F, G>(
        &self,
        table: &Table,
        turn: Turn,
        patience: Duration,
        caller: &Caller,
        work: W,
        found: G,
    ) -> Result<Made<T>>
    where
        W: Fn(Snapshot) -> F,
        F: Future<Output = Changed<T>>,
        G: Fn(&Found) -> Result<T>,
    {
        let deadline = deadline_in(patience);
        let _place = match turn {
            Turn::Take => Some(self.lines.queue(table)?),
            Turn::Leave => None,
        };
        let _turn = match turn {
            Turn::Take => Some(self.turn_before(table, deadline).await?),
            Turn::Leave => None,
        };
        if let Some(mark) = caller.mark()
            && mark.attempt == Attempt::AfterAnother
            && let Some(made) = self.made_before(table, mark, caller, &found).await?
        {
            return Ok(made);
        }
        let error = match self.make(table, deadline, caller, &work).await {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        // It may stand all the same: storage took it and did not say so, or another process did it.
        match caller.mark() {
            Some(mark) if !error.is_certainly_not_committed() => {
                let made = self.made_before(table, mark, caller, &found).await;
                made.ok().flatten().ok_or(error)
            }
            _ => Err(error),
        }
    }

    /// Goes again until the change is made or cannot be.
    async fn make<T, W, F>(
        &self,
        table: &Table,
        deadline: Instant,
        caller: &Caller,
        work: &W,
    ) -> Result<Made<T>>
    where
        W: Fn(Snapshot) -> F,
        F: Future<Output = Changed<T>>,
    {
        let mut pause = PAUSE;
        loop {
            let snapshot = self.open(table, None).await?.behind(self.fence_for(table, caller));
            let snapshot = snapshot.made_for(caller.mark().cloned());
            let read_version = snapshot.version();
            let changed = work(snapshot).await;
            self.record_landed_versions(table, &changed.landed, caller).await;
            let last = changed.landed.last();
            match changed.outcome {
                Ok(value) => {
                    let version = match last {
                        Some(landed) => landed.manifest.version,
                        // Storage took it and its answer was lost: Lance looked, and we look.
                        None if changed.put_begun => {
                            let latest = self.latest(table).await.ok().flatten();
                            latest.map_or(read_version, |latest| latest.manifest.version)
                        }
                        None => read_version,
                    };
                    let transaction_id = last.and_then(|landed| landed.transaction_id.clone());
                    tracing::info!(table.id = %table.id, %caller, version, "changed {}", table.id);
                    return Ok(Made { value, version, transaction_id });
                }
                Err(Error::ConcurrentModification(conflict))
                    if conflict.retryable
                        && changed.landed.is_empty()
                        && Instant::now() + pause < deadline =>
                {
                    self.refuse_twin(table, caller, read_version).await?;
                    tracing::debug!(table.id = %table.id, error = conflict.message, "going again");
                    meters::went_again();
                    tokio::time::sleep(jitter(pause)).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(Error::ConcurrentModification(conflict)) => {
                    return Err(self.explain(table, read_version, *conflict).await);
                }
                Err(error) => return Err(self.unless_gone(table, error).await),
            }
        }
    }

    async fn turn_before(
        &self,
        table: &Table,
        deadline: Instant,
    ) -> Result<tokio::sync::OwnedMutexGuard<()>> {
        let turn = tokio::time::timeout_at(deadline, self.take_turn(table)).await;
        turn.unwrap_or_else(|_| {
            Err(Error::ServiceUnavailable(format!(
                "others were changing table '{}' all the time; nothing was changed",
                table.id
            )))
        })
    }

    /// What every commit of ours asks just before its put.
    pub(super) fn fence_for(&self, table: &Table, caller: &Caller) -> Arc<dyn Fence> {
        let (engine, table) = (self.clone(), table.clone());
        Arc::new(Batches { engine, table, mark: caller.mark().cloned() })
    }

    /// Adds to a refusal what the table is at now and which operation won.
    pub(super) async fn explain(
        &self,
        table: &Table,
        read_version: u64,
        mut conflict: Conflict,
    ) -> Error {
        meters::conflicted();
        let looked = async {
            let latest = self.latest(table).await?.map_or(0, |latest| latest.manifest.version);
            conflict.current_version = Some(latest);
            if latest > 0 {
                let winner = conflict
                    .conflicting_version
                    .filter(|version| *version > read_version && *version <= latest)
                    .unwrap_or(latest);
                let newest = self.lake.snapshot(&location_of(table), latest).await?;
                conflict.conflicting_operation = newest.operation_of(winner).await;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = looked.await {
            tracing::warn!(table.id = %table.id, %error, "could not look at what won");
        }
        Error::conflict(conflict)
    }

    /// Writes down versions that stand. A failure here is no failure of the change: whoever looks
    /// next adopts them.
    pub(super) async fn record_landed_versions(
        &self,
        table: &Table,
        landed: &[Landed],
        caller: &Caller,
    ) {
        if landed.is_empty() {
            return;
        }
        let recorded = async {
            let mut tx = self.catalog.write().await?;
            for landed in landed {
                let version = TableVersion {
                    manifest: landed.manifest.clone(),
                    origin: Origin::Catalog,
                    operation: landed.operation.clone(),
                    transaction_id: landed.transaction_id.clone(),
                    committed_by: Some(caller.name().into()),
                    committed_at_us: self.now_us(),
                    properties: Properties::new(),
                };
                versions::insert_version(&mut tx, table, &version, Some(caller)).await?;
            }
            tables::mark_created(&mut tx, table.key, caller, self.now_us()).await?;
            tx.commit().await
        };
        if let Err(error) = recorded.await {
            tracing::error!(
                table.id = %table.id, %error,
                "a change stands in storage but could not be recorded; it will be adopted"
            );
        }
    }
}
