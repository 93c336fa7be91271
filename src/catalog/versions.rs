//! Versions: the index of the manifests in storage.

use std::collections::HashSet;

use sqlx::QueryBuilder;
use uuid::Uuid;

use super::dropped::NOWHERE;
use super::events::insert_event;
use super::{
    Catalog, INSERTED_AT_ONCE, Tx, failed, from_json, from_sql, parts, run, to_json, to_sql,
};
use crate::error::Result;
use crate::model::{
    Branch, Caller, Event, EventKind, ManifestEntry, NamingScheme, Origin, Page, Table,
    TableVersion,
};
use crate::telemetry::meters;

#[derive(sqlx::FromRow)]
struct VersionRow {
    version: i64,
    manifest_path: String,
    manifest_size: Option<i64>,
    e_tag: Option<String>,
    naming_scheme: String,
    origin: String,
    operation: Option<String>,
    transaction_id: Option<String>,
    committed_by: Option<String>,
    committed_at_us: i64,
    properties: String,
}

impl VersionRow {
    fn into_version(self) -> Result<TableVersion> {
        Ok(TableVersion {
            manifest: ManifestEntry {
                version: from_sql(self.version),
                path: self.manifest_path,
                size_bytes: self.manifest_size.map(from_sql),
                e_tag: self.e_tag,
                naming_scheme: NamingScheme::from_stored(&self.naming_scheme),
                modified_at_us: self.committed_at_us,
            },
            origin: Origin::from_stored(&self.origin),
            operation: self.operation,
            transaction_id: self.transaction_id,
            committed_by: self.committed_by,
            committed_at_us: self.committed_at_us,
            properties: from_json(&self.properties)?,
        })
    }
}

/// In which order a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// The newest version that the catalog knows.
pub async fn find_latest(tx: &mut Tx, table: &Table) -> Result<Option<TableVersion>> {
    const SQL: &str = "SELECT version, manifest_path, manifest_size, e_tag, naming_scheme, origin, \
        operation, transaction_id, committed_by, committed_at_us, properties FROM table_versions \
        WHERE table_id = $1 AND branch = $2 ORDER BY version DESC LIMIT 1";
    let row = run!(tx, |c| sqlx::query_as::<_, VersionRow>(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "reading a version"))?;
    row.map(VersionRow::into_version).transpose()
}

/// Lance's names of the operations that go together with an append made before them, whichever
/// version that read (`check_append_txn` in Lance's conflict rules).
pub const BESIDE_APPEND: [&str; 8] =
    ["Append", "Delete", "Update", "Rewrite", "CreateIndex", "Merge", "Project", "UpdateConfig"];

/// Versions after `after`, up to `until`, whose operation is not known to go together with an append,
/// newest first.
pub async fn list_unlike_append(
    tx: &mut Tx,
    table: &Table,
    after: u64,
    until: u64,
    limit: usize,
) -> Result<Vec<(u64, Option<String>)>> {
    // The names of BESIDE_APPEND.
    const SQL: &str = "SELECT version, operation FROM table_versions \
        WHERE table_id = $1 AND branch = $2 AND version > $3 AND version <= $4 \
        AND (operation IS NULL OR operation NOT IN ('Append', 'Delete', 'Update', 'Rewrite', \
        'CreateIndex', 'Merge', 'Project', 'UpdateConfig')) ORDER BY version DESC LIMIT $5";
    let rows = run!(tx, |c| sqlx::query_as::<_, (i64, Option<String>)>(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(to_sql(after))
        .bind(to_sql(until))
        .bind(to_sql(limit as u64))
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing versions"))?;
    Ok(rows.into_iter().map(|(version, operation)| (from_sql(version), operation)).collect())
}

/// How many versions after `after`, up to `until`, have rows.
pub async fn count_versions(tx: &mut Tx, table: &Table, after: u64, until: u64) -> Result<u64> {
    const SQL: &str = "SELECT count(*) FROM table_versions \
        WHERE table_id = $1 AND branch = $2 AND version > $3 AND version <= $4";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(to_sql(after))
        .bind(to_sql(until))
        .fetch_one(c)
        .await)
    .map(from_sql)
    .map_err(|error| failed(error, "counting versions"))
}

/// What a commit to a branch asks just before its put.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LineState {
    /// Whether a commit to several tables is at the branch.
    pub is_intended: bool,
    /// The newest version that has a row, and when it was committed, in microseconds.
    pub newest: Option<i64>,
    pub committed_at_us: Option<i64>,
}

