//! Tables, without their rows.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::namespaces::PageQuery;
use super::storage_options::{of_new_table, storage_options};
use crate::auth::Seen;
use crate::catalog::namespaces as namespace_rows;
use crate::catalog::tables::{self as rows, Shown};
use crate::commit::{NewLocation, RegisterMode};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::access::Standing;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{
    Database, Delimiter, DelimiterParam, Json, NamespacePath, ObjectId, Query, TablePath, one_of,
};
use crate::http::lancedb::tables::is_nameable;
use crate::http::openapi::{Context, Envelope, JsonArrowSchema};
use crate::lake::{Location, Snapshot, Stats, wire_schema};
use crate::model::{
    Branch, Caller, NamespaceId, Object, Page, PageScope, Properties, Role, Table, TableId,
    TableState,
};

/// How many tables that a caller does not see one request looks through.
const MAX_LOOKED_AT: usize = 20_000;

/// Finds the table, or says that it is not there.
pub(in crate::http) async fn get_table(state: &AppState, id: &TableId) -> Result<Table> {
    let found = state.catalog.find_table(id).await?;
    found.ok_or_else(|| Error::TableNotFound(id.clone()))
}

/// # Errors
/// As [`Access::require`](crate::auth::Access::require), for who may not make tables where a table is
/// to go, by whatever name.
pub(in crate::http) async fn may_move(
    state: &AppState,
    caller: &Caller,
    to: &TableId,
) -> Result<()> {
    let there = Object::Namespace(to.namespace.clone());
    state.access.require(caller, Role::Writer, &there).await
}

/// A place that somebody names may be one where a table stands already: who names one is to be let
/// register tables.
///
/// # Errors
/// As [`Access::require`](crate::auth::Access::require).
pub(super) async fn may_place(
    state: &AppState,
    caller: &Caller,
    id: &TableId,
    location: Option<&str>,
) -> Result<()> {
    if location.is_none() {
        return Ok(());
    }
    let there = Object::Namespace(id.namespace.clone());
    state.access.require(caller, Role::Manager, &there).await
}

/// Finds the table on one of its branches, on the main one when none is named.
///
/// # Errors
/// `TableNotFound`, `TableBranchNotFound`; `InvalidInput` for what no branch can be called.
pub(in crate::http) async fn get_table_on(
    state: &AppState,
    id: &TableId,
    branch: Option<&str>,
) -> Result<Table> {
    let branch = Branch::parse(branch)?;
    let table = get_table(state, id).await?;
    state.engine.on_branch(table, branch).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeclaredQuery {
    /// Whether tables that were declared and never written to are listed; true when absent.
    include_declared: Option<bool>,
}

impl DeclaredQuery {
    fn shown(&self) -> Shown {
        if self.include_declared == Some(false) { Shown::OnlyCreated } else { Shown::All }
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ListTablesResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    tables: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<String>,
}

/// List the tables of a namespace.
#[utoipa::path(get, path = "/v1/namespace/{id}/table/list", operation_id = "ListTables",
    tag = "Table", params(ObjectId, PageQuery, DeclaredQuery),
    responses((status = 200, body = ListTablesResponse), ApiError))]
pub async fn list_tables(
    State(state): State<AppState>,
    caller: Caller,
    NamespacePath(id, database): NamespacePath,
    Query(query): Query<PageQuery>,
    Query(declared): Query<DeclaredQuery>,
) -> ApiResult<Reply<ListTablesResponse>> {
    let scope = PageScope::new("tables", &id.to_stored());
    let page = Page::new(scope, query.limit, query.page_token.as_deref())?;
    let seen = state.access.seen_in(&caller, &id).await?;
    let mut tx = state.catalog.read().await?;
    let Some(namespace) = namespace_rows::find_namespace(&mut tx, &id).await? else {
        state.unless_unknown(&database, &id)?;
        return Ok(Reply(ListTablesResponse::default()));
    };
    let mut tables = match seen {
        Seen::All => rows::list_tables(&mut tx, namespace.key, declared.shown(), &page).await?,
        Seen::Only { tables, .. } => {
            let seen = rows::keep_shown(&mut tx, &id, tables, declared.shown()).await?;
            page.of(seen)
        }
    };
    let page_token = page.finish(&mut tables, Clone::clone);
    // A client that names its database refuses a whole listing for a name that it could not use.
    if database.namespace().is_some() {
        tables.retain(|name| is_nameable(name));
    }
    Ok(Reply(ListTablesResponse { tables, page_token, ..Default::default() }))
}

