//! Many at once: names are given once, and what was acknowledged is there exactly once.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, files_under, foreign, namespace, table};

const WRITERS: i32 = 16;

/// A commit that lost its race takes its staged manifest with it; Lance never collects those.
#[track_caller]
fn assert_nothing_staged(location: &str) {
    let versions = foreign::folder(location).join("_versions");
    for file in files_under(&versions) {
        let staged = file.to_string_lossy().contains(".manifest-");
        assert!(!staged, "{} is left", file.display());
    }
}

/// Sends one request from each of so many clients at once.
async fn at_once(server: &TestServer, path: &str, bodies: Vec<Value>) -> Vec<Reply> {
    let requests = bodies.into_iter().map(|body| server.post(path, body));
    join_all(requests).await
}

/// Exactly one was let through; the others were told why not.
#[track_caller]
fn assert_one_winner(replies: &[Reply], code: u64) {
    let winners = replies.iter().filter(|reply| reply.status == 200).count();
    for loser in replies.iter().filter(|reply| reply.status != 200) {
        assert_error(loser, 409, code);
    }
    assert_eq!(winners, 1, "winners of {}", replies.len());
}

both! {
    async fn one_creator_of_a_namespace_wins(server: TestServer) {
        let bodies: Vec<Value> = (0..WRITERS)
            .map(|writer| json!({"properties": {"by": writer.to_string()}}))
            .collect();
        let replies = at_once(&server, &namespace("a", "create"), bodies).await;
        assert_one_winner(&replies, NAMESPACE_ALREADY_EXISTS);
        let winner = replies
            .iter()
            .find(|reply| reply.status == 200)
            .expect("a winner");
        let described = server.post_empty("/v1/namespace/a/describe").await.ok();
        assert_eq!(
            described["properties"]["by"],
            winner.body["properties"]["by"]
        );
        assert_eq!(
            server.names("/v1/namespace/$/list", "namespaces").await,
            ["a"]
        );
    }
}

both! {
    async fn one_declarer_of_a_table_wins(server: TestServer) {
        server.create_namespace("ns").await;
        let bodies = vec![json!({}); 16];
        let replies = at_once(&server, &table("ns$t", "declare"), bodies).await;
        assert_one_winner(&replies, TABLE_ALREADY_EXISTS);
        assert_eq!(server.names("/v1/table", "tables").await, ["ns$t"]);
    }
}

both! {
    /// The losers leave no file either.
    async fn one_creator_of_a_table_wins(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.files();
        let creators = (0..8).map(|creator| {
            let server = &server;
            async move {
                let rows = batch_ab(creator * 100..creator * 100 + 50);
                server
                    .post_arrow(&table("ns$t", "create"), ipc(&[rows]))
                    .await
            }
        });
        let replies = join_all(creators).await;
        assert_one_winner(&replies, TABLE_ALREADY_EXISTS);
        let winner = replies
            .iter()
            .position(|reply| reply.status == 200)
            .expect("a winner");
        let first = i32::try_from(winner).expect("a small number") * 100;
        assert_eq!(
            server.values("ns$t").await,
            (first..first + 50).collect::<Vec<_>>()
        );
        server.post_empty(&table("ns$t", "drop")).await.ok();
        server.assert_files(&before, "the losers of a race").await;
    }
}

both! {
    async fn one_registration_wins(server: TestServer) {
        server.create_namespace("ns").await;
        let location = server.lake().join("mine.lance").display().to_string();
        foreign::create(&location, batch_ab(0..5)).await;
        let bodies = vec![json!({"location": location}); 8];
        let replies = at_once(&server, &table("ns$t", "register"), bodies).await;
        let winners = replies.iter().filter(|reply| reply.status == 200).count();
        assert_eq!(winners, 1);
        assert!(
            replies
                .iter()
                .all(|reply| [200, 409].contains(&reply.status))
        );
        assert_eq!(server.count("ns$t").await, 5);
    }
}

both! {
    async fn one_rename_to_a_name_wins(server: TestServer) {
        server.create_namespace("ns").await;
        for writer in 0..6 {
            server
                .post_empty(&table(&format!("ns$t{writer}"), "declare"))
                .await
                .ok();
        }
        let renames = (0..6).map(|writer| {
            let server = &server;
            async move {
                let path = table(&format!("ns$t{writer}"), "rename");
                server.post(&path, json!({"new_table_name": "prize"})).await
            }
        });
        assert_one_winner(&join_all(renames).await, TABLE_ALREADY_EXISTS);
        assert_eq!(server.names("/v1/table", "tables").await.len(), 6);
    }
}

both! {
    async fn every_append_lands_exactly_once(server: TestServer) {
        let location = server.with_table("ns$t", 0).await;
        let appends = (0..WRITERS).map(|writer| {
            let server = &server;
            async move {
                server
                    .append("ns$t", 1, &batch_ab(writer * 10..writer * 10 + 10))
                    .await
            }
        });
        let done = join_all(appends).await;
        let expected: Vec<i32> = (0..WRITERS * 10).collect();
        assert_eq!(server.values("ns$t").await, expected);
        assert_eq!(foreign::values(&location).await, expected);
        let versions = server.versions("ns$t").await;
        let dense: Vec<u64> = (1..=versions.len() as u64).collect();
        assert_eq!(versions, dense, "versions have no gaps");
        assert_nothing_staged(&location);
        for done in done {
            let version = done["version"].as_u64().expect("a version");
            assert!(version > 1 && versions.contains(&version), "{done}");
        }
    }
}

