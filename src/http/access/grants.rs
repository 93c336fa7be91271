//! Grants: who has which role on what.

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::catalog::access as rows;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, Query};
use crate::model::{Caller, Grant, NamespaceId, Object, Role, TableId};

/// A role that a principal has on a namespace or a table, and all that is within it.
#[derive(Debug, Serialize, ToSchema)]
pub struct GrantInfo {
    principal: String,
    /// `reader`, `writer`, `manager` or `admin`.
    role: String,
    /// The names of the namespace; none for the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<Vec<String>>,
    /// The names of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<Vec<String>>,
    granted_by: String,
    granted_at_millis: i64,
}

impl From<Grant> for GrantInfo {
    fn from(grant: Grant) -> Self {
        let names = Some(grant.object.to_list());
        let (namespace, table) = match grant.object {
            Object::Namespace(_) => (names, None),
            Object::Table(_) => (None, names),
        };
        Self {
            principal: grant.principal,
            role: grant.role.as_str().into(),
            namespace,
            table,
            granted_by: grant.granted_by,
            granted_at_millis: grant.granted_at_us / 1000,
        }
    }
}

/// What a grant is on: one of the two.
#[derive(Debug, Deserialize, ToSchema)]
pub struct GrantedOn {
    /// The names of a namespace; none for the root.
    namespace: Option<Vec<String>>,
    /// The names of a table.
    table: Option<Vec<String>>,
}

impl GrantedOn {
    fn object(&self) -> Result<Object> {
        match (&self.namespace, &self.table) {
            (Some(names), None) => Ok(Object::Namespace(NamespaceId::from_list(names)?)),
            (None, Some(names)) => Ok(Object::Table(TableId::from_list(names)?)),
            _ => Err(Error::invalid_input("give either a namespace or a table")),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateGrantRequest {
    principal: String,
    /// `reader`, `writer`, `manager` or `admin`. Takes the place of the one that the principal has there.
    role: String,
    #[serde(flatten)]
    on: GrantedOn,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CreateGrantResponse {}

/// Grant a role.
#[utoipa::path(post, path = "/v1/access/grants/create", operation_id = "CreateGrant",
    tag = "Access", responses((status = 200, body = CreateGrantResponse), ApiError))]
pub async fn create_grant(
    State(state): State<AppState>,
    caller: Caller,
    Json(request): Json<CreateGrantRequest>,
) -> ApiResult<Reply<CreateGrantResponse>> {
    let (role, object) = (Role::parse(&request.role)?, request.on.object()?);
    state.access.grant(&request.principal, role, &object, &caller).await?;
    Ok(Reply(CreateGrantResponse {}))
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct DeleteGrantRequest {
    principal: String,
    #[serde(flatten)]
    on: GrantedOn,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeleteGrantResponse {}

/// Take the role away that a principal has on something.
#[utoipa::path(post, path = "/v1/access/grants/delete", operation_id = "DeleteGrant",
    tag = "Access", responses((status = 200, body = DeleteGrantResponse), ApiError))]
pub async fn delete_grant(
    State(state): State<AppState>,
    caller: Caller,
    Json(request): Json<DeleteGrantRequest>,
) -> ApiResult<Reply<DeleteGrantResponse>> {
    let object = request.on.object()?;
    if !state.access.revoke(&request.principal, &object, &caller).await? {
        return Err(Error::invalid_input("the principal has no role of their own there").into());
    }
    Ok(Reply(DeleteGrantResponse {}))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListGrantsQuery {
    /// Only those of this principal.
    principal: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ListGrantsResponse {
    grants: Vec<GrantInfo>,
}

/// List the grants that the caller may know of: their own, and those on what they are admin of.
#[utoipa::path(get, path = "/v1/access/grants", operation_id = "ListGrants", tag = "Access",
    params(ListGrantsQuery), responses((status = 200, body = ListGrantsResponse), ApiError))]
pub async fn list_grants(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ListGrantsQuery>,
) -> ApiResult<Reply<ListGrantsResponse>> {
    let all = {
        let mut tx = state.catalog.read().await?;
        rows::list_grants(&mut tx, query.principal.as_deref()).await?
    };
    let grants = state.access.grants(&caller, all).await?;
    Ok(Reply(ListGrantsResponse { grants: grants.into_iter().map(GrantInfo::from).collect() }))
}

#[derive(Debug, Serialize, ToSchema)]
pub struct WhoAmIResponse {
    /// The name that is recorded with the caller's changes.
    principal: String,
    /// Whose grants are the caller's too.
    groups: Vec<String>,
}

/// Say who the caller is.
#[utoipa::path(get, path = "/v1/access/whoami", operation_id = "WhoAmI", tag = "Access",
    responses((status = 200, body = WhoAmIResponse), ApiError))]
pub async fn who_am_i(caller: Caller) -> Reply<WhoAmIResponse> {
    let groups = caller.principals().skip(1).map(str::to_owned).collect();
    Reply(WhoAmIResponse { principal: caller.name().into(), groups })
}
