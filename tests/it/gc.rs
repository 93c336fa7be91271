//! `tiltyard gc`: what nothing refers to goes, and nothing else.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use crate::support::batches::{batch_ab, ipc};
use crate::support::staging::{relative, stage};
use crate::support::upkeep::{Told, column, everything, literal, make_all_old, put_old, sql, tell};
use crate::support::{Backend, Database, TestServer, files_under, foreign, table};

async fn gc(server: &TestServer, arguments: &[&str]) -> Told {
    tell(server, &[&["gc"], arguments].concat()).await
}

/// A dry run says what a real one then does, and changes nothing. Answers the real one.
async fn gc_after_a_dry_run(server: &TestServer) -> Told {
    let before = everything(server).await;
    let dry = gc(server, &["--dry-run"]).await;
    assert_eq!(dry.code, 0, "{dry:#?}");
    assert_eq!(everything(server).await, before, "a dry run changed something");
    let done = gc(server, &[]).await;
    assert_eq!(done.code, 0, "{done:#?}");
    let as_done = |line: &String| line.replace("would remove", "removed");
    assert_eq!(dry.lines.iter().map(as_done).collect::<Vec<_>>(), done.lines);
    done
}

/// A table with old versions, a tag, a branch with data of its own, deleted rows, an index, a clone
/// of a version that the table itself has no more, and an upload that is alive.
async fn with_much(server: &TestServer) -> String {
    let location = server.with_table("ns$t", 3).await;
    let clone = json!({"source_location": location, "is_shallow": true});
    server.post("/v1/table/ns$c/clone", clone).await.ok();
    let mode = "insert?mode=overwrite";
    server.post_arrow(&table("ns$t", mode), ipc(&[batch_ab(10..13)])).await.ok();
    let first = json!({"ranges": [{"start_version": 1, "end_version": 2}]});
    server.post(&table("ns$t", "version/delete"), first).await.ok();
    // What only that version had, such as its transaction.
    gc(server, &["--orphan-age", "0s"]).await;
    server.post(&table("ns$t", "tags/create"), json!({"tag": "old", "version": 2})).await.ok();
    server.post(&table("ns$t", "branches/create"), json!({"name": "side/a"})).await.ok();
    let path = table("ns$t", "insert?branch=side%2Fa");
    server.post_arrow(&path, ipc(&[batch_ab(50..52)])).await.ok();
    foreign::delete(&location, "a = 11").await;
    let btree = lance_index::scalar::ScalarIndexParams::default();
    foreign::index(&location, "a", lance_index::IndexType::BTree, &btree).await;
    server.insert("ns$t", &batch_ab(20..22)).await;
    server.upload("ns$t", &batch_ab(90..92)).await;
    make_all_old(&server.lake());
    location
}

