//! Indexes of a table.

use axum::Json as Reply;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::data::finish_even_if_the_client_leaves;
use super::namespaces::PageQuery;
use super::tables::get_table_on;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, Query, TablePath};
use crate::http::openapi::{Context, Envelope};
use crate::lake::{Existing, Index, IndexKind, NewIndex, TextOptions, VectorOptions};
use crate::model::{Caller, Page, PageScope};

/// What to build. An option that the kind of index has no use for is refused.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateTableIndexRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    pub(in crate::http) branch: Option<String>,
    /// A path of fields: `a.b`, with backticks around a name that has dots.
    #[schema(min_length = 1)]
    column: String,
    /// `IVF_FLAT`, `IVF_PQ`, `IVF_SQ`, `IVF_RQ`, `IVF_HNSW_FLAT`, `IVF_HNSW_PQ`, `IVF_HNSW_SQ`,
    /// `BTREE`, `BITMAP`, `LABEL_LIST`, `NGRAM`, `ZONEMAP`, `BLOOM_FILTER`, `FM`, `MINHASH_LSH` or
    /// `FTS` (`INVERTED`), in any case.
    #[schema(min_length = 1)]
    index_type: String,
    /// `<column>_idx` when absent.
    name: Option<String>,
    /// Whether the index may take the place of one of that name on the same column; not when
    /// absent. The spec's document does not have it.
    replace: Option<bool>,
    /// `l2` (default), `cosine`, `dot` or `hamming`.
    #[serde(alias = "metric_type")]
    distance_type: Option<String>,
    /// From the number of rows when absent; no more than the vectors there are can fill.
    #[schema(minimum = 1)]
    num_partitions: Option<i64>,
    /// From the dimension when absent, which it must divide.
    #[schema(minimum = 1)]
    num_sub_vectors: Option<i64>,
    /// 4 or 8 for PQ, 8 for SQ, 1 to 9 for RQ.
    #[schema(minimum = 1)]
    num_bits: Option<i64>,
    #[schema(minimum = 1)]
    sample_rate: Option<i64>,
    #[schema(minimum = 1)]
    max_iterations: Option<i64>,
    /// Instead of `num_partitions`.
    #[schema(minimum = 1)]
    target_partition_size: Option<i64>,
    /// Edges of each vector in an HNSW graph, at least 4.
    #[schema(minimum = 4)]
    m: Option<i64>,
    #[schema(minimum = 1)]
    ef_construction: Option<i64>,
    /// Whether positions are kept, which phrase queries need.
    with_position: Option<bool>,
    /// `simple` (default), `whitespace`, `raw`, `ngram`, `code`, `icu` or `icu/split`.
    base_tokenizer: Option<String>,
    /// For stemming and stop words: `English` when absent.
    language: Option<String>,
    /// Longer tokens are left out; 40 when absent.
    #[schema(minimum = 1)]
    max_token_length: Option<i64>,
    lower_case: Option<bool>,
    stem: Option<bool>,
    remove_stop_words: Option<bool>,
    ascii_folding: Option<bool>,
    /// Instead of those of the language. The spec's document does not have it, nor those below.
    custom_stop_words: Option<Vec<String>>,
    /// For the tokenizer `ngram`, 3 when absent.
    #[schema(minimum = 1)]
    min_ngram_length: Option<u32>,
    /// For the tokenizer `ngram`, 3 when absent, at most 32.
    #[schema(minimum = 1)]
    max_ngram_length: Option<u32>,
    /// For the tokenizer `ngram`: whether only the beginnings of words count.
    prefix_only: Option<bool>,
    /// How many documents are in one compressed block: 128 (default) or 256.
    #[schema(minimum = 128)]
    block_size: Option<usize>,
    /// For the tokenizer `code`: whether identifiers are also taken apart.
    split_identifiers: Option<bool>,
    split_on_numerics: Option<bool>,
    preserve_original: Option<bool>,
    /// For the tokenizer `code`: whether operators such as `::` are words.
    index_operators: Option<bool>,
    /// What a search finds: a `row` (default), or each `list_element` of it.
    document_granularity: Option<String>,
}

