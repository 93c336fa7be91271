//! Transactions: what was committed, by whom, when, and with which properties; and jobs, which the
//! spec describes by the same operation.

use uuid::Uuid;

use super::Engine;
use crate::catalog::batches::{self, BatchState};
use crate::catalog::{Tx, jobs, tables, transactions};
use crate::error::{Conflict, Error, Result};
use crate::model::{Caller, JobState, NamespaceId, Properties};

/// A transaction as callers see it.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// In the spec's words, which are those of a job.
    pub state: JobState,
    /// What the server knows of it, under names that only it gives.
    pub known: Properties,
    /// What callers keep with it.
    pub properties: Properties,
}

/// One change of a transaction.
#[derive(Debug, Clone)]
pub enum Alteration {
    SetState(JobState),
    SetProperty { key: String, value: String, if_there: IfThere },
    UnsetProperty { key: String, if_absent: IfAbsent },
}

/// What setting a property does when it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfThere {
    Overwrite,
    Fail,
    Skip,
}

/// What taking a property away does when it is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfAbsent {
    Skip,
    Fail,
}

/// Where a transaction is kept.
enum Kept {
    Job(Uuid),
    /// With the version that the transaction of this id made.
    Version(String),
    Batch(Uuid),
}

/// The names under which the server tells what it knows; callers cannot use them.
const RESERVED: [&str; 11] = [
    "kind",
    "table",
    "branch",
    "version",
    "operation",
    "committed_by",
    "committed_at_millis",
    "created_by",
    "created_at_millis",
    "updated_at_millis",
    "error",
];
/// How much callers may keep with a transaction.
const MAX_PROPERTIES: usize = 1_000;
const MAX_PROPERTY_BYTES: usize = 64 << 10;
const MAX_PROPERTIES_BYTES: usize = 1 << 20;
/// How many changes one request may make of it.
const MAX_ALTERATIONS: usize = 1_000;

impl Engine {
    /// # Errors
    /// `TransactionNotFound`, also for one that was committed past this server.
    pub async fn describe_transaction(
        &self,
        within: &NamespaceId,
        id: &str,
    ) -> Result<Transaction> {
        let mut tx = self.catalog.read().await?;
        find(&mut tx, within, id).await.map(|(_, found)| found)
    }

    /// Makes all of the changes or none.
    ///
    /// # Errors
    /// `TransactionNotFound`; `InvalidInput` for a state that it cannot get to and for what a
    /// change fails at; `ConcurrentModification` when another altered it at the same time.
    pub async fn alter_transaction(
        &self,
        within: &NamespaceId,
        id: &str,
        alterations: &[Alteration],
        caller: &Caller,
    ) -> Result<Transaction> {
        check_alterations(alterations)?;
        let mut tx = self.catalog.write().await?;
        let (kept, before) = find(&mut tx, within, id).await?;
        let mut after = before.clone();
        for alteration in alterations {
            alter(&mut after, alteration)?;
        }
        if after.properties.len() > MAX_PROPERTIES {
            return Err(Error::invalid_input(format!(
                "a transaction keeps at most {MAX_PROPERTIES} properties"
            )));
        }
        let (old, new) = (bytes_of(&before.properties), bytes_of(&after.properties));
        if new > MAX_PROPERTIES_BYTES && new > old {
            return Err(Error::invalid_input(format!(
                "the properties of a transaction have at most {MAX_PROPERTIES_BYTES} bytes together"
            )));
        }
        if after.properties != before.properties {
            let (old, new) = (&before.properties, &after.properties);
            let changed = match kept {
                Kept::Job(job) => jobs::update_properties(&mut tx, job, old, new).await?,
                Kept::Version(ref id) => {
                    transactions::update_properties(&mut tx, id, old, new).await?
                }
                Kept::Batch(batch) => batches::update_properties(&mut tx, batch, old, new).await?,
            };
            if !changed {
                return Err(at_once(id));
            }
        }
        if after.state != before.state {
            let Kept::Job(job) = kept else { return Err(cannot(&before, after.state)) };
            if !jobs::cancel_job(&mut tx, job, self.now_us()).await? {
                return Err(at_once(id));
            }
        }
        tx.commit().await?;
        tracing::info!(transaction.id = id, %caller, "altered a transaction");
        self.describe_transaction(within, id).await
    }
}

/// What can be refused without looking at the transaction is refused before the database is kept
/// from others.
fn check_alterations(alterations: &[Alteration]) -> Result<()> {
    if alterations.len() > MAX_ALTERATIONS {
        return Err(Error::invalid_input(format!(
            "one request makes at most {MAX_ALTERATIONS} changes of a transaction"
        )));
    }
    let mut set = 0;
    for alteration in alterations {
        if let Alteration::SetProperty { key, value, .. } = alteration {
            check_property(key, value)?;
            set += key.len() + value.len();
        }
    }
    if set > MAX_PROPERTIES_BYTES {
        return Err(Error::invalid_input(format!(
            "one request sets properties of at most {MAX_PROPERTIES_BYTES} bytes together"
        )));
    }
    Ok(())
}

