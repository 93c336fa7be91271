//! What happened, as it is told: by pages, as a stream, and to webhooks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tiltyard::config::{Settings, Webhook};

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::listener::Listener;
use crate::support::{Backend, TestServer, assert_error, namespace, strings, table, text};

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
    /// Whoever reads on after a cursor sees everything once, in the order of each table's versions,
    /// however many write meanwhile, at either of two servers.
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

/// Reads a stream until it has so many messages.
async fn follow(server: &TestServer, last: Option<&str>, number: usize) -> Vec<(String, Value)> {
    let request = server.request(Method::GET, "/v1/events?kind=version");
    let mut request = request.header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let mut answer = request.send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let reading = async {
        while messages(&text).len() < number {
            let chunk = answer.chunk().await.expect("more").expect("more");
            text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
        messages(&text)
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
        // From its first look on.
        server.create_namespace("first").await;
        until_there("the first", async || {
            let _ = other.post_empty(&namespace("first", "exists")).await;
            if all.events().is_empty() {
                server.post(&namespace("first", "drop"), json!({})).await;
                server.create_namespace("first").await;
            }
            (!all.events().is_empty()).then_some(())
        })
        .await;
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
