//! The catalog's database, past the server: what a crash would have left there, and what time does.

use sqlx::{Connection, PgConnection, SqliteConnection};

use super::Database;

/// Runs a statement.
pub async fn run(database: &Database, sql: &'static str) {
    let outcome = match database {
        Database::Sqlite { url } => {
            let mut connection = SqliteConnection::connect(url).await.expect("the catalog");
            sqlx::raw_sql(sql).execute(&mut connection).await.map(drop)
        }
        Database::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url).await.expect("the catalog");
            sqlx::raw_sql(sql).execute(&mut connection).await.map(drop)
        }
    };
    outcome.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Everyone who holds a key is silent for longer than a lease.
pub async fn let_leases_run_out(database: &Database) {
    run(database, "UPDATE idempotency_keys SET lease_us = 0").await;
}

/// As a crash between the put of a manifest and its record leaves it: versions beside the first have
/// no rows, keys no answers, and nobody holds them any more.
pub async fn forget_what_landed(database: &Database) {
    run(database, "DELETE FROM table_versions WHERE version > 1").await;
    run(database, "UPDATE idempotency_keys SET response = NULL, lease_us = 0").await;
}
