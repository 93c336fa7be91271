//! The sweeper: removes garbage now and then.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commit::{Cursor, Engine, Sweeping, Swept, Thoroughness};
use crate::error::Result;
use crate::telemetry::meters;

/// How often all tables are looked through for files that nothing refers to: that takes a listing
/// of every table, and for some every manifest.
const ROUND: Duration = Duration::from_secs(24 * 60 * 60);
/// The part of the time between two sweeps that such a round may take. A round that takes longer
/// goes on with the next sweep.
const SHARE: u32 = 4;

pub(super) async fn run(
    engine: Engine,
    interval: Duration,
    event_retention: Duration,
    stop: CancellationToken,
) {
    // An interval of zero would be a busy loop.
    let interval = interval.max(Duration::from_millis(100));
    let mut round = Round { begun: Instant::now(), at: Some(Cursor::default()) };
    while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        let mut number = 0_usize;
        let mut count = |swept| match swept {
            Swept::Failed { what, why } => tracing::warn!(what, why, "could not sweep"),
            swept => {
                tracing::debug!(%swept, "swept");
                meters::swept(swept.kind(), swept.number());
                number += 1;
            }
        };
        if let Err(error) = engine.sweep_notes(Sweeping::Remove, &mut count).await {
            tracing::warn!(%error, "could not sweep");
        }
        let until = Instant::now() + interval / SHARE;
        if let Err(error) = round.go_on(&engine, until, &stop, &mut count).await {
            tracing::warn!(%error, "could not sweep the files of tables");
        }
        match engine.forget_events(event_retention).await {
            Ok(0) => {}
            Ok(events) => tracing::info!(events, "forgot old events"),
            Err(error) => tracing::warn!(%error, "could not forget old events"),
        }
        if number > 0 {
            tracing::info!(things = number, "swept");
        }
    }
}

/// A way through all tables.
struct Round {
    begun: Instant,
    /// Where it goes on; nothing once it is through.
    at: Option<Cursor>,
}

impl Round {
    /// Goes on for a while, or begins anew when it is time.
    async fn go_on(
        &mut self,
        engine: &Engine,
        until: Instant,
        stop: &CancellationToken,
        report: &mut (dyn FnMut(Swept) + Send),
    ) -> Result<()> {
        if self.at.is_none() && self.begun.elapsed() >= ROUND {
            *self = Self { begun: Instant::now(), at: Some(Cursor::default()) };
        }
        let age = engine.garbage_age();
        while let Some(from) = self.at
            && Instant::now() < until
            && !stop.is_cancelled()
        {
            let (how, far) = (Sweeping::Remove, Thoroughness::Glance);
            self.at = engine.sweep_tables(from, how, far, age, report).await?;
        }
        Ok(())
    }
}
