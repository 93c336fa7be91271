//! Commits to several tables that are taken back: nobody builds on what stood for a moment, and the
//! tables are free again at once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::commit_tables::{append, commit};
use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::faults::{Fault, Faults, Rule, Step, as_object_store, plain};
use crate::support::staging::staging;
use crate::support::{Backend, Reply, TestServer, assert_error, foreign, table};

/// The tables of the commits to several tables.
const ONE: &str = "one_a";
const TWO: &str = "two_b";
/// Less than a batch is left alone whose maker fell silent.
const SOON: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the manifest of a version comes to stand.
fn final_name(version: u64) -> String {
    format!("_versions/{:020}.manifest", u64::MAX - version)
}

fn puts(version: u64) -> impl Fn(&Step) -> bool + Send + 'static {
    let name = final_name(version);
    move |step| step.what == "put" && step.path == name
}

fn begins_a_commit(step: &Step) -> bool {
    step.what == "put" && step.path.starts_with("_transactions/")
}

/// A server whose storage has faults, with the two tables.
async fn faulty(backend: Backend) -> Option<(TestServer, Faults)> {
    let faults = Faults::default();
    let server = TestServer::spawn_of(backend, faults.parts(), as_object_store).await?;
    for name in [ONE, TWO] {
        server.with_table(&format!("ns${name}"), 2).await;
    }
    Some((server, faults))
}

/// One row for each of the tables, committed strictly.
async fn strict_pair(server: &TestServer, value: i32) -> Vec<Value> {
    let mut commits = Vec::new();
    for name in [ONE, TWO] {
        let upload = server.upload(&format!("ns${name}"), &batch_ab(value..value + 1)).await;
        let mut entry = append(name, 1, &[&upload]);
        entry["on_conflict"] = json!("fail");
        commits.push(entry);
    }
    commits
}

