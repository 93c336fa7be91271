//! Background work.

mod resume;
mod sweep;
mod webhooks;

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::commit::Engine;
use crate::telemetry::meters;

pub use webhooks::Webhook;

/// What the jobs are to do.
pub struct Duties {
    /// How often garbage is swept.
    pub gc_interval: Duration,
    /// How long it is known what happened.
    pub event_retention: Duration,
    pub webhooks: Vec<Webhook>,
}

/// Starts every job. They end soon after `stop` is cancelled; `tracker` knows when they have.
pub fn start(engine: Engine, duties: Duties, stop: CancellationToken, tracker: &TaskTracker) {
    tracker.spawn(resume::run(engine.clone(), stop.clone()));
    let Duties { gc_interval, event_retention, webhooks } = duties;
    for webhook in webhooks {
        tracker.spawn(webhooks::run(engine.clone(), webhook, stop.clone()));
    }
    tracker.spawn(sweep::run(engine, gc_interval, event_retention, stop.clone()));
    tracker.spawn(async move { stop.run_until_cancelled(meters::keep_up()).await });
}
