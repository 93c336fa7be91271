//! Protection from deletion, of tables and of namespaces.

use serde_json::{Value, json};

use crate::dropped::{drop_table, undrop};
use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::{TestServer, assert_error, enc, foreign, namespace, table};

const ROUNDS: usize = 12;

/// The property that a table or a namespace is described with.
async fn protection(server: &TestServer, path: &str) -> Value {
    server.post_empty(path).await.ok()["properties"]["deletion_protection"].clone()
}

async fn protect(server: &TestServer, path: &str, on: bool) {
    let reply = server.post(path, json!({"deletion_protection": on})).await.ok();
    assert_eq!(reply["deletion_protection"], on);
}

async fn protect_table(server: &TestServer, id: &str, on: bool) {
    protect(server, &table(id, "protect"), on).await;
}

both! {
    async fn a_protected_table_stays(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        assert_eq!(protection(&server, &table("ns$t", "describe")).await, Value::Null);
        protect_table(&server, "ns$t", true).await;
        assert_eq!(protection(&server, &table("ns$t", "describe")).await, "true");
        let other = server.with_table("other$u", 1).await;
        server.post(&table("other$u", "deregister"), json!({})).await.ok();
        let before = server.snapshot().await;
        let cascade = json!({"behavior": "Cascade"});
        let all = json!([{"start_version": 0, "end_version": -1}]);
        let delete_all = json!({"operations": [{"declare_table": {"id": ["ns", "new"]}},
            {"delete_table_versions": {"id": ["ns", "t"], "ranges": all}}]});
        let deregister = json!({"operations": [{"deregister_table": {"id": ["ns", "t"]}},
            {"declare_table": {"id": ["ns", "new"]}}]});
        for (path, body, status) in [
            (table("ns$t", "drop"), json!({}), 409),
            // LanceDB's clients would send it again after 409.
            (table("ns$t", "drop/"), json!({}), 400),
            (table("ns$t", "deregister"), json!({}), 409),
            (table("ns$t", "register"), json!({"location": other, "mode": "Overwrite"}), 409),
            ("/v1/table/batch-commit".into(), deregister, 409),
            (table("ns$t", "version/delete"), json!({"ranges": all}), 409),
            ("/v1/table/batch-commit".into(), delete_all, 409),
            (namespace("ns", "drop"), cascade.clone(), 409),
            (namespace("ns", "drop"), json!({"behavior": "Cascade", "mode": "Skip"}), 409),
            (namespace("ns", "create"), json!({"mode": "Overwrite"}), 409),
        ] {
            let refused = server.post(&path, body).await;
            assert_error(&refused, status, INVALID_TABLE_STATE);
            assert!(refused.text().contains("ProtectTable"), "{path}: {}", refused.text());
            server.assert_unchanged(&before, &path).await;
        }
        // As a database of LanceDB's clients.
        let request = server.request(reqwest::Method::POST, &namespace("$", "drop"));
        let refused = server.send(request.header("x-lancedb-database", "ns").json(&cascade)).await;
        assert_error(&refused, 409, INVALID_TABLE_STATE);
        server.assert_unchanged(&before, "a drop of the database").await;
        // Its rows may go, for its versions stay, and so may its name.
        let overwrite = table("ns$t", "create?mode=overwrite");
        server.post_arrow(&overwrite, ipc(&[batch_ab(7..9)])).await.ok();
        assert_eq!(server.versions("ns$t").await, [1, 2]);
        // So may a version, for another stays.
        let first = json!({"ranges": [{"start_version": 1, "end_version": 2}]});
        server.post(&table("ns$t", "version/delete"), first).await.ok();
        assert_eq!(server.versions("ns$t").await, [2]);
        server.post(&table("ns$t", "rename"), json!({"new_table_name": "u"})).await.ok();
        assert_error(&server.post_empty(&table("ns$u", "drop")).await, 409, INVALID_TABLE_STATE);
        assert_eq!(foreign::values(&location).await, [7, 8]);
        protect_table(&server, "ns$u", false).await;
        assert_eq!(protection(&server, &table("ns$u", "describe")).await, Value::Null);
        server.post(&namespace("ns", "drop"), cascade).await.ok();
        assert!(!server.exists("ns$u").await);
    }
}

