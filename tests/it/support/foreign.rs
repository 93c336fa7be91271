//! Another program with access to the storage: Lance straight on a location, past the server.

use std::future::IntoFuture;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::cleanup::CleanupPolicyBuilder;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::{IndexParams, IndexType};
use serde_json::Value;

use super::batches;

/// The folder behind the location of a table on local storage.
pub fn folder(location: &str) -> PathBuf {
    Path::new(location.trim_start_matches("file://")).to_path_buf()
}

pub async fn open(location: &str) -> Dataset {
    let dataset = Box::pin(Dataset::open(location)).await;
    dataset.unwrap_or_else(|error| panic!("Lance does not open {location}: {error}"))
}

/// Makes the first version of a table.
pub async fn create(location: &str, rows: RecordBatch) -> u64 {
    write(location, rows, WriteMode::Create).await
}

pub async fn append(location: &str, rows: RecordBatch) -> u64 {
    write(location, rows, WriteMode::Append).await
}

pub async fn overwrite(location: &str, rows: RecordBatch) -> u64 {
    write(location, rows, WriteMode::Overwrite).await
}

/// How often a writer looks again for what it is to build on.
const TRIES: usize = 5;

async fn write(location: &str, rows: RecordBatch, mode: WriteMode) -> u64 {
    let params = WriteParams { mode, ..WriteParams::default() };
    for _ in 0..TRIES {
        let insert = InsertBuilder::new(location).with_params(&params);
        match Box::pin(insert.execute(vec![rows.clone()])).await {
            Ok(dataset) => return dataset.version().version,
            // What it was about to build on was taken back.
            Err(error) if format!("{error:?}").contains("NotFound") => {}
            Err(error) => panic!("a foreign write: {error:?}"),
        }
    }
    panic!("a foreign write found nothing to build on {TRIES} times");
}

/// Writes data files and commits nothing; gives the fragments as Lance's own JSON.
pub async fn fragments(location: &str, rows: RecordBatch) -> Vec<Value> {
    let params = WriteParams { mode: WriteMode::Append, ..WriteParams::default() };
    let insert = InsertBuilder::new(location).with_params(&params);
    let transaction = Box::pin(insert.execute_uncommitted(vec![rows])).await;
    let fragments = match transaction.expect("a foreign write").operation {
        Operation::Append { fragments } | Operation::Overwrite { fragments, .. } => fragments,
        other => panic!("a write gave {other:?}"),
    };
    let fragments = fragments.iter().map(serde_json::to_value);
    fragments.collect::<Result<_, _>>().expect("fragments as JSON")
}

/// Commits fragments that another wrote.
pub async fn commit_append(location: &str, fragments: &Value) -> u64 {
    let fragments = serde_json::from_value(fragments.clone()).expect("fragments of Lance");
    let dataset = open(location).await;
    let transaction =
        Transaction::new_from_version(dataset.version().version, Operation::Append { fragments });
    let commit = CommitBuilder::new(std::sync::Arc::new(dataset));
    Box::pin(commit.execute(transaction)).await.expect("a foreign commit").version().version
}

/// Removes every version that is neither the newest nor tagged.
pub async fn clean_up(location: &str) {
    let dataset = open(location).await;
    let all = CleanupPolicyBuilder::default().before_timestamp(chrono::Utc::now());
    let policy = all.delete_unverified(true).error_if_tagged_old_versions(false).build();
    Box::pin(async { dataset.cleanup_with_policy(policy).await }).await.expect("a clean-up");
}

/// Deletes rows; they stay in the data files.
pub async fn delete(location: &str, predicate: &str) -> u64 {
    let mut dataset = open(location).await;
    let deleted = Box::pin(dataset.delete(predicate)).await;
    deleted.expect("a foreign delete");
    dataset.version().version
}

/// All rows of the newest version.
pub async fn rows(location: &str) -> RecordBatch {
    let dataset = open(location).await;
    let scan = dataset.scan();
    Box::pin(scan.try_into_batch()).await.expect("a foreign scan")
}

/// Column `a` of the newest version, sorted.
pub async fn values(location: &str) -> Vec<i32> {
    let mut values = batches::int_values(&[rows(location).await], "a");
    values.sort_unstable();
    values
}

/// Makes an index on a column.
pub async fn index(location: &str, column: &str, kind: IndexType, params: &dyn IndexParams) -> u64 {
    let mut dataset = open(location).await;
    let columns = [column];
    let made = Box::pin(dataset.create_index(&columns, kind, None, params, true)).await;
    made.unwrap_or_else(|error| panic!("no index on {column}: {error}"));
    dataset.version().version
}

/// Sets one key of a column's metadata.
pub async fn set_field_metadata(location: &str, column: &str, key: &str, value: &str) {
    let mut dataset = open(location).await;
    let update = dataset.update_field_metadata().update(column, [(key, value)]);
    Box::pin(update.expect("a column").into_future()).await.expect("metadata");
}
