//! The data plane: datasets in object stores; the only module that names Lance and object_store.
//!
//! It knows locations and versions, not names: a table's name is the catalog's business.

mod add_columns;
mod alter;
mod append;
mod arbiter;
mod backfill;
mod below;
mod blobs;
mod change;
mod clone;
mod columns;
mod direct;
mod each_query;
mod expression;
mod failure;
mod fulltext;
mod guard;
mod indexes;
mod inventory;
mod location;
mod maker;
mod mark;
mod neighbours;
mod ordering;
mod plan;
mod probe;
mod publish;
mod query;
mod readers;
mod refs;
mod rows;
mod schema;
mod search;
mod selection;
mod snapshot;
mod spool;
mod stage;
mod staged;
mod stats;
mod storable;
mod stores;
mod vending;
mod verify;
mod view;
mod write;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;
use lance::session::Session;
use lance_io::object_store::{ObjectStore, ObjectStoreRegistry};
use lance_table::io::commit::{CommitHandler, commit_handler_from_url};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::error::{Error, Result};
use crate::telemetry::meters;
use stores::Stores;

pub use add_columns::{ColumnSource, NewColumn};
pub use alter::{Alteration, FieldMetadata, Others};
pub use append::{Addition, Member, Named, shared_properties};
pub use arbiter::Arbiter;
pub use backfill::Backfill;
pub use blobs::{Blob, RowKey};
pub use change::{Changed, Meanwhile, Terms};
pub use clone::{Cloned, Depth};
pub use fulltext::TextSearch;
pub use guard::{Fence, Landed};
pub use indexes::{Existing, Index, IndexKind, NewIndex, TextOptions, VectorOptions};
pub use inventory::{FileKind, Inspection, References, StoredFile, version_of_manifest};
pub use lance_io::object_store::WrappingObjectStore;
pub use location::{Location, Locations};
pub use maker::Maker;
pub use mark::{MARK, Marked};
pub use neighbours::Neighbours;
pub use ordering::SortKey;
pub use plan::Detail;
pub use publish::{Change, Input, Prepared, Published, Rules};
pub use query::Query;
pub use refs::{Before, BranchEntry, NewBranch, Tag, check_new_branch};
pub use rows::{Matched, Merge, Merged, NotMatched, NotMatchedBySource, RowUpdate};
pub use schema::{
    check_wire_schema, data_type_from_wire, logical_schema, logical_type, schema_from_stored,
    wire_schema,
};
pub use search::{Accuracy, Vectors};
pub use selection::Selection;
pub use snapshot::{Snapshot, Stats};
pub use spool::Spooled;
pub use stage::Told;
pub use staged::{Claim, Put, StagedManifest};
pub use stats::{FragmentLengths, TableStats};
pub use storable::unstorable;
pub use stores::Place;
pub use vending::{Credentials, Permission, Vending};
pub use view::ViewQuery;
pub use write::{FileLog, WriteMode, WriteOptions, data_files};

/// How much memory indices and metadata may hold between requests.
const INDEX_CACHE_BYTES: usize = 128 << 20;
const METADATA_CACHE_BYTES: usize = 96 << 20;

/// Record batches on their way in or out. The schema is known before the first batch.
pub struct Batches {
    pub schema: SchemaRef,
    pub stream: BoxStream<'static, Result<RecordBatch>>,
}

/// What Lance reads the size of its pool for work on cores from.
const CPU_THREADS: &str = "LANCE_CPU_THREADS";
const LEAST_CPU_THREADS: usize = 4;

/// Lance decodes, encodes and builds indexes on one pool, of as many threads as there are cores
/// beyond two. On a small machine that is a single thread, and the graph of one HNSW index holds it
/// for minutes, during which nothing is read or written. This makes the pool wider, unless somebody
/// chose its size.
///
/// # Safety
/// To be called while the process has a single thread: it sets a variable of the environment.
pub unsafe fn widen_cpu_pool() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if std::env::var_os(CPU_THREADS).is_none() && cores < LEAST_CPU_THREADS + 2 {
        // SAFETY: the caller has said that nobody else looks at the environment.
        unsafe { std::env::set_var(CPU_THREADS, LEAST_CPU_THREADS.to_string()) };
    }
}