/// List the tables of all namespaces, in the order in which they were made.
#[utoipa::path(get, path = "/v1/table", operation_id = "ListAllTables", tag = "Table",
    params(DelimiterParam, PageQuery, DeclaredQuery),
    responses((status = 200, body = ListTablesResponse), ApiError))]
pub async fn list_all_tables(
    State(state): State<AppState>,
    caller: Caller,
    Delimiter(delimiter): Delimiter,
    database: Database,
    Query(query): Query<PageQuery>,
    Query(declared): Query<DeclaredQuery>,
) -> ApiResult<Reply<ListTablesResponse>> {
    if delimiter.is_empty() {
        return Err(Error::invalid_input("the delimiter must not be empty").into());
    }
    let within = database.namespace().unwrap_or_default();
    let scope = PageScope::new("all-tables", &within.to_stored());
    let mut page = Page::new(scope, query.limit, query.page_token.as_deref())?;
    let mut looked_at = 0;
    // A page holds what the caller sees of a page, so that it may be short; only a last one is empty.
    let (found, page_token) = loop {
        let mut all = {
            let mut tx = state.catalog.read().await?;
            rows::list_all_tables(&mut tx, &within, declared.shown(), &page).await?
        };
        let page_token = page.finish(&mut all, |table| table.key.to_string());
        looked_at += all.len();
        let ids: Vec<&TableId> = all.iter().map(|table| &table.id).collect();
        let sees = state.access.sees_tables(&caller, &ids).await?;
        let last = all.last().map(|table| table.key.to_string());
        let found: Vec<Table> =
            all.into_iter().zip(sees).filter(|(_, sees)| *sees).map(|(table, _)| table).collect();
        if !found.is_empty() || page_token.is_none() || looked_at > MAX_LOOKED_AT {
            break (found, page_token);
        }
        page.after = last;
    };
    let tables =
        found.iter().map(|table| database.shown(table.id.to_list()).join(&delimiter)).collect();
    Ok(Reply(ListTablesResponse { tables, page_token, ..Default::default() }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DeclareTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// Where the table is to stand; a folder of its own when absent.
    location: Option<String>,
    /// Whether `storage_options` hold short-lived credentials for this table's folder, where the
    /// server hands out any; true when absent.
    vend_credentials: Option<bool>,
    properties: Option<Properties>,
}

impl DeclareTableRequest {
    /// The id of the body, where the table is to stand, and what is kept with it.
    pub(super) fn into_parts(self) -> (Option<Vec<String>>, Option<String>, Properties) {
        (self.envelope.id, self.location, self.properties.unwrap_or_default())
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DeclareTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    location: String,
    /// How the table's storage is spoken to. Credentials open its folder only, for writing, and end at
    /// `expires_at_millis`, in milliseconds since the Unix epoch; DescribeTable answers new ones. They
    /// are left out where they cannot be had now, in a batch, and under an `Idempotency-Key`, whose
    /// answer is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_options: Option<Properties>,
    properties: Properties,
    /// Whether clients are to make versions by CreateTableVersion. A table's property of this name
    /// says it for that table.
    managed_versioning: bool,
}

impl DeclareTableResponse {
    pub(super) fn of(state: &AppState, table: Table, options: Option<Properties>) -> Self {
        Self {
            managed_versioning: state.engine.manages_versions(&table),
            storage_options: options,
            location: table.location,
            properties: table.properties,
            ..Self::default()
        }
    }
}

/// Declare a table: give a name a location, without touching storage.
#[utoipa::path(post, path = "/v1/table/{id}/declare", operation_id = "DeclareTable", tag = "Table",
    params(ObjectId), responses((status = 200, body = DeclareTableResponse), ApiError))]
pub async fn declare_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<DeclareTableRequest>,
) -> ApiResult<Reply<DeclareTableResponse>> {
    let database = path.1.clone();
    let id = path.matching(request.envelope.id.as_deref())?;
    may_place(&state, &caller, &id, request.location.as_deref()).await?;
    let location = request.location.as_deref().map_or(NewLocation::Own, NewLocation::At);
    let properties = request.properties.unwrap_or_default();
    let declare = || state.engine.declare_table(&id, location, properties.clone(), &caller);
    let table = state.put_into(&database, &caller, declare).await?;
    let options = of_new_table(&state, &caller, &table, request.vend_credentials).await;
    Ok(Reply(DeclareTableResponse::of(&state, table, options)))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct RegisterTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// Where the table stands: inside the storage root or a prefix that the server allows. A
    /// relative one is taken from the storage root.
    location: String,
    /// `Create` (default) or `Overwrite`.
    mode: Option<String>,
    properties: Option<Properties>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct RegisterTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    location: String,
    properties: Properties,
}

