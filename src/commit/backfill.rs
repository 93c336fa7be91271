//! Computed columns, filled by jobs.

use std::time::Duration;

use uuid::Uuid;

use super::Engine;
use super::change::Turn;
use super::marks::not_of_a_request;
use crate::error::Result;
use crate::lake::{Backfill, Snapshot, Terms};
use crate::model::{Caller, Job, JobKind, Table};

/// How long rows that others changed meanwhile are read again.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

impl Engine {
    /// Begins to fill a computed column. Answers the job.
    ///
    /// `read_version` must be there, and no more: what is filled is what is null when the job gets
    /// to it, so that rows which came since get their values too.
    ///
    /// # Errors
    /// `TableVersionNotFound`; `TableColumnNotFound`; `InvalidInput` for a column that is not
    /// computed and for expressions that cannot be read; otherwise as [`Engine::open`].
    pub async fn begin_backfill(
        &self,
        table: &Table,
        backfill: &Backfill,
        read_version: Option<u64>,
        caller: &Caller,
    ) -> Result<Uuid> {
        if let Some(version) = read_version {
            self.describe_version(table, version).await?;
        }
        self.open(table, None).await?.check_backfill(backfill).await?;
        Ok(self.begin_job(table, JobKind::BackfillColumn, backfill, caller).await?.job)
    }

    /// Fills a column while others commit: rows that come meanwhile stay null. Done twice, the
    /// second finds nothing to do. Answers the version that has the values.
    pub(super) async fn run_backfill(
        &self,
        table: &Table,
        job: &Job,
        caller: &Caller,
    ) -> Result<Option<u64>> {
        let backfill: Backfill = Self::request_of(job)?;
        let terms = Terms::REBASE;
        let work = |snapshot: Snapshot| {
            let backfill = backfill.clone();
            async move { snapshot.backfill(&backfill, &terms).await }
        };
        let made = self
            .change_within(table, Turn::Leave, PATIENCE, caller, work, not_of_a_request)
            .await?;
        tracing::info!(table.id = %table.id, rows = made.value, version = made.version, "backfilled");
        Ok(Some(made.version))
    }
}
