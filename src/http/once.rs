//! Requests with an `Idempotency-Key` take effect once, and are answered the same however often they
//! are sent. This file lists the operations that take one: all that change something.
//!
//! A key is bound to the caller, the database, the method, the path with its query string, and the
//! body. What has a short body is answered here as a whole. Where the body is a stream of rows, its
//! hash is known at its end only: the rows are staged first, and the engine takes the key then.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{OpenApi, RefOr};

use super::AppState;
use super::error::{ApiError, ApiResult};
use super::extract::{Database, JsonBytes};
use super::lancedb::VERSION;
use super::namespace::data::finish_even_if_the_client_leaves;
use crate::commit::Once;
use crate::error::{Error, Result};
use crate::model::{Caller, StreamKey};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const MAX_KEY_BYTES: usize = 256;
/// The longest answer to a change; most have some hundred bytes.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// What the body of an operation is, and so who takes the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// A short one: it is read before the request is passed on.
    Body,
    /// Rows, of any number.
    Stream,
    /// The operation's own handler takes it.
    Itself,
    /// Nobody: the answer is secret, and kept nowhere.
    Nobody,
}

/// Every operation that changes something, by its path; what is read under the same path with GET is
/// not meant.
const WRITES: [(&str, Takes); 72] = [
    ("/v1/namespace/{id}/create", Takes::Body),
    ("/v1/namespace/{id}/drop", Takes::Body),
    ("/v1/table/{id}/register", Takes::Body),
    ("/v1/table/{id}/drop", Takes::Body),
    ("/v1/table/{id}/deregister", Takes::Body),
    ("/v1/table/{id}/rename", Takes::Body),
    ("/v1/table/{id}/declare", Takes::Body),
    ("/v1/table/{id}/restore", Takes::Body),
    ("/v1/table/{id}/version/create", Takes::Body),
    ("/v1/table/{id}/version/delete", Takes::Body),
    ("/v1/table/version/batch-create", Takes::Body),
    ("/v1/table/batch-commit", Takes::Body),
    ("/v1/table/{id}/schema_metadata/update", Takes::Body),
    ("/v1/table/{id}/alter_columns", Takes::Body),
    ("/v1/table/{id}/update_field_metadata", Takes::Body),
    ("/v1/table/{id}/drop_columns", Takes::Body),
    ("/v1/table/{id}/add_columns", Takes::Body),
    ("/v1/table/{id}/backfill_column", Takes::Body),
    ("/v1/table/{id}/tags/create", Takes::Body),
    ("/v1/table/{id}/tags/delete", Takes::Body),
    ("/v1/table/{id}/tags/update", Takes::Body),
    ("/v1/table/{id}/branches/create", Takes::Body),
    ("/v1/table/{id}/branches/delete", Takes::Body),
    ("/v1/table/{id}/create", Takes::Stream),
    ("/v1/table/{id}/insert", Takes::Stream),
    ("/v1/table/{id}/merge_insert", Takes::Stream),
    ("/v1/table/{id}/update", Takes::Body),
    ("/v1/table/{id}/delete", Takes::Body),
    ("/v1/transaction/{id}/alter", Takes::Body),
    ("/v1/materialized_view/{id}/refresh", Takes::Body),
    ("/v1/materialized_view/{id}/create", Takes::Body),
    ("/v1/table/{id}/create_index", Takes::Body),
    ("/v1/table/{id}/create_scalar_index", Takes::Body),
    ("/v1/table/{id}/index/{index_name}/drop", Takes::Body),
    ("/v1/table/{id}/fragments", Takes::Stream),
    ("/v1/table/{id}/fragments/{fragment_id}/columns", Takes::Stream),
    ("/v1/table/{id}/commit", Takes::Itself),
    ("/v1/commit", Takes::Itself),
    ("/v1/table/{id}/uploads/{upload_id}", Takes::Body),
    ("/v1/table/{id}/undrop", Takes::Body),
    ("/v1/table/{id}/purge", Takes::Body),
    ("/v1/namespace/{id}/protect", Takes::Body),
    ("/v1/table/{id}/protect", Takes::Body),
    ("/v1/access/keys/create", Takes::Nobody),
    ("/v1/access/keys/{key_id}/rotate", Takes::Nobody),
    ("/v1/access/keys/{key_id}", Takes::Body),
    ("/v1/access/grants/create", Takes::Body),
    ("/v1/access/grants/delete", Takes::Body),
    // What LanceDB's clients ask for.
    ("/v1/table/{id}/create/", Takes::Stream),
    ("/v1/table/{id}/insert/", Takes::Stream),
    ("/v1/table/{id}/merge_insert/", Takes::Stream),
    ("/v1/table/{id}/clone", Takes::Body),
    ("/v1/table/{id}/drop/", Takes::Body),
    ("/v1/table/{id}/rename/", Takes::Body),
    ("/v1/table/{id}/update/", Takes::Body),
    ("/v1/table/{id}/delete/", Takes::Body),
    ("/v1/table/{id}/multipart_write/create", Takes::Body),
    ("/v1/table/{id}/multipart_write/complete", Takes::Body),
    ("/v1/table/{id}/multipart_write/abort", Takes::Body),
    ("/v1/table/{id}/create_index/", Takes::Body),
    ("/v1/table/{id}/index/{index_name}/drop/", Takes::Body),
    ("/v1/table/{id}/restore/", Takes::Body),
    ("/v1/table/{id}/tags/create/", Takes::Body),
    ("/v1/table/{id}/tags/update/", Takes::Body),
    ("/v1/table/{id}/tags/delete/", Takes::Body),
    ("/v1/table/{id}/branches/create/", Takes::Body),
    ("/v1/table/{id}/branches/delete/", Takes::Body),
    ("/v1/table/{id}/add_columns/", Takes::Body),
    ("/v1/table/{id}/alter_columns/", Takes::Body),
    ("/v1/table/{id}/drop_columns/", Takes::Body),
    ("/v1/table/{id}/update_field_metadata/", Takes::Body),
    ("/v1/jobs/cancel", Takes::Body),
];

