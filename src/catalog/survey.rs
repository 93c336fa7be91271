//! What only the sweep and the doctor ask: things that are left over, or that do not fit together.

use uuid::Uuid;

use super::{Tx, failed, from_sql, run, to_sql};
use crate::error::Result;
use crate::model::{Branch, ManifestEntry, MultipartState, Table, TableState, Upload, UploadState};

/// A note of something whose time has come, and the key that the next page continues from.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DueRemoval {
    pub location: String,
    pub not_before_us: i64,
}

/// As [`super::removals::list_due_removals`], in pages that go by time and location.
pub async fn list_due_removals(
    tx: &mut Tx,
    now_us: i64,
    stale_us: i64,
    after: &DueRemoval,
    limit: i64,
) -> Result<Vec<DueRemoval>> {
    const SQL: &str = "SELECT location, not_before_us FROM pending_removals \
        WHERE not_before_us <= $1 AND (claimed_at_us IS NULL OR claimed_at_us <= $2) \
        AND (not_before_us > $3 OR (not_before_us = $3 AND location > $4)) \
        ORDER BY not_before_us, location LIMIT $5";
    run!(tx, |c| sqlx::query_as::<_, DueRemoval>(SQL)
        .bind(now_us)
        .bind(stale_us)
        .bind(after.not_before_us)
        .bind(&after.location)
        .bind(limit)
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing removals"))
}

/// Whether a folder is still noted for removal.
pub async fn has_removal(tx: &mut Tx, location: &str) -> Result<bool> {
    const SQL: &str = "SELECT COUNT(*) FROM pending_removals WHERE location = $1";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL).bind(location).fetch_one(c).await)
        .map(|count| count > 0)
        .map_err(|error| failed(error, "looking for a removal"))
}

/// How many multipart writes are open past their time, and how many rows of those that ended may go:
/// what the next sweep ends and forgets.
pub async fn count_overdue_sessions(tx: &mut Tx, now_us: i64, stale_us: i64) -> Result<u64> {
    const SQL: &str = "SELECT COUNT(*) FROM multipart_writes \
        WHERE (state IN ($1, $2, $3) AND expires_at_us <= $4) \
        OR (state = $5 AND expires_at_us <= $6)";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL)
        .bind(MultipartState::Open.as_str())
        .bind(MultipartState::Committed.as_str())
        .bind(MultipartState::Aborted.as_str())
        .bind(now_us)
        .bind(MultipartState::Completing.as_str())
        .bind(stale_us)
        .fetch_one(c)
        .await)
    .map(from_sql)
    .map_err(|error| failed(error, "counting multipart writes"))
}

/// How many keys are without an answer although their holders fell silent, and how many of all keys
/// nobody would ask for again at a time.
pub async fn count_keys(tx: &mut Tx, now_us: i64, expired_us: i64) -> Result<(u64, u64)> {
    const LEFT: &str = "SELECT COUNT(*) FROM idempotency_keys \
        WHERE response IS NULL AND lease_us <= $1 AND expires_at_us > $1";
    const EXPIRED: &str = "SELECT COUNT(*) FROM idempotency_keys \
        WHERE expires_at_us <= $1 AND lease_us <= $1";
    let count = |error| failed(error, "counting idempotency keys");
    let left =
        run!(&mut *tx, |c| sqlx::query_scalar::<_, i64>(LEFT).bind(now_us).fetch_one(c).await)
            .map_err(count)?;
    let expired =
        run!(tx, |c| sqlx::query_scalar::<_, i64>(EXPIRED).bind(expired_us).fetch_one(c).await)
            .map_err(count)?;
    Ok((from_sql(left), from_sql(expired)))
}

/// A batch that somebody left.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LeftBatch {
    pub batch_id: Uuid,
    pub state: String,
}

