//! Streams that were good and are bent: whatever comes, the decoder answers batches or a refusal, and
//! neither panics nor takes more memory than it may.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeListArray,
    Float32Array, Int32Array, ListArray, MapBuilder, NullArray, StringArray, StringBuilder,
    StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Int8Type;
use arrow_ipc::writer::{DictionaryHandling, IpcWriteOptions};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use super::*;

/// The largest batch that the decoder under test takes.
const MAX_BATCH_BYTES: u64 = 1 << 20;
/// The most that it may have at any time: the room that is made for a message at once, and what the
/// head of this file allows of batches.
const MAX_MEMORY: usize = RESERVED_BYTES as usize + (8 * MAX_BATCH_BYTES) as usize;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread has allocated and not freed.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn took(bytes: usize) {
    // A thread that ends has nothing to count with any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

fn gave(bytes: usize) {
    let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(bytes)));
}

/// What `work` had at most beyond what was there before.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let done = work();
    (done, PEAK.get() - before)
}

fn column(values: impl Array + 'static) -> ArrayRef {
    Arc::new(values)
}

fn item(data_type: DataType) -> FieldRef {
    Arc::new(Field::new("item", data_type, true))
}

fn keyed(values: &[&str]) -> DictionaryArray<Int8Type> {
    values.iter().copied().collect()
}

fn batch_of(columns: Vec<ArrayRef>) -> RecordBatch {
    let columns = columns.into_iter().enumerate();
    let named = columns.map(|(number, column)| (format!("c{number}"), column, true));
    RecordBatch::try_from_iter_with_nullable(named).expect("columns of one length")
}

fn plain() -> RecordBatch {
    batch_of(vec![
        column(Int32Array::from(vec![Some(1), None, Some(3)])),
        column(StringArray::from(vec![Some("one"), None, Some("a longer text than the others")])),
        column(BooleanArray::from(vec![true, false, true])),
        column(BinaryArray::from(vec![b"x".as_slice(), b"", b"\0\xff"])),
        column(TimestampMicrosecondArray::from(vec![0, 1, 2])),
        column(Decimal128Array::from(vec![7, 8, 9])),
        column(StringViewArray::from(vec!["short", "one that is too long to be inline", ""])),
        column(NullArray::new(3)),
    ])
}

fn nested() -> RecordBatch {
    let numbers = || column(Int32Array::from_iter_values(0..6));
    let offsets = || OffsetBuffer::from_lengths([1, 2, 3]);
    let list = ListArray::new(item(DataType::Int32), offsets(), numbers(), None);
    let floats = column(Float32Array::from_iter_values((0..12).map(|value| value as f32)));
    let vectors = FixedSizeListArray::new(item(DataType::Float32), 4, floats, None);
    let fields = [Field::new("x", DataType::Int32, true), Field::new("y", DataType::Utf8, true)];
    let children =
        vec![numbers().slice(0, 3), column(StringArray::from(vec![Some("a"), None, Some("c")]))];
    let pairs = StructArray::new(fields.to_vec().into(), children, None);
    let lists = ListArray::new(
        item(list.data_type().clone()),
        OffsetBuffer::from_lengths([2, 0, 1]),
        column(list.clone()),
        None,
    );
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for number in 0..3 {
        map.keys().append_value(format!("k{number}"));
        map.values().append_value("v");
        map.append(true).expect("a pair");
    }
    batch_of(vec![
        column(list),
        column(vectors),
        column(pairs),
        column(lists),
        column(map.finish()),
    ])
}

fn written(batches: &[RecordBatch], options: IpcWriteOptions) -> Vec<u8> {
    let schema = batches[0].schema();
    let writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options);
    let mut writer = writer.expect("the head of a stream");
    for batch in batches {
        writer.write(batch).expect("a batch");
    }
    writer.into_inner().expect("the end of a stream")
}

fn compressed(kind: CompressionType) -> IpcWriteOptions {
    IpcWriteOptions::default().try_with_compression(Some(kind)).expect("it is built in")
}

/// Good streams, with the rows of each.
static GOOD: LazyLock<Vec<(Vec<u8>, usize)>> = LazyLock::new(|| {
    let long = batch_of(vec![
        column(Int32Array::from_iter_values(0..5_000)),
        column(StringArray::from_iter_values((0..5_000).map(|row| format!("text {}", row % 7)))),
    ]);
    let words = |words: &[&str]| batch_of(vec![column(keyed(words))]);
    let dictionaries = [words(&["a", "b", "a"]), words(&["a", "b", "c"])];
    let delta = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
    let default = IpcWriteOptions::default;
    vec![
        (written(&[plain(), plain()], default()), 6),
        (written(&[nested()], default()), 3),
        (written(&[plain().slice(0, 0)], default()), 0),
        (written(std::slice::from_ref(&long), compressed(CompressionType::LZ4_FRAME)), 5_000),
        (written(std::slice::from_ref(&long), compressed(CompressionType::ZSTD)), 5_000),
        (written(&[nested(), nested()], compressed(CompressionType::LZ4_FRAME)), 6),
        (written(&[long], default()), 5_000),
        (written(&dictionaries, default()), 6),
        (written(&dictionaries, delta), 6),
    ]
});

