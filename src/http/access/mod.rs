//! Who may send what: every route, and the role that it needs. A route that is not listed is nobody's.
//!
//! What a body names besides the path's object is decided by the operation's handler, with
//! [`Access::require`]; so are lists, which show what the caller sees.

pub mod grants;
pub mod keys;
pub(super) mod standing;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use serde::Deserialize;

use super::AppState;
use super::admission::is_small;
use super::error::ApiError;
use super::extract::{NamespacePath, TablePath, named};
use super::openapi::Identity;
use super::rates::address_of;
use crate::auth::Access;
use crate::error::{Error, Result};
use crate::model::{Caller, NamespaceId, Object, Role};

/// The longest body that is looked through for an identity: what asks for a little is let in however
/// many do, and what changes or reads rows is counted before.
const MAX_IDENTITY_BYTES: u64 = 1 << 20;
const MAX_SMALL_IDENTITY_BYTES: u64 = 64 << 10;

/// Where the object of a path is a namespace.
const NAMESPACES: &str = "/v1/namespace/";
/// Where it is a table.
pub(super) const TABLES: [&str; 2] = ["/v1/table/", "/v1/materialized_view/"];

/// Whoever watches a server looks at it all the more when it is busy.
const METRICS: &str = "/metrics";

/// What a route asks of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing, not even a name.
    Open,
    /// To say who they are: the handler decides the rest.
    Known,
    /// To see the namespace of the path, or something in it.
    Sight,
    /// A role on the object of the path.
    On(Role),
    /// A role on the namespace that holds the object of the path, or will.
    In(Role),
    /// A role on the root namespace.
    Root(Role),
}

use Need::{In, Known, On, Open, Root, Sight};
use Role::{Admin, Manager, Reader, Writer};

