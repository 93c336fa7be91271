//! UploadFragments, ListFragments, ReadFragment, ListUploads, AbortUpload.

use serde_json::{Value, json};

use crate::support::batches::{
    batch, batch_a, batch_ab, batch_not_null, columns, int_values, ints, ints_or_null, ipc,
    optional_ints, read_stream, row_count, text_values, texts,
};
use crate::support::code::*;
use crate::support::{assert_error, assert_error_in, assert_refused, foreign, table, text};

const MISFIT: [u64; 2] = [INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR];

/// The data files of fragments, which must stand in the table's own folder.
fn data_files(location: &str, fragments: &Value) -> Vec<std::path::PathBuf> {
    let fragments = fragments.as_array().expect("a list of fragments").iter();
    let files = fragments.flat_map(|fragment| fragment["files"].as_array().expect("files"));
    let folder = foreign::folder(location).join("data");
    files.map(|file| folder.join(text(file, "path"))).collect()
}

both! {
    async fn upload_answers_what_it_stored(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let upload = server.upload("ns$t", &batch_ab(3..10)).await;
        assert!(!text(&upload, "upload_id").is_empty());
        assert_eq!(upload["num_rows"], 7, "{upload}");
        assert!(upload["num_bytes"].as_u64() > Some(0), "{upload}");
        assert_eq!(upload["read_version"], 1, "{upload}");
        assert!(!upload["expires_at"].is_null(), "{upload}");
        let fields = upload["schema"]["fields"].as_array().expect("fields");
        assert_eq!(fields.len(), 2, "{upload}");
        let fragments = upload["fragments"].as_array().expect("fragments");
        assert_eq!(fragments.len(), 1, "{upload}");
        assert_eq!(fragments[0]["physical_rows"], 7, "{upload}");
        for file in data_files(&location, &upload["fragments"]) {
            assert!(file.is_file(), "{} is not there", file.display());
        }
    }
}

everywhere! {
    async fn an_upload_is_invisible_until_committed(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let upload = server.upload("ns$t", &batch_ab(3..10)).await;
        assert_eq!(server.count("ns$t").await, 3);
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(foreign::values(&location).await, [0, 1, 2]);
        let listed = server.get(&table("ns$t", "uploads")).await.ok();
        assert!(
            listed.to_string().contains(&text(&upload, "upload_id")),
            "{listed}"
        );
    }
}

everywhere! {
    async fn a_declared_table_takes_uploads(server: TestServer) {
        for operation in [
            "fragments",
            "fragments?mode=create",
            "fragments?mode=overwrite",
        ] {
            let location = server.with_declared("ns$t").await;
            let upload = server
                .upload_to(&table("ns$t", operation), &batch_ab(0..3))
                .await;
            assert_eq!(upload["read_version"], 0, "{upload}");
            assert!(server.versions("ns$t").await.is_empty());
            let body = json!({
                "operation": "overwrite", "read_version": 0, "uploads": [upload["upload_id"]],
            });
            assert_eq!(server.commit("ns$t", body).await.ok()["version"], 1);
            assert_eq!(foreign::values(&location).await, [0, 1, 2]);
            server.post_empty(&table("ns$t", "drop")).await.ok();
        }
    }
}

everywhere! {
    async fn rows_are_split_into_files(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let path = table("ns$t", "fragments?max_rows_per_file=100");
        let upload = server.upload_to(&path, &batch_ab(0..250)).await;
        let fragments = upload["fragments"].as_array().expect("fragments");
        let rows = fragments
            .iter()
            .map(|fragment| fragment["physical_rows"].as_u64());
        let rows: Vec<u64> = rows.map(|rows| rows.expect("a number")).collect();
        assert_eq!(rows.iter().sum::<u64>(), 250, "{rows:?}");
        assert!(
            rows.len() >= 3 && rows.iter().all(|rows| *rows <= 100),
            "{rows:?}"
        );
    }
}

both! {
    async fn nonsense_in_the_query_of_an_upload_is_refused(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let before = server.snapshot().await;
        for query in [
            "mode=sometimes",
            "max_rows_per_file=0",
            "max_rows_per_file=-1",
            "max_rows_per_file=ten",
            "max_bytes_per_file=0",
            "max_bytes_per_file=much",
            "data_storage_version=17.5",
            "enable_stable_row_ids=perhaps",
        ] {
            let path = table("ns$t", &format!("fragments?{query}"));
            let reply = server.post_arrow(&path, ipc(&[batch_ab(0..2)])).await;
            assert_error(&reply, 400, INVALID_INPUT);
            server.assert_unchanged(&before, query).await;
        }
        let path = table("ns$t", "fragments?branch=nope");
        assert_refused(&server.post_arrow(&path, ipc(&[batch_ab(0..2)])).await);
        server.assert_unchanged(&before, "an unknown branch").await;
    }
}

both! {
    async fn an_upload_for_a_missing_table_is_refused(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.snapshot().await;
        let reply = server
            .post_arrow(&table("ns$t", "fragments"), ipc(&[batch_ab(0..2)]))
            .await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
        server.assert_unchanged(&before, "a missing table").await;
    }
}

