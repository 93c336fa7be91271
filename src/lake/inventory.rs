//! What stands in a table's folder, and which of it the manifests there refer to.
//!
//! Lance's own clean-up can tell of files that no version refers to, but it knows nothing of uploads
//! and of clones, does not look at staged manifests, and of deletion and transaction files sees only
//! those older than the oldest version. Here every file is listed once and every manifest read once,
//! and what a manifest refers to is kept by the file's name alone: names are unique, and in doubt a
//! file stays. Row maps (`_fri`) and managed blobs (`_blobs`) are left to Lance's clean-up.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures::{StreamExt, TryStreamExt};
use lance_io::object_store::ObjectStore;
use lance_table::format::{Fragment, IndexMetadata, Manifest};
use lance_table::io::commit::{ManifestLocation, ManifestNamingScheme};
use lance_table::io::deletion::relative_deletion_file_path;
use lance_table::io::manifest::{read_manifest, read_manifest_indexes};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};

use super::probe::VERSIONS_DIR;
use super::{DATA_DIR, LANCE_FOLDERS, Lake, Location, data_file_path};
use crate::error::{Error, Result};

const TREE_DIR: &str = "tree";
/// How many manifests are read at once; each is held whole while it is.
const CONCURRENT_READS: usize = 4;
/// How many files are looked at side by side.
const CONCURRENT_CHECKS: usize = 16;

/// One file in the folder of a table.
#[derive(Debug, Clone)]
pub struct StoredFile {
    /// Relative to the table's folder.
    pub name: String,
    /// Relative to the root of the object store, as rows of versions have it.
    pub path: String,
    pub size_bytes: u64,
    /// Microseconds since the Unix epoch.
    pub modified_at_us: i64,
}

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A data file, or a large blob beside one.
    Data,
    /// Which rows of a fragment are deleted.
    Deletion,
    /// A transaction that was to become a version.
    Transaction,
    /// A part of an index.
    Index,
    /// A manifest that waits to become a version.
    Staged,
    /// What a writer that died left under a name that nobody looks for.
    Leftover,
    /// A version.
    Manifest,
    /// Anything else; it is left alone.
    Other,
}

impl FileKind {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data file",
            Self::Deletion => "deletion file",
            Self::Transaction => "transaction file",
            Self::Index => "index file",
            Self::Staged => "staged manifest",
            Self::Leftover => "half-written file",
            Self::Manifest => "manifest",
            Self::Other => "file",
        }
    }
}

impl StoredFile {
    pub fn kind(&self) -> FileKind {
        let (folder, rest) = self.place();
        let name = rest.rsplit('/').next().unwrap_or(rest);
        if LANCE_FOLDERS.contains(&folder) && (name.starts_with(".tmp") || is_cut_off(name)) {
            return FileKind::Leftover;
        }
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match (folder, extension) {
            ("data", "lance") => FileKind::Data,
            ("data", "blob") if rest.matches('/').count() == 1 => FileKind::Data,
            ("_deletions", "arrow" | "bin") => FileKind::Deletion,
            ("_transactions", "txn") => FileKind::Transaction,
            ("_indices", _) if rest.contains('/') => FileKind::Index,
            (VERSIONS_DIR, _) if rest.contains('/') => FileKind::Other,
            (VERSIONS_DIR, "manifest") => FileKind::Manifest,
            (VERSIONS_DIR, _) if name.contains(".manifest-") => FileKind::Staged,
            _ => FileKind::Other,
        }
    }

    /// The folder of Lance's in which it is, of the table or of a branch, and its name in there.
    fn place(&self) -> (&str, &str) {
        let mut rest = self.name.as_str();
        if let Some(within) = rest.strip_prefix("tree/") {
            // A branch has at least one part, which may be called anything.
            let first = within.find('/').map_or(within.len(), |at| at + 1);
            rest = &within[first..];
            while let Some((part, after)) = rest.split_once('/') {
                if LANCE_FOLDERS.contains(&part) {
                    break;
                }
                rest = after;
            }
        }
        rest.split_once('/').unwrap_or(("", rest))
    }

