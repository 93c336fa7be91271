//! Filling computed columns.

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::data::finish_even_if_the_client_leaves;
use super::tables::get_table_on;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, TablePath};
use crate::http::openapi::{Context, Envelope};
use crate::lake::Backfill;
use crate::model::Caller;

/// What to fill. How the work is cut up is the server's own choice: what tells that is read and has
/// no effect.
#[derive(Debug, Deserialize, ToSchema)]
pub struct AlterTableBackfillColumnsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
    /// A column that was added with `computed`.
    #[schema(min_length = 1)]
    column: String,
    /// A SQL expression; all rows in which the column is null when absent.
    #[serde(rename = "where")]
    filter: Option<String>,
    /// Must be a version of the table. What is filled is the newest one.
    #[schema(minimum = 0)]
    read_version: Option<u64>,
    #[schema(minimum = 0)]
    concurrency: Option<i64>,
    #[schema(minimum = 0)]
    intra_applier_concurrency: Option<i64>,
    #[schema(minimum = 0)]
    min_checkpoint_size: Option<i64>,
    #[schema(minimum = 0)]
    max_checkpoint_size: Option<i64>,
    #[schema(minimum = 0)]
    batch_checkpoint_flush_interval_seconds: Option<f64>,
    #[schema(minimum = 0)]
    task_size: Option<i64>,
    #[schema(minimum = 0)]
    num_frags: Option<i64>,
    #[schema(minimum = 0)]
    checkpoint_size: Option<i64>,
    #[schema(minimum = 0)]
    commit_granularity: Option<i64>,
    #[allow(dead_code, reason = "the work is done here, not in a cluster")]
    cluster: Option<String>,
    #[allow(dead_code, reason = "an expression needs no environment")]
    manifest: Option<String>,
}

impl AlterTableBackfillColumnsRequest {
    fn check(&self) -> Result<()> {
        not_negative([
            ("concurrency", self.concurrency),
            ("intra_applier_concurrency", self.intra_applier_concurrency),
            ("min_checkpoint_size", self.min_checkpoint_size),
            ("max_checkpoint_size", self.max_checkpoint_size),
            ("task_size", self.task_size),
            ("num_frags", self.num_frags),
            ("checkpoint_size", self.checkpoint_size),
            ("commit_granularity", self.commit_granularity),
        ])?;
        match self.batch_checkpoint_flush_interval_seconds {
            Some(seconds) if seconds < 0.0 => {
                Err(negative("batch_checkpoint_flush_interval_seconds", seconds))
            }
            _ => Ok(()),
        }
    }
}

/// # Errors
/// `InvalidInput` that names the first of the settings which is negative.
pub(super) fn not_negative<const N: usize>(settings: [(&str, Option<i64>); N]) -> Result<()> {
    let found = settings.into_iter().find(|(_, value)| value.is_some_and(|value| value < 0));
    match found {
        Some((name, Some(value))) => Err(negative(name, value)),
        _ => Ok(()),
    }
}

fn negative(name: &str, value: impl std::fmt::Display) -> Error {
    Error::invalid_input(format!("{name} is {value}: it must not be negative"))
}

/// DescribeTransaction tells of the job.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlterTableBackfillColumnsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    job_id: String,
}

/// Begin to fill a computed column where it is null.
#[utoipa::path(post, path = "/v1/table/{id}/backfill_column",
    operation_id = "AlterTableBackfillColumns", tag = "Table", params(ObjectId),
    responses((status = 202, body = AlterTableBackfillColumnsResponse), ApiError))]
pub async fn alter_table_backfill_columns(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<AlterTableBackfillColumnsRequest>,
) -> ApiResult<(StatusCode, Reply<AlterTableBackfillColumnsResponse>)> {
    let id = path.matching(request.envelope.id.as_deref())?;
    request.check()?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let filter = request.filter.filter(|filter| !filter.trim().is_empty());
    let backfill = Backfill { column: request.column, filter };
    let job = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.begin_backfill(&table, &backfill, request.read_version, &caller).await
    })
    .await?;
    let reply = AlterTableBackfillColumnsResponse { context: None, job_id: job.to_string() };
    Ok((StatusCode::ACCEPTED, Reply(reply)))
}
