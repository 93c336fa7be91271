//! Arrow IPC bodies: what must pass, and what must be refused without a trace.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Float64Array, Int8Array, Int32Array,
    Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::IpcWriteOptions;
use serde_json::json;

use crate::support::bad_arrow::bad_bodies;
use crate::support::batches::{batch, batch_ab, ints, ipc, ipc_with, row_count, texts};
use crate::support::code::*;
use crate::support::{assert_error, foreign, raw, table};

/// Every kind of column that a table of everyday use has.
fn batch_of_many_types() -> RecordBatch {
    let lists = vec![Some(vec![Some(1), None, Some(3)]), None, Some(Vec::new())];
    let x = (Arc::new(Field::new("x", DataType::Int32, true)), ints(0..3));
    let y = (Arc::new(Field::new("y", DataType::Utf8, true)), texts(0..3));
    let zoned = TimestampMicrosecondArray::from(vec![Some(1), None, Some(-5)]);
    let bytes: [&[u8]; 3] = [b"\x00\xff", b"", b"x"];
    batch(&[
        column("small", Int8Array::from(vec![Some(-1), None, Some(1)])),
        column("int", Int32Array::from(vec![None, Some(2), Some(i32::MIN)])),
        column("big", Int64Array::from(vec![i64::MIN, 0, i64::MAX])),
        column("unsigned", UInt64Array::from(vec![0, 1, u64::MAX])),
        column("real", Float64Array::from(vec![0.5, f64::MAX, -0.25])),
        column("flag", BooleanArray::from(vec![Some(true), None, Some(false)])),
        column("text", StringArray::from(vec![Some(""), None, Some("表 🦀")])),
        column("long_text", LargeStringArray::from(vec!["a", "b", "c"])),
        column("bytes", BinaryArray::from_iter_values(bytes)),
        column("day", Date32Array::from(vec![Some(0), None, Some(-1)])),
        column("moment", TimestampMicrosecondArray::from(vec![0, 1, -1])),
        column("zoned", zoned.with_timezone("UTC")),
        column("list", ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
        column("point", StructArray::from(vec![x, y])),
    ])
}

fn column(name: &'static str, values: impl Array + 'static) -> (&'static str, ArrayRef) {
    let values: ArrayRef = Arc::new(values);
    (name, values)
}

both! {
    async fn many_types_come_back_as_they_went(server: TestServer) {
        server.create_namespace("ns").await;
        let rows = batch_of_many_types();
        let created = server.create("ns$t", &rows).await;
        assert_eq!(created["version"], 1);
        let back = server.query("ns$t", json!({"k": 10})).await;
        assert_eq!(row_count(&back), 3);
        for (index, field) in rows.schema().fields().iter().enumerate() {
            let column = back[0].column_by_name(field.name()).expect("the column");
            assert_eq!(column, rows.column(index), "{}", field.name());
        }
    }
}

both! {
    async fn compressed_buffers_are_fine(server: TestServer) {
        server.with_table("ns$t", 0).await;
        let rows = batch_ab(0..5_000);
        for kind in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
            let options = IpcWriteOptions::default().try_with_compression(Some(kind));
            let stream = ipc_with(
                std::slice::from_ref(&rows),
                options.expect("both are built in"),
            );
            let inserted = server
                .post_arrow(&table("ns$t", "insert"), stream.clone())
                .await
                .ok();
            assert_eq!(inserted["num_inserted_rows"], 5_000, "{kind:?}");
            let upload = server
                .post_arrow(&table("ns$t", "fragments"), stream)
                .await
                .ok();
            assert_eq!(upload["num_rows"], 5_000, "{kind:?}");
        }
        let values = server.values("ns$t").await;
        assert_eq!(values.len(), 10_000);
        assert_eq!((values[0], values[9_999]), (0, 4_999));
    }
}

both! {
    async fn empty_batches_between_full_ones_are_fine(server: TestServer) {
        server.create_namespace("ns").await;
        let stream = ipc(&[
            batch_ab(0..0),
            batch_ab(0..2),
            batch_ab(0..0),
            batch_ab(2..3),
            batch_ab(0..0),
        ]);
        server
            .post_arrow(&table("ns$t", "create"), stream)
            .await
            .ok();
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
    }
}

both! {
    async fn a_body_in_pieces_is_fine(server: TestServer) {
        server.create_namespace("ns").await;
        let stream = ipc(&[batch_ab(0..50), batch_ab(50..100)]);
        let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
            stream.chunks(7).map(|piece| Ok(piece.to_vec())).collect();
        let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
        let request = server.arrow_request(&table("ns$t", "create")).body(body);
        server.send(request).await.ok();
        assert_eq!(server.values("ns$t").await, (0..100).collect::<Vec<_>>());
    }
}

both! {
    async fn bad_bodies_create_nothing(server: TestServer) {
        server.create_namespace("ns").await;
        let before = server.snapshot().await;
        for (what, body) in bad_bodies(["a", "b"]) {
            let reply = server.post_arrow(&table("ns$t", "create"), body).await;
            assert_eq!(reply.status, 400, "{what}: {}", reply.text());
            assert_error(&reply, 400, INVALID_INPUT);
            assert!(!server.exists("ns$t").await, "{what} left a row");
            server.assert_unchanged(&before, what).await;
        }
        server.create("ns$t", &batch_ab(0..3)).await;
    }
}

