//! A storage that fails, freezes, or does the work and then reports failure, at every step of every
//! kind of write.
//!
//! Whatever happens at whichever step: what was acknowledged is there once, what was refused is not
//! there, and an error that leaves it open (5xx) is settled by the same request again where it has a
//! key. Versions have no gaps, Lance itself reads the table, and the next write works.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;
use tiltyard::config::{CommitArbiter, Settings};
use tiltyard::model::Clock;
use tiltyard::server::Parts;

use crate::support::batches::batch_ab;
use crate::support::faults::{Fault, Faults, Rule, Step, Steps, as_object_store, plain};
use crate::support::writes::{Contents, KINDS, Kind, Write, contents};
use crate::support::{Backend, Reply, TestServer, foreign, table};

/// How many cases run side by side.
const AT_ONCE: usize = 4;
/// No kind of write has as many steps.
const MOST_STEPS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);
/// To a server whose clock is ahead by this another that still works is dead: longer than the leases of
/// keys and batches, and less than what clocks may differ by.
const AHEAD_US: i64 = 45 * 1_000_000;
/// How often a request that has a key is sent again.
const TRIES: usize = 5;

/// One case: a write, the fault, and the step at which it is, counted from 0.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    steps: Steps,
    at: usize,
    fault: Fault,
}

impl Case {
    fn name(self) -> String {
        format!("{:?}{:?}{:?}{}", self.kind, self.steps, self.fault, self.at)
    }
}

/// What is known of a case, for messages.
fn told(case: Case, step: &Step, reply: Option<&Reply>) -> String {
    let reply = reply.map(|reply| format!("{} {}", reply.status, reply.text()));
    format!("{case:?} at `{step}`: {}", reply.unwrap_or_default())
}

/// Which steps are tried with which of the faults. With `TILTYARD_TEST_LONG` it is all with all.
#[derive(Clone, Copy, Debug)]
enum Share {
    All,
    /// Every step, with one of two faults: the first at even ones, or at odd ones.
    Even,
    Odd,
    /// Every fourth step: on the other database, since storage does not know which it is.
    Fourth,
}

impl Share {
    fn holds(self, at: usize, fault: usize) -> bool {
        let is_long = std::env::var_os("TILTYARD_TEST_LONG").is_some();
        is_long
            || match self {
                Self::All => true,
                Self::Even => at % 2 == fault % 2,
                Self::Odd => at % 2 != fault % 2,
                Self::Fourth => at % 4 == 1,
            }
    }

    /// No kind of write has fewer of them.
    fn least(self) -> usize {
        match self {
            Self::All | Self::Even | Self::Odd => 2,
            Self::Fourth => 1,
        }
    }
}

/// Runs a case at these steps: those of a wave side by side, until there is no such step. Answers how
/// many there were.
async fn at_every_step<F: Future<Output = bool>>(
    holds: impl Fn(usize) -> bool,
    run: impl Fn(usize) -> F,
) -> usize {
    let mut steps = 0;
    let tried: Vec<usize> = (0..MOST_STEPS).filter(|at| holds(*at)).collect();
    for wave in tried.chunks(AT_ONCE) {
        let fired = join_all(wave.iter().map(|at| run(*at))).await;
        steps += fired.iter().filter(|fired| **fired).count();
        if fired.contains(&false) {
            return steps;
        }
    }
    panic!("more than {MOST_STEPS} steps");
}

async fn send(write: &Write, server: &TestServer, context: &str) -> Reply {
    let reply = tokio::time::timeout(PATIENCE, write.send(server)).await;
    reply.unwrap_or_else(|_| panic!("no answer: {context}"))
}

/// The answer fits what is there, and shows nothing of the storage.
async fn assert_honest(write: &Write, server: &TestServer, reply: &Reply, context: &str) {
    let found = write.contents(server).await;
    let (before, after) = (write.before.clone(), Some(write.after.clone()));
    match reply.status {
        200 => assert_eq!(found, after, "acknowledged and not there, {context}"),
        400..=499 => assert_eq!(found, before, "refused and there, {context}"),
        500 | 503 => assert!(found == before || found == after, "{found:?}, {context}"),
        _ => panic!("{context}"),
    }
    assert!(!reply.text().contains("the storage of the test"), "the storage's words: {context}");
}