    /// The folder of the line of versions that a manifest belongs to, relative to the table's.
    pub fn line(&self) -> &str {
        let folder = self.name.rsplit_once('/').map_or("", |(folder, _)| folder);
        folder.strip_suffix(VERSIONS_DIR).unwrap_or(folder).trim_end_matches('/')
    }

    /// Whether it is a manifest of any line of versions, or waits to be one.
    pub fn is_manifest(&self) -> bool {
        let Some((folder, name)) = self.name.rsplit_once('/') else { return false };
        let in_versions = folder == VERSIONS_DIR || folder.ends_with("/_versions");
        in_versions && name.ends_with(".manifest")
    }
}

/// The version that a manifest is of, by its name; `None` for one outside the main history.
pub fn version_of_manifest(name: &str) -> Option<u64> {
    let name = name.rsplit('/').next()?;
    let scheme = ManifestNamingScheme::detect_scheme(name)?;
    scheme.parse_version(name)
}

/// The name under which object_store writes a local file until it is whole: it then has no listing
/// show it.
fn is_cut_off(name: &str) -> bool {
    let suffix = name.rsplit_once('#').map(|(_, suffix)| suffix);
    suffix.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// What some manifests refer to, by the names of files.
#[derive(Debug, Default)]
pub struct References {
    data: HashSet<String>,
    deletions: HashSet<String>,
    transactions: HashSet<String>,
    indexes: HashSet<String>,
}

impl References {
    pub fn hold(&self, file: &StoredFile) -> bool {
        let (_, rest) = file.place();
        let name = rest.rsplit('/').next().unwrap_or(rest);
        match file.kind() {
            FileKind::Data if name.ends_with(".blob") => {
                let of = rest.split('/').next().unwrap_or_default();
                self.data.contains(&format!("{of}.lance"))
            }
            FileKind::Data => self.data.contains(name),
            FileKind::Deletion => self.deletions.contains(name),
            FileKind::Transaction => self.transactions.contains(name),
            FileKind::Index => self.indexes.contains(rest.split('/').next().unwrap_or_default()),
            FileKind::Staged | FileKind::Leftover => false,
            FileKind::Manifest | FileKind::Other => true,
        }
    }

    fn add(&mut self, manifest: &Manifest, indexes: &[IndexMetadata]) {
        for fragment in manifest.fragments.iter() {
            for file in fragment.referenced_lance_files() {
                insert(&mut self.data, last_part(&file.path));
            }
            if let Some(name) = deletion_file_of(fragment) {
                insert(&mut self.deletions, last_part(&name));
            }
        }
        if let Some(transaction) = &manifest.transaction_file {
            insert(&mut self.transactions, last_part(transaction));
        }
        for index in indexes {
            self.indexes.insert(index.uuid.to_string());
        }
    }
}

fn insert(names: &mut HashSet<String>, name: &str) {
    if !names.contains(name) {
        names.insert(name.to_owned());
    }
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn deletion_file_of(fragment: &Fragment) -> Option<String> {
    let file = fragment.deletion_file.as_ref()?;
    Some(relative_deletion_file_path(fragment.id, file))
}

/// What reading some manifests came to.
#[derive(Debug, Default)]
pub struct Inspection {
    pub references: References,
    /// Files that are referred to and are not there: relative to the table's folder, or whole for
    /// those elsewhere; each with the manifests that name it.
    pub missing: BTreeMap<String, BTreeSet<String>>,
    /// Manifests that cannot be read, and why.
    pub unreadable: Vec<(String, String)>,
}

impl Inspection {
    /// Adds what reading other manifests of the same table came to.
    pub fn absorb(&mut self, other: Self) {
        let References { data, deletions, transactions, indexes } = other.references;
        self.references.data.extend(data);
        self.references.deletions.extend(deletions);
        self.references.transactions.extend(transactions);
        self.references.indexes.extend(indexes);
        for (name, by) in other.missing {
            self.missing.entry(name).or_default().extend(by);
        }
        self.unreadable.extend(other.unreadable);
    }
}

impl Lake {
    /// Every file in the folder of a table, those of its branches too; of local folders also what
    /// was being written when its writer died.
    pub async fn list_files(&self, root: &Location) -> Result<Vec<StoredFile>> {
        self.list_files_in(root, "").await
    }

    /// As [`Self::list_files`], only the manifests, of all lines of versions.
    pub async fn list_all_manifests(&self, root: &Location) -> Result<Vec<StoredFile>> {
        let mut found = self.list_files_in(root, VERSIONS_DIR).await?;
        found.extend(self.list_files_in(root, TREE_DIR).await?);
        found.retain(StoredFile::is_manifest);
        Ok(found)
    }

    async fn list_files_in(&self, root: &Location, folder: &str) -> Result<Vec<StoredFile>> {
        let (store, base) = self.store(root).await?;
        let within = if folder.is_empty() { base.clone() } else { base.clone().join(folder) };
        let as_stored = |meta: ObjectMeta| {
            let parts = meta.location.prefix_match(&base)?;
            let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
            Some(StoredFile {
                name: parts.join("/"),
                size_bytes: meta.size,
                modified_at_us: meta.last_modified.timestamp_micros(),
                path: meta.location.to_string(),
            })
        };
        let listed = store.inner.list(Some(&within));
        let listed: std::result::Result<Vec<Option<StoredFile>>, _> =
            listed.map_ok(as_stored).try_collect().await;
        let mut files: Vec<StoredFile> = match listed {
            Ok(files) => files.into_iter().flatten().collect(),
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(Error::internal("listing the files of a table", error)),
        };
        if store.is_local() && folder.is_empty() {
            let root = root.clone();
            let cut_off = tokio::task::spawn_blocking(move || cut_off_files(&root)).await;
            files.extend(cut_off.map_err(|error| Error::internal("listing files", error))?);
        }
        Ok(files)
    }

    /// Reads manifests, and says what they refer to; and which of that is not there, if `files` are
    /// given, those of the table.
    ///
    /// # Errors
    /// When storage fails. A manifest that is not there any more refers to nothing.
    pub async fn inspect(
        &self,
        root: &Location,
        manifests: &[&StoredFile],
        files: Option<&[StoredFile]>,
    ) -> Result<Inspection> {
        let (store, _) = self.store(root).await?;
        let there: Option<HashSet<&str>> =
            files.map(|files| files.iter().map(|file| file.name.as_str()).collect());
        let mut inspection = Inspection::default();
        let mut lacking: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut reads = Vec::new();
        for file in manifests {
            let (store, path, size) = (store.clone(), file.path.clone(), file.size_bytes);
            let (file, readers) = ((*file).clone(), self.readers.clone());
            reads.push(async move { (file, readers.run(read(store, path, size)).await) });
        }
        let mut reads = futures::stream::iter(reads).buffer_unordered(CONCURRENT_READS);
        while let Some((file, read)) = reads.next().await {
            let (manifest, indexes) = match read {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err(error) => {
                    let why = std::error::Error::source(&error);
                    let why = why.map_or_else(|| error.to_string(), ToString::to_string);
                    inspection.unreadable.push((file.name.clone(), why));
                    continue;
                }
            };
            inspection.references.add(&manifest, &indexes);
            let Some(there) = &there else { continue };
            for place in places(root, file.line(), &manifest) {
                let whole = match place {
                    Place::Here(name) if there.contains(name.as_str()) => continue,
                    Place::Here(name) => format!("{root}/{name}"),
                    Place::Elsewhere(whole) => whole,
                };
                lacking.entry(whole).or_default().insert(file.name.clone());
            }
        }
        // What was not among the files may have been written while they were listed.
        let within = format!("{root}/");
        let missing = self.missing(lacking).await?.into_iter();
        let name = |place: String| place.strip_prefix(&within).map_or(place.clone(), str::to_owned);
        inspection.missing = missing.map(|(place, by)| (name(place), by)).collect();
        Ok(inspection)
    }

    /// Those of some files that are not there.
    async fn missing(
        &self,
        named: BTreeMap<String, BTreeSet<String>>,
    ) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut checks = Vec::new();
        for (place, by) in named {
            checks.push(async move {
                let stands = self.stands_at(&place).await?;
                Ok::<_, Error>((!stands).then_some((place, by)))
            });
        }
        let checks = futures::stream::iter(checks).buffer_unordered(CONCURRENT_CHECKS);
        let checked: Vec<Option<(String, BTreeSet<String>)>> = checks.try_collect().await?;
        Ok(checked.into_iter().flatten().collect())
    }

    async fn stands_at(&self, place: &str) -> Result<bool> {
        let Some((folder, name)) = place.rsplit_once('/') else { return Ok(false) };
        if !self.locations.may_hold(folder) {
            // Where this server does not read, it cannot tell.
            return Ok(true);
        }
        let (store, folder) = self.store(&Location::from_stored(folder)).await?;
        match store.inner.head(&folder.join(name)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(Error::internal("looking for a data file", error)),
        }
    }

    /// Whether a data file is in the folder of a table, or of a branch.
    pub async fn has_data_file(&self, location: &Location, name: &str) -> Result<bool> {
        let (store, base) = self.store(location).await?;
        match store.inner.head(&data_file_path(&base, name)?).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(Error::internal("looking for a data file", error)),
        }
    }

    /// Removes one file of a table, as a listing told it. What is not there is no error.
    pub async fn remove_stored(&self, root: &Location, file: &StoredFile) -> Result<()> {
        let (store, _) = self.store(root).await?;
        let failed = |error| Error::internal("removing a file", error);
        if store.is_local() && is_cut_off(&file.name) {
            // object_store takes no such name.
            let path = std::path::Path::new(root.as_str()).join(&file.name);
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::internal("removing a file", error))
                }
                _ => Ok(()),
            };
        }
        let path = Path::parse(&file.path).map_err(|error| Error::internal("a path", error))?;
        match store.inner.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        let alone = file.kind() == FileKind::Index || file.name.ends_with(".blob");
        if store.is_local() && alone {
            let path = std::path::Path::new(root.as_str()).join(&file.name);
            // Fails while there is more in its folder.
            let _ = path.parent().map(std::fs::remove_dir);
        }
        Ok(())
    }

    /// The folders right under the storage root, and under those of profiles. Their names are held at
    /// once, and nothing else.
    pub async fn list_roots(&self) -> Result<Vec<Location>> {
        let mut found = Vec::new();
        for root in self.locations.roots() {
            found.extend(self.list_root(root).await?);
        }
        Ok(found)
    }

    async fn list_root(&self, root: &Location) -> Result<Vec<Location>> {
        let (store, base) = self.store(root).await?;
        let listed = match store.inner.list_with_delimiter(Some(&base)).await {
            Ok(listed) => listed.common_prefixes,
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(Error::internal("listing the storage root", error)),
        };
        let root = root.as_str().trim_end_matches('/');
        let names = listed.iter().filter_map(Path::filename);
        Ok(names.map(|name| Location::from_stored(format!("{root}/{name}"))).collect())
    }
}

