//! Every kind of write, as one request to a table of its own, with what the table holds before it
//! and after it took effect once.

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use super::batches::{batch, batch_ab, columns, int_values, ints, ipc};
use super::faults::plain;
use super::parts::Parts;
use super::staging::stage;
use super::{Reply, TestServer, foreign, table};

/// How long a table may be shut by what another left.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    CommitUpload,
    CommitFragments,
    CommitOverwrite,
    CommitColumns,
    Insert,
    Update,
    Delete,
    MergeInsert,
    BatchCommit,
    CommitTables,
    Multipart,
    Create,
}

pub const KINDS: [Kind; 12] = [
    Kind::CommitUpload,
    Kind::CommitFragments,
    Kind::CommitOverwrite,
    Kind::CommitColumns,
    Kind::Insert,
    Kind::Update,
    Kind::Delete,
    Kind::MergeInsert,
    Kind::BatchCommit,
    Kind::CommitTables,
    Kind::Multipart,
    Kind::Create,
];

impl Kind {
    /// Whether the same request again, under the same key, settles what became of the first, whatever
    /// it was. What clients staged is not ours to mark: its version is there, or it is not.
    pub fn is_settled_by_a_retry(self) -> bool {
        self != Self::BatchCommit
    }
}

/// What a table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    pub versions: Vec<u64>,
    /// Column `a`, sorted.
    pub values: Vec<i32>,
    pub columns: Vec<String>,
}

impl Contents {
    fn new(versions: u64, values: impl IntoIterator<Item = i32>) -> Self {
        let columns = ["a", "b"].map(str::to_string).to_vec();
        Self { versions: (1..=versions).collect(), values: values.into_iter().collect(), columns }
    }

    /// With one more row in one more version.
    pub fn and(&self, value: i32) -> Self {
        let mut more = self.clone();
        more.versions.push(self.versions.len() as u64 + 1);
        more.values.push(value);
        more.values.sort_unstable();
        more
    }

    fn of(versions: Vec<u64>, rows: &[RecordBatch]) -> Self {
        let mut values = int_values(rows, "a");
        values.sort_unstable();
        Self { versions, values, columns: columns(rows) }
    }
}

enum Body {
    Json(Value),
    Arrow(Vec<u8>),
    Nothing,
}

/// One request that is ready to be sent, again and again.
pub struct Write {
    pub kind: Kind,
    path: String,
    body: Body,
    key: String,
    /// The tables that it changes alike.
    pub ids: Vec<String>,
    /// `None` for tables that are not there.
    pub before: Option<Contents>,
    pub after: Contents,
}

impl Write {
    /// Makes the tables and whatever else the request needs. The names of the tables begin with
    /// `case_`, in the namespace `ns`, which is there.
    pub async fn prepare(server: &TestServer, kind: Kind, case: &str) -> Self {
        let id = format!("ns${case}_a");
        let mut ids = vec![id.clone()];
        if matches!(kind, Kind::BatchCommit | Kind::CommitTables) {
            ids.push(format!("ns${case}_b"));
        }
        let base = Contents::new(1, 0..3);
        if kind != Kind::Create {
            for id in &ids {
                server.create(id, &batch_ab(0..3)).await;
            }
        }
        let (path, body) = request(server, kind, &ids).await;
        let after = match kind {
            Kind::CommitUpload | Kind::CommitFragments | Kind::Insert => Contents::new(2, 0..5),
            Kind::BatchCommit | Kind::CommitTables => Contents::new(2, 0..5),
            Kind::MergeInsert => Contents::new(2, 0..5),
            Kind::CommitOverwrite => Contents::new(2, [7, 8]),
            Kind::CommitColumns => {
                let columns = ["a", "b", "c"].map(str::to_string).to_vec();
                Contents { columns, ..Contents::new(2, 0..3) }
            }
            Kind::Update => Contents::new(2, 1..4),
            Kind::Delete => Contents::new(2, [0, 2]),
            Kind::Multipart => Contents::new(2, 0..7),
            Kind::Create => base.clone(),
        };
        let before = (kind != Kind::Create).then_some(base);
        Self { kind, path, body, key: Uuid::new_v4().to_string(), ids, before, after }
    }

    pub fn request(&self, server: &TestServer) -> RequestBuilder {
        let request = match &self.body {
            Body::Json(body) => server.request(Method::POST, &self.path).json(body),
            Body::Arrow(stream) => server.arrow_request(&self.path).body(stream.clone()),
            Body::Nothing => server.request(Method::POST, &self.path),
        };
        request.header("idempotency-key", &self.key)
    }

    pub async fn send(&self, server: &TestServer) -> Reply {
        server.send(self.request(server)).await
    }

    /// What the tables hold, as the server tells; `None` when they are not there.
    pub async fn contents(&self, server: &TestServer) -> Option<Contents> {
        let mut all = Vec::new();
        for id in &self.ids {
            all.push(contents(server, id).await);
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "half of it: {all:?}");
        all.pop().flatten()
    }

