//! Commits to several tables at once: what is intended, until all of it is done or none.

use uuid::Uuid;

use super::dropped::NOWHERE;
use super::{Tx, failed, from_json, from_sql, is_unique_violation, run, to_json, to_sql};
use crate::error::{Error, Result};
use crate::model::{Properties, Table};

/// How far a batch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchState {
    /// Its manifests are being put; nobody sees its versions.
    Open,
    /// Everything stands; manifests that it deletes may still be in storage.
    Committed,
    /// Nothing is left to do.
    Done,
    /// It will not be: what was put is being taken back.
    Aborting,
    /// Nothing of it stands.
    Aborted,
}

impl BatchState {
    const ALL: [Self; 5] = [Self::Open, Self::Committed, Self::Done, Self::Aborting, Self::Aborted];

    fn from_stored(word: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == word).unwrap_or(Self::Open)
    }

    /// The word that the catalog stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Committed => "committed",
            Self::Done => "done",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
        }
    }
}

/// A batch as the catalog knows it.
pub struct Batch {
    pub key: Uuid,
    pub state: BatchState,
    /// What it does, as JSON text of the engine's own.
    pub changes: String,
    pub properties: Properties,
    pub created_by: String,
    pub created_at_us: i64,
}

#[derive(sqlx::FromRow)]
struct BatchRow {
    batch_id: Uuid,
    state: String,
    changes: String,
    properties: String,
    created_by: String,
    created_at_us: i64,
}

impl BatchRow {
    fn into_batch(self) -> Result<Batch> {
        Ok(Batch {
            key: self.batch_id,
            state: BatchState::from_stored(&self.state),
            changes: self.changes,
            properties: from_json(&self.properties)?,
            created_by: self.created_by,
            created_at_us: self.created_at_us,
        })
    }
}

/// In place of the version, for a batch that deletes versions: nobody is to adopt any until their
/// manifests are gone.
pub const ANY_VERSION: u64 = 0;

/// A version that a batch is about to make.
#[derive(Debug, Clone, Copy)]
pub struct Intent {
    pub batch: Uuid,
    pub version: u64,
    /// Until when whoever makes it is taken to be alive; microseconds since the Unix epoch.
    pub lease_us: i64,
}

/// Notes a batch before any of it is put. Answers false when it is noted already.
pub async fn insert_batch(tx: &mut Tx, batch: &Batch, lease_us: i64) -> Result<bool> {
    const SQL: &str = "INSERT INTO batches (batch_id, state, changes, properties, created_by, \
        created_at_us, lease_us) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
    let properties = to_json(&batch.properties)?;
    run!(tx, |c| sqlx::query(SQL)
        .bind(batch.key)
        .bind(batch.state.as_str())
        .bind(&batch.changes)
        .bind(&properties)
        .bind(&batch.created_by)
        .bind(batch.created_at_us)
        .bind(lease_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "noting a batch"))
}

/// Notes a version that a batch is about to make. Answers false when another batch is at the same
/// branch of the same table.
pub async fn insert_intent(tx: &mut Tx, batch: Uuid, table: &Table, version: u64) -> Result<bool> {
    const SQL: &str = "INSERT INTO batch_versions (table_id, branch, version, batch_id) \
        SELECT table_id, $2, $3, $4 FROM tables WHERE table_id = $1 AND namespace_id <> $5";
    let inserted = run!(tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(to_sql(version))
        .bind(batch)
        .bind(NOWHERE)
        .execute(c)
        .await
        .map(|done| done.rows_affected()));
    match inserted {
        Ok(0) => Err(Error::TableNotFound(table.id.clone())),
        Ok(_) => Ok(true),
        Err(error) if is_unique_violation(&error) => Ok(false),
        Err(error) if super::is_foreign_key_violation(&error) => {
            Err(Error::TableNotFound(table.id.clone()))
        }
        Err(error) => Err(failed(error, "noting a version of a batch")),
    }
}

/// The version that a batch is about to make on the table's branch, if one is.
pub async fn find_intent(tx: &mut Tx, table: &Table) -> Result<Option<Intent>> {
    const SQL: &str = "SELECT v.batch_id, v.version, b.lease_us FROM batch_versions v \
        JOIN batches b ON b.batch_id = v.batch_id WHERE v.table_id = $1 AND v.branch = $2";
    let row = run!(tx, |c| sqlx::query_as::<_, (Uuid, i64, i64)>(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "looking for a batch"))?;
    Ok(row.map(|(batch, version, lease_us)| Intent { batch, version: from_sql(version), lease_us }))
}

