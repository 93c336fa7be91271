//! What happened, for whoever may know: by pages, or as a stream of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::error::{ApiError, ApiResult};
use super::extract::{Delimiter, Query};
use crate::catalog::events::Filter;
use crate::error::{Error, Result};
use crate::model::{Caller, EventInfo, NamespaceId, Object, Role, TableId};

/// The most events of a page.
const MAX_LIMIT: u32 = 1000;
const DEFAULT_LIMIT: u32 = 100;
/// How many events are read at once, of which the caller may see some.
const READ_AT_ONCE: i64 = 1000;
/// How many events are read for a page that the caller may see little of.
const MAX_READ: usize = 10_000;
/// How often a stream looks for more.
const LOOK: Duration = Duration::from_millis(500);
/// For how long a stream goes on. After that its client connects anew, by itself, and says again who it
/// is.
const STREAM: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListEventsQuery {
    /// Where to read on: the `cursor` of an earlier answer or event. Without, a list begins with the
    /// oldest event that is kept, and a stream with the next.
    cursor: Option<String>,
    /// How many events a page has at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only those of this namespace and of all that is within it.
    namespace: Option<String>,
    /// Only those of the table of this name.
    table: Option<String>,
    /// Only those of this kind, or of all kinds that begin with this word and a dot.
    kind: Option<String>,
    /// Only what this principal asked for.
    principal: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ListEventsResponse {
    events: Vec<EventInfo>,
    /// Where to read on. There may be more, even if this page is short or empty, unless the cursor is
    /// the one that was sent.
    cursor: String,
}

/// List what happened.
///
/// Events are kept for `--event-retention`. Callers see those of what they have a role on; refused
/// requests, keys and grants only as admins, or if they are their own. With the header
/// `Accept: text/event-stream` the answer is a stream of server-sent events that goes on with what
/// happens; `Last-Event-ID` is a cursor then.
#[utoipa::path(get, path = "/v1/events", operation_id = "ListEvents", tag = "Events",
    params(ListEventsQuery),
    responses((status = 200, content((ListEventsResponse = "application/json"),
        (String = "text/event-stream"))), ApiError))]
pub async fn list_events(
    State(state): State<AppState>,
    caller: Caller,
    Delimiter(delimiter): Delimiter,
    headers: HeaderMap,
    Query(query): Query<ListEventsQuery>,
) -> ApiResult<Response> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Error::invalid_input(format!("limit is 1 to {MAX_LIMIT}")).into());
    }
    let filter = query.filter(&delimiter)?;
    match &filter.object {
        Some(Object::Namespace(id)) => state.access.require_sight(&caller, id).await?,
        Some(object @ Object::Table(_)) => {
            state.access.require(&caller, Role::Reader, object).await?;
        }
        None => {}
    }
    let wants = |kind: &str| {
        let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        accepted.is_some_and(|accepted| accepted.contains(kind))
    };
    let cursor = |text: &str| {
        let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
        number.ok_or_else(|| Error::invalid_input("the cursor is not one that was answered"))
    };
    let after = query.cursor.as_deref().map(cursor).transpose()?;
    if !wants("text/event-stream") {
        let (events, after) = page(&state, &caller, after.unwrap_or(0), &filter, limit).await?;
        return Ok(Reply(ListEventsResponse { events, cursor: after.to_string() }).into_response());
    }
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let after = match last.map(cursor).transpose()?.or(after) {
        Some(after) => after,
        None => state.engine.last_event().await?,
    };
    let events = follow(state, caller, after, filter);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

impl ListEventsQuery {
    /// # Errors
    /// `InvalidInput` for what is no name.
    fn filter(&self, delimiter: &str) -> Result<Filter> {
        let object = match (&self.namespace, &self.table) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid_input("give a namespace or a table, not both"));
            }
            (Some(raw), None) => Some(Object::Namespace(NamespaceId::parse(raw, delimiter)?)),
            (None, Some(raw)) => Some(Object::Table(TableId::parse(raw, delimiter)?)),
            (None, None) => None,
        };
        Ok(Filter { object, kind: self.kind.clone(), principal: self.principal.clone() })
    }
}

/// The next events that a caller may see, and where to read on.
async fn page(
    state: &AppState,
    caller: &Caller,
    after: i64,
    filter: &Filter,
    limit: u32,
) -> Result<(Vec<EventInfo>, i64)> {
    let (mut shown, mut after, mut read) = (Vec::new(), after, 0);
    while read < MAX_READ {
        let found = state.engine.events_after(after, filter, READ_AT_ONCE).await?;
        let is_last = found.len() < READ_AT_ONCE as usize;
        read += found.len();
        let seen = state.access.sees_events(caller, found.iter().map(|(_, event)| event)).await?;
        for ((seq, event), is_seen) in found.into_iter().zip(seen) {
            if shown.len() == limit as usize {
                return Ok((shown, after));
            }
            after = seq;
            if is_seen {
                shown.push(EventInfo::new(seq, event));
            }
        }
        if is_last {
            break;
        }
    }
    Ok((shown, after))
}

/// What happens from here on, until the client is to connect anew.
fn follow(
    state: AppState,
    caller: Caller,
    after: i64,
    filter: Filter,
) -> impl Stream<Item = Result<Message, Infallible>> {
    let until = Instant::now() + STREAM;
    let pages = stream::unfold(after, move |after| {
        let (state, caller, filter) = (state.clone(), caller.clone(), filter.clone());
        async move {
            while Instant::now() < until {
                match page(&state, &caller, after, &filter, MAX_LIMIT).await {
                    Ok((events, next)) if next > after => return Some((events, next)),
                    Ok(_) => {}
                    // The client asks again, and is told then.
                    Err(error) => {
                        tracing::warn!(%error, "a stream of events ends");
                        return None;
                    }
                }
                let waited = state.stopping.run_until_cancelled(tokio::time::sleep(LOOK)).await;
                waited?;
            }
            None
        }
    });
    pages.flat_map(|events| {
        stream::iter(events.into_iter().map(|event| {
            let message = Message::default().id(event.cursor()).event(event.kind());
            // What is made of strings and numbers can be written.
            Ok(message.json_data(&event).unwrap_or_default())
        }))
    })
}
