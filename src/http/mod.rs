//! The REST surface. This file is the table of contents: every operation, in the order of the
//! spec, then ours.

mod access;
mod admission;
pub mod arrow;
mod body;
mod dawdlers;
pub mod distributed;
pub mod error;
pub mod events;
pub mod extract;
mod health;
mod lancedb;
mod lingering;
mod meters;
mod middleware;
pub mod namespace;
mod once;
pub mod openapi;
mod pace;
mod rates;
mod refusals;

use std::ops::Deref;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, get, post};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::auth::Access;
use crate::catalog::Catalog;
use crate::commit::{Behavior, Engine, Home, IfMissing};
use crate::error::{Error, Result};
use crate::lake::Lake;
use crate::model::{Caller, NamespaceId, Object, TableId};

pub use admission::Admission;
use distributed::{commits, fragments, many, uploads};
use extract::Database;
pub use health::Readiness;
use namespace::{
    backfills, batches, branches, changes, columns, data, dropped, indexes, namespaces, protection,
    rows, stats, tables, tags, transactions, versions, views,
};
pub use rates::Rates;
pub use refusals::Refusals;

/// What every handler may use: one pointer, since each layer of a request has its own.
#[derive(Clone)]
pub struct AppState(Arc<Services>);

/// What a server is made of.
pub struct Services {
    pub catalog: Catalog,
    pub lake: Lake,
    pub engine: Engine,
    pub access: Access,
    pub limits: Limits,
    pub admission: Admission,
    pub rates: Rates,
    pub unknown_databases: UnknownDatabases,
    pub refusals: Refusals,
    pub readiness: Readiness,
    /// What has to come to its end even when its client hangs up.
    pub work: TaskTracker,
    /// Cancelled when the server takes no new work.
    pub stopping: CancellationToken,
}

/// What becomes of a database that a LanceDB client names and that is no namespace yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownDatabases {
    /// It is empty, and its first table or namespace makes it.
    Made,
    Refused,
}

impl Deref for AppState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

impl AppState {
    pub fn new(services: Services) -> Self {
        Self(Arc::new(services))
    }

    /// Where a new table goes when the database is not there.
    async fn home_in(&self, caller: &Caller, database: &Database, id: &TableId) -> Result<Home> {
        let is_top = database.namespace().as_ref() == Some(&id.namespace);
        let is_made = is_top && self.makes_databases_for(caller).await?;
        Ok(if is_made { Home::MadeOnDemand } else { Home::Known })
    }

    /// Whether a database that is not there is made. It is a namespace, so that only those make one who
    /// may make it by name.
    async fn makes_databases_for(&self, caller: &Caller) -> Result<bool> {
        Ok(self.unknown_databases == UnknownDatabases::Made
            && self.access.manages(caller, &Object::root()).await?)
    }

    /// What is asked of a namespace that is not there: the database itself is as good as empty before
    /// its first table.
    ///
    /// # Errors
    /// `NamespaceNotFound` for any other.
    fn unless_unknown(&self, database: &Database, id: &NamespaceId) -> Result<()> {
        match (database.namespace(), self.unknown_databases) {
            (Some(root), UnknownDatabases::Made) if root == *id => Ok(()),
            _ => Err(Error::NamespaceNotFound(id.clone())),
        }
    }

    /// Puts something into a database. Where the database is what is missing, it is made, and `work`
    /// is done again; if that fails too, the database goes again.
    async fn put_into<T, F: Future<Output = Result<T>>>(
        &self,
        database: &Database,
        caller: &Caller,
        work: impl Fn() -> F,
    ) -> Result<T> {
        let missing = match work().await {
            Err(Error::NamespaceNotFound(id)) if database.namespace().as_ref() == Some(&id) => id,
            outcome => return outcome,
        };
        if !self.makes_databases_for(caller).await? {
            return Err(Error::NamespaceNotFound(missing));
        }
        self.engine.make_if_missing(&missing, caller).await?;
        let outcome = work().await;
        if outcome.is_err() {
            let (missing_too, holds) = (IfMissing::Skip, Behavior::Restrict);
            // It stays when others have put something into it meanwhile.
            let _ = self.engine.drop_namespace(&missing, missing_too, holds, caller).await;
        }
        outcome
    }
}

/// What a request may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest request body; no limit when absent.
    pub max_body_bytes: Option<u64>,
    /// The largest single Arrow record batch.
    pub max_batch_bytes: u64,
}

