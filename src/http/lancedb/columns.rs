//! Columns, and what is kept with them.

use arrow::datatypes::FieldRef;
use axum::Json as Reply;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::CONTENT_TYPE;
use futures::TryStreamExt;
use serde::Deserialize;

use super::At;
use super::data::{Version, check_schema};
use super::tables::OnBranch;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::arrow::ArrowBody;
use crate::http::error::ApiResult;
use crate::http::extract::{Json, Query, TablePath};
use crate::http::namespace::columns::{
    AddColumnsEntry, AlterColumnsEntry, UpdateFieldMetadataEntry,
};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::tables::get_table_on;
use crate::lake::{Alteration, ColumnSource, FieldMetadata, NewColumn, logical_type};
use crate::model::Caller;

#[derive(Deserialize)]
struct AddColumnsRequest {
    branch: Option<String>,
    new_columns: Vec<AddColumnsEntry>,
}

/// Adds columns: by expressions in JSON, or, as an Arrow stream without rows, columns of nulls.
pub(in crate::http) async fn add_columns(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<OnBranch>,
    request: Request,
) -> ApiResult<At<Reply<Version>>> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_arrow =
        content_type.is_some_and(|kind| kind.starts_with("application/vnd.apache.arrow"));
    let (branch, columns) = if is_arrow {
        let body = ArrowBody::from_request(request, &state).await?;
        (query.branch, columns_of_nulls(body).await?)
    } else {
        let Json(request) = Json::<AddColumnsRequest>::from_request(request, &state).await?;
        if request.new_columns.iter().any(AddColumnsEntry::is_computed) {
            return Err(no_computed_columns().into());
        }
        let columns = request.new_columns.into_iter().map(AddColumnsEntry::into_column);
        (request.branch.or(query.branch), columns.collect::<Result<_>>()?)
    };
    let table = get_table_on(&state, &id, branch.as_deref()).await?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.add_columns(&table, columns, &caller).await
    })
    .await?;
    Ok(At(made.version, Reply(Version { version: made.version })))
}

/// LanceDB fills such a column again where what it is computed from has changed.
fn no_computed_columns() -> Error {
    Error::Unsupported(
        "LanceDB's computed columns are not served; those of the namespace specification, which are \
         filled once, are: AlterTableAddColumns and AlterTableBackfillColumns"
            .into(),
    )
}

async fn columns_of_nulls(body: ArrowBody) -> Result<Vec<NewColumn>> {
    let mut batches = body.into_batches().await?;
    check_schema(&batches)?;
    while let Some(batch) = batches.stream.try_next().await? {
        if batch.num_rows() > 0 {
            return Err(Error::invalid_input(
                "new columns are given by their schema: the stream must not have rows",
            ));
        }
    }
    let fields = batches.schema.fields().iter();
    let column = |field: &FieldRef| NewColumn {
        name: field.name().clone(),
        source: ColumnSource::Null(field.clone()),
    };
    Ok(fields.map(column).collect())
}

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
