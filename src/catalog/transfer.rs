//! Moving a catalog from SQLite to PostgreSQL, or back.
//!
//! What the columns hold is read from PostgreSQL's own description of them, so that the migrations
//! stay the only place where they are written down.

use futures::TryStreamExt;
use sqlx::{PgConnection, Postgres, QueryBuilder, Row, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::{Catalog, Pools, failed, from_sql};
use crate::error::{Error, Result};

/// Every table of a catalog, each after those that it refers to, and what its rows are ordered by:
/// a namespace comes after the one that it is in.
const TABLES: [(&str, &str); 23] = [
    ("namespaces", "path"),
    ("tables", "table_id"),
    ("dropped_tables", "table_id"),
    ("table_versions", "table_id, branch, version"),
    ("manifest_claims", "location, version"),
    ("shared_transactions", "transaction_id"),
    ("multipart_writes", "session_id"),
    ("uploads", "upload_id"),
    ("upload_files", "upload_id, path"),
    ("pending_removals", "location"),
    ("idempotency_keys", "key_hash"),
    ("jobs", "job_id"),
    ("views", "table_id"),
    ("clones", "table_id"),
    ("batches", "batch_id"),
    ("batch_versions", "table_id, branch"),
    ("access_epoch", "id"),
    ("api_keys", "key_id"),
    ("namespace_grants", "principal, namespace_id"),
    ("table_grants", "principal, table_id"),
    ("events", "written"),
    ("event_numbers", "id"),
    ("webhooks", "name"),
];
/// How many rows go in one statement: SQLite takes 32 766 values in one, and no table has as many as
/// thirty columns.
const AT_ONCE: usize = 1000;

/// What a column holds.
#[derive(Clone, Copy)]
enum Kind {
    Uuid,
    Text,
    Number,
    Flag,
    Bytes,
}

enum Value {
    Uuid(Option<Uuid>),
    Text(Option<String>),
    Number(Option<i64>),
    Flag(Option<bool>),
    Bytes(Option<Vec<u8>>),
}

struct Column {
    name: String,
    kind: Kind,
}

/// One of the two databases, within a transaction.
trait Side {
    async fn count(&mut self, table: &str) -> Result<u64, sqlx::Error>;

    /// Hands all rows of a table to `take`, some at a time.
    async fn read(
        &mut self,
        table: (&str, &str),
        columns: &[Column],
        take: impl AsyncFnMut(Vec<Vec<Value>>) -> Result<(), sqlx::Error>,
    ) -> Result<(), sqlx::Error>;

    async fn insert(
        &mut self,
        table: &str,
        columns: &[Column],
        rows: Vec<Vec<Value>>,
    ) -> Result<(), sqlx::Error>;
}

macro_rules! side {
    ($connection:ty, $database:ty) => {
        impl Side for $connection {
            async fn count(&mut self, table: &str) -> Result<u64, sqlx::Error> {
                let mut count = QueryBuilder::<$database>::new("SELECT COUNT(*) FROM ");
                count.push(table);
                count.build_query_scalar::<i64>().fetch_one(self).await.map(from_sql)
            }

            async fn read(
                &mut self,
                (table, order): (&str, &str),
                columns: &[Column],
                mut take: impl AsyncFnMut(Vec<Vec<Value>>) -> Result<(), sqlx::Error>,
            ) -> Result<(), sqlx::Error> {
                let mut select = QueryBuilder::<$database>::new("SELECT ");
                select.push(names(columns)).push(" FROM ").push(table);
                select.push(" ORDER BY ").push(order);
                let mut rows = select.build().fetch(self);
                let mut some = Vec::new();
                while let Some(row) = rows.try_next().await? {
                    let values = columns.iter().map(|Column { name, kind }| {
                        let name = name.as_str();
                        Ok(match kind {
                            Kind::Uuid => Value::Uuid(row.try_get(name)?),
                            Kind::Text => Value::Text(row.try_get(name)?),
                            Kind::Number => Value::Number(row.try_get(name)?),
                            Kind::Flag => Value::Flag(row.try_get(name)?),
                            Kind::Bytes => Value::Bytes(row.try_get(name)?),
                        })
                    });
                    some.push(values.collect::<Result<Vec<Value>, sqlx::Error>>()?);
                    if some.len() == AT_ONCE {
                        take(std::mem::take(&mut some)).await?;
                    }
                }
                if some.is_empty() { Ok(()) } else { take(some).await }
            }

            async fn insert(
                &mut self,
                table: &str,
                columns: &[Column],
                rows: Vec<Vec<Value>>,
            ) -> Result<(), sqlx::Error> {
                let mut insert = QueryBuilder::<$database>::new("INSERT INTO ");
                insert.push(table).push(" (").push(names(columns)).push(") ");
                insert.push_values(rows, |mut row, values| {
                    for value in values {
                        match value {
                            Value::Uuid(value) => row.push_bind(value),
                            Value::Text(value) => row.push_bind(value),
                            Value::Number(value) => row.push_bind(value),
                            Value::Flag(value) => row.push_bind(value),
                            Value::Bytes(value) => row.push_bind(value),
                        };
                    }
                });
                insert.build().execute(self).await.map(drop)
            }
        }
    };
}
side!(SqliteConnection, Sqlite);
side!(PgConnection, Postgres);

/// Copies every table, and counts in both databases what came over.
async fn copy_all(
    from: &mut impl Side,
    to: &mut impl Side,
    described: Vec<Vec<Column>>,
) -> Result<Counts, Failure> {
    for (table, _) in TABLES {
        if to.count(table).await? > 0 {
            return Err(Failure::NotEmpty(table));
        }
    }
    let mut counts = Vec::new();
    for (table, columns) in TABLES.into_iter().zip(&described) {
        let name = table.0;
        from.read(table, columns, async |rows| to.insert(name, columns, rows).await).await?;
        let (there, came) = (from.count(name).await?, to.count(name).await?);
        if there != came {
            return Err(Failure::Lost { table: name, there, came });
        }
        counts.push((name, came));
    }
    Ok(counts)
}

/// Why nothing was copied.
enum Failure {
    NotEmpty(&'static str),
    Lost { table: &'static str, there: u64, came: u64 },
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// How many rows each table has.
pub type Counts = Vec<(&'static str, u64)>;

/// Moves a catalog from one database to another, which is made if absent, gets its schema and must
/// have no rows. Answers how many rows each table had. Nobody may serve either of them meanwhile: SQLite
/// lets nobody else write, and of PostgreSQL what was there at the beginning is copied.
///
/// # Errors
/// `InvalidInput` when the other one has rows, or is of the same kind, and when there is none to move.
/// After every error there is nothing but the schema in the other one that was not there before.
pub async fn move_catalog(from: &str, to: &str) -> Result<Counts> {
    // Before anything is made.
    if from.starts_with("sqlite:") == to.starts_with("sqlite:") {
        return Err(same_kind());
    }
    let from = Catalog::open_existing(from).await?;
    let to = Catalog::open(to, 1).await?;
    to.migrate().await?;
    let counts = from.copy_to(&to).await;
    from.close().await;
    to.close().await;
    counts
}

fn same_kind() -> Error {
    Error::invalid_input(
        "a catalog is moved from SQLite to PostgreSQL or back; within one of them, use its own tools",
    )
}

impl Catalog {
    /// Copies everything into another catalog, which has the schema and no rows, or nothing.
    async fn copy_to(&self, other: &Self) -> Result<Counts> {
        const DOING: &str = "moving the catalog";
        let sql = |error| failed(error, DOING);
        let counts = match (&self.pools, &other.pools) {
            (Pools::Sqlite { writer, .. }, Pools::Postgres(pool)) => {
                let mut from = writer.begin_with("BEGIN IMMEDIATE").await.map_err(sql)?;
                let mut to = pool.begin().await.map_err(sql)?;
                let described = describe(&mut to).await.map_err(sql)?;
                let counts = copy_all(&mut *from, &mut *to, described).await;
                if counts.is_ok() {
                    go_on_counting(&mut to).await.map_err(sql)?;
                    to.commit().await.map_err(sql)?;
                }
                counts
            }
            (Pools::Postgres(pool), Pools::Sqlite { writer, .. }) => {
                const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                let mut from = pool.begin_with(BEGIN).await.map_err(sql)?;
                let mut to = writer.begin_with("BEGIN IMMEDIATE").await.map_err(sql)?;
                let described = describe(&mut from).await.map_err(sql)?;
                let counts = copy_all(&mut *from, &mut *to, described).await;
                if counts.is_ok() {
                    to.commit().await.map_err(sql)?;
                }
                counts
            }
            _ => return Err(same_kind()),
        };
        counts.map_err(|failure| match failure {
            Failure::NotEmpty(table) => Error::invalid_input(format!(
                "the catalog to move to is not empty: it has rows in '{table}'; nothing was copied"
            )),
            Failure::Lost { table, there, came } => Error::internal(
                DOING,
                format!("of {there} rows of '{table}' {came} came over; nothing was kept"),
            ),
            Failure::Sql(error) => failed(error, DOING),
        })
    }
}

/// The columns of all tables.
async fn describe(postgres: &mut PgConnection) -> Result<Vec<Vec<Column>>, sqlx::Error> {
    const SQL: &str = "SELECT column_name::text, data_type::text FROM information_schema.columns \
        WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position";
    let mut described = Vec::new();
    for (table, _) in TABLES {
        let rows = sqlx::query_as::<_, (String, String)>(SQL).bind(table).fetch_all(&mut *postgres);
        let columns = rows.await?.into_iter().map(|(name, kind)| {
            let kind = match kind.as_str() {
                "uuid" => Kind::Uuid,
                "text" => Kind::Text,
                "bigint" => Kind::Number,
                "boolean" => Kind::Flag,
                "bytea" => Kind::Bytes,
                other => return Err(sqlx::Error::TypeNotFound { type_name: other.to_owned() }),
            };
            Ok(Column { name, kind })
        });
        described.push(columns.collect::<Result<_, _>>()?);
    }
    Ok(described)
}

/// Lets PostgreSQL count the events on from those that came; SQLite goes by the rows that there are.
async fn go_on_counting(postgres: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Without events there is nothing to go on from, and nothing is done.
    const SQL: &str =
        "SELECT setval(pg_get_serial_sequence('events', 'written'), MAX(written)) FROM events";
    sqlx::query(SQL).execute(postgres).await.map(drop)
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}