/// Register a table that stands in storage already.
#[utoipa::path(post, path = "/v1/table/{id}/register", operation_id = "RegisterTable", tag = "Table",
    params(ObjectId), responses((status = 200, body = RegisterTableResponse), ApiError))]
pub async fn register_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<RegisterTableRequest>,
) -> ApiResult<Reply<RegisterTableResponse>> {
    let database = path.1.clone();
    let id = path.matching(request.envelope.id.as_deref())?;
    let modes = [("Create", RegisterMode::Create), ("Overwrite", RegisterMode::Overwrite)];
    let mode = one_of("mode", request.mode.as_deref(), &modes, RegisterMode::Create)?;
    let properties = request.properties.unwrap_or_default();
    let (engine, location) = (&state.engine, &request.location);
    let register = || engine.register_table(&id, location, mode, properties.clone(), &caller);
    let table = state.put_into(&database, &caller, register).await?;
    Ok(Reply(RegisterTableResponse {
        location: table.location,
        properties: table.properties,
        ..Default::default()
    }))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct DescribeTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The version to describe; the newest when absent.
    #[schema(minimum = 0)]
    version: Option<u64>,
    /// A tag of the version to describe, instead of `version` and `branch`.
    tag: Option<String>,
    /// The main branch when absent.
    branch: Option<String>,
    with_table_uri: Option<bool>,
    load_detailed_metadata: Option<bool>,
    check_declared: Option<bool>,
    /// Whether `storage_options` hold short-lived credentials for this table's folder, where the
    /// server hands out any. When absent they do if they can be limited to the folder; with true it is
    /// refused (code 0) where they cannot.
    vend_credentials: Option<bool>,
}