/// Every route, in the order of [`super::operations`] and [`super::lancedb_operations`].
const ROUTES: &[(&str, &str, Need)] = &[
    ("POST", "/v1/namespace/{id}/create", In(Manager)),
    ("GET", "/v1/namespace/{id}/list", Sight),
    ("POST", "/v1/namespace/{id}/describe", Sight),
    ("POST", "/v1/namespace/{id}/drop", On(Manager)),
    ("POST", "/v1/namespace/{id}/exists", Sight),
    ("GET", "/v1/namespace/{id}/table/list", Sight),
    ("GET", "/v1/table", Known),
    ("POST", "/v1/table/{id}/register", In(Manager)),
    ("POST", "/v1/table/{id}/describe", On(Reader)),
    ("POST", "/v1/table/{id}/exists", On(Reader)),
    ("POST", "/v1/table/{id}/drop", On(Manager)),
    ("POST", "/v1/table/{id}/deregister", On(Manager)),
    ("POST", "/v1/table/{id}/rename", On(Manager)),
    ("POST", "/v1/table/{id}/declare", In(Writer)),
    ("POST", "/v1/table/{id}/restore", On(Writer)),
    ("POST", "/v1/table/{id}/version/list", On(Reader)),
    ("POST", "/v1/table/{id}/version/create", On(Writer)),
    ("POST", "/v1/table/{id}/version/describe", On(Reader)),
    ("POST", "/v1/table/{id}/version/delete", On(Manager)),
    ("POST", "/v1/table/version/batch-create", Known),
    ("POST", "/v1/table/batch-commit", Known),
    ("POST", "/v1/table/{id}/schema_metadata/update", On(Writer)),
    ("POST", "/v1/table/{id}/alter_columns", On(Writer)),
    ("POST", "/v1/table/{id}/update_field_metadata", On(Writer)),
    ("POST", "/v1/table/{id}/drop_columns", On(Writer)),
    ("POST", "/v1/table/{id}/add_columns", On(Writer)),
    ("POST", "/v1/table/{id}/backfill_column", On(Writer)),
    ("POST", "/v1/table/{id}/stats", On(Reader)),
    ("POST", "/v1/table/{id}/tags/list", On(Reader)),
    ("POST", "/v1/table/{id}/tags/version", On(Reader)),
    ("POST", "/v1/table/{id}/tags/create", On(Writer)),
    ("POST", "/v1/table/{id}/tags/delete", On(Writer)),
    ("POST", "/v1/table/{id}/tags/update", On(Writer)),
    ("POST", "/v1/table/{id}/branches/list", On(Reader)),
    ("POST", "/v1/table/{id}/branches/create", On(Writer)),
    ("POST", "/v1/table/{id}/branches/delete", On(Writer)),
    ("POST", "/v1/table/{id}/create", In(Writer)),
    ("POST", "/v1/table/{id}/insert", On(Writer)),
    ("POST", "/v1/table/{id}/merge_insert", On(Writer)),
    ("POST", "/v1/table/{id}/update", On(Writer)),
    ("POST", "/v1/table/{id}/delete", On(Writer)),
    ("POST", "/v1/table/{id}/query", On(Reader)),
    ("POST", "/v1/table/{id}/count_rows", On(Reader)),
    ("POST", "/v1/table/{id}/explain_plan", On(Reader)),
    ("POST", "/v1/table/{id}/analyze_plan", On(Reader)),
    ("POST", "/v1/transaction/{id}/describe", Known),
    ("POST", "/v1/transaction/{id}/alter", Known),
    ("POST", "/v1/materialized_view/{id}/refresh", On(Writer)),
    ("POST", "/v1/materialized_view/{id}/create", In(Writer)),
    ("POST", "/v1/table/{id}/create_index", On(Writer)),
    ("POST", "/v1/table/{id}/create_scalar_index", On(Writer)),
    ("POST", "/v1/table/{id}/index/list", On(Reader)),
    ("POST", "/v1/table/{id}/index/{index_name}/stats", On(Reader)),
    ("POST", "/v1/table/{id}/index/{index_name}/drop", On(Writer)),
    ("POST", "/v1/table/{id}/fragments", On(Writer)),
    ("GET", "/v1/table/{id}/fragments", On(Reader)),
    ("GET", "/v1/table/{id}/fragments/{fragment_id}/rows", On(Reader)),
    ("POST", "/v1/table/{id}/fragments/{fragment_id}/columns", On(Writer)),
    ("POST", "/v1/table/{id}/commit", On(Writer)),
    ("POST", "/v1/commit", Known),
    ("GET", "/v1/table/{id}/uploads", On(Reader)),
    ("DELETE", "/v1/table/{id}/uploads/{upload_id}", On(Writer)),
    ("GET", "/v1/namespace/{id}/dropped", On(Manager)),
    ("POST", "/v1/table/{id}/undrop", In(Manager)),
    ("POST", "/v1/table/{id}/purge", In(Manager)),
    ("POST", "/v1/namespace/{id}/protect", On(Manager)),
    ("POST", "/v1/table/{id}/protect", On(Manager)),
    ("POST", "/v1/access/keys/create", Root(Admin)),
    ("GET", "/v1/access/keys", Root(Admin)),
    ("POST", "/v1/access/keys/{key_id}/rotate", Root(Admin)),
    ("DELETE", "/v1/access/keys/{key_id}", Root(Admin)),
    ("POST", "/v1/access/grants/create", Known),
    ("POST", "/v1/access/grants/delete", Known),
    ("GET", "/v1/access/grants", Known),
    ("GET", "/v1/access/whoami", Known),
    ("GET", "/v1/events", Known),
    ("GET", "/v1/capabilities", Open),
    ("GET", "/healthz", Open),
    ("GET", "/readyz", Open),
    ("GET", "/metrics", Root(Reader)),
    ("GET", "/openapi.json", Open),
    ("GET", "/v1/table/", Known),
    ("POST", "/v1/table/{id}/create/", In(Writer)),
    ("POST", "/v1/table/{id}/describe/", On(Reader)),
    ("POST", "/v1/table/{id}/clone", In(Writer)),
    ("POST", "/v1/table/{id}/drop/", On(Manager)),
    ("POST", "/v1/table/{id}/rename/", On(Manager)),
    ("POST", "/v1/table/{id}/stats/", On(Reader)),
    ("POST", "/v1/table/{id}/insert/", On(Writer)),
    ("POST", "/v1/table/{id}/multipart_write/create", On(Writer)),
    ("POST", "/v1/table/{id}/multipart_write/complete", On(Writer)),
    ("POST", "/v1/table/{id}/multipart_write/abort", On(Writer)),
    ("POST", "/v1/table/{id}/merge_insert/", On(Writer)),
    ("POST", "/v1/table/{id}/update/", On(Writer)),
    ("POST", "/v1/table/{id}/delete/", On(Writer)),
    ("POST", "/v1/table/{id}/query/", On(Reader)),
    ("POST", "/v1/table/{id}/explain_plan/", On(Reader)),
    ("POST", "/v1/table/{id}/analyze_plan/", On(Reader)),
    ("POST", "/v1/table/{id}/count_rows/", On(Reader)),
    ("POST", "/v1/table/{id}/fetch_blobs/", On(Reader)),
    ("GET", "/v1/table/{id}/blob/{column}/{row}/bytes", On(Reader)),
    ("POST", "/v1/table/{id}/create_index/", On(Writer)),
    ("POST", "/v1/table/{id}/index/list/", On(Reader)),
    ("POST", "/v1/table/{id}/index/{index_name}/stats/", On(Reader)),
    ("POST", "/v1/table/{id}/index/{index_name}/drop/", On(Writer)),
    ("POST", "/v1/table/{id}/index/{index_name}/prewarm/", On(Reader)),
    ("POST", "/v1/table/{id}/version/list/", On(Reader)),
    ("POST", "/v1/table/{id}/restore/", On(Writer)),
    ("POST", "/v1/table/{id}/tags/list/", On(Reader)),
    ("POST", "/v1/table/{id}/tags/version/", On(Reader)),
    ("POST", "/v1/table/{id}/tags/create/", On(Writer)),
    ("POST", "/v1/table/{id}/tags/update/", On(Writer)),
    ("POST", "/v1/table/{id}/tags/delete/", On(Writer)),
    ("POST", "/v1/table/{id}/branches/list/", On(Reader)),
    ("POST", "/v1/table/{id}/branches/create/", On(Writer)),
    ("POST", "/v1/table/{id}/branches/delete/", On(Writer)),
    ("POST", "/v1/table/{id}/add_columns/", On(Writer)),
    ("POST", "/v1/table/{id}/alter_columns/", On(Writer)),
    ("POST", "/v1/table/{id}/drop_columns/", On(Writer)),
    ("POST", "/v1/table/{id}/update_field_metadata/", On(Writer)),
    ("POST", "/v1/jobs/list", Known),
    ("POST", "/v1/jobs/describe", Known),
    ("POST", "/v1/jobs/cancel", Known),
    ("POST", "/v1/jobs/pause", Known),
    ("POST", "/v1/jobs/resume", Known),
    ("POST", "/v1/jobs/query_events", Known),
    ("POST", "/v1/table/{id}/errors", On(Reader)),
    ("*", "/v1/function/{*rest}", Known),
    ("*", "/v1/secret/{*rest}", Known),
    ("*", "/v1/view/{*rest}", Known),
    ("GET", "/v1/namespace/{id}/function/list", Sight),
    ("GET", "/v1/namespace/{id}/secret/list", Sight),
    ("GET", "/v1/namespace/{id}/view/list", Sight),
    ("GET", "/v1/namespace/{id}/materialized_view/list", Sight),
    ("*", "/admin/authz/{*rest}", Known),
];

