//! Arrow streams that are made to cost the server its memory, its disk or a table.
//!
//! Each body is small. What it would become is not.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ByteView, DictionaryArray, FixedSizeListArray, Int32Array,
    LargeListArray, ListArray, NullArray, RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::{DictionaryHandling, IpcWriteOptions};
use serde_json::json;

use crate::support::batches::{
    batch, ints, ipc, ipc_with, ipc_without_rows, read_stream, row_count, text_values,
};
use crate::support::code::*;
use crate::support::{Backend, Reply, TestServer, assert_error, assert_error_in, table};

const KIBIBYTE: usize = 1 << 10;
const MEBIBYTE: usize = 1 << 20;

/// A server that takes batches of at most one mebibyte.
async fn limited() -> TestServer {
    let server = TestServer::spawn_with(Backend::Sqlite, |settings| {
        settings.max_batch_bytes = MEBIBYTE as u64;
    });
    server.await.expect("SQLite is always there")
}

/// Sends a body to each operation that takes rows, which all must refuse it and do nothing.
async fn assert_refused_everywhere(server: &TestServer, what: &str, body: &[u8], codes: &[u64]) {
    assert!(body.len() < 4 * MEBIBYTE, "{what}: a body of {} bytes", body.len());
    let before = server.snapshot().await;
    for path in [
        table("ns$new", "create"),
        table("ns$t", "create?mode=overwrite"),
        table("ns$t", "insert?mode=overwrite"),
        table("ns$t", "fragments?mode=overwrite"),
        table("ns$declared", "insert"),
    ] {
        let reply = server.post_arrow(&path, body.to_vec()).await;
        assert_eq!(reply.status, 400, "{what}: {path}: {}", reply.text());
        assert_error_in(&reply, 400, codes);
        assert_eq!(server.get("/healthz").await.status, 200, "{what}: {path}");
    }
    server.assert_unchanged(&before, what).await;
    assert!(!server.exists("ns$new").await, "{what} left a row");
    assert_eq!(server.versions("ns$t").await, [1], "{what}");
}

/// What [`assert_refused_everywhere`] writes to.
async fn with_targets(server: &TestServer) {
    server.with_table("ns$t", 3).await;
    server.with_declared("ns$declared").await;
}

async fn create(server: &TestServer, id: &str, stream: Vec<u8>) -> Reply {
    server.post_arrow(&table(id, "create"), stream).await
}

fn one_column(values: impl Array + 'static) -> RecordBatch {
    batch(&[("x", Arc::new(values) as ArrayRef)])
}

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, true))
}

/// One list of `length` nulls, which take no bytes.
fn list_of_nulls(length: usize) -> RecordBatch {
    let offsets = OffsetBuffer::from_lengths([length]);
    let nulls = Arc::new(NullArray::new(length));
    one_column(LargeListArray::new(item(DataType::Null), offsets, nulls, None))
}

both! {
    async fn rows_without_bytes_are_counted(server: TestServer) {
        with_targets(&server).await;
        let bodies = [
            ("a list of 2^40 nulls", list_of_nulls(1 << 40)),
            ("a list of 2^31 nulls", list_of_nulls(1 << 31)),
            ("2^31 - 1 rows of null", one_column(NullArray::new(i32::MAX as usize))),
            ("17 Mi rows of null", one_column(NullArray::new(17 << 20))),
        ];
        for (what, rows) in bodies {
            assert_refused_everywhere(&server, what, &ipc(&[rows]), &[INVALID_INPUT]).await;
        }
        // Some are fine.
        create(&server, "ns$nulls", ipc(&[list_of_nulls(1_000)])).await.ok();
        server.insert("ns$nulls", &list_of_nulls(10)).await;
        assert_eq!(server.count("ns$nulls").await, 2);
    }
}

/// `count` texts, all of which are the same `length` bytes.
fn views(count: usize, length: usize) -> StringViewArray {
    let bytes = vec![b'x'; length];
    let view = ByteView::new(length as u32, &bytes[..4]).as_u128();
    let views = ScalarBuffer::from(vec![view; count]);
    StringViewArray::new(views, vec![Buffer::from(bytes)], None)
}

