//! What a version is built on, where that came while the version was being made.
//!
//! A version of a commit to several tables stands before it is true, and may be taken back again.
//! Whoever asks the catalog does not see it; but Lance, when it catches up with what others put, asks
//! storage, and what it makes on top of such a version would hold rows that nobody committed.

use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use lance_io::object_store::ObjectStore;
use lance_table::io::commit::ManifestLocation;
use object_store::ObjectStoreExt;

use super::guard::Fence;
use crate::error::{Conflict, Error, Result};

/// The newest version with which Lance caught up.
#[derive(Debug, Default)]
pub(super) struct Below(Mutex<Option<ManifestLocation>>);

impl Below {
    /// Passes on what was listed, unless it must not be built on. That is asked before any of it is
    /// read: Lance remembers transactions by the numbers of their versions, and another version may
    /// yet come to have that of one that is taken back.
    pub(super) fn vet<'a>(
        self: &Arc<Self>,
        fence: Arc<dyn Fence>,
        listed: BoxStream<'a, lance::Result<ManifestLocation>>,
    ) -> BoxStream<'a, lance::Result<ManifestLocation>> {
        let below = self.clone();
        let vetted = async move {
            let found: Vec<ManifestLocation> = listed.try_collect().await?;
            if let Some(newest) = found.iter().max_by_key(|found| found.version) {
                let allowed = fence.check(newest.version + 1).await;
                allowed.map_err(|refusal| lance::Error::external(Box::new(refusal)))?;
                *below.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(newest.clone());
            }
            Ok(stream::iter(found.into_iter().map(Ok)))
        };
        vetted.try_flatten_stream().boxed()
    }

    /// Checks that `version` stands still as it was listed, if it was. To be asked after the fence
    /// was: what stood before that and after it is of no batch that may yet be taken back.
    ///
    /// # Errors
    /// `ConcurrentModification` when it does not.
    pub(super) async fn check(&self, version: u64, store: &ObjectStore) -> Result<()> {
        let listed = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(listed) = listed.filter(|listed| listed.version == version) else {
            return Ok(());
        };
        match store.inner.head(&listed.path).await {
            Ok(found) if is_same(listed.e_tag.as_deref(), found.e_tag.as_deref()) => Ok(()),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Err(moved_on(version)),
            Err(error) => Err(Error::internal("looking at the version below", error)),
        }
    }
}

/// Whether two entity tags are of the same object, as far as there are two. Some stores quote them in
/// one answer and not in another.
fn is_same(one: Option<&str>, other: Option<&str>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.trim_matches('"') == other.trim_matches('"'),
        _ => true,
    }
}

/// A version that was made on top of something else than the newest one.
pub(super) fn moved_on(current: u64) -> Error {
    Error::conflict(Conflict {
        message: format!("the table moved on: version {current} stands already"),
        current_version: Some(current),
        retryable: true,
        ..Conflict::default()
    })
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn quotes_do_not_make_another_object() {
        assert!(is_same(Some("\"a-1\""), Some("a-1")));
        assert!(!is_same(Some("a-1"), Some("a-2")));
        assert!(is_same(None, Some("a-1")));
    }
}
