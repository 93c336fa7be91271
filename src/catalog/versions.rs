//! Versions: the index of the manifests in storage.

use uuid::Uuid;

use super::{Tx, failed, from_sql, run, to_sql};
use crate::error::Result;
use crate::model::{MAIN_BRANCH, ManifestEntry, NamingScheme, Origin, Page, TableVersion};

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
}

impl VersionRow {
    fn into_version(self) -> TableVersion {
        let origin =
            if self.origin == Origin::Catalog.as_str() { Origin::Catalog } else { Origin::Foreign };
        TableVersion {
            manifest: ManifestEntry {
                version: from_sql(self.version),
                path: self.manifest_path,
                size_bytes: self.manifest_size.map(from_sql),
                e_tag: self.e_tag,
                naming_scheme: NamingScheme::from_stored(&self.naming_scheme),
                modified_at_us: self.committed_at_us,
            },
            origin,
            operation: self.operation,
            transaction_id: self.transaction_id,
            committed_by: self.committed_by,
            committed_at_us: self.committed_at_us,
        }
    }
}

/// In which order a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// The newest version that the catalog knows.
pub async fn find_latest(tx: &mut Tx, table: Uuid) -> Result<Option<TableVersion>> {
    const SQL: &str = "SELECT version, manifest_path, manifest_size, e_tag, naming_scheme, origin, \
        operation, transaction_id, committed_by, committed_at_us FROM table_versions \
        WHERE table_id = $1 AND branch = $2 ORDER BY version DESC LIMIT 1";
    let row = run!(tx, |c| sqlx::query_as::<_, VersionRow>(SQL)
        .bind(table)
        .bind(MAIN_BRANCH)
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "reading a version"))?;
    Ok(row.map(VersionRow::into_version))
}

pub async fn find_version(tx: &mut Tx, table: Uuid, version: u64) -> Result<Option<TableVersion>> {
    const SQL: &str = "SELECT version, manifest_path, manifest_size, e_tag, naming_scheme, origin, \
        operation, transaction_id, committed_by, committed_at_us FROM table_versions \
        WHERE table_id = $1 AND branch = $2 AND version = $3";
    let row = run!(tx, |c| sqlx::query_as::<_, VersionRow>(SQL)
        .bind(table)
        .bind(MAIN_BRANCH)
        .bind(to_sql(version))
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "reading a version"))?;
    Ok(row.map(VersionRow::into_version))
}

/// A page of versions; the page's key is the version number.
pub async fn list_versions(
    tx: &mut Tx,
    table: Uuid,
    order: Order,
    after: Option<u64>,
    page: &Page,
) -> Result<Vec<TableVersion>> {
    const UP: &str = "SELECT version, manifest_path, manifest_size, e_tag, naming_scheme, origin, \
        operation, transaction_id, committed_by, committed_at_us FROM table_versions \
        WHERE table_id = $1 AND branch = $2 AND version > $3 ORDER BY version LIMIT $4";
    const DOWN: &str = "SELECT version, manifest_path, manifest_size, e_tag, naming_scheme, origin, \
        operation, transaction_id, committed_by, committed_at_us FROM table_versions \
        WHERE table_id = $1 AND branch = $2 AND version < $3 ORDER BY version DESC LIMIT $4";
    let (sql, start) = match order {
        Order::OldestFirst => (UP, -1),
        Order::NewestFirst => (DOWN, i64::MAX),
    };
    let rows = run!(tx, |c| sqlx::query_as::<_, VersionRow>(sql)
        .bind(table)
        .bind(MAIN_BRANCH)
        .bind(after.map_or(start, to_sql))
        .bind(page.fetch_limit())
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing versions"))?;
    Ok(rows.into_iter().map(VersionRow::into_version).collect())
}

/// Records a version. What this server committed wins over what a reader adopted a moment before,
/// because only the committer knows who did it; a second adoption changes nothing.
pub async fn insert_version(tx: &mut Tx, table: Uuid, version: &TableVersion) -> Result<()> {
    const SQL: &str = "INSERT INTO table_versions (table_id, branch, version, manifest_path, \
        manifest_size, e_tag, naming_scheme, origin, operation, transaction_id, committed_by, \
        committed_at_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
        ON CONFLICT (table_id, branch, version) DO UPDATE SET origin = excluded.origin, \
        operation = excluded.operation, transaction_id = excluded.transaction_id, \
        committed_by = excluded.committed_by, committed_at_us = excluded.committed_at_us \
        WHERE excluded.origin = 'catalog' AND table_versions.origin = 'foreign'";
    let manifest = &version.manifest;
    run!(tx, |c| sqlx::query(SQL)
        .bind(table)
        .bind(MAIN_BRANCH)
        .bind(to_sql(manifest.version))
        .bind(&manifest.path)
        .bind(manifest.size_bytes.map(to_sql))
        .bind(&manifest.e_tag)
        .bind(manifest.naming_scheme.as_str())
        .bind(version.origin.as_str())
        .bind(&version.operation)
        .bind(&version.transaction_id)
        .bind(&version.committed_by)
        .bind(version.committed_at_us)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "recording a version"))
}

/// Forgets a version whose manifest is gone from storage, such as one that a clean-up removed.
pub async fn delete_version(tx: &mut Tx, table: Uuid, version: u64) -> Result<()> {
    const SQL: &str =
        "DELETE FROM table_versions WHERE table_id = $1 AND branch = $2 AND version = $3";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table)
        .bind(MAIN_BRANCH)
        .bind(to_sql(version))
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "forgetting a version"))
}
