//! Tables that were dropped: ours, in the style of the specification.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::namespaces::PageQuery;
use crate::error::Error;
use crate::http::AppState;
use crate::http::distributed::uploads::rfc3339;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Database, Json, NamespacePath, ObjectId, Query, TablePath};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::openapi::Envelope;
use crate::model::{Caller, DroppedTable, Object, Page, PageScope, Properties, Role, TableId};

/// A table that was dropped and can be had back.
#[derive(Debug, Serialize, ToSchema)]
pub struct DroppedTableInfo {
    /// The names that led to it.
    id: Vec<String>,
    /// Which of all that had this name.
    table_id: Uuid,
    location: String,
    /// Who dropped it.
    dropped_by: String,
    /// In RFC 3339, as `purge_after`.
    dropped_at: String,
    /// From when on it may be gone.
    purge_after: String,
}

impl DroppedTableInfo {
    fn of(dropped: DroppedTable, database: &Database) -> Self {
        Self {
            id: database.shown(dropped.table.id.to_list()),
            table_id: dropped.table.key,
            location: dropped.table.location,
            dropped_by: dropped.dropped_by,
            dropped_at: rfc3339(dropped.dropped_at_us),
            purge_after: rfc3339(dropped.purge_after_us),
        }
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ListDroppedTablesResponse {
    tables: Vec<DroppedTableInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// List the tables that were dropped in a namespace, however deep, in the order in which they were made.
/// The namespace itself may be gone too.
#[utoipa::path(get, path = "/v1/namespace/{id}/dropped", operation_id = "ListDroppedTables",
    tag = "Namespace", params(ObjectId, PageQuery),
    responses((status = 200, body = ListDroppedTablesResponse), ApiError))]
pub async fn list_dropped_tables(
    State(state): State<AppState>,
    _caller: Caller,
    NamespacePath(id, database): NamespacePath,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<ListDroppedTablesResponse>> {
    let scope = PageScope::new("dropped", &id.to_stored());
    let page = Page::new(scope, query.limit, query.page_token.as_deref())?;
    let (dropped, page_token) = match state.engine.list_dropped(&id, &page).await {
        Err(Error::NamespaceNotFound(_)) => {
            state.unless_unknown(&database, &id)?;
            return Ok(Reply(ListDroppedTablesResponse::default()));
        }
        listed => listed?,
    };
    let tables = dropped.into_iter().map(|one| DroppedTableInfo::of(one, &database)).collect();
    Ok(Reply(ListDroppedTablesResponse { tables, page_token }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct UndropTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// Which of the tables that had this name; the one that was dropped last when absent.
    table_id: Option<Uuid>,
    /// The names that it gets; its old ones when absent. Give them when its old name is taken, or its
    /// namespace gone.
    new_table_id: Option<Vec<String>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UndropTableResponse {
    id: Vec<String>,
    table_id: Uuid,
    location: String,
    properties: Properties,
}

/// Have a dropped table back, with its versions, tags, branches and grants. The path has the name that
/// it had. It takes a manager of the namespace that it was in, and of the one where it goes.
#[utoipa::path(post, path = "/v1/table/{id}/undrop", operation_id = "UndropTable", tag = "Table",
    params(ObjectId), responses((status = 200, body = UndropTableResponse), ApiError))]
pub async fn undrop_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<UndropTableRequest>,
) -> ApiResult<Reply<UndropTableResponse>> {
    let database = path.1.clone();
    let id = path.matching(request.envelope.id.as_deref())?;
    let new_id = match &request.new_table_id {
        Some(names) => database.holds_table(TableId::from_list(names)?),
        None => id.clone(),
    };
    let there = Object::Namespace(new_id.namespace.clone());
    state.access.require(&caller, Role::Manager, &there).await?;
    let table = state.engine.undrop_table(&id, request.table_id, &new_id, &caller).await?;
    Ok(Reply(UndropTableResponse {
        id: database.shown(table.id.to_list()),
        table_id: table.key,
        location: table.location,
        properties: table.properties,
    }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct PurgeTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// Which of the dropped tables that had this name; all of them when absent.
    table_id: Option<Uuid>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PurgeTableResponse {
    /// Those that are gone.
    table_ids: Vec<Uuid>,
}

/// Remove dropped tables with their data before their time. A table that has the name now is not touched.
#[utoipa::path(post, path = "/v1/table/{id}/purge", operation_id = "PurgeTable", tag = "Table",
    params(ObjectId), responses((status = 200, body = PurgeTableResponse), ApiError))]
pub async fn purge_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<PurgeTableRequest>,
) -> ApiResult<Reply<PurgeTableResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let purged = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        state.engine.purge_tables(&id, request.table_id, &caller).await
    })
    .await?;
    Ok(Reply(PurgeTableResponse { table_ids: purged.iter().map(|table| table.key).collect() }))
}
