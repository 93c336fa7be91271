//! Changes that mean harm, or only went wrong: each is refused, and nothing is left behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, ListArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use serde_json::{Value, json};

use crate::support::batches::{batch, batch_ab, batch_vectors, ints, ipc, texts};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, assert_error_in, table, text};

/// Names with which a table could not be read any more.
fn bad_names() -> Vec<String> {
    let names = ["", "a`b", "_distance", "_score", "_rowid", "_rowaddr", "a\nb", "a\u{0}b"];
    names.map(String::from).into_iter().chain(["n".repeat(1_025)]).collect()
}

async fn operate(server: &TestServer, operation: &str, body: Value) -> Reply {
    server.post(&table("ns$t", operation), body).await
}

fn column(name: &str, expression: &str) -> Value {
    json!({"name": name, "expression": expression})
}

/// The code is the spec's for wrong input, and the words hold nothing of Lance's insides.
fn assert_invalid(reply: &Reply, what: &str) {
    let what: String = what.chars().take(100).collect();
    assert_eq!(reply.status, 400, "{what}: {}", reply.text());
    assert_error(reply, 400, INVALID_INPUT);
    assert!(reply.raw.len() < 4_000, "{what}: {}", reply.text());
    for insides in ["inner:", "UDF", "Schema {", "Field {", ".rs:"] {
        assert!(!reply.text().contains(insides), "{what}: {}", reply.text());
    }
}

both! {
    async fn many_expressions_cost_no_more_than_one(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let named = |n: usize, text: &str| -> Value {
            (0..n).map(|at| column(&format!("c{at}"), text)).collect()
        };
        let deep = format!("a{}", "+1".repeat(99));
        let again = format!("{}a{}", "floor(".repeat(14), ")".repeat(14));
        let asked = Instant::now();
        for (what, columns) in [
            ("too many columns", named(1_001, "a")),
            ("too many operators together", named(11, &deep)),
            ("too much reading together", named(900, &again)),
            ("too much text together", named(2, &format!("'{}'", "x".repeat(600_000)))),
            ("too much growth together", named(70, "concat(b, b)")),
            ("none", json!([])),
        ] {
            let reply = operate(&server, "add_columns", json!({"new_columns": columns})).await;
            assert_invalid(&reply, what);
        }
        let updates = json!({"updates": [["a", format!("1{}", "+1".repeat(99))], ["b", "'x'"]],
            "predicate": format!("a=1{}", " OR a=1".repeat(460))});
        let reply = operate(&server, "update", updates).await;
        assert_invalid(&reply, "an update and its predicate");
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
        server.assert_unchanged(&before, "expressions that cost too much").await;
        let body = json!({"new_columns": named(100, "a + 1")});
        operate(&server, "add_columns", body).await.ok();
    }
}

everywhere! {
    async fn what_makes_long_texts_is_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let long = "z".repeat(3_900);
        for expression in [
            format!("length(replace(b,'q','{long}'))"),
            "length(replace(b,'q',b))".into(),
            format!("length(concat({}))", vec!["b"; 65].join(",")),
            format!("length(concat_ws({}))", vec!["b"; 65].join(",")),
            format!("length(b{})", "||b".repeat(64)),
            format!("array_length(make_array({}))", vec!["b"; 65].join(",")),
            format!("array_length([{}])", vec!["b"; 65].join(",")),
        ] {
            let body = json!({"predicate": format!("{expression} > 1")});
            assert_invalid(&operate(&server, "count_rows", body.clone()).await, &expression);
            assert_invalid(&operate(&server, "delete", body).await, &expression);
            let body = json!({"new_columns": [column("c", &expression)]});
            assert_invalid(&operate(&server, "add_columns", body).await, &expression);
            let body = json!({"updates": [["a", expression]]});
            assert_invalid(&operate(&server, "update", body).await, &expression);
        }
        for expression in [
            "length(replace(replace(b, '-', ''), ' ', '')) > 0",
            "length(regexp_replace(regexp_replace(b, '[^a-z0-9]+', '-'), '^-|-$', '')) > 0",
            "length(concat(b, ' (', b, ')')) > 0",
            "length(b || ' and ' || b) > 0",
        ] {
            let body = json!({"predicate": expression});
            assert_eq!(operate(&server, "count_rows", body).await.ok(), 3, "{expression}");
        }
    }
}

