//! Jobs: work that outlasts its request.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::ApiResult;
use crate::http::extract::{Database, Json};
use crate::model::{Caller, Job, JobState, Object, Page, PageScope, Role, TableId};

/// The states that these clients know.
fn word(state: JobState) -> &'static str {
    match state {
        JobState::Queued | JobState::Running => "IN_PROGRESS",
        JobState::Succeeded => "DONE",
        JobState::Failed => "FAILED",
        JobState::Canceled => "CANCELLED",
    }
}

#[derive(Deserialize)]
pub(in crate::http) struct ListJobsRequest {
    page_token: Option<String>,
    limit: Option<i64>,
}

#[derive(Serialize)]
pub(in crate::http) struct JobEntry {
    job_id: Uuid,
    /// The table's names, as these clients write them.
    table: String,
    job_type: &'static str,
    state: &'static str,
    created_at_millis: i64,
}

#[derive(Serialize)]
pub(in crate::http) struct ListJobsResponse {
    jobs: Vec<JobEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// Lists the jobs on the tables of the database, the newest first.
pub(in crate::http) async fn list_jobs(
    State(state): State<AppState>,
    caller: Caller,
    database: Database,
    Json(request): Json<ListJobsRequest>,
) -> ApiResult<Reply<ListJobsResponse>> {
    let within = database.namespace().unwrap_or_default();
    let scope = PageScope::new("jobs", &within.to_stored());
    let page = Page::new(scope, request.limit, request.page_token.as_deref())?;
    let (found, page_token) = state.engine.list_jobs(&within, &page).await?;
    let tables: Vec<&TableId> = found.iter().map(|(_, table)| table).collect();
    let sees = state.access.sees_tables(&caller, &tables).await?;
    let seen = found.into_iter().zip(sees).filter(|(_, sees)| *sees).map(|(found, _)| found);
    let jobs = seen.map(|(job, table)| JobEntry {
        job_id: job.key,
        table: database.shown(table.to_list()).join("$"),
        job_type: job.kind.as_str(),
        state: word(job.state),
        created_at_millis: job.created_at_us / 1_000,
    });
    Ok(Reply(ListJobsResponse { jobs: jobs.collect(), page_token }))
}

#[derive(Deserialize)]
pub(in crate::http) struct JobRequest {
    job_id: String,
}

impl JobRequest {
    /// The job, if it is on a table of the database on which the caller has a role.
    async fn find(
        &self,
        state: &AppState,
        caller: &Caller,
        role: Role,
        database: &Database,
    ) -> Result<Job> {
        let unknown = || Error::TransactionNotFound(self.job_id.chars().take(64).collect());
        let key = Uuid::parse_str(&self.job_id).map_err(|_| unknown())?;
        let within = database.namespace().unwrap_or_default();
        let (job, table) = state.engine.find_job(&within, key).await?.ok_or_else(unknown)?;
        match state.access.require(caller, role, &Object::Table(table)).await {
            Ok(()) => Ok(job),
            Err(Error::TableNotFound(_)) => Err(unknown()),
            Err(error) => Err(error),
        }
    }
}

#[derive(Serialize)]
pub(in crate::http) struct DescribeJobResponse {
    job_id: Uuid,
    job_type: &'static str,
    job_state: &'static str,
    creation_ms: i64,
    /// What is to be done.
    spec: Value,
    /// What was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<JobFailure>,
}

#[derive(Serialize)]
struct JobFailure {
    message: String,
    retryable: bool,
}

/// What was said, without what was not.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        other => other,
    }
}

impl From<Job> for DescribeJobResponse {
    fn from(job: Job) -> Self {
        let failed = (job.state == JobState::Failed).then(|| job.error.unwrap_or_default());
        Self {
            job_id: job.key,
            job_type: job.kind.as_str(),
            job_state: word(job.state),
            creation_ms: job.created_at_us / 1_000,
            spec: without_nulls(serde_json::from_str(&job.request).unwrap_or_default()),
            result: job.version.map(|version| json!({ "version": version })),
            failure: failed.map(|message| JobFailure { message, retryable: false }),
        }
    }
}

/// Tells how a job goes on.
pub(in crate::http) async fn describe_job(
    State(state): State<AppState>,
    caller: Caller,
    database: Database,
    Json(request): Json<JobRequest>,
) -> ApiResult<Reply<DescribeJobResponse>> {
    Ok(Reply(request.find(&state, &caller, Role::Reader, &database).await?.into()))
}

#[derive(Serialize)]
pub(in crate::http) struct CancelJobResponse {
    job_id: Uuid,
}

/// Cancels a job. One that is over stays as it is, which is no error.
pub(in crate::http) async fn cancel_job(
    State(state): State<AppState>,
    caller: Caller,
    database: Database,
    Json(request): Json<JobRequest>,
) -> ApiResult<Reply<CancelJobResponse>> {
    let job = request.find(&state, &caller, Role::Writer, &database).await?;
    state.engine.cancel_job(&job, &caller).await?;
    Ok(Reply(CancelJobResponse { job_id: job.key }))
}
