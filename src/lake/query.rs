//! Reading rows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::stream::BoxStream;
use lance::dataset::scanner::{DatasetRecordBatchStream, Scanner};
use lance_datafusion::exec::{LanceExecutionOptions, execute_plan};
use lance_io::stream::RecordBatchStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::each_query::Skip;
use super::fulltext::TextSearch;
use super::ordering::SortKey;
use super::search::Vectors;
use super::selection::{Selection, without_row_id};
use super::{Batches, Snapshot, expression, failure, readers};
use crate::error::{Error, Result};

/// How many bytes may be read and not yet taken by the client.
pub(super) const READ_AHEAD_BYTES: u64 = 128 << 20;
/// How many batches may wait for the client besides.
const BATCHES_AHEAD: usize = 2;
/// How many fragments may be read at once, where they are small.
const MAX_FRAGMENTS_AHEAD: u64 = 16;
/// About how large a batch may be.
const BATCH_BYTES: u64 = 16 << 20;
const MIN_BATCH_ROWS: u64 = 64;
const MAX_BATCH_ROWS: u64 = 8_192;
/// What the sorts of one query may hold.
const SORT_BYTES: u64 = 256 << 20;
/// What they may write to the system's folder for temporary files.
const SPILL_BYTES: u64 = 8 << 30;
/// How many rows a sort handles at once. It keeps whole batches for the best of their rows, and
/// lets go of the others after some multiple of this.
const SORT_BATCH_ROWS: usize = 1_024;
/// How many rows a search can rank at once.
const MAX_RANKED: u64 = 1_000_000;
/// Far beyond any table, and far from where adding two of them overflows.
const MANY_ROWS: u64 = 1 << 60;

/// What Lance says where it does not know the offset of a row.
const UNKNOWN_OFFSET: [&str; 2] = ["No field named _rowoffset", "Column _rowoffset does not exist"];

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub selection: Selection,
    /// A SQL expression.
    pub filter: Option<String>,
    /// Whether the filter applies before the search.
    pub prefilter: bool,
    /// How many rows; of a search the best, for each of several query vectors.
    pub limit: Option<u64>,
    pub offset: Option<u64>,
    pub with_row_id: bool,
    pub with_row_address: bool,
    /// Whether a search leaves out what no index covers.
    pub fast_search: bool,
    pub vectors: Option<Vectors>,
    pub text: Option<TextSearch>,
    /// What the rows are sorted by, the most important first; of a search, those that it found.
    pub order_by: Vec<SortKey>,
    pub batch_size: Option<usize>,
}

impl Query {
    /// Whether rows are ranked.
    pub(super) fn is_search(&self) -> bool {
        self.vectors.is_some() || self.text.is_some()
    }

    fn sorts(&self) -> bool {
        self.is_search() || !self.order_by.is_empty()
    }

    /// Whether an expression of the caller is evaluated.
    fn has_expressions(&self) -> bool {
        self.filter.is_some() || matches!(self.selection, Selection::Expressions(_))
    }

    /// The column that says how well a row fits. Lance answers it in any case, and complains in the
    /// log where it is not asked for.
    pub(super) fn rank(&self) -> Option<&'static str> {
        let distance = self.vectors.as_ref().map(|_| "_distance");
        distance.or(self.text.as_ref().map(|_| "_score"))
    }
}