impl CreateTableIndexRequest {
    /// `existing` is what is meant when the request does not say.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown kind.
    pub(in crate::http) fn into_index(self, existing: Existing) -> Result<NewIndex> {
        let existing = match self.replace {
            Some(true) => Existing::Replace,
            Some(false) => Existing::Refuse,
            None => existing,
        };
        Ok(NewIndex {
            column: self.column,
            kind: IndexKind::parse(&self.index_type)?,
            name: self.name,
            existing,
            vector: VectorOptions {
                distance_type: self.distance_type,
                num_partitions: self.num_partitions,
                num_sub_vectors: self.num_sub_vectors,
                num_bits: self.num_bits,
                sample_rate: self.sample_rate,
                max_iterations: self.max_iterations,
                target_partition_size: self.target_partition_size,
                m: self.m,
                ef_construction: self.ef_construction,
            },
            text: TextOptions {
                with_position: self.with_position,
                base_tokenizer: self.base_tokenizer,
                language: self.language,
                max_token_length: self.max_token_length,
                lower_case: self.lower_case,
                stem: self.stem,
                remove_stop_words: self.remove_stop_words,
                ascii_folding: self.ascii_folding,
                custom_stop_words: self.custom_stop_words,
                min_ngram_length: self.min_ngram_length,
                max_ngram_length: self.max_ngram_length,
                prefix_only: self.prefix_only,
                block_size: self.block_size,
                split_identifiers: self.split_identifiers,
                split_on_numerics: self.split_on_numerics,
                preserve_original: self.preserve_original,
                index_operators: self.index_operators,
                document_granularity: self.document_granularity,
            },
        })
    }
}

/// `transaction_id` names the work, whose state DescribeTransaction tells: the index is there when
/// it has succeeded, which for a small table it has before the answer.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CreateTableIndexResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    transaction_id: Option<String>,
}

/// Create an index on a column.
#[utoipa::path(post, path = "/v1/table/{id}/create_index", operation_id = "CreateTableIndex",
    tag = "Index", params(ObjectId),
    responses((status = 200, body = CreateTableIndexResponse), ApiError))]
pub async fn create_table_index(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<CreateTableIndexRequest>,
) -> ApiResult<Reply<CreateTableIndexResponse>> {
    build(state, caller, path, request, |_| Ok(())).await
}

/// Create a scalar or full text index on a column.
#[utoipa::path(post, path = "/v1/table/{id}/create_scalar_index",
    operation_id = "CreateTableScalarIndex", tag = "Index", params(ObjectId),
    responses((status = 200, body = CreateTableIndexResponse), ApiError))]
pub async fn create_table_scalar_index(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<CreateTableIndexRequest>,
) -> ApiResult<Reply<CreateTableIndexResponse>> {
    build(state, caller, path, request, only_scalar).await
}

async fn build(
    state: AppState,
    caller: Caller,
    path: TablePath,
    request: CreateTableIndexRequest,
    check: fn(IndexKind) -> Result<()>,
) -> ApiResult<Reply<CreateTableIndexResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let branch = request.branch.clone();
    let index = request.into_index(Existing::Refuse)?;
    check(index.kind)?;
    let table = get_table_on(&state, &id, branch.as_deref()).await?;
    let job = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.create_index(&table, &index, &caller).await
    })
    .await?;
    Ok(Reply(CreateTableIndexResponse { context: None, transaction_id: Some(job.to_string()) }))
}

fn only_scalar(kind: IndexKind) -> Result<()> {
    if kind.is_vector() {
        return Err(Error::invalid_input(format!(
            "{} is a vector index: use CreateTableIndex",
            kind.as_str()
        )));
    }
    Ok(())
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct ListTableIndicesRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The version whose indexes to list; the newest when absent.
    #[schema(minimum = 0)]
    version: Option<u64>,
    /// The main branch when absent.
    branch: Option<String>,
    /// The token that the page before answered. The query string may hold it instead.
    page_token: Option<String>,
    /// The most entries to answer; 1 000 when absent, at most 10 000. The query string may hold it
    /// instead.
    limit: Option<i64>,
}

/// One index of a version.
#[derive(Debug, Serialize, ToSchema)]
pub struct IndexContent {
    index_name: String,
    /// The UUID of its first segment.
    index_uuid: String,
    /// Paths of fields.
    columns: Vec<String>,
    /// `SUCCEEDED`: an index is listed when it is there; DescribeTransaction tells of one that is
    /// being built.
    status: &'static str,
    /// `Unknown` for a kind that this server cannot read.
    index_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    type_url: Option<String>,
    /// Live rows that it covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    num_indexed_rows: Option<u64>,
    /// Live rows that came after it was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    num_unindexed_rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    size_bytes: Option<u64>,
    #[schema(minimum = 0)]
    num_segments: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_at: Option<String>,
    index_version: i32,
    /// JSON of the kind's own, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    index_details: Option<String>,
}

