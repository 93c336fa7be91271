//! Bodies that come for a long time: whoever may not go on is not heard to the end.

use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use futures::StreamExt;
use thiserror::Error;

use super::Standing;
use crate::http::body::{self, Left, cause_of};

/// How often it is asked again while a body comes. Nobody is let read for longer without a look either.
const ASKED: Duration = Duration::from_secs(1);
/// What is no longer is there when it is looked at.
const SHORT_BYTES: u64 = 64 << 10;

/// The caller may not send this any more.
#[derive(Debug, Error)]
#[error("{0}")]
struct NoLonger(String);

/// The body, as long as its sender may go on. Each part that comes, and its end, is handed on only if they
/// might have begun a second before it came.
pub(super) fn while_it_holds(body: Body, standing: &Standing) -> Body {
    let left = body.size_hint().exact();
    if body.is_end_stream() || left.is_some_and(|bytes| bytes <= SHORT_BYTES) {
        return body;
    }
    let begun = (body.into_data_stream(), standing.clone(), Instant::now());
    let parts = futures::stream::try_unfold(begun, |(mut parts, standing, asked)| async move {
        let part = parts.next().await.transpose()?;
        let asked = if asked.elapsed() < ASKED {
            asked
        } else {
            let refused = |error| axum::Error::new(NoLonger(format!("{error}")));
            standing.confirm().await.map_err(refused)?;
            Instant::now()
        };
        Ok::<_, axum::Error>(part.map(|part| (part, (parts, standing, asked))))
    });
    body::with(Body::from_stream(parts), Left(left))
}

/// Why a body was given up, if its sender may not go on.
pub(in crate::http) fn refused(error: &axum::Error) -> Option<String> {
    cause_of::<NoLonger>(error).map(|refused| format!("the body was given up: {refused}"))
}
