//! Bodies with something beside them: it sees how many bytes come, or is there until all have.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// The error of a kind that is behind an error of a body, if one is.
pub(super) fn cause_of<T: std::error::Error + 'static>(error: &axum::Error) -> Option<&T> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// What goes with a body.
pub(super) trait Beside: Send + Unpin + 'static {
    fn came(&mut self, _bytes: u64) {}

    /// How many bytes are still to come, where the body itself does not say.
    fn left(&self) -> Option<u64> {
        None
    }
}

/// The same body, with something beside it.
pub(super) fn with(body: Body, beside: impl Beside) -> Body {
    Body::new(With { body, beside })
}

/// How many bytes are still to come, if that is known.
pub(super) struct Left(pub(super) Option<u64>);

impl Beside for Left {
    fn came(&mut self, bytes: u64) {
        self.0 = self.0.map(|left| left.saturating_sub(bytes));
    }

    fn left(&self) -> Option<u64> {
        self.0
    }
}

struct With<T> {
    body: Body,
    beside: T,
}

impl<T: Beside> HttpBody for With<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.beside.came(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() || self.beside.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.beside.left().map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}
