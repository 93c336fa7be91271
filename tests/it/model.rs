//! Sequences of writes, by two servers and by others past them, beside a plain model of what tables
//! hold: after each step both servers and Lance itself tell what the model tells.
//!
//! The storage of a server may fail or freeze at any step of a commit, which is then sent again to
//! the other server under its key. One server's clock is ahead of the other's by more than a lease,
//! so that what the other holds and does not finish is taken over.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use proptest::prelude::*;
use proptest::sample::Index;
use reqwest::Method;
use serde_json::{Value, json};
use tiltyard::config::Settings;
use tiltyard::model::Clock;
use tiltyard::server::Parts;
use uuid::Uuid;

use crate::support::batches::{batch, batch_ab, ints};
use crate::support::faults::{Fault, Faults, Steps, as_object_store, plain};
use crate::support::fuzz::{runner, runtime};
use crate::support::staging::stage;
use crate::support::writes::{Contents, contents};
use crate::support::{Backend, Reply, TestServer, foreign, table};

/// How many sequences a quick run has time for.
const CASES: u32 = 5;
/// How many cases of a cheap test one of these takes as long as.
const COST: u32 = 500;
/// The longest sequence.
const MOST_STEPS: usize = 12;
const TRIES: usize = 5;
/// Longer than the lease of a key, and less than what clocks may differ by.
const LEASE_US: i64 = 45 * 1_000_000;
/// Longer than an upload lives, and than an answer is kept.
const DAY_US: i64 = 25 * 60 * 60 * 1_000_000;
const PATIENCE: Duration = Duration::from_secs(90);

/// Whether a commit goes on top of what others put meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnConflict {
    Rebase,
    Fail,
}

/// What is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Uploads,
    Fragments,
    Overwrite,
    /// A new column for one fragment.
    Columns,
}

/// A fault at one of the first steps that change storage.
type Trouble = Option<(Fault, usize)>;

#[derive(Debug, Clone)]
enum Op {
    /// Against a version that lies so many back.
    Commit {
        what: What,
        back: usize,
        on_conflict: OnConflict,
        trouble: Trouble,
    },
    Insert {
        trouble: Trouble,
    },
    Update,
    Delete(Index),
    /// A commit of before, once more.
    Replay(Index),
    /// Its key, with another body.
    OtherBody(Index),
    /// Several appends at once, to both servers.
    AtOnce(usize),
    /// Past the servers.
    Foreign,
    /// One version of each table; refused when one of them moves on first.
    Batch {
        moves_on: bool,
    },
    /// An upload that is aborted, or so late that it has expired.
    Abort,
    Expire,
}

#[derive(Debug, Clone)]
struct Step {
    server: usize,
    table: usize,
    op: Op,
}

fn troubles() -> impl Strategy<Value = Trouble> {
    let faults = [Fault::FailBefore, Fault::FailAfter, Fault::FreezeBefore, Fault::FreezeAfter];
    let fault = prop::sample::select(faults.to_vec());
    prop_oneof![Just(None), (fault, 0..5_usize).prop_map(Some)]
}

fn ops() -> impl Strategy<Value = Op> {
    let what = [What::Uploads, What::Uploads, What::Fragments, What::Overwrite, What::Columns];
    let what = prop::sample::select(what.to_vec());
    let on_conflict = prop::sample::select(vec![OnConflict::Rebase, OnConflict::Fail]);
    let commits = (what, 0..4_usize, on_conflict, troubles());
    prop_oneof![
        10 => commits.prop_map(|(what, back, on_conflict, trouble)| Op::Commit {
            what, back, on_conflict, trouble
        }),
        2 => troubles().prop_map(|trouble| Op::Insert { trouble }),
        1 => Just(Op::Update),
        1 => any::<Index>().prop_map(Op::Delete),
        2 => any::<Index>().prop_map(Op::Replay),
        1 => any::<Index>().prop_map(Op::OtherBody),
        1 => (2..6_usize).prop_map(Op::AtOnce),
        1 => Just(Op::Foreign),
        1 => any::<bool>().prop_map(|moves_on| Op::Batch { moves_on }),
        1 => Just(Op::Abort),
        1 => Just(Op::Expire),
    ]
}

fn sequences() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..2_usize, 0..2_usize, ops());
    let step = step.prop_map(|(server, table, op)| Step { server, table, op });
    prop::collection::vec(step, 1..MOST_STEPS)
}

