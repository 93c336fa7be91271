//! Bodies that an answer does not wait for. A connection that is closed while its client is still
//! sending takes our answer with it, and where it is closed after that, the client's next request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use http_body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How much of a body that nobody wants is still read, for how long, and for how long nothing of it
/// may come, which is as long as nginx waits.
const MAX_BYTES: u64 = 1 << 30;
const MAX_TIME: Duration = Duration::from_secs(60);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The body, of which the rest is read in the background once it is dropped before its end.
pub(super) fn on(body: Body, headers: &HeaderMap) -> Body {
    // Who waits to be asked for it sends nothing unless it is read.
    let is_coming = !headers.contains_key(header::EXPECT);
    Body::new(Lingering { body, is_coming })
}

struct Lingering {
    body: Body,
    is_coming: bool,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_coming = true;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.is_coming = false;
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

impl Drop for Lingering {
    fn drop(&mut self) {
        if !self.is_coming || self.body.is_end_stream() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let mut rest = std::mem::take(&mut self.body).into_data_stream();
        let read_on = async move {
            let mut bytes = 0;
            while let Ok(Some(Ok(chunk))) = timeout(MAX_PAUSE, rest.next()).await {
                bytes += chunk.len() as u64;
                if bytes > MAX_BYTES {
                    break;
                }
            }
        };
        runtime.spawn(async move { timeout(MAX_TIME, read_on).await });
    }
}