/// The operations that are served: the routes and the document that describes them.
fn operations() -> (Router<AppState>, OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(openapi::root())
        .routes(routes!(namespaces::create_namespace))
        .routes(routes!(namespaces::list_namespaces))
        .routes(routes!(namespaces::describe_namespace))
        .routes(routes!(namespaces::drop_namespace))
        .routes(routes!(namespaces::namespace_exists))
        .routes(routes!(tables::list_tables))
        .routes(routes!(tables::list_all_tables))
        .routes(routes!(tables::register_table))
        .routes(routes!(tables::describe_table))
        .routes(routes!(tables::table_exists))
        .routes(routes!(tables::drop_table))
        .routes(routes!(tables::deregister_table))
        .routes(routes!(tables::rename_table))
        .routes(routes!(tables::declare_table))
        .routes(routes!(versions::restore_table))
        .routes(routes!(versions::list_table_versions))
        .routes(routes!(versions::create_table_version))
        .routes(routes!(versions::describe_table_version))
        .routes(routes!(versions::batch_delete_table_versions))
        .routes(routes!(batches::batch_create_table_versions))
        .routes(routes!(batches::batch_commit_tables))
        .routes(routes!(columns::update_table_schema_metadata))
        .routes(routes!(columns::alter_table_alter_columns))
        .routes(routes!(columns::update_field_metadata))
        .routes(routes!(columns::alter_table_drop_columns))
        .routes(routes!(columns::alter_table_add_columns))
        .routes(routes!(backfills::alter_table_backfill_columns))
        .routes(routes!(stats::get_table_stats))
        .routes(routes!(tags::list_table_tags))
        .routes(routes!(tags::get_table_tag_version))
        .routes(routes!(tags::create_table_tag))
        .routes(routes!(tags::delete_table_tag))
        .routes(routes!(tags::update_table_tag))
        .routes(routes!(branches::list_table_branches))
        .routes(routes!(branches::create_table_branch))
        .routes(routes!(branches::delete_table_branch))
        .routes(routes!(data::create_table))
        .routes(routes!(data::insert_into_table))
        .routes(routes!(changes::merge_insert_into_table))
        .routes(routes!(changes::update_table))
        .routes(routes!(changes::delete_from_table))
        .routes(routes!(rows::query_table))
        .routes(routes!(rows::count_table_rows))
        .routes(routes!(rows::explain_table_query_plan))
        .routes(routes!(rows::analyze_table_query_plan))
        .routes(routes!(transactions::describe_transaction))
        .routes(routes!(transactions::alter_transaction))
        .routes(routes!(views::refresh_materialized_view))
        .routes(routes!(views::create_materialized_view))
        .routes(routes!(indexes::create_table_index))
        .routes(routes!(indexes::create_table_scalar_index))
        .routes(routes!(indexes::list_table_indices))
        .routes(routes!(indexes::describe_table_index_stats))
        .routes(routes!(indexes::drop_table_index))
        .routes(routes!(uploads::upload_fragments, fragments::list_fragments))
        .routes(routes!(fragments::read_fragment))
        .routes(routes!(uploads::upload_fragment_columns))
        .routes(routes!(commits::commit_table))
        .routes(routes!(many::commit_tables))
        .routes(routes!(uploads::list_uploads))
        .routes(routes!(uploads::abort_upload))
        .routes(routes!(dropped::list_dropped_tables))
        .routes(routes!(dropped::undrop_table))
        .routes(routes!(dropped::purge_table))
        .routes(routes!(protection::protect_namespace))
        .routes(routes!(protection::protect_table))
        .routes(routes!(access::keys::create_api_key))
        .routes(routes!(access::keys::list_api_keys))
        .routes(routes!(access::keys::rotate_api_key))
        .routes(routes!(access::keys::delete_api_key))
        .routes(routes!(access::grants::create_grant))
        .routes(routes!(access::grants::delete_grant))
        .routes(routes!(access::grants::list_grants))
        .routes(routes!(access::grants::who_am_i))
        .routes(routes!(events::list_events))
        .routes(routes!(health::get_capabilities))
        .routes(routes!(health::get_healthz))
        .routes(routes!(health::get_readyz))
        .routes(routes!(health::get_metrics))
        .routes(routes!(health::get_openapi))
        .split_for_parts();
    openapi::optional_bodies(&mut document);
    once::document_keys(&mut document);
    (router, document)
}