both! {
    async fn a_protected_namespace_stays(server: TestServer) {
        let protected = json!({"properties": {"deletion_protection": "true", "k": "v"}});
        server.create_namespace("a").await;
        let made = server.post(&namespace("a$b", "create"), protected.clone()).await.ok();
        assert_eq!(made["properties"], protected["properties"]);
        let described = server.post_empty(&namespace("a$b", "describe")).await.ok();
        assert_eq!(described["properties"], protected["properties"]);
        server.with_table("a$b$t", 1).await;
        server.with_table("a$t", 1).await;
        let before = server.snapshot().await;
        for (id, operation, body) in [
            ("a$b", "drop", json!({})),
            ("a$b", "drop", json!({"behavior": "Cascade"})),
            ("a$b", "drop", json!({"behavior": "Cascade", "mode": "Skip"})),
            ("a$b", "create", json!({"mode": "Overwrite"})),
            ("a", "drop", json!({"behavior": "Cascade"})),
            ("a", "create", json!({"mode": "Overwrite"})),
        ] {
            let refused = server.post(&namespace(id, operation), body).await;
            assert_error(&refused, 409, INVALID_TABLE_STATE);
            assert!(refused.text().contains("ProtectNamespace"), "{}", refused.text());
            server.assert_unchanged(&before, id).await;
        }
        // What is in it may go.
        server.post_empty(&table("a$b$t", "drop")).await.ok();
        protect(&server, &namespace("a$b", "protect"), false).await;
        let described = server.post_empty(&namespace("a$b", "describe")).await.ok();
        assert_eq!(described["properties"], json!({"k": "v"}));
        server.post(&namespace("a", "drop"), json!({"behavior": "Cascade"})).await.ok();
        let root = server.post(&namespace("$", "protect"), json!({"deletion_protection": true})).await;
        assert_error(&root, 400, INVALID_INPUT);
    }
}

both! {
    async fn whatever_makes_a_table_can_protect_it(server: TestServer) {
        server.create_namespace("ns").await;
        let protected = json!({"deletion_protection": "true", "k": "v"});
        let declare = json!({"properties": protected});
        let made = server.post(&table("ns$declared", "declare"), declare).await.ok();
        assert_eq!(made["properties"], protected);
        let query = format!("create?properties={}", enc(&protected.to_string()));
        let stream = || ipc(&[batch_ab(0..2)]);
        let made = server.post_arrow(&table("ns$created", &query), stream()).await.ok();
        assert_eq!(made["properties"], protected);
        let location = server.with_table("ns$x", 1).await;
        server.post(&table("ns$x", "deregister"), json!({})).await.ok();
        let register = json!({"location": location, "properties": protected});
        let made = server.post(&table("ns$registered", "register"), register).await.ok();
        assert_eq!(made["properties"], protected);
        let batch = json!({"operations": [{"declare_table": {"id": ["ns", "batch"], "properties": protected}}]});
        server.post("/v1/table/batch-commit", batch).await.ok();
        for name in ["ns$declared", "ns$created", "ns$registered", "ns$batch"] {
            let described = server.post_empty(&table(name, "describe")).await.ok();
            assert_eq!(described["properties"], protected, "{name}");
            let refused = server.post_empty(&table(name, "drop")).await;
            assert_error(&refused, 409, INVALID_TABLE_STATE);
        }
        // The first rows of a declared table may bring other properties, and lift nothing.
        for lifted in [json!({"other": "1"}), json!({"other": "1", "deletion_protection": "false"})] {
            let query = format!("create?mode=overwrite&properties={}", enc(&lifted.to_string()));
            let made = server.post_arrow(&table("ns$declared", &query), stream()).await.ok();
            let expected = json!({"other": "1", "deletion_protection": "true"});
            assert_eq!(made["properties"], expected);
            let described = server.post_empty(&table("ns$declared", "describe")).await.ok();
            assert_eq!(described["properties"], expected);
        }
        // A clone is a table of its own.
        let location = server.location("ns$created").await;
        let clone = json!({"source_location": location, "is_shallow": false});
        server.post("/v1/table/ns$clone/clone", clone).await.ok();
        let described = server.post_empty(&table("ns$clone", "describe")).await.ok();
        assert_eq!(described["properties"], json!({"k": "v"}));
        server.post_empty(&table("ns$clone", "drop")).await.ok();
    }
}

