//! Indexes of a table.

use axum::Json as Reply;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::every;
use super::tables::OnBranch;
use crate::http::AppState;
use crate::http::error::ApiResult;
use crate::http::extract::{Json, Query, TablePath, parse_value};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::indexes::{
    CreateTableIndexRequest, DescribeTableIndexStatsResponse, IndexContent, IndexPath,
};
use crate::http::namespace::tables::get_table_on;
use crate::lake::{Existing, Index};
use crate::model::Caller;

/// The kinds of index that these clients know; any other word makes a listing fail.
const KNOWN: [&str; 17] = [
    "IVF_FLAT",
    "IVF_PQ",
    "IVF_SQ",
    "IVF_RQ",
    "IVF_HNSW_FLAT",
    "IVF_HNSW_PQ",
    "IVF_HNSW_SQ",
    "BTREE",
    "BITMAP",
    "LABEL_LIST",
    "FTS",
    "FM",
    "ZONEMAP",
    "NGRAM",
    "BLOOM_FILTER",
    "RTREE",
    "Unknown",
];

/// A limit of tokens that is as good as none, in bytes.
const LONGEST_TOKEN: u64 = 1 << 20;

/// The index, with its kind in words that these clients know, and every number that they need.
fn in_known_words(mut index: Index) -> Index {
    if !KNOWN.contains(&index.kind.as_str()) {
        index.kind = "Unknown".into();
    }
    index.num_indexed_rows.get_or_insert(0);
    index.num_unindexed_rows.get_or_insert(0);
    index
}

#[derive(Serialize)]
pub(in crate::http) struct CreateIndexResponse {
    job_id: String,
    transaction_id: String,
}

/// Begins to build an index, in the place of one of its name if there is one.
pub(in crate::http) async fn create_index(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Json(mut body): Json<Map<String, Value>>,
) -> ApiResult<Reply<CreateIndexResponse>> {
    // These clients mean no limit by null, where the spec's leave it to the server.
    if body.get("max_token_length") == Some(&Value::Null) {
        body.insert("max_token_length".into(), LONGEST_TOKEN.into());
    }
    let request: CreateTableIndexRequest = parse_value(Value::Object(body))?;
    let branch = request.branch.clone();
    let index = request.into_index(Existing::Replace)?;
    let table = get_table_on(&state, &id, branch.as_deref()).await?;
    let job = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.create_index(&table, &index, &caller).await
    })
    .await?
    .to_string();
    Ok(Reply(CreateIndexResponse { transaction_id: job.clone(), job_id: job }))
}

#[derive(Deserialize)]
pub(in crate::http) struct OfVersion {
    version: Option<u64>,
    branch: Option<String>,
}

#[derive(Serialize)]
pub(in crate::http) struct ListIndexesResponse {
    indexes: Vec<IndexContent>,
}

/// Lists the indexes of a version by name.
pub(in crate::http) async fn list_indexes(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<OfVersion>,
) -> ApiResult<Reply<ListIndexesResponse>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let list = async |page| state.engine.list_indexes(&table, request.version, &page).await;
    let indexes = every("indexes", list).await?;
    let indexes = indexes.into_iter().map(in_known_words).map(IndexContent::from).collect();
    Ok(Reply(ListIndexesResponse { indexes }))
}

/// Describes how much of a table an index covers.
pub(in crate::http) async fn describe_index_stats(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Path(index): Path<IndexPath>,
    Json(request): Json<OfVersion>,
) -> ApiResult<Reply<DescribeTableIndexStatsResponse>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let found = state.engine.find_index(&table, request.version, &index.index_name).await?;
    Ok(Reply(in_known_words(found).into()))
}

/// Reads an index into memory, so that the next search finds it there.
pub(in crate::http) async fn prewarm_index(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Path(index): Path<IndexPath>,
) -> ApiResult<()> {
    let table = get_table_on(&state, &id, None).await?;
    state.engine.prewarm_index(&table, &index.index_name).await?;
    Ok(())
}

/// Drops an index.
pub(in crate::http) async fn drop_index(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Path(index): Path<IndexPath>,
    Query(query): Query<OnBranch>,
) -> ApiResult<()> {
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.drop_index(&table, &index.index_name, &caller).await
    })
    .await?;
    Ok(())
}
