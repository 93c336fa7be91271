//! Drops, undrops and purges at once, on two servers, with writers at the table, and with servers that
//! are killed: a table is there whole or not at all, with exactly what was acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::dropped::{drop_table, keeping, undrop};
use crate::gc::intend;
use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::parts::Parts;
use crate::support::process::{Serving, tiltyard};
use crate::support::staging::stage;
use crate::support::upkeep::sql;
use crate::support::{Backend, TestServer, assert_error, foreign, namespace, table, text};

const ROUNDS: usize = 12;

async fn number_of_dropped(server: &TestServer) -> usize {
    let listed = server.get(&namespace("ns", "dropped")).await.ok();
    listed["tables"].as_array().expect("a list").len()
}

kept! {
    async fn of_undrop_and_purge_one_wins_whole(server: TestServer) {
        let beside = server.beside().await;
        let mut wins = [0, 0];
        for round in 0..ROUNDS {
            let id = format!("ns$t{round}");
            let location = server.with_table(&id, 3).await;
            drop_table(&server, &id).await;
            let path = table(&id, "purge");
            let (back, purged) = tokio::join!(
                undrop(&beside, &id, json!({})),
                server.post(&path, json!({})),
            );
            let (won, lost) = if back.status == 200 { (0, purged) } else { (1, back) };
            assert_error(&lost, 404, TABLE_NOT_FOUND);
            wins[won] += 1;
            if won == 0 {
                assert_eq!(server.values(&id).await, [0, 1, 2]);
                assert_eq!(foreign::values(&location).await, [0, 1, 2]);
                drop_table(&server, &id).await;
                server.post(&table(&id, "purge"), json!({})).await.ok();
            }
        }
        assert_eq!(wins[0] + wins[1], ROUNDS);
        server.assert_files(&[], "purged tables").await;
    }
}

kept! {
    async fn of_two_who_take_a_name_one_gets_it(server: TestServer) {
        let beside = server.beside().await;
        for round in 0..ROUNDS {
            let id = format!("ns$t{round}");
            server.with_table(&id, 3).await;
            drop_table(&server, &id).await;
            let path = table(&id, "create");
            let (back, made) = tokio::join!(
                undrop(&beside, &id, json!({})),
                server.post_arrow(&path, ipc(&[batch_ab(7..9)])),
            );
            let (expected, lost): (&[i32], _) =
                if back.status == 200 { (&[0, 1, 2], made) } else { (&[7, 8], back) };
            assert_error(&lost, 409, TABLE_ALREADY_EXISTS);
            assert_eq!(server.values(&id).await, expected);
            assert_eq!(number_of_dropped(&server).await, usize::from(expected.len() == 2));
            drop_table(&server, &id).await;
            server.post(&table(&id, "purge"), json!({})).await.ok();
        }
    }
}

kept! {
    async fn of_many_who_drop_or_undrop_one_does(server: TestServer) {
        let beside = server.beside().await;
        server.with_table("ns$t", 3).await;
        for _ in 0..ROUNDS {
            for operation in ["drop", "undrop"] {
                let send = |number: usize| {
                    let server = if number.is_multiple_of(2) { &server } else { &beside };
                    async move { server.post(&table("ns$t", operation), json!({})).await }
                };
                let replies = join_all((0..4).map(send)).await;
                let won = replies.iter().filter(|reply| reply.status == 200).count();
                assert_eq!(won, 1, "{operation}");
                for lost in replies.iter().filter(|reply| reply.status != 200) {
                    assert_error(lost, 404, TABLE_NOT_FOUND);
                }
            }
        }
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        assert_eq!(number_of_dropped(&server).await, 0);
    }
}

kept! {
    /// What was acknowledged is there, and nothing else, however often the table went meanwhile.
    async fn writers_meet_a_drop_or_land(server: TestServer) {
        let beside = server.beside().await;
        let location = server.with_table("ns$t", 0).await;
        let servers = [&server, &beside];
        let write = async |writer: i32| {
            let mut landed = Vec::new();
            for turn in 0..12 {
                let value = writer * 100 + turn;
                let server = servers[(writer % 2) as usize];
                let path = table("ns$t", "insert");
                let reply = server.post_arrow(&path, ipc(&[batch_ab(value..value + 1)])).await;
                match reply.status {
                    200 => landed.push(value),
                    404 => assert_error(&reply, 404, TABLE_NOT_FOUND),
                    _ => assert_error(&reply, 409, INVALID_TABLE_STATE),
                }
            }
            landed
        };
        let come_and_go = async {
            for round in 0..ROUNDS {
                tokio::time::sleep(Duration::from_millis(30)).await;
                drop_table(servers[round % 2], "ns$t").await;
                undrop(servers[(round + 1) % 2], "ns$t", json!({})).await.ok();
            }
        };
        let (landed, ()) = tokio::join!(join_all((0..6).map(write)), come_and_go);
        let mut landed: Vec<i32> = landed.into_iter().flatten().collect();
        landed.sort_unstable();
        assert_eq!(server.values("ns$t").await, landed);
        assert_eq!(beside.values("ns$t").await, landed);
        assert_eq!(foreign::values(&location).await, landed);
        let versions = server.versions("ns$t").await;
        assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
    }
}

