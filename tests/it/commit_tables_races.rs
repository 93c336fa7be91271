//! Many who commit to several tables at once, over the same tables, with others in between.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::commit_tables::{append, commit};
use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::staging::staging;
use crate::support::{Backend, TestServer, assert_error, foreign, table};

const NAMES: [&str; 3] = ["a", "b", "c"];

async fn with_three(server: &TestServer) -> Vec<String> {
    let mut locations = Vec::new();
    for name in NAMES {
        locations.push(server.with_table(&format!("ns${name}"), 1).await);
    }
    locations
}

/// Uploads one row to each table and makes the commits of it.
async fn one_row(server: &TestServer, value: i32, read_version: u64) -> Vec<Value> {
    let mut commits = Vec::new();
    for name in NAMES {
        let upload = server.upload(&format!("ns${name}"), &batch_ab(value..value + 1)).await;
        commits.push(append(name, read_version, &[&upload]));
    }
    commits
}

/// Writers over overlapping tables in all orders, while others insert and foreign writers append:
/// everyone is let in, each row is there once, and tables that are changed together agree.
async fn everyone_is_let_in(servers: &[&TestServer]) {
    let locations = with_three(servers[0]).await;
    let writers = (0..4_i32).map(|writer| {
        let server = servers[writer as usize % servers.len()];
        async move {
            for round in 0..3_i32 {
                let value = 100 * (writer + 1) + round;
                let mut commits = one_row(server, value, 1).await;
                commits.rotate_left((writer + round) as usize % 3);
                if writer % 2 == 1 {
                    commits.reverse();
                }
                commit(server, &commits).await.ok();
            }
        }
    });
    let inserts = async {
        for value in 1_000..1_004 {
            let server = servers[value as usize % servers.len()];
            server.insert("ns$b", &batch_ab(value..value + 1)).await;
        }
    };
    let foreigners = async {
        for value in 2_000..2_004 {
            foreign::append(&locations[2], batch_ab(value..value + 1)).await;
            tokio::time::sleep(std::time::Duration::from_millis(80)).await;
        }
    };
    futures::join!(join_all(writers), inserts, foreigners);
    let committed: Vec<i32> =
        (0..4).flat_map(|writer| (0..3).map(move |round| 100 * (writer + 1) + round)).collect();
    for (name, location) in NAMES.iter().zip(&locations) {
        let mut expected: Vec<i32> = [vec![0], committed.clone()].concat();
        match *name {
            "b" => expected.extend(1_000..1_004),
            "c" => expected.extend(2_000..2_004),
            _ => {}
        }
        expected.sort_unstable();
        let mut values = foreign::values(location).await;
        values.sort_unstable();
        assert_eq!(values, expected, "{name}");
        let id = format!("ns${name}");
        assert_eq!(servers[0].values(&id).await, expected, "{name}");
        let versions = servers[0].versions(&id).await;
        let all: Vec<u64> = (1..=expected.len() as u64).collect();
        if *name == "c" {
            // A writer past the server who built on what was taken back meanwhile leaves a gap.
            assert_eq!(versions.last(), all.last(), "{name}: {versions:?}");
        } else {
            assert_eq!(versions, all, "{name}");
        }
        assert!(staging(location).is_empty(), "{name}");
        let listed = servers[0].get(&table(&id, "uploads")).await.ok();
        assert_eq!(listed["uploads"], json!([]), "{name}");
    }
}

both! {
    async fn on_one_server(server: TestServer) {
        everyone_is_let_in(&[&server]).await;
    }
}

both! {
    async fn on_two_servers(server: TestServer) {
        let other = server.beside().await;
        everyone_is_let_in(&[&server, &other]).await;
    }
}

/// Of those that insist on the version that they read one is let in, and it is in all of the tables.
/// What the others uploaded can be committed after that.
async fn one_of_the_strict_is_let_in(servers: &[&TestServer]) {
    let locations = with_three(servers[0]).await;
    let mut version = 1;
    for round in 0..3_i32 {
        let mut requests = Vec::new();
        for writer in 0..4_i32 {
            let value = 100 * (round + 1) + writer;
            let mut commits = one_row(servers[0], value, version).await;
            commits.rotate_left(writer as usize % 3);
            for entry in &mut commits {
                entry["on_conflict"] = json!("fail");
            }
            requests.push((value, commits));
        }
        let sent = requests.iter().enumerate().map(|(writer, (value, commits))| {
            let server = servers[writer % servers.len()];
            async move { (*value, commit(server, commits).await) }
        });
        let replies = join_all(sent).await;
        let won: Vec<i32> = replies
            .iter()
            .filter(|(_, reply)| reply.status == 200)
            .map(|(value, _)| *value)
            .collect();
        assert_eq!(won.len(), 1, "requests that were let in, in round {round}");
        for (_, loser) in replies.iter().filter(|(_, reply)| reply.status != 200) {
            assert_error(loser, 409, CONCURRENT_MODIFICATION);
            assert_eq!(loser.body["retryable"], true, "{}", loser.text());
            assert_eq!(loser.body["current_version"], version + 1, "{}", loser.text());
            assert!(loser.body["index"].as_u64() < Some(3), "{}", loser.text());
        }
        version += 1;
        let (_, loser) = requests.iter_mut().find(|(value, _)| *value != won[0]).expect("a loser");
        for entry in loser.iter_mut() {
            entry["read_version"] = json!(version);
        }
        commit(servers[servers.len() - 1], loser).await.ok();
        version += 1;
        for location in &locations {
            let values = foreign::values(location).await;
            assert_eq!(values.len() as u64, version, "{values:?}");
            assert!(values.contains(&won[0]), "{values:?}");
            assert_eq!(values, foreign::values(&locations[0]).await);
        }
    }
}

both! {
    async fn one_of_the_strict(server: TestServer) {
        one_of_the_strict_is_let_in(&[&server]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_the_strict_on_two_servers() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    one_of_the_strict_is_let_in(&[&one, &other]).await;
}

/// Whoever reads one table, another, and the one again, sees the other between the two.
async fn readers_see_no_half(server: &TestServer, other: &TestServer) {
    with_three(server).await;
    let rounds = 10;
    let writes = async {
        for value in 1..=rounds {
            let mut commits = one_row(server, value, 1).await;
            if value % 2 == 1 {
                commits.reverse();
            }
            commit(server, &commits).await.ok();
        }
    };
    let newest = async |server: &TestServer, id: &str| {
        let path = table(id, "version/list?descending=true&limit=1");
        let listed = server.post_empty(&path).await.ok();
        listed["versions"][0]["version"].as_u64().expect("a version")
    };
    let described = async |server: &TestServer, id: &str| {
        server.describe(id).await["version"].as_u64().expect("a version")
    };
    let last = u64::from(rounds.unsigned_abs()) + 1;
    let listings = async {
        let mut seen = 0;
        while seen < last {
            let before = newest(other, "ns$a").await;
            let between = described(server, "ns$b").await;
            let after = newest(other, "ns$a").await;
            assert!((before..=after).contains(&between), "{before}, {between}, {after}");
            seen = after.min(between);
        }
    };
    let counts = async {
        let mut seen = 0;
        while seen < last {
            let before = server.count("ns$c").await;
            let between = other.count("ns$a").await;
            let after = server.count("ns$c").await;
            assert!((before..=after).contains(&between), "{before}, {between}, {after}");
            seen = after.min(between);
        }
    };
    futures::join!(writes, listings, counts);
}

both! {
    async fn readers_never_see_half(server: TestServer) {
        readers_see_no_half(&server, &server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_two_servers_never_see_half() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    readers_see_no_half(&one, &other).await;
}
