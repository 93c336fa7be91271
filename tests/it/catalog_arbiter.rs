//! Storage that cannot put a file only if nothing is there: the catalog decides which manifest is
//! which version, and storage follows.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use serde_json::json;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tiltyard::config::{CommitArbiter, Settings};

use crate::support::batches::{batch_ab, int_values, ipc, read_file};
use crate::support::code::*;
use crate::support::overwriting::Overwriting;
use crate::support::process::tiltyard;
use crate::support::staging::{Staged, relative, stage, stage_line, staging};
use crate::support::upkeep::{sql, tell};
use crate::support::{
    Backend, Database, TestServer, assert_error, enc, files_under, foreign, table,
};

const COMMIT: &str = "/v1/table/batch-commit";

fn by_catalog(settings: &mut Settings) {
    settings.commit_arbiter = CommitArbiter::Catalog;
}

async fn spawn_by_catalog(backend: Backend) -> Option<TestServer> {
    TestServer::spawn_with(backend, by_catalog).await
}

/// As `both!`, on servers whose catalog decides the versions.
macro_rules! by_catalog {
    ($(#[$meta:meta])* async fn $name:ident($server:ident: TestServer) $body:block) => {
        on! { spawn_by_catalog; sqlite: Sqlite, postgres: Postgres;
            $(#[$meta])* async fn $name($server: TestServer) $body }
    };
}

/// How many rows of claims answer a question.
async fn count(database: &Database, sql: &'static str) -> i64 {
    let counted = match database {
        Database::Sqlite { url } => {
            let mut connection = SqliteConnection::connect(url).await.expect("the catalog");
            sqlx::query_scalar(sql).fetch_one(&mut connection).await
        }
        Database::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url).await.expect("the catalog");
            sqlx::query_scalar(sql).fetch_one(&mut connection).await
        }
    };
    counted.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn claims(server: &TestServer) -> i64 {
    count(server.database(), "SELECT count(*) FROM manifest_claims").await
}

async fn unfinished(server: &TestServer) -> i64 {
    let sql = "SELECT count(*) FROM manifest_claims WHERE NOT is_final";
    count(server.database(), sql).await
}

/// What a server leaves that died between the claim of a version and the copy of its manifest.
async fn claim(server: &TestServer, location: &str, staged: &Staged) {
    const SQL: &str = "INSERT INTO manifest_claims \
        (location, version, path, size_bytes, is_final, claimed_at_us) \
        VALUES ($1, $2, $3, $4, $5, $6)";
    let size = std::fs::metadata(&staged.manifest).expect("a staged manifest").len();
    let (version, size) = (i64::try_from(staged.version), i64::try_from(size));
    let (version, size) = (version.expect("a version"), size.expect("a size"));
    let path = relative(&staged.manifest);
    let done = match server.database() {
        Database::Sqlite { url } => {
            let mut connection = SqliteConnection::connect(url).await.expect("the catalog");
            let insert = sqlx::query(SQL).bind(location).bind(version).bind(path).bind(size);
            insert.bind(false).bind(0_i64).execute(&mut connection).await.map(drop)
        }
        Database::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url).await.expect("the catalog");
            let insert = sqlx::query(SQL).bind(location).bind(version).bind(path).bind(size);
            insert.bind(false).bind(0_i64).execute(&mut connection).await.map(drop)
        }
    };
    done.expect("a claim");
}

async fn values_on(server: &TestServer, branch: &str) -> Vec<i32> {
    let body = json!({"k": 1_000, "branch": branch, "columns": {"column_names": ["a"]}});
    let reply = server.post(&table("ns$t", "query"), body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut values = int_values(&read_file(&reply.raw), "a");
    values.sort_unstable();
    values
}

/// The manifests of a table at their final names, and what is in them.
fn manifests(location: &str) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = files_under(&foreign::folder(location).join("_versions"));
    files.retain(|file| file.extension().is_some_and(|kind| kind == "manifest"));
    files.into_iter().map(|file| (file.clone(), std::fs::read(file).expect("a file"))).collect()
}

