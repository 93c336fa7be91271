//! UploadFragmentColumns, and the commit that merges them.

use serde_json::{Value, json};

use crate::support::batches::{
    batch, batch_ab, columns, int_values, ints, ipc, optional_ints, texts,
};
use crate::support::code::*;
use crate::support::{
    TestServer, assert_error, assert_error_in, assert_refused, foreign, table, text,
};

const MISFIT: [u64; 2] = [INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR];

/// Uploads one new column of integers for a fragment.
async fn upload_column(
    server: &TestServer,
    id: &str,
    fragment: u64,
    read_version: u64,
    name: &str,
    values: std::ops::Range<i32>,
) -> Value {
    let path = format!("fragments/{fragment}/columns?read_version={read_version}");
    let rows = batch(&[(name, ints(values))]);
    server.upload_to(&table(id, &path), &rows).await
}

fn merge(read_version: u64, uploads: &[Value]) -> Value {
    let uploads: Vec<&Value> = uploads.iter().map(|upload| &upload["upload_id"]).collect();
    json!({"operation": "merge", "read_version": read_version, "uploads": uploads})
}

everywhere! {
    async fn a_column_for_every_fragment(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        server.append("ns$t", 1, &batch_ab(3..5)).await;
        let first = upload_column(&server, "ns$t", 0, 2, "c", 100..103).await;
        assert!(!text(&first, "upload_id").is_empty(), "{first}");
        assert_eq!(first["read_version"], 2, "{first}");
        assert_eq!(first["fragment"]["id"], 0, "{first}");
        assert_eq!(
            first["schema"]["fields"].as_array().map(Vec::len),
            Some(3),
            "{first}"
        );
        let second = upload_column(&server, "ns$t", 1, 2, "c", 103..105).await;
        assert_eq!(
            server.versions("ns$t").await,
            [1, 2],
            "not before the commit"
        );
        let done = server.commit("ns$t", merge(2, &[first, second])).await.ok();
        assert_eq!(done["version"], 3, "{done}");
        let rows = [foreign::rows(&location).await];
        assert_eq!(columns(&rows), ["a", "b", "c"]);
        assert_eq!(int_values(&rows, "a"), [0, 1, 2, 3, 4]);
        assert_eq!(int_values(&rows, "c"), [100, 101, 102, 103, 104]);
    }
}

everywhere! {
    /// The server fills in the fragments that nobody touched.
    async fn a_column_for_some_fragments(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        server.append("ns$t", 1, &batch_ab(2..4)).await;
        let upload = upload_column(&server, "ns$t", 1, 2, "c", 7..9).await;
        server.commit("ns$t", merge(2, &[upload])).await.ok();
        let rows = [foreign::rows(&location).await];
        assert_eq!(int_values(&rows, "a"), [0, 1, 2, 3]);
        assert_eq!(optional_ints(&rows, "c"), [None, None, Some(7), Some(8)]);
        // The table goes on as any other.
        let more = batch(&[("a", ints(4..5)), ("b", texts(4..5)), ("c", ints(9..10))]);
        server.append("ns$t", 3, &more).await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4]);
    }
}

everywhere! {
    async fn several_columns_at_once(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let rows = batch(&[("c", ints(10..13)), ("d", texts(0..3))]);
        let path = table("ns$t", "fragments/0/columns?read_version=1");
        let upload = server.upload_to(&path, &rows).await;
        server.commit("ns$t", merge(1, &[upload])).await.ok();
        assert_eq!(
            columns(&[foreign::rows(&location).await]),
            ["a", "b", "c", "d"]
        );
    }
}

everywhere! {
    /// One row per live row; what is deleted is filled in.
    async fn a_column_for_what_is_left_of_a_fragment(server: TestServer) {
        let location = server.with_table("ns$t", 6).await;
        foreign::delete(&location, "a % 2 = 0").await;
        let upload = upload_column(&server, "ns$t", 0, 2, "c", 50..53).await;
        let done = server.commit("ns$t", merge(2, &[upload])).await.ok();
        assert_eq!(done["version"], 3, "{done}");
        let rows = [foreign::rows(&location).await];
        assert_eq!(int_values(&rows, "a"), [1, 3, 5]);
        assert_eq!(int_values(&rows, "c"), [50, 51, 52]);
    }
}

everywhere! {
    async fn a_merge_of_bare_fragments(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        server.append("ns$t", 1, &batch_ab(2..4)).await;
        let listed = server.get(&table("ns$t", "fragments")).await.ok();
        let upload = upload_column(&server, "ns$t", 0, 2, "c", 5..7).await;
        let untouched = &listed["fragments"][1];
        let body = json!({
            "operation": "merge", "read_version": 2, "schema": upload["schema"],
            "fragments": [upload["fragment"], untouched],
        });
        server.commit("ns$t", body).await.ok();
        let rows = [foreign::rows(&location).await];
        assert_eq!(int_values(&rows, "a"), [0, 1, 2, 3]);
        assert_eq!(optional_ints(&rows, "c"), [Some(5), Some(6), None, None]);
    }
}

