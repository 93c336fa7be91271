//! Tables of `a` and `b` on main and on a branch, and what changes made of them.

use serde_json::{Value, json};

use super::batches::{int_values, read_file, text_values};
use super::{TestServer, table, text};

/// `a`, and `b` as text.
pub type Row = (i32, Option<String>);

/// The branches that a test goes through.
pub const LINES: [Option<&str>; 2] = [None, Some("side")];

/// A value and its name in this letter.
pub fn row(letter: &str, value: i32) -> Row {
    (value, Some(format!("{letter}{value}")))
}

pub fn rows_of(letter: &str, values: std::ops::Range<i32>) -> Vec<Row> {
    values.map(|value| row(letter, value)).collect()
}

/// All rows, sorted.
pub async fn rows(server: &TestServer, id: &str, branch: Option<&str>) -> Vec<Row> {
    let body = json!({"k": 10_000, "branch": branch});
    let reply = server.post(&table(id, "query"), body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let found = read_file(&reply.raw);
    let mut rows: Vec<Row> =
        int_values(&found, "a").into_iter().zip(text_values(&found, "b")).collect();
    rows.sort();
    rows
}

/// The newest version, as the listing tells it.
pub async fn newest(server: &TestServer, id: &str, branch: Option<&str>) -> Value {
    let branch = branch.map(|branch| format!("&branch={branch}")).unwrap_or_default();
    let path = table(id, &format!("version/list?descending=true&limit=1{branch}"));
    server.post_empty(&path).await.ok()["versions"][0].take()
}

/// What a change answered is what the listing tells of the newest version.
pub async fn assert_recorded(
    server: &TestServer,
    branch: Option<&str>,
    answer: &Value,
    operation: &str,
) {
    let newest = newest(server, "ns$t", branch).await;
    assert_eq!(newest["version"], answer["version"], "{answer}");
    let metadata = &newest["metadata"];
    assert_eq!(metadata["transaction_id"], json!(text(answer, "transaction_id")), "{newest}");
    assert_eq!(metadata["origin"], "catalog", "{newest}");
    assert_eq!(metadata["operation"], operation, "{newest}");
    assert!(!text(metadata, "committed_by").is_empty(), "{newest}");
}

/// Ten rows, on main and on a branch of it.
pub async fn with_side(server: &TestServer) -> String {
    let location = server.with_table("ns$t", 10).await;
    server.post(&table("ns$t", "branches/create"), json!({"name": "side"})).await.ok();
    location
}
