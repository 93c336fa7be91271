//! Keys and grants: who calls, and what they may do.

use uuid::Uuid;

use super::dropped::NOWHERE;
use super::events::insert_event;
use super::tables::table_id;
use super::{Tx, failed, is_foreign_key_violation, run};
use crate::error::{Error, Result};
use crate::model::{
    ApiKey, Caller, Event, EventKind, Grant, Namespace, NamespaceId, Object, Page, Role, Table,
};

/// What [`Tx`]s see of keys and grants changes with this number. 0 before the first of them.
pub async fn epoch(tx: &mut Tx) -> Result<i64> {
    const SQL: &str = "SELECT epoch FROM access_epoch";
    let epoch = run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL).fetch_optional(c).await);
    epoch.map(Option::unwrap_or_default).map_err(|error| failed(error, "reading grants"))
}

/// To be called by whatever changes keys or grants.
async fn count_up(tx: &mut Tx) -> Result<()> {
    const SQL: &str = "INSERT INTO access_epoch (id, epoch) VALUES (1, 1) \
        ON CONFLICT (id) DO UPDATE SET epoch = access_epoch.epoch + 1";
    run!(tx, |c| sqlx::query(SQL).execute(c).await.map(drop))
        .map_err(|error| failed(error, "changing grants"))
}

/// To be called before a table goes or gets another name: grants are known by names.
pub(super) async fn table_moves(tx: &mut Tx, table: Uuid) -> Result<()> {
    const SQL: &str = "SELECT COUNT(*) FROM table_grants WHERE table_id = $1";
    let grants = run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL).bind(table).fetch_one(c).await);
    match grants.map_err(|error| failed(error, "reading grants"))? {
        0 => Ok(()),
        _ => count_up(tx).await,
    }
}

/// As [`table_moves`], of a namespace.
pub(super) async fn namespace_moves(tx: &mut Tx, namespace: Uuid) -> Result<()> {
    const SQL: &str = "SELECT COUNT(*) FROM namespace_grants WHERE namespace_id = $1";
    let grants = run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL).bind(namespace).fetch_one(c).await);
    match grants.map_err(|error| failed(error, "reading grants"))? {
        0 => Ok(()),
        _ => count_up(tx).await,
    }
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    key_id: String,
    principal: String,
    secret_hash: String,
    description: String,
    created_by: String,
    created_at_us: i64,
    expires_at_us: Option<i64>,
    last_used_us: Option<i64>,
}

impl From<KeyRow> for ApiKey {
    fn from(row: KeyRow) -> Self {
        Self {
            id: row.key_id,
            principal: row.principal,
            secret_hash: row.secret_hash,
            description: row.description,
            created_by: row.created_by,
            created_at_us: row.created_at_us,
            expires_at_us: row.expires_at_us,
            last_used_us: row.last_used_us,
        }
    }
}

pub async fn insert_key(tx: &mut Tx, key: &ApiKey) -> Result<()> {
    const SQL: &str = "INSERT INTO api_keys (key_id, principal, secret_hash, description, \
        created_by, created_at_us, expires_at_us) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(&key.id)
        .bind(&key.principal)
        .bind(&key.secret_hash)
        .bind(&key.description)
        .bind(&key.created_by)
        .bind(key.created_at_us)
        .bind(key.expires_at_us)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "making a key"))?;
    count_up(tx).await
}

/// A page of the keys, or all of them.
pub async fn list_keys(tx: &mut Tx, page: Option<&Page>) -> Result<Vec<ApiKey>> {
    const SQL: &str = "SELECT key_id, principal, secret_hash, description, created_by, \
        created_at_us, expires_at_us, last_used_us FROM api_keys \
        WHERE key_id > $1 ORDER BY key_id LIMIT $2";
    let after = page.and_then(|page| page.after.as_deref()).unwrap_or("");
    let limit = page.map_or(i64::MAX, Page::fetch_limit);
    let rows =
        run!(tx, |c| sqlx::query_as::<_, KeyRow>(SQL).bind(after).bind(limit).fetch_all(c).await);
    let rows = rows.map_err(|error| failed(error, "listing keys"))?;
    Ok(rows.into_iter().map(ApiKey::from).collect())
}

pub async fn find_key(tx: &mut Tx, id: &str) -> Result<Option<ApiKey>> {
    const SQL: &str = "SELECT key_id, principal, secret_hash, description, created_by, \
        created_at_us, expires_at_us, last_used_us FROM api_keys WHERE key_id = $1";
    let row = run!(tx, |c| sqlx::query_as::<_, KeyRow>(SQL).bind(id).fetch_optional(c).await);
    Ok(row.map_err(|error| failed(error, "reading a key"))?.map(ApiKey::from))
}

/// Whether there was such a key.
pub async fn delete_key(tx: &mut Tx, id: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM api_keys WHERE key_id = $1";
    let gone = run!(tx, |c| sqlx::query(SQL)
        .bind(id)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0));
    let gone = gone.map_err(|error| failed(error, "removing a key"))?;
    if gone {
        count_up(tx).await?;
    }
    Ok(gone)
}

/// Lets a key end at this time, if it would go on for longer.
pub async fn expire_key(tx: &mut Tx, id: &str, expires_at_us: i64) -> Result<()> {
    const SQL: &str = "UPDATE api_keys SET expires_at_us = $2 \
        WHERE key_id = $1 AND (expires_at_us IS NULL OR expires_at_us > $2)";
    run!(tx, |c| sqlx::query(SQL).bind(id).bind(expires_at_us).execute(c).await.map(drop))
        .map_err(|error| failed(error, "ending a key"))?;
    count_up(tx).await
}

