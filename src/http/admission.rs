//! What is let in: when too much is going on already, a request is told at once to come again, where
//! it would otherwise wait until its client gives up. Small questions (what is there, what is it
//! like, are you well) are always let in: they cost next to nothing, and it is by them that people
//! find out what is wrong.

use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AppState;
use super::body::{self, Kept};
use super::error::ApiError;
use crate::error::{Error, Result};
use crate::telemetry::meters::{self, Label, Present};

/// For how long an upload waits for room before it is told to come again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same once it has begun, since what it sent would be lost.
const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// A body from this length on is an upload, whatever it is for.
const LARGE_BYTES: u64 = 1 << 20;
/// Room is counted in units of this many bytes.
const UNIT: u64 = 1 << 10;

/// How much may go on at once in this process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission {
    requests: Arc<Semaphore>,
    max_requests: usize,
    /// How long an answer may take to begin.
    request_timeout: Duration,
    pub(super) room: Room,
}

impl Admission {
    pub fn new(max_requests: usize, max_upload_bytes: u64, request_timeout: Duration) -> Self {
        let max_requests = max_requests.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            requests: Arc::new(Semaphore::new(max_requests)),
            max_requests,
            request_timeout,
            room: Room::new(max_upload_bytes),
        }
    }
}

/// The memory for Arrow messages that are being received or written.
#[derive(Debug, Clone)]
pub(super) struct Room {
    units: Arc<Semaphore>,
    all: u32,
}

/// Room that is taken until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    _units: OwnedSemaphorePermit,
    _measured: Present,
}

impl Room {
    fn new(bytes: u64) -> Self {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let all = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, most);
        Self { units: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Takes room for a message of an upload that has begun or is about to, waiting for it. One that
    /// is larger than all there is takes all.
    ///
    /// # Errors
    /// `ServiceUnavailable` when others have it for too long.
    pub(super) async fn take(&self, bytes: u64, is_begun: bool) -> Result<Taken> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.all);
        let patience = if is_begun { LONG_PATIENCE } else { PATIENCE };
        let waited = tokio::time::timeout(patience, self.units.clone().acquire_many_owned(units));
        let Ok(Ok(permit)) = waited.await else {
            meters::turned_away("upload_bytes");
            return Err(Error::ServiceUnavailable(
                "the server holds as many bytes of uploads as it may; nothing was taken: try again"
                    .into(),
            ));
        };
        Ok(Taken { _units: permit, _measured: Present::uploading(bytes) })
    }
}

/// Lets a request in if there is room for it, and answers for it when it takes too long.
pub(super) async fn admit(State(state): State<AppState>, request: Request, next: Next) -> Response {
    // As it was found for the log and the meters.
    if request.extensions().get::<Label>().is_some_and(|operation| is_small(operation)) {
        return next.run(request).await;
    }
    let Admission { requests, max_requests, request_timeout, .. } = &state.admission;
    let Ok(place) = requests.clone().try_acquire_owned() else {
        meters::turned_away("requests");
        return ApiError::from(Error::ServiceUnavailable(format!(
            "{max_requests} requests are at work already; nothing was done: try again"
        )))
        .into_response();
    };
    // What is streamed takes as long as its client does; of that, see the time limit for clients.
    let is_streamed = request.body().size_hint().exact().is_none_or(|bytes| bytes > LARGE_BYTES);
    let work = next.run(request);
    let response = if is_streamed {
        work.await
    } else {
        match tokio::time::timeout(*request_timeout, work).await {
            Ok(response) => response,
            Err(_) => {
                meters::turned_away("request_timeout");
                ApiError::from(Error::ServiceUnavailable(format!(
                    "this took longer than {}; a change may still be made: the same key, or a look \
                     at the table, tells",
                    humantime::format_duration(*request_timeout)
                )))
                .into_response()
            }
        }
    };
    // The rows of an answer are read while they are sent.
    response.map(|body| body::with(body, Kept(place)))
}

/// Whether an operation asks for a few rows of the catalog at most.
fn is_small(operation: &str) -> bool {
    const ASKING: [&str; 3] = ["Describe", "List", "Get"];
    // LanceDB's operations have no names of their own.
    const OF_PATHS: [&str; 6] =
        ["/describe/", "/list/", "/stats/", "GET /v1/table/", "/jobs/list", "/jobs/describe"];
    ASKING.iter().any(|word| operation.starts_with(word))
        || operation.ends_with("Exists")
        || OF_PATHS.iter().any(|path| operation.ends_with(path))
}
