//! CreateTableVersion: clients that stage a manifest and have it made a version here.

use std::path::Path;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::staging::{Staged, relative, stage, stage_line, staging, unname};
use crate::support::{Backend, Reply, TestServer, assert_error, files_under, foreign, table, text};

async fn create(server: &TestServer, id: &str, claim: Value) -> Reply {
    server.post(&table(id, "version/create"), claim).await
}

fn with(mut claim: Value, field: &str, value: Value) -> Value {
    claim[field] = value;
    claim
}

both! {
    async fn a_staged_manifest_becomes_a_version(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let staged = stage(&location, batch_ab(3..5)).await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2], "a staged version can be seen");
        assert_eq!(server.versions("ns$t").await, [1]);
        let claim = with(staged.claim(), "metadata", json!({"k": "v"}));
        let created = create(&server, "ns$t", claim).await.ok();
        let version = &created["version"];
        assert_eq!(version["version"], 2, "{created}");
        let path = text(version, "manifest_path");
        assert!(Path::new("/").join(&path).is_file(), "{path}");
        assert!(path.ends_with(".manifest"), "{path}");
        assert!(version["timestamp_millis"].as_i64() > Some(1_600_000_000_000), "{created}");
        assert!(staging(&location).is_empty(), "the staged manifest is left");
        let path = table("ns$t", "version/list?descending=true&limit=1");
        let listed = server.post_empty(&path).await.ok();
        let metadata = &listed["versions"][0]["metadata"];
        assert_eq!(metadata["k"], "v", "what the client keeps with the version: {listed}");
        assert_eq!(metadata["origin"], "catalog", "{listed}");
        assert_eq!(metadata["operation"], "Append", "{listed}");
        assert_eq!(metadata["transaction_id"], text(&created, "transaction_id"), "{listed}");
        assert!(!text(metadata, "committed_by").is_empty(), "{listed}");
        let described =
            server.post(&table("ns$t", "version/describe"), json!({"version": 2})).await.ok();
        assert_eq!(described["version"], listed["versions"][0]);
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
        server.insert("ns$t", &batch_ab(5..6)).await;
        foreign::append(&location, batch_ab(6..7)).await;
        assert_eq!(server.versions("ns$t").await, [1, 2, 3, 4]);
    }
}

both! {
    /// What the server knows of a version cannot be said by the client.
    async fn metadata_does_not_forge_what_is_known(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let staged = stage(&location, batch_ab(1..2)).await;
        let forged = json!({"committed_by": "somebody", "origin": "foreign", "operation": "None"});
        let created =
            create(&server, "ns$t", with(staged.claim(), "metadata", forged)).await.ok();
        let metadata = &created["version"]["metadata"];
        assert_eq!(metadata["origin"], "catalog", "{created}");
        assert_eq!(metadata["operation"], "Append", "{created}");
        assert_ne!(metadata["committed_by"], "somebody", "{created}");
    }
}

both! {
    async fn a_version_is_made_once_and_without_gaps(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let line = stage_line(&location, vec![batch_ab(1..2), batch_ab(2..3)]).await;
        let rival = stage(&location, batch_ab(10..11)).await;
        let gap = create(&server, "ns$t", line[1].claim()).await;
        assert_error(&gap, 409, CONCURRENT_MODIFICATION);
        assert_eq!(gap.body["current_version"], 1, "{}", gap.text());
        create(&server, "ns$t", line[0].claim()).await.ok();
        let taken = create(&server, "ns$t", rival.claim()).await;
        assert_error(&taken, 409, CONCURRENT_MODIFICATION);
        assert_eq!(taken.body["current_version"], 2, "{}", taken.text());
        assert_eq!(taken.body["retryable"], true, "{}", taken.text());
        assert_eq!(taken.body["conflicting_operation"], "Append", "{}", taken.text());
        create(&server, "ns$t", line[1].claim()).await.ok();
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        // A version that another put straight into storage is one too.
        let late = stage(&location, batch_ab(20..21)).await;
        foreign::append(&location, batch_ab(3..4)).await;
        let taken = create(&server, "ns$t", late.claim()).await;
        assert_error(&taken, 409, CONCURRENT_MODIFICATION);
        assert_eq!(taken.body["current_version"], 4, "{}", taken.text());
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3]);
    }
}