/// Where a manifest says that a file is.
enum Place {
    /// Relative to the folder of the table.
    Here(String),
    Elsewhere(String),
}

/// The data and deletion files of a version, each where it has to be.
fn places(root: &Location, line: &str, manifest: &Manifest) -> Vec<Place> {
    let place = |base: Option<u32>, folder: &str, name: &str| {
        let Some(base) = base.and_then(|id| manifest.base_paths.get(&id)) else {
            let line = if line.is_empty() { String::new() } else { format!("{line}/") };
            return Place::Here(format!("{line}{folder}{name}"));
        };
        let path = base.path.strip_prefix("file://").unwrap_or(&base.path).trim_end_matches('/');
        let folder = if base.is_dataset_root { folder } else { "" };
        let whole = format!("{path}/{folder}{name}");
        match whole.strip_prefix(root.as_str()).and_then(|rest| rest.strip_prefix('/')) {
            Some(name) => Place::Here(name.to_owned()),
            None => Place::Elsewhere(whole),
        }
    };
    let mut places = Vec::new();
    for fragment in manifest.fragments.iter() {
        for file in fragment.referenced_lance_files() {
            places.push(place(file.base_id, &format!("{DATA_DIR}/"), &file.path));
        }
        if let (Some(file), Some(name)) = (&fragment.deletion_file, deletion_file_of(fragment)) {
            places.push(place(file.base_id, "_deletions/", last_part(&name)));
        }
    }
    places
}

