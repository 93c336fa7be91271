//! Background work.

mod resume;
mod sweep;

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::commit::Engine;

/// Starts every job. They end soon after `stop` is cancelled; `tracker` knows when they have.
pub fn start(
    engine: Engine,
    gc_interval: Duration,
    stop: CancellationToken,
    tracker: &TaskTracker,
) {
    tracker.spawn(resume::run(engine.clone(), stop.clone()));
    tracker.spawn(sweep::run(engine, gc_interval, stop));
}
