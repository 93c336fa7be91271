//! Versions where storage cannot put a manifest only if nothing is there: an arbiter outside of it
//! says which manifest is which version.
//!
//! The protocol is Lance's own: its `ExternalManifestCommitHandler` stages the manifest, claims the
//! version for it, copies it to its final name, and notes that it is there; whoever meets a claim
//! whose copy is missing makes it. Here the arbiter is made into the store that the handler asks.
//! What is added is that a version that stands in storage and that nobody claimed is refused by its
//! number, and never written over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use lance_io::object_store::ObjectStore;
use lance_table::format::{IndexMetadata, Manifest, Transaction};
use lance_table::io::commit::external_manifest::{
    ExternalManifestCommitHandler, ExternalManifestStore,
};
use lance_table::io::commit::{
    CommitError, CommitHandler, ManifestLocation, ManifestNamingScheme, ManifestWriter,
};
use object_store::path::Path;
use object_store::{ObjectStore as Storage, ObjectStoreExt};

use super::guard::handler_around_inner;
use super::{Lake, Location, failure};
use crate::error::{Error, Result};
use crate::model::{ClaimState, ManifestClaim, ManifestEntry};

/// What a manifest's final name ends with; a staged one goes on after it.
const FINAL: &str = ".manifest";

/// Decides which manifest is which version. A location is the folder of a table or of a branch.
#[async_trait]
pub trait Arbiter: std::fmt::Debug + Send + Sync {
    async fn find(&self, location: &Location, version: u64) -> Result<Option<ManifestClaim>>;

    /// That of the newest version.
    async fn find_latest(&self, location: &Location) -> Result<Option<ManifestClaim>>;

    /// Those of the versions after `floor`, oldest first.
    async fn list(&self, location: &Location, floor: u64) -> Result<Vec<ManifestClaim>>;

    /// Those whose manifest is not at its final name yet, oldest first.
    async fn list_staged(&self, location: &Location) -> Result<Vec<ManifestClaim>>;

    /// Takes the version for this manifest. Answers whether it has it, now or since before.
    ///
    /// # Errors
    /// It is not known whether it has it.
    async fn claim(&self, location: &Location, claim: &ManifestClaim) -> Result<bool>;

    /// Notes that the manifest is at its final name. Answers false when nobody has the version.
    async fn finish(&self, location: &Location, claim: &ManifestClaim) -> Result<bool>;

    /// Gives versions back.
    async fn forget(&self, location: &Location, versions: &[u64]) -> Result<()>;

    /// Gives all versions of a folder back, and of the branches that it holds.
    async fn forget_all(&self, location: &Location) -> Result<()>;
}

/// The arbiter as Lance's handler asks it.
#[derive(Debug)]
struct Claims {
    arbiter: Arc<dyn Arbiter>,
    /// What stands before a path in the store, so that both are a location.
    authority: String,
    /// Whether paths in the store are percent-encoded and locations are not.
    decodes: bool,
    /// A place in another store, and its path there.
    elsewhere: Option<(String, Location)>,
    /// Whether the answer to a claim got lost, which may then be made still.
    unsure: AtomicBool,
}

impl Claims {
    fn location(&self, base: &str) -> Result<Location> {
        if let Some((_, place)) = self.elsewhere.as_ref().filter(|(path, _)| path == base) {
            return Ok(place.clone());
        }
        let plain = if self.decodes { decoded(base)? } else { base.to_owned() };
        Ok(Location::from_stored(format!("{}{plain}", self.authority)))
    }
}

fn decoded(path: &str) -> Result<String> {
    Path::from_url_path(path)
        .map(String::from)
        .map_err(|error| Error::internal("reading a path in the store", error))
}

fn to_lance(error: Error) -> lance::Error {
    lance::Error::external(Box::new(error))
}

fn manifest_location(claim: ManifestClaim) -> lance::Result<ManifestLocation> {
    let path = Path::parse(&claim.path).map_err(|error| {
        to_lance(Error::internal("reading where a version's manifest stands", error))
    })?;
    let scheme = ManifestNamingScheme::detect_scheme_staging(path.filename().unwrap_or_default());
    Ok(ManifestLocation {
        version: claim.version,
        path,
        size: Some(claim.size_bytes),
        naming_scheme: scheme,
        e_tag: None,
        identity: None,
    })
}