both! {
    /// The answer was lost, so the client asks again: with its manifest still there, the answer is
    /// the same.
    async fn a_request_that_is_sent_again(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let staged = stage(&location, batch_ab(1..2)).await;
        let (claim, bytes) = (staged.claim(), std::fs::read(&staged.manifest).expect("bytes"));
        let first = create(&server, "ns$t", claim.clone()).await.ok();
        std::fs::write(&staged.manifest, bytes).expect("a staged manifest");
        let second = create(&server, "ns$t", claim.clone()).await.ok();
        assert_eq!(first, second);
        assert!(staging(&location).is_empty());
        let third = create(&server, "ns$t", claim).await;
        assert_error(&third, 409, CONCURRENT_MODIFICATION);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        assert_eq!(server.values("ns$t").await, [0, 1]);
    }
}

both! {
    async fn claims_that_are_wrong_are_refused(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let other = server.with_table("ns$other", 1).await;
        let line = stage_line(&location, vec![batch_ab(1..2), batch_ab(2..3)]).await;
        let foreign_staged = stage(&other, batch_ab(7..8)).await;
        let (good, next) = (line[0].claim(), line[1].claim());
        let folder = foreign::folder(&location);
        let at = |path: &Path| json!(relative(path));
        let name = line[0].manifest.file_name().expect("a name").to_string_lossy().into_owned();
        std::fs::create_dir_all(folder.join("_versions/deep")).expect("a folder");
        for copy in ["data", "_versions/deep", ""] {
            std::fs::copy(&line[0].manifest, folder.join(copy).join(&name)).expect("a copy");
        }
        let data = files_under(&folder.join("data")).remove(0);
        let before = server.snapshot().await;
        let paths = [
            json!(""),
            json!("/"),
            json!("."),
            json!(name),
            json!(format!("_versions/{name}")),
            json!("etc/passwd"),
            json!("../../etc/passwd"),
            json!("%2e%2e/x"),
            json!("a\u{0}b"),
            json!("s3://bucket/x.manifest"),
            json!(format!("file://{}", line[0].manifest.display())),
            at(&folder.join("_versions")),
            at(&folder.join("_versions/../data").join(&name)),
            at(&folder.join("_versions/../_versions").join(&name)),
            at(&folder.join("data").join(&name)),
            at(&folder.join("_versions/deep").join(&name)),
            at(&folder.join("_versions/deep")),
            at(&folder.join(&name)),
            at(&folder.join("_versions/nothing.manifest-x")),
            at(&data),
            at(&foreign_staged.manifest),
            json!(relative(&line[0].manifest).to_uppercase()),
            json!(5),
            Value::Null,
        ];
        let mut claims: Vec<Value> =
            paths.into_iter().map(|path| with(good.clone(), "manifest_path", path)).collect();
        for (field, value) in [
            ("manifest_size", json!(1)),
            ("manifest_size", json!(0)),
            ("manifest_size", json!(-1)),
            ("manifest_size", json!(i64::MAX)),
            ("manifest_path", next["manifest_path"].clone()),
            ("version", json!(-1)),
            ("version", json!(0)),
            ("version", json!("2")),
            ("version", json!(1.5)),
            ("version", Value::Null),
            ("naming_scheme", json!("V9")),
            ("metadata", json!([1])),
            ("metadata", json!({"k": 1})),
            ("branch", json!("no//branch")),
            ("id", json!(["ns", "other"])),
        ] {
            claims.push(with(good.clone(), field, value));
        }
        let sizeless = with(good.clone(), "manifest_size", Value::Null);
        claims.push(with(sizeless, "manifest_path", next["manifest_path"].clone()));
        for claim in claims {
            let reply = create(&server, "ns$t", claim).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        assert_error(&create(&server, "ns$nope", good.clone()).await, 404, TABLE_NOT_FOUND);
        server.assert_unchanged(&before, "wrong claims").await;
        create(&server, "ns$t", good).await.ok();
        assert_eq!(server.values("ns$t").await, [0, 1]);
    }
}

both! {
    async fn files_that_are_no_manifests_are_refused(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let staged = stage(&location, batch_ab(1..2)).await;
        let good = std::fs::read(&staged.manifest).expect("bytes");
        let cut = |length: usize| good[..length].to_vec();
        let mut files = vec![
            Vec::new(),
            vec![0; 1],
            vec![0; 16],
            vec![0xff; 100_000],
            b"{\"version\": 2}".to_vec(),
            b"LANC".to_vec(),
            ipc(&[batch_ab(0..3)]),
            good[good.len() - 16..].to_vec(),
            good[16..].to_vec(),
            [good.clone(), vec![0; 8]].concat(),
        ];
        files.extend((1..16).map(|part| cut(good.len() * part / 16)));
        files.extend((1..17).map(|short| cut(good.len() - short)));
        // Where the manifest lies in its file, as its last bytes say it.
        for place in [0, 1, 1 << 20, i64::MAX, -1] {
            let mut lying = good.clone();
            let at = lying.len() - 16;
            lying[at..at + 8].copy_from_slice(&place.to_le_bytes());
            files.push(lying);
        }
        for bytes in files {
            let length = bytes.len();
            std::fs::write(&staged.manifest, bytes).expect("a file");
            let reply = create(&server, "ns$t", staged.claim()).await;
            assert_eq!(reply.status, 400, "{length} of {} bytes: {}", good.len(), reply.text());
            assert_error(&reply, 400, INVALID_INPUT);
        }
        assert_eq!(server.versions("ns$t").await, [1]);
        std::fs::write(&staged.manifest, &good).expect("a file");
        create(&server, "ns$t", staged.claim()).await.ok();
        assert_eq!(server.values("ns$t").await, [0, 1]);
    }
}

both! {
    /// Whatever a bent manifest passes for, the server lives on, and so do its other tables.
    async fn a_bent_manifest_harms_no_other_table(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let model = server.with_declared("ns$model").await;
        let staged = stage(&model, batch_ab(0..2)).await;
        let good = std::fs::read(&staged.manifest).expect("bytes");
        for part in 0..24 {
            let id = format!("ns$bent{part}");
            let location = server.with_declared(&id).await;
            let folder = foreign::folder(&location).join("_versions");
            std::fs::create_dir_all(&folder).expect("a folder");
            let mut bent = good.clone();
            bent[good.len() * part / 24] ^= 0x55;
            let manifest = folder.join("1.manifest-bent");
            std::fs::write(&manifest, bent).expect("a file");
            let reply = create(&server, &id, Staged { version: 1, manifest }.claim()).await;
            assert!([200, 400].contains(&reply.status), "{part}: {}", reply.text());
        }
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        server.get("/readyz").await.ok();
    }
}

both! {
    async fn the_first_version_of_a_declared_table(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        let line = stage_line(&location, vec![batch_ab(0..3), batch_ab(3..4)]).await;
        let early = create(&server, "ns$t", line[1].claim()).await;
        assert_error(&early, 409, CONCURRENT_MODIFICATION);
        create(&server, "ns$t", line[0].claim()).await.ok();
        let path = table("ns$t", "describe?check_declared=true");
        let described = server.post(&path, json!({})).await.ok();
        assert_eq!(described["is_only_declared"], false);
        create(&server, "ns$t", line[1].claim()).await.ok();
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3]);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
    }
}

