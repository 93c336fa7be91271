//! New columns for one fragment.

use lance::dataset::NewColumnTransform;

use super::write::{into_lance, staged};
use super::{Batches, Snapshot, data_files};
use crate::error::{Error, Result};
use crate::model::Staged;

impl Snapshot {
    /// Writes new columns for one fragment: one row for each of its live rows, in order.
    /// On an error nothing is left behind.
    ///
    /// # Errors
    /// `InvalidInput` for another number of rows or an unknown fragment,
    /// `TableSchemaValidation` for a column that exists.
    pub async fn write_columns(&self, fragment: u64, batches: Batches) -> Result<Staged> {
        let target = self.fragment(fragment)?;
        if batches.schema.fields().is_empty() {
            return Err(Error::invalid_input("the Arrow stream has no columns"));
        }
        let taken = batches
            .schema
            .fields()
            .iter()
            .find(|field| self.dataset.schema().field(field.name()).is_some());
        if let Some(field) = taken {
            return Err(Error::invalid_input(format!(
                "the table has a column '{}' already",
                field.name()
            )));
        }
        let (stream, failure) = into_lance(batches);
        let written = target.add_columns(NewColumnTransform::Stream(stream), None, None).await;
        let (fragment, schema) =
            written.map_err(|error| match failure.or(error, &self.location) {
                Error::InvalidInput(text) if text.contains("Stream ") => Error::invalid_input(
                    "the Arrow stream must hold exactly one row for each live row of the fragment",
                ),
                error => error,
            })?;
        staged(&[fragment], &schema)
    }

    /// The names of the data files that `staged` adds to its fragment.
    pub fn added_files(&self, staged: &Staged) -> Vec<String> {
        let known: std::collections::HashSet<&str> = self
            .dataset
            .fragments()
            .iter()
            .flat_map(|fragment| fragment.files.iter().map(|file| file.path.as_str()))
            .collect();
        data_files(&staged.fragments)
            .into_iter()
            .filter(|path| !known.contains(path.as_str()))
            .collect()
    }
}
