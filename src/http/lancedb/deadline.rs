//! How long a client waits.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use futures::StreamExt;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::http::error::ApiError;
use crate::http::extract::patience;
use crate::lake::Batches;

/// The moment at which the answer to a question is given up, if the client named one.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Deadline(Option<Instant>);

impl<S: Sync> FromRequestParts<S> for Deadline {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let waits = patience(&parts.headers)?;
        // A moment beyond the clock never comes.
        Ok(Self(waits.and_then(|waits| Instant::now().checked_add(waits))))
    }
}

impl Deadline {
    /// Does `work` until it is done or given up.
    ///
    /// # Errors
    /// Those of the work; `InvalidInput` when it was given up, because nobody should try again.
    pub(super) async fn bound<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.0 {
            Some(moment) => tokio::time::timeout_at(moment, work).await.map_err(|_| too_late())?,
            None => work.await,
        }
    }

    /// The same batches until they are given up, which ends them with an error.
    pub(super) fn until(self, batches: Batches) -> Batches {
        let Some(moment) = self.0 else {
            return batches;
        };
        let Batches { schema, stream } = batches;
        let stream = futures::stream::unfold(Some(stream), move |stream| async move {
            let mut stream = stream?;
            match tokio::time::timeout_at(moment, stream.next()).await {
                Ok(batch) => Some((batch?, Some(stream))),
                Err(_) => Some((Err(too_late()), None)),
            }
        });
        Batches { schema, stream: stream.boxed() }
    }
}

fn too_late() -> Error {
    Error::invalid_input("the answer took longer than x-request-timeout-ms allows")
}
