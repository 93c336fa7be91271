//! Branches: lines of versions in storage, seen by every client, and changed one at a time.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::batches::{batch_ab, int_values, ipc, read_file};
use crate::support::code::*;
use crate::support::{TestServer, assert_error, enc, files_under, foreign, table, text};

async fn branch(server: &TestServer, body: Value) -> Value {
    server.post(&table("ns$t", "branches/create"), body).await.ok()
}

async fn branches(server: &TestServer) -> Value {
    server.post_empty(&table("ns$t", "branches/list")).await.ok()["branches"].take()
}

async fn insert_on(server: &TestServer, branch: &str, value: i32) -> Value {
    let path = table("ns$t", &format!("insert?branch={}", enc(branch)));
    server.post_arrow(&path, ipc(&[batch_ab(value..value + 1)])).await.ok()
}

/// Column `a` of a branch, sorted.
async fn values_on(server: &TestServer, branch: &str) -> Vec<i32> {
    let body = json!({"k": 1_000, "branch": branch, "columns": {"column_names": ["a"]}});
    let reply = server.post(&table("ns$t", "query"), body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut values = int_values(&read_file(&reply.raw), "a");
    values.sort_unstable();
    values
}

async fn versions_on(server: &TestServer, branch: &str) -> Vec<(u64, String)> {
    let path = table("ns$t", &format!("version/list?branch={}", enc(branch)));
    let listed = server.post_empty(&path).await.ok();
    let versions = listed["versions"].as_array().expect("versions");
    let known = |version: &Value| {
        let number = version["version"].as_u64().expect("a number");
        (number, version["metadata"]["operation"].as_str().unwrap_or("?").to_string())
    };
    versions.iter().map(known).collect()
}

everywhere! {
    async fn a_branch_goes_its_own_way(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        let made = branch(&server, json!({"name": "exp"})).await;
        assert!(text(&made, "transaction_id").len() > 30, "{made}");
        insert_on(&server, "exp", 10).await;
        server.insert("ns$t", &batch_ab(20..21)).await;
        assert_eq!(values_on(&server, "exp").await, [0, 1, 10]);
        assert_eq!(values_on(&server, "main").await, [0, 1, 20]);
        let expected = [(1, "Clone".to_string()), (2, "Append".to_string())];
        assert_eq!(versions_on(&server, "exp").await, expected);
        let listed = branches(&server).await;
        let exp = &listed["exp"];
        assert_eq!(exp["parentVersion"], 1);
        assert!(exp.get("parentBranch").is_none(), "{exp}");
        assert!(exp["createAt"].as_u64() > Some(1_600_000_000), "{exp}");
        assert!(exp["manifestSize"].as_u64() > Some(0), "{exp}");
        assert_eq!(exp["metadata"], json!({}));
        assert_eq!(listed.as_object().expect("a map").len(), 1);
        // What another client sees.
        let there = foreign::open(&location).await;
        let theirs = there.checkout_branch("exp").await.expect("the branch");
        assert_eq!(theirs.count_rows(None).await.expect("a count"), 3);
        assert_eq!(theirs.version().version, 2);
    }
}

everywhere! {
    async fn a_foreign_branch_is_a_branch(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        let mut there = foreign::open(&location).await;
        let made = Box::pin(there.create_branch("theirs", 1, None)).await;
        made.expect("a foreign branch");
        assert_eq!(branches(&server).await["theirs"]["parentVersion"], 1);
        insert_on(&server, "theirs", 5).await;
        assert_eq!(values_on(&server, "theirs").await, [0, 1, 5]);
        foreign::append(&format!("{location}/tree/theirs"), batch_ab(6..7)).await;
        assert_eq!(values_on(&server, "theirs").await, [0, 1, 5, 6]);
        server.post(&table("ns$t", "branches/delete"), json!({"name": "theirs"})).await.ok();
        assert!(there.list_branches().await.expect("branches").is_empty());
    }
}

everywhere! {
    async fn a_branch_starts_where_it_is_told(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.insert("ns$t", &batch_ab(1..2)).await;
        branch(&server, json!({"name": "old", "from_version": 1})).await;
        assert_eq!(values_on(&server, "old").await, [0]);
        insert_on(&server, "old", 7).await;
        branch(&server, json!({"name": "team/child-1", "from_branch": "old"})).await;
        branch(&server, json!({"name": "past", "from_branch": "old", "from_version": 1})).await;
        branch(&server, json!({"name": "new", "from_branch": "main"})).await;
        assert_eq!(values_on(&server, "team/child-1").await, [0, 7]);
        assert_eq!(values_on(&server, "past").await, [0]);
        assert_eq!(values_on(&server, "new").await, [0, 1]);
        let listed = branches(&server).await;
        assert_eq!(listed["team/child-1"]["parentBranch"], "old");
        assert_eq!(listed["team/child-1"]["parentVersion"], 2);
        assert!(listed["new"].get("parentBranch").is_none(), "{listed}");
    }
}

both! {
    async fn a_deleted_branch_leaves_nothing(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        branch(&server, json!({"name": "a/b"})).await;
        branch(&server, json!({"name": "a"})).await;
        insert_on(&server, "a", 5).await;
        insert_on(&server, "a/b", 6).await;
        // `a/b` stands in the folder of `a`, and stays.
        server.post(&table("ns$t", "branches/delete"), json!({"name": "a"})).await.ok();
        assert_eq!(values_on(&server, "a/b").await, [0, 1, 6]);
        let gone = json!({"branch": "a", "k": 1});
        assert_error(&server.post(&table("ns$t", "query"), gone).await, 404, TABLE_BRANCH_NOT_FOUND);
        // The name can be used again, and begins anew.
        branch(&server, json!({"name": "a"})).await;
        assert_eq!(values_on(&server, "a").await, [0, 1]);
        assert_eq!(versions_on(&server, "a").await, [(1, "Clone".to_string())]);
        for name in ["a", "a/b"] {
            let body = json!({"name": name});
            server.post(&table("ns$t", "branches/delete"), body).await.ok();
        }
        assert_eq!(branches(&server).await, json!({}));
        let left = files_under(&foreign::folder(&location).join("tree"));
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(server.values("ns$t").await, [0, 1]);
    }
}

everywhere! {
    async fn an_upload_does_not_outlive_its_branch(server: TestServer) {
        server.with_table("ns$t", 1).await;
        branch(&server, json!({"name": "b"})).await;
        let upload = server.upload_to(&table("ns$t", "fragments?branch=b"), &batch_ab(1..2)).await;
        server.post(&table("ns$t", "branches/delete"), json!({"name": "b"})).await.ok();
        branch(&server, json!({"name": "b"})).await;
        let body = json!({
            "operation": "append", "branch": "b", "read_version": 1,
            "uploads": [upload["upload_id"]],
        });
        assert_error(&server.commit("ns$t", body).await, 400, INVALID_INPUT);
        assert_eq!(values_on(&server, "b").await, [0]);
    }
}

everywhere! {
    async fn what_others_start_from_is_kept(server: TestServer) {
        server.with_table("ns$t", 2).await;
        branch(&server, json!({"name": "base"})).await;
        branch(&server, json!({"name": "child", "from_branch": "base"})).await;
        let delete = table("ns$t", "branches/delete");
        let refused = server.post(&delete, json!({"name": "base"})).await;
        assert_error(&refused, 409, INVALID_TABLE_STATE);
        server.post(&delete, json!({"name": "child"})).await.ok();
        let tag = json!({"tag": "v", "version": 1, "branch": "base"});
        server.post(&table("ns$t", "tags/create"), tag).await.ok();
        let version = server.post(&table("ns$t", "tags/version"), json!({"tag": "v"})).await.ok();
        assert_eq!(version, json!({"version": 1, "branch": "base"}));
        let refused = server.post(&delete, json!({"name": "base"})).await;
        assert_error(&refused, 409, INVALID_TABLE_STATE);
        assert_eq!(values_on(&server, "base").await, [0, 1]);
        // The tag goes to the main branch, and the branch can go.
        let tag = json!({"tag": "v", "version": 1});
        server.post(&table("ns$t", "tags/update"), tag).await.ok();
        server.post(&delete, json!({"name": "base"})).await.ok();
        let version = server.post(&table("ns$t", "tags/version"), json!({"tag": "v"})).await.ok();
        assert_eq!(version, json!({"version": 1}));
    }
}

everywhere! {
    async fn of_many_who_make_one_branch_one_does(server: TestServer) {
        server.with_table("ns$t", 2).await;
        let create = table("ns$t", "branches/create");
        let racers = (0..6).map(|_| server.post(&create, json!({"name": "race"})));
        let replies = futures::future::join_all(racers).await;
        assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1);
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            assert_error(reply, 409, TABLE_BRANCH_ALREADY_EXISTS);
        }
        assert_eq!(values_on(&server, "race").await, [0, 1]);
    }
}

