//! Keyset pages: whole, stable while others write, and each token good for its listing only.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::{TestServer, assert_error, enc, namespace, table};

/// The token of the next page, if there is one.
fn token(page: &Value) -> Option<String> {
    let token = page["page_token"].as_str();
    token.filter(|token| !token.is_empty()).map(str::to_string)
}

fn with(path: &str, query: &str) -> String {
    let mark = if path.contains('?') { '&' } else { '?' };
    format!("{path}{mark}{query}")
}

async fn page(server: &TestServer, method: &Method, path: &str) -> Value {
    let request = server.request(method.clone(), path);
    server.send(request).await.ok()
}

/// Every page of a listing, in order.
async fn pages(server: &TestServer, method: Method, path: &str, limit: usize) -> Vec<Value> {
    let first = with(path, &format!("limit={limit}"));
    let mut pages = vec![page(server, &method, &first).await];
    while let Some(token) = token(&pages[pages.len() - 1]) {
        let next = with(&first, &format!("page_token={}", enc(&token)));
        pages.push(page(server, &method, &next).await);
        assert!(pages.len() < 1_000, "the pages of {path} do not end");
    }
    pages
}

fn entries(pages: &[Value], field: &str) -> Vec<String> {
    let lists = pages.iter().map(|page| page[field].as_array());
    let entries = lists.flat_map(|list| list.expect("a list").iter());
    let name = |entry: &Value| match entry.as_str() {
        Some(name) => name.to_string(),
        None => entry["version"].to_string(),
    };
    entries.map(name).collect()
}

/// All of it, once each, and no page longer than asked for.
fn assert_whole(pages: &[Value], field: &str, limit: usize, expected: &BTreeSet<String>) {
    for page in pages {
        let length = page[field].as_array().map_or(0, Vec::len);
        assert!(length <= limit, "{length} entries on a page of {limit}");
    }
    let entries = entries(pages, field);
    let set: BTreeSet<String> = entries.iter().cloned().collect();
    assert_eq!(set.len(), entries.len(), "repeated: {entries:?}");
    assert_eq!(set, *expected);
}

both! {
    async fn namespaces_page_by_page(server: TestServer) {
        let mut expected = BTreeSet::new();
        for number in 0..23 {
            let name = format!("n{number}'%_");
            server.create_namespace(&enc(&name)).await;
            expected.insert(name);
        }
        for limit in [1, 7, 22, 23, 24, 1_000_000] {
            let pages = pages(&server, Method::GET, "/v1/namespace/$/list", limit).await;
            assert_whole(&pages, "namespaces", limit, &expected);
        }
    }
}

both! {
    async fn tables_page_by_page(server: TestServer) {
        server.create_namespace("ns").await;
        let (mut all, mut created) = (BTreeSet::new(), BTreeSet::new());
        for number in 0..12 {
            let name = format!("t{number:02}");
            let id = format!("ns${name}");
            if number % 3 == 0 {
                server.create(&id, &batch_ab(0..1)).await;
                created.insert(name.clone());
            } else {
                server.post_empty(&table(&id, "declare")).await.ok();
            }
            all.insert(name);
        }
        for limit in [1, 5, 12, 13] {
            let list = namespace("ns", "table/list");
            let whole = pages(&server, Method::GET, &list, limit).await;
            assert_whole(&whole, "tables", limit, &all);
            let list = with(&list, "include_declared=false");
            let some = pages(&server, Method::GET, &list, limit).await;
            assert_whole(&some, "tables", limit, &created);
        }
    }
}

both! {
    async fn all_tables_page_by_page(server: TestServer) {
        let mut expected = BTreeSet::new();
        for parent in ["a", "a$b", "c"] {
            server.create_namespace(parent).await;
            for number in 0..4 {
                let id = format!("{parent}$t{number}");
                server.post_empty(&table(&id, "declare")).await.ok();
                expected.insert(id);
            }
        }
        for limit in [1, 5, 12, 100] {
            let pages = pages(&server, Method::GET, "/v1/table", limit).await;
            assert_whole(&pages, "tables", limit, &expected);
        }
    }
}

both! {
    /// The reference server ignores the page tokens of versions.
    async fn versions_page_by_page(server: TestServer) {
        server.with_table("ns$t", 1).await;
        for row in 1..7 {
            server.insert("ns$t", &batch_ab(row..row + 1)).await;
        }
        let list = table("ns$t", "version/list");
        for limit in [1, 2, 7, 100] {
            for order in ["descending=false", "descending=true"] {
                let path = with(&list, order);
                let pages = pages(&server, Method::POST, &path, limit).await;
                let mut numbers = entries(&pages, "versions");
                if order == "descending=false" {
                    numbers.reverse();
                }
                assert_eq!(
                    numbers,
                    ["7", "6", "5", "4", "3", "2", "1"],
                    "{order}, {limit}"
                );
            }
        }
    }
}

