//! What a caller says of fragments and places is checked, not believed: each of these once made a
//! table that lost, doubled or could not read its rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray};
use arrow::datatypes::Field;
use futures::future::join_all;
use serde_json::json;

use crate::support::batches::{
    batch, batch_ab, batch_not_null, int_values, ints, ipc, optional_ints, texts,
};
use crate::support::code::*;
use crate::support::{assert_error, assert_error_in, foreign, table};

const MISFIT: [u64; 2] = [INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR];

fn in_struct(name: &str, column: ArrayRef) -> ArrayRef {
    let field = Arc::new(Field::new(name, column.data_type().clone(), true));
    Arc::new(StructArray::from(vec![(field, column)]))
}

both! {
    async fn a_number_given_to_a_new_fragment_is_not_kept(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        let mut fragments = foreign::fragments(&location, batch_ab(2..4)).await;
        fragments[0]["id"] = json!(u32::MAX);
        let body = json!({"operation": "append", "read_version": 1, "fragments": fragments});
        server.commit("ns$t", body).await.ok();
        server.insert("ns$t", &batch_ab(4..6)).await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2, 3, 4, 5]);
        assert_eq!(foreign::open(&location).await.fragments().last().expect("one").id, 2);
    }
}

both! {
    async fn what_is_inside_a_struct_has_to_fit(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch(&[("s", in_struct("x", ints(0..2)))])).await;
        server.create("ns$other", &batch(&[("s", in_struct("y", texts(0..2)))])).await;
        let (here, there) = (server.location("ns$t").await, server.location("ns$other").await);
        let files = server.get(&table("ns$other", "fragments")).await.ok();
        let name = files["fragments"][0]["files"][0]["path"].as_str().expect("a path").to_owned();
        let data = |location: &str| foreign::folder(location).join("data").join(&name);
        std::fs::copy(data(&there), data(&here)).expect("a copied file");
        let body =
            json!({"operation": "append", "read_version": 1, "fragments": files["fragments"]});
        assert_error_in(&server.commit("ns$t", body).await, 400, &MISFIT);
        assert_eq!(server.count("ns$t").await, 2);
    }
}

both! {
    /// The other fragments read the column as null, so it may be null.
    async fn a_column_that_may_not_be_null_for_some_fragments(server: TestServer) {
        let location = server.with_table("ns$t", 2).await;
        server.append("ns$t", 1, &batch_ab(2..4)).await;
        let path = table("ns$t", "fragments/0/columns?read_version=2");
        let upload = server.upload_to(&path, &batch_not_null("c", 5..7)).await;
        let body = json!({
            "operation": "merge", "read_version": 2, "uploads": [upload["upload_id"]],
        });
        server.commit("ns$t", body).await.ok();
        let rows = [foreign::rows(&location).await];
        assert_eq!(int_values(&rows, "a"), [0, 1, 2, 3]);
        assert_eq!(optional_ints(&rows, "c"), [Some(5), Some(6), None, None]);
    }
}

both! {
    /// What the table knows of a file is not the caller's to change.
    async fn a_merge_does_not_rewrite_what_is_there(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let before = foreign::rows(&location).await;
        let path = table("ns$t", "fragments/0/columns?read_version=1");
        let rows = batch(&[("c", ints(5..8))]);
        let upload = server.upload_to(&path, &rows).await;
        for (fields, columns) in [([0, -2], [0, 1]), ([1, 0], [0, 1]), ([0, 1], [1, 0])] {
            let mut fragment = upload["fragment"].clone();
            fragment["files"][0]["fields"] = json!(fields);
            fragment["files"][0]["column_indices"] = json!(columns);
            let body = json!({
                "operation": "merge", "read_version": 1, "schema": upload["schema"],
                "fragments": [fragment],
            });
            let status = server.commit("ns$t", body).await.status;
            assert!(status == 200 || (400..500).contains(&status), "{status}");
            let after = foreign::rows(&location).await;
            assert_eq!(after.column_by_name("a"), before.column_by_name("a"), "{fields:?}");
            assert_eq!(after.column_by_name("b"), before.column_by_name("b"), "{fields:?}");
        }
    }
}

