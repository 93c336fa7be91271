//! Blobs: values that stand beside their rows, and are read one by one.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, LargeBinaryBuilder, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt32Type};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lance::dataset::BlobFile;
use lance_core::datatypes::BlobKind;

use super::{Batches, Location, Query, Selection, Snapshot, failure};
use crate::error::{Error, Result};

/// How many blobs one request may fetch whole, and how many bytes they may have together.
const MAX_FETCHED: usize = 1_024;
const MAX_FETCHED_BYTES: u64 = 64 << 20;
/// How many blobs are read at once.
const BLOBS_AHEAD: usize = 8;
/// How much of the bytes is read, and answered, at once.
const PART_BYTES: u64 = 4 << 20;

/// What the number of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKey {
    Id,
    /// Where it stands now: its fragment and the place in it.
    Address,
}

impl RowKey {
    fn column(self) -> &'static str {
        match self {
            Self::Id => "_rowid",
            Self::Address => "_rowaddr",
        }
    }
}

/// A blob that is not null. It may be empty.
pub struct Blob {
    file: Arc<BlobFile>,
    location: Location,
}

impl Blob {
    /// In bytes.
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    /// Some of its bytes, which must be within its size; they are read as they are taken.
    pub fn read(self, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        let Self { file, location } = self;
        let parts = futures::stream::iter(parts(range));
        let read = parts.then(move |part| {
            let (file, location) = (file.clone(), location.clone());
            async move {
                let bytes = file.read_range(part).await;
                bytes.map_err(|error| failure::from_lance(error, &location))
            }
        });
        read.boxed()
    }
}

fn parts(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    let starts = std::iter::successors(Some(range.start), |start| start.checked_add(PART_BYTES));
    starts
        .take_while(move |start| *start < end)
        .map(move |start| start..start.saturating_add(PART_BYTES).min(end))
}

impl Snapshot {
    /// The blobs of some rows as one column of the same name: a row for each id, in their order.
    ///
    /// # Errors
    /// `TableColumnNotFound`; `InvalidInput` for a column without blobs, a row that is not there,
    /// and more blobs or bytes than one request may fetch.
    pub async fn fetch_blobs(&self, column: &str, row_ids: &[u64]) -> Result<Batches> {
        if row_ids.len() > MAX_FETCHED {
            return Err(Error::invalid_input(format!(
                "fetch_blobs accepts at most {MAX_FETCHED} row_ids, not {}",
                row_ids.len()
            )));
        }
        self.check_blob_column(column)?;
        let files = self.open_blobs(column, row_ids, RowKey::Id).await?;
        let bytes =
            files.iter().flatten().fold(0, |sum: u64, file| sum.saturating_add(file.size()));
        // The client looks for these words, and asks for half of the blobs then.
        if bytes > MAX_FETCHED_BYTES {
            return Err(Error::invalid_input(format!(
                "fetch_blobs accepts at most {MAX_FETCHED_BYTES} total blob bytes, and these blobs \
                 have {bytes}: fetch fewer at once, or read them by ranges"
            )));
        }
        let field = Field::new(column, DataType::LargeBinary, true);
        let schema = Arc::new(Schema::new(vec![field]));
        let (of_batches, location) = (schema.clone(), self.location.clone());
        let read = futures::stream::iter(in_batches(files))
            .then(move |files| read_batch(files, of_batches.clone(), location.clone()));
        Ok(Batches { schema, stream: read.boxed() })
    }

    /// The blob of one row; `None` where it is null.
    ///
    /// # Errors
    /// As [`Self::fetch_blobs`].
    pub async fn blob(&self, column: &str, row: u64, key: RowKey) -> Result<Option<Blob>> {
        self.check_blob_column(column)?;
        let file = self.open_blobs(column, &[row], key).await?.pop().flatten();
        let location = self.location.clone();
        Ok(file.map(|file| Blob { file: Arc::new(file), location }))
    }

    /// Whether this is the version of the table at `uri` that was committed at that time, in
    /// microseconds: a table that was made again may have the same name and the same number.
    pub fn is_made(&self, uri: &str, micros: Option<u64>) -> bool {
        let place = |uri: &str| uri.trim_start_matches("file://").trim_end_matches('/').to_owned();
        let made = self.dataset.manifest().timestamp_nanos / 1_000;
        place(uri) == place(self.dataset.uri())
            && micros.is_none_or(|micros| u128::from(micros) == made)
    }

    fn check_blob_column(&self, column: &str) -> Result<()> {
        let path = self.dataset.schema().resolve(column).ok_or_else(|| self.no_column(column))?;
        let Some((field, outer)) = path.split_last() else {
            return Err(self.no_column(column));
        };
        if !field.is_blob() {
            return Err(Error::invalid_input(format!("column '{column}' is not a blob column")));
        }
        if outer.iter().any(|field| !matches!(field.data_type(), DataType::Struct(_))) {
            return Err(Error::invalid_input(format!(
                "column '{column}' is inside of a list: a row has no single blob there"
            )));
        }
        Ok(())
    }

