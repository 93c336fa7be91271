//! Columns, and what is kept with them.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::data::finish_even_if_the_client_leaves;
use super::tables::get_table_on;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, Query, TablePath};
use crate::http::openapi::{Context, Envelope};
use crate::lake::{
    Alteration, ColumnSource, FieldMetadata, NewColumn, Others, data_type_from_wire,
};
use crate::model::{Caller, Properties};

/// A column to add; one of `expression`, `computed` and `virtual_column`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct AddColumnsEntry {
    name: String,
    /// A SQL expression, evaluated once for the rows that are there.
    expression: Option<String>,
    /// A SQL expression that is kept with the column, which is null until it is backfilled.
    computed: Option<String>,
    /// Not served: this server runs no functions of callers.
    #[schema(value_type = Option<Object>)]
    virtual_column: Option<Value>,
}

impl AddColumnsEntry {
    /// Whether an expression is to be kept with the column.
    pub(in crate::http) fn is_computed(&self) -> bool {
        self.computed.is_some()
    }

    /// # Errors
    /// `InvalidInput` for none or several of the three; `Unsupported` for a virtual column.
    pub(in crate::http) fn into_column(self) -> Result<NewColumn> {
        let Self { name, expression, computed, virtual_column } = self;
        let source = match (expression, computed, virtual_column) {
            (Some(text), None, None) => ColumnSource::Expression(text),
            (None, Some(text), None) => ColumnSource::Computed(text),
            (None, None, Some(_)) => return Err(no_virtual_columns()),
            _ => {
                return Err(Error::invalid_input(format!(
                    "column '{name}': give one of expression, computed and virtual_column"
                )));
            }
        };
        Ok(NewColumn { name, source })
    }
}

fn no_virtual_columns() -> Error {
    Error::Unsupported(
        "virtual columns are not served: this server runs no functions of callers".into(),
    )
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct AlterTableAddColumnsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
    new_columns: Vec<AddColumnsEntry>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AlterTableAddColumnsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[schema(minimum = 0)]
    version: u64,
}

/// Add columns to a table, all in one version.
#[utoipa::path(post, path = "/v1/table/{id}/add_columns", operation_id = "AlterTableAddColumns",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = AlterTableAddColumnsResponse), ApiError))]
pub async fn alter_table_add_columns(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<AlterTableAddColumnsRequest>,
) -> ApiResult<Reply<AlterTableAddColumnsResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let columns = request.new_columns.into_iter().map(AddColumnsEntry::into_column);
    let columns: Vec<NewColumn> = columns.collect::<Result<_>>()?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.add_columns(&table, columns, &caller).await
    })
    .await?;
    Ok(Reply(AlterTableAddColumnsResponse { context: None, version: made.version }))
}

/// A change to one column; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
pub struct AlterColumnsEntry {
    /// The path of the field, as `a.b`, or with backticks where a name holds a dot.
    path: String,
    /// A JSON Arrow type, such as `{"type": "int64"}`. Times take Lance's names, such as
    /// `timestamp:ns:UTC`; bare ones are in microseconds.
    #[schema(value_type = Option<Object>)]
    data_type: Option<Value>,
    rename: Option<String>,
    nullable: Option<bool>,
    /// Not served: this server runs no functions of callers.
    #[schema(value_type = Option<Object>)]
    virtual_column: Option<Value>,
}

impl AlterColumnsEntry {
    /// # Errors
    /// `Unsupported` for a virtual column; `InvalidInput` for what `read` takes for no type.
    pub(in crate::http) fn into_alteration(
        self,
        read: fn(&Value) -> Result<DataType>,
    ) -> Result<Alteration> {
        if self.virtual_column.is_some() {
            return Err(no_virtual_columns());
        }
        let data_type = self.data_type.as_ref().map(read).transpose()?;
        let Self { path, rename, nullable, .. } = self;
        Ok(Alteration { path, rename, nullable, data_type })
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct AlterTableAlterColumnsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
    alterations: Vec<AlterColumnsEntry>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AlterTableAlterColumnsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[schema(minimum = 0)]
    version: u64,
}

/// Rename columns, change their types, or whether they may be null.
#[utoipa::path(post, path = "/v1/table/{id}/alter_columns",
    operation_id = "AlterTableAlterColumns", tag = "Table", params(ObjectId),
    responses((status = 200, body = AlterTableAlterColumnsResponse), ApiError))]
