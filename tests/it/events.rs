//! What happened, as it is told: by pages, as a stream, and to webhooks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::SinkExt;
use futures::channel::mpsc;
use futures::future::join_all;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tiltyard::config::{Settings, Webhook};

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::faults::{Fault, Faults, Step, as_object_store};
use crate::support::listener::Listener;
use crate::support::upkeep::{literal, make_old, sql};
use crate::support::{
    Backend, TestServer, assert_error, files_under, foreign, namespace, strings, table, text,
};

/// All events that a query answers, by pages of this size.
async fn events_by(server: &TestServer, key: Option<&str>, query: &str, limit: u32) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::from("0"));
    loop {
        let path = format!("/v1/events?limit={limit}&cursor={cursor}&{query}");
        let request = server.bare_request(Method::GET, &path);
        let request = match key.or(server.key()) {
            Some(key) => request.header("x-api-key", key),
            None => request,
        };
        let page = server.send(request).await.ok();
        let events = page["events"].as_array().expect("events");
        assert!(events.len() <= limit as usize);
        found.extend(events.clone());
        let next = text(&page, "cursor");
        if next == cursor {
            return found;
        }
        cursor = next;
    }
}

async fn events(server: &TestServer, query: &str) -> Vec<Value> {
    events_by(server, None, query, 1000).await
}

fn kinds(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| text(event, "kind")).collect()
}

/// Waits for what is written down a moment later.
async fn until_there<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    for _ in 0..300 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

both! {
    async fn every_change_is_told(server: TestServer) {
        server.create_namespace("ns").await;
        server.with_declared("ns$declared").await;
        server.create("ns$t", &batch_ab(0..3)).await;
        server.insert("ns$t", &batch_ab(3..4)).await;
        server.append("ns$t", 2, &batch_ab(4..5)).await;
        server.post(&table("ns$t", "delete"), json!({"predicate": "a = 0"})).await.ok();
        let column = json!({"new_columns": [{"name": "c", "expression": "a + 1"}]});
        server.post(&table("ns$t", "add_columns"), column).await.ok();
        server.post(&table("ns$t", "tags/create"), json!({"tag": "good", "version": 2})).await.ok();
        server.post(&table("ns$t", "tags/update"), json!({"tag": "good", "version": 3})).await.ok();
        server.post(&table("ns$t", "tags/delete"), json!({"tag": "good"})).await.ok();
        server.post(&table("ns$t", "branches/create"), json!({"name": "side"})).await.ok();
        server.post(&table("ns$t", "insert?branch=side"), Value::Null).await;
        let rows = ipc(&[batch_ab(9..10)]);
        let on_side = server.arrow_request(&format!("{}?branch=side", table("ns$declared", "insert")));
        assert_error(&server.send(on_side.body(rows)).await, 404, TABLE_BRANCH_NOT_FOUND);
        server.post(&table("ns$t", "branches/delete"), json!({"name": "side"})).await.ok();
        let renamed = json!({"new_table_name": "u"});
        server.post(&table("ns$t", "rename"), renamed).await.ok();
        server.post_empty(&table("ns$declared", "deregister")).await.ok();
        let request = server.request(Method::POST, &table("ns$u", "drop"));
        let request = request.header("x-request-id", "the-drop").json(&json!({}));
        server.send(request).await.ok();
        server.post(&namespace("ns", "drop"), json!({})).await.ok();

        let told = events(&server, "").await;
        let changes: Vec<Value> =
            told.iter().filter(|event| event["kind"] != "request.refused").cloned().collect();
        assert_eq!(kinds(&changes), [
            "namespace.created", "table.declared", "table.created", "version.created",
            "version.created", "version.created", "version.created", "version.created",
            "tag.created", "tag.updated", "tag.deleted", "branch.created", "branch.deleted",
            "table.renamed", "table.deregistered", "table.dropped", "namespace.dropped",
        ]);
        let versions: Vec<&Value> =
            changes.iter().filter(|event| event["kind"] == "version.created").collect();
        let numbers: Vec<u64> =
            versions.iter().map(|event| event["version"].as_u64().expect("a version")).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        assert_eq!(versions[4]["detail"]["operation"], "Merge");
        let transactions: BTreeSet<String> =
            versions.iter().map(|event| text(event, "transaction_id")).collect();
        assert_eq!(transactions.len(), 5);
        for event in &changes {
            assert_eq!(event["principal"], "anonymous", "{event}");
            assert_eq!(event["remote"], "127.0.0.1", "{event}");
            assert!(!text(event, "request_id").is_empty() && event["at_millis"].is_i64(), "{event}");
        }
        let asked: Vec<String> = changes.iter().map(|event| text(event, "operation")).collect();
        assert_eq!(&asked[..3], ["CreateNamespace", "DeclareTable", "CreateTable"]);
        assert_eq!(&asked[asked.len() - 2..], ["DropTable", "DropNamespace"]);
        let [.., renamed, _, dropped, _] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(renamed["detail"]["new_id"], json!(["ns", "u"]));
        assert_eq!(strings(&dropped["table"]), ["ns", "u"]);
        assert_eq!(dropped["request_id"], "the-drop");
        assert_eq!(dropped["table_id"], renamed["table_id"]);

        // What was not made is told too, a moment later.
        let refused = until_there("refusals", async || {
            let found = events(&server, "kind=request").await;
            (!found.is_empty()).then_some(found)
        });
        let refused = refused.await;
        let codes: Vec<u64> =
            refused.iter().map(|event| event["code"].as_u64().expect("a code")).collect();
        assert!(codes.contains(&TABLE_BRANCH_NOT_FOUND), "{refused:?}");

        // By object, kind and caller, in pages of any size.
        let all = events(&server, "").await;
        for limit in [1, 3, 1000] {
            assert_eq!(events_by(&server, None, "", limit).await, all);
        }
        let count = async |query: &str| events(&server, query).await.len();
        assert_eq!(count("kind=tag").await, 3);
        assert_eq!(count("kind=tag.created").await, 1);
        assert_eq!(count("kind=ta").await, 0);
        assert_eq!(count("namespace=ns").await, all.len());
        assert_eq!(count("namespace=n").await, 0);
        assert_eq!(count("table=ns$declared&kind=table").await, 2);
        assert_eq!(count("principal=nobody").await, 0);
        for bad in ["cursor=x", "cursor=-1", "limit=0", "limit=1001", "table=t", "namespace=a&table=a$b"] {
            let reply = server.get(&format!("/v1/events?{bad}")).await;
            if bad != "table=t" {
                assert_error(&reply, 400, INVALID_INPUT);
            }
        }
    }
}

