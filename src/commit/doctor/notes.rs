//! What is noted in the catalog and should have come to its end.

use uuid::Uuid;

use super::{BATCH, Doctor, Mending};
use crate::catalog::survey::{self, DueRemoval, LeftBatch};
use crate::catalog::{batches, batches::BatchState, idempotency, tables};
use crate::commit::tables::REMOVAL_US;
use crate::error::Result;
use crate::lake::Location;

/// How long after its time a removal is overdue: servers sweep more often than that.
const OVERDUE_US: i64 = 60 * 60 * 1_000_000;

impl Doctor<'_> {
    pub(super) async fn examine_notes(&mut self) -> Result<()> {
        self.examine_batches().await?;
        self.examine_removals().await?;
        self.examine_keys().await
    }

    async fn examine_batches(&mut self) -> Result<()> {
        let engine = self.engine;
        let mut after = Uuid::nil();
        loop {
            let left = {
                let mut tx = engine.catalog.read().await?;
                survey::list_left_batches(&mut tx, engine.now_us(), after, BATCH).await?
            };
            let Some(last) = left.last() else { return Ok(()) };
            after = last.batch_id;
            for LeftBatch { batch_id, state } in left {
                let what = format!(
                    "a commit to several tables ({batch_id}) was left in state '{state}' by its maker"
                );
                let mend = async {
                    engine.recover_batch(batch_id).await?;
                    let mut tx = engine.catalog.read().await?;
                    let found = batches::find_batch(&mut tx, batch_id).await?;
                    let ended = [BatchState::Done, BatchState::Aborted];
                    Ok(found.is_none_or(|batch| ended.contains(&batch.state)))
                };
                self.find(what, "bring it to its end", mend).await;
            }
        }
    }

    async fn examine_removals(&mut self) -> Result<()> {
        let engine = self.engine;
        let now_us = engine.now_us();
        let mut after = DueRemoval { location: String::new(), not_before_us: i64::MIN };
        loop {
            let due = {
                let mut tx = engine.catalog.read().await?;
                let (due_us, stale_us) = (now_us - OVERDUE_US, now_us - REMOVAL_US);
                survey::list_due_removals(&mut tx, due_us, stale_us, &after, BATCH).await?
            };
            let Some(last) = due.last() else { return Ok(()) };
            after = last.clone();
            for DueRemoval { location, .. } in due {
                let owner = {
                    let mut tx = engine.catalog.read().await?;
                    tables::find_table_at(&mut tx, &location).await?
                };
                if let Some(owner) = owner {
                    self.tell(
                        format!(
                            "folder {location} is noted for removal, and is that of {}",
                            owner.id
                        ),
                        Mending::Beyond("nobody removes it while the table is there"),
                    );
                    continue;
                }
                let what = format!("folder {location} should have been removed");
                let mend = async {
                    engine.remove_folder(&Location::from_stored(location.clone())).await;
                    let mut tx = engine.catalog.read().await?;
                    Ok(!survey::has_removal(&mut tx, &location).await?)
                };
                self.find(what, "remove it", mend).await;
            }
        }
    }

    async fn examine_keys(&mut self) -> Result<()> {
        let engine = self.engine;
        let (left, expired) = {
            let mut tx = engine.catalog.read().await?;
            survey::count_keys(&mut tx, engine.now_us(), engine.now_us() - OVERDUE_US).await?
        };
        if left > 0 {
            // To forget one would let a retry do the work again.
            self.tell(
                format!("{left} idempotency keys are held by requests that died"),
                Mending::Note("a retry takes one over; without one they expire"),
            );
        }
        if expired > 0 {
            let what = format!("{expired} idempotency keys have expired and are kept still");
            let mend = async {
                let mut tx = engine.catalog.write().await?;
                idempotency::delete_expired(&mut tx, engine.now_us()).await?;
                tx.commit().await?;
                Ok(true)
            };
            self.find(what, "forget them", mend).await;
        }
        Ok(())
    }
}
