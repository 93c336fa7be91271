//! Rows out, and how they are found.

use axum::Json as Reply;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::query::QueryTableRequest;
use super::tables::get_table_on;
use crate::http::AppState;
use crate::http::arrow::{Framing, respond};
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, TablePath};
use crate::http::openapi::{ArrowBytes, Envelope};
use crate::lake::{Detail, Query, Snapshot};
use crate::model::Caller;

/// Query the rows of a table: filter, columns, limit, offset, nearest vectors, full text.
#[utoipa::path(post, path = "/v1/table/{id}/query", operation_id = "QueryTable", tag = "Data",
    params(ObjectId),
    responses(
        (status = 200, body = ArrowBytes, content_type = "application/vnd.apache.arrow.file"),
        ApiError))]
pub async fn query_table(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<QueryTableRequest>,
) -> ApiResult<Response> {
    let run = async |snapshot: Snapshot, query: Query| {
        respond(snapshot.query(&query).await?, Framing::File).await
    };
    Ok(request.ask(&state, path, run).await?)
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct ExplainTableQueryPlanRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
    query: QueryTableRequest,
    /// Whether the plan tells everything.
    #[schema(default = false)]
    verbose: Option<bool>,
}

/// Tell how a query would be answered.
#[utoipa::path(post, path = "/v1/table/{id}/explain_plan", operation_id = "ExplainTableQueryPlan",
    tag = "Data", params(ObjectId),
    responses((status = 200, body = String, content_type = "application/json"), ApiError))]
pub async fn explain_table_query_plan(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<ExplainTableQueryPlanRequest>,
) -> ApiResult<Reply<String>> {
    let database = path.1.clone();
    let id = path.matching(request.envelope.id.as_deref())?;
    let detail = if request.verbose == Some(true) { Detail::Full } else { Detail::Short };
    let explain = async |snapshot: Snapshot, query: Query| snapshot.explain(&query, detail).await;
    let query = request.query.on_branch(request.branch);
    Ok(Reply(query.ask(&state, TablePath(id, database), explain).await?))
}

/// Run a query, and tell how it was answered and what that took.
#[utoipa::path(post, path = "/v1/table/{id}/analyze_plan", operation_id = "AnalyzeTableQueryPlan",
    tag = "Data", params(ObjectId),
    responses((status = 200, body = String, content_type = "application/json"), ApiError))]
pub async fn analyze_table_query_plan(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<QueryTableRequest>,
) -> ApiResult<Reply<String>> {
    let analyze = async |snapshot: Snapshot, query: Query| snapshot.analyze(&query).await;
    Ok(Reply(request.ask(&state, path, analyze).await?))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct CountTableRowsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The version to count; the newest when absent.
    #[schema(minimum = 0)]
    version: Option<u64>,
    /// The main branch when absent.
    branch: Option<String>,
    /// A SQL expression; all rows when absent.
    predicate: Option<String>,
}

/// Count the rows of a table.
#[utoipa::path(post, path = "/v1/table/{id}/count_rows", operation_id = "CountTableRows",
    tag = "Data", params(ObjectId),
    responses((status = 200, body = u64, content_type = "application/json"), ApiError))]
pub async fn count_table_rows(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<CountTableRowsRequest>,
) -> ApiResult<Reply<u64>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let predicate = request.predicate.as_deref().filter(|text| !text.trim().is_empty());
    let count = async |snapshot: Snapshot| snapshot.count_rows(predicate).await;
    Ok(Reply(state.engine.read(&table, request.version, count).await?))
}
