//! The short way to put a version right after one that is known to be the newest.
//!
//! Lance looks for what others committed before it makes a manifest, in up to three requests, or hops
//! to another thread on a disk. For a commit that may only land right after the version that it was
//! made on, the put itself says whether another was faster: see [`Guard`](super::guard::Guard).

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lance::Dataset;
use lance_io::object_store::ObjectStore;
use lance_table::io::commit::{ManifestLocation, write_version_hint};

use super::{Lake, Location, Snapshot};
use crate::error::Result;

/// Marks the store of such a commit, in what tells stores apart.
const DIRECT: &str = "tiltyard-direct:";
/// With this in its configuration, Lance cleans a table up after a commit, by what the commit's store
/// lists.
const AUTO_CLEANUP: &str = "lance.auto_cleanup.interval";

/// The same storage, through which Lance finds nothing newer than what it has, writes a small file at
/// once instead of piece by piece, and leaves the version hint to [`Lake::write_hint`].
fn direct(store: &ObjectStore) -> ObjectStore {
    let mut store = store.clone();
    store.store_prefix.insert_str(0, DIRECT);
    // Where a listing is in order, Lance writes no hint.
    store.list_is_lexically_ordered = true;
    store
}

/// What there is after a version, for a store that is [`direct`].
pub(super) fn nothing_newer<'a>(
    store: &ObjectStore,
) -> Option<BoxStream<'a, lance::Result<ManifestLocation>>> {
    store.store_prefix.starts_with(DIRECT).then(|| stream::empty().boxed())
}

/// A version, opened so that the next one can be put right after it.
pub(super) struct Direct {
    pub(super) dataset: Arc<Dataset>,
    usual: Arc<ObjectStore>,
}

impl Direct {
    /// What was put, as it is opened for all else.
    pub(super) fn landed(&self, dataset: &Dataset) -> Dataset {
        dataset.with_object_store(self.usual.clone(), None)
    }
}

impl Snapshot {
    /// `None` where Lance would do more after a put than answer.
    pub(super) async fn direct(&self) -> Result<Option<Direct>> {
        if self.dataset.manifest().config.contains_key(AUTO_CLEANUP) {
            return Ok(None);
        }
        let usual = self.dataset.object_store(None).await.map_err(|error| self.failed(error))?;
        let dataset = self.dataset.with_object_store(Arc::new(direct(&usual)), None);
        Ok(Some(Direct { dataset: Arc::new(dataset), usual }))
    }
}

impl Lake {
    /// Writes down near which version the newest is found. It is only a hint: readers look for later
    /// ones from there on, and a failure costs them nothing else.
    pub(super) async fn write_hint(&self, location: &Location, version: u64) {
        match self.store(location).await {
            Ok((store, base)) => write_version_hint(&store, &base, version).await,
            Err(error) => tracing::warn!(%error, "could not write a version hint"),
        }
    }
}
