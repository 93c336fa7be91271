//! Requests that a LanceDB client sends again, under the same `x-request-id`, when it does not know
//! what became of them: they take effect once, and get the same answer again.

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::commit::Once;
use crate::http::AppState;
use crate::http::error::ApiResult;
use crate::http::extract::Database;
use crate::http::once::{answer_once, read};
use crate::model::Caller;

const REQUEST_ID: &str = "x-request-id";

/// Passes a request on once, however often it is sent. One without an id is always passed on, and so
/// is one whose id is no UUID, as these clients send: others give one id to many requests. One with an
/// `Idempotency-Key` has been looked at before.
pub(in crate::http) async fn take_effect_once(
    State(state): State<AppState>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    if caller.mark().is_some() || id.is_none_or(|id| Uuid::try_parse(id).is_err()) {
        return next.run(request).await;
    }
    match pass_on_once(state, &caller, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn pass_on_once(
    state: AppState,
    caller: &Caller,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    let (mut parts, body) = request.into_parts();
    let database = Database::from_request_parts(&mut parts, &state).await?;
    let database = database.namespace().map(|name| name.to_string()).unwrap_or_default();
    let route = format!("{} {}", parts.method, parts.uri);
    let id = parts.headers.get(REQUEST_ID).map(|id| String::from_utf8_lossy(id.as_bytes()));
    let id = id.unwrap_or_default().into_owned();
    let once = |bytes: &[u8]| Once::of_request(caller, &database, &route, &id, bytes);
    let (once, request) = read(&state, Request::from_parts(parts, body), once).await?;
    answer_once(&state, once, request, next).await
}
