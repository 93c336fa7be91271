//! Tables that refer to files of others.

use uuid::Uuid;

use super::{Tx, failed, run, tables};
use crate::error::Result;
use crate::model::{Table, TableId};

/// Notes that a table refers to files of the source's branch, and keeps the source from going until
/// the transaction ends.
///
/// # Errors
/// `TableNotFound` when the source is gone.
pub async fn insert_clone(tx: &mut Tx, clone: &Table, source: &Table) -> Result<()> {
    const SQL: &str =
        "INSERT INTO clones (table_id, source_location, source_branch) VALUES ($1, $2, $3)";
    tables::hold(tx, source).await?;
    run!(tx, |c| sqlx::query(SQL)
        .bind(clone.key)
        .bind(&source.location)
        .bind(source.branch.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "noting a clone"))
}

/// Where the tables stand that the table at a location was cloned from.
pub async fn list_sources_of(tx: &mut Tx, location: &str) -> Result<Vec<String>> {
    const SQL: &str = "SELECT DISTINCT c.source_location FROM clones c \
        JOIN tables t ON t.table_id = c.table_id WHERE t.location = $1";
    run!(tx, |c| sqlx::query_scalar::<_, String>(SQL).bind(location).fetch_all(c).await)
        .map_err(|error| failed(error, "looking for what was cloned"))
}

#[derive(sqlx::FromRow)]
struct CloneRow {
    path: String,
    name: String,
    is_dropped: bool,
}

/// A table that refers to files of another.
pub struct CloneOf {
    pub id: TableId,
    /// Whether it was dropped, under this name, and can be had back.
    pub is_dropped: bool,
}

/// A table that refers to files of the source: of its branch, or of any for the main one, which all
/// start from. By the place, since a table may be deregistered and registered anew. One that was
/// dropped only if there is no other.
pub async fn find_clone_of(tx: &mut Tx, source: &Table) -> Result<Option<CloneOf>> {
    const SQL: &str = "SELECT COALESCE(d.path, n.path) AS path, COALESCE(d.name, t.name) AS name, \
        d.table_id IS NOT NULL AS is_dropped FROM clones c \
        JOIN tables t ON t.table_id = c.table_id \
        JOIN namespaces n ON n.namespace_id = t.namespace_id \
        LEFT JOIN dropped_tables d ON d.table_id = t.table_id \
        WHERE c.source_location = $1 AND ($2 = 1 OR c.source_branch = $3) \
        ORDER BY is_dropped LIMIT 1";
    let found = run!(tx, |c| sqlx::query_as::<_, CloneRow>(SQL)
        .bind(&source.location)
        .bind(i64::from(source.branch.is_main()))
        .bind(source.branch.as_str())
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "looking for clones"))?;
    found
        .map(|row| {
            let id = tables::table_id(&row.path, row.name)?;
            Ok(CloneOf { id, is_dropped: row.is_dropped })
        })
        .transpose()
}

/// The tables that refer to files of the table at a location, whichever of its branches, in pages by
/// their keys; those that were dropped are among them.
pub async fn list_clones_of(
    tx: &mut Tx,
    location: &str,
    after: Uuid,
    limit: i64,
) -> Result<Vec<(Uuid, String)>> {
    const SQL: &str = "SELECT t.table_id, t.location FROM clones c \
        JOIN tables t ON t.table_id = c.table_id \
        WHERE c.source_location = $1 AND t.table_id > $2 ORDER BY t.table_id LIMIT $3";
    run!(tx, |c| sqlx::query_as::<_, (Uuid, String)>(SQL)
        .bind(location)
        .bind(after)
        .bind(limit)
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing clones"))
}