/// One way to bend a stream.
#[derive(Debug, Clone)]
enum Bend {
    Flip(Index, u8),
    Byte(Index, u8),
    /// A number at a place where lengths and offsets stand.
    Short(Index, i32),
    Long(Index, i64),
    CutOff(Index),
    Drop(Index, u8),
    Insert(Index, Vec<u8>),
    /// The rest of another good stream.
    Splice(Index, Index, Index),
}

fn lengths() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(0),
        Just(-1),
        Just(i64::MAX),
        Just(i64::MIN),
        Just(i64::from(i32::MAX)),
        Just(1 << 40),
        -64..64_i64,
        (0..40_u32).prop_map(|power| 1 << power),
        any::<i64>(),
    ]
}

fn bends() -> impl Strategy<Value = Bend> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Bend::Flip(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Bend::Byte(at, byte)),
        (at(), lengths()).prop_map(|(at, length)| Bend::Short(at, length as i32)),
        (at(), lengths()).prop_map(|(at, length)| Bend::Long(at, length)),
        at().prop_map(Bend::CutOff),
        (at(), any::<u8>()).prop_map(|(at, count)| Bend::Drop(at, count)),
        (at(), prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Bend::Insert(at, bytes)),
        (at(), at(), at()).prop_map(|(at, of, from)| Bend::Splice(at, of, from)),
    ]
}

fn overwrite(stream: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in stream.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

fn bend(stream: &mut Vec<u8>, bend: &Bend) {
    if stream.is_empty() {
        return;
    }
    let length = stream.len();
    match bend {
        Bend::Flip(at, bit) => stream[at.index(length)] ^= 1 << bit,
        Bend::Byte(at, byte) => stream[at.index(length)] = *byte,
        Bend::Short(at, number) => {
            overwrite(stream, at.index(length) / 4 * 4, &number.to_le_bytes());
        }
        Bend::Long(at, number) => {
            overwrite(stream, at.index(length) / 4 * 4, &number.to_le_bytes());
        }
        Bend::CutOff(at) => stream.truncate(at.index(length)),
        Bend::Drop(at, count) => {
            let from = at.index(length);
            stream.drain(from..length.min(from + usize::from(*count)));
        }
        Bend::Insert(at, bytes) => {
            let at = at.index(length);
            stream.splice(at..at, bytes.iter().copied());
        }
        Bend::Splice(at, of, from) => {
            let (other, _) = &GOOD[of.index(GOOD.len())];
            stream.truncate(at.index(length));
            stream.extend_from_slice(&other[from.index(other.len())..]);
        }
    }
}

/// Reads a stream that comes in chunks of this size, to its end or to what is wrong with it.
async fn read(stream: &[u8], chunk: usize) -> Result<usize> {
    let chunks: Vec<_> =
        stream.chunks(chunk).map(|chunk| Ok::<_, Error>(Bytes::copy_from_slice(chunk))).collect();
    let body = Body::from_stream(futures::stream::iter(chunks));
    let mut decoder = Decoder::new(Chunks::new(body, None), MAX_BATCH_BYTES, None);
    decoder.read_schema().await?;
    let mut rows = 0;
    while let Some(batch) = decoder.next_batch().await? {
        rows += batch.num_rows();
        assert!(batch.num_rows() <= MAX_BATCH_ROWS as usize);
        // Whoever writes the batch looks at every value.
        for column in batch.columns() {
            column.to_data().validate_full().expect("a batch whose values can be read");
        }
    }
    Ok(rows)
}

/// `PROPTEST_CASES`, or what a quick run has time for.
fn runner(cases: u32) -> TestRunner {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    TestRunner::new(config)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn good_streams_are_read_whatever_their_chunks() {
    let runtime = runtime();
    for (number, (stream, rows)) in GOOD.iter().enumerate() {
        for chunk in [1, 7, 64, 1 << 20] {
            let read = runtime.block_on(read(stream, chunk));
            assert_eq!(read.expect("a good stream"), *rows, "stream {number} by {chunk}");
        }
    }
}

#[test]
fn bent_streams_are_read_or_refused() {
    let runtime = runtime();
    let cases = (any::<Index>(), prop::collection::vec(bends(), 1..4), 1..5_000_usize);
    let outcome = runner(3_000).run(&cases, |(of, bent, chunk)| {
        let mut stream = GOOD[of.index(GOOD.len())].0.clone();
        for one in &bent {
            bend(&mut stream, one);
        }
        let (outcome, peak) = peak_of(|| runtime.block_on(read(&stream, chunk)));
        if let Err(error) = outcome {
            let is_refusal =
                matches!(error, Error::InvalidInput(_) | Error::TableSchemaValidation(_));
            prop_assert!(is_refusal, "{error:?}");
            prop_assert!(!error.to_string().contains(".rs"), "{error}");
        }
        prop_assert!(peak <= MAX_MEMORY + stream.len() * 4, "{peak} bytes were held");
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_was_never_a_stream_is_refused() {
    let runtime = runtime();
    let outcome = runner(1_000).run(&prop::collection::vec(any::<u8>(), 0..512), |bytes| {
        let mut marked = CONTINUATION_MARKER.to_vec();
        marked.extend_from_slice(&bytes);
        for stream in [bytes, marked] {
            let refused = runtime.block_on(read(&stream, 64));
            prop_assert!(matches!(refused, Err(Error::InvalidInput(_))), "{refused:?}");
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