both! {
    async fn what_is_neither_true_nor_false_is_refused(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        server.post(&table("ns$t", "deregister"), json!({})).await.ok();
        let before = server.snapshot().await;
        for word in ["", "TRUE", "yes", "1"] {
            let properties = json!({"deletion_protection": word});
            let query = format!("create?properties={}", enc(&properties.to_string()));
            let rows = ipc(&[batch_ab(0..2)]);
            let refused = server.post_arrow(&table("ns$u", &query), rows).await;
            assert_error(&refused, 400, INVALID_INPUT);
            let declare = json!({"declare_table": {"id": ["ns", "u"], "properties": properties}});
            for (path, body) in [
                (namespace("new", "create"), json!({"properties": properties})),
                (namespace("ns", "create"), json!({"properties": properties, "mode": "ExistOk"})),
                (table("ns$u", "declare"), json!({"properties": properties})),
                (table("ns$u", "register"), json!({"properties": properties, "location": location})),
                ("/v1/table/batch-commit".into(), json!({"operations": [declare]})),
            ] {
                assert_error(&server.post(&path, body).await, 400, INVALID_INPUT);
            }
            server.assert_unchanged(&before, word).await;
        }
        for body in [json!({}), json!({"deletion_protection": "true"}), json!({"deletion_protection": null})] {
            for path in [table("ns$u", "protect"), namespace("ns", "protect")] {
                assert_error(&server.post(&path, body.clone()).await, 400, INVALID_INPUT);
            }
        }
        let on = json!({"deletion_protection": true});
        assert_error(&server.post(&table("ns$u", "protect"), on.clone()).await, 404, TABLE_NOT_FOUND);
        assert_error(&server.post(&namespace("new", "protect"), on).await, 404, NAMESPACE_NOT_FOUND);
    }
}

both! {
    /// Whoever is told that something is protected can rely on it.
    async fn of_protecting_and_dropping_one_wins(server: TestServer) {
        let beside = server.beside().await;
        let on = json!({"deletion_protection": true});
        for round in 0..ROUNDS {
            let (id, within) = (format!("n{round}$t"), format!("n{round}"));
            server.with_declared(&id).await;
            let (path, cascade) = (namespace(&within, "drop"), json!({"behavior": "Cascade"}));
            let of_table = table(&id, "drop");
            let (protected, dropped) = match round % 2 {
                0 => {
                    let path = table(&id, "protect");
                    tokio::join!(beside.post(&path, on.clone()), server.post(&of_table, json!({})))
                }
                _ => {
                    let protect = namespace(&within, "protect");
                    tokio::join!(beside.post(&protect, on.clone()), server.post(&path, cascade))
                }
            };
            match protected.status {
                200 => assert_error(&dropped, 409, INVALID_TABLE_STATE),
                _ => assert_eq!((protected.status, dropped.status), (404, 200)),
            }
            assert_eq!(server.exists(&id).await, protected.status == 200);
        }
    }
}

both! {
    /// The versions that are there once a table is protected stay.
    async fn of_protecting_and_deleting_all_versions_one_wins(server: TestServer) {
        let beside = server.beside().await;
        for round in 0..ROUNDS {
            let id = format!("n{round}$t");
            server.with_table(&id, 1).await;
            let protected = async {
                protect_table(&beside, &id, true).await;
                beside.versions(&id).await
            };
            let all = json!({"ranges": [{"start_version": 0, "end_version": -1}]});
            let path = table(&id, "version/delete");
            let (there, deleted) = tokio::join!(protected, server.post(&path, all));
            if deleted.status == 200 {
                assert_eq!(there, [0_u64; 0], "round {round}");
            } else {
                assert_error(&deleted, 409, INVALID_TABLE_STATE);
                assert_eq!(there, [1], "round {round}");
            }
            assert_eq!(server.versions(&id).await, there, "round {round}");
        }
    }
}

kept! {
    /// What was dropped is not protected, nor is what comes back.
    async fn protection_is_of_what_is_there(server: TestServer) {
        server.with_table("ns$t", 1).await;
        drop_table(&server, "ns$t").await;
        server.with_table("ns$t", 2).await;
        protect_table(&server, "ns$t", true).await;
        assert_error(&undrop(&server, "ns$t", json!({})).await, 409, TABLE_ALREADY_EXISTS);
        server.post(&table("ns$t", "purge"), json!({})).await.ok();
        assert_eq!(server.count("ns$t").await, 2);
        protect_table(&server, "ns$t", false).await;
        drop_table(&server, "ns$t").await;
        undrop(&server, "ns$t", json!({})).await.ok();
        assert_eq!(protection(&server, &table("ns$t", "describe")).await, Value::Null);
    }
}
