//! The LanceDB dialect: what the LanceDB SDKs speak to a server of theirs, one file per noun.
//!
//! Its operations on tables end in a slash, which is all that tells most of them from those of the
//! namespace dialect. They are not in the OpenAPI document: their clients are LanceDB's own, and the
//! same operations are there for everyone else.

pub(super) mod blobs;
pub(super) mod branches;
pub(super) mod changes;
pub(super) mod columns;
pub(super) mod data;
mod deadline;
pub(super) mod indexes;
pub(super) mod jobs;
pub(super) mod multipart;
pub(super) mod once;
pub(super) mod query;
pub(super) mod tables;
pub(super) mod tags;
pub(super) mod versions;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::error::{ApiResult, Dialect};
use super::extract::{Query, TablePath, named};
use super::namespace::tables::get_table_on;
use crate::error::{Error, Result};
use crate::model::{Page, PageScope, Table};

/// The newest version of the table, with which a client asks for no older one later.
pub(super) const VERSION: HeaderName = HeaderName::from_static("x-lancedb-version");

/// A reply about a version of a table.
pub(super) struct At<T>(pub(super) u64, pub(super) T);

impl<T: IntoResponse> IntoResponse for At<T> {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        response.headers_mut().insert(VERSION, HeaderValue::from(self.0));
        response
    }
}

#[derive(serde::Deserialize)]
struct OfBranch {
    branch: Option<String>,
}

/// Says that the answer is for a client of LanceDB, and at which version the table is where the
/// operation has not said so.
pub(super) async fn speak(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let table = named::<TablePath>(&mut parts).await;
    let branch = Query::<OfBranch>::from_request_parts(&mut parts, &()).await;
    let mut response = next.run(Request::from_parts(parts, body)).await;
    response.extensions_mut().insert(Dialect::LanceDb);
    if let (Ok(TablePath(id, _)), Ok(Query(of))) = (table.as_deref(), branch)
        && response.status() == StatusCode::OK
        && !response.headers().contains_key(VERSION)
        && let Ok(table) = get_table_on(&state, id, of.branch.as_deref()).await
        && let Some(version) = newest(&state, &table).await
    {
        response.headers_mut().insert(VERSION, HeaderValue::from(version));
    }
    response
}

/// What has been done stays done, so that a failure here is none.
async fn newest(state: &AppState, table: &Table) -> Option<u64> {
    let latest = state.engine.latest(table).await.ok()?;
    latest.map(|version| version.manifest.version)
}

/// The answer for an operation of LanceDB's that is not served.
pub(super) async fn not_served() -> ApiResult<()> {
    Err(Error::Unsupported("this operation is not served".into()).into())
}

/// Every entry of what the engine lists in pages: these clients ask for no further page.
async fn every<T, F>(scope: &str, list: impl Fn(Page) -> F) -> Result<Vec<T>>
where
    F: Future<Output = Result<(Vec<T>, Option<String>)>>,
{
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let scope = PageScope::new(scope, "");
        let page = Page::new(scope, Some(i64::from(Page::MAX_LIMIT)), token.as_deref())?;
        let (entries, next) = list(page).await?;
        found.extend(entries);
        if next.is_none() {
            return Ok(found);
        }
        token = next;
    }
}