async fn keeping(backend: Backend) -> Option<TestServer> {
    let keep = |settings: &mut Settings| settings.drop_retention = Duration::from_secs(3_600);
    TestServer::spawn_with(backend, keep).await
}

on! { keeping; sqlite: Sqlite, postgres: Postgres;
    async fn what_is_dropped_and_had_back_is_told(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.post(&namespace("ns", "protect"), json!({"deletion_protection": true})).await.ok();
        server.post(&table("ns$t", "protect"), json!({"deletion_protection": true})).await.ok();
        server.post(&table("ns$t", "protect"), json!({"deletion_protection": false})).await.ok();
        server.post_empty(&table("ns$t", "drop")).await.ok();
        server.post(&table("ns$t", "undrop"), json!({"new_table_id": ["ns", "u"]})).await.ok();
        server.post_empty(&table("ns$u", "drop")).await.ok();
        server.post_empty(&table("ns$u", "purge")).await.ok();
        let told = events(&server, "").await;
        assert_eq!(kinds(&told), [
            "namespace.created", "table.created", "version.created", "namespace.protected",
            "table.protected", "table.protected", "table.dropped", "table.undropped", "table.dropped",
            "table.purged",
        ]);
        let detail = |index: usize| told[index]["detail"].clone();
        assert_eq!(detail(4), json!({"deletion_protection": true}));
        assert_eq!(detail(5), json!({"deletion_protection": false}));
        assert_eq!(detail(7), json!({"new_id": ["ns", "u"]}));
        assert_eq!(told[9]["table_id"], told[1]["table_id"]);
    }
}

