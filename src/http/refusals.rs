//! What was refused is written down too: requests of callers who may not, and changes that were not
//! made. Some at a time, by a task of its own, so that nobody waits for it and a flood of refusals
//! costs little. What is refused for want of room is counted only.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::AppState;
use super::access::{Refused, object_of_path};
use super::error::refused_with;
use super::once::changes_something;
use crate::commit::Engine;
use crate::error::Error;
use crate::model::{Asked, Caller, Event, EventKind, Object};
use crate::telemetry::meters;

/// How many refusals may wait to be written down. Those beyond are counted only.
const WAITING: usize = 10_000;
/// How many are written at once.
const AT_ONCE: usize = 500;
/// For how long others are waited for, to be written together.
const GATHER: Duration = Duration::from_millis(200);
/// The longest sentence that is kept, in characters.
const MAX_SENTENCE: usize = 300;

/// Takes refusals to write down; cheap to clone.
#[derive(Clone)]
pub struct Refusals(mpsc::Sender<Event>);

impl Refusals {
    /// Answers what takes them, and the work of writing them down, which ends when `stop` is cancelled
    /// and all that was taken is written.
    pub fn start(engine: Engine, stop: CancellationToken) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), write_down(engine, receiver, stop))
    }

    fn take(&self, event: Event) {
        if self.0.try_send(event).is_err() {
            meters::refusal_lost();
        }
    }
}

async fn write_down(engine: Engine, mut taken: mpsc::Receiver<Event>, stop: CancellationToken) {
    let mut waiting = Vec::new();
    loop {
        let some = stop.run_until_cancelled(taken.recv_many(&mut waiting, AT_ONCE)).await;
        if some.is_some() {
            stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
        }
        while waiting.len() < AT_ONCE
            && let Ok(event) = taken.try_recv()
        {
            waiting.push(event);
        }
        if !waiting.is_empty()
            && let Err(error) = engine.record_events(&waiting).await
        {
            tracing::warn!(%error, refusals = waiting.len(), "could not write refusals down");
        }
        let wrote = waiting.len();
        waiting.clear();
        if some.is_none() && wrote < AT_ONCE {
            return;
        }
    }
}

/// Passes a request on, and writes down if it is refused.
pub(super) async fn note(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let changes = path.is_some_and(|path| changes_something(request.method(), path));
    let asked = request.extensions().get::<Arc<Asked>>().cloned();
    let (mut parts, body) = request.into_parts();
    // What is no identifier, is nothing's.
    let object = object_of_path(&mut parts).await;
    let response = next.run(Request::from_parts(parts, body)).await;
    let Some((error, code)) = refused_with(&response) else { return response };
    let is_kept = match error.and_entry().0 {
        Error::ServiceUnavailable(_) | Error::Throttling(_) => false,
        Error::PermissionDenied(_) | Error::Unauthenticated(_) => true,
        _ => changes || response.extensions().get::<Refused>().is_some(),
    };
    if !is_kept {
        return response;
    }
    let caller = response.extensions().get::<Caller>().cloned();
    let caller = caller.unwrap_or_else(Caller::anonymous).who_asked(asked);
    let now_us = state.engine.now_us();
    let object = object.unwrap_or_else(Object::root);
    let event = Event {
        code: Some(code),
        ..Event::new(EventKind::RequestRefused, object, &caller, now_us)
    };
    let sentence: String = match error.and_entry().0 {
        Error::Internal { .. } => "the server failed".into(),
        error => error.to_string().chars().take(MAX_SENTENCE).collect(),
    };
    state.refusals.take(event.with("error", sentence));
    response
}
