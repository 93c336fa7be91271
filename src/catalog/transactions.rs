//! Transactions: what made versions, in the words in which the catalog keeps it.

use uuid::Uuid;

use super::events::insert_event;
use super::{Tx, failed, from_json, from_sql, run, to_json, to_sql};
use crate::error::Result;
use crate::model::{Caller, Event, EventKind, Properties, Table};

/// A transaction that made a version.
pub struct CommittedTransaction {
    pub table_key: Uuid,
    pub branch: String,
    pub version: u64,
    /// Lance's name of the operation.
    pub operation: Option<String>,
    pub committed_by: Option<String>,
    /// Microseconds since the Unix epoch.
    pub committed_at_us: i64,
    pub properties: Properties,
}

#[derive(sqlx::FromRow)]
struct TransactionRow {
    table_id: Uuid,
    branch: String,
    version: i64,
    operation: Option<String>,
    committed_by: Option<String>,
    committed_at_us: i64,
    properties: String,
}

/// Notes that a commit shares a version, which a transaction of its own made.
pub async fn insert_shared(
    tx: &mut Tx,
    id: &str,
    table: &Table,
    version: u64,
    caller: &Caller,
    now_us: i64,
) -> Result<()> {
    const SQL: &str = "INSERT INTO shared_transactions \
        (transaction_id, table_id, branch, version, committed_by) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT (transaction_id) DO NOTHING";
    let rows = run!(&mut *tx, |c| sqlx::query(SQL)
        .bind(id)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(to_sql(version))
        .bind(caller.name())
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(|error| failed(error, "recording a transaction"))?;
    if rows == 0 {
        return Ok(());
    }
    let event = Event {
        branch: Some(table.branch.clone()),
        version: Some(version),
        transaction_id: Some(id.to_owned()),
        ..Event::of_table(EventKind::VersionCreated, table, caller, now_us)
    };
    insert_event(tx, event.with("operation", "Append")).await
}

/// The transaction that made the version which a commit shares with others, and who committed it;
/// `None` for one that had its version for itself.
pub async fn find_shared(tx: &mut Tx, id: &str) -> Result<Option<(String, String)>> {
    const SQL: &str = "SELECT v.transaction_id, s.committed_by FROM shared_transactions s \
        JOIN table_versions v ON v.table_id = s.table_id AND v.branch = s.branch \
        AND v.version = s.version WHERE s.transaction_id = $1 AND v.transaction_id IS NOT NULL";
    run!(tx, |c| sqlx::query_as::<_, (String, String)>(SQL).bind(id).fetch_optional(c).await)
        .map_err(|error| failed(error, "reading a transaction"))
}

/// The version that a transaction made; the first, of several that say so.
pub async fn find_transaction(tx: &mut Tx, id: &str) -> Result<Option<CommittedTransaction>> {
    const SQL: &str = "SELECT table_id, branch, version, operation, committed_by, \
        committed_at_us, properties FROM table_versions WHERE transaction_id = $1 \
        ORDER BY table_id, branch, version LIMIT 1";
    let row =
        run!(tx, |c| sqlx::query_as::<_, TransactionRow>(SQL).bind(id).fetch_optional(c).await)
            .map_err(|error| failed(error, "reading a transaction"))?;
    row.map(|row| {
        Ok(CommittedTransaction {
            table_key: row.table_id,
            branch: row.branch,
            version: from_sql(row.version),
            operation: row.operation,
            committed_by: row.committed_by,
            committed_at_us: row.committed_at_us,
            properties: from_json(&row.properties)?,
        })
    })
    .transpose()
}

/// Changes what callers keep with a transaction, unless somebody did so since `before` was read.
/// Answers whether that succeeded.
pub async fn update_properties(
    tx: &mut Tx,
    id: &str,
    before: &Properties,
    after: &Properties,
) -> Result<bool> {
    const SQL: &str = "UPDATE table_versions SET properties = $3 \
        WHERE transaction_id = $1 AND properties = $2";
    let (before, after) = (to_json(before)?, to_json(after)?);
    run!(tx, |c| sqlx::query(SQL)
        .bind(id)
        .bind(&before)
        .bind(&after)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .map_err(|error| failed(error, "changing the properties of a transaction"))
}