/// A handle on the storage; cheap to clone.
#[derive(Clone)]
pub struct Lake {
    session: Arc<RwLock<Arc<Session>>>,
    /// How often another took the session's place.
    times_forgotten: Arc<AtomicU64>,
    stores: Arc<Stores>,
    locations: Arc<Locations>,
    readers: readers::Readers,
    builders: readers::Readers,
    memory: maker::Memory,
    /// Decides which manifest is which version, where storage does not.
    arbiter: Option<Arc<dyn Arbiter>>,
    /// Keeps tables from referring to files of others.
    neighbours: Option<Arc<dyn Neighbours>>,
}

impl Lake {
    /// `main` is where new tables go, and `profiles` where those of some namespaces go instead;
    /// `allowed` are the further prefixes to which a caller may point a table. A local root is made if
    /// absent. `wrapper` sees what goes to storage, but for the files that Lance writes and reads
    /// itself where a location is a plain path.
    ///
    /// # Errors
    /// `InvalidInput` for a root or prefix that is not a path or a URI that Lance knows, and for
    /// credentials that could not be handed out as the places say.
    pub async fn open(
        main: Place,
        profiles: BTreeMap<String, Place>,
        allowed: &[String],
        wrapper: Option<Arc<dyn WrappingObjectStore>>,
    ) -> Result<Self> {
        let stores = Arc::new(Stores::new(main, profiles, wrapper.as_ref()).await?);
        let mut roots = stores.roots().cloned();
        let main = roots.next().ok_or_else(|| Error::invalid_input("there is no storage root"))?;
        let locations = Locations::new(main, roots.collect(), allowed)?;
        let registry = Arc::new(ObjectStoreRegistry::default());
        let session = Arc::new(Session::new(INDEX_CACHE_BYTES, METADATA_CACHE_BYTES, registry));
        let session = Arc::new(RwLock::new(session));
        let readers = readers::Readers::start("tiltyard-read")?;
        let builders = readers::Readers::start("tiltyard-build")?;
        let locations = Arc::new(locations);
        let memory = maker::Memory::new();
        let lake = Self {
            session,
            times_forgotten: Arc::default(),
            stores,
            locations,
            readers,
            builders,
            memory,
            arbiter: None,
            neighbours: None,
        };
        // Asking once at the start turns a misspelt root into an error at the start.
        for root in lake.locations.roots() {
            lake.store(root).await?;
        }
        Ok(lake)
    }

    /// Where tables may stand.
    pub fn locations(&self) -> &Locations {
        &self.locations
    }