everywhere! {
    async fn writing_and_deleting_do_not_mix(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        for round in 0..3 {
            branch(&server, json!({"name": "b"})).await;
            let (insert, delete) = (table("ns$t", "insert?branch=b"), table("ns$t", "branches/delete"));
            let writers = (1..5).map(|value| {
                server.post_arrow(&insert, ipc(&[batch_ab(value..value + 1)]))
            });
            let (written, deleted) = tokio::join!(
                futures::future::join_all(writers),
                server.post(&delete, json!({"name": "b"})),
            );
            deleted.ok();
            for reply in written {
                if reply.status != 200 {
                    assert_error(&reply, 404, TABLE_BRANCH_NOT_FOUND);
                }
            }
            assert_eq!(branches(&server).await, json!({}));
            // A late writer may have left files, and no version that anyone could take for one.
            let there = foreign::open(&location).await;
            assert!(there.checkout_branch("b").await.is_err(), "round {round}");
        }
    }
}

both! {
    async fn what_is_left_of_an_unfinished_branch_does_not_keep_the_name(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        branch(&server, json!({"name": "b"})).await;
        let entry = foreign::folder(&location).join("_refs/branches/b.json");
        std::fs::remove_file(&entry).expect("the entry of the branch");
        // So new, it may be in the making.
        let create = table("ns$t", "branches/create");
        let refused = server.post(&create, json!({"name": "b"})).await;
        assert_error(&refused, 409, CONCURRENT_MODIFICATION);
        assert_eq!(refused.body["retryable"], true);
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3_600);
        for file in files_under(&foreign::folder(&location).join("tree")) {
            let file = std::fs::File::options().write(true).open(file).expect("a file");
            file.set_modified(an_hour_ago).expect("an older file");
        }
        branch(&server, json!({"name": "b"})).await;
        insert_on(&server, "b", 9).await;
        assert_eq!(values_on(&server, "b").await, [0, 1, 9]);
    }
}

