//! Tables that refer to files of others.

use super::{Tx, failed, run};
use crate::error::{Error, Result};
use crate::model::{Name, NamespaceId, Table, TableId};

/// Notes that a table refers to files of the source's branch, and keeps the source from going until
/// the transaction ends.
///
/// # Errors
/// `TableNotFound` when the source is gone.
pub async fn insert_clone(tx: &mut Tx, clone: &Table, source: &Table) -> Result<()> {
    const HOLD: &str = "UPDATE tables SET updated_at_us = updated_at_us WHERE table_id = $1";
    const SQL: &str = "INSERT INTO clones (table_id, source_id, source_branch) VALUES ($1, $2, $3)";
    let held = run!(tx, |c| sqlx::query(HOLD)
        .bind(source.key)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(|error| failed(error, "holding the source of a clone"))?;
    if held == 0 {
        return Err(Error::TableNotFound(source.id.clone()));
    }
    run!(tx, |c| sqlx::query(SQL)
        .bind(clone.key)
        .bind(source.key)
        .bind(source.branch.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "noting a clone"))
}

#[derive(sqlx::FromRow)]
struct NameRow {
    path: String,
    name: String,
}

/// A table that refers to files of the source: of its branch, or of any for the main one, which all
/// start from.
pub async fn find_clone_of(tx: &mut Tx, source: &Table) -> Result<Option<TableId>> {
    const SQL: &str = "SELECT n.path, t.name FROM clones c \
        JOIN tables t ON t.table_id = c.table_id \
        JOIN namespaces n ON n.namespace_id = t.namespace_id \
        WHERE c.source_id = $1 AND ($2 = 1 OR c.source_branch = $3) LIMIT 1";
    let found = run!(tx, |c| sqlx::query_as::<_, NameRow>(SQL)
        .bind(source.key)
        .bind(i64::from(source.branch.is_main()))
        .bind(source.branch.as_str())
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "looking for clones"))?;
    let id = |row: NameRow| -> Result<TableId> {
        let namespace = NamespaceId::from_stored(&row.path)?;
        Ok(TableId { namespace, name: Name::new(row.name)? })
    };
    found.map(id).transpose()
}
