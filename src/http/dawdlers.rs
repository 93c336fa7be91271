//! Clients that take nothing of an answer, and so only hold a place and what the answer is read
//! from.
//!
//! Nothing else gives them up: a client of HTTP/2 says itself how much it takes, and while it takes
//! none its connection is as good as any; one of HTTP/1 that takes a byte now and then is never
//! waited for.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::Frame;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

/// How much is handed out at once: a client has to take so much in time, however large the parts
/// are in which an answer is made.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Debug, Error)]
#[error("the client takes nothing of the answer")]
struct NothingTaken;

/// The body, which has a place until its end. Both go when the client takes nothing for `patience`.
pub(super) fn limit(body: Body, place: OwnedSemaphorePermit, patience: Duration) -> Body {
    let open = Open { body, rest: Bytes::new(), handed_out: None, _place: place };
    let answer = Arc::new(Mutex::new(State::Open(open)));
    let watch = watch(Arc::downgrade(&answer), patience).in_current_span();
    let watched = AbortOnDropHandle::new(tokio::spawn(watch));
    Body::new(Answer { state: answer, _watched: watched })
}

struct Answer {
    state: Arc<Mutex<State>>,
    _watched: AbortOnDropHandle<()>,
}

enum State {
    Open(Open),
    Over,
    GivenUp,
}

struct Open {
    body: Body,
    /// What is left of the part that came last.
    rest: Bytes,
    /// When a piece was handed out, unless more was asked for since: then it is the answer that
    /// takes its time.
    handed_out: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Open {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.handed_out = None;
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        self.handed_out = Some(Instant::now());
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut state = lock(&self.state);
        let polled = match &mut *state {
            State::Open(open) => open.poll(context),
            State::Over => Poll::Ready(None),
            State::GivenUp => Poll::Ready(Some(Err(axum::Error::new(NothingTaken)))),
        };
        if let Poll::Ready(None) = polled {
            *state = State::Over;
        }
        polled
    }
}

/// Gives an answer up of which nothing is asked for.
async fn watch(answer: Weak<Mutex<State>>, patience: Duration) {
    let mut left = patience;
    loop {
        tokio::time::sleep(left).await;
        let Some(answer) = answer.upgrade() else { return };
        let mut state = lock(&answer);
        let State::Open(open) = &*state else { return };
        let idle = open.handed_out.map_or(Duration::ZERO, |since| since.elapsed());
        left = patience.saturating_sub(idle);
        if left.is_zero() {
            *state = State::GivenUp;
            tracing::info!("an answer is given up: its client takes nothing of it");
            return;
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
