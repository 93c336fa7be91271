//! Versions of a table.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::data::finish_even_if_the_client_leaves;
use super::namespaces::PageQuery;
use super::tables::{get_table, get_table_on};
use crate::catalog::versions::Order;
use crate::commit;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, Query, TablePath, one_of};
use crate::http::openapi::{Context, Envelope, objects};
use crate::lake::Claim;
use crate::model::{self, Branch, Caller, NamingScheme, Page, PageScope, Properties, Table};

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
    /// What clients keep with the version, and what the server knows: `origin` is `catalog` for a
    /// version committed here and `foreign` for an adopted one; `operation`, `transaction_id` and
    /// `committed_by` are there for the former.
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
        let mut metadata = version.properties;
        // A name that the server gives is never the client's.
        for (key, value) in known {
            metadata.remove(key);
            metadata.extend(value.map(|value| (key.to_owned(), value)));
        }
        Self {
            version: version.manifest.version,
            manifest_path: version.manifest.path,
            manifest_size: version.manifest.size_bytes,
            e_tag: version.manifest.e_tag,
            timestamp_millis: version.committed_at_us / 1_000,
            metadata,
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
    TablePath(id, _): TablePath,
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

/// The manifest of a version that a client staged.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateTableVersionRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The one after the newest. A branch begins with the version that it starts from.
    #[schema(minimum = 0)]
    version: i64,
    /// The main branch when absent.
    branch: Option<String>,
    /// Where the manifest is staged: a file in the table's `_versions` folder, relative to the root
    /// of the object store.
    manifest_path: String,
    #[schema(minimum = 0)]
    manifest_size: Option<i64>,
    #[allow(dead_code, reason = "the file is read, which tells more")]
    e_tag: Option<String>,
    /// Kept with the version.
    metadata: Option<Properties>,
    /// `V1` or `V2` (default); of a table that has versions already, theirs.
    naming_scheme: Option<String>,
}

/// Which branch of which table a body is about.
pub(super) struct Addressed {
    pub(super) id: Option<Vec<String>>,
    pub(super) branch: Option<String>,
}

impl CreateTableVersionRequest {
    /// What it is about, what is claimed, and what is kept.
    pub(super) fn into_parts(self) -> Result<(Addressed, Claim, Properties)> {
        let schemes = [("V1", NamingScheme::V1), ("V2", NamingScheme::V2)];
        let scheme =
            one_of("naming_scheme", self.naming_scheme.as_deref(), &schemes, NamingScheme::V2)?;
        let claim = Claim {
            version: number("version", self.version)?,
            path: self.manifest_path,
            size_bytes: self.manifest_size.map(|size| number("manifest_size", size)).transpose()?,
            naming_scheme: Some(scheme),
        };
        let about = Addressed { id: self.envelope.id, branch: self.branch };
        Ok((about, claim, self.metadata.unwrap_or_default()))
    }
}

fn number(name: &str, given: i64) -> Result<u64> {
    u64::try_from(given).map_err(|_| Error::invalid_input(format!("{name} must not be negative")))
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CreateTableVersionResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    version: TableVersion,
}

impl CreateTableVersionResponse {
    pub(super) fn of(version: model::TableVersion) -> Self {
        Self {
            context: None,
            transaction_id: version.transaction_id.clone(),
            version: version.into(),
        }
    }
}

/// Create a version of a manifest that the caller staged, if it is the one after the newest.
#[utoipa::path(post, path = "/v1/table/{id}/version/create", operation_id = "CreateTableVersion",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = CreateTableVersionResponse), ApiError))]
pub async fn create_table_version(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<CreateTableVersionRequest>,
) -> ApiResult<Reply<CreateTableVersionResponse>> {
    let (about, claim, metadata) = request.into_parts()?;
    let id = path.matching(about.id.as_deref())?;
    // A client makes a branch by creating its first version.
    let branch = Branch::parse(about.branch.as_deref())?;
    let table = Table { branch, ..get_table(&state, &id).await? };
    let version = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.create_version(&table, &claim, metadata, &caller).await
    })
    .await?;
    Ok(Reply(CreateTableVersionResponse::of(version)))
}

/// Versions from `start_version` up to and without `end_version`.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
pub struct VersionRange {
    #[schema(minimum = 0)]
    start_version: i64,
    /// -1 is after the newest.
    #[schema(minimum = -1)]
    end_version: i64,
}

impl VersionRange {
    fn into_range(self) -> Result<commit::VersionRange> {
        let start = number("start_version", self.start_version)?;
        let end = match self.end_version {
            -1 => None,
            end => Some(number("end_version", end)?),
        };
        if end.is_some_and(|end| end < start) {
            return Err(Error::invalid_input("a range ends before it starts"));
        }
        Ok(commit::VersionRange { start, end })
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct BatchDeleteTableVersionsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
    #[serde(deserialize_with = "objects")]
    ranges: Vec<VersionRange>,
}

impl BatchDeleteTableVersionsRequest {
    /// What it is about, and what to delete.
    pub(super) fn into_parts(self) -> Result<(Addressed, Vec<commit::VersionRange>)> {
        let ranges = self.ranges.into_iter().map(VersionRange::into_range);
        let about = Addressed { id: self.envelope.id, branch: self.branch };
        Ok((about, ranges.collect::<Result<_>>()?))
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BatchDeleteTableVersionsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[schema(minimum = 0)]
    deleted_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
}

impl BatchDeleteTableVersionsResponse {
    pub(super) fn of(deleted_count: u64) -> Self {
        Self { context: None, deleted_count, transaction_id: None }
    }
}

/// Delete versions, not their data. What a tag or a branch refers to stays; the newest goes only
/// with all others.
#[utoipa::path(post, path = "/v1/table/{id}/version/delete",
    operation_id = "BatchDeleteTableVersions", tag = "Table", params(ObjectId),
    responses((status = 200, body = BatchDeleteTableVersionsResponse), ApiError))]
pub async fn batch_delete_table_versions(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<BatchDeleteTableVersionsRequest>,
) -> ApiResult<Reply<BatchDeleteTableVersionsResponse>> {
    let (about, ranges) = request.into_parts()?;
    let id = path.matching(about.id.as_deref())?;
    let table = get_table_on(&state, &id, about.branch.as_deref()).await?;
    let deleted = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.delete_versions(&table, &ranges, &caller).await
    })
    .await?;
    Ok(Reply(BatchDeleteTableVersionsResponse::of(deleted)))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct RestoreTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The version whose state becomes the newest again.
    #[schema(minimum = 0)]
    version: i64,
    /// The main branch when absent.
    pub(in crate::http) branch: Option<String>,
}

impl RestoreTableRequest {
    /// # Errors
    /// `InvalidInput` for a negative one.
    pub(in crate::http) fn version(&self) -> Result<u64> {
        number("version", self.version)
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RestoreTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    /// The version that was made; the spec's document does not have it.
    #[schema(minimum = 0)]
    version: u64,
}

/// Restore a table to an older version, as a new one.
#[utoipa::path(post, path = "/v1/table/{id}/restore", operation_id = "RestoreTable", tag = "Table",
    params(ObjectId), responses((status = 200, body = RestoreTableResponse), ApiError))]
pub async fn restore_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<RestoreTableRequest>,
) -> ApiResult<Reply<RestoreTableResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let version = request.version()?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let made = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.restore_version(&table, version, &caller).await
    })
    .await?;
    let (transaction_id, version) = (made.transaction_id, made.version);
    Ok(Reply(RestoreTableResponse { context: None, transaction_id, version }))
}
