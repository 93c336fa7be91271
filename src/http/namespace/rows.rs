//! Rows out.

use std::collections::BTreeMap;

use axum::Json as Reply;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::tables::get_table_on;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::arrow::{Framing, respond};
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, TablePath};
use crate::http::openapi::{ArrowBytes, Envelope};
use crate::lake::{Query, Selection, Vectors};
use crate::model::Caller;

/// How many nearest rows are answered when the caller does not say.
const DEFAULT_K: u64 = 10;

/// One query vector, or several.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct QueryVector {
    single_vector: Option<Vec<f32>>,
    multi_vector: Option<Vec<Vec<f32>>>,
}

/// Which columns to answer; one of the two.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct QueryColumns {
    column_names: Option<Vec<String>>,
    /// From the name in the answer to the column in the table.
    column_aliases: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct QueryTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
    bypass_vector_index: Option<bool>,
    columns: Option<QueryColumns>,
    /// `l2` (default), `cosine`, `dot` or `hamming`.
    distance_type: Option<String>,
    #[schema(minimum = 0)]
    ef: Option<usize>,
    fast_search: Option<bool>,
    /// A SQL expression.
    filter: Option<String>,
    /// Not served yet.
    #[schema(value_type = Option<Object>)]
    full_text_query: Option<serde_json::Value>,
    /// How many rows to answer: the nearest, or without a vector the first; 10 when absent in a
    /// vector search, else all.
    #[schema(minimum = 0)]
    k: Option<u64>,
    lower_bound: Option<f32>,
    upper_bound: Option<f32>,
    #[schema(minimum = 0)]
    nprobes: Option<usize>,
    #[schema(minimum = 0)]
    minimum_nprobes: Option<usize>,
    #[schema(minimum = 0)]
    maximum_nprobes: Option<usize>,
    #[schema(minimum = 0)]
    offset: Option<u64>,
    /// Whether the filter applies before the vector search.
    prefilter: Option<bool>,
    #[schema(minimum = 0)]
    refine_factor: Option<u32>,
    vector: Option<QueryVector>,
    /// The column to search; the only vector column when absent.
    vector_column: Option<String>,
    /// The version to query; the newest when absent.
    #[schema(minimum = 0)]
    version: Option<u64>,
    /// Whether the answer has a column `_rowid`.
    with_row_id: Option<bool>,
}

impl QueryTableRequest {
    fn into_query(self) -> Result<Query> {
        if self.full_text_query.is_some_and(|query| !query.is_null()) {
            return Err(Error::Unsupported("full text search is not served yet".into()));
        }
        if self.k == Some(0) {
            return Err(Error::invalid_input("k must be at least 1"));
        }
        let selection = match self.columns {
            None => Selection::All,
            Some(QueryColumns { column_names: Some(_), column_aliases: Some(_) }) => {
                return Err(Error::invalid_input("give column_names or column_aliases, not both"));
            }
            Some(QueryColumns { column_names: Some(names), .. }) => Selection::Columns(names),
            Some(QueryColumns { column_aliases: Some(aliases), .. }) => Selection::Aliases(aliases),
            Some(_) => Selection::All,
        };
        let queries = match self.vector {
            Some(QueryVector { single_vector: Some(_), multi_vector: Some(_) }) => {
                return Err(Error::invalid_input("give single_vector or multi_vector, not both"));
            }
            Some(QueryVector { single_vector: Some(vector), .. }) => vec![vector],
            Some(QueryVector { multi_vector: Some(vectors), .. }) => vectors,
            _ => Vec::new(),
        };
        let searches = queries.iter().any(|query| !query.is_empty());
        let k = self.k.unwrap_or(DEFAULT_K);
        // Several queries answer k rows each, so that a limit of k would cut the others off.
        let limit = if !searches { self.k } else { (queries.len() == 1).then_some(k) };
        let vectors = searches.then(|| Vectors {
            queries,
            column: self.vector_column,
            k: usize::try_from(k).unwrap_or(usize::MAX),
            distance_type: self.distance_type,
            lower_bound: self.lower_bound,
            upper_bound: self.upper_bound,
            nprobes: self.nprobes,
            minimum_nprobes: self.minimum_nprobes,
            maximum_nprobes: self.maximum_nprobes,
            refine_factor: self.refine_factor,
            ef: self.ef,
            bypass_index: self.bypass_vector_index == Some(true),
        });
        Ok(Query {
            selection,
            filter: self.filter.filter(|filter| !filter.trim().is_empty()),
            prefilter: self.prefilter == Some(true),
            limit,
            offset: self.offset,
            with_row_id: self.with_row_id == Some(true),
            fast_search: self.fast_search == Some(true),
            vectors,
            ..Query::default()
        })
    }
}

/// Query the rows of a table: filter, columns, limit, offset, nearest vectors.
#[utoipa::path(post, path = "/v1/table/{id}/query", operation_id = "QueryTable", tag = "Data",
    params(ObjectId),
    responses(
        (status = 200, body = ArrowBytes, content_type = "application/vnd.apache.arrow.file"),
        ApiError))]
pub async fn query_table(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<QueryTableRequest>,
) -> ApiResult<Response> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let version = request.version;
    let query = request.into_query()?;
    let snapshot = state.engine.open(&table, version).await?;
    respond(snapshot.query(&query).await?, Framing::File).await
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct CountTableRowsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The version to count; the newest when absent.
    #[schema(minimum = 0)]
    version: Option<u64>,
    /// The main branch when absent.
    branch: Option<String>,
    /// A SQL expression; all rows when absent.
    predicate: Option<String>,
}

/// Count the rows of a table.
#[utoipa::path(post, path = "/v1/table/{id}/count_rows", operation_id = "CountTableRows",
    tag = "Data", params(ObjectId),
    responses((status = 200, body = u64, content_type = "application/json"), ApiError))]
pub async fn count_table_rows(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<CountTableRowsRequest>,
) -> ApiResult<Reply<u64>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let snapshot = state.engine.open(&table, request.version).await?;
    let predicate = request.predicate.as_deref().filter(|text| !text.trim().is_empty());
    Ok(Reply(snapshot.count_rows(predicate).await?))
}
