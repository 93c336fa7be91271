//! Namespaces.

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Seen;
use crate::catalog::namespaces as rows;
use crate::commit::{Behavior, IfExists, IfMissing};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, NamespacePath, ObjectId, Query, one_of};
use crate::http::openapi::{Context, Envelope};
use crate::model::{Caller, Page, PageScope, Properties};

/// `page_token` and `limit`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The token that the page before answered.
    pub page_token: Option<String>,
    /// The most entries to answer; 1 000 when absent, at most 10 000.
    pub limit: Option<i64>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateNamespaceRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// `Create` (default), `ExistOk` or `Overwrite`.
    mode: Option<String>,
    properties: Option<Properties>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CreateNamespaceResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    properties: Properties,
}

/// Create a namespace.
#[utoipa::path(post, path = "/v1/namespace/{id}/create", operation_id = "CreateNamespace",
    tag = "Namespace", params(ObjectId),
    responses((status = 200, body = CreateNamespaceResponse), ApiError))]
pub async fn create_namespace(
    State(state): State<AppState>,
    caller: Caller,
    path: NamespacePath,
    Json(request): Json<CreateNamespaceRequest>,
) -> ApiResult<Reply<CreateNamespaceResponse>> {
    let database = path.1.clone();
    let id = path.matching(request.envelope.id.as_deref())?;
    let modes =
        [("Create", IfExists::Fail), ("ExistOk", IfExists::Keep), ("Overwrite", IfExists::Replace)];
    let mode = one_of("mode", request.mode.as_deref(), &modes, IfExists::Fail)?;
    let properties = request.properties.unwrap_or_default();
    let create = || state.engine.create_namespace(&id, mode, properties.clone(), &caller);
    let properties = state.put_into(&database, &caller, create).await?;
    Ok(Reply(CreateNamespaceResponse { properties, ..Default::default() }))
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ListNamespacesResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// The names of the children, in order.
    namespaces: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// List the child namespaces of a namespace.
#[utoipa::path(get, path = "/v1/namespace/{id}/list", operation_id = "ListNamespaces",
    tag = "Namespace", params(ObjectId, PageQuery),
    responses((status = 200, body = ListNamespacesResponse), ApiError))]
pub async fn list_namespaces(
    State(state): State<AppState>,
    caller: Caller,
    NamespacePath(id, database): NamespacePath,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<ListNamespacesResponse>> {
    let scope = PageScope::new("namespaces", &id.to_stored());
    let page = Page::new(scope, query.limit, query.page_token.as_deref())?;
    let seen = state.access.seen_in(&caller, &id).await?;
    let mut tx = state.catalog.read().await?;
    let Some(namespace) = rows::find_namespace(&mut tx, &id).await? else {
        state.unless_unknown(&database, &id)?;
        return Ok(Reply(ListNamespacesResponse::default()));
    };
    let mut namespaces = match seen {
        Seen::All => rows::list_namespaces(&mut tx, namespace.key, &page).await?,
        Seen::Only { namespaces, .. } => page.of(namespaces),
    };
    let page_token = page.finish(&mut namespaces, Clone::clone);
    Ok(Reply(ListNamespacesResponse { namespaces, page_token, ..Default::default() }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DescribeNamespaceRequest {
    #[serde(flatten)]
    envelope: Envelope,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DescribeNamespaceResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    properties: Properties,
}

/// Describe a namespace.
#[utoipa::path(post, path = "/v1/namespace/{id}/describe", operation_id = "DescribeNamespace",
    tag = "Namespace", params(ObjectId),
    responses((status = 200, body = DescribeNamespaceResponse), ApiError))]
pub async fn describe_namespace(
    State(state): State<AppState>,
    _caller: Caller,
    path: NamespacePath,
    Json(request): Json<DescribeNamespaceRequest>,
) -> ApiResult<Reply<DescribeNamespaceResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let mut tx = state.catalog.read().await?;
    let properties = rows::get_namespace(&mut tx, &id).await?.properties;
    Ok(Reply(DescribeNamespaceResponse { properties, ..Default::default() }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DropNamespaceRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// `Fail` (default) or `Skip`, when there is no such namespace.
    mode: Option<String>,
    /// `Restrict` (default) or `Cascade`, when it holds something.
    behavior: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DropNamespaceResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// What the namespace had; absent when it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Properties>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<Vec<String>>,
}

/// Drop a namespace.
#[utoipa::path(post, path = "/v1/namespace/{id}/drop", operation_id = "DropNamespace",
    tag = "Namespace", params(ObjectId),
    responses((status = 200, body = DropNamespaceResponse), ApiError))]
pub async fn drop_namespace(
    State(state): State<AppState>,
    caller: Caller,
    path: NamespacePath,
    Json(request): Json<DropNamespaceRequest>,
) -> ApiResult<Reply<DropNamespaceResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let modes = [("Fail", IfMissing::Fail), ("Skip", IfMissing::Skip)];
    let mode = one_of("mode", request.mode.as_deref(), &modes, IfMissing::Fail)?;
    let behaviors = [("Restrict", Behavior::Restrict), ("Cascade", Behavior::Cascade)];
    let behavior = one_of("behavior", request.behavior.as_deref(), &behaviors, Behavior::Restrict)?;
    let properties = state.engine.drop_namespace(&id, mode, behavior, &caller).await?;
    Ok(Reply(DropNamespaceResponse { properties, ..Default::default() }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct NamespaceExistsRequest {
    #[serde(flatten)]
    envelope: Envelope,
}

/// Check that a namespace exists.
#[utoipa::path(post, path = "/v1/namespace/{id}/exists", operation_id = "NamespaceExists",
    tag = "Namespace", params(ObjectId),
    responses((status = 200, description = "It exists"), ApiError))]
pub async fn namespace_exists(
    State(state): State<AppState>,
    _caller: Caller,
    path: NamespacePath,
    Json(request): Json<NamespaceExistsRequest>,
) -> ApiResult<StatusCode> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let mut tx = state.catalog.read().await?;
    rows::get_namespace(&mut tx, &id).await?;
    Ok(StatusCode::OK)
}