const FIND_LINE_STATE: &str = "SELECT EXISTS (SELECT 1 FROM batch_versions b \
    WHERE b.table_id = $1 AND b.branch = $2) AS is_intended, \
    v.version AS newest, v.committed_at_us AS committed_at_us \
    FROM tables t LEFT JOIN table_versions v ON v.table_id = t.table_id AND v.branch = $2 \
    AND v.version = (SELECT max(n.version) FROM table_versions n \
    WHERE n.table_id = $1 AND n.branch = $2) \
    WHERE t.table_id = $1 AND t.namespace_id <> $3";

impl LineState {
    /// The columns of [`FIND_LINE_STATE`].
    fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { is_intended: row.get(0)?, newest: row.get(1)?, committed_at_us: row.get(2)? })
    }
}

impl Catalog {
    /// How a branch stands; `None` when its table is gone, or dropped.
    pub async fn find_line_state(&self, table: &Table) -> Result<Option<LineState>> {
        let branch = (table.key.as_bytes(), table.branch.as_str(), NOWHERE.as_bytes());
        if let Some(found) = self.look_up(FIND_LINE_STATE, branch, LineState::of) {
            return Ok(found);
        }
        let mut tx = self.read().await?;
        run!(&mut tx, |c| sqlx::query_as::<_, LineState>(FIND_LINE_STATE)
            .bind(table.key)
            .bind(table.branch.as_str())
            .bind(NOWHERE)
            .fetch_optional(c)
            .await)
        .map_err(|error| failed(error, "looking at a branch"))
    }
}

pub async fn find_version(
    tx: &mut Tx,
    table: &Table,
    version: u64,
) -> Result<Option<TableVersion>> {
    const SQL: &str = "SELECT version, manifest_path, manifest_size, e_tag, naming_scheme, origin, \
        operation, transaction_id, committed_by, committed_at_us, properties FROM table_versions \
        WHERE table_id = $1 AND branch = $2 AND version = $3";
    let row = run!(tx, |c| sqlx::query_as::<_, VersionRow>(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(to_sql(version))
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "reading a version"))?;
    row.map(VersionRow::into_version).transpose()
}

