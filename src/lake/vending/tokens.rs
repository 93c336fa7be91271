//! How the token services of Azure and Google are spoken to.

use std::time::{Duration, SystemTime};

use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use serde_json::Value;

use super::unavailable;
use crate::error::{Error, Result};

/// How much of what a service says went wrong goes to the log, in characters.
const SAID: usize = 300;

/// # Errors
/// `Internal` when there can be no TLS.
pub(super) fn client() -> Result<Client> {
    Client::builder().build().map_err(|error| Error::internal("making an HTTP client", error))
}

/// Pairs as a form or a query has them.
pub(super) fn encoded(pairs: &[(&str, &str)]) -> String {
    let url = Url::parse_with_params("form:", pairs);
    url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}

/// A request with a form as its body.
pub(super) fn form(request: RequestBuilder, pairs: &[(&str, &str)]) -> RequestBuilder {
    let kind = "application/x-www-form-urlencoded";
    request.header("content-type", kind).body(encoded(pairs))
}

/// Sends a request, and reads what comes.
///
/// # Errors
/// `ServiceUnavailable` for anything but a success.
pub(super) async fn answer(service: &str, request: RequestBuilder) -> Result<String> {
    // An error of the client shows its URL, which may hold more than the log should.
    let failed = |error: reqwest::Error| unavailable(format!("{service}: {}", error.without_url()));
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let body = response.text().await.map_err(failed)?;
    if status.is_success() {
        return Ok(body);
    }
    Err(unavailable(format!("{service}: {status} {}", said(&body))))
}

/// What a service says went wrong, in the two shapes that they have.
fn said(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let texts = [&body["error"], &body["error_description"], &body["error"]["message"]];
    let texts: Vec<&str> = texts.iter().filter_map(|text| text.as_str()).collect();
    texts.join(": ").chars().take(SAID).collect()
}

/// As [`answer`], of JSON.
pub(super) async fn json<T: for<'a> Deserialize<'a>>(
    service: &str,
    request: RequestBuilder,
) -> Result<T> {
    let body = answer(service, request).await?;
    // What does not parse is not shown: it may be a token.
    serde_json::from_str(&body)
        .map_err(|_| unavailable(format!("{service}: not what was asked for")))
}

/// A time as milliseconds since the Unix epoch.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time after `seconds`.
pub(super) fn in_seconds(seconds: u64) -> SystemTime {
    let now = SystemTime::now();
    now.checked_add(Duration::from_secs(seconds)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_encoded() {
        assert_eq!(encoded(&[("a", "b c&d"), ("e", "+/=:")]), "a=b+c%26d&e=%2B%2F%3D%3A");
    }

    #[test]
    fn what_went_wrong_is_said_and_nothing_else() {
        let oauth = r#"{"error": "invalid_grant", "error_description": "no", "token": "hush"}"#;
        assert_eq!(said(oauth), "invalid_grant: no");
        assert_eq!(said(r#"{"error": {"code": 403, "message": "not you"}}"#), "not you");
        assert_eq!(said("hush"), "");
    }
}
