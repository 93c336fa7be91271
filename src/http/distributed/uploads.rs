//! Phase one: data in, as fragments that nobody sees yet.

use std::time::{Duration, UNIX_EPOCH};

use axum::Json as Reply;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::arrow::ArrowBody;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{ObjectId, Query, TablePath, one_of};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::namespaces::PageQuery;
use crate::http::namespace::tables::{get_table, get_table_on, to_wire};
use crate::http::openapi::{ArrowBytes, FragmentMetadata, JsonArrowSchema};
use crate::lake::{WriteMode, WriteOptions};
use crate::model::{Caller, Page, PageScope, Upload};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadFragmentsQuery {
    /// `append`, `create` or `overwrite`; `append` when the table has a version and `create` when
    /// it has none, if absent.
    mode: Option<String>,
    /// 1 048 576 when absent.
    max_rows_per_file: Option<usize>,
    max_bytes_per_file: Option<usize>,
    /// Lance's file version, such as `2.1` or `stable`.
    data_storage_version: Option<String>,
    /// For the first version of a table only.
    enable_stable_row_ids: Option<bool>,
    /// The main branch when absent.
    branch: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UploadFragmentsResponse {
    upload_id: Uuid,
    fragments: Vec<FragmentMetadata>,
    schema: JsonArrowSchema,
    num_rows: u64,
    num_bytes: u64,
    /// The version that the rows were checked against; 0 for a table without one.
    read_version: u64,
    /// When the upload is removed unless it is committed, in RFC 3339.
    expires_at: String,
}

/// Upload rows as fragments. Nothing is visible until they are committed.
#[utoipa::path(post, path = "/v1/table/{id}/fragments", operation_id = "UploadFragments",
    tag = "Distributed write", params(ObjectId, UploadFragmentsQuery),
    request_body(content = ArrowBytes, content_type = "application/vnd.apache.arrow.stream"),
    responses((status = 200, body = UploadFragmentsResponse), ApiError))]
pub async fn upload_fragments(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<UploadFragmentsQuery>,
    body: ArrowBody,
) -> ApiResult<Reply<UploadFragmentsResponse>> {
    let modes = [
        ("append", Some(WriteMode::Append)),
        ("create", Some(WriteMode::Create)),
        ("overwrite", Some(WriteMode::Overwrite)),
    ];
    let mode = one_of("mode", query.mode.as_deref(), &modes, None)?;
    let options = WriteOptions {
        max_rows_per_file: query.max_rows_per_file,
        max_bytes_per_file: query.max_bytes_per_file,
        data_storage_version: query.data_storage_version,
        enable_stable_row_ids: query.enable_stable_row_ids == Some(true),
    };
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let batches = body.into_batches().await?;
    let staged = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.upload_fragments(&table, mode, batches, &options, &caller).await
    })
    .await?;
    let upload = staged.upload;
    Ok(Reply(UploadFragmentsResponse {
        upload_id: upload.key,
        schema: to_wire(&staged.schema)?,
        num_rows: upload.staged.num_rows,
        num_bytes: upload.staged.num_bytes,
        read_version: upload.read_version,
        expires_at: rfc3339(upload.expires_at_us),
        fragments: upload.staged.fragments.into_iter().map(FragmentMetadata).collect(),
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadFragmentColumnsQuery {
    /// The version whose fragment gets the columns; the newest when absent.
    read_version: Option<u64>,
    /// The main branch when absent.
    branch: Option<String>,
}

#[derive(Deserialize)]
pub struct FragmentSegment {
    fragment_id: String,
}

impl FragmentSegment {
    /// # Errors
    /// `InvalidInput` for what is not a number.
    pub fn number(&self) -> Result<u64> {
        self.fragment_id
            .parse()
            .map_err(|_| Error::invalid_input("the fragment id must be a whole number"))
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UploadFragmentColumnsResponse {
    upload_id: Uuid,
    /// The fragment with its new data file.
    fragment: FragmentMetadata,
    /// The schema of the table once the columns are merged.
    schema: JsonArrowSchema,
    read_version: u64,
}

/// Upload new columns for one fragment: one row for each of its live rows, in order.
#[utoipa::path(post, path = "/v1/table/{id}/fragments/{fragment_id}/columns",
    operation_id = "UploadFragmentColumns", tag = "Distributed write",
    params(ObjectId, ("fragment_id" = u64, Path, description = "The fragment's id"),
        UploadFragmentColumnsQuery),
    request_body(content = ArrowBytes, content_type = "application/vnd.apache.arrow.stream"),
    responses((status = 200, body = UploadFragmentColumnsResponse), ApiError))]
pub async fn upload_fragment_columns(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Path(segment): Path<FragmentSegment>,
    Query(query): Query<UploadFragmentColumnsQuery>,
    body: ArrowBody,
) -> ApiResult<Reply<UploadFragmentColumnsResponse>> {
    let fragment = segment.number()?;
    let table = get_table_on(&state, &id, query.branch.as_deref()).await?;
    let batches = body.into_batches().await?;
    let staged = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.upload_columns(&table, fragment, query.read_version, batches, &caller).await
    })
    .await?;
    let upload = staged.upload;
    let fragment = upload.staged.fragments.into_iter().next().unwrap_or_default();
    Ok(Reply(UploadFragmentColumnsResponse {
        upload_id: upload.key,
        fragment: FragmentMetadata(fragment),
        schema: to_wire(&staged.schema)?,
        read_version: upload.read_version,
    }))
}

/// An upload that is not committed.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploadSummary {
    upload_id: Uuid,
    /// The branch that it is for.
    branch: String,
    /// `fragments` or `columns`.
    kind: String,
    /// `writing`, `staged`, `committing` or `removing`.
    state: String,
    num_rows: u64,
    num_bytes: u64,
    read_version: u64,
    created_by: String,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    expires_at: String,
}