/// Sends the request again until it is acknowledged.
async fn settle(write: &Write, server: &TestServer, context: &str) {
    for _ in 0..TRIES {
        let reply = send(write, server, context).await;
        if reply.status == 200 {
            assert_eq!(write.contents(server).await, Some(write.after.clone()), "{context}");
            return;
        }
        assert!(reply.status >= 500, "a retry was told {}: {context}", reply.text());
    }
    panic!("no retry settles it: {context}");
}

/// A fault that is over by the time that the answer is there. Answers whether there was such a step.
async fn fail_at(pair: &Pair, case: Case) -> bool {
    let Pair { server, faults, other } = pair;
    let write = Write::prepare(server, case.kind, &case.name()).await;
    let rule = faults.lay(&case.name(), case.steps, case.at, case.fault);
    let reply = send(&write, server, &format!("{case:?}")).await;
    let fired = rule.fired();
    drop(rule);
    let Some(step) = fired else {
        assert_eq!(reply.status, 200, "no step failed: {}", reply.text());
        return false;
    };
    let context = told(case, &step, Some(&reply));
    if step.is_hint() {
        assert_eq!(reply.status, 200, "a hint is no part of a commit: {context}");
    }
    if !case.kind.is_settled_by_a_retry() {
        // A batch that is open is brought to its end by whoever comes next.
        return end_of_batch(&write, other, &reply, &context).await;
    }
    assert_honest(&write, server, &reply, &context).await;
    if reply.status != 200 {
        settle(&write, if case.at % 2 == 1 { other } else { server }, &context).await;
    }
    assert_eq!(write.contents(server).await, Some(write.after.clone()), "{context}");
    assert_alive(&write, server, &write.after, &context).await;
    true
}

/// A batch is done or not, in all of its tables.
async fn end_of_batch(write: &Write, server: &TestServer, reply: &Reply, context: &str) -> bool {
    let before = write.before.clone().expect("tables");
    write.add_one_more(server, 100).await;
    let found = write.contents(server).await.expect("tables");
    let (undone, done) = (before.and(100), write.after.and(100));
    match reply.status {
        200 => assert_eq!(found, done, "{context}"),
        400..=499 => assert_eq!(found, undone, "{context}"),
        _ => assert!(found == done || found == undone, "{found:?}, {context}"),
    }
    write.assert_plain(server, &found, context).await;
    true
}

/// The next write works, and Lance itself sees what the server sees.
async fn assert_alive(write: &Write, server: &TestServer, contents: &Contents, context: &str) {
    write.add_one_more(server, 100).await;
    let expected = contents.and(100);
    assert_eq!(write.contents(server).await.as_ref(), Some(&expected), "{context}");
    write.assert_plain(server, &expected, context).await;
}

/// A server whose storage has faults, and another beside it, to which it is dead: its clock is ahead.
struct Pair {
    server: TestServer,
    faults: Faults,
    other: TestServer,
}

impl Pair {
    async fn new(backend: Backend, arbiter: CommitArbiter) -> Option<Self> {
        let faults = Faults::default();
        let configure = move |settings: &mut Settings| {
            as_object_store(settings);
            settings.commit_arbiter = arbiter;
        };
        let server = TestServer::spawn_of(backend, faults.parts(), configure).await?;
        let ahead = Parts { clock: Clock::ahead_by(|| AHEAD_US), ..Parts::default() };
        let other = server.beside_of(ahead).await;
        server.create_namespace("ns").await;
        Some(Self { server, faults, other })
    }
}

