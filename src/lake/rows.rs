//! Changing rows: delete, update, merge-insert, and going back to what they were.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use lance::Dataset;
use lance::dataset::write::delete::DeleteBuilder;
use lance::dataset::{
    CommitBuilder, MergeInsertBuilder, UpdateBuilder, WhenMatched, WhenNotMatched,
    WhenNotMatchedBySource,
};
use lance::io::exec::Planner;
use lance_datafusion::exec::provider_to_stream;
use serde::{Deserialize, Serialize};

use super::add_columns::top_level;
use super::spool::Spooled;
use super::{Changed, Location, Marked, Snapshot, Terms, expression, failure, mark};
use crate::error::{Error, Result};

/// New values for some rows.
#[derive(Debug, Clone)]
pub struct RowUpdate {
    /// A SQL expression; all rows when absent.
    pub predicate: Option<String>,
    /// Columns, each with a SQL expression over the row as it is.
    pub values: Vec<(String, String)>,
}

/// How rows of a request and rows of a table come together.
#[derive(Debug, Clone, Default)]
pub struct Merge {
    /// The columns that make a row of the one and a row of the other the same.
    pub on: Vec<String>,
    pub matched: Matched,
    pub not_matched: NotMatched,
    pub not_matched_by_source: NotMatchedBySource,
    pub use_index: bool,
}

/// What happens to a row of the table that a row of the request matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Matched {
    #[default]
    Keep,
    Update,
    /// Only where the SQL expression over `source` and `target` is true.
    UpdateIf(String),
}

/// What happens to a row of the request that matches none of the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NotMatched {
    #[default]
    Skip,
    Insert,
}

/// What happens to a row of the table that no row of the request matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NotMatchedBySource {
    #[default]
    Keep,
    Delete,
    /// Only where the SQL expression is true.
    DeleteIf(String),
}

/// How many rows a merge changed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Merged {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
}

impl Merge {
    /// Whether rows of this schema have the columns that they are to be matched by.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn check_source(&self, schema: &Schema) -> Result<()> {
        match self.on.iter().find(|key| schema.field_with_name(key).is_err()) {
            None => Ok(()),
            Some(key) => Err(Error::invalid_input(format!(
                "the rows have no column '{key}', which is to match them"
            ))),
        }
    }
}

impl Snapshot {
    /// Deletes the rows that fit. Answers how many there were.
    ///
    /// # Errors
    /// `InvalidInput` and `TableColumnNotFound` for the predicate.
    pub async fn delete_rows(&self, predicate: &str, terms: &Terms) -> Changed<u64> {
        let (predicate, location) = (predicate.to_owned(), self.location.clone());
        self.change(terms, move |dataset| async move {
            expression::check(&predicate)?;
            let dataset = Arc::new(dataset);
            let planned = DeleteBuilder::new(dataset.clone(), predicate).execute_uncommitted();
            let planned = planned.await.map_err(|error| failed(error, &location))?;
            let transaction = mark::with_counts(planned.transaction, &planned.num_deleted_rows)?;
            let mut builder = CommitBuilder::new(dataset);
            if let Some(rows) = planned.affected_rows {
                builder = builder.with_affected_rows(rows);
            }
            let landed = builder.execute(transaction).await;
            landed.map_err(|error| failed(error, &location))?;
            Ok(planned.num_deleted_rows)
        })
        .await
    }

    /// Gives rows new values. Answers how many rows.
    ///
    /// # Errors
    /// `InvalidInput` and `TableColumnNotFound` for the expressions and the columns.
    pub async fn update_rows(&self, update: &RowUpdate, terms: &Terms) -> Changed<u64> {
        let (update, location) = (update.clone(), self.location.clone());
        self.change(terms, move |dataset| async move {
            let job = update_job(dataset, &update, &location)?;
            let updated = job.execute().await.map_err(|error| failed(error, &location))?;
            Ok(updated.rows_updated)
        })
        .await
    }

    /// Brings rows of a request and rows of the table together.
    ///
    /// # Errors
    /// `TableColumnNotFound` for a key that the table does not have, `TableSchemaValidation` for
    /// rows that do not fit, `InvalidInput` for the rest.
    pub async fn merge_rows(
        &self,
        merge: &Merge,
        source: &Spooled,
        terms: &Terms,
    ) -> Changed<Merged> {
        let (merge, source) = (merge.clone(), source.clone());
        let location = self.location.clone();
        self.change(terms, move |dataset| async move {
            check_keys(&merge, &dataset)?;
            merge.check_source(&source.schema)?;
            let dataset = Arc::new(dataset);
            let job = merge_builder(dataset.clone(), &merge, &location)?
                .try_build()
                .map_err(|error| failed(error, &location))?;
            let failed = |error| unmergeable(failed(error, &location));
            let rows = provider_to_stream(source.provider).await.map_err(failed)?;
            let planned = job.execute_uncommitted(rows).await.map_err(failed)?;
            let merged = Merged {
                inserted: planned.stats.num_inserted_rows,
                updated: planned.stats.num_updated_rows,
                deleted: planned.stats.num_deleted_rows,
            };
            let transaction = mark::with_counts(planned.transaction, &merged)?;
            let mut builder = CommitBuilder::new(dataset);
            if let Some(rows) = planned.affected_rows {
                builder = builder.with_affected_rows(rows);
            }
            builder.execute(transaction).await.map_err(failed)?;
            Ok(merged)
        })
        .await
    }
}

