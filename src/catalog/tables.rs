//! Tables: a name in a namespace, and where the dataset stands.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::dropped::NOWHERE;
use super::events::insert_event;
use super::{
    Catalog, Tx, access, dialect, failed, is_foreign_key_violation, is_unique_violation,
    protection, run,
};
use crate::error::{Error, Result};
use crate::model::{
    Branch, Caller, Event, EventKind, Name, Namespace, NamespaceId, Object, Origin, Page,
    Properties, Table, TableId, TableState,
};

#[derive(sqlx::FromRow)]
pub(super) struct TableRow {
    path: String,
    name: String,
    #[sqlx(flatten)]
    rest: NamelessRow,
}

/// What a table has besides its name.
#[derive(sqlx::FromRow)]
struct NamelessRow {
    table_id: Uuid,
    location: String,
    state: String,
    origin: String,
    properties: String,
    deletion_protection: bool,
}

/// The identifier of a table, of its namespace's stored path and its name.
pub(super) fn table_id(path: &str, name: String) -> Result<TableId> {
    Ok(TableId { namespace: NamespaceId::from_stored(path)?, name: Name::new(name)? })
}

impl TableRow {
    pub(super) fn into_table(self) -> Result<Table> {
        self.rest.named(table_id(&self.path, self.name)?)
    }
}

impl NamelessRow {
    /// The columns of [`FIND`].
    fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            table_id: Uuid::from_bytes(row.get(0)?),
            location: row.get(1)?,
            state: row.get(2)?,
            origin: row.get(3)?,
            properties: row.get(4)?,
            deletion_protection: row.get(5)?,
        })
    }

    fn named(self, id: TableId) -> Result<Table> {
        let state = if self.state == TableState::Created.as_str() {
            TableState::Created
        } else {
            TableState::Declared
        };
        Ok(Table {
            key: self.table_id,
            id,
            location: self.location,
            branch: Branch::main(),
            state,
            origin: Origin::from_stored(&self.origin),
            properties: protection::join(&self.properties, self.deletion_protection)?,
        })
    }
}

/// Which tables a listing shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    All,
    /// Not those that were declared and never written to.
    OnlyCreated,
}

impl Shown {
    /// The least state that is shown, as the last value of an `IN` that always holds `created`.
    fn states(self) -> (&'static str, &'static str) {
        match self {
            Self::All => (TableState::Created.as_str(), TableState::Declared.as_str()),
            Self::OnlyCreated => (TableState::Created.as_str(), TableState::Created.as_str()),
        }
    }
}

const FIND: &str = "SELECT t.table_id, t.location, t.state, t.origin, t.properties, \
    t.deletion_protection \
    FROM tables t JOIN namespaces n ON n.namespace_id = t.namespace_id \
    WHERE n.path = $1 AND t.name = $2";

pub async fn find_table(tx: &mut Tx, id: &TableId) -> Result<Option<Table>> {
    run!(tx, |c| sqlx::query_as::<_, NamelessRow>(FIND)
        .bind(id.namespace.to_stored())
        .bind(id.name.as_str())
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "reading a table"))?
    .map(|row| row.named(id.clone()))
    .transpose()
}

impl Catalog {
    /// As [`find_table`], at once if that can be.
    pub async fn find_table(&self, id: &TableId) -> Result<Option<Table>> {
        let name = (id.namespace.to_stored(), id.name.as_str());
        match self.look_up(FIND, name, NamelessRow::of) {
            Some(row) => row.map(|row| row.named(id.clone())).transpose(),
            None => find_table(&mut self.read().await?, id).await,
        }
    }
}

/// The table that has this key, whatever its name is now; `None` for one that was dropped, too.
pub async fn find_table_by_key(tx: &mut Tx, key: Uuid) -> Result<Option<Table>> {
    const SQL: &str = "SELECT t.table_id, n.path, t.name, t.location, t.state, t.origin, \
        t.properties, t.deletion_protection \
        FROM tables t JOIN namespaces n ON n.namespace_id = t.namespace_id \
        WHERE t.table_id = $1 AND t.namespace_id <> $2";
    run!(tx, |c| sqlx::query_as::<_, TableRow>(SQL).bind(key).bind(NOWHERE).fetch_optional(c).await)
        .map_err(|error| failed(error, "reading a table"))?
        .map(TableRow::into_table)
        .transpose()
}

/// # Errors
/// `TableNotFound`.
pub async fn get_table(tx: &mut Tx, id: &TableId) -> Result<Table> {
    find_table(tx, id).await?.ok_or_else(|| Error::TableNotFound(id.clone()))
}