both! {
    /// What is refused may have names as long as can be, and longer ones within a database.
    async fn names_of_any_length_are_told(server: TestServer) {
        let (name, last) = ("n".repeat(512), "t".repeat(2048 - 3 * 513));
        let id = [name.as_str(), &name, &name, &last].join("$");
        assert_eq!(id.len(), 2048);
        let database = "d".repeat(512);
        let request = || server.request(Method::POST, &table(&id, "drop")).json(&json!({}));
        assert_eq!(server.send(request()).await.status, 404);
        let within = request().header("x-lancedb-database", &database);
        assert_eq!(server.send(within).await.status, 404);
        let refused = until_there("two refusals", async || {
            let found = events(&server, "kind=request.refused").await;
            (found.len() == 2).then_some(found)
        });
        let told: Vec<String> =
            refused.await.iter().map(|event| strings(&event["table"]).join("$")).collect();
        assert_eq!(told, [id.clone(), format!("{database}${id}")]);
        assert_eq!(events(&server, &format!("table={id}")).await.len(), 1);
    }
}

both! {
    async fn one_change_may_be_many_events(server: TestServer) {
        server.create_namespace("ns").await;
        server.create_namespace("ns$sub").await;
        let names: BTreeSet<String> = (0..131).map(|n| format!("t{n:03}")).collect();
        for name in &names {
            server.with_declared(&format!("ns$sub${name}")).await;
        }
        let drop = json!({"behavior": "Cascade"});
        server.post(&namespace("ns", "drop"), drop).await.ok();
        let told = events(&server, "kind=table.dropped").await;
        let told = told.iter().map(|event| strings(&event["table"]).pop().expect("a name"));
        assert_eq!(told.clone().count(), names.len());
        assert_eq!(told.collect::<BTreeSet<_>>(), names);
        // The tables, what they were in, and what that was in.
        let told = kinds(&events(&server, "").await);
        let after = ["table.dropped", "namespace.dropped", "namespace.dropped"];
        assert_eq!(told[told.len() - 3..], after);
    }
}

both! {
    /// One that a newer server wrote, or that is broken, keeps nobody from the others.
    async fn what_cannot_be_read_is_stepped_over(server: TestServer) {
        for name in ["a", "b", "c", "d"] {
            server.create_namespace(name).await;
        }
        let database = server.database();
        sql(database, "UPDATE events SET detail = 'no JSON' WHERE path = 'b'").await;
        sql(database, "UPDATE events SET kind = 'moon.landed' WHERE path = 'c'").await;
        for limit in [1, 1000] {
            let told = events_by(&server, None, "", limit).await;
            let names: Vec<String> =
                told.iter().map(|event| strings(&event["namespace"]).join("$")).collect();
            assert_eq!(names, ["a", "d"]);
        }
    }
}

both! {
    /// Not in that of their ids, which clocks make. Versions that were recorded late are put right.
    async fn events_come_in_the_order_in_which_they_were_written(server: TestServer) {
        server.with_table("ns$t", 1).await;
        for value in 1..4 {
            server.insert("ns$t", &batch_ab(value..value + 1)).await;
        }
        let first = json!({"ranges": [{"start_version": 1, "end_version": 2}]});
        server.post(&table("ns$t", "version/delete"), first).await.ok();
        server.insert("ns$t", &batch_ab(4..5)).await;
        let database = server.database();
        let late = literal(database, uuid::Uuid::max());
        let ahead = format!("UPDATE events SET event_id = {late} WHERE kind = 'namespace.created'");
        sql(database, &ahead).await;
        let created = "UPDATE events SET version = 6 - version WHERE kind = 'version.created'";
        sql(database, &format!("{created} AND version IN (2, 4)")).await;
        // As if all had been deleted, so that they count from 1 again.
        sql(database, "UPDATE events SET version = 1 WHERE version = 5").await;
        let told = events(&server, "").await;
        assert_eq!(kinds(&told), [
            "namespace.created", "table.created", "version.created", "version.created",
            "version.created", "version.created", "version.deleted", "version.created",
        ]);
        let versions = told.iter().filter_map(|event| event["version"].as_u64());
        assert_eq!(versions.collect::<Vec<_>>(), [1, 2, 3, 4, 1]);
        let ranges = json!([{"start_version": 1, "end_version": 2}]);
        assert_eq!(told[6]["detail"], json!({"count": 1, "ranges": ranges}));
    }
}

