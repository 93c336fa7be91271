//! What happened, for whoever may know: by pages, or as a stream of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Reply};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::access::Standing;
use super::error::{ApiError, ApiResult};
use super::extract::{Delimiter, Query};
use crate::catalog::events::Filter;
use crate::error::{Error, Result};
use crate::model::{Caller, Event, EventInfo, NamespaceId, Object, Role, TableId};

/// The most events of a page.
const MAX_LIMIT: u32 = 1000;
const DEFAULT_LIMIT: u32 = 100;
/// How many events are read at once, of which the caller may see some.
const READ_AT_ONCE: i64 = 1000;
/// How many looks a page takes, of which the caller may see little.
const MAX_LOOKS: usize = 10;
/// In the detail of an event: where a table went.
const NEW_ID: &str = "new_id";
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
/// requests, keys and grants only as admins, or if they are their own; and where a table went, if
/// they see it there. What a change had to wait for comes before it; only a version that was
/// recorded late may come after later ones. With the header `Accept: text/event-stream` the answer
/// is a stream of server-sent events that goes on with what happens, while the caller's key or
/// token is good; `Last-Event-ID` is a cursor then. A message that has only an id is a cursor alone.
#[utoipa::path(get, path = "/v1/events", operation_id = "ListEvents", tag = "Events",
    params(ListEventsQuery),
    responses((status = 200, content((ListEventsResponse = "application/json"),
        (String = "text/event-stream"))), ApiError))]
pub(super) async fn list_events(
    State(state): State<AppState>,
    caller: Caller,
    standing: Option<Extension<Standing>>,
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
    let standing = standing.map(|Extension(standing)| standing);
    let events = follow(state, caller, standing, after, filter);
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
    let (mut shown, mut after, limit) = (Vec::new(), after, limit as usize);
    for _ in 0..MAX_LOOKS {
        let found = state.engine.events_after(after, filter, READ_AT_ONCE).await?;
        let events = found.events.iter().map(|(_, event)| event);
        let seen = state.access.sees_events(caller, events).await?;
        let seen = found.events.into_iter().zip(seen);
        let seen = seen.filter_map(|(event, is_seen)| is_seen.then_some(event));
        let room = limit - shown.len();
        shown.extend(seen.take(room));
        after = match shown.last() {
            Some((seq, _)) if shown.len() == limit => *seq,
            _ => found.until,
        };
        if found.is_end || shown.len() == limit {
            break;
        }
    }
    Ok((show(state, caller, shown).await?, after))
}

/// What a caller is told of events that they see: where a table went only if they see it there.
async fn show(
    state: &AppState,
    caller: &Caller,
    mut events: Vec<(i64, Event)>,
) -> Result<Vec<EventInfo>> {
    let places: Vec<Option<TableId>> = events.iter().map(|(_, event)| new_id(event)).collect();
    let ids: Vec<&TableId> = places.iter().flatten().collect();
    let mut sees = state.access.sees_tables(caller, &ids).await?.into_iter();
    for ((_, event), place) in events.iter_mut().zip(&places) {
        if place.is_none() || sees.next() != Some(true) {
            event.detail.remove(NEW_ID);
        }
    }
    Ok(events.into_iter().map(|(seq, event)| EventInfo::new(seq, event)).collect())
}

fn new_id(event: &Event) -> Option<TableId> {
    let names: Vec<String> = serde_json::from_value(event.detail.get(NEW_ID)?.clone()).ok()?;
    TableId::from_list(&names).ok()
}

/// What happens from here on, until the client is to connect anew, or may not any more.
fn follow(
    state: AppState,
    caller: Caller,
    standing: Option<Standing>,
    after: i64,
    filter: Filter,
) -> impl Stream<Item = Result<Message, Infallible>> {
    let until = Instant::now() + STREAM;
    let pages = stream::unfold(after, move |after| {
        let (state, caller, filter) = (state.clone(), caller.clone(), filter.clone());
        let standing = standing.clone();
        async move {
            while Instant::now() < until {
                if let Some(standing) = &standing
                    && let Err(error) = standing.confirm().await
                {
                    tracing::debug!(%error, "a stream of events ends: its caller may not go on");
                    return None;
                }
                match page(&state, &caller, after, &filter, MAX_LIMIT).await {
                    Ok((events, next)) if next > after => return Some(((events, next), next)),
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
    let pages = pages.flat_map(|(events, next)| {
        let is_said = events.last().is_some_and(|event| event.cursor() == next.to_string());
        let place = (!is_said).then(|| here(next));
        let messages = events.into_iter().map(|event| {
            let message = Message::default().id(event.cursor()).event(event.kind());
            // What is made of strings and numbers can be written.
            message.json_data(&event).unwrap_or_default()
        });
        stream::iter(messages.chain(place).map(Ok))
    });
    stream::iter([Ok(here(after))]).chain(pages)
}

/// Tells a client only where it is, for when it connects anew.
fn here(after: i64) -> Message {
    Message::default().id(after.to_string())
}