/// The names of a namespace's tables, in order.
pub async fn list_tables(
    tx: &mut Tx,
    namespace: Uuid,
    shown: Shown,
    page: &Page,
) -> Result<Vec<String>> {
    // The index of the names answers this one alone, where the rows of a page are all over the file.
    const ALL: &str = "SELECT name FROM tables \
        WHERE namespace_id = $1 AND name > $2 ORDER BY name LIMIT $3";
    const CREATED: &str = "SELECT name FROM tables \
        WHERE namespace_id = $1 AND name > $2 AND state = 'created' ORDER BY name LIMIT $3";
    let sql = match shown {
        Shown::All => ALL,
        Shown::OnlyCreated => CREATED,
    };
    run!(tx, |c| sqlx::query_scalar::<_, String>(sql)
        .bind(namespace)
        .bind(page.after.as_deref().unwrap_or(""))
        .bind(page.fetch_limit())
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing tables"))
}

/// Of the names of tables of a namespace, those that are shown.
pub async fn keep_shown(
    tx: &mut Tx,
    namespace: &NamespaceId,
    names: BTreeSet<String>,
    shown: Shown,
) -> Result<Vec<String>> {
    if shown == Shown::All {
        return Ok(names.into_iter().collect());
    }
    let mut kept = Vec::new();
    for name in names {
        let id = TableId { namespace: namespace.clone(), name: Name::new(name)? };
        let found = find_table(tx, &id).await?;
        if found.is_some_and(|table| table.state == TableState::Created) {
            kept.push(id.name.to_string());
        }
    }
    Ok(kept)
}

/// All tables within a namespace, however deep, in the order in which they were made, each with the
/// key that a page continues from.
pub async fn list_all_tables(
    tx: &mut Tx,
    within: &NamespaceId,
    shown: Shown,
    page: &Page,
) -> Result<Vec<Table>> {
    const SQL: &str = "SELECT t.table_id, n.path, t.name, t.location, t.state, t.origin, \
        t.properties, t.deletion_protection \
        FROM tables t JOIN namespaces n ON n.namespace_id = t.namespace_id \
        WHERE t.table_id > $1 AND t.state IN ($2, $3) AND n.path >= $4 AND n.path < $5 \
        ORDER BY t.table_id LIMIT $6";
    let (created, other) = shown.states();
    let (first, end) = within.stored_range();
    let after = page.after_key()?.unwrap_or(Uuid::nil());
    run!(tx, |c| sqlx::query_as::<_, TableRow>(SQL)
        .bind(after)
        .bind(created)
        .bind(other)
        .bind(&first)
        .bind(&end)
        .bind(page.fetch_limit())
        .fetch_all(c)
        .await)
    .map_err(|error| failed(error, "listing tables"))?
    .into_iter()
    .map(TableRow::into_table)
    .collect()
}

/// What a new table row holds besides its name.
pub struct NewTable<'a> {
    pub key: Uuid,
    pub location: &'a str,
    pub state: TableState,
    pub origin: Origin,
    pub properties: &'a Properties,
}

/// # Errors
/// `TableAlreadyExists`; `NamespaceNotFound` when the namespace went away meanwhile. The location
/// must be known to be free: see [`find_overlapping_location`].
pub async fn insert_table(
    tx: &mut Tx,
    namespace: &Namespace,
    id: &TableId,
    new: NewTable<'_>,
    caller: &Caller,
    now_us: i64,
) -> Result<()> {
    const SQL: &str = "INSERT INTO tables (table_id, namespace_id, name, location, state, \
        properties, created_by, created_at_us, updated_by, updated_at_us, origin, \
        deletion_protection) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7, $8, $9, $10)";
    let (properties, protection) = protection::split(new.properties)?;
    let inserted = run!(&mut *tx, |c| sqlx::query(SQL)
        .bind(new.key)
        .bind(namespace.key)
        .bind(id.name.as_str())
        .bind(new.location)
        .bind(new.state.as_str())
        .bind(&properties)
        .bind(caller.name())
        .bind(now_us)
        .bind(new.origin.as_str())
        .bind(protection)
        .execute(c)
        .await
        .map(drop));
    inserted.map_err(|error| {
        if is_unique_violation(&error) {
            Error::TableAlreadyExists(id.clone())
        } else if is_foreign_key_violation(&error) {
            Error::NamespaceNotFound(namespace.id.clone())
        } else {
            failed(error, "making a table")
        }
    })?;
    let kind = match (new.state, new.origin) {
        (TableState::Declared, _) => EventKind::TableDeclared,
        (TableState::Created, Origin::Foreign) => EventKind::TableRegistered,
        (TableState::Created, Origin::Catalog) => EventKind::TableCreated,
    };
    let event = Event::new(kind, Object::Table(id.clone()), caller, now_us);
    insert_event(tx, Event { table: Some(new.key), ..event }).await
}

