//! Columns, and what is kept with them.

use axum::Json as Reply;
use axum::extract::State;
use serde::Deserialize;

use super::At;
use super::data::Version;
use crate::http::AppState;
use crate::http::error::ApiResult;
use crate::http::extract::{Json, TablePath};
use crate::http::namespace::columns::{AlterColumnsEntry, UpdateFieldMetadataEntry};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::tables::get_table_on;
use crate::lake::{Alteration, FieldMetadata, logical_type};
use crate::model::Caller;

#[derive(Deserialize)]
pub(in crate::http) struct AlterColumnsRequest {
    branch: Option<String>,
    alterations: Vec<AlterColumnsEntry>,
}

/// Renames columns, changes their types, or whether they may be null. Types are Lance's logical ones.
pub(in crate::http) async fn alter_columns(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<AlterColumnsRequest>,
) -> ApiResult<At<Reply<Version>>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let alterations = request.alterations.into_iter();
    let alterations = alterations.map(|entry| entry.into_alteration(logical_type));
    let alterations: Vec<Alteration> = alterations.collect::<Result<_, _>>()?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.alter_columns(&table, alterations, &caller).await
    })
    .await?;
    Ok(At(made.version, Reply(Version { version: made.version })))
}

#[derive(Deserialize)]
pub(in crate::http) struct DropColumnsRequest {
    branch: Option<String>,
    columns: Vec<String>,
}

/// Drops columns. Older versions keep them.
pub(in crate::http) async fn drop_columns(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<DropColumnsRequest>,
) -> ApiResult<At<Reply<Version>>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.drop_columns(&table, request.columns, &caller).await
    })
    .await?;
    Ok(At(made.version, Reply(Version { version: made.version })))
}

#[derive(Deserialize)]
pub(in crate::http) struct UpdateFieldMetadataRequest {
    branch: Option<String>,
    updates: Vec<UpdateFieldMetadataEntry>,
}

/// Changes what is kept with fields.
pub(in crate::http) async fn update_field_metadata(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<UpdateFieldMetadataRequest>,
) -> ApiResult<At<Reply<Version>>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let updates = request.updates.into_iter().map(FieldMetadata::from).collect();
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.update_field_metadata(&table, updates, &caller).await
    })
    .await?;
    Ok(At(made.version, Reply(Version { version: made.version })))
}
