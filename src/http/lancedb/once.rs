//! Requests that a LanceDB client sends again, under the same `x-request-id`, when it does not know
//! what became of them.

use axum::extract::{FromRequest, FromRequestParts, Request};
use serde::de::DeserializeOwned;

use crate::commit::Once;
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{Database, JsonBytes, parse_json};
use crate::model::Caller;

const REQUEST_ID: &str = "x-request-id";

/// A JSON body, as [`crate::http::extract::Json`], and the key under which its request takes effect
/// once; none for a client that gives its requests no ids.
pub(in crate::http) struct Retried<T>(pub(in crate::http) T, pub(in crate::http) Option<Once>);

impl<T: DeserializeOwned> FromRequest<AppState> for Retried<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, state).await?;
        let database = Database::from_request_parts(&mut parts, state).await?;
        let route = format!("{} {}", parts.method, parts.uri);
        let id = parts.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let JsonBytes(bytes) =
            JsonBytes::from_request(Request::from_parts(parts, body), state).await?;
        let id = id.filter(|id| !id.is_empty());
        let database = database.namespace().map(|name| name.to_string()).unwrap_or_default();
        let once = id.map(|id| Once::of_request(&caller, &database, &route, &id, &bytes));
        Ok(Self(parse_json(&bytes)?, once))
    }
}
