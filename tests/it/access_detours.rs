//! What callers might reach by a detour: a place in storage, a view, a clone, a body that goes on.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::access::{grant, key_of, post_as, send_as};
use crate::support::batches::{batch_a, batch_ab, ipc};
use crate::support::code::*;
use crate::support::{TestServer, assert_error, foreign, namespace, raw, table, text};

/// Somebody with one role on one namespace.
async fn with(server: &TestServer, name: &str, role: &str, namespace: &[&str]) -> String {
    grant(server, name, role, json!({"namespace": namespace})).await.ok();
    key_of(server, name).await
}

async fn location(server: &TestServer, id: &str) -> String {
    text(&server.describe(id).await, "location")
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    /// Where a table stands already, naming the place is as good as registering it.
    async fn writers_do_not_choose_places(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$left", &batch_a(0..3)).await;
        let place = location(&server, "ns$left").await;
        server.post_empty(&table("ns$left", "deregister")).await.ok();
        server.create_namespace("tmp").await;
        let writer = with(&server, "writer", "writer", &["tmp"]).await;
        let manager = with(&server, "manager", "manager", &["tmp"]).await;
        let here = json!({"location": place});
        let declare = json!({"declare_table": {"id": ["tmp", "x"], "location": place}});
        for (path, body) in [
            (table("tmp$x", "register"), here.clone()),
            (table("tmp$x", "declare"), here.clone()),
            ("/v1/table/batch-commit".into(), json!({"operations": [declare]})),
        ] {
            assert_error(&post_as(&server, &writer, &path, body).await, 403, PERMISSION_DENIED);
        }
        let request = server.bare_request(Method::POST, &table("tmp$x", "create"));
        let request = request.header("x-api-key", &writer).header("x-lance-table-location", "free");
        let reply = server.send(request.body(ipc(&[batch_a(0..1)]))).await;
        assert_error(&reply, 403, PERMISSION_DENIED);
        assert!(!server.exists("tmp$x").await);
        // Who names no place gets one.
        post_as(&server, &writer, &table("tmp$own", "declare"), json!({})).await.ok();
        post_as(&server, &manager, &table("tmp$x", "declare"), here).await.ok();
        assert_eq!(server.values("tmp$x").await, [0, 1, 2]);
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    /// What a batch declares is its maker's as what is declared alone: no more, no less.
    async fn batches_make_owners_as_well(server: TestServer) {
        server.create_namespace("ns").await;
        for role in ["writer", "manager"] {
            let key = with(&server, role, role, &["ns"]).await;
            let (alone, batch) = (format!("{role}_alone"), format!("{role}_batch"));
            post_as(&server, &key, &table(&format!("ns${alone}"), "declare"), json!({})).await.ok();
            let declare = json!({"declare_table": {"id": ["ns", batch]}});
            let body = json!({"operations": [declare]});
            post_as(&server, &key, "/v1/table/batch-commit", body).await.ok();
            let grants = server.get(&format!("/v1/access/grants?principal={role}")).await.ok();
            let grants = grants["grants"].as_array().expect("grants");
            let on_tables = grants.iter().filter(|grant| grant["table"].is_array()).count();
            assert_eq!(on_tables, if role == "writer" { 2 } else { 0 }, "{grants:?}");
        }
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    async fn a_view_shows_no_more_than_its_caller_may_read(server: TestServer) {
        server.with_table("hr$pay", 3).await;
        server.create_namespace("mine").await;
        let key = with(&server, "bob", "writer", &["mine"]).await;
        let reader = json!({"namespace": ["hr"]});
        grant(&server, "bob", "reader", reader.clone()).await.ok();
        let view = json!({
            "source_query": json!({"table_id": ["hr", "pay"]}).to_string(),
            "kind": "query",
            "output_schema": "",
        });
        let reply = post_as(&server, &key, "/v1/materialized_view/mine$v/create", view).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        let refresh = "/v1/materialized_view/mine$v/refresh";
        assert_eq!(post_as(&server, &key, refresh, json!({})).await.status, 202);
        let revoke = json!({"principal": "bob", "namespace": ["hr"]});
        server.post("/v1/access/grants/delete", revoke).await.ok();
        let reply = post_as(&server, &key, refresh, json!({})).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert!(!reply.text().contains("pay"), "{}", reply.text());
        grant(&server, "bob", "reader", reader).await.ok();
        assert_eq!(post_as(&server, &key, refresh, json!({})).await.status, 202);
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    /// Nor which tags it has.
    async fn a_hidden_table_is_not_told_by_its_place(server: TestServer) {
        server.with_table("hidden$t", 1).await;
        server.create_namespace("ns").await;
        let (there, nowhere) = (location(&server, "hidden$t").await, server.lake().join("none.lance"));
        let key = with(&server, "eve", "writer", &["ns"]).await;
        let mut told = Vec::new();
        for place in [there, nowhere.display().to_string()] {
            for more in [json!({}), json!({"source_tag": "none"}), json!({"source_version": 9}),
                json!({"source_tag": "none", "source_version": 9})] {
                let mut body = json!({"source_location": place});
                body.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
                let reply = post_as(&server, &key, &table("ns$copy", "clone"), body).await;
                assert_error(&reply, 400, INVALID_INPUT);
                told.push(text(&reply.body, "error"));
            }
        }
        told.dedup();
        assert_eq!(told.len(), 1, "{told:?}");
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    /// Another name is one that somebody else may have, or want.
    async fn a_name_is_given_by_who_may_make_tables(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.with_table("ns$hidden", 1).await;
        grant(&server, "owner", "manager", json!({"table": ["ns", "t"]})).await.ok();
        let key = key_of(&server, "owner").await;
        for name in ["hidden", "free"] {
            let renamed = json!({"new_table_name": name});
            let reply = post_as(&server, &key, &table("ns$t", "rename"), renamed).await;
            assert_error(&reply, 403, PERMISSION_DENIED);
        }
        grant(&server, "owner", "writer", json!({"namespace": ["ns"]})).await.ok();
        let free = json!({"new_table_name": "free"});
        post_as(&server, &key, &table("ns$t", "rename"), free).await.ok();
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    /// A database is a namespace, whoever asks for it.
    async fn databases_are_made_by_who_may_make_namespaces(server: TestServer) {
        for (role, is_made) in [("writer", false), ("manager", true)] {
            let key = with(&server, role, role, &[]).await;
            let request = server.bare_request(Method::POST, "/v1/table/t/create/");
            let request = request.header("x-api-key", &key).header("x-lancedb-database", role);
            let reply = server.send(request.body(ipc(&[batch_a(0..1)]))).await;
            assert_eq!(reply.status, if is_made { 200 } else { 404 }, "{}", reply.text());
            let reply = server.post_empty(&namespace(role, "exists")).await;
            assert_eq!(reply.status == 200, is_made, "{}", reply.text());
        }
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    /// An upload may go on for hours: it does not outlive the right to make it.
    async fn who_may_no_longer_is_not_heard_to_the_end(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.files();
        let stream = ipc(&[batch_ab(0..40_000), batch_ab(40_000..80_000)]);
        for by in ["key", "grant"] {
            let made = server.post("/v1/access/keys/create", json!({"principal": by})).await.ok();
            grant(&server, by, "writer", json!({"namespace": ["ns"]})).await.ok();
            let kind = ("content-type", "application/vnd.apache.arrow.stream");
            let headers = [("x-api-key", &*text(&made, "api_key")), kind];
            let path = table("ns$t", "insert");
            let mut request = raw::Begun::of(&server, &path, &headers, stream.len());
            let (first, rest) = stream.split_at(stream.len() / 2);
            request.send(first);
            if by == "key" {
                server.delete(&format!("/v1/access/keys/{}", text(&made, "key_id"))).await.ok();
            } else {
                let body = json!({"principal": by, "namespace": ["ns"]});
                server.post("/v1/access/grants/delete", body).await.ok();
            }
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            request.send(&rest[..1]);
            let (status, told) = request.answer();
            assert_eq!(status, 400, "{by}: {told}");
            assert!(told.contains("the body was given up"), "{told}");
        }
        assert_eq!(server.count("ns$t").await, 3);
        assert_eq!(server.files(), before, "something was left behind");
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    /// Whoever writes to a table's folder could write a manifest that names any file.
    async fn a_table_refers_to_no_other(server: TestServer) {
        server.create_namespace("hidden").await;
        server.create("hidden$t", &batch_a(0..3)).await;
        let place = location(&server, "hidden$t").await;
        let mut hidden = foreign::open(&place).await;
        let (clone, mine) = (server.lake().join("clone.lance"), server.lake().join("mine.lance"));
        let folder = clone.to_str().expect("a path");
        Box::pin(hidden.shallow_clone(folder, 1_u64, None)).await.expect("a clone");
        foreign::create(mine.to_str().expect("a path"), batch_a(7..9)).await;
        server.create_namespace("ns").await;
        for name in ["clone", "mine"] {
            let body = json!({"location": format!("{name}.lance")});
            server.post(&table(&format!("ns${name}"), "register"), body).await.ok();
        }
        assert_eq!(server.values("ns$mine").await, [7, 8]);
        let reply = server.post(&table("ns$clone", "count_rows"), json!({})).await;
        assert_error(&reply, 409, INVALID_TABLE_STATE);
        assert!(!reply.text().contains(&place), "{}", reply.text());
        // A clone that the server made is known, and so is a clone of that.
        let copy = json!({"source_location": place, "is_shallow": true});
        server.post(&table("ns$known", "clone"), copy).await.ok();
        let copy = json!({"source_location": location(&server, "ns$known").await, "is_shallow": true});
        server.post(&table("ns$again", "clone"), copy).await.ok();
        for name in ["ns$known", "ns$again"] {
            assert_eq!(server.values(name).await, [0, 1, 2], "{name}");
        }
        // A branch refers to the files of its own table.
        server.post(&table("ns$mine", "branches/create"), json!({"name": "side"})).await.ok();
        let count = json!({"branch": "side"});
        assert_eq!(server.post(&table("ns$mine", "count_rows"), count).await.ok(), json!(2));
    }
}

on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
    /// PostgreSQL takes no text with it.
    async fn a_zero_byte_is_in_no_text(server: TestServer) {
        for path in ["/v1/events?kind=%00", "/v1/events?principal=%00", "/v1/access/grants?principal=%00",
            "/v1/table/?page_token=%00", "/v1/access/keys?principal=%00"] {
            let reply = server.get(path).await;
            assert!([200, 400].contains(&reply.status), "{path}: {}", reply.text());
        }
        for body in [json!({"principal": "a\0b"}), json!({"principal": "a", "description": "\0"})] {
            let reply = server.post("/v1/access/keys/create", body).await;
            assert!([200, 400].contains(&reply.status), "{}", reply.text());
        }
        let key = server.key().expect("a key").to_owned();
        let reply = send_as(&server, &key, Method::DELETE, "/v1/access/keys/a%00b", Value::Null).await;
        assert!([400, 404].contains(&reply.status), "{}", reply.text());
    }
}
