//! Checking fragments that a caller names by their JSON.
//!
//! Nothing in the JSON is trusted: each file must be inside the table's own `data/` folder, exist,
//! have the size and the rows that are claimed, and hold the columns that the schema says.

use std::collections::HashSet;
use std::num::NonZero;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use lance::datatypes::{Field, Schema};
use lance_file::reader::{CachedFileMetadata, FileReader};
use lance_io::object_store::ObjectStore;
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_io::utils::CachedFileSize;
use lance_table::format::{DataFile, Fragment};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::{Lake, Location, data_file_path, failure};
use crate::error::{Error, Result};

/// How many files are looked at side by side.
const CONCURRENT_CHECKS: usize = 16;

impl Lake {
    /// Checks every data file of `fragments` that is not in `known`, and answers the fields that
    /// those files hold, with their ids.
    ///
    /// # Errors
    /// `InvalidInput` that names what is wrong, `TableSchemaValidation` when two files disagree.
    pub(super) async fn verify(
        &self,
        location: &Location,
        fragments: &[Fragment],
        known: &HashSet<String>,
    ) -> Result<Vec<Field>> {
        let (store, base) = self.store(location).await?;
        let scheduler = ScanScheduler::new(store.clone(), SchedulerConfig::max_bandwidth(&store));
        let mut checks = Vec::new();
        for fragment in fragments {
            let rows = fragment
                .physical_rows
                .ok_or_else(|| Error::invalid_input("a fragment lacks physical_rows"))?;
            if fragment.files.is_empty() {
                return Err(Error::invalid_input("a fragment has no data files"));
            }
            for file in fragment.files.iter().filter(|file| !known.contains(&file.path)) {
                let store = store.clone();
                let (scheduler, base) = (scheduler.clone(), &base);
                checks.push(async move {
                    check_file(&store, &scheduler, base, file, rows)
                        .await
                        .map_err(|error| failure_of(error, location))
                });
            }
        }
        let schemas: Vec<Schema> =
            futures::stream::iter(checks).buffered(CONCURRENT_CHECKS).try_collect().await?;
        union(schemas)
    }
}

/// The fields of all files, each id once, in the order of their ids.
fn union(schemas: Vec<Schema>) -> Result<Vec<Field>> {
    let mut fields: Vec<Field> = Vec::new();
    for field in schemas.into_iter().flat_map(|schema| schema.fields) {
        match fields.iter().find(|known| known.id == field.id) {
            None => fields.push(field),
            Some(known) if same(known, &field) => {}
            Some(known) => {
                return Err(Error::TableSchemaValidation(format!(
                    "the fragments' files disagree: '{}' is {} in one and {} in another",
                    known.name, known.logical_type, field.logical_type
                )));
            }
        }
    }
    fields.sort_by_key(|field| field.id);
    Ok(fields)
}

/// Whether two fields are the same column, with the same columns in it.
pub(super) fn same(one: &Field, other: &Field) -> bool {
    one.id == other.id
        && one.name == other.name
        && one.logical_type == other.logical_type
        && one.children.len() == other.children.len()
        && one.children.iter().zip(&other.children).all(|(one, other)| same(one, other))
}

/// Whether a column of a file can be read as a column of the table: the same, and without nulls
/// where the table has none.
pub(super) fn fits(table: &Field, file: &Field) -> bool {
    let nullable_enough = |table: &Field, file: &Field| table.nullable || !file.nullable;
    same(table, file)
        && nullable_enough(table, file)
        && table.children.iter().zip(&file.children).all(|(table, file)| fits(table, file))
}

/// A check that failed on its own account, or because of storage.
enum Failure {
    Own(Error),
    Lance(lance::Error),
}

fn failure_of(failure: Failure, location: &Location) -> Error {
    match failure {
        Failure::Own(error) => error,
        Failure::Lance(error) => failure::from_lance(error, location),
    }
}

/// What stands at the end of a data file of `size` bytes; the error within says that nothing whole
/// does.
async fn read_footer(
    scheduler: &Arc<ScanScheduler>,
    path: &Path,
    size: u64,
) -> lance::Result<lance::Result<CachedFileMetadata>> {
    let opened = scheduler.open_file(path, &CachedFileSize::new(size)).await?;
    Ok(FileReader::read_all_metadata(&opened).await)
}

/// How many bytes a data file has.
async fn size_of(store: &ObjectStore, path: &Path, name: &str) -> Result<u64> {
    match store.inner.head(path).await {
        Ok(meta) => Ok(meta.size),
        Err(object_store::Error::NotFound { .. }) => {
            Err(Error::invalid_input(format!("the data file '{name}' does not exist")))
        }
        Err(error) => Err(Error::internal("looking at a data file", error)),
    }
}

async fn check_file(
    store: &Arc<ObjectStore>,
    scheduler: &Arc<ScanScheduler>,
    base: &Path,
    file: &DataFile,
    rows: usize,
) -> Result<Schema, Failure> {
    let wrong = |text: String| Failure::Own(Error::invalid_input(text));
    let name = &file.path;
    if file.base_id.is_some() {
        return Err(wrong("a fragment names a data file outside its table's data folder".into()));
    }
    let path = data_file_path(base, name).map_err(Failure::Own)?;
    // With the size that the fragment says the end of the file is found at once. Where there is no
    // such end, the file itself says why.
    let claimed = file.file_size_bytes.get().map(NonZero::get);
    let footer = match claimed {
        Some(size) => read_footer(scheduler, &path, size).await.ok().and_then(Result::ok),
        None => None,
    };
    let footer = match footer {
        Some(footer) => footer,
        None => {
            let size = size_of(store, &path, name).await.map_err(Failure::Own)?;
            if let Some(claimed) = claimed.filter(|claimed| *claimed != size) {
                return Err(wrong(format!(
                    "the data file '{name}' has {size} bytes, not the {claimed} that the fragment \
                     says"
                )));
            }
            read_footer(scheduler, &path, size)
                .await
                .map_err(Failure::Lance)?
                .map_err(|_| wrong(format!("the data file '{name}' is not a whole Lance file")))?
        }
    };
    if footer.num_rows != rows as u64 {
        return Err(wrong(format!(
            "the data file '{name}' has {} rows, not the {rows} that the fragment says",
            footer.num_rows
        )));
    }
    let schema = footer.file_schema.as_ref().clone();
    // What is read from where is the file's to say: another order would swap columns.
    let fields_agree = schema.field_ids() == file.fields.as_ref();
    let columns: Vec<i32> = file.column_indices.iter().copied().filter(|i| *i >= 0).collect();
    let columns_agree = file.column_indices.len() == file.fields.len()
        && columns.windows(2).all(|pair| pair[0] < pair[1])
        && columns.last().is_none_or(|last| (*last as usize) < footer.column_metadatas.len());
    if !fields_agree || !columns_agree {
        return Err(wrong(format!(
            "the fragment does not name the fields and columns that the data file '{name}' holds"
        )));
    }
    Ok(schema)
}
