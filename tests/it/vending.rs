//! Short-lived credentials for one table, on S3.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use lance_io::object_store::{ObjectStoreParams, StorageOptionsAccessor};
use reqwest::Method;
use serde_json::{Value, json};
use tiltyard::config::{Settings, StorageProfile, Vending};

use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::gate::{Answers, Gate, Wish};
use crate::support::process::{Serving, tiltyard};
use crate::support::script::{interpreter, run};
use crate::support::{Backend, Reply, TestServer, assert_error, namespace, needed, table, text};

const ROLE: &str = "arn:aws:iam::123456789012:role/tables";
/// What nobody may see in an answer that has no credentials.
const SECRETS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

fn vending() -> Vending {
    let external_id = Some("of-the-tests".to_owned());
    Vending { role_arn: Some(ROLE.into()), external_id, ..Vending::default() }
}

/// Lets the server speak to S3 through a gate, and clients know where that is.
fn through(gate: &Gate) -> impl Fn(&mut Settings) + Send + Sync + 'static {
    let base = gate.base.clone();
    move |settings| {
        settings.storage_options.insert("endpoint".into(), base.clone());
        let told =
            [("aws_endpoint", base.as_str()), ("allow_http", "true"), ("region", "us-east-1")];
        let told = told.map(|(name, value)| (name.to_owned(), value.to_owned()));
        settings.client_storage_options = told.into();
        settings.vending = Some(vending());
    }
}

async fn gate() -> Option<Gate> {
    let behind = needed("TILTYARD_TEST_S3", "test object stores too")?;
    Some(Gate::start(&behind).await)
}

async fn open() -> Option<(Gate, TestServer)> {
    let gate = gate().await?;
    let server = TestServer::spawn_with(Backend::S3, through(&gate)).await?;
    Some((gate, server))
}

async fn key_of(server: &TestServer, principal: &str, role: &str) -> String {
    let grant = json!({"principal": principal, "role": role, "namespace": ["ns"]});
    server.post("/v1/access/grants/create", grant).await.ok();
    let made = server.post("/v1/access/keys/create", json!({"principal": principal})).await.ok();
    text(&made, "api_key")
}

async fn post_as(server: &TestServer, key: &str, path: &str, body: Value) -> Reply {
    let request = server.bare_request(Method::POST, path).header("x-api-key", key);
    server.send(request.json(&body)).await
}

/// The options that a table is described with.
async fn options(server: &TestServer, id: &str) -> Value {
    server.post(&table(id, "describe"), json!({"vend_credentials": true})).await.ok()["storage_options"]
        .clone()
}

#[track_caller]
fn assert_no_credentials(reply: &Reply) {
    for name in SECRETS.iter().chain(&["expires_at_millis"]) {
        assert!(!reply.text().contains(name), "{}", reply.text());
    }
}

/// The bucket and the key behind a location.
fn folder(location: &str) -> (&str, &str) {
    location.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).expect("a folder on S3")
}

fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
    u64::try_from(since.as_millis()).expect("a time")
}

fn as_map(options: &Value) -> HashMap<String, String> {
    serde_json::from_value(options.clone()).expect("a map of texts")
}

/// Opens a table with vended options, as a client does.
async fn open_with(location: &str, options: &Value) -> lance::Result<Dataset> {
    let builder = DatasetBuilder::from_uri(location).with_storage_options(as_map(options));
    Box::pin(builder.load()).await
}

