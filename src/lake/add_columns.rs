//! New columns for all rows, from expressions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use datafusion::physical_plan::PhysicalExpr;
use lance::Dataset;
use lance::dataset::{BatchUDF, NewColumnTransform};
use lance::io::exec::Planner;
use lance_core::is_system_column;

use super::alter::{TERMS, find_field};
use super::storable::{check_metadata, check_type, children};
use super::{Changed, Location, Snapshot, expression, failure};
use crate::error::{Error, Result};

/// The key of a field's metadata under which the expression of a computed column is kept.
pub(super) const COMPUTED_KEY: &str = "tiltyard:computed";
/// How many columns one request may add.
const MAX_NEW_COLUMNS: usize = 1_000;
const MAX_NAME_BYTES: usize = 1_024;
/// Columns that a search answers beside those of the table.
const RANKS: [&str; 4] = ["_distance", "_score", "_doc_index", "query_index"];

/// Where the values of a new column come from. The expressions are SQL over the table's columns.
#[derive(Debug, Clone)]
pub enum ColumnSource {
    /// Evaluated once, for the rows that are there; later ones read as null.
    Expression(String),
    /// Kept with the column, which is null until it is backfilled.
    Computed(String),
    /// Null for the rows that are there. The name of the field is that of the column.
    Null(Arc<Field>),
}

impl ColumnSource {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Expression(text) | Self::Computed(text) => Some(text),
            Self::Null(_) => None,
        }
    }
}

/// A column to be added.
#[derive(Debug, Clone)]
pub struct NewColumn {
    pub name: String,
    pub source: ColumnSource,
}

/// A new column that was understood.
struct Planned {
    field: Field,
    /// The columns of the table that the expression reads.
    inputs: BTreeSet<String>,
    /// What gives the rows that are there their values; null when absent.
    expression: Option<String>,
}

impl Snapshot {
    /// Adds columns to the table, all in one version.
    ///
    /// # Errors
    /// `InvalidInput` that names the column: one that the table has already, an expression that
    /// cannot be read or evaluated; `TableColumnNotFound` for an expression over what is not there.
    pub async fn add_columns(&self, columns: Vec<NewColumn>) -> Changed<()> {
        let location = self.location.clone();
        self.change(&TERMS, move |dataset| async move {
            add_columns(dataset, &columns, &location).await
        })
        .await
    }

    /// The expression that fills a column, if it is a computed one.
    ///
    /// # Errors
    /// `TableColumnNotFound`; `InvalidInput` for what is no path of a field.
    pub fn computed_expression(&self, column: &str) -> Result<Option<&str>> {
        let field = find_field(self.dataset.schema(), column)?;
        Ok(field.metadata.get(COMPUTED_KEY).map(String::as_str))
    }
}

async fn add_columns(
    mut dataset: Dataset,
    columns: &[NewColumn],
    location: &Location,
) -> Result<()> {
    check_names(&dataset, columns)?;
    check_expressions(columns)?;
    let mut planned = Vec::with_capacity(columns.len());
    for column in columns {
        let one = plan(&dataset, column, location);
        planned.push(one.map_err(|error| about(&column.name, error))?);
        // Planning takes a while and waits for nothing: others get their turn between.
        tokio::task::yield_now().await;
    }
    let schema: SchemaRef = Arc::new(ArrowSchema::new(
        planned.iter().map(|column| column.field.clone()).collect::<Vec<_>>(),
    ));
    let added = if planned.iter().all(|column| column.expression.is_none()) {
        dataset.add_columns(NewColumnTransform::AllNulls(schema), None, None).await
    } else {
        let inputs: Vec<String> = planned
            .iter()
            .filter(|one| one.expression.is_some())
            .flat_map(|one| one.inputs.clone())
            .collect();
        let read = read_schema(&dataset, &inputs)?;
        let names = read.fields().iter().map(|field| field.name().clone()).collect();
        let filler = Filler::new(&planned, read, schema.clone(), location).await?;
        let filled = BatchUDF {
            mapper: Box::new(move |batch| filler.fill(batch)),
            output_schema: schema,
            result_checkpoint: None,
        };
        dataset.add_columns(NewColumnTransform::BatchUDF(filled), Some(names), None).await
    };
    added.map_err(|error| failure::from_expression(error, location))
}

