//! Which versions storage holds: the truth, which the catalog's rows are an index of.

use futures::TryStreamExt;
use lance::dataset::refs::branch_contents_path;
use lance_table::io::commit::ManifestNamingScheme;
use object_store::{ObjectMeta, ObjectStoreExt};

use super::{Lake, Location, failure};
use crate::error::{Error, Result};
use crate::model::{Branch, ManifestEntry, NamingScheme};

/// The folder of a table that holds its manifests.
pub(super) const VERSIONS_DIR: &str = "_versions";
/// The folder of a table that holds its transactions.
pub(super) const TRANSACTIONS_DIR: &str = "_transactions";
/// Lance marks versions outside the main history with the highest bit.
const DETACHED_BIT: u64 = 1 << 63;

impl Lake {
    /// The versions that storage holds beyond `known`, oldest first.
    ///
    /// Lance's own listing tells whether there are any, as cheaply as the store allows: one page of
    /// a listing where names sort newest first, else the version hint and a look at the next name.
    pub async fn versions_after(
        &self,
        location: &Location,
        known: Option<&ManifestEntry>,
    ) -> Result<Vec<ManifestEntry>> {
        let floor = known.map_or(0, |known| known.version);
        if self.is_arbitrated(location) {
            self.roll_forward(location).await?;
            if let Some(known) = known {
                self.claim_known(location, known).await?;
            }
        }
        if floor > 0 {
            let (store, base) = self.store(location).await?;
            let handler = self.commit_handler(location).await?;
            let mut newer = handler.list_manifest_locations_since(&base, &store, floor);
            let newest = newer.try_next().await;
            if newest.map_err(|error| failure::from_lance(error, location))?.is_none() {
                return Ok(Vec::new());
            }
        }
        let mut found = self.list_manifests(location).await?;
        found.retain(|entry| entry.version > floor);
        Ok(found)
    }

    /// Every version that storage holds, oldest first.
    pub async fn list_manifests(&self, location: &Location) -> Result<Vec<ManifestEntry>> {
        self.roll_forward(location).await?;
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

    /// Whether the table in the folder has the branch.
    pub async fn has_branch(&self, root: &Location, branch: &Branch) -> Result<bool> {
        let (store, base) = self.store(root).await?;
        match store.inner.head(&branch_contents_path(&base, branch.as_str())).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(Error::internal("looking for a branch", error)),
        }
    }

    /// The manifest of one version, if storage holds it.
    pub async fn find_manifest(
        &self,
        location: &Location,
        version: u64,
    ) -> Result<Option<ManifestEntry>> {
        self.roll_version_forward(location, version).await?;
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

pub(super) fn from_lance(scheme: ManifestNamingScheme) -> NamingScheme {
    match scheme {
        ManifestNamingScheme::V1 => NamingScheme::V1,
        ManifestNamingScheme::V2 => NamingScheme::V2,
    }
}
