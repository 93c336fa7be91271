//! What made versions, in short, and which data files they refer to; both remembered from look to
//! look. Whoever takes up a request that was broken off looks at every version since, and so does
//! whoever removes an upload: with thousands of fragments each look at a manifest costs milliseconds.
//!
//! A version is known by what storage says of its manifest, so that one that took the place of
//! another is looked at anew.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lance::dataset::transaction::{Operation, Transaction};
use lance_table::format::Fragment;
use moka::sync::Cache;
use uuid::Uuid;

use super::append::members;
use super::mark::{COUNTS, Marked, is_uuid, marks};
use super::{Lake, Location, Snapshot, failure};
use crate::error::{Error, Result};
use crate::model::ManifestEntry;

/// How much memory the makers of versions may hold, in bytes, about.
const MAKERS_BYTES: u64 = 16 << 20;
/// How many names of data files are remembered together.
const MOST_FILES: usize = 200_000;
/// How many versions are looked at at once.
const AT_ONCE: usize = 8;

/// What made a version.
#[derive(Debug)]
pub struct Maker {
    pub version: u64,
    /// The UUID of the transaction.
    pub transaction_id: String,
    /// Lance's name of the operation.
    pub operation: String,
    /// The commits that share the version.
    members: Vec<Uuid>,
    /// The requests that it was made for.
    marks: Vec<Uuid>,
    /// How many rows of an update it wrote.
    rewritten: u64,
    /// What a request is answered, where the version does not tell.
    counts: Option<String>,
}

impl Maker {
    fn of(version: u64, transaction: &Transaction) -> Self {
        let properties = transaction.transaction_properties.as_deref();
        let rewritten = match &transaction.operation {
            Operation::Update { new_fragments, .. } => {
                new_fragments.iter().filter_map(Fragment::num_rows).sum::<usize>() as u64
            }
            _ => 0,
        };
        Self {
            version,
            transaction_id: transaction.uuid.clone(),
            operation: transaction.operation.name().to_owned(),
            members: properties.map(members).unwrap_or_default(),
            marks: properties.map(marks).unwrap_or_default(),
            rewritten,
            counts: properties.and_then(|properties| properties.get(COUNTS).cloned()),
        }
    }

    /// Whether the transaction made the version, alone or with others.
    pub fn is(&self, transaction: Uuid) -> bool {
        is_uuid(&self.transaction_id, transaction) || self.members.contains(&transaction)
    }

    /// What the version tells of a request, if it was made for it.
    pub fn marked(&self, mark: Uuid) -> Option<Marked> {
        // A commit that is made for one request alone has the mark for its transaction's own id.
        let is_marked = is_uuid(&self.transaction_id, mark) || self.marks.contains(&mark);
        is_marked.then(|| Marked {
            version: self.version,
            transaction_id: self.transaction_id.clone(),
            operation: self.operation.clone(),
            rewritten: self.rewritten,
            counts: self.counts.clone(),
        })
    }

