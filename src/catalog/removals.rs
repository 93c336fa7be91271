//! Folders to remove: noted in the same transaction as the change that makes them garbage, or
//! before the first byte of something that may not be finished.

use super::{Tx, failed, run};
use crate::error::Result;

/// Notes that `location` is to go, not before the given time. Answers false when it is noted
/// already, by another.
pub async fn insert_removal(tx: &mut Tx, location: &str, not_before_us: i64) -> Result<bool> {
    const SQL: &str = "INSERT INTO pending_removals (location, not_before_us) VALUES ($1, $2) \
        ON CONFLICT DO NOTHING";
    run!(tx, |c| sqlx::query(SQL)
        .bind(location)
        .bind(not_before_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "noting a removal"))
}

/// Takes the note back because the folder became a table. Answers false when the note is gone or
/// somebody is removing the folder.
pub async fn cancel_removal(tx: &mut Tx, location: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM pending_removals WHERE location = $1 AND claimed_by IS NULL";
    run!(tx, |c| sqlx::query(SQL)
        .bind(location)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "taking back a removal"))
}

/// Lets `claim` remove the folder, unless another claimed it after `stale_us` or a table stands
/// there. Answers whether it may.
pub async fn claim_removal(
    tx: &mut Tx,
    location: &str,
    claim: &str,
    now_us: i64,
    stale_us: i64,
) -> Result<bool> {
    const SQL: &str = "UPDATE pending_removals SET claimed_by = $2, claimed_at_us = $3 \
        WHERE location = $1 AND (claimed_at_us IS NULL OR claimed_at_us <= $4) \
        AND NOT EXISTS (SELECT 1 FROM tables WHERE tables.location = $1)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(location)
        .bind(claim)
        .bind(now_us)
        .bind(stale_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "claiming a removal"))
}

/// Forgets a folder that `claim` removed.
pub async fn finish_removal(tx: &mut Tx, location: &str, claim: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM pending_removals WHERE location = $1 AND claimed_by = $2";
    run!(tx, |c| sqlx::query(SQL).bind(location).bind(claim).execute(c).await.map(drop))
        .map_err(|error| failed(error, "finishing a removal"))
}