both! {
    async fn swapped_columns_are_refused(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch(&[("a", ints(0..2)), ("b", ints(10..12))])).await;
        let location = server.location("ns$t").await;
        let rows = batch(&[("a", ints(2..3)), ("b", ints(12..13))]);
        let mut fragments = foreign::fragments(&location, rows).await;
        fragments[0]["files"][0]["column_indices"] = json!([1, 0]);
        let body = json!({"operation": "append", "read_version": 1, "fragments": fragments});
        assert_error(&server.commit("ns$t", body).await, 400, INVALID_INPUT);
    }
}

both! {
    /// Committed past the server by its fragments, then here by its id: the rows are there once.
    async fn an_upload_that_was_committed_elsewhere_does_not_double(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let upload = server.upload("ns$t", &batch_ab(3..10)).await;
        assert_eq!(foreign::commit_append(&location, &upload["fragments"]).await, 2);
        let body = json!({
            "operation": "append", "read_version": 2, "uploads": [upload["upload_id"]],
        });
        assert_error(&server.commit("ns$t", body).await, 400, INVALID_INPUT);
        assert_eq!(server.count("ns$t").await, 10);
    }
}

both! {
    /// A folder that holds files of others survives a creation that fails in it, and a drop.
    async fn a_creation_that_fails_takes_no_files_of_others(server: TestServer) {
        server.create_namespace("ns").await;
        let team = server.lake().join("team");
        let inner = team.join("a.lance").display().to_string();
        foreign::create(&inner, batch_ab(0..3)).await;
        std::fs::write(team.join("notes.txt"), "keep").expect("a file");
        let before = server.files();
        let cut = ipc(&[batch_ab(0..3)]);
        let path = table("ns$t", "create?location=team");
        assert_error(&server.post_arrow(&path, cut[..cut.len() - 8].to_vec()).await, 400, INVALID_INPUT);
        server.assert_files(&before, "a creation that failed").await;
        assert!(!server.exists("ns$t").await);
        server.post_arrow(&path, ipc(&[batch_ab(0..3)])).await.ok();
        server.post_empty(&table("ns$t", "drop")).await.ok();
        server.assert_files(&before, "a drop").await;
        assert_eq!(foreign::values(&inner).await, [0, 1, 2]);
    }
}

both! {
    /// Of several who want one place, one gets it and keeps it.
    async fn one_place_for_one_table(server: TestServer) {
        server.create_namespace("ns").await;
        for round in 0..5 {
            let names: Vec<String> = (0..4).map(|n| format!("ns$t{round}_{n}")).collect();
            let creations = names.iter().enumerate().map(|(n, name)| {
                let place = if n == 3 { format!("p{round}/in") } else { format!("p{round}") };
                let path = table(name, &format!("create?location={}", crate::support::enc(&place)));
                let server = &server;
                async move { server.post_arrow(&path, ipc(&[batch_ab(0..3)])).await.status }
            });
            let statuses = join_all(creations).await;
            let won = statuses.iter().filter(|status| **status == 200).count();
            assert_eq!(won, 1, "{statuses:?}");
            for (name, status) in names.iter().zip(&statuses) {
                assert_eq!(server.exists(name).await, *status == 200, "{statuses:?}");
                if *status == 200 {
                    assert_eq!(server.values(name).await, [0, 1, 2]);
                }
            }
        }
    }
}

both! {
    /// A space at the end is no part of a place: URLs lose it, and come to be another place.
    async fn spaces_do_not_lead_elsewhere(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let lake = server.lake().display().to_string();
        for place in [format!("{lake}/ "), ".. ".into(), " ".into(), format!("{location} ")] {
            for operation in ["declare", "register"] {
                let reply =
                    server.post(&table("ns$x", operation), json!({"location": place})).await;
                assert_error(&reply, 400, INVALID_INPUT);
            }
        }
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

both! {
    /// Others cleaned up, and a tag kept the version that the catalog knows.
    async fn versions_behind_a_tag_are_seen(server: TestServer) {
        let location = server.with_table("ns$t", 1).await;
        assert_eq!(server.count("ns$t").await, 1);
        foreign::open(&location).await.tags().create("kept", 1).await.expect("a tag");
        for n in 1..5 {
            foreign::append(&location, batch_ab(n..n + 1)).await;
        }
        foreign::clean_up(&location).await;
        assert_eq!(server.count("ns$t").await, 5);
        assert_eq!(server.versions("ns$t").await, [1, 5]);
    }
}