async fn every_step_fails(
    backend: Backend,
    arbiter: CommitArbiter,
    steps: Steps,
    tried: &[Fault],
    share: Share,
) {
    let Some(pair) = Pair::new(backend, arbiter).await else { return };
    for kind in KINDS {
        let mut count = 0;
        for (number, fault) in tried.iter().enumerate() {
            let run = |at| fail_at(&pair, Case { kind, steps, at, fault: *fault });
            count += at_every_step(|at| share.holds(at, number), run).await;
        }
        let least = match (steps, kind) {
            // They go on top of the version that is kept open: nothing is read of what is known.
            (Steps::Reads, Kind::CommitUpload) => 0,
            (Steps::Reads, Kind::CommitFragments) => 1,
            _ => share.least(),
        };
        assert!(count >= least, "{kind:?} has {count} {steps:?}");
    }
}

const FAILURES: [Fault; 2] = [Fault::FailBefore, Fault::FailAfter];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_to_storage_fails_on_sqlite() {
    let (storage, share) = (CommitArbiter::Storage, Share::Even);
    every_step_fails(Backend::Sqlite, storage, Steps::Writes, &FAILURES, share).await;
}

/// The harder one of the two; what is done next is the same for both databases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_to_storage_fails_on_postgres() {
    let tried = [Fault::FailAfter];
    let (storage, share) = (CommitArbiter::Storage, Share::Fourth);
    every_step_fails(Backend::Postgres, storage, Steps::Writes, &tried, share).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_fails_where_the_catalog_decides() {
    let (catalog, share) = (CommitArbiter::Catalog, Share::Odd);
    every_step_fails(Backend::Sqlite, catalog, Steps::Writes, &FAILURES, share).await;
}

/// A read that fails after it was done is one that failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_of_storage_fails() {
    let tried = [Fault::FailBefore];
    let (storage, share) = (CommitArbiter::Storage, Share::All);
    every_step_fails(Backend::Sqlite, storage, Steps::Reads, &tried, share).await;
}

/// A server that stops dead at a step, while another goes on, takes over what it held, and then sees
/// it come back to life and do the rest.
async fn freeze_at(pair: &Pair, case: Case) -> bool {
    let Pair { server: dead, faults, other } = pair;
    let write = Write::prepare(dead, case.kind, &case.name()).await;
    let rule = faults.lay(&case.name(), case.steps, case.at, case.fault);
    let request = tokio::spawn(write.request(dead).send());
    let mut first = Box::pin(request);
    let mut early = None;
    let came = async { early = Some((&mut first).await) };
    if !rule.fired_or(came).await {
        let reply = early.expect("an answer").expect("a task").expect("an answer");
        assert_eq!(reply.status(), 200, "{case:?}");
        return false;
    }
    let step = rule.fired().expect("a step");
    let context = told(case, &step, None);
    let taken_over = take_over(&write, other, &context).await;
    thaw(rule);
    let late = tokio::time::timeout(PATIENCE, first).await;
    let late = late.unwrap_or_else(|_| panic!("no answer after all: {context}"));
    let late = late.expect("a task").expect("an answer").status().as_u16();
    let found = write.contents(other).await.expect("a table");
    assert_eq!(write.contents(dead).await.as_ref(), Some(&found), "{context}");
    let expected = match (&taken_over, late) {
        (TakenOver::Settled(settled), 200 | 500 | 503) => vec![settled.clone()],
        (TakenOver::Open(open), 500 | 503) => open.clone(),
        (TakenOver::Open(open), 200) => open[1..].to_vec(),
        (TakenOver::Open(open), 400..=499) => open[..1].to_vec(),
        _ => panic!("the first request was told {late} in the end: {context}"),
    };
    assert!(expected.contains(&found), "{late} and {found:?}, not {expected:?}: {context}");
    write.assert_plain(other, &found, &context).await;
    true
}

/// What stood goes on.
fn thaw(rule: Rule) {
    drop(rule);
}

/// What another server made of it.
enum TakenOver {
    /// The request took effect, once, and a row was added.
    Settled(Contents),
    /// A row was added; without the request's effect, and with it.
    Open(Vec<Contents>),
}

