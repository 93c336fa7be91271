//! Which versions storage holds: the truth, which the catalog's rows are an index of.

use std::collections::HashSet;

use futures::TryStreamExt;
use lance_io::object_store::ObjectStore;
use lance_table::io::commit::ManifestNamingScheme;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};

use super::{Lake, Location};
use crate::error::{Error, Result};
use crate::model::{ManifestEntry, NamingScheme};

/// The folder of a table that holds its manifests.
const VERSIONS_DIR: &str = "_versions";
/// Lance marks versions outside the main history with the highest bit.
const DETACHED_BIT: u64 = 1 << 63;

impl Lake {
    /// The versions that storage holds beyond `known`, oldest first.
    ///
    /// When nothing changed this costs two HEAD requests, side by side: the next manifest is not
    /// there and the newest known one still is. Lance's clean-up always keeps the newest version,
    /// so a missing known one means that others went on and cleaned up.
    pub async fn versions_after(
        &self,
        location: &Location,
        known: Option<&ManifestEntry>,
    ) -> Result<Vec<ManifestEntry>> {
        if let Some(known) = known {
            let (store, base) = self.store(location).await?;
            let scheme = to_lance(known.naming_scheme);
            let next_path = scheme.manifest_path(&base, known.version + 1);
            let known_path = scheme.manifest_path(&base, known.version);
            let (next, current) =
                tokio::join!(exists(&store, &next_path), exists(&store, &known_path));
            if !next? && current? {
                return Ok(Vec::new());
            }
        }
        let floor = known.map_or(0, |known| known.version);
        let mut found = self.list_manifests(location).await?;
        found.retain(|entry| entry.version > floor);
        Ok(found)
    }

    /// Every version that storage holds, oldest first.
    pub async fn list_manifests(&self, location: &Location) -> Result<Vec<ManifestEntry>> {
        let (store, base) = self.store(location).await?;
        let folder = base.join(VERSIONS_DIR);
        let listed = store.inner.list(Some(&folder)).try_collect::<Vec<ObjectMeta>>().await;
        let metas = match listed {
            Ok(metas) => metas,
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(Error::internal("listing the versions of a table", error)),
        };
        let mut found: Vec<ManifestEntry> = metas.into_iter().filter_map(entry).collect();
        found.sort_by_key(|entry| entry.version);
        Ok(found)
    }

    /// Which of `files` any version after `floor` refers to.
    pub async fn files_in_use(
        &self,
        location: &Location,
        files: &[String],
        floor: u64,
    ) -> Result<HashSet<String>> {
        let mut used = HashSet::new();
        // The newest versions refer to most of what is in use: often the first look settles it.
        for entry in self.list_manifests(location).await?.into_iter().rev() {
            if entry.version <= floor || used.len() == files.len() {
                break;
            }
            let snapshot = self.snapshot(location, entry.version).await?;
            let held: HashSet<&str> = snapshot
                .dataset
                .fragments()
                .iter()
                .flat_map(|fragment| fragment.files.iter().map(|file| file.path.as_str()))
                .collect();
            used.extend(files.iter().filter(|file| held.contains(file.as_str())).cloned());
        }
        Ok(used)
    }

    /// The manifest of one version, if storage holds it.
    pub async fn find_manifest(
        &self,
        location: &Location,
        version: u64,
    ) -> Result<Option<ManifestEntry>> {
        let (store, base) = self.store(location).await?;
        for scheme in [ManifestNamingScheme::V2, ManifestNamingScheme::V1] {
            match store.inner.head(&scheme.manifest_path(&base, version)).await {
                Ok(meta) => return Ok(entry(meta)),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(Error::internal("looking for a version", error)),
            }
        }
        Ok(None)
    }
}

async fn exists(store: &ObjectStore, path: &Path) -> Result<bool> {
    match store.inner.head(path).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(Error::internal("looking for a version", error)),
    }
}

/// Reads a manifest's name; `None` for staged, detached and other files.
fn entry(meta: ObjectMeta) -> Option<ManifestEntry> {
    let name = meta.location.filename()?;
    if !name.ends_with(".manifest") {
        return None;
    }
    let scheme = ManifestNamingScheme::detect_scheme(name)?;
    let version = scheme.parse_version(name).filter(|version| version & DETACHED_BIT == 0)?;
    Some(ManifestEntry {
        version,
        size_bytes: Some(meta.size),
        e_tag: meta.e_tag,
        naming_scheme: from_lance(scheme),
        modified_at_us: meta.last_modified.timestamp_micros(),
        path: meta.location.to_string(),
    })
}

fn to_lance(scheme: NamingScheme) -> ManifestNamingScheme {
    match scheme {
        NamingScheme::V1 => ManifestNamingScheme::V1,
        NamingScheme::V2 => ManifestNamingScheme::V2,
    }
}

pub(super) fn from_lance(scheme: ManifestNamingScheme) -> NamingScheme {
    match scheme {
        ManifestNamingScheme::V1 => NamingScheme::V1,
        ManifestNamingScheme::V2 => NamingScheme::V2,
    }
}
