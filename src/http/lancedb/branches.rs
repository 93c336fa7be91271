//! Branches. All but the listing have the namespace dialect's form.

use std::collections::BTreeMap;

use axum::Json as Reply;
use axum::extract::State;
use serde::Serialize;

use super::every;
use crate::http::AppState;
use crate::http::error::ApiResult;
use crate::http::extract::TablePath;
use crate::http::namespace::branches::BranchContents;
use crate::http::namespace::tables::get_table;
use crate::model::Caller;

#[derive(Serialize)]
pub(in crate::http) struct ListBranchesResponse {
    branches: BTreeMap<String, BranchContents>,
}

/// Lists the branches of a table, without the main one.
pub(in crate::http) async fn list_branches(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
) -> ApiResult<Reply<ListBranchesResponse>> {
    let table = get_table(&state, &id).await?;
    let list = async |page| state.engine.list_branches(&table, &page).await;
    let found = every("branches", list).await?;
    let branches = found.into_iter().map(|entry| (entry.name.clone(), entry.into())).collect();
    Ok(Reply(ListBranchesResponse { branches }))
}
