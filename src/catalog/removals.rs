//! Folders to remove: noted in the same transaction as the change that makes them garbage, or
//! before the first byte of something that may not be finished.

use super::{Tx, failed, run};
use crate::error::Result;

/// Notes that `location` is to go, not before the given time.
pub async fn insert_removal(tx: &mut Tx, location: &str, not_before_us: i64) -> Result<()> {
    const SQL: &str = "INSERT INTO pending_removals (location, not_before_us) VALUES ($1, $2) \
        ON CONFLICT (location) DO UPDATE SET not_before_us = excluded.not_before_us";
    run!(tx, |c| sqlx::query(SQL).bind(location).bind(not_before_us).execute(c).await.map(drop))
        .map_err(|error| failed(error, "noting a removal"))
}

/// Takes the note back: it is removed, or it became a table. Answers whether the note was there.
pub async fn delete_removal(tx: &mut Tx, location: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM pending_removals WHERE location = $1";
    run!(tx, |c| sqlx::query(SQL)
        .bind(location)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .map_err(|error| failed(error, "taking back a removal"))
}

/// Some of the folders whose time has come.
pub async fn list_due_removals(tx: &mut Tx, now_us: i64, limit: i64) -> Result<Vec<String>> {
    const SQL: &str = "SELECT location FROM pending_removals WHERE not_before_us <= $1 \
        ORDER BY not_before_us LIMIT $2";
    run!(tx, |c| sqlx::query_scalar::<_, String>(SQL).bind(now_us).bind(limit).fetch_all(c).await)
        .map_err(|error| failed(error, "listing removals"))
}

/// Whether `location` is to go.
pub async fn find_removal(tx: &mut Tx, location: &str) -> Result<bool> {
    const SQL: &str = "SELECT location FROM pending_removals WHERE location = $1";
    run!(tx, |c| sqlx::query_scalar::<_, String>(SQL).bind(location).fetch_optional(c).await)
        .map(|found| found.is_some())
        .map_err(|error| failed(error, "looking for a removal"))
}