/// Notes when keys were used last; nobody needs to read them again for that.
pub async fn touch_keys(tx: &mut Tx, used: &[(String, i64)]) -> Result<()> {
    const SQL: &str = "UPDATE api_keys SET last_used_us = $2 \
        WHERE key_id = $1 AND (last_used_us IS NULL OR last_used_us < $2)";
    for (id, used_us) in used {
        run!(tx, |c| sqlx::query(SQL).bind(id).bind(*used_us).execute(c).await.map(drop))
            .map_err(|error| failed(error, "noting the use of a key"))?;
    }
    Ok(())
}

/// What a grant is on, as the catalog knows it.
pub enum Granted {
    Namespace(Namespace),
    Table(Table),
}

/// Gives a role in place of the one that the principal has there, if any.
///
/// # Errors
/// `NamespaceNotFound`, `TableNotFound` when it is gone.
pub async fn put_grant(
    tx: &mut Tx,
    principal: &str,
    on: &Granted,
    role: Role,
    granted_by: &Caller,
    now_us: i64,
) -> Result<()> {
    const NAMESPACE: &str = "INSERT INTO namespace_grants \
        (principal, namespace_id, role, granted_by, granted_at_us) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT (principal, namespace_id) DO UPDATE SET role = excluded.role, \
        granted_by = excluded.granted_by, granted_at_us = excluded.granted_at_us";
    const TABLE: &str = "INSERT INTO table_grants \
        (principal, table_id, role, granted_by, granted_at_us) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT (principal, table_id) DO UPDATE SET role = excluded.role, \
        granted_by = excluded.granted_by, granted_at_us = excluded.granted_at_us";
    let (sql, key) = match on {
        Granted::Namespace(namespace) => (NAMESPACE, namespace.key),
        Granted::Table(table) => (TABLE, table.key),
    };
    let put = run!(&mut *tx, |c| sqlx::query(sql)
        .bind(principal)
        .bind(key)
        .bind(role.as_str())
        .bind(granted_by.name())
        .bind(now_us)
        .execute(c)
        .await
        .map(drop));
    put.map_err(|error| match on {
        _ if !is_foreign_key_violation(&error) => failed(error, "granting a role"),
        Granted::Namespace(namespace) => Error::NamespaceNotFound(namespace.id.clone()),
        Granted::Table(table) => Error::TableNotFound(table.id.clone()),
    })?;
    let object = match on {
        Granted::Namespace(namespace) => Object::Namespace(namespace.id.clone()),
        Granted::Table(table) => Object::Table(table.id.clone()),
    };
    let event = Event::new(EventKind::GrantCreated, object, granted_by, now_us);
    insert_event(tx, event.with("principal", principal).with("role", role.as_str())).await?;
    count_up(tx).await
}

/// Whether the principal had a role there.
pub async fn delete_grant(tx: &mut Tx, principal: &str, on: &Granted) -> Result<bool> {
    const NAMESPACE: &str =
        "DELETE FROM namespace_grants WHERE principal = $1 AND namespace_id = $2";
    const TABLE: &str = "DELETE FROM table_grants WHERE principal = $1 AND table_id = $2";
    let (sql, key) = match on {
        Granted::Namespace(namespace) => (NAMESPACE, namespace.key),
        Granted::Table(table) => (TABLE, table.key),
    };
    let gone = run!(tx, |c| sqlx::query(sql)
        .bind(principal)
        .bind(key)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0));
    let gone = gone.map_err(|error| failed(error, "revoking a role"))?;
    if gone {
        count_up(tx).await?;
    }
    Ok(gone)
}

#[derive(sqlx::FromRow)]
struct GrantRow {
    principal: String,
    path: String,
    name: Option<String>,
    role: String,
    granted_by: String,
    granted_at_us: i64,
}

impl GrantRow {
    fn into_grant(self) -> Result<Grant> {
        let object = match self.name {
            Some(name) => Object::Table(table_id(&self.path, name)?),
            None => Object::Namespace(NamespaceId::from_stored(&self.path)?),
        };
        Ok(Grant {
            principal: self.principal,
            object,
            role: Role::parse(&self.role)?,
            granted_by: self.granted_by,
            granted_at_us: self.granted_at_us,
        })
    }
}

/// All grants, or those of one principal; none on tables that were dropped.
pub async fn list_grants(tx: &mut Tx, principal: Option<&str>) -> Result<Vec<Grant>> {
    const SQL: &str = "SELECT g.principal, n.path, NULL AS name, g.role, g.granted_by, \
        g.granted_at_us FROM namespace_grants g \
        JOIN namespaces n ON n.namespace_id = g.namespace_id \
        WHERE $1 = '' OR g.principal = $1 \
        UNION ALL SELECT g.principal, n.path, t.name, g.role, g.granted_by, g.granted_at_us \
        FROM table_grants g JOIN tables t ON t.table_id = g.table_id \
        JOIN namespaces n ON n.namespace_id = t.namespace_id \
        WHERE t.namespace_id <> $2 AND ($1 = '' OR g.principal = $1)";
    let rows = run!(tx, |c| sqlx::query_as::<_, GrantRow>(SQL)
        .bind(principal.unwrap_or(""))
        .bind(NOWHERE)
        .fetch_all(c)
        .await);
    let rows = rows.map_err(|error| failed(error, "listing grants"))?;
    rows.into_iter().map(GrantRow::into_grant).collect()
}

/// Whether this is the first change of keys and grants. If it is, it counts as one.
pub async fn begin(tx: &mut Tx) -> Result<bool> {
    const SQL: &str = "INSERT INTO access_epoch (id, epoch) VALUES (1, 1) ON CONFLICT DO NOTHING";
    run!(tx, |c| sqlx::query(SQL).execute(c).await.map(|done| done.rows_affected() > 0))
        .map_err(|error| failed(error, "changing grants"))
}
