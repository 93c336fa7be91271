//! Materialized views: what a table with such a row is made of.

use uuid::Uuid;

use super::{Tx, failed, run};
use crate::error::Result;
use crate::model::View;

#[derive(sqlx::FromRow)]
struct ViewRow {
    source_id: Uuid,
    query: String,
}

/// Makes a table a view; the row goes with the table.
pub async fn insert_view(tx: &mut Tx, table: Uuid, view: &View) -> Result<()> {
    const SQL: &str = "INSERT INTO views (table_id, source_id, query) VALUES ($1, $2, $3)";
    run!(tx, |c| sqlx::query(SQL)
        .bind(table)
        .bind(view.source_key)
        .bind(&view.query)
        .execute(c)
        .await
        .map(drop))
    .map_err(|error| failed(error, "making a view"))
}

/// What a table is made of, if it is a view.
pub async fn find_view(tx: &mut Tx, table: Uuid) -> Result<Option<View>> {
    const SQL: &str = "SELECT source_id, query FROM views WHERE table_id = $1";
    let row = run!(tx, |c| sqlx::query_as::<_, ViewRow>(SQL).bind(table).fetch_optional(c).await)
        .map_err(|error| failed(error, "reading a view"))?;
    Ok(row.map(|row| View { source_key: row.source_id, query: row.query }))
}
