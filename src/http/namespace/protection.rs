//! Protection from deletion: ours, in the style of the specification.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, NamespacePath, ObjectId, TablePath};
use crate::http::openapi::Envelope;
use crate::model::Caller;

#[derive(Debug, Deserialize, ToSchema)]
pub struct ProtectRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// Whether it is kept from being dropped from now on.
    deletion_protection: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ProtectResponse {
    deletion_protection: bool,
}

/// Protect a namespace from deletion, or lift that: its property `deletion_protection`. It can then not
/// be dropped, alone or with a namespace above it. What is in it can.
#[utoipa::path(post, path = "/v1/namespace/{id}/protect", operation_id = "ProtectNamespace",
    tag = "Namespace", params(ObjectId),
    responses((status = 200, body = ProtectResponse), ApiError))]
pub async fn protect_namespace(
    State(state): State<AppState>,
    caller: Caller,
    path: NamespacePath,
    Json(request): Json<ProtectRequest>,
) -> ApiResult<Reply<ProtectResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let deletion_protection = request.deletion_protection;
    state.engine.protect_namespace(&id, deletion_protection, &caller).await?;
    Ok(Reply(ProtectResponse { deletion_protection }))
}

/// Protect a table from deletion, or lift that: its property `deletion_protection`. It can then be
/// neither dropped nor deregistered, alone or with its namespace. Its rows can change, and its name.
#[utoipa::path(post, path = "/v1/table/{id}/protect", operation_id = "ProtectTable", tag = "Table",
    params(ObjectId), responses((status = 200, body = ProtectResponse), ApiError))]
pub async fn protect_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<ProtectRequest>,
) -> ApiResult<Reply<ProtectResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let deletion_protection = request.deletion_protection;
    state.engine.protect_table(&id, deletion_protection, &caller).await?;
    Ok(Reply(ProtectResponse { deletion_protection }))
}
