//! Work that outlasts its request.
//!
//! A job is a row before it is begun. Whoever runs it holds it, and gives signs of life; a job whose
//! holder fell silent is begun again by whoever sweeps next, so that each kind of work must be one
//! that can be done twice.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use super::Engine;
use crate::catalog::dropped;
use crate::catalog::jobs::{self, Ending};
use crate::catalog::tables;
use crate::error::{Error, Result};
use crate::model::{Caller, Job, JobKind, JobState, NamespaceId, Page, Properties, Table, TableId};
use crate::telemetry::meters;

/// How long a job is taken to be alive without a sign of life.
const LEASE: Duration = Duration::from_secs(60);
/// How often it gives one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// For how long a job is begun again while the catalog or the storage cannot be had.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many jobs one process runs at a time; the others wait.
pub(super) const AT_ONCE: usize = 2;
/// How many abandoned jobs one sweep takes up.
const BATCH: i64 = 16;

/// A job that was begun, and how it will end.
pub struct Begun {
    pub job: Uuid,
    end: JoinHandle<Result<Option<u64>>>,
}

impl Begun {
    /// Waits for the end of a job that is a short one.
    ///
    /// # Errors
    /// What the job ended with, if it failed within `patience`.
    pub async fn wait(&mut self, patience: Duration) -> Result<()> {
        match tokio::time::timeout(patience, &mut self.end).await {
            Ok(Ok(outcome)) => outcome.map(drop),
            Ok(Err(error)) => Err(Error::internal("a job stopped", error)),
            Err(_) => Ok(()),
        }
    }
}

impl Engine {
    /// Notes a job and begins it.
    pub(super) async fn begin_job(
        &self,
        table: &Table,
        kind: JobKind,
        request: &impl Serialize,
        caller: &Caller,
    ) -> Result<Begun> {
        let request = serde_json::to_string(request)
            .map_err(|error| Error::internal("noting a job", error))?;
        let now_us = self.now_us();
        let job = Job {
            key: Uuid::now_v7(),
            table_key: table.key,
            branch: table.branch.clone(),
            kind,
            request,
            state: JobState::Queued,
            error: None,
            version: None,
            properties: Properties::new(),
            created_by: caller.name().into(),
            created_at_us: now_us,
            updated_at_us: now_us,
        };
        let mut tx = self.catalog.write().await?;
        jobs::insert_job(&mut tx, &job, self.process, self.after_us(LEASE)).await?;
        tx.commit().await?;
        tracing::info!(table.id = %table.id, %caller, job.id = %job.key, "began to {}", kind.as_str());
        Ok(self.spawn_job(job))
    }

    /// A page of the jobs on tables within a namespace, the newest first, each with its table, and the
    /// token of the next.
    pub async fn list_jobs(
        &self,
        within: &NamespaceId,
        page: &Page,
    ) -> Result<(Vec<(Job, TableId)>, Option<String>)> {
        let mut tx = self.catalog.read().await?;
        let mut found = jobs::list_jobs(&mut tx, within, page).await?;
        let next = page.finish(&mut found, |(job, _)| job.key.to_string());
        Ok((found, next))
    }

    /// A job and its table, if that is within the namespace.
    pub async fn find_job(
        &self,
        within: &NamespaceId,
        key: Uuid,
    ) -> Result<Option<(Job, TableId)>> {
        let mut tx = self.catalog.read().await?;
        let Some(job) = jobs::find_job(&mut tx, key).await? else { return Ok(None) };
        let table = tables::find_table_by_key(&mut tx, job.table_key).await?;
        Ok(table.filter(|table| within.holds(&table.id.namespace)).map(|table| (job, table.id)))
    }

    /// Cancels a job: what it has not put by now it will not put. Answers whether it was not over.
    pub async fn cancel_job(&self, job: &Job, caller: &Caller) -> Result<bool> {
        let mut tx = self.catalog.write().await?;
        let canceled = jobs::cancel_job(&mut tx, job.key, self.now_us()).await?;
        tx.commit().await?;
        if canceled {
            tracing::info!(job.id = %job.key, %caller, "canceled a job");
        }
        Ok(canceled)
    }