async fn until_it_stands(location: &str, version: u64) {
    let started = Instant::now();
    let place = foreign::folder(plain(location)).join(final_name(version));
    while !place.exists() {
        assert!(started.elapsed() < PATIENCE, "version {version} never came to stand");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Somebody commits to a table. Just when Lance looks for what others put, it finds the version of a
/// batch, which is then taken back; only after that the commit is put.
async fn nobody_builds_on_it(
    backend: Backend,
    method: &str,
    body: impl AsyncFn(&TestServer) -> Value,
) {
    let Some((server, faults)) = faulty(backend).await else { return };
    let of_other = Faults::default();
    let other = server.beside_of(of_other.parts()).await;
    let commits = strict_pair(&other, 50).await;
    let (one, two) = (server.location("ns$one_a").await, server.location("ns$two_b").await);
    let probe = final_name(2);
    let looks = move |step: &Step| step.what == "head" && step.path == probe;
    let path = table("ns$one_a", method);
    let body = body(&server).await;

    // It looked for the newest version, which is version 1.
    let rule = faults.lay_at("one", looks, Fault::FreezeAfter);
    let request = server.request(Method::POST, &path).json(&body).send();
    let request = tokio::spawn(request);
    assert!(rule.fired_or(std::future::pending()).await, "nobody looked for version 2");
    // The batch has version 2 of one of its tables and not of the other.
    let stuck = of_other.lay_at("two", puts(2), Fault::FreezeBefore);
    let batch = commit(&other, &commits);
    let rest = async {
        assert!(stuck.fired_or(std::future::pending()).await, "no batch was put");
        until_it_stands(&one, 2).await;
        // Lance looks what others put, and is about to make a version of it, if it may.
        let rule = rule.then(begins_a_commit, Fault::FreezeBefore);
        rule.fired_or(tokio::time::sleep(Duration::from_millis(1_500))).await;
        foreign::append(plain(&two), batch_ab(70..71)).await;
        drop(stuck);
        rule
    };
    let (refused, rule) = futures::join!(batch, rest);
    assert_error(&refused, 409, CONCURRENT_MODIFICATION);
    drop(rule);
    let reply = tokio::time::timeout(PATIENCE, request).await.expect("an answer in time");
    let reply = reply.expect("a task").expect("an answer");
    let (status, text) = (reply.status(), reply.text().await.expect("a text"));
    assert_eq!(status, 200, "{text}");
    let reply: Value = serde_json::from_str(&text).expect("an object");
    assert_eq!(reply["version"], 2, "{reply}");
    let expected = if method == "commit" { vec![0, 1, 60] } else { vec![1] };
    for server in [&server, &other] {
        assert_eq!(server.values("ns$one_a").await, expected);
        assert_eq!(server.versions("ns$one_a").await, [1, 2]);
        assert_eq!(server.values("ns$two_b").await, [0, 1, 70]);
    }
    assert_eq!(foreign::values(plain(&one)).await, expected);
}

async fn a_commit_alone(backend: Backend) {
    let body = async |server: &TestServer| {
        let upload = server.upload("ns$one_a", &batch_ab(60..61)).await;
        json!({
            "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
            "coalesce": false,
        })
    };
    nobody_builds_on_it(backend, "commit", body).await;
}

async fn a_change(backend: Backend) {
    let body = async |_: &TestServer| json!({"predicate": "a = 0"});
    nobody_builds_on_it(backend, "delete", body).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_alone_does_not_build_on_it_on_sqlite() {
    a_commit_alone(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_alone_does_not_build_on_it_on_postgres() {
    a_commit_alone(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_does_not_build_on_it_on_sqlite() {
    a_change(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_does_not_build_on_it_on_postgres() {
    a_change(Backend::Postgres).await;
}

async fn insert(server: &TestServer, id: &str, value: i32) -> Reply {
    let stream = crate::support::batches::ipc(&[batch_ab(value..value + 1)]);
    server.post_arrow(&table(id, "insert"), stream).await
}

/// Both tables hold what they held and one row more, and take rows at once.
async fn assert_free(servers: &[&TestServer], since: Instant) {
    for (number, server) in (80..).zip(servers) {
        for name in [ONE, TWO] {
            insert(server, &format!("ns${name}"), number).await.ok();
        }
    }
    let took = since.elapsed();
    assert!(took < SOON, "the tables were shut for {took:?}");
    let values = [0, 1].into_iter().chain((80..).take(servers.len())).collect::<Vec<i32>>();
    for name in [ONE, TWO] {
        let id = format!("ns${name}");
        assert_eq!(servers[0].values(&id).await, values, "{id}");
        let location = servers[0].location(&id).await;
        assert_eq!(foreign::values(plain(&location)).await, values, "{id}");
        let versions = servers[0].versions(&id).await;
        assert_eq!(versions, (1..=values.len() as u64 - 1).collect::<Vec<_>>(), "{id}");
    }
}

/// Sends a batch of which storage does not take one version; the other stands.
async fn cut_in_half(server: &TestServer, rule: Rule) -> (Vec<Value>, Rule) {
    let commits = strict_pair(server, 50).await;
    let refused = commit(server, &commits).await;
    assert!([500, 503].contains(&refused.status), "{}", refused.text());
    assert!(rule.fired().is_some(), "storage took it: {}", refused.text());
    assert!(!refused.text().contains("the storage of the test"), "{}", refused.text());
    (commits, rule)
}

async fn its_maker_takes_it_back(backend: Backend) {
    let Some((server, faults)) = faulty(backend).await else { return };
    let other = server.beside().await;
    let rule = faults.lay_at("two", puts(2), Fault::FailAll);
    let (commits, rule) = cut_in_half(&server, rule).await;
    let since = Instant::now();
    drop(rule);
    assert_free(&[&other, &server], since).await;
    // What was uploaded for it was given back.
    let commits = commits.into_iter().map(|mut entry| {
        entry["on_conflict"] = json!("rebase");
        entry
    });
    commit(&server, &commits.collect::<Vec<_>>()).await.ok();
    for name in [ONE, TWO] {
        assert_eq!(server.values(&format!("ns${name}")).await, [0, 1, 50, 80, 81]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_maker_takes_it_back_on_sqlite() {
    its_maker_takes_it_back(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_maker_takes_it_back_on_postgres() {
    its_maker_takes_it_back(Backend::Postgres).await;
}

/// Storage does not even let it be taken back for a while: the tables are shut so long, nobody sees
/// the half that stands, and they open as soon as it does.
async fn its_maker_goes_on_taking_it_back(backend: Backend) {
    let Some((server, faults)) = faulty(backend).await else { return };
    let other = server.beside().await;
    let stays = |step: &Step| step.what == "delete" && step.path.starts_with("_versions/");
    let kept = faults.lay_at("one", stays, Fault::FailAll);
    let rule = faults.lay_at("two", puts(2), Fault::FailAll);
    let (_, rule) = cut_in_half(&server, rule).await;
    assert!(kept.fired().is_some(), "it was taken back");
    let one = server.location("ns$one_a").await;
    assert_eq!(foreign::values(plain(&one)).await, [0, 1, 50], "the half that stands");
    for server in [&server, &other] {
        assert_eq!(server.values("ns$one_a").await, [0, 1]);
        assert_eq!(server.versions("ns$one_a").await, [1]);
    }
    let since = Instant::now();
    drop(rule);
    drop(kept);
    assert_free(&[&other, &server], since).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_maker_goes_on_taking_it_back_on_sqlite() {
    its_maker_goes_on_taking_it_back(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_maker_goes_on_taking_it_back_on_postgres() {
    its_maker_goes_on_taking_it_back(Backend::Postgres).await;
}

/// A writer past the server builds on the half that stands, so that it cannot be taken back: then the
/// other half follows.
async fn what_others_built_on_is_completed(backend: Backend) {
    let Some((server, faults)) = faulty(backend).await else { return };
    let mut commits = strict_pair(&server, 50).await;
    for entry in &mut commits {
        entry["on_conflict"] = json!("rebase");
    }
    let (one, two) = (server.location("ns$one_a").await, server.location("ns$two_b").await);
    let stuck = faults.lay_at("two", puts(2), Fault::FreezeBefore);
    let rest = async {
        assert!(stuck.fired_or(std::future::pending()).await, "no batch was put");
        until_it_stands(&one, 2).await;
        foreign::append(plain(&one), batch_ab(90..91)).await;
        foreign::append(plain(&two), batch_ab(70..71)).await;
        drop(stuck);
    };
    let (reply, ()) = futures::join!(commit(&server, &commits), rest);
    let done = reply.ok();
    let versions: Vec<_> = (0..2).map(|entry| done["commits"][entry]["version"].clone()).collect();
    assert_eq!(versions, [2, 3], "{done}");
    assert_eq!(server.values("ns$one_a").await, [0, 1, 50, 90]);
    assert_eq!(server.values("ns$two_b").await, [0, 1, 50, 70]);
    assert_eq!(server.versions("ns$one_a").await, [1, 2, 3]);
    for name in [ONE, TWO] {
        let listed = server.get(&table(&format!("ns${name}"), "uploads")).await.ok();
        assert_eq!(listed["uploads"], json!([]), "{name}");
        insert(&server, &format!("ns${name}"), 91).await.ok();
    }
    for location in [&one, &two] {
        assert_eq!(staging(plain(location)), Vec::<PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_built_on_is_completed_on_sqlite() {
    what_others_built_on_is_completed(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_built_on_is_completed_on_postgres() {
    what_others_built_on_is_completed(Backend::Postgres).await;
}
