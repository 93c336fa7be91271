//! The REST surface. This file is the table of contents: every operation, in the order of the
//! spec, then ours.

pub mod arrow;
pub mod distributed;
pub mod error;
pub mod extract;
mod health;
mod middleware;
pub mod namespace;
pub mod openapi;

use std::sync::LazyLock;

use axum::Router;
use tokio_util::task::TaskTracker;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::catalog::Catalog;
use crate::commit::Engine;
use crate::lake::Lake;

use distributed::{commits, fragments, uploads};
use namespace::{
    backfills, batches, branches, changes, columns, data, indexes, namespaces, rows, stats, tables,
    tags, transactions, versions, views,
};

/// What every handler may use; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub catalog: Catalog,
    pub lake: Lake,
    pub engine: Engine,
    pub limits: Limits,
    /// What has to come to its end even when its client hangs up.
    pub work: TaskTracker,
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
        .routes(routes!(uploads::list_uploads))
        .routes(routes!(uploads::abort_upload))
        .routes(routes!(health::get_capabilities))
        .routes(routes!(health::get_healthz))
        .routes(routes!(health::get_readyz))
        .routes(routes!(health::get_openapi))
        .split_for_parts();
    openapi::optional_bodies(&mut document);
    (router, document)
}

/// The OpenAPI document of what is served.
pub fn document() -> &'static OpenApi {
    static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(|| operations().1);
    &DOCUMENT
}

/// The whole surface, ready to serve.
pub fn router(state: AppState) -> Router {
    let served = operations()
        .0
        .with_state(state)
        .merge(SwaggerUi::new("/docs").config(Config::from("/openapi.json")))
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::no_such_method);
    middleware::wrap(served)
}