impl DescribeTableRequest {
    /// The table on the branch that is meant, and the version, if one is named.
    async fn version_of(&self, state: &AppState, id: &TableId) -> Result<(Table, Option<u64>)> {
        let Some(tag) = &self.tag else {
            let table = get_table_on(state, id, self.branch.as_deref()).await?;
            return Ok((table, self.version));
        };
        if self.version.is_some() || self.branch.is_some() {
            return Err(Error::invalid_input("give a tag, or a version and a branch, not both"));
        }
        let table = get_table(state, id).await?;
        let tag = Box::pin(state.engine.find_tag(&table, tag)).await?;
        Ok((Table { branch: tag.branch, ..table }, Some(tag.version)))
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DescribeTableQuery {
    /// Whether the answer holds a complete URI of the table.
    with_table_uri: Option<bool>,
    /// Whether the dataset is opened to answer version, schema, stats and metadata.
    load_detailed_metadata: Option<bool>,
    /// Whether storage is asked if the table was ever written to.
    check_declared: Option<bool>,
}

/// Counts that need no reading of rows.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableBasicStats {
    #[schema(minimum = 0)]
    num_deleted_rows: u64,
    #[schema(minimum = 0)]
    num_fragments: u64,
}

impl From<&Stats> for TableBasicStats {
    fn from(stats: &Stats) -> Self {
        Self { num_deleted_rows: stats.num_deleted_rows, num_fragments: stats.num_fragments }
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DescribeTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    version: Option<u64>,
    location: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<JsonArrowSchema>,
    /// How the table's storage is spoken to. Credentials open its folder only: for reading, and for
    /// writing where the caller may write. They end at `expires_at_millis`, in milliseconds since the
    /// Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_options: Option<Properties>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<TableBasicStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Properties>,
    properties: Properties,
    /// Whether clients are to make versions by CreateTableVersion. A table's property of this name
    /// says it for that table.
    managed_versioning: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_only_declared: Option<bool>,
}

/// Describe a table.
#[utoipa::path(post, path = "/v1/table/{id}/describe", operation_id = "DescribeTable", tag = "Table",
    params(ObjectId, DescribeTableQuery),
    responses((status = 200, body = DescribeTableResponse), ApiError))]
pub async fn describe_table(
    State(state): State<AppState>,
    caller: Caller,
    standing: Option<Extension<Standing>>,
    path: TablePath,
    Query(query): Query<DescribeTableQuery>,
    Json(request): Json<DescribeTableRequest>,
) -> ApiResult<Reply<DescribeTableResponse>> {
    let database = path.1.clone();
    let id = path.matching(request.envelope.id.as_deref())?;
    let either = |one: Option<bool>, other: Option<bool>| one == Some(true) || other == Some(true);
    let (table, version) = request.version_of(&state, &id).await?;
    let mut response = DescribeTableResponse {
        location: table.location.clone(),
        properties: table.properties.clone(),
        managed_versioning: state.engine.manages_versions(&table),
        ..Default::default()
    };
    if either(query.with_table_uri, request.with_table_uri) {
        response.table_uri = Some(Location::from_stored(table.location.clone()).to_uri());
    }
    if either(query.load_detailed_metadata, request.load_detailed_metadata) {
        Box::pin(add_details(&state, &table, version, &database, &mut response)).await?;
    } else if let Some(version) = version {
        let found = Box::pin(state.engine.describe_version(&table, version)).await?;
        response.version = Some(found.manifest.version);
    }
    if either(query.check_declared, request.check_declared) {
        response.is_only_declared = Some(Box::pin(is_only_declared(&state, &table)).await?);
    }
    // Last, so that nobody gets credentials with an answer that is refused after all.
    response.storage_options =
        storage_options(&state, &caller, standing.as_deref(), &table, request.vend_credentials)
            .await?;
    Ok(Reply(response))
}

async fn is_only_declared(state: &AppState, table: &Table) -> Result<bool> {
    match table.state {
        TableState::Created => Ok(false),
        TableState::Declared => Ok(state.engine.latest(table).await?.is_none()),
    }
}

async fn add_details(
    state: &AppState,
    table: &Table,
    version: Option<u64>,
    database: &Database,
    response: &mut DescribeTableResponse,
) -> Result<()> {
    response.table = Some(table.id.name.to_string());
    response.namespace = Some(database.shown(table.id.namespace.to_list()));
    if version.is_none() && is_only_declared(state, table).await? {
        response.is_only_declared = Some(true);
        return Ok(());
    }
    let with_stats = async |snapshot: Snapshot| Ok((snapshot.stats().await?, snapshot));
    let (stats, snapshot) = state.engine.read(table, version, with_stats).await?;
    response.is_only_declared = Some(false);
    response.version = Some(snapshot.version());
    response.schema = Some(to_wire(&snapshot.arrow_schema())?);
    response.metadata = Some(snapshot.metadata().clone().into_iter().collect());
    response.stats = Some(TableBasicStats::from(&stats));
    Ok(())
}

