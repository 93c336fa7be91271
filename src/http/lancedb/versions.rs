//! Versions of a table.

use axum::Json as Reply;
use axum::extract::State;
use serde::Serialize;

use super::data::Version;
use super::tables::OnBranch;
use super::{At, every};
use crate::catalog::versions::Order;
use crate::http::AppState;
use crate::http::error::ApiResult;
use crate::http::extract::{Json, Query, TablePath};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::tables::get_table_on;
use crate::http::namespace::versions::{RestoreTableRequest, TableVersion};
use crate::model::Caller;

#[derive(Serialize)]
pub(in crate::http) struct ListVersionsResponse {
    versions: Vec<TableVersion>,
}

/// Lists all versions of a table, oldest first.
pub(in crate::http) async fn list_versions(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<OnBranch>,
) -> ApiResult<Reply<ListVersionsResponse>> {
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let list = async |page| state.engine.list_versions(&table, Order::OldestFirst, &page).await;
    let versions = every("versions", list).await?;
    let versions = versions.into_iter().map(TableVersion::from).collect();
    Ok(Reply(ListVersionsResponse { versions }))
}

/// Restores a table to an older version, as a new one.
pub(in crate::http) async fn restore_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<RestoreTableRequest>,
) -> ApiResult<At<Reply<Version>>> {
    let version = request.version()?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.restore_version(&table, version, &caller).await
    })
    .await?;
    Ok(At(made.version, Reply(Version { version: made.version })))
}