    /// Takes up jobs whose holders fell silent. Answers how many.
    pub async fn resume_jobs(&self) -> Result<usize> {
        let abandoned = {
            let mut tx = self.catalog.read().await?;
            jobs::list_abandoned(&mut tx, self.now_us(), BATCH).await?
        };
        let mut taken = 0;
        for job in abandoned {
            // It still runs here: the database was silent for longer than the lease.
            if self.jobs_here().contains(&job.key) {
                continue;
            }
            let mut tx = self.catalog.write().await?;
            let (now_us, lease_us) = (self.now_us(), self.after_us(LEASE));
            let is_ours = jobs::take_job(&mut tx, job.key, self.process, now_us, lease_us).await?;
            tx.commit().await?;
            if is_ours {
                tracing::info!(job.id = %job.key, "took up a job that was left");
                self.spawn_job(job);
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Gives up the jobs that still run when the server stops: whoever serves next takes them up
    /// without waiting for their lease.
    pub async fn release_jobs(&self) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        jobs::release_jobs(&mut tx, self.process, None).await?;
        tx.commit().await
    }

    fn spawn_job(&self, job: Job) -> Begun {
        let key = job.key;
        let engine = self.in_background();
        self.jobs_here().insert(key);
        let run = async move {
            let _here = Here { engine: engine.clone(), job: key };
            engine.run_job(job).await
        };
        Begun { job: key, end: self.work.spawn(run.in_current_span()) }
    }

    pub(super) fn jobs_here(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.jobs_here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work of a job while giving signs of life, and notes how it ended. One that cannot
    /// be done at this time goes on: whoever looks next for jobs that were left begins it again.
    async fn run_job(&self, job: Job) -> Result<Option<u64>> {
        let work = async {
            let turn = self.job_turns.acquire().await;
            let _turn = turn.map_err(|error| Error::internal("waiting for a turn", error))?;
            if self.give_sign_of_life(&job, Some(JobState::Running)).await? == Held::No {
                return Err(lost());
            }
            self.work_of(&job).await
        };
        let outcome = tokio::select! {
            outcome = Box::pin(work) => outcome,
            error = self.until_lost(&job) => Err(error),
        };
        let outcome = match outcome {
            // Its files went under the work.
            Err(Error::Internal { .. }) if self.is_gone(job.table_key).await => Err(dropped()),
            Err(error @ Error::ServiceUnavailable(_)) if self.is_young(&job) => {
                tracing::warn!(job.id = %job.key, %error, "a job waits for better times");
                self.leave_job(&job).await;
                return Ok(None);
            }
            outcome => outcome,
        };
        let text = outcome.as_ref().err().map(|error| match error {
            Error::Internal { .. } => "the server failed; its log tells more".to_owned(),
            error => error.to_string(),
        });
        let state = if outcome.is_ok() { JobState::Succeeded } else { JobState::Failed };
        let version = outcome.as_ref().ok().copied().flatten();
        meters::job_ended(job.kind.as_str(), state.as_str());
        let noted = async {
            let mut tx = self.catalog.write().await?;
            let end = Ending { state, error: text.as_deref(), version };
            jobs::finish_job(&mut tx, job.key, self.process, end, self.now_us()).await?;
            tx.commit().await
        };
        if let Err(error) = noted.await {
            tracing::error!(job.id = %job.key, %error, "could not note how a job ended");
        }
        match &outcome {
            Ok(_) => tracing::info!(job.id = %job.key, "finished to {}", job.kind.as_str()),
            Err(error) => {
                tracing::warn!(job.id = %job.key, %error, cause = ?std::error::Error::source(error), "a job failed");
            }
        }
        outcome
    }

    fn is_young(&self, job: &Job) -> bool {
        let age_us = self.now_us().saturating_sub(job.created_at_us);
        Duration::from_micros(u64::try_from(age_us).unwrap_or(0)) < PATIENCE
    }

    async fn leave_job(&self, job: &Job) {
        let left = async {
            let mut tx = self.catalog.write().await?;
            jobs::release_jobs(&mut tx, self.process, Some(job.key)).await?;
            tx.commit().await
        };
        if let Err(error) = left.await {
            tracing::warn!(job.id = %job.key, %error, "a job waits for its lease");
        }
    }

    /// Whether the table of this key went with its files.
    pub(super) async fn is_gone(&self, table: Uuid) -> bool {
        let found = async {
            let mut tx = self.catalog.read().await?;
            dropped::find_with_dropped(&mut tx, table).await
        };
        matches!(found.await, Ok(None))
    }

    /// The version that the work of a job made, if it made one.
    async fn work_of(&self, job: &Job) -> Result<Option<u64>> {
        let table = {
            let mut tx = self.catalog.read().await?;
            tables::find_table_by_key(&mut tx, job.table_key).await?
        };
        let Some(table) = table else {
            return Err(dropped());
        };
        let table = self.on_branch(table, job.branch.clone()).await?;
        let caller = Caller::from_stored(&job.created_by);
        match job.kind {
            JobKind::CreateIndex => self.run_create_index(&table, job, &caller).await,
            JobKind::BackfillColumn => self.run_backfill(&table, job, &caller).await,
            JobKind::RefreshView => self.run_refresh(&table, job, &caller).await,
        }
    }

    /// Ends when the job is not this process's any more: it was canceled or taken over, or the catalog
    /// did not confirm the lease for as long as it holds.
    async fn until_lost(&self, job: &Job) -> Error {
        let mut confirmed = Instant::now();
        loop {
            tokio::time::sleep(SIGN_OF_LIFE).await;
            let asked = Instant::now();
            match self.give_sign_of_life(job, None).await {
                Ok(Held::Yes) => confirmed = asked,
                Ok(Held::No) => return lost(),
                Err(error) => {
                    tracing::warn!(job.id = %job.key, %error, "could not give a sign of life for a job");
                    if confirmed.elapsed() + SIGN_OF_LIFE > LEASE {
                        return Error::ServiceUnavailable(
                            "the catalog did not say for too long whose the job is".into(),
                        );
                    }
                }
            }
        }
    }

    async fn give_sign_of_life(&self, job: &Job, state: Option<JobState>) -> Result<Held> {
        let mut tx = self.catalog.write().await?;
        let (now_us, lease_us) = (self.now_us(), self.after_us(LEASE));
        let held =
            jobs::extend_job(&mut tx, job.key, self.process, state, now_us, lease_us).await?;
        tx.commit().await?;
        Ok(if held { Held::Yes } else { Held::No })
    }

    /// What a job is about, as it was noted.
    pub(super) fn request_of<T: DeserializeOwned>(job: &Job) -> Result<T> {
        serde_json::from_str(&job.request)
            .map_err(|error| Error::internal("reading what a job is about", error))
    }
}

/// Whether a job still is this process's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Yes,
    No,
}

/// A job that runs in this process, until it does not.
struct Here {
    engine: Engine,
    job: Uuid,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.engine.jobs_here().remove(&self.job);
    }
}

fn dropped() -> Error {
    Error::InvalidTableState("the table was dropped".into())
}

fn lost() -> Error {
    Error::InvalidTableState("the job was canceled, or another process took it over".into())
}