impl Snapshot {
    /// Starts a query; batches are read as the stream is polled, and reading stops when it is
    /// dropped.
    ///
    /// # Errors
    /// `InvalidInput` for a filter or a search that does not fit, `TableColumnNotFound`,
    /// `Unsupported` for what Lance does not do.
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
        scanner: Scanner,
        query: Query,
        opened: oneshot::Sender<SchemaRef>,
        sender: mpsc::Sender<RecordBatch>,
    ) -> Result<()> {
        let plan = self.plan(scanner, &query).await?;
        let mut stream = self.execute(plan, &query)?;
        let mut skip = Skip::of(&self, &query)?;
        if opened.send(stream.schema()).is_err() {
            return Ok(());
        }
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| self.query_failed(&query, error))?;
            let batch = match &mut skip {
                Some(skip) => skip.rest(&batch)?,
                None => batch,
            };
            if sender.send(batch).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// How the query will be answered. Belongs on the readers' threads.
    pub(super) async fn plan(
        &self,
        mut scanner: Scanner,
        query: &Query,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(filter) = &query.filter {
            expression::check(filter)?;
        }
        self.prepare(&mut scanner, query).await?;
        let plan = scanner.create_plan().await.map_err(|error| self.query_failed(query, error))?;
        if query.hides_row_id() { without_row_id(plan) } else { Ok(plan) }
    }

    /// Runs a plan. Belongs on the readers' threads.
    pub(super) fn execute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        query: &Query,
    ) -> Result<DatasetRecordBatchStream> {
        let mut options = LanceExecutionOptions { skip_logging: true, ..Default::default() };
        // To watch over the memory of a query that sorts nothing would only cost time.
        if query.sorts() {
            options.use_spilling = true;
            options.mem_pool_size = Some(SORT_BYTES);
            options.max_temp_directory_size = Some(SPILL_BYTES);
            let rows = match query.selection.times() {
                1 => SORT_BATCH_ROWS,
                _ => SORT_BATCH_ROWS.min(self.pace_of(&query.selection).rows),
            };
            options.batch_size = Some(rows);
        }
        execute_plan(plan, options)
            .map(DatasetRecordBatchStream::new)
            .map_err(|error| self.query_failed(query, error))
    }

    pub(super) fn query_failed(&self, query: &Query, error: lance::Error) -> Error {
        if failure::is_out_of_memory(&error) {
            return Error::invalid_input(format!(
                "the query holds more than {} MiB while it sorts: ask for fewer rows or columns",
                SORT_BYTES >> 20
            ));
        }
        if query.text.is_some() && failure::is_of_fuzziness(&error) {
            return Error::invalid_input(
                "a word of the full_text_query is too long for its fuzziness: ask for less of it",
            );
        }
        if !query.has_expressions() {
            return self.failed(error);
        }
        match failure::from_expression(error, &self.location) {
            Error::InvalidInput(text) | Error::TableColumnNotFound(text)
                if UNKNOWN_OFFSET.iter().any(|words| text.contains(words)) =>
            {
                Error::invalid_input(
                    "`_rowoffset` is answered as it is, and finds rows by `_rowoffset = 1` and \
                     `_rowoffset IN (1, 2)` where nothing is searched: other expressions do not \
                     know it",
                )
            }
            error => error,
        }
    }

    async fn prepare(&self, scanner: &mut Scanner, query: &Query) -> Result<()> {
        let failed = |error| self.query_failed(query, error);
        self.select(scanner, query)?;
        if let Some(filter) = &query.filter {
            scanner.filter(filter).map_err(failed)?;
        }
        scanner.prefilter(query.prefilter);
        let (mut limit, mut offset) = (query.limit, query.offset);
        if query.vectors.is_some() && query.text.is_some() {
            return Err(Error::Unsupported(
                "a vector and a full_text_query in one query are not served: send two queries and \
                 combine their answers"
                    .into(),
            ));
        }
        if query.is_search() {
            let rows = self.num_rows().await?;
            self.check_ranked(query, rows)?;
            if let Some(vectors) = &query.vectors {
                (limit, offset) = self.prepare_vectors(scanner, vectors, query, rows)?;
            }
            if let Some(text) = &query.text {
                self.prepare_text(scanner, text)?;
            }
        }
        self.prepare_order(scanner, query)?;
        let signed = |number: Option<u64>| number.map(|n| n.min(MANY_ROWS).cast_signed());
        if limit.is_some() || offset.is_some() {
            scanner.limit(signed(limit), signed(offset)).map_err(failed)?;
        }
        if query.fast_search {
            scanner.fast_search();
        }
        self.pace(scanner, query);
        Ok(())
    }

    /// Ranking holds what it has ranked.
    fn check_ranked(&self, query: &Query, rows: u64) -> Result<()> {
        let wanted = query.limit.unwrap_or(MANY_ROWS).saturating_add(query.offset.unwrap_or(0));
        if wanted.min(rows) > MAX_RANKED {
            return Err(Error::invalid_input(format!(
                "a search ranks no more than {MAX_RANKED} rows: k and offset together ask for \
                 {wanted} of {rows}"
            )));
        }
        Ok(())
    }

    /// How much to read at once, by the average sizes in storage: Lance counts rows and fragments,
    /// which can be of any size.
    fn pace(&self, scanner: &mut Scanner, query: &Query) {
        let Pace { rows, bytes, fragments } = self.pace_of(&query.selection);
        scanner.batch_size(query.batch_size.map_or(rows, |most| most.min(rows)));
        scanner.batch_size_bytes(bytes);
        scanner.fragment_readahead(fragments);
        // Lance would let reads run ahead by 2 GiB; a slow client must not cost that much.
        scanner.io_buffer_size(READ_AHEAD_BYTES);
    }

    fn pace_of(&self, selection: &Selection) -> Pace {
        let (mut bytes, mut rows) = (0_u64, 0_u64);
        let fragments = self.dataset.fragments();
        for fragment in fragments.iter() {
            let sizes = fragment.files.iter().filter_map(|file| file.file_size_bytes.get());
            bytes += sizes.map(u64::from).sum::<u64>();
            rows += fragment.physical_rows.unwrap_or(0) as u64;
        }
        // A column that is answered many times is read once, but sent as often.
        let times = selection.times();
        let batch_bytes = (BATCH_BYTES / times).max(1);
        let least = if times == 1 { MIN_BATCH_ROWS } else { 1 };
        let batch = batch_bytes.saturating_mul(rows).checked_div(bytes).unwrap_or(MAX_BATCH_ROWS);
        let ahead = READ_AHEAD_BYTES.saturating_mul(fragments.len() as u64).checked_div(bytes);
        let ahead = ahead.unwrap_or(MAX_FRAGMENTS_AHEAD);
        Pace {
            rows: batch.clamp(least, MAX_BATCH_ROWS) as usize,
            bytes: batch_bytes,
            fragments: ahead.clamp(1, MAX_FRAGMENTS_AHEAD) as usize,
        }
    }
}

/// How much to read at once.
struct Pace {
    /// Of a batch.
    rows: usize,
    bytes: u64,
    fragments: usize,
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