/// Batches with something left to do whose makers fell silent, in pages by their keys.
pub async fn list_left_batches(
    tx: &mut Tx,
    now_us: i64,
    after: Uuid,
    limit: i64,
) -> Result<Vec<LeftBatch>> {
    const SQL: &str = "SELECT batch_id, state FROM batches \
        WHERE state IN ('open', 'committed', 'aborting') AND lease_us <= $1 AND batch_id > $2 \
        ORDER BY batch_id LIMIT $3";
    run!(tx, |c| sqlx::query_as::<_, LeftBatch>(SQL)
        .bind(now_us)
        .bind(after)
        .bind(limit)
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing batches"))
}

/// What the batches that are at a table do, each as JSON text of the engine's own.
pub async fn list_changes_at(tx: &mut Tx, table: Uuid) -> Result<Vec<String>> {
    const SQL: &str = "SELECT b.changes FROM batch_versions v \
        JOIN batches b ON b.batch_id = v.batch_id WHERE v.table_id = $1";
    run!(tx, |c| sqlx::query_scalar::<_, String>(SQL).bind(table).fetch_all(c).await)
        .map_err(|error| failed(error, "listing the batches at a table"))
}

/// The branches of which a table has rows of versions.
pub async fn list_branches_with_rows(tx: &mut Tx, table: Uuid) -> Result<Vec<Branch>> {
    const SQL: &str = "SELECT DISTINCT branch FROM table_versions WHERE table_id = $1 \
        ORDER BY branch";
    run!(tx, |c| sqlx::query_scalar::<_, String>(SQL).bind(table).fetch_all(c).await)
        .map(|names| names.into_iter().map(Branch::from_stored).collect())
        .map_err(|error| failed(error, "listing the branches of a table"))
}

/// Whether the table has a row of any version.
pub async fn has_versions(tx: &mut Tx, table: Uuid) -> Result<bool> {
    const SQL: &str = "SELECT version FROM table_versions WHERE table_id = $1 LIMIT 1";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL).bind(table).fetch_optional(c).await)
        .map(|found| found.is_some())
        .map_err(|error| failed(error, "looking for versions"))
}

/// Whether a row says that its version's manifest stands at a path.
pub async fn is_manifest_of_row(tx: &mut Tx, table: Uuid, path: &str) -> Result<bool> {
    const SQL: &str =
        "SELECT version FROM table_versions WHERE table_id = $1 AND manifest_path = $2 LIMIT 1";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL).bind(table).bind(path).fetch_optional(c).await)
        .map(|found| found.is_some())
        .map_err(|error| failed(error, "looking for a version"))
}

/// Makes the row of a version tell where its manifest is and how large.
pub async fn correct_version(tx: &mut Tx, table: &Table, manifest: &ManifestEntry) -> Result<()> {
    const SQL: &str = "UPDATE table_versions SET manifest_path = $4, manifest_size = $5, \
        e_tag = $6, naming_scheme = $7 WHERE table_id = $1 AND branch = $2 AND version = $3";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(to_sql(manifest.version))
        .bind(&manifest.path)
        .bind(manifest.size_bytes.map(to_sql))
        .bind(&manifest.e_tag)
        .bind(manifest.naming_scheme.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "correcting a version"))
}

/// Notes that a table has no version, if no row says otherwise. Answers whether it was noted.
pub async fn mark_empty(tx: &mut Tx, table: Uuid, by: &str, now_us: i64) -> Result<bool> {
    const SQL: &str = "UPDATE tables SET state = $2, updated_by = $3, updated_at_us = $4 \
        WHERE table_id = $1 AND NOT EXISTS (SELECT 1 FROM table_versions v \
        WHERE v.table_id = $1 AND v.branch = $5)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table)
        .bind(TableState::Declared.as_str())
        .bind(by)
        .bind(now_us)
        .bind(Branch::main().as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "updating a table"))
}

/// Whether the commit that has the upload has been silent since `stale_us`.
pub async fn is_claim_dead(tx: &mut Tx, upload: Uuid, stale_us: i64) -> Result<bool> {
    const SQL: &str = "SELECT COUNT(*) FROM uploads WHERE upload_id = $1 AND state = $2 \
        AND (claimed_at_us IS NULL OR claimed_at_us <= $3)";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL)
        .bind(upload)
        .bind(UploadState::Committing.as_str())
        .bind(stale_us)
        .fetch_one(c)
        .await)
    .map(|count| count > 0)
    .map_err(|error| failed(error, "looking at an upload"))
}

/// Ends the claim of a commit that has been silent since `stale_us`. Answers whether it was.
pub async fn end_dead_claim(
    tx: &mut Tx,
    upload: &Upload,
    to: UploadState,
    stale_us: i64,
) -> Result<bool> {
    const SQL: &str = "UPDATE uploads SET state = $2, claim = NULL, claimed_at_us = NULL \
        WHERE upload_id = $1 AND state = $3 AND (claimed_at_us IS NULL OR claimed_at_us <= $4)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(upload.key)
        .bind(to.as_str())
        .bind(UploadState::Committing.as_str())
        .bind(stale_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "ending a claim"))
}
