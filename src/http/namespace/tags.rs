//! Tags: names for versions.

use std::collections::BTreeMap;

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::data::finish_even_if_the_client_leaves;
use super::namespaces::PageQuery;
use super::tables::{get_table, get_table_on};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, Query, TablePath};
use crate::http::openapi::{Context, Envelope};
use crate::lake;
use crate::model::{Branch, Caller, Page, PageScope};

/// What a tag points to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TagContents {
    /// The branch of the version; absent for the main branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<String>,
    #[schema(minimum = 0)]
    version: u64,
    /// The size of the version's manifest, in bytes.
    #[schema(minimum = 0)]
    manifest_size: u64,
}

/// The name in a reply, where the main branch has none.
pub(super) fn shown(branch: &Branch) -> Option<String> {
    branch.beside_main().map(str::to_owned)
}

impl From<&lake::Tag> for TagContents {
    fn from(tag: &lake::Tag) -> Self {
        Self { branch: shown(&tag.branch), version: tag.version, manifest_size: tag.manifest_bytes }
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ListTableTagsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// From a tag's name to what it points to.
    tags: BTreeMap<String, TagContents>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// List the tags of a table, those of all branches, by name.
#[utoipa::path(post, path = "/v1/table/{id}/tags/list", operation_id = "ListTableTags",
    tag = "Table", params(ObjectId, PageQuery),
    responses((status = 200, body = ListTableTagsResponse), ApiError))]
pub async fn list_table_tags(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<ListTableTagsResponse>> {
    let table = get_table(&state, &id).await?;
    let scope = PageScope::new("tags", &table.key.to_string());
    let page = Page::new(scope, query.limit, query.page_token.as_deref())?;
    let (tags, page_token) = state.engine.list_tags(&table, &page).await?;
    let tags = tags.into_iter().map(|tag| (tag.name.clone(), TagContents::from(&tag))).collect();
    Ok(Reply(ListTableTagsResponse { tags, page_token, ..Default::default() }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct GetTableTagVersionRequest {
    #[serde(flatten)]
    envelope: Envelope,
    tag: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct GetTableTagVersionResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[schema(minimum = 0)]
    version: u64,
    /// The branch of the version; absent for the main branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<String>,
}

/// Tell the version that a tag points to.
#[utoipa::path(post, path = "/v1/table/{id}/tags/version", operation_id = "GetTableTagVersion",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = GetTableTagVersionResponse), ApiError))]
pub async fn get_table_tag_version(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<GetTableTagVersionRequest>,
) -> ApiResult<Reply<GetTableTagVersionResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table(&state, &id).await?;
    let tag = state.engine.find_tag(&table, &request.tag).await?;
    let (version, branch) = (tag.version, shown(&tag.branch));
    Ok(Reply(GetTableTagVersionResponse { context: None, version, branch }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateTableTagRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// Letters a to z, digits, `.`, `-` and `_`.
    tag: String,
    #[schema(minimum = 0)]
    version: u64,
    /// The branch of the version; the main one when absent.
    branch: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CreateTableTagResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// Absent: a tag is no version, and no transaction makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
}

/// Create a tag. The name must be free.
#[utoipa::path(post, path = "/v1/table/{id}/tags/create", operation_id = "CreateTableTag",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = CreateTableTagResponse), ApiError))]
pub async fn create_table_tag(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<CreateTableTagRequest>,
) -> ApiResult<Reply<CreateTableTagResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.create_tag(&table, &request.tag, request.version, &caller).await
    })
    .await?;
    Ok(Reply(CreateTableTagResponse::default()))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct UpdateTableTagRequest {
    #[serde(flatten)]
    envelope: Envelope,
    tag: String,
    #[schema(minimum = 0)]
    version: u64,
    /// The branch of the version; the main one when absent.
    branch: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct UpdateTableTagResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// Absent: a tag is no version, and no transaction makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
}

/// Point a tag to another version.
#[utoipa::path(post, path = "/v1/table/{id}/tags/update", operation_id = "UpdateTableTag",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = UpdateTableTagResponse), ApiError))]
pub async fn update_table_tag(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<UpdateTableTagRequest>,
) -> ApiResult<Reply<UpdateTableTagResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.move_tag(&table, &request.tag, request.version, &caller).await
    })
    .await?;
    Ok(Reply(UpdateTableTagResponse::default()))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DeleteTableTagRequest {
    #[serde(flatten)]
    envelope: Envelope,
    tag: String,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DeleteTableTagResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// Absent: a tag is no version, and no transaction removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
}

/// Delete a tag. The version stays.
#[utoipa::path(post, path = "/v1/table/{id}/tags/delete", operation_id = "DeleteTableTag",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = DeleteTableTagResponse), ApiError))]
pub async fn delete_table_tag(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<DeleteTableTagRequest>,
) -> ApiResult<Reply<DeleteTableTagResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table(&state, &id).await?;
    finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.delete_tag(&table, &request.tag, &caller).await
    })
    .await?;
    Ok(Reply(DeleteTableTagResponse::default()))
}