both! {
    /// However little a caller asks for, one page looks through so many and no more.
    async fn a_page_looks_only_so_far(server: TestServer) {
        server.create_namespace("first").await;
        assert_eq!(events(&server, "").await.len(), 1);
        let database = server.database();
        let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30) \
            INSERT INTO events (event_id, seq, at_us, kind, object, path, principal, detail) \
            SELECT event_id, i * 5000, at_us, kind, object, path, principal, detail \
            FROM events, n WHERE seq = 1";
        sql(database, many).await;
        sql(database, "UPDATE event_numbers SET last_seq = 150000").await;
        server.with_declared("ns$t").await;
        let page = async |query: &str| {
            let page = server.get(&format!("/v1/events?{query}")).await.ok();
            (page["events"].as_array().expect("events").len(), text(&page, "cursor"))
        };
        let none = "principal=nobody";
        // That of a table is found at once, wherever it is.
        assert_eq!(page("table=ns$t").await, (1, "150002".to_owned()));
        assert_eq!(page(none).await, (0, "104999".to_owned()));
        for cursor in ["104999", "150002"] {
            let query = format!("{none}&cursor={cursor}");
            assert_eq!(page(query.as_str()).await, (0, "150002".to_owned()));
        }
        assert_eq!(events(&server, "").await.len(), 1 + 30 + 2);
        // What was forgotten nobody has to step through.
        sql(database, "DELETE FROM events WHERE seq < 140000").await;
        assert_eq!(page(none).await, (0, "150002".to_owned()));
        assert_eq!(events(&server, "").await.len(), 3 + 2);
    }
}

both! {
    /// A version that is found happens when it is found, however old it is.
    async fn what_is_found_happens_now(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        let folder = foreign::folder(&location).join("_versions");
        let before = files_under(&folder);
        foreign::append(&location, batch_ab(1..3)).await;
        let files = files_under(&folder).into_iter().filter(|file| !before.contains(file));
        files.for_each(|file| make_old(&file));
        assert_eq!(server.count("ns$t").await, 3);
        let told = events(&server, "table=ns$t").await;
        let [created, .., found] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&found["kind"], &found["version"]), (&json!("version.found"), &json!(2)));
        assert!(found["at_millis"].as_i64() >= created["at_millis"].as_i64(), "{told:?}");
    }
}

/// What storage did is told, though nobody waits for the answer any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_told_of_though_its_client_left() {
    let faults = Faults::default();
    let server = TestServer::spawn_of(Backend::Sqlite, faults.parts(), as_object_store).await;
    let server = server.expect("SQLite is always there");
    server.with_table("ns$tag_t", 1).await;
    let changes =
        |step: &Step| step.path.contains("tags/") && !["get", "head", "list"].contains(&step.what);
    for (operation, kind) in
        [("create", "tag.created"), ("update", "tag.updated"), ("delete", "tag.deleted")]
    {
        let rule = faults.lay_at("tag", changes, Fault::FreezeAfter);
        let path = table("ns$tag_t", &format!("tags/{operation}"));
        let request = server.request(Method::POST, &path);
        let client = tokio::spawn(request.json(&json!({"tag": "good", "version": 1})).send());
        assert!(rule.fired_or(std::future::pending()).await, "{operation}");
        client.abort();
        let _ = client.await;
        // The server has seen by then that the client is gone.
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(rule);
        until_there(kind, async || {
            let told = events(&server, &format!("kind={kind}")).await;
            (told.len() == 1).then_some(())
        })
        .await;
    }
}

