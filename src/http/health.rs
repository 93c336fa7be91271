//! The server itself: is it up, can it work, what does it serve.

use std::time::Duration;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::error::ApiError;
use super::{AppState, document};
use crate::telemetry::meters;

/// The version of the Lance Namespace specification that is served.
const SPEC_VERSION: &str = "0.13.0";

#[derive(Debug, Serialize, ToSchema)]
pub struct HealthResponse {
    /// `ok`.
    status: &'static str,
}

/// Say that the process is up.
#[utoipa::path(get, path = "/healthz", operation_id = "GetHealthz", tag = "Server",
    responses((status = 200, body = HealthResponse)))]
pub async fn get_healthz() -> Reply<HealthResponse> {
    Reply(HealthResponse { status: "ok" })
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ReadyResponse {
    /// `ok` or `unavailable`.
    status: &'static str,
    /// `ok` or `unavailable`.
    database: &'static str,
    /// `ok` or `unavailable`.
    storage: &'static str,
}

/// For how long it is not looked again whether the server can work.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// How long the database and the storage may take to answer. Those who ask hardly wait longer.
const PATIENCE: Duration = Duration::from_secs(4);

/// What was seen last of what the server works with. Nobody has to say who they are to ask, so that
/// one look is for all who do.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<Seen>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    database: bool,
    storage: bool,
}

async fn look(state: &AppState) -> Seen {
    let mut last = state.readiness.0.lock().await;
    if let Some(seen) = *last
        && seen.at.elapsed() < KNOWN_FOR
    {
        return seen;
    }
    // Who has no connection left for requests is busy, and no less well than others.
    let catalog = state.catalog.background();
    let (database, storage) =
        tokio::join!(timeout(PATIENCE, catalog.ping()), timeout(PATIENCE, state.lake.ping()));
    let (database, storage) = (matches!(database, Ok(Ok(()))), matches!(storage, Ok(Ok(()))));
    let seen = Seen { at: Instant::now(), database, storage };
    *last = Some(seen);
    seen
}

/// Say whether the database and the storage answer.
#[utoipa::path(get, path = "/readyz", operation_id = "GetReadyz", tag = "Server",
    responses((status = 200, body = ReadyResponse),
        (status = 503, body = ReadyResponse, description = "Something does not answer")))]
pub async fn get_readyz(State(state): State<AppState>) -> Response {
    let Seen { database, storage, .. } = look(&state).await;
    let word = |up: bool| if up { "ok" } else { "unavailable" };
    let all = database && storage;
    let status = if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body =
        ReadyResponse { status: word(all), database: word(database), storage: word(storage) };
    (status, Reply(body)).into_response()
}

/// Answer what was counted and measured, in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "GetMetrics", tag = "Server",
    responses((status = 200, body = String, content_type = "text/plain",
        description = "Counters, gauges and histograms")))]
pub async fn get_metrics(State(state): State<AppState>) -> impl IntoResponse {
    state.catalog.measure();
    state.lake.measure();
    state.engine.measure();
    ([(header::CONTENT_TYPE, meters::TEXT_TYPE)], meters::render())
}

/// Answer the OpenAPI document of what is served.
#[utoipa::path(get, path = "/openapi.json", operation_id = "GetOpenApi", tag = "Server",
    responses((status = 200, body = Object, description = "An OpenAPI 3.1 document")))]
pub async fn get_openapi() -> Reply<&'static utoipa::openapi::OpenApi> {
    Reply(document())
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CapabilitiesResponse {
    server: String,
    server_version: String,
    /// The version of the Lance Namespace specification.
    spec_version: String,
    dialects: Vec<String>,
    /// The `operationId` of every operation that is served.
    operations: Vec<String>,
    /// The operations of the specification that answer code 0 whatever is asked: none.
    unsupported_operations: Vec<String>,
    limits: CapabilityLimits,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CapabilityLimits {
    /// No limit when null.
    max_body_bytes: Option<u64>,
    /// The largest single Arrow record batch.
    max_batch_bytes: u64,
    max_page_limit: u32,
}

/// Say what this server serves.
#[utoipa::path(get, path = "/v1/capabilities", operation_id = "GetCapabilities", tag = "Server",
    responses((status = 200, body = CapabilitiesResponse), ApiError))]
pub async fn get_capabilities(State(state): State<AppState>) -> Reply<CapabilitiesResponse> {
    let document = document();
    let paths = document.paths.paths.values();
    let operations =
        paths.flat_map(|item| [&item.get, &item.post, &item.delete].into_iter().flatten());
    Reply(CapabilitiesResponse {
        server: env!("CARGO_PKG_NAME").into(),
        server_version: env!("CARGO_PKG_VERSION").into(),
        spec_version: SPEC_VERSION.into(),
        dialects: vec!["namespace".into(), "lancedb".into()],
        operations: operations.filter_map(|operation| operation.operation_id.clone()).collect(),
        unsupported_operations: Vec::new(),
        limits: CapabilityLimits {
            max_body_bytes: state.limits.max_body_bytes,
            max_batch_bytes: state.limits.max_batch_bytes,
            max_page_limit: crate::model::Page::MAX_LIMIT,
        },
    })
}