#[async_trait]
impl ExternalManifestStore for Claims {
    async fn get(&self, base: &str, version: u64) -> lance::Result<String> {
        let location = self.get_manifest_location(base, version).await?;
        Ok(location.path.to_string())
    }

    async fn get_manifest_location(
        &self,
        base: &str,
        version: u64,
    ) -> lance::Result<ManifestLocation> {
        let location = self.location(base).map_err(to_lance)?;
        let claim = self.arbiter.find(&location, version).await.map_err(to_lance)?;
        let claim = claim.ok_or_else(|| lance::Error::not_found(format!("{base}@{version}")))?;
        manifest_location(claim)
    }

    async fn get_latest_version(&self, base: &str) -> lance::Result<Option<(u64, String)>> {
        let latest = self.get_latest_manifest_location(base).await?;
        Ok(latest.map(|latest| (latest.version, latest.path.to_string())))
    }

    async fn get_latest_manifest_location(
        &self,
        base: &str,
    ) -> lance::Result<Option<ManifestLocation>> {
        let location = self.location(base).map_err(to_lance)?;
        let claim = self.arbiter.find_latest(&location).await.map_err(to_lance)?;
        claim.map(manifest_location).transpose()
    }

    async fn put_if_not_exists(
        &self,
        base: &str,
        version: u64,
        path: &str,
        size_bytes: u64,
        _e_tag: Option<String>,
    ) -> lance::Result<()> {
        if path.ends_with(FINAL) {
            // Lance read a version that nobody claimed and would note it here. Whether it may be one
            // is not for a reader to decide.
            return Ok(());
        }
        let location = self.location(base).map_err(to_lance)?;
        let state = ClaimState::Staged;
        let claim = ManifestClaim { version, path: path.to_owned(), size_bytes, state };
        match self.arbiter.claim(&location, &claim).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(lance::Error::commit_conflict_source(version, "another has the version".into()))
            }
            Err(error) => {
                self.unsure.store(true, Ordering::Release);
                Err(to_lance(error))
            }
        }
    }

    async fn put_if_exists(
        &self,
        base: &str,
        version: u64,
        path: &str,
        size_bytes: u64,
        _e_tag: Option<String>,
    ) -> lance::Result<()> {
        let location = self.location(base).map_err(to_lance)?;
        let state = if path.ends_with(FINAL) { ClaimState::Final } else { ClaimState::Staged };
        let claim = ManifestClaim { version, path: path.to_owned(), size_bytes, state };
        match self.arbiter.finish(&location, &claim).await.map_err(to_lance)? {
            true => Ok(()),
            false => Err(lance::Error::not_found(format!("{base}@{version}"))),
        }
    }

    async fn delete(&self, base: &str) -> lance::Result<()> {
        let location = self.location(base).map_err(to_lance)?;
        self.arbiter.forget_all(&location).await.map_err(to_lance)
    }
}

/// Lance's handler over an arbiter, and a look for versions that nobody claimed.
#[derive(Debug)]
pub(super) struct Arbitrated {
    inner: ExternalManifestCommitHandler,
    pub(super) claims: Arc<dyn ExternalManifestStore>,
    own: Arc<Claims>,
}

impl Arbitrated {
    fn new(claims: Claims) -> Self {
        let own = Arc::new(claims);
        let claims: Arc<dyn ExternalManifestStore> = own.clone();
        let inner = ExternalManifestCommitHandler { external_manifest_store: claims.clone() };
        Self { inner, claims, own }
    }

