//! Rows in, as one Arrow IPC stream.

use axum::Json as Reply;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use utoipa::{IntoParams, ToSchema};

use super::tables::{get_table_on, may_place};
use crate::commit::{CreateMode, InsertMode, NewLocation, NewTable};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::arrow::ArrowBody;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{ObjectId, Query, TablePath, one_of};
use crate::http::openapi::{ArrowBytes, Context};
use crate::model::{Caller, Properties};

/// Where the prose of the spec puts what its document has as query parameters; both are taken.
const LOCATION_HEADER: &str = "x-lance-table-location";
const PROPERTIES_HEADER: &str = "x-lance-table-properties";

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CreateTableQuery {
    /// `Create` (default), `ExistOk` or `Overwrite`.
    mode: Option<String>,
    /// A JSON object of strings.
    properties: Option<String>,
    /// Where the table is to stand; a folder of its own when absent.
    location: Option<String>,
    /// Not served yet: the server's own options hold.
    storage_options: Option<String>,
}

impl CreateTableQuery {
    fn properties(&self, headers: &HeaderMap) -> Result<Properties> {
        let text = match &self.properties {
            Some(text) => Some(text.as_str()),
            None => header(headers, PROPERTIES_HEADER)?,
        };
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(Properties::new());
        };
        json_object("properties", text)
    }

    fn refuse_storage_options(&self) -> Result<()> {
        let Some(text) = self.storage_options.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(());
        };
        if json_object("storage_options", text)?.is_empty() {
            return Ok(());
        }
        Err(Error::Unsupported(
            "storage_options of a request are not served yet; the server's own hold".into(),
        ))
    }
}

/// A map that the spec passes as one JSON text; `null` is an empty one.
fn json_object(name: &str, text: &str) -> Result<Properties> {
    let parsed: Option<Properties> = serde_json::from_str(text).map_err(|error| {
        Error::invalid_input(format!("{name} is not a JSON object of strings: {error}"))
    })?;
    Ok(parsed.unwrap_or_default())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>> {
    let value = headers.get(name).map(|value| value.to_str());
    value.transpose().map_err(|_| Error::invalid_input(format!("the header {name} is not text")))
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CreateTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    location: String,
    #[schema(minimum = 0)]
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_options: Option<Properties>,
    properties: Properties,
}

/// Create a table of the rows in the body. A stream without batches makes an empty table.
#[utoipa::path(post, path = "/v1/table/{id}/create", operation_id = "CreateTable", tag = "Data",
    params(ObjectId, CreateTableQuery,
        ("x-lance-table-location" = Option<String>, Header, description = "As `location`"),
        ("x-lance-table-properties" = Option<String>, Header, description = "As `properties`")),
    request_body(content = ArrowBytes, content_type = "application/vnd.apache.arrow.stream"),
    responses((status = 200, body = CreateTableResponse), ApiError))]
pub async fn create_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, database): TablePath,
    Query(query): Query<CreateTableQuery>,
    headers: HeaderMap,
    body: ArrowBody,
) -> ApiResult<Reply<CreateTableResponse>> {
    let modes = [
        ("Create", CreateMode::Create),
        ("ExistOk", CreateMode::ExistOk),
        ("Overwrite", CreateMode::Overwrite),
    ];
    let mode = one_of("mode", query.mode.as_deref(), &modes, CreateMode::Create)?;
    query.refuse_storage_options()?;
    let properties = query.properties(&headers)?;
    let location = match query.location {
        Some(location) => Some(location),
        None => header(&headers, LOCATION_HEADER)?.map(str::to_owned),
    };
    may_place(&state, &caller, &id, location.as_deref()).await?;
    let batches = body.into_batches().await?;
    let created = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        let location = location.as_deref().map_or(NewLocation::Own, NewLocation::At);
        let home = state.home_in(&caller, &database, &id).await?;
        let new = NewTable { id: &id, mode, location, properties, home };
        state.engine.create_table(new, batches, &caller).await
    })
    .await?;
    Ok(Reply(CreateTableResponse {
        transaction_id: created.transaction_id,
        location: created.table.location,
        version: created.version,
        properties: created.table.properties,
        ..Default::default()
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InsertIntoTableQuery {
    /// `Append` (default) or `Overwrite`.
    mode: Option<String>,
    /// The main branch when absent.
    branch: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct InsertIntoTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    #[schema(minimum = 0)]
    num_inserted_rows: u64,
    #[schema(minimum = 0)]
    version: u64,
}

/// Insert the rows in the body. The first rows of a declared table make its schema.
#[utoipa::path(post, path = "/v1/table/{id}/insert", operation_id = "InsertIntoTable", tag = "Data",
    params(ObjectId, InsertIntoTableQuery),
    request_body(content = ArrowBytes, content_type = "application/vnd.apache.arrow.stream"),
    responses((status = 200, body = InsertIntoTableResponse), ApiError))]
pub async fn insert_into_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<InsertIntoTableQuery>,
    body: ArrowBody,
) -> ApiResult<Reply<InsertIntoTableResponse>> {
    let modes = [("Append", InsertMode::Append), ("Overwrite", InsertMode::Overwrite)];
    let mode = one_of("mode", query.mode.as_deref(), &modes, InsertMode::Append)?;
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let batches = body.into_batches().await?;
    let inserted = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.insert_rows(&table, mode, batches, &caller).await
    })
    .await?;
    Ok(Reply(InsertIntoTableResponse {
        context: None,
        transaction_id: Some(inserted.transaction_id),
        num_inserted_rows: inserted.num_rows,
        version: inserted.version,
    }))
}

/// Runs work as a task of its own. A handler stops in the middle when its client hangs up; what
/// writes has to come to its end, to a version or to nothing left behind, and the server waits for
/// it when it stops.
pub(in crate::http) async fn finish_even_if_the_client_leaves<T: Send + 'static>(
    work_in_progress: &TaskTracker,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match work_in_progress.spawn(work.in_current_span()).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("a task failed", error)),
    }
}
