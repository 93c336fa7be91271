//! Jobs: work that outlasts its request.

use uuid::Uuid;

use super::dropped::NOWHERE;
use super::tables::table_id;
use super::{Tx, failed, from_json, from_sql, is_foreign_key_violation, run, to_json, to_sql};
use crate::error::{Error, Result};
use crate::model::{Branch, Job, JobKind, JobState, NamespaceId, Page, Properties, Table, TableId};

#[derive(sqlx::FromRow)]
struct JobRow {
    job_id: Uuid,
    table_id: Uuid,
    branch: String,
    kind: String,
    request: String,
    state: String,
    error: Option<String>,
    version: Option<i64>,
    properties: String,
    created_by: String,
    created_at_us: i64,
    updated_at_us: i64,
}

impl JobRow {
    fn into_job(self) -> Result<Job> {
        let kind = JobKind::from_stored(&self.kind).ok_or_else(|| {
            Error::internal("reading a job", format!("unknown kind {}", self.kind))
        })?;
        Ok(Job {
            key: self.job_id,
            table_key: self.table_id,
            branch: Branch::from_stored(self.branch),
            kind,
            request: self.request,
            state: JobState::from_stored(&self.state).unwrap_or(JobState::Failed),
            error: self.error,
            version: self.version.map(from_sql),
            properties: from_json(&self.properties)?,
            created_by: self.created_by,
            created_at_us: self.created_at_us,
            updated_at_us: self.updated_at_us,
        })
    }
}

/// Notes a job that `holder` is about to run.
pub async fn insert_job(tx: &mut Tx, job: &Job, holder: Uuid, lease_us: i64) -> Result<()> {
    const SQL: &str = "INSERT INTO jobs (job_id, table_id, branch, kind, request, state, \
        properties, created_by, created_at_us, updated_at_us, holder, lease_us) \
        SELECT $1, table_id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM tables \
        WHERE table_id = $2 AND namespace_id <> $13";
    let properties = to_json(&job.properties)?;
    let noted = run!(tx, |c| sqlx::query(SQL)
        .bind(job.key)
        .bind(job.table_key)
        .bind(job.branch.as_str())
        .bind(job.kind.as_str())
        .bind(&job.request)
        .bind(job.state.as_str())
        .bind(&properties)
        .bind(&job.created_by)
        .bind(job.created_at_us)
        .bind(job.updated_at_us)
        .bind(holder)
        .bind(lease_us)
        .bind(NOWHERE)
        .execute(c)
        .await
        .map(|done| done.rows_affected()));
    match noted {
        Ok(0) => Err(Error::InvalidTableState("the table was dropped meanwhile".into())),
        Err(error) if is_foreign_key_violation(&error) => {
            Err(Error::InvalidTableState("the table was dropped meanwhile".into()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(failed(error, "noting a job")),
    }
}

pub async fn find_job(tx: &mut Tx, job: Uuid) -> Result<Option<Job>> {
    const SQL: &str = "SELECT job_id, table_id, branch, kind, request, state, error, version, \
        properties, created_by, created_at_us, updated_at_us FROM jobs WHERE job_id = $1";
    run!(tx, |c| sqlx::query_as::<_, JobRow>(SQL).bind(job).fetch_optional(c).await)
        .map_err(|error| failed(error, "reading a job"))?
        .map(JobRow::into_job)
        .transpose()
}

#[derive(sqlx::FromRow)]
struct NamedJobRow {
    #[sqlx(flatten)]
    job: JobRow,
    path: String,
    name: String,
}

/// The jobs on tables within a namespace, however deep, each with its table; the newest first.
pub async fn list_jobs(
    tx: &mut Tx,
    within: &NamespaceId,
    page: &Page,
) -> Result<Vec<(Job, TableId)>> {
    const SQL: &str = "SELECT j.job_id, j.table_id, j.branch, j.kind, j.request, j.state, j.error, \
        j.version, j.properties, j.created_by, j.created_at_us, j.updated_at_us, n.path, t.name \
        FROM jobs j JOIN tables t ON t.table_id = j.table_id \
        JOIN namespaces n ON n.namespace_id = t.namespace_id \
        WHERE j.job_id < $1 AND n.path >= $2 AND n.path < $3 ORDER BY j.job_id DESC LIMIT $4";
    let (first, end) = within.stored_range();
    let before = page.after_key()?.unwrap_or(Uuid::max());
    run!(tx, |c| sqlx::query_as::<_, NamedJobRow>(SQL)
        .bind(before)
        .bind(&first)
        .bind(&end)
        .bind(page.fetch_limit())
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing jobs"))?
    .into_iter()
    .map(|row| Ok((row.job.into_job()?, table_id(&row.path, row.name)?)))
    .collect()
}

/// Whether a job that is not over is at the table's branch.
pub async fn has_running(tx: &mut Tx, table: &Table) -> Result<bool> {
    const SQL: &str = "SELECT COUNT(*) FROM jobs \
        WHERE table_id = $1 AND branch = $2 AND state IN ($3, $4)";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(JobState::Queued.as_str())
        .bind(JobState::Running.as_str())
        .fetch_one(c)
        .await
        .map(|count| count > 0))
    .map_err(|error| failed(error, "looking for jobs"))
}

/// Jobs that are not over and whose holder gave no sign of life, oldest first.
pub async fn list_abandoned(tx: &mut Tx, now_us: i64, limit: i64) -> Result<Vec<Job>> {
    const SQL: &str = "SELECT job_id, table_id, branch, kind, request, state, error, version, \
        properties, created_by, created_at_us, updated_at_us FROM jobs \
        WHERE state IN ($1, $2) AND lease_us <= $3 ORDER BY job_id LIMIT $4";
    run!(tx, |c| sqlx::query_as::<_, JobRow>(SQL)
        .bind(JobState::Queued.as_str())
        .bind(JobState::Running.as_str())
        .bind(now_us)
        .bind(limit)
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing jobs"))?
    .into_iter()
    .map(JobRow::into_job)
    .collect()
}

/// Takes over a job whose holder gave no sign of life. Answers whether that succeeded.
pub async fn take_job(
    tx: &mut Tx,
    job: Uuid,
    holder: Uuid,
    now_us: i64,
    lease_us: i64,
) -> Result<bool> {
    const SQL: &str = "UPDATE jobs SET holder = $2, lease_us = $4 \
        WHERE job_id = $1 AND lease_us <= $3 AND state IN ($5, $6)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(job)
        .bind(holder)
        .bind(now_us)
        .bind(lease_us)
        .bind(JobState::Queued.as_str())
        .bind(JobState::Running.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "taking over a job"))
}

/// Gives a sign of life, and says how far the job is if that changed. Answers whether `holder` still has it: not
/// when it was canceled, or another took it over.
pub async fn extend_job(
    tx: &mut Tx,
    job: Uuid,
    holder: Uuid,
    state: Option<JobState>,
    now_us: i64,
    lease_us: i64,
) -> Result<bool> {
    const SQL: &str = "UPDATE jobs SET state = COALESCE($3, state), updated_at_us = $4, lease_us = $5 \
        WHERE job_id = $1 AND holder = $2 AND state IN ($6, $7)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(job)
        .bind(holder)
        .bind(state.map(JobState::as_str))
        .bind(now_us)
        .bind(lease_us)
        .bind(JobState::Queued.as_str())
        .bind(JobState::Running.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "giving a sign of life for a job"))
}

/// Gives up a job of `holder` that is not over, or all of them, for anyone to take up at once.
pub async fn release_jobs(tx: &mut Tx, holder: Uuid, job: Option<Uuid>) -> Result<()> {
    const SQL: &str = "UPDATE jobs SET holder = $2, lease_us = 0 \
        WHERE holder = $1 AND state IN ($3, $4) AND job_id = COALESCE($5, job_id)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(holder)
        .bind(Uuid::nil())
        .bind(JobState::Queued.as_str())
        .bind(JobState::Running.as_str())
        .bind(job)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "giving up jobs"))
}