/// The spec's form of a schema, as the type that the document shows.
pub(in crate::http) fn to_wire(schema: &arrow::datatypes::Schema) -> Result<JsonArrowSchema> {
    serde_json::from_value(wire_schema(schema)?)
        .map_err(|error| Error::internal("writing a schema", error))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct TableExistsRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The version that has to be there too.
    #[schema(minimum = 0)]
    version: Option<u64>,
}

/// Check that a table exists.
#[utoipa::path(post, path = "/v1/table/{id}/exists", operation_id = "TableExists", tag = "Table",
    params(ObjectId), responses((status = 200, description = "It exists"), ApiError))]
pub async fn table_exists(
    State(state): State<AppState>,
    _caller: Caller,
    path: TablePath,
    Json(request): Json<TableExistsRequest>,
) -> ApiResult<StatusCode> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = get_table(&state, &id).await?;
    if let Some(version) = request.version {
        state.engine.describe_version(&table, version).await?;
    }
    Ok(StatusCode::OK)
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DropTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    id: Vec<String>,
    location: String,
    properties: Properties,
}

/// Drop a table with its data. It is kept for a while, and UndropTable brings it back until then.
#[utoipa::path(post, path = "/v1/table/{id}/drop", operation_id = "DropTable", tag = "Table",
    params(ObjectId), responses((status = 200, body = DropTableResponse), ApiError))]
pub async fn drop_table(
    State(state): State<AppState>,
    caller: Caller,
    TablePath(id, database): TablePath,
) -> ApiResult<Reply<DropTableResponse>> {
    let table = state.engine.drop_table(&id, &caller).await?;
    Ok(Reply(DropTableResponse {
        id: database.shown(id.to_list()),
        location: table.location,
        properties: table.properties,
        ..Default::default()
    }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DeregisterTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
}

impl DeregisterTableRequest {
    pub(super) fn into_id(self) -> Option<Vec<String>> {
        self.envelope.id
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DeregisterTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    id: Vec<String>,
    location: String,
    properties: Properties,
}

impl DeregisterTableResponse {
    pub(super) fn of(table: Table, database: &Database) -> Self {
        Self {
            id: database.shown(table.id.to_list()),
            location: table.location,
            properties: table.properties,
            ..Self::default()
        }
    }
}

/// Deregister a table: take the name away and leave the data.
#[utoipa::path(post, path = "/v1/table/{id}/deregister", operation_id = "DeregisterTable",
    tag = "Table", params(ObjectId),
    responses((status = 200, body = DeregisterTableResponse), ApiError))]
pub async fn deregister_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<DeregisterTableRequest>,
) -> ApiResult<Reply<DeregisterTableResponse>> {
    let database = path.1.clone();
    let id = path.matching(request.envelope.id.as_deref())?;
    let table = state.engine.deregister_table(&id, &caller).await?;
    Ok(Reply(DeregisterTableResponse::of(table, &database)))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct RenameTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    new_table_name: String,
    /// The namespace to move to; the table stays in its own when absent.
    new_namespace_id: Option<Vec<String>>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct RenameTableResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
}

/// Rename a table, or move it to another namespace. Its data stays where it is.
#[utoipa::path(post, path = "/v1/table/{id}/rename", operation_id = "RenameTable", tag = "Table",
    params(ObjectId), responses((status = 200, body = RenameTableResponse), ApiError))]
pub async fn rename_table(
    State(state): State<AppState>,
    caller: Caller,
    path: TablePath,
    Json(request): Json<RenameTableRequest>,
) -> ApiResult<Reply<RenameTableResponse>> {
    let database = path.1.clone();
    let id = path.matching(request.envelope.id.as_deref())?;
    let namespace = match &request.new_namespace_id {
        Some(names) => database.holds(NamespaceId::from_list(names)?),
        None => id.namespace.clone(),
    };
    let new_id = TableId { namespace, name: crate::model::Name::new(request.new_table_name)? };
    may_move(&state, &caller, &new_id).await?;
    state.engine.rename_table(&id, &new_id, &caller).await?;
    Ok(Reply(RenameTableResponse::default()))
}
