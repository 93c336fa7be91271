//! Versions that were claimed of the arbiter and never finished.

use super::Doctor;
use crate::catalog::claims;
use crate::commit::arbiter::UNFINISHED;
use crate::commit::location_of;
use crate::error::Result;
use crate::model::{ManifestClaim, Table};

/// Whether claims are left that nobody finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claims {
    /// To list the versions would finish them, which is not for whoever only looks.
    Left,
    None,
}

impl Doctor<'_> {
    /// Those of the branch whose makers fell silent. None where storage decides.
    pub(super) async fn abandoned_claims(&self, line: &Table) -> Result<Vec<ManifestClaim>> {
        let engine = self.engine;
        if !engine.lake.is_arbitrated(&location_of(line)) {
            return Ok(Vec::new());
        }
        let age_us = i64::try_from(UNFINISHED.as_micros()).unwrap_or(i64::MAX);
        let before_us = engine.now_us().saturating_sub(age_us);
        let mut tx = engine.catalog.read().await?;
        claims::list_abandoned_claims(&mut tx, location_of(line).as_str(), before_us).await
    }

    pub(super) async fn examine_claims(&mut self, line: &Table) -> Result<Claims> {
        let engine = self.engine;
        let location = location_of(line);
        for claim in self.abandoned_claims(line).await? {
            let version = claim.version;
            if engine.lake.has_claimed(&location, &claim).await? {
                let what = format!("version {version} was begun and never came to its final name");
                let mend = async { Ok(engine.describe_version(line, version).await.is_ok()) };
                self.find(what, "finish it", mend).await;
                continue;
            }
            // It was finished, or given back, since.
            if self.abandoned_claims(line).await?.iter().all(|left| left.path != claim.path) {
                continue;
            }
            let what =
                format!("version {version} was begun, and its manifest is gone from storage");
            let mend = async {
                engine.lake.forget_claims(&location, &[version]).await?;
                Ok(true)
            };
            self.find(what, "give the version back", mend).await;
        }
        let is_left = !self.abandoned_claims(line).await?.is_empty();
        Ok(if is_left { Claims::Left } else { Claims::None })
    }
}