fn need_of(method: &Method, path: &str) -> Option<Need> {
    static NEEDS: LazyLock<HashMap<(&str, &str), Need>> = LazyLock::new(|| {
        ROUTES.iter().map(|(method, path, need)| ((*method, *path), *need)).collect()
    });
    // A HEAD is a GET whose answer nobody reads.
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    [method, "*"].into_iter().find_map(|method| NEEDS.get(&(method, path)).copied())
}

#[derive(Deserialize)]
struct OfBody {
    identity: Option<Identity>,
}

/// Finds out who sends a request, and passes it on if they may.
pub(super) async fn decide<F: Future<Output = Response>>(
    state: &AppState,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let path = path_of(&request);
    let (need, is_counted) = (need_of(request.method(), path), path != METRICS);
    if need == Some(Open) {
        return next(request).await;
    }
    if !state.access.is_guarded() {
        // Everybody may do everything, but not too often.
        let rate =
            if is_counted { state.rates.allow_address(address_of(&request)) } else { Ok(()) };
        return match rate {
            Ok(()) => next(request).await,
            Err(error) => refuse(error, None),
        };
    }
    let (caller, credential, request) = match identify(state, need, request).await {
        Ok(known) => known,
        Err(error) => return refuse(error, None),
    };
    let mut response = match admit(state, need, &caller, credential, request).await {
        Ok(request) => next(request).await,
        Err(error) => return refuse(error, Some(caller)),
    };
    // Whoever writes down what was refused is told who asked.
    response.extensions_mut().insert(caller);
    response
}

