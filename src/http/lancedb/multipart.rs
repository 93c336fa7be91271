//! Uploads in parts that become one version.

use axum::Json as Reply;

use super::At;
use super::data::Version;
use crate::commit::InsertMode;
use crate::error::Error;
use crate::http::AppState;
use crate::http::arrow::ArrowBody;
use crate::http::error::ApiResult;
use crate::model::{Caller, Table};

/// Stages the rows in the body as a part of an upload.
pub(super) async fn stage_part(
    _state: &AppState,
    _table: Table,
    _upload: &str,
    _part: Option<&str>,
    _mode: InsertMode,
    _body: ArrowBody,
    _caller: Caller,
) -> ApiResult<At<Reply<Version>>> {
    Err(Error::Unsupported("uploads in parts are not served".into()).into())
}
