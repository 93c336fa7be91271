//! `tiltyard doctor`: each kind of damage is made by hand, told, left alone, and mended when asked.

use std::path::PathBuf;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::gc::intend;
use crate::support::batches::{batch_ab, ipc};
use crate::support::rows::with_side;
use crate::support::staging::stage;
use crate::support::upkeep::{Told, everything, make_all_old, put_old, sql, tell};
use crate::support::{TestServer, files_under, foreign, table};

async fn doctor(server: &TestServer, arguments: &[&str]) -> Told {
    tell(server, &[&["doctor"], arguments].concat()).await
}

/// All is well: nothing is told but this many notes, and nothing changed.
async fn assert_healthy(server: &TestServer, notes: usize) {
    let before = everything(server).await;
    let told = doctor(server, &["--repair"]).await;
    assert_eq!(told.code, 0, "{told:#?}");
    assert!(
        told.last()
            .contains(&format!("0 findings, of which 0 were mended and 0 remain; {notes} notes")),
        "{told:#?}"
    );
    assert_eq!(everything(server).await, before, "a healthy catalog was changed: {told:#?}");
}

/// What is told of the damage: each finding by some words of it. Nothing is changed by that; a repair
/// mends all of it, and then there is nothing left to tell. Answers the repair.
async fn assert_mended(server: &TestServer, findings: &[&[&str]]) -> Told {
    let before = everything(server).await;
    let told = doctor(server, &[]).await;
    assert_eq!(told.code, 1, "{told:#?}");
    for words in findings {
        told.tells(&[*words, &["would "]].concat());
    }
    let number = findings.len();
    told.tells(&[&format!("{number} findings, of which 0 were mended and {number} remain")]);
    assert_eq!(everything(server).await, before, "only looking changed something");
    let mended = doctor(server, &["--repair"]).await;
    assert_eq!(mended.code, 0, "{mended:#?}");
    for words in findings {
        mended.tells(&[*words, &["mended"]].concat());
    }
    let again = doctor(server, &["--repair"]).await;
    assert_eq!(again.code, 0, "{again:#?}");
    again.tells(&["0 findings"]);
    mended
}

fn manifest(location: &str, version: u64) -> PathBuf {
    let versions = foreign::folder(location).join("_versions");
    versions.join(format!("{:020}.manifest", u64::MAX - version))
}

both! {
    async fn a_healthy_catalog_has_no_findings(server: TestServer) {
        assert_healthy(&server, 0).await;
        let location = with_side(&server).await;
        server.with_declared("ns$declared").await;
        server.insert("ns$t", &batch_ab(20..22)).await;
        let path = table("ns$t", "insert?branch=side");
        server.post_arrow(&path, ipc(&[batch_ab(50..52)])).await.ok();
        server.post(&table("ns$t", "tags/create"), json!({"tag": "old", "version": 1})).await.ok();
        let clone = json!({"source_location": location, "is_shallow": true});
        server.post("/v1/table/ns$c/clone", clone).await.ok();
        server.post("/v1/table/ns$c/delete", json!({"predicate": "a = 3"})).await.ok();
        server.insert("ns$c", &batch_ab(60..61)).await;
        foreign::delete(&location, "a = 1").await;
        server.upload("ns$t", &batch_ab(90..92)).await;
        assert_eq!(server.count("ns$t").await, 11);
        make_all_old(&server.lake());
        assert_healthy(&server, 0).await;
        // A table that is not named here any more is told of, and stays.
        server.post("/v1/table/ns$c/deregister", json!({})).await.ok();
        assert_healthy(&server, 1).await;
        let told = doctor(&server, &[]).await;
        told.tells(&["folder", "is of no table", "register it"]);
    }
}