both! {
    /// What is there throughout is listed exactly once, whatever comes and goes between the pages.
    async fn pages_are_stable_while_others_write(server: TestServer) {
        server.create_namespace("ns").await;
        let name = |number: usize| format!("t{number:03}");
        for number in (0..60).step_by(2) {
            server
                .post_empty(&table(&format!("ns${}", name(number)), "declare"))
                .await
                .ok();
        }
        let list = with(&namespace("ns", "table/list"), "limit=4");
        let mut seen = Vec::new();
        let mut path = list.clone();
        for turn in 0.. {
            let page = page(&server, &Method::GET, &path).await;
            seen.extend(entries(std::slice::from_ref(&page), "tables"));
            let Some(token) = token(&page) else { break };
            path = with(&list, &format!("page_token={}", enc(&token)));
            // Drops one that was listed, and adds one before and one behind the place of the token.
            let gone = format!("ns${}", name(turn * 4));
            if turn < 3 {
                server.post_empty(&table(&gone, "drop")).await.ok();
            }
            if turn < 10 {
                for number in [turn * 2 + 1, 59 - turn * 2] {
                    let id = format!("ns${}", name(number));
                    server.post(&table(&id, "declare"), json!({})).await;
                }
            }
        }
        let set: BTreeSet<String> = seen.iter().cloned().collect();
        assert_eq!(set.len(), seen.len(), "repeated: {seen:?}");
        for number in (0..60).step_by(2) {
            assert!(
                set.contains(&name(number)),
                "{} was skipped: {seen:?}",
                name(number)
            );
        }
    }
}

both! {
    /// The entry that a token was made from may itself be gone.
    async fn a_token_outlives_its_entry(server: TestServer) {
        for name in ["a", "b", "c", "d"] {
            server.create_namespace(name).await;
        }
        let first = server.get("/v1/namespace/$/list?limit=2").await.ok();
        assert_eq!(first["namespaces"], json!(["a", "b"]));
        server.post_empty("/v1/namespace/b/drop").await.ok();
        let token = token(&first).expect("another page");
        let path = format!("/v1/namespace/$/list?limit=2&page_token={}", enc(&token));
        let second = server.get(&path).await.ok();
        assert_eq!(second["namespaces"], json!(["c", "d"]));
    }
}

both! {
    async fn a_token_of_another_listing_is_refused(server: TestServer) {
        for parent in ["a", "b"] {
            server.create_namespace(parent).await;
            for number in 0..3 {
                server
                    .create_namespace(&format!("{parent}$n{number}"))
                    .await;
                let id = format!("{parent}$t{number}");
                server.post_empty(&table(&id, "declare")).await.ok();
            }
        }
        let listings = [
            "/v1/namespace/$/list",
            "/v1/namespace/a/list",
            "/v1/namespace/b/list",
            "/v1/namespace/a/table/list",
            "/v1/namespace/b/table/list",
            "/v1/table",
        ];
        for from in listings {
            let first = server.get(&with(from, "limit=1")).await.ok();
            let token = token(&first).expect("another page");
            for to in listings {
                let path = with(to, &format!("limit=1&page_token={}", enc(&token)));
                let reply = server.get(&path).await;
                if from == to {
                    reply.ok();
                } else {
                    assert_error(&reply, 400, INVALID_INPUT);
                }
            }
        }
    }
}

both! {
    async fn a_token_of_other_versions_is_refused(server: TestServer) {
        for id in ["ns$t", "ns$u"] {
            server.with_table(id, 1).await;
            server.insert(id, &batch_ab(1..2)).await;
        }
        let first = server
            .post_empty(&table("ns$t", "version/list?limit=1"))
            .await
            .ok();
        let token = enc(&token(&first).expect("another page"));
        let path = table("ns$t", &format!("version/list?limit=1&page_token={token}"));
        server.post_empty(&path).await.ok();
        let path = table("ns$u", &format!("version/list?limit=1&page_token={token}"));
        assert_error(&server.post_empty(&path).await, 400, INVALID_INPUT);
        let path = format!("/v1/table?limit=1&page_token={token}");
        assert_error(&server.get(&path).await, 400, INVALID_INPUT);
    }
}

both! {
    async fn nonsense_for_a_token_is_refused(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let long = "A".repeat(10_000);
        for token in [
            "x",
            "1",
            "' OR 1=1 --",
            "..",
            "\u{0}",
            "%",
            "表",
            "e30",
            "bnVsbA",
            long.as_str(),
        ] {
            for listing in [
                "/v1/namespace/$/list",
                "/v1/namespace/ns/table/list",
                "/v1/table",
            ] {
                let path = format!("{listing}?page_token={}", enc(token));
                assert_error(&server.get(&path).await, 400, INVALID_INPUT);
            }
            let path = table("ns$t", &format!("version/list?page_token={}", enc(token)));
            assert_error(&server.post_empty(&path).await, 400, INVALID_INPUT);
        }
    }
}

both! {
    async fn limits_that_are_none_are_refused(server: TestServer) {
        server.with_table("ns$t", 1).await;
        for limit in ["-1", "ten", "1.5", "99999999999999999999999"] {
            for listing in [
                "/v1/namespace/$/list",
                "/v1/namespace/ns/table/list",
                "/v1/table",
            ] {
                let reply = server.get(&format!("{listing}?limit={limit}")).await;
                assert_error(&reply, 400, INVALID_INPUT);
            }
            let path = table("ns$t", &format!("version/list?limit={limit}"));
            assert_error(&server.post_empty(&path).await, 400, INVALID_INPUT);
        }
    }
}
