//! Phase two for many tables at once: all of the versions or none.

use axum::Json as Reply;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::commits::{CommitTableRequest, parse_commit};
use crate::commit::{Once, TableCommit, TablesCommitted};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{CommitBytes, Database};
use crate::http::namespace::data::finish_even_if_the_client_leaves;
use crate::http::once::idempotency_key;
use crate::http::openapi::{Context, Identity, object, objects};
use crate::model::{Branch, Caller, Object, Role, TableId};

#[derive(Debug, Deserialize, ToSchema)]
pub struct CommitTablesRequest {
    #[allow(dead_code, reason = "`access` reads it, where no header says who calls")]
    #[serde(default, deserialize_with = "object")]
    identity: Option<Identity>,
    #[allow(dead_code, reason = "nothing in it is used yet")]
    context: Option<Context>,
    /// Each names its table by `id`, and each branch of a table once.
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1, max_items = 1000)]
    commits: Vec<CommitTableRequest>,
}

impl CommitTablesRequest {
    fn into_commits(self, database: &Database) -> Result<Vec<TableCommit>> {
        let commits = self.commits.into_iter().enumerate();
        let read = commits.map(|(index, commit)| {
            into_commit(commit, database).map_err(|error| Error::of_entry(index, error))
        });
        read.collect()
    }
}

fn into_commit(mut commit: CommitTableRequest, database: &Database) -> Result<TableCommit> {
    let id = commit.id.take();
    let id = id.ok_or_else(|| Error::invalid_input("each commit must name its table by id"))?;
    Ok(TableCommit {
        id: database.holds_table(TableId::from_list(&id)?),
        branch: Branch::parse(commit.branch.as_deref())?,
        request: commit.into_commit()?,
    })
}

/// What one of the commits came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct CommittedTable {
    id: Vec<String>,
    version: u64,
    read_version: u64,
    /// Whether others had committed since `read_version`.
    rebased: bool,
    /// How many rows live in the new version.
    num_rows: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CommitTablesResponse {
    /// Describes all of it.
    transaction_id: String,
    /// In the order of the request.
    commits: Vec<CommittedTable>,
}

impl CommitTablesResponse {
    fn of(committed: TablesCommitted, database: &Database) -> Self {
        let commits = committed.commits.into_iter().map(|one| CommittedTable {
            id: database.shown(one.id),
            version: one.version,
            read_version: one.read_version,
            rebased: one.rebased,
            num_rows: one.num_rows,
        });
        Self { transaction_id: committed.transaction_id, commits: commits.collect() }
    }
}

/// Commit fragments and uploads as versions of several tables: all of them or none.
///
/// A refusal says which entry was refused, by its `index`.
#[utoipa::path(post, path = "/v1/commit", operation_id = "CommitTables",
    tag = "Distributed write",
    request_body(content = CommitTablesRequest),
    responses((status = 200, body = CommitTablesResponse), ApiError))]
pub async fn commit_tables(
    State(state): State<AppState>,
    caller: Caller,
    database: Database,
    headers: HeaderMap,
    CommitBytes { bytes, room }: CommitBytes,
) -> ApiResult<Reply<CommitTablesResponse>> {
    let request: CommitTablesRequest = parse_commit(bytes.clone()).await?;
    let commits = request.into_commits(&database)?;
    for (index, commit) in commits.iter().enumerate() {
        let table = Object::Table(commit.id.clone());
        let allowed = state.access.require(&caller, Role::Writer, &table).await;
        allowed.map_err(|error| Error::of_entry(index, error))?;
    }
    let route = format!("CommitTables {:?}", database.namespace());
    let once = idempotency_key(&headers)?.map(|key| Once::new(&caller, &route, key, &bytes));
    let committed = finish_even_if_the_client_leaves(&state.work.clone(), async move {
        let _room = room;
        state.engine.commit_tables(commits, once.as_ref(), &caller).await
    })
    .await?;
    Ok(Reply(CommitTablesResponse::of(committed, &database)))
}