both! {
    async fn versions_that_the_catalog_does_not_know_are_adopted(server: TestServer) {
        let location = with_side(&server).await;
        foreign::append(&location, batch_ab(20..21)).await;
        foreign::append(&format!("{location}/tree/side"), batch_ab(30..31)).await;
        let declared = server.with_declared("ns$d").await;
        foreign::create(&declared, batch_ab(0..4)).await;
        let mended = doctor(&server, &["ns$t"]).await;
        mended.tells(&["table ns$t:"]);
        mended.tells(&["table ns$t, branch side:"]);
        assert!(mended.about(&["ns$d"]).is_empty(), "{mended:#?}");
        let before = everything(&server).await;
        let told = doctor(&server, &[]).await;
        assert_eq!(told.code, 1);
        assert_eq!(told.about(&["version 2 stands in storage", "adopt"]).len(), 2, "{told:#?}");
        told.tells(&["version 1 stands in storage", "would adopt it"]);
        told.tells(&["only declared", "would note that it is created"]);
        assert_eq!(everything(&server).await, before);
        let mended = doctor(&server, &["--repair"]).await;
        assert_eq!(mended.code, 0, "{mended:#?}");
        assert_eq!(mended.about(&["adopt", "mended"]).len(), 3, "{mended:#?}");
        let rows = crate::support::upkeep::column(
            server.database(),
            "SELECT branch FROM table_versions WHERE origin = 'foreign' ORDER BY branch",
        );
        assert_eq!(rows.await, ["main", "main", "side"]);
        assert_healthy(&server, 0).await;
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        assert_eq!(server.versions("ns$d").await, [1]);
    }
}

both! {
    async fn versions_that_are_gone_are_forgotten(server: TestServer) {
        let location = with_side(&server).await;
        for value in 20..23 {
            server.insert("ns$t", &batch_ab(value..value + 1)).await;
        }
        let path = table("ns$t", "insert?branch=side");
        server.post_arrow(&path, ipc(&[batch_ab(50..52)])).await.ok();
        std::fs::remove_file(manifest(&location, 3)).expect("version 3");
        std::fs::remove_file(manifest(&format!("{location}/tree/side"), 2)).expect("version 2");
        let mended = assert_mended(&server, &[
            &["version 3 is in the catalog", "not in storage"],
            &["version 2 is in the catalog", "not in storage"],
        ]);
        mended.await.tells(&["table ns$t, branch side:"]);
        assert_eq!(server.versions("ns$t").await, [1, 2, 4]);
        assert_eq!(server.count("ns$t").await, 13);
    }
}

both! {
    async fn rows_that_tell_other_facts_are_corrected(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.insert("ns$t", &batch_ab(3..4)).await;
        server.insert("ns$t", &batch_ab(4..5)).await;
        let database = server.database();
        for text in [
            "UPDATE table_versions SET manifest_size = 1 WHERE version = 1",
            "UPDATE table_versions SET manifest_path = 'elsewhere/1.manifest' WHERE version = 2",
            // One that is not told is no other fact.
            "UPDATE table_versions SET manifest_size = NULL WHERE version = 3",
        ] {
            sql(database, text).await;
        }
        assert_mended(&server, &[
            &["version 1 is", "the catalog says", "with 1 bytes"],
            &["version 2 is", "the catalog says elsewhere/1.manifest"],
        ]).await;
        assert_eq!(server.versions("ns$t").await, [1, 2, 3]);
    }
}

both! {
    async fn the_state_of_a_table_is_what_storage_says(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_declared("ns$d").await;
        sql(server.database(), "UPDATE tables SET state = 'declared' WHERE name = 't'").await;
        sql(server.database(), "UPDATE tables SET state = 'created' WHERE name = 'd'").await;
        assert_mended(&server, &[
            &["only declared, and it has a version"],
            &["has a version, and none is in storage"],
        ]).await;
        let path = "/v1/namespace/ns/table/list?include_declared=false";
        assert_eq!(server.names(path, "tables").await, ["t"]);
    }
}

both! {
    /// What a table without any manifest left held is not taken for garbage.
    async fn lost_versions_do_not_take_their_data_with_them(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let versions = foreign::folder(&location).join("_versions");
        std::fs::rename(&versions, server.home().join("lost")).expect("a move");
        make_all_old(&server.lake());
        let data = files_under(&foreign::folder(&location).join("data"));
        let told = doctor(&server, &[]).await;
        assert_eq!(told.code, 1);
        told.tells(&["version 1 is in the catalog"]);
        told.tells(&["which of its files are garbage cannot be told"]);
        let mended = doctor(&server, &["--repair"]).await;
        assert_eq!(mended.code, 0, "{mended:#?}");
        mended.tells(&["only declared", "mended"]);
        assert_eq!(files_under(&foreign::folder(&location).join("data")), data);
        std::fs::rename(server.home().join("lost"), &versions).expect("a move");
        doctor(&server, &["--repair"]).await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        assert_healthy(&server, 0).await;
    }
}