/// A page of versions; the page's key is the version number.
pub async fn list_versions(
    tx: &mut Tx,
    table: &Table,
    order: Order,
    after: Option<u64>,
    page: &Page,
) -> Result<Vec<TableVersion>> {
    const UP: &str = "SELECT version, manifest_path, manifest_size, e_tag, naming_scheme, origin, \
        operation, transaction_id, committed_by, committed_at_us, properties FROM table_versions \
        WHERE table_id = $1 AND branch = $2 AND version > $3 ORDER BY version LIMIT $4";
    const DOWN: &str = "SELECT version, manifest_path, manifest_size, e_tag, naming_scheme, origin, \
        operation, transaction_id, committed_by, committed_at_us, properties FROM table_versions \
        WHERE table_id = $1 AND branch = $2 AND version < $3 ORDER BY version DESC LIMIT $4";
    let (sql, start) = match order {
        Order::OldestFirst => (UP, -1),
        Order::NewestFirst => (DOWN, i64::MAX),
    };
    let rows = run!(tx, |c| sqlx::query_as::<_, VersionRow>(sql)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(after.map_or(start, to_sql))
        .bind(page.fetch_limit())
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing versions"))?;
    rows.into_iter().map(VersionRow::into_version).collect()
}

/// A version that is to be recorded, and what is told of it if that changes anything.
pub(super) struct NewVersion {
    table: Uuid,
    branch: Branch,
    version: TableVersion,
    event: Option<Event>,
}

impl NewVersion {
    fn new(table: &Table, version: &TableVersion, caller: Option<&Caller>) -> Self {
        let event = caller.map(|caller| {
            let event = Event {
                branch: Some(table.branch.clone()),
                version: Some(version.manifest.version),
                transaction_id: version.transaction_id.clone(),
                ..Event::of_table(EventKind::VersionCreated, table, caller, version.committed_at_us)
            };
            match &version.operation {
                Some(operation) => event.with("operation", operation.as_str()),
                None => event,
            }
        });
        Self { table: table.key, branch: table.branch.clone(), version: version.clone(), event }
    }
}

/// Records a version. What this server committed wins over what a reader adopted a moment before,
/// because only the committer knows who did it; a second adoption changes nothing. It is an event
/// of the caller, if there is one. Answers whether anything changed.
pub async fn insert_version(
    tx: &mut Tx,
    table: &Table,
    version: &TableVersion,
    caller: Option<&Caller>,
) -> Result<bool> {
    let changed = insert_versions(tx, vec![NewVersion::new(table, version, caller)]).await?;
    Ok(changed > 0)
}

/// As [`insert_version`], at the end of this transaction at the latest.
pub async fn insert_version_later(
    tx: &mut Tx,
    table: &Table,
    version: &TableVersion,
    caller: Option<&Caller>,
) -> Result<()> {
    tx.versions.push(NewVersion::new(table, version, caller));
    if tx.versions.len() < INSERTED_AT_ONCE { Ok(()) } else { write_down(tx).await }
}

/// Records what waits for the end of its transaction.
pub(super) async fn write_down(tx: &mut Tx) -> Result<()> {
    for part in parts(std::mem::take(&mut tx.versions)) {
        insert_versions(tx, part).await?;
    }
    Ok(())
}

/// Answers how many changed anything.
async fn insert_versions(tx: &mut Tx, new: Vec<NewVersion>) -> Result<usize> {
    let properties: Vec<String> =
        new.iter().map(|new| to_json(&new.version.properties)).collect::<Result<_>>()?;
    let changed = run!(&mut *tx, |c| {
        let mut insert = QueryBuilder::new(
            "INSERT INTO table_versions (table_id, branch, version, manifest_path, manifest_size, \
            e_tag, naming_scheme, origin, operation, transaction_id, committed_by, \
            committed_at_us, properties) ",
        );
        insert.push_values(new.iter().zip(&properties), |mut row, (new, properties)| {
            let NewVersion { table, branch, version, .. } = new;
            let manifest = &version.manifest;
            row.push_bind(*table)
                .push_bind(branch.as_str())
                .push_bind(to_sql(manifest.version))
                .push_bind(&manifest.path)
                .push_bind(manifest.size_bytes.map(to_sql))
                .push_bind(&manifest.e_tag)
                .push_bind(manifest.naming_scheme.as_str())
                .push_bind(version.origin.as_str())
                .push_bind(&version.operation)
                .push_bind(&version.transaction_id)
                .push_bind(&version.committed_by)
                .push_bind(version.committed_at_us)
                .push_bind(properties);
        });
        insert.push(
            " ON CONFLICT (table_id, branch, version) DO UPDATE SET origin = excluded.origin, \
            operation = excluded.operation, transaction_id = excluded.transaction_id, \
            committed_by = excluded.committed_by, committed_at_us = excluded.committed_at_us, \
            properties = excluded.properties \
            WHERE excluded.origin = 'catalog' AND table_versions.origin = 'foreign' \
            RETURNING table_id, branch, version",
        );
        insert.build_query_as::<(Uuid, String, i64)>().fetch_all(c).await
    })
    .map_err(|error| failed(error, "recording a version"))?;
    let count = changed.len();
    let mut changed: HashSet<_> = changed.into_iter().collect();
    for NewVersion { table, branch, version, event } in new {
        let place = (table, branch.as_str().to_owned(), to_sql(version.manifest.version));
        if !changed.remove(&place) {
            continue;
        }
        meters::recorded(version.origin.as_str(), version.operation.as_deref());
        if let Some(event) = event {
            insert_event(tx, event).await?;
        }
    }
    Ok(count)
}

/// Forgets a version whose manifest is gone from storage, such as one that a clean-up removed.
pub async fn delete_version(tx: &mut Tx, table: &Table, version: u64) -> Result<()> {
    const SQL: &str =
        "DELETE FROM table_versions WHERE table_id = $1 AND branch = $2 AND version = $3";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(to_sql(version))
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "forgetting a version"))
}

/// Forgets all versions of a branch.
pub async fn delete_versions(tx: &mut Tx, table: &Table) -> Result<()> {
    const SQL: &str = "DELETE FROM table_versions WHERE table_id = $1 AND branch = $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "forgetting the versions of a branch"))
}
