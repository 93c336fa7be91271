//! Tables that are dropped: kept, had back as they were, and purged.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::upkeep::{sql, tell};
use crate::support::{Backend, Reply, TestServer, assert_error, foreign, namespace, table, text};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A server on which what is dropped can be had back.
pub async fn keeping(backend: Backend) -> Option<TestServer> {
    TestServer::spawn_with(backend, |settings| settings.drop_retention = HOUR).await
}

macro_rules! kept {
    ($(#[$meta:meta])* async fn $name:ident($server:ident: TestServer) $body:block) => {
        on! { $crate::dropped::keeping; sqlite: Sqlite, postgres: Postgres;
            $(#[$meta])* async fn $name($server: TestServer) $body }
    };
}

pub async fn drop_table(server: &TestServer, id: &str) {
    server.post_empty(&table(id, "drop")).await.ok();
}

pub async fn undrop(server: &TestServer, id: &str, body: Value) -> Reply {
    server.post(&table(id, "undrop"), body).await
}

async fn purge(server: &TestServer, id: &str, body: Value) -> Reply {
    server.post(&table(id, "purge"), body).await
}

/// What was dropped in a namespace, whole.
async fn dropped(server: &TestServer, id: &str) -> Vec<Value> {
    let listed = server.get(&namespace(id, "dropped")).await.ok();
    listed["tables"].as_array().expect("a list").clone()
}

/// The ids of the dropped tables of a namespace, and which they are.
async fn dropped_ids(server: &TestServer, id: &str) -> Vec<(Vec<String>, String)> {
    let of = |one: &Value| {
        let names = one["id"].as_array().expect("names").iter();
        let names = names.map(|name| name.as_str().expect("a name").to_owned());
        (names.collect(), text(one, "table_id"))
    };
    dropped(server, id).await.iter().map(of).collect()
}

on! { keeping; sqlite: Sqlite, postgres: Postgres, s3: S3;
    async fn a_dropped_table_comes_back_as_it_was(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.insert("ns$t", &batch_ab(3..5)).await;
        server.post(&table("ns$t", "tags/create"), json!({"tag": "first", "version": 1})).await.ok();
        server.post(&table("ns$t", "branches/create"), json!({"name": "side"})).await.ok();
        let on_side = table("ns$t", "insert?branch=side");
        server.post_arrow(&on_side, ipc(&[batch_ab(50..52)])).await.ok();
        let index = json!({"column": "a", "index_type": "BTREE", "name": "by_a"});
        server.post(&table("ns$t", "create_scalar_index"), index).await.ok();
        let (before, versions) = (server.describe("ns$t").await, server.versions("ns$t").await);

        let gone = server.post_empty(&table("ns$t", "drop")).await.ok();
        assert_eq!(gone["location"], before["location"]);
        assert!(!server.exists("ns$t").await);
        assert_eq!(server.names("/v1/table", "tables").await, [""; 0]);
        assert_eq!(server.names(&namespace("ns", "table/list"), "tables").await, [""; 0]);
        for operation in ["describe", "drop", "count_rows", "protect"] {
            let reply = server.post(&table("ns$t", operation), json!({"deletion_protection": true})).await;
            assert_error(&reply, 404, TABLE_NOT_FOUND);
        }
        let kept = dropped(&server, "ns").await;
        let [kept] = &kept[..] else { panic!("{kept:?}") };
        assert_eq!(kept["id"], json!(["ns", "t"]));
        assert!(text(kept, "dropped_at") < text(kept, "purge_after"), "{kept}");
        assert_eq!(kept["location"], before["location"]);

        // The name is free, and another table may have it.
        server.create("ns$t", &batch_ab(90..92)).await;
        assert_error(&undrop(&server, "ns$t", json!({})).await, 409, TABLE_ALREADY_EXISTS);
        let back = undrop(&server, "ns$t", json!({"new_table_id": ["ns", "old"]})).await.ok();
        assert_eq!(back["id"], json!(["ns", "old"]));
        assert_eq!(back["table_id"], kept["table_id"]);
        assert_eq!(dropped(&server, "ns").await, [Value::Null; 0]);
        assert_eq!(server.values("ns$t").await, [90, 91]);

        assert_eq!(server.values("ns$old").await, [0, 1, 2, 3, 4]);
        assert_eq!(server.versions("ns$old").await, versions);
        let mut after = server.describe("ns$old").await;
        after["table"] = before["table"].clone();
        assert_eq!(after, before);
        let tag = server.post(&table("ns$old", "tags/version"), json!({"tag": "first"})).await.ok();
        assert_eq!(tag["version"], 1);
        let on_side = json!({"branch": "side"});
        assert_eq!(server.post(&table("ns$old", "count_rows"), on_side).await.ok(), 7);
        let indices = server.post_empty(&table("ns$old", "index/list")).await.ok();
        assert_eq!(indices["indexes"][0]["index_name"], "by_a", "{indices}");
        // And goes on from there.
        server.insert("ns$old", &batch_ab(5..6)).await;
        assert_eq!(server.values("ns$old").await, [0, 1, 2, 3, 4, 5]);
        assert_eq!(server.versions("ns$old").await.len(), versions.len() + 1);
    }
}

kept! {
    async fn of_several_of_one_name_each_can_be_had_back(server: TestServer) {
        for rows in 1..4 {
            server.with_table("ns$t", rows).await;
            drop_table(&server, "ns$t").await;
        }
        server.with_table("ns$other", 9).await;
        drop_table(&server, "ns$other").await;
        let ids = dropped_ids(&server, "ns").await;
        assert_eq!(ids.len(), 4, "{ids:?}");
        // Its name has to fit, or whoever manages one namespace could have those of another.
        let body = json!({"table_id": ids[3].1, "new_table_id": ["ns", "x"]});
        assert_error(&undrop(&server, "ns$t", body).await, 404, TABLE_NOT_FOUND);
        undrop(&server, "ns$t", json!({})).await.ok();
        assert_eq!(server.count("ns$t").await, 3);
        let body = json!({"table_id": ids[0].1, "new_table_id": ["ns", "one"]});
        undrop(&server, "ns$t", body.clone()).await.ok();
        assert_eq!(server.count("ns$one").await, 1);
        assert_error(&undrop(&server, "ns$t", body).await, 404, TABLE_NOT_FOUND);
        assert_eq!(dropped_ids(&server, "ns").await, [ids[1].clone(), ids[3].clone()]);
        for (id, body) in [
            ("ns$nothing", json!({})),
            ("ns$t", json!({"table_id": uuid::Uuid::nil()})),
            ("gone$t", json!({})),
        ] {
            assert_error(&undrop(&server, id, body.clone()).await, 404, TABLE_NOT_FOUND);
            assert_error(&purge(&server, id, body).await, 404, TABLE_NOT_FOUND);
        }
        for body in [json!({"table_id": "x"}), json!({"new_table_id": []}), json!({"id": ["ns", "u"]})] {
            assert_error(&undrop(&server, "ns$t", body).await, 400, INVALID_INPUT);
        }
    }
}

kept! {
    async fn what_is_purged_is_gone(server: TestServer) {
        let before = server.files();
        for rows in 1..4 {
            server.with_table("ns$t", rows).await;
            drop_table(&server, "ns$t").await;
        }
        let location = server.with_table("ns$t", 5).await;
        let ids = dropped_ids(&server, "ns").await;
        let one = purge(&server, "ns$t", json!({"table_id": ids[1].1})).await.ok();
        assert_eq!(one["table_ids"], json!([ids[1].1]));
        assert_error(&purge(&server, "ns$t", json!({"table_id": ids[1].1})).await, 404, TABLE_NOT_FOUND);
        assert_eq!(dropped_ids(&server, "ns").await.len(), 2);
        let rest = purge(&server, "ns$t", json!({})).await.ok();
        assert_eq!(rest["table_ids"].as_array().expect("ids").len(), 2, "{rest}");
        assert_error(&purge(&server, "ns$t", json!({})).await, 404, TABLE_NOT_FOUND);
        assert_error(&undrop(&server, "ns$t", json!({})).await, 404, TABLE_NOT_FOUND);
        // The table that has the name is another.
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
        drop_table(&server, "ns$t").await;
        purge(&server, "ns$t", json!({})).await.ok();
        server.assert_files(&before, "a purge").await;
    }
}

kept! {
    async fn a_namespace_goes_and_its_tables_can_be_had_back(server: TestServer) {
        for (id, rows) in [("a$t", 1), ("a$b$t", 2), ("a$b$u", 3), ("ab$t", 4)] {
            server.with_table("a$x", 0).await;
            drop_table(&server, "a$x").await;
            purge(&server, "a$x", json!({})).await.ok();
            server.with_table(id, rows).await;
        }
        server.post(&namespace("a", "drop"), json!({"behavior": "Cascade"})).await.ok();
        assert_eq!(server.names("/v1/namespace/$/list", "namespaces").await, ["ab"]);
        assert_eq!(server.names("/v1/table", "tables").await, ["ab$t"]);
        let shown = |ids: &[(Vec<String>, String)]| -> Vec<String> {
            ids.iter().map(|(names, _)| names.join("$")).collect()
        };
        for (within, expected) in [
            ("$", &["a$t", "a$b$t", "a$b$u"][..]),
            ("a", &["a$t", "a$b$t", "a$b$u"]),
            ("a$b", &["a$b$t", "a$b$u"]),
            ("ab", &[]),
        ] {
            let ids = dropped_ids(&server, within).await;
            assert_eq!(shown(&ids), expected, "{within}");
            // In pages of one too.
            let (mut found, mut token) = (Vec::new(), String::new());
            loop {
                let path = format!("{}?limit=1&page_token={token}", namespace(within, "dropped"));
                let page = server.get(&path).await.ok();
                found.extend(page["tables"].as_array().expect("a list").clone());
                let Some(next) = page["page_token"].as_str() else { break };
                token = next.to_owned();
            }
            assert_eq!(found, dropped(&server, within).await);
        }
        let nowhere = server.get(&namespace("nowhere", "dropped")).await;
        assert_error(&nowhere, 404, NAMESPACE_NOT_FOUND);
        assert_error(&undrop(&server, "a$b$u", json!({})).await, 404, NAMESPACE_NOT_FOUND);
        undrop(&server, "a$b$u", json!({"new_table_id": ["ab", "u"]})).await.ok();
        assert_eq!(server.count("ab$u").await, 3);
        // Made again, the namespace takes its tables back.
        server.create_namespace("a").await;
        undrop(&server, "a$t", json!({})).await.ok();
        assert_eq!(server.count("a$t").await, 1);
        // One that is made anew in the place of another empties it as a drop does.
        server.post(&namespace("a", "create"), json!({"mode": "Overwrite"})).await.ok();
        assert_eq!(shown(&dropped_ids(&server, "a").await), ["a$t", "a$b$t"]);
        undrop(&server, "a$t", json!({})).await.ok();
        assert_eq!(server.values("a$t").await, [0]);
    }
}

/// Waits until a table that was dropped cannot be had back any more.
async fn until_purged(server: &TestServer, id: &str) {
    let started = std::time::Instant::now();
    while !dropped(server, id).await.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(30), "nothing was purged");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn sweeping(backend: Backend) -> Option<TestServer> {
    TestServer::spawn_with(backend, |settings| {
        settings.drop_retention = Duration::from_millis(300);
        settings.gc_interval = Duration::from_millis(100);
    })
    .await
}

on! { sweeping; sqlite: Sqlite, postgres: Postgres;
    /// By two servers at once.
    async fn what_nobody_has_back_goes_in_time(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.files();
        let beside = server.beside().await;
        for number in 0..6 {
            let id = format!("ns$t{number}");
            server.create(&id, &batch_ab(0..3)).await;
            drop_table(if number % 2 == 0 { &server } else { &beside }, &id).await;
        }
        until_purged(&server, "ns").await;
        assert_error(&undrop(&beside, "ns$t0", json!({})).await, 404, TABLE_NOT_FOUND);
        server.assert_files(&before, "purged tables").await;
    }
}

kept! {
    /// For those who look after a catalog, a dropped table is no damage and no garbage.
    async fn upkeep_leaves_dropped_tables_alone_until_their_time(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_table("ns$stays", 3).await;
        drop_table(&server, "ns$t").await;
        crate::support::upkeep::make_all_old(&server.lake());
        let before = crate::support::upkeep::everything(&server).await;
        let told = tell(&server, &["doctor", "--repair"]).await;
        told.tells(&["0 findings", "0 notes"]);
        let swept = tell(&server, &["gc"]).await;
        assert_eq!(swept.lines.len(), 1, "{swept:#?}");
        assert_eq!(crate::support::upkeep::everything(&server).await, before);
        undrop(&server, "ns$t", json!({})).await.ok();
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        drop_table(&server, "ns$t").await;
        sql(server.database(), "UPDATE dropped_tables SET purge_after_us = 0").await;
        let dry = tell(&server, &["gc", "--dry-run"]).await;
        dry.tells(&["would remove dropped table ns$t"]);
        assert_eq!(dropped(&server, "ns").await.len(), 1);
        let swept = tell(&server, &["gc"]).await;
        swept.tells(&["removed dropped table ns$t"]);
        swept.tells(&["removed folder"]);
        swept.tells(&["removed 1 dropped tables, 1 folders"]);
        assert_eq!(dropped(&server, "ns").await, [Value::Null; 0]);
        let left = server.files();
        assert!(!left.is_empty() && left.iter().all(|file| file.to_string_lossy().contains("stays")));
    }
}

kept! {
    /// A clone reads files of its source, which stay as long as it, or its having been, does.
    async fn a_clone_keeps_the_files_of_its_source(server: TestServer) {
        let before = server.files();
        let location = server.with_table("ns$t", 3).await;
        let clone = json!({"source_location": location, "is_shallow": true});
        server.post("/v1/table/ns$c/clone", clone.clone()).await.ok();
        assert_error(&server.post_empty(&table("ns$t", "drop")).await, 409, INVALID_TABLE_STATE);
        drop_table(&server, "ns$c").await;
        drop_table(&server, "ns$t").await;
        // Of a table that is dropped no clone is made.
        let late = server.post("/v1/table/ns$late/clone", clone).await;
        assert_error(&late, 400, INVALID_INPUT);
        undrop(&server, "ns$c", json!({})).await.ok();
        assert_eq!(server.values("ns$c").await, [0, 1, 2]);
        for is_clone_dropped in [false, true] {
            if is_clone_dropped {
                drop_table(&server, "ns$c").await;
            }
            let refused = purge(&server, "ns$t", json!({})).await;
            assert_error(&refused, 409, INVALID_TABLE_STATE);
            assert!(refused.text().contains("ns$c"), "{}", refused.text());
            assert_eq!(foreign::values(&location).await, [0, 1, 2]);
        }
        // Both had their time: both go, in whatever order they are met.
        sql(server.database(), "UPDATE dropped_tables SET purge_after_us = 0").await;
        let swept = tell(&server, &["gc"]).await;
        swept.tells(&["removed 2 dropped tables, 2 folders"]);
        server.assert_files(&before, "clone and source").await;
    }
}

kept! {
    async fn a_view_finds_its_source_again(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let query = json!({"table_id": ["ns", "t"], "filter": "a > 0"}).to_string();
        let view = json!({"kind": "query", "source_query": query, "output_schema": ""});
        let create = "/v1/materialized_view/ns$v/create";
        let made = server.post(create, view).await;
        assert!([200, 201].contains(&made.status), "{}", made.text());
        let refresh = async || {
            let reply = server.post("/v1/materialized_view/ns$v/refresh", json!({})).await;
            assert_eq!(reply.status, 202, "{}", reply.text());
            let id = ["transaction_id", "job_id"].iter().find_map(|name| reply.body[*name].as_str());
            server.succeeded(id.expect("a job")).await
        };
        refresh().await;
        drop_table(&server, "ns$t").await;
        let refused = server.post("/v1/materialized_view/ns$v/refresh", json!({})).await;
        assert_error(&refused, 400, INVALID_INPUT);
        assert_eq!(server.values("ns$v").await, [1, 2]);
        undrop(&server, "ns$t", json!({})).await.ok();
        server.insert("ns$t", &batch_ab(3..4)).await;
        refresh().await;
        assert_eq!(server.values("ns$v").await, [1, 2, 3]);
        // A view that comes back is a view.
        drop_table(&server, "ns$v").await;
        undrop(&server, "ns$v", json!({})).await.ok();
        server.insert("ns$t", &batch_ab(4..5)).await;
        refresh().await;
        assert_eq!(server.values("ns$v").await, [1, 2, 3, 4]);
    }
}

kept! {
    async fn undrop_and_purge_take_effect_once(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let send = async |key: &str, operation: &str, body: Value| {
            let request = server.request(reqwest::Method::POST, &table("ns$t", operation));
            server.send(request.header("idempotency-key", key).json(&body)).await
        };
        let steps = [
            ("protect", json!({"deletion_protection": true})),
            ("protect", json!({"deletion_protection": false})),
            ("drop", json!({})),
            ("undrop", json!({})),
            ("drop", json!({})),
            ("purge", json!({})),
        ];
        for (number, (operation, body)) in steps.iter().enumerate() {
            let key = format!("key-{number}");
            let first = send(&key, operation, body.clone()).await;
            assert_eq!(first.status, 200, "{operation}: {}", first.text());
            let again = send(&key, operation, body.clone()).await;
            assert_eq!((again.status, again.raw), (200, first.raw), "{operation}");
        }
    }
}