async fn take_over(write: &Write, other: &TestServer, context: &str) -> TakenOver {
    if write.kind.is_settled_by_a_retry() {
        settle(write, other, context).await;
        assert_alive(write, other, &write.after, context).await;
        return TakenOver::Settled(write.after.and(100));
    }
    let before = write.before.clone().expect("a table");
    write.add_one_more(other, 100).await;
    let found = write.contents(other).await;
    let (undone, done) = (before.and(100), write.after.and(100));
    if found.as_ref() == Some(&done) {
        return TakenOver::Settled(done);
    }
    assert_eq!(found.as_ref(), Some(&undone), "{context}");
    TakenOver::Open(vec![undone, done])
}

const FREEZES: [Fault; 2] = [Fault::FreezeBefore, Fault::FreezeAfter];

async fn every_step_freezes(
    backend: Backend,
    arbiter: CommitArbiter,
    tried: &[Fault],
    share: Share,
) {
    let Some(pair) = Pair::new(backend, arbiter).await else { return };
    for kind in KINDS {
        let mut count = 0;
        for (number, fault) in tried.iter().enumerate() {
            let steps = Steps::Writes;
            let run = |at| freeze_at(&pair, Case { kind, steps, at, fault: *fault });
            count += at_every_step(|at| share.holds(at, number), run).await;
        }
        assert!(count >= share.least(), "{kind:?} has {count} writes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_at_every_step_on_sqlite() {
    let (storage, share) = (CommitArbiter::Storage, Share::Odd);
    every_step_freezes(Backend::Sqlite, storage, &FREEZES, share).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_at_every_step_on_postgres() {
    let tried = [Fault::FreezeAfter];
    let (storage, share) = (CommitArbiter::Storage, Share::Fourth);
    every_step_freezes(Backend::Postgres, storage, &tried, share).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_where_the_catalog_decides() {
    let (catalog, share) = (CommitArbiter::Catalog, Share::Even);
    every_step_freezes(Backend::Sqlite, catalog, &FREEZES, share).await;
}

/// How many appends wait for each other.
const GROUP: i32 = 6;

/// Appends that come at once and share versions: whatever fails, each is told what became of it.
async fn fail_a_group_at(pair: &Pair, fault: Fault, at: usize) -> bool {
    let Pair { server, faults, .. } = pair;
    let case = format!("group{fault:?}{at}");
    let id = format!("ns${case}_a");
    server.create(&id, &batch_ab(0..3)).await;
    let mut requests = Vec::new();
    for value in 3..3 + GROUP {
        let upload = server.upload(&id, &batch_ab(value..value + 1)).await;
        let uploads = [&upload["upload_id"]];
        requests.push(json!({"operation": "append", "read_version": 1, "uploads": uploads}));
    }
    let send = async |number: usize| {
        let request = server.request(Method::POST, &table(&id, "commit"));
        let request = request.header("idempotency-key", format!("{case} {number}"));
        server.send(request.json(&requests[number])).await
    };
    let rule = faults.lay(&case, Steps::Writes, at, fault);
    let replies = tokio::time::timeout(PATIENCE, join_all((0..requests.len()).map(&send))).await;
    let replies = replies.unwrap_or_else(|_| panic!("no answer: {case}"));
    let Some(step) = rule.fired() else { return false };
    drop(rule);
    let context = format!("{case} at {step}");
    let found = contents(server, &id).await.expect("a table");
    for (number, reply) in replies.iter().enumerate() {
        let value = 3 + number as i32;
        let is_there = found.values.contains(&value);
        match reply.status {
            200 => assert!(is_there, "{value} is acknowledged and not there: {context}"),
            500 | 503 => {}
            _ => panic!("{}: {context}", reply.text()),
        }
        let mut tries = 0;
        while send(number).await.status != 200 {
            tries += 1;
            assert!(tries < TRIES, "no retry settles it: {context}");
        }
    }
    let found = contents(server, &id).await.expect("a table");
    assert_eq!(found.values, (0..3 + GROUP).collect::<Vec<_>>(), "{context}");
    assert_eq!(found.versions, (1..=found.versions.len() as u64).collect::<Vec<_>>(), "{context}");
    let location = server.location(&id).await;
    assert_eq!(foreign::values(plain(&location)).await, found.values, "{context}");
    true
}

async fn every_write_of_groups_fails(backend: Backend) {
    let Some(pair) = Pair::new(backend, CommitArbiter::Storage).await else { return };
    for fault in FAILURES {
        let run = |at| fail_a_group_at(&pair, fault, at);
        let count = at_every_step(|_| true, run).await;
        assert!(count >= 3, "a group has {count} writes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_of_groups_fails_on_sqlite() {
    every_write_of_groups_fails(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_of_groups_fails_on_postgres() {
    every_write_of_groups_fails(Backend::Postgres).await;
}

/// Writes of which nobody asks again what became of them.
const ABANDONED: [Kind; 5] =
    [Kind::CommitUpload, Kind::CommitColumns, Kind::Insert, Kind::Multipart, Kind::Create];

/// Longer than anything is kept that was never committed.
const DAYS_US: i64 = 3 * 24 * 60 * 60 * 1_000_000;

/// Files under a table's folder that no version of it refers to, and that are none of Lance's own.
async fn unused_files(server: &TestServer, write: &Write) -> Vec<String> {
    let id = &write.ids[0];
    let name = id.trim_start_matches("ns$");
    let mut used = HashSet::new();
    if server.exists(id).await {
        let location = server.location(id).await;
        let dataset = foreign::open(plain(&location)).await;
        for version in dataset.versions().await.expect("the versions") {
            let version = Box::pin(dataset.checkout_version(version.version)).await;
            let version = version.expect("a version");
            let files = version.fragments().iter().flat_map(|fragment| fragment.files.clone());
            used.extend(files.map(|file| file.path));
        }
    }
    let folder = server.lake().display().to_string();
    let files = server.files().into_iter().map(|file| file.display().to_string());
    let files = files.filter_map(|file| Some(file.strip_prefix(&folder)?.to_string()));
    let of_table = files.filter(|file| file.starts_with(&format!("/{name}-")));
    of_table
        .filter(|file| {
            let (_, name) = file.rsplit_once('/').expect("a path");
            match file {
                _ if used.is_empty() => true,
                _ if file.contains("/data/") => !used.contains(name),
                _ => file.contains(".manifest-") || name.contains('#'),
            }
        })
        .collect()
}

/// What a write that failed left behind is swept, once its time is over.
async fn what_fails_is_swept(backend: Backend) {
    let faults = Faults::default();
    let configure = |settings: &mut Settings| {
        as_object_store(settings);
        settings.gc_interval = Duration::from_millis(200);
    };
    let server = TestServer::spawn_of(backend, faults.parts(), configure).await;
    let Some(server) = server else { return };
    server.create_namespace("ns").await;
    let mut left = Vec::new();
    for kind in ABANDONED {
        for fault in FAILURES {
            for at in 0..MOST_STEPS {
                let case = Case { kind, steps: Steps::Writes, at, fault };
                let write = Write::prepare(&server, kind, &case.name()).await;
                let rule = faults.lay(&case.name(), case.steps, at, fault);
                let reply = send(&write, &server, &format!("{case:?}")).await;
                let Some(step) = rule.fired() else { break };
                left.push((write, told(case, &step, Some(&reply))));
            }
        }
    }
    // A server that begins looks through all tables, and to this one all of it is days old.
    let late = Parts { clock: Clock::ahead_by(|| DAYS_US), ..Parts::default() };
    let _late = server.beside_of(late).await;
    let started = Instant::now();
    for (write, context) in left {
        loop {
            let unused = unused_files(&server, &write).await;
            if unused.is_empty() {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{unused:?} stay: {context}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let found = write.contents(&server).await;
        assert!(found == write.before || found == Some(write.after), "{found:?}: {context}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_swept_on_sqlite() {
    what_fails_is_swept(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_swept_on_postgres() {
    what_fails_is_swept(Backend::Postgres).await;
}