both! {
    async fn uploads_of_dead_commits_and_lost_files_are_settled(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let dead = server.upload("ns$t", &batch_ab(3..4)).await;
        sql(server.database(), "UPDATE uploads SET state = 'committing', claim = 'x', claimed_at_us = 5").await;
        let landed = server.upload("ns$t", &batch_ab(4..5)).await;
        foreign::commit_append(&location, &landed["fragments"]).await;
        server.values("ns$t").await;
        let claim = "UPDATE uploads SET state = 'committing', claim = 'y', claimed_at_us = 5 \
            WHERE state = 'staged'";
        sql(server.database(), claim).await;
        let before = server.files();
        server.upload("ns$t", &batch_ab(6..7)).await;
        for file in server.files().iter().filter(|file| !before.contains(file)) {
            std::fs::remove_file(file).expect("the file of an upload");
        }
        // One whose commit is alive is nobody's to judge.
        server.upload("ns$t", &batch_ab(7..8)).await;
        let alive = "UPDATE uploads SET state = 'committing', claim = 'z', \
            claimed_at_us = 9000000000000000 WHERE read_version = 2 AND upload_id = \
            (SELECT upload_id FROM uploads ORDER BY upload_id DESC LIMIT 1)";
        sql(server.database(), alive).await;
        assert_mended(&server, &[
            &[dead["upload_id"].as_str().expect("an id"), "by a commit that died"],
            &[landed["upload_id"].as_str().expect("an id"), "by a commit that died"],
            &["lacks 1 of its files"],
        ]).await;
        let states = crate::support::upkeep::column(
            server.database(),
            "SELECT state FROM uploads ORDER BY upload_id",
        );
        assert_eq!(states.await, ["staged", "committed", "committing"]);
        let body = json!({"operation": "append", "read_version": 2, "uploads": [dead["upload_id"]]});
        server.commit("ns$t", body).await.ok();
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
    }
}

both! {
    async fn what_was_left_half_done_is_brought_to_its_end(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let staged = stage(&location, batch_ab(3..5)).await;
        // While its maker is alive it is nobody's business.
        intend(&server, &staged.manifest, i64::MAX).await;
        assert_healthy(&server, 0).await;
        sql(server.database(), "DELETE FROM batch_versions").await;
        sql(server.database(), "DELETE FROM batches").await;
        let dropped = server.lake().canonicalize().expect("a folder").join("left-behind");
        put_old(&dropped.join("data/x.lance"));
        let note = format!(
            "INSERT INTO pending_removals (location, not_before_us) VALUES ('{}', 5)",
            dropped.display()
        );
        sql(server.database(), &note).await;
        for (key, response, expires) in
            [("a", "NULL", "9000000000000000"), ("b", "NULL", "5"), ("c", "'{}'", "5")]
        {
            let holder = crate::support::upkeep::literal(server.database(), Uuid::now_v7());
            let text = format!(
                "INSERT INTO idempotency_keys (key_hash, body_hash, response, holder, lease_us, \
                 expires_at_us, taken_at_us) \
                 VALUES ('{key}', 'x', {response}, {holder}, 5, {expires}, 5)"
            );
            sql(server.database(), &text).await;
        }
        // A server that serves would take up the batch by itself: this one is past its lease only
        // for as long as it takes to look.
        intend(&server, &staged.manifest, 5).await;
        let told = doctor(&server, &["--repair"]).await;
        assert_eq!(told.code, 0, "{told:#?}");
        told.tells(&["folder", "left-behind", "mended (remove it)"]);
        told.tells(&["2 idempotency keys have expired", "mended"]);
        told.tells(&["1 idempotency keys are held by requests that died", "left alone"]);
        assert!(!dropped.exists());
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        assert_healthy(&server, 1).await;
    }
}