    /// Refuses to make a version where one stands that nobody claimed, and on top of such a one.
    ///
    /// # Errors
    /// `InvalidTableState` that names the version.
    pub(super) async fn check_unclaimed(
        &self,
        base: &Path,
        version: u64,
        storage: &dyn Storage,
    ) -> Result<()> {
        let location = self.own.location(base.as_ref())?;
        for version in [version.saturating_sub(1), version] {
            if version == 0 || self.own.arbiter.find(&location, version).await?.is_some() {
                continue;
            }
            for scheme in [ManifestNamingScheme::V2, ManifestNamingScheme::V1] {
                match storage.head(&scheme.manifest_path(base, version)).await {
                    // Between the two looks another may have claimed it.
                    Ok(_) if self.own.arbiter.find(&location, version).await?.is_none() => {
                        return Err(unclaimed(version));
                    }
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(Error::internal("looking for a version", error)),
                }
            }
        }
        Ok(())
    }
}

handler_around_inner!(Arbitrated {
    /// The arbiter knows at once what it was told, unless it was not heard whether it was told.
    fn is_version_not_found_definitive(&self) -> bool {
        !self.own.unsure.load(Ordering::Acquire)
    }

    fn propagate_commit_error_after_success(&self) -> bool {
        false
    }

    fn list_manifest_locations_since<'a>(
        &self,
        base_path: &Path,
        object_store: &'a ObjectStore,
        since_version: u64,
    ) -> BoxStream<'a, lance::Result<ManifestLocation>> {
        self.inner.list_manifest_locations_since(base_path, object_store, since_version)
    }

    async fn commit(
        &self,
        manifest: &mut Manifest,
        indices: Option<Vec<IndexMetadata>>,
        base_path: &Path,
        object_store: &ObjectStore,
        manifest_writer: ManifestWriter,
        naming_scheme: ManifestNamingScheme,
        transaction: Option<Transaction>,
    ) -> std::result::Result<ManifestLocation, CommitError> {
        let (version, storage) = (manifest.version, object_store.inner.as_ref());
        if let Err(refusal) = self.check_unclaimed(base_path, version, storage).await {
            return Err(CommitError::OtherError(to_lance(refusal)));
        }
        self.inner
            .commit(
                manifest,
                indices,
                base_path,
                object_store,
                manifest_writer,
                naming_scheme,
                transaction,
            )
            .await
    }

    async fn delete(&self, base_path: &Path) -> lance::Result<()> {
        self.inner.delete(base_path).await
    }
});

impl Lake {
    /// The same, with an arbiter for where storage does not decide.
    pub fn arbitrated_by(self, arbiter: Arc<dyn Arbiter>) -> Self {
        Self { arbiter: Some(arbiter), ..self }
    }

    /// The handler of a lake with an arbiter; it also serves `elsewhere`, which may be in another
    /// store.
    pub(super) async fn arbitrated(
        &self,
        location: &Location,
        elsewhere: Option<&Location>,
    ) -> Result<Option<Arbitrated>> {
        let Some(arbiter) = self.arbiter_of(location).cloned() else { return Ok(None) };
        let (_, base) = self.store(location).await?;
        let decodes = !location.as_str().contains('%');
        let path = if decodes { decoded(base.as_ref())? } else { base.to_string() };
        let authority = location.as_str().strip_suffix(&path).ok_or_else(|| {
            Error::internal("finding a table's place in its store", format!("{location}, {path}"))
        })?;
        let elsewhere = match elsewhere {
            None => None,
            Some(place) => Some((self.store(place).await?.1.to_string(), place.clone())),
        };
        Ok(Some(Arbitrated::new(Claims {
            arbiter,
            authority: authority.to_owned(),
            decodes,
            elsewhere,
            unsure: AtomicBool::new(false),
        })))
    }

    /// Brings versions that were claimed to their final names. Nothing where storage decides.
    ///
    /// # Errors
    /// `InvalidTableState` for a version whose manifest is gone from where it was staged.
    pub async fn roll_forward(&self, location: &Location) -> Result<()> {
        let Some(arbiter) = self.arbiter_of(location) else { return Ok(()) };
        for claim in arbiter.list_staged(location).await? {
            self.finish_claim(location, claim.version).await?;
        }
        Ok(())
    }

