//! A server that is killed while it completes multipart writes: their rows are there once in the end.

use std::time::Duration;

use futures::future::join_all;

use crate::support::batches::batch_ab;
use crate::support::parts::Parts;
use crate::support::process::{Serving, tiltyard};
use crate::support::{Backend, TestServer, foreign, table};

const ROUNDS: u64 = 6;
const WRITES: i32 = 8;

/// The versions of those completions that were acknowledged before the server died.
async fn complete_until_it_dies(base: String, paths: Vec<String>) -> Vec<Option<u64>> {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    join_all(paths.iter().map(|path| {
        let request = client.post(format!("{base}{path}"));
        async move {
            let reply = request.send().await.ok()?;
            let status = reply.status();
            let body: serde_json::Value = reply.json().await.ok()?;
            assert_eq!(status, 200, "{body}");
            body["version"].as_u64()
        }
    }))
    .await
}

async fn a_killed_server_completes_once(backend: Backend) {
    let Some(server) = TestServer::spawn(backend).await else { return };
    let mut left = Vec::new();
    for round in 0..ROUNDS {
        let id = format!("ns$t{round}");
        let location = server.with_table(&id, 1).await;
        let mut writes = Vec::new();
        for number in 0..WRITES {
            let parts = Parts::begin(&server, &id).await;
            let from = 1 + number * 4;
            parts.part("x", &batch_ab(from..from + 2)).await;
            parts.part("y", &batch_ab(from + 2..from + 4)).await;
            writes.push(parts);
        }
        let lake = server.lake().display().to_string();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--storage-root", &lake];
        let mut command = tiltyard(server.home(), &arguments);
        command.env("TILTYARD_DATABASE", server.database().url());
        let doomed = Serving::start(command);
        let path = |parts: &Parts<'_>| {
            let path = format!("multipart_write/complete?upload_id={}", parts.upload);
            table(&id, &path)
        };
        let paths = writes.iter().map(path).collect();
        let sent = tokio::spawn(complete_until_it_dies(doomed.base.clone(), paths));
        tokio::time::sleep(Duration::from_millis(10 + 35 * round)).await;
        // SIGKILL.
        drop(doomed);
        left.push((id.clone(), location, writes, sent.await.expect("the sender")));
    }
    let cut = left.iter().flat_map(|(.., known)| known).filter(|known| known.is_none()).count();
    assert!(cut > 0, "every server was done before it was killed");
    // What the dead ones held is free after a while; all wait for it at once.
    join_all(left.iter().map(|(id, location, writes, known)| {
        let server = &server;
        async move {
            // A client that lost the answer may abort first.
            writes[0].abort().await.ok();
            let again = join_all(writes.iter().skip(1).map(Parts::completed)).await;
            for (known, again) in known.iter().skip(1).zip(&again) {
                assert!(known.is_none_or(|known| known == *again), "{known:?} became {again}");
            }
            let mut values = foreign::values(location).await;
            // The first one is there or not: whether it landed before it was aborted is a race.
            let first = values.iter().filter(|value| (1..5).contains(*value)).count();
            assert!([0, 4].contains(&first), "a part of the parts: {values:?}");
            assert!(known[0].is_none() || first == 4, "acknowledged, and then lost");
            values.retain(|value| !(1..5).contains(value));
            let expected: Vec<i32> = std::iter::once(0).chain(5..1 + WRITES * 4).collect();
            assert_eq!(values, expected);
            assert_eq!(server.values(id).await, foreign::values(location).await);
            let versions = server.versions(id).await;
            // Those that waited for each other share a version.
            let commits = usize::try_from(WRITES).expect("small") + usize::from(first == 4);
            assert!(versions.len() <= commits, "{versions:?}");
            assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<u64>>());
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_completes_once_on_sqlite() {
    a_killed_server_completes_once(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_completes_once_on_postgres() {
    a_killed_server_completes_once(Backend::Postgres).await;
}