async fn assert_much_is_whole(server: &TestServer, location: &str) {
    assert_eq!(server.values("ns$t").await, [10, 12, 20, 21]);
    assert_eq!(foreign::values(location).await, [10, 12, 20, 21]);
    let side = foreign::values(&format!("{location}/tree/side/a")).await;
    assert_eq!(side, [10, 11, 12, 50, 51]);
    let tagged = foreign::open(location).await.checkout_version("old").await.expect("the tag");
    assert_eq!(Box::pin(tagged.count_rows(None)).await.expect("its rows"), 3);
    assert_eq!(server.values("ns$c").await, [0, 1, 2]);
    let found = server.query("ns$t", json!({"k": 10, "filter": "a = 12"})).await;
    assert_eq!(found.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
    let listed = server.get(&table("ns$t", "uploads")).await.ok();
    let upload = listed["uploads"][0]["upload_id"].clone();
    let version = server.describe("ns$t").await["version"].clone();
    let body = json!({"operation": "append", "read_version": version, "uploads": [upload]});
    server.commit("ns$t", body).await.ok();
    assert_eq!(server.values("ns$t").await, [10, 12, 20, 21, 90, 91]);
}

both! {
    async fn what_something_refers_to_stays(server: TestServer) {
        let location = with_much(&server).await;
        let before = everything(&server).await;
        for arguments in [&[][..], &["--orphan-age", "0s"]] {
            let done = gc(&server, arguments).await;
            assert_eq!(done.code, 0, "{done:#?}");
            assert_eq!(done.lines.len(), 1, "{done:#?}");
            assert_eq!(everything(&server).await, before);
        }
        assert_much_is_whole(&server, &location).await;
    }
}

both! {
    async fn what_nothing_refers_to_goes(server: TestServer) {
        let location = with_much(&server).await;
        let folder = foreign::folder(&location);
        let kept = server.files();
        // As writers leave it that die, or lose a race.
        foreign::fragments(&location, batch_ab(30..33)).await;
        stage(&location, batch_ab(33..34)).await;
        let index = folder.join("_indices").join(Uuid::new_v4().to_string());
        for name in [
            "data/.tmpAb12cd",
            "data/cut.lance#3",
            "data/lost/00000001.blob",
            "tree/side/a/data/lost.lance",
            "_deletions/7-7-7.arrow",
            "_transactions/9-lost.txn",
            "_versions/18446744073709551000.manifest#1",
        ] {
            put_old(&folder.join(name));
        }
        put_old(&index.join("index.idx"));
        make_all_old(&server.lake());
        let mut garbage = files_under(&folder);
        garbage.retain(|file| !kept.contains(file));
        let is_data = |file: &&PathBuf| file.extension().is_some_and(|kind| kind == "lance");
        assert_eq!(garbage.iter().filter(is_data).count(), 3, "{garbage:?}");
        // Not of Lance's making, or too new.
        let spared = [folder.join("notes.txt"), folder.join("data/notes.txt")];
        for file in &spared {
            put_old(file);
        }
        let young = kept.len() + spared.len();
        foreign::fragments(&location, batch_ab(34..35)).await;
        let all = server.files();
        let done = gc_after_a_dry_run(&server).await;
        for file in &garbage {
            let name = file.strip_prefix(&folder).expect("in the folder").display().to_string();
            done.tells(&["removed", &name, "ns$t"]);
            assert!(!file.exists(), "{name}");
        }
        assert_eq!(done.lines.len(), garbage.len() + 1, "{done:#?}");
        assert!(done.last().contains(&format!("{} files", garbage.len())), "{done:#?}");
        let left: Vec<PathBuf> =
            all.into_iter().filter(|file| !garbage.contains(file)).collect();
        assert_eq!(server.files(), left);
        // The data file and the transaction of the fragments that are new.
        assert!(left.len() > young, "{left:?}");
        assert!(!index.exists(), "an empty folder of an index");
        assert_eq!(gc(&server, &[]).await.lines.len(), 1);
        assert_much_is_whole(&server, &location).await;
        // The clone alone held the files of the first version.
        let first: Vec<PathBuf> = files_under(&folder.join("data"));
        server.post_empty("/v1/table/ns$c/drop").await.ok();
        let done = gc_after_a_dry_run(&server).await;
        done.tells(&["removed", "data file", "ns$t"]);
        assert_eq!(files_under(&folder.join("data")).len(), first.len() - 1);
        assert_eq!(foreign::values(&location).await, [10, 12, 20, 21, 90, 91]);
    }
}

both! {
    async fn what_is_noted_goes_when_its_time_is_over(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        server.upload("ns$t", &batch_ab(3..4)).await;
        let used = server.upload("ns$t", &batch_ab(4..5)).await;
        foreign::commit_append(&location, &used["fragments"]).await;
        let done = server.upload("ns$t", &batch_ab(5..6)).await;
        let body = json!({"operation": "append", "read_version": 2, "uploads": [done["upload_id"]]});
        let request = server.request(reqwest::Method::POST, &table("ns$t", "commit")).json(&body);
        server.send(request.header("idempotency-key", "k")).await.ok();
        let dropped = server.lake().join("left-behind");
        put_old(&dropped.join("data/x.lance"));
        let note = format!(
            "INSERT INTO pending_removals (location, not_before_us) VALUES ('{}', 5)",
            dropped.canonicalize().expect("a folder").display()
        );
        let database = server.database();
        for text in [
            "UPDATE uploads SET expires_at_us = 0",
            "UPDATE idempotency_keys SET expires_at_us = 0, lease_us = 0",
            &note,
        ] {
            sql(database, text).await;
        }
        let values = foreign::values(&location).await;
        let swept = gc_after_a_dry_run(&server).await;
        swept.tells(&["removed folder", "left-behind"]);
        swept.tells(&["removed upload", "ns$t", "with its files"]);
        swept.tells(&["removed the note of upload", "which was committed"]);
        swept.tells(&["1 kept answers"]);
        assert!(!dropped.exists());
        assert_eq!(foreign::values(&location).await, values);
        assert_eq!(values, [0, 1, 2, 4, 5]);
        assert_eq!(server.values("ns$t").await, values);
    }
}

both! {
    /// A batch may take long, and a crash may make it longer.
    async fn a_manifest_that_a_batch_is_about_to_put_stays(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let staged = stage(&location, batch_ab(3..5)).await;
        make_all_old(&server.lake());
        intend(&server, &staged.manifest, i64::MAX).await;
        let before = everything(&server).await;
        assert_eq!(gc(&server, &["--orphan-age", "0s"]).await.lines.len(), 1);
        assert_eq!(everything(&server).await, before);
        sql(server.database(), "DELETE FROM batch_versions").await;
        let done = gc_after_a_dry_run(&server).await;
        done.tells(&["removed staged manifest"]);
        done.tells(&["removed data file"]);
        assert!(!staged.manifest.exists());
        assert_eq!(foreign::values(&location).await, [0, 1, 2]);
    }
}

/// Notes a batch as its maker would that is about to put this manifest as version 2 of the only
/// table.
pub async fn intend(server: &TestServer, manifest: &Path, lease_us: i64) {
    let database = server.database();
    let (key, batch) = (table_key(server).await, Uuid::now_v7());
    let bytes = std::fs::read(manifest).expect("the staged manifest");
    let changes = json!([{"CreateVersion": {
        "table": key, "branch": "main", "version": 2, "path": relative(manifest),
        "v1_names": false, "hash": blake3::hash(&bytes).to_hex().to_string(), "metadata": {},
    }}]);
    let (key, batch) = (literal(database, key), literal(database, batch));
    sql(
        database,
        &format!(
            "INSERT INTO batches (batch_id, state, changes, properties, created_by, created_at_us, \
             lease_us) VALUES ({batch}, 'open', '{changes}', '{{}}', 'somebody', 1, {lease_us})"
        ),
    )
    .await;
    sql(
        database,
        &format!(
            "INSERT INTO batch_versions (table_id, branch, version, batch_id) \
             VALUES ({key}, 'main', 2, {batch})"
        ),
    )
    .await;
}

async fn table_key(server: &TestServer) -> Uuid {
    let database = server.database();
    let text = match database {
        Database::Sqlite { .. } => "SELECT hex(table_id) FROM tables",
        Database::Postgres { .. } => "SELECT table_id::text FROM tables",
    };
    let keys = column(database, text).await;
    keys[0].parse().expect("a key")
}

both! {
    /// What cannot be read may refer to anything.
    async fn a_table_that_cannot_be_judged_is_left_alone(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        server.with_table("ns$u", 3).await;
        server.insert("ns$t", &batch_ab(3..4)).await;
        let folder = foreign::folder(&location);
        let orphan = folder.join("data/lost.lance");
        let of_other = foreign::folder(&server.location("ns$u").await).join("data/lost.lance");
        put_old(&orphan);
        put_old(&of_other);
        let broken = folder.join("_versions").join(format!("{:020}.manifest", u64::MAX - 1));
        let whole = std::fs::read(&broken).expect("version 1");
        std::fs::write(&broken, b"this is no manifest").expect("a file");
        let done = gc(&server, &[]).await;
        assert_eq!(done.code, 1, "{done:#?}");
        done.tells(&["could not", "ns$t"]);
        done.tells(&["removed", "ns$u"]);
        assert!(orphan.exists() && !of_other.exists());
        // None of a table whose versions are all lost, either.
        std::fs::rename(folder.join("_versions"), server.home().join("lost")).expect("a move");
        let done = gc(&server, &[]).await;
        assert_eq!(done.code, 1, "{done:#?}");
        assert!(orphan.exists());
        std::fs::rename(server.home().join("lost"), folder.join("_versions")).expect("a move");
        std::fs::write(&broken, whole).expect("a file");
        assert_eq!(gc(&server, &[]).await.code, 0);
        assert!(!orphan.exists());
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3]);
    }
}

