//! Takes up work that another process began and left, and that of this one before a restart.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::commit::Engine;

/// How often it looks for such work.
const INTERVAL: Duration = Duration::from_secs(15);

pub(super) async fn run(engine: Engine, stop: CancellationToken) {
    loop {
        if let Err(error) = engine.resume_jobs().await {
            tracing::warn!(%error, "could not look for jobs that were left");
        }
        if let Err(error) = engine.recover_batches().await {
            tracing::warn!(%error, "could not bring a batch that was left to its end");
        }
        if stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none() {
            return;
        }
    }
}