both! {
    async fn files_that_nothing_refers_to_are_told_and_removed(server: TestServer) {
        let location = with_side(&server).await;
        let folder = foreign::folder(&location);
        foreign::fragments(&location, batch_ab(30..33)).await;
        // Young ones may be committed yet.
        let told = doctor(&server, &[]).await;
        assert_eq!(told.code, 0, "{told:#?}");
        told.tells(&["nothing refers to", "so new"]);
        make_all_old(&server.lake());
        put_old(&folder.join("tree/side/data/lost.lance"));
        put_old(&folder.join("_versions/18446744073709551000.manifest-8d1c"));
        let orphans = doctor(&server, &[]).await.about(&["nothing refers to data file data/"]).len();
        assert_eq!(orphans, 1);
        let told = doctor(&server, &["ns$t"]).await;
        assert_eq!(told.code, 1);
        let number = told.about(&["nothing refers to"]).len();
        assert!(number >= 3, "{told:#?}");
        let before = everything(&server).await;
        // A staged manifest that cannot be read yet may refer to anything.
        let told = doctor(&server, &["--repair", "--orphan-age", "30d"]).await;
        assert_eq!(told.code, 0, "{told:#?}");
        told.tells(&["garbage cannot be told", "manifest-8d1c cannot be read", "left alone"]);
        assert_eq!(everything(&server).await, before);
        let mended = doctor(&server, &["--repair"]).await;
        assert_eq!(mended.code, 0, "{mended:#?}");
        assert_eq!(mended.about(&["nothing refers to", "mended"]).len(), number);
        mended.tells(&["staged manifest _versions/18446744073709551000.manifest-8d1c"]);
        mended.tells(&["data file tree/side/data/lost.lance"]);
        assert_healthy(&server, 0).await;
        assert_eq!(server.count("ns$t").await, 10);
        assert_eq!(foreign::values(&format!("{location}/tree/side")).await.len(), 10);
    }
}

both! {
    async fn folders_of_no_table_go_only_when_they_are_surely_ours(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.post(&table("ns$e", "declare"), json!({"location": "deep/down/e"})).await.ok();
        let lake = server.lake();
        put_old(&lake.join("deep/down/e/data/x.lance"));
        let ours = |name: &str| lake.join(format!("{name}-{}.lance", Uuid::now_v7().simple()));
        let (old, young, whole) = (ours("old"), ours("young"), ours("whole"));
        put_old(&old.join("data/x.lance"));
        std::fs::create_dir_all(young.join("data")).expect("a folder");
        std::fs::write(young.join("data/x.lance"), b"new").expect("a file");
        foreign::create(&whole.display().to_string(), batch_ab(0..2)).await;
        let theirs = lake.join("theirs");
        put_old(&theirs.join("data/x.lance"));
        make_all_old(&whole);
        // In the folder of the table that was declared.
        let told = doctor(&server, &["--repair", "ns$e"]).await;
        told.tells(&["nothing refers to data file data/x.lance", "mended"]);
        put_old(&lake.join("deep/down/more/x.lance"));
        let told = assert_mended(&server, &[&["folder", "old-", "is of no table"]]).await;
        told.tells(&["folder", "young-", "so new"]);
        told.tells(&["folder", "whole-", "there is a Lance table in it"]);
        told.tells(&["folder", "theirs", "left alone"]);
        assert!(!old.exists());
        assert!(young.exists() && theirs.exists() && lake.join("deep/down/more/x.lance").exists());
        assert_eq!(foreign::values(&whole.display().to_string()).await, [0, 1]);
    }
}

both! {
    async fn branches_that_are_gone_or_were_never_made_are_cleared(server: TestServer) {
        let location = with_side(&server).await;
        let folder = foreign::folder(&location);
        let branch = json!({"name": "side/inner"});
        server.post(&table("ns$t", "branches/create"), branch).await.ok();
        let entries = files_under(&folder.join("_refs/branches"));
        let of_side = |file: &&PathBuf| file.ends_with("side.json");
        let entry = entries.iter().find(of_side).expect("the entry of side");
        std::fs::rename(entry, server.home().join("entry")).expect("a move");
        make_all_old(&server.lake());
        let told = doctor(&server, &["--repair"]).await;
        // The inner one stands in its folder.
        assert_eq!(told.code, 1, "{told:#?}");
        told.tells(&["versions of branch 'side'", "mended"]);
        told.tells(&["branch 'side' has versions and no entry", "another branch stands in"]);
        assert!(folder.join("tree/side/_versions").exists());
        std::fs::rename(server.home().join("entry"), entry).expect("a move");
        server.post(&table("ns$t", "branches/delete"), json!({"name": "side/inner"})).await.ok();
        assert_mended(&server, &[&["version 1 stands in storage"]]).await.tells(&["branch side:"]);
        std::fs::remove_file(entry).expect("the entry of side");
        let told = doctor(&server, &["--orphan-age", "30d"]).await;
        told.tells(&["branch 'side' has versions and no entry", "so new"]);
        assert_mended(&server, &[
            &["versions of branch 'side', which is gone"],
            &["branch 'side' has versions and no entry"],
        ]).await;
        assert!(!folder.join("tree/side/_versions").exists());
        assert_eq!(server.count("ns$t").await, 10);
    }
}

