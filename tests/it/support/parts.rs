//! Multipart writes, as a LanceDB client makes them.

use arrow::array::RecordBatch;
use reqwest::Method;
use serde_json::Value;

use super::batches::ipc;
use super::steps::{table, text};
use super::{Reply, TestServer};

/// A multipart write to a table; `of` is its branch, as `&branch=side`, or empty.
pub struct Parts<'a> {
    pub server: &'a TestServer,
    pub id: String,
    pub of: String,
    pub upload: String,
}

impl<'a> Parts<'a> {
    pub async fn begin(server: &'a TestServer, id: &str) -> Self {
        Self::begin_on(server, id, "").await
    }

    pub async fn begin_on(server: &'a TestServer, id: &str, of: &str) -> Self {
        let path = table(id, &format!("multipart_write/create?{of}"));
        let begun = server.post_empty(&path).await.ok();
        let upload = text(&begun, "upload_id");
        Self { server, id: id.into(), of: of.into(), upload }
    }

    /// The same, asked of another server, table or branch.
    pub fn seen(&self, server: &'a TestServer, id: &str, of: &str) -> Self {
        Self { server, id: id.into(), of: of.into(), upload: self.upload.clone() }
    }

    /// The path to which parts go; `more` is the rest of the query, as `&upload_part_id=x`.
    pub fn path(&self, more: &str) -> String {
        table(&self.id, &format!("insert/?upload_id={}{}{more}", self.upload, self.of))
    }

    pub async fn send(&self, more: &str, rows: &RecordBatch) -> Reply {
        let stream = ipc(std::slice::from_ref(rows));
        self.server.post_arrow(&self.path(more), stream).await
    }

    /// A part of this name.
    pub async fn part(&self, name: &str, rows: &RecordBatch) {
        self.send(&format!("&upload_part_id={name}"), rows).await.ok();
    }

    /// Completes it, or aborts it: neither sends a body, or says of what kind it would be.
    async fn end(&self, how: &str) -> Reply {
        let path = format!("multipart_write/{how}?upload_id={}{}", self.upload, self.of);
        self.server.send(self.server.request(Method::POST, &table(&self.id, &path))).await
    }

    pub async fn complete(&self) -> Reply {
        self.end("complete").await
    }

    /// The version that it became.
    pub async fn completed(&self) -> u64 {
        version(&self.complete().await.ok())
    }

    pub async fn abort(&self) -> Reply {
        self.end("abort").await
    }
}

#[track_caller]
pub fn version(body: &Value) -> u64 {
    body["version"].as_u64().unwrap_or_else(|| panic!("no version in {body}"))
}