/// Makes the transaction the only one that looks for and takes an explicit location.
pub async fn lock_locations(tx: &mut Tx) -> Result<()> {
    dialect::lock_locations(tx).await.map_err(|error| failed(error, "locking the locations"))
}

/// Removes a table that was declared and never written to. Answers whether it was one.
pub async fn delete_if_declared(
    tx: &mut Tx,
    table: &Table,
    caller: &Caller,
    now_us: i64,
) -> Result<bool> {
    const SQL: &str = "DELETE FROM tables WHERE table_id = $1 AND state = $2";
    access::table_moves(tx, table.key).await?;
    let is_gone = run!(&mut *tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(TableState::Declared.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() == 1))
    .map_err(|error| failed(error, "taking back a table"))?;
    if is_gone {
        let event = Event::of_table(EventKind::TableDeregistered, table, caller, now_us);
        insert_event(tx, event).await?;
    }
    Ok(is_gone)
}

/// A folder that is `location`, holds it, or stands in it, and is a table's, also of one that was
/// dropped, or to be removed.
pub async fn find_overlapping_location(tx: &mut Tx, location: &str) -> Result<Option<String>> {
    // Those inside it sort between `location/` and `location0`, since `0` follows `/`.
    const INSIDE: &str = "SELECT location FROM tables \
        WHERE location = $1 OR (location > $2 AND location < $3) \
        UNION ALL SELECT location FROM pending_removals \
        WHERE location = $1 OR (location > $2 AND location < $3) LIMIT 1";
    const AT: &str = "SELECT location FROM tables WHERE location = $1 \
        UNION ALL SELECT location FROM pending_removals WHERE location = $1 LIMIT 1";
    let inside = run!(&mut *tx, |c| sqlx::query_scalar::<_, String>(INSIDE)
        .bind(location)
        .bind(format!("{location}/"))
        .bind(format!("{location}0"))
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "looking for a location"))?;
    if inside.is_some() {
        return Ok(inside);
    }
    for (end, _) in location.match_indices('/') {
        let around = run!(&mut *tx, |c| sqlx::query_scalar::<_, String>(AT)
            .bind(&location[..end])
            .fetch_optional(c)
            .await)
        .map_err(|error| failed(error, "looking for a location"))?;
        if around.is_some() {
            return Ok(around);
        }
    }
    Ok(None)
}

/// Notes that a table loses all of its versions.
///
/// # Errors
/// `InvalidTableState` for one that is protected.
pub async fn mark_declared(tx: &mut Tx, table: &Table, caller: &Caller, now_us: i64) -> Result<()> {
    const SQL: &str = "UPDATE tables SET state = $2, updated_by = $3, updated_at_us = $4 \
        WHERE table_id = $1 AND NOT deletion_protection";
    let marked = run!(&mut *tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(TableState::Declared.as_str())
        .bind(caller.name())
        .bind(now_us)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0));
    match marked.map_err(|error| failed(error, "updating a table"))? {
        true => Ok(()),
        false => protection::ensure_table_unprotected(tx, table).await,
    }
}

/// Notes that a declared table now has a version. Nothing happens when it was noted before.
pub async fn mark_created(tx: &mut Tx, table: Uuid, caller: &Caller, now_us: i64) -> Result<()> {
    const SQL: &str = "UPDATE tables SET state = $2, updated_by = $3, updated_at_us = $4 \
        WHERE table_id = $1 AND state <> $2";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table)
        .bind(TableState::Created.as_str())
        .bind(caller.name())
        .bind(now_us)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "updating a table"))
}

