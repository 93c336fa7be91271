//! Requests that a LanceDB client sends again, under the same `x-request-id`, when it does not know
//! what became of them: they take effect once, and get the same answer again.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::VERSION;
use crate::commit::Once;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Database, JsonBytes};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::model::Caller;

const REQUEST_ID: &str = "x-request-id";
/// The longest answer to a change; most have some hundred bytes.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// An answer in the form in which it is kept.
#[derive(Serialize, Deserialize)]
struct Answer {
    status: u16,
    /// The version of the table that it is about.
    version: Option<u64>,
    body: String,
}

/// Passes a request on once, however often it is sent. One without an id is always passed on, and so
/// is one whose id is no UUID, as these clients send: others give one id to many requests.
pub(in crate::http) async fn take_effect_once(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    if id.is_none_or(|id| Uuid::try_parse(id).is_err()) {
        return next.run(request).await;
    }
    match answer_once(state, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer_once(state: AppState, request: Request, next: Next) -> ApiResult<Response> {
    let (once, request) = read(&state, request).await?;
    let engine = state.engine.clone();
    finish_even_if_the_client_leaves(&state.work, async move {
        let mut failed = None;
        let work = async {
            let response = next.run(request).await;
            if response.status().is_success() {
                return Answer::of(response).await;
            }
            let error = meaning(&response);
            failed = Some(response);
            Err(error)
        };
        let answer = engine.once(Some(&once), work).await;
        match (failed, answer) {
            (Some(response), _) => Ok(response),
            (None, answer) => Ok(answer?.into_response()),
        }
    })
    .await
    .map_err(ApiError::from)
}

/// The key of a request, and the request with its body read.
async fn read(state: &AppState, request: Request) -> ApiResult<(Once, Request)> {
    let (mut parts, body) = request.into_parts();
    let caller = Caller::from_request_parts(&mut parts, state).await?;
    let database = Database::from_request_parts(&mut parts, state).await?;
    let database = database.namespace().map(|name| name.to_string()).unwrap_or_default();
    let route = format!("{} {}", parts.method, parts.uri);
    let id = parts.headers.get(REQUEST_ID).map(|id| String::from_utf8_lossy(id.as_bytes()));
    let id = id.unwrap_or_default().into_owned();
    let again = Request::from_parts(parts.clone(), body);
    let JsonBytes(bytes) = JsonBytes::from_request(again, state).await?;
    let once = Once::of_request(&caller, &database, &route, &id, &bytes);
    Ok((once, Request::from_parts(parts, Body::from(bytes))))
}

/// What a response that is no success says of the change: that nothing happened, or that nobody
/// knows.
fn meaning(response: &Response) -> Error {
    let known = match response.extensions().get::<ApiError>() {
        Some(error) => error.is_certainly_not_committed(),
        None => response.status().is_client_error(),
    };
    if known {
        Error::invalid_input("the request was refused")
    } else {
        Error::ServiceUnavailable("the outcome is unknown".into())
    }
}

impl Answer {
    async fn of(response: Response) -> Result<Self> {
        let (parts, body) = response.into_parts();
        let version = parts.headers.get(VERSION).and_then(|version| version.to_str().ok());
        let version = version.and_then(|version| version.parse().ok());
        let body = to_bytes(body, MAX_ANSWER_BYTES).await;
        let body = body.map_err(|error| Error::internal("reading an answer", error))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Self { status: parts.status.as_u16(), version, body })
    }

    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if let Some(version) = self.version {
            response.headers_mut().insert(VERSION, HeaderValue::from(version));
        }
        response
    }
}
