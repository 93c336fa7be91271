//! Storage profiles: where the tables of a namespace go, how storage is spoken to there, and what of
//! that clients are told.

use serde_json::json;
use tiltyard::config::{CommitArbiter, Settings, StorageProfile};

use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::process::{Serving, tiltyard};
use crate::support::{Backend, TestServer, assert_error, files_under, foreign, namespace, table};

/// Two further places beside the storage root: `cold`, of which clients are told an option, and
/// `slow`, where the catalog decides the versions.
fn with_profiles(settings: &mut Settings) {
    let (root, options) = (settings.storage_root.clone(), settings.storage_options.clone());
    let profile = |name: &str| StorageProfile {
        root: format!("{root}-{name}"),
        storage_options: options.clone(),
        ..StorageProfile::default()
    };
    let told = [("aws_region".to_owned(), "there".to_owned())];
    let cold = StorageProfile { client_storage_options: told.into(), ..profile("cold") };
    let slow = StorageProfile { commit_arbiter: CommitArbiter::Catalog, ..profile("slow") };
    settings.storage_profiles = [("cold".to_owned(), cold), ("slow".to_owned(), slow)].into();
}

/// Such a server, with a namespace `archive` that names `cold`.
async fn spawn(backend: Backend) -> Option<TestServer> {
    let server = TestServer::spawn_with(backend, with_profiles).await?;
    let archive = json!({"properties": {"storage_profile": "cold"}});
    server.post(&namespace("archive", "create"), archive).await.ok();
    Some(server)
}