pub async fn find_batch(tx: &mut Tx, batch: Uuid) -> Result<Option<Batch>> {
    const SQL: &str = "SELECT batch_id, state, changes, properties, created_by, created_at_us \
        FROM batches WHERE batch_id = $1";
    run!(tx, |c| sqlx::query_as::<_, BatchRow>(SQL).bind(batch).fetch_optional(c).await)
        .map_err(|error| failed(error, "reading a batch"))?
        .map(BatchRow::into_batch)
        .transpose()
}

/// Batches with something left to do whose makers fell silent, oldest first.
pub async fn list_abandoned(tx: &mut Tx, now_us: i64, limit: i64) -> Result<Vec<Uuid>> {
    const SQL: &str = "SELECT batch_id FROM batches WHERE state IN ($1, $2, $3) AND lease_us <= $4 \
        ORDER BY batch_id LIMIT $5";
    run!(tx, |c| sqlx::query_scalar::<_, Uuid>(SQL)
        .bind(BatchState::Open.as_str())
        .bind(BatchState::Committed.as_str())
        .bind(BatchState::Aborting.as_str())
        .bind(now_us)
        .bind(limit)
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing batches"))
}

/// Takes over a batch whose maker fell silent. Answers whether that succeeded.
pub async fn take_batch(tx: &mut Tx, batch: Uuid, now_us: i64, lease_us: i64) -> Result<bool> {
    const SQL: &str = "UPDATE batches SET lease_us = $3 WHERE batch_id = $1 AND lease_us <= $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(batch)
        .bind(now_us)
        .bind(lease_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "taking over a batch"))
}

/// Gives a sign of life for a batch that something is left to do for.
pub async fn extend_batch(tx: &mut Tx, batch: Uuid, lease_us: i64) -> Result<()> {
    const SQL: &str =
        "UPDATE batches SET lease_us = $2 WHERE batch_id = $1 AND state IN ($3, $4, $5)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(batch)
        .bind(lease_us)
        .bind(BatchState::Open.as_str())
        .bind(BatchState::Committed.as_str())
        .bind(BatchState::Aborting.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "giving a sign of life for a batch"))
}

/// Moves a batch from one state to another. Answers whether it was in the first.
pub async fn move_batch(
    tx: &mut Tx,
    batch: Uuid,
    from: BatchState,
    to: BatchState,
) -> Result<bool> {
    const SQL: &str = "UPDATE batches SET state = $3 WHERE batch_id = $1 AND state = $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(batch)
        .bind(from.as_str())
        .bind(to.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "moving a batch"))
}

/// Removes the notes of the versions that a batch put; those of what it deletes stay.
pub async fn delete_intents_to_put(tx: &mut Tx, batch: Uuid) -> Result<()> {
    const SQL: &str = "DELETE FROM batch_versions WHERE batch_id = $1 AND version <> $2";
    run!(tx, |c| sqlx::query(SQL).bind(batch).bind(to_sql(ANY_VERSION)).execute(c).await.map(drop))
        .map_err(|error| failed(error, "removing the notes of a batch"))
}

/// Removes all notes of a batch.
pub async fn delete_intents(tx: &mut Tx, batch: Uuid) -> Result<()> {
    const SQL: &str = "DELETE FROM batch_versions WHERE batch_id = $1";
    run!(tx, |c| sqlx::query(SQL).bind(batch).execute(c).await.map(drop))
        .map_err(|error| failed(error, "removing the notes of a batch"))
}

/// Changes what callers keep with a batch, unless somebody did so since `before` was read. Answers
/// whether that succeeded.
pub async fn update_properties(
    tx: &mut Tx,
    batch: Uuid,
    before: &Properties,
    after: &Properties,
) -> Result<bool> {
    const SQL: &str = "UPDATE batches SET properties = $3 WHERE batch_id = $1 AND properties = $2";
    let (before, after) = (to_json(before)?, to_json(after)?);
    run!(tx, |c| sqlx::query(SQL)
        .bind(batch)
        .bind(&before)
        .bind(&after)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "changing the properties of a batch"))
}