    async fn open_blobs(
        &self,
        column: &str,
        rows: &[u64],
        key: RowKey,
    ) -> Result<Vec<Option<BlobFile>>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.check_descriptors(column, rows, key).await?;
        let opened = match key {
            RowKey::Id => self.dataset.take_blobs(rows, column).await,
            RowKey::Address => self.dataset.take_blobs_by_addresses(rows, column).await,
        };
        let files = opened.map_err(|error| self.failed(error))?;
        if files.len() != rows.len() {
            return Err(Error::internal("opening blobs", "there are more or fewer than rows"));
        }
        Ok(files)
    }

    /// Looks at what Lance would open, before it does: a blob can stand anywhere that its
    /// descriptor names, and whoever writes data files writes descriptors.
    async fn check_descriptors(&self, column: &str, rows: &[u64], key: RowKey) -> Result<()> {
        let key = key.column();
        let wanted: HashSet<u64> = rows.iter().copied().collect();
        let list: Vec<String> = wanted.iter().map(u64::to_string).collect();
        let query = Query {
            selection: Selection::Columns(vec![column.to_owned()]),
            filter: Some(format!("{key} IN ({})", list.join(","))),
            ..Query::default()
        };
        let found: Vec<RecordBatch> = self.query(&query).await?.stream.try_collect().await?;
        let there: usize = found.iter().map(RecordBatch::num_rows).sum();
        if there < wanted.len() {
            return Err(Error::invalid_input(format!(
                "of the rows that are named by {key}, {} are not in version {} of the table",
                wanted.len() - there,
                self.version()
            )));
        }
        for batch in &found {
            match batch.columns().first().and_then(|column| column.as_struct_opt()) {
                Some(descriptors) => self.check_places(column, descriptors).await?,
                None => return Err(Error::internal("opening blobs", "they have no descriptors")),
            }
        }
        Ok(())
    }

    /// # Errors
    /// `InvalidInput` for a blob where this server does not read.
    async fn check_places(&self, column: &str, descriptors: &StructArray) -> Result<()> {
        let part = |name: &str| descriptors.column_by_name(name);
        // Descriptors of the first kind, without these parts, are all of the table's own files.
        let (Some(kinds), Some(bases), Some(places)) =
            (part("kind"), part("blob_id"), part("blob_uri"))
        else {
            return Ok(());
        };
        let parts = (
            kinds.as_primitive_opt::<UInt8Type>(),
            bases.as_primitive_opt::<UInt32Type>(),
            places.as_string_opt::<i32>(),
        );
        let (Some(kinds), Some(bases), Some(places)) = parts else {
            return Err(Error::internal("opening blobs", "their descriptors are of other types"));
        };
        let is_absolute = |row: &usize| {
            descriptors.is_valid(*row)
                && kinds.is_valid(*row)
                && kinds.value(*row) == BlobKind::External as u8
                && bases.value(*row) == 0
        };
        let elsewhere = || {
            Error::invalid_input(format!(
                "a blob of the column '{column}' stands where this server does not read, or is \
                 another table's"
            ))
        };
        // Of the files in one folder all are of one table.
        let mut one_of_each = HashMap::new();
        for place in (0..descriptors.len()).filter(is_absolute).map(|row| places.value(row)) {
            if !self.location.holds(place) && !self.lake.locations.may_hold(place) {
                return Err(elsewhere());
            }
            one_of_each.insert(place.rsplit_once('/').map(|(folder, _)| folder), place);
        }
        for place in one_of_each.into_values() {
            if !self.lake.may_refer(&self.location, place).await? {
                return Err(elsewhere());
            }
        }
        Ok(())
    }
}

/// Puts blobs together that are answered at once.
fn in_batches(files: Vec<Option<BlobFile>>) -> Vec<Vec<Option<BlobFile>>> {
    let mut batches: Vec<Vec<Option<BlobFile>>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        let size = file.as_ref().map_or(0, BlobFile::size);
        match batches.last_mut() {
            Some(batch) if bytes + size <= PART_BYTES => {
                bytes += size;
                batch.push(file);
            }
            _ => {
                bytes = size;
                batches.push(vec![file]);
            }
        }
    }
    batches
}

async fn read_batch(
    files: Vec<Option<BlobFile>>,
    schema: SchemaRef,
    location: Location,
) -> Result<RecordBatch> {
    let reads = files.into_iter().map(|file| async move {
        match file {
            Some(file) => file.read_range(0..file.size()).await.map(Some),
            None => Ok(None),
        }
    });
    let values: Vec<Option<Bytes>> = futures::stream::iter(reads)
        .buffered(BLOBS_AHEAD)
        .try_collect()
        .await
        .map_err(|error| failure::from_lance(error, &location))?;
    let bytes = values.iter().flatten().map(Bytes::len).sum();
    let mut column = LargeBinaryBuilder::with_capacity(values.len(), bytes);
    values.iter().for_each(|value| column.append_option(value.as_deref()));
    RecordBatch::try_new(schema, vec![Arc::new(column.finish())])
        .map_err(|error| Error::internal("reading blobs", error))
}
