//! Writing rows as data files that no version refers to yet.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use lance::dataset::progress::WriteFragmentProgress;
use lance::dataset::transaction::Operation;
use lance::dataset::{InsertBuilder, WriteDestination, WriteMode as LanceMode, WriteParams};
use lance::datatypes::Schema;
use lance_file::version::LanceFileVersion;
use lance_table::format::Fragment;

use super::add_columns::check_stored_names;
use super::snapshot::fragment_to_json;
use super::{Batches, Lake, Location, Snapshot, failure, schema};
use crate::error::{Conflict, Error, Result};
use crate::model::Staged;

/// What the rows are for, which decides the schema that they must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// The first rows of a table.
    Create,
    /// More rows of the schema that the table has. Absent nullable columns read as null.
    Append,
    /// Rows that take the place of all others, with a schema of their own.
    Overwrite,
}

/// How files are laid out; what is absent is Lance's default.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    pub max_rows_per_file: Option<usize>,
    pub max_bytes_per_file: Option<usize>,
    /// Lance's file version, such as `2.1` or `stable`.
    pub data_storage_version: Option<String>,
    /// For the first version of a table only.
    pub enable_stable_row_ids: bool,
}

/// Told the name of each data file as soon as it stands, so that a crash in the middle of a long
/// upload leaves no file that nobody knows of. (What is not finished has no name yet: on a disk it
/// is a temporary file, in an object store an open multipart upload.)
#[async_trait]
pub trait FileLog: std::fmt::Debug + Send + Sync {
    async fn note(&self, file_name: &str) -> Result<()>;
}

impl WriteOptions {
    pub(super) fn storage_version(&self) -> Result<Option<LanceFileVersion>> {
        let Some(word) = &self.data_storage_version else {
            return Ok(None);
        };
        match LanceFileVersion::from_str(word) {
            Ok(LanceFileVersion::Legacy) | Err(_) => Err(Error::invalid_input(format!(
                "unknown data_storage_version '{word}'; known are 2.0, 2.1, 2.2, stable and next"
            ))),
            Ok(version) => Ok(Some(version)),
        }
    }
}

impl Lake {
    /// Writes `batches` into the table's data folder. On an error nothing is left behind.
    ///
    /// `base` is the version that the rows are written against; `None` for a table without one.
    ///
    /// # Errors
    /// `TableSchemaValidation` when the rows do not fit `base`, `InvalidInput` for bad options,
    /// and whatever error the stream of batches ends with.
    pub async fn write(
        &self,
        location: &Location,
        base: Option<&Snapshot>,
        mode: WriteMode,
        batches: Batches,
        options: &WriteOptions,
        log: Arc<dyn FileLog>,
    ) -> Result<Staged> {
        match (mode, base) {
            (WriteMode::Append, Some(base)) => check_appendable(&batches.schema, base)?,
            _ => check_stored_names(batches.schema.fields())?,
        }
        let mut params = WriteParams {
            mode: match (mode, base) {
                (WriteMode::Create, _) | (WriteMode::Append, None) => LanceMode::Create,
                (WriteMode::Append, Some(_)) => LanceMode::Append,
                // Others may make the first version meanwhile: where the rows go then, their
                // commit says.
                (WriteMode::Overwrite, _) => LanceMode::Overwrite,
            },
            store_params: Some(self.params(location).clone()),
            commit_handler: Some(self.commit_handler(location).await?),
            session: Some(self.session()),
            progress: Arc::new(Noted(log)),
            data_storage_version: options.storage_version()?,
            enable_stable_row_ids: options.enable_stable_row_ids,
            ..WriteParams::default()
        };
        if let Some(rows) = options.max_rows_per_file {
            params.max_rows_per_file = at_least_one(rows, "max_rows_per_file")?;
        }
        if let Some(bytes) = options.max_bytes_per_file {
            params.max_bytes_per_file = at_least_one(bytes, "max_bytes_per_file")?;
        }
        let destination = match base {
            Some(base) => WriteDestination::Dataset(base.dataset.clone()),
            None => WriteDestination::Uri(location.as_str()),
        };
        let (stream, failure) = into_lance(batches);
        let written = InsertBuilder::new(destination)
            .with_params(&params)
            .execute_uncommitted_stream(stream)
            .await;
        let transaction = written.map_err(|error| match error {
            // Before a row was read: whoever made it was faster.
            lance::Error::DatasetAlreadyExists { .. } => Error::conflict(Conflict {
                message: "the table got its first version meanwhile".into(),
                retryable: true,
                ..Conflict::default()
            }),
            error => failure.or(error, location),
        })?;
        let (fragments, schema) = match transaction.operation {
            Operation::Append { fragments } => {
                let base = base.map(|base| base.dataset.schema().clone());
                (fragments, base.unwrap_or_default())
            }
            Operation::Overwrite { fragments, schema, .. } => (fragments, schema),
            other => {
                return Err(Error::internal(
                    "writing rows",
                    format!("Lance made a {}", other.name()),
                ));
            }
        };
        let mut staged = staged(&fragments, &schema)?;
        staged.stable_row_ids = options.enable_stable_row_ids;
        Ok(staged)
    }
}