fn bytes_of(properties: &Properties) -> usize {
    properties.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// Jobs first, because their ids are ours; then what made versions; then batches. What is on tables
/// outside the namespace is as good as not there, and so is a batch, which may be on any.
async fn find(tx: &mut Tx, within: &NamespaceId, id: &str) -> Result<(Kept, Transaction)> {
    let key = Uuid::parse_str(id).ok();
    if let Some(key) = key
        && let Some(job) = jobs::find_job(tx, key).await?
    {
        let mut known = told([
            ("kind", Some(job.kind.as_str().into())),
            ("branch", Some(job.branch.to_string())),
            ("version", job.version.map(|version| version.to_string())),
            ("error", job.error),
            ("created_by", Some(job.created_by)),
            ("created_at_millis", Some((job.created_at_us / 1_000).to_string())),
            ("updated_at_millis", Some((job.updated_at_us / 1_000).to_string())),
        ]);
        known.extend([table_name(tx, within, id, job.table_key).await?]);
        let found = Transaction { state: job.state, known, properties: job.properties };
        return Ok((Kept::Job(key), found));
    }
    // A commit that shares its version is told of by the transaction that made the version.
    let shared = transactions::find_shared(tx, id).await?;
    let (maker, committed_by) = shared.unzip();
    let maker = maker.unwrap_or_else(|| id.to_owned());
    if let Some(made) = transactions::find_transaction(tx, &maker).await? {
        let mut known = told([
            ("kind", Some("commit".into())),
            ("branch", Some(made.branch)),
            ("version", Some(made.version.to_string())),
            ("operation", made.operation),
            ("committed_by", committed_by.or(made.committed_by)),
            ("committed_at_millis", Some((made.committed_at_us / 1_000).to_string())),
        ]);
        known.extend([table_name(tx, within, id, made.table_key).await?]);
        let found = Transaction { state: JobState::Succeeded, known, properties: made.properties };
        return Ok((Kept::Version(maker), found));
    }
    if let Some(key) = key
        && within.is_root()
        && let Some(batch) = batches::find_batch(tx, key).await?
    {
        let state = match batch.state {
            BatchState::Open | BatchState::Aborting => JobState::Running,
            BatchState::Committed | BatchState::Done => JobState::Succeeded,
            BatchState::Aborted => JobState::Failed,
        };
        let known = told([
            ("kind", Some("batch".into())),
            ("created_by", Some(batch.created_by)),
            ("created_at_millis", Some((batch.created_at_us / 1_000).to_string())),
        ]);
        return Ok((Kept::Batch(key), Transaction { state, known, properties: batch.properties }));
    }
    Err(Error::TransactionNotFound(id.into()))
}

fn told<const N: usize>(pairs: [(&str, Option<String>); N]) -> Properties {
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// The table by its name within the namespace, as JSON, since no delimiter is right for every caller.
///
/// # Errors
/// `TransactionNotFound` when the table is not within the namespace, or was dropped.
async fn table_name(
    tx: &mut Tx,
    within: &NamespaceId,
    id: &str,
    key: Uuid,
) -> Result<(String, String)> {
    let table = tables::find_table_by_key(tx, key).await?;
    let table = table.filter(|table| within.holds(&table.id.namespace));
    let table = table.ok_or_else(|| Error::TransactionNotFound(id.into()))?;
    let depth = within.to_list().len();
    let names: Vec<String> = table.id.to_list().into_iter().skip(depth).collect();
    Ok(("table".to_owned(), serde_json::Value::from(names).to_string()))
}

fn alter(transaction: &mut Transaction, alteration: &Alteration) -> Result<()> {
    match alteration {
        Alteration::SetState(state) if *state == transaction.state => {}
        Alteration::SetState(JobState::Canceled) if !transaction.state.is_over() => {
            transaction.state = JobState::Canceled;
        }
        Alteration::SetState(state) => return Err(cannot(transaction, *state)),
        Alteration::SetProperty { key, value, if_there } => {
            match (transaction.properties.contains_key(key), if_there) {
                (true, IfThere::Skip) => {}
                (true, IfThere::Fail) => {
                    return Err(Error::invalid_input(format!("property '{key}' is set already")));
                }
                (true, IfThere::Overwrite) | (false, _) => {
                    transaction.properties.insert(key.clone(), value.clone());
                }
            }
        }
        Alteration::UnsetProperty { key, if_absent } => {
            if transaction.properties.remove(key).is_none() && *if_absent == IfAbsent::Fail {
                return Err(Error::invalid_input(format!("property '{key}' is not set")));
            }
        }
    }
    Ok(())
}

fn check_property(key: &str, value: &str) -> Result<()> {
    if RESERVED.contains(&key) {
        return Err(Error::invalid_input(format!("'{key}' is a name that the server gives")));
    }
    if key.is_empty() || key.len() + value.len() > MAX_PROPERTY_BYTES {
        return Err(Error::invalid_input(format!(
            "a property has a name, and at most {MAX_PROPERTY_BYTES} bytes"
        )));
    }
    if key.contains('\0') || value.contains('\0') {
        return Err(Error::invalid_input("a property cannot hold the character U+0000"));
    }
    Ok(())
}

fn cannot(transaction: &Transaction, state: JobState) -> Error {
    Error::invalid_input(format!(
        "a transaction that is {} cannot become {}: only work that is not over can be Canceled",
        transaction.state.as_str(),
        state.as_str()
    ))
}

fn at_once(id: &str) -> Error {
    Error::conflict(Conflict {
        message: format!("transaction '{id}' changed at the same time"),
        retryable: true,
        ..Conflict::default()
    })
}
