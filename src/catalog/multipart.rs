//! Multipart writes: parts that many requests bring and one commit makes a version of.

use uuid::Uuid;

use super::dropped::NOWHERE;
use super::{Tx, failed, from_sql, is_foreign_key_violation, run, to_sql};
use crate::error::{Error, Result};
use crate::model::{
    Caller, InsertMode, MultipartState, MultipartWrite, Table, Upload, UploadState,
};

#[derive(sqlx::FromRow)]
struct SessionRow {
    session_id: Uuid,
    state: String,
    mode: Option<String>,
    num_parts: Option<i64>,
    read_version: i64,
    version: Option<i64>,
    expires_at_us: i64,
}

impl From<SessionRow> for MultipartWrite {
    fn from(row: SessionRow) -> Self {
        Self {
            key: row.session_id,
            state: MultipartState::from_stored(&row.state).unwrap_or(MultipartState::Aborted),
            mode: row.mode.as_deref().and_then(InsertMode::from_stored),
            num_parts: row.num_parts.map(from_sql),
            read_version: from_sql(row.read_version),
            version: row.version.map(from_sql),
            expires_at_us: row.expires_at_us,
        }
    }
}

/// Begins a session of the table's branch, which takes parts until `expires_at_us`.
pub async fn insert_session(
    tx: &mut Tx,
    table: &Table,
    session: Uuid,
    caller: &Caller,
    now_us: i64,
    expires_at_us: i64,
) -> Result<()> {
    const SQL: &str = "INSERT INTO multipart_writes (session_id, table_id, branch, state, \
        read_version, created_by, created_at_us, expires_at_us) \
        SELECT $1, table_id, $3, $4, 0, $5, $6, $7 FROM tables \
        WHERE table_id = $2 AND namespace_id <> $8";
    let begun = run!(tx, |c| sqlx::query(SQL)
        .bind(session)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(MultipartState::Open.as_str())
        .bind(caller.name())
        .bind(now_us)
        .bind(expires_at_us)
        .bind(NOWHERE)
        .execute(c)
        .await
        .map(|done| done.rows_affected()));
    match begun {
        Ok(0) => Err(Error::TableNotFound(table.id.clone())),
        Err(error) if is_foreign_key_violation(&error) => {
            Err(Error::TableNotFound(table.id.clone()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(failed(error, "beginning a multipart write")),
    }
}

/// The session, if it is one of the table's branch.
pub async fn find_session(
    tx: &mut Tx,
    table: &Table,
    session: Uuid,
) -> Result<Option<MultipartWrite>> {
    const SQL: &str = "SELECT session_id, state, mode, num_parts, read_version, version, \
        expires_at_us FROM multipart_writes \
        WHERE session_id = $1 AND table_id = $2 AND branch = $3";
    let row = run!(tx, |c| sqlx::query_as::<_, SessionRow>(SQL)
        .bind(session)
        .bind(table.key)
        .bind(table.branch.as_str())
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "reading a multipart write"))?;
    Ok(row.map(MultipartWrite::from))
}

/// Holds a session that takes parts of this mode until the end of the transaction: nobody can
/// complete or abort it before. Answers whether there is one. The first part says the mode.
pub async fn hold_open(
    tx: &mut Tx,
    table: &Table,
    session: Uuid,
    mode: InsertMode,
    now_us: i64,
) -> Result<bool> {
    const SQL: &str = "UPDATE multipart_writes SET mode = $4 \
        WHERE session_id = $1 AND table_id = $2 AND branch = $3 \
        AND (mode IS NULL OR mode = $4) AND state = $5 AND expires_at_us > $6";
    run!(tx, |c| sqlx::query(SQL)
        .bind(session)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(mode.as_str())
        .bind(MultipartState::Open.as_str())
        .bind(now_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "holding a multipart write"))
}

/// Ends the taking of parts, once those that are being staged are. Answers whether the session took
/// parts until now. `read_version` is the newest version of the table.
///
/// What a transaction that was waited for has staged, only a later statement sees.
pub async fn close_session(
    tx: &mut Tx,
    session: Uuid,
    read_version: u64,
    now_us: i64,
) -> Result<bool> {
    const SQL: &str = "UPDATE multipart_writes SET state = $2, read_version = $3 \
        WHERE session_id = $1 AND state = $4 AND expires_at_us > $5";
    run!(tx, |c| sqlx::query(SQL)
        .bind(session)
        .bind(MultipartState::Completing.as_str())
        .bind(to_sql(read_version))
        .bind(MultipartState::Open.as_str())
        .bind(now_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "completing a multipart write"))
}

/// Notes how many parts are to be committed.
pub async fn note_parts(tx: &mut Tx, session: Uuid, num_parts: u64) -> Result<()> {
    const SQL: &str = "UPDATE multipart_writes SET num_parts = $2 WHERE session_id = $1";
    run!(tx, |c| sqlx::query(SQL).bind(session).bind(to_sql(num_parts)).execute(c).await.map(drop))
        .map_err(|error| failed(error, "noting the parts of a multipart write"))
}

/// Moves a session from one state to another. Answers whether it was in the first. With
/// `expires_at_us` its row stays until then.
pub async fn move_session(
    tx: &mut Tx,
    table: &Table,
    session: Uuid,
    from: MultipartState,
    to: MultipartState,
    expires_at_us: Option<i64>,
) -> Result<bool> {
    const SQL: &str = "UPDATE multipart_writes SET state = $5, \
        expires_at_us = COALESCE($6, expires_at_us) \
        WHERE session_id = $1 AND table_id = $2 AND branch = $3 AND state = $4";
    run!(tx, |c| sqlx::query(SQL)
        .bind(session)
        .bind(table.key)
        .bind(table.branch.as_str())
        .bind(from.as_str())
        .bind(to.as_str())
        .bind(expires_at_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "moving a multipart write"))
}

/// Notes the version that the parts of a session became. The row stays until `expires_at_us`.
pub async fn finish_session(
    tx: &mut Tx,
    session: Uuid,
    version: u64,
    expires_at_us: i64,
) -> Result<()> {
    const SQL: &str = "UPDATE multipart_writes SET state = $2, version = $3, expires_at_us = $4 \
        WHERE session_id = $1";
    run!(tx, |c| sqlx::query(SQL)
        .bind(session)
        .bind(MultipartState::Committed.as_str())
        .bind(to_sql(version))
        .bind(expires_at_us)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "finishing a multipart write"))
}

/// The uploads that are whole parts of a session, in the order in which they began.
pub async fn list_parts(tx: &mut Tx, session: Uuid) -> Result<Vec<Uuid>> {
    const SQL: &str = "SELECT upload_id FROM uploads \
        WHERE session_id = $1 AND state IN ($2, $3, $4) ORDER BY upload_id";
    run!(tx, |c| sqlx::query_scalar::<_, Uuid>(SQL)
        .bind(session)
        .bind(UploadState::Staged.as_str())
        .bind(UploadState::Committing.as_str())
        .bind(UploadState::Committed.as_str())
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing the parts of a multipart write"))
}

/// Takes those that came before out of the way of a part that came again, and answers them. The
/// session must be held.
pub async fn replace_part(tx: &mut Tx, newer: &Upload, now_us: i64) -> Result<Vec<Uuid>> {
    const SQL: &str = "UPDATE uploads SET state = $4, expires_at_us = $6 \
        WHERE session_id = $1 AND part_id = $2 AND upload_id <> $3 AND state = $5 \
        RETURNING upload_id";
    let Some((part, name)) =
        newer.part.as_ref().and_then(|part| Some((part, part.name.as_deref()?)))
    else {
        return Ok(Vec::new());
    };
    run!(tx, |c| sqlx::query_scalar::<_, Uuid>(SQL)
        .bind(part.session)
        .bind(name)
        .bind(newer.key)
        .bind(UploadState::Removing.as_str())
        .bind(UploadState::Staged.as_str())
        .bind(now_us)
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "replacing a part of a multipart write"))
}

/// Ends the sessions whose time is over, and the time of the parts of all that came to nothing.
/// Their rows stay until `keep_until_us`.
pub async fn expire_sessions(tx: &mut Tx, now_us: i64, keep_until_us: i64) -> Result<()> {
    const SESSIONS: &str = "UPDATE multipart_writes SET state = $1, expires_at_us = $2 \
        WHERE state = $3 AND expires_at_us <= $4";
    const PARTS: &str = "UPDATE uploads SET expires_at_us = $1 \
        WHERE state = $2 AND expires_at_us > $1 AND session_id IN \
        (SELECT session_id FROM multipart_writes WHERE state = $3)";
    run!(&mut *tx, |c| sqlx::query(SESSIONS)
        .bind(MultipartState::Aborted.as_str())
        .bind(keep_until_us)
        .bind(MultipartState::Open.as_str())
        .bind(now_us)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "ending multipart writes"))?;
    run!(tx, |c| sqlx::query(PARTS)
        .bind(now_us)
        .bind(UploadState::Staged.as_str())
        .bind(MultipartState::Aborted.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "ending the parts of multipart writes"))
}

/// Forgets the sessions that are over and that nobody will ask about any more, and those whose
/// commit nobody brought to an end until `stale_us`: what became of their parts each of them says.
pub async fn delete_finished(tx: &mut Tx, now_us: i64, stale_us: i64) -> Result<()> {
    const SQL: &str = "DELETE FROM multipart_writes \
        WHERE (state IN ($1, $2) AND expires_at_us <= $3) \
        OR (state = $4 AND expires_at_us <= $5)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(MultipartState::Committed.as_str())
        .bind(MultipartState::Aborted.as_str())
        .bind(now_us)
        .bind(MultipartState::Completing.as_str())
        .bind(stale_us)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "forgetting multipart writes"))
}

/// Forgets the sessions of a branch.
pub async fn delete_sessions(tx: &mut Tx, table: &Table) -> Result<()> {
    const SQL: &str = "DELETE FROM multipart_writes WHERE table_id = $1 AND branch = $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(table.branch.as_str())
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "removing the multipart writes of a branch"))
}
