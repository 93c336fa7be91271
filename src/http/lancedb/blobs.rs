//! Blobs out: many whole, or one by ranges.

use std::ops::Range;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::At;
use super::deadline::Deadline;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::arrow::{Framing, respond};
use crate::http::error::ApiResult;
use crate::http::extract::{Json, Query, TablePath};
use crate::http::namespace::tables::get_table_on;
use crate::lake::{Blob, RowKey, Snapshot};
use crate::model::{Caller, TableId};

#[derive(Debug, Deserialize)]
pub(in crate::http) struct FetchBlobsRequest {
    version: Option<u64>,
    branch: Option<String>,
    column: String,
    row_ids: Vec<u64>,
}

/// Answers the blobs of some rows, whole, as a column of an Arrow stream.
pub(in crate::http) async fn fetch_blobs(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    deadline: Deadline,
    Json(request): Json<FetchBlobsRequest>,
) -> ApiResult<At<Response>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let snapshot = state.engine.open(&table, request.version).await?;
    let fetched = snapshot.fetch_blobs(&request.column, &request.row_ids);
    let blobs = deadline.until(deadline.bound(fetched).await?);
    Ok(At(snapshot.version(), respond(blobs, Framing::Stream).await?))
}

/// The parts of the path behind the table.
#[derive(Debug, Deserialize)]
pub(in crate::http) struct BlobPath {
    column: String,
    row: String,
}

impl BlobPath {
    fn row(&self) -> Result<u64> {
        self.row.parse().map_err(|_| {
            let row: String = self.row.chars().take(64).collect();
            Error::invalid_input(format!("'{}' is not the number of a row", row.escape_debug()))
        })
    }
}

#[derive(Debug, Deserialize)]
pub(in crate::http) struct BlobParams {
    version: Option<u64>,
    branch: Option<String>,
    /// Where the table and its branch stood when the blob's descriptor was read.
    source_uri: Option<String>,
    /// Microseconds since the Unix epoch, at which the version was committed.
    source_commit_micros: Option<u64>,
    /// Whether `row` says where the row stands, not which it is.
    row_is_address: Option<bool>,
}

/// Answers the bytes of one blob, or a range of them: 204 for null, 416 for a range beyond its end,
/// which is any range of an empty one.
pub(in crate::http) async fn read_blob(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Path(path): Path<BlobPath>,
    Query(params): Query<BlobParams>,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<At<Response>> {
    let row = path.row()?;
    let snapshot = params.open(&state, &id).await?;
    let blob = snapshot.blob(&path.column, row, params.key()).await?;
    let Some(blob) = blob else {
        return Ok(At(snapshot.version(), StatusCode::NO_CONTENT.into_response()));
    };
    let size = blob.size();
    // A range is for GET alone.
    let range = headers.get(header::RANGE).filter(|_| method == Method::GET);
    let response = match range.map(|range| asked(range, size)).transpose()?.unwrap_or(Asked::All) {
        Asked::All => bytes(StatusCode::OK, blob, 0..size, None),
        Asked::Beyond => {
            let total = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            (StatusCode::RANGE_NOT_SATISFIABLE, total).into_response()
        }
        Asked::Part(part) => {
            let said = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            bytes(StatusCode::PARTIAL_CONTENT, blob, part, Some(said))
        }
    };
    Ok(At(snapshot.version(), response))
}

impl BlobParams {
    async fn open(&self, state: &AppState, id: &TableId) -> Result<Snapshot> {
        let table = get_table_on(state, id, self.branch.as_deref()).await?;
        let snapshot = state.engine.open(&table, self.version).await?;
        let is_other = |uri: &String| !snapshot.is_made(uri, self.source_commit_micros);
        if self.source_uri.as_ref().is_some_and(is_other) {
            return Err(Error::invalid_input(
                "the blob's descriptor is of another table, or of one that was made anew since",
            ));
        }
        Ok(snapshot)
    }

    fn key(&self) -> RowKey {
        match self.row_is_address {
            Some(true) => RowKey::Address,
            _ => RowKey::Id,
        }
    }
}

fn bytes(status: StatusCode, blob: Blob, part: Range<u64>, range: Option<String>) -> Response {
    let length = part.end - part.start;
    let mut response = Response::new(Body::from_stream(blob.read(part)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    if let Some(range) = range.and_then(|range| HeaderValue::try_from(range).ok()) {
        headers.insert(header::CONTENT_RANGE, range);
    }
    response
}

/// What a `Range` header means for a blob.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    /// Never empty.
    Part(Range<u64>),
    /// It begins behind the end.
    Beyond,
}

/// # Errors
/// `InvalidInput` for several ranges, and for what is none. Units other than bytes are passed over,
/// as HTTP wants it.
fn asked(header: &HeaderValue, size: u64) -> Result<Asked> {
    let wrong = || Error::invalid_input("the header Range must be one range, as bytes=0-99");
    let text = header.to_str().map_err(|_| wrong())?;
    let (unit, range) = text.split_once('=').ok_or_else(wrong)?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ok(Asked::All);
    }
    let (first, last) = range.trim().split_once('-').ok_or_else(wrong)?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large is beyond any end.
        true if !text.is_empty() => Ok(Some(text.parse().unwrap_or(u64::MAX))),
        true => Ok(None),
        false => Err(wrong()),
    };
    let part = match (number(first)?, number(last)?) {
        (Some(first), Some(last)) if first > last => return Err(wrong()),
        (Some(first), last) => first..last.map_or(size, |last| last.saturating_add(1)).min(size),
        (None, Some(length)) => size.saturating_sub(length)..size,
        (None, None) => return Err(wrong()),
    };
    Ok(if part.start < part.end { Asked::Part(part) } else { Asked::Beyond })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        let of = |text: &'static str, size| asked(&HeaderValue::from_static(text), size);
        for (text, size, meant) in [
            ("bytes=0-0", 10, Asked::Part(0..1)),
            ("bytes=2-4", 10, Asked::Part(2..5)),
            ("Bytes=2-400", 10, Asked::Part(2..10)),
            ("bytes=2-", 10, Asked::Part(2..10)),
            ("bytes=-3", 10, Asked::Part(7..10)),
            ("bytes=-30", 10, Asked::Part(0..10)),
            ("bytes=10-", 10, Asked::Beyond),
            ("bytes=10-12", 10, Asked::Beyond),
            ("bytes=-0", 10, Asked::Beyond),
            ("bytes=0-0", 0, Asked::Beyond),
            ("bytes=-1", 0, Asked::Beyond),
            ("bytes=99999999999999999999-", 10, Asked::Beyond),
            ("bytes=0-99999999999999999999", 10, Asked::Part(0..10)),
            ("rows=0-0", 10, Asked::All),
        ] {
            assert_eq!(of(text, size).expect(text), meant, "{text} of {size}");
        }
        for text in
            ["bytes", "bytes=", "bytes=-", "bytes=4-2", "bytes=a-b", "bytes=0-1,3-4", "bytes=+1-2"]
        {
            assert!(of(text, 10).is_err(), "{text}");
        }
    }
}
