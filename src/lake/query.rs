//! Reading rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use futures::StreamExt;
use futures::stream::BoxStream;
use lance::dataset::scanner::{DatasetRecordBatchStream, Scanner};
use lance_io::stream::RecordBatchStream;
use lance_linalg::distance::MetricType;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{Batches, Snapshot, expression, failure, readers};
use crate::error::{Error, Result};

/// How many bytes may be read and not yet taken by the client.
const READ_AHEAD_BYTES: u64 = 128 << 20;
/// How many batches may wait for the client besides.
const BATCHES_AHEAD: usize = 2;

/// Which columns a query answers.
#[derive(Debug, Clone, Default)]
pub enum Selection {
    #[default]
    All,
    Columns(Vec<String>),
    /// From the name in the answer to the column in the table.
    Aliases(BTreeMap<String, String>),
}

/// A nearest-neighbour search.
#[derive(Debug, Clone)]
pub struct Vectors {
    /// One query vector, or several of the same length.
    pub queries: Vec<Vec<f32>>,
    /// The column to search; the only vector column when absent.
    pub column: Option<String>,
    pub k: usize,
    pub distance_type: Option<String>,
    pub lower_bound: Option<f32>,
    pub upper_bound: Option<f32>,
    pub nprobes: Option<usize>,
    pub minimum_nprobes: Option<usize>,
    pub maximum_nprobes: Option<usize>,
    pub refine_factor: Option<u32>,
    pub ef: Option<usize>,
    pub bypass_index: bool,
}

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub selection: Selection,
    /// A SQL expression.
    pub filter: Option<String>,
    /// Whether the filter applies before the vector search.
    pub prefilter: bool,
    pub limit: Option<u64>,
    pub offset: Option<u64>,
    pub with_row_id: bool,
    pub with_row_address: bool,
    pub fast_search: bool,
    pub vectors: Option<Vectors>,
    pub batch_size: Option<usize>,
}

impl Snapshot {
    /// Starts a query; batches are read as the stream is polled, and reading stops when it is
    /// dropped.
    ///
    /// # Errors
    /// `InvalidInput` for a filter or a vector that does not fit, `TableColumnNotFound`.
    pub async fn query(&self, query: &Query) -> Result<Batches> {
        self.read(self.dataset.scan(), query).await
    }

    /// The live rows of one fragment, in order.
    ///
    /// # Errors
    /// `InvalidInput` when the version has no such fragment; otherwise as [`Self::query`].
    pub async fn read_fragment(&self, fragment: u64, query: &Query) -> Result<Batches> {
        let fragment = self.fragment(fragment)?;
        let mut scanner = fragment.scan();
        scanner.scan_in_order(true);
        self.read(scanner, query).await
    }

