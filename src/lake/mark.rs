//! What a request that must take effect once leaves in the version that it makes: its mark, in the
//! properties of the transaction, which stand in the manifest. Whoever takes the request up after a
//! crash finds it there, and does not do the work again.
//!
//! A transaction that is too large for the manifest is a file beside it, which is marked in its place
//! before the manifest is put.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use lance::dataset::transaction::Transaction;
use lance_io::object_store::ObjectStore;
use lance_io::utils::read_message;
use lance_table::format::{Manifest, pb};
use lance_table::io::commit::{CommitError, ManifestLocation};
use lance_table::io::manifest::read_manifest;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use prost::Message;
use uuid::Uuid;

use super::failure;
use super::guard::Guard;
use super::probe::TRANSACTIONS_DIR;
use crate::error::{Error, Result};
use crate::model::Attempt;

/// The property that holds the marks of the requests that a version was made for: UUIDs, with commas
/// between them.
pub const MARK: &str = "tiltyard.request";
/// The property that holds what such a request is answered, where the version does not tell.
pub(super) const COUNTS: &str = "tiltyard.counts";
/// How often it is looked which version stands after storage did not say.
const LOOKS: u32 = 3;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// A version that was made for a request.
#[derive(Debug, Clone)]
pub struct Marked {
    pub version: u64,
    /// The UUID of its transaction.
    pub transaction_id: String,
    /// Lance's name of the operation.
    pub operation: String,
    /// How many rows of an update it wrote.
    pub(super) rewritten: u64,
    pub(super) counts: Option<String>,
}

impl Marked {
    /// How many rows were updated, for an update.
    pub fn rows_updated(&self) -> u64 {
        self.rewritten
    }

    /// What the change said of itself before it was put.
    ///
    /// # Errors
    /// `Internal` when it said nothing.
    pub(super) fn counts<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        let counts = self.counts.as_deref().unwrap_or_default();
        serde_json::from_str(counts).map_err(|error| Error::internal("reading a mark", error))
    }
}

/// What is kept in the transaction of a change of which the manifest does not tell how many rows it
/// was about.
pub(super) fn with_counts<T: serde::Serialize>(
    transaction: Transaction,
    counts: &T,
) -> Result<Transaction> {
    let counts =
        serde_json::to_string(counts).map_err(|error| Error::internal("writing a mark", error))?;
    let mut properties: HashMap<String, String> =
        transaction.transaction_properties.as_deref().cloned().unwrap_or_default();
    properties.insert(COUNTS.into(), counts);
    Ok(Transaction { transaction_properties: Some(properties.into()), ..transaction })
}

/// The requests that a transaction with these properties was made for.
pub(super) fn marks(properties: &HashMap<String, String>) -> Vec<Uuid> {
    let marks = properties.get(MARK).map(String::as_str).unwrap_or_default().split(',');
    marks.filter_map(|mark| Uuid::try_parse(mark.trim()).ok()).collect()
}

pub(super) fn is_uuid(text: &str, wanted: Uuid) -> bool {
    Uuid::try_parse(text.trim()).is_ok_and(|found| found == wanted)
}

fn holds_mark(uuid: &str, properties: &HashMap<String, String>, mark: Uuid) -> bool {
    // A commit that is made for one request alone has the mark for its transaction's own id.
    is_uuid(uuid, mark) || marks(properties).contains(&mark)
}

/// What stands at a version, for a change that does not know whether storage took it.
enum Stands {
    /// What this very change put.
    This(ManifestLocation),
    /// What another try of the same request put.
    Twin,
    /// Something else, or nothing.
    Other,
}

impl Guard {
    /// Puts the mark into the transaction that is about to be put. Answers the transaction's id.
    pub(super) async fn put_mark(
        &self,
        mark: Uuid,
        transaction: &mut Option<lance_table::format::Transaction>,
        manifest: &Manifest,
        base_path: &Path,
        object_store: &ObjectStore,
    ) -> lance::Result<String> {
        if let Some(transaction) = transaction {
            let properties = &mut transaction.inner.transaction_properties;
            properties.insert(MARK.into(), mark.to_string());
            return Ok(transaction.inner.uuid.clone());
        }
        let file = manifest.transaction_file.as_deref().unwrap_or_default();
        let path = base_path.clone().join(TRANSACTIONS_DIR).join(file);
        let written = object_store.inner.get(&path).await?.bytes().await?;
        let mut written = pb::Transaction::decode(written)
            .map_err(|error| lance::Error::internal(error.to_string()))?;
        written.transaction_properties.insert(MARK.into(), mark.to_string());
        object_store.put(&path, &written.encode_to_vec()).await?;
        Ok(written.uuid)
    }

