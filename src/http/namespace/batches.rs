//! Many tables in one request: all of it or nothing.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::data::finish_even_if_the_client_leaves;
use super::storage_options::client_options;
use super::tables::{DeclareTableRequest, DeclareTableResponse};
use super::tables::{DeregisterTableRequest, DeregisterTableResponse, get_table, may_place};
use super::versions::{
    Addressed, BatchDeleteTableVersionsRequest, BatchDeleteTableVersionsResponse,
    CreateTableVersionRequest, CreateTableVersionResponse, TableVersion,
};
use crate::commit::{MAX_CHANGES, TableChange, TableChanged};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Database, DelimiterParam, Json};
use crate::http::openapi::{Context, Identity, object, objects};
use crate::model::{Branch, Caller, Object, Role, Table, TableId};

#[derive(Debug, Deserialize, ToSchema)]
pub struct BatchCreateTableVersionsRequest {
    #[allow(dead_code, reason = "`access` reads it, where no header says who calls")]
    #[serde(default, deserialize_with = "object")]
    identity: Option<Identity>,
    #[allow(dead_code, reason = "nothing in it is used yet")]
    context: Option<Context>,
    /// What to create; each names its table by `id`.
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1)]
    entries: Vec<CreateTableVersionRequest>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BatchCreateTableVersionsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// Describes the whole batch.
    transaction_id: String,
    /// In the order of the request.
    versions: Vec<TableVersion>,
}

/// Create versions of several tables: all of them or none.
#[utoipa::path(post, path = "/v1/table/version/batch-create",
    operation_id = "BatchCreateTableVersions", tag = "Table", params(DelimiterParam),
    responses((status = 200, body = BatchCreateTableVersionsResponse), ApiError))]
pub async fn batch_create_table_versions(
    State(state): State<AppState>,
    caller: Caller,
    database: Database,
    Json(request): Json<BatchCreateTableVersionsRequest>,
) -> ApiResult<Reply<BatchCreateTableVersionsResponse>> {
    check_number(request.entries.len())?;
    let changes = async {
        let mut changes = Vec::new();
        for entry in request.entries {
            changes.push(creation(&state, &caller, &database, entry).await?);
        }
        Ok(changes)
    };
    let (batch, done) = commit(&state, changes, &caller).await?;
    let versions = done.into_iter().filter_map(|changed| match changed {
        TableChanged::Created(version) => Some(version.into()),
        _ => None,
    });
    Ok(Reply(BatchCreateTableVersionsResponse {
        context: None,
        transaction_id: batch.to_string(),
        versions: versions.collect(),
    }))
}

/// One of the four; each names its table by `id`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CommitTableOperation {
    #[serde(default, deserialize_with = "object")]
    declare_table: Option<DeclareTableRequest>,
    #[serde(default, deserialize_with = "object")]
    create_table_version: Option<CreateTableVersionRequest>,
    #[serde(default, deserialize_with = "object")]
    delete_table_versions: Option<BatchDeleteTableVersionsRequest>,
    #[serde(default, deserialize_with = "object")]
    deregister_table: Option<DeregisterTableRequest>,
}

impl CommitTableOperation {
    async fn into_change(
        self,
        state: &AppState,
        caller: &Caller,
        database: &Database,
    ) -> Result<TableChange> {
        let given = (
            self.declare_table,
            self.create_table_version,
            self.delete_table_versions,
            self.deregister_table,
        );
        match given {
            (Some(request), None, None, None) => {
                let (id, location, properties) = request.into_parts();
                let id = database.holds_table(TableId::from_list(&needed(id)?)?);
                let there = Object::Namespace(id.namespace.clone());
                state.access.require(caller, Role::Writer, &there).await?;
                may_place(state, caller, &id, location.as_deref()).await?;
                // As where one table is declared.
                let is_owned = caller.owns() && !state.access.manages(caller, &there).await?;
                Ok(TableChange::Declare { id, location, properties, is_owned })
            }
            (None, Some(request), None, None) => creation(state, caller, database, request).await,
            (None, None, Some(request), None) => {
                let (about, ranges) = request.into_parts()?;
                let table = named(state, caller, Role::Manager, database, about).await?;
                let table = state.engine.on_branch(table.clone(), table.branch).await?;
                Ok(TableChange::DeleteVersions { table, ranges })
            }
            (None, None, None, Some(request)) => {
                let about = Addressed { id: request.into_id(), branch: None };
                let table = named(state, caller, Role::Manager, database, about).await?;
                Ok(TableChange::Deregister { table })
            }
            _ => Err(Error::invalid_input(
                "each operation has exactly one of declare_table, create_table_version, \
                 delete_table_versions and deregister_table",
            )),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct BatchCommitTablesRequest {
    #[allow(dead_code, reason = "`access` reads it, where no header says who calls")]
    #[serde(default, deserialize_with = "object")]
    identity: Option<Identity>,
    #[allow(dead_code, reason = "nothing in it is used yet")]
    context: Option<Context>,
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1)]
    operations: Vec<CommitTableOperation>,
}

/// What one operation came to.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CommitTableResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    declare_table: Option<DeclareTableResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_table_version: Option<CreateTableVersionResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_table_versions: Option<BatchDeleteTableVersionsResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_table: Option<DeregisterTableResponse>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BatchCommitTablesResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// Describes the whole batch.
    transaction_id: String,
    /// In the order of the request.
    results: Vec<CommitTableResult>,
}

