//! Making a table of a version of another.

use std::sync::Arc;

use lance::dataset::refs::Ref;

use super::publish::manifest_entry;
use super::{Location, Snapshot};
use crate::error::{Error, Result};
use crate::model::ManifestEntry;

/// What a clone has of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// A manifest that refers to the source's files.
    Shallow,
    /// Copies of all files.
    Deep,
}

/// The first version of a clone.
pub struct Cloned {
    pub manifest: ManifestEntry,
    /// The UUID of Lance's transaction, if it travels in the manifest.
    pub transaction_id: Option<String>,
}

impl Snapshot {
    /// Makes a table of this version in a folder where nothing stands.
    ///
    /// # Errors
    /// `Internal` when something is there.
    pub async fn clone_to(&self, target: &Location, depth: Depth) -> Result<Cloned> {
        if !self.lake.is_one_store(&self.location, target) {
            return Err(Error::Unsupported(
                "a clone in another storage profile than its source is not served".into(),
            ));
        }
        // The dataset that is cloned brings its handler, which has to know the target too.
        let mut dataset = match self.lake.arbitrated(&self.location, Some(target)).await? {
            None => (*self.dataset).clone(),
            Some(handler) => {
                self.lake.open_with(&self.location, self.version(), Arc::new(handler)).await?
            }
        };
        let from = Ref::VersionNumber(self.version());
        let params = Some(self.lake.params(target).clone());
        let made = match depth {
            Depth::Shallow => Box::pin(dataset.shallow_clone(target.as_str(), from, params)).await,
            Depth::Deep => Box::pin(dataset.deep_clone(target.as_str(), from, params)).await,
        };
        let made = made.map_err(|error| self.failed(error))?;
        let transaction = made.read_transaction().await.ok().flatten();
        Ok(Cloned {
            manifest: manifest_entry(made.manifest(), made.manifest_location()),
            transaction_id: transaction.map(|transaction| transaction.uuid),
        })
    }
}