    /// Whether the storage root answers.
    pub async fn ping(&self) -> Result<()> {
        let (store, root) = self.store(self.locations.root()).await?;
        match store.inner.list_with_delimiter(Some(&root.join("_tiltyard_ping"))).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the storage root does not answer");
                Err(Error::ServiceUnavailable("the storage root does not answer".into()))
            }
        }
    }

    /// Removes a table's files. A folder that only this table ever had goes as a whole; of one that
    /// a caller chose, what Lance keeps there goes, since other files may stand beside it. What is
    /// not there is no error.
    pub async fn remove(&self, location: &Location) -> Result<()> {
        let (store, base) = self.store(location).await?;
        if self.locations.is_own(location) {
            remove_folder(&store, base, location).await?;
            return self.forget_all_claims(location).await;
        }
        for folder in LANCE_FOLDERS {
            remove_folder(&store, base.clone().join(folder), location).await?;
        }
        self.forget();
        if store.is_local() {
            // Fails when something else stands there, which is then not ours to remove.
            let _ = std::fs::remove_dir(location.as_str());
        }
        self.forget_all_claims(location).await
    }

    /// Removes data files by their names in the table's `data/` folder, as an upload noted them, and
    /// the large blobs that Lance puts in a folder of the file's name.
    pub async fn remove_files(&self, location: &Location, names: &[String]) -> Result<()> {
        let (store, base) = self.store(location).await?;
        for name in names {
            let path = data_file_path(&base, name)?;
            match store.inner.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(Error::internal("removing a data file", error)),
            }
            if let Some(blobs) = name.strip_suffix(".lance") {
                remove_folder(&store, data_file_path(&base, blobs)?, location).await?;
            }
        }
        Ok(())
    }

    /// What is remembered between requests.
    fn session(&self) -> Arc<Session> {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the meters how much is remembered.
    pub fn measure(&self) {
        meters::lance_cache(self.session().size_bytes());
    }

    /// Forgets what is remembered. Lance remembers transactions by a folder and a number: where a
    /// version is removed, another may come to have both.
    pub fn forget(&self) {
        let mut session = self.session.write().unwrap_or_else(PoisonError::into_inner);
        let registry = session.store_registry();
        *session = Arc::new(Session::new(INDEX_CACHE_BYTES, METADATA_CACHE_BYTES, registry));
        self.times_forgotten.fetch_add(1, Ordering::Relaxed);
    }

    /// Lance's own way to put a manifest at this location, and to find those that are there: every
    /// dataset is opened with it.
    async fn commit_handler(&self, location: &Location) -> Result<Arc<dyn CommitHandler>> {
        if let Some(arbitrated) = self.arbitrated(location, None).await? {
            return Ok(Arc::new(arbitrated));
        }
        commit_handler_from_url(location.as_str(), &Some(self.params(location).clone()))
            .await
            .map_err(|error| failure::from_lance(error, location))
    }

    async fn store(&self, location: &Location) -> Result<(Arc<ObjectStore>, Path)> {
        ObjectStore::from_uri_and_params(
            self.session().store_registry(),
            location.as_str(),
            self.params(location),
        )
        .await
        .map_err(|error| failure::from_lance(error, location))
    }
}

/// What Lance keeps in a table's folder.
const LANCE_FOLDERS: [&str; 9] = [
    "data",
    "_versions",
    "_transactions",
    "_deletions",
    "_indices",
    "_refs",
    "_fri",
    "_blobs",
    "tree",
];

async fn remove_folder(store: &ObjectStore, path: Path, location: &Location) -> Result<()> {
    match store.remove_dir_all(path).await {
        Ok(()) | Err(lance::Error::NotFound { .. }) => Ok(()),
        Err(error) if failure::is_not_found(&error) => Ok(()),
        Err(error) => Err(failure::from_lance(error, location)),
    }
}

/// The folder of a table that holds its data files.
const DATA_DIR: &str = "data";

/// The path of a data file.
///
/// # Errors
/// As [`check_data_file`].
fn data_file_path(base: &Path, name: &str) -> Result<Path> {
    check_data_file(name)?;
    Path::parse(format!("{base}/{DATA_DIR}/{name}").trim_start_matches('/')).map_err(|_| outside())
}

/// The longest name of a data file, in bytes: the longest name of a file that file systems take.
const MAX_FILE_NAME_BYTES: usize = 255;

/// # Errors
/// `InvalidInput` for a name that would leave the table's `data/` folder, and for one that is longer
/// than any file's.
pub fn check_data_file(name: &str) -> Result<()> {
    let leaves = name.starts_with('/')
        || name.chars().any(|c| c.is_control() || c == '\\')
        || name.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if leaves {
        return Err(outside());
    }
    if name.len() > MAX_FILE_NAME_BYTES {
        return Err(Error::invalid_input(format!(
            "a fragment names a data file by {} bytes; no file has more than {MAX_FILE_NAME_BYTES}",
            name.len()
        )));
    }
    Ok(())
}

fn outside() -> Error {
    Error::invalid_input("a fragment names a data file outside its table's data folder")
}
