//! Operations of the spec that are not built yet. Each answers code 0, by name.

use axum::Router;
use axum::routing::post;

use super::AppState;
use super::error::ApiError;
use crate::error::Error;

/// Operation and path; all are `POST`.
pub(super) const OPERATIONS: [(&str, &str); 2] = [
    ("RefreshMaterializedView", "/v1/materialized_view/{id}/refresh"),
    ("CreateMaterializedView", "/v1/materialized_view/{id}/create"),
];

pub(super) fn routes() -> Router<AppState> {
    OPERATIONS.iter().fold(Router::new(), |router, (operation, path)| {
        router.route(path, post(move || async move { refuse(operation) }))
    })
}

fn refuse(operation: &str) -> ApiError {
    Error::Unsupported(format!("{operation} is not served yet")).into()
}
