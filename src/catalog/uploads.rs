//! Uploads: data that was written and not yet committed.

use uuid::Uuid;

use super::dropped::NOWHERE;
use super::{Tx, failed, from_json, from_sql, is_foreign_key_violation, run, to_json, to_sql};
use crate::catalog::tables::find_table_by_key;
use crate::error::{Error, Result};
use crate::model::{
    Branch, MultipartState, Page, Part, Staged, Table, Upload, UploadKind, UploadState,
};

#[derive(sqlx::FromRow)]
struct UploadRow {
    upload_id: Uuid,
    table_id: Uuid,
    branch: String,
    kind: String,
    state: String,
    read_version: i64,
    fragments: String,
    schema_pb: Vec<u8>,
    stable_row_ids: bool,
    session_id: Option<Uuid>,
    part_id: Option<String>,
    num_rows: i64,
    num_bytes: i64,
    created_by: String,
    created_at_us: i64,
    expires_at_us: i64,
}

impl UploadRow {
    fn into_upload(self) -> Result<Upload> {
        let kind = if self.kind == UploadKind::Columns.as_str() {
            UploadKind::Columns
        } else {
            UploadKind::Fragments
        };
        let state = UploadState::from_stored(&self.state).unwrap_or(UploadState::Writing);
        Ok(Upload {
            key: self.upload_id,
            table_key: self.table_id,
            branch: Branch::from_stored(self.branch),
            kind,
            state,
            part: self.session_id.map(|session| Part { session, name: self.part_id }),
            read_version: from_sql(self.read_version),
            staged: Staged {
                fragments: from_json(&self.fragments)?,
                schema: self.schema_pb,
                num_rows: from_sql(self.num_rows),
                num_bytes: from_sql(self.num_bytes),
                stable_row_ids: self.stable_row_ids,
            },
            created_by: self.created_by,
            created_at_us: self.created_at_us,
            expires_at_us: self.expires_at_us,
        })
    }
}