    /// How many rows fit the predicate.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn count_rows(&self, predicate: Option<&str>) -> Result<u64> {
        let Some(predicate) = predicate else {
            return self.num_rows().await;
        };
        let (snapshot, predicate) = (self.clone(), predicate.to_owned());
        let counting = async move {
            expression::check(&predicate)?;
            let count = snapshot.dataset.count_rows(Some(predicate)).await;
            count
                .map(|rows| rows as u64)
                .map_err(|error| failure::from_expression(error, &snapshot.location))
        };
        self.readers.run(counting).await
    }

    pub(super) fn fragment(&self, id: u64) -> Result<lance::dataset::fragment::FileFragment> {
        usize::try_from(id).ok().and_then(|id| self.dataset.get_fragment(id)).ok_or_else(|| {
            Error::invalid_input(format!("version {} has no fragment {id}", self.version()))
        })
    }

    /// Plans and reads on the readers' threads, which stop when the batches are dropped.
    async fn read(&self, scanner: Scanner, query: &Query) -> Result<Batches> {
        let (opened, schema) = oneshot::channel();
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let reading = self.clone().deliver(scanner, query.clone(), opened, sender);
        let task = self.readers.spawn(reading)?;
        match schema.await {
            Ok(schema) => Ok(Batches { schema, stream: until_end(batches, task) }),
            Err(_) => Err(end_of(task).await.err().unwrap_or_else(ended_early)),
        }
    }

    async fn deliver(
        self,
        mut scanner: Scanner,
        query: Query,
        opened: oneshot::Sender<SchemaRef>,
        sender: mpsc::Sender<RecordBatch>,
    ) -> Result<()> {
        if let Some(filter) = &query.filter {
            expression::check(filter)?;
        }
        self.prepare(&mut scanner, &query)?;
        let failed = |error| match &query.filter {
            Some(_) => failure::from_expression(error, &self.location),
            None => self.failed(error),
        };
        let mut stream: DatasetRecordBatchStream =
            scanner.try_into_stream().await.map_err(failed)?;
        if opened.send(stream.schema()).is_err() {
            return Ok(());
        }
        while let Some(batch) = stream.next().await {
            if sender.send(batch.map_err(failed)?).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn prepare(&self, scanner: &mut Scanner, query: &Query) -> Result<()> {
        let failed = |error| self.failed(error);
        match &query.selection {
            Selection::All => {}
            Selection::Columns(columns) => {
                self.check_columns(columns.iter())?;
                let stored: Vec<&String> =
                    columns.iter().filter(|name| !is_row_column(name)).collect();
                scanner.project(&stored).map_err(failed)?;
            }
            Selection::Aliases(aliases) => {
                self.check_columns(aliases.values())?;
                let pairs: Vec<(&str, &str)> =
                    aliases.iter().map(|(to, from)| (to.as_str(), from.as_str())).collect();
                scanner.project_with_transform(&pairs).map_err(failed)?;
            }
        }
        if query.with_row_id || query.selection.names("_rowid") {
            scanner.with_row_id();
        }
        if query.with_row_address || query.selection.names("_rowaddr") {
            scanner.with_row_address();
        }
        if let Some(filter) = &query.filter {
            scanner.filter(filter).map_err(failed)?;
        }
        scanner.prefilter(query.prefilter);
        if let Some(vectors) = &query.vectors {
            self.prepare_search(scanner, vectors, query)?;
        }
        let signed = |number: Option<u64>| number.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        if query.limit.is_some() || query.offset.is_some() {
            scanner.limit(signed(query.limit), signed(query.offset)).map_err(failed)?;
        }
        if query.fast_search {
            scanner.fast_search();
        }
        // Lance would let reads run ahead by 2 GiB; a slow client must not cost that much.
        scanner.io_buffer_size(READ_AHEAD_BYTES);
        if let Some(rows) = query.batch_size {
            scanner.batch_size(rows);
        }
        Ok(())
    }

    fn prepare_search(&self, scanner: &mut Scanner, search: &Vectors, query: &Query) -> Result<()> {
        let failed = |error| self.failed(error);
        let column = self.vector_column(search.column.as_deref())?;
        let queries = query_array(&search.queries)?;
        // The offset skips among the nearest, so that many more have to be found.
        let offset = usize::try_from(query.offset.unwrap_or(0)).unwrap_or(usize::MAX);
        let k = search.k.saturating_add(offset);
        scanner.nearest(&column, queries.as_ref(), k).map_err(failed)?;
        if let Some(name) = &search.distance_type {
            let metric = MetricType::try_from(name.to_lowercase().as_str())
                .map_err(|_| Error::invalid_input(format!("unknown distance_type '{name}'")))?;
            scanner.distance_metric(metric);
        }
        if search.lower_bound.is_some() || search.upper_bound.is_some() {
            scanner.distance_range(search.lower_bound, search.upper_bound);
        }
        if let Some(n) = search.nprobes {
            scanner.nprobes(n);
        }
        if let Some(n) = search.minimum_nprobes {
            scanner.minimum_nprobes(n);
        }
        if let Some(n) = search.maximum_nprobes {
            scanner.maximum_nprobes(n);
        }
        if let Some(factor) = search.refine_factor {
            scanner.refine(factor);
        }
        if let Some(ef) = search.ef {
            scanner.ef(ef);
        }
        if search.bypass_index {
            scanner.use_index(false);
        }
        Ok(())
    }

    fn check_columns<'a>(&self, columns: impl Iterator<Item = &'a String>) -> Result<()> {
        for column in columns {
            if !is_row_column(column) && self.dataset.schema().field(column).is_none() {
                let known: Vec<&str> =
                    self.dataset.schema().fields.iter().map(|f| f.name.as_str()).take(20).collect();
                return Err(Error::TableColumnNotFound(format!(
                    "the table has no column '{column}'; it has: {}",
                    known.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// The column to search: the one named, else the only one that holds vectors.
    fn vector_column(&self, named: Option<&str>) -> Result<String> {
        if let Some(name) = named {
            if is_row_column(name) {
                return Err(Error::invalid_input(format!("the column '{name}' holds no vectors")));
            }
            self.check_columns(std::iter::once(&name.to_owned()))?;
            return Ok(name.to_owned());
        }
        let schema = self.arrow_schema();
        let mut vectors = schema.fields().iter().filter(|field| is_vector(field.data_type()));
        match (vectors.next(), vectors.next()) {
            (Some(only), None) => Ok(only.name().clone()),
            (None, _) => Err(Error::invalid_input("the table has no vector column to search")),
            (Some(_), Some(_)) => Err(Error::invalid_input(
                "the table has several vector columns: name one as vector_column",
            )),
        }
    }
}

impl Selection {
    fn names(&self, column: &str) -> bool {
        match self {
            Self::All | Self::Aliases(_) => false,
            Self::Columns(columns) => columns.iter().any(|name| name == column),
        }
    }
}

/// The batches of a task, and then how it ended.
fn until_end(
    batches: mpsc::Receiver<RecordBatch>,
    task: AbortOnDropHandle<Result<()>>,
) -> BoxStream<'static, Result<RecordBatch>> {
    futures::stream::unfold(Some((batches, task)), |state| async move {
        let (mut batches, task) = state?;
        if let Some(batch) = batches.recv().await {
            return Some((Ok(batch), Some((batches, task))));
        }
        end_of(task).await.err().map(|error| (Err(error), None))
    })
    .fuse()
    .boxed()
}

async fn end_of(task: AbortOnDropHandle<Result<()>>) -> Result<()> {
    task.await.map_err(readers::failed)?
}

fn ended_early() -> Error {
    Error::internal("reading the table", "the reading task ended without a schema")
}

/// Columns that every table has without storing them.
fn is_row_column(name: &str) -> bool {
    matches!(name, "_rowid" | "_rowaddr")
}

fn is_vector(data_type: &DataType) -> bool {
    let item = match data_type {
        DataType::FixedSizeList(item, _) | DataType::List(item) => item,
        _ => return false,
    };
    match item.data_type() {
        DataType::FixedSizeList(..) => is_vector(item.data_type()),
        kind => kind.is_floating() && matches!(data_type, DataType::FixedSizeList(..)),
    }
}

/// One query is an array of numbers, several are a list of such arrays.
fn query_array(queries: &[Vec<f32>]) -> Result<ArrayRef> {
    let Some(first) = queries.first().filter(|query| !query.is_empty()) else {
        return Err(Error::invalid_input("the query vector is empty"));
    };
    if queries.iter().flatten().any(|number| !number.is_finite()) {
        return Err(Error::invalid_input("the query vector holds a number that is not finite"));
    }
    if queries.len() == 1 {
        return Ok(Arc::new(Float32Array::from(first.clone())));
    }
    if queries.iter().any(|query| query.len() != first.len()) {
        return Err(Error::invalid_input("the query vectors differ in length"));
    }
    let values = Float32Array::from(queries.concat());
    let length = i32::try_from(first.len()).unwrap_or(i32::MAX);
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    FixedSizeListArray::try_new(item, length, Arc::new(values), None)
        .map(|array| Arc::new(array) as Arc<dyn Array>)
        .map_err(|error| Error::internal("building a query", error))
}