/// Marks an answer to who was not let in.
#[derive(Clone)]
pub(super) struct Refused;

fn refuse(error: Error, caller: Option<Caller>) -> Response {
    let mut response = ApiError::from(error).into_response();
    response.extensions_mut().insert(Refused);
    if let Some(caller) = caller {
        response.extensions_mut().insert(caller);
    }
    response
}

fn path_of(request: &Request) -> &str {
    request.extensions().get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default()
}

async fn identify(
    state: &AppState,
    need: Option<Need>,
    request: Request,
) -> Result<(Caller, String, Request)> {
    // What was taken away a moment ago is not enough to change anything.
    if !matches!(need, Some(Sight | On(Reader) | Root(Reader))) {
        state.access.look_again().await?;
    }
    let (is_counted, address) = (path_of(&request) != METRICS, address_of(&request));
    let known = caller_of(state, request).await;
    let known = known.map_err(|error| state.rates.failed(error, address))?;
    if is_counted {
        state.rates.allow(&known.0)?;
    }
    Ok(known)
}

async fn admit(
    state: &AppState,
    need: Option<Need>,
    caller: &Caller,
    credential: String,
    request: Request,
) -> Result<Request> {
    let nobody = || Error::PermissionDenied("nobody may do this".into());
    let (mut parts, body) = request.into_parts();
    let need = need.ok_or_else(nobody)?;
    // What is no identifier the handler says, which needs no rights.
    let object = object_of(need, &mut parts).await;
    let manages = match &object {
        Some(object) => allow(&state.access, caller, need, object).await?,
        None => false,
    };
    let caller = caller.clone();
    parts.extensions.insert(if manages { caller.who_owns(false) } else { caller });
    let access = state.access.clone();
    let standing = Standing(Arc::new(Shown { access, credential, need, object }));
    let body = standing::while_it_holds(body, &standing);
    parts.extensions.insert(standing);
    Ok(Request::from_parts(parts, body))
}

/// What a caller showed, and what it was good for. What takes long asks again.
#[derive(Clone)]
pub struct Standing(Arc<Shown>);

struct Shown {
    access: Access,
    credential: String,
    need: Need,
    object: Option<Object>,
}

impl Standing {
    /// Makes sure that the caller may still do what they were let in for.
    ///
    /// # Errors
    /// As when they would begin now.
    pub(in crate::http) async fn confirm(&self) -> Result<()> {
        let Shown { access, credential, need, object } = &*self.0;
        access.look_again().await?;
        let caller = access.authenticate(Some(credential)).await?;
        match object {
            Some(object) => allow(access, &caller, *need, object).await.map(drop),
            None => Ok(()),
        }
    }
}

/// What a path names.
pub(super) enum OfPath {
    Namespace(Arc<NamespacePath>),
    Table(Arc<TablePath>),
}

impl OfPath {
    /// What is no identifier, is nothing's.
    pub(super) async fn of(parts: &mut Parts) -> Option<Self> {
        let path = parts.uri.path();
        if path.starts_with(NAMESPACES) {
            return named(parts).await.ok().map(Self::Namespace);
        }
        if TABLES.iter().any(|start| path.starts_with(start)) {
            return named(parts).await.ok().map(Self::Table);
        }
        None
    }

    pub(super) fn object(&self) -> Object {
        match self {
            Self::Namespace(path) => Object::Namespace(path.0.clone()),
            Self::Table(path) => Object::Table(path.0.clone()),
        }
    }

    /// The namespace that holds it; the root holds itself.
    fn above(&self) -> Object {
        Object::Namespace(match self {
            Self::Namespace(path) => {
                path.0.split().map_or_else(NamespaceId::root, |(parent, _)| parent)
            }
            Self::Table(path) => path.0.namespace.clone(),
        })
    }
}

