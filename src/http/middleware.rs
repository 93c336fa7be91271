//! What every request passes through: a request id, a span, one log line, panics to 500, errors to
//! bodies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;
use uuid::Uuid;

use super::AppState;
use super::body::{self, Left};
use super::error::{ApiError, failure_of, render};
use super::extract::{TablePath, named};
use super::meters::{count_received, count_sent, operation_of};
use super::pace;
use super::{access, admission, lingering, once, refusals};
use crate::error::Error;
use crate::model::Asked;
use crate::telemetry::meters::{self, Present};
use crate::telemetry::traces;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What LanceDB's clients may ask for: several query vectors since 0.2, structured full text queries
/// since 0.3, uploads in parts since 0.4, blobs since 0.5, the elements of a list as documents of a full
/// text index since 0.6.
const PHALANX_VERSION: HeaderName = HeaderName::from_static("phalanx-version");
const SPOKEN: HeaderValue = HeaderValue::from_static("0.6.0");
/// A caller's own request id is kept up to this length.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// A body up to this length is read before its request is looked at.
const MAX_READ_AHEAD_BYTES: usize = 64 << 10;

pub(super) fn wrap(router: Router, client_timeout: Duration) -> Router {
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(move |request, next| observe(give_up_after(client_timeout, request), next)))
}

/// What every request of an operation passes through, from the outside to the inside. One layer, since
/// each has a future of its own in memory and copies of all those within it.
pub(super) async fn pass_on(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let state = &state;
    let once = |request| once::take_effect_once(state, request, next);
    let here = |request| unless_gone(state, request, once);
    let allowed = |request| access::decide(state, request, here);
    let noted = |request| refusals::note(state, request, allowed);
    admission::admit(state, request, noted).await
}

/// A request that fails because its table goes meanwhile, with all files, is no failure of the server:
/// whoever drops a table or its namespace waits for nobody.
async fn unless_gone<F: Future<Output = Response>>(
    state: &AppState,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let path = request.uri().path();
    if !access::TABLES.iter().any(|prefix| path.starts_with(prefix)) {
        return next(request).await;
    }
    let began_us = state.engine.now_us();
    let (mut parts, body) = request.into_parts();
    let table = named::<TablePath>(&mut parts).await;
    let response = next(Request::from_parts(parts, body)).await;
    let Some(error) = failure_of(&response) else { return response };
    let Ok(TablePath(id, _)) = table.as_deref() else { return response };
    match Box::pin(state.engine.went_since(id, began_us)).await {
        Ok(true) => {
            tracing::warn!(table.id = %id, ?error, "a table went while a request was at it");
            ApiError::from(Error::TableNotFound(id.clone())).into_response()
        }
        Ok(false) | Err(_) => response,
    }
}

async fn observe(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(&REQUEST_ID)
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES)
        .cloned()
        .unwrap_or_else(own_request_id);
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let operation = operation_of(&request);
    let span = tracing::info_span!(
        "request",
        request.id = id.to_str().unwrap_or("?"),
        %method,
        path = %path,
        otel.name = tracing::field::Empty,
        otel.kind = tracing::field::Empty,
    );
    if traces::is_on() {
        span.record("otel.name", &*operation).record("otel.kind", "server");
        let headers = request.headers();
        traces::continue_trace(&span, |name| headers.get(name)?.to_str().ok());
    }
    let (started, present) = (Instant::now(), Present::request());
    let mut request = count_received(request, operation.clone());
    request.extensions_mut().insert(operation.clone());
    let remote = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let asked = Asked {
        request_id: id.to_str().unwrap_or("?").to_owned(),
        operation: operation.to_string(),
        remote: remote.map(|ConnectInfo(address)| address.ip()),
    };
    request.extensions_mut().insert(Arc::new(asked));
    let respond = async {
        let answer = match read_ahead(request).await {
            Ok(request) => next.run(request).await,
            Err(error) => error.into_response(),
        };
        let mut response = render(answer, &path);
        response.headers_mut().insert(REQUEST_ID, id);
        response.headers_mut().insert(PHALANX_VERSION, SPOKEN);
        let (status, elapsed) = (response.status().as_u16(), started.elapsed());
        meters::answered(operation.clone(), status, elapsed);
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        tracing::info!(status, elapsed_us, "answered");
        count_sent(response, operation, present)
    };
    respond.instrument(span).await
}

/// Reads a small body to its end, so that no answer is ready before that: a refusal, or that of an
/// operation that has no body and is sent one all the same.
async fn read_ahead(request: Request) -> Result<Request, ApiError> {
    let (parts, body) = request.into_parts();
    if !is_small(&body) {
        return Ok(Request::from_parts(parts, body));
    }
    let bytes = to_bytes(body, MAX_READ_AHEAD_BYTES)
        .await
        .map_err(|error| Error::invalid_input(cut_off(&error)))?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

fn is_small(body: &Body) -> bool {
    body.size_hint().exact().is_some_and(|bytes| bytes <= MAX_READ_AHEAD_BYTES as u64)
}

/// Gives a body up of which nothing comes for so long, or too little.
fn give_up_after(client_timeout: Duration, request: Request) -> Request {
    let (parts, mut body) = request.into_parts();
    if !body.is_end_stream() {
        // What keeps its pace does not say how long it is.
        let left = Left(body.size_hint().exact());
        let is_small = is_small(&body);
        body = pace::of(body, client_timeout);
        if !is_small {
            body = lingering::on(body, &parts.headers);
        }
        body = body::with(body, left);
    }
    Request::from_parts(parts, body)
}

/// What became of a body that did not come to its end.
pub(super) fn cut_off(error: &axum::Error) -> String {
    let refused = || access::standing::refused(error);
    let why = pace::given_up(error).or_else(refused);
    why.unwrap_or_else(|| "the body was cut off before its end".into())
}

fn own_request_id() -> HeaderValue {
    let id = Uuid::new_v4().to_string();
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let said = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default();
    ApiError::from(Error::internal("a handler panicked", said)).into_response()
}
