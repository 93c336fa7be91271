//! Filling computed columns.

use std::sync::Arc;

use arrow::array::Array;
use futures::StreamExt;
use lance::Dataset;
use lance::dataset::scanner::Scanner;
use serde::{Deserialize, Serialize};

use super::alter::find_field;
use super::query::READ_AHEAD_BYTES;
use super::rows::{RowUpdate, update_job};
use super::{Changed, Location, Snapshot, Terms, expression, failure};
use crate::error::{Error, Result};

/// Which rows of a computed column to fill.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Backfill {
    /// The path of the column.
    pub column: String,
    /// A SQL expression; all rows in which the column is null when absent.
    pub filter: Option<String>,
}

impl Snapshot {
    /// Whether the column can be filled as things are now. Nothing is changed.
    ///
    /// # Errors
    /// `TableColumnNotFound` for a column that is not there or that an expression names;
    /// `InvalidInput` for one that is not computed, and for an expression that cannot be read.
    pub async fn check_backfill(&self, backfill: &Backfill) -> Result<()> {
        let update = self.update_of(backfill)?;
        let (dataset, location) = (self.dataset.clone(), self.location.clone());
        let checking = async move {
            update_job(Dataset::clone(&dataset), &update, &location)?;
            let planned = values(&dataset, &update, &location)?.create_plan().await;
            planned.map(drop).map_err(|error| failure::from_expression(error, &location))
        };
        self.readers.run(Box::pin(checking)).await
    }

    /// Gives each row in which the column is null, and which the filter lets through, the value of
    /// the column's expression. Nothing is put when no row would get one: so a second time changes
    /// nothing. Answers how many rows were written.
    ///
    /// # Errors
    /// As [`Self::check_backfill`], and `InvalidInput` for what cannot be evaluated.
    pub async fn backfill(&self, backfill: &Backfill, terms: &Terms) -> Changed<u64> {
        let update = match self.update_of(backfill) {
            Ok(update) => update,
            Err(error) => return Changed::refused(error),
        };
        let location = self.location.clone();
        self.change(terms, move |dataset| async move {
            let job = update_job(dataset.clone(), &update, &location)?;
            if !finds_a_value(&dataset, &update, &location).await? {
                return Ok(0);
            }
            let updated = job.execute().await;
            updated
                .map(|updated| updated.rows_updated)
                .map_err(|error| failure::from_expression(error, &location))
        })
        .await
    }

    fn update_of(&self, backfill: &Backfill) -> Result<RowUpdate> {
        let Backfill { column, filter } = backfill;
        let schema = self.dataset.schema();
        let field = find_field(schema, column)?;
        let Some(value) = self.computed_expression(column)? else {
            return Err(Error::invalid_input(format!(
                "column '{column}' is not a computed one: only a column that was added with \
                 'computed' can be backfilled"
            )));
        };
        // Lance updates a column by its name, which it reads as a path.
        if schema.field(&field.name).is_none_or(|found| found.id != field.id) {
            return Err(Error::Unsupported(format!(
                "'{column}' cannot be backfilled: it is inside another column, or its name is no \
                 path of a field"
            )));
        }
        let is_null = format!("{} IS NULL", quoted(&field.name));
        let predicate = match filter {
            None => is_null,
            Some(filter) => {
                // By itself, so that it cannot reach past its parentheses. The line ends before
                // them because a comment would go on.
                expression::check(filter)?;
                format!("{is_null} AND (\n{filter}\n)")
            }
        };
        let values = vec![(field.name.clone(), value.to_owned())];
        Ok(RowUpdate { predicate: Some(predicate), values })
    }
}

/// A column by its name, as an expression.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The values that the update would give. Its expressions were checked.
fn values(dataset: &Arc<Dataset>, update: &RowUpdate, location: &Location) -> Result<Scanner> {
    let failed = |error| failure::from_expression(error, location);
    let mut scanner = dataset.scan();
    if let Some(predicate) = &update.predicate {
        scanner.filter(predicate).map_err(failed)?;
    }
    // With what it is now, because Lance scans no constants alone.
    let columns: Vec<(&str, String)> = update
        .values
        .iter()
        .flat_map(|(name, value)| [("now", quoted(name)), ("then", value.clone())])
        .collect();
    scanner.project_with_transform(&columns).map_err(failed)?;
    scanner.io_buffer_size(READ_AHEAD_BYTES);
    Ok(scanner)
}

/// Whether a row would get a value that is not null. Most often the first batch says so.
async fn finds_a_value(dataset: &Dataset, update: &RowUpdate, location: &Location) -> Result<bool> {
    let failed = |error| failure::from_expression(error, location);
    let scanner = values(&Arc::new(dataset.clone()), update, location)?;
    let mut stream = scanner.try_into_stream().await.map_err(failed)?;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(failed)?;
        let values = batch.column_by_name("then");
        if values.is_some_and(|values| values.logical_null_count() < values.len()) {
            return Ok(true);
        }
    }
    Ok(false)
}