/// One that is protected from deletion stays so, whatever they say.
///
/// # Errors
/// `TableNotFound` when it is gone meanwhile.
pub async fn update_properties(
    tx: &mut Tx,
    table: &Table,
    properties: &Properties,
    caller: &Caller,
    now_us: i64,
) -> Result<()> {
    const SQL: &str = "UPDATE tables SET properties = $2, updated_by = $3, updated_at_us = $4, \
        deletion_protection = deletion_protection OR $5 WHERE table_id = $1";
    let (properties, protection) = protection::split(properties)?;
    let updated = run!(tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(&properties)
        .bind(caller.name())
        .bind(now_us)
        .bind(protection)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(|error| failed(error, "updating a table"))?;
    ensure_one(updated, &table.id)
}

/// # Errors
/// `TableAlreadyExists` for the new name, `TableNotFound` when the table is gone meanwhile,
/// `NamespaceNotFound` when the new namespace is.
pub async fn rename_table(
    tx: &mut Tx,
    table: &Table,
    namespace: &Namespace,
    new_id: &TableId,
    caller: &Caller,
    now_us: i64,
) -> Result<()> {
    const SQL: &str = "UPDATE tables SET namespace_id = $2, name = $3, updated_by = $4, \
        updated_at_us = $5 WHERE table_id = $1 AND namespace_id <> $6";
    give_name(tx, SQL, table, namespace, new_id, caller, now_us).await?;
    let event = Event::of_table(EventKind::TableRenamed, table, caller, now_us);
    insert_event(tx, event.with("new_id", new_id.to_list())).await
}

/// Moves a table to a name, by a statement that says from where.
///
/// # Errors
/// `TableAlreadyExists` for the name, `NamespaceNotFound` when that is gone meanwhile, `TableNotFound`
/// when the table is not there.
pub(super) async fn give_name(
    tx: &mut Tx,
    sql: &'static str,
    table: &Table,
    namespace: &Namespace,
    new_id: &TableId,
    caller: &Caller,
    now_us: i64,
) -> Result<()> {
    access::table_moves(tx, table.key).await?;
    let moved = run!(tx, |c| sqlx::query(sql)
        .bind(table.key)
        .bind(namespace.key)
        .bind(new_id.name.as_str())
        .bind(caller.name())
        .bind(now_us)
        .bind(NOWHERE)
        .execute(c)
        .await
        .map(|done| done.rows_affected()));
    match moved {
        Ok(rows) => ensure_one(rows, &table.id),
        Err(error) if is_unique_violation(&error) => Err(Error::TableAlreadyExists(new_id.clone())),
        Err(error) if is_foreign_key_violation(&error) => {
            Err(Error::NamespaceNotFound(namespace.id.clone()))
        }
        Err(error) => Err(failed(error, "giving a table a name")),
    }
}

/// Removes the row with its versions and uploads. The files are the caller's to look after.
///
/// # Errors
/// `TableNotFound` when it is gone meanwhile, `InvalidTableState` for one that is protected.
pub async fn delete_table(tx: &mut Tx, table: &Table) -> Result<()> {
    const SQL: &str = "DELETE FROM tables \
        WHERE table_id = $1 AND namespace_id <> $2 AND NOT deletion_protection";
    access::table_moves(tx, table.key).await?;
    let deleted = run!(&mut *tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(NOWHERE)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(|error| failed(error, "dropping a table"))?;
    if deleted == 0 {
        protection::ensure_table_unprotected(tx, table).await?;
    }
    ensure_one(deleted, &table.id)
}

/// Keeps the table from going until the transaction ends.
///
/// # Errors
/// `TableNotFound` when it is gone.
pub async fn hold(tx: &mut Tx, table: &Table) -> Result<()> {
    const SQL: &str = "UPDATE tables SET updated_at_us = updated_at_us \
        WHERE table_id = $1 AND namespace_id <> $2";
    let held = run!(tx, |c| sqlx::query(SQL)
        .bind(table.key)
        .bind(NOWHERE)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(|error| failed(error, "holding a table"))?;
    ensure_one(held, &table.id)
}

/// When the table of this name was made, in microseconds since the Unix epoch.
pub async fn find_creation(tx: &mut Tx, id: &TableId) -> Result<Option<i64>> {
    const SQL: &str = "SELECT t.created_at_us \
        FROM tables t JOIN namespaces n ON n.namespace_id = t.namespace_id \
        WHERE n.path = $1 AND t.name = $2";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL)
        .bind(id.namespace.to_stored())
        .bind(id.name.as_str())
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "looking for a table"))
}

/// The table that stands at a location.
pub async fn find_table_at(tx: &mut Tx, location: &str) -> Result<Option<Table>> {
    const SQL: &str = "SELECT t.table_id, n.path, t.name, t.location, t.state, t.origin, \
        t.properties, t.deletion_protection \
        FROM tables t JOIN namespaces n ON n.namespace_id = t.namespace_id \
        WHERE t.location = $1 AND t.namespace_id <> $2";
    run!(tx, |c| sqlx::query_as::<_, TableRow>(SQL)
        .bind(location)
        .bind(NOWHERE)
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "looking for a table by its location"))?
    .map(TableRow::into_table)
    .transpose()
}

/// Every table of a namespace, for a cascade.
pub async fn list_for_drop(tx: &mut Tx, namespace: &Namespace) -> Result<Vec<Table>> {
    const SQL: &str = "SELECT t.table_id, n.path, t.name, t.location, t.state, t.origin, \
        t.properties, t.deletion_protection \
        FROM tables t JOIN namespaces n ON n.namespace_id = t.namespace_id \
        WHERE t.namespace_id = $1";
    run!(tx, |c| sqlx::query_as::<_, TableRow>(SQL).bind(namespace.key).fetch_all(c).await)
        .map_err(|error| failed(error, "listing tables"))?
        .into_iter()
        .map(TableRow::into_table)
        .collect()
}

fn ensure_one(rows: u64, id: &TableId) -> Result<()> {
    if rows == 1 { Ok(()) } else { Err(Error::TableNotFound(id.clone())) }
}
