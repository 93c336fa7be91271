//! The LanceDB dialect: blobs, whole and by ranges.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, LargeBinaryArray, NullBufferBuilder, RecordBatch, StringArray,
    StructArray,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, UInt64Type};
use lance::dataset::{InsertBuilder, WriteParams};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::batches::{ints, ipc, read_file, read_stream};
use crate::support::code::*;
use crate::support::{Reply, TestServer, assert_error, assert_error_in, enc, files_under};

fn path(id: &str, operation: &str) -> String {
    format!("/v1/table/{id}/{operation}/")
}

/// A column of blobs, in the form in which clients send them.
fn blob_field(name: &str) -> Field {
    let parts = Fields::from(vec![
        Field::new("data", DataType::LargeBinary, true),
        Field::new("uri", DataType::Utf8, true),
    ]);
    let mark = HashMap::from([("ARROW:extension:name".into(), "lance.blob.v2".into())]);
    Field::new(name, DataType::Struct(parts), true).with_metadata(mark)
}

/// Blobs with their bytes, or with the place where these are.
fn blobs(values: &[Option<&[u8]>], places: &[Option<&str>]) -> ArrayRef {
    let DataType::Struct(parts) = blob_field("").data_type().clone() else { unreachable!() };
    let mut valid = NullBufferBuilder::new(values.len());
    for (value, place) in values.iter().zip(places) {
        valid.append(value.is_some() || place.is_some());
    }
    let data: ArrayRef = Arc::new(LargeBinaryArray::from_iter(values.iter().copied()));
    let uri: ArrayRef = Arc::new(StringArray::from_iter(places.iter().copied()));
    Arc::new(StructArray::new(parts, vec![data, uri], valid.finish()))
}

fn rows_with(values: &[Option<&[u8]>]) -> RecordBatch {
    let fields = vec![Field::new("id", DataType::Int32, true), blob_field("image")];
    let places = vec![None; values.len()];
    let count = i32::try_from(values.len()).expect("a few");
    let columns = vec![ints(0..count), blobs(values, &places)];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("rows")
}

/// Each in another place: with the rows, packed with others, in a file of its own.
fn payloads() -> [Option<Vec<u8>>; 6] {
    let bytes = |length: usize| (0..length).map(|n| (n % 251) as u8).collect::<Vec<u8>>();
    [
        Some(b"0123456789".to_vec()),
        None,
        Some(Vec::new()),
        Some(bytes(300_000)),
        Some(bytes(9_000_000)),
        Some(b"last".to_vec()),
    ]
}

async fn with_blobs(server: &TestServer) -> Vec<u64> {
    server.create_namespace("ns").await;
    let payloads = payloads();
    let values: Vec<Option<&[u8]>> = payloads.iter().map(Option::as_deref).collect();
    let rows = rows_with(&values);
    let create = format!("{}?mode=create", path("ns$t", "create"));
    server.post_arrow(&create, ipc(&[rows])).await.ok();
    ids(server).await
}

/// The ids of the rows, in their order.
async fn ids(server: &TestServer) -> Vec<u64> {
    let body = json!({"columns": ["id"], "with_row_id": true, "vector": []});
    let reply = server.post(&path("ns$t", "query"), body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let column = |batch: &RecordBatch| batch.column_by_name("_rowid").expect("ids").clone();
    let ids: Vec<ArrayRef> = read_file(&reply.raw).iter().map(column).collect();
    ids.iter().flat_map(|ids| ids.as_primitive::<UInt64Type>().values().to_vec()).collect()
}

async fn fetch(server: &TestServer, column: &str, ids: &[u64]) -> Reply {
    let body = json!({"version": null, "column": column, "row_ids": ids});
    server.post(&path("ns$t", "fetch_blobs"), body).await
}

#[track_caller]
fn fetched(reply: &Reply, column: &str) -> Vec<Option<Vec<u8>>> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut values = Vec::new();
    for batch in read_stream(&reply.raw) {
        let column = batch.column_by_name(column).expect("the column");
        let column = column.as_binary::<i64>();
        values.extend(column.iter().map(|value| value.map(<[u8]>::to_vec)));
    }
    values
}