impl From<Upload> for UploadSummary {
    fn from(upload: Upload) -> Self {
        Self {
            upload_id: upload.key,
            branch: upload.branch.to_string(),
            kind: upload.kind.as_str().into(),
            state: upload.state.as_str().into(),
            num_rows: upload.staged.num_rows,
            num_bytes: upload.staged.num_bytes,
            read_version: upload.read_version,
            created_by: upload.created_by,
            created_at: rfc3339(upload.created_at_us),
            expires_at: rfc3339(upload.expires_at_us),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ListUploadsResponse {
    uploads: Vec<UploadSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// List a table's uploads that are not committed, oldest first.
#[utoipa::path(get, path = "/v1/table/{id}/uploads", operation_id = "ListUploads",
    tag = "Distributed write", params(ObjectId, PageQuery),
    responses((status = 200, body = ListUploadsResponse), ApiError))]
pub async fn list_uploads(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<ListUploadsResponse>> {
    let table = get_table(&state, &id).await?;
    let scope = PageScope::new("uploads", &table.key.to_string());
    let page = Page::new(scope, query.limit, query.page_token.as_deref())?;
    let (uploads, page_token) = state.engine.list_uploads(&table, &page).await?;
    let uploads = uploads.into_iter().map(UploadSummary::from).collect();
    Ok(Reply(ListUploadsResponse { uploads, page_token }))
}

#[derive(Deserialize)]
pub struct UploadSegment {
    upload_id: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AbortUploadResponse {
    upload_id: Uuid,
}

/// Abort an upload: remove it and its files.
#[utoipa::path(delete, path = "/v1/table/{id}/uploads/{upload_id}", operation_id = "AbortUpload",
    tag = "Distributed write",
    params(ObjectId, ("upload_id" = Uuid, Path, description = "The upload's id")),
    responses((status = 200, body = AbortUploadResponse), ApiError))]
pub async fn abort_upload(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, _): TablePath,
    Path(segment): Path<UploadSegment>,
) -> ApiResult<Reply<AbortUploadResponse>> {
    let upload_id = parse_upload_id(&segment.upload_id)?;
    let table = get_table(&state, &id).await?;
    state.engine.abort_upload(&table, upload_id, &caller).await?;
    Ok(Reply(AbortUploadResponse { upload_id }))
}

/// # Errors
/// `InvalidInput` for what is not the id of any upload.
pub fn parse_upload_id(raw: &str) -> Result<Uuid> {
    Uuid::parse_str(raw).map_err(|_| {
        let shown: String = raw.chars().filter(|c| !c.is_control()).take(64).collect();
        Error::invalid_input(format!("there is no upload '{shown}'"))
    })
}

/// A time in microseconds since the Unix epoch, to the millisecond.
pub(in crate::http) fn rfc3339(time_us: i64) -> String {
    let since = Duration::from_micros(u64::try_from(time_us).unwrap_or(0));
    // Later than the year 9999 is a time-to-live that means "never".
    let last = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since.min(last)).to_string()
}
