//! What is let in: when too much is going on already, a request is told at once to come again, where
//! it would otherwise wait until its client gives up. Small questions (what is there, what is it
//! like, are you well) are always let in: they cost next to nothing, and it is by them that people
//! find out what is wrong.

use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AppState;
use super::dawdlers;
use super::error::ApiError;
use super::once::takes_rows;
use crate::error::{Error, Result};
use crate::telemetry::meters::{self, Label, Present};

/// For how long an upload waits for room before it is told to come again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same once it has begun, since what it sent would be lost.
const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// Rows from this length on take as long to come as their client does.
const LARGE_BYTES: u64 = 1 << 20;
/// The longest that a message may be on its way while room is held for it.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Room is counted in units of this many bytes.
const UNIT: u64 = 1 << 10;

/// How much may go on at once in this process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission {
    requests: Arc<Semaphore>,
    max_requests: usize,
    /// How long an answer may take to begin.
    request_timeout: Duration,
    /// How long a client may send or take nothing.
    client_timeout: Duration,
    pub(super) room: Room,
}

impl Admission {
    pub fn new(
        max_requests: usize,
        max_upload_bytes: u64,
        request_timeout: Duration,
        client_timeout: Duration,
    ) -> Self {
        let max_requests = max_requests.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            requests: Arc::new(Semaphore::new(max_requests)),
            max_requests,
            request_timeout,
            client_timeout,
            room: Room::new(max_upload_bytes, client_timeout),
        }
    }
}

/// The memory for Arrow messages that are being received or written.
#[derive(Debug, Clone)]
pub(super) struct Room {
    units: Arc<Semaphore>,
    all: u32,
    /// How long any message may be on its way.
    client_timeout: Duration,
}

/// Room that is taken until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    units: OwnedSemaphorePermit,
    _measured: Present,
    /// What was taken for the same message before.
    _before: Option<Box<Taken>>,
}

impl Room {
    fn new(bytes: u64, client_timeout: Duration) -> Self {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let all = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, most);
        Self { units: Arc::new(Semaphore::new(all as usize)), all, client_timeout }
    }

    /// Takes room for a message of an upload that has begun or is about to, waiting for it, beside
    /// what was taken for the message before. One that is larger than all there is takes all.
    ///
    /// # Errors
    /// `ServiceUnavailable` when others have it for too long.
    pub(super) async fn take(
        &self,
        bytes: u64,
        before: Option<Taken>,
        is_begun: bool,
    ) -> Result<Taken> {
        let held = before.as_ref().map_or(0, |before| before.units.num_permits());
        let left = self.all.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(left);
        let patience = if is_begun { LONG_PATIENCE } else { PATIENCE };
        let waited = tokio::time::timeout(patience, self.units.clone().acquire_many_owned(units));
        let Ok(Ok(permit)) = waited.await else {
            meters::turned_away("upload_bytes");
            return Err(Error::ServiceUnavailable(
                "the server holds as many bytes of uploads as it may; nothing was taken: try again"
                    .into(),
            ));
        };
        let measured = Present::uploading(bytes);
        Ok(Taken { units: permit, _measured: measured, _before: before.map(Box::new) })
    }

    /// Sees that a message comes so fast that all of it is there in time: the larger it is, the
    /// more others wait for what it holds.
    ///
    /// # Errors
    /// `InvalidInput` when too little of it came for how long it was waited for.
    pub(super) fn ensure_pace(&self, bytes: u64, came: u64, waited: Duration) -> Result<()> {
        let is_in_time =
            u128::from(came) * LONGEST.as_millis() >= u128::from(bytes) * waited.as_millis();
        if is_in_time || waited <= self.client_timeout {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "the body was given up: a message of {bytes} bytes came so slowly that it would have \
             taken more than {}; send smaller batches",
            humantime::format_duration(LONGEST)
        )))
    }
}

/// Lets a request in if there is room for it, and answers for it when it takes too long.
pub(super) async fn admit<F: Future<Output = Response>>(
    state: &AppState,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    if is_small(&request) {
        return next(request).await;
    }
    let Admission { requests, max_requests, request_timeout, client_timeout, .. } =
        &state.admission;
    let Ok(place) = requests.clone().try_acquire_owned() else {
        meters::turned_away("requests");
        return ApiError::from(Error::ServiceUnavailable(format!(
            "{max_requests} requests are at work already; nothing was done: try again"
        )))
        .into_response();
    };
    // An upload takes as long as its client does; of that, see the time limit for clients.
    let is_large = request.body().size_hint().exact().is_none_or(|bytes| bytes > LARGE_BYTES);
    let is_upload = is_large && takes_rows(&request);
    let work = next(request);
    let response = if is_upload {
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
    // What is there as a whole needs no place any more; rows are read while they are sent.
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| dawdlers::limit(body, place, *client_timeout))
}

/// Whether a request asks for a few rows of the catalog at most.
pub(super) fn is_small(request: &Request) -> bool {
    // As it was found for the log and the meters.
    request.extensions().get::<Label>().is_some_and(|operation| asks_for_little(operation))
}

fn asks_for_little(operation: &str) -> bool {
    const ASKING: [&str; 3] = ["Describe", "List", "Get"];
    // A stream of them goes on for minutes.
    const EVENTS: &str = "ListEvents";
    // LanceDB's operations have no names of their own.
    const OF_PATHS: [&str; 6] =
        ["/describe/", "/list/", "/stats/", "GET /v1/table/", "/jobs/list", "/jobs/describe"];
    (operation != EVENTS && ASKING.iter().any(|word| operation.starts_with(word)))
        || operation.ends_with("Exists")
        || OF_PATHS.iter().any(|path| operation.ends_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_takes_no_more_than_there_is() {
        let room = Room::new(4 * UNIT, Duration::ZERO);
        let first = room.take(UNIT, None, false).await.unwrap();
        assert_eq!(room.units.available_permits(), 3);
        let all = room.take(100 * UNIT, Some(first), true).await.unwrap();
        assert_eq!(room.units.available_permits(), 0);
        drop(all);
        assert_eq!(room.units.available_permits(), 4);
    }

    #[test]
    fn a_large_message_has_to_come_faster_than_a_small_one() {
        let room = Room::new(UNIT, Duration::from_secs(60));
        let comes = |bytes: u64, came: u64, seconds: u64| {
            room.ensure_pace(bytes, came, Duration::from_secs(seconds)).is_ok()
        };
        assert!(comes(2 << 30, 1, 60), "any message may take as long as a client");
        assert!(!comes(2 << 30, 1 << 20, 61));
        assert!(comes(2 << 30, 40 << 20, 61));
        assert!(comes(1 << 20, 18 << 10, 61));
        assert!(!comes(1 << 20, (1 << 20) - 1, 3_600));
    }

    #[test]
    fn what_goes_on_for_long_is_not_small() {
        for operation in ["ListTables", "GetReadyz", "TableExists", "POST /v1/jobs/list"] {
            assert!(asks_for_little(operation), "{operation}");
        }
        for operation in ["ListEvents", "QueryTable", "GET /v1/table/{id}/query/"] {
            assert!(!asks_for_little(operation), "{operation}");
        }
    }
}
