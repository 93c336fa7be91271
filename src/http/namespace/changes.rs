//! Rows that change: merge-insert, update, delete.

use std::time::Duration;

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::data::finish_even_if_the_client_leaves;
use super::tables::get_table_on;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::arrow::ArrowBody;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, Query, TablePath};
use crate::http::openapi::{ArrowBytes, Context, Envelope};
use crate::lake::{Matched, Merge, NotMatched, NotMatchedBySource, RowUpdate};
use crate::model::{Caller, Properties};

/// The longest time that a caller may give a merge.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "it is the document's form of what MergeQuery reads")]
pub struct MergeInsertIntoTableQuery {
    /// The main branch when absent.
    branch: Option<String>,
    /// A column that rows are matched by; may be repeated.
    on: Vec<String>,
    /// Whether a row of the table that is matched gets the values of the row that matches it.
    when_matched_update_all: Option<bool>,
    /// A SQL expression over `source` and `target`: only rows for which it is true are updated.
    when_matched_update_all_filt: Option<String>,
    /// Whether a row that matches none is inserted.
    when_not_matched_insert_all: Option<bool>,
    /// Whether a row of the table that is not matched is deleted.
    when_not_matched_by_source_delete: Option<bool>,
    /// A SQL expression: only rows for which it is true are deleted.
    when_not_matched_by_source_delete_filt: Option<String>,
    /// How long it may take, such as `30s` or `5m`.
    timeout: Option<String>,
    /// Whether an index on the keys is used to find matches.
    use_index: Option<bool>,
}

/// The query string of a merge. `on` may be repeated, which no derived reader takes.
#[derive(Debug, Default)]
pub(in crate::http) struct MergeQuery {
    pub(in crate::http) branch: Option<String>,
    pub(in crate::http) merge: Merge,
    pub(in crate::http) timeout: Option<Duration>,
}

impl MergeQuery {
    /// # Errors
    /// `InvalidInput` that names the parameter which is wrong.
    pub(in crate::http) fn read(pairs: Vec<(String, String)>) -> Result<Self> {
        let mut query = Self::default();
        query.merge.use_index = true;
        let (mut update, mut update_if, mut insert) = (None, None, false);
        let (mut delete, mut delete_if) = (None, None);
        for (name, value) in pairs {
            match name.as_str() {
                "branch" => query.branch = Some(value),
                "on" if value.is_empty() => {}
                "on" => query.merge.on.push(value),
                "when_matched_update_all" => update = Some(is_true(&name, &value)?),
                "when_matched_update_all_filt" => update_if = text(value),
                "when_not_matched_insert_all" => insert = is_true(&name, &value)?,
                "when_not_matched_by_source_delete" => delete = Some(is_true(&name, &value)?),
                "when_not_matched_by_source_delete_filt" => delete_if = text(value),
                "timeout" => query.timeout = text(value).as_deref().map(duration).transpose()?,
                "use_index" => query.merge.use_index = is_true(&name, &value)?,
                _ => {}
            }
        }
        // A filter alone says that there is something to do; a client that sends every flag sends
        // the filter beside a flag that is false.
        query.merge.matched = match (update, update_if) {
            (Some(false), _) | (None, None) => Matched::Keep,
            (_, Some(expression)) => Matched::UpdateIf(expression),
            (Some(true), None) => Matched::Update,
        };
        query.merge.not_matched = if insert { NotMatched::Insert } else { NotMatched::Skip };
        query.merge.not_matched_by_source = match (delete, delete_if) {
            (Some(false), _) | (None, None) => NotMatchedBySource::Keep,
            (_, Some(expression)) => NotMatchedBySource::DeleteIf(expression),
            (Some(true), None) => NotMatchedBySource::Delete,
        };
        query.check()
    }

    fn check(self) -> Result<Self> {
        let mut keys = self.merge.on.clone();
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Err(Error::invalid_input("on must name the column that rows are matched by"));
        }
        if keys.len() < self.merge.on.len() {
            return Err(Error::invalid_input("on names a column twice"));
        }
        let does_nothing = self.merge.matched == Matched::Keep
            && self.merge.not_matched == NotMatched::Skip
            && self.merge.not_matched_by_source == NotMatchedBySource::Keep;
        if does_nothing {
            return Err(Error::invalid_input(
                "the merge would change nothing: set one of when_matched_update_all, \
                 when_not_matched_insert_all and when_not_matched_by_source_delete",
            ));
        }
        Ok(self)
    }
}

fn text(value: String) -> Option<String> {
    (!value.trim().is_empty()).then_some(value)
}

fn is_true(name: &str, value: &str) -> Result<bool> {
    match value.to_lowercase().as_str() {
        "true" => Ok(true),
        "false" | "" => Ok(false),
        _ => Err(Error::invalid_input(format!("{name} must be true or false"))),
    }
}

fn duration(value: &str) -> Result<Duration> {
    let parsed = humantime::parse_duration(value.trim()).map_err(|_| {
        Error::invalid_input("timeout must be a number with a unit, such as 30s or 5m")
    })?;
    if parsed.is_zero() {
        return Err(Error::invalid_input("timeout must be more than nothing"));
    }
    Ok(parsed.min(MAX_TIMEOUT))
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct MergeInsertIntoTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    #[schema(minimum = 0)]
    num_updated_rows: u64,
    #[schema(minimum = 0)]
    num_inserted_rows: u64,
    #[schema(minimum = 0)]
    num_deleted_rows: u64,
    #[schema(minimum = 0)]
    version: u64,
}

