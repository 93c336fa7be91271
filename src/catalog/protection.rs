//! Protection from deletion: a column of namespaces and of tables, which callers see and set as a
//! property.

use uuid::Uuid;

use super::{Tx, failed, from_json, run, to_json};
use crate::error::{Error, Result};
use crate::model::{
    Caller, DELETION_PROTECTION, Namespace, NamespaceId, Properties, Table, TableId, protection_of,
};

/// The properties of something that is stored, with the one that the column stands for.
pub(super) fn join(stored: &str, is_protected: bool) -> Result<Properties> {
    let mut properties: Properties = from_json(stored)?;
    if is_protected {
        properties.insert(DELETION_PROTECTION.into(), "true".into());
    }
    Ok(properties)
}

/// Properties as they are stored, and the column.
///
/// # Errors
/// `InvalidInput` for a value that the column does not have.
pub(super) fn split(properties: &Properties) -> Result<(String, bool)> {
    let Some(is_protected) = protection_of(properties)? else {
        return Ok((to_json(properties)?, false));
    };
    let mut others = properties.clone();
    others.remove(DELETION_PROTECTION);
    Ok((to_json(&others)?, is_protected))
}

/// # Errors
/// `TableNotFound`.
pub async fn protect_table(
    tx: &mut Tx,
    id: &TableId,
    is_protected: bool,
    caller: &Caller,
    now_us: i64,
) -> Result<()> {
    const SQL: &str = "UPDATE tables SET deletion_protection = $3, updated_by = $4, \
        updated_at_us = $5 WHERE name = $2 \
        AND namespace_id = (SELECT n.namespace_id FROM namespaces n WHERE n.path = $1)";
    let found = run!(tx, |c| sqlx::query(SQL)
        .bind(id.namespace.to_stored())
        .bind(id.name.as_str())
        .bind(is_protected)
        .bind(caller.name())
        .bind(now_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0));
    match found.map_err(|error| failed(error, "protecting a table"))? {
        true => Ok(()),
        false => Err(Error::TableNotFound(id.clone())),
    }
}

/// # Errors
/// `NamespaceNotFound`.
pub async fn protect_namespace(tx: &mut Tx, id: &NamespaceId, is_protected: bool) -> Result<()> {
    const SQL: &str = "UPDATE namespaces SET deletion_protection = $2 WHERE path = $1";
    let found = run!(tx, |c| sqlx::query(SQL)
        .bind(id.to_stored())
        .bind(is_protected)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0));
    match found.map_err(|error| failed(error, "protecting a namespace"))? {
        true => Ok(()),
        false => Err(Error::NamespaceNotFound(id.clone())),
    }
}

/// # Errors
/// `InvalidTableState` for a table that is protected.
pub async fn ensure_table_unprotected(tx: &mut Tx, table: &Table) -> Result<()> {
    const SQL: &str = "SELECT deletion_protection FROM tables WHERE table_id = $1";
    match is_protected(tx, SQL, table.key).await? {
        true => Err(refused("table", &table.id.to_string(), "ProtectTable")),
        false => Ok(()),
    }
}

/// # Errors
/// `InvalidTableState` for a namespace that is protected.
pub(super) async fn ensure_namespace_unprotected(tx: &mut Tx, namespace: &Namespace) -> Result<()> {
    const SQL: &str = "SELECT deletion_protection FROM namespaces WHERE namespace_id = $1";
    match is_protected(tx, SQL, namespace.key).await? {
        true => Err(refused("namespace", &namespace.id.to_string(), "ProtectNamespace")),
        false => Ok(()),
    }
}

/// Whether something is there and protected.
async fn is_protected(tx: &mut Tx, sql: &'static str, key: Uuid) -> Result<bool> {
    run!(tx, |c| sqlx::query_scalar::<_, bool>(sql).bind(key).fetch_optional(c).await)
        .map(Option::unwrap_or_default)
        .map_err(|error| failed(error, "looking for a protection"))
}

fn refused(what: &str, id: &str, operation: &str) -> Error {
    Error::InvalidTableState(format!(
        "{what} '{id}' is protected from deletion: whoever manages it lifts that with {operation} and \
         {{\"{DELETION_PROTECTION}\": false}}"
    ))
}