by_catalog! {
    async fn rows_and_versions(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        assert_eq!(server.insert("ns$t", &batch_ab(3..5)).await["version"], 2);
        assert_eq!(server.append("ns$t", 1, &batch_ab(5..7)).await["version"], 3);
        let deleted = server.post(&table("ns$t", "delete"), json!({"predicate": "a = 0"})).await.ok();
        assert_eq!(deleted["version"], 4, "{deleted}");
        let update = json!({"updates": [["a", "a + 10"]], "predicate": "a = 1"});
        server.post(&table("ns$t", "update"), update).await.ok();
        let path = "merge_insert?on=a&when_matched_update_all=true&when_not_matched_insert_all=true";
        let merged = server.post_arrow(&table("ns$t", path), ipc(&[batch_ab(6..9)])).await.ok();
        assert_eq!(merged["num_inserted_rows"], 2, "{merged}");
        assert_eq!(server.values("ns$t").await, [2, 3, 4, 5, 6, 7, 8, 11]);
        // Without the catalog it is the same table.
        assert_eq!(foreign::values(&location).await, [2, 3, 4, 5, 6, 7, 8, 11]);
        let restored = server.post(&table("ns$t", "restore"), json!({"version": 2})).await.ok();
        assert_eq!(restored["version"], 7, "{restored}");
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
        let path = table("ns$t", "fragments?mode=overwrite");
        let upload = server.upload_to(&path, &batch_ab(50..52)).await["upload_id"].clone();
        let body = json!({"operation": "overwrite", "read_version": 7, "uploads": [upload]});
        assert_eq!(server.commit("ns$t", body).await.ok()["version"], 8);
        assert_eq!(foreign::values(&location).await, [50, 51]);
        let ranges = json!({"ranges": [{"start_version": 1, "end_version": 4}]});
        server.post(&table("ns$t", "version/delete"), ranges).await.ok();
        assert_eq!(server.versions("ns$t").await, [4, 5, 6, 7, 8]);
        assert_eq!((claims(&server).await, unfinished(&server).await), (5, 0));
        assert!(staging(&location).is_empty(), "{:?}", staging(&location));
        server.post_empty(&table("ns$t", "drop")).await.ok();
        assert_eq!(claims(&server).await, 0, "a table that is dropped leaves claims");
        let again = server.create("ns$t", &batch_ab(0..1)).await;
        assert_eq!(again["version"], 1, "{again}");
    }
}

by_catalog! {
    async fn branches_and_clones(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        for round in 0..2 {
            for name in ["b", "b/c", "größe"] {
                let body = json!({"name": name});
                server.post(&table("ns$t", "branches/create"), body).await.ok();
                let path = table("ns$t", &format!("insert?branch={}", enc(name)));
                server.post_arrow(&path, ipc(&[batch_ab(10 + round..11 + round)])).await.ok();
                assert_eq!(values_on(&server, name).await, [0, 1, 10 + round], "{name}");
            }
            assert_eq!((claims(&server).await, unfinished(&server).await), (7, 0));
            server.post(&table("ns$t", "branches/delete"), json!({"name": "b"})).await.ok();
            assert_eq!(values_on(&server, "b/c").await, [0, 1, 10 + round], "with another went");
            assert_eq!(claims(&server).await, 5);
            for name in ["b/c", "größe"] {
                server.post(&table("ns$t", "branches/delete"), json!({"name": name})).await.ok();
            }
            assert_eq!(claims(&server).await, 1);
        }
        let tag = json!({"tag": "first", "version": 1});
        server.post(&table("ns$t", "tags/create"), tag).await.ok();
        for is_shallow in [true, false] {
            let id = format!("ns$clone_{is_shallow}");
            let body = json!({"source_location": location, "is_shallow": is_shallow});
            server.post(&table(&id, "clone"), body).await.ok();
            server.insert(&id, &batch_ab(7..8)).await;
            assert_eq!(server.values(&id).await, [0, 1, 7], "{id}");
        }
        assert_eq!((claims(&server).await, unfinished(&server).await), (5, 0));
    }
}