/// What a caller needs a role on, if the path names it.
async fn object_of(need: Need, parts: &mut Parts) -> Option<Object> {
    match need {
        Open | Known => None,
        Root(_) => Some(Object::root()),
        Sight | On(_) => Some(OfPath::of(parts).await?.object()),
        In(_) => Some(OfPath::of(parts).await?.above()),
    }
}

/// Lets a caller do something with an object. Answers whether what they make in it is theirs to manage
/// anyway.
async fn allow(access: &Access, caller: &Caller, need: Need, object: &Object) -> Result<bool> {
    match (need, object) {
        (Open | Known, _) => Ok(false),
        (Sight, Object::Namespace(id)) => access.require_sight(caller, id).await.map(|()| false),
        (Sight, Object::Table(_)) => access.require(caller, Reader, object).await.map(|()| false),
        (Root(role) | On(role), _) => access.require(caller, role, object).await.map(|()| false),
        (In(role), _) => {
            access.require(caller, role, object).await?;
            access.manages(caller, object).await
        }
    }
}

/// Who sends a request, by its headers, or else by its body, and what they showed.
async fn caller_of(state: &AppState, request: Request) -> Result<(Caller, String, Request)> {
    let needed = || state.access.authenticate(None);
    if let Some(key) = of_headers(request.headers())? {
        let (key, caller) = (key.to_owned(), state.access.authenticate(Some(key)).await?);
        return Ok((caller, key, request));
    }
    let is_json = |headers: &HeaderMap| {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        kind.is_none_or(|kind| kind.starts_with("application/json"))
    };
    let most = if is_small(&request) { MAX_SMALL_IDENTITY_BYTES } else { MAX_IDENTITY_BYTES };
    let is_short = request.body().size_hint().exact().is_some_and(|size| size <= most);
    if !is_short || !is_json(request.headers()) {
        let caller = needed().await?;
        return Ok((caller, String::new(), request));
    }
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, usize::try_from(most).unwrap_or(usize::MAX)).await;
    let bytes = bytes.map_err(|_| Error::invalid_input("the body was cut off before its end"))?;
    let said = serde_json::from_slice::<OfBody>(&bytes).ok().and_then(|body| body.identity);
    let shown = said.and_then(|said| said.auth_token.or(said.api_key));
    let caller = match &shown {
        Some(shown) => state.access.authenticate(Some(shown)).await?,
        None => needed().await?,
    };
    let request = Request::from_parts(parts, Body::from(bytes));
    Ok((caller, shown.unwrap_or_default(), request))
}

/// # Errors
/// `Unauthenticated` for headers that nobody can read.
fn of_headers(headers: &HeaderMap) -> Result<Option<&str>> {
    let unreadable =
        || Error::Unauthenticated("x-api-key and Authorization are sent once, as text".into());
    let text = |name: &str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().map(Some).map_err(|_| unreadable()),
            _ => Err(unreadable()),
        }
    };
    if let Some(value) = text("authorization")? {
        let bearer =
            value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = bearer.ok_or_else(|| {
            Error::Unauthenticated("Authorization takes the scheme Bearer only".into())
        })?;
        return Ok(Some(token.trim()));
    }
    Ok(text("x-api-key")?.filter(|key| !key.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_of_the_document_is_listed() {
        for (path, item) in &crate::http::document().paths.paths {
            for (method, operation) in [
                ("GET", &item.get),
                ("POST", &item.post),
                ("DELETE", &item.delete),
                ("PUT", &item.put),
            ] {
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                let is_served = operation.is_some();
                assert_eq!(need_of(&method, path).is_some(), is_served, "{method} {path}");
            }
        }
    }

    #[test]
    fn a_role_on_what_a_path_names_is_asked_for_where_it_names_something() {
        for (method, path, need) in ROUTES {
            let names = [NAMESPACES].iter().chain(&TABLES).any(|start| path.starts_with(start));
            let asks = matches!(need, Sight | On(_) | In(_));
            assert!(names || !asks, "{method} {path}");
        }
    }

    #[test]
    fn no_route_is_listed_twice() {
        for (index, (method, path, _)) in ROUTES.iter().enumerate() {
            let again =
                ROUTES[index + 1..].iter().any(|other| (other.0, other.1) == (method, path));
            assert!(!again, "{method} {path}");
        }
    }
}