/// Declare tables, create and delete versions, and deregister tables: all of it or nothing.
#[utoipa::path(post, path = "/v1/table/batch-commit", operation_id = "BatchCommitTables",
    tag = "Table", params(DelimiterParam),
    responses((status = 200, body = BatchCommitTablesResponse), ApiError))]
pub async fn batch_commit_tables(
    State(state): State<AppState>,
    caller: Caller,
    database: Database,
    Json(request): Json<BatchCommitTablesRequest>,
) -> ApiResult<Reply<BatchCommitTablesResponse>> {
    check_number(request.operations.len())?;
    let changes = async {
        let mut changes = Vec::new();
        for operation in request.operations {
            changes.push(operation.into_change(&state, &caller, &database).await?);
        }
        Ok(changes)
    };
    let (batch, done) = commit(&state, changes, &caller).await?;
    let transaction_id = batch.to_string();
    let results = done.into_iter().map(|changed| result(&state, &database, changed)).collect();
    Ok(Reply(BatchCommitTablesResponse { context: None, transaction_id, results }))
}

/// Before a table is looked up for each.
fn check_number(changes: usize) -> Result<()> {
    if changes == 0 || changes > MAX_CHANGES {
        return Err(Error::invalid_input(format!(
            "a batch has at least one operation and at most {MAX_CHANGES}"
        )));
    }
    Ok(())
}

/// Makes `changes` as a batch, unless an earlier try of the request did.
async fn commit(
    state: &AppState,
    changes: impl Future<Output = Result<Vec<TableChange>>>,
    caller: &Caller,
) -> Result<(Uuid, Vec<TableChanged>)> {
    let engine = state.engine.clone();
    if let Some(done) = engine.batch_before(caller).await? {
        return Ok(done);
    }
    let changes = changes.await?;
    let caller = caller.clone();
    finish_even_if_the_client_leaves(&state.work.clone(), async move {
        engine.commit_batch(changes, &caller).await
    })
    .await
}

fn result(state: &AppState, database: &Database, changed: TableChanged) -> CommitTableResult {
    let mut result = CommitTableResult::default();
    match changed {
        TableChanged::Declared(table) => {
            let options = client_options(state, &table);
            result.declare_table = Some(DeclareTableResponse::of(state, table, options));
        }
        TableChanged::Created(version) => {
            result.create_table_version = Some(CreateTableVersionResponse::of(version));
        }
        TableChanged::Deleted { versions } => {
            result.delete_table_versions = Some(BatchDeleteTableVersionsResponse::of(versions));
        }
        TableChanged::Deregistered(table) => {
            result.deregister_table = Some(DeregisterTableResponse::of(table, database));
        }
    }
    result
}

/// A staged version, of a table that the request names. Its branch may begin with it.
async fn creation(
    state: &AppState,
    caller: &Caller,
    database: &Database,
    request: CreateTableVersionRequest,
) -> Result<TableChange> {
    let (about, claim, metadata) = request.into_parts()?;
    let table = named(state, caller, Role::Writer, database, about).await?;
    Ok(TableChange::CreateVersion { table, claim, metadata })
}

/// A table that a request names, for who has a role on it.
async fn named(
    state: &AppState,
    caller: &Caller,
    role: Role,
    database: &Database,
    about: Addressed,
) -> Result<Table> {
    let id = database.holds_table(TableId::from_list(&needed(about.id)?)?);
    state.access.require(caller, role, &Object::Table(id.clone())).await?;
    let table = get_table(state, &id).await?;
    Ok(Table { branch: Branch::parse(about.branch.as_deref())?, ..table })
}

fn needed(id: Option<Vec<String>>) -> Result<Vec<String>> {
    id.ok_or_else(|| Error::invalid_input("each operation must name its table by id"))
}