fn check_names(dataset: &Dataset, columns: &[NewColumn]) -> Result<()> {
    if columns.is_empty() {
        return Err(Error::invalid_input("new_columns names no column to add"));
    }
    if columns.len() > MAX_NEW_COLUMNS {
        return Err(Error::invalid_input(format!(
            "new_columns names {} columns: one request adds at most {MAX_NEW_COLUMNS}",
            columns.len()
        )));
    }
    let known: BTreeSet<&str> =
        dataset.schema().fields.iter().map(|field| field.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    for NewColumn { name, source } in columns {
        check_new_name(name)?;
        if let ColumnSource::Null(field) = source {
            check_stored_names([field])?;
            check_metadata(name, field)?;
            check_type(name, field.data_type())?;
            if !field.is_nullable() {
                return Err(Error::invalid_input(format!(
                    "the new column '{name}' must be nullable: it has no values yet"
                )));
            }
        }
        if known.contains(name.as_str()) {
            return Err(Error::invalid_input(format!("the table has a column '{name}' already")));
        }
        if !seen.insert(name) {
            return Err(Error::invalid_input(format!("the column '{name}' is named twice")));
        }
    }
    Ok(())
}

/// Each by itself, so that the error can name the column, and then all together.
fn check_expressions(columns: &[NewColumn]) -> Result<()> {
    for column in columns {
        let Some(text) = column.source.text() else { continue };
        if text.trim().is_empty() {
            return Err(about(&column.name, Error::invalid_input("the expression is empty")));
        }
        expression::check(text).map_err(|error| about(&column.name, error))?;
    }
    expression::check_all(columns.iter().filter_map(|column| column.source.text()))
}

/// # Errors
/// `InvalidInput` for what cannot be the name of a new column.
pub(super) fn check_new_name(name: &str) -> Result<()> {
    if name.contains('.') {
        return Err(no_name(
            name,
            "holds a '.', which separates the parts of a nested field's path",
        ));
    }
    check_stored_name(name)
}

/// Fields of data that comes with its own names.
///
/// # Errors
/// `InvalidInput` for a name, at any depth, with which the table could not be read any more.
pub(super) fn check_stored_names<'a>(
    fields: impl IntoIterator<Item = &'a Arc<Field>>,
) -> Result<()> {
    fields.into_iter().try_for_each(|field| {
        check_stored_name(field.name())?;
        check_stored_names(children(field))
    })
}

/// # Errors
/// `InvalidInput` for a name with which the table could not be read any more.
fn check_stored_name(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "is longer than 1024 bytes"
    } else if name.contains('`') {
        "holds a '`', which stands around names in an expression"
    } else if is_system_column(name) {
        "is that of a column which every table has without storing it"
    } else if RANKS.contains(&name) {
        "is that of a column which searches answer"
    } else if name.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Ok(());
    };
    Err(no_name(name, why))
}

fn no_name(name: &str, why: &str) -> Error {
    let shown: String = name.chars().take(64).collect();
    Error::invalid_input(format!("the column name '{}' {why}", shown.escape_debug()))
}

/// Reads the expression, and finds its type and the columns that it is over.
fn plan(dataset: &Dataset, column: &NewColumn, location: &Location) -> Result<Planned> {
    let (text, is_computed) = match &column.source {
        ColumnSource::Expression(text) => (text, false),
        ColumnSource::Computed(text) => (text, true),
        ColumnSource::Null(field) => {
            let (field, inputs) = (field.as_ref().clone(), BTreeSet::new());
            return Ok(Planned { field, inputs, expression: None });
        }
    };
    let failed = |error| failure::from_expression(error, location);
    let planner = Planner::new(Arc::new(ArrowSchema::from(dataset.schema())));
    let parsed = planner.parse_expr(text).and_then(|expr| planner.optimize_expr(expr));
    let inputs = Planner::column_names_in_expr(&parsed.map_err(failed)?)
        .iter()
        .map(|path| top_level(dataset, path))
        .collect::<Result<BTreeSet<_>>>()?;
    let read = read_schema(dataset, inputs.iter())?;
    let evaluated = evaluator(text, &read, location)?;
    let data_type = evaluated.data_type(&read).map_err(lance::Error::from).map_err(failed)?;
    let mut field = Field::new(&column.name, storable(data_type), true);
    if is_computed {
        field.set_metadata(HashMap::from([(COMPUTED_KEY.to_owned(), text.clone())]));
    }
    Ok(Planned { field, inputs, expression: (!is_computed).then(|| text.clone()) })
}

