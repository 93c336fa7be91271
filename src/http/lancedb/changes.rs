//! Rows that change: merge-insert, update, delete.

use std::time::Instant;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;

use super::At;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::arrow::ArrowBody;
use crate::http::error::ApiResult;
use crate::http::extract::{Json, Query, TablePath, patience};
use crate::http::namespace::changes::{DeleteFromTableRequest, MergeQuery, UpdateTableRequest};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::tables::get_table_on;
use crate::model::Caller;

#[derive(Serialize)]
pub(in crate::http) struct MergeInsertResponse {
    version: u64,
    num_inserted_rows: u64,
    num_updated_rows: u64,
    num_deleted_rows: u64,
    /// How often it was tried by the client's doing: once.
    num_attempts: u32,
    /// Rows written.
    num_rows: u64,
}

/// Rows of LanceDB's own log of writes are not kept here.
///
/// # Errors
/// `Unsupported` for a merge that is to go there.
fn refuse_write_ahead(query: &[(String, String)]) -> Result<()> {
    let asks = |(name, value): &(String, String)| {
        matches!(name.as_str(), "use_rte" | "use_lsm") && value.eq_ignore_ascii_case("true")
    };
    if query.iter().any(asks) {
        return Err(write_ahead_not_served());
    }
    Ok(())
}

pub(super) fn write_ahead_not_served() -> Error {
    Error::Unsupported("there is no log of writes beside the table here: leave use_rte away".into())
}

/// Merges the rows in the body into the table.
pub(in crate::http) async fn merge_insert(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: ArrowBody,
) -> ApiResult<At<Reply<MergeInsertResponse>>> {
    refuse_write_ahead(&query)?;
    let query = MergeQuery::read(query)?;
    let timeout = patience(&headers)?.or(query.timeout);
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let batches = body.into_batches().await?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        let began = Instant::now();
        let made = state.engine.merge_rows(&table, &query.merge, batches, timeout, &caller).await;
        match made {
            // The client's own time is over: it should not come again with all of its rows.
            Err(Error::ServiceUnavailable(why))
                if timeout.is_some_and(|timeout| began.elapsed() >= timeout) =>
            {
                Err(Error::InvalidInput(why))
            }
            made => made,
        }
    })
    .await?;
    let merged = made.value;
    let response = MergeInsertResponse {
        version: made.version,
        num_inserted_rows: merged.inserted,
        num_updated_rows: merged.updated,
        num_deleted_rows: merged.deleted,
        num_attempts: 1,
        num_rows: merged.inserted + merged.updated,
    };
    Ok(At(made.version, Reply(response)))
}

/// No other name for the number: a client that reads both names refuses an answer with both.
#[derive(Serialize)]
pub(in crate::http) struct UpdateResponse {
    rows_updated: u64,
    version: u64,
}

/// Updates the rows that fit a predicate, all rows without one.
pub(in crate::http) async fn update_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<UpdateTableRequest>,
) -> ApiResult<At<Reply<UpdateResponse>>> {
    // LanceDB refuses it: nobody means every row by it.
    if request.has_empty_predicate() {
        let why = "predicate is empty; leave it away, or send `true`, to update every row";
        return Err(Error::invalid_input(why).into());
    }
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let update = request.into_update()?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.update_rows(&table, &update, &caller).await
    })
    .await?;
    let response = UpdateResponse { rows_updated: made.value, version: made.version };
    Ok(At(made.version, Reply(response)))
}

#[derive(Serialize)]
pub(in crate::http) struct DeleteResponse {
    num_deleted_rows: u64,
    version: u64,
}

/// Deletes the rows that fit a predicate.
pub(in crate::http) async fn delete_from_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<DeleteFromTableRequest>,
) -> ApiResult<At<Reply<DeleteResponse>>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let predicate = request.into_predicate()?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.delete_rows(&table, &predicate, &caller).await
    })
    .await?;
    let response = DeleteResponse { num_deleted_rows: made.value, version: made.version };
    Ok(At(made.version, Reply(response)))
}
