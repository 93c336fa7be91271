//! Rows in, as one Arrow IPC stream.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::tables::check_nameable;
use super::{At, multipart};
use crate::commit::{CreateMode, InsertMode, NewLocation, NewTable};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::arrow::ArrowBody;
use crate::http::error::ApiResult;
use crate::http::extract::{Query, TablePath, one_of};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::tables::get_table_on;
use crate::lake::{Batches, logical_schema};
use crate::model::{Caller, Properties};

#[derive(Deserialize)]
pub(in crate::http) struct CreateTableQuery {
    mode: Option<String>,
}

/// The version that stands after an operation.
#[derive(Serialize)]
pub(in crate::http) struct Version {
    pub(in crate::http) version: u64,
}

/// Makes a table of the rows in the body.
pub(in crate::http) async fn create_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, database): TablePath,
    Query(query): Query<CreateTableQuery>,
    body: ArrowBody,
) -> ApiResult<At<Reply<Version>>> {
    let modes = [
        ("create", CreateMode::Create),
        ("overwrite", CreateMode::Overwrite),
        ("exist_ok", CreateMode::ExistOk),
    ];
    let mode = one_of("mode", query.mode.as_deref(), &modes, CreateMode::Create)?;
    check_nameable(&id)?;
    let batches = body.into_batches().await?;
    check_schema(&batches)?;
    let created = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        let (location, properties) = (NewLocation::Own, Properties::new());
        let home = state.home_in(&caller, &database, &id).await?;
        let new = NewTable { id: &id, mode, location, properties, home };
        let created = state.engine.create_table(new, batches, &caller).await?;
        // The client then looks itself whether it is what was meant.
        if mode == CreateMode::ExistOk && created.transaction_id.is_none() {
            return Err(Error::TableAlreadyExists(id));
        }
        Ok(created)
    })
    .await?;
    Ok(At(created.version, Reply(Version { version: created.version })))
}

/// # Errors
/// `InvalidInput` for a schema that these clients could not read any more.
pub(super) fn check_schema(batches: &Batches) -> Result<()> {
    match logical_schema(&batches.schema) {
        Err(Error::Unsupported(why)) => Err(Error::InvalidInput(why)),
        written => written.map(drop),
    }
}

#[derive(Deserialize)]
pub(in crate::http) struct InsertQuery {
    mode: Option<String>,
    branch: Option<String>,
    /// The upload in parts that the rows belong to.
    upload_id: Option<String>,
    upload_part_id: Option<String>,
}

/// Inserts the rows in the body, or stages them as a part of an upload.
pub(in crate::http) async fn insert_into_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<InsertQuery>,
    body: ArrowBody,
) -> ApiResult<At<Reply<Version>>> {
    let modes = [("append", InsertMode::Append), ("overwrite", InsertMode::Overwrite)];
    let mode = one_of("mode", query.mode.as_deref(), &modes, InsertMode::Append)?;
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    if let Some(upload) = &query.upload_id {
        let part = query.upload_part_id.as_deref();
        return multipart::stage_part(&state, table, upload, part, mode, body, caller).await;
    }
    let batches = body.into_batches().await?;
    if mode == InsertMode::Overwrite {
        check_schema(&batches)?;
    }
    let inserted = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.insert_rows(&table, mode, batches, &caller).await
    })
    .await?;
    Ok(At(inserted.version, Reply(Version { version: inserted.version })))
}
