//! The catalog as the one who knows where tables stand.

use std::time::Duration;

use async_trait::async_trait;
use moka::sync::Cache;

use crate::catalog::{Catalog, Tx, clones, tables};
use crate::error::Result;
use crate::lake::{Location, Neighbours};

/// For how long it is remembered that a place is nobody else's: a table may come to stand there.
const REMEMBERED: Duration = Duration::from_secs(10);
const MAX_REMEMBERED: u64 = 10_000;
/// A clone of a clone, and so on, refers to files of all of them; of those that are further away only to
/// such as are nobody's.
const MAX_SOURCES: usize = 32;

/// Tables and clones are rows.
#[derive(Clone)]
pub struct CatalogNeighbours {
    catalog: Catalog,
    /// A table's location, and a place that it may refer to.
    free: Cache<(String, String), ()>,
}

impl std::fmt::Debug for CatalogNeighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CatalogNeighbours")
    }
}

impl CatalogNeighbours {
    pub fn new(catalog: Catalog) -> Self {
        let free = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED);
        Self { catalog, free: free.build() }
    }
}

#[async_trait]
impl Neighbours for CatalogNeighbours {
    async fn are_at(&self, place: &str, location: &Location) -> Result<bool> {
        let place = place.strip_prefix("file://").unwrap_or(place).trim_end_matches('/');
        // A folder has one name in the catalog.
        let path = place.split_once("://").map_or(place, |(_, path)| path);
        if path.contains("//") {
            return Ok(true);
        }
        let known = (location.as_str().to_owned(), place.to_owned());
        if self.free.contains_key(&known) {
            return Ok(false);
        }
        let mut tx = self.catalog.read().await?;
        let is_free = is_of(&mut tx, place, location).await?
            || tables::find_overlapping_location(&mut tx, place).await?.is_none();
        if is_free {
            self.free.insert(known, ());
        }
        Ok(!is_free)
    }
}

/// Whether a place is in the folder of the table of which a location is the folder or that of a branch, or
/// in those that it is a clone of.
async fn is_of(tx: &mut Tx, place: &str, location: &Location) -> Result<bool> {
    let own = tables::find_overlapping_location(tx, location.as_str()).await?;
    let mut sources = vec![own.unwrap_or_else(|| location.as_str().to_owned())];
    let mut looked_at = 0;
    while looked_at < sources.len() && sources.len() <= MAX_SOURCES {
        let folder = sources[looked_at].clone();
        if Location::from_stored(folder.clone()).holds(place) {
            return Ok(true);
        }
        for source in clones::list_sources_of(tx, &folder).await? {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        looked_at += 1;
    }
    Ok(false)
}
