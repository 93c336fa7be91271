//! The answers to several query vectors, each with its offset.
//!
//! Lance finds the best of each query vector together, and knows only one offset for all.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int32Type;

use super::{Query, Snapshot};
use crate::error::{Error, Result};

/// The column that says which query vector a row answers.
const QUERY_INDEX: &str = "query_index";

/// Leaves out the first rows of each answer.
pub(super) struct Skip {
    offset: u64,
    /// How many rows of each answer have come.
    seen: Vec<u64>,
}

impl Skip {
    /// What Lance's own offset does not do for a query, if anything.
    ///
    /// # Errors
    /// `InvalidInput` and `TableColumnNotFound`, as the search itself.
    pub(super) fn of(snapshot: &Snapshot, query: &Query) -> Result<Option<Self>> {
        let (Some(vectors), Some(offset @ 1..)) = (&query.vectors, query.offset) else {
            return Ok(None);
        };
        let several = snapshot.answers_each(vectors)?;
        Ok(several.then(|| Self { offset, seen: vec![0; vectors.queries.len()] }))
    }

    /// The rows that are behind the offset of their query vector.
    ///
    /// # Errors
    /// `Internal` for a batch that is no answer to several query vectors.
    pub(super) fn rest(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let unexpected = || Error::internal("skipping rows", "the rows do not tell their query");
        let column = batch.column_by_name(QUERY_INDEX).ok_or_else(unexpected)?;
        let indexes = arrow::array::AsArray::as_primitive_opt::<Int32Type>(column);
        let indexes = indexes.ok_or_else(unexpected)?;
        let mut stays = Vec::with_capacity(batch.num_rows());
        for index in indexes.values() {
            let seen = usize::try_from(*index).ok().and_then(|index| self.seen.get_mut(index));
            let seen = seen.ok_or_else(unexpected)?;
            stays.push(*seen >= self.offset);
            *seen += 1;
        }
        filter_record_batch(batch, &BooleanArray::from(stays))
            .map_err(|error| Error::internal("skipping rows", error))
    }
}
