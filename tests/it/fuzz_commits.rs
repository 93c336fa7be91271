//! Commits whose JSON was good and is bent: whatever comes, it is refused and nothing is changed, or
//! it lands and the table can be read.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::support::batches::{batch, batch_ab, ints};
use crate::support::fuzz::{runner, runtime};
use crate::support::{Backend, Reply, TestServer, assert_refused, foreign, table};

/// How many cases a quick run has time for.
const CASES: u32 = 150;
/// How many cases of a cheap test one of these takes as long as.
const COST: u32 = 50;

/// Texts that mean something where they should not be.
const TEXTS: &[&str] = &[
    "",
    ".",
    "..",
    "../x.lance",
    "/etc/passwd",
    "a/../../b",
    "data/x.lance",
    "file:///etc/passwd",
    "s3://elsewhere/x",
    "x\u{0}y",
    "\u{1f}",
    "%2e%2e/x",
    "a\\b",
    "append",
    "overwrite",
    "merge",
    "int32",
    "utf8",
];

/// Numbers and texts that stand at the edge of something.
fn leaves() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-2..5_i64).prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(TEXTS).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        (1..200_000_usize).prop_map(|length| Value::from("x".repeat(length))),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    leaves().prop_recursive(3, 16, 4, |inner| {
        let keys = prop_oneof!["[a-z_]{1,12}", any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// One way to bend a body, at one of its places.
#[derive(Debug, Clone)]
enum Bend {
    Put(Index, Value),
    Remove(Index),
    /// The value of another place.
    Copy(Index, Index),
    /// Once more in the list that it is in.
    Repeat(Index),
    Deepen(Index, u16),
}

fn bends() -> impl Strategy<Value = Bend> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), values()).prop_map(|(at, value)| Bend::Put(at, value)),
        2 => at().prop_map(Bend::Remove),
        2 => (at(), at()).prop_map(|(to, from)| Bend::Copy(to, from)),
        1 => at().prop_map(Bend::Repeat),
        1 => (at(), any::<u16>()).prop_map(|(at, depth)| Bend::Deepen(at, depth % 1_000)),
    ]
}

/// The places of a body, as JSON pointers, itself excepted.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut inner = |key: &str, value: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        let place = format!("{at}/{key}");
        found.push(place.clone());
        places(value, &place, found);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| inner(key, value)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(key, value)| inner(&key.to_string(), value));
        }
        _ => {}
    }
}

fn bend(body: &mut Value, bend: &Bend) {
    let mut found = Vec::new();
    places(body, "", &mut found);
    if found.is_empty() {
        return;
    }
    let place = |at: &Index| found[at.index(found.len())].clone();
    match bend {
        Bend::Put(at, value) => put(body, &place(at), value.clone()),
        Bend::Copy(to, from) => {
            let value = body.pointer(&place(from)).cloned().unwrap_or_default();
            put(body, &place(to), value);
        }
        Bend::Deepen(at, depth) => {
            let mut value = json!([]);
            for _ in 0..*depth {
                value = Value::Array(vec![value]);
            }
            put(body, &place(at), value);
        }
        Bend::Remove(at) | Bend::Repeat(at) => {
            let place = place(at);
            let (parent, key) = place.rsplit_once('/').expect("a place in the body");
            match body.pointer_mut(parent) {
                Some(Value::Object(map)) => drop(map.remove(key)),
                Some(Value::Array(list)) => {
                    let index: usize = key.parse().expect("a number");
                    if matches!(bend, Bend::Repeat(_)) {
                        list.push(list[index].clone());
                    } else {
                        list.remove(index);
                    }
                }
                _ => {}
            }
        }
    }
}

fn put(body: &mut Value, place: &str, value: Value) {
    if let Some(there) = body.pointer_mut(place) {
        *there = value;
    }
}

/// A table with uploads that wait, and the bodies of good commits of them.
struct Bench {
    server: TestServer,
    location: String,
    bodies: Vec<Value>,
    versions: u64,
}

impl Bench {
    async fn new() -> Self {
        let server = TestServer::spawn(Backend::Sqlite).await.expect("SQLite is always there");
        let location = server.with_table("ns$t", 3).await;
        let mut bench = Self { server, location, bodies: Vec::new(), versions: 1 };
        bench.stage().await;
        bench
    }

