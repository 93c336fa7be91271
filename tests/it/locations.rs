//! RegisterTable, and locations that a caller names: where they may point and where not.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::{
    Backend, TestServer, assert_error, assert_refused, enc, files_under, foreign, table, text,
};

/// A path in the lake at which nothing is registered.
fn in_lake(server: &TestServer, name: &str) -> String {
    server.lake().join(name).display().to_string()
}

/// The files of tables, wherever they are; the catalog's own files are not among them.
fn tables_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = files_under(folder);
    files.retain(|file| file.to_string_lossy().contains(".lance"));
    files
}

/// Locations that no request may name: elsewhere, climbing out, with wildcards, or no place at all.
fn bad_locations(server: &TestServer) -> Vec<String> {
    let lake = server.lake().display().to_string();
    vec![
        String::new(),
        " ".into(),
        "/".into(),
        "/etc".into(),
        "file:///etc".into(),
        "/nowhere/at/all.lance".into(),
        "s3://someone-elses/bucket".into(),
        "http://127.0.0.1:1/x".into(),
        "memory://x".into(),
        "nonsense://x".into(),
        "../outside.lance".into(),
        format!("{lake}2/t.lance"),
        format!("{lake}-more/t.lance"),
        format!("{lake}/../outside.lance"),
        format!("{lake}/a/../../outside.lance"),
        format!("file://{lake}/../outside.lance"),
        format!("file://{lake}/%2e%2e/outside.lance"),
        format!("{lake}/a/*.lance"),
        format!("{lake}/a?.lance"),
        format!("{lake}/a\u{0}b.lance"),
        // The root itself: whoever drops that table drops them all.
        lake.clone(),
        format!("{lake}/"),
        format!("{lake}/."),
        format!("{lake}//"),
    ]
}

both! {
    async fn register_a_table_that_others_made(server: TestServer) {
        server.create_namespace("ns").await;
        let location = in_lake(&server, "made/elsewhere.lance");
        foreign::create(&location, batch_ab(0..10)).await;
        foreign::append(&location, batch_ab(10..15)).await;
        let body = json!({"location": location, "properties": {"from": "elsewhere"}});
        let registered = server.post(&table("ns$t", "register"), body).await.ok();
        assert_eq!(
            foreign::folder(&text(&registered, "location")),
            foreign::folder(&location)
        );
        assert_eq!(registered["properties"]["from"], "elsewhere");
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        assert_eq!(server.count("ns$t").await, 15);
        let described = server.describe("ns$t").await;
        assert_eq!(described["version"], 2);
        assert_eq!(described["properties"]["from"], "elsewhere");
    }
}

both! {
    async fn register_under_a_taken_name(server: TestServer) {
        let first = server.with_table("ns$t", 3).await;
        let other = in_lake(&server, "other.lance");
        foreign::create(&other, batch_ab(0..7)).await;
        for body in [
            json!({"location": other}),
            json!({"location": other, "mode": "Create"}),
        ] {
            let reply = server.post(&table("ns$t", "register"), body).await;
            assert_error(&reply, 409, TABLE_ALREADY_EXISTS);
        }
        assert_eq!(server.count("ns$t").await, 3);
        let body = json!({"location": other, "mode": "overwrite"});
        server.post(&table("ns$t", "register"), body).await.ok();
        assert_eq!(server.count("ns$t").await, 7);
        // The registration was replaced, not the data behind it.
        assert_eq!(foreign::values(&first).await, [0, 1, 2]);
        let body = json!({"location": other, "mode": "sometimes"});
        let reply = server.post(&table("ns$u", "register"), body).await;
        assert_error(&reply, 400, INVALID_INPUT);
    }
}

both! {
    async fn register_needs_a_table_at_the_location(server: TestServer) {
        server.create_namespace("ns").await;
        let folder = server.lake().join("no-table");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("notes.txt"), "nothing of Lance").expect("a file");
        let before = server.snapshot().await;
        for location in [
            in_lake(&server, "no-table"),
            in_lake(&server, "nothing.lance"),
        ] {
            let body = json!({"location": location});
            assert_refused(&server.post(&table("ns$t", "register"), body).await);
        }
        server
            .assert_unchanged(&before, "registering nothing")
            .await;
    }
}