    /// Refuses to put what another try of the same request has put, which Lance would build on.
    pub(super) async fn refuse_twin(
        &self,
        version: u64,
        base_path: &Path,
        object_store: &ObjectStore,
    ) -> Result<()> {
        let Some(mark) = &self.mark else { return Ok(()) };
        if mark.attempt == Attempt::First {
            return Ok(());
        }
        let seen = self.seen.load(Ordering::Relaxed).max(self.read_version);
        for passed in seen + 1..version {
            let stands = self.what_stands(passed, mark.id, "", base_path, object_store).await;
            match stands.map_err(|error| Error::internal("reading a version", error))? {
                Stands::Twin | Stands::This(_) => return Err(twin()),
                Stands::Other => {}
            }
        }
        self.seen.store(version.saturating_sub(1), Ordering::Relaxed);
        Ok(())
    }

    /// Finds out what became of a put that storage answered with an error. Lance would compare what
    /// stands there with its own transaction, which has no mark, and take ours for another's.
    ///
    /// # Errors
    /// The one that storage answered when this change does not stand; `ServiceUnavailable` when
    /// another try of the request does, or when nobody can say.
    pub(super) async fn settle(
        &self,
        error: CommitError,
        version: u64,
        transaction: &str,
        base_path: &Path,
        object_store: &ObjectStore,
    ) -> std::result::Result<ManifestLocation, CommitError> {
        let Some(mark) = &self.mark else { return Err(error) };
        let refused =
            |error: Error| CommitError::OtherError(lance::Error::external(Box::new(error)));
        for look in 1..=LOOKS {
            match self.what_stands(version, mark.id, transaction, base_path, object_store).await {
                Ok(Stands::This(location)) => return Ok(location),
                Ok(Stands::Twin) => return Err(refused(twin())),
                Ok(Stands::Other) => return Err(error),
                Err(_) if look < LOOKS => tokio::time::sleep(PAUSE * look).await,
                Err(_) => {}
            }
        }
        // Lance must not go on: if it stands, the next put would make the change once more.
        self.ledger.leave_unsettled();
        Err(refused(Error::ServiceUnavailable(
            "the outcome of the change is unknown: storage did not say whether it took the \
             manifest; try again with the same key"
                .into(),
        )))
    }

    async fn what_stands(
        &self,
        version: u64,
        mark: Uuid,
        transaction: &str,
        base_path: &Path,
        object_store: &ObjectStore,
    ) -> lance::Result<Stands> {
        let inner = &self.inner;
        let found = inner.resolve_version_location(base_path, version, &object_store.inner).await;
        let location = match found {
            Ok(location) => location,
            Err(error) if self.is_nothing(&error) => return Ok(Stands::Other),
            Err(error) => return Err(error),
        };
        let manifest = match read_manifest(object_store, &location.path, location.size).await {
            Ok(manifest) => manifest,
            Err(error) if self.is_nothing(&error) => return Ok(Stands::Other),
            Err(error) => return Err(error),
        };
        let stood: pb::Transaction =
            match (manifest.transaction_section, &manifest.transaction_file) {
                (Some(position), _) => {
                    let reader = object_store.open(&location.path).await?;
                    read_message(reader.as_ref(), position).await?
                }
                (None, Some(file)) => {
                    let path = base_path.clone().join(TRANSACTIONS_DIR).join(file.as_str());
                    let bytes = object_store.inner.get(&path).await?.bytes().await?;
                    pb::Transaction::decode(bytes)
                        .map_err(|error| lance::Error::internal(error.to_string()))?
                }
                (None, None) => return Ok(Stands::Other),
            };
        if !holds_mark(&stood.uuid, &stood.transaction_properties, mark) {
            return Ok(Stands::Other);
        }
        Ok(if stood.uuid == transaction { Stands::This(location) } else { Stands::Twin })
    }

    fn is_nothing(&self, error: &lance::Error) -> bool {
        failure::is_absent(error) && self.inner.is_version_not_found_definitive()
    }
}

