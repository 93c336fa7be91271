//! Making a version without putting it: its manifest is written under a name that nobody looks for,
//! so that versions of several tables can be put together later.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::transaction::TransactionBuilder;
use lance::dataset::{CommitBuilder, WriteDestination};
use lance::session::Session;
use lance_io::object_store::ObjectStore;
use lance_table::format::{Fragment, Manifest};
use lance_table::io::commit::{ManifestLocation, ManifestNamingScheme};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::guard::Guard;
use super::probe::TRANSACTIONS_DIR;
use super::publish::PUBLISH_TIMEOUT;
use super::staged::{staged_path, to_lance};
use super::{Lake, Location, Prepared, Rules, Snapshot, StagedManifest, failure};
use crate::error::{Error, Result};
use crate::model::{NamingScheme, Properties};

/// What a session remembers that serves one version and is then forgotten.
const CACHE_BYTES: usize = 4 << 20;

/// What a manifest that was staged here need not be asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    /// Lance's name of the operation.
    pub operation: String,
    pub transaction_id: String,
    /// The file of Lance's transaction, in its folder.
    pub transaction_file: Option<String>,
    pub num_rows: u64,
}

/// Where a manifest goes instead of its final name.
#[derive(Debug, Default)]
pub(super) struct Stage(Mutex<Option<Written>>);

#[derive(Debug)]
struct Written {
    staged: Path,
    place: Path,
    scheme: ManifestNamingScheme,
    bytes: Bytes,
    num_rows: u64,
    transaction_file: Option<String>,
}

impl Stage {
    /// Writes a manifest and keeps what was written.
    pub(super) async fn write(
        &self,
        store: &ObjectStore,
        base: &Path,
        manifest: &Manifest,
        bytes: Bytes,
        scheme: ManifestNamingScheme,
    ) -> lance::Result<ManifestLocation> {
        let place = scheme.manifest_path(base, manifest.version);
        let staged = Path::parse(format!("{place}-{}", Uuid::new_v4()))?;
        // Nobody else has the name, and not every store can put only if nothing is there.
        let put = store.inner.put(&staged, bytes.clone().into()).await?;
        let num_rows = manifest.fragments.iter().filter_map(Fragment::num_rows).sum::<usize>();
        let location = ManifestLocation {
            version: manifest.version,
            path: staged.clone(),
            size: Some(bytes.len() as u64),
            naming_scheme: scheme,
            e_tag: put.e_tag,
            identity: None,
        };
        let transaction_file = manifest.transaction_file.clone();
        let num_rows = num_rows as u64;
        let written = Written { staged, place, scheme, bytes, num_rows, transaction_file };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(written);
        Ok(location)
    }

