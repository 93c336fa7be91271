//! Manifests that clients staged: a namespace-aware client writes its manifest under a name that
//! nobody looks for, and asks for it to become a version.

use std::collections::HashSet;

use arrow::datatypes::Schema as ArrowSchema;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lance_io::object_store::ObjectStore;
use lance_table::format::{Fragment, Manifest, pb};
use lance_table::io::commit::{CommitHandler, ManifestNamingScheme, write_version_hint};
use lance_table::io::manifest::read_manifest;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions};
use prost::Message;
use uuid::Uuid;

use super::arbiter::Arbitrated;
use super::probe::{VERSIONS_DIR, from_lance};
use super::{Lake, Landed, Location, data_file_path, failure};
use crate::error::{Error, Result};
use crate::model::{Branch, ManifestEntry, NamingScheme, Properties};

/// The largest manifest that is taken; Lance's own has some hundred bytes for each data file.
const MAX_BYTES: u64 = 1 << 30;

/// The longest name of a file that all stores take.
const MAX_NAME_BYTES: usize = 255;
/// How many files are looked at side by side.
const CONCURRENT_CHECKS: usize = 16;

/// A manifest that a client staged, read and checked.
pub struct StagedManifest {
    pub(super) staged: Path,
    pub(super) place: Path,
    pub(super) scheme: ManifestNamingScheme,
    pub(super) version: u64,
    pub(super) bytes: Bytes,
    pub(super) num_rows: u64,
    /// Lance's name of the operation, if the manifest tells.
    pub(super) operation: Option<String>,
    pub(super) transaction_id: Option<String>,
    /// What the client keeps with its transaction.
    pub properties: Properties,
}

/// How it went to put a manifest at its final name.
pub enum Put {
    /// It stands.
    Landed(Landed),
    /// The same manifest stood there already.
    StoodAlready(Landed),
    /// Another manifest stands there.
    Taken,
}

/// What a client says of the manifest that it staged.
#[derive(Debug, Clone)]
pub struct Claim {
    pub version: u64,
    /// Relative to the root of the object store.
    pub path: String,
    pub size_bytes: Option<u64>,
    pub naming_scheme: Option<NamingScheme>,
}

impl Lake {
    /// Reads a staged manifest. `newest` is the newest version that stands, if there is one: it says
    /// how the table names its manifests, and which data files were checked when they came.
    ///
    /// # Errors
    /// `InvalidInput` for a path that is not a file in the folder of the table's versions, and for
    /// what is not the manifest that is claimed.
    pub async fn read_staged(
        &self,
        root: &Location,
        branch: &Branch,
        claim: &Claim,
        newest: Option<&ManifestEntry>,
    ) -> Result<StagedManifest> {
        let location = &root.of_branch(branch);
        let (store, base) = self.store(location).await?;
        let staged = staged_path(&base, &claim.path)?;
        let scheme = newest.map(|newest| newest.naming_scheme);
        let scheme = to_lance(scheme.or(claim.naming_scheme).unwrap_or(NamingScheme::V2));
        let size = match store.inner.head(&staged).await {
            Ok(meta) => meta.size,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(Error::invalid_input("there is no file at manifest_path"));
            }
            Err(error) => return Err(Error::internal("looking at a staged manifest", error)),
        };
        if size > MAX_BYTES || claim.size_bytes.is_some_and(|claimed| claimed != size) {
            return Err(Error::invalid_input(format!(
                "the file at manifest_path has {size} bytes, which is not what was claimed, or \
                 too much"
            )));
        }
        // On the readers' threads, where a manifest that breaks its reader breaks nothing else.
        let (reading_store, path) = (store.clone(), staged.clone());
        let read = self.readers.run(async move {
            let manifest = read_manifest(&reading_store, &path, Some(size))
                .await
                .map_err(|error| Error::internal("reading a staged manifest", error))?;
            // Its types are read only now.
            let _ = ArrowSchema::from(&manifest.schema);
            Ok(manifest)
        });
        let manifest: Manifest = read.await.map_err(|error| {
            tracing::debug!(%error, "a staged manifest cannot be read");
            Error::invalid_input("the file at manifest_path is not a manifest that Lance can read")
        })?;
        if manifest.version != claim.version {
            return Err(Error::invalid_input(format!(
                "the staged manifest is of version {}, not of version {}",
                manifest.version, claim.version
            )));
        }
        if manifest.branch.as_deref() != branch.beside_main() {
            return Err(Error::invalid_input(format!(
                "the staged manifest is not of branch '{branch}'"
            )));
        }
        let sections = [manifest.index_section, manifest.transaction_section];
        if sections.iter().flatten().any(|at| *at as u64 >= size) {
            return Err(Error::invalid_input("the staged manifest points past its end"));
        }
        self.check_places(root, location, &manifest, newest).await?;
        let bytes = store.inner.get(&staged).await;
        let bytes = match bytes {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = bytes.map_err(|error| Error::internal("reading a staged manifest", error))?;
        let transaction = manifest.transaction_section.and_then(|at| transaction_at(&bytes, at));
        let (operation, transaction_id, properties) = match transaction {
            None => (None, None, Properties::new()),
            Some(told) => {
                let id = told.uuid.clone();
                let properties = told.transaction_properties.clone().into_iter().collect();
                let parsed = lance::dataset::transaction::Transaction::try_from(told).ok();
                (parsed.map(|parsed| parsed.operation.name().to_owned()), Some(id), properties)
            }
        };
        Ok(StagedManifest {
            place: scheme.manifest_path(&base, claim.version),
            staged,
            scheme,
            version: claim.version,
            num_rows: manifest.fragments.iter().filter_map(Fragment::num_rows).sum::<usize>()
                as u64,
            bytes,
            operation,
            transaction_id,
            properties,
        })
    }

