//! The catalog as the arbiter of versions, for storage that cannot put a manifest only if nothing is
//! there. Each step is one short transaction; none is held while storage is at work.

use std::time::Duration;

use async_trait::async_trait;

use super::Engine;
use crate::catalog::{Catalog, claims};
use crate::error::Result;
use crate::lake::{Arbiter, Lake, Location};
use crate::model::{Branch, Clock, ManifestClaim, ManifestEntry, Page, PageScope, Table};

/// How old a version that is not finished is when the sweep takes it up: its maker is at it until
/// then.
pub(super) const UNFINISHED: Duration = Duration::from_secs(30);
/// In how many folders one sweep finishes versions.
const BATCH: i64 = 500;

/// The unique row of a version decides whose it is.
#[derive(Clone)]
pub struct CatalogArbiter {
    catalog: Catalog,
    clock: Clock,
}

impl std::fmt::Debug for CatalogArbiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CatalogArbiter")
    }
}

impl CatalogArbiter {
    pub fn new(catalog: Catalog, clock: Clock) -> Self {
        Self { catalog, clock }
    }
}

#[async_trait]
impl Arbiter for CatalogArbiter {
    async fn find(&self, location: &Location, version: u64) -> Result<Option<ManifestClaim>> {
        let mut tx = self.catalog.read().await?;
        claims::find_claim(&mut tx, location.as_str(), version).await
    }

    async fn find_latest(&self, location: &Location) -> Result<Option<ManifestClaim>> {
        let mut tx = self.catalog.read().await?;
        claims::find_latest_claim(&mut tx, location.as_str()).await
    }

    async fn list(&self, location: &Location, floor: u64) -> Result<Vec<ManifestClaim>> {
        let mut tx = self.catalog.read().await?;
        claims::list_claims(&mut tx, location.as_str(), floor).await
    }

    async fn list_staged(&self, location: &Location) -> Result<Vec<ManifestClaim>> {
        let mut tx = self.catalog.read().await?;
        claims::list_staged_claims(&mut tx, location.as_str()).await
    }

    async fn claim(&self, location: &Location, claim: &ManifestClaim) -> Result<bool> {
        let taken = async {
            let mut tx = self.catalog.write().await?;
            let (place, now_us) = (location.as_str(), self.clock.now_us());
            let taken = claims::insert_claim(&mut tx, place, claim, now_us).await?;
            tx.commit().await?;
            Ok(taken)
        };
        match taken.await {
            Ok(true) => Ok(true),
            // The row may be this one, of a transaction whose answer got lost.
            Ok(false) => Ok(self.holds(location, claim).await?.unwrap_or(false)),
            Err(error) => match self.holds(location, claim).await {
                Ok(Some(holds)) => Ok(holds),
                _ => Err(error),
            },
        }
    }

    async fn finish(&self, location: &Location, claim: &ManifestClaim) -> Result<bool> {
        let mut tx = self.catalog.write().await?;
        let finished = claims::finish_claim(&mut tx, location.as_str(), claim).await?;
        tx.commit().await?;
        Ok(finished)
    }

    async fn forget(&self, location: &Location, versions: &[u64]) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        for version in versions {
            claims::delete_claim(&mut tx, location.as_str(), *version).await?;
        }
        tx.commit().await
    }

    async fn forget_all(&self, location: &Location) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        claims::delete_claims(&mut tx, location.as_str()).await?;
        tx.commit().await
    }
}

impl CatalogArbiter {
    /// Whether the version is this manifest's; `None` when it is nobody's.
    async fn holds(&self, location: &Location, claim: &ManifestClaim) -> Result<Option<bool>> {
        let found = self.find(location, claim.version).await?;
        Ok(found.map(|found| found.path == claim.path))
    }
}

impl Engine {
    /// Finishes versions that were claimed and whose makers fell silent. Answers in how many folders.
    pub(super) async fn finish_versions(&self) -> Result<usize> {
        if !self.lake.has_arbiter() {
            return Ok(0);
        }
        let folders = {
            let mut tx = self.catalog.read().await?;
            let age_us = i64::try_from(UNFINISHED.as_micros()).unwrap_or(i64::MAX);
            claims::list_unfinished(&mut tx, self.now_us().saturating_sub(age_us), BATCH).await?
        };
        for folder in &folders {
            let location = Location::from_stored(folder.clone());
            if let Err(error) = self.lake.roll_forward(&location).await {
                tracing::warn!(%location, %error, "could not finish a version");
            }
        }
        Ok(folders.len())
    }

    /// Forgets a version that is gone from storage, wherever it is noted.
    pub(super) async fn forget_versions(&self, table: &Table, gone: &[u64]) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut tx = self.catalog.write().await?;
        for version in gone {
            crate::catalog::versions::delete_version(&mut tx, table, *version).await?;
        }
        tx.commit().await?;
        self.lake.forget_claims(&super::location_of(table), gone).await
    }
}

/// The versions of a table that stands in storage, on all of its branches, each with the folder that
/// it is in. None where storage decides who has a version.
pub(super) async fn standing_versions(
    lake: &Lake,
    root: &Location,
    on_main: &[ManifestEntry],
) -> Result<Vec<(Location, ManifestEntry)>> {
    let mut standing = Vec::new();
    if !lake.is_arbitrated(root) {
        return Ok(standing);
    }
    standing.extend(on_main.iter().map(|entry| (root.clone(), entry.clone())));
    let scope = PageScope::new("standing", "");
    let mut page = Page::new(scope, Some(i64::from(Page::MAX_LIMIT)), None)?;
    loop {
        let mut branches = lake.list_branches(root, &page).await?;
        page.after = page
            .finish(&mut branches, |branch| branch.name.clone())
            .and_then(|_| branches.last().map(|branch| branch.name.clone()));
        for branch in branches {
            let folder = root.of_branch(&Branch::from_stored(branch.name));
            let entries = lake.list_manifests(&folder).await?;
            standing.extend(entries.into_iter().map(|entry| (folder.clone(), entry)));
        }
        if page.after.is_none() {
            return Ok(standing);
        }
    }
}