both! {
    /// Lance makes a branch by its first version and names it afterwards.
    async fn the_first_version_of_a_branch(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        server.insert("ns$t", &batch_ab(2..3)).await;
        let mut dataset = foreign::open(&location).await;
        Box::pin(dataset.create_branch("b", 2, None)).await.expect("a branch");
        let branch = format!("{location}/tree/b");
        let name = foreign::folder(&location).join("_refs/branches/b.json");
        let contents = std::fs::read(&name).expect("the name of the branch");
        std::fs::remove_file(&name).expect("the name of the branch");
        let first = foreign::open(&branch).await.version().version;
        let staged = unname(&branch, first);
        let claim = with(staged.claim(), "branch", json!("b"));
        let created = create(&server, "ns$t", claim).await.ok();
        assert_eq!(created["version"]["version"], first, "{created}");
        assert_eq!(server.versions("ns$t").await, [1, 2], "main has changed");
        std::fs::write(&name, contents).expect("the name of the branch");
        let body = json!({"branch": "b"});
        assert_eq!(server.post(&table("ns$t", "count_rows"), body.clone()).await.ok(), 3);
        let path = table("ns$t", "insert?branch=b");
        server.post_arrow(&path, ipc(&[batch_ab(3..4)])).await.ok();
        let again = foreign::append(&branch, batch_ab(4..5)).await;
        let staged = unname(&branch, again);
        let claim = with(staged.claim(), "branch", json!("b"));
        create(&server, "ns$t", claim).await.ok();
        assert_eq!(server.post(&table("ns$t", "count_rows"), body).await.ok(), 5);
        assert_eq!(server.count("ns$t").await, 3);
    }
}

async fn is_managed(server: &TestServer, id: &str) -> bool {
    let described = server.post_empty(&table(id, "describe")).await.ok();
    described["managed_versioning"].as_bool().unwrap_or_else(|| panic!("none in {described}"))
}