    /// Checks where a manifest says that its data is: in the table's own folder, and there.
    async fn check_places(
        &self,
        root: &Location,
        location: &Location,
        manifest: &Manifest,
        newest: Option<&ManifestEntry>,
    ) -> Result<()> {
        if manifest.schema.fields.is_empty() {
            return Err(Error::invalid_input("the staged manifest has no columns"));
        }
        for base in manifest.base_paths.values() {
            if !root.holds(&base.path) {
                return Err(Error::invalid_input(
                    "the staged manifest refers to data outside the table's folder",
                ));
            }
        }
        let known = self.known_files(location, newest).await?;
        let (store, base) = self.store(location).await?;
        let files = manifest.fragments.iter().flat_map(|fragment| &fragment.files);
        let mut checks = Vec::new();
        for file in files {
            if let Some(id) = file.base_id {
                if !manifest.base_paths.contains_key(&id) {
                    return Err(Error::invalid_input("the staged manifest names an unknown base"));
                }
                continue;
            }
            if known.contains(&file.path) {
                continue;
            }
            let path = data_file_path(&base, &file.path)?;
            let store = &store;
            checks.push(async move {
                match store.inner.head(&path).await {
                    Ok(_) => Ok(()),
                    Err(object_store::Error::NotFound { .. }) => Err(Error::invalid_input(
                        "the staged manifest refers to a data file that is not there",
                    )),
                    Err(error) => Err(Error::internal("looking at a data file", error)),
                }
            });
        }
        futures::stream::iter(checks).buffer_unordered(CONCURRENT_CHECKS).try_collect().await
    }

    async fn known_files(
        &self,
        location: &Location,
        newest: Option<&ManifestEntry>,
    ) -> Result<HashSet<String>> {
        let Some(newest) = newest else { return Ok(HashSet::new()) };
        let snapshot = self.snapshot(location, newest.version).await?;
        let files = snapshot.dataset.fragments().iter().flat_map(|fragment| &fragment.files);
        Ok(files.map(|file| file.path.clone()).collect())
    }

    /// Puts a staged manifest at its final name if nothing is there.
    ///
    /// # Errors
    /// `Internal` when storage does not say whether it did: the outcome is unknown.
    pub async fn put_staged(
        &self,
        location: &Location,
        staged: &StagedManifest,
        now_us: i64,
    ) -> Result<Put> {
        if let Some(handler) = self.arbitrated(location, None).await? {
            return self.claim_staged(&handler, location, staged, now_us).await;
        }
        let (store, base) = self.store(location).await?;
        if staged.staged == staged.place {
            let meta = store.inner.head(&staged.place).await;
            let meta = meta.map_err(|error| Error::internal("looking at a manifest", error))?;
            return Ok(Put::StoodAlready(staged.landed(meta.e_tag, now_us)));
        }
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = staged.bytes.clone().into();
        match store.inner.put_opts(&staged.place, payload, options).await {
            Ok(put) => {
                write_version_hint(&store, &base, staged.version).await;
                Ok(Put::Landed(staged.landed(put.e_tag, now_us)))
            }
            Err(object_store::Error::AlreadyExists { .. }) => {
                compare(&store, &staged.place, staged, now_us).await
            }
            Err(error) => Err(Error::internal("putting a manifest", error)),
        }
    }

