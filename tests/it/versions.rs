//! ListTableVersions and DescribeTableVersion.

use serde_json::{Value, json};

use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::{assert_error, assert_refused, foreign, table, text};

fn numbers(page: &Value) -> Vec<u64> {
    let versions = page["versions"].as_array().expect("a list of versions");
    let numbers = versions.iter().map(|version| version["version"].as_u64());
    numbers.map(|number| number.expect("a number")).collect()
}

everywhere! {
    async fn list_gives_every_version(server: TestServer) {
        server.with_table("ns$t", 1).await;
        for row in 1..4 {
            server.insert("ns$t", &batch_ab(row..row + 1)).await;
        }
        let listed = server.post_empty(&table("ns$t", "version/list")).await.ok();
        // The real client compares with an ascending list.
        assert_eq!(numbers(&listed), [1, 2, 3, 4]);
        for version in listed["versions"].as_array().expect("versions") {
            let manifest = text(version, "manifest_path");
            assert!(manifest.ends_with(".manifest"), "{manifest}");
            let size = version["manifest_size"].as_u64();
            assert!(
                version["manifest_size"].is_null() || size > Some(0),
                "{version}"
            );
            assert!(
                version["timestamp_millis"].as_i64() > Some(1_600_000_000_000),
                "{version}"
            );
        }
    }
}

everywhere! {
    async fn list_descending(server: TestServer) {
        server.with_table("ns$t", 1).await;
        server.insert("ns$t", &batch_ab(1..2)).await;
        server.insert("ns$t", &batch_ab(2..3)).await;
        let path = table("ns$t", "version/list?descending=true");
        assert_eq!(numbers(&server.post_empty(&path).await.ok()), [3, 2, 1]);
        // What Lance asks before it reads a table.
        let path = table("ns$t", "version/list?delimiter=%24&limit=1&descending=true");
        assert_eq!(numbers(&server.post_empty(&path).await.ok()), [3]);
        let path = table("ns$t", "version/list?descending=upwards");
        assert_error(&server.post_empty(&path).await, 400, INVALID_INPUT);
    }
}

everywhere! {
    async fn a_declared_table_has_no_versions(server: TestServer) {
        server.with_declared("ns$t").await;
        let listed = server.post_empty(&table("ns$t", "version/list")).await.ok();
        assert!(numbers(&listed).is_empty(), "{listed}");
        let version = json!({"version": 1});
        let reply = server
            .post(&table("ns$t", "version/describe"), version)
            .await;
        assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
    }
}

everywhere! {
    async fn describe_one_version(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        server.insert("ns$t", &batch_ab(1..2)).await;
        server.insert("ns$t", &batch_ab(2..3)).await;
        foreign::append(&location, batch_ab(3..4)).await;
        let listed = server.post_empty(&table("ns$t", "version/list")).await.ok();
        for (index, number) in [1_u64, 2, 3, 4].into_iter().enumerate() {
            let body = json!({"version": number});
            let described = server
                .post(&table("ns$t", "version/describe"), body)
                .await
                .ok();
            let version = &described["version"];
            assert_eq!(version["version"], number, "{described}");
            assert_eq!(
                version["manifest_path"],
                listed["versions"][index]["manifest_path"]
            );
        }
    }
}

everywhere! {
    async fn describe_a_missing_version(server: TestServer) {
        server.with_table("ns$t", 1).await;
        for version in [json!(0), json!(2), json!(99), json!(u32::MAX)] {
            let body = json!({"version": version});
            let reply = server.post(&table("ns$t", "version/describe"), body).await;
            assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        }
        for version in [json!(-1), json!("1"), json!(1.5), json!([1])] {
            let body = json!({"version": version});
            let reply = server.post(&table("ns$t", "version/describe"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
    }
}

everywhere! {
    /// Past the range of a signed integer is still no crash.
    async fn huge_numbers_are_no_versions(server: TestServer) {
        server.with_table("ns$t", 1).await;
        for version in [json!(u64::MAX), json!(i64::MAX), json!(1e300)] {
            for operation in ["version/describe", "describe", "count_rows", "exists"] {
                let body = json!({"version": version});
                assert_refused(&server.post(&table("ns$t", operation), body).await);
            }
        }
    }
}

everywhere! {
    async fn an_unknown_branch_has_no_versions(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let path = table("ns$t", "version/list?branch=nope");
        assert_refused(&server.post_empty(&path).await);
        let body = json!({"version": 1, "branch": "nope"});
        assert_refused(&server.post(&table("ns$t", "version/describe"), body).await);
    }
}