/// What LanceDB's clients ask for, in the order of their documentation. Of namespaces, and of tables
/// but for the slash, the operations above serve them too.
fn lancedb_operations(state: &AppState) -> Router<AppState> {
    use lancedb::{
        blobs, branches, changes, data, indexes, jobs, multipart, query, tables, tags, versions,
    };
    use namespace::{branches as spec_branches, tables as spec_tables, tags as spec_tags};

    Router::new()
        .route("/v1/table/", get(tables::list_tables))
        .route("/v1/table/{id}/create/", post(data::create_table))
        .route("/v1/table/{id}/describe/", post(tables::describe_table))
        .route("/v1/table/{id}/clone", post(tables::clone_table))
        .route("/v1/table/{id}/drop/", post(spec_tables::drop_table))
        .route("/v1/table/{id}/rename/", post(tables::rename_table))
        .route("/v1/table/{id}/stats/", post(tables::get_table_stats))
        .route("/v1/table/{id}/insert/", post(data::insert_into_table))
        .route("/v1/table/{id}/multipart_write/complete", post(multipart::complete_multipart_write))
        .route("/v1/table/{id}/multipart_write/abort", post(multipart::abort_multipart_write))
        .route("/v1/table/{id}/merge_insert/", post(changes::merge_insert))
        .route("/v1/table/{id}/query/", post(query::query))
        .route("/v1/table/{id}/explain_plan/", post(query::explain_plan))
        .route("/v1/table/{id}/analyze_plan/", post(query::analyze_plan))
        .route("/v1/table/{id}/count_rows/", post(query::count_rows))
        .route("/v1/table/{id}/fetch_blobs/", post(blobs::fetch_blobs))
        .route("/v1/table/{id}/blob/{column}/{row}/bytes", get(blobs::read_blob))
        .route("/v1/table/{id}/index/list/", post(indexes::list_indexes))
        .route("/v1/table/{id}/index/{index_name}/stats/", post(indexes::describe_index_stats))
        .route("/v1/table/{id}/version/list/", post(versions::list_versions))
        .route("/v1/table/{id}/tags/list/", post(tags::list_tags))
        .route("/v1/table/{id}/tags/version/", post(spec_tags::get_table_tag_version))
        .route("/v1/table/{id}/branches/list/", post(branches::list_branches))
        .route("/v1/table/{id}/branches/create/", post(spec_branches::create_table_branch))
        .route("/v1/jobs/list", post(jobs::list_jobs))
        .route("/v1/jobs/describe", post(jobs::describe_job))
        .route("/v1/jobs/cancel", post(jobs::cancel_job))
        .route("/v1/jobs/pause", post(lancedb::not_served))
        .route("/v1/jobs/resume", post(lancedb::not_served))
        .route("/v1/jobs/query_events", post(lancedb::not_served))
        .route("/v1/table/{id}/errors", post(lancedb::not_served))
        .route("/v1/table/{id}/index/{index_name}/prewarm/", post(indexes::prewarm_index))
        .route("/v1/function/{*rest}", any(lancedb::not_served))
        .route("/v1/secret/{*rest}", any(lancedb::not_served))
        .route("/v1/view/{*rest}", any(lancedb::not_served))
        .route("/v1/namespace/{id}/function/list", get(lancedb::not_served))
        .route("/v1/namespace/{id}/secret/list", get(lancedb::not_served))
        .route("/v1/namespace/{id}/view/list", get(lancedb::not_served))
        .route("/v1/namespace/{id}/materialized_view/list", get(lancedb::not_served))
        .route("/admin/authz/{*rest}", any(lancedb::not_served))
        .merge(lancedb_changes(state))
        .route_layer(from_fn_with_state(state.clone(), lancedb::speak))
}

/// Those of them that a client sends again when it does not know what became of them.
fn lancedb_changes(state: &AppState) -> Router<AppState> {
    use lancedb::{changes, columns, indexes, multipart, versions};
    use namespace::{branches as spec_branches, tags as spec_tags};

    Router::new()
        .route("/v1/table/{id}/multipart_write/create", post(multipart::create_multipart_write))
        .route("/v1/table/{id}/update/", post(changes::update_table))
        .route("/v1/table/{id}/delete/", post(changes::delete_from_table))
        .route("/v1/table/{id}/create_index/", post(indexes::create_index))
        .route("/v1/table/{id}/index/{index_name}/drop/", post(indexes::drop_index))
        .route("/v1/table/{id}/restore/", post(versions::restore_table))
        .route("/v1/table/{id}/tags/create/", post(spec_tags::create_table_tag))
        .route("/v1/table/{id}/tags/update/", post(spec_tags::update_table_tag))
        .route("/v1/table/{id}/tags/delete/", post(spec_tags::delete_table_tag))
        .route("/v1/table/{id}/branches/delete/", post(spec_branches::delete_table_branch))
        .route("/v1/table/{id}/add_columns/", post(columns::add_columns))
        .route("/v1/table/{id}/alter_columns/", post(columns::alter_columns))
        .route("/v1/table/{id}/drop_columns/", post(columns::drop_columns))
        .route("/v1/table/{id}/update_field_metadata/", post(columns::update_field_metadata))
        .route_layer(from_fn_with_state(state.clone(), lancedb::once::take_effect_once))
}

/// The OpenAPI document of what is served.
pub fn document() -> &'static OpenApi {
    static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(|| operations().1);
    &DOCUMENT
}

/// The whole surface, ready to serve. A client that sends nothing of a body for `client_timeout` is
/// given up.
pub fn router(state: AppState, client_timeout: Duration) -> Router {
    let served = operations()
        .0
        .merge(lancedb_operations(&state))
        .layer(from_fn_with_state(state.clone(), middleware::pass_on))
        .with_state(state)
        .merge(SwaggerUi::new("/docs").config(Config::from("/openapi.json")))
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::no_such_method);
    middleware::wrap(served, client_timeout)
}
