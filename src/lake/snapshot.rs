//! One version of a table, opened.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance_table::format::Fragment;
use lance_table::io::commit::CommitHandler;

use super::guard::{Fence, Guard};
use super::readers::Readers;
use super::{Lake, Location, failure};
use crate::error::{Error, Result};
use crate::model::Mark;

/// One version of a table, opened. Reading through it always sees that version.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) dataset: Arc<Dataset>,
    pub(super) location: Location,
    pub(super) readers: Readers,
    pub(super) lake: Lake,
    /// Asked before a change of it is put.
    pub(super) fence: Option<Arc<dyn Fence>>,
    /// Kept in the versions that a change of it puts.
    pub(super) mark: Option<Arc<Mark>>,
}

/// What a description tells without reading data.
#[derive(Debug, Clone, Copy)]
pub struct Stats {
    pub num_deleted_rows: u64,
    pub num_fragments: u64,
}

impl Lake {
    /// Opens one version. The caller has found it in storage first: see
    /// [`Lake::versions_after`].
    pub async fn snapshot(&self, location: &Location, version: u64) -> Result<Snapshot> {
        let handler = Guard::new(self.commit_handler(location).await?);
        let dataset = self.open_with(location, version, Arc::new(handler)).await?;
        // Lance opens the newest when the one that was asked for is not there.
        if dataset.version_id() != version {
            return Err(Error::internal("opening a version", format!("{version} is not there")));
        }
        for base in dataset.manifest().base_paths.values() {
            if !self.may_refer(location, &base.path).await? {
                return Err(Error::InvalidTableState(format!(
                    "version {version} refers to data where this server does not read, or of \
                     another table"
                )));
            }
        }
        Ok(Snapshot {
            dataset: Arc::new(dataset),
            location: location.clone(),
            readers: self.readers.clone(),
            lake: self.clone(),
            fence: None,
            mark: None,
        })
    }
}

impl Lake {
    /// Opens one version by way of a handler.
    pub(super) async fn open_with(
        &self,
        location: &Location,
        version: u64,
        handler: Arc<dyn CommitHandler>,
    ) -> Result<Dataset> {
        DatasetBuilder::from_uri(location.as_str())
            .with_session(self.session())
            .with_store_params(self.params(location).clone())
            .with_version(version)
            .with_commit_handler(handler)
            .load()
            .await
            .map_err(|error| failure::from_lance(error, location))
    }
}

impl Snapshot {
    /// The same, so that `fence` is asked before any change of it is put.
    pub fn behind(self, fence: Arc<dyn Fence>) -> Self {
        Self { fence: Some(fence), ..self }
    }

    /// A later version of the same table.
    pub(super) fn at(&self, dataset: Dataset) -> Self {
        Self { dataset: Arc::new(dataset), fence: None, ..self.clone() }
    }

    /// Whether what Lance remembers about it may still be used.
    pub fn is_fresh(&self) -> bool {
        Arc::ptr_eq(&self.dataset.session(), &self.lake.session())
    }

    /// How often what Lance remembers was forgotten. A version that is open from before holds all of
    /// that in memory still, for nobody's use.
    pub fn times_forgotten(&self) -> u64 {
        self.lake.times_forgotten.load(Ordering::Relaxed)
    }

    /// About how much memory it holds, in bytes: most of it is the list of fragments.
    pub fn weight(&self) -> usize {
        const BASE: usize = 32 << 10;
        const FRAGMENT: usize = 256;
        const FILE: usize = 256;
        let files: usize = self.dataset.fragments().iter().map(|f| f.files.len()).sum();
        BASE + self.dataset.count_fragments() * FRAGMENT + files * FILE
    }

    /// The same, so that any change of it is made for the request whose mark it is, if there is one.
    pub fn made_for(self, mark: Option<Arc<Mark>>) -> Self {
        Self { mark, ..self }
    }

    pub fn version(&self) -> u64 {
        self.dataset.version_id()
    }

    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::new(ArrowSchema::from(self.dataset.schema()))
    }

    /// The schema's own key-value pairs.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.dataset.schema().metadata
    }

    pub async fn stats(&self) -> Result<Stats> {
        let deleted =
            self.dataset.count_deleted_rows().await.map_err(|error| self.failed(error))?;
        Ok(Stats {
            num_deleted_rows: deleted as u64,
            num_fragments: self.dataset.count_fragments() as u64,
        })
    }

    /// Lance's own JSON of each fragment.
    pub fn fragments(&self) -> Result<Vec<serde_json::Value>> {
        self.dataset.fragments().iter().map(fragment_to_json).collect()
    }

    /// How many rows live, from the manifest alone where it says so.
    pub async fn num_rows(&self) -> Result<u64> {
        let rows = self.dataset.count_rows(None).await.map_err(|error| self.failed(error))?;
        Ok(rows as u64)
    }

    /// Lance's name of the operation that made `version`, if its transaction can still be read.
    pub async fn operation_of(&self, version: u64) -> Option<String> {
        Some(self.maker(version).await.ok()??.operation.clone())
    }

    pub(super) fn failed(&self, error: lance::Error) -> Error {
        failure::from_lance(error, &self.location)
    }
}

pub(super) fn fragment_to_json(fragment: &Fragment) -> Result<serde_json::Value> {
    serde_json::to_value(fragment).map_err(|error| Error::internal("writing a fragment", error))
}

/// Reads Lance's JSON of a fragment, as pylance's `FragmentMetadata.to_json()` gives it: explicit
/// nulls included.
///
/// # Errors
/// `InvalidInput` that names what is wrong with it.
pub(super) fn fragment_from_json(value: &serde_json::Value) -> Result<Fragment> {
    serde_json::from_value(value.clone())
        .map_err(|error| Error::invalid_input(format!("a fragment is not Lance's JSON: {error}")))
}