by_catalog! {
    /// Clients that know the namespace make versions through it, and are always told to.
    async fn versions_that_clients_stage(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let properties = json!({"properties": {"managed_versioning": "false"}});
        server.post(&table("ns$other", "declare"), properties).await.ok();
        for id in ["ns$t", "ns$other"] {
            assert_eq!(server.describe(id).await["managed_versioning"], true, "{id}");
        }
        let (staged, rival) =
            (stage(&location, batch_ab(1..2)).await, stage(&location, batch_ab(5..6)).await);
        let (path, bytes) = (table("ns$t", "version/create"), std::fs::read(&staged.manifest));
        let claim = staged.claim();
        let created = server.post(&path, claim.clone()).await.ok();
        assert_eq!(created["version"]["version"], 2, "{created}");
        assert_error(&server.post(&path, rival.claim()).await, 409, CONCURRENT_MODIFICATION);
        // Sent again, because the answer was lost.
        std::fs::write(&staged.manifest, bytes.expect("bytes")).expect("a staged manifest");
        assert_eq!(server.post(&path, claim).await.ok(), created);
        assert_eq!(foreign::values(&location).await, [0, 1]);
        std::fs::remove_file(&rival.manifest).expect("the rival's");
        assert!(staging(&location).is_empty(), "{:?}", staging(&location));
        assert_eq!(unfinished(&server).await, 0);
    }
}

by_catalog! {
    async fn batches_are_all_or_nothing(server: TestServer) {
        let (a, b) = (server.with_table("ns$a", 1).await, server.with_table("ns$b", 1).await);
        let both = [stage(&a, batch_ab(1..2)).await, stage(&b, batch_ab(1..2)).await];
        let body = json!({"operations": [
            both[0].operation(&["ns", "a"]), both[1].operation(&["ns", "b"]),
        ]});
        server.post(COMMIT, body).await.ok();
        for (id, location) in [("ns$a", &a), ("ns$b", &b)] {
            assert_eq!(server.values(id).await, [0, 1], "{id}");
            assert!(staging(location).is_empty(), "{id}");
        }
        // The second finds its version taken in storage, past the catalog: the first is taken back.
        let (line, late) =
            (stage(&a, batch_ab(2..3)).await, stage_line(&b, vec![batch_ab(2..3)]).await);
        let body = json!({"operations": [
            line.operation(&["ns", "a"]), late[0].operation(&["ns", "b"]),
        ]});
        foreign::append(&b, batch_ab(9..10)).await;
        let before = manifests(&b);
        let reply = server.post(COMMIT, body).await;
        assert_error(&reply, 409, INVALID_TABLE_STATE);
        assert_eq!(server.values("ns$a").await, [0, 1]);
        assert_eq!(server.insert("ns$a", &batch_ab(3..4)).await["version"], 3);
        assert_eq!(manifests(&b), before);
        let drop = json!({"operations": [
            {"deregister_table": {"id": ["ns", "b"]}},
            {"delete_table_versions": {
                "id": ["ns", "a"], "ranges": [{"start_version": 1, "end_version": 2}],
            }},
        ]});
        server.post(COMMIT, drop).await.ok();
        assert_eq!(server.versions("ns$a").await, [2, 3]);
        assert_eq!(unfinished(&server).await, 0);
    }
}

by_catalog! {
    /// A server died after its claim: whoever looks next, in whatever way, finishes the version.
    async fn a_claim_without_its_manifest_is_finished(server: TestServer) {
        server.create_namespace("ns").await;
        for (at, how) in ["query", "list", "describe", "insert", "delete"].into_iter().enumerate() {
            let id = format!("ns${how}");
            let location = server.with_table(&id, 1).await;
            let staged = stage(&location, batch_ab(1..2)).await;
            claim(&server, &location, &staged).await;
            assert_eq!(unfinished(&server).await, 1, "{how}");
            match how {
                "query" => assert_eq!(server.values(&id).await, [0, 1]),
                "list" => assert_eq!(server.versions(&id).await, [1, 2]),
                "describe" => {
                    let path = table(&id, "version/describe");
                    server.post(&path, json!({"version": 2})).await.ok();
                }
                "insert" => {
                    assert_eq!(server.insert(&id, &batch_ab(5..6)).await["version"], 3);
                    assert_eq!(server.values(&id).await, [0, 1, 5]);
                }
                _ => {
                    let body = json!({"predicate": "a = 1"});
                    let gone = server.post(&table(&id, "delete"), body).await.ok();
                    assert_eq!(gone["version"], 3, "{at}: {gone}");
                }
            }
            assert_eq!(unfinished(&server).await, 0, "{how}");
            assert!(staging(&location).is_empty(), "{how}");
            assert!(foreign::open(&location).await.version().version >= 2, "{how}");
        }
    }
}