both! {
    async fn bad_bodies_insert_nothing(server: TestServer) {
        server.with_table("ns$t", 3).await;
        server.with_declared("ns$declared").await;
        let before = server.snapshot().await;
        for (what, body) in bad_bodies(["a", "b"]) {
            for id in ["ns$t", "ns$declared"] {
                let reply = server.post_arrow(&table(id, "insert"), body.clone()).await;
                assert_eq!(reply.status, 400, "{what}: {}", reply.text());
                assert_error(&reply, 400, INVALID_INPUT);
            }
            server.assert_unchanged(&before, what).await;
        }
        assert_eq!(server.versions("ns$t").await, [1]);
        assert!(server.versions("ns$declared").await.is_empty());
        assert_eq!(server.insert("ns$t", &batch_ab(3..4)).await["version"], 2);
    }
}

both! {
    async fn bad_bodies_upload_nothing(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let uploads = server.get(&table("ns$t", "uploads")).await.ok();
        let before = server.snapshot().await;
        for (what, body) in bad_bodies(["a", "b"]) {
            for operation in ["fragments", "fragments?mode=overwrite"] {
                let reply = server
                    .post_arrow(&table("ns$t", operation), body.clone())
                    .await;
                assert_eq!(reply.status, 400, "{what}: {}", reply.text());
                assert_error(&reply, 400, INVALID_INPUT);
            }
            server.assert_unchanged(&before, what).await;
        }
        let left = server.get(&table("ns$t", "uploads")).await.ok();
        assert_eq!(left, uploads, "uploads that never were");
        server.append("ns$t", 1, &batch_ab(3..4)).await;
    }
}

both! {
    async fn bad_bodies_add_no_columns(server: TestServer) {
        server.with_table("ns$t", 100).await;
        let before = server.snapshot().await;
        for (what, body) in bad_bodies(["x", "y"]) {
            let path = table("ns$t", "fragments/0/columns?read_version=1");
            let reply = server.post_arrow(&path, body).await;
            assert_eq!(reply.status, 400, "{what}: {}", reply.text());
            assert_error(&reply, 400, INVALID_INPUT);
            server.assert_unchanged(&before, what).await;
        }
        assert_eq!(server.versions("ns$t").await, [1]);
    }
}

both! {
    /// Whole files were written before the end went missing.
    async fn a_long_stream_cut_short_leaves_nothing(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let batches: Vec<_> = (0..20)
            .map(|part| batch_ab(part * 500..part * 500 + 500))
            .collect();
        let mut stream = ipc(&batches);
        stream.truncate(stream.len() - 8);
        let path = table("ns$t", "fragments?max_rows_per_file=1000");
        assert_error(
            &server.post_arrow(&path, stream.clone()).await,
            400,
            INVALID_INPUT,
        );
        server.assert_unchanged(&before, "a cut upload").await;
        let reply = server.post_arrow(&table("ns$t", "insert"), stream).await;
        assert_error(&reply, 400, INVALID_INPUT);
        server.assert_unchanged(&before, "a cut insert").await;
        assert_eq!(server.count("ns$t").await, 3);
    }
}

both! {
    /// The client dies in the middle of its body.
    async fn a_client_that_hangs_up_leaves_nothing(server: TestServer) {
        server.with_table("ns$t", 3).await;
        let before = server.snapshot().await;
        let batches: Vec<_> = (0..20)
            .map(|part| batch_ab(part * 500..part * 500 + 500))
            .collect();
        let stream = ipc(&batches);
        let half = &stream[..stream.len() / 2];
        for operation in [
            "fragments?max_rows_per_file=1000",
            "insert",
            "create?mode=overwrite",
        ] {
            raw::hang_up(&server, &table("ns$t", operation), stream.len(), half);
            server.assert_unchanged(&before, operation).await;
        }
        raw::hang_up(&server, &table("ns$new", "create"), stream.len(), half);
        server.assert_unchanged(&before, "create").await;
        assert_eq!(server.versions("ns$t").await, [1]);
        assert_eq!(server.values("ns$t").await, [0, 1, 2]);
        // Its name is free.
        server.create("ns$new", &batch_ab(0..2)).await;
    }
}

both! {
    /// A body may end in good order and the stream in it not.
    async fn the_end_of_the_body_is_not_the_end_of_the_stream(server: TestServer) {
        let location = server.with_table("ns$t", 3).await;
        let mut stream = ipc(&[batch_ab(3..10)]);
        stream.truncate(stream.len() - 8);
        let kind = [("content-type", "application/vnd.apache.arrow.stream")];
        let (status, body) =
            raw::exchange(&server, "POST", &table("ns$t", "insert"), &kind, &stream);
        assert_eq!(status, 400, "{body}");
        assert_eq!(foreign::values(&location).await, [0, 1, 2]);
    }
}