macro_rules! with_profiles {
    ($(#[$meta:meta])* async fn $name:ident($server:ident: TestServer) $body:block) => {
        on! { spawn; sqlite: Sqlite, postgres: Postgres, s3: S3;
            $(#[$meta])* async fn $name($server: TestServer) $body }
    };
}

with_profiles! {
    async fn tables_go_where_their_namespace_says(server: TestServer) {
        server.with_table("archive$t", 3).await;
        server.with_table("archive$old$t", 3).await;
        server.with_table("ns$t", 3).await;
        let declared = server.with_declared("archive$declared").await;
        for (id, is_cold) in
            [("archive$t", true), ("archive$old$t", true), ("archive$declared", true), ("ns$t", false)]
        {
            let location = server.location(id).await;
            assert_eq!(location.contains("-cold/"), is_cold, "{id}: {location}");
        }
        // They are tables like all others.
        server.insert("archive$t", &batch_ab(3..5)).await;
        server.append("archive$t", 2, &batch_ab(5..6)).await;
        server.post(&table("archive$t", "delete"), json!({"predicate": "a = 1"})).await.ok();
        assert_eq!(server.values("archive$t").await, [0, 2, 3, 4, 5]);
        let path = table("archive$t", "tags/create");
        server.post(&path, json!({"tag": "good", "version": 2})).await.ok();
        // A table may be put there from anywhere, and is found again.
        let location = format!("{}.new", declared);
        let body = json!({"location": location});
        server.post(&table("ns$new", "declare"), body).await.ok();
        server.insert("ns$new", &batch_ab(0..2)).await;
        assert_eq!(server.count("ns$new").await, 2);
        // A namespace below may have another.
        let hot = json!({"properties": {"storage_profile": "slow"}});
        server.post(&namespace("archive$slow", "create"), hot).await.ok();
        server.with_table("archive$slow$t", 2).await;
        assert!(server.location("archive$slow$t").await.contains("-slow/"));
        server.post_empty(&table("archive$t", "drop")).await.ok();
        assert!(!server.exists("archive$t").await);
    }
}

with_profiles! {
    async fn a_profile_that_is_not_there_is_refused(server: TestServer) {
        let body = json!({"properties": {"storage_profile": "nowhere"}});
        let reply = server.post(&namespace("lost", "create"), body).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert!(reply.text().contains("nowhere"), "{}", reply.text());
        assert_error(&server.post_empty(&namespace("lost", "describe")).await, 404, NAMESPACE_NOT_FOUND);
    }
}

with_profiles! {
    /// What the server itself uses, credentials among it, is nobody's to see.
    async fn clients_are_told_what_is_for_them(server: TestServer) {
        server.with_table("archive$t", 1).await;
        server.with_table("ns$t", 1).await;
        let told = server.describe("archive$t").await;
        assert_eq!(told["storage_options"], json!({"aws_region": "there"}));
        let declared = server.post_empty(&table("archive$d", "declare")).await.ok();
        assert_eq!(declared["storage_options"], json!({"aws_region": "there"}));
        let told = server.describe("ns$t").await;
        assert!(told.get("storage_options").is_none(), "{told}");
    }
}

with_profiles! {
    async fn the_catalog_decides_where_a_profile_says_so(server: TestServer) {
        let slow = json!({"properties": {"storage_profile": "slow"}});
        server.post(&namespace("slow", "create"), slow).await.ok();
        server.with_table("slow$t", 3).await;
        server.with_table("ns$t", 3).await;
        server.insert("slow$t", &batch_ab(3..5)).await;
        assert_eq!(server.values("slow$t").await, [0, 1, 2, 3, 4]);
        // Whatever the table says: a commit past the catalog would not be seen.
        let mine = json!({"properties": {"managed_versioning": "false"}});
        server.post(&table("slow$mine", "declare"), mine.clone()).await.ok();
        server.post(&table("ns$mine", "declare"), mine).await.ok();
        assert_eq!(server.describe("slow$mine").await["managed_versioning"], true);
        assert_eq!(server.describe("ns$mine").await["managed_versioning"], false);
    }
}

with_profiles! {
    async fn a_clone_stays_in_the_storage_of_its_source(server: TestServer) {
        server.with_table("archive$t", 3).await;
        server.create_namespace("ns").await;
        let source = server.location("archive$t").await;
        for is_shallow in [true, false] {
            let body = json!({"source_location": source, "is_shallow": is_shallow});
            let reply = server.post("/v1/table/ns$c/clone", body).await;
            assert_eq!(reply.status, 501, "{}", reply.text());
            assert!(!server.exists("ns$c").await);
        }
        let body = json!({"source_location": source, "is_shallow": true});
        server.post("/v1/table/archive$c/clone", body).await.ok();
        assert_eq!(server.count("archive$c").await, 3);
    }
}

/// Versions that others put are adopted where storage decides, and only there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_past_the_server_are_adopted_where_storage_decides() {
    let server = TestServer::spawn_with(Backend::Sqlite, with_profiles).await;
    let server = server.expect("SQLite is always there");
    for profile in ["cold", "slow"] {
        let body = json!({"properties": {"storage_profile": profile}});
        server.post(&namespace(profile, "create"), body).await.ok();
        let location = server.with_table(&format!("{profile}$t"), 3).await;
        foreign::append(&location, batch_ab(3..4)).await;
    }
    assert_eq!(server.count("cold$t").await, 4);
    let reply = server.post(&table("slow$t", "count_rows"), json!({})).await;
    assert_error(&reply, 409, INVALID_TABLE_STATE);
}

/// The sweeper, too, knows all places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_in_a_profile_is_told_and_swept() {
    let home = tempfile::TempDir::with_prefix("tiltyard-profiles-").expect("a folder");
    let file = home.path().join("settings.toml");
    let secret = "[storage_profiles.cold.storage_options]\nallow_http = 'env:ALLOW'\n";
    let text = format!("[storage_profiles.cold]\nroot = 'cold'\n{secret}");
    std::fs::write(&file, &text).expect("the settings");
    let config = file.display().to_string();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--config", &config];
    // What a variable holds has to be there.
    let told = tiltyard(home.path(), &arguments).output().expect("it runs");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("ALLOW"), "{told}");
    let mut command = tiltyard(home.path(), &arguments);
    command.env("ALLOW", "true");
    let mut serving = Serving::start(command);
    let post = async |path: &str, body: String| {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let answer = client.post(format!("{}{path}", serving.base)).body(body).send().await;
        assert_eq!(answer.expect("an answer").status(), 200);
    };
    let body = json!({"properties": {"storage_profile": "cold"}});
    post("/v1/namespace/archive/create", body.to_string()).await;
    post("/v1/table/archive$t/declare", "{}".into()).await;
    assert!(serving.terminate().success());
    // A folder of no table.
    let orphan = home.path().join("cold/someone/data");
    std::fs::create_dir_all(&orphan).expect("a folder");
    std::fs::write(orphan.join("file.lance"), "x").expect("a file");
    let mut doctor = tiltyard(home.path(), &["doctor", "--config", &config]);
    let told = doctor.env("ALLOW", "true").output().expect("it runs");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("cold/someone is of no table"), "{told}");
    assert_eq!(files_under(&home.path().join("cold")).len(), 1);
    // One root must not be in another.
    std::fs::write(&file, text.replace("'cold'", "'tiltyard-data/lake/cold'")).expect("settings");
    let told = tiltyard(home.path(), &arguments).env("ALLOW", "true").output().expect("it runs");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("one in the other"), "{told}");
}
