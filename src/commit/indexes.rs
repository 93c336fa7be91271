//! Indexes: built by jobs, listed, dropped.

use std::time::Duration;

use uuid::Uuid;

use super::Engine;
use super::change::Turn;
use super::marks::not_of_a_request;
use crate::error::{Error, Result};
use crate::lake::{Changed, Index, NewIndex, Snapshot, Terms};
use crate::model::{Caller, Job, JobKind, Page, Table};

/// How long a request waits for its index: one of a small table is there when it is answered.
const NEAR: Duration = Duration::from_secs(2);
/// How long a build that others' commits made worthless, as a compaction does, is made anew.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

impl Engine {
    /// Begins to build an index, and waits for the end if it is near. Answers the job, which tells
    /// how it goes on.
    ///
    /// # Errors
    /// `TableColumnNotFound`; `TableIndexAlreadyExists` for a name that another column's index has;
    /// `InvalidInput` that says what does not fit; otherwise as [`Engine::open`].
    pub async fn create_index(
        &self,
        table: &Table,
        index: &NewIndex,
        caller: &Caller,
    ) -> Result<Uuid> {
        if let Err(error) = self.open(table, None).await?.check_index(index).await {
            return Err(self.unless_gone(table, error).await);
        }
        let mut begun = self.begin_job(table, JobKind::CreateIndex, index, caller).await?;
        begun.wait(NEAR).await?;
        Ok(begun.job)
    }

    /// Builds an index while others commit: rows that come meanwhile are not in it. Answers the
    /// version that has it.
    pub(super) async fn run_create_index(
        &self,
        table: &Table,
        job: &Job,
        caller: &Caller,
    ) -> Result<Option<u64>> {
        let index: NewIndex = Self::request_of(job)?;
        // What an earlier run of this job landed is an index of the job's own id.
        let snapshot = self.open(table, None).await?;
        if snapshot.indexes().await?.iter().any(|known| known.uuid == job.key.to_string()) {
            return Ok(Some(snapshot.version()));
        }
        let (terms, index) = (rebased(), &index);
        let work =
            |snapshot: Snapshot| async move { snapshot.build_index(&terms, index, job.key).await };
        let made = self
            .change_within(table, Turn::Leave, PATIENCE, caller, work, not_of_a_request)
            .await?;
        tracing::info!(table.id = %table.id, index = made.value, version = made.version, "built an index");
        Ok(Some(made.version))
    }

    /// A page of the indexes of a version, by name, and the token of the next.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn list_indexes(
        &self,
        table: &Table,
        version: Option<u64>,
        page: &Page,
    ) -> Result<(Vec<Index>, Option<String>)> {
        let list = async |snapshot: Snapshot| snapshot.indexes().await;
        let mut indexes = self.read(table, version, list).await?;
        if let Some(after) = &page.after {
            indexes.retain(|index| index.name > *after);
        }
        let next = page.finish(&mut indexes, |index| index.name.clone());
        Ok((indexes, next))
    }

    /// # Errors
    /// `TableIndexNotFound`; otherwise as [`Engine::open`].
    pub async fn find_index(
        &self,
        table: &Table,
        version: Option<u64>,
        name: &str,
    ) -> Result<Index> {
        let find = async |snapshot: Snapshot| snapshot.index_named(name).await;
        let found = self.read(table, version, find).await?;
        found.ok_or_else(|| not_found(table, name))
    }

    /// Reads an index of the newest version into memory.
    ///
    /// # Errors
    /// `TableIndexNotFound`; otherwise as [`Engine::open`].
    pub async fn prewarm_index(&self, table: &Table, name: &str) -> Result<()> {
        self.find_index(table, None, name).await?;
        self.read(table, None, async |snapshot: Snapshot| snapshot.prewarm_index(name).await).await
    }

    /// Takes an index out of the table; answers the transaction of the version without it.
    ///
    /// # Errors
    /// `TableIndexNotFound`; `ConcurrentModification` when others were in the way every time.
    pub async fn drop_index(
        &self,
        table: &Table,
        name: &str,
        caller: &Caller,
    ) -> Result<Option<String>> {
        let terms = rebased();
        let work = |snapshot: Snapshot| async move {
            let changed = snapshot.drop_index(&terms, name).await;
            let outcome = match changed.outcome {
                Ok(true) => Ok(()),
                Ok(false) => Err(not_found(table, name)),
                Err(error) => Err(error),
            };
            Changed { outcome, landed: changed.landed, put_begun: changed.put_begun }
        };
        let made = self.change(table, caller, work, |_| Ok(())).await?;
        Ok(made.transaction_id)
    }
}

fn rebased() -> Terms {
    Terms::REBASE
}

fn not_found(table: &Table, name: &str) -> Error {
    let index = name.chars().take(256).collect();
    Error::TableIndexNotFound { table: table.id.clone(), index }
}