    /// As [`Self::roll_forward`], for one version.
    pub(super) async fn roll_version_forward(
        &self,
        location: &Location,
        version: u64,
    ) -> Result<()> {
        let Some(arbiter) = self.arbiter_of(location) else { return Ok(()) };
        match arbiter.find(location, version).await? {
            Some(claim) if claim.state == ClaimState::Staged => {
                self.finish_claim(location, version).await
            }
            _ => Ok(()),
        }
    }

    async fn finish_claim(&self, location: &Location, version: u64) -> Result<()> {
        let Some(handler) = self.arbitrated(location, None).await? else { return Ok(()) };
        let (store, base) = self.store(location).await?;
        match handler.resolve_version_location(&base, version, store.inner.as_ref()).await {
            Ok(_) => {
                tracing::info!(%location, version, "brought a version to its final name");
                Ok(())
            }
            Err(error) if failure::is_absent(&error) => Err(Error::InvalidTableState(format!(
                "version {version} was begun, and its manifest is gone from storage"
            ))),
            Err(error) => Err(failure::from_lance(error, location)),
        }
    }

    /// Checks that versions which nobody knew of were made through the arbiter.
    ///
    /// # Errors
    /// `InvalidTableState` that names one that was put into storage past it.
    pub async fn check_claimed(&self, location: &Location, found: &[ManifestEntry]) -> Result<()> {
        let (Some(arbiter), Some(oldest)) = (self.arbiter_of(location), found.first()) else {
            return Ok(());
        };
        let claims = arbiter.list(location, oldest.version.saturating_sub(1)).await?;
        let is_claimed = |entry: &ManifestEntry| {
            claims.binary_search_by_key(&entry.version, |claim| claim.version).is_ok()
        };
        match found.iter().find(|entry| !is_claimed(entry)) {
            Some(entry) => Err(unclaimed(entry.version)),
            None => Ok(()),
        }
    }

    /// Sees to it that a version that the catalog knows is claimed: it may be from a time when storage
    /// decided.
    pub(super) async fn claim_known(
        &self,
        location: &Location,
        known: &ManifestEntry,
    ) -> Result<()> {
        let Some(arbiter) = self.arbiter_of(location) else { return Ok(()) };
        if arbiter.find(location, known.version).await?.is_some() {
            return Ok(());
        }
        if let Some(there) = self.find_manifest(location, known.version).await? {
            arbiter.claim(location, &there.as_claim()).await?;
        }
        Ok(())
    }

    /// Whether the manifest of a version that was claimed is in storage still: where it was staged, or
    /// at its final name.
    pub async fn has_claimed(&self, location: &Location, claim: &ManifestClaim) -> Result<bool> {
        let (store, base) = self.store(location).await?;
        let staged = Path::parse(&claim.path)
            .map_err(|error| Error::internal("reading where a manifest is staged", error))?;
        let schemes = [ManifestNamingScheme::V2, ManifestNamingScheme::V1];
        let finals = schemes.map(|scheme| scheme.manifest_path(&base, claim.version));
        for path in std::iter::once(staged).chain(finals) {
            match store.inner.head(&path).await {
                Ok(_) => return Ok(true),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(Error::internal("looking for a manifest", error)),
            }
        }
        Ok(false)
    }

    /// Gives versions back whose manifests are not there any more, or are about to go.
    pub async fn forget_claims(&self, location: &Location, versions: &[u64]) -> Result<()> {
        match self.arbiter_of(location) {
            Some(arbiter) if !versions.is_empty() => arbiter.forget(location, versions).await,
            _ => Ok(()),
        }
    }

    /// Gives back all versions of a folder that is gone.
    pub(super) async fn forget_all_claims(&self, location: &Location) -> Result<()> {
        match self.arbiter_of(location) {
            Some(arbiter) => arbiter.forget_all(location).await,
            None => Ok(()),
        }
    }
}

/// What it means that a version stands in storage that nobody claimed.
fn unclaimed(version: u64) -> Error {
    Error::InvalidTableState(format!(
        "version {version} stands in storage but was not committed through this catalog, which \
         decides the versions here: writers that go past it are not supported. It was neither \
         adopted nor overwritten; move its manifest away, or register the table again"
    ))
}
