//! Branches: lines of versions that start from a version of another.

use std::collections::BTreeMap;

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::data::finish_even_if_the_client_leaves;
use super::namespaces::PageQuery;
use super::tables::{get_table, get_table_on};
use super::tags::shown;
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, Query, TablePath};
use crate::http::openapi::{Context, Envelope};
use crate::lake::BranchEntry;
use crate::model::{Branch, Caller, Page, PageScope, Properties, Table};

/// Where a branch started, and what is kept with it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BranchContents {
    /// The branch that it started from; absent for the main branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_branch: Option<String>,
    #[schema(minimum = 0)]
    parent_version: u64,
    /// Seconds since the Unix epoch.
    #[schema(minimum = 0)]
    create_at: u64,
    /// The size of the manifest that it started from, in bytes.
    #[schema(minimum = 0)]
    manifest_size: u64,
    metadata: Properties,
}

impl From<BranchEntry> for BranchContents {
    fn from(entry: BranchEntry) -> Self {
        Self {
            parent_branch: shown(&entry.parent),
            parent_version: entry.parent_version,
            create_at: entry.created_at_s,
            manifest_size: entry.manifest_bytes,
            metadata: entry.metadata,
        }
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ListTableBranchesResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// From a branch's name to where it started. The main branch, which did not, is not among them.
    branches: BTreeMap<String, BranchContents>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// List the branches of a table, by name.
#[utoipa::path(post, path = "/v1/table/{id}/branches/list", operation_id = "ListTableBranches",
    tag = "Table", params(ObjectId, PageQuery),
    responses((status = 200, body = ListTableBranchesResponse), ApiError))]
pub async fn list_table_branches(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<ListTableBranchesResponse>> {
    let table = get_table(&state, &id).await?;
    let scope = PageScope::new("branches", &table.key.to_string());
    let page = Page::new(scope, query.limit, query.page_token.as_deref())?;
    let (found, page_token) = state.engine.list_branches(&table, &page).await?;
    let branches = found.into_iter().map(|entry| (entry.name.clone(), entry.into())).collect();
    Ok(Reply(ListTableBranchesResponse { branches, page_token, ..Default::default() }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateTableBranchRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// Letters, digits, `.`, `-`, `_`, and `/` between parts.
    name: String,
    /// The branch to start from; the main one when absent.
    from_branch: Option<String>,
    /// The version to start from; the newest when absent.
    #[schema(minimum = 0)]
    from_version: Option<u64>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CreateTableBranchResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// The transaction that made the branch's first version.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
}

/// Create a branch. Its first version has the number and the rows of the one that it starts from.
#[utoipa::path(post, path = "/v1/table/{id}/branches/create", operation_id = "CreateTableBranch",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = CreateTableBranchResponse), ApiError))]
pub async fn create_table_branch(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<CreateTableBranchRequest>,
) -> ApiResult<Reply<CreateTableBranchResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let branch = Branch::parse(Some(&request.name))?;
    let source = get_table_on(&state, &id, request.from_branch.as_deref()).await?;
    let transaction_id = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.create_branch(&source, request.from_version, &branch, &caller).await
    })
    .await?;
    Ok(Reply(CreateTableBranchResponse { context: None, transaction_id }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DeleteTableBranchRequest {
    #[serde(flatten)]
    envelope: Envelope,
    name: String,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DeleteTableBranchResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// Absent: no version is made by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
}

/// Delete a branch and its versions. Refused while a tag or another branch starts from it.
#[utoipa::path(post, path = "/v1/table/{id}/branches/delete", operation_id = "DeleteTableBranch",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = DeleteTableBranchResponse), ApiError))]
pub async fn delete_table_branch(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<DeleteTableBranchRequest>,
) -> ApiResult<Reply<DeleteTableBranchResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let branch = Branch::parse(Some(&request.name))?;
    let table = Table { branch, ..get_table(&state, &id).await? };
    finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.delete_branch(&table, &caller).await
    })
    .await?;
    Ok(Reply(DeleteTableBranchResponse::default()))
}