both! {
    /// Whoever reads on after a cursor sees everything once, however many write meanwhile, at
    /// either of two servers.
    async fn nothing_is_missed(server: TestServer) {
        let other = server.beside().await;
        let tables = ["a$t", "a$u", "b$t"];
        for id in tables {
            server.with_table(id, 1).await;
        }
        let writers = (0..6_usize).map(|writer| {
            let (server, other) = (&server, &other);
            async move {
                for round in 0..8_i32 {
                    let at = if (writer + round as usize).is_multiple_of(2) { server } else { other };
                    at.insert(tables[writer % 3], &batch_ab(round..round + 1)).await;
                }
            }
        });
        let reader = async {
            let (mut seen, mut cursor) = (Vec::new(), String::from("0"));
            for round in 0.. {
                let at = if round % 2 == 0 { &server } else { &other };
                let page = at.get(&format!("/v1/events?limit=7&cursor={cursor}&kind=version.created")).await.ok();
                seen.extend(page["events"].as_array().expect("events").clone());
                cursor = text(&page, "cursor");
                if seen.len() >= 3 + 48 {
                    break;
                }
                assert!(round < 2000, "{} events", seen.len());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            seen
        };
        let (_, seen) = tokio::join!(join_all(writers), reader);
        let ids: BTreeSet<String> = seen.iter().map(|event| text(event, "event_id")).collect();
        assert_eq!((ids.len(), seen.len()), (51, 51));
        assert_eq!(events(&server, "kind=version.created").await, seen, "in the same order, later");
        for id in tables {
            let newest = *server.versions(id).await.last().expect("a version");
            let told: BTreeSet<u64> = seen
                .iter()
                .filter(|event| strings(&event["table"]).join("$") == id)
                .map(|event| event["version"].as_u64().expect("a version"))
                .collect();
            assert_eq!(told, (1..=newest).collect(), "{id}");
        }
    }
}

/// One message of a stream of events.
fn messages(text: &str) -> Vec<(String, Value)> {
    let blocks = text.split("\n\n").filter(|block| block.contains("data:"));
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    blocks
        .map(|block| {
            let data = serde_json::from_str(&field(block, "data")).expect("JSON");
            (field(block, "id"), data)
        })
        .collect()
}

/// The ids of the messages, of those too that are nothing else.
fn ids(text: &str) -> Vec<u64> {
    let blocks = text.split_inclusive("\n\n").filter(|block| block.ends_with("\n\n"));
    let lines = blocks.flat_map(str::lines);
    lines.filter_map(|line| line.strip_prefix("id:")?.trim().parse().ok()).collect()
}

/// Reads a stream until it has so many messages.
async fn follow(server: &TestServer, last: Option<&str>, number: usize) -> Vec<(String, Value)> {
    messages(&hear(server, last, |text| messages(text).len() >= number).await)
}

/// Reads a stream until that is enough.
async fn hear(server: &TestServer, last: Option<&str>, is_enough: impl Fn(&str) -> bool) -> String {
    let request = server.request(Method::GET, "/v1/events?kind=version");
    let mut request = request.header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let mut answer = request.send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let reading = async {
        while !is_enough(&text) {
            let chunk = answer.chunk().await.expect("more").expect("more");
            text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
        text
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("in time")
}

both! {
    async fn a_stream_goes_on_where_it_ended(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let write = async {
            // The stream begins with what comes after it.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            for value in 1..4 {
                server.insert("ns$t", &batch_ab(value..value + 1)).await;
            }
        };
        let (heard, ()) = tokio::join!(follow(&server, None, 3), write);
        let versions: Vec<u64> =
            heard.iter().map(|(_, event)| event["version"].as_u64().expect("a version")).collect();
        assert_eq!(versions, [2, 3, 4]);
        let again = follow(&server, Some(&heard[0].0), 2).await;
        assert_eq!(again, heard[1..]);
    }
}

both! {
    /// Who was told of nothing yet misses nothing either.
    async fn a_stream_says_where_it_is(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let act = async {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            // Nothing that is asked for.
            server.create_namespace("other").await;
        };
        let (heard, ()) = tokio::join!(hear(&server, None, |text| ids(text).len() >= 2), act);
        assert!(!heard.contains("data:"), "{heard}");
        let places = ids(&heard);
        assert!(places[0] < places[1], "{heard}");
        server.insert("ns$t", &batch_ab(1..2)).await;
        for place in places {
            let missed = follow(&server, Some(&place.to_string()), 1).await;
            assert_eq!(missed[0].1["version"], 2);
        }
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    async fn a_stream_ends_with_the_key(server: TestServer) {
        let made = server.post("/v1/access/keys/create", json!({"principal": "anna"})).await.ok();
        let request = server.bare_request(Method::GET, "/v1/events");
        let request = request.header("accept", "text/event-stream");
        let request = request.header("x-api-key", text(&made, "api_key"));
        let mut answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.chunk().await.expect("a beginning").expect("a beginning");
        server.delete(&format!("/v1/access/keys/{}", text(&made, "key_id"))).await.ok();
        let ending = async { while let Ok(Some(_)) = answer.chunk().await {} };
        tokio::time::timeout(Duration::from_secs(20), ending).await.expect("it ends");
    }
}

both! {
    /// What is refused while the server comes to its end is written down too.
    async fn the_last_refusals_are_told(server: TestServer) {
        let mut server = server;
        server.with_table("ns$t", 1).await;
        let other = server.beside().await;
        let (mut sender, receiver) = mpsc::channel::<Result<Vec<u8>, std::io::Error>>(4);
        let request = server.arrow_request(&table("ns$t", "insert"));
        let upload = tokio::spawn(request.body(Body::wrap_stream(receiver)).send());
        sender.send(Ok(b"no ".to_vec())).await.expect("the beginning");
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.begin_shutdown();
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        sender.send(Ok(b"Arrow stream at all".to_vec())).await.expect("the rest");
        drop(sender);
        let answer = upload.await.expect("a task").expect("an answer");
        assert_eq!(answer.status(), 400);
        drop(answer);
        assert!(server.wait_until_down(), "the server does not stop");
        let refused = events(&other, "kind=request.refused").await;
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!(refused[0]["operation"], "InsertIntoTable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_the_server() {
    let mut server = TestServer::spawn(Backend::Sqlite).await.expect("a server");
    let request = server.request(Method::GET, "/v1/events").header("accept", "text/event-stream");
    let mut answer = request.send().await.expect("an answer");
    server.begin_shutdown();
    let ending = async { while let Ok(Some(_)) = answer.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(10), ending).await.expect("it ends");
    assert!(server.wait_until_down());
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    async fn callers_are_told_what_they_may_know(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.with_table("other$t", 1).await;
        let mut keys = BTreeMap::new();
        for (name, role, on) in [
            ("anna", "reader", json!({"namespace": ["ns"]})),
            ("bert", "admin", json!({"namespace": ["other"]})),
            ("carl", "writer", json!({"table": ["ns", "t"]})),
        ] {
            let mut body = json!({"principal": name, "role": role});
            body.as_object_mut().expect("an object").extend(on.as_object().expect("an object").clone());
            server.post("/v1/access/grants/create", body).await.ok();
            let made = server.post("/v1/access/keys/create", json!({"principal": name})).await.ok();
            keys.insert(name, text(&made, "api_key"));
        }
        let send = async |who: &str, path: &str| {
            let request = server.bare_request(Method::POST, path).json(&json!({}));
            server.send(request.header("x-api-key", &keys[who])).await
        };
        // Three refusals: of what she may not, of what is not there for him, of nobody.
        assert_error(&send("anna", &table("ns$t", "drop")).await, 403, PERMISSION_DENIED);
        assert_error(&send("bert", &table("ns$t", "describe")).await, 404, TABLE_NOT_FOUND);
        let nobody = server.bare_request(Method::POST, &table("ns$t", "describe")).json(&json!({}));
        assert_error(&server.send(nobody).await, 401, UNAUTHENTICATED);
        // One that is no refusal of access, and no change.
        assert_error(&send("anna", &table("ns$none", "describe")).await, 404, TABLE_NOT_FOUND);
        let refused = until_there("three refusals", async || {
            let found = events(&server, "kind=request.refused").await;
            (found.len() >= 3).then_some(found)
        });
        let refused = refused.await;
        let told: Vec<(String, u64)> = refused
            .iter()
            .map(|event| (text(event, "principal"), event["code"].as_u64().expect("a code")))
            .collect();
        let expected = [
            ("anna".to_owned(), PERMISSION_DENIED),
            ("bert".to_owned(), TABLE_NOT_FOUND),
            ("anonymous".to_owned(), UNAUTHENTICATED),
        ];
        assert_eq!(told, expected);

        let seen = async |who: &str, query: &str| {
            let found = events_by(&server, Some(&keys[who]), query, 2).await;
            let what = |event: &Value| {
                let names = if event["table"].is_null() { &event["namespace"] } else { &event["table"] };
                format!("{} {}", text(event, "kind"), strings(names).join("$"))
            };
            found.iter().map(what).collect::<Vec<_>>()
        };
        assert_eq!(seen("anna", "").await, [
            "namespace.created ns", "table.created ns$t", "version.created ns$t", "request.refused ns$t",
        ]);
        assert_eq!(seen("carl", "").await, ["table.created ns$t", "version.created ns$t"]);
        let by_bert = seen("bert", "").await;
        assert!(by_bert.contains(&"grant.created other".to_owned()), "{by_bert:?}");
        assert!(by_bert.contains(&"request.refused ns$t".to_owned()), "his own: {by_bert:?}");
        assert!(!by_bert.iter().any(|what| what.contains("key.") || what.ends_with("created ns$t")));
        // The server's own key and grant of the start are there for the admin of all.
        let all = kinds(&events(&server, "").await);
        assert_eq!(all.iter().filter(|kind| *kind == "key.created").count(), 4);
        // What one may not see is not there to ask about either.
        let hidden = async |who: &str, query: &str| {
            let request = server.bare_request(Method::GET, &format!("/v1/events?{query}"));
            server.send(request.header("x-api-key", &keys[who])).await
        };
        assert_error(&hidden("anna", "namespace=other").await, 404, NAMESPACE_NOT_FOUND);
        assert_error(&hidden("bert", "table=ns$t").await, 404, TABLE_NOT_FOUND);
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    /// Not even by the event that tells of its leaving.
    async fn a_place_that_one_may_not_see_is_not_told(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.create_namespace("other").await;
        let grant = json!({"principal": "anna", "role": "reader", "namespace": ["ns"]});
        server.post("/v1/access/grants/create", grant).await.ok();
        let made = server.post("/v1/access/keys/create", json!({"principal": "anna"})).await.ok();
        server.post(&table("ns$t", "rename"), json!({"new_table_name": "u"})).await.ok();
        let away = json!({"new_table_name": "v", "new_namespace_id": ["other"]});
        server.post(&table("ns$u", "rename"), away).await.ok();
        let (near, far) = (json!({"new_id": ["ns", "u"]}), json!({"new_id": ["other", "v"]}));
        let details = |events: &[Value]| -> Vec<Value> {
            events.iter().map(|event| event["detail"].clone()).collect()
        };
        let key = text(&made, "api_key");
        let by_anna = events_by(&server, Some(&key), "kind=table.renamed", 1000).await;
        assert_eq!(details(&by_anna), [near.clone(), Value::Null]);
        let by_admin = events(&server, "kind=table.renamed").await;
        assert_eq!(details(&by_admin), [near, far]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_are_forgotten() {
    let configure = |settings: &mut Settings| {
        settings.event_retention = Duration::from_secs(3);
        settings.gc_interval = Duration::from_millis(200);
    };
    let server = TestServer::spawn_with(Backend::Sqlite, configure).await.expect("a server");
    server.create_namespace("old").await;
    assert_eq!(kinds(&events(&server, "").await), ["namespace.created"]);
    until_there("nothing", async || events(&server, "").await.is_empty().then_some(())).await;
    server.create_namespace("new").await;
    let left = events(&server, "").await;
    assert_eq!(strings(&left[0]["namespace"]), ["new"]);
    // A number is never given again.
    assert_eq!(left[0]["cursor"], "2");
}

mod webhooks {
    use super::*;

    fn hook(listener: &Listener) -> Webhook {
        let (url, secret) = (listener.url.clone(), listener.secret.clone());
        Webhook { url, secret, ..Webhook::default() }
    }

    /// A server that tells this one.
    async fn telling(listener: &Listener) -> TestServer {
        let hooks = BTreeMap::from([("hook".to_owned(), hook(listener))]);
        let configure = move |settings: &mut Settings| settings.webhooks = hooks.clone();
        let server = TestServer::spawn_with(Backend::Sqlite, configure).await;
        let server = server.expect("SQLite is always there");
        until_it_hears(&server, listener).await;
        server
    }

    /// Makes something happen until it is told, as all is from the first look on.
    async fn until_it_hears(server: &TestServer, listener: &Listener) {
        until_there("the first", async || {
            if listener.events().is_empty() {
                server.create_namespace("first").await;
                server.post(&namespace("first", "drop"), json!({})).await.ok();
            }
            (!listener.events().is_empty()).then_some(())
        })
        .await;
    }

    /// Waits until the newest that is recorded was heard. Answers all that was.
    async fn heard_to_the_end(server: &TestServer, listener: &Listener) -> Vec<Value> {
        until_there("the last", async || {
            let (heard, recorded) = (listener.events(), events(server, "").await);
            (heard.last() == recorded.last()).then_some(heard)
        })
        .await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_receiver_is_told_less_at_once() {
        let small = Listener::start().await;
        let server = telling(&small).await;
        let first = heard_to_the_end(&server, &small).await.len();
        small.take_at_most(3);
        for number in 0..12 {
            server.create_namespace(&format!("n{number}")).await;
        }
        let heard = heard_to_the_end(&server, &small).await;
        assert_eq!(heard.len(), first + 12);
        let recorded = events(&server, "").await;
        assert_eq!(heard, recorded[recorded.len() - heard.len()..], "each, in order");
        let asked = small.asked();
        assert!(asked.iter().any(|(_, events)| *events > 3), "{asked:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_sent_again_is_the_same() {
        let listener = Listener::start().await;
        let server = telling(&listener).await;
        heard_to_the_end(&server, &listener).await;
        let before = listener.asked().len();
        listener.be_deaf(2);
        server.create_namespace("one").await;
        let is_tried = async || (listener.asked().len() > before).then_some(());
        until_there("a first try", is_tried).await;
        server.create_namespace("two").await;
        let heard = heard_to_the_end(&server, &listener).await;
        let asked = listener.asked();
        let [first, second, third, ..] = &asked[before..] else { panic!("{asked:?}") };
        assert_eq!((first, first), (second, third), "twice in vain");
        assert_eq!(first.1, 1);
        assert_eq!(strings(&heard[heard.len() - 1]["namespace"]), ["two"]);
    }

    /// Both are told everything, though one does not listen at first, and whoever told it goes away.
    async fn check(backend: Backend) {
        let (all, some) = (Listener::start().await, Listener::start().await);
        let by_kind = Webhook {
            kinds: vec!["table".into(), "version.created".into()],
            namespace: vec!["a".into()],
            ..hook(&some)
        };
        let hooks = BTreeMap::from([("all".to_owned(), hook(&all)), ("some".to_owned(), by_kind)]);
        let configure = move |settings: &mut Settings| settings.webhooks = hooks.clone();
        let Some(mut server) = TestServer::spawn_with(backend, configure).await else { return };
        let other = server.beside().await;
        until_it_hears(&server, &all).await;
        all.be_deaf(2);
        for id in ["a$t", "b$t"] {
            server.with_table(id, 1).await;
            for value in 1..4 {
                other.insert(id, &batch_ab(value..value + 1)).await;
            }
        }
        server.begin_shutdown();
        assert!(server.wait_until_down());
        other.insert("a$t", &batch_ab(4..5)).await;
        let last = |listener: &Listener| {
            let events = listener.events();
            let found = events
                .iter()
                .find(|event| event["table"] == json!(["a", "t"]) && event["version"] == 5);
            found.map(|_| events.clone())
        };
        let heard = until_there("the last, at all", async || last(&all)).await;
        let recorded = events(&other, "").await;
        let from = recorded.iter().position(|event| event == &heard[0]).expect("the first");
        assert_eq!(heard, recorded[from..]);
        let heard = until_there("the last, at some", async || last(&some)).await;
        assert_eq!(
            kinds(&heard),
            [
                "table.created",
                "version.created",
                "version.created",
                "version.created",
                "version.created",
                "version.created",
            ]
        );
        let versions: Vec<&Value> = heard[1..].iter().map(|event| &event["version"]).collect();
        assert_eq!(versions, [1, 2, 3, 4, 5]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        check(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        check(Backend::Postgres).await;
    }
}