fn list_of(values: ArrayRef) -> ListArray {
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    ListArray::new(item(values.data_type().clone()), offsets, values, None)
}

fn struct_of(values: ArrayRef) -> StructArray {
    let fields = Fields::from(vec![Field::new("inner", values.data_type().clone(), true)]);
    StructArray::new(fields, vec![values], None)
}

/// `count` rows with one and the same text.
fn repeated(count: usize, length: usize) -> DictionaryArray<Int32Type> {
    let values = StringArray::from(vec!["x".repeat(length)]);
    DictionaryArray::new(Int32Array::from(vec![0; count]), Arc::new(values))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_bytes_are_counted_for_each_value() {
    let server = limited().await;
    with_targets(&server).await;
    let wide = || Arc::new(views(64, 64 * KIBIBYTE)) as ArrayRef;
    let keyed = || Arc::new(repeated(64, 64 * KIBIBYTE)) as ArrayRef;
    let bodies = [
        ("views", batch(&[("x", wide())])),
        ("views in a list", one_column(list_of(wide()))),
        ("views in a struct", one_column(struct_of(wide()))),
        ("views deep down", one_column(struct_of(Arc::new(list_of(Arc::new(struct_of(wide()))))))),
        ("keys of a dictionary", batch(&[("x", keyed())])),
        ("keys of a dictionary in a list", one_column(list_of(keyed()))),
    ];
    for (what, rows) in bodies {
        assert_refused_everywhere(&server, what, &ipc(&[rows]), &[INVALID_INPUT]).await;
    }
    create(&server, "ns$views", ipc(&[one_column(views(8, 64 * KIBIBYTE))])).await.ok();
    let back = server.query("ns$views", json!({"k": 100})).await;
    let back = text_values(&back, "x");
    assert_eq!(back, vec![Some("x".repeat(64 * KIBIBYTE)); 8]);
}

/// A compressed stream of `rows` whose only buffer of `length` bytes says that it has `claim`.
fn compressed_lie(kind: CompressionType, rows: i32, claim: i64) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(Some(kind));
    let zeros = Arc::new(Int32Array::from(vec![0; rows as usize]));
    let mut stream = ipc_with(&[batch(&[("x", zeros)])], options.expect("both are built in"));
    let truth = (i64::from(rows) * 4).to_le_bytes();
    let mut places = stream.windows(8).enumerate().filter(|(_, bytes)| *bytes == truth);
    let (at, _) = places.next().expect("the prefix of the buffer");
    assert!(places.next().is_none(), "one such prefix");
    drop(places);
    stream[at..at + 8].copy_from_slice(&claim.to_le_bytes());
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_buffers_keep_what_they_claim() {
    let server = limited().await;
    with_targets(&server).await;
    for kind in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        for claim in [4, 3_999_996, 4_000_004] {
            let what = format!("{kind:?} that claims {claim}");
            let body = compressed_lie(kind, 1_000_000, claim);
            assert!(body.len() < MEBIBYTE / 4, "{what} is small");
            assert_refused_everywhere(&server, &what, &body, &[INVALID_INPUT]).await;
        }
    }
}

both! {
    /// Arrow itself says so as well, but only once it has unpacked the whole.
    async fn lz4_is_not_unpacked_beyond_its_claim(server: TestServer) {
        with_targets(&server).await;
        for claim in [4, 3_999_996, 4_000_004] {
            let body = compressed_lie(CompressionType::LZ4_FRAME, 1_000_000, claim);
            let reply = create(&server, "ns$new", body.clone()).await;
            assert_error(&reply, 400, INVALID_INPUT);
            assert!(reply.text().contains("lies about its lengths"), "{}", reply.text());
            assert_refused_everywhere(&server, "LZ4", &body, &[INVALID_INPUT]).await;
        }
    }
}

/// `count` different texts of a kibibyte, from `first` on.
fn kibibytes(first: usize, count: usize) -> StringArray {
    let texts = (first..first + count).map(|number| format!("{number:01024}"));
    StringArray::from_iter_values(texts)
}

