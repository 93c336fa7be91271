//! Versions of a table.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::namespaces::PageQuery;
use super::tables::get_table_on;
use crate::catalog::versions::Order;
use crate::error::Error;
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, Query, TablePath};
use crate::http::openapi::{Context, Envelope};
use crate::model::{self, Caller, Page, PageScope, Properties};

/// One version: where its manifest is, and what is known of how it came to be.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableVersion {
    #[schema(minimum = 0)]
    version: u64,
    /// Relative to the root of the object store.
    manifest_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    manifest_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e_tag: Option<String>,
    timestamp_millis: i64,
    /// `origin` is `catalog` for a version committed here and `foreign` for an adopted one;
    /// `operation`, `transaction_id` and `committed_by` are there for the former.
    metadata: Properties,
}

impl From<model::TableVersion> for TableVersion {
    fn from(version: model::TableVersion) -> Self {
        let known = [
            ("origin", Some(version.origin.as_str().to_owned())),
            ("operation", version.operation),
            ("transaction_id", version.transaction_id),
            ("committed_by", version.committed_by),
        ];
        Self {
            version: version.manifest.version,
            manifest_path: version.manifest.path,
            manifest_size: version.manifest.size_bytes,
            e_tag: version.manifest.e_tag,
            timestamp_millis: version.committed_at_us / 1_000,
            metadata: known
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?)))
                .collect(),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListTableVersionsQuery {
    /// The main branch when absent.
    branch: Option<String>,
    /// Whether the newest comes first; the oldest does when absent.
    descending: Option<bool>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ListTableVersionsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    versions: Vec<TableVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// List the versions of a table, those that others committed included.
#[utoipa::path(post, path = "/v1/table/{id}/version/list", operation_id = "ListTableVersions",
    tag = "Table", params(ObjectId, PageQuery, ListTableVersionsQuery),
    responses((status = 200, body = ListTableVersionsResponse), ApiError))]
pub async fn list_table_versions(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id): TablePath,
    Query(query): Query<PageQuery>,
    Query(options): Query<ListTableVersionsQuery>,
) -> ApiResult<Reply<ListTableVersionsResponse>> {
    let table = get_table_on(&state, &id, options.branch.as_deref()).await?;
    let (order, word) = match options.descending {
        Some(true) => (Order::NewestFirst, "descending"),
        _ => (Order::OldestFirst, "ascending"),
    };
    let scope = PageScope::new("versions", &format!("{} {} {word}", table.key, table.branch));
    let page = Page::new(scope, query.limit, query.page_token.as_deref())?;
    let (versions, page_token) = state.engine.list_versions(&table, order, &page).await?;
    let versions = versions.into_iter().map(TableVersion::from).collect();
    Ok(Reply(ListTableVersionsResponse { versions, page_token, ..Default::default() }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DescribeTableVersionRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The version to describe; the newest when absent.
    #[schema(minimum = 0)]
    version: Option<u64>,
    /// The main branch when absent.
    branch: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DescribeTableVersionResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    version: TableVersion,
}

/// Describe one version of a table.
#[utoipa::path(post, path = "/v1/table/{id}/version/describe",
    operation_id = "DescribeTableVersion", tag = "Table", params(ObjectId),
    responses((status = 200, body = DescribeTableVersionResponse), ApiError))]
pub async fn describe_table_version(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<DescribeTableVersionRequest>,
) -> ApiResult<Reply<DescribeTableVersionResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let found = match request.version {
        Some(version) => state.engine.describe_version(&table, version).await?,
        None => state
            .engine
            .latest(&table)
            .await?
            .ok_or_else(|| Error::TableVersionNotFound { table: id, version: 0 })?,
    };
    Ok(Reply(DescribeTableVersionResponse { context: None, version: found.into() }))
}
