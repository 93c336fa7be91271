//! What was refused is written down too: requests of callers who may not, and changes that were not
//! made. Some at a time, by a task of its own, so that nobody waits for it and a flood of refusals
//! costs little. What is refused for want of room is counted only.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::AppState;
use super::access::{OfPath, Refused};
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
/// How long it is waited after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How often those are tried together that the catalog does not take, though it answers. Then each
/// is tried alone.
const TRIES: u32 = 5;
/// For how long those are written that are left at the end.
const LAST: Duration = Duration::from_secs(1);
/// The longest sentence that is kept, in characters.
const MAX_SENTENCE: usize = 300;

/// Takes refusals to write down; cheap to clone.
#[derive(Clone)]
pub struct Refusals(mpsc::Sender<Event>);

impl Refusals {
    /// Answers what takes them, and the work of writing them down. That ends soon after `stop` is
    /// cancelled, which is to be when nobody is answered any more, with all that was taken written,
    /// or counted.
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
    let (mut waiting, mut failures) = (Vec::new(), 0);
    while stop.run_until_cancelled(gather(&mut taken, &mut waiting)).await.is_some() {
        if waiting.is_empty() {
            continue;
        }
        let Err(error) = engine.record_events(&waiting).await else {
            waiting.clear();
            failures = 0;
            continue;
        };
        // Where only the answer was lost they will be there twice, under the same ids.
        tracing::warn!(%error, refusals = waiting.len(), "refusals are not written down yet");
        failures += 1;
        if failures >= TRIES && !matches!(error, Error::ServiceUnavailable(_)) {
            write_each(&engine, std::mem::take(&mut waiting)).await;
            failures = 0;
        }
        // What comes meanwhile waits, as far as there is room.
        stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
    }
    taken.close();
    let until = Instant::now() + LAST;
    loop {
        fill(&mut taken, &mut waiting);
        if waiting.is_empty() {
            return;
        }
        let written = tokio::time::timeout_at(until, engine.record_events(&waiting)).await;
        if !matches!(written, Ok(Ok(()))) {
            return lose(waiting.len() + taken.len());
        }
        waiting.clear();
    }
}

/// Waits until there are some, and a moment for others to go with them.
async fn gather(taken: &mut mpsc::Receiver<Event>, waiting: &mut Vec<Event>) {
    if waiting.is_empty() {
        taken.recv_many(waiting, AT_ONCE).await;
        tokio::time::sleep(GATHER).await;
    }
    fill(taken, waiting);
}

fn fill(taken: &mut mpsc::Receiver<Event>, waiting: &mut Vec<Event>) {
    while waiting.len() < AT_ONCE
        && let Ok(event) = taken.try_recv()
    {
        waiting.push(event);
    }
}

/// One that cannot be written does not keep others from it.
async fn write_each(engine: &Engine, refusals: Vec<Event>) {
    let mut lost = 0;
    for event in refusals {
        if engine.record_events(&[event]).await.is_err() {
            lost += 1;
        }
    }
    lose(lost);
}

fn lose(refusals: usize) {
    if refusals > 0 {
        tracing::error!(refusals, "refusals could not be written down");
    }
    for _ in 0..refusals {
        meters::refusal_lost();
    }
}

/// Passes a request on, and writes down if it is refused.
pub(super) async fn note<F: Future<Output = Response>>(
    state: &AppState,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let changes = path.is_some_and(|path| changes_something(request.method(), path));
    let asked = request.extensions().get::<Arc<Asked>>().cloned();
    let (mut parts, body) = request.into_parts();
    let path = OfPath::of(&mut parts).await;
    let response = next(Request::from_parts(parts, body)).await;
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
    let object = path.map_or_else(Object::root, |path| path.object());
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