/// A single row, in a dictionary of `values`.
fn keyed_row(values: StringArray) -> ArrayRef {
    let keys = Int32Array::from(vec![0]);
    Arc::new(DictionaryArray::<Int32Type>::new(keys, Arc::new(values)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dictionaries_are_counted_together() {
    let server = limited().await;
    with_targets(&server).await;
    let of = |count| keyed_row(kibibytes(0, count));
    let two = ipc(&[batch(&[("x", of(600)), ("y", of(600))])]);
    assert_refused_everywhere(&server, "two dictionaries", &two, &[INVALID_INPUT]).await;
    let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
    let grown: Vec<_> = (1..5).map(|part| batch(&[("x", of(part * 300))])).collect();
    let grown = ipc_with(&grown, options);
    assert!(grown.len() < 2 * MEBIBYTE, "every text once");
    assert_refused_everywhere(&server, "a dictionary that grows", &grown, &[INVALID_INPUT]).await;
    // One that takes the place of another does not add to it.
    let replaced: Vec<_> =
        (0..4).map(|part| batch(&[("x", keyed_row(kibibytes(part * 600, 600)))])).collect();
    create(&server, "ns$replaced", ipc(&replaced)).await.ok();
    assert_eq!(server.count("ns$replaced").await, 4);
}

fn fixed_list(of: DataType, width: i32) -> DataType {
    DataType::FixedSizeList(item(of), width)
}

/// Types that no table should have, each with a word on it.
fn absurd_types() -> Vec<(&'static str, DataType)> {
    let wide = fixed_list(fixed_list(DataType::Float64, 4_096), 4_096);
    let fields: Vec<_> =
        (0..10_000).map(|n| Field::new(format!("f{n}"), DataType::Int8, true)).collect();
    let keyed = |values| DataType::Dictionary(Box::new(DataType::Int8), Box::new(values));
    vec![
        ("no bytes", DataType::FixedSizeBinary(0)),
        ("negative bytes", DataType::FixedSizeBinary(-1)),
        ("endless bytes", DataType::FixedSizeBinary(i32::MAX)),
        ("no items", fixed_list(DataType::Float32, 0)),
        ("negative items", fixed_list(DataType::Float32, -1)),
        ("endless items", fixed_list(DataType::Float32, i32::MAX)),
        ("endless nulls", fixed_list(DataType::Null, i32::MAX)),
        ("wide items", wide.clone()),
        ("wide items in a list", DataType::List(item(wide.clone()))),
        ("wide items in a struct", DataType::Struct(vec![Field::new("in", wide, true)].into())),
        ("endless bytes in a dictionary", keyed(DataType::FixedSizeBinary(i32::MAX))),
        ("lists in a dictionary", keyed(DataType::List(item(DataType::Int8)))),
        ("a struct of many fields", DataType::Struct(fields.into())),
        ("a list of views", DataType::ListView(item(DataType::Int8))),
        ("a large list of views", DataType::LargeListView(item(DataType::Int8))),
    ]
}

fn empty_stream(fields: Vec<Field>) -> Vec<u8> {
    ipc_without_rows(&Schema::new(fields))
}

both! {
    async fn absurd_schemas_make_no_table(server: TestServer) {
        with_targets(&server).await;
        for (what, data_type) in absurd_types() {
            let body = empty_stream(vec![Field::new("x", data_type, true)]);
            let code = [TABLE_SCHEMA_VALIDATION_ERROR];
            assert_refused_everywhere(&server, what, &body, &code).await;
        }
        let many = (0..10_001).map(|n| Field::new(format!("c{n}"), DataType::Int8, true));
        let body = empty_stream(many.collect());
        let code = [TABLE_SCHEMA_VALIDATION_ERROR];
        assert_refused_everywhere(&server, "many columns", &body, &code).await;
        let deep = (0..100).fold(DataType::Int8, |inner, _| DataType::List(item(inner)));
        let body = empty_stream(vec![Field::new("x", deep, true)]);
        // The reader of messages has a limit of its own, near ours.
        let codes = [INVALID_INPUT, TABLE_SCHEMA_VALIDATION_ERROR];
        assert_refused_everywhere(&server, "deep nesting", &body, &codes).await;
    }
}

both! {
    async fn wide_rows_are_fine(server: TestServer) {
        server.create_namespace("ns").await;
        let items = Arc::new(Int32Array::from(vec![7; 65_536]));
        let vector = FixedSizeListArray::new(item(DataType::Int32), 65_536, items, None);
        let rows = one_column(vector);
        server.create("ns$t", &rows).await;
        assert_eq!(server.query("ns$t", json!({"k": 1})).await, [rows]);
    }
}

/// `a` counts from `first`, `word` is one of `words`, in a dictionary of its own.
fn batch_of_words(first: i32, words: &[Option<&str>]) -> RecordBatch {
    let count = i32::try_from(words.len()).expect("few words");
    let words: DictionaryArray<Int32Type> = words.iter().copied().collect();
    batch(&[("a", ints(first..first + count)), ("word", Arc::new(words))])
}

fn owned(words: &[Option<&str>]) -> Vec<Option<String>> {
    words.iter().map(|word| word.map(str::to_string)).collect()
}

both! {
    /// A file has one dictionary for each column, and every insert brings another.
    async fn dictionaries_are_answered_as_plain_values(server: TestServer) {
        server.create_namespace("ns").await;
        let words = [
            [Some("red"), Some("green"), Some("red"), None],
            [Some("blue"), None, Some("black"), Some("blue")],
            [Some("green"), Some("white"), Some(""), Some("red")],
        ];
        server.create("ns$t", &batch_of_words(0, &words[0])).await;
        server.insert("ns$t", &batch_of_words(4, &words[1])).await;
        server.insert("ns$t", &batch_of_words(8, &words[2])).await;
        let back = server.query("ns$t", json!({"k": 100})).await;
        assert_eq!(row_count(&back), 12);
        assert_eq!(text_values(&back, "word"), owned(&words.concat()));
        for (fragment, words) in words.iter().enumerate() {
            let path = table("ns$t", &format!("fragments/{fragment}/rows"));
            let reply = server.get(&path).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(text_values(&read_stream(&reply.raw), "word"), owned(words));
        }
        let some = json!({"k": 100, "filter": "word = 'blue'"});
        assert_eq!(row_count(&server.query("ns$t", some).await), 2);
    }
}

both! {
    async fn nested_dictionaries_are_answered_as_plain_values(server: TestServer) {
        server.create_namespace("ns").await;
        for (first, words) in [(0, ["red", "green"]), (2, ["blue", "red"])] {
            let words: DictionaryArray<Int32Type> = words.into_iter().collect();
            let rows = batch(&[
                ("a", ints(first..first + 2)),
                ("s", Arc::new(struct_of(Arc::new(words)))),
            ]);
            let operation = if first == 0 { "create" } else { "insert" };
            server.post_arrow(&table("ns$t", operation), ipc(&[rows])).await.ok();
        }
        let back = server.query("ns$t", json!({"k": 100})).await;
        let mut words = Vec::new();
        for batch in &back {
            let column = batch.column_by_name("s").expect("the struct").as_struct();
            let inner = column.column_by_name("inner").expect("its field").as_string::<i32>();
            words.extend(inner.iter().flatten().map(str::to_string));
        }
        assert_eq!(words, ["red", "green", "blue", "red"]);
    }
}

both! {
    /// The schema is answered as the rows are, also when there are none.
    async fn a_query_for_no_words_has_a_schema(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch_of_words(0, &[Some("red")])).await;
        let body = json!({"k": 100, "filter": "word = 'blue'"});
        let reply = server.post(&table("ns$t", "query"), body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let file = FileReader::try_new(Cursor::new(&reply.raw), None).expect("an Arrow file");
        let schema = file.schema();
        let word = schema.field_with_name("word").expect("the column");
        assert_eq!(word.data_type(), &DataType::Utf8);
        assert_eq!(file.count(), 0, "batches");
    }
}