/// Merge the rows in the body into the table: update what matches, insert what does not. The first
/// rows of a declared table make it.
#[utoipa::path(post, path = "/v1/table/{id}/merge_insert", operation_id = "MergeInsertIntoTable",
    tag = "Data", params(ObjectId, MergeInsertIntoTableQuery),
    request_body(content = ArrowBytes, content_type = "application/vnd.apache.arrow.stream"),
    responses((status = 200, body = MergeInsertIntoTableResponse), ApiError))]
pub async fn merge_insert_into_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<Vec<(String, String)>>,
    body: ArrowBody,
) -> ApiResult<Reply<MergeInsertIntoTableResponse>> {
    let query = MergeQuery::read(query)?;
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let batches = body.into_batches().await?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        let MergeQuery { merge, timeout, .. } = query;
        state.engine.merge_rows(&table, &merge, batches, timeout, &caller).await
    })
    .await?;
    Ok(Reply(MergeInsertIntoTableResponse {
        context: None,
        transaction_id: made.transaction_id,
        num_updated_rows: made.value.updated,
        num_inserted_rows: made.value.inserted,
        num_deleted_rows: made.value.deleted,
        version: made.version,
    }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct UpdateTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    pub(in crate::http) branch: Option<String>,
    /// A SQL expression; all rows when absent.
    predicate: Option<String>,
    /// Pairs of a column and a SQL expression over the row as it is.
    updates: Vec<Vec<String>>,
    /// Added to the properties of the table.
    properties: Option<Properties>,
}

impl UpdateTableRequest {
    /// Whether there is a predicate that says nothing.
    pub(in crate::http) fn has_empty_predicate(&self) -> bool {
        self.predicate.as_ref().is_some_and(|predicate| predicate.trim().is_empty())
    }

    /// # Errors
    /// `InvalidInput` for what is no pair, and for none.
    pub(in crate::http) fn into_update(self) -> Result<RowUpdate> {
        let values = self.updates.into_iter().map(|pair| match <[String; 2]>::try_from(pair) {
            Ok([column, expression]) => Ok((column, expression)),
            Err(_) => Err(Error::invalid_input(
                "each of updates must be a pair: the column, and the expression of its new value",
            )),
        });
        let values: Vec<(String, String)> = values.collect::<Result<_>>()?;
        if values.is_empty() {
            return Err(Error::invalid_input("updates is empty: name what to change"));
        }
        Ok(RowUpdate { predicate: self.predicate.and_then(text), values })
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct UpdateTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    #[schema(minimum = 0)]
    updated_rows: u64,
    #[schema(minimum = 0)]
    version: u64,
    properties: Properties,
}

/// Update the rows that fit a predicate, all rows without one.
#[utoipa::path(post, path = "/v1/table/{id}/update", operation_id = "UpdateTable", tag = "Data",
    params(ObjectId), responses((status = 200, body = UpdateTableResponse), ApiError))]
pub async fn update_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<UpdateTableRequest>,
) -> ApiResult<Reply<UpdateTableResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let added = request.properties.clone().unwrap_or_default();
    let update = request.into_update()?;
    let (made, properties) = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        let made = state.engine.update_rows(&table, &update, &caller).await?;
        // The rows have changed: what fails from here on is no failure of the request.
        let properties = state.engine.add_properties(&table, added, &caller).await;
        let properties = properties.unwrap_or_else(|error| {
            tracing::error!(table.id = %table.id, %error, "could not add the properties");
            table.properties
        });
        Ok((made, properties))
    })
    .await?;
    Ok(Reply(UpdateTableResponse {
        context: None,
        transaction_id: made.transaction_id,
        updated_rows: made.value,
        version: made.version,
        properties,
    }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DeleteFromTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    pub(in crate::http) branch: Option<String>,
    /// A SQL expression; `true` is every row.
    predicate: String,
}

impl DeleteFromTableRequest {
    /// # Errors
    /// `InvalidInput` for an empty one: nobody means every row by saying nothing.
    pub(in crate::http) fn into_predicate(self) -> Result<String> {
        text(self.predicate)
            .ok_or_else(|| Error::invalid_input("predicate is empty; `true` deletes every row"))
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DeleteFromTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    #[schema(minimum = 0)]
    version: u64,
}

/// Delete the rows that fit a predicate.
#[utoipa::path(post, path = "/v1/table/{id}/delete", operation_id = "DeleteFromTable", tag = "Data",
    params(ObjectId), responses((status = 200, body = DeleteFromTableResponse), ApiError))]
pub async fn delete_from_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<DeleteFromTableRequest>,
) -> ApiResult<Reply<DeleteFromTableResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let branch = request.branch.clone();
    let predicate = request.into_predicate()?;
    let table = get_table_on(&state, &id, branch.as_deref()).await?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.delete_rows(&table, &predicate, &caller).await
    })
    .await?;
    Ok(Reply(DeleteFromTableResponse {
        context: None,
        transaction_id: made.transaction_id,
        version: made.version,
    }))
}