/// A manifest and its indexes; `None` when it is not there any more.
async fn read(
    store: std::sync::Arc<ObjectStore>,
    path: String,
    size: u64,
) -> Result<Option<(Manifest, Vec<IndexMetadata>)>> {
    let path = Path::parse(&path).map_err(|error| Error::internal("a path", error))?;
    let failed = |error: lance::Error| Error::internal("reading a manifest", error);
    match store.inner.head(&path).await {
        Ok(_) => {}
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(Error::internal("looking at a manifest", error)),
    }
    let manifest = read_manifest(&store, &path, Some(size)).await.map_err(failed)?;
    let location = ManifestLocation {
        version: manifest.version,
        path,
        size: Some(size),
        naming_scheme: ManifestNamingScheme::V2,
        e_tag: None,
        identity: None,
    };
    let indexes = read_manifest_indexes(&store, &location, &manifest).await.map_err(failed)?;
    Ok(Some((manifest, indexes)))
}

/// Files of a local folder that object_store does not list: those that it was writing.
fn cut_off_files(root: &Location) -> Vec<StoredFile> {
    let mut found = Vec::new();
    let top = std::path::Path::new(root.as_str());
    let mut folders = vec![top.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(top).ok().and_then(|name| name.to_str());
            let Some(name) = name.filter(|name| is_cut_off(name)) else { continue };
            let modified = meta.modified().ok().and_then(|time| {
                time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_micros())
            });
            found.push(StoredFile {
                name: name.to_owned(),
                path: path.display().to_string(),
                size_bytes: meta.len(),
                // One of no known age is as good as new.
                modified_at_us: modified.and_then(|us| us.try_into().ok()).unwrap_or(i64::MAX),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> StoredFile {
        StoredFile { name: name.into(), path: name.into(), size_bytes: 1, modified_at_us: 0 }
    }

    #[test]
    fn a_name_says_what_a_file_is() {
        for (name, kind) in [
            ("data/x.lance", FileKind::Data),
            ("data/x/1.blob", FileKind::Data),
            ("data/x/y/1.blob", FileKind::Other),
            ("data/.tmpAb12", FileKind::Leftover),
            ("data/x.lance#1", FileKind::Leftover),
            ("data/notes.txt", FileKind::Other),
            ("notes.lance", FileKind::Other),
            ("mine/x.lance#1", FileKind::Other),
            ("_versions/18446744073709551614.manifest", FileKind::Manifest),
            ("_versions/1.manifest-8b1c", FileKind::Staged),
            ("_versions/latest_version_hint.json", FileKind::Other),
            ("_deletions/0-1-2.arrow", FileKind::Deletion),
            ("_transactions/1-a.txn", FileKind::Transaction),
            ("_indices/u/index.idx", FileKind::Index),
            ("_refs/tags/a.json", FileKind::Other),
            ("tree/side/data/x.lance", FileKind::Data),
            ("tree/data/data/x.lance", FileKind::Data),
            ("tree/a/b/_versions/1.manifest-8b1c", FileKind::Staged),
            ("tree/a/notes.txt", FileKind::Other),
        ] {
            assert_eq!(file(name).kind(), kind, "{name}");
        }
        assert_eq!(file("tree/a/b/_versions/1.manifest").line(), "tree/a/b");
        assert_eq!(file("_versions/1.manifest").line(), "");
        assert!(!file("_versions/1.manifest-x").is_manifest());
    }

    #[test]
    fn what_has_the_name_of_something_referred_to_stays() {
        let mut references = References::default();
        references.data.insert("x.lance".into());
        references.indexes.insert("u".into());
        for held in ["data/x.lance", "data/x/1.blob", "tree/a/data/x.lance", "_indices/u/a/b"] {
            assert!(references.hold(&file(held)), "{held}");
        }
        // A branch of another program's making, whose name is that of a folder of Lance's.
        assert!(references.hold(&file("tree/a/data/data/x.lance")));
        for free in ["data/y.lance", "data/y/1.blob", "_indices/v/a", "data/.tmpx", "data/x#1"] {
            assert!(!references.hold(&file(free)), "{free}");
        }
    }
}