both! {
    async fn register_needs_a_location(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.snapshot().await;
        for body in [
            json!({}),
            json!({"location": null}),
            json!({"location": ""}),
            json!({"location": 5}),
        ] {
            let reply = server.post(&table("ns$t", "register"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let body = json!({"location": in_lake(&server, "x.lance")});
        let reply = server.post(&table("nope$t", "register"), body).await;
        assert_refused(&reply);
        server
            .assert_unchanged(&before, "registering nowhere")
            .await;
    }
}

both! {
    /// A replaced registration must not be lost to one that fails.
    async fn register_overwrite_that_fails_keeps_the_old(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for location in [
            in_lake(&server, "nothing.lance"),
            "/etc".into(),
            String::new(),
        ] {
            let body = json!({"location": location, "mode": "overwrite"});
            assert_refused(&server.post(&table("ns$t", "register"), body).await);
            assert_eq!(server.count("ns$t").await, 3);
        }
    }
}

both! {
    async fn locations_outside_are_refused(server: TestServer) {
        server.create_namespace("ns").await;
        // A real table stands outside, so that nothing but the rule keeps it out.
        let outside = server.home().join("outside.lance").display().to_string();
        foreign::create(&outside, batch_ab(0..3)).await;
        foreign::create(
            &format!("{}2/t.lance", server.lake().display()),
            batch_ab(0..3),
        )
        .await;
        let before = server.snapshot().await;
        let tables_before = tables_under(server.home());
        for location in bad_locations(&server) {
            let body = json!({"location": location});
            for operation in ["register", "declare"] {
                // Declaring needs no location, so an empty one may pass for none.
                if operation == "declare" && location.trim().is_empty() {
                    continue;
                }
                let reply = server.post(&table("ns$t", operation), body.clone()).await;
                assert_error(&reply, 400, INVALID_INPUT);
            }
        }
        server.assert_unchanged(&before, "bad locations").await;
        assert_eq!(tables_under(server.home()), tables_before);
    }
}

both! {
    async fn create_with_a_bad_location_is_refused(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.snapshot().await;
        for location in bad_locations(&server) {
            // A header cannot carry a NUL, and says nothing when it is empty.
            if location.trim().is_empty() || location.contains('\u{0}') {
                continue;
            }
            let request = server
                .arrow_request(&table("ns$t", "create"))
                .header("x-lance-table-location", &location)
                .body(ipc(&[batch_ab(0..3)]));
            assert_error(&server.send(request).await, 400, INVALID_INPUT);
            let path = table("ns$t", &format!("create?location={}", enc(&location)));
            let reply = server.post_arrow(&path, ipc(&[batch_ab(0..3)])).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        server.assert_unchanged(&before, "bad locations").await;
    }
}

both! {
    async fn a_location_of_ones_own_choice(server: TestServer) {
        server.create_namespace("ns").await;
        let declared_at = in_lake(&server, "mine/declared.lance");
        let body = json!({"location": declared_at});
        let declared = server
            .post(&table("ns$declared", "declare"), body)
            .await
            .ok();
        assert_eq!(
            foreign::folder(&text(&declared, "location")),
            foreign::folder(&declared_at)
        );
        server.insert("ns$declared", &batch_ab(0..3)).await;
        assert_eq!(foreign::values(&declared_at).await, [0, 1, 2]);

        let created_at = in_lake(&server, "mine/created.lance");
        let request = server
            .arrow_request(&table("ns$created", "create"))
            .header("x-lance-table-location", &created_at)
            .body(ipc(&[batch_ab(0..4)]));
        let created = server.send(request).await.ok();
        assert_eq!(
            foreign::folder(&text(&created, "location")),
            foreign::folder(&created_at)
        );
        assert_eq!(foreign::values(&created_at).await.len(), 4);
    }
}

both! {
    /// Dropping one of two tables at one place would take the other's files.
    async fn no_two_tables_share_a_location(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let spellings = [
            location.clone(),
            format!("{location}/"),
            format!("file://{}", foreign::folder(&location).display()),
            format!("{location}/data"),
        ];
        for location in spellings {
            for operation in ["declare", "register"] {
                let body = json!({"location": location});
                assert_refused(&server.post(&table("ns$u", operation), body).await);
            }
        }
        server
            .assert_unchanged(&before, "a location taken twice")
            .await;
        assert_eq!(server.count("ns$t").await, 3);
    }
}

both! {
    /// A name is text: it never becomes a path.
    async fn names_do_not_steer_locations(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.files();
        for name in [
            "../../x",
            "/etc/passwd",
            "a/../..",
            "C:\\x",
            "~",
            "con.lance",
        ] {
            let id = format!("ns%7C{}", enc(name));
            let path = format!("{}?delimiter=%7C", table(&id, "declare"));
            let declared = server.post_empty(&path).await.ok();
            let folder = foreign::folder(&text(&declared, "location"));
            assert!(
                folder.starts_with(server.lake()),
                "{name}: {}",
                folder.display()
            );
            let climbs = folder.components().any(|part| part.as_os_str() == "..");
            assert!(!climbs, "{name}: {}", folder.display());
            let path = format!("{}?delimiter=%7C", table(&id, "insert"));
            server.post_arrow(&path, ipc(&[batch_ab(0..1)])).await.ok();
            let path = format!("{}?delimiter=%7C", table(&id, "drop"));
            server.post_empty(&path).await.ok();
        }
        server.assert_files(&before, "strange names").await;
    }
}

/// `--allow-location`: more prefixes than the storage root, and each ends where it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allowed_prefixes_open_more_places() {
    let server = TestServer::spawn_with(Backend::Sqlite, |settings| {
        let orders = format!("{}orders", settings.storage_root.trim_end_matches("lake"));
        settings.allow_locations = vec![settings.storage_root.clone(), orders];
    });
    let server = server.await.expect("SQLite is always there");
    server.create_namespace("ns").await;
    let home = server.home().display().to_string();
    for (id, location, allowed) in [
        ("ns$a", format!("{home}/orders/t.lance"), true),
        ("ns$b", format!("{home}/orders2/t.lance"), false),
        ("ns$c", format!("{home}/lake/t.lance"), true),
        ("ns$d", format!("{home}/other/t.lance"), false),
    ] {
        foreign::create(&location, batch_ab(0..3)).await;
        let body = json!({"location": location});
        let reply = server.post(&table(id, "register"), body).await;
        if allowed {
            reply.ok();
            assert_eq!(server.count(id).await, 3);
        } else {
            assert_error(&reply, 400, INVALID_INPUT);
        }
    }
    server.with_declared("ns$new").await;
}

/// A prefix that the storage root is in opens places beside it, but none that holds what is to come
/// there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_table_holds_the_storage_root() {
    let server = TestServer::spawn_with(Backend::Sqlite, |settings| {
        let home = settings.storage_root.trim_end_matches("/lake").to_owned();
        settings.storage_root.push_str("/tables");
        settings.allow_locations = vec![home];
    });
    let server = server.await.expect("SQLite is always there");
    server.create_namespace("ns").await;
    for location in [server.lake().join("tables"), server.lake()] {
        let body = json!({"location": location.display().to_string()});
        for operation in ["declare", "register"] {
            let reply = server.post(&table("ns$all", operation), body.clone()).await;
            assert_error(&reply, 400, INVALID_INPUT);
            assert!(reply.text().contains("holds a storage root"), "{}", reply.text());
        }
    }
    let beside = json!({"location": in_lake(&server, "beside.lance")});
    server.post(&table("ns$beside", "declare"), beside).await.ok();
    server.with_declared("ns$new").await;
}
