//! Transactions and jobs.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::commit::{Alteration, IfAbsent, IfThere, Transaction};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Database, Json, ObjectId, TransactionPath, one_of};
use crate::http::openapi::{Context, Envelope, object, objects};
use crate::model::{Caller, JobState, Object, Properties, Role, TableId};

#[derive(Debug, Deserialize, ToSchema)]
pub struct DescribeTransactionRequest {
    #[serde(flatten)]
    envelope: Envelope,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DescribeTransactionResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// `Queued`, `Running`, `Succeeded`, `Failed` or `Canceled`.
    status: String,
    /// What callers keep with it, and what the server knows: `kind` (`commit`, `batch`, or what a
    /// job does), `table`, `branch`, `version`, `operation`, who and when, and the `error` of what
    /// failed.
    properties: Properties,
}

impl From<Transaction> for DescribeTransactionResponse {
    fn from(transaction: Transaction) -> Self {
        let mut properties = transaction.properties;
        properties.extend(transaction.known);
        Self { context: None, status: transaction.state.as_str().into(), properties }
    }
}

/// Describe a transaction: what was committed, by whom, when; or how far a job is.
#[utoipa::path(post, path = "/v1/transaction/{id}/describe", operation_id = "DescribeTransaction",
    tag = "Transaction", params(ObjectId),
    responses((status = 200, body = DescribeTransactionResponse), ApiError))]
pub async fn describe_transaction(
    State(state): State<AppState>,
    caller: Caller,
    database: Database,
    path: TransactionPath,
    Json(request): Json<DescribeTransactionRequest>,
) -> ApiResult<Reply<DescribeTransactionResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    Ok(Reply(find(&state, &caller, Role::Reader, &database, &id).await?.into()))
}

/// A transaction, for who has a role on the table that it is about, or on the root if it is about
/// several or about one that is gone.
async fn find(
    state: &AppState,
    caller: &Caller,
    role: Role,
    database: &Database,
    id: &str,
) -> Result<Transaction> {
    let within = database.namespace().unwrap_or_default();
    let found = state.engine.describe_transaction(&within, id).await?;
    let table =
        match found.known.get("table").map(|names| serde_json::from_str::<Vec<String>>(names)) {
            Some(Ok(names)) => Some(database.holds_table(TableId::from_list(&names)?)),
            _ => None,
        };
    let about = table.map_or_else(Object::root, Object::Table);
    match state.access.require(caller, role, &about).await {
        Ok(()) => Ok(found),
        // Everybody sees that there is a root.
        Err(Error::PermissionDenied(_)) if about == Object::root() && role == Role::Reader => {
            Err(Error::TransactionNotFound(id.into()))
        }
        Err(Error::TableNotFound(_)) => Err(Error::TransactionNotFound(id.into())),
        Err(error) => Err(error),
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct AlterTransactionSetStatus {
    /// `Canceled` ends a job that is not over.
    status: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct AlterTransactionSetProperty {
    key: Option<String>,
    value: Option<String>,
    /// When it is there: `Overwrite` (default), `Fail` or `Skip`.
    mode: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct AlterTransactionUnsetProperty {
    key: Option<String>,
    /// When it is not there: `Skip` (default) or `Fail`.
    mode: Option<String>,
}

/// One of the three.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlterTransactionAction {
    #[serde(default, deserialize_with = "object")]
    set_status_action: Option<AlterTransactionSetStatus>,
    #[serde(default, deserialize_with = "object")]
    set_property_action: Option<AlterTransactionSetProperty>,
    #[serde(default, deserialize_with = "object")]
    unset_property_action: Option<AlterTransactionUnsetProperty>,
}

impl AlterTransactionAction {
    fn into_alteration(self) -> Result<Alteration> {
        match (self.set_status_action, self.set_property_action, self.unset_property_action) {
            (Some(set), None, None) => {
                let Some(word) = set.status.as_deref() else { return Err(lacks("status")) };
                let words = JobState::ALL.map(|state| (state.as_str(), state));
                let state = one_of("status", Some(word), &words, JobState::Canceled)?;
                Ok(Alteration::SetState(state))
            }
            (None, Some(set), None) => {
                let modes = [
                    ("Overwrite", IfThere::Overwrite),
                    ("Fail", IfThere::Fail),
                    ("Skip", IfThere::Skip),
                ];
                let if_there = one_of("mode", set.mode.as_deref(), &modes, IfThere::Overwrite)?;
                let key = set.key.ok_or_else(|| lacks("key"))?;
                let value = set.value.ok_or_else(|| lacks("value"))?;
                Ok(Alteration::SetProperty { key, value, if_there })
            }
            (None, None, Some(unset)) => {
                let modes = [("Skip", IfAbsent::Skip), ("Fail", IfAbsent::Fail)];
                let if_absent = one_of("mode", unset.mode.as_deref(), &modes, IfAbsent::Skip)?;
                let key = unset.key.ok_or_else(|| lacks("key"))?;
                Ok(Alteration::UnsetProperty { key, if_absent })
            }
            _ => Err(Error::invalid_input(
                "each action has exactly one of setStatusAction, setPropertyAction and \
                 unsetPropertyAction",
            )),
        }
    }
}

fn lacks(field: &str) -> Error {
    Error::invalid_input(format!("an action lacks its {field}"))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct AlterTransactionRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// Done in order; all of them or none.
    #[serde(deserialize_with = "objects")]
    actions: Vec<AlterTransactionAction>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AlterTransactionResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
    /// As in the description.
    status: String,
    /// As in the description.
    properties: Properties,
}

/// Alter a transaction: keep properties with it, or cancel a job.
#[utoipa::path(post, path = "/v1/transaction/{id}/alter", operation_id = "AlterTransaction",
    tag = "Transaction", params(ObjectId),
    responses((status = 200, body = AlterTransactionResponse), ApiError))]
pub async fn alter_transaction(
    State(state): State<AppState>,
    caller: Caller,
    database: Database,
    path: TransactionPath,
    Json(request): Json<AlterTransactionRequest>,
) -> ApiResult<Reply<AlterTransactionResponse>> {
    let id = path.matching(request.envelope.id.as_deref())?;
    let actions = request.actions.into_iter().map(AlterTransactionAction::into_alteration);
    let alterations: Vec<Alteration> = actions.collect::<Result<_>>()?;
    if alterations.is_empty() {
        return Err(Error::invalid_input("actions is empty: name what to alter").into());
    }
    let within = database.namespace().unwrap_or_default();
    if state.access.is_guarded() {
        find(&state, &caller, Role::Writer, &database, &id).await?;
    }
    let altered = state.engine.alter_transaction(&within, &id, &alterations, &caller).await?;
    let DescribeTransactionResponse { context, status, properties } = altered.into();
    Ok(Reply(AlterTransactionResponse { context, status, properties }))
}