impl Marked {
    /// How many rows were deleted, for a deletion.
    ///
    /// # Errors
    /// `Internal` for another change.
    pub fn rows_deleted(&self) -> Result<u64> {
        self.counts()
    }

    /// # Errors
    /// `Internal` for a change that is no merge.
    pub fn rows_merged(&self) -> Result<Merged> {
        self.counts()
    }
}

impl Snapshot {
    /// Puts the state of an older version on top of this one.
    pub async fn restore(&self, version: u64, terms: &Terms) -> Changed<()> {
        let location = self.location.clone();
        self.change(terms, move |dataset| async move {
            let older = dataset.checkout_version(version).await;
            let mut older = older.map_err(|error| failure::from_lance(error, &location))?;
            older.restore().await.map_err(|error| failure::from_lance(error, &location))
        })
        .await
    }
}

pub(super) fn update_job(
    dataset: Dataset,
    update: &RowUpdate,
    location: &Location,
) -> Result<lance::dataset::write::update::UpdateJob> {
    let mut named = HashSet::new();
    for (column, _) in &update.values {
        if !named.insert(column.as_str()) {
            return Err(Error::invalid_input(format!("column '{column}' is updated twice")));
        }
        match dataset.schema().field(column) {
            None => return Err(no_column(column, &dataset)),
            Some(field) if field.name != *column => {
                return Err(Error::Unsupported(format!(
                    "'{column}' is inside another column: only whole columns can be updated"
                )));
            }
            Some(_) => {}
        }
    }
    let values = update.values.iter().map(|(_, value)| value.as_str());
    expression::check_all(values.chain(update.predicate.as_deref()))?;
    check_independent(update, &dataset, location)?;
    let mut builder = UpdateBuilder::new(Arc::new(dataset)).conflict_retries(0);
    if let Some(predicate) = &update.predicate {
        builder = builder.update_where(predicate).map_err(|error| failed(error, location))?;
    }
    for (column, value) in &update.values {
        builder = builder.set(column, value).map_err(|error| failed(error, location))?;
    }
    builder.build().map_err(|error| failed(error, location))
}

/// Lance sets one column after the other, in no order, each from the row as the ones before left it.
/// That is the row as it was only if no new value is made of another column that changes.
fn check_independent(update: &RowUpdate, dataset: &Dataset, location: &Location) -> Result<()> {
    let planner = Planner::new(Arc::new(Schema::from(dataset.schema())));
    for (column, value) in &update.values {
        let parsed = planner.parse_expr(value).map_err(|error| failed(error, location))?;
        for path in Planner::column_names_in_expr(&parsed) {
            let input = top_level(dataset, &path)?;
            if input != *column && update.values.iter().any(|(changed, _)| *changed == input) {
                return Err(Error::Unsupported(format!(
                    "the new value of '{column}' is made of '{input}', which changes too: send two \
                     updates, one for each column"
                )));
            }
        }
    }
    Ok(())
}

fn check_keys(merge: &Merge, dataset: &Dataset) -> Result<()> {
    for key in &merge.on {
        match dataset.schema().field(key) {
            None => return Err(no_column(key, dataset)),
            Some(field) if field.name != *key => {
                return Err(Error::Unsupported(format!(
                    "'{key}' is inside another column: only whole columns can be keys of a merge"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn merge_builder(
    dataset: Arc<Dataset>,
    merge: &Merge,
    location: &Location,
) -> Result<MergeInsertBuilder> {
    let mut builder = MergeInsertBuilder::try_new(dataset.clone(), merge.on.clone())
        .map_err(|error| failed(error, location))?;
    builder.conflict_retries(0).use_index(merge.use_index);
    builder.when_matched(match &merge.matched {
        Matched::Keep => WhenMatched::DoNothing,
        Matched::Update => WhenMatched::UpdateAll,
        Matched::UpdateIf(expression) => {
            expression::check(expression)?;
            WhenMatched::UpdateIf(expression.clone())
        }
    });
    builder.when_not_matched(match merge.not_matched {
        NotMatched::Skip => WhenNotMatched::DoNothing,
        NotMatched::Insert => WhenNotMatched::InsertAll,
    });
    builder.when_not_matched_by_source(match &merge.not_matched_by_source {
        NotMatchedBySource::Keep => WhenNotMatchedBySource::Keep,
        NotMatchedBySource::Delete => WhenNotMatchedBySource::Delete,
        NotMatchedBySource::DeleteIf(expression) => {
            expression::check(expression)?;
            WhenNotMatchedBySource::delete_if(&dataset, expression)
                .map_err(|error| failed(error, location))?
        }
    });
    Ok(builder)
}

fn no_column(column: &str, dataset: &Dataset) -> Error {
    let known: Vec<&str> =
        dataset.schema().fields.iter().map(|field| field.name.as_str()).take(20).collect();
    Error::TableColumnNotFound(format!(
        "the table has no column '{column}'; it has: {}",
        known.join(", ")
    ))
}

fn failed(error: lance::Error, location: &Location) -> Error {
    failure::from_expression(error, location)
}

/// Rows that do not fit are a matter of the schema, however Lance came to see it.
fn unmergeable(error: Error) -> Error {
    match error {
        Error::InvalidInput(text) if text.contains("chema") => Error::TableSchemaValidation(text),
        error => error,
    }
}