kept! {
    /// Another server that has the table open finds it gone, and back.
    async fn every_server_sees_a_drop_and_an_undrop(server: TestServer) {
        let beside = server.beside().await;
        server.with_table("ns$t", 3).await;
        for round in 0..3_i32 {
            beside.insert("ns$t", &batch_ab(10 + round..11 + round)).await;
            drop_table(&server, "ns$t").await;
            let rows = || ipc(&[batch_ab(99..100)]);
            assert_error(&beside.post_arrow(&table("ns$t", "insert"), rows()).await, 404, TABLE_NOT_FOUND);
            let gone = json!({"predicate": "true"});
            assert_error(&beside.post(&table("ns$t", "delete"), gone).await, 404, TABLE_NOT_FOUND);
            assert_error(&beside.post_empty(&table("ns$t", "count_rows")).await, 404, TABLE_NOT_FOUND);
            undrop(&server, "ns$t", json!({})).await.ok();
            assert_eq!(beside.count("ns$t").await, 4 + u64::from(round.unsigned_abs()));
        }
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 10, 11, 12]);
    }
}

kept! {
    /// What was on its way to the table comes to nothing, as with any drop.
    async fn what_was_on_its_way_does_not_come_back(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let upload = server.upload("ns$t", &batch_ab(3..5)).await;
        let parts = Parts::begin(&server, "ns$t").await;
        parts.part("one", &batch_ab(5..6)).await;
        let index = json!({"column": "a", "index_type": "BTREE", "name": "by_a"});
        let job = text(&server.post(&table("ns$t", "create_scalar_index"), index).await.ok(), "transaction_id");
        server.ended(&job).await;
        // As if it ran on, in a process that is well.
        sql(server.database(), "UPDATE jobs SET state = 'Running', lease_us = 9000000000000000").await;
        let versions = server.versions("ns$t").await;
        drop_table(&server, "ns$t").await;
        let described = format!("/v1/transaction/{job}/describe");
        assert_error(&server.post(&described, json!({})).await, 404, TRANSACTION_NOT_FOUND);
        undrop(&server, "ns$t", json!({})).await.ok();
        assert_eq!(server.ended(&job).await["status"], "Canceled");
        let listed = server.get(&table("ns$t", "uploads")).await.ok();
        assert_eq!(listed["uploads"], json!([]));
        let body = json!({"operation": "append", "read_version": 1, "uploads": [upload["upload_id"]]});
        assert_error(&server.commit("ns$t", body).await, 400, INVALID_INPUT);
        assert_error(&parts.send("&upload_part_id=two", &batch_ab(6..7)).await, 400, INVALID_INPUT);
        assert_error(&parts.complete().await, 400, INVALID_INPUT);
        assert_eq!(server.versions("ns$t").await, versions);
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

kept! {
    /// A commit to several tables put its version after another server dropped the table, and died: the
    /// version is taken back though the table has no name, and does not come with it.
    async fn what_a_batch_left_in_a_dropped_table_is_taken_back(server: TestServer) {
        let mut server = server;
        let location = server.with_table("ns$t", 3).await;
        let staged = stage(&location, batch_ab(3..5)).await;
        drop_table(&server, "ns$t").await;
        intend(&server, &staged.manifest, 0).await;
        let versions = foreign::folder(&location).join("_versions");
        let put = versions.join(format!("{:020}.manifest", u64::MAX - 2));
        std::fs::copy(&staged.manifest, &put).expect("a put");
        server.restart().await;
        let started = std::time::Instant::now();
        while put.exists() {
            assert!(started.elapsed() < Duration::from_secs(40), "it was not taken back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        undrop(&server, "ns$t", json!({})).await.ok();
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        server.insert("ns$t", &batch_ab(8..9)).await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 8]);
    }
}

/// Kills a server in the middle of drops, undrops and purges.
async fn a_killed_server_leaves_each_table_whole(backend: Backend) {
    let Some(server) = keeping(backend).await else { return };
    let mut alive = BTreeSet::new();
    let mut locations = Vec::new();
    for round in 0..6_u64 {
        let id = format!("ns$t{round}");
        locations.push(server.with_table(&id, 3).await);
        let lake = server.lake().display().to_string();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--storage-root", &lake];
        let mut command = tiltyard(server.home(), &arguments);
        command.env("TILTYARD_DATABASE", server.database().url());
        let doomed = Serving::start(command);
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let base = doomed.base.clone();
        let path = |operation: &str| format!("{base}{}", table(&id, operation));
        let paths = ["drop", "undrop", "drop", "undrop", "drop", "purge"].map(path);
        let send = tokio::spawn(async move {
            for path in paths {
                if client.request(Method::POST, path).json(&json!({})).send().await.is_err() {
                    return;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(4 + 7 * round)).await;
        // SIGKILL.
        drop(doomed);
        send.await.expect("the sender");
        alive.insert(id);
    }
    for (id, location) in alive.iter().zip(&locations) {
        let listed = server.get(&namespace("ns", "dropped")).await.ok();
        let is_of = |one: &&Value| one["location"] == json!(location);
        let is_kept = listed["tables"].as_array().expect("a list").iter().any(|one| is_of(&one));
        if is_kept {
            assert!(!server.exists(id).await, "{id} is there and dropped");
            undrop(&server, id, json!({})).await.ok();
        }
        if server.exists(id).await {
            assert_eq!(server.values(id).await, [0, 1, 2], "{id}");
            drop_table(&server, id).await;
            server.post(&table(id, "purge"), json!({})).await.ok();
        }
    }
    // What a purge left half removed the sweep removes.
    sql(server.database(), "UPDATE pending_removals SET claimed_by = NULL, claimed_at_us = NULL")
        .await;
    let swept = crate::support::upkeep::tell(&server, &["gc"]).await;
    assert_eq!(swept.code, 0, "{swept:#?}");
    server.assert_files(&[], "killed servers").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_each_table_whole_on_sqlite() {
    a_killed_server_leaves_each_table_whole(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_each_table_whole_on_postgres() {
    a_killed_server_leaves_each_table_whole(Backend::Postgres).await;
}
