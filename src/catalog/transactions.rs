//! Transactions: what made versions, in the words in which the catalog keeps it.

use uuid::Uuid;

use super::{Tx, failed, from_json, from_sql, run, to_json};
use crate::error::Result;
use crate::model::Properties;

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
