//! What is measured of each request.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::document;
use crate::telemetry::meters::{self, Label, Present};

/// The name of what a request asks for: that of the OpenAPI document, else method and path of the
/// route; `none` for what no operation has.
pub(super) fn operation_of(request: &Request) -> Label {
    let Some(path) = request.extensions().get::<MatchedPath>() else {
        return Label::const_str("none");
    };
    let (method, path) = (request.method().as_str(), path.as_str());
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
    request.map(|body| Body::new(Counted { body, bytes }))
}

/// Counts the bytes of an answer as they are sent. The request is there until they are.
pub(super) fn count_sent(response: Response, operation: Label, present: Present) -> Response {
    let bytes = meters::sent(operation);
    response.map(|body| Body::new(Kept::new(Body::new(Counted { body, bytes }), present)))
}

/// A body of which the bytes are counted.
struct Counted {
    body: Body,
    bytes: meters::Bytes,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.bytes.increment(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body with something that is needed until all of it was sent.
pub(super) struct Kept<T> {
    body: Body,
    _kept: T,
}

impl<T> Kept<T> {
    pub(super) fn new(body: Body, kept: T) -> Self {
        Self { body, _kept: kept }
    }
}

impl<T: Unpin> HttpBody for Kept<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
