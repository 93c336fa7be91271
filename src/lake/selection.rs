//! Choosing columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use lance::dataset::scanner::Scanner;
use lance_core::datatypes::escape_field_path_for_project;
use serde::{Deserialize, Serialize};

use super::{Query, Snapshot, expression};
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
    /// Names in the answer, each with the SQL expression of its values, in the order of the answer.
    Expressions(Vec<(String, String)>),
}

/// How many expressions or aliases one query may answer: each is planned for itself, and may answer
/// the whole of a row once more.
const MAX_EXPRESSIONS: usize = 256;

impl Selection {
    /// How often a stored value may be in the answer.
    pub(super) fn times(&self) -> u64 {
        let times = match self {
            Self::All | Self::Columns(_) => 1,
            Self::Aliases(aliases) => aliases.len(),
            Self::Expressions(pairs) => pairs.len(),
        };
        times.max(1) as u64
    }

    fn names(&self, column: &str) -> bool {
        match self {
            Self::All | Self::Aliases(_) | Self::Expressions(_) => false,
            Self::Columns(columns) => columns.iter().any(|name| name == column),
        }
    }
}

impl Query {
    /// Whether Lance needs the ids of the rows, which are not asked for: to find what rows are
    /// sorted by, or a row at all where an expression names no column.
    pub(super) fn hides_row_id(&self) -> bool {
        let is_needed = match &self.selection {
            Selection::All => false,
            Selection::Columns(_) | Selection::Aliases(_) => !self.order_by.is_empty(),
            Selection::Expressions(pairs) => pairs.iter().all(|(name, _)| name != "_rowid"),
        };
        is_needed && !self.with_row_id && !self.selection.names("_rowid")
    }
}

/// The same without the ids of the rows.
pub(super) fn without_row_id(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = plan.schema();
    let columns = schema.fields().iter().enumerate();
    let kept = columns.filter(|(_, field)| field.name() != "_rowid").map(|(at, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
        (column, field.name().clone())
    });
    let kept: Vec<_> = kept.collect();
    let plan = ProjectionExec::try_new(kept, plan)
        .map_err(|error| Error::internal("leaving out a column", error))?;
    Ok(Arc::new(plan))
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
                    .filter(|name| !matches!(*name, "_rowid" | "_rowaddr" | "_doc_index"))
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
                check_count("column_aliases", aliases.len())?;
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
            Selection::Expressions(pairs) => {
                check_expressions(pairs)?;
                let rank = query.rank().filter(|rank| pairs.iter().all(|(name, _)| name != rank));
                let mut pairs: Vec<(&str, &str)> =
                    pairs.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
                pairs.extend(rank.map(|rank| (rank, rank)));
                scanner.project_with_transform(&pairs).map_err(failed)?;
            }
        }
        if query.with_row_id || query.selection.names("_rowid") || query.hides_row_id() {
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
                // Which element of a list was found is answered in any case.
                "_score" | "_doc_index" => query.text.is_some(),
                name => is_row_column(name),
            };
            if !of_the_query {
                self.check_column(column)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// `TableColumnNotFound` with the names of what is there; `InvalidInput` for a path through a
    /// list.
    pub(super) fn check_column(&self, path: &str) -> Result<()> {
        let fields = self.dataset.schema().resolve(path);
        let Some([parents @ .., _]) = fields.as_deref() else {
            return Err(self.no_column(path));
        };
        if let Some(list) = parents.iter().find(|field| !field.logical_type.is_struct()) {
            let path: String = path.chars().take(200).collect();
            return Err(Error::invalid_input(format!(
                "the path '{path}' leads into '{}', which is no struct: name the list as a whole",
                list.name
            )));
        }
        Ok(())
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

/// # Errors
/// `InvalidInput` for no expression, for too many, and for a name that means something else.
fn check_expressions(pairs: &[(String, String)]) -> Result<()> {
    if pairs.is_empty() {
        return Err(Error::invalid_input("columns is empty: name a column"));
    }
    check_count("columns", pairs.len())?;
    // A name with a meaning of its own can only mean that.
    let taken = pairs.iter().find(|(name, text)| is_reserved(name) && text.trim() != name);
    if let Some((taken, _)) = taken {
        return Err(Error::invalid_input(format!(
            "an expression cannot be answered as '{taken}': that name has a meaning of its own"
        )));
    }
    expression::check_all(pairs.iter().map(|(_, text)| text.as_str()))
}

fn check_count(what: &str, count: usize) -> Result<()> {
    if count > MAX_EXPRESSIONS {
        return Err(Error::invalid_input(format!(
            "{what} has {count} expressions: no more than {MAX_EXPRESSIONS} are served"
        )));
    }
    Ok(())
}

/// Columns that every table has without storing them.
pub(super) fn is_row_column(name: &str) -> bool {
    matches!(name, "_rowid" | "_rowaddr" | "_rowoffset")
}

/// Names of columns that an answer may have besides those that were asked for.
fn is_reserved(name: &str) -> bool {
    is_row_column(name) || matches!(name, "_distance" | "_score" | "_doc_index" | "query_index")
}