both! {
    /// Who opts out of grouping gets a version of their own.
    async fn every_lone_append_has_its_own_version(server: TestServer) {
        server.with_table("ns$t", 0).await;
        let appends = (0..WRITERS).map(|writer| {
            let server = &server;
            async move {
                let upload = server.upload("ns$t", &batch_ab(writer..writer + 1)).await;
                let body = json!({
                    "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
                    "coalesce": false,
                });
                server.commit("ns$t", body).await.ok()["version"]
                    .as_u64()
                    .expect("a version")
            }
        });
        let mut versions = join_all(appends).await;
        versions.sort_unstable();
        assert_eq!(versions, (2..18).collect::<Vec<u64>>());
        assert_eq!(
            server.values("ns$t").await,
            (0..WRITERS).collect::<Vec<_>>()
        );
    }
}

everywhere! {
    async fn every_insert_lands_exactly_once(server: TestServer) {
        server.with_table("ns$t", 0).await;
        let inserts = (0..8).map(|writer| {
            let server = &server;
            async move {
                for turn in 0..3 {
                    let value = writer * 3 + turn;
                    server.insert("ns$t", &batch_ab(value..value + 1)).await;
                }
            }
        });
        join_all(inserts).await;
        assert_eq!(server.values("ns$t").await, (0..24).collect::<Vec<_>>());
    }
}

both! {
    async fn one_strict_commit_wins(server: TestServer) {
        server.with_table("ns$t", 0).await;
        let mut bodies = Vec::new();
        for writer in 0..WRITERS {
            let upload = server.upload("ns$t", &batch_ab(writer..writer + 1)).await;
            bodies.push(json!({
                "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
                "on_conflict": "fail",
            }));
        }
        let replies = at_once(&server, &table("ns$t", "commit"), bodies).await;
        assert_one_winner(&replies, CONCURRENT_MODIFICATION);
        for loser in replies.iter().filter(|reply| reply.status == 409) {
            assert!(
                loser.body["current_version"].as_u64() >= Some(2),
                "{}",
                loser.text()
            );
        }
        let winner = replies
            .iter()
            .position(|reply| reply.status == 200)
            .expect("a winner");
        let winner = i32::try_from(winner).expect("a small number");
        assert_eq!(server.values("ns$t").await, [winner]);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
    }
}

both! {
    /// The first version of a declared table is made by one of them.
    async fn one_first_commit_wins(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        let mut bodies = Vec::new();
        for writer in 0..8 {
            let upload = server.upload("ns$t", &batch_ab(writer..writer + 1)).await;
            bodies.push(json!({
                "operation": "overwrite", "read_version": 0, "uploads": [upload["upload_id"]],
                "on_conflict": "fail",
            }));
        }
        let replies = at_once(&server, &table("ns$t", "commit"), bodies).await;
        assert_one_winner(&replies, CONCURRENT_MODIFICATION);
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(foreign::values(&location).await.len(), 1);
        assert_nothing_staged(&location);
    }
}

both! {
    /// Retries of one request that overtake it get its answer, and add nothing.
    async fn one_key_at_once_is_one_commit(server: TestServer) {
        server.with_table("ns$t", 0).await;
        let upload = server.upload("ns$t", &batch_ab(0..5)).await;
        let body = json!({
            "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
        });
        let retries = (0..8).map(|_| {
            let request = server
                .request(Method::POST, &table("ns$t", "commit"))
                .header("idempotency-key", "the-same")
                .json(&body);
            server.send(request)
        });
        let answers: Vec<Value> = join_all(retries).await.into_iter().map(Reply::ok).collect();
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{answers:?}"
        );
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
    }
}

both! {
    /// Writers that bypass the server and writers that do not share one history.
    async fn foreign_writers_and_ours_lose_nothing(server: TestServer) {
        let location = server.with_table("ns$t", 0).await;
        let ours = (0..4).map(|writer| {
            let server = &server;
            async move {
                for turn in 0..4 {
                    let value = writer * 4 + turn;
                    server.append("ns$t", 1, &batch_ab(value..value + 1)).await;
                }
            }
        });
        let theirs = (0..2).map(|writer| {
            let location = &location;
            async move {
                for turn in 0..4 {
                    let value = 100 + writer * 4 + turn;
                    foreign::append(location, batch_ab(value..value + 1)).await;
                }
            }
        });
        futures::join!(join_all(ours), join_all(theirs));
        let expected: Vec<i32> = (0..16).chain(100..108).collect();
        assert_eq!(server.values("ns$t").await, expected);
        assert_eq!(foreign::values(&location).await, expected);
        let versions = server.versions("ns$t").await;
        let dense: Vec<u64> = (1..=versions.len() as u64).collect();
        assert_eq!(versions, dense, "versions have no gaps");
        assert_nothing_staged(&location);
    }
}

both! {
    /// A key is bound to what was asked, so the losing body is refused and not half done.
    async fn two_bodies_of_one_key_land_once(server: TestServer) {
        server.with_table("ns$t", 0).await;
        let mut requests = Vec::new();
        for writer in 0..4 {
            let upload = server.upload("ns$t", &batch_ab(writer..writer + 1)).await;
            let body = json!({
                "operation": "append", "read_version": 1, "uploads": [upload["upload_id"]],
            });
            let request = server
                .request(Method::POST, &table("ns$t", "commit"))
                .header("idempotency-key", "the-same")
                .json(&body);
            requests.push(server.send(request));
        }
        let replies = join_all(requests).await;
        let winners = replies.iter().filter(|reply| reply.status == 200).count();
        assert_eq!(winners, 1);
        for loser in replies.iter().filter(|reply| reply.status != 200) {
            assert_error(loser, 400, INVALID_INPUT);
        }
        assert_eq!(server.count("ns$t").await, 1);
    }
}