/// By which kind of operation a version came to be, as far as conflicts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Append,
    Overwrite,
    Other,
}

/// What a table must hold.
#[derive(Debug, Clone)]
struct Model {
    /// Of each version, from the first.
    made: Vec<Made>,
    values: Vec<i32>,
    columns: Vec<String>,
}

impl Model {
    fn new(values: &[i32]) -> Self {
        let columns = ["a", "b"].map(str::to_string).to_vec();
        Self { made: vec![Made::Other], values: values.to_vec(), columns }
    }

    fn newest(&self) -> u64 {
        self.made.len() as u64
    }

    fn append(&mut self, value: i32) {
        self.made.push(Made::Append);
        self.values.push(value);
    }

    /// Lance's rules for a commit against a version.
    fn refuses(&self, what: What, read_version: u64, on_conflict: OnConflict) -> bool {
        let since = &self.made[read_version as usize..];
        match (on_conflict, what) {
            (OnConflict::Fail, _) | (_, What::Columns) => !since.is_empty(),
            (OnConflict::Rebase, _) => since.contains(&Made::Overwrite),
        }
    }

    fn commit(&mut self, what: What, value: i32) {
        match what {
            What::Uploads | What::Fragments => self.append(value),
            What::Overwrite => {
                *self = Self { made: std::mem::take(&mut self.made), ..Self::new(&[value]) };
                self.made.push(Made::Overwrite);
            }
            What::Columns => {
                self.columns.push(format!("c{value}"));
                self.made.push(Made::Other);
            }
        }
    }

    fn contents(&self) -> Contents {
        let mut values = self.values.clone();
        values.sort_unstable();
        Contents { versions: (1..=self.newest()).collect(), values, columns: self.columns.clone() }
    }
}

/// A commit that took effect, with its key.
struct Kept {
    key: String,
    body: Value,
    answer: Value,
}

struct Table {
    id: String,
    location: String,
    model: Model,
    kept: Vec<Kept>,
}

/// Two servers, and how many sequences and values there were.
struct World {
    servers: [TestServer; 2],
    faults: [Faults; 2],
    ahead_us: Arc<AtomicI64>,
    runs: AtomicU32,
}

/// One sequence, on two tables of its own.
struct Run<'a> {
    world: &'a World,
    case: String,
    tables: [Table; 2],
    /// The next value; far enough from the one before for all updates.
    value: i32,
}

impl World {
    async fn new(backend: Backend) -> Option<Self> {
        let ahead_us = Arc::new(AtomicI64::new(0));
        let faults = [Faults::default(), Faults::default()];
        let parts = |faults: &Faults, lead_us: i64| {
            let ahead_us = ahead_us.clone();
            let clock = Clock::ahead_by(move || lead_us + ahead_us.load(Ordering::Relaxed));
            Parts { clock, ..faults.parts() }
        };
        let configure = |settings: &mut Settings| {
            as_object_store(settings);
            // The sweeper is at work all the time.
            settings.gc_interval = Duration::from_millis(200);
        };
        let one = TestServer::spawn_of(backend, parts(&faults[0], 0), configure).await?;
        let two = one.beside_of(parts(&faults[1], LEASE_US)).await;
        one.create_namespace("ns").await;
        Some(Self { servers: [one, two], faults, ahead_us, runs: AtomicU32::new(0) })
    }

    async fn run(&self, steps: &[Step]) {
        let case = format!("m{}", self.runs.fetch_add(1, Ordering::Relaxed));
        let [one, two] = ["a", "b"].map(|letter| format!("ns${case}_{letter}"));
        let tables = [self.table(one, 1_000).await, self.table(two, 2_000).await];
        let mut run = Run { world: self, case, tables, value: 3_000 };
        for (number, step) in steps.iter().enumerate() {
            let context = format!("step {number}, {step:?}");
            run.step(step, &context).await;
            run.check(&context).await;
        }
    }

    async fn table(&self, id: String, value: i32) -> Table {
        self.servers[0].create(&id, &batch_ab(value..value + 1)).await;
        let location = plain(&self.servers[0].location(&id).await).to_string();
        Table { id, location, model: Model::new(&[value]), kept: Vec::new() }
    }
}