fn twin() -> Error {
    Error::ServiceUnavailable(
        "another process makes the change of this request; try again with the same key".into(),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, RecordBatch, RecordBatchIterator};
    use async_trait::async_trait;
    use lance::Dataset;
    use lance::dataset::builder::DatasetBuilder;
    use lance::dataset::write::delete::DeleteBuilder;
    use lance_table::format::IndexMetadata;
    use lance_table::io::commit::{
        CommitHandler, ManifestNamingScheme, ManifestWriter, commit_handler_from_url,
    };

    use super::super::guard::Ledger;
    use super::*;
    use crate::model::Mark;

    const ID: Uuid = Uuid::from_u128(7);

    /// Storage that takes every manifest, and says that it did not.
    #[derive(Debug)]
    struct Forgetful {
        inner: Arc<dyn CommitHandler>,
        says: fn() -> CommitError,
    }

    #[async_trait]
    impl CommitHandler for Forgetful {
        fn is_version_not_found_definitive(&self) -> bool {
            true
        }

        async fn commit(
            &self,
            manifest: &mut Manifest,
            indices: Option<Vec<IndexMetadata>>,
            base_path: &Path,
            object_store: &ObjectStore,
            manifest_writer: ManifestWriter,
            naming_scheme: ManifestNamingScheme,
            transaction: Option<lance_table::format::Transaction>,
        ) -> std::result::Result<ManifestLocation, CommitError> {
            self.inner
                .commit(
                    manifest,
                    indices,
                    base_path,
                    object_store,
                    manifest_writer,
                    naming_scheme,
                    transaction,
                )
                .await?;
            Err((self.says)())
        }
    }

    fn conflict() -> CommitError {
        CommitError::CommitConflict
    }

    fn broken() -> CommitError {
        CommitError::OtherError(lance::Error::io("the connection broke"))
    }

    async fn table(uri: &str) {
        let values = Arc::new(Int32Array::from_iter_values(0..3));
        let batch = RecordBatch::try_from_iter([("a", values as _)]).unwrap();
        let schema = batch.schema();
        let rows = RecordBatchIterator::new([Ok(batch)], schema);
        Box::pin(Dataset::write(rows, uri, None)).await.unwrap();
    }

    /// Version 1, opened so that what is put is marked.
    async fn opened(
        uri: &str,
        attempt: Attempt,
        says: Option<fn() -> CommitError>,
    ) -> (Dataset, Ledger) {
        let inner = commit_handler_from_url(uri, &None).await.unwrap();
        let inner = match says {
            Some(says) => Arc::new(Forgetful { inner, says }),
            None => inner,
        };
        let (id, key_hash, holder) = (ID, String::new(), Uuid::nil());
        let mark = Mark { id, key_hash, holder, attempt, since_us: 0 };
        let ledger = Ledger::default();
        let guard = Guard {
            mark: Some(Arc::new(mark)),
            read_version: 1,
            ledger: ledger.clone(),
            ..Guard::new(inner)
        };
        let builder = DatasetBuilder::from_uri(uri).with_version(1);
        let builder = builder.with_commit_handler(Arc::new(guard));
        (Box::pin(builder.load()).await.unwrap(), ledger)
    }

    async fn delete(dataset: Dataset, predicate: &str) -> lance::Result<u64> {
        let deleted =
            DeleteBuilder::new(Arc::new(dataset), predicate).conflict_retries(0).execute();
        Box::pin(deleted).await.map(|deleted| deleted.num_deleted_rows)
    }

    async fn newest(uri: &str) -> Dataset {
        Box::pin(Dataset::open(uri)).await.unwrap()
    }

    async fn is_marked(dataset: &Dataset, version: u64) -> bool {
        let made = dataset.read_version_transaction(version).await.unwrap();
        let transaction = made.transaction.unwrap();
        holds_mark(&transaction.uuid, &transaction.transaction_properties.unwrap_or_default(), ID)
    }

    /// Lance compares what stands with its own transaction, which has no mark.
    #[tokio::test]
    async fn what_storage_took_without_saying_so_is_ours() {
        for says in [conflict, broken] {
            let folder = tempfile::tempdir().unwrap();
            let uri = folder.path().to_str().unwrap();
            table(uri).await;
            let (dataset, ledger) = opened(uri, Attempt::First, Some(says)).await;
            assert_eq!(delete(dataset, "a = 1").await.unwrap(), 1);
            let landed = ledger.take();
            assert_eq!(landed.len(), 1);
            assert_eq!(landed[0].manifest.version, 2);
            let newest = newest(uri).await;
            assert_eq!(newest.version().version, 2);
            assert!(is_marked(&newest, 2).await);
            assert!(!is_marked(&newest, 1).await);
        }
    }

    /// Two deletions go together for Lance, and it would make the second on top of the first.
    #[tokio::test]
    async fn what_another_try_made_is_not_built_on() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().to_str().unwrap();
        table(uri).await;
        let (late, _) = opened(uri, Attempt::AfterAnother, None).await;
        let (first, _) = opened(uri, Attempt::First, None).await;
        delete(first, "a = 1").await.unwrap();
        let refused = delete(late, "a = 2").await.unwrap_err();
        assert!(refused.to_string().contains("another process"), "{refused}");
        assert_eq!(newest(uri).await.version().version, 2);
    }

    /// As one of more than 20 MiB is, which does not travel in the manifest.
    #[tokio::test]
    async fn a_transaction_beside_the_manifest_is_marked_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().to_str().unwrap();
        table(uri).await;
        let dataset = newest(uri).await;
        let guard = Guard::new(commit_handler_from_url(uri, &None).await.unwrap());
        let (store, base) = ObjectStore::from_uri(uri).await.unwrap();
        let manifest = dataset.manifest();
        let id = guard.put_mark(ID, &mut None, manifest, &base, &store).await.unwrap();
        let file = folder.path().join(TRANSACTIONS_DIR);
        let file = file.join(manifest.transaction_file.as_deref().unwrap());
        let written = pb::Transaction::decode(std::fs::read(file).unwrap().as_slice()).unwrap();
        assert_eq!(written.uuid, id);
        assert!(holds_mark(&written.uuid, &written.transaction_properties, ID));
    }
}