pub async fn alter_table_alter_columns(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<AlterTableAlterColumnsRequest>,
) -> ApiResult<Reply<AlterTableAlterColumnsResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let alterations = request.alterations.into_iter();
    let alterations = alterations.map(|entry| entry.into_alteration(data_type_from_wire));
    let alterations: Vec<Alteration> = alterations.collect::<Result<_>>()?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.alter_columns(&table, alterations, &caller).await
    })
    .await?;
    Ok(Reply(AlterTableAlterColumnsResponse { context: None, version: made.version }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct AlterTableDropColumnsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
    /// Paths of fields, as `a.b`, or with backticks where a name holds a dot.
    columns: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AlterTableDropColumnsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    #[schema(minimum = 0)]
    version: u64,
}

/// Drop columns. Older versions keep them.
#[utoipa::path(post, path = "/v1/table/{id}/drop_columns", operation_id = "AlterTableDropColumns",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = AlterTableDropColumnsResponse), ApiError))]
pub async fn alter_table_drop_columns(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<AlterTableDropColumnsRequest>,
) -> ApiResult<Reply<AlterTableDropColumnsResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.drop_columns(&table, request.columns, &caller).await
    })
    .await?;
    let (transaction_id, version) = (made.transaction_id, made.version);
    Ok(Reply(AlterTableDropColumnsResponse { context: None, transaction_id, version }))
}

/// A change to the metadata of one field.
#[derive(Debug, Deserialize, ToSchema)]
pub struct UpdateFieldMetadataEntry {
    /// The path of the field, as `a.b`, or with backticks where a name holds a dot.
    path: String,
    /// A null takes the key out.
    metadata: BTreeMap<String, Option<String>>,
    /// Whether the keys that are not named go; they stay when absent.
    replace: Option<bool>,
}

impl From<UpdateFieldMetadataEntry> for FieldMetadata {
    fn from(entry: UpdateFieldMetadataEntry) -> Self {
        let others = if entry.replace == Some(true) { Others::Go } else { Others::Stay };
        Self { path: entry.path, values: entry.metadata, others }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct UpdateFieldMetadataRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
    updates: Vec<UpdateFieldMetadataEntry>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UpdateFieldMetadataResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[schema(minimum = 0)]
    version: u64,
    /// All that is kept with each field that was named, by its path.
    fields: BTreeMap<String, Properties>,
}

/// Change what is kept with fields.
#[utoipa::path(post, path = "/v1/table/{id}/update_field_metadata",
    operation_id = "UpdateFieldMetadata", tag = "Table", params(ObjectId),
    responses((status = 200, body = UpdateFieldMetadataResponse), ApiError))]
pub async fn update_field_metadata(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<UpdateFieldMetadataRequest>,
) -> ApiResult<Reply<UpdateFieldMetadataResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let updates = request.updates.into_iter().map(FieldMetadata::from).collect();
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.update_field_metadata(&table, updates, &caller).await
    })
    .await?;
    let (version, fields) = (made.version, made.value);
    Ok(Reply(UpdateFieldMetadataResponse { context: None, version, fields }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UpdateTableSchemaMetadataQuery {
    /// The main branch when absent.
    branch: Option<String>,
}

/// Replace the key-value pairs of the schema by those of the body. Answers what the schema has
/// then.
#[utoipa::path(post, path = "/v1/table/{id}/schema_metadata/update",
    operation_id = "UpdateTableSchemaMetadata", tag = "Table",
    params(ObjectId, UpdateTableSchemaMetadataQuery),
    request_body(content = BTreeMap<String, String>, content_type = "application/json"),
    responses((status = 200, body = BTreeMap<String, String>, content_type = "application/json"),
        ApiError))]
pub async fn update_table_schema_metadata(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<UpdateTableSchemaMetadataQuery>,
    Json(metadata): Json<Properties>,
) -> ApiResult<Reply<Properties>> {
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.replace_schema_metadata(&table, metadata, &caller).await
    })
    .await?;
    Ok(Reply(made.value))
}