everywhere! {
    async fn a_merge_of_bare_fragments_must_be_whole(server: TestServer) {
        server.with_table("ns$t", 2).await;
        server.append("ns$t", 1, &batch_ab(2..4)).await;
        let listed = server.get(&table("ns$t", "fragments")).await.ok();
        let upload = upload_column(&server, "ns$t", 0, 2, "c", 5..7).await;
        let mut stranger = listed["fragments"][1].clone();
        stranger["id"] = json!(77);
        let (changed, untouched) = (&upload["fragment"], &listed["fragments"][1]);
        for (what, fragments, schema) in [
            ("a fragment is missing", json!([changed]), &upload["schema"]),
            (
                "a fragment is not in the table",
                json!([changed, stranger]),
                &upload["schema"],
            ),
            (
                "a fragment comes twice",
                json!([changed, changed, untouched]),
                &upload["schema"],
            ),
            (
                "the schema is missing",
                json!([changed, untouched]),
                &Value::Null,
            ),
        ] {
            let body = json!({
                "operation": "merge", "read_version": 2, "fragments": fragments, "schema": schema,
            });
            let reply = server.commit("ns$t", body).await;
            assert_eq!(reply.status, 400, "{what}: {}", reply.text());
            assert_error_in(&reply, 400, &MISFIT);
            assert_eq!(server.versions("ns$t").await, [1, 2], "{what}");
        }
    }
}

both! {
    async fn the_wrong_number_of_rows_is_refused(server: TestServer) {
        let location = server.with_table("ns$t", 10).await;
        foreign::delete(&location, "a < 4").await;
        let before = server.snapshot().await;
        // Ten were written, six are left.
        for rows in [0, 1, 5, 7, 10, 11] {
            let path = table("ns$t", "fragments/0/columns?read_version=2");
            let stream = ipc(&[batch(&[("c", ints(0..rows))])]);
            let reply = server.post_arrow(&path, stream).await;
            assert_eq!(reply.status, 400, "{rows} rows: {}", reply.text());
            assert_error_in(&reply, 400, &MISFIT);
            server
                .assert_unchanged(&before, &format!("{rows} rows"))
                .await;
        }
        upload_column(&server, "ns$t", 0, 2, "c", 0..6).await;
    }
}

both! {
    async fn a_column_that_exists_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        for rows in [
            batch(&[("a", ints(0..3))]),
            batch(&[("c", ints(0..3)), ("b", texts(0..3))]),
        ] {
            let path = table("ns$t", "fragments/0/columns?read_version=1");
            let reply = server
                .post_arrow(&path, ipc(std::slice::from_ref(&rows)))
                .await;
            assert_error_in(&reply, 400, &MISFIT);
            server
                .assert_unchanged(&before, "a column that exists")
                .await;
        }
    }
}

both! {
    async fn a_fragment_or_version_that_is_not_there_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let stream = ipc(&[batch(&[("c", ints(0..3))])]);
        for place in [
            "fragments/7/columns?read_version=1",
            "fragments/first/columns?read_version=1",
            "fragments/0/columns?read_version=9",
            "fragments/0/columns?read_version=now",
        ] {
            assert_refused(
                &server
                    .post_arrow(&table("ns$t", place), stream.clone())
                    .await,
            );
        }
        let reply = server.post_arrow("/v1/table/ns$no/fragments/0/columns?read_version=1", stream);
        assert_error(&reply.await, 404, TABLE_NOT_FOUND);
        server
            .assert_unchanged(&before, "columns for nothing")
            .await;
    }
}

everywhere! {
    /// Two columns of one name but of two types cannot both be right.
    async fn columns_that_disagree_are_refused(server: TestServer) {
        server.with_table("ns$t", 2).await;
        server.append("ns$t", 1, &batch_ab(2..4)).await;
        let number = upload_column(&server, "ns$t", 0, 2, "c", 0..2).await;
        let path = table("ns$t", "fragments/1/columns?read_version=2");
        let word = server.upload_to(&path, &batch(&[("c", texts(0..2))])).await;
        let reply = server.commit("ns$t", merge(2, &[number, word])).await;
        assert_error_in(&reply, 400, &MISFIT);
        assert_eq!(server.versions("ns$t").await, [1, 2]);
    }
}

everywhere! {
    /// Rows that landed in between stay, and the merge either takes them along or is refused.
    async fn a_merge_loses_no_rows_that_came_in_between(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let upload = upload_column(&server, "ns$t", 0, 1, "c", 0..3).await;
        server.insert("ns$t", &batch_ab(3..5)).await;
        let reply = server
            .commit("ns$t", merge(1, std::slice::from_ref(&upload)))
            .await;
        if reply.status != 200 {
            assert_error(&reply, 409, CONCURRENT_MODIFICATION);
        }
        assert_eq!(foreign::values(&location).await, [0, 1, 2, 3, 4]);
        let mut strict = merge(1, &[upload]);
        strict["on_conflict"] = json!("fail");
        if reply.status != 200 {
            assert_error(
                &server.commit("ns$t", strict).await,
                409,
                CONCURRENT_MODIFICATION,
            );
        }
    }
}