    fn take(&self) -> Option<Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Lake {
    /// Makes `version` of a table and stages its manifest. What landed since `rules.read_version` is
    /// gone through by Lance's own rules, as when a version is published. `None` when another version
    /// stands where it was to stand; then nothing is left behind.
    ///
    /// # Errors
    /// `ConcurrentModification` when what landed since `read_version` does not go with it; nothing is
    /// left behind after any.
    pub async fn stage(
        &self,
        location: &Location,
        base: Option<&Snapshot>,
        prepared: Prepared,
        rules: &Rules,
        version: u64,
    ) -> Result<Option<(StagedManifest, Told)>> {
        let operation = prepared.operation.name().to_owned();
        let properties = rules.properties.clone();
        let transaction = TransactionBuilder::new(rules.read_version, prepared.operation)
            .uuid(rules.transaction_id.to_string())
            .transaction_properties(
                (!properties.is_empty()).then(|| Arc::new(properties.into_iter().collect())),
            )
            .build();
        // Lance remembers what it commits by its number, and another may yet come to have that.
        let registry = self.session().store_registry();
        let session = Arc::new(Session::new(CACHE_BYTES, CACHE_BYTES, registry));
        let destination = match base {
            Some(base) => {
                let opened = DatasetBuilder::from_uri(location.as_str())
                    .with_session(session.clone())
                    .with_store_params(self.params(location).clone())
                    .with_version(base.version())
                    .with_commit_handler(self.commit_handler(location).await?)
                    .load()
                    .await
                    .map_err(|error| failure::from_lance(error, location))?;
                WriteDestination::Dataset(Arc::new(opened))
            }
            None => WriteDestination::Uri(location.as_str()),
        };
        let stage = Arc::new(Stage::default());
        let guard = Guard {
            expected: Some(version),
            new_files: prepared.new_files,
            stage: Some(stage.clone()),
            ..Guard::new(self.commit_handler(location).await?)
        };
        let builder = CommitBuilder::new(destination)
            .with_session(session)
            .with_store_params(self.params(location).clone())
            .use_stable_row_ids(prepared.stable_row_ids)
            .with_timeout(Some(PUBLISH_TIMEOUT))
            .with_skip_auto_cleanup(true)
            .with_max_retries(1)
            .with_commit_handler(Arc::new(guard));
        let outcome = Box::pin(builder.execute(transaction)).await;
        let written = stage.take();
        match (outcome, written) {
            (Ok(_), Some(written)) => {
                let told = Told {
                    operation,
                    transaction_id: rules.transaction_id.to_string(),
                    transaction_file: written.transaction_file.clone(),
                    num_rows: written.num_rows,
                };
                let properties = rules.properties.clone();
                Ok(Some((written.into_staged(version, &told, properties), told)))
            }
            (Ok(_), None) => Err(Error::internal("staging a version", "nothing was written")),
            (Err(error), written) => {
                if let Some(written) = written {
                    self.discard_staged(location, written.staged.as_ref(), None).await;
                }
                // What stood after the base was taken back before Lance had read it.
                if failure::is_absent(&error) {
                    return Ok(None);
                }
                let conflict = match failure::from_lance(error, location) {
                    Error::ConcurrentModification(conflict) => conflict,
                    error => return Err(error),
                };
                // Only the guard says which version stands; Lance's own rules do not.
                if conflict.current_version.is_some() {
                    return Ok(None);
                }
                Err(Error::ConcurrentModification(conflict))
            }
        }
    }

    /// Reads a manifest that was staged here, of which everything but its bytes is known.
    ///
    /// # Errors
    /// `InvalidInput` when it is not there any more.
    pub async fn staged_before(
        &self,
        location: &Location,
        version: u64,
        scheme: NamingScheme,
        path: &str,
        told: &Told,
    ) -> Result<StagedManifest> {
        let (store, base) = self.store(location).await?;
        let staged = staged_path(&base, path)?;
        let found = match store.inner.get(&staged).await {
            Ok(found) => found.bytes().await,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(Error::invalid_input("a version that was staged is gone"));
            }
            Err(error) => Err(error),
        };
        let bytes = found.map_err(|error| Error::internal("reading a staged manifest", error))?;
        let scheme = to_lance(scheme);
        let place = scheme.manifest_path(&base, version);
        let (num_rows, transaction_file) = (told.num_rows, told.transaction_file.clone());
        let written = Written { staged, place, scheme, bytes, num_rows, transaction_file };
        Ok(written.into_staged(version, told, Properties::new()))
    }

    /// Removes a version that was staged here and will not be put. What is not there is no error.
    pub async fn discard_staged(
        &self,
        location: &Location,
        path: &str,
        transaction_file: Option<&str>,
    ) {
        let removed = async {
            let (store, base) = self.store(location).await?;
            let mut doomed = vec![staged_path(&base, path)?];
            doomed.extend(transaction_file.map(|name| base.join(TRANSACTIONS_DIR).join(name)));
            for path in doomed {
                match store.inner.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(Error::internal("removing a staged version", error)),
                }
            }
            Ok(())
        };
        if let Err(error) = removed.await {
            tracing::warn!(%location, %error, "a staged version stays behind");
        }
    }
}

impl Written {
    fn into_staged(self, version: u64, told: &Told, properties: Properties) -> StagedManifest {
        StagedManifest {
            staged: self.staged,
            place: self.place,
            scheme: self.scheme,
            version,
            bytes: self.bytes,
            num_rows: self.num_rows,
            operation: Some(told.operation.clone()),
            transaction_id: Some(told.transaction_id.clone()),
            properties,
        }
    }
}