fn takes(path: &str) -> Option<Takes> {
    WRITES.iter().find(|(known, _)| *known == path).map(|(_, takes)| *takes)
}

/// Whether the body of a request is rows, of any number.
pub(super) fn takes_rows(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    request.method() != Method::GET && path.and_then(takes) == Some(Takes::Stream)
}

/// Whether a request is to change something.
pub(super) fn changes_something(method: &Method, path: &str) -> bool {
    method != Method::GET && method != Method::HEAD && takes(path).is_some()
}

/// Says in the document which operations take a key.
pub(super) fn document_keys(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        if takes(path).is_none_or(|takes| takes == Takes::Nobody) {
            continue;
        }
        for operation in [&mut item.post, &mut item.put, &mut item.delete].into_iter().flatten() {
            document_key(operation);
        }
    }
}

fn document_key(operation: &mut Operation) {
    let text = ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_KEY_BYTES));
    let key = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "A request with this header takes effect once, however often it is sent, and is \
             answered the same for a day. The same key with another body is refused.",
        ))
        .schema(Some(Schema::Object(text.build())));
    operation.parameters.get_or_insert_default().push(RefOr::T(key.build()));
}

/// # Errors
/// `InvalidInput` for what cannot be a key.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        _ if values.next().is_some() => {
            Err(Error::invalid_input("the header Idempotency-Key stands there twice"))
        }
        Ok(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES => Ok(Some(key)),
        _ => Err(Error::invalid_input(format!(
            "Idempotency-Key must be text of 1 to {MAX_KEY_BYTES} bytes"
        ))),
    }
}

