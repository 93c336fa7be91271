//! Who may do what: every operation, by callers with every role and with none.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tiltyard::config::Settings;

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::process::{Serving, tiltyard};
use crate::support::{Backend, Reply, TestServer, assert_error, namespace, table, text};

/// The least that a caller needs for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Least {
    /// Not even a name.
    Nothing,
    /// To say who they are.
    Name,
    /// To see something in the namespace.
    Sight,
    /// A role on what the path names, or on the namespace that it is in.
    Role(usize),
    /// A role on the root.
    Root(usize),
}

use Least::{Name, Nothing, Role, Root, Sight};

const READER: usize = 1;
const WRITER: usize = 2;
const MANAGER: usize = 3;
const ADMIN: usize = 4;

/// Every operation, those of LanceDB's clients after those of the document. `NS` holds `NS$t`.
const OPERATIONS: &[(&str, &str, Least)] = &[
    ("POST", "/v1/namespace/{NS$new}/create", Role(MANAGER)),
    ("GET", "/v1/namespace/{NS}/list", Sight),
    ("POST", "/v1/namespace/{NS}/describe", Sight),
    ("POST", "/v1/namespace/{NS}/drop", Role(MANAGER)),
    ("POST", "/v1/namespace/{NS}/exists", Sight),
    ("GET", "/v1/namespace/{NS}/table/list", Sight),
    ("GET", "/v1/table", Name),
    ("POST", "/v1/table/{NS$new}/register", Role(MANAGER)),
    ("POST", "/v1/table/{NS$t}/describe", Role(READER)),
    ("POST", "/v1/table/{NS$t}/exists", Role(READER)),
    ("POST", "/v1/table/{NS$gone}/drop", Role(MANAGER)),
    ("POST", "/v1/table/{NS$gone}/deregister", Role(MANAGER)),
    ("POST", "/v1/table/{NS$t}/rename", Role(MANAGER)),
    ("POST", "/v1/table/{NS$new}/declare", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/restore", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/version/list", Role(READER)),
    ("POST", "/v1/table/{NS$t}/version/create", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/version/describe", Role(READER)),
    ("POST", "/v1/table/{NS$t}/version/delete", Role(MANAGER)),
    ("POST", "/v1/table/version/batch-create", Name),
    ("POST", "/v1/table/batch-commit", Name),
    ("POST", "/v1/table/{NS$t}/schema_metadata/update", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/alter_columns", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/update_field_metadata", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/drop_columns", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/add_columns", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/backfill_column", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/stats", Role(READER)),
    ("POST", "/v1/table/{NS$t}/tags/list", Role(READER)),
    ("POST", "/v1/table/{NS$t}/tags/version", Role(READER)),
    ("POST", "/v1/table/{NS$t}/tags/create", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/tags/delete", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/tags/update", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/branches/list", Role(READER)),
    ("POST", "/v1/table/{NS$t}/branches/create", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/branches/delete", Role(WRITER)),
    ("POST", "/v1/table/{NS$new}/create", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/insert", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/merge_insert", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/update", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/delete", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/query", Role(READER)),
    ("POST", "/v1/table/{NS$t}/count_rows", Role(READER)),
    ("POST", "/v1/table/{NS$t}/explain_plan", Role(READER)),
    ("POST", "/v1/table/{NS$t}/analyze_plan", Role(READER)),
    ("POST", "/v1/transaction/{none}/describe", Name),
    ("POST", "/v1/transaction/{none}/alter", Name),
    ("POST", "/v1/materialized_view/{NS$t}/refresh", Role(WRITER)),
    ("POST", "/v1/materialized_view/{NS$new}/create", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/create_index", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/create_scalar_index", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/index/list", Role(READER)),
    ("POST", "/v1/table/{NS$t}/index/{i}/stats", Role(READER)),
    ("POST", "/v1/table/{NS$t}/index/{i}/drop", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/fragments", Role(WRITER)),
    ("GET", "/v1/table/{NS$t}/fragments", Role(READER)),
    ("GET", "/v1/table/{NS$t}/fragments/{0}/rows", Role(READER)),
    ("POST", "/v1/table/{NS$t}/fragments/{0}/columns", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/commit", Role(WRITER)),
    ("POST", "/v1/commit", Name),
    ("GET", "/v1/table/{NS$t}/uploads", Role(READER)),
    ("DELETE", "/v1/table/{NS$t}/uploads/{x}", Role(WRITER)),
    ("GET", "/v1/namespace/{NS}/dropped", Role(MANAGER)),
    ("POST", "/v1/table/{NS$gone}/undrop", Role(MANAGER)),
    ("POST", "/v1/table/{NS$gone}/purge", Role(MANAGER)),
    ("POST", "/v1/namespace/{NS}/protect", Role(MANAGER)),
    ("POST", "/v1/table/{NS$t}/protect", Role(MANAGER)),
    ("POST", "/v1/access/keys/create", Root(ADMIN)),
    ("GET", "/v1/access/keys", Root(ADMIN)),
    ("POST", "/v1/access/keys/{x}/rotate", Root(ADMIN)),
    ("DELETE", "/v1/access/keys/{x}", Root(ADMIN)),
    ("POST", "/v1/access/grants/create", Name),
    ("POST", "/v1/access/grants/delete", Name),
    ("GET", "/v1/access/grants", Name),
    ("GET", "/v1/access/whoami", Name),
    ("GET", "/v1/events", Name),
    ("GET", "/v1/capabilities", Nothing),
    ("GET", "/healthz", Nothing),
    ("GET", "/readyz", Nothing),
    ("GET", "/metrics", Root(READER)),
    ("GET", "/openapi.json", Nothing),
    ("GET", "/v1/table/", Name),
    ("POST", "/v1/table/{NS$new}/create/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/describe/", Role(READER)),
    ("POST", "/v1/table/{NS$new}/clone", Role(WRITER)),
    ("POST", "/v1/table/{NS$gone}/drop/", Role(MANAGER)),
    ("POST", "/v1/table/{NS$t}/rename/", Role(MANAGER)),
    ("POST", "/v1/table/{NS$t}/stats/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/insert/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/multipart_write/create", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/multipart_write/complete", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/multipart_write/abort", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/merge_insert/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/update/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/delete/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/query/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/explain_plan/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/analyze_plan/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/count_rows/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/fetch_blobs/", Role(READER)),
    ("GET", "/v1/table/{NS$t}/blob/{a}/{0}/bytes", Role(READER)),
    ("POST", "/v1/table/{NS$t}/create_index/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/index/list/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/index/{i}/stats/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/index/{i}/drop/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/index/{i}/prewarm/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/version/list/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/restore/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/tags/list/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/tags/version/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/tags/create/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/tags/update/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/tags/delete/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/branches/list/", Role(READER)),
    ("POST", "/v1/table/{NS$t}/branches/create/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/branches/delete/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/add_columns/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/alter_columns/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/drop_columns/", Role(WRITER)),
    ("POST", "/v1/table/{NS$t}/update_field_metadata/", Role(WRITER)),
    ("POST", "/v1/jobs/list", Name),
    ("POST", "/v1/jobs/describe", Name),
    ("POST", "/v1/jobs/cancel", Name),
];

/// Somebody who calls.
struct Who {
    name: &'static str,
    /// What is sent as `x-api-key`.
    key: Option<String>,
    /// Their role on the namespace `ns`: 0 for none.
    role: usize,
    /// Their role on the root.
    root: usize,
}

/// The status of a refusal; `None` for a request that is let in.
fn refusal(least: Least, who: &Who) -> Option<u16> {
    let refused = |has: usize, needed: usize| match has {
        _ if has >= needed => None,
        0 => Some(404),
        _ => Some(403),
    };
    match least {
        Nothing => None,
        _ if ["nobody", "expired", "unknown"].contains(&who.name) => Some(401),
        Name => None,
        Sight => refused(who.role.max(who.root), 1),
        Role(needed) => refused(who.role.max(who.root), needed),
        // Everybody knows that there is a root.
        Root(needed) => (who.root < needed).then_some(403),
    }
}

pub async fn key_of(server: &TestServer, principal: &str) -> String {
    let made = server.post("/v1/access/keys/create", json!({"principal": principal})).await.ok();
    text(&made, "api_key")
}

pub async fn grant(server: &TestServer, principal: &str, role: &str, on: Value) -> Reply {
    let mut body = json!({"principal": principal, "role": role});
    body.as_object_mut().expect("an object").extend(on.as_object().expect("an object").clone());
    server.post("/v1/access/grants/create", body).await
}

/// Sends as somebody, in whose place the server's first admin is not.
pub async fn send_as(
    server: &TestServer,
    key: &str,
    method: Method,
    path: &str,
    body: Value,
) -> Reply {
    let request = server.bare_request(method, path).header("x-api-key", key);
    let request = if body.is_null() { request } else { request.json(&body) };
    server.send(request).await
}

pub async fn post_as(server: &TestServer, key: &str, path: &str, body: Value) -> Reply {
    send_as(server, key, Method::POST, path, body).await
}

async fn cast(server: &TestServer) -> Vec<Who> {
    let mut all = Vec::new();
    let names = ["a reader", "a writer", "a manager", "an admin"];
    for (role, name) in names.into_iter().enumerate() {
        let (_, word) = name.split_once(' ').expect("an article");
        grant(server, name, word, json!({"namespace": ["ns"]})).await.ok();
        let key = Some(key_of(server, name).await);
        all.push(Who { name, key, role: role + 1, root: 0 });
    }
    grant(server, "elsewhere", "admin", json!({"namespace": ["other"]})).await.ok();
    let key = Some(key_of(server, "elsewhere").await);
    all.push(Who { name: "elsewhere", key, role: 0, root: 0 });
    grant(server, "auditor", "reader", json!({"namespace": []})).await.ok();
    let key = Some(key_of(server, "auditor").await);
    all.push(Who { name: "auditor", key, role: 0, root: READER });
    let body = json!({"principal": "admin", "expires_in_seconds": 1});
    let made = server.post("/v1/access/keys/create", body).await.ok();
    all.push(Who { name: "expired", key: Some(text(&made, "api_key")), role: 0, root: 0 });
    all.push(Who { name: "nobody", key: None, role: 0, root: 0 });
    let (known, _) = server.key().and_then(|key| key.rsplit_once('_')).expect("a key");
    let forged = format!("{known}_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    all.push(Who { name: "unknown", key: Some(forged), role: 0, root: 0 });
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    all
}

macro_rules! guarded {
    ($(#[$meta:meta])* async fn $name:ident($server:ident: TestServer) $body:block) => {
        on! { TestServer::guarded; sqlite: Sqlite, postgres: Postgres;
            $(#[$meta])* async fn $name($server: TestServer) $body }
    };
}

guarded! {
    /// The body is none that an operation takes: who is let in is told so, and nothing is changed.
    async fn every_operation_by_everybody(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.create_namespace("other").await;
        let all = cast(&server).await;
        for (method, path, least) in OPERATIONS {
            let path = path.replace("NS", "ns").replace(['{', '}'], "");
            for who in &all {
                let method = Method::from_bytes(method.as_bytes()).expect("a method");
                let request = server.bare_request(method.clone(), &path);
                let request = match &who.key {
                    Some(key) => request.header("x-api-key", key),
                    None => request,
                };
                let reply = server.send(request.body("{\"id\": 5}")).await;
                let (name, status) = (who.name, reply.status);
                let said = format!("{name}: {method} {path}: {status} {}", reply.text());
                match refusal(*least, who) {
                    Some(401) => {
                        assert_error(&reply, 401, UNAUTHENTICATED);
                        assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{said}");
                    }
                    Some(403) => assert_error(&reply, 403, PERMISSION_DENIED),
                    Some(404) => {
                        assert_eq!(status, 404, "{said}");
                        let code = reply.body["code"].as_u64();
                        assert!([NAMESPACE_NOT_FOUND, TABLE_NOT_FOUND].map(Some).contains(&code), "{said}");
                    }
                    _ => assert!(![401, 403].contains(&status) && status < 500 || status == 501, "{said}"),
                }
            }
        }
        assert_eq!(server.values("ns$t").await, [0]);
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(server.names(&namespace("ns", "table/list"), "tables").await, ["t"]);
    }
}

guarded! {
    async fn no_operation_is_left_out(server: TestServer) {
        let document = server.get("/openapi.json").await.ok();
        let mut served = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("operations").keys() {
                served.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let mut listed = BTreeSet::new();
        // Whatever a parameter is called here and there.
        let shape = |text: &str| {
            let parts = text.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
            parts.collect::<Vec<_>>().join("/")
        };
        for (method, path, _) in OPERATIONS {
            listed.insert(shape(&format!("{method} {path}")));
        }
        for operation in served {
            assert!(listed.contains(&shape(&operation)), "{operation}");
        }
    }
}

guarded! {
    /// What a body names is looked at as what a path names.
    async fn bodies_name_objects_too(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.with_table("other$t", 1).await;
        grant(&server, "anna", "writer", json!({"namespace": ["ns"]})).await.ok();
        let anna = key_of(&server, "anna").await;
        let as_anna = async |path: &str, body: Value| post_as(&server, &anna, path, body).await;
        let hidden = ["other", "t"];
        // Not there, as far as she can tell.
        let commit = json!({"commits": [{"id": hidden, "operation": "append", "read_version": 1, "uploads": [uuid::Uuid::nil()]}]});
        assert_error(&as_anna("/v1/commit", commit).await, 404, TABLE_NOT_FOUND);
        let version = json!({"id": hidden, "version": 2, "manifest_path": "x"});
        let versions = json!({"entries": [version]});
        assert_error(&as_anna("/v1/table/version/batch-create", versions).await, 404, TABLE_NOT_FOUND);
        for operation in [
            json!({"create_table_version": {"id": hidden, "version": 2, "manifest_path": "x"}}),
            json!({"delete_table_versions": {"id": hidden, "ranges": [{"start_version": 1, "end_version": 2}]}}),
            json!({"deregister_table": {"id": hidden}}),
        ] {
            let body = json!({"operations": [operation]});
            assert_error(&as_anna("/v1/table/batch-commit", body).await, 404, TABLE_NOT_FOUND);
        }
        let declare = json!({"operations": [{"declare_table": {"id": ["other", "mine"]}}]});
        assert_error(&as_anna("/v1/table/batch-commit", declare).await, 404, NAMESPACE_NOT_FOUND);
        // There, and not hers to remove.
        let deregister = json!({"operations": [{"deregister_table": {"id": ["ns", "t"]}}]});
        assert_error(&as_anna("/v1/table/batch-commit", deregister).await, 403, PERMISSION_DENIED);
        let source = server.describe("other$t").await;
        let clone = json!({"source_location": source["location"]});
        let reply = as_anna(&table("ns$copy", "clone"), clone).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
        let view = json!({"kind": "query", "query": {"sql": "SELECT a FROM t"}, "source_table": hidden});
        let reply = as_anna("/v1/materialized_view/ns$view/create", view).await;
        assert!([400, 404].contains(&reply.status), "{}", reply.text());
        assert!(!server.exists("ns$view").await && !server.exists("ns$copy").await);
        // Her own table may go only to where she may make tables.
        as_anna(&table("ns$mine", "declare"), json!({})).await.ok();
        let away = json!({"new_table_name": "mine", "new_namespace_id": ["other"]});
        assert_error(&as_anna(&table("ns$mine", "rename"), away).await, 404, NAMESPACE_NOT_FOUND);
        let job = server.post(&table("other$t", "create_index"), json!({"column": "a", "index_type": "BTREE"})).await;
        if let Some(id) = job.body["transaction_id"].as_str() {
            let path = format!("/v1/transaction/{id}/describe");
            assert_error(&as_anna(&path, json!({})).await, 404, TRANSACTION_NOT_FOUND);
        }
        assert_eq!(as_anna("/v1/jobs/list", json!({})).await.ok()["jobs"], json!([]));
        assert_eq!(server.values("other$t").await, [0]);
    }
}

guarded! {
    /// Whoever makes something manages it, whatever else they may.
    async fn makers_own_what_they_make(server: TestServer) {
        server.create_namespace("ns").await;
        grant(&server, "anna", "writer", json!({"namespace": ["ns"]})).await.ok();
        grant(&server, "bert", "writer", json!({"namespace": ["ns"]})).await.ok();
        let (anna, bert) = (key_of(&server, "anna").await, key_of(&server, "bert").await);
        for name in ["ns$declared", "ns$created"] {
            if name == "ns$declared" {
                post_as(&server, &anna, &table(name, "declare"), Value::Null).await.ok();
            } else {
                let rows = ipc(&[batch_ab(0..1)]);
                let path = table(name, "create");
                let request = server.bare_request(Method::POST, &path).header("x-api-key", &anna);
                server.send(request.body(rows)).await.ok();
            }
            let drop = table(name, "drop");
            assert_error(&post_as(&server, &bert, &drop, Value::Null).await, 403, PERMISSION_DENIED);
            post_as(&server, &anna, &drop, Value::Null).await.ok();
            // What bears the name after that is another's.
            post_as(&server, &bert, &table(name, "declare"), Value::Null).await.ok();
            assert_error(&post_as(&server, &anna, &drop, Value::Null).await, 403, PERMISSION_DENIED);
        }
    }
}

async fn guarded_and_keeping(backend: Backend) -> Option<TestServer> {
    let keep = |settings: &mut Settings| settings.drop_retention = Duration::from_secs(3_600);
    TestServer::guarded_with(backend, keep).await
}

on! { guarded_and_keeping; sqlite: Sqlite, postgres: Postgres;
    /// A dropped table is had back and purged by who manages its place; its grants stay with it.
    async fn dropped_tables_are_their_managers(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.create_namespace("other").await;
        grant(&server, "reader", "reader", json!({"table": ["ns", "t"]})).await.ok();
        grant(&server, "owner", "manager", json!({"table": ["ns", "t"]})).await.ok();
        grant(&server, "manager", "manager", json!({"namespace": ["ns"]})).await.ok();
        grant(&server, "manager", "writer", json!({"namespace": ["other"]})).await.ok();
        grant(&server, "stranger", "manager", json!({"namespace": ["other"]})).await.ok();
        let [reader, owner, manager, stranger] = ["reader", "owner", "manager", "stranger"];
        let (reader, owner) = (key_of(&server, reader).await, key_of(&server, owner).await);
        let (manager, stranger) = (key_of(&server, manager).await, key_of(&server, stranger).await);
        let (count, listing) = (table("ns$t", "count_rows"), namespace("ns", "dropped"));
        post_as(&server, &reader, &count, Value::Null).await.ok();
        post_as(&server, &owner, &table("ns$t", "drop"), Value::Null).await.ok();
        for key in [&reader, &owner] {
            assert_error(&post_as(&server, key, &count, Value::Null).await, 404, TABLE_NOT_FOUND);
        }
        // Who gets the name now is another, whom they may not read.
        server.create("ns$t", &batch_ab(0..5)).await;
        assert_error(&post_as(&server, &reader, &count, Value::Null).await, 404, TABLE_NOT_FOUND);
        let grants = server.get("/v1/access/grants?principal=reader").await.ok();
        assert_eq!(grants["grants"], json!([]));
        server.post_empty(&table("ns$t", "drop")).await.ok();
        server.post(&table("ns$t", "purge"), json!({"table_id": newest_dropped(&server).await})).await.ok();
        for (key, status) in [(&owner, 404), (&stranger, 404)] {
            for operation in ["undrop", "purge"] {
                let refused = post_as(&server, key, &table("ns$t", operation), json!({})).await;
                assert_error(&refused, status, NAMESPACE_NOT_FOUND);
            }
            let list = send_as(&server, key, Method::GET, &listing, Value::Null);
            assert_error(&list.await, status, NAMESPACE_NOT_FOUND);
        }
        let away = json!({"new_table_id": ["other", "t"]});
        let refused = post_as(&server, &manager, &table("ns$t", "undrop"), away).await;
        assert_error(&refused, 403, PERMISSION_DENIED);
        let list = send_as(&server, &manager, Method::GET, &listing, Value::Null);
        assert_eq!(list.await.ok()["tables"][0]["dropped_by"], "owner");
        post_as(&server, &manager, &table("ns$t", "undrop"), json!({})).await.ok();
        assert_eq!(post_as(&server, &reader, &count, Value::Null).await.ok(), 1);
        // Of a namespace that is gone, who manages what it was in.
        server.post(&namespace("ns", "drop"), json!({"behavior": "Cascade"})).await.ok();
        let back = json!({"new_table_id": ["other", "t"]});
        let undrop = table("ns$t", "undrop");
        for key in [&manager, &stranger] {
            let refused = post_as(&server, key, &undrop, back.clone()).await;
            assert_error(&refused, 404, NAMESPACE_NOT_FOUND);
        }
        server.post(&undrop, back).await.ok();
        post_as(&server, &reader, &table("other$t", "count_rows"), Value::Null).await.ok();
        // Protecting is for those who may drop.
        let on = json!({"deletion_protection": true});
        let protect = table("other$t", "protect");
        assert_error(&post_as(&server, &reader, &protect, on.clone()).await, 403, PERMISSION_DENIED);
        post_as(&server, &owner, &protect, on).await.ok();
    }
}

/// Which of the dropped tables of `ns` was made last.
async fn newest_dropped(server: &TestServer) -> Value {
    let listed = server.get(&namespace("ns", "dropped")).await.ok();
    listed["tables"].as_array().and_then(|tables| tables.last()).expect("a table")["table_id"]
        .clone()
}

guarded! {
    /// Lists show what the caller sees, all of it, whatever the size of the pages.
    async fn lists_show_what_is_seen(server: TestServer) {
        for name in ["a", "b", "c", "d"] {
            for number in 0..3 {
                server.with_declared(&format!("{name}$t{number}")).await;
            }
        }
        grant(&server, "anna", "reader", json!({"namespace": ["b"]})).await.ok();
        for number in [0, 2] {
            let on = json!({"table": ["d", format!("t{number}")]});
            grant(&server, "anna", "writer", on).await.ok();
        }
        let anna = key_of(&server, "anna").await;
        for limit in [1, 2, 100] {
            let list = async |path: &str, field: &str| {
                let (mut found, mut token) = (Vec::new(), String::new());
                loop {
                    let page = format!("{path}?limit={limit}&page_token={token}");
                    let reply = send_as(&server, &anna, Method::GET, &page, Value::Null).await.ok();
                    found.extend(reply[field].as_array().expect("a list").clone());
                    match reply["page_token"].as_str() {
                        Some(next) => token = next.to_owned(),
                        None => return found,
                    }
                }
            };
            assert_eq!(list("/v1/namespace/$/list", "namespaces").await, ["b", "d"]);
            assert_eq!(list("/v1/namespace/b/table/list", "tables").await, ["t0", "t1", "t2"]);
            assert_eq!(list("/v1/namespace/d/table/list", "tables").await, ["t0", "t2"]);
            let all = list("/v1/table", "tables").await;
            assert_eq!(all, ["b$t0", "b$t1", "b$t2", "d$t0", "d$t2"]);
        }
        let hidden = send_as(&server, &anna, Method::GET, "/v1/namespace/a/table/list", Value::Null);
        assert_error(&hidden.await, 404, NAMESPACE_NOT_FOUND);
    }
}

guarded! {
    async fn keys_are_made_replaced_and_taken_away(server: TestServer) {
        let other = server.beside().await;
        server.create_namespace("ns").await;
        grant(&server, "anna", "reader", json!({"namespace": ["ns"]})).await.ok();
        let body = json!({"principal": "anna", "description": "for the notebook"});
        let made = server.post("/v1/access/keys/create", body).await.ok();
        let (first, id) = (text(&made, "api_key"), text(&made, "key_id"));
        let works = async |server: &TestServer, key: &str| {
            let reply = post_as(server, key, &namespace("ns", "describe"), Value::Null).await;
            assert!([200, 401].contains(&reply.status), "{}", reply.text());
            reply.status == 200
        };
        assert!(works(&server, &first).await && works(&other, &first).await);
        let told = server.get("/v1/access/keys").await.ok();
        assert!(!told.to_string().contains(first.rsplit('_').next().expect("a secret")), "{told}");
        // Kept for who sends it again, it would be a secret in the catalog.
        let again = server.request(Method::POST, "/v1/access/keys/create");
        let again = again.header("idempotency-key", "k").json(&json!({"principal": "anna"}));
        assert_error(&server.send(again).await, 400, INVALID_INPUT);
        let path = format!("/v1/access/keys/{id}/rotate");
        let next = server.post(&path, json!({"overlap_seconds": 60})).await.ok();
        let (second, second_id) = (text(&next, "api_key"), text(&next, "key_id"));
        assert_eq!(next["principal"], "anna");
        assert!(works(&server, &first).await && works(&server, &second).await);
        server.delete(&format!("/v1/access/keys/{second_id}")).await.ok();
        assert!(!works(&server, &second).await);
        // At another server it changes nothing any more, and reads nothing within a moment.
        let create = post_as(&other, &second, &namespace("mine", "create"), Value::Null).await;
        assert_error(&create, 401, UNAUTHENTICATED);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(!works(&other, &second).await && works(&other, &first).await);
        let gone = json!({"principal": "anna", "namespace": ["ns"]});
        server.post("/v1/access/grants/delete", gone.clone()).await.ok();
        let reply = post_as(&server, &first, &namespace("ns", "describe"), Value::Null).await;
        assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
        assert_error(&server.post("/v1/access/grants/delete", gone).await, 400, INVALID_INPUT);
        // As a token, or in the body where no header says it.
        for header in ["authorization", "Authorization"] {
            let request = server.bare_request(Method::GET, "/v1/access/whoami");
            let reply = server.send(request.header(header, format!("Bearer {first}"))).await.ok();
            assert_eq!(reply["principal"], "anna");
        }
        let body = json!({"identity": {"api_key": server.key()}});
        let request = server.bare_request(Method::POST, &namespace("ns", "describe"));
        server.send(request.json(&body)).await.ok();
        let request = server.bare_request(Method::POST, &namespace("ns", "describe"));
        let reply = server.send(request.header("x-api-key", &first).json(&body)).await;
        assert_error(&reply, 404, NAMESPACE_NOT_FOUND);
    }
}

guarded! {
    /// Admins of a namespace say who may do what within it, and nowhere else.
    async fn grants_are_made_by_admins(server: TestServer) {
        server.create_namespace("ns").await;
        server.with_declared("ns$sub$t").await;
        server.with_declared("other$t").await;
        grant(&server, "chief", "admin", json!({"namespace": ["ns"]})).await.ok();
        grant(&server, "clerk", "manager", json!({"namespace": ["ns"]})).await.ok();
        let (chief, clerk) = (key_of(&server, "chief").await, key_of(&server, "clerk").await);
        let give = async |key: &str, on: Value| {
            let mut body = json!({"principal": "anna", "role": "reader"});
            body.as_object_mut().expect("an object").extend(on.as_object().expect("one").clone());
            post_as(&server, key, "/v1/access/grants/create", body).await
        };
        let within = json!({"table": ["ns", "sub", "t"]});
        assert_error(&give(&clerk, within.clone()).await, 403, PERMISSION_DENIED);
        give(&chief, within).await.ok();
        assert_error(&give(&chief, json!({"namespace": []})).await, 403, PERMISSION_DENIED);
        assert_error(&give(&chief, json!({"table": ["other", "t"]})).await, 404, TABLE_NOT_FOUND);
        assert_error(&give(&chief, json!({"table": ["ns", "none"]})).await, 404, TABLE_NOT_FOUND);
        assert_error(&give(&chief, json!({})).await, 400, INVALID_INPUT);
        let anna = key_of(&server, "anna").await;
        post_as(&server, &anna, &table("ns$sub$t", "describe"), Value::Null).await.ok();
        let seen = send_as(&server, &clerk, Method::GET, "/v1/access/grants", Value::Null).await.ok();
        assert_eq!(seen["grants"].as_array().map(Vec::len), Some(1), "{seen}");
        let seen = send_as(&server, &chief, Method::GET, "/v1/access/grants", Value::Null).await.ok();
        assert_eq!(seen["grants"].as_array().map(Vec::len), Some(3), "{seen}");
    }
}

/// Where everybody could reach it, the server wants to be told that it may be reached by everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_open_by_mistake() {
    let home = TempDir::with_prefix("tiltyard-access-").expect("a temporary folder");
    let everywhere = ["serve", "--listen", "0.0.0.0:0"];
    let refused = tiltyard(home.path(), &everywhere).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("--auth"), "{said}");
    for flag in ["--insecure", "--auth"] {
        let arguments = [&everywhere[..], &[flag]].concat();
        assert!(Serving::start(tiltyard(home.path(), &arguments)).terminate().success());
    }
}

/// Keys and grants are changed on the database too, by whoever may reach it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_changes_keys_and_grants() {
    let home = TempDir::with_prefix("tiltyard-access-").expect("a temporary folder");
    let arguments = ["serve", "--auth", "--listen", "127.0.0.1:0"];
    let serving = Serving::start(tiltyard(home.path(), &arguments));
    let first = serving.before.iter().find_map(|line| line.split_once("shown this once: "));
    let (_, first) = first.expect("the first key");
    let run = |arguments: &[&str]| {
        let done = tiltyard(home.path(), arguments).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let status = async |key: &str, path: &str| {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let request = client.get(format!("{}{path}", serving.base)).header("x-api-key", key);
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(status(first, "/v1/access/keys").await, 200);
    let made = run(&["key", "create", "--principal", "anna", "--expires-in", "1h"]);
    let anna = made.last().expect("a key").clone();
    assert_eq!(status(&anna, "/metrics").await, 403);
    run(&["grant", "create", "--principal", "anna", "--role", "reader", "--namespace", "$"]);
    assert_eq!(status(&anna, "/metrics").await, 200);
    let listed = run(&["grant", "list"]);
    assert!(listed.contains(&"anna is reader of the root namespace".to_owned()), "{listed:?}");
    let keys = run(&["key", "list"]);
    assert_eq!(keys.len(), 2, "{keys:?}");
    let (_, secret) = anna.rsplit_once('_').expect("a key");
    assert!(keys.iter().all(|line| !line.contains(secret)), "{keys:?}");
    let id = anna.split('_').nth(1).expect("its id");
    let rotated = run(&["key", "rotate", id]);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(status(&anna, "/metrics").await, 401);
    assert_eq!(status(rotated.last().expect("a key"), "/metrics").await, 200);
    run(&["grant", "delete", "--principal", "anna", "--namespace", "$"]);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(status(rotated.last().expect("a key"), "/metrics").await, 403);
    // Started again, it makes no further key.
    drop(serving);
    let serving = Serving::start(tiltyard(home.path(), &arguments));
    assert!(
        serving.before.iter().all(|line| !line.contains("first API key")),
        "{:?}",
        serving.before
    );
}