impl Run<'_> {
    fn next_value(&mut self) -> i32 {
        self.value += 1_000;
        self.value
    }

    async fn step(&mut self, step: &Step, context: &str) {
        let server = &self.world.servers[step.server];
        let id = self.tables[step.table].id.clone();
        match &step.op {
            Op::Commit { what, back, on_conflict, trouble } => {
                self.commit(step, *what, *back, *on_conflict, *trouble, context).await;
            }
            Op::Insert { trouble } => self.insert(step, *trouble, context).await,
            Op::Update => {
                let body = json!({"updates": [["a", "a + 1"]], "predicate": null});
                server.post(&table(&id, "update"), body).await.ok();
                let model = &mut self.tables[step.table].model;
                model.values.iter_mut().for_each(|value| *value += 1);
                model.made.push(Made::Other);
            }
            Op::Delete(of) => {
                let model = &mut self.tables[step.table].model;
                // Every version has rows, so that columns can be added to it.
                if model.values.len() < 2 {
                    return;
                }
                let value = model.values.remove(of.index(model.values.len()));
                model.made.push(Made::Other);
                let body = json!({"predicate": format!("a = {value}")});
                server.post(&table(&id, "delete"), body).await.ok();
            }
            Op::Replay(of) => self.replay(step, of, context).await,
            Op::OtherBody(of) => self.other_body(step, of, context).await,
            Op::AtOnce(count) => self.at_once(step, *count, context).await,
            Op::Foreign => {
                let value = self.next_value();
                let one = &mut self.tables[step.table];
                foreign::append(&one.location, batch_ab(value..value + 1)).await;
                one.model.append(value);
            }
            Op::Batch { moves_on } => self.batch(step, *moves_on, context).await,
            Op::Abort | Op::Expire => self.lose_upload(step, context).await,
        }
    }

    /// What servers and Lance itself see is what the model tells.
    async fn check(&self, context: &str) {
        for one in &self.tables {
            let expected = one.model.contents();
            for server in &self.world.servers {
                let found = contents(server, &one.id).await;
                assert_eq!(found.as_ref(), Some(&expected), "{}: {context}", one.id);
            }
            let plain = foreign::values(&one.location).await;
            assert_eq!(plain, expected.values, "Lance itself, {}: {context}", one.id);
        }
    }

    /// What is to be committed, as the body of a commit, and the value in it.
    async fn stage(&mut self, step: &Step, what: What, read_version: u64) -> (Value, i32) {
        let value = self.next_value();
        let (server, one) = (&self.world.servers[step.server], &self.tables[step.table]);
        let rows = batch_ab(value..value + 1);
        let (operation, by, staged) = match what {
            What::Uploads => {
                let upload = server.upload(&one.id, &rows).await;
                ("append", "uploads", json!([upload["upload_id"]]))
            }
            What::Fragments => {
                let upload = server.upload(&one.id, &rows).await;
                ("append", "fragments", upload["fragments"].clone())
            }
            What::Overwrite => {
                let path = table(&one.id, "fragments?mode=overwrite");
                let upload = server.upload_to(&path, &rows).await;
                ("overwrite", "uploads", json!([upload["upload_id"]]))
            }
            What::Columns => {
                let (fragment, rows) = first_fragment(&one.location, read_version).await;
                let path = format!("fragments/{fragment}/columns?read_version={read_version}");
                let column = batch(&[(&format!("c{value}"), ints(0..rows))]);
                let upload = server.upload_to(&table(&one.id, &path), &column).await;
                ("merge", "uploads", json!([upload["upload_id"]]))
            }
        };
        let body = json!({"operation": operation, "read_version": read_version, by: staged});
        (body, value)
    }

    async fn commit(
        &mut self,
        step: &Step,
        what: What,
        back: usize,
        on_conflict: OnConflict,
        trouble: Trouble,
        context: &str,
    ) {
        let newest = self.tables[step.table].model.newest();
        let read_version = newest.saturating_sub(back as u64).max(1);
        let (mut body, value) = self.stage(step, what, read_version).await;
        body["on_conflict"] = match on_conflict {
            OnConflict::Rebase => json!("rebase"),
            OnConflict::Fail => json!("fail"),
        };
        let key = Uuid::new_v4().to_string();
        let is_refused = self.tables[step.table].model.refuses(what, read_version, on_conflict);
        let reply = self.send(step, &key, &body, trouble, context).await;
        if is_refused {
            assert_eq!(reply.status, 409, "{}: {context}", reply.text());
            return;
        }
        assert_eq!(reply.status, 200, "{}: {context}", reply.text());
        let one = &mut self.tables[step.table];
        one.model.commit(what, value);
        assert_eq!(reply.body["version"], one.model.newest(), "{context}");
        assert_eq!(reply.body["num_rows"], one.model.values.len(), "{context}");
        one.kept.push(Kept { key, body, answer: reply.body });
    }

    /// Sends a commit until its outcome is known.
    async fn send(
        &self,
        step: &Step,
        key: &str,
        body: &Value,
        trouble: Trouble,
        context: &str,
    ) -> Reply {
        let id = &self.tables[step.table].id;
        // Only the server whose clock is ahead takes over from another that still lives.
        let freezes = matches!(trouble, Some((Fault::FreezeBefore | Fault::FreezeAfter, _)));
        let first = if freezes { 0 } else { step.server };
        let other = &self.world.servers[1 - first];
        let Some((fault, at)) = trouble else {
            return commit(&self.world.servers[first], id, key, body).await;
        };
        let rule = self.world.faults[first].lay(&self.case, Steps::Writes, at, fault);
        let sent = commit(&self.world.servers[first], id, key, body);
        if !freezes {
            let reply = sent.await;
            drop(rule);
            return if reply.status < 500 {
                reply
            } else {
                settle(other, id, key, body, context).await
            };
        }
        let mut sent = Box::pin(sent);
        let mut early = None;
        rule.fired_or(async { early = Some((&mut sent).await) }).await;
        if let Some(reply) = early {
            return if reply.status < 500 {
                reply
            } else {
                settle(other, id, key, body, context).await
            };
        }
        let reply = settle(other, id, key, body, context).await;
        drop(rule);
        let late = tokio::time::timeout(PATIENCE, sent).await;
        let late = late.unwrap_or_else(|_| panic!("no answer after all: {context}"));
        let fits = late.status >= 500 || late.status == reply.status;
        assert!(fits, "{} at last and {} elsewhere: {context}", late.text(), reply.text());
        reply
    }

    /// An insert has no key: an error leaves it open whether the rows are there.
    async fn insert(&mut self, step: &Step, trouble: Trouble, context: &str) {
        let value = self.next_value();
        let (server, one) = (&self.world.servers[step.server], &mut self.tables[step.table]);
        let rule =
            trouble.filter(|(fault, _)| matches!(fault, Fault::FailBefore | Fault::FailAfter));
        let rule = rule.map(|(fault, at)| {
            self.world.faults[step.server].lay(&self.case, Steps::Writes, at, fault)
        });
        let stream = crate::support::batches::ipc(&[batch_ab(value..value + 1)]);
        let reply = server.post_arrow(&table(&one.id, "insert"), stream).await;
        let is_in_trouble = rule.is_some_and(|rule| rule.fired().is_some());
        let landed = match reply.status {
            200 => true,
            _ if !is_in_trouble => panic!("{}: {context}", reply.text()),
            400..=499 => false,
            _ => foreign::values(&one.location).await.contains(&value),
        };
        if landed {
            one.model.append(value);
        }
    }

    async fn replay(&mut self, step: &Step, of: &Index, context: &str) {
        let one = &self.tables[step.table];
        let Some(kept) = pick(&one.kept, of) else { return };
        let server = &self.world.servers[step.server];
        let again = commit(server, &one.id, &kept.key, &kept.body).await;
        assert_eq!(again.status, 200, "{}: {context}", again.text());
        assert_eq!(again.body, kept.answer, "{context}");
    }

    async fn other_body(&mut self, step: &Step, of: &Index, context: &str) {
        let one = &self.tables[step.table];
        let Some(kept) = pick(&one.kept, of) else { return };
        let mut body = kept.body.clone();
        body["properties"] = json!({"other": "body"});
        let server = &self.world.servers[step.server];
        let refused = commit(server, &one.id, &kept.key, &body).await;
        assert_eq!(refused.status, 400, "{}: {context}", refused.text());
    }

    async fn at_once(&mut self, step: &Step, count: usize, context: &str) {
        let version = self.tables[step.table].model.newest();
        let mut staged = Vec::new();
        for _ in 0..count {
            staged.push(self.stage(step, What::Uploads, version).await);
        }
        let one = &self.tables[step.table];
        let replies = join_all(staged.iter().enumerate().map(|(number, (body, _))| {
            let server = &self.world.servers[number % 2];
            async move { commit(server, &one.id, &Uuid::new_v4().to_string(), body).await.ok() }
        }));
        let replies = replies.await;
        let newest = replies.iter().filter_map(|reply| reply["version"].as_u64()).max();
        let newest = newest.expect("versions");
        let model = &mut self.tables[step.table].model;
        let fits = newest > version && newest <= version + count as u64;
        assert!(fits, "version {newest} after {version}: {context}");
        model.values.extend(staged.iter().map(|(_, value)| value));
        model.made.resize(newest as usize, Made::Append);
    }

    async fn batch(&mut self, step: &Step, moves_on: bool, context: &str) {
        let values = [self.next_value(), self.next_value()];
        let mut operations = Vec::new();
        for (one, value) in self.tables.iter().zip(values) {
            let staged = stage(&one.location, batch_ab(value..value + 1)).await;
            operations.push(staged.operation(&["ns", one.id.trim_start_matches("ns$")]));
        }
        let server = &self.world.servers[step.server];
        if moves_on {
            let value = self.next_value();
            let one = &mut self.tables[step.table];
            server.insert(&one.id, &batch_ab(value..value + 1)).await;
            one.model.append(value);
        }
        let reply = server.post("/v1/table/batch-commit", json!({"operations": operations})).await;
        let expected = if moves_on { 409 } else { 200 };
        assert_eq!(reply.status, expected, "{}: {context}", reply.text());
        if !moves_on {
            for (one, value) in self.tables.iter_mut().zip(values) {
                one.model.append(value);
            }
        }
    }

    /// An upload that is gone before its commit.
    async fn lose_upload(&mut self, step: &Step, context: &str) {
        let version = self.tables[step.table].model.newest();
        let (body, value) = self.stage(step, What::Uploads, version).await;
        let (server, one) = (&self.world.servers[step.server], &self.tables[step.table]);
        if matches!(step.op, Op::Abort) {
            let upload = body["uploads"][0].as_str().expect("an upload");
            server.delete(&table(&one.id, &format!("uploads/{upload}"))).await.ok();
        } else {
            self.world.ahead_us.fetch_add(DAY_US, Ordering::Relaxed);
        }
        let reply = commit(server, &one.id, &Uuid::new_v4().to_string(), &body).await;
        // What has expired can be committed until the sweeper comes by, which may be at it just now.
        match (reply.status, &step.op) {
            (200, Op::Expire) => self.tables[step.table].model.append(value),
            (409, Op::Expire) | (400, _) => {}
            _ => panic!("{}: {context}", reply.text()),
        }
        if matches!(step.op, Op::Expire) {
            // Answers are forgotten by then.
            self.tables.iter_mut().for_each(|one| one.kept.clear());
        }
    }
}

