//! Tables, without their rows.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::At;
use super::data::Version;
use crate::auth::Seen;
use crate::catalog::namespaces as namespace_rows;
use crate::catalog::tables::{self as rows, Shown};
use crate::commit::CloneSource;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::ApiResult;
use crate::http::extract::{Database, Json, Query, TablePath};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::namespace::namespaces::PageQuery;
use crate::http::namespace::stats::GetTableStatsResponse;
use crate::http::namespace::tables::{TableBasicStats, get_table_on, may_move};
use crate::lake::{Depth, Location, Snapshot, logical_schema};
use crate::model::{Caller, Name, NamespaceId, Object, Page, PageScope, Properties, Role, TableId};

/// The longest table name of these clients, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Whether these clients take the name. One that they do not makes a whole listing fail.
pub(in crate::http) fn is_nameable(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= MAX_NAME_BYTES && name.chars().all(known)
}

/// # Errors
/// `InvalidInput` for a new name that these clients could not use.
pub(super) fn check_nameable(id: &TableId) -> Result<()> {
    if is_nameable(id.name.as_str()) {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "the name of a table has at most {MAX_NAME_BYTES} letters, digits, '.', '_' and '-'"
    )))
}

#[derive(Serialize)]
pub(in crate::http) struct ListTablesResponse {
    tables: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// Lists the tables of the database by name, those of its namespaces not among them. A page token is
/// the name after which to go on.
pub(in crate::http) async fn list_tables(
    State(state): State<AppState>,
    caller: Caller,
    database: Database,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<ListTablesResponse>> {
    let id = database.namespace().unwrap_or_default();
    let mut page = Page::new(PageScope::new("tables", ""), query.limit, None)?;
    page.after = query.page_token;
    let seen = state.access.seen_in(&caller, &id).await?;
    let mut tx = state.catalog.read().await?;
    let Some(namespace) = namespace_rows::find_namespace(&mut tx, &id).await? else {
        state.unless_unknown(&database, &id)?;
        return Ok(Reply(ListTablesResponse { tables: Vec::new(), page_token: None }));
    };
    let mut tables = match seen {
        Seen::All => rows::list_tables(&mut tx, namespace.key, Shown::All, &page).await?,
        Seen::Only { tables, .. } => page.of(tables),
    };
    let more = page.finish(&mut tables, Clone::clone).is_some();
    let page_token = tables.last().filter(|_| more).cloned();
    tables.retain(|name| is_nameable(name));
    Ok(Reply(ListTablesResponse { tables, page_token }))
}

#[derive(Deserialize)]
pub(in crate::http) struct DescribeTableRequest {
    version: Option<u64>,
    branch: Option<String>,
}

#[derive(Serialize)]
pub(in crate::http) struct DescribeTableResponse {
    table: String,
    namespace: Vec<String>,
    version: u64,
    /// In Lance's logical types, with all metadata.
    schema: Value,
    location: String,
    stats: TableBasicStats,
    metadata: Properties,
    properties: Properties,
}

/// Describes a version of a table, the newest when none is named.
pub(in crate::http) async fn describe_table(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, database): TablePath,
    Json(request): Json<DescribeTableRequest>,
) -> ApiResult<At<Reply<DescribeTableResponse>>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let with_stats = async |snapshot: Snapshot| Ok((snapshot.stats().await?, snapshot));
    let (stats, snapshot) = state.engine.read(&table, request.version, with_stats).await?;
    let response = DescribeTableResponse {
        table: id.name.to_string(),
        namespace: database.shown(id.namespace.to_list()),
        version: snapshot.version(),
        schema: logical_schema(&snapshot.arrow_schema())?,
        location: Location::from_stored(table.location).to_uri(),
        stats: TableBasicStats::from(&stats),
        metadata: snapshot.metadata().clone().into_iter().collect(),
        properties: table.properties,
    };
    Ok(At(response.version, Reply(response)))
}

/// A branch of the table.
#[derive(Deserialize)]
pub(in crate::http) struct OnBranch {
    pub(super) branch: Option<String>,
}

/// Counts the rows, bytes, indices and fragments of a table.
pub(in crate::http) async fn get_table_stats(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<OnBranch>,
) -> ApiResult<At<Reply<GetTableStatsResponse>>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let count = async |snapshot: Snapshot| Ok((snapshot.version(), snapshot.table_stats().await?));
    let (version, stats) = state.engine.read(&table, None, count).await?;
    Ok(At(version, Reply(stats.into())))
}

#[derive(Deserialize)]
pub(in crate::http) struct CloneTableRequest {
    /// As DescribeTable tells it.
    source_location: String,
    source_version: Option<u64>,
    source_tag: Option<String>,
    is_shallow: Option<bool>,
}

/// Makes a table of a version of another: one that refers to its files, or one with copies.
pub(in crate::http) async fn clone_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, database): TablePath,
    Json(request): Json<CloneTableRequest>,
) -> ApiResult<At<Reply<Version>>> {
    check_nameable(&id)?;
    let depth = if request.is_shallow == Some(false) { Depth::Deep } else { Depth::Shallow };
    let version = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        let source = CloneSource {
            location: &request.source_location,
            within: &database.namespace().unwrap_or_default(),
            version: request.source_version,
            tag: request.source_tag.as_deref(),
        };
        let cloned = Object::Table(state.engine.clone_source(&source).await?.id);
        match state.access.require(&caller, Role::Reader, &cloned).await {
            Err(Error::TableNotFound(_)) => return Err(CloneSource::unknown()),
            allowed => allowed?,
        }
        let home = state.home_in(&caller, &database, &id).await?;
        state.engine.clone_table(&id, home, &source, depth, &caller).await
    })
    .await?;
    Ok(At(version, Reply(Version { version })))
}

#[derive(Deserialize)]
pub(in crate::http) struct RenameTableRequest {
    new_table_name: String,
    /// The namespace to move to; the table stays in its own when absent.
    new_namespace: Option<Vec<String>>,
}

/// Renames a table, or moves it to another namespace.
pub(in crate::http) async fn rename_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, database): TablePath,
    Json(request): Json<RenameTableRequest>,
) -> ApiResult<Reply<Value>> {
    let namespace = match &request.new_namespace {
        Some(names) => database.holds(NamespaceId::from_list(names)?),
        None => id.namespace.clone(),
    };
    let new_id = TableId { namespace, name: Name::new(request.new_table_name)? };
    check_nameable(&new_id)?;
    may_move(&state, &caller, &new_id).await?;
    state.engine.rename_table(&id, &new_id, &caller).await?;
    Ok(Reply(Value::Object(serde_json::Map::new())))
}
