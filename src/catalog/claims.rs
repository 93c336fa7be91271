//! Which manifest is which version, where the catalog decides that: the row that is there first.

use super::{Tx, failed, from_sql, run, to_sql};
use crate::error::Result;
use crate::model::{ClaimState, ManifestClaim};

#[derive(sqlx::FromRow)]
struct ClaimRow {
    version: i64,
    path: String,
    size_bytes: i64,
    is_final: bool,
}

impl From<ClaimRow> for ManifestClaim {
    fn from(row: ClaimRow) -> Self {
        Self {
            version: from_sql(row.version),
            path: row.path,
            size_bytes: from_sql(row.size_bytes),
            state: if row.is_final { ClaimState::Final } else { ClaimState::Staged },
        }
    }
}

pub async fn find_claim(
    tx: &mut Tx,
    location: &str,
    version: u64,
) -> Result<Option<ManifestClaim>> {
    const SQL: &str = "SELECT version, path, size_bytes, is_final FROM manifest_claims \
        WHERE location = $1 AND version = $2";
    let row = run!(tx, |c| sqlx::query_as::<_, ClaimRow>(SQL)
        .bind(location)
        .bind(to_sql(version))
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "reading who has a version"))?;
    Ok(row.map(ManifestClaim::from))
}

/// That of the newest version.
pub async fn find_latest_claim(tx: &mut Tx, location: &str) -> Result<Option<ManifestClaim>> {
    const SQL: &str = "SELECT version, path, size_bytes, is_final FROM manifest_claims \
        WHERE location = $1 ORDER BY version DESC LIMIT 1";
    let row =
        run!(tx, |c| sqlx::query_as::<_, ClaimRow>(SQL).bind(location).fetch_optional(c).await)
            .map_err(|error| failed(error, "reading who has the newest version"))?;
    Ok(row.map(ManifestClaim::from))
}

/// Those of the versions after `floor`, oldest first.
pub async fn list_claims(tx: &mut Tx, location: &str, floor: u64) -> Result<Vec<ManifestClaim>> {
    const SQL: &str = "SELECT version, path, size_bytes, is_final FROM manifest_claims \
        WHERE location = $1 AND version > $2 ORDER BY version";
    let rows = run!(tx, |c| sqlx::query_as::<_, ClaimRow>(SQL)
        .bind(location)
        .bind(to_sql(floor))
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing who has which version"))?;
    Ok(rows.into_iter().map(ManifestClaim::from).collect())
}

/// Those that are not final, oldest first.
pub async fn list_staged_claims(tx: &mut Tx, location: &str) -> Result<Vec<ManifestClaim>> {
    const SQL: &str = "SELECT version, path, size_bytes, is_final FROM manifest_claims \
        WHERE location = $1 AND NOT is_final ORDER BY version";
    let rows = run!(tx, |c| sqlx::query_as::<_, ClaimRow>(SQL).bind(location).fetch_all(c).await)
        .map_err(|error| failed(error, "listing versions that are not finished"))?;
    Ok(rows.into_iter().map(ManifestClaim::from).collect())
}

/// Those that are not final and were taken before `before_us`, oldest first.
pub async fn list_abandoned_claims(
    tx: &mut Tx,
    location: &str,
    before_us: i64,
) -> Result<Vec<ManifestClaim>> {
    const SQL: &str = "SELECT version, path, size_bytes, is_final FROM manifest_claims \
        WHERE location = $1 AND NOT is_final AND claimed_at_us <= $2 ORDER BY version";
    let rows = run!(tx, |c| sqlx::query_as::<_, ClaimRow>(SQL)
        .bind(location)
        .bind(before_us)
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing versions that are not finished"))?;
    Ok(rows.into_iter().map(ManifestClaim::from).collect())
}

/// Some of the folders, of tables and of branches, with claims that are older than `before_us` and
/// not final still.
pub async fn list_unfinished(tx: &mut Tx, before_us: i64, limit: i64) -> Result<Vec<String>> {
    const SQL: &str = "SELECT DISTINCT location FROM manifest_claims \
        WHERE NOT is_final AND claimed_at_us <= $1 ORDER BY location LIMIT $2";
    run!(tx, |c| sqlx::query_scalar::<_, String>(SQL)
        .bind(before_us)
        .bind(limit)
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing versions that are not finished"))
}

/// Where the manifests stand that have a version and not their final names, in all tables.
pub async fn list_staged_paths(tx: &mut Tx) -> Result<Vec<String>> {
    const SQL: &str = "SELECT path FROM manifest_claims WHERE NOT is_final";
    run!(tx, |c| sqlx::query_scalar::<_, String>(SQL).fetch_all(c).await)
        .map_err(|error| failed(error, "listing versions that are not finished"))
}

/// Takes a version for a manifest. Answers false when the version has one.
pub async fn insert_claim(
    tx: &mut Tx,
    location: &str,
    claim: &ManifestClaim,
    now_us: i64,
) -> Result<bool> {
    const SQL: &str = "INSERT INTO manifest_claims \
        (location, version, path, size_bytes, is_final, claimed_at_us) \
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    run!(tx, |c| sqlx::query(SQL)
        .bind(location)
        .bind(to_sql(claim.version))
        .bind(&claim.path)
        .bind(to_sql(claim.size_bytes))
        .bind(claim.state == ClaimState::Final)
        .bind(now_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "taking a version"))
}

/// Notes that the manifest of a version stands at its final name. Answers false when nobody has the
/// version.
pub async fn finish_claim(tx: &mut Tx, location: &str, claim: &ManifestClaim) -> Result<bool> {
    const SQL: &str = "UPDATE manifest_claims SET path = $3, size_bytes = $4, is_final = $5 \
        WHERE location = $1 AND version = $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(location)
        .bind(to_sql(claim.version))
        .bind(&claim.path)
        .bind(to_sql(claim.size_bytes))
        .bind(claim.state == ClaimState::Final)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "finishing a version"))
}

/// Gives a version back.
pub async fn delete_claim(tx: &mut Tx, location: &str, version: u64) -> Result<()> {
    const SQL: &str = "DELETE FROM manifest_claims WHERE location = $1 AND version = $2";
    run!(tx, |c| sqlx::query(SQL).bind(location).bind(to_sql(version)).execute(c).await.map(drop))
        .map_err(|error| failed(error, "giving a version back"))
}

/// Gives all versions of a folder back, and of the branches that it holds.
pub async fn delete_claims(tx: &mut Tx, location: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM manifest_claims WHERE location = $1 \
        OR (location > $2 AND location < $3)";
    let branches = format!("{}/tree", location.trim_end_matches('/'));
    // All that begins with the folder and a slash: the character after the slash is '0'.
    let (from, to) = (format!("{branches}/"), format!("{branches}0"));
    run!(tx, |c| sqlx::query(SQL).bind(location).bind(&from).bind(&to).execute(c).await.map(drop))
        .map_err(|error| failed(error, "giving the versions of a folder back"))
}
