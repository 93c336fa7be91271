//! The sweeper: removes garbage now and then.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::commit::Engine;

pub(super) async fn run(engine: Engine, interval: Duration, stop: CancellationToken) {
    // An interval of zero would be a busy loop.
    let interval = interval.max(Duration::from_millis(100));
    while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        match engine.sweep().await {
            Ok(swept) if swept.folders > 0 || swept.uploads > 0 => {
                tracing::info!(folders = swept.folders, uploads = swept.uploads, "swept");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "could not sweep"),
        }
    }
}