    /// Adds one row to each table, which has to work at last.
    pub async fn add_one_more(&self, server: &TestServer, value: i32) {
        for id in &self.ids {
            let started = Instant::now();
            loop {
                let stream = ipc(&[batch_ab(value..value + 1)]);
                let reply = server.post_arrow(&table(id, "insert"), stream).await;
                if reply.status == 200 {
                    break;
                }
                let what = format!("{:?}: {}", self.kind, reply.text());
                assert!([409, 503].contains(&reply.status), "{what}");
                assert!(started.elapsed() < PATIENCE, "{id} stays shut: {what}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Lance itself, past the server, sees the same.
    pub async fn assert_plain(&self, server: &TestServer, expected: &Contents, context: &str) {
        for id in &self.ids {
            let location = server.location(id).await;
            let dataset = foreign::open(plain(&location)).await;
            let versions = dataset.versions().await.expect("the versions");
            let versions = versions.iter().map(|version| version.version).collect();
            let rows = foreign::rows(plain(&location)).await;
            let found = Contents::of(versions, &[rows]);
            assert_eq!(found, *expected, "Lance itself, {context}");
        }
    }
}

/// What one table holds, as the server tells.
pub async fn contents(server: &TestServer, id: &str) -> Option<Contents> {
    if !server.exists(id).await {
        return None;
    }
    let rows = server.query(id, json!({"k": 10_000})).await;
    Some(Contents::of(server.versions(id).await, &rows))
}

async fn request(server: &TestServer, kind: Kind, ids: &[String]) -> (String, Body) {
    let id = &ids[0];
    let stream = || Body::Arrow(ipc(&[batch_ab(3..5)]));
    let commit = |operation: &str, by: &str, what: Value| {
        let body = json!({"operation": operation, "read_version": 1, by: what});
        (table(id, "commit"), Body::Json(body))
    };
    match kind {
        Kind::CommitUpload => {
            let upload = server.upload(id, &batch_ab(3..5)).await;
            commit("append", "uploads", json!([upload["upload_id"]]))
        }
        Kind::CommitFragments => {
            let upload = server.upload(id, &batch_ab(3..5)).await;
            commit("append", "fragments", upload["fragments"].clone())
        }
        Kind::CommitOverwrite => {
            let path = table(id, "fragments?mode=overwrite");
            let upload = server.upload_to(&path, &batch_ab(7..9)).await;
            commit("overwrite", "uploads", json!([upload["upload_id"]]))
        }
        Kind::CommitColumns => {
            let path = table(id, "fragments/0/columns?read_version=1");
            let upload = server.upload_to(&path, &batch(&[("c", ints(10..13))])).await;
            commit("merge", "uploads", json!([upload["upload_id"]]))
        }
        Kind::Insert => (table(id, "insert"), stream()),
        Kind::Update => {
            let body = json!({"updates": [["a", "a + 1"]], "predicate": null});
            (table(id, "update"), Body::Json(body))
        }
        Kind::Delete => (table(id, "delete"), Body::Json(json!({"predicate": "a = 1"}))),
        Kind::MergeInsert => {
            let flags = "on=a&when_matched_update_all=true&when_not_matched_insert_all=true";
            let body = Body::Arrow(ipc(&[batch_ab(2..5)]));
            (table(id, &format!("merge_insert?{flags}")), body)
        }
        Kind::BatchCommit => {
            let mut operations = Vec::new();
            for id in ids {
                let location = server.location(id).await;
                let staged = stage(plain(&location), batch_ab(3..5)).await;
                let (namespace, name) = id.split_once('$').expect("a name in a namespace");
                operations.push(staged.operation(&[namespace, name]));
            }
            let body = Body::Json(json!({"operations": operations}));
            ("/v1/table/batch-commit".to_string(), body)
        }
        Kind::CommitTables => {
            let mut commits = Vec::new();
            for id in ids {
                let upload = server.upload(id, &batch_ab(3..5)).await;
                let id: Vec<&str> = id.split('$').collect();
                let uploads = [&upload["upload_id"]];
                commits.push(json!({
                    "id": id, "operation": "append", "read_version": 1, "uploads": uploads,
                }));
            }
            ("/v1/commit".to_string(), Body::Json(json!({"commits": commits})))
        }
        Kind::Multipart => {
            let parts = Parts::begin(server, id).await;
            parts.part("x", &batch_ab(3..5)).await;
            parts.part("y", &batch_ab(5..7)).await;
            let path = format!("multipart_write/complete?upload_id={}", parts.upload);
            (table(id, &path), Body::Nothing)
        }
        Kind::Create => (table(id, "create"), Body::Arrow(ipc(&[batch_ab(0..3)]))),
    }
}
