//! The steps that most tests begin with.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use serde_json::{Value, json};

use super::batches::{batch_ab, int_values, ipc, read_file};
use super::{Reply, TestServer};

const PATIENCE: Duration = Duration::from_secs(15);
const JOB_PATIENCE: Duration = Duration::from_secs(120);

/// The path of an operation on a table; `id` is encoded already, `ns$t` is fine as it is.
pub fn table(id: &str, operation: &str) -> String {
    format!("/v1/table/{id}/{operation}")
}

/// The path of an operation on a namespace.
pub fn namespace(id: &str, operation: &str) -> String {
    format!("/v1/namespace/{id}/{operation}")
}

/// Percent-encodes a name, or an identifier, for a path or a query.
pub fn enc(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// What a failed request must leave as it was.
#[derive(Debug, PartialEq)]
pub struct Snapshot {
    files: Vec<PathBuf>,
    namespaces: Value,
    tables: Value,
}

impl TestServer {
    /// A namespace with this identifier, and a table in it with `rows` rows of `a` and `b`.
    pub async fn with_table(&self, id: &str, rows: i32) -> String {
        let (parent, _) = id.rsplit_once('$').expect("a table in a namespace");
        let path = namespace(parent, "create");
        self.post(&path, json!({"mode": "exist_ok"})).await.ok();
        self.create(id, &batch_ab(0..rows)).await;
        self.location(id).await
    }

    /// A namespace with this identifier, and a declared table in it; gives its location.
    pub async fn with_declared(&self, id: &str) -> String {
        let (parent, _) = id.rsplit_once('$').expect("a table in a namespace");
        let path = namespace(parent, "create");
        self.post(&path, json!({"mode": "exist_ok"})).await.ok();
        let declared = self.post(&table(id, "declare"), json!({})).await.ok();
        text(&declared, "location")
    }

    pub async fn create_namespace(&self, id: &str) -> Value {
        self.post_empty(&namespace(id, "create")).await.ok()
    }

    /// CreateTable, in a namespace that is there.
    pub async fn create(&self, id: &str, rows: &RecordBatch) -> Value {
        let stream = ipc(std::slice::from_ref(rows));
        self.post_arrow(&table(id, "create"), stream).await.ok()
    }

    pub async fn insert(&self, id: &str, rows: &RecordBatch) -> Value {
        let stream = ipc(std::slice::from_ref(rows));
        self.post_arrow(&table(id, "insert"), stream).await.ok()
    }

    pub async fn exists(&self, id: &str) -> bool {
        let reply = self.post_empty(&table(id, "exists")).await;
        assert!([200, 404].contains(&reply.status), "exists answered {}", reply.status);
        reply.status == 200
    }

    /// DescribeTable with all it can tell.
    pub async fn describe(&self, id: &str) -> Value {
        let path = table(id, "describe?load_detailed_metadata=true");
        self.post_empty(&path).await.ok()
    }

    pub async fn location(&self, id: &str) -> String {
        let described = self.post_empty(&table(id, "describe")).await.ok();
        text(&described, "location")
    }

    pub async fn count(&self, id: &str) -> u64 {
        let counted = self.post_empty(&table(id, "count_rows")).await.ok();
        let count = counted.as_u64();
        count.unwrap_or_else(|| panic!("count_rows is no bare integer: {counted}"))
    }

    pub async fn query(&self, id: &str, body: Value) -> Vec<RecordBatch> {
        let reply = self.post(&table(id, "query"), body).await;
        assert_eq!(reply.status, 200, "query: {}", reply.text());
        read_file(&reply.raw)
    }

    /// Column `a` of the newest version, as the server reads it, sorted.
    pub async fn values(&self, id: &str) -> Vec<i32> {
        self.values_of(id, "a").await
    }

    /// As [`Self::values`], of any column.
    pub async fn values_of(&self, id: &str, column: &str) -> Vec<i32> {
        let body = json!({"k": 10_000_000, "columns": {"column_names": [column]}});
        let mut values = int_values(&self.query(id, body).await, column);
        values.sort_unstable();
        values
    }

    /// The numbers of all versions, sorted.
    pub async fn versions(&self, id: &str) -> Vec<u64> {
        let listed = self.post_empty(&table(id, "version/list")).await.ok();
        let versions = listed["versions"].as_array().expect("a list of versions");
        let mut numbers: Vec<u64> = versions
            .iter()
            .map(|version| version["version"].as_u64().expect("a version's number"))
            .collect();
        numbers.sort_unstable();
        numbers
    }

    pub async fn upload(&self, id: &str, rows: &RecordBatch) -> Value {
        self.upload_to(&table(id, "fragments"), rows).await
    }

    /// Uploads to a path, which may have a query.
    pub async fn upload_to(&self, path: &str, rows: &RecordBatch) -> Value {
        let stream = ipc(std::slice::from_ref(rows));
        self.post_arrow(path, stream).await.ok()
    }

    pub async fn commit(&self, id: &str, body: Value) -> Reply {
        self.post(&table(id, "commit"), body).await
    }

    /// Uploads rows and appends them against `read_version`.
    pub async fn append(&self, id: &str, read_version: u64, rows: &RecordBatch) -> Value {
        let upload = self.upload(id, rows).await;
        let body = json!({
            "operation": "append", "read_version": read_version, "uploads": [upload["upload_id"]],
        });
        self.commit(id, body).await.ok()
    }

    /// The names on one page of a listing.
    pub async fn names(&self, path: &str, field: &str) -> Vec<String> {
        let page = self.get(path).await.ok();
        strings(&page[field])
    }

    /// What a job is like once it is over.
    pub async fn ended(&self, job: &str) -> Value {
        let path = format!("/v1/transaction/{job}/describe");
        let started = Instant::now();
        loop {
            let described = self.post(&path, json!({})).await.ok();
            let status = text(&described, "status");
            if !["Queued", "Running"].contains(&status.as_str()) {
                return described;
            }
            assert!(started.elapsed() < JOB_PATIENCE, "the job never ended: {described}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for a job that does well; answers the version that it made or found.
    pub async fn succeeded(&self, job: &str) -> u64 {
        let described = self.ended(job).await;
        assert_eq!(described["status"], "Succeeded", "{described}");
        let version = text(&described["properties"], "version");
        version.parse().expect("the number of a version")
    }

    /// The operations that the server says it serves.
    pub async fn served(&self) -> BTreeSet<String> {
        let capabilities = self.get("/v1/capabilities").await.ok();
        strings(&capabilities["operations"]).into_iter().collect()
    }

    pub async fn snapshot(&self) -> Snapshot {
        Snapshot {
            files: self.files(),
            namespaces: self.get("/v1/namespace/$/list").await.ok()["namespaces"].take(),
            tables: self.get("/v1/table").await.ok()["tables"].take(),
        }
    }

    /// The lake holds these files and no others. What is cleared away behind the answer has some
    /// seconds to be gone.
    pub async fn assert_files(&self, expected: &[PathBuf], after: &str) {
        let started = Instant::now();
        while self.files() != expected && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.files(), expected, "files left behind by {after}");
    }

    /// Nothing was left behind since `before`, and the server answers as before. What is cleared
    /// away behind the answer has some seconds to be gone.
    pub async fn assert_unchanged(&self, before: &Snapshot, after: &str) {
        let started = Instant::now();
        while self.snapshot().await != *before && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.snapshot().await, *before, "left behind by {after}");
        self.get("/readyz").await.ok();
    }
}

/// A list of texts.
#[track_caller]
pub fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array();
    let list = list.expect("a list of names").iter();
    list.map(|name| name.as_str().expect("a name").to_string()).collect()
}

/// A field that must be there and be text.
#[track_caller]
pub fn text(body: &Value, field: &str) -> String {
    let value = body[field].as_str();
    value.unwrap_or_else(|| panic!("no `{field}` in {body}")).to_string()
}