    /// Stages anew, on what the table has come to be.
    async fn stage(&mut self) {
        // Whatever landed, the table has its columns again.
        foreign::overwrite(&self.location, batch_ab(0..3)).await;
        let server = &self.server;
        self.versions = *server.versions("ns$t").await.last().expect("versions");
        let version = self.versions;
        let rows = server.upload("ns$t", &batch_ab(3..5)).await;
        let path = table("ns$t", "fragments?mode=overwrite");
        let other = server.upload_to(&path, &batch_ab(7..9)).await;
        let fragment = newest_fragment(&self.location).await;
        let path = format!("fragments/{fragment}/columns?read_version={version}");
        let column = batch(&[("c", ints(10..13))]);
        let column = server.upload_to(&table("ns$t", &path), &column).await;
        let properties = json!({"k": "v"});
        self.bodies = vec![
            json!({"operation": "append", "read_version": version, "properties": properties,
                "fragments": rows["fragments"], "on_conflict": "rebase", "coalesce": true}),
            json!({"operation": "append", "read_version": version, "id": ["ns", "t"],
                "uploads": [rows["upload_id"]], "branch": null, "schema": rows["schema"]}),
            json!({"operation": "overwrite", "read_version": version,
                "fragments": other["fragments"], "schema": other["schema"]}),
            json!({"operation": "merge", "read_version": version,
                "fragments": [column["fragment"]], "schema": column["schema"]}),
        ];
    }

    async fn send(&self, body: Vec<u8>) -> Reply {
        let request = self.server.request(reqwest::Method::POST, &table("ns$t", "commit"));
        let request = request.header("content-type", "application/json").body(body);
        self.server.send(request).await
    }

    /// What must hold of any answer.
    async fn check(&mut self, reply: &Reply) {
        if reply.status == 200 {
            let count = self.server.count("ns$t").await;
            assert_eq!(reply.body["num_rows"], count, "{}", reply.text());
            let rows = self.server.query("ns$t", json!({"k": 1_000})).await;
            let read: usize = rows.iter().map(|rows| rows.num_rows()).sum();
            assert_eq!(read as u64, count);
            assert_eq!(foreign::rows(&self.location).await.num_rows() as u64, count);
            self.stage().await;
        } else {
            assert_refused(reply);
            let newest = self.server.describe("ns$t").await["version"].as_u64();
            assert_eq!(newest, Some(self.versions), "refused and there: {}", reply.text());
        }
    }
}

async fn newest_fragment(location: &str) -> u64 {
    let dataset = foreign::open(location).await;
    dataset.get_fragments()[0].id() as u64
}

#[test]
fn bent_commits_land_whole_or_not_at_all() {
    let runtime = runtime();
    let bench = runtime.block_on(Bench::new());
    let bench = std::cell::RefCell::new(bench);
    let cases = (any::<Index>(), prop::collection::vec(bends(), 0..4));
    let outcome = runner(CASES, COST).run(&cases, |(of, bent)| {
        let mut bench = bench.borrow_mut();
        let mut body = bench.bodies[of.index(bench.bodies.len())].clone();
        for one in &bent {
            bend(&mut body, one);
        }
        runtime.block_on(async {
            let reply = bench.send(body.to_string().into_bytes()).await;
            bench.check(&reply).await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    // Unbent they are fine, which shows that it was the bending that was refused.
    let mut bench = bench.borrow_mut();
    for number in 0..bench.bodies.len() {
        runtime.block_on(async {
            bench.stage().await;
            let body = bench.bodies[number].to_string().into_bytes();
            let reply = bench.send(body).await;
            assert_eq!(reply.status, 200, "body {number}: {}", reply.text());
        });
    }
}

#[test]
fn bent_bytes_of_commits_land_whole_or_not_at_all() {
    let runtime = runtime();
    let bench = std::cell::RefCell::new(runtime.block_on(Bench::new()));
    let bytes = prop::collection::vec((any::<Index>(), any::<u8>()), 1..4);
    let cases = (any::<Index>(), bytes, prop::option::of(any::<Index>()));
    let outcome = runner(CASES / 2, COST).run(&cases, |(of, bytes, end)| {
        let mut bench = bench.borrow_mut();
        let mut body = bench.bodies[of.index(bench.bodies.len())].to_string().into_bytes();
        for (at, byte) in &bytes {
            let at = at.index(body.len());
            body[at] = *byte;
        }
        body.truncate(end.map_or(body.len(), |end| end.index(body.len())));
        runtime.block_on(async {
            let reply = bench.send(body).await;
            bench.check(&reply).await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// What a file system would stumble over.
#[test]
fn a_name_of_a_file_that_is_too_long_is_refused() {
    let runtime = runtime();
    let mut bench = runtime.block_on(Bench::new());
    for length in [256, 5_000, 200_000] {
        for number in [0, 2, 3] {
            let mut body = bench.bodies[number].clone();
            let last = body["fragments"][0]["files"].as_array().expect("files").len() - 1;
            body["fragments"][0]["files"][last]["path"] = json!("x".repeat(length));
            runtime.block_on(async {
                let reply = bench.send(body.to_string().into_bytes()).await;
                assert_eq!(reply.status, 400, "{length} in body {number}: {}", reply.text());
                bench.check(&reply).await;
            });
        }
    }
}