both! {
    async fn who_is_asked_to_commit_here(server: TestServer) {
        server.create_namespace("ns").await;
        for (name, word, expected) in [
            ("plain", None, true),
            ("on", Some("true"), true),
            ("off", Some("false"), false),
            ("loud", Some("FALSE"), false),
        ] {
            let id = format!("ns$declared_{name}");
            let properties = word.map(|word| json!({"managed_versioning": word}));
            let body = json!({"properties": properties});
            let declared = server.post(&table(&id, "declare"), body).await.ok();
            assert_eq!(declared["managed_versioning"], expected, "{declared}");
            assert_eq!(is_managed(&server, &id).await, expected, "{id}");
        }
        server.create("ns$created", &batch_ab(0..2)).await;
        assert!(is_managed(&server, "ns$created").await);
        let body = json!({"updates": [["b", "'x'"]], "properties": {"managed_versioning": "false"}});
        server.post(&table("ns$created", "update"), body).await.ok();
        assert!(!is_managed(&server, "ns$created").await);
        let location = server.lake().join("mine.lance").display().to_string();
        foreign::create(&location, batch_ab(0..5)).await;
        let body = json!({"location": location});
        server.post(&table("ns$theirs", "register"), body).await.ok();
        assert!(!is_managed(&server, "ns$theirs").await, "its writers do not know the catalog");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_can_be_set_to_ask_nobody() {
    let server = TestServer::spawn_with(Backend::Sqlite, |settings| {
        settings.managed_versioning = false;
    });
    let server = server.await.expect("SQLite is always there");
    let location = server.with_table("ns$t", 1).await;
    assert!(!is_managed(&server, "ns$t").await);
    let body = json!({"properties": {"managed_versioning": "true"}});
    server.post(&table("ns$mine", "declare"), body).await.ok();
    assert!(is_managed(&server, "ns$mine").await, "a table's own word wins");
    // Who asks nevertheless is served.
    let staged = stage(&location, batch_ab(1..2)).await;
    create(&server, "ns$t", staged.claim()).await.ok();
}

/// Of those who stage one version one makes it, whichever servers they speak to.
async fn one_creator_wins(servers: &[&TestServer]) {
    let location = servers[0].with_table("ns$t", 0).await;
    for round in 0..3 {
        let mut staged = Vec::new();
        for writer in 0..6 {
            let value = round * 10 + writer;
            staged.push((value, stage(&location, batch_ab(value..value + 1)).await));
        }
        let creators = staged.iter().enumerate().map(|(writer, (value, staged))| {
            let server = servers[writer % servers.len()];
            async move { (*value, create(server, "ns$t", staged.claim()).await) }
        });
        let replies = join_all(creators).await;
        let winners: Vec<i32> = replies
            .iter()
            .filter(|(_, reply)| reply.status == 200)
            .map(|(value, _)| *value)
            .collect();
        for (_, loser) in replies.iter().filter(|(_, reply)| reply.status != 200) {
            assert_error(loser, 409, CONCURRENT_MODIFICATION);
        }
        assert_eq!(winners.len(), 1, "winners of round {round}");
        assert!(servers[0].values("ns$t").await.contains(&winners[0]));
        assert_eq!(servers[0].count("ns$t").await, round as u64 + 1);
        for server in servers {
            let versions = server.versions("ns$t").await;
            assert_eq!(versions, (1..=round as u64 + 2).collect::<Vec<_>>());
        }
    }
}

both! {
    async fn one_creator_of_a_version_wins(server: TestServer) {
        one_creator_wins(&[&server]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_creator_of_a_version_wins_on_two_servers() {
    let Some(one) = TestServer::spawn(Backend::Postgres).await else { return };
    let other = one.beside().await;
    one_creator_wins(&[&one, &other]).await;
}

both! {
    /// Those who stage, those who send rows, and those who know no catalog.
    async fn creators_and_other_writers_lose_nothing(server: TestServer) {
        let location = server.with_table("ns$t", 0).await;
        let mut expected = Vec::new();
        for round in 0..4 {
            let first = round * 100;
            let staged = stage(&location, batch_ab(first..first + 1)).await;
            let inserts = (1..4).map(|writer| {
                let (server, value) = (&server, first + writer);
                async move { server.insert("ns$t", &batch_ab(value..value + 1)).await }
            });
            let foreign = foreign::append(&location, batch_ab(first + 9..first + 10));
            let create = create(&server, "ns$t", staged.claim());
            let (created, ..) = futures::join!(create, join_all(inserts), foreign);
            if created.status == 200 {
                expected.push(first);
            } else {
                assert_error(&created, 409, CONCURRENT_MODIFICATION);
            }
            expected.extend([first + 1, first + 2, first + 3, first + 9]);
        }
        expected.sort_unstable();
        assert_eq!(server.values("ns$t").await, expected);
        assert_eq!(foreign::values(&location).await, expected);
        let versions = server.versions("ns$t").await;
        assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
    }
}