fn pick<'a>(kept: &'a [Kept], of: &Index) -> Option<&'a Kept> {
    (!kept.is_empty()).then(|| &kept[of.index(kept.len())])
}

async fn commit(server: &TestServer, id: &str, key: &str, body: &Value) -> Reply {
    let request = server.request(Method::POST, &table(id, "commit"));
    let sent = server.send(request.header("idempotency-key", key).json(body));
    let reply = tokio::time::timeout(PATIENCE, sent).await;
    reply.unwrap_or_else(|_| panic!("no answer to {body}"))
}

/// Sends a commit again until it is known what became of it.
async fn settle(server: &TestServer, id: &str, key: &str, body: &Value, context: &str) -> Reply {
    for _ in 0..TRIES {
        let reply = commit(server, id, key, body).await;
        if reply.status < 500 {
            return reply;
        }
    }
    panic!("no retry settles it: {context}");
}

/// The first fragment of a version, and how many rows live in it.
async fn first_fragment(location: &str, version: u64) -> (u64, i32) {
    let dataset = foreign::open(location).await;
    let dataset = Box::pin(dataset.checkout_version(version)).await.expect("a version");
    let fragments = dataset.get_fragments();
    let fragment = fragments.first().expect("a fragment");
    let rows = fragment.count_rows(None).await.expect("a count");
    (fragment.id() as u64, i32::try_from(rows).expect("few rows"))
}

fn sequences_match_the_model(backend: Backend) {
    let runtime = runtime();
    let Some(world) = runtime.block_on(World::new(backend)) else { return };
    let outcome = runner(CASES, COST).run(&sequences(), |steps| {
        runtime.block_on(world.run(&steps));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn sequences_match_the_model_on_sqlite() {
    sequences_match_the_model(Backend::Sqlite);
}

#[test]
fn sequences_match_the_model_on_postgres() {
    sequences_match_the_model(Backend::Postgres);
}