everywhere! {
    /// A column that the table has and the stream has not is null, if it may be.
    async fn absent_nullable_columns_are_filled(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        server.append("ns$t", 1, &batch_a(2..4)).await;
        let rows = [foreign::rows(&location).await];
        assert_eq!(int_values(&rows, "a"), [0, 1, 2, 3]);
        let names = text_values(&rows, "b");
        assert_eq!(
            names,
            [Some("s0".to_string()), Some("s1".to_string()), None, None]
        );
    }
}

both! {
    async fn a_stream_that_does_not_fit_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server
            .create("ns$strict", &batch_not_null("must", 0..3))
            .await;
        let nulls = batch(&[("must", ints_or_null(&[Some(1), None]))]);
        let before = server.snapshot().await;
        for (id, what, rows) in [
            (
                "ns$t",
                "another type",
                batch(&[("a", texts(0..2)), ("b", texts(0..2))]),
            ),
            (
                "ns$t",
                "a column more",
                batch(&[("a", ints(0..2)), ("c", ints(0..2))]),
            ),
            ("ns$strict", "a required column is missing", batch_a(0..2)),
            ("ns$strict", "a null where none may be", nulls),
        ] {
            for operation in ["fragments", "fragments?mode=append"] {
                let stream = ipc(std::slice::from_ref(&rows));
                let reply = server.post_arrow(&table(id, operation), stream).await;
                assert_error_in(&reply, 400, &MISFIT);
            }
            server.assert_unchanged(&before, what).await;
        }
    }
}

everywhere! {
    async fn an_overwrite_brings_its_own_schema(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let other = batch(&[("x", ints(0..2)), ("a", ints(5..7))]);
        let upload = server
            .upload_to(&table("ns$t", "fragments?mode=overwrite"), &other)
            .await;
        let body = json!({
            "operation": "overwrite", "read_version": 1, "uploads": [upload["upload_id"]],
        });
        server.commit("ns$t", body).await.ok();
        assert_eq!(columns(&[foreign::rows(&location).await]), ["x", "a"]);
        assert_eq!(server.values("ns$t").await, [5, 6]);
    }
}

everywhere! {
    async fn stable_row_ids_on_request(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        let path = table("ns$t", "fragments?mode=create&enable_stable_row_ids=true");
        let upload = server.upload_to(&path, &batch_ab(0..3)).await;
        let body = json!({
            "operation": "overwrite", "read_version": 0, "uploads": [upload["upload_id"]],
        });
        server.commit("ns$t", body).await.ok();
        let dataset = foreign::open(&location).await;
        assert!(dataset.manifest().uses_stable_row_ids());
        assert_eq!(foreign::values(&location).await, [0, 1, 2]);
    }
}

everywhere! {
    async fn fragments_of_any_version_are_listed(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        server.append("ns$t", 1, &batch_ab(3..5)).await;
        let newest = server.get(&table("ns$t", "fragments")).await.ok();
        assert_eq!(newest["version"], 2, "{newest}");
        assert_eq!(
            newest["fragments"].as_array().map(Vec::len),
            Some(2),
            "{newest}"
        );
        assert_eq!(
            newest["schema"]["fields"].as_array().map(Vec::len),
            Some(2),
            "{newest}"
        );
        assert_eq!(data_files(&location, &newest["fragments"]).len(), 2);
        let first = server.get(&table("ns$t", "fragments?version=1")).await.ok();
        assert_eq!(first["version"], 1, "{first}");
        assert_eq!(
            first["fragments"].as_array().map(Vec::len),
            Some(1),
            "{first}"
        );
        let reply = server.get(&table("ns$t", "fragments?version=9")).await;
        assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        let reply = server.get(&table("ns$t", "fragments?version=first")).await;
        assert_error(&reply, 400, INVALID_INPUT);
        assert_refused(&server.get(&table("ns$t", "fragments?branch=nope")).await);
    }
}

everywhere! {
    async fn rows_of_a_fragment_are_read(server: TestServer) {
        server.with_table("ns$t", 10).await;
        server.append("ns$t", 1, &batch_ab(10..15)).await;
        let rows = |query: &str| table("ns$t", &format!("fragments/{query}"));
        let all = server.get(&rows("0/rows")).await;
        assert_eq!(all.status, 200, "{}", all.text());
        assert_eq!(
            all.header("content-type"),
            Some("application/vnd.apache.arrow.stream")
        );
        let all = read_stream(&all.raw);
        assert_eq!(columns(&all), ["a", "b"]);
        assert_eq!(int_values(&all, "a"), (0..10).collect::<Vec<_>>());
        let some = read_stream(&server.get(&rows("1/rows?columns=b&version=2")).await.raw);
        assert_eq!(columns(&some), ["b"]);
        assert_eq!(row_count(&some), 5);
        let some = read_stream(
            &server
                .get(&rows("0/rows?filter=a%20%3E%206&columns=a"))
                .await
                .raw,
        );
        assert_eq!(int_values(&some, "a"), [7, 8, 9]);
        let some = read_stream(
            &server
                .get(&rows("0/rows?columns=a,_rowid,_rowaddr"))
                .await
                .raw,
        );
        let mut names = columns(&some);
        names.sort();
        assert_eq!(names, ["_rowaddr", "_rowid", "a"]);
        let some = read_stream(&server.get(&rows("0/rows?batch_size=3")).await.raw);
        assert!(some.iter().all(|batch| batch.num_rows() <= 3));
        assert_eq!(row_count(&some), 10);
    }
}