    /// About how much memory it holds, in bytes.
    fn weight(&self) -> u32 {
        const BASE: usize = 512;
        let uuids = (self.members.len() + self.marks.len()) * size_of::<Uuid>();
        let bytes = BASE + uuids + self.counts.as_ref().map_or(0, String::len);
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

/// A branch's folder, a version, and what storage calls the manifest's content.
type Known = (Location, u64, String);

/// What is remembered of versions; cheap to clone.
#[derive(Clone)]
pub(super) struct Memory {
    makers: Cache<Known, Arc<Maker>>,
    files: Arc<Mutex<HashMap<Location, Files>>>,
}

/// Which files some versions of a branch refer to.
#[derive(Default)]
struct Files {
    /// The versions, with what storage calls the contents of their manifests.
    versions: HashMap<u64, String>,
    names: HashSet<Box<str>>,
}

impl Files {
    /// Whether all that was looked at stands as it did.
    fn stands(&self, listed: &[ManifestEntry]) -> bool {
        let same = |entry: &&ManifestEntry| {
            entry.e_tag.is_some() && entry.e_tag.as_ref() == self.versions.get(&entry.version)
        };
        listed.iter().filter(same).count() == self.versions.len()
    }
}

impl Memory {
    pub(super) fn new() -> Self {
        let makers = Cache::builder().max_capacity(MAKERS_BYTES);
        let makers = makers.weigher(|_, maker: &Arc<Maker>| maker.weight()).build();
        Self { makers, files: Arc::default() }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<Location, Files>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what is remembered of a branch's files, so that nobody waits for who looks at more.
    fn take_files(&self, location: &Location, listed: &[ManifestEntry]) -> Files {
        self.files().remove(location).filter(|files| files.stands(listed)).unwrap_or_default()
    }

    fn keep_files(&self, location: &Location, files: Files) {
        let mut all = self.files();
        let others: usize = all.values().map(|files| files.names.len()).sum();
        if others + files.names.len() > MOST_FILES {
            all.clear();
        }
        if files.names.len() <= MOST_FILES {
            all.insert(location.clone(), files);
        }
    }
}

impl Snapshot {
    /// What made a version of the table; `None` when it, or its transaction, is gone.
    pub async fn maker(&self, version: u64) -> Result<Option<Arc<Maker>>> {
        let Some(found) = self.lake.find_manifest(&self.location, version).await? else {
            return Ok(None);
        };
        let known = found.e_tag.map(|e_tag| (self.location.clone(), version, e_tag));
        let makers = &self.lake.memory.makers;
        if let Some(maker) = known.as_ref().and_then(|known| makers.get(known)) {
            return Ok(Some(maker));
        }
        let made = match self.dataset.read_version_transaction(version).await {
            Ok(made) => made,
            Err(error) if failure::is_absent(&error) => return Ok(None),
            Err(error) => return Err(Error::internal("reading a transaction", error)),
        };
        let Some(transaction) = made.transaction else { return Ok(None) };
        let maker = Arc::new(Maker::of(version, &transaction));
        if let Some(known) = known {
            makers.insert(known, maker.clone());
        }
        Ok(Some(maker))
    }

    /// What made some versions of the table, in that order; those that are gone are left out.
    pub fn makers(
        &self,
        versions: impl IntoIterator<Item = u64, IntoIter: Send + 'static>,
    ) -> BoxStream<'static, Result<Arc<Maker>>> {
        let opened = self.clone();
        let looks = stream::iter(versions).map(move |version| {
            let opened = opened.clone();
            async move { opened.maker(version).await.transpose() }
        });
        looks.buffered(AT_ONCE).filter_map(std::future::ready).boxed()
    }
}

impl Lake {
    /// Which of `files` any version after `floor` refers to, or referred to when that was last asked.
    pub async fn files_in_use(
        &self,
        location: &Location,
        files: &[String],
        floor: u64,
    ) -> Result<HashSet<String>> {
        let listed = self.list_manifests(location).await?;
        let mut known = self.memory.take_files(location, &listed);
        let used = self.look_for_files(location, &listed, files, floor, &mut known).await;
        // What cannot be told from what takes its place is not remembered.
        if listed.iter().all(|entry| entry.e_tag.is_some()) {
            self.memory.keep_files(location, known);
        }
        used
    }

    async fn look_for_files(
        &self,
        location: &Location,
        listed: &[ManifestEntry],
        files: &[String],
        floor: u64,
        known: &mut Files,
    ) -> Result<HashSet<String>> {
        let held = |known: &Files| -> HashSet<String> {
            files.iter().filter(|file| known.names.contains(file.as_str())).cloned().collect()
        };
        let mut used = held(known);
        // The newest versions refer to most of what is in use: often the first look settles it.
        for entry in listed.iter().rev().take_while(|entry| entry.version > floor) {
            if used.len() == files.len() {
                break;
            }
            if known.versions.contains_key(&entry.version) {
                continue;
            }
            let snapshot = self.snapshot(location, entry.version).await?;
            for file in snapshot.dataset.fragments().iter().flat_map(|fragment| &fragment.files) {
                if !known.names.contains(file.path.as_str()) {
                    known.names.insert(file.path.as_str().into());
                }
            }
            used = held(known);
            known.versions.insert(entry.version, entry.e_tag.clone().unwrap_or_default());
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{Int32Array, RecordBatchIterator};
    use arrow::record_batch::RecordBatch;
    use lance::Dataset;
    use lance::dataset::{WriteMode, WriteParams};

    use super::*;
    use crate::lake::Place;

    async fn write(uri: &str, mode: WriteMode) -> Dataset {
        let values = Arc::new(Int32Array::from_iter_values(0..3));
        let batch = RecordBatch::try_from_iter([("a", values as _)]).unwrap();
        let schema = batch.schema();
        let rows = RecordBatchIterator::new([Ok(batch)], schema);
        let params = WriteParams { mode, ..WriteParams::default() };
        Box::pin(Dataset::write(rows, uri, Some(params))).await.unwrap()
    }

    fn files(dataset: &Dataset) -> Vec<String> {
        let files = dataset.fragments().iter().flat_map(|fragment| &fragment.files);
        files.map(|file| file.path.clone()).collect()
    }

    /// A table of one version, and the server's view of it.
    async fn table(folder: &tempfile::TempDir) -> (Lake, Location, String) {
        let root = folder.path().to_str().unwrap();
        let uri = format!("{root}/t");
        write(&uri, WriteMode::Create).await;
        let place = Place { root: root.into(), ..Place::default() };
        let lake = Lake::open(place, BTreeMap::new(), &[], None).await.unwrap();
        (lake, Location::from_stored(uri.clone()), uri)
    }

    /// The second version, which is taken away after that.
    async fn taken_away(uri: &str) -> Dataset {
        let second = write(uri, WriteMode::Append).await;
        assert_eq!(second.version_id(), 2);
        second
    }

    fn take_away(second: &Dataset) {
        std::fs::remove_file(format!("/{}", second.manifest_location().path)).unwrap();
    }

    #[tokio::test]
    async fn a_version_that_took_the_place_of_another_has_its_own_maker() {
        let folder = tempfile::tempdir().unwrap();
        let (lake, location, uri) = table(&folder).await;
        let first = lake.snapshot(&location, 1).await.unwrap();
        let maker = || async { first.maker(2).await.unwrap() };
        assert!(maker().await.is_none());
        let second = taken_away(&uri).await;
        let seen = maker().await.unwrap();
        assert_eq!(seen.operation, "Append");
        assert!(Arc::ptr_eq(&seen, &maker().await.unwrap()), "it was read twice");
        take_away(&second);
        assert!(maker().await.is_none());
        write(&uri, WriteMode::Overwrite).await;
        let other = maker().await.unwrap();
        assert_eq!(other.operation, "Overwrite");
        assert_ne!(other.transaction_id, seen.transaction_id);
    }

    #[tokio::test]
    async fn files_of_a_version_that_was_taken_away_are_not_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let (lake, location, uri) = table(&folder).await;
        let second = taken_away(&uri).await;
        let wanted = files(&second);
        assert_eq!(wanted.len(), 2);
        let used = || async { lake.files_in_use(&location, &wanted, 0).await.unwrap().len() };
        assert_eq!((used().await, used().await), (2, 2));
        take_away(&second);
        assert_eq!(used().await, 1);
        let third = write(&uri, WriteMode::Append).await;
        assert_eq!(used().await, 1);
        let new = files(&third);
        assert_eq!(lake.files_in_use(&location, &new, 0).await.unwrap().len(), 2);
    }
}
