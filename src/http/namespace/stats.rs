//! What a table weighs.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::tables::get_table_on;
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, TablePath};
use crate::http::openapi::{Context, Envelope};
use crate::lake::{FragmentLengths, Snapshot, TableStats};
use crate::model::Caller;

#[derive(Debug, Deserialize, ToSchema)]
pub struct GetTableStatsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
}

/// How many rows the fragments hold, deleted ones included; all 0 without fragments.
#[derive(Debug, Serialize, ToSchema)]
pub struct FragmentSummary {
    #[schema(minimum = 0)]
    min: u64,
    #[schema(minimum = 0)]
    max: u64,
    #[schema(minimum = 0)]
    mean: u64,
    #[schema(minimum = 0)]
    p25: u64,
    #[schema(minimum = 0)]
    p50: u64,
    #[schema(minimum = 0)]
    p75: u64,
    #[schema(minimum = 0)]
    p99: u64,
}

impl From<FragmentLengths> for FragmentSummary {
    fn from(FragmentLengths { min, max, mean, p25, p50, p75, p99 }: FragmentLengths) -> Self {
        Self { min, max, mean, p25, p50, p75, p99 }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FragmentStats {
    #[schema(minimum = 0)]
    num_fragments: u64,
    /// Those of fewer than 100 000 rows.
    #[schema(minimum = 0)]
    num_small_fragments: u64,
    lengths: FragmentSummary,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct GetTableStatsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// What the columns take in the data files.
    #[schema(minimum = 0)]
    total_bytes: u64,
    #[schema(minimum = 0)]
    num_rows: u64,
    #[schema(minimum = 0)]
    num_indices: u64,
    fragment_stats: FragmentStats,
}

impl From<TableStats> for GetTableStatsResponse {
    fn from(stats: TableStats) -> Self {
        Self {
            context: None,
            total_bytes: stats.total_bytes,
            num_rows: stats.num_rows,
            num_indices: stats.num_indices,
            fragment_stats: FragmentStats {
                num_fragments: stats.num_fragments,
                num_small_fragments: stats.num_small_fragments,
                lengths: stats.lengths.into(),
            },
        }
    }
}

/// Count the rows, bytes, indices and fragments of a table.
#[utoipa::path(post, path = "/v1/table/{id}/stats", operation_id = "GetTableStats",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = GetTableStatsResponse), ApiError))]
pub async fn get_table_stats(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<GetTableStatsRequest>,
) -> ApiResult<Reply<GetTableStatsResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let count = async |snapshot: Snapshot| snapshot.table_stats().await;
    Ok(Reply(state.engine.read(&table, None, count).await?.into()))
}