both! {
    /// From another, empty catalog everything in storage would look like garbage.
    async fn only_a_catalog_that_is_there_is_swept(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        make_all_old(&server.lake());
        let lake = server.lake().display().to_string();
        let empty = server.home().join("empty.db");
        let nowhere = server.home().join("nowhere/none.db");
        sqlx::SqlitePool::connect(&format!("sqlite://{}?mode=rwc", empty.display()))
            .await
            .expect("an empty database")
            .close()
            .await;
        for database in [&empty, &nowhere] {
            for subcommand in [&["gc"][..], &["gc", "--dry-run"], &["doctor"], &["doctor", "--repair"]] {
                let database = format!("sqlite://{}", database.display());
                let arguments = [subcommand, &["--storage-root", &lake, "--database", &database]];
                let mut command =
                    crate::support::process::tiltyard(server.home(), &arguments.concat());
                let output = command.output().expect("the binary runs");
                assert!(!output.status.success(), "{subcommand:?}");
                assert!(!output.stderr.is_empty());
            }
        }
        assert!(!nowhere.exists());
        assert_eq!(foreign::values(&location).await, [0, 1, 2]);
        let bad = gc(&server, &["--orphan-age", "soon"]).await;
        assert!(bad.code != 0 && bad.error.contains("10m"), "{bad:#?}");
    }
}

