//! In which order rows are answered.

use lance::dataset::scanner::{ColumnOrdering, Scanner};

use super::{Query, Snapshot};
use crate::error::{Error, Result};

/// More would be a mistake, and each is held for every row that is sorted.
const MAX_KEYS: usize = 32;

/// A column that rows are sorted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// Its Lance field path.
    pub column: String,
    pub ascending: bool,
    pub nulls_first: bool,
}

impl Snapshot {
    /// Tells the scanner how to sort.
    ///
    /// # Errors
    /// `TableColumnNotFound`, `InvalidInput` for a column whose values have no order.
    pub(super) fn prepare_order(&self, scanner: &mut Scanner, query: &Query) -> Result<()> {
        if query.order_by.is_empty() {
            return Ok(());
        }
        if query.order_by.len() > MAX_KEYS {
            return Err(Error::invalid_input(format!(
                "order_by names {} columns: no more than {MAX_KEYS} are served",
                query.order_by.len()
            )));
        }
        let mut keys = Vec::with_capacity(query.order_by.len());
        for SortKey { column, ascending, nulls_first } in &query.order_by {
            let field =
                self.dataset.schema().field(column).ok_or_else(|| self.no_column(column))?;
            if field.data_type().is_nested() || field.is_blob() {
                return Err(Error::invalid_input(format!(
                    "rows cannot be sorted by the column '{column}': its values, of the type {}, \
                     have no order",
                    field.data_type()
                )));
            }
            keys.push(ColumnOrdering {
                column_name: column.clone(),
                ascending: *ascending,
                nulls_first: *nulls_first,
            });
        }
        scanner.order_by(Some(keys)).map_err(|error| self.query_failed(query, error))?;
        Ok(())
    }
}
