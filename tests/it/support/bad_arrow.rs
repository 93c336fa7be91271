//! Bodies that are no Arrow IPC stream, or that lie.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::ipc::writer::IpcWriteOptions;
use arrow::ipc::{CompressionType, Message, root_as_message};

use super::batches::{END_OF_STREAM, batch, ints, ipc, ipc_file, ipc_with, texts};

/// Each with a word on what is wrong with it. The columns would be integers and texts of these
/// names.
pub fn bad_bodies(names: [&str; 2]) -> Vec<(&'static str, Vec<u8>)> {
    let [first, second] = names;
    let rows = batch(&[(first, ints(0..100)), (second, texts(0..100))]);
    let good = ipc(&[rows.clone(), rows.clone()]);
    let end = good.len() - END_OF_STREAM.len();
    let batch_at = last_batch(&good);
    let mut bodies = vec![
        ("nothing at all", Vec::new()),
        ("plain text", b"a,b\n1,one\n2,two\n".to_vec()),
        ("JSON", br#"{"a": [1, 2], "b": ["x", "y"]}"#.to_vec()),
        ("an IPC file", ipc_file(&rows)),
        ("zeros", vec![0; 4_096]),
        ("no end marker", good[..end].to_vec()),
        ("half an end marker", good[..end + 4].to_vec()),
        ("a schema and no end", good[..second_message(&good)].to_vec()),
        ("half a schema", good[..40].to_vec()),
        ("half the head of a batch", good[..batch_at.head.start + 20].to_vec()),
        ("half the body of a batch", good[..batch_at.body.start + 64].to_vec()),
    ];
    bodies.extend(lies(&good));
    bodies.push(("a compressed buffer that claims a terabyte", bomb(&rows)));
    bodies
}

/// Where a message stands in a stream.
struct Place {
    head: Range<usize>,
    body: Range<usize>,
}

/// The places of all messages of a good stream.
fn messages(stream: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    let mut at = 0;
    while at + 8 <= stream.len() && stream[at..at + 8] != END_OF_STREAM {
        let length = i32::from_le_bytes(stream[at + 4..at + 8].try_into().expect("four bytes"));
        let head = at + 8..at + 8 + usize::try_from(length).expect("a length");
        let bytes = stream[head.clone()].to_vec();
        let message = root_as_message(&bytes).expect("a message");
        let body_length = usize::try_from(message.bodyLength()).expect("a length");
        let body = head.end..head.end + body_length;
        at = body.end;
        places.push(Place { head, body });
    }
    places
}

fn last_batch(stream: &[u8]) -> Place {
    messages(stream).pop().expect("a batch")
}

/// Where the schema ends and the first batch begins.
fn second_message(stream: &[u8]) -> usize {
    messages(stream).remove(1).head.start - 8
}

/// `good`, with one number of its last batch bent.
fn lies(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let place = last_batch(good);
    let bend = |read: fn(&Message<'_>) -> Option<i64>, lie: i64| {
        let mut stream = good.to_vec();
        bend_head(&mut stream, &place.head, read, lie);
        stream
    };
    let prefix_at = place.head.start - 4;
    let with_prefix = |length: i32| {
        let mut stream = good.to_vec();
        stream[prefix_at..prefix_at + 4].copy_from_slice(&length.to_le_bytes());
        stream
    };
    let mut wild_text = good.to_vec();
    // Buffers of the batch: validity and values of the integers, validity, offsets and bytes of
    // the texts.
    let offsets = read_head(good, &place.head, |message| buffer(message, 3, false));
    let last_offset = place.body.start + usize::try_from(offsets).expect("an offset") + 100 * 4;
    wild_text[last_offset..last_offset + 4].copy_from_slice(&(1_i32 << 30).to_le_bytes());
    vec![
        ("a buffer longer than the body", bend(values_length, 1 << 40)),
        ("a buffer too short for its rows", bend(values_length, 4)),
        ("a buffer of negative length", bend(values_length, -8)),
        ("a buffer behind the body", bend(values_offset, 1 << 40)),
        ("a buffer before the body", bend(values_offset, -64)),
        ("a column of too many rows", bend(node_length, 1_000_000)),
        ("a column of negative length", bend(node_length, -1)),
        ("a batch of too many rows", bend(batch_length, 1_000_000)),
        ("a body longer than the stream", bend(body_length, 1 << 50)),
        ("a body of negative length", bend(body_length, -8)),
        ("a head of two gigabytes", with_prefix(i32::MAX)),
        ("a head of negative length", with_prefix(-8)),
        ("text beyond its bytes", wild_text),
    ]
}

fn body_length(message: &Message<'_>) -> Option<i64> {
    Some(message.bodyLength())
}

fn batch_length(message: &Message<'_>) -> Option<i64> {
    Some(message.header_as_record_batch()?.length())
}

fn node_length(message: &Message<'_>) -> Option<i64> {
    let nodes = message.header_as_record_batch()?.nodes()?;
    (!nodes.is_empty()).then(|| nodes.get(0).length())
}

fn values_length(message: &Message<'_>) -> Option<i64> {
    buffer(message, 1, true)
}

fn values_offset(message: &Message<'_>) -> Option<i64> {
    buffer(message, 1, false)
}

fn buffer(message: &Message<'_>, index: usize, length: bool) -> Option<i64> {
    let buffers = message.header_as_record_batch()?.buffers()?;
    if index >= buffers.len() {
        return None;
    }
    let buffer = buffers.get(index);
    Some(if length { buffer.length() } else { buffer.offset() })
}

fn read_head(stream: &[u8], head: &Range<usize>, read: fn(&Message<'_>) -> Option<i64>) -> i64 {
    let bytes = stream[head.clone()].to_vec();
    let message = root_as_message(&bytes).expect("a message");
    read(&message).expect("the number is there")
}

/// Finds the number that `read` reads, by trying, and writes `lie` over it.
fn bend_head(
    stream: &mut [u8],
    head: &Range<usize>,
    read: fn(&Message<'_>) -> Option<i64>,
    lie: i64,
) {
    let truth = read_head(stream, head, read).to_le_bytes();
    for at in (head.start..head.end - 7).step_by(4) {
        if stream[at..at + 8] != truth {
            continue;
        }
        stream[at..at + 8].copy_from_slice(&lie.to_le_bytes());
        let bytes = stream[head.clone()].to_vec();
        let read_back = root_as_message(&bytes).ok().and_then(|message| read(&message));
        if read_back == Some(lie) {
            return;
        }
        stream[at..at + 8].copy_from_slice(&truth);
    }
    panic!("the number to bend was not found");
}

/// A compressed stream, one of whose buffers says that it unpacks to a terabyte.
fn bomb(rows: &RecordBatch) -> Vec<u8> {
    let options = IpcWriteOptions::default()
        .try_with_compression(Some(CompressionType::LZ4_FRAME))
        .expect("LZ4 is built in");
    let mut stream = ipc_with(std::slice::from_ref(rows), options);
    let place = last_batch(&stream);
    let offset = read_head(&stream, &place.head, values_offset);
    let at = place.body.start + usize::try_from(offset).expect("an offset");
    stream[at..at + 8].copy_from_slice(&(1_i64 << 40).to_le_bytes());
    stream
}