by_catalog! {
    /// The copy was made, and the server died before it said so.
    async fn a_manifest_whose_claim_is_not_final(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let staged = stage(&location, batch_ab(1..2)).await;
        let name = staged.manifest.display().to_string();
        let (place, _) = name.rsplit_once(".manifest-").expect("a staged name");
        std::fs::copy(&staged.manifest, format!("{place}.manifest")).expect("a copy");
        claim(&server, &location, &staged).await;
        assert_eq!(server.insert("ns$t", &batch_ab(2..3)).await["version"], 3);
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        assert_eq!(unfinished(&server).await, 0);
        assert!(staging(&location).is_empty());
        // What was staged is gone, and no copy was made: nobody can finish it, and nobody pretends.
        let lost = stage(&location, batch_ab(3..4)).await;
        claim(&server, &location, &lost).await;
        std::fs::remove_file(&lost.manifest).expect("the staged manifest");
        let reply = server.post(&table("ns$t", "query"), json!({"k": 1})).await;
        assert_error(&reply, 409, INVALID_TABLE_STATE);
        assert!(reply.text().contains("version 4"), "{}", reply.text());
        server.post_empty(&table("ns$t", "drop")).await.ok();
        assert_eq!(claims(&server).await, 0);
    }
}

by_catalog! {
    /// The doctor tells of what was begun and leaves it alone, unless it is to mend it.
    async fn the_doctor_tells_of_what_was_begun(server: TestServer) {
        let doctor = async |more: &[&str]| {
            tell(&server, &[&["doctor", "--commit-arbiter", "catalog"], more].concat()).await
        };
        let location = server.with_table("ns$t", 1).await;
        let lost = server.with_table("ns$lost", 1).await;
        server.with_table("ns$well", 1).await;
        let staged = stage(&location, batch_ab(1..2)).await;
        claim(&server, &location, &staged).await;
        let gone = stage(&lost, batch_ab(1..2)).await;
        claim(&server, &lost, &gone).await;
        std::fs::remove_file(&gone.manifest).expect("the staged manifest");
        let told = doctor(&[]).await;
        assert_eq!(told.code, 1, "{told:#?}");
        told.tells(&["version 2 was begun and never came", "would finish it"]);
        told.tells(&["version 2 was begun, and its manifest is gone", "would give the version back"]);
        told.tells(&["2 findings, of which 0 were mended and 2 remain"]);
        assert_eq!(unfinished(&server).await, 2, "only looking changed something");
        assert_eq!(foreign::open(&location).await.version().version, 1);
        let mended = doctor(&["--repair"]).await;
        assert_eq!(mended.code, 0, "{mended:#?}");
        mended.tells(&["2 findings, of which 2 were mended and 0 remain"]);
        assert_eq!(unfinished(&server).await, 0);
        doctor(&[]).await.tells(&["0 findings"]);
        assert_eq!(foreign::values(&location).await, [0, 1]);
        assert_eq!(server.values("ns$t").await, [0, 1]);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        // What is given back another can have.
        assert_eq!(server.insert("ns$lost", &batch_ab(5..6)).await["version"], 2);
        assert_eq!(server.values("ns$lost").await, [0, 5]);
    }
}

by_catalog! {
    /// A version that was begun a moment ago has its maker at it.
    async fn the_doctor_lets_makers_be(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let staged = stage(&location, batch_ab(1..2)).await;
        claim(&server, &location, &staged).await;
        sql(server.database(), "UPDATE manifest_claims SET claimed_at_us = 9000000000000000").await;
        let told = tell(&server, &["doctor", "--commit-arbiter", "catalog"]).await;
        assert!(told.about(&["was begun"]).is_empty(), "{told:#?}");
    }
}

mod the_sweep_finishes_what_nobody_looks_at {
    use super::*;

