//! Databases of LanceDB clients: root namespaces, named by a header.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::batches::{batch_ab, ipc};
use crate::support::code::*;
use crate::support::{Backend, Reply, TestServer, assert_error};

/// A client that is connected to a database.
struct Client<'a> {
    server: &'a TestServer,
    database: &'a str,
    prefix: Option<&'a str>,
}

impl<'a> Client<'a> {
    fn of(server: &'a TestServer, database: &'a str) -> Self {
        Self { server, database, prefix: None }
    }

    async fn send(&self, request: RequestBuilder) -> Reply {
        let request = request.header("x-lancedb-database", self.database);
        let request = match self.prefix {
            Some(prefix) => request.header("x-lancedb-database-prefix", prefix),
            None => request,
        };
        self.server.send(request).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(self.server.request(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(self.server.request(Method::POST, path).json(&body)).await
    }

    async fn create(&self, id: &str) -> Reply {
        let request = self.server.arrow_request(&format!("/v1/table/{id}/create/"));
        self.send(request.body(ipc(&[batch_ab(0..2)]))).await
    }
}

both! {
    async fn the_first_table_makes_the_database(server: TestServer) {
        let client = Client::of(&server, "mydb");
        // Before that it is as good as empty.
        assert_eq!(client.get("/v1/table/").await.ok(), json!({"tables": []}));
        assert_eq!(client.get("/v1/namespace/$/table/list").await.ok()["tables"], json!([]));
        assert_eq!(client.get("/v1/namespace/$/list").await.ok()["namespaces"], json!([]));
        assert_error(&client.get("/v1/namespace/other/table/list").await, 404, NAMESPACE_NOT_FOUND);
        assert_error(&client.post("/v1/table/t/describe/", json!({})).await, 404, TABLE_NOT_FOUND);
        let nothing = server.get("/v1/namespace/$/list").await.ok();
        assert_eq!(nothing["namespaces"], json!([]), "reading made something");
        client.create("t").await.ok();
        assert_eq!(client.get("/v1/table/").await.ok(), json!({"tables": ["t"]}));
        // To everyone else it is a namespace.
        assert_eq!(server.get("/v1/namespace/$/list").await.ok()["namespaces"], json!(["mydb"]));
        assert_eq!(server.count("mydb$t").await, 2);
        assert_eq!(server.get("/v1/table/").await.ok(), json!({"tables": []}));
    }
}

both! {
    async fn databases_do_not_see_each_other(server: TestServer) {
        let (one, two) = (Client::of(&server, "one"), Client::of(&server, "two"));
        one.create("t").await.ok();
        two.create("t").await.ok();
        two.create("u").await.ok();
        two.post("/v1/table/t/delete/", json!({"predicate": "true"})).await.ok();
        let count = async |client: &Client<'_>| client.post("/v1/table/t/count_rows", json!({})).await.ok();
        assert_eq!(count(&one).await, 2);
        assert_eq!(count(&two).await, 0);
        assert_error(&one.post("/v1/table/u/describe/", json!({})).await, 404, TABLE_NOT_FOUND);
        assert_error(&one.post("/v1/table/two$u/describe/", json!({})).await, 404, TABLE_NOT_FOUND);
        let index = json!({"column": "a", "index_type": "BTREE"});
        let job = two.post("/v1/table/u/create_index/", index).await.ok()["job_id"].clone();
        assert_eq!(one.post("/v1/jobs/list", json!({})).await.ok()["jobs"], json!([]));
        assert_error(&one.post("/v1/jobs/describe", json!({"job_id": job})).await, 404, TRANSACTION_NOT_FOUND);
        assert_eq!(two.post("/v1/jobs/list", json!({})).await.ok()["jobs"][0]["table"], "u");
        let path = format!("/v1/transaction/{}/describe", job.as_str().expect("a job"));
        let told = two.post(&path, json!({})).await.ok();
        assert_eq!(told["properties"]["table"], r#"["u"]"#);
        assert_error(&one.post(&path, json!({})).await, 404, TRANSACTION_NOT_FOUND);
        let cancel = json!({"actions": [{"setPropertyAction": {"key": "a", "value": "b"}}]});
        let path = path.replace("describe", "alter");
        assert_error(&one.post(&path, cancel).await, 404, TRANSACTION_NOT_FOUND);
        let twice = server.request(Method::GET, "/v1/table/").header("x-lancedb-database", "one");
        assert_error(&two.send(twice).await, 400, INVALID_INPUT);
        let location = two.post("/v1/table/u/describe/", json!({})).await.ok()["location"].clone();
        let stolen = one.post("/v1/table/c/clone", json!({"source_location": location})).await;
        assert_error(&stolen, 400, INVALID_INPUT);
    }
}

both! {
    async fn a_prefix_is_a_database_of_its_own(server: TestServer) {
        let plain = Client::of(&server, "db");
        let within = Client { server: &server, database: "db", prefix: Some("a/b") };
        plain.create("t").await.ok();
        within.create("u").await.ok();
        assert_eq!(plain.get("/v1/table/").await.ok(), json!({"tables": ["t"]}));
        assert_eq!(within.get("/v1/table/").await.ok(), json!({"tables": ["u"]}));
        let databases = server.get("/v1/namespace/$/list").await.ok();
        assert_eq!(databases["namespaces"], json!(["db", "db/a/b"]));
        let whole = Client::of(&server, "db/a/b");
        assert_eq!(whole.get("/v1/table/").await.ok(), json!({"tables": ["u"]}));
    }
}

both! {
    async fn the_namespace_dialect_honours_the_header(server: TestServer) {
        let client = Client::of(&server, "mydb");
        client.post("/v1/namespace/ns/create", json!({"id": ["ns"]})).await.ok();
        client.create("ns$t").await.ok();
        assert_eq!(client.get("/v1/namespace/$/list").await.ok()["namespaces"], json!(["ns"]));
        let detailed = json!({"id": ["ns", "t"], "load_detailed_metadata": true});
        let described = client.post("/v1/table/ns$t/describe", detailed).await.ok();
        assert_eq!((&described["namespace"], &described["table"]), (&json!(["ns"]), &json!("t")));
        let other = json!({"id": ["mydb", "ns", "t"]});
        assert_error(&client.post("/v1/table/ns$t/describe", other).await, 400, INVALID_INPUT);
        client.post("/v1/table/ns$d/declare", json!({})).await.ok();
        let all = client.get("/v1/table").await.ok();
        assert_eq!(all["tables"], json!(["ns$t", "ns$d"]));
        let moved = json!({"new_table_name": "u", "new_namespace_id": []});
        client.post("/v1/table/ns$t/rename", moved).await.ok();
        assert_eq!(server.count("mydb$u").await, 2);
        let operations = json!({"operations": [
            {"declare_table": {"id": ["ns", "e"]}}, {"deregister_table": {"id": ["ns", "d"]}}]});
        let done = client.post("/v1/table/batch-commit", operations).await.ok();
        assert_eq!(done["results"][1]["deregister_table"]["id"], json!(["ns", "d"]));
        let dropped = client.post("/v1/table/ns$e/drop", json!({})).await.ok();
        assert_eq!(dropped["id"], json!(["ns", "e"]));
        // The root of the database is the database.
        client.post("/v1/namespace/$/drop", json!({"behavior": "Cascade"})).await.ok();
        assert_eq!(server.get("/v1/namespace/$/list").await.ok()["namespaces"], json!([]));
    }
}

both! {
    async fn a_creation_that_fails_makes_no_database(server: TestServer) {
        let client = Client::of(&server, "mydb");
        let request = server.arrow_request("/v1/table/t/create/").body(b"no arrow".to_vec());
        assert_eq!(client.send(request).await.status, 400);
        let whole = ipc(&[batch_ab(0..1_000)]);
        let request = server.arrow_request("/v1/table/t/create/");
        let cut = client.send(request.body(whole[..whole.len() - 100].to_vec())).await;
        assert_eq!(cut.status, 400, "{}", cut.text());
        let location = json!({"source_location": "file:///nowhere/t.lance"});
        assert_error(&client.post("/v1/table/c/clone", location).await, 400, INVALID_INPUT);
        for (path, body, status) in [
            ("/v1/table/t/declare", json!({"location": "file:///elsewhere/t"}), 400),
            ("/v1/table/t/register", json!({"location": "file:///elsewhere/t"}), 400),
            ("/v1/namespace/a$b/create", json!({}), 404),
        ] {
            let reply = client.post(path, body).await;
            assert_eq!(reply.status, status, "{path}: {}", reply.text());
        }
        assert_eq!(server.get("/v1/namespace/$/list").await.ok()["namespaces"], json!([]));
        assert!(server.files().is_empty(), "{:?}", server.files());
    }
}

both! {
    async fn names_that_cannot_be_are_refused(server: TestServer) {
        for database in [".", "..", " . ", &"x".repeat(600)] {
            let reply = Client::of(&server, database).create("t").await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let up = Client { server: &server, database: "..", prefix: Some("x") };
        // Never a path: the folder's name is made of the table's.
        up.create("t").await.ok();
        assert_eq!(server.get("/v1/namespace/$/list").await.ok()["namespaces"], json!(["../x"]));
        assert!(server.files().iter().all(|file| file.starts_with(server.lake())));
    }
}

macro_rules! refusing {
    ($($backend:ident => $name:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let refuse = |settings: &mut tiltyard::config::Settings| settings.create_databases = false;
            let Some(server) = TestServer::spawn_with(Backend::$backend, refuse).await else { return };
            let client = Client::of(&server, "mydb");
            assert_error(&client.create("t").await, 404, NAMESPACE_NOT_FOUND);
            assert_error(&client.get("/v1/table/").await, 404, NAMESPACE_NOT_FOUND);
            assert_error(&client.post("/v1/namespace/ns/create", json!({})).await, 404, NAMESPACE_NOT_FOUND);
            assert_error(&client.post("/v1/table/t/declare", json!({})).await, 404, NAMESPACE_NOT_FOUND);
            server.create_namespace("mydb").await;
            client.create("t").await.ok();
            assert_eq!(client.get("/v1/table/").await.ok(), json!({"tables": ["t"]}));
        }
    )*};
}

refusing! { Sqlite => unknown_ones_can_be_refused_sqlite, Postgres => unknown_ones_can_be_refused_postgres }