/// How a job ended.
pub struct Ending<'a> {
    pub state: JobState,
    pub error: Option<&'a str>,
    pub version: Option<u64>,
}

/// Ends a job that `holder` has. Answers whether it still had it.
pub async fn finish_job(
    tx: &mut Tx,
    job: Uuid,
    holder: Uuid,
    end: Ending<'_>,
    now_us: i64,
) -> Result<bool> {
    const SQL: &str = "UPDATE jobs SET state = $3, error = $4, version = $5, updated_at_us = $6 \
        WHERE job_id = $1 AND holder = $2 AND state IN ($7, $8)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(job)
        .bind(holder)
        .bind(end.state.as_str())
        .bind(end.error)
        .bind(end.version.map(to_sql))
        .bind(now_us)
        .bind(JobState::Queued.as_str())
        .bind(JobState::Running.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "ending a job"))
}

/// Cancels a job that is not over yet. Answers whether it was one.
pub async fn cancel_job(tx: &mut Tx, job: Uuid, now_us: i64) -> Result<bool> {
    const SQL: &str = "UPDATE jobs SET state = $2, updated_at_us = $3 \
        WHERE job_id = $1 AND state IN ($4, $5)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(job)
        .bind(JobState::Canceled.as_str())
        .bind(now_us)
        .bind(JobState::Queued.as_str())
        .bind(JobState::Running.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "canceling a job"))
}

/// Changes what callers keep with a job, unless somebody did so since `before` was read. Answers
/// whether that succeeded.
pub async fn update_properties(
    tx: &mut Tx,
    job: Uuid,
    before: &Properties,
    after: &Properties,
) -> Result<bool> {
    const SQL: &str = "UPDATE jobs SET properties = $3 WHERE job_id = $1 AND properties = $2";
    let (before, after) = (to_json(before)?, to_json(after)?);
    run!(tx, |c| sqlx::query(SQL)
        .bind(job)
        .bind(&before)
        .bind(&after)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "changing the properties of a job"))
}
