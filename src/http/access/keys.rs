//! API keys: made, listed, given another secret, taken away.

use std::time::Duration;

use axum::Json as Reply;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::catalog::access as rows;
use crate::error::Error;
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, Query};
use crate::http::namespace::namespaces::PageQuery;
use crate::model::{ApiKey, Caller, Page, PageScope};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct KeyPath {
    key_id: String,
}

/// An API key without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiKeyInfo {
    key_id: String,
    /// Who calls with it.
    principal: String,
    description: String,
    created_by: String,
    created_at_millis: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_millis: Option<i64>,
    /// To the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at_millis: Option<i64>,
}

impl From<ApiKey> for ApiKeyInfo {
    fn from(key: ApiKey) -> Self {
        Self {
            key_id: key.id,
            principal: key.principal,
            description: key.description,
            created_by: key.created_by,
            created_at_millis: key.created_at_us / 1000,
            expires_at_millis: key.expires_at_us.map(|at_us| at_us / 1000),
            last_used_at_millis: key.last_used_us.map(|at_us| at_us / 1000),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateApiKeyRequest {
    /// Who calls with it, to whom roles are granted.
    principal: String,
    #[serde(default)]
    description: String,
    /// After how many seconds it is good no more; never when absent.
    #[schema(minimum = 1)]
    expires_in_seconds: Option<u64>,
}

/// A key with its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub struct CreateApiKeyResponse {
    /// What is sent as `x-api-key`.
    api_key: String,
    #[serde(flatten)]
    info: ApiKeyInfo,
}

/// Make an API key.
#[utoipa::path(post, path = "/v1/access/keys/create", operation_id = "CreateApiKey", tag = "Access",
    responses((status = 200, body = CreateApiKeyResponse), ApiError))]
pub async fn create_api_key(
    State(state): State<AppState>,
    caller: Caller,
    Json(request): Json<CreateApiKeyRequest>,
) -> ApiResult<Reply<CreateApiKeyResponse>> {
    let CreateApiKeyRequest { principal, description, expires_in_seconds } = request;
    let expires_in = expires_in_seconds.map(Duration::from_secs);
    let made = state.access.create_key(&principal, &description, expires_in, &caller).await;
    let (api_key, key) = made?;
    Ok(Reply(CreateApiKeyResponse { api_key, info: key.into() }))
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ListApiKeysResponse {
    keys: Vec<ApiKeyInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// List the API keys, oldest first, without their secrets.
#[utoipa::path(get, path = "/v1/access/keys", operation_id = "ListApiKeys", tag = "Access",
    params(PageQuery), responses((status = 200, body = ListApiKeysResponse), ApiError))]
pub async fn list_api_keys(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<ListApiKeysResponse>> {
    let scope = PageScope::new("keys", "");
    let page = Page::new(scope, query.limit, query.page_token.as_deref())?;
    let mut tx = state.catalog.read().await?;
    let mut keys = rows::list_keys(&mut tx, Some(&page)).await?;
    let page_token = page.finish(&mut keys, |key| key.id.clone());
    let keys = keys.into_iter().map(ApiKeyInfo::from).collect();
    Ok(Reply(ListApiKeysResponse { keys, page_token }))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct RotateApiKeyRequest {
    /// For how many seconds the old key stays good, so that its users can change over; 0 when absent.
    #[serde(default)]
    #[schema(minimum = 0)]
    overlap_seconds: u64,
}

/// Make a new key for the principal of another, which ends.
#[utoipa::path(post, path = "/v1/access/keys/{key_id}/rotate", operation_id = "RotateApiKey",
    tag = "Access", params(KeyPath),
    responses((status = 200, body = CreateApiKeyResponse), ApiError))]
pub async fn rotate_api_key(
    State(state): State<AppState>,
    caller: Caller,
    Path(KeyPath { key_id }): Path<KeyPath>,
    Json(request): Json<RotateApiKeyRequest>,
) -> ApiResult<Reply<CreateApiKeyResponse>> {
    let overlap = Duration::from_secs(request.overlap_seconds);
    let (api_key, key) = state.access.rotate_key(&key_id, overlap, &caller).await?;
    Ok(Reply(CreateApiKeyResponse { api_key, info: key.into() }))
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeleteApiKeyResponse {}

/// Take an API key away.
#[utoipa::path(delete, path = "/v1/access/keys/{key_id}", operation_id = "DeleteApiKey",
    tag = "Access", params(KeyPath),
    responses((status = 200, body = DeleteApiKeyResponse), ApiError))]
pub async fn delete_api_key(
    State(state): State<AppState>,
    caller: Caller,
    Path(KeyPath { key_id }): Path<KeyPath>,
) -> ApiResult<Reply<DeleteApiKeyResponse>> {
    if !state.access.delete_key(&key_id, &caller).await? {
        return Err(Error::invalid_input("there is no such key").into());
    }
    Ok(Reply(DeleteApiKeyResponse {}))
}
