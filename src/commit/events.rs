//! What happened: in an order that misses nothing, and for a while.

use std::time::Duration;

use uuid::Uuid;

use super::Engine;
use crate::catalog::events::{self, Filter, Found};
use crate::error::Result;
use crate::model::Event;

/// How many events are forgotten at once.
const FORGOTTEN_AT_ONCE: i64 = 5_000;

impl Engine {
    /// Writes down what is decided elsewhere than in SQL.
    pub(super) async fn record_event(&self, event: &Event) -> Result<()> {
        self.record_events(std::slice::from_ref(event)).await
    }

    /// As [`Self::record_event`], of several.
    pub async fn record_events(&self, all: &[Event]) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        for event in all {
            events::insert_event(&mut tx, event.clone()).await?;
        }
        tx.commit().await
    }

    /// The events after a number, as far as one look goes, in the order of their numbers: what a
    /// change had to wait for has a lower one. Only a version may have a higher one than later ones
    /// of its branch, when it was recorded after those had got theirs. What happened before this was
    /// called is among them.
    pub async fn events_after(&self, after: i64, filter: &Filter, limit: i64) -> Result<Found> {
        self.number_events().await?;
        let mut tx = self.catalog.read().await?;
        events::list_events(&mut tx, after, filter, limit).await
    }

    /// The number of the last event that there is.
    pub async fn last_event(&self) -> Result<i64> {
        self.number_events().await?;
        let mut tx = self.catalog.read().await?;
        events::last_number(&mut tx).await
    }

    /// Gives numbers to what has none. Whoever reads does it first, so that it costs nothing while
    /// nobody reads.
    async fn number_events(&self) -> Result<()> {
        loop {
            {
                let mut tx = self.catalog.read().await?;
                if !events::has_unnumbered(&mut tx).await? {
                    return Ok(());
                }
            }
            let mut tx = self.catalog.write().await?;
            events::number_events(&mut tx).await?;
            tx.commit().await?;
        }
    }

    /// Lets `holder` tell a webhook for a while, unless another does. Answers the number of the last
    /// event that it was told of.
    pub async fn hold_webhook(
        &self,
        name: &str,
        holder: Uuid,
        span: Duration,
    ) -> Result<Option<i64>> {
        let now_us = self.now_us();
        let until_us = now_us.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX));
        let mut tx = self.catalog.write().await?;
        let seq = events::hold_webhook(&mut tx, name, holder, now_us, until_us).await?;
        tx.commit().await?;
        Ok(seq)
    }

    /// Notes how far a webhook was told.
    ///
    /// # Errors
    /// `ServiceUnavailable` when another tells it by now.
    pub async fn advance_webhook(&self, name: &str, holder: Uuid, seq: i64) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        events::advance_webhook(&mut tx, name, holder, seq).await?;
        tx.commit().await
    }

    /// Lets others tell a webhook at once.
    pub async fn release_webhook(&self, name: &str, holder: Uuid) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        events::release_webhook(&mut tx, name, holder).await?;
        tx.commit().await
    }

    /// Forgets events that are older than `kept`. Answers how many.
    pub async fn forget_events(&self, kept: Duration) -> Result<u64> {
        let kept_us = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        let before_us = self.now_us().saturating_sub(kept_us);
        self.number_events().await?;
        let mut forgotten = 0;
        loop {
            let mut tx = self.catalog.write().await?;
            let some = events::delete_old_events(&mut tx, before_us, FORGOTTEN_AT_ONCE).await?;
            tx.commit().await?;
            forgotten += some;
            if some == 0 {
                return Ok(forgotten);
            }
        }
    }
}