async fn get(server: &TestServer, row: u64, range: Option<&str>) -> Reply {
    get_at(server, &format!("/v1/table/ns$t/blob/image/{row}/bytes"), range).await
}

async fn get_at(server: &TestServer, path: &str, range: Option<&str>) -> Reply {
    let mut request = server.request(Method::GET, path);
    if let Some(range) = range {
        request = request.header("range", range.to_owned());
    }
    server.send(request).await
}

both! {
    async fn blobs_are_fetched_whole(server: TestServer) {
        let ids = with_blobs(&server).await;
        let reply = fetch(&server, "image", &ids).await;
        assert_eq!(reply.header("content-type"), Some("application/vnd.apache.arrow.stream"));
        assert_eq!(reply.header("x-lancedb-version"), Some("1"));
        assert_eq!(fetched(&reply, "image"), payloads());
        let some = [ids[5], ids[0], ids[1], ids[5], ids[2]];
        let payloads = payloads();
        let expected: Vec<_> = [5, 0, 1, 5, 2].iter().map(|at| payloads[*at].clone()).collect();
        assert_eq!(fetched(&fetch(&server, "image", &some).await, "image"), expected);
        assert_eq!(fetched(&fetch(&server, "image", &[]).await, "image"), []);
    }
}

both! {
    async fn what_cannot_be_fetched_is_refused(server: TestServer) {
        let ids = with_blobs(&server).await;
        let refused = async |column: &str, ids: &[u64], words: &str| {
            let reply = fetch(&server, column, ids).await;
            assert_error_in(&reply, 400, &[INVALID_INPUT, TABLE_COLUMN_NOT_FOUND]);
            assert!(reply.text().contains(words), "{}", reply.text());
        };
        refused("id", &ids, "is not a blob column").await;
        refused("nothing", &ids, "nothing").await;
        refused("image.data", &ids, "").await;
        refused("", &ids, "").await;
        refused("image", &[ids[0], 4_000_000], "_rowid").await;
        refused("image", &[u64::MAX], "_rowid").await;
        refused("image", &vec![ids[0]; 1_025], "1024").await;
        // Eight of nine megabytes are more than 64 MiB.
        refused("image", &[ids[4]; 8], "fetch_blobs accepts at most").await;
        refused("image", &[ids[4]; 8], "total blob bytes").await;
        server.post(&path("ns$t", "delete"), json!({"predicate": "id = 0"})).await.ok();
        refused("image", &[ids[0]], "_rowid").await;
        let old = json!({"version": 1, "column": "image", "row_ids": [ids[0]]});
        let reply = server.post(&path("ns$t", "fetch_blobs"), old).await;
        assert_eq!(fetched(&reply, "image"), [payloads()[0].clone()]);
        for body in [json!({}), json!({"column": "image"}), json!({"column": "image", "row_ids": 3}),
            json!({"column": "image", "row_ids": [-1]}), json!({"column": 3, "row_ids": []})] {
            let reply = server.post(&path("ns$t", "fetch_blobs"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        let reply = server.post(&path("ns$no", "fetch_blobs"),
            json!({"column": "image", "row_ids": []})).await;
        assert_error(&reply, 404, TABLE_NOT_FOUND);
    }
}

both! {
    async fn a_blob_is_read_by_ranges(server: TestServer) {
        let ids = with_blobs(&server).await;
        let big = payloads()[4].clone().expect("a big one");
        for (row, range, expected, said) in [
            (0, "bytes=0-0", b"0".to_vec(), "bytes 0-0/10"),
            (0, "bytes=3-5", b"345".to_vec(), "bytes 3-5/10"),
            (0, "bytes=8-400", b"89".to_vec(), "bytes 8-9/10"),
            (0, "bytes=-2", b"89".to_vec(), "bytes 8-9/10"),
            (0, "bytes=7-", b"789".to_vec(), "bytes 7-9/10"),
            (3, "bytes=299998-299999", big[299_998..300_000].to_vec(), "bytes 299998-299999/300000"),
            (4, "bytes=10-8999999", big[10..].to_vec(), "bytes 10-8999999/9000000"),
        ] {
            let reply = get(&server, ids[row], Some(range)).await;
            assert_eq!(reply.status, 206, "{range}: {}", reply.text());
            assert_eq!(reply.header("content-range"), Some(said));
            assert_eq!(reply.header("x-lancedb-version"), Some("1"));
            assert!(reply.raw == expected, "{range}");
        }
        let reply = get(&server, ids[3], None).await;
        assert_eq!((reply.status, reply.header("content-range")), (200, None));
        assert_eq!(reply.raw, payloads()[3].clone().unwrap_or_default());
        let reply = get(&server, ids[1], Some("bytes=0-0")).await;
        assert_eq!((reply.status, reply.raw.len()), (204, 0), "null");
        let reply = get(&server, ids[2], Some("bytes=0-0")).await;
        assert_eq!(reply.status, 416, "empty");
        assert_eq!(reply.header("content-range"), Some("bytes */0"));
        let reply = get(&server, ids[0], Some("bytes=10-10")).await;
        assert_eq!(reply.status, 416);
        assert_eq!(reply.header("content-range"), Some("bytes */10"));
        for bad in ["bytes=5-2", "bytes=", "bytes=0-1,3-4", "bytes=a-b"] {
            assert_error(&get(&server, ids[0], Some(bad)).await, 400, INVALID_INPUT);
        }
    }
}

both! {
    async fn the_size_of_a_blob_is_told(server: TestServer) {
        let ids = with_blobs(&server).await;
        for (row, status, length) in [(0, 200, "10"), (4, 200, "9000000"), (2, 200, "0")] {
            let path = format!("/v1/table/ns$t/blob/image/{}/bytes", ids[row]);
            let reply = server.send(server.request(Method::HEAD, &path)).await;
            assert_eq!((reply.status, reply.raw.len()), (status, 0));
            assert_eq!(reply.header("content-length"), Some(length));
        }
        let path = format!("/v1/table/ns$t/blob/image/{}/bytes", ids[1]);
        let reply = server.send(server.request(Method::HEAD, &path)).await;
        assert_eq!(reply.status, 204);
    }
}

both! {
    /// A descriptor says of which table and version it is; that must still be so.
    async fn a_blob_is_found_by_its_descriptor(server: TestServer) {
        let ids = with_blobs(&server).await;
        let location = enc(&server.location("ns$t").await);
        let at = |query: &str| format!("/v1/table/ns$t/blob/image/{}/bytes?{query}", ids[0]);
        for query in ["version=1", &format!("version=1&source_uri={location}&row_is_address=false"),
            &format!("source_uri={location}&row_is_address=true")] {
            let reply = get_at(&server, &at(query), Some("bytes=0-1")).await;
            assert_eq!((reply.status, reply.raw.as_slice()), (206, b"01".as_slice()), "{query}");
        }
        let other = enc("/somewhere/else");
        for (query, code) in [
            (format!("source_uri={other}&row_is_address=false"), INVALID_INPUT),
            (format!("source_uri={location}&source_commit_micros=7"), INVALID_INPUT),
            ("version=9".into(), TABLE_VERSION_NOT_FOUND),
            ("version=no".into(), INVALID_INPUT),
        ] {
            assert_error(&get_at(&server, &at(&query), None).await, 400, code);
        }
        for (path, status) in [
            ("/v1/table/ns$t/blob/image/77/bytes", 400),
            ("/v1/table/ns$t/blob/image/none/bytes", 400),
            ("/v1/table/ns$t/blob/nothing/0/bytes", 400),
            ("/v1/table/ns$t/blob/id/0/bytes", 400),
            ("/v1/table/ns$none/blob/image/0/bytes", 404),
        ] {
            let reply = get_at(&server, path, None).await;
            assert_eq!(reply.status, status, "{path}: {}", reply.text());
        }
    }
}

both! {
    /// Sizes of blobs are read from their descriptors.
    async fn a_query_answers_descriptors(server: TestServer) {
        let ids = with_blobs(&server).await;
        let body = json!({"columns": ["image"], "with_row_id": true, "vector": [], "use_rte": false,
            "filter": format!("_rowid IN ({}, {}, {})", ids[0], ids[1], ids[4])});
        let reply = server.post(&path("ns$t", "query"), body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let rows = read_file(&reply.raw);
        let descriptors = rows[0].column_by_name("image").expect("the column").as_struct();
        let sizes = descriptors.column_by_name("size").expect("sizes");
        let sizes = sizes.as_primitive::<UInt64Type>();
        assert_eq!((sizes.value(0), sizes.value(2)), (10, 9_000_000));
        assert!(descriptors.is_null(1) || sizes.value(1) == 0);
    }
}

both! {
    async fn blobs_are_inserted_and_go_with_an_upload(server: TestServer) {
        let ids_before = with_blobs(&server).await;
        let big = vec![7_u8; 9_000_000];
        let rows = rows_with(&[Some(b"new"), Some(&big), None]);
        server.post_arrow(&path("ns$t", "insert"), ipc(std::slice::from_ref(&rows))).await.ok();
        let ids = ids(&server).await;
        assert_eq!(ids.len(), ids_before.len() + 3);
        let reply = fetch(&server, "image", &ids[6..]).await;
        assert_eq!(fetched(&reply, "image"), [Some(b"new".to_vec()), Some(big), None]);
        let location = server.location("ns$t").await;
        let before = files_under(std::path::Path::new(&location));
        let upload: Value = server.upload("ns$t", &rows).await;
        assert!(files_under(std::path::Path::new(&location)).len() > before.len() + 1);
        let id = upload["upload_id"].as_str().expect("an id");
        let reply = server.delete(&format!("/v1/table/ns$t/uploads/{id}")).await;
        assert!(reply.status < 300, "{}", reply.text());
        assert_eq!(files_under(std::path::Path::new(&location)), before, "nothing is left");
    }
}

both! {
    /// A blob may stand elsewhere only where tables may.
    async fn a_blob_elsewhere_is_not_taken(server: TestServer) {
        server.create_namespace("ns").await;
        let fields = vec![Field::new("id", DataType::Int32, true), blob_field("image")];
        let secret = server.home().join("secret");
        std::fs::write(&secret, b"not for you").expect("a file");
        let place = format!("file://{}", secret.display());
        let columns = vec![ints(0..1), blobs(&[None], &[Some(&place)])];
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("rows");
        let reply = server.post_arrow(&path("ns$t", "create"), ipc(&[rows])).await;
        assert_error_in(&reply, 400, &[INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR]);
        assert!(!server.exists("ns$t").await);
    }
}

both! {
    /// Whoever writes data files says where blobs stand; only what is the lake's is read.
    async fn a_blob_that_others_put_elsewhere_is_not_read(server: TestServer) {
        let location = server.with_declared("ns$t").await;
        let outside = server.home().join("secret");
        let inside = server.lake().join("shared.bin");
        let beside = server.lake().join("..").join("secret");
        let places: Vec<String> = [&outside, &inside, &beside]
            .map(|file| format!("file://{}", file.display()))
            .to_vec();
        std::fs::write(&outside, b"not for you").expect("a file");
        std::fs::write(&inside, b"for all").expect("a file");
        let fields = vec![Field::new("id", DataType::Int32, true), blob_field("image")];
        let uris: Vec<Option<&str>> = places.iter().map(|place| Some(place.as_str())).collect();
        let columns = vec![ints(0..3), blobs(&[None; 3], &uris)];
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("rows");
        let params = WriteParams { allow_external_blob_outside_bases: true, ..Default::default() };
        let insert = InsertBuilder::new(location.as_str()).with_params(&params);
        Box::pin(insert.execute(vec![rows])).await.expect("a foreign write");
        let ids = ids(&server).await;
        assert_eq!(fetched(&fetch(&server, "image", &ids[1..2]).await, "image"),
            [Some(b"for all".to_vec())]);
        let reply = get(&server, ids[1], Some("bytes=4-6")).await;
        assert_eq!((reply.status, reply.raw.as_slice()), (206, b"all".as_slice()));
        for row in [ids[0], ids[2]] {
            for reply in [fetch(&server, "image", &[ids[1], row]).await,
                get(&server, row, Some("bytes=0-0")).await, get(&server, row, None).await] {
                assert_error(&reply, 400, INVALID_INPUT);
                assert!(reply.text().contains("does not read"), "{}", reply.text());
            }
        }
    }
}
