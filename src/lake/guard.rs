//! What stands between Lance and the put of a manifest: the last moment at which a commit can be
//! refused, and the first at which it is known to stand.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use lance::dataset::transaction::Transaction;
use lance_io::object_store::ObjectStore;
use lance_table::format::{Fragment, IndexMetadata, Manifest};
use lance_table::io::commit::{
    CommitError, CommitHandler, ManifestLocation, ManifestNamingScheme, ManifestWriter,
};
use object_store::path::Path;

use super::append::there_already;
use super::below::{Below, moved_on};
use super::direct;
use super::publish::manifest_entry;
use super::stage::Stage;
use crate::error::{Error, Result};
use crate::model::{ManifestEntry, Mark};

/// A commit handler around another, which is asked for all that is not said otherwise.
macro_rules! handler_around_inner {
    ($handler:ty { $($own:tt)* }) => {
        #[async_trait]
        impl CommitHandler for $handler {
            async fn resolve_latest_location(
                &self,
                base_path: &Path,
                object_store: &ObjectStore,
            ) -> lance::Result<ManifestLocation> {
                self.inner.resolve_latest_location(base_path, object_store).await
            }

            async fn resolve_version_location(
                &self,
                base_path: &Path,
                version: u64,
                object_store: &dyn object_store::ObjectStore,
            ) -> lance::Result<ManifestLocation> {
                self.inner.resolve_version_location(base_path, version, object_store).await
            }

            async fn version_exists(
                &self,
                base_path: &Path,
                version: u64,
                object_store: &dyn object_store::ObjectStore,
                naming_scheme: ManifestNamingScheme,
            ) -> lance::Result<bool> {
                self.inner.version_exists(base_path, version, object_store, naming_scheme).await
            }

            fn list_manifest_locations<'a>(
                &self,
                base_path: &Path,
                object_store: &'a ObjectStore,
                sorted_descending: bool,
            ) -> BoxStream<'a, lance::Result<ManifestLocation>> {
                self.inner.list_manifest_locations(base_path, object_store, sorted_descending)
            }

            $($own)*
        }
    };
}
pub(super) use handler_around_inner;

/// A version that a change put.
#[derive(Debug, Clone)]
pub struct Landed {
    pub manifest: ManifestEntry,
    /// Lance's name of the operation; `None` for a transaction too large to travel in the manifest.
    pub operation: Option<String>,
    /// The UUID of Lance's transaction, likewise.
    pub transaction_id: Option<String>,
    /// How many rows live in it.
    pub num_rows: u64,
}

/// Says whether a version may be put now.
#[async_trait]
pub trait Fence: std::fmt::Debug + Send + Sync {
    /// # Errors
    /// Why the version must not be put.
    async fn check(&self, version: u64) -> Result<()>;
}

/// What passed through a guard.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    landed: Vec<Landed>,
    put_begun: bool,
    closed: bool,
    /// Nobody can say whether the last put landed.
    unsettled: bool,
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_put(&self) -> Result<()> {
        let mut entries = self.entries();
        if entries.closed || entries.unsettled {
            return Err(Error::ServiceUnavailable("no more is put for this change".into()));
        }
        entries.put_begun = true;
        Ok(())
    }

    /// Lets no put begin any more. Answers whether none had begun: then nothing will be changed.
    pub(super) fn close(&self) -> bool {
        let mut entries = self.entries();
        entries.closed |= !entries.put_begun;
        entries.closed
    }

    /// Lets no put begin after one of which nobody can say whether it landed.
    pub(super) fn leave_unsettled(&self) {
        self.entries().unsettled = true;
    }

    /// Whether a put was begun, whatever came of it.
    pub(super) fn put_begun(&self) -> bool {
        self.entries().put_begun
    }

    /// The versions that were put, in order.
    pub(super) fn take(&self) -> Vec<Landed> {
        std::mem::take(&mut self.entries().landed)
    }
}

/// Lance's commit handler, stopped just before the put by what must not happen.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) inner: Arc<dyn CommitHandler>,
    /// The only version that may be put, for a strict commit.
    pub(super) expected: Option<u64>,
    /// Files whose rows must not be in the table yet: committing one twice would double them.
    pub(super) new_files: HashSet<String>,
    /// Asked just before each put, and before what others put meanwhile is built on.
    pub(super) fence: Option<Arc<dyn Fence>>,
    /// What others put meanwhile.
    pub(super) below: Arc<Below>,
    /// Where the manifest goes instead of its final name.
    pub(super) stage: Option<Arc<Stage>>,
    /// What the versions are made for, and is kept in them.
    pub(super) mark: Option<Arc<Mark>>,
    /// The version that the change was made on.
    pub(super) read_version: u64,
    /// Up to which version it was looked whether another try of the request made one.
    pub(super) seen: AtomicU64,
    pub(super) ledger: Ledger,
}

