//! What is measured of each request.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::response::Response;

use super::body::{self, Beside};
use super::document;
use crate::telemetry::meters::{self, Label, Present};

/// The methods that are told apart. A client may send any word for one.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
    Method::OPTIONS,
];

/// The name of what a request asks for: that of the OpenAPI document, else method and path of the
/// route; `none` for what no operation has.
pub(super) fn operation_of(request: &Request) -> Label {
    let Some(path) = request.extensions().get::<MatchedPath>() else {
        return Label::const_str("none");
    };
    let (method, path) = (request.method(), path.as_str());
    let method = if METHODS.contains(method) { method.as_str() } else { "OTHER" };
    match names().get(&(method, path)) {
        Some(name) => Label::const_str(name),
        None => Label::from_shared(Arc::from(format!("{method} {path}"))),
    }
}

/// The `operationId` of each method and path of the document.
fn names() -> &'static HashMap<(&'static str, &'static str), &'static str> {
    static NAMES: LazyLock<HashMap<(&str, &str), &str>> = LazyLock::new(|| {
        let items = document().paths.paths.iter();
        let named = items.flat_map(|(path, item)| {
            [("GET", &item.get), ("POST", &item.post), ("DELETE", &item.delete)]
                .into_iter()
                .filter_map(|(method, operation)| {
                    let name = operation.as_ref()?.operation_id.as_deref()?;
                    Some(((method, path.as_str()), name))
                })
        });
        named.collect()
    });
    &NAMES
}

/// Counts the bytes of a request's body as they are read.
pub(super) fn count_received(request: Request, operation: Label) -> Request {
    let bytes = meters::received(operation);
    request.map(|body| body::with(body, Counted { bytes, _present: None }))
}

/// Counts the bytes of an answer as they are sent. The request is there until they are.
pub(super) fn count_sent(response: Response, operation: Label, present: Present) -> Response {
    let bytes = meters::sent(operation);
    response.map(|body| body::with(body, Counted { bytes, _present: Some(present) }))
}

struct Counted {
    bytes: meters::Bytes,
    /// The request, until all of its answer was sent.
    _present: Option<Present>,
}

impl Beside for Counted {
    fn came(&mut self, bytes: u64) {
        self.bytes.increment(bytes);
    }
}
