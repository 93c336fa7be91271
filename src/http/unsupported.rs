//! Operations of the spec that are not built yet. Each answers code 0, by name.

use axum::Router;
use axum::routing::post;

use super::AppState;
use super::error::ApiError;
use crate::error::Error;

/// Operation and path; all are `POST`.
pub(super) const OPERATIONS: [(&str, &str); 26] = [
    ("RestoreTable", "/v1/table/{id}/restore"),
    ("UpdateTableSchemaMetadata", "/v1/table/{id}/schema_metadata/update"),
    ("CreateTableVersion", "/v1/table/{id}/version/create"),
    ("BatchDeleteTableVersions", "/v1/table/{id}/version/delete"),
    ("BatchCreateTableVersions", "/v1/table/version/batch-create"),
    ("BatchCommitTables", "/v1/table/batch-commit"),
    ("AlterTableAlterColumns", "/v1/table/{id}/alter_columns"),
    ("UpdateFieldMetadata", "/v1/table/{id}/update_field_metadata"),
    ("AlterTableDropColumns", "/v1/table/{id}/drop_columns"),
    ("GetTableStats", "/v1/table/{id}/stats"),
    ("ExplainTableQueryPlan", "/v1/table/{id}/explain_plan"),
    ("AnalyzeTableQueryPlan", "/v1/table/{id}/analyze_plan"),
    ("AlterTableAddColumns", "/v1/table/{id}/add_columns"),
    ("AlterTableBackfillColumns", "/v1/table/{id}/backfill_column"),
    ("RefreshMaterializedView", "/v1/materialized_view/{id}/refresh"),
    ("CreateMaterializedView", "/v1/materialized_view/{id}/create"),
    ("ListTableTags", "/v1/table/{id}/tags/list"),
    ("GetTableTagVersion", "/v1/table/{id}/tags/version"),
    ("CreateTableTag", "/v1/table/{id}/tags/create"),
    ("DeleteTableTag", "/v1/table/{id}/tags/delete"),
    ("UpdateTableTag", "/v1/table/{id}/tags/update"),
    ("ListTableBranches", "/v1/table/{id}/branches/list"),
    ("CreateTableBranch", "/v1/table/{id}/branches/create"),
    ("DeleteTableBranch", "/v1/table/{id}/branches/delete"),
    ("DescribeTransaction", "/v1/transaction/{id}/describe"),
    ("AlterTransaction", "/v1/transaction/{id}/alter"),
];

pub(super) fn routes() -> Router<AppState> {
    OPERATIONS.iter().fold(Router::new(), |router, (operation, path)| {
        router.route(path, post(move || async move { refuse(operation) }))
    })
}

fn refuse(operation: &str) -> ApiError {
    Error::Unsupported(format!("{operation} is not served yet")).into()
}