/// Passes a request on once, however often it is sent with its key.
pub(super) async fn take_effect_once(state: &AppState, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let takes = match path.and_then(takes) {
        Some(takes) if request.method() != Method::GET && takes != Takes::Itself => takes,
        _ => return next.run(request).await,
    };
    let key = match idempotency_key(request.headers()) {
        Ok(Some(_)) if takes == Takes::Nobody => {
            let refused = "this takes no Idempotency-Key: what it answers is kept nowhere";
            return ApiError::from(Error::invalid_input(refused)).into_response();
        }
        Ok(Some(key)) => key.to_owned(),
        Ok(None) => return next.run(request).await,
        Err(error) => return ApiError::from(error).into_response(),
    };
    match Box::pin(pass_on_once(state, &key, takes, request, next)).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn pass_on_once(
    state: &AppState,
    key: &str,
    takes: Takes,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    let (mut parts, body) = request.into_parts();
    let caller = Caller::from_request_parts(&mut parts, state).await?;
    let database = Database::from_request_parts(&mut parts, state).await?;
    let database = database.namespace().map(|name| name.to_string());
    let route = format!("{} {}", parts.method, parts.uri);
    // As JSON, since none of them is free of any separator.
    let bound =
        serde_json::json!([IDEMPOTENCY_KEY, caller.name(), database, route, key]).to_string();
    if takes == Takes::Stream {
        parts.extensions.insert(StreamKey::new(bound));
        return Ok(next.run(Request::from_parts(parts, body)).await);
    }
    let (once, request) =
        read(state, Request::from_parts(parts, body), |bytes| Once::of_key(&bound, bytes)).await?;
    answer_once(state, once, request, next).await
}

/// The key of a request with a short body, and the request with its body read.
pub(super) async fn read(
    state: &AppState,
    request: Request,
    once: impl FnOnce(&[u8]) -> Once,
) -> ApiResult<(Once, Request)> {
    let (parts, body) = request.into_parts();
    let again = Request::from_parts(parts.clone(), body);
    let JsonBytes(bytes) = JsonBytes::from_request(again, state).await?;
    Ok((once(&bytes), Request::from_parts(parts, Body::from(bytes))))
}

/// Passes a request on, unless its key has an answer.
pub(super) async fn answer_once(
    state: &AppState,
    once: Once,
    mut request: Request,
    next: Next,
) -> ApiResult<Response> {
    let engine = state.engine.clone();
    finish_even_if_the_client_leaves(&state.work, async move {
        let mut failed = None;
        let work = |mark| {
            request.extensions_mut().insert(mark);
            let failed = &mut failed;
            async move {
                let response = next.run(request).await;
                if response.status().is_success() {
                    return Answer::of(response).await;
                }
                let error = meaning(&response);
                *failed = Some(response);
                Err(error)
            }
        };
        let answer = engine.once(&once, work).await;
        match (failed, answer) {
            (Some(response), _) => Ok(response),
            (None, answer) => Ok(answer?.into_response()),
        }
    })
    .await
    .map_err(ApiError::from)
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

/// An answer in the form in which it is kept.
#[derive(Serialize, Deserialize)]
struct Answer {
    status: u16,
    /// The version of the table that it is about, where the dialect says it.
    version: Option<u64>,
    #[serde(default)]
    content_type: Option<String>,
    body: String,
}

impl Answer {
    async fn of(response: Response) -> Result<Self> {
        let (parts, body) = response.into_parts();
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let version = text(VERSION).and_then(|version| version.parse().ok());
        let content_type = text(header::CONTENT_TYPE).map(str::to_owned);
        let body = to_bytes(body, MAX_ANSWER_BYTES).await;
        let body = body.map_err(|error| Error::internal("reading an answer", error))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Self { status: parts.status.as_u16(), version, content_type, body })
    }

    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or_default();
        let content_type = self.content_type.and_then(|kind| HeaderValue::from_str(&kind).ok());
        if let Some(content_type) = content_type {
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        }
        if let Some(version) = self.version {
            response.headers_mut().insert(VERSION, HeaderValue::from(version));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::operations;

    /// What is asked with POST and changes nothing.
    const READS: [&str; 17] = [
        "/v1/namespace/{id}/describe",
        "/v1/namespace/{id}/exists",
        "/v1/table/{id}/describe",
        "/v1/table/{id}/exists",
        "/v1/table/{id}/version/list",
        "/v1/table/{id}/version/describe",
        "/v1/table/{id}/stats",
        "/v1/table/{id}/tags/list",
        "/v1/table/{id}/tags/version",
        "/v1/table/{id}/branches/list",
        "/v1/table/{id}/query",
        "/v1/table/{id}/count_rows",
        "/v1/table/{id}/explain_plan",
        "/v1/table/{id}/analyze_plan",
        "/v1/transaction/{id}/describe",
        "/v1/table/{id}/index/list",
        "/v1/table/{id}/index/{index_name}/stats",
    ];

    #[test]
    fn every_operation_of_the_document_that_changes_something_takes_a_key() {
        for (path, item) in &operations().1.paths.paths {
            let changes = item.post.is_some() || item.put.is_some() || item.delete.is_some();
            let known = takes(path).is_some() || READS.contains(&path.as_str());
            assert!(!changes || known, "{path} is neither in WRITES nor a read");
        }
    }

    #[test]
    fn no_operation_is_named_twice() {
        for (index, (path, _)) in WRITES.iter().enumerate() {
            assert!(WRITES[index + 1..].iter().all(|(other, _)| other != path), "{path}");
        }
    }
}
