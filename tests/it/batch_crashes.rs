//! A server that is killed in the middle of batches: what it left is all there or not at all.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::batches::batch_ab;
use crate::support::process::{Serving, tiltyard};
use crate::support::staging::{Staged, stage_line};
use crate::support::{Backend, TestServer, foreign, table};

const ROUNDS: usize = 10;
const BATCHES: i32 = 6;
/// How long after the death of its maker a batch may be in the way.
const PATIENCE: Duration = Duration::from_secs(40);

/// Two tables that batches always change together.
struct Pair {
    ids: [String; 2],
    locations: [String; 2],
    lines: [Vec<Staged>; 2],
}

impl Pair {
    async fn new(server: &TestServer, number: usize) -> Self {
        let ids = [format!("ns$a{number}"), format!("ns$b{number}")];
        let mut locations = Vec::new();
        let mut lines = Vec::new();
        for id in &ids {
            let location = server.with_table(id, 1).await;
            let rows = (1..=BATCHES).map(|value| batch_ab(value..value + 1));
            lines.push(stage_line(&location, rows.collect()).await);
            locations.push(location);
        }
        Self {
            ids,
            locations: locations.try_into().expect("two"),
            lines: lines.try_into().expect("two"),
        }
    }

    /// The bodies of the batches; each also declares a table.
    fn bodies(&self) -> Vec<serde_json::Value> {
        let names: Vec<&str> = self.ids.iter().map(|id| id.trim_start_matches("ns$")).collect();
        (0..BATCHES as usize)
            .map(|at| {
                let fresh = json!({"declare_table": {"id": ["ns", format!("{}_{at}", names[0])]}});
                json!({"operations": [
                    self.lines[0][at].operation(&["ns", names[0]]),
                    fresh,
                    self.lines[1][at].operation(&["ns", names[1]]),
                ]})
            })
            .collect()
    }

    /// Both tables are as after the same batch, with the tables that the batches declared, and not
    /// before what was acknowledged.
    async fn assert_whole(&self, server: &TestServer, acknowledged: usize) {
        let (a, b) = loop {
            let a = server.count(&self.ids[0]).await;
            let b = server.count(&self.ids[1]).await;
            // Unless a batch was brought to its end just between.
            if a == server.count(&self.ids[0]).await {
                break (a, b);
            }
        };
        assert_eq!(a, b, "half a batch stands in {:?}", self.ids);
        let done = usize::try_from(a).expect("a small number") - 1;
        assert!(done == acknowledged || done == acknowledged + 1, "{done}, {acknowledged}");
        for at in 0..BATCHES as usize {
            let there = server.exists(&format!("{}_{at}", self.ids[0])).await;
            assert_eq!(there, at < done, "the table that batch {at} declares");
        }
    }

    /// Both can be written to again, and are for Lance itself as they are here.
    async fn assert_alive(&self, server: &TestServer) {
        for (id, location) in self.ids.iter().zip(&self.locations) {
            let started = Instant::now();
            let stream = || crate::support::batches::ipc(&[batch_ab(50..51)]);
            loop {
                let reply = server.post_arrow(&table(id, "insert"), stream()).await;
                if reply.status == 200 {
                    break;
                }
                assert!([409, 503].contains(&reply.status), "{}", reply.text());
                assert!(started.elapsed() < PATIENCE, "{id} stays shut: {}", reply.text());
            }
            assert_eq!(server.values(id).await, foreign::values(location).await);
            let versions = server.versions(id).await;
            assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
        }
    }
}

/// Sends the batches of a pair one after the other until the server dies. Answers how many were
/// acknowledged.
async fn send_until_it_dies(base: String, bodies: Vec<serde_json::Value>) -> usize {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut acknowledged = 0;
    for body in bodies {
        let url = format!("{base}/v1/table/batch-commit");
        match client.post(url).json(&body).send().await {
            Ok(reply) if reply.status() == 200 => acknowledged += 1,
            Ok(reply) => panic!("{}: {:?}", reply.status(), reply.text().await),
            Err(_) => break,
        }
    }
    acknowledged
}

async fn a_killed_server_leaves_no_half(backend: Backend) {
    let Some(mut server) = TestServer::spawn(backend).await else { return };
    let mut left = Vec::new();
    for round in 0..ROUNDS {
        let pair = Pair::new(&server, round).await;
        let lake = server.lake().display().to_string();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--storage-root", &lake];
        let mut command = tiltyard(server.home(), &arguments);
        command.env("TILTYARD_DATABASE", server.database().url());
        let doomed = Serving::start(command);
        let sent = tokio::spawn(send_until_it_dies(doomed.base.clone(), pair.bodies()));
        tokio::time::sleep(Duration::from_millis(20 + 23 * round as u64)).await;
        // SIGKILL.
        drop(doomed);
        let acknowledged = sent.await.expect("the sender");
        // What the dead server was at is nobody's to see, or all of it.
        pair.assert_whole(&server, acknowledged).await;
        left.push((pair, acknowledged));
    }
    let is_cut = |(_, acknowledged): &(Pair, usize)| *acknowledged < BATCHES as usize;
    assert!(left.iter().any(is_cut), "every server was done before it was killed");
    server.restart().await;
    for (pair, acknowledged) in &left {
        pair.assert_whole(&server, *acknowledged).await;
    }
    for (pair, _) in &left {
        pair.assert_alive(&server).await;
    }
    let [a, b] = [0, 1].map(|at| left.iter().map(move |(pair, _)| pair.ids[at].clone()));
    for (a, b) in a.zip(b) {
        assert_eq!(server.count(&a).await, server.count(&b).await, "half a batch came later");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_no_half_on_sqlite() {
    a_killed_server_leaves_no_half(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_no_half_on_postgres() {
    a_killed_server_leaves_no_half(Backend::Postgres).await;
}