/// Notes an upload whose body is about to be received.
pub async fn insert_upload(tx: &mut Tx, upload: &Upload) -> Result<()> {
    const SQL: &str = "INSERT INTO uploads (upload_id, table_id, kind, state, read_version, \
        fragments, schema_pb, stable_row_ids, num_rows, num_bytes, created_by, created_at_us, \
        expires_at_us, branch, session_id, part_id) \
        SELECT $1, table_id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16 \
        FROM tables WHERE table_id = $2 AND namespace_id <> $17";
    let fragments = to_json(&upload.staged.fragments)?;
    let noted = run!(tx, |c| sqlx::query(SQL)
        .bind(upload.key)
        .bind(upload.table_key)
        .bind(upload.kind.as_str())
        .bind(upload.state.as_str())
        .bind(to_sql(upload.read_version))
        .bind(&fragments)
        .bind(&upload.staged.schema)
        .bind(upload.staged.stable_row_ids)
        .bind(to_sql(upload.staged.num_rows))
        .bind(to_sql(upload.staged.num_bytes))
        .bind(&upload.created_by)
        .bind(upload.created_at_us)
        .bind(upload.expires_at_us)
        .bind(upload.branch.as_str())
        .bind(upload.part.as_ref().map(|part| part.session))
        .bind(upload.part.as_ref().and_then(|part| part.name.as_deref()))
        .bind(NOWHERE)
        .execute(c)
        .await
        .map(|done| done.rows_affected()));
    match noted {
        Ok(0) => Err(Error::InvalidTableState("the table was dropped meanwhile".into())),
        Err(error) if is_foreign_key_violation(&error) => {
            Err(Error::InvalidTableState("the table was dropped meanwhile".into()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(failed(error, "noting an upload")),
    }
}

/// Notes a data file of an upload before its first byte is written.
pub async fn insert_upload_file(tx: &mut Tx, upload: Uuid, path: &str) -> Result<()> {
    const SQL: &str =
        "INSERT INTO upload_files (upload_id, path) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    run!(tx, |c| sqlx::query(SQL).bind(upload).bind(path).execute(c).await.map(drop)).map_err(
        |error| {
            if is_foreign_key_violation(&error) {
                return Error::InvalidTableState(
                    "the upload expired, or its table was dropped, while it was received".into(),
                );
            }
            failed(error, "noting a file of an upload")
        },
    )
}

/// Notes that all of an upload stands in storage. Answers whether the upload was still there: it
/// is not when it was aborted, or its table dropped, while its body was being received.
pub async fn stage_upload(tx: &mut Tx, upload: Uuid, staged: &Staged) -> Result<bool> {
    const SQL: &str = "UPDATE uploads SET state = $2, fragments = $3, schema_pb = $4, \
        stable_row_ids = $5, num_rows = $6, num_bytes = $7 WHERE upload_id = $1 AND state = $8";
    let fragments = to_json(&staged.fragments)?;
    run!(tx, |c| sqlx::query(SQL)
        .bind(upload)
        .bind(UploadState::Staged.as_str())
        .bind(&fragments)
        .bind(&staged.schema)
        .bind(staged.stable_row_ids)
        .bind(to_sql(staged.num_rows))
        .bind(to_sql(staged.num_bytes))
        .bind(UploadState::Writing.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "staging an upload"))
}

/// Gives an upload to the commit that has the transaction id `claim`: one that is staged, one that
/// it has already (a retry), or one whose claim is from before `stale_us` (its commit is dead).
/// Answers whether it got it.
pub async fn claim_upload(
    tx: &mut Tx,
    upload: Uuid,
    claim: &str,
    now_us: i64,
    stale_us: i64,
) -> Result<bool> {
    const SQL: &str = "UPDATE uploads SET state = $2, claim = $3, claimed_at_us = $4 \
        WHERE upload_id = $1 AND (state = $5 \
        OR (state = $2 AND (claim = $3 OR claimed_at_us <= $6)))";
    run!(tx, |c| sqlx::query(SQL)
        .bind(upload)
        .bind(UploadState::Committing.as_str())
        .bind(claim)
        .bind(now_us)
        .bind(UploadState::Staged.as_str())
        .bind(stale_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "claiming an upload"))
}

/// Gives a sign of life for all uploads of a claim. Answers how many it has still.
pub async fn renew_claim(tx: &mut Tx, claim: &str, now_us: i64) -> Result<u64> {
    const SQL: &str = "UPDATE uploads SET claimed_at_us = $2 WHERE claim = $1 AND state = $3";
    run!(tx, |c| sqlx::query(SQL)
        .bind(claim)
        .bind(now_us)
        .bind(UploadState::Committing.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(|error| failed(error, "renewing a claim"))
}

/// Ends a claim: its uploads are committed, or staged again.
pub async fn end_claim(tx: &mut Tx, claim: &str, to: UploadState) -> Result<()> {
    const SQL: &str = "UPDATE uploads SET state = $2, claim = NULL, claimed_at_us = NULL \
        WHERE claim = $1 AND state = $3";
    run!(tx, |c| sqlx::query(SQL)
        .bind(claim)
        .bind(to.as_str())
        .bind(UploadState::Committing.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "ending a claim"))
}

/// Forgets the uploads of a claim: they are committed, and nobody will ask for them.
pub async fn delete_claimed(tx: &mut Tx, claim: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM uploads WHERE claim = $1 AND state = $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(claim)
        .bind(UploadState::Committing.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "forgetting the uploads of a commit"))
}

/// Takes an upload away from whoever would commit it, unless its state changed meanwhile or a
/// commit claimed it after `stale_us`. Answers whether that succeeded.
pub async fn condemn_upload(
    tx: &mut Tx,
    upload: Uuid,
    from: UploadState,
    stale_us: i64,
) -> Result<bool> {
    const SQL: &str = "UPDATE uploads SET state = $3 WHERE upload_id = $1 AND state = $2 \
        AND (claimed_at_us IS NULL OR claimed_at_us <= $4)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(upload)
        .bind(from.as_str())
        .bind(UploadState::Removing.as_str())
        .bind(stale_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "condemning an upload"))
}

/// The upload of a table that wrote the data file `path`, if it was one.
pub async fn find_upload_of_file(tx: &mut Tx, table: Uuid, path: &str) -> Result<Option<Uuid>> {
    const SQL: &str = "SELECT u.upload_id FROM upload_files f \
        JOIN uploads u ON u.upload_id = f.upload_id WHERE f.path = $1 AND u.table_id = $2 LIMIT 1";
    run!(tx, |c| sqlx::query_scalar::<_, Uuid>(SQL).bind(path).bind(table).fetch_optional(c).await)
        .map_err(|error| failed(error, "looking for the upload of a file"))
}

/// Moves an upload from one state to another. Answers whether it was in the first: of two who
/// want the same upload, a commit and an abort for example, one gets it.
pub async fn move_upload(
    tx: &mut Tx,
    upload: Uuid,
    from: UploadState,
    to: UploadState,
) -> Result<bool> {
    const SQL: &str = "UPDATE uploads SET state = $3 WHERE upload_id = $1 AND state = $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(upload)
        .bind(from.as_str())
        .bind(to.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "moving an upload"))
}

pub async fn find_upload(tx: &mut Tx, upload: Uuid) -> Result<Option<Upload>> {
    const SQL: &str = "SELECT upload_id, table_id, branch, kind, state, read_version, fragments, \
        schema_pb, stable_row_ids, session_id, part_id, num_rows, num_bytes, created_by, \
        created_at_us, expires_at_us FROM uploads WHERE upload_id = $1";
    run!(tx, |c| sqlx::query_as::<_, UploadRow>(SQL).bind(upload).fetch_optional(c).await)
        .map_err(|error| failed(error, "reading an upload"))?
        .map(UploadRow::into_upload)
        .transpose()
}

/// A table's uploads, oldest first; the page's key is the upload id.
pub async fn list_uploads(
    tx: &mut Tx,
    table: Uuid,
    after: Uuid,
    page: &Page,
) -> Result<Vec<Upload>> {
    const SQL: &str = "SELECT upload_id, table_id, branch, kind, state, read_version, fragments, \
        schema_pb, stable_row_ids, session_id, part_id, num_rows, num_bytes, created_by, \
        created_at_us, expires_at_us FROM uploads WHERE table_id = $1 AND upload_id > $2 AND state <> $3 \
        ORDER BY upload_id LIMIT $4";
    run!(tx, |c| sqlx::query_as::<_, UploadRow>(SQL)
        .bind(table)
        .bind(after)
        .bind(UploadState::Committed.as_str())
        .bind(page.fetch_limit())
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing uploads"))?
    .into_iter()
    .map(UploadRow::into_upload)
    .collect()
}

pub async fn list_upload_files(tx: &mut Tx, upload: Uuid) -> Result<Vec<String>> {
    const SQL: &str = "SELECT path FROM upload_files WHERE upload_id = $1 ORDER BY path";
    run!(tx, |c| sqlx::query_scalar::<_, String>(SQL).bind(upload).fetch_all(c).await)
        .map_err(|error| failed(error, "listing the files of an upload"))
}

/// Forgets an upload and the names of its files.
pub async fn delete_upload(tx: &mut Tx, upload: Uuid) -> Result<()> {
    const SQL: &str = "DELETE FROM uploads WHERE upload_id = $1";
    run!(tx, |c| sqlx::query(SQL).bind(upload).execute(c).await.map(drop))
        .map_err(|error| failed(error, "removing an upload"))
}

/// Forgets the uploads to a branch, and the names of their files.
pub async fn delete_uploads(tx: &mut Tx, table: &Table) -> Result<()> {
    const SQL: &str = "DELETE FROM uploads WHERE table_id = $1 AND branch = $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "removing the uploads to a branch"))
}

/// Some uploads whose time is over, each with its table, in pages that go by expiry and key; none
/// that a commit claimed after `stale_us`, and no part of a multipart write that still takes parts:
/// it would lose one unnoticed.
pub async fn list_expired(
    tx: &mut Tx,
    now_us: i64,
    stale_us: i64,
    after: (i64, Uuid),
    limit: i64,
) -> Result<Vec<(Upload, Table)>> {
    const SQL: &str = "SELECT upload_id, table_id, branch, kind, state, read_version, fragments, \
        schema_pb, stable_row_ids, session_id, part_id, num_rows, num_bytes, created_by, \
        created_at_us, expires_at_us FROM uploads WHERE expires_at_us <= $1 \
        AND (claimed_at_us IS NULL OR claimed_at_us <= $2) \
        AND NOT EXISTS (SELECT 1 FROM multipart_writes m \
        WHERE m.session_id = uploads.session_id AND m.state = $4 AND m.expires_at_us > $1) \
        AND (expires_at_us > $5 OR (expires_at_us = $5 AND upload_id > $6)) \
        ORDER BY expires_at_us, upload_id LIMIT $3";
    let rows = run!(&mut *tx, |c| sqlx::query_as::<_, UploadRow>(SQL)
        .bind(now_us)
        .bind(stale_us)
        .bind(limit)
        .bind(MultipartState::Open.as_str())
        .bind(after.0)
        .bind(after.1)
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing uploads"))?;
    let mut expired = Vec::new();
    for row in rows {
        let upload = row.into_upload()?;
        if let Some(table) = find_table_by_key(tx, upload.table_key).await? {
            let table = Table { branch: upload.branch.clone(), ..table };
            expired.push((upload, table));
        }
    }
    Ok(expired)
}
