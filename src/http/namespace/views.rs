//! Materialized views.

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::backfills::not_negative;
use super::data::finish_even_if_the_client_leaves;
use super::sources::parse_source;
use super::tables::get_table_on;
use crate::commit::{FirstRows, NewView, Refresh, source_gone};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::arrow::decode_schema;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, ObjectId, TablePath, one_of};
use crate::http::openapi::{Context, Envelope};
use crate::model::{self, Caller, Role};

/// What kinds of views the spec has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Query,
    Udtf,
    Chunker,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateMaterializedViewRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// `query`: this server runs no functions of callers, which `udtf` and `chunker` need.
    kind: String,
    /// JSON text: `{"table_id": ["ns", "t"], "columns": {"column_names": ["a"]}, "filter": "a > 1",
    /// "limit": 10, "offset": 0}`. Only `table_id` (or `table`, as `"ns$t"`) must be there;
    /// `columns` are as in QueryTable, or a list of names.
    source_query: String,
    /// An Arrow schema: a message of Arrow IPC, or a stream that starts with it, in base64. It must
    /// have the columns of the query, in any order; an empty text expects nothing.
    output_schema: String,
    /// Must be null for `query`.
    #[schema(value_type = Option<Object>)]
    udtf_spec: Option<Value>,
    /// If false a job fills the view at once.
    #[schema(default = true)]
    with_no_data: Option<bool>,
    /// Not served: views are refreshed when they are asked to be.
    #[schema(default = false)]
    auto_refresh: Option<bool>,
}

impl CreateMaterializedViewRequest {
    async fn into_view(self) -> Result<NewView> {
        let kinds = [("query", Kind::Query), ("udtf", Kind::Udtf), ("chunker", Kind::Chunker)];
        if one_of("kind", Some(&self.kind), &kinds, Kind::Query)? != Kind::Query {
            return Err(Error::Unsupported(
                "views of kind udtf and chunker are not served: this server runs no functions of \
                 callers"
                    .into(),
            ));
        }
        if self.udtf_spec.is_some() {
            return Err(Error::invalid_input("udtf_spec must be null for a view of kind query"));
        }
        if self.auto_refresh == Some(true) {
            return Err(Error::Unsupported(
                "auto_refresh is not served: ask for a refresh when the source has changed".into(),
            ));
        }
        let (source, query) = parse_source(&self.source_query)?;
        let output_schema = match self.output_schema.trim() {
            "" => None,
            text => {
                let bytes = STANDARD.decode(text).map_err(|error| {
                    Error::invalid_input(format!("output_schema is not base64: {error}"))
                })?;
                Some(decode_schema("output_schema", bytes.into()).await?)
            }
        };
        let rows =
            if self.with_no_data == Some(false) { FirstRows::OfTheQuery } else { FirstRows::None };
        Ok(NewView { source, query, output_schema, rows })
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CreateMaterializedViewResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[schema(minimum = 0)]
    version: u64,
    /// Of the job that fills the view, of which DescribeTransaction tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
}

/// Create a materialized view: a table of its own, whose rows are those of a query over another.
#[utoipa::path(post, path = "/v1/materialized_view/{id}/create",
    operation_id = "CreateMaterializedView", tag = "MaterializedView", params(ObjectId),
    responses((status = 201, body = CreateMaterializedViewResponse), ApiError))]
pub async fn create_materialized_view(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<CreateMaterializedViewRequest>,
) -> ApiResult<(StatusCode, Reply<CreateMaterializedViewResponse>)> {
    let database = path.1.clone();
    let id = path.matching(request.envelope.id.as_deref())?;
    let mut view = request.into_view().await?;
    view.source = database.holds_table(view.source);
    let source = model::Object::Table(view.source.clone());
    state.access.require(&caller, Role::Reader, &source).await?;
    let created = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.create_view(&id, &view, &caller).await
    })
    .await?;
    let job_id = created.job.map(|job| job.to_string());
    let reply = CreateMaterializedViewResponse { context: None, version: created.version, job_id };
    Ok((StatusCode::CREATED, Reply(reply)))
}

/// How to refresh. How the work is cut up is the server's own choice: what tells that is read and
/// has no effect.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RefreshMaterializedViewRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The version of the source to read; the newest when absent.
    #[schema(minimum = 0)]
    src_version: Option<u64>,
    /// At least 1.
    #[schema(minimum = 1)]
    max_rows_per_fragment: Option<i64>,
    #[schema(minimum = 0)]
    concurrency: Option<i64>,
    #[schema(minimum = 0)]
    intra_applier_concurrency: Option<i64>,
    #[schema(minimum = 0)]
    source_task_size: Option<i64>,
    #[allow(dead_code, reason = "the work is done here, not in a cluster")]
    cluster: Option<String>,
    /// Must be null: it is for views of kind `chunker`.
    output_limit: Option<i64>,
    #[allow(dead_code, reason = "a query needs no environment")]
    manifest: Option<String>,
}

impl RefreshMaterializedViewRequest {
    fn into_refresh(self) -> Result<Refresh> {
        if self.output_limit.is_some() {
            return Err(Error::invalid_input(
                "output_limit is for views of kind chunker, and this is none",
            ));
        }
        not_negative([
            ("concurrency", self.concurrency),
            ("intra_applier_concurrency", self.intra_applier_concurrency),
            ("source_task_size", self.source_task_size),
        ])?;
        let rows = |rows: i64| match usize::try_from(rows) {
            Ok(rows) if rows > 0 => Ok(rows),
            _ => Err(Error::invalid_input("max_rows_per_fragment must be at least 1")),
        };
        let max_rows_per_fragment = self.max_rows_per_fragment.map(rows).transpose()?;
        Ok(Refresh { source_version: self.src_version, max_rows_per_fragment })
    }
}

/// DescribeTransaction tells of the job.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefreshMaterializedViewResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    job_id: String,
}

/// Begin to refresh a materialized view: the rows and the columns of its query, as its source is
/// now, take the place of those that it has.
#[utoipa::path(post, path = "/v1/materialized_view/{id}/refresh",
    operation_id = "RefreshMaterializedView", tag = "MaterializedView", params(ObjectId),
    responses((status = 202, body = RefreshMaterializedViewResponse), ApiError))]
pub async fn refresh_materialized_view(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<RefreshMaterializedViewRequest>,
) -> ApiResult<(StatusCode, Reply<RefreshMaterializedViewResponse>)> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let refresh = request.into_refresh()?;
    let view = get_table_on(&state, &id, None).await?;
    // What was read when the view was made may be nothing for its caller now.
    let source = model::Object::Table(state.engine.source_of_view(&view).await?);
    match state.access.require(&caller, Role::Reader, &source).await {
        Err(Error::TableNotFound(_)) => return Err(source_gone(&id).into()),
        allowed => allowed?,
    }
    let job = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.begin_refresh(&view, &refresh, &caller).await
    })
    .await?;
    let reply = RefreshMaterializedViewResponse { context: None, job_id: job.to_string() };
    Ok((StatusCode::ACCEPTED, Reply(reply)))
}
