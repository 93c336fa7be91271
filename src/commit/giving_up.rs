//! A batch that its own maker takes back: its tables are free again at once, and not only when its
//! lease is over.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::batch::Step;
use super::{Engine, jitter};
use crate::catalog::batches::BatchState;
use crate::error::{Error, Result};

/// How long a maker keeps at it when storage fails all the time. Then whoever comes next takes over.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Engine {
    /// Takes back a batch of which storage would not take a version, though asked twice. Answers
    /// what the caller is told.
    pub(super) async fn give_up(&self, batch: Uuid, steps: &[Step], error: Error) -> Error {
        tracing::warn!(batch.id = %batch, %error, "storage does not take a version; giving up");
        match self.take_own_back(batch, steps).await {
            Ok(()) => Error::ServiceUnavailable(
                "storage did not take a version; all of it was taken back: try again".into(),
            ),
            Err(_) => error,
        }
    }

    /// Takes back a batch that this process is at. When storage does not let it now, it goes on
    /// behind the answer: until then nobody else can commit to the tables.
    ///
    /// # Errors
    /// `ServiceUnavailable` when another took the batch over, and what storage failed with.
    pub(super) async fn take_own_back(&self, batch: Uuid, steps: &[Step]) -> Result<()> {
        if let Err(error) = self.abort(batch, BatchState::Open).await {
            if self.is_aborted(batch).await {
                // Whoever took the batch over ended it before the last of the puts.
                self.take_puts_back(batch, steps).await?;
            }
            return Err(error);
        }
        let ended = self.end_aborting(batch, steps).await;
        if ended.is_err() {
            let (engine, steps) = (self.clone(), steps.to_vec());
            self.work.spawn(async move {
                let work = engine.keep_taking_back(batch, &steps);
                engine.while_at_it(batch, work).await;
            });
        }
        ended
    }

    async fn keep_taking_back(&self, batch: Uuid, steps: &[Step]) {
        let (deadline, mut pause) = (Instant::now() + PATIENCE, PAUSE);
        while Instant::now() < deadline {
            tokio::time::sleep(jitter(pause)).await;
            match self.end_aborting(batch, steps).await {
                Ok(()) => return tracing::info!(batch.id = %batch, "took a batch back"),
                Err(error) => tracing::warn!(batch.id = %batch, %error, "could not take back yet"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