async fn append_with(location: &str, options: &Value) -> lance::Result<Dataset> {
    let accessor = StorageOptionsAccessor::with_static_options(as_map(options));
    let store = ObjectStoreParams {
        storage_options_accessor: Some(Arc::new(accessor)),
        ..ObjectStoreParams::default()
    };
    let params = WriteParams {
        mode: WriteMode::Append,
        store_params: Some(store),
        ..WriteParams::default()
    };
    let insert = InsertBuilder::new(location).with_params(&params);
    Box::pin(insert.execute(vec![batch_ab(3..5)])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_may_read_and_writers_write() {
    let Some(gate) = gate().await else { return };
    let Some(server) = TestServer::guarded_with(Backend::S3, through(&gate)).await else { return };
    let location = server.with_table("ns$orders", 3).await;
    let path = table("ns$orders", "describe");
    let (bucket, key) = folder(&location);
    let list = json!({"Effect": "Allow", "Action": "s3:ListBucket",
        "Resource": format!("arn:aws:s3:::{bucket}"),
        "Condition": {"StringLike": {"s3:prefix": format!("{key}/*")}}});
    for (role, actions) in [
        ("reader", json!(["s3:GetObject"])),
        ("writer", json!(["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"])),
    ] {
        let api_key = key_of(&server, role, role).await;
        let told =
            post_as(&server, &api_key, &path, json!({})).await.ok()["storage_options"].clone();
        let session = gate.session_of(&told);
        let objects = json!({"Effect": "Allow", "Action": actions,
            "Resource": format!("arn:aws:s3:::{bucket}/{key}/*")});
        let policy = json!({"Version": "2012-10-17", "Statement": [objects, list]});
        assert_eq!(session.policy, policy, "{role}");
        let sent = |name: &str| session.form[name].as_str();
        assert_eq!((sent("RoleArn"), sent("ExternalId")), (ROLE, "of-the-tests"));
        assert_eq!((sent("DurationSeconds"), sent("RoleSessionName")), ("3600", "tiltyard"));
        // The S3 server knows the session and its policy, too.
        let known = gate.known().await;
        let roles = known["sts"]["AssumedRole"].as_array().expect("roles").clone();
        let mut roles = roles.iter().filter(|role| role["access_key_id"] == session.access_key_id);
        let known = roles.next().expect("the role that was assumed");
        assert_eq!(known["policy"], sent("Policy"), "{role}");
        assert_eq!(known["secret_access_key"], told["aws_secret_access_key"]);
        // What all clients are told is told, too.
        assert_eq!(
            (&told["aws_endpoint"], &told["region"]),
            (&json!(gate.base), &json!("us-east-1"))
        );
        let expires: u64 =
            told["expires_at_millis"].as_str().expect("text").parse().expect("a time");
        let left = expires.saturating_sub(now_millis());
        assert!((50 * 60_000..=60 * 60_000).contains(&left), "{left}");
        // And it is what the client can do.
        assert_eq!(
            open_with(&location, &told).await.expect("opened").count_rows(None).await.unwrap(),
            3
        );
        assert_eq!(append_with(&location, &told).await.is_ok(), role == "writer");
    }
    assert_eq!(server.count("ns$orders").await, 5);
    // Who declares a table may write it; who lost the role gets less at once.
    let writer = key_of(&server, "writer", "writer").await;
    let made = post_as(&server, &writer, &table("ns$new", "declare"), json!({})).await.ok();
    let policy = gate.session_of(&made["storage_options"]).policy;
    assert_eq!(policy["Statement"][0]["Action"][1], "s3:PutObject", "{policy}");
    let lost = json!({"principal": "writer", "namespace": ["ns"]});
    server.post("/v1/access/grants/delete", lost).await.ok();
    let lost = json!({"principal": "writer", "role": "reader", "namespace": ["ns"]});
    server.post("/v1/access/grants/create", lost).await.ok();
    let told = post_as(&server, &writer, &path, json!({})).await.ok()["storage_options"].clone();
    assert_eq!(gate.session_of(&told).policy["Statement"][0]["Action"], json!(["s3:GetObject"]));
    // Each time is on record, and before the credentials are told.
    let told = server.get("/v1/events?kind=credentials").await.ok()["events"].clone();
    let told: Vec<(&str, &str)> = told
        .as_array()
        .expect("events")
        .iter()
        .map(|event| (&event["principal"], &event["detail"]["permission"]))
        .map(|(who, what)| (who.as_str().expect("a name"), what.as_str().expect("a word")))
        .filter(|(who, _)| *who != "admin")
        .collect();
    assert_eq!(
        told,
        [("reader", "read"), ("writer", "write"), ("writer", "write"), ("writer", "read")]
    );
    // A stranger gets nothing, and neither does who wants nothing.
    let before = gate.sessions().len();
    let made = server.post("/v1/access/keys/create", json!({"principal": "stranger"})).await.ok();
    let reply = post_as(&server, &text(&made, "api_key"), &path, json!({})).await;
    assert_error(&reply, 404, TABLE_NOT_FOUND);
    let reply = server.post(&path, json!({"vend_credentials": false})).await;
    assert_no_credentials(&reply);
    assert_eq!(reply.ok()["storage_options"]["region"], "us-east-1");
    assert_eq!(gate.sessions().len(), before);
}

/// What the policies open, decided as AWS does, and what Lance gets to see with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_table_does_not_open_another() {
    let Some((gate, server)) = open().await else { return };
    server.create_namespace("ns").await;
    let folders =
        ["orders", "orders2", "or ders", "ns$orders", "Käse+ü", "a'b\"c", "{orders}", "orders;x"];
    let mut tables = Vec::new();
    for (number, name) in folders.iter().enumerate() {
        let id = format!("ns$t{number}");
        server.post(&table(&id, "declare"), json!({"location": name})).await.ok();
        server.insert(&id, &batch_ab(0..3)).await;
        tables.push((server.location(&id).await, options(&server, &id).await));
    }
    for (location, told) in &tables {
        let policy = gate.session_of(told).policy;
        for (other, _) in &tables {
            let (bucket, key) = folder(other);
            let is_own = other == location;
            for wish in [
                Wish::of_object("s3:GetObject", bucket, &format!("{key}/_versions/1.manifest")),
                Wish::of_object("s3:PutObject", bucket, &format!("{key}/data/x.lance")),
                Wish::of_list(bucket, Some(&format!("{key}/"))),
                Wish::of_list(bucket, Some(&format!("{key}/_versions/"))),
            ] {
                assert_eq!(wish.is_allowed(&policy), is_own, "{location}: {wish:?}");
            }
            for wish in [
                // The names of what begins alike, and of all.
                Wish::of_list(bucket, Some(key)),
                Wish::of_list(bucket, Some("")),
                Wish::of_list(bucket, None),
                Wish::of_object("s3:GetObject", bucket, key),
                Wish::of_object("s3:DeleteObject", bucket, &format!("{key}/data/x.lance")),
                Wish::of_object("s3:GetObject", "elsewhere", &format!("{key}/data/x.lance")),
            ] {
                assert!(!wish.is_allowed(&policy), "{location}: {wish:?}");
            }
        }
    }
    gate.take_requests();
    for (location, told) in &tables {
        let opened = open_with(location, told).await;
        let opened = opened.unwrap_or_else(|error| panic!("{location}: {error:?}"));
        assert_eq!(opened.count_rows(None).await.unwrap(), 3, "{location}");
        let (refused, served) = gate.take_requests();
        assert!(refused.is_empty() && !served.is_empty(), "{location}: {refused:?}");
    }
    let ((orders, told), (orders2, _)) = (&tables[0], &tables[1]);
    append_with(orders, told).await.expect("a writer's credentials write");
    let (refused, _) = gate.take_requests();
    assert!(refused.is_empty(), "{refused:?}");
    assert!(open_with(orders2, told).await.is_err());
    assert!(append_with(orders2, told).await.is_err());
    assert!(!gate.take_requests().0.is_empty());
    assert_eq!((server.count("ns$t0").await, server.count("ns$t1").await), (5, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_location_that_a_policy_cannot_name_gets_no_credentials() {
    let Some((gate, server)) = open().await else { return };
    server.create_namespace("ns").await;
    let long = "x".repeat(900);
    for (number, name) in ["${aws:username}", long.as_str()].into_iter().enumerate() {
        let id = format!("ns$t{number}");
        let body = json!({"location": name, "vend_credentials": true});
        let reply = server.post(&table(&id, "declare"), body).await;
        assert_no_credentials(&reply);
        reply.ok();
        let reply = server.post(&table(&id, "describe"), json!({})).await;
        assert_no_credentials(&reply);
        assert_eq!(reply.ok()["storage_options"]["region"], "us-east-1");
        let reply = server.post(&table(&id, "describe"), json!({"vend_credentials": true})).await;
        assert_error(&reply, 406, UNSUPPORTED);
        assert!(reply.text().contains("location"), "{}", reply.text());
    }
    assert!(gate.sessions().is_empty(), "{:?}", gate.sessions());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_remembered_for_half_of_their_life() {
    let Some((gate, server)) = open().await else { return };
    server.with_declared("ns$t").await;
    server.with_declared("ns$other").await;
    let before = gate.sessions().len();
    gate.answer(Answers::For(Duration::from_secs(6)));
    // What was remembered of the hour is good for long.
    let first = options(&server, "ns$t").await;
    assert_eq!(gate.sessions().len(), before);
    let policy = gate.session_of(&first).policy;
    assert_ne!(gate.session_of(&options(&server, "ns$other").await).policy, policy);

    server.with_declared("ns$short").await;
    let made = gate.sessions().len();
    let short = options(&server, "ns$short").await;
    let both = tokio::join!(options(&server, "ns$short"), options(&server, "ns$short"));
    assert_eq!((&both.0, &both.1), (&short, &short));
    assert_eq!(gate.sessions().len(), made);
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    let next = options(&server, "ns$short").await;
    assert_ne!(next["aws_session_token"], short["aws_session_token"]);
    assert_eq!(gate.sessions().len(), made + 1);
    // Credentials that end when they come are none.
    gate.answer(Answers::For(Duration::ZERO));
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    let reply = server.post(&table("ns$short", "describe"), json!({})).await;
    assert_error(&reply, 503, SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_service_that_gives_nothing_is_503() {
    let Some((gate, server)) = open().await else { return };
    server.create_namespace("ns").await;
    for (answers, id) in [(Answers::No, "ns$refused"), (Answers::Never, "ns$silent")] {
        gate.answer(answers);
        // The table is there, whatever becomes of the credentials.
        let reply = server.post(&table(id, "declare"), json!({"vend_credentials": true})).await;
        assert_no_credentials(&reply);
        reply.ok();
        let reply = server.post(&table(id, "describe"), json!({})).await;
        assert_error(&reply, 503, SERVICE_UNAVAILABLE);
        assert_no_credentials(&reply);
        for secret in [ROLE, "of-the-tests", "AccessDenied", gate.base.as_str()] {
            assert!(!reply.text().contains(secret), "{}", reply.text());
        }
        let reply = server.post(&table(id, "describe"), json!({"vend_credentials": false})).await;
        assert_no_credentials(&reply);
        reply.ok();
        // Nothing else waits for it.
        server.insert(id, &batch_ab(0..3)).await;
        gate.answer(Answers::Well);
        let told = options(&server, id).await;
        let opened = open_with(&server.location(id).await, &told).await.expect("opened");
        assert_eq!(opened.count_rows(None).await.unwrap(), 3);
    }
}

/// The answer to a request with a key is kept for a day: a copy of the database holds no credentials.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_holds_no_credentials() {
    let Some((gate, server)) = open().await else { return };
    server.create_namespace("ns").await;
    let declare = async |number: usize| {
        let request = server.request(Method::POST, &table("ns$t", "declare"));
        let request =
            request.header("idempotency-key", "k").json(&json!({"vend_credentials": true}));
        let reply = server.send(request).await;
        assert_no_credentials(&reply);
        assert_eq!(reply.ok()["storage_options"]["region"], "us-east-1", "{number}");
    };
    declare(1).await;
    declare(2).await;
    let body =
        json!({"operations": [{"declare_table": {"id": ["ns", "b"], "vend_credentials": true}}]});
    let reply = server.post("/v1/table/batch-commit", body).await;
    assert_no_credentials(&reply);
    reply.ok();
    assert!(gate.sessions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_hands_out_its_own_or_none() {
    let Some(gate) = gate().await else { return };
    let whole = through(&gate);
    let configure = move |settings: &mut Settings| {
        whole(settings);
        let (root, storage_options) = (&settings.storage_root, settings.storage_options.clone());
        let root = format!("{root}-cold");
        let vending = settings.vending.take();
        let cold = StorageProfile { root, storage_options, vending, ..StorageProfile::default() };
        settings.storage_profiles.insert("cold".into(), cold);
    };
    let Some(server) = TestServer::spawn_with(Backend::S3, configure).await else { return };
    let cold = json!({"properties": {"storage_profile": "cold"}});
    server.post(&namespace("archive", "create"), cold).await.ok();
    server.with_table("archive$t", 3).await;
    server.with_table("ns$t", 3).await;
    let told = options(&server, "archive$t").await;
    let resource = text(&gate.session_of(&told).policy["Statement"][0], "Resource");
    assert!(resource.contains("-cold/"), "{resource}");
    // Where the store is, clients are told too, though the profile says nothing of it.
    assert_eq!(told["aws_endpoint"], json!(gate.base));
    let opened = open_with(&server.location("archive$t").await, &told).await.expect("opened");
    assert_eq!(opened.count_rows(None).await.unwrap(), 3);
    let reply = server.post(&table("ns$t", "describe"), json!({"vend_credentials": true})).await;
    assert_no_credentials(&reply);
    reply.ok();
}

both! {
    async fn without_settings_nothing_is_handed_out(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for body in [json!({}), json!({"vend_credentials": true}), json!({"vend_credentials": false})] {
            let described = server.post(&table("ns$t", "describe"), body).await.ok();
            assert!(described.get("storage_options").is_none(), "{described}");
        }
    }
}

#[test]
fn settings_that_cannot_work_are_said_at_start() {
    let home = tempfile::TempDir::with_prefix("tiltyard-vending-").expect("a folder");
    let start = ["serve", "--listen", "127.0.0.1:0", "--vend-role-arn", ROLE];
    let told = tiltyard(home.path(), &start).output().expect("it runs");
    assert!(!told.status.success());
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("s3://, az:// and gs:// only"), "{told}");
    let file = home.path().join("settings.toml");
    let secret = "[client_storage_options]\nsecret_access_key = 'hush'\n";
    std::fs::write(&file, format!("storage_root = 's3://b/lake'\n{secret}")).expect("settings");
    let config = file.display().to_string();
    let told = tiltyard(home.path(), &[&start[..], &["--config", &config]].concat());
    let told = { told }.output().expect("it runs");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("secret_access_key") && !told.contains("hush"), "{told}");
    std::fs::write(&file, "[vending]\nduration = '1m'\n").expect("settings");
    let start = ["serve", "--storage-root", "s3://b/lake", "--vend-role-arn", ROLE];
    let told = tiltyard(home.path(), &[&start[..], &["--config", &config]].concat()).output();
    let told = String::from_utf8_lossy(&told.expect("it runs").stderr).into_owned();
    assert!(told.contains("at least 15 minutes"), "{told}");
}

/// Who got what is in the log, and no secret is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_who_got_credentials() {
    let Some(gate) = gate().await else { return };
    let home = tempfile::TempDir::with_prefix("tiltyard-vending-").expect("a folder");
    let endpoint = format!("endpoint={},allow_http=true", gate.base);
    let mut command =
        tiltyard(home.path(), &["serve", "--listen", "127.0.0.1:0", "--log", "debug"]);
    command.args(["--storage-root", "s3://lake/logged", "--vend-role-arn", ROLE]);
    command.args(["--storage-option", &endpoint]);
    let serving = Serving::start(command);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let post = async |path: &str| {
        let answer = client.post(format!("{}{path}", serving.base)).body("{}").send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.expect("JSON")
    };
    post("/v1/namespace/ns/create").await;
    post("/v1/table/ns$t/declare").await;
    let told = post("/v1/table/ns$t/describe").await["storage_options"].clone();
    // The answer to the request is printed after what the request did.
    let mut logged = String::new();
    let line = loop {
        logged.push_str(&serving.printed());
        let handed =
            |line: &&str| line.contains("credentials handed out") && line.contains("describe");
        if let Some(line) = logged.lines().find(handed) {
            break line.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for word in ["ns$t", "anonymous", "write", told["expires_at_millis"].as_str().expect("text")] {
        assert!(line.contains(word), "{word}: {line}");
    }
    for secret in ["aws_secret_access_key", "aws_session_token"] {
        let secret = told[secret].as_str().expect("text");
        assert!(!logged.contains(secret), "{logged}");
    }
}

/// pylance through the namespace, with no other credentials.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_client_uses_them() {
    let Some(interpreter) = interpreter("vended_credentials.py") else { return };
    let Some((gate, server)) = open().await else { return };
    let arguments = [server.base(), gate.base.as_str()];
    let script = "clients/vended_credentials.py";
    tokio::task::block_in_place(|| run(&interpreter, script, &arguments, server.home()));
    let (refused, served) = gate.take_requests();
    assert!(served.len() > 20, "{served:?}");
    // Nothing but what the script means to be refused.
    let meant = |line: &&String| !line.contains("stranger");
    assert_eq!(refused.iter().filter(meant).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(!refused.is_empty());
}