both! {
    async fn bad_branches_are_refused(server: TestServer) {
        server.with_table("ns$t", 1).await;
        branch(&server, json!({"name": "b"})).await;
        let before = server.snapshot().await;
        let (create, delete) = (table("ns$t", "branches/create"), table("ns$t", "branches/delete"));
        let long = ["ä"; 120].concat();
        let names = ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".", "a b", "x.lock", "a\\b", "main"];
        for name in names.into_iter().chain(["b/data", "b/_versions", "b/tree/c", &long]) {
            let body = json!({"name": name});
            assert_error(&server.post(&create, body.clone()).await, 400, INVALID_INPUT);
            assert_error(&server.post(&delete, body).await, 400, INVALID_INPUT);
        }
        let exists = server.post(&create, json!({"name": "b"})).await;
        assert_error(&exists, 409, TABLE_BRANCH_ALREADY_EXISTS);
        let exists = server.post(&create, json!({"name": "b", "from_branch": "b"})).await;
        assert_error(&exists, 409, TABLE_BRANCH_ALREADY_EXISTS);
        let reply = server.post(&create, json!({"name": "c", "from_branch": "nowhere"})).await;
        assert_error(&reply, 404, TABLE_BRANCH_NOT_FOUND);
        let reply = server.post(&create, json!({"name": "c", "from_version": 9})).await;
        assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        assert_error(
            &server.post(&delete, json!({"name": "nowhere"})).await,
            404,
            TABLE_BRANCH_NOT_FOUND,
        );
        for body in [json!({}), json!({"name": 1}), json!({"name": "c", "from_version": -1})] {
            assert_error(&server.post(&create, body).await, 400, INVALID_INPUT);
        }
        assert_error(&server.post(&delete, json!({})).await, 400, INVALID_INPUT);
        server.assert_unchanged(&before, "bad branches").await;
    }
}

everywhere! {
    async fn branches_need_a_table_with_a_version(server: TestServer) {
        server.with_declared("ns$d").await;
        let body = json!({"name": "b"});
        for operation in ["branches/list", "branches/create", "branches/delete"] {
            let reply = server.post(&table("ns$d", operation), body.clone()).await;
            assert_error(&reply, 409, INVALID_TABLE_STATE);
            let reply = server.post(&table("ns$none", operation), body.clone()).await;
            assert_error(&reply, 404, TABLE_NOT_FOUND);
        }
    }
}

everywhere! {
    async fn pages_of_branches_are_whole(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let names = ["a", "b/c", "b/d", "größe"];
        for name in names {
            branch(&server, json!({"name": name})).await;
        }
        let (mut seen, mut next) = (Vec::new(), String::new());
        loop {
            let query = format!("branches/list?limit=3{next}");
            let page = server.post_empty(&table("ns$t", &query)).await.ok();
            seen.extend(page["branches"].as_object().expect("a map").keys().cloned());
            match page["page_token"].as_str() {
                Some(token) => next = format!("&page_token={}", enc(token)),
                None => break,
            }
        }
        assert_eq!(seen, names);
        assert_eq!(values_on(&server, "größe").await, [0]);
    }
}