/// The column of the table that holds what the path leads to.
pub(super) fn top_level(dataset: &Dataset, path: &str) -> Result<String> {
    let fields = dataset.schema().resolve(path);
    let column = fields.as_ref().and_then(|fields| fields.first()).map(|field| field.name.clone());
    column.ok_or_else(|| Error::TableColumnNotFound(format!("the table has no column '{path}'")))
}

/// The columns of these names, in the order of the table.
fn read_schema<'a>(
    dataset: &Dataset,
    names: impl IntoIterator<Item = &'a String>,
) -> Result<SchemaRef> {
    let names: BTreeSet<&String> = names.into_iter().collect();
    let table = ArrowSchema::from(dataset.schema());
    let fields: Vec<_> =
        table.fields().iter().filter(|field| names.contains(field.name())).cloned().collect();
    Ok(Arc::new(ArrowSchema::new(fields)))
}

fn evaluator(text: &str, read: &SchemaRef, location: &Location) -> Result<Arc<dyn PhysicalExpr>> {
    let planner = Planner::new(read.clone());
    planner
        .parse_expr(text)
        .and_then(|expr| planner.optimize_expr(expr))
        .and_then(|expr| planner.create_physical_expr(&expr))
        .map_err(|error| failure::from_expression(error, location))
}

/// Types that stand for views of others are not stored.
fn storable(data_type: DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        other => other,
    }
}

/// The error with the name of the column that it is about.
fn about(column: &str, error: Error) -> Error {
    let named = |text: String| format!("column '{column}': {text}");
    match error {
        Error::InvalidInput(text) => Error::InvalidInput(named(text)),
        Error::TableColumnNotFound(text) => Error::TableColumnNotFound(named(text)),
        Error::TableSchemaValidation(text) => Error::TableSchemaValidation(named(text)),
        Error::Unsupported(text) => Error::Unsupported(named(text)),
        other => other,
    }
}

/// Makes batches of the new columns from batches of those that they are computed from.
struct Filler {
    read: SchemaRef,
    schema: SchemaRef,
    /// Absent for a column that stays null for now.
    expressions: Vec<Option<Arc<dyn PhysicalExpr>>>,
}

impl Filler {
    async fn new(
        planned: &[Planned],
        read: SchemaRef,
        schema: SchemaRef,
        location: &Location,
    ) -> Result<Self> {
        let mut expressions = Vec::with_capacity(planned.len());
        for column in planned {
            let text = column.expression.as_deref();
            expressions.push(text.map(|text| evaluator(text, &read, location)).transpose()?);
            tokio::task::yield_now().await;
        }
        Ok(Self { read, schema, expressions })
    }

    fn fill(&self, batch: &RecordBatch) -> lance::Result<RecordBatch> {
        let rows = batch.num_rows();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let inputs = self
            .read
            .fields()
            .iter()
            .map(|field| {
                let column = batch.column_by_name(field.name()).cloned();
                column.ok_or_else(|| {
                    lance::Error::internal(format!("the column {} was not read", field.name()))
                })
            })
            .collect::<lance::Result<Vec<_>>>()?;
        let inputs = RecordBatch::try_new_with_options(self.read.clone(), inputs, &options)?;
        let columns = self
            .expressions
            .iter()
            .zip(self.schema.fields())
            .map(|(expression, field)| match expression {
                None => Ok(new_null_array(field.data_type(), rows)),
                Some(expression) => {
                    let values = expression.evaluate(&inputs)?.into_array(rows)?;
                    Ok(cast(&values, field.data_type())?)
                }
            })
            .collect::<lance::Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}
