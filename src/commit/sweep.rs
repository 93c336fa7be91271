//! Garbage: folders of dropped tables, uploads and multipart writes whose time is over, answers that
//! nobody will ask for again.

use super::Engine;
use super::multipart::KEPT_US;
use super::publish::CLAIM_US;
use super::tables::REMOVAL_US;
use crate::catalog::{idempotency, multipart, removals, uploads};
use crate::error::Result;
use crate::lake::Location;
use crate::model::{Table, Upload, UploadState};

/// How many of each kind one sweep takes on; the next sweep takes the rest.
const BATCH: i64 = 500;

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Swept {
    pub folders: usize,
    pub uploads: usize,
    pub answers: u64,
}

impl Engine {
    /// Sweeps once. One thing that cannot be removed does not keep the others.
    pub async fn sweep(&self) -> Result<Swept> {
        let now_us = self.now_us();
        {
            let mut tx = self.catalog.write().await?;
            multipart::expire_sessions(&mut tx, now_us, now_us.saturating_add(KEPT_US)).await?;
            multipart::delete_finished(&mut tx, now_us, now_us.saturating_sub(KEPT_US)).await?;
            tx.commit().await?;
        }
        let (folders, expired) = {
            let mut tx = self.catalog.read().await?;
            let folders =
                removals::list_due_removals(&mut tx, now_us, now_us - REMOVAL_US, BATCH).await?;
            (folders, uploads::list_expired(&mut tx, now_us, now_us - CLAIM_US, BATCH).await?)
        };
        let mut swept = Swept::default();
        for folder in folders {
            self.remove_folder(&Location::from_stored(folder)).await;
            swept.folders += 1;
        }
        for (upload, table) in expired {
            match self.sweep_upload(&table, &upload).await {
                Ok(()) => swept.uploads += 1,
                Err(error) => {
                    tracing::warn!(upload.id = %upload.key, %error, "could not sweep an upload");
                }
            }
        }
        self.finish_versions().await?;
        let mut tx = self.catalog.write().await?;
        swept.answers = idempotency::delete_expired(&mut tx, now_us).await?;
        tx.commit().await?;
        Ok(swept)
    }

    async fn sweep_upload(&self, table: &Table, upload: &Upload) -> Result<()> {
        if upload.state == UploadState::Committed {
            let mut tx = self.catalog.write().await?;
            uploads::delete_upload(&mut tx, upload.key).await?;
            return tx.commit().await;
        }
        // A commit that has it for this long is dead.
        if !self.remove_unused(table, upload).await? {
            tracing::info!(upload.id = %upload.key, "an upload that expired was committed");
        }
        Ok(())
    }
}
