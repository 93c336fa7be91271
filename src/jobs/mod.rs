//! Background work.

mod resume;
mod sweep;

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::commit::Engine;
use crate::telemetry::meters;

/// Starts every job. They end soon after `stop` is cancelled; `tracker` knows when they have.
pub fn start(
    engine: Engine,
    gc_interval: Duration,
    stop: CancellationToken,
    tracker: &TaskTracker,
) {
    tracker.spawn(resume::run(engine.clone(), stop.clone()));
    tracker.spawn(sweep::run(engine, gc_interval, stop.clone()));
    tracker.spawn(async move { stop.run_until_cancelled(meters::keep_up()).await });
}