both! {
    async fn names_that_spoil_a_table_are_refused(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        for name in bad_names() {
            let body = json!({"new_columns": [column(&name, "a")]});
            assert_invalid(&operate(&server, "add_columns", body).await, &name);
            let body = json!({"alterations": [{"path": "a", "rename": name}]});
            assert_invalid(&operate(&server, "alter_columns", body).await, &name);
            let inner: Fields = vec![Field::new(&name, DataType::Int32, true)].into();
            let inner: ArrayRef = Arc::new(StructArray::new(inner, vec![ints(0..1)], None));
            let item = Arc::new(Field::new("item", inner.data_type().clone(), true));
            let offsets = OffsetBuffer::from_lengths([1]);
            let listed: ArrayRef = Arc::new(ListArray::new(item, offsets, inner.clone(), None));
            for rows in [
                batch(&[(name.as_str(), ints(0..1))]),
                batch(&[("s", inner)]),
                batch(&[("l", listed)]),
            ] {
                for path in
                    [table("ns$new", "create"), table("ns$t", "insert?mode=overwrite")]
                {
                    assert_invalid(&server.post_arrow(&path, ipc(std::slice::from_ref(&rows))).await, &name);
                }
            }
        }
        server.assert_unchanged(&before, "bad names").await;
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

both! {
    async fn what_formats_keep_with_a_field_is_not_a_callers(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let body = json!({"new_columns": [{"name": "c", "computed": "a + 1"}]});
        operate(&server, "add_columns", body).await.ok();
        let before = server.snapshot().await;
        for key in [
            "ARROW:extension:name", "arrow:extension:name", "lance-encoding:blob",
            "Lance-Encoding:compression", "lance-schema:unenforced-primary-key", "lance:x",
            "tiltyard:computed",
        ] {
            for value in [json!("x"), json!(null)] {
                for replace in [true, false] {
                    let update = json!({"path": "c", "metadata": {key: value}, "replace": replace});
                    let body = json!({"updates": [update]});
                    assert_invalid(&operate(&server, "update_field_metadata", body).await, key);
                }
            }
        }
        server.assert_unchanged(&before, "reserved keys").await;
        let body = json!({"updates": [{"path": "c", "metadata": {"unit": "m"}, "replace": true}]});
        let kept = operate(&server, "update_field_metadata", body).await.ok();
        let expected = json!({"unit": "m", "tiltyard:computed": "a + 1"});
        assert_eq!(kept["fields"]["c"], expected, "{kept}");
    }
}

both! {
    async fn a_fault_of_an_expression_is_no_failure_of_ours(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let panics = "date_trunc('week', arrow_cast(-9223372036854775807 + a - a, \
             'Timestamp(Nanosecond, None)')) IS NULL";
        for (column_value, condition) in [
            ("regexp_replace(b,'(','x')", "regexp_replace(b,'(','x') = 'x'"),
            ("sum(a)", "sum(a) = 1"),
            ("row_number() OVER ()", "row_number() OVER () = 1"),
            ("(SELECT 1)", "a IN (SELECT 1)"),
            ("nosuch(a)", "nosuch(a) = 1"),
            (panics, panics),
        ] {
            let added = json!({"new_columns": [column("c", column_value)]});
            let updated = json!({"updates": [["b", column_value]]});
            let chosen = json!({"updates": [["b", "'x'"]], "predicate": condition});
            let deleted = json!({"predicate": condition});
            for (operation, body) in [
                ("add_columns", added),
                ("update", updated),
                ("update", chosen),
                ("delete", deleted.clone()),
                ("count_rows", deleted),
                ("query", json!({"k": 1, "filter": condition})),
            ] {
                let reply = operate(&server, operation, body).await;
                assert_invalid(&reply, &format!("{operation}: {condition}"));
            }
        }
        let path = "merge_insert?on=a&when_matched_update_all=true&\
             when_matched_update_all_filt=nosuch(1)%3D1";
        let reply = server.post_arrow(&table("ns$t", path), ipc(&[batch_ab(1..2)])).await;
        assert_invalid(&reply, "a merge");
        let reply = operate(&server, "count_rows", json!({"predicate": "sum(a) = 1"})).await;
        assert!(reply.text().contains("aggregate and window functions"), "{}", reply.text());
        server.assert_unchanged(&before, "faults of expressions").await;
    }
}

async fn outcome_of_index(server: &TestServer, body: Value) -> (String, String) {
    let reply = operate(server, "create_index", body).await;
    if reply.status != 200 {
        assert_error_in(&reply, 400, &[INVALID_INPUT]);
        return ("Failed".into(), reply.text());
    }
    let id = text(&reply.ok(), "transaction_id");
    let started = Instant::now();
    loop {
        let path = format!("/v1/transaction/{id}/describe");
        let job = server.post(&path, json!({})).await.ok();
        if !["Queued", "Running"].contains(&text(&job, "status").as_str()) {
            return (text(&job, "status"), job["properties"]["error"].to_string());
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{job}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

everywhere! {
    async fn indexes_that_cannot_be_are_refused(server: TestServer) {
        let vectors = |value: f32| -> ArrayRef {
            let numbers = Arc::new(Float32Array::from(vec![value; 300 * 8]));
            let item = Arc::new(Field::new("item", DataType::Float32, true));
            Arc::new(FixedSizeListArray::new(item, 8, numbers, None))
        };
        let item = Arc::new(Field::new("item", DataType::Int32, true));
        let offsets = OffsetBuffer::from_lengths([1; 300]);
        let list = ListArray::new(item, offsets, ints(0..300), None);
        server.create_namespace("ns").await;
        server.create("ns$t", &batch(&[
            ("nan", vectors(f32::NAN)),
            ("inf", vectors(f32::INFINITY)),
            ("v", vectors(1.0)),
            ("lst", Arc::new(list)),
            ("b", texts(0..300)),
        ])).await;
        let versions = server.versions("ns$t").await;
        for body in [
            json!({"column": "nan", "index_type": "IVF_FLAT"}),
            json!({"column": "inf", "index_type": "IVF_FLAT"}),
            json!({"column": "lst.item", "index_type": "BTREE"}),
            json!({"column": "lst.item", "index_type": "BITMAP"}),
            json!({"column": "v", "index_type": "IVF_HNSW_SQ", "m": 20, "ef_construction": 19}),
        ] {
            let (status, said) = outcome_of_index(&server, body.clone()).await;
            assert_eq!(status, "Failed", "{body}");
            assert!(!said.contains("internal"), "{body}: {said}");
        }
        assert_eq!(server.versions("ns$t").await, versions);
    }
}

everywhere! {
    async fn any_number_of_probes_is_taken(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch_vectors(300, 8)).await;
        let body = json!({"column": "vec", "index_type": "IVF_FLAT", "num_partitions": 2});
        let schema = server.describe("ns$t").await;
        let name = schema["schema"]["fields"].as_array().into_iter().flatten()
            .find(|field| field["type"]["type"] == "fixed_size_list")
            .map(|field| text(field, "name")).expect("a column of vectors");
        let mut body = body;
        body["column"] = json!(name);
        let (status, said) = outcome_of_index(&server, body).await;
        assert_eq!(status, "Succeeded", "{said}");
        let huge = 1_u64 << 63;
        for probes in [
            json!({"nprobes": huge}),
            json!({"minimum_nprobes": huge}),
            json!({"maximum_nprobes": huge}),
            json!({"minimum_nprobes": huge, "maximum_nprobes": huge}),
        ] {
            let mut body = json!({"k": 3, "vector": {"single_vector": vec![1.0; 8]},
                "vector_column": name});
            body.as_object_mut().unwrap().extend(probes.as_object().unwrap().clone());
            let reply = operate(&server, "query", body).await;
            assert!([200, 400].contains(&reply.status), "{probes}: {}", reply.text());
        }
    }
}

everywhere! {
    async fn transactions_and_batches_are_bounded(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let inserted = operate(&server, "update", json!({"updates": [["a", "a"]]})).await.ok();
        let id = match inserted["transaction_id"].as_str() {
            Some(id) => id.to_owned(),
            None => panic!("{inserted}"),
        };
        let path = format!("/v1/transaction/{id}/alter");
        let set = |key: String, value: String| {
            json!({"setPropertyAction": {"key": key, "value": value, "mode": "Overwrite"}})
        };
        let long = "v".repeat(60_000);
        let apart: Vec<Value> = (0..20).map(|at| set(format!("k{at}"), long.clone())).collect();
        let again: Vec<Value> = (0..20).map(|_| set("k".into(), long.clone())).collect();
        let many: Vec<Value> = (0..1_001).map(|_| set("k".into(), "v".into())).collect();
        for (what, actions) in [("large", &apart), ("the same again", &again), ("many", &many)] {
            let reply = server.post(&path, json!({"actions": actions})).await;
            assert_invalid(&reply, what);
        }
        server.post(&path, json!({"actions": apart[..17]})).await.ok();
        let reply = server.post(&path, json!({"actions": apart[17..]})).await;
        assert_invalid(&reply, "more than there is room for");

        // The number of operations is looked at before their tables, which are not there.
        let operation = json!({"deregister_table": {"id": ["ns", "no"]}});
        let operations = vec![operation; 1_001];
        let reply = server.post("/v1/table/batch-commit", json!({"operations": operations})).await;
        assert_invalid(&reply, "too many operations");
        let entry = json!({"id": ["ns", "no"], "version": 2, "manifest_path": "x"});
        let entries = vec![entry; 1_001];
        let reply = server.post("/v1/table/version/batch-create", json!({"entries": entries})).await;
        assert_invalid(&reply, "too many entries");
    }
}