everywhere! {
    async fn deleted_rows_of_a_fragment_are_not_read(server: TestServer) {
        let location = server.with_table("ns$t", 10).await;
        foreign::delete(&location, "a % 2 = 0").await;
        let live = read_stream(&server.get(&table("ns$t", "fragments/0/rows")).await.raw);
        assert_eq!(int_values(&live, "a"), [1, 3, 5, 7, 9]);
        let path = table("ns$t", "fragments/0/rows?version=1");
        assert_eq!(row_count(&read_stream(&server.get(&path).await.raw)), 10);
        // Nothing left is still a whole stream.
        let path = table("ns$t", "fragments/0/rows?filter=a%20%3E%2099");
        assert_eq!(row_count(&read_stream(&server.get(&path).await.raw)), 0);
    }
}

everywhere! {
    async fn nonsense_about_a_fragment_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        for query in [
            "77/rows",
            "18446744073709551615/rows",
            "first/rows",
            "-1/rows",
        ] {
            let reply = server
                .get(&table("ns$t", &format!("fragments/{query}")))
                .await;
            assert_refused(&reply);
        }
        let reply = server
            .get(&table("ns$t", "fragments/0/rows?version=9"))
            .await;
        assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        let reply = server
            .get(&table("ns$t", "fragments/0/rows?columns=nope"))
            .await;
        assert_refused(&reply);
        for query in [
            "filter=a%20%3E%3E%3E",
            "filter=nope%20%3D%201",
            "batch_size=0",
            "batch_size=x",
        ] {
            let reply = server
                .get(&table("ns$t", &format!("fragments/0/rows?{query}")))
                .await;
            assert_refused(&reply);
        }
    }
}

both! {
    async fn an_aborted_upload_is_gone(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let upload = server.upload("ns$t", &batch_ab(3..10)).await;
        let id = text(&upload, "upload_id");
        let aborted = server
            .delete(&table("ns$t", &format!("uploads/{id}")))
            .await;
        assert!([200, 204].contains(&aborted.status), "{}", aborted.text());
        server.assert_unchanged(&before, "an aborted upload").await;
        let listed = server.get(&table("ns$t", "uploads")).await.ok();
        assert!(!listed.to_string().contains(&id), "{listed}");
        let by_upload = json!({"operation": "append", "read_version": 1, "uploads": [id]});
        let by_fragment = json!({
            "operation": "append", "read_version": 1, "fragments": upload["fragments"],
        });
        for body in [by_upload, by_fragment] {
            assert_error_in(&server.commit("ns$t", body).await, 400, &MISFIT);
        }
        assert_eq!(server.versions("ns$t").await, [1]);
    }
}

everywhere! {
    async fn an_abort_of_what_is_committed_takes_no_rows(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        for by in ["uploads", "fragments"] {
            let newest = server.versions("ns$t").await.len();
            let upload = server.upload("ns$t", &batch_ab(3..5)).await;
            let mut body = json!({"operation": "append", "read_version": newest});
            body[by] = match by {
                "uploads" => json!([upload["upload_id"]]),
                _ => upload["fragments"].clone(),
            };
            server.commit("ns$t", body).await.ok();
            let id = text(&upload, "upload_id");
            server
                .delete(&table("ns$t", &format!("uploads/{id}")))
                .await;
            assert_eq!(
                foreign::values(&location).await,
                server.values("ns$t").await
            );
        }
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 3, 4, 4]);
    }
}

everywhere! {
    async fn an_abort_of_nothing_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_table("ns$other", 3).await;
        let upload = server.upload("ns$other", &batch_ab(3..5)).await;
        let others = text(&upload, "upload_id");
        let unknown = uuid::Uuid::new_v4().to_string();
        for id in [
            others.as_str(),
            unknown.as_str(),
            "nonsense",
            "..%2F..",
            "%00",
        ] {
            assert_refused(
                &server
                    .delete(&table("ns$t", &format!("uploads/{id}")))
                    .await,
            );
        }
        // The other table's upload is still good.
        let body = json!({"operation": "append", "read_version": 1, "uploads": [others]});
        server.commit("ns$other", body).await.ok();
        assert_eq!(server.count("ns$other").await, 5);
    }
}

everywhere! {
    async fn nullable_columns_keep_their_nulls(server: TestServer) {
        server.with_table("ns$t", 1).await;
        let rows = batch(&[("a", ints_or_null(&[Some(7), None])), ("b", texts(0..2))]);
        server.append("ns$t", 1, &rows).await;
        let path = table("ns$t", "fragments/1/rows?columns=a");
        let back = read_stream(&server.get(&path).await.raw);
        assert_eq!(optional_ints(&back, "a"), [Some(7), None]);
    }
}
