//! Phase two: fragments and uploads become one version.

use axum::Json as Reply;
use axum::extract::State;
use axum::http::HeaderMap;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::uploads::parse_upload_id;
use crate::commit::{CommitOutcome, CommitRequest, OnConflict, Once, UploadsAfter};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{CommitBytes, ObjectId, TablePath, one_of, parse_json};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::tables::get_table_on;
use crate::http::once::idempotency_key;
use crate::http::openapi::{Context, FragmentMetadata, Identity, JsonArrowSchema, object};
use crate::lake::Change;
use crate::model::{Caller, Properties};

#[derive(Debug, Deserialize, ToSchema)]
pub struct CommitTableRequest {
    // Not flattened: that would hold a body of this size twice.
    #[allow(dead_code, reason = "`access` reads it, where no header says who calls")]
    #[serde(default, deserialize_with = "object")]
    identity: Option<Identity>,
    #[allow(dead_code, reason = "nothing in it is used yet")]
    context: Option<Context>,
    /// The table's identifier; when given it must be the one of the path.
    pub(super) id: Option<Vec<String>>,
    /// `append`, `overwrite` or `merge`.
    operation: String,
    /// The version that the data was made against; 0 for a table without one.
    read_version: u64,
    /// Fragments that the caller has the JSON of, from here or from pylance.
    fragments: Option<Vec<FragmentMetadata>>,
    /// Uploads to this server.
    uploads: Option<Vec<String>>,
    /// The schema that the caller expects, checked against that of the files. Needed for
    /// `overwrite` and `merge` without uploads.
    schema: Option<JsonArrowSchema>,
    /// `rebase` (default): Lance's own conflict rules; `fail`: refuse unless the newest version
    /// still is `read_version`.
    on_conflict: Option<String>,
    /// Whether an append may share its version with others that wait (default: true). One with
    /// `on_conflict: "fail"` never does.
    coalesce: Option<bool>,
    /// The main branch when absent.
    pub(super) branch: Option<String>,
    /// Kept in the version's transaction.
    properties: Option<Properties>,
}

impl CommitTableRequest {
    pub(super) fn into_commit(self) -> Result<CommitRequest> {
        let operations = [
            ("append", Change::Append),
            ("overwrite", Change::Overwrite),
            ("merge", Change::Merge),
        ];
        let change = one_of("operation", Some(&self.operation), &operations, Change::Append)?;
        let choices = [("rebase", OnConflict::Rebase), ("fail", OnConflict::Fail)];
        let on_conflict =
            one_of("on_conflict", self.on_conflict.as_deref(), &choices, OnConflict::Rebase)?;
        let fragments = self.fragments.unwrap_or_default();
        let uploads = self.uploads.unwrap_or_default();
        if fragments.is_empty() && uploads.is_empty() {
            return Err(Error::invalid_input(
                "there is nothing to commit: name fragments or uploads",
            ));
        }
        if self.schema.is_none() && uploads.is_empty() && change != Change::Append {
            return Err(Error::invalid_input(format!(
                "{} of fragments without uploads needs their schema",
                self.operation
            )));
        }
        let schema = self.schema.map(serde_json::to_value).transpose();
        let schema = schema.map_err(|error| Error::internal("reading a schema", error))?;
        Ok(CommitRequest {
            change,
            read_version: self.read_version,
            fragments: fragments.into_iter().map(|fragment| fragment.0).collect(),
            uploads: uploads.iter().map(|id| parse_upload_id(id)).collect::<Result<_>>()?,
            session: None,
            schema,
            on_conflict,
            properties: self.properties.unwrap_or_default(),
            coalesce: self.coalesce.unwrap_or(true),
            brought: None,
            uploads_after: UploadsAfter::Kept,
        })
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CommitTableResponse {
    version: u64,
    read_version: u64,
    transaction_id: String,
    /// Whether others had committed since `read_version`.
    rebased: bool,
    /// How many rows live in the new version.
    num_rows: u64,
}

impl From<CommitOutcome> for CommitTableResponse {
    fn from(outcome: CommitOutcome) -> Self {
        Self {
            version: outcome.version,
            read_version: outcome.read_version,
            transaction_id: outcome.transaction_id,
            rebased: outcome.rebased,
            num_rows: outcome.num_rows,
        }
    }
}

/// Commit fragments and uploads as one version.
#[utoipa::path(post, path = "/v1/table/{id}/commit", operation_id = "CommitTable",
    tag = "Distributed write",
    params(ObjectId),
    request_body(content = CommitTableRequest),
    responses((status = 200, body = CommitTableResponse), ApiError))]
pub async fn commit_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    headers: HeaderMap,
    CommitBytes { bytes, room }: CommitBytes,
) -> ApiResult<Reply<CommitTableResponse>> {
    let request: CommitTableRequest = parse_commit(bytes.clone()).await?;
    let id = path.matching(request.id.as_deref())?;
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let request = request.into_commit()?;
    let route = format!("CommitTable {} {}", table.key, table.branch);
    let once = idempotency_key(&headers)?.map(|key| Once::new(&caller, &route, key, &bytes));
    let outcome = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        let _room = room;
        state.engine.commit_table(&table, request, once.as_ref(), &caller).await
    })
    .await?;
    Ok(Reply(outcome.into()))
}

/// The largest body that takes no time to read.
const SMALL_BYTES: usize = 64 << 10;

/// A body of hundreds of thousands of fragments takes its time: not on the threads that answer.
pub(super) async fn parse_commit<T: DeserializeOwned + Send + 'static>(body: Bytes) -> Result<T> {
    if body.len() <= SMALL_BYTES {
        return parse_json(&body);
    }
    tokio::task::spawn_blocking(move || parse_json(&body))
        .await
        .map_err(|error| Error::internal("reading a commit", error))?
}