    /// As [`Self::put_staged`], where an arbiter decides. What is claimed is a copy: the client has its
    /// own until all is done, and could change it.
    async fn claim_staged(
        &self,
        handler: &Arbitrated,
        location: &Location,
        staged: &StagedManifest,
        now_us: i64,
    ) -> Result<Put> {
        let (store, base) = self.store(location).await?;
        let (version, size) = (staged.version, staged.bytes.len() as u64);
        handler.check_unclaimed(&base, version, store.inner.as_ref()).await?;
        let copy = Path::parse(format!("{}-{}", staged.place, Uuid::new_v4()))
            .map_err(|error| Error::internal("naming a manifest", error))?;
        let put = store.inner.put(&copy, staged.bytes.clone().into()).await;
        put.map_err(|error| Error::internal("staging a manifest", error))?;
        let storage = store.inner.as_ref();
        let claims = handler.claims.as_ref();
        let claimed = claims.put(&base, version, &copy, size, None, storage, staged.scheme).await;
        let error = match claimed {
            Ok(there) => {
                write_version_hint(&store, &base, version).await;
                return Ok(Put::Landed(staged.landed(there.e_tag, now_us)));
            }
            Err(error) => error,
        };
        let holder = claims.get_manifest_location(base.as_ref(), version).await;
        let Some(holder) = holder.ok().filter(|holder| holder.path != copy) else {
            // It may have the version, or get it still. Whoever looks next finishes what it began.
            return Err(Error::internal("making a manifest a version", error));
        };
        tracing::debug!(%location, version, path = %holder.path, "another has the version");
        if let Err(error) = store.inner.delete(&copy).await {
            tracing::warn!(%location, %error, "a staged manifest stays behind");
        }
        let there = handler.resolve_version_location(&base, version, storage).await;
        let there = there.map_err(|error| failure::from_lance(error, location))?;
        compare(&store, &there.path, staged, now_us).await
    }

    /// Takes back a manifest that was put and has this hash, unless a later version was built on it.
    /// What stands there and is another's stays. Answers whether none of it is left.
    pub async fn take_back(
        &self,
        location: &Location,
        version: u64,
        scheme: NamingScheme,
        hash: &str,
    ) -> Result<bool> {
        let (store, base) = self.store(location).await?;
        let place = to_lance(scheme).manifest_path(&base, version);
        match self.roll_version_forward(location, version).await {
            // What was staged is gone, so that it cannot become a version any more.
            Err(Error::InvalidTableState(_)) => self.forget_claims(location, &[version]).await?,
            rolled => rolled?,
        }
        if hash_at(&store, &place).await?.as_deref() != Some(hash) {
            return Ok(true);
        }
        if self.find_manifest(location, version + 1).await?.is_some() {
            return Ok(false);
        }
        // In this order: a claim of what is gone would be in everyone's way.
        self.forget_claims(location, &[version]).await?;
        let removed = store.inner.delete(&place).await;
        self.forget();
        match removed {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(Error::internal("taking back a manifest", error)),
        }
    }

    /// Whether the very manifest that is staged stands at its final name.
    pub async fn stands(&self, location: &Location, staged: &StagedManifest) -> Result<bool> {
        let (store, _) = self.store(location).await?;
        Ok(hash_at(&store, &staged.place).await? == Some(staged.hash()))
    }

    /// Removes a staged manifest that is not needed any more. What is not there is no error.
    pub async fn remove_staged(&self, location: &Location, staged: &StagedManifest) {
        if staged.staged == staged.place {
            return;
        }
        let removed = async {
            let (store, _) = self.store(location).await?;
            match store.inner.delete(&staged.staged).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(Error::internal("removing a staged manifest", error)),
            }
        };
        if let Err(error) = removed.await {
            tracing::warn!(%location, %error, "a staged manifest stays behind");
        }
    }

    /// Removes manifests, oldest first, so that the newest that stands is right at any time.
    pub async fn remove_manifests(
        &self,
        location: &Location,
        manifests: &[ManifestEntry],
    ) -> Result<()> {
        let (store, _) = self.store(location).await?;
        let versions: Vec<u64> = manifests.iter().map(|manifest| manifest.version).collect();
        self.forget_claims(location, &versions).await?;
        for manifest in manifests {
            let path = Path::parse(&manifest.path)
                .map_err(|error| Error::internal("removing a version", error))?;
            match store.inner.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(Error::internal("removing a version", error)),
            }
        }
        self.forget();
        Ok(())
    }

    /// Versions of the branch that a tag or another branch refers to.
    pub async fn pinned_versions(
        &self,
        root: &Location,
        branch: &Branch,
    ) -> Result<Vec<(u64, String)>> {
        let Some(newest) = self.list_manifests(root).await?.pop() else {
            return Ok(Vec::new());
        };
        let dataset = self.snapshot(root, newest.version).await?.dataset;
        let failed = |error| failure::from_lance(error, root);
        let is_here = |of: Option<&str>| of == branch.beside_main();
        let tags = dataset.tags().list().await.map_err(failed)?;
        let branches = dataset.branches().list().await.map_err(failed)?;
        let by_tags = tags
            .into_iter()
            .filter(|(_, tag)| is_here(tag.branch.as_deref()))
            .map(|(name, tag)| (tag.version, format!("tag '{name}'")));
        let by_branches = branches
            .into_iter()
            .filter(|(_, other)| is_here(other.parent_branch.as_deref()))
            .map(|(name, other)| (other.parent_version, format!("branch '{name}'")));
        Ok(by_tags.chain(by_branches).collect())
    }
}