    async fn finished(backend: Backend) {
        let quick = |settings: &mut Settings| {
            by_catalog(settings);
            settings.gc_interval = std::time::Duration::from_millis(200);
        };
        let Some(server) = TestServer::spawn_with(backend, quick).await else { return };
        let location = server.with_table("ns$t", 1).await;
        let staged = stage(&location, batch_ab(1..2)).await;
        claim(&server, &location, &staged).await;
        let started = std::time::Instant::now();
        while unfinished(&server).await > 0 {
            assert!(started.elapsed() < std::time::Duration::from_secs(30), "nobody finished it");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(foreign::values(&location).await, [0, 1]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        finished(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        finished(Backend::Postgres).await;
    }
}

by_catalog! {
    /// Writers that go past the catalog are not supported: their version is named in an error, is
    /// not adopted and not written over. Registering the table again takes it as it is.
    async fn a_foreign_version_is_named_and_left_alone(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let staged = stage(&location, batch_ab(1..2)).await;
        assert_eq!(foreign::append(&location, batch_ab(9..10)).await, 2);
        let before = manifests(&location);
        let upload = json!({"k": 10});
        let mut replies = vec![
            server.post(&table("ns$t", "query"), upload).await,
            server.post_arrow(&table("ns$t", "insert"), ipc(&[batch_ab(1..2)])).await,
            server.post(&table("ns$t", "delete"), json!({"predicate": "a = 0"})).await,
            server.post(&table("ns$t", "version/create"), staged.claim()).await,
            server.post_empty(&table("ns$t", "version/list")).await,
            server.post(&table("ns$t", "version/describe"), json!({"version": 2})).await,
        ];
        let first = server.post(&table("ns$t", "query"), json!({"k": 10, "version": 1})).await;
        assert_eq!(first.status, 200, "what is known can be read: {}", first.text());
        for reply in replies.drain(..) {
            assert_error(&reply, 409, INVALID_TABLE_STATE);
            assert!(reply.text().contains("version 2 stands in storage"), "{}", reply.text());
        }
        assert_eq!(manifests(&location), before);
        assert_eq!(claims(&server).await, 1);
        server.post_empty(&table("ns$t", "deregister")).await.ok();
        let name = Path::new(&location).file_name().expect("a name").to_string_lossy().into_owned();
        server.post(&table("ns$t", "register"), json!({"location": name})).await.ok();
        assert_eq!(server.values("ns$t").await, [0, 9]);
        assert_eq!(server.insert("ns$t", &batch_ab(3..4)).await["version"], 3);
        assert_eq!((claims(&server).await, unfinished(&server).await), (3, 0));
    }
}

by_catalog! {
    /// A foreign version that comes between the look and the commit is not written over either.
    async fn a_foreign_first_version(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        assert_eq!(foreign::create(&location, batch_ab(5..6)).await, 1);
        let before = manifests(&location);
        let reply = server.post_arrow(&table("ns$t", "insert"), ipc(&[batch_ab(0..1)])).await;
        assert_error(&reply, 409, INVALID_TABLE_STATE);
        assert!(reply.text().contains("version 1 stands in storage"), "{}", reply.text());
        assert_eq!(manifests(&location), before);
    }
}

/// Rows that many writers append at once through some servers, and that were acknowledged.
async fn appended(servers: &[&TestServer], writers: i32, each: i32) -> Vec<(u64, i32)> {
    let writing = (0..writers).map(|writer| async move {
        let server = servers[usize::try_from(writer).expect("a writer") % servers.len()];
        let mut landed = Vec::new();
        for turn in 0..each {
            let value = 100 + writer * each + turn;
            let rows = ipc(&[batch_ab(value..value + 1)]);
            let reply = server.post_arrow(&table("ns$t", "insert"), rows).await;
            assert!([200, 409, 503].contains(&reply.status), "{}", reply.text());
            if reply.status == 200 {
                landed.push((reply.ok()["version"].as_u64().expect("a version"), value));
            }
        }
        landed
    });
    join_all(writing).await.into_iter().flatten().collect()
}

by_catalog! {
    async fn two_servers_race(server: TestServer) {
        let location = server.with_table("ns$t", 0).await;
        let other = server.beside().await;
        let landed = appended(&[&server, &other], 8, 6).await;
        assert!(landed.len() > 24, "only {} of 48 landed", landed.len());
        let mut expected: Vec<i32> = landed.iter().map(|(_, value)| *value).collect();
        expected.sort_unstable();
        assert_eq!(server.values("ns$t").await, expected);
        assert_eq!(foreign::values(&location).await, expected);
        let versions = server.versions("ns$t").await;
        let newest = *versions.last().expect("a version");
        assert_eq!(versions, (1..=newest).collect::<Vec<_>>(), "a gap");
        assert!(landed.iter().all(|(version, _)| versions.contains(version)));
        assert_eq!(other.versions("ns$t").await, versions);
        assert_eq!(claims(&server).await, i64::try_from(newest).expect("a small number"));
        assert_eq!(unfinished(&server).await, 0);
        assert!(staging(&location).is_empty(), "{:?}", staging(&location));
    }
}

/// Two servers whose storage overwrites put one version at the same moment: what each answered, and
/// the rows that are there.
async fn overwritten(backend: Backend, arbiter: CommitArbiter) -> Option<(Vec<u64>, Vec<i32>)> {
    let store = Overwriting::new();
    let configure = move |settings: &mut Settings| {
        settings.commit_arbiter = arbiter;
        // Lance goes past the store on plain paths.
        settings.storage_root = format!("file-object-store://{}", settings.storage_root);
    };
    let one = TestServer::spawn_of(backend, store.parts(), configure).await?;
    one.with_table("ns$t", 0).await;
    let other = one.beside_of(store.parts()).await;
    assert_eq!(other.count("ns$t").await, 0);
    store.hold_two();
    let landed = appended(&[&one, &other], 2, 1).await;
    let versions = landed.into_iter().map(|(version, _)| version).collect();
    Some((versions, one.values("ns$t").await))
}

mod a_store_that_overwrites {
    use super::*;

    async fn loses_rows_unless_the_catalog_decides(backend: Backend) {
        let Some((versions, rows)) = overwritten(backend, CommitArbiter::Storage).await else {
            return;
        };
        assert_eq!(versions, [2, 2], "both were told that they had the version");
        assert_eq!(rows.len(), 1, "nothing was lost: the store does not overwrite");
        let decided = overwritten(backend, CommitArbiter::Catalog).await;
        let (mut versions, rows) = decided.expect("the same database");
        versions.sort_unstable();
        assert_eq!(versions, [2, 3]);
        assert_eq!(rows, [100, 101]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        loses_rows_unless_the_catalog_decides(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        loses_rows_unless_the_catalog_decides(Backend::Postgres).await;
    }
}

/// A server that changes over: what stood before is known, and goes on.
async fn changed_over(backend: Backend) {
    let decides = Arc::new(AtomicBool::new(false));
    let flag = decides.clone();
    let configure = move |settings: &mut Settings| {
        if flag.load(Ordering::SeqCst) {
            by_catalog(settings);
        }
    };
    let Some(mut server) = TestServer::spawn_with(backend, configure).await else { return };
    let location = server.with_table("ns$t", 1).await;
    server.insert("ns$t", &batch_ab(1..2)).await;
    for (by_catalog, version) in [(true, 3), (false, 4), (true, 5)] {
        decides.store(by_catalog, Ordering::SeqCst);
        server.restart().await;
        let value = version - 1;
        let inserted = server.insert("ns$t", &batch_ab(value..value + 1)).await;
        assert_eq!(inserted["version"], version, "{inserted}");
    }
    assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
    assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
    let old = server.post(&table("ns$t", "query"), json!({"k": 10, "version": 1})).await;
    assert_eq!(int_values(&read_file(&old.raw), "a"), [0]);
}

mod a_server_changes_over {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        changed_over(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        changed_over(Backend::Postgres).await;
    }
}

/// The catalog cannot decide what clients do not tell it.
#[test]
fn clients_cannot_be_told_to_go_past_it() {
    let home = TempDir::with_prefix("tiltyard-cli-").expect("a temporary folder");
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--commit-arbiter",
        "catalog",
        "--no-managed-versioning",
    ];
    let output = tiltyard(home.path(), &arguments).output().expect("the binary runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("managed_versioning"), "{said}");
    let output = tiltyard(home.path(), &["serve", "--commit-arbiter", "nobody"]).output();
    let said = String::from_utf8_lossy(&output.expect("the binary runs").stderr).into_owned();
    assert!(said.contains("storage") && said.contains("catalog"), "{said}");
}