both! {
    /// What is lost is told, and nothing pretends to mend it.
    async fn damage_is_told_and_left(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        server.insert("ns$t", &batch_ab(3..4)).await;
        server.with_table("ns$u", 3).await;
        foreign::delete(&location, "a = 1").await;
        server.count("ns$t").await;
        let clone = json!({"source_location": location, "is_shallow": true});
        server.post("/v1/table/ns$c/clone", clone).await.ok();
        let folder = foreign::folder(&location);
        let data = files_under(&folder.join("data"));
        let deletion = files_under(&folder.join("_deletions"));
        std::fs::remove_file(&data[0]).expect("a data file");
        std::fs::remove_file(&deletion[0]).expect("a deletion file");
        let other = server.location("ns$u").await;
        std::fs::write(manifest(&other, 1), b"this is no manifest").expect("a file");
        put_old(&foreign::folder(&other).join("data/lost.lance"));
        for arguments in [&[][..], &["--repair"]] {
            let before = everything(&server).await;
            let told = doctor(&server, arguments).await;
            assert_eq!(told.code, 1, "{told:#?}");
            let name = data[0].file_name().expect("a name").to_string_lossy().into_owned();
            // By the table and by its clone.
            assert_eq!(told.about(&[&name, "is not in storage", "not to be mended"]).len(), 2, "{told:#?}");
            let deletions = told.about(&["_deletions/", "is not in storage"]);
            assert_eq!(deletions.len(), 2, "{told:#?}");
            told.tells(&["version 1 cannot be read", "not to be mended"]);
            told.tells(&["which of its files are garbage cannot be told"]);
            if arguments.is_empty() {
                assert_eq!(everything(&server).await, before);
            }
        }
        assert!(foreign::folder(&other).join("data/lost.lance").exists());
    }
}

both! {
    async fn the_command_line_is_checked(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_table("ns$u", 3).await;
        sql(server.database(), "UPDATE table_versions SET manifest_size = 1").await;
        let told = doctor(&server, &["--json"]).await;
        assert_eq!(told.code, 1);
        let lines = told.lines.iter().map(|line| serde_json::from_str::<Value>(line));
        let lines: Vec<Value> = lines.collect::<Result<_, _>>().expect("JSON");
        let tables: Vec<&Value> = lines.iter().map(|line| &line["table"]).collect();
        assert_eq!(tables, ["ns$t", "ns$u"]);
        assert!(lines.iter().all(|line| line["state"] == "found"), "{lines:?}");
        let mended = doctor(&server, &["--repair", "ns$u"]).await;
        assert_eq!(mended.code, 0, "{mended:#?}");
        assert!(mended.about(&["ns$t"]).is_empty(), "{mended:#?}");
        assert_eq!(doctor(&server, &["ns$u"]).await.code, 0);
        assert_eq!(doctor(&server, &["ns$t"]).await.code, 1);
        let before = everything(&server).await;
        for bad in [&["ns$nothing"][..], &["nowhere$t"], &["$"], &["a$$b"], &["--mend"], &["--orphan-age", "x"]] {
            let told = doctor(&server, &[&["--repair"], bad].concat()).await;
            assert!(told.code != 0, "{bad:?}");
            assert!(!told.error.trim().is_empty(), "{bad:?}");
        }
        assert_eq!(everything(&server).await, before);
    }
}

both! {
    /// Commits that are under way look like no damage, and go on as if nobody looked.
    async fn a_busy_catalog_is_examined_in_peace(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let writing = async {
            for value in 1..25 {
                server.insert("ns$t", &batch_ab(value..value + 1)).await;
            }
        };
        let looking = async {
            for _ in 0..3 {
                let told = doctor(&server, &["--repair"]).await;
                assert_eq!(told.code, 0, "{told:#?}");
                told.tells(&["0 findings"]);
            }
        };
        tokio::join!(writing, looking);
        let expected: Vec<i32> = (0..25).collect();
        assert_eq!(server.values("ns$t").await, expected);
        assert_eq!(foreign::values(&location).await, expected);
        let foreign = "SELECT origin FROM table_versions WHERE origin <> 'catalog'";
        assert!(crate::support::upkeep::column(server.database(), foreign).await.is_empty());
    }
}
