//! Choosing columns.

use std::collections::BTreeMap;

use lance::dataset::scanner::Scanner;
use lance_core::datatypes::escape_field_path_for_project;
use serde::{Deserialize, Serialize};

use super::{Query, Snapshot};
use crate::error::{Error, Result};

/// Which columns a query answers. A column is named by its Lance field path: nested fields have
/// dots between, and a name with a dot in it stands in backticks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub enum Selection {
    #[default]
    All,
    Columns(Vec<String>),
    /// From the name in the answer to the column in the table.
    Aliases(BTreeMap<String, String>),
}

impl Selection {
    fn names(&self, column: &str) -> bool {
        match self {
            Self::All | Self::Aliases(_) => false,
            Self::Columns(columns) => columns.iter().any(|name| name == column),
        }
    }
}

impl Snapshot {
    /// Tells the scanner which columns to answer.
    ///
    /// # Errors
    /// `TableColumnNotFound`, `InvalidInput` for no column at all or a name that is taken.
    pub(super) fn select(&self, scanner: &mut Scanner, query: &Query) -> Result<()> {
        let failed = |error| self.query_failed(query, error);
        match &query.selection {
            Selection::All => {}
            Selection::Columns(columns) => {
                self.check_selected(columns.iter(), query)?;
                let mut stored: Vec<&str> = columns
                    .iter()
                    .map(String::as_str)
                    .filter(|name| !is_row_column(name))
                    .collect();
                stored.extend(query.rank().filter(|rank| !stored.contains(rank)));
                if columns.is_empty() && !query.with_row_id && !query.is_search() {
                    return Err(Error::invalid_input("column_names is empty: name a column"));
                }
                scanner.project(&stored).map_err(failed)?;
            }
            Selection::Aliases(aliases) => {
                if aliases.is_empty() {
                    return Err(Error::invalid_input("column_aliases is empty: name a column"));
                }
                if let Some(taken) = aliases.keys().find(|name| is_reserved(name)) {
                    return Err(Error::invalid_input(format!(
                        "a column cannot be answered as '{taken}': that name has a meaning of its \
                         own"
                    )));
                }
                self.check_selected(aliases.values(), query)?;
                let mut pairs: Vec<(&str, String)> = aliases
                    .iter()
                    .map(|(to, from)| (to.as_str(), escape_field_path_for_project(from)))
                    .collect();
                pairs.extend(query.rank().map(|rank| (rank, rank.to_owned())));
                scanner.project_with_transform(&pairs).map_err(failed)?;
            }
        }
        if query.with_row_id || query.selection.names("_rowid") {
            scanner.with_row_id();
        }
        if query.with_row_address || query.selection.names("_rowaddr") {
            scanner.with_row_address();
        }
        Ok(())
    }

    fn check_selected<'a>(
        &self,
        columns: impl Iterator<Item = &'a String>,
        query: &Query,
    ) -> Result<()> {
        for column in columns {
            let of_the_query = match column.as_str() {
                "_distance" => query.vectors.is_some(),
                "_score" => query.text.is_some(),
                name => is_row_column(name),
            };
            if !of_the_query {
                self.check_column(column)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// `TableColumnNotFound` with the names of what is there.
    pub(super) fn check_column(&self, path: &str) -> Result<()> {
        if self.dataset.schema().field(path).is_some() {
            return Ok(());
        }
        Err(self.no_column(path))
    }

    pub(super) fn no_column(&self, path: &str) -> Error {
        let known: Vec<&str> =
            self.dataset.schema().fields.iter().map(|f| f.name.as_str()).take(20).collect();
        let path: String = path.chars().take(200).collect();
        Error::TableColumnNotFound(format!(
            "the table has no column '{path}'; it has: {}",
            known.join(", ")
        ))
    }
}

/// Columns that every table has without storing them.
pub(super) fn is_row_column(name: &str) -> bool {
    matches!(name, "_rowid" | "_rowaddr")
}

/// Names of columns that an answer may have besides those that were asked for.
fn is_reserved(name: &str) -> bool {
    is_row_column(name) || matches!(name, "_distance" | "_score" | "query_index")
}