async fn servers_sweep_too(backend: Backend) {
    let configure = |settings: &mut tiltyard::config::Settings| {
        settings.gc_interval = Duration::from_secs(1);
    };
    let Some(server) = TestServer::spawn_with(backend, configure).await else { return };
    let location = foreign::folder(&server.with_table("ns$t", 3).await);
    // The round through all tables is over by now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (old, young) = (location.join("data/old.lance"), location.join("data/young.lance"));
    put_old(&old);
    put_old(&young);
    std::fs::write(&young, b"new").expect("a file");
    // A server that starts begins a round.
    let other = server.beside().await;
    let started = Instant::now();
    while old.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "nothing was swept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(young.exists());
    assert_eq!(other.values("ns$t").await, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_sweep_too_on_sqlite() {
    servers_sweep_too(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_sweep_too_on_postgres() {
    servers_sweep_too(Backend::Postgres).await;
}

both! {
    /// Writers come and go while garbage is collected again and again, at any age.
    async fn writers_are_not_disturbed(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let folder = foreign::folder(&location);
        let writing = async {
            for value in 1..15 {
                server.insert("ns$t", &batch_ab(value..value + 1)).await;
                put_old(&folder.join(format!("data/lost{value}.lance")));
            }
        };
        let collecting = async {
            for _ in 0..4 {
                let done = gc(&server, &[]).await;
                assert_eq!(done.code, 0, "{done:#?}");
            }
        };
        tokio::join!(writing, collecting);
        gc(&server, &[]).await;
        let expected: Vec<i32> = (0..15).collect();
        assert_eq!(server.values("ns$t").await, expected);
        assert_eq!(foreign::values(&location).await, expected);
        let lost = |file: &&PathBuf| file.display().to_string().contains("/lost");
        assert_eq!(server.files().iter().filter(lost).count(), 0);
    }
}