impl From<Index> for IndexContent {
    fn from(index: Index) -> Self {
        Self {
            index_name: index.name,
            index_uuid: index.uuid,
            columns: index.columns,
            status: "SUCCEEDED",
            index_type: index.kind,
            type_url: index.type_url,
            num_indexed_rows: index.num_indexed_rows,
            num_unindexed_rows: index.num_unindexed_rows,
            size_bytes: index.size_bytes,
            num_segments: index.num_segments,
            created_at: index.created_at,
            index_version: index.format_version,
            index_details: index.details,
        }
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ListTableIndicesResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    indexes: Vec<IndexContent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// List the indexes of a version by name.
#[utoipa::path(post, path = "/v1/table/{id}/index/list", operation_id = "ListTableIndices",
    tag = "Index", params(ObjectId),
    responses((status = 200, body = ListTableIndicesResponse), ApiError))]
pub async fn list_table_indices(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Query(query): Query<PageQuery>,
    Json(request): Json<ListTableIndicesRequest>,
) -> ApiResult<Reply<ListTableIndicesResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let scope = PageScope::new("indexes", &format!("{} {}", table.key, table.branch));
    let token = request.page_token.or(query.page_token);
    let page = Page::new(scope, request.limit.or(query.limit), token.as_deref())?;
    let (indexes, page_token) = state.engine.list_indexes(&table, request.version, &page).await?;
    let indexes = indexes.into_iter().map(IndexContent::from).collect();
    Ok(Reply(ListTableIndicesResponse { context: None, indexes, page_token }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct IndexPath {
    /// The index's name.
    pub(in crate::http) index_name: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DescribeTableIndexStatsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The version whose index to look at; the newest when absent.
    #[schema(minimum = 0)]
    version: Option<u64>,
    /// The main branch when absent.
    branch: Option<String>,
    /// When given it must be the one of the path.
    index_name: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DescribeTableIndexStatsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// For a vector index.
    #[serde(skip_serializing_if = "Option::is_none")]
    distance_type: Option<String>,
    index_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    num_indexed_rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    num_unindexed_rows: Option<u64>,
    /// How many segments it has.
    #[schema(minimum = 0)]
    num_indices: Option<usize>,
}

impl From<Index> for DescribeTableIndexStatsResponse {
    fn from(index: Index) -> Self {
        Self {
            context: None,
            distance_type: index.distance_type,
            index_type: Some(index.kind),
            num_indexed_rows: index.num_indexed_rows,
            num_unindexed_rows: index.num_unindexed_rows,
            num_indices: Some(index.num_segments),
        }
    }
}

/// Describe how much of a table an index covers.
#[utoipa::path(post, path = "/v1/table/{id}/index/{index_name}/stats",
    operation_id = "DescribeTableIndexStats", tag = "Index", params(ObjectId, IndexPath),
    responses((status = 200, body = DescribeTableIndexStatsResponse), ApiError))]
pub async fn describe_table_index_stats(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Path(index): Path<IndexPath>,
    Json(request): Json<DescribeTableIndexStatsRequest>,
) -> ApiResult<Reply<DescribeTableIndexStatsResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    if request.index_name.is_some_and(|name| name != index.index_name) {
        return Err(Error::invalid_input("index_name is not the one in the path").into());
    }
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let found = state.engine.find_index(&table, request.version, &index.index_name).await?;
    Ok(Reply(found.into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DropTableIndexQuery {
    /// The main branch when absent.
    branch: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DropTableIndexResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// Of the version without the index.
    transaction_id: Option<String>,
}

/// Drop an index; its files go when the versions that have it are cleaned up.
#[utoipa::path(post, path = "/v1/table/{id}/index/{index_name}/drop",
    operation_id = "DropTableIndex", tag = "Index",
    params(ObjectId, IndexPath, DropTableIndexQuery),
    responses((status = 200, body = DropTableIndexResponse), ApiError))]
pub async fn drop_table_index(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Path(index): Path<IndexPath>,
    Query(query): Query<DropTableIndexQuery>,
) -> ApiResult<Reply<DropTableIndexResponse>> {
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let transaction_id = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.drop_index(&table, &index.index_name, &caller).await
    })
    .await?;
    Ok(Reply(DropTableIndexResponse { context: None, transaction_id }))
}
