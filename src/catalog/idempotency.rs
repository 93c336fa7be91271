//! Answers to requests that carried an `Idempotency-Key`.

use uuid::Uuid;

use super::{Tx, failed, run};
use crate::error::Result;

/// What is known of a key.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct KeyRow {
    pub body_hash: String,
    /// The answer, once there is one.
    pub response: Option<String>,
    /// When it was first taken, in microseconds.
    pub taken_at_us: i64,
    /// Until when the request that holds the key is taken to be alive, in microseconds.
    pub lease_us: i64,
}

pub async fn find_key(tx: &mut Tx, key_hash: &str) -> Result<Option<KeyRow>> {
    const SQL: &str = "SELECT body_hash, response, taken_at_us, lease_us FROM idempotency_keys WHERE key_hash = $1";
    run!(tx, |c| sqlx::query_as::<_, KeyRow>(SQL).bind(key_hash).fetch_optional(c).await)
        .map_err(|error| failed(error, "reading an idempotency key"))
}

/// Takes a key that nobody holds, or one without an answer whose holder's lease is over. Answers
/// whether it was taken.
pub async fn take_key(
    tx: &mut Tx,
    key_hash: &str,
    body_hash: &str,
    holder: Uuid,
    now_us: i64,
    lease_us: i64,
    expires_at_us: i64,
) -> Result<bool> {
    const SQL: &str = "INSERT INTO idempotency_keys \
        (key_hash, body_hash, response, taken_at_us, lease_us, expires_at_us, holder) \
        VALUES ($1, $2, NULL, $5, $3, $4, $6) \
        ON CONFLICT (key_hash) DO UPDATE SET lease_us = excluded.lease_us, \
        holder = excluded.holder \
        WHERE idempotency_keys.response IS NULL AND idempotency_keys.lease_us <= $5 \
        AND idempotency_keys.body_hash = excluded.body_hash";
    run!(tx, |c| sqlx::query(SQL)
        .bind(key_hash)
        .bind(body_hash)
        .bind(lease_us)
        .bind(expires_at_us)
        .bind(now_us)
        .bind(holder)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "taking an idempotency key"))
}

/// Whether the key is still held by the one that took it, and has no answer.
pub async fn is_held(tx: &mut Tx, key_hash: &str, holder: Uuid) -> Result<bool> {
    const SQL: &str = "SELECT COUNT(*) FROM idempotency_keys \
        WHERE key_hash = $1 AND holder = $2 AND response IS NULL";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL).bind(key_hash).bind(holder).fetch_one(c).await)
        .map(|held| held > 0)
        .map_err(|error| failed(error, "reading an idempotency key"))
}

/// Keeps the answer until it expires, if it is the first.
pub async fn finish_key(
    tx: &mut Tx,
    key_hash: &str,
    response: &str,
    expires_at_us: i64,
) -> Result<()> {
    const SQL: &str = "UPDATE idempotency_keys SET response = $2, expires_at_us = $3 \
        WHERE key_hash = $1 AND response IS NULL";
    run!(tx, |c| sqlx::query(SQL)
        .bind(key_hash)
        .bind(response)
        .bind(expires_at_us)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "keeping an answer"))
}

/// Extends the lease of the request that holds the key.
pub async fn extend_lease(tx: &mut Tx, key_hash: &str, holder: Uuid, lease_us: i64) -> Result<()> {
    const SQL: &str = "UPDATE idempotency_keys SET lease_us = $2 \
        WHERE key_hash = $1 AND holder = $3 AND response IS NULL";
    run!(tx, |c| sqlx::query(SQL)
        .bind(key_hash)
        .bind(lease_us)
        .bind(holder)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "extending an idempotency key"))
}

/// Gives a key back: its request certainly changed nothing, so a retry may start afresh.
pub async fn release_key(tx: &mut Tx, key_hash: &str, holder: Uuid) -> Result<()> {
    const SQL: &str =
        "DELETE FROM idempotency_keys WHERE key_hash = $1 AND holder = $2 AND response IS NULL";
    run!(tx, |c| sqlx::query(SQL).bind(key_hash).bind(holder).execute(c).await.map(drop))
        .map_err(|error| failed(error, "releasing an idempotency key"))
}

/// Forgets the keys whose time is over.
pub async fn delete_expired(tx: &mut Tx, now_us: i64) -> Result<u64> {
    // Never one that is held: a retry would do the work again.
    const SQL: &str = "DELETE FROM idempotency_keys WHERE expires_at_us <= $1 AND lease_us <= $1";
    run!(tx, |c| sqlx::query(SQL).bind(now_us).execute(c).await.map(|done| done.rows_affected()))
        .map_err(|error| failed(error, "forgetting idempotency keys"))
}
