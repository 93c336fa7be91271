//! Rows in parts, by several requests at once, that become one version.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::At;
use super::data::Version;
use crate::commit::InsertMode;
use crate::http::AppState;
use crate::http::arrow::ArrowBody;
use crate::http::distributed::uploads::parse_upload_id;
use crate::http::error::ApiResult;
use crate::http::extract::{Query, TablePath};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::tables::get_table_on;
use crate::model::{Caller, Table};

#[derive(Deserialize)]
pub(in crate::http) struct BeginQuery {
    branch: Option<String>,
}

#[derive(Serialize)]
pub(in crate::http) struct Begun {
    upload_id: Uuid,
}

/// Begins an upload in parts.
pub(in crate::http) async fn create_multipart_write(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<BeginQuery>,
) -> ApiResult<Reply<Begun>> {
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let upload_id = state.engine.begin_multipart(&table, &caller).await?;
    Ok(Reply(Begun { upload_id }))
}

/// Stages the rows in the body as a part of an upload. Answers the version that they were checked
/// against.
pub(super) async fn stage_part(
    state: &AppState,
    table: Table,
    upload: &str,
    part: Option<&str>,
    mode: InsertMode,
    body: ArrowBody,
    caller: Caller,
) -> ApiResult<At<Reply<Version>>> {
    let session = parse_upload_id(upload)?;
    let part = part.map(str::to_owned);
    let batches = body.into_batches().await?;
    let engine = state.engine.clone();
    let version = finish_even_if_the_client_leaves(&state.work, async move {
        engine.upload_part(&table, session, part.as_deref(), mode, batches, &caller).await
    })
    .await?;
    Ok(At(version, Reply(Version { version })))
}

#[derive(Deserialize)]
pub(in crate::http) struct SessionQuery {
    upload_id: String,
    branch: Option<String>,
}

/// Makes one version of all parts.
pub(in crate::http) async fn complete_multipart_write(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<SessionQuery>,
) -> ApiResult<At<Reply<Version>>> {
    let session = parse_upload_id(&query.upload_id)?;
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let version = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.complete_multipart(&table, session, &caller).await
    })
    .await?;
    Ok(At(version, Reply(Version { version })))
}

/// Gives an upload up. What cannot be the id of one is the id of none, which is no error.
pub(in crate::http) async fn abort_multipart_write(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<SessionQuery>,
) -> ApiResult<Reply<Value>> {
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    if let Ok(session) = parse_upload_id(&query.upload_id) {
        finish_even_if_the_client_leaves(&state.work.clone(), async move {
            state.engine.abort_multipart(&table, session, &caller).await
        })
        .await?;
    }
    Ok(Reply(json!({})))
}
