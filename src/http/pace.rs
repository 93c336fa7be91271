//! Clients that send so slowly that they only hold a place.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::Frame;
use thiserror::Error;
use tokio::time::Instant;
use tower_http::timeout::{TimeoutBody, TimeoutError};

use super::body::cause_of;

/// What must come of a body in each span of time that it is waited for, whatever came before. So
/// little that who measures something and sends it as it comes is hardly ever below it.
const MIN_BYTES_PER_SECOND: u64 = 240;

#[derive(Debug, Error)]
#[error("less than {MIN_BYTES_PER_SECOND} bytes of it came each second")]
struct TooSlow;

/// The body, given up when nothing of it comes for `patience`, or too little in as long.
pub(super) fn of(body: Body, patience: Duration) -> Body {
    let body = Body::new(TimeoutBody::new(patience, body));
    Body::new(Paced { body, patience, since: None, waited: Duration::ZERO, bytes: 0 })
}

/// Why a body was given up, if it was for its pace.
pub(super) fn given_up(error: &axum::Error) -> Option<String> {
    if cause_of::<TimeoutError>(error).is_some() {
        return Some("the body was given up: nothing of it came for too long".into());
    }
    cause_of::<TooSlow>(error).map(|slow| format!("the body was given up: {slow}"))
}

struct Paced {
    body: Body,
    /// How long a span is.
    patience: Duration,
    /// Since when it is waited for.
    since: Option<Instant>,
    /// How long it was waited for in this span, and what came in it.
    waited: Duration,
    bytes: u64,
}

impl Paced {
    /// Looks back at the end of a span, and begins the next.
    fn was_too_slow(&mut self) -> bool {
        if self.waited < self.patience {
            return false;
        }
        let waited = std::mem::take(&mut self.waited).as_millis();
        let bytes = u128::from(std::mem::take(&mut self.bytes));
        bytes * 1_000 < waited * u128::from(MIN_BYTES_PER_SECOND)
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending() && self.since.is_none() {
            self.since = Some(Instant::now());
        }
        let frame = ready!(polled);
        let waited = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.waited += waited;
        if let Some(Ok(frame)) = &frame {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if self.was_too_slow() {
                return Poll::Ready(Some(Err(axum::Error::new(TooSlow))));
            }
        }
        Poll::Ready(frame)
    }
}
