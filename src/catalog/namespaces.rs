//! Namespaces: rows with a path from the root.

use uuid::Uuid;

use super::events::insert_event;
use super::{
    Tx, access, dropped, failed, is_foreign_key_violation, is_unique_violation, protection, run,
};
use crate::error::{Error, Result};
use crate::model::{
    Caller, Event, EventKind, Name, Namespace, NamespaceId, Object, Page, Properties,
};

#[derive(sqlx::FromRow)]
struct NamespaceRow {
    namespace_id: Uuid,
    path: String,
    properties: String,
    deletion_protection: bool,
}

impl NamespaceRow {
    fn into_namespace(self) -> Result<Namespace> {
        Ok(Namespace {
            key: self.namespace_id,
            id: NamespaceId::from_stored(&self.path)?,
            properties: protection::join(&self.properties, self.deletion_protection)?,
        })
    }
}

/// Makes what this database does not have yet: the root, and the place where dropped tables stand.
pub async fn ensure_first(tx: &mut Tx, now_us: i64) -> Result<()> {
    const SQL: &str = "INSERT INTO namespaces (namespace_id, parent_id, path, name, properties, \
        deletion_protection, created_by, created_at_us) \
        VALUES ($1, NULL, $4, '', '{}', FALSE, $2, $3) ON CONFLICT DO NOTHING";
    for (key, path) in [(Uuid::nil(), ""), (dropped::NOWHERE, dropped::PATH)] {
        run!(&mut *tx, |c| sqlx::query(SQL)
            .bind(key)
            .bind(Caller::server().name())
            .bind(now_us)
            .bind(path)
            .execute(c)
            .await
            .map(drop))
        .map_err(|error| failed(error, "making the first namespaces"))?;
    }
    Ok(())
}

pub async fn find_namespace(tx: &mut Tx, id: &NamespaceId) -> Result<Option<Namespace>> {
    const SQL: &str = "SELECT namespace_id, path, properties, deletion_protection \
        FROM namespaces WHERE path = $1";
    run!(tx, |c| sqlx::query_as::<_, NamespaceRow>(SQL)
        .bind(id.to_stored())
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "reading a namespace"))?
    .map(NamespaceRow::into_namespace)
    .transpose()
}

/// # Errors
/// `NamespaceNotFound`.
pub async fn get_namespace(tx: &mut Tx, id: &NamespaceId) -> Result<Namespace> {
    find_namespace(tx, id).await?.ok_or_else(|| Error::NamespaceNotFound(id.clone()))
}

/// The names of the children, in order, one more than the page to see whether another follows.
pub async fn list_namespaces(tx: &mut Tx, parent: Uuid, page: &Page) -> Result<Vec<String>> {
    const SQL: &str = "SELECT name FROM namespaces \
        WHERE parent_id = $1 AND name > $2 ORDER BY name LIMIT $3";
    run!(tx, |c| sqlx::query_scalar::<_, String>(SQL)
        .bind(parent)
        .bind(page.after.as_deref().unwrap_or(""))
        .bind(page.fetch_limit())
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing namespaces"))
}

/// # Errors
/// `NamespaceAlreadyExists`; `NamespaceNotFound` when the parent went away meanwhile.
pub async fn insert_namespace(
    tx: &mut Tx,
    parent: &Namespace,
    id: &NamespaceId,
    name: &Name,
    properties: &Properties,
    caller: &Caller,
    now_us: i64,
) -> Result<()> {
    const SQL: &str = "INSERT INTO namespaces \
        (namespace_id, parent_id, path, name, properties, created_by, created_at_us, \
        deletion_protection) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let (properties, protection) = protection::split(properties)?;
    let inserted = run!(&mut *tx, |c| sqlx::query(SQL)
        .bind(Uuid::now_v7())
        .bind(parent.key)
        .bind(id.to_stored())
        .bind(name.as_str())
        .bind(&properties)
        .bind(caller.name())
        .bind(now_us)
        .bind(protection)
        .execute(c)
        .await
        .map(drop));
    inserted.map_err(|error| {
        if is_unique_violation(&error) {
            Error::NamespaceAlreadyExists(id.clone())
        } else if is_foreign_key_violation(&error) {
            Error::NamespaceNotFound(parent.id.clone())
        } else {
            failed(error, "making a namespace")
        }
    })?;
    let object = Object::Namespace(id.clone());
    insert_event(tx, Event::new(EventKind::NamespaceCreated, object, caller, now_us)).await
}

/// # Errors
/// `NamespaceNotEmpty` when a table or a namespace stands in it, `NamespaceNotFound` when it is
/// gone already, `InvalidTableState` for one that is protected.
pub async fn delete_namespace(tx: &mut Tx, namespace: &Namespace) -> Result<()> {
    const SQL: &str = "DELETE FROM namespaces WHERE namespace_id = $1 AND NOT deletion_protection";
    access::namespace_moves(tx, namespace.key).await?;
    let deleted = run!(&mut *tx, |c| sqlx::query(SQL)
        .bind(namespace.key)
        .execute(c)
        .await
        .map(|done| done.rows_affected()));
    match deleted {
        Ok(0) => {
            protection::ensure_namespace_unprotected(tx, namespace).await?;
            Err(Error::NamespaceNotFound(namespace.id.clone()))
        }
        Ok(_) => Ok(()),
        Err(error) if is_foreign_key_violation(&error) => {
            Err(Error::NamespaceNotEmpty(namespace.id.clone()))
        }
        Err(error) => Err(failed(error, "dropping a namespace")),
    }
}

/// The namespaces under `id`, deepest first, so that each can be deleted in turn.
pub async fn list_descendants(tx: &mut Tx, id: &NamespaceId) -> Result<Vec<Namespace>> {
    const SQL: &str = "SELECT namespace_id, path, properties, deletion_protection FROM namespaces \
        WHERE path > $1 AND path < $2 ORDER BY path DESC";
    let (first, end) = id.stored_range();
    run!(tx, |c| sqlx::query_as::<_, NamespaceRow>(SQL).bind(&first).bind(&end).fetch_all(c).await)
        .map_err(|error| failed(error, "listing namespaces"))?
        .into_iter()
        .map(NamespaceRow::into_namespace)
        .collect()
}
