//! Tables that were dropped and can be had back until they are purged.
//!
//! The row of one stands in a namespace that has no name, under its key: nothing finds it that looks
//! for names, or for what is within a namespace. It keeps its versions, grants and clones.

use uuid::Uuid;

use super::tables::{TableRow, give_name};
use super::{Tx, access, failed, protection, run};
use crate::error::Result;
use crate::model::{Caller, DroppedTable, JobState, Namespace, NamespaceId, Page, Table, TableId};

/// The namespace where dropped tables stand.
pub(super) const NOWHERE: Uuid = Uuid::max();
/// Its path. No name may hold U+007F, and it sorts after all that is within any namespace.
pub(super) const PATH: &str = "\u{10ffff}\u{7f}";

#[derive(sqlx::FromRow)]
struct DroppedRow {
    #[sqlx(flatten)]
    table: TableRow,
    dropped_by: String,
    dropped_at_us: i64,
    purge_after_us: i64,
}

impl DroppedRow {
    fn into_dropped(self) -> Result<DroppedTable> {
        Ok(DroppedTable {
            table: self.table.into_table()?,
            dropped_by: self.dropped_by,
            dropped_at_us: self.dropped_at_us,
            purge_after_us: self.purge_after_us,
        })
    }
}

/// Takes a table's name away, its uploads and multipart writes, and ends its jobs. Answers false when it
/// is not there under this name any more.
///
/// # Errors
/// `InvalidTableState` for one that is protected.
pub async fn drop_table(
    tx: &mut Tx,
    table: &Table,
    caller: &Caller,
    now_us: i64,
    purge_after_us: i64,
) -> Result<bool> {
    const MOVE: &str = "UPDATE tables SET namespace_id = $2, name = $3, updated_by = $4, \
        updated_at_us = $5 WHERE table_id = $1 AND name = $6 AND NOT deletion_protection \
        AND namespace_id = (SELECT n.namespace_id FROM namespaces n WHERE n.path = $7)";
    const NOTE: &str = "INSERT INTO dropped_tables (table_id, path, name, dropped_by, \
        dropped_at_us, purge_after_us) VALUES ($1, $2, $3, $4, $5, $6)";
    const END_JOBS: &str = "UPDATE jobs SET state = $2, updated_at_us = $3 \
        WHERE table_id = $1 AND state IN ($4, $5)";
    const FORGET_SESSIONS: &str = "DELETE FROM multipart_writes WHERE table_id = $1";
    const FORGET_UPLOADS: &str = "DELETE FROM uploads WHERE table_id = $1";
    let dropping = |error| failed(error, "dropping a table");
    let path = table.id.namespace.to_stored();
    access::table_moves(tx, table.key).await?;
    let moved = run!(&mut *tx, |c| sqlx::query(MOVE)
        .bind(table.key)
        .bind(NOWHERE)
        .bind(table.key.to_string())
        .bind(caller.name())
        .bind(now_us)
        .bind(table.id.name.as_str())
        .bind(&path)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0));
    if !moved.map_err(dropping)? {
        protection::ensure_table_unprotected(tx, table).await?;
        return Ok(false);
    }
    run!(&mut *tx, |c| sqlx::query(NOTE)
        .bind(table.key)
        .bind(&path)
        .bind(table.id.name.as_str())
        .bind(caller.name())
        .bind(now_us)
        .bind(purge_after_us)
        .execute(c)
        .await
        .map(drop))
    .map_err(dropping)?;
    run!(&mut *tx, |c| sqlx::query(END_JOBS)
        .bind(table.key)
        .bind(JobState::Canceled.as_str())
        .bind(now_us)
        .bind(JobState::Queued.as_str())
        .bind(JobState::Running.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(dropping)?;
    for sql in [FORGET_SESSIONS, FORGET_UPLOADS] {
        run!(&mut *tx, |c| sqlx::query(sql).bind(table.key).execute(c).await.map(drop))
            .map_err(dropping)?;
    }
    Ok(true)
}

/// Gives a dropped table a name again.
///
/// # Errors
/// `TableAlreadyExists` for the name, `NamespaceNotFound` when that is gone meanwhile, `TableNotFound`
/// when the table is: purged, or had back by another.
pub async fn undrop_table(
    tx: &mut Tx,
    table: &Table,
    namespace: &Namespace,
    id: &TableId,
    caller: &Caller,
    now_us: i64,
) -> Result<()> {
    const MOVE: &str = "UPDATE tables SET namespace_id = $2, name = $3, updated_by = $4, \
        updated_at_us = $5 WHERE table_id = $1 AND namespace_id = $6";
    const FORGET: &str = "DELETE FROM dropped_tables WHERE table_id = $1";
    give_name(tx, MOVE, table, namespace, id, caller, now_us).await?;
    run!(tx, |c| sqlx::query(FORGET).bind(table.key).execute(c).await.map(drop))
        .map_err(|error| failed(error, "undropping a table"))
}

/// Forgets a dropped table with all that it has. The files are the caller's to look after. Answers
/// false when another purged it, or had it back.
pub async fn purge_table(tx: &mut Tx, table: &Table) -> Result<bool> {
    const SQL: &str = "DELETE FROM tables WHERE table_id = $1 AND namespace_id = $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(NOWHERE)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .map_err(|error| failed(error, "purging a table"))
}

/// At most so many of the tables that had this name when they were dropped, the last one first; with
/// a key only that one.
pub async fn list_named(
    tx: &mut Tx,
    id: &TableId,
    key: Option<Uuid>,
    limit: i64,
) -> Result<Vec<DroppedTable>> {
    const SQL: &str = "SELECT t.table_id, d.path, d.name, t.location, t.state, t.origin, \
        t.properties, t.deletion_protection, d.dropped_by, d.dropped_at_us, d.purge_after_us \
        FROM dropped_tables d JOIN tables t ON t.table_id = d.table_id \
        WHERE d.path = $1 AND d.name = $2 AND ($3 = 1 OR d.table_id = $4) \
        ORDER BY d.dropped_at_us DESC, d.table_id DESC LIMIT $5";
    let rows = run!(tx, |c| sqlx::query_as::<_, DroppedRow>(SQL)
        .bind(id.namespace.to_stored())
        .bind(id.name.as_str())
        .bind(i64::from(key.is_none()))
        .bind(key.unwrap_or(Uuid::nil()))
        .bind(limit)
        .fetch_all(c)
        .await);
    into_dropped(rows)
}

/// The dropped tables that were within a namespace, however deep, by their keys. The namespace need not
/// be there any more.
pub async fn list_within(
    tx: &mut Tx,
    within: &NamespaceId,
    page: &Page,
) -> Result<Vec<DroppedTable>> {
    const SQL: &str = "SELECT t.table_id, d.path, d.name, t.location, t.state, t.origin, \
        t.properties, t.deletion_protection, d.dropped_by, d.dropped_at_us, d.purge_after_us \
        FROM dropped_tables d JOIN tables t ON t.table_id = d.table_id \
        WHERE d.table_id > $1 AND d.path >= $2 AND d.path < $3 ORDER BY d.table_id LIMIT $4";
    let (first, end) = within.stored_range();
    let after = page.after_key()?.unwrap_or(Uuid::nil());
    let rows = run!(tx, |c| sqlx::query_as::<_, DroppedRow>(SQL)
        .bind(after)
        .bind(&first)
        .bind(&end)
        .bind(page.fetch_limit())
        .fetch_all(c)
        .await);
    into_dropped(rows)
}

/// Dropped tables whose time is over, in pages that go by that time and the key.
pub async fn list_due(
    tx: &mut Tx,
    now_us: i64,
    after: (i64, Uuid),
    limit: i64,
) -> Result<Vec<DroppedTable>> {
    const SQL: &str = "SELECT t.table_id, d.path, d.name, t.location, t.state, t.origin, \
        t.properties, t.deletion_protection, d.dropped_by, d.dropped_at_us, d.purge_after_us \
        FROM dropped_tables d JOIN tables t ON t.table_id = d.table_id \
        WHERE d.purge_after_us <= $1 \
        AND (d.purge_after_us > $2 OR (d.purge_after_us = $2 AND d.table_id > $3)) \
        ORDER BY d.purge_after_us, d.table_id LIMIT $4";
    let rows = run!(tx, |c| sqlx::query_as::<_, DroppedRow>(SQL)
        .bind(now_us)
        .bind(after.0)
        .bind(after.1)
        .bind(limit)
        .fetch_all(c)
        .await);
    into_dropped(rows)
}

fn into_dropped(rows: Result<Vec<DroppedRow>, sqlx::Error>) -> Result<Vec<DroppedTable>> {
    let rows = rows.map_err(|error| failed(error, "listing dropped tables"))?;
    rows.into_iter().map(DroppedRow::into_dropped).collect()
}

/// The table that has this key, also one that was dropped, with the name that it had.
pub async fn find_with_dropped(tx: &mut Tx, key: Uuid) -> Result<Option<Table>> {
    const SQL: &str = "SELECT t.table_id, COALESCE(d.path, n.path) AS path, \
        COALESCE(d.name, t.name) AS name, t.location, t.state, t.origin, t.properties, \
        t.deletion_protection FROM tables t \
        JOIN namespaces n ON n.namespace_id = t.namespace_id \
        LEFT JOIN dropped_tables d ON d.table_id = t.table_id WHERE t.table_id = $1";
    run!(tx, |c| sqlx::query_as::<_, TableRow>(SQL).bind(key).fetch_optional(c).await)
        .map_err(|error| failed(error, "reading a table"))?
        .map(TableRow::into_table)
        .transpose()
}
