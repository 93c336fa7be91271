//! The only place where an [`Error`] becomes a status and a body.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response as ResponseDoc, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::error::Error;

/// How long a caller should wait before it tries again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// How a caller may say who they are.
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// The spec's error body. A refused commit adds the last three fields.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<BTreeMap<String, String>>,
    /// A brief message for a person.
    pub error: String,
    /// The spec's number of this kind of error, 0 to 23.
    #[schema(minimum = 0)]
    pub code: u32,
    /// What else helps, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The path of the request.
    pub instance: String,
    /// The newest version of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_version: Option<u64>,
    /// Lance's name of the operation that won.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflicting_operation: Option<String>,
    /// Whether the same commit can succeed when tried again from the current version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// The place, from 0, of the entry that was refused in a request for several tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
}

/// An error on its way out. The middleware renders it, because it knows the path.
#[derive(Debug, Clone)]
pub struct ApiError(Arc<Error>);

/// What a handler answers.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// As [`Error::is_certainly_not_committed`].
    pub(super) fn is_certainly_not_committed(&self) -> bool {
        self.0.is_certainly_not_committed()
    }
}

impl<E: Into<Error>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self(Arc::new(error.into()))
    }
}

/// Who the answer is for. The body is the same; the status says to each what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The Lance Namespace specification.
    Namespace,
    /// LanceDB's own clients. They send a request again after 409, 429 and 5xx, so that 409 is kept
    /// for what can succeed then, and take 404 for a table that is not there.
    LanceDb,
}

/// The HTTP status of each kind of error, and the spec's code.
fn status_and_code(error: &Error, dialect: Dialect) -> (StatusCode, u32) {
    let (not_served, stands, not_within) = match dialect {
        Dialect::Namespace => {
            (StatusCode::NOT_ACCEPTABLE, StatusCode::CONFLICT, StatusCode::NOT_FOUND)
        }
        Dialect::LanceDb => {
            (StatusCode::NOT_IMPLEMENTED, StatusCode::BAD_REQUEST, StatusCode::BAD_REQUEST)
        }
    };
    match error {
        Error::Entry { error, .. } => status_and_code(error, dialect),
        Error::Unsupported(_) => (not_served, 0),
        Error::NamespaceNotFound(_) => (StatusCode::NOT_FOUND, 1),
        Error::NamespaceAlreadyExists(_) => (StatusCode::CONFLICT, 2),
        Error::NamespaceNotEmpty(_) => (StatusCode::CONFLICT, 3),
        Error::TableNotFound(_) => (StatusCode::NOT_FOUND, 4),
        Error::TableAlreadyExists(_) => (stands, 5),
        Error::TableIndexNotFound { .. } => (StatusCode::NOT_FOUND, 6),
        Error::TableIndexAlreadyExists(_) => (stands, 7),
        Error::TableTagNotFound { .. } => (not_within, 8),
        Error::TableTagAlreadyExists { .. } => (stands, 9),
        Error::TransactionNotFound(_) => (StatusCode::NOT_FOUND, 10),
        Error::TableVersionNotFound { .. } => (not_within, 11),
        Error::TableColumnNotFound(_) => (not_within, 12),
        Error::InvalidInput(_) => (StatusCode::BAD_REQUEST, 13),
        Error::ConcurrentModification(conflict) if conflict.retryable => (StatusCode::CONFLICT, 14),
        Error::ConcurrentModification(_) => (stands, 14),
        Error::PermissionDenied(_) => (StatusCode::FORBIDDEN, 15),
        Error::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, 16),
        Error::ServiceUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, 17),
        Error::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, 18),
        Error::InvalidTableState(_) => (stands, 19),
        Error::TableSchemaValidation(_) => (StatusCode::BAD_REQUEST, 20),
        Error::Throttling(_) => (StatusCode::TOO_MANY_REQUESTS, 21),
        Error::TableBranchNotFound { .. } => (StatusCode::NOT_FOUND, 22),
        Error::TableBranchAlreadyExists { .. } => (StatusCode::CONFLICT, 23),
    }
}

/// The error that a response carries, and the spec's number of it.
pub(super) fn refused_with(response: &Response) -> Option<(Arc<Error>, u32)> {
    let ApiError(error) = response.extensions().get::<ApiError>()?;
    let (_, code) = status_and_code(error, Dialect::Namespace);
    Some((error.clone(), code))
}