impl Guard {
    pub(super) fn new(inner: Arc<dyn CommitHandler>) -> Self {
        Self {
            inner,
            expected: None,
            new_files: HashSet::new(),
            fence: None,
            below: Arc::default(),
            stage: None,
            mark: None,
            read_version: 0,
            seen: AtomicU64::new(0),
            ledger: Ledger::default(),
        }
    }

    fn check(&self, manifest: &Manifest) -> Result<()> {
        if self.expected.is_some_and(|expected| expected != manifest.version) {
            return Err(moved_on(manifest.version - 1));
        }
        if self.new_files.is_empty() {
            return Ok(());
        }
        // Each new file is in the manifest once. Twice means that another commit brought it, even
        // one that landed after this one was prepared.
        let mut seen = HashSet::new();
        for file in manifest.fragments.iter().flat_map(|fragment| &fragment.files) {
            if self.new_files.contains(&file.path) && !seen.insert(file.path.as_str()) {
                return Err(there_already(&file.path));
            }
        }
        Ok(())
    }
}

handler_around_inner!(Guard {
    fn is_version_not_found_definitive(&self) -> bool {
        self.inner.is_version_not_found_definitive()
    }

    fn propagate_commit_error_after_success(&self) -> bool {
        self.inner.propagate_commit_error_after_success()
    }

    fn list_manifest_locations_since<'a>(
        &self,
        base_path: &Path,
        object_store: &'a ObjectStore,
        since_version: u64,
    ) -> BoxStream<'a, lance::Result<ManifestLocation>> {
        if let Some(nothing) = direct::nothing_newer(object_store) {
            return nothing;
        }
        let listed =
            self.inner.list_manifest_locations_since(base_path, object_store, since_version);
        match &self.fence {
            Some(fence) => self.below.vet(fence.clone(), listed),
            None => listed,
        }
    }

    async fn commit(
        &self,
        manifest: &mut Manifest,
        indices: Option<Vec<IndexMetadata>>,
        base_path: &Path,
        object_store: &ObjectStore,
        manifest_writer: ManifestWriter,
        naming_scheme: ManifestNamingScheme,
        mut transaction: Option<lance_table::format::Transaction>,
    ) -> std::result::Result<ManifestLocation, CommitError> {
        let mut allowed = self.check(manifest);
        if allowed.is_ok() {
            allowed = self.refuse_twin(manifest.version, base_path, object_store).await;
        }
        let marked = match &self.mark {
            Some(mark) if allowed.is_ok() => Some(
                self.put_mark(mark.id, &mut transaction, manifest, base_path, object_store).await?,
            ),
            _ => None,
        };
        if let (Ok(()), Some(fence)) = (&allowed, &self.fence) {
            allowed = fence.check(manifest.version).await;
        }
        if allowed.is_ok() {
            allowed = self.below.check(manifest.version - 1, object_store).await;
        }
        if let Err(refusal) = allowed.and_then(|()| self.ledger.begin_put()) {
            return Err(CommitError::OtherError(lance::Error::external(Box::new(refusal))));
        }
        if let Some(stage) = &self.stage {
            let memory = ObjectStore::memory();
            let place = Path::from("manifest");
            manifest_writer(&memory, manifest, indices, &place, transaction).await?;
            let bytes = memory.read_one_all(&place).await?;
            return Ok(stage
                .write(object_store, base_path, manifest, bytes, naming_scheme)
                .await?);
        }
        let told = transaction.as_ref().map(|transaction| {
            let parsed = Transaction::try_from(transaction.inner.clone()).ok();
            let operation = parsed.map(|parsed| parsed.operation.name().to_owned());
            (operation, transaction.inner.uuid.clone())
        });
        let put = self
            .inner
            .commit(
                manifest,
                indices,
                base_path,
                object_store,
                manifest_writer,
                naming_scheme,
                transaction,
            )
            .await;
        let location = match (put, &marked) {
            (Err(error), Some(id)) => {
                self.settle(error, manifest.version, id, base_path, object_store).await?
            }
            (put, _) => put?,
        };
        let (operation, transaction_id) = told.unzip();
        self.ledger.entries().landed.push(Landed {
            manifest: manifest_entry(manifest, &location),
            operation: operation.flatten(),
            transaction_id,
            num_rows: manifest.fragments.iter().filter_map(Fragment::num_rows).sum::<usize>()
                as u64,
        });
        Ok(location)
    }
});