/// What was written, in the form in which the catalog keeps it.
pub(super) fn staged(fragments: &[Fragment], schema: &Schema) -> Result<Staged> {
    let bytes = |fragment: &Fragment| -> u64 {
        fragment.files.iter().filter_map(|file| file.file_size_bytes.get()).map(|n| n.get()).sum()
    };
    Ok(Staged {
        num_rows: fragments.iter().filter_map(|f| f.num_rows()).map(|rows| rows as u64).sum(),
        num_bytes: fragments.iter().map(bytes).sum(),
        schema: schema::encode(schema),
        fragments: fragments.iter().map(fragment_to_json).collect::<Result<_>>()?,
        stable_row_ids: false,
    })
}

/// The names of all data files of fragments in Lance's JSON.
pub fn data_files(fragments: &[serde_json::Value]) -> Vec<String> {
    let files = fragments.iter().filter_map(|fragment| fragment.get("files")?.as_array());
    files.flatten().filter_map(|file| file.get("path")?.as_str()).map(str::to_owned).collect()
}

/// Lance checks this too, in words that speak of its own types.
fn check_appendable(given: &ArrowSchema, base: &Snapshot) -> Result<()> {
    let table = base.arrow_schema();
    let table_fields: HashMap<&str, _> =
        table.fields().iter().map(|field| (field.name().as_str(), field)).collect();
    for field in given.fields() {
        let Some(known) = table_fields.get(field.name().as_str()) else {
            return Err(Error::TableSchemaValidation(format!(
                "the data has a column '{}' that the table does not have",
                field.name()
            )));
        };
        // What Lance converts on its way to the file is Lance's to compare.
        let plain = |kind: &DataType| {
            !kind.is_nested() && !matches!(kind, DataType::Utf8View | DataType::BinaryView)
        };
        let kind = stored_type(field);
        let comparable = plain(kind) && plain(known.data_type());
        if comparable && kind != known.data_type() {
            return Err(Error::TableSchemaValidation(format!(
                "column '{}' is {} in the data and {} in the table",
                field.name(),
                field.data_type(),
                known.data_type()
            )));
        }
    }
    let missing = table
        .fields()
        .iter()
        .find(|field| !field.is_nullable() && given.field_with_name(field.name()).is_err());
    match missing {
        Some(field) => Err(Error::TableSchemaValidation(format!(
            "the data lacks column '{}', which may not be null",
            field.name()
        ))),
        None => Ok(()),
    }
}

/// The type as which Lance stores the values of a field: it has a binary form of JSON.
fn stored_type(field: &Field) -> &DataType {
    let extension = field.metadata().get("ARROW:extension:name");
    match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 if extension.is_some_and(|n| n == "arrow.json") => {
            &DataType::LargeBinary
        }
        plain => plain,
    }
}

fn at_least_one(value: usize, name: &str) -> Result<usize> {
    if value == 0 {
        return Err(Error::invalid_input(format!("{name} must be at least 1")));
    }
    Ok(value)
}

/// Keeps the error that a stream ended with: on its way through Lance it would lose its type.
pub(super) struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    /// The stream's own error if it had one, else what Lance says.
    pub(super) fn or(&self, error: lance::Error, location: &Location) -> Error {
        let own = self.0.lock().ok().and_then(|mut kept| kept.take());
        own.unwrap_or_else(|| match failure::from_lance(error, location) {
            // Rows that do not fit are a matter of the schema, however Lance came to see it.
            Error::InvalidInput(text) if text.contains("schema") => {
                Error::TableSchemaValidation(text)
            }
            error => error,
        })
    }
}

pub(super) fn into_lance(batches: Batches) -> (SendableRecordBatchStream, Failure) {
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let stream = batches.stream.map(move |batch| {
        batch.map_err(|error| {
            let text = error.to_string();
            if let Ok(mut slot) = keep.lock() {
                slot.get_or_insert(error);
            }
            DataFusionError::Execution(text)
        })
    });
    (Box::pin(RecordBatchStreamAdapter::new(batches.schema, stream)), Failure(kept))
}

/// Hands Lance's notice of a new file on to the log.
#[derive(Debug)]
struct Noted(Arc<dyn FileLog>);

#[async_trait]
impl WriteFragmentProgress for Noted {
    async fn begin(&self, _: &Fragment) -> lance::Result<()> {
        Ok(())
    }

    async fn complete(&self, fragment: &Fragment) -> lance::Result<()> {
        for file in &fragment.files {
            self.0
                .note(&file.path)
                .await
                .map_err(|error| lance::Error::external(Box::new(error)))?;
        }
        Ok(())
    }
}