/// What failed, if the server failed.
pub(super) fn failure_of(response: &Response) -> Option<Arc<Error>> {
    let ApiError(error) = response.extensions().get::<ApiError>()?;
    matches!(error.and_entry().0, Error::Internal { .. }).then(|| error.clone())
}

/// Gives a response that carries an error its status and body. Errors are logged here, once.
pub(super) fn render(response: Response, path: &str) -> Response {
    let Some(ApiError(error)) = response.extensions().get::<ApiError>().cloned() else {
        return response;
    };
    let dialect = response.extensions().get().copied().unwrap_or(Dialect::Namespace);
    let (status, code) = status_and_code(&error, dialect);
    let (inner, index) = error.and_entry();
    if !error.is_certainly_not_committed() {
        let cause = std::error::Error::source(inner).map(|cause| format!("{cause:?}"));
        tracing::error!(%error, cause, "request failed");
    }
    let conflict = match inner {
        Error::ConcurrentModification(conflict) => Some(conflict.as_ref().clone()),
        _ => None,
    };
    let body = ErrorResponse {
        context: None,
        error: match inner {
            Error::Internal { .. } => "the server failed; its log tells more".into(),
            _ => error.to_string(),
        },
        code,
        detail: None,
        instance: path.to_owned(),
        current_version: conflict.as_ref().and_then(|conflict| conflict.current_version),
        retryable: conflict.as_ref().map(|conflict| conflict.retryable),
        conflicting_operation: conflict.and_then(|conflict| conflict.conflicting_operation),
        index,
    };
    let mut rendered = (status, Json(body)).into_response();
    if status == StatusCode::UNAUTHORIZED {
        rendered.headers_mut().insert(header::WWW_AUTHENTICATE, BEARER);
    }
    if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status) {
        rendered.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    rendered
}

/// A plain answer in the same shape, for what never reached a handler.
fn plain(status: StatusCode, error: &str, path: &str) -> Response {
    let body = ErrorResponse {
        context: None,
        error: error.into(),
        code: 0,
        detail: None,
        instance: path.to_owned(),
        current_version: None,
        conflicting_operation: None,
        retryable: None,
        index: None,
    };
    (status, Json(body)).into_response()
}

/// The answer for a path that no operation has. LanceDB's clients would take 404 for a table that is
/// not there.
pub(super) async fn no_such_route(uri: axum::http::Uri) -> Response {
    if uri.path().starts_with("/v1/table/") && uri.path().ends_with('/') {
        return plain(StatusCode::NOT_IMPLEMENTED, "this operation is not served", uri.path());
    }
    plain(StatusCode::NOT_FOUND, "no operation has this path", uri.path())
}

/// The answer for a method that no operation of the path has.
pub(super) async fn no_such_method(uri: axum::http::Uri) -> Response {
    plain(StatusCode::METHOD_NOT_ALLOWED, "no operation of this path has this method", uri.path())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, _) = status_and_code(&self.0, Dialect::Namespace);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponses for ApiError {
    fn responses() -> BTreeMap<String, RefOr<ResponseDoc>> {
        let kinds = [
            ("400", "The request is wrong; the sentence says what to change"),
            ("401", "The caller does not say who they are, or cannot show it"),
            ("403", "The caller may not do this"),
            ("404", "Something that the request names is not there"),
            ("406", "This operation, or this form of it, is not served"),
            ("409", "What is there, or what others did meanwhile, stands against it"),
            (
                "429",
                "Too many changes of the table wait already, or the caller sends too much; try again \
                 after `Retry-After` seconds",
            ),
            ("500", "The server failed; the outcome of a change may be unknown"),
            ("503", "Something that the server needs does not answer; try again"),
        ];
        let body = || {
            let schema = Ref::from_schema_name("ErrorResponse");
            ContentBuilder::new().schema(Some(schema)).build()
        };
        kinds
            .into_iter()
            .map(|(status, text)| {
                let response =
                    ResponseBuilder::new().description(text).content("application/json", body());
                (status.to_owned(), RefOr::T(response.build()))
            })
            .collect()
    }
}
