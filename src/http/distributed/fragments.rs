//! Fragments out, for workers that compute on them.

use axum::Json as Reply;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::uploads::FragmentSegment;
use crate::error::Error;
use crate::http::AppState;
use crate::http::arrow::{Framing, respond};
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{ObjectId, Query, TablePath};
use crate::http::namespace::tables::{get_table_on, to_wire};
use crate::http::openapi::{ArrowBytes, FragmentMetadata, JsonArrowSchema};
use crate::lake::{self, Selection, Snapshot};
use crate::model::Caller;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListFragmentsQuery {
    /// The version whose fragments to list; the newest when absent.
    version: Option<u64>,
    /// The main branch when absent.
    branch: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ListFragmentsResponse {
    version: u64,
    schema: JsonArrowSchema,
    fragments: Vec<FragmentMetadata>,
}

/// List the fragments of a version.
#[utoipa::path(get, path = "/v1/table/{id}/fragments", operation_id = "ListFragments",
    tag = "Distributed write", params(ObjectId, ListFragmentsQuery),
    responses((status = 200, body = ListFragmentsResponse), ApiError))]
pub async fn list_fragments(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<ListFragmentsQuery>,
) -> ApiResult<Reply<ListFragmentsResponse>> {
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let snapshot = state.engine.open(&table, query.version).await?;
    Ok(Reply(ListFragmentsResponse {
        version: snapshot.version(),
        schema: to_wire(&snapshot.arrow_schema())?,
        fragments: snapshot.fragments()?.into_iter().map(FragmentMetadata).collect(),
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReadFragmentQuery {
    /// Column names with commas between; `_rowid` and `_rowaddr` on request. All when absent.
    columns: Option<String>,
    /// The version to read; the newest when absent.
    version: Option<u64>,
    /// A SQL expression.
    filter: Option<String>,
    /// The most rows of one batch.
    batch_size: Option<usize>,
    /// The main branch when absent.
    branch: Option<String>,
}

impl ReadFragmentQuery {
    fn into_query(self) -> Result<lake::Query, Error> {
        if self.batch_size == Some(0) {
            return Err(Error::invalid_input("batch_size must be at least 1"));
        }
        let selection = match self.columns.as_deref() {
            None | Some("") => Selection::All,
            Some(names) => Selection::Columns(names.split(',').map(str::to_owned).collect()),
        };
        let filter = self.filter.filter(|filter| !filter.trim().is_empty());
        Ok(lake::Query { selection, filter, batch_size: self.batch_size, ..Default::default() })
    }
}

/// Read the live rows of one fragment, in order.
#[utoipa::path(get, path = "/v1/table/{id}/fragments/{fragment_id}/rows",
    operation_id = "ReadFragment", tag = "Distributed write",
    params(ObjectId, ("fragment_id" = u64, Path, description = "The fragment's id"),
        ReadFragmentQuery),
    responses(
        (status = 200, body = ArrowBytes, content_type = "application/vnd.apache.arrow.stream"),
        ApiError))]
pub async fn read_fragment(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Path(segment): Path<FragmentSegment>,
    Query(query): Query<ReadFragmentQuery>,
) -> ApiResult<Response> {
    let fragment = segment.number()?;
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let version = query.version;
    let query = query.into_query()?;
    let read = async |snapshot: Snapshot| {
        respond(snapshot.read_fragment(fragment, &query).await?, Framing::Stream).await
    };
    Ok(state.engine.read(&table, version, read).await?)
}