impl StagedManifest {
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many rows live in the version.
    pub fn num_rows(&self) -> u64 {
        self.num_rows
    }

    /// Where it is staged, relative to the root of the object store.
    pub fn path(&self) -> String {
        self.staged.to_string()
    }

    /// How its final name is made.
    pub fn naming_scheme(&self) -> NamingScheme {
        from_lance(self.scheme)
    }

    /// The hash of its bytes.
    pub fn hash(&self) -> String {
        blake3::hash(&self.bytes).to_hex().to_string()
    }

    /// Whether it stands at its final name already.
    pub fn is_in_place(&self) -> bool {
        self.staged == self.place
    }

    /// Lance's name of the operation that made it, if the manifest tells.
    pub fn operation(&self) -> Option<&str> {
        self.operation.as_deref()
    }

    fn landed(&self, e_tag: Option<String>, modified_at_us: i64) -> Landed {
        Landed {
            manifest: ManifestEntry {
                version: self.version,
                path: self.place.to_string(),
                size_bytes: Some(self.bytes.len() as u64),
                e_tag,
                naming_scheme: from_lance(self.scheme),
                modified_at_us,
            },
            operation: self.operation.clone(),
            transaction_id: self.transaction_id.clone(),
            num_rows: self.num_rows,
        }
    }
}

pub(super) fn to_lance(scheme: NamingScheme) -> ManifestNamingScheme {
    match scheme {
        NamingScheme::V1 => ManifestNamingScheme::V1,
        NamingScheme::V2 => ManifestNamingScheme::V2,
    }
}

/// Whether what stands at a place is the very manifest that was to be put there.
async fn compare(
    store: &ObjectStore,
    place: &Path,
    staged: &StagedManifest,
    now_us: i64,
) -> Result<Put> {
    let there = store.inner.get(place).await;
    let there = there.map_err(|error| Error::internal("reading a manifest", error))?;
    let e_tag = there.meta.e_tag.clone();
    let bytes = there.bytes().await;
    let bytes = bytes.map_err(|error| Error::internal("reading a manifest", error))?;
    if bytes == staged.bytes {
        return Ok(Put::StoodAlready(staged.landed(e_tag, now_us)));
    }
    Ok(Put::Taken)
}

/// The hash of the file at a place, if there is one.
async fn hash_at(store: &ObjectStore, place: &Path) -> Result<Option<String>> {
    let found = match store.inner.get(place).await {
        Ok(there) => there.bytes().await,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => Err(error),
    };
    let bytes = found.map_err(|error| Error::internal("reading a manifest", error))?;
    Ok(Some(blake3::hash(&bytes).to_hex().to_string()))
}

/// Only a file right in the folder of the table's versions is a staged manifest of it.
pub(super) fn staged_path(base: &Path, given: &str) -> Result<Path> {
    let wrong = || {
        Error::invalid_input(
            "manifest_path must be a file in the table's _versions folder, relative to the root \
             of the object store",
        )
    };
    let path = Path::parse(given.trim_start_matches('/')).map_err(|_| wrong())?;
    let folder = base.clone().join(VERSIONS_DIR);
    let is_file_in_it = path.prefix_match(&folder).is_some_and(|parts| parts.count() == 1);
    let is_short = path.filename().is_some_and(|name| name.len() <= MAX_NAME_BYTES);
    if is_file_in_it && is_short { Ok(path) } else { Err(wrong()) }
}

/// The transaction that a manifest carries: its length in four bytes, then itself.
fn transaction_at(bytes: &Bytes, at: usize) -> Option<pb::Transaction> {
    let rest = bytes.get(at..)?;
    let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(4)?;
    pb::Transaction::decode(rest.get(4..end)?).ok()
}
