//! Rows changed by many at once: through one server, through two, and past them.

use futures::future::join_all;
use serde_json::json;

use crate::support::batches::{batch_ab, ipc};
use crate::support::{Backend, Reply, TestServer, foreign, table};

const WRITERS: i32 = 8;
const UPSERT: &str =
    "merge_insert?on=a&when_matched_update_all=true&when_not_matched_insert_all=true";
const INSERT_NEW: &str = "merge_insert?on=a&when_not_matched_insert_all=true";

/// Each of the writers merges keys that it shares with its neighbours, three times over.
async fn merge_overlapping(servers: &[&TestServer]) {
    let writers = (0..WRITERS).map(|writer| {
        let server = servers[writer as usize % servers.len()];
        async move {
            for turn in 0..3 {
                let first = writer * 5 + turn * 2;
                let how = if turn == 1 { UPSERT } else { INSERT_NEW };
                let rows = ipc(&[batch_ab(first..first + 15)]);
                server.post_arrow(&table("ns$t", how), rows).await.ok();
            }
        }
    });
    join_all(writers).await;
}

/// Each key that was merged is there once.
async fn assert_merged(server: &TestServer, location: &str, beside: &[i32]) {
    let mut expected: Vec<i32> = (0..WRITERS * 5 + 14).collect();
    expected.extend(beside);
    assert_eq!(server.values("ns$t").await, expected);
    assert_eq!(foreign::values(location).await, expected);
    let versions = server.versions("ns$t").await;
    assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>(), "versions have gaps");
}

both! {
    async fn a_new_key_is_inserted_once(server: TestServer) {
        let location = server.with_table("ns$t", 0).await;
        merge_overlapping(&[&server]).await;
        assert_merged(&server, &location, &[]).await;
    }
}

both! {
    /// The first of them makes the table; the others find its rows.
    async fn the_first_rows_of_a_declared_table_come_once(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        merge_overlapping(&[&server]).await;
        assert_merged(&server, &location, &[]).await;
    }
}

/// The rows of all of them make a declared table, whoever is the first.
async fn insert_first_rows(servers: &[&TestServer]) {
    servers[0].with_declared("ns$t").await;
    let writers = (0..WRITERS).map(|writer| {
        let server = servers[writer as usize % servers.len()];
        async move {
            loop {
                let rows = ipc(&[batch_ab(writer..writer + 1)]);
                if accepted(&server.post_arrow(&table("ns$t", "insert"), rows).await) {
                    break;
                }
            }
        }
    });
    join_all(writers).await;
    for server in servers {
        assert_eq!(server.values("ns$t").await, (0..WRITERS).collect::<Vec<_>>());
    }
}

both! {
    async fn first_rows_at_once_all_land(server: TestServer) {
        insert_first_rows(&[&server]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_rows_through_two_servers_all_land() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    insert_first_rows(&[&one, &other]).await;
}

/// Neither knows of the other but through the database and the lake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_insert_a_new_key_once() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    let location = one.with_table("ns$t", 0).await;
    merge_overlapping(&[&one, &other]).await;
    assert_merged(&one, &location, &[]).await;
    assert_eq!(one.values("ns$t").await, other.values("ns$t").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_make_a_declared_table_once() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    let location = one.with_declared("ns$t").await;
    merge_overlapping(&[&one, &other]).await;
    assert_merged(&one, &location, &[]).await;
}

both! {
    async fn a_new_key_is_inserted_once_beside_foreign_writers(server: TestServer) {
        let location = server.with_table("ns$t", 0).await;
        let foreign = async {
            for turn in 0..8 {
                foreign::append(&location, batch_ab(1_000 + turn..1_001 + turn)).await;
            }
        };
        let servers = [&server];
        futures::join!(merge_overlapping(&servers), foreign);
        assert_merged(&server, &location, &(1_000..1_008).collect::<Vec<_>>()).await;
    }
}

/// Appends, updates and deletes at once: each row that was acknowledged is there, changed by every
/// change of it that was acknowledged.
async fn change_everything(servers: &[&TestServer]) {
    let writers = (0..WRITERS).map(|writer| {
        let server = servers[writer as usize % servers.len()];
        async move {
            let mut updates = 0;
            for turn in 0..3 {
                let value = 100 + writer * 3 + turn;
                server.insert("ns$t", &batch_ab(value..value + 1)).await;
                let mine = format!("a = {writer}");
                let body = json!({"predicate": mine, "updates": [["b", "concat(b, '+')"]]});
                let reply = server.post(&table("ns$t", "update"), body).await;
                updates += usize::from(accepted(&reply));
                let gone = format!("a = {}", 10 + writer * 3 + turn);
                let reply = server.post(&table("ns$t", "delete"), json!({"predicate": gone})).await;
                assert!(accepted(&reply), "a delete of a row that nobody else changes gave up");
            }
            (writer, updates)
        }
    });
    let done = join_all(writers).await;
    let server = servers[0];
    let added = 100..100 + WRITERS * 3;
    let expected: Vec<i32> = (0..10).chain(34..40).chain(added).collect();
    assert_eq!(server.values("ns$t").await, expected);
    for (writer, updates) in done {
        let body = json!({"predicate": format!("a = {writer} AND b = 's{writer}{}'", "+".repeat(updates))});
        assert_eq!(server.post(&table("ns$t", "count_rows"), body).await.ok(), 1, "of {writer}");
    }
}

/// Whether a change was made; if not, the answer says that a later try may make it.
fn accepted(reply: &Reply) -> bool {
    if reply.status != 200 {
        assert_eq!(reply.status, 409, "{}", reply.text());
        assert_eq!(reply.body["retryable"], true, "{}", reply.text());
    }
    reply.status == 200
}

both! {
    async fn changes_at_once_lose_nothing(server: TestServer) {
        server.with_table("ns$t", 40).await;
        change_everything(&[&server]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_through_two_servers_lose_nothing() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    one.with_table("ns$t", 40).await;
    change_everything(&[&one, &other]).await;
}
