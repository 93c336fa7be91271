//! A store that cannot put a file only if nothing is there: it takes the request, and overwrites.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use lance_io::object_store::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    RenameTargetMode, Result,
};
use tiltyard::server::Parts;
use tokio::sync::Barrier;

const PATIENCE: Duration = Duration::from_secs(20);

/// Lets two writers of manifests go at the same moment, so that a race is one.
#[derive(Clone)]
pub struct Overwriting {
    start: Arc<Barrier>,
    /// How many manifests are held up until another comes.
    held: Arc<AtomicUsize>,
}

impl Overwriting {
    pub fn new() -> Self {
        Self { start: Arc::new(Barrier::new(2)), held: Arc::default() }
    }

    /// The parts of a server with such a store.
    pub fn parts(&self) -> Parts {
        Parts { storage: Some(Arc::new(self.clone())), ..Parts::default() }
    }

    /// Holds up the next manifest until there is a second one.
    pub fn hold_two(&self) {
        self.held.store(2, Ordering::SeqCst);
    }

    async fn wait(&self, path: &Path) {
        if !path.as_ref().contains(".manifest") {
            return;
        }
        let take = |held: usize| held.checked_sub(1);
        if self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            let both = tokio::time::timeout(PATIENCE, self.start.wait()).await;
            both.expect("two writers came to put a manifest");
        }
    }
}

impl fmt::Debug for Overwriting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overwriting")
    }
}

impl WrappingObjectStore for Overwriting {
    fn wrap(&self, _: &str, original: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Store { inner: original, rules: self.clone() })
    }

    fn wrap_paginated(
        &self,
        _: &str,
        _: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        None
    }
}

#[derive(Debug)]
struct Store {
    inner: Arc<dyn ObjectStore>,
    rules: Overwriting,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overwriting({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Store {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.rules.wait(location).await;
        let options = PutOptions { mode: PutMode::Overwrite, ..options };
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let options = CopyOptions { mode: CopyMode::Overwrite, ..options };
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let options = RenameOptions { target_mode: RenameTargetMode::Overwrite, ..options };
        self.inner.rename_opts(from, to, options).await
    }
}
