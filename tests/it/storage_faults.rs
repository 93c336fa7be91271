//! A storage that fails, freezes, or does the work and then reports failure, at every step of every
//! kind of write.
//!
//! Whatever happens at whichever step: what was acknowledged is there once, what was refused is not
//! there, and an error that leaves it open (5xx) is settled by the same request again where it has a
//! key. Versions have no gaps, Lance itself reads the table, and the next write works.

use std::time::Duration;

use futures::future::join_all;
use tiltyard::model::Clock;
use tiltyard::server::Parts;

use crate::support::faults::{Fault, Faults, Rule, Step, Steps, as_object_store};
use crate::support::writes::{Contents, KINDS, Kind, Write};
use crate::support::{Backend, Reply, TestServer};

/// How many cases run side by side.
const AT_ONCE: usize = 4;
/// No kind of write has as many steps.
const MOST_STEPS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any lease: to a server whose clock is ahead by this another that still works is dead.
const AHEAD_US: i64 = 15 * 60 * 1_000_000;
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

/// Runs a case at every step: those of a wave side by side, until there is no such step. Answers how
/// many there were.
async fn at_every_step<F: Future<Output = bool>>(run: impl Fn(usize) -> F) -> usize {
    let mut steps = 0;
    for wave in (0..MOST_STEPS).step_by(AT_ONCE) {
        let fired = join_all((wave..wave + AT_ONCE).map(&run)).await;
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
async fn fail_at(server: &TestServer, faults: &Faults, case: Case) -> bool {
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
    if case.kind == Kind::BatchCommit {
        // A batch that is open is brought to its end by whoever comes next.
        return end_of_batch(&write, server, &reply, &context).await;
    }
    assert_honest(&write, server, &reply, &context).await;
    if reply.status != 200 {
        if case.kind.is_settled_by_a_retry() {
            settle(&write, server, &context).await;
        } else if write.contents(server).await == write.before {
            let again = send(&write, server, &context).await;
            assert_eq!(again.status, 200, "again: {}, {context}", again.text());
        }
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

async fn faulty(backend: Backend) -> Option<(TestServer, Faults)> {
    let faults = Faults::default();
    let server = TestServer::spawn_of(backend, faults.parts(), as_object_store).await?;
    server.create_namespace("ns").await;
    Some((server, faults))
}

async fn every_step_fails(backend: Backend, steps: Steps, tried: &[Fault]) {
    let Some((server, faults)) = faulty(backend).await else { return };
    for kind in KINDS {
        for fault in tried {
            let run = |at| fail_at(&server, &faults, Case { kind, steps, at, fault: *fault });
            let count = at_every_step(run).await;
            println!("{kind:?} {fault:?}: {count} {steps:?}");
            assert!(count >= 2, "{kind:?} has {count} {steps:?}");
        }
    }
}

const FAILURES: [Fault; 2] = [Fault::FailBefore, Fault::FailAfter];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_to_storage_fails_on_sqlite() {
    every_step_fails(Backend::Sqlite, Steps::Writes, &FAILURES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_to_storage_fails_on_postgres() {
    every_step_fails(Backend::Postgres, Steps::Writes, &FAILURES).await;
}

/// A read that fails after it was done is one that failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_of_storage_fails() {
    every_step_fails(Backend::Sqlite, Steps::Reads, &FAILURES[..1]).await;
}

/// A server that stops dead at a step, while another goes on, takes over what it held, and then sees
/// it come back to life and do the rest.
async fn freeze_at(dead: &TestServer, other: &TestServer, faults: &Faults, case: Case) -> bool {
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
    let mut expected = match (&taken_over, late) {
        (TakenOver::Settled(settled), 200 | 500 | 503) => vec![settled.clone()],
        (TakenOver::Open(open), 500 | 503) => open.clone(),
        (TakenOver::Open(open), 200) => open[1..].to_vec(),
        (TakenOver::Open(open), 400..=499) => open[..1].to_vec(),
        _ => panic!("the first request was told {late} in the end: {context}"),
    };
    if case.kind == Kind::Update {
        // The update may see the row that came meanwhile, or not.
        let mut moved = write.after.and(101);
        moved.versions = expected.last().expect("one").versions.clone();
        expected.push(moved);
    }
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
    if write.kind == Kind::Create {
        let found = write.contents(other).await;
        assert!(found.is_none() || found.as_ref() == Some(&write.after), "{context}");
        return TakenOver::Open(vec![write.after.clone(); 2]);
    }
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

async fn every_step_freezes(backend: Backend) {
    let Some((dead, faults)) = faulty(backend).await else { return };
    let ahead = Parts { clock: Clock::ahead_by(|| AHEAD_US), ..Parts::default() };
    let other = dead.beside_of(ahead).await;
    for kind in KINDS {
        for fault in [Fault::FreezeBefore, Fault::FreezeAfter] {
            let run = |at| {
                let case = Case { kind, steps: Steps::Writes, at, fault };
                freeze_at(&dead, &other, &faults, case)
            };
            let count = at_every_step(run).await;
            println!("{kind:?} {fault:?}: {count}");
            assert!(count >= 2, "{kind:?} has {count} writes");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_at_every_step_on_sqlite() {
    every_step_freezes(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_at_every_step_on_postgres() {
    every_step_freezes(Backend::Postgres).await;
}
