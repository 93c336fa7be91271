//! Arrow IPC in and out, streamed.
//!
//! A stream is taken apart into its messages here, and each is checked before Arrow's decoder sees
//! it: the decoder trusts lengths, and a message that lies about them would cost a panic or the
//! machine's memory.
//!
//! Memory: no batch has more than `max_batch_bytes`, packed or unpacked, nor have the dictionaries
//! of one stream together. An upload holds several batches at once, though: the one that arrives,
//! its unpacked copy when it is compressed or badly aligned, one that waits for room, two that wait
//! for the writer, and what the writer works on. A client that sends batches as large as it may thus
//! costs some six times that many bytes, and clients that send small ones very little.

#[cfg(test)]
mod fuzz;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions, downcast_dictionary_array};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::compute::cast;
use arrow::datatypes::{ArrowNativeType, DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_ipc::{CompressionType, Message, MessageHeader};
use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{Buf, Bytes};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::AppState;
use super::admission::{Room, Taken};
use super::error::ApiError;
use super::middleware::cut_off as broken_off;
use crate::error::{Error, Result};
use crate::lake::{Batches, unstorable};
use crate::model::StreamKey;

/// The content type of an Arrow IPC stream.
pub const STREAM_TYPE: &str = "application/vnd.apache.arrow.stream";
/// The content type of an Arrow IPC file.
pub const FILE_TYPE: &str = "application/vnd.apache.arrow.file";

/// What every message starts with.
const CONTINUATION_MARKER: [u8; 4] = [0xff; 4];
/// The largest description of a message.
const MAX_METADATA_BYTES: usize = 64 << 20;
/// One from this length on takes room before it is read.
const LONG_METADATA_BYTES: usize = 1 << 20;
/// The most rows of a batch. Rows may take no bytes at all, so that bytes do not bound them.
const MAX_BATCH_ROWS: i64 = 16 << 20;
/// What an entry of a column counts for at least, nested ones too: a writer notes that much about
/// each, be it a null without any bytes.
const ENTRY_BYTES: u64 = 2;
/// The most columns of a table, nested ones counted.
const MAX_FIELDS: usize = 10_000;
/// How deep columns may be nested.
const MAX_DEPTH: usize = 64;
/// The most that the values of fixed width take in one row: readers reserve it for many rows.
const MAX_ROW_BYTES: u64 = 16 << 20;
/// For how much of a batch that is still to come room is made at once.
const RESERVED_BYTES: u64 = 64 << 20;
/// How many decoded batches may wait for the writer.
const BATCHES_AHEAD: usize = 2;

/// The body of an upload: one Arrow IPC stream, not read yet.
pub struct ArrowBody {
    chunks: Chunks,
    max_batch_bytes: u64,
    room: Room,
}

impl FromRequest<AppState> for ArrowBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let key = request.extensions().get::<StreamKey>().cloned();
        let mut chunks = Chunks::new(request.into_body(), state.limits.max_body_bytes);
        chunks.hashed = key.map(|key| (Box::default(), key));
        let room = state.admission.room.clone();
        Ok(Self { chunks, max_batch_bytes: state.limits.max_batch_bytes, room })
    }
}

impl ArrowBody {
    /// Reads up to the schema. The batches follow as they are taken; the last one is followed by
    /// an error unless the stream ended as it should.
    ///
    /// # Errors
    /// `InvalidInput` for what is not an Arrow IPC stream.
    pub async fn into_batches(self) -> Result<Batches> {
        let mut decoder = Decoder::new(self.chunks, self.max_batch_bytes, Some(self.room));
        let schema = decoder.read_schema().await?;
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        // A task of its own: decoding goes on while the writer encodes.
        tokio::spawn(async move {
            loop {
                let next = decoder.next_batch().await;
                let last = !matches!(next, Ok(Some(_)));
                // The room of what was read is needed until the writer is done with it.
                if sender.send((next, decoder.taken.take())).await.is_err() || last {
                    break;
                }
            }
        });
        // The end is sent as well: a task that died must not look like the end of the rows.
        let begin = Some((receiver, None));
        let stream = futures::stream::unfold(begin, |state| async move {
            let (mut receiver, before) = state?;
            drop::<Option<Taken>>(before);
            match receiver.recv().await {
                Some((Ok(Some(batch)), taken)) => Some((Ok(batch), Some((receiver, taken)))),
                Some((Ok(None), _)) => None,
                Some((Err(error), _)) => Some((Err(error), None)),
                None => {
                    let error = Error::internal("reading an upload", "its task has ended early");
                    Some((Err(error), None))
                }
            }
        });
        Ok(Batches { schema, stream: stream.fuse().boxed() })
    }
}

/// The schema that an Arrow IPC message holds, or that a stream starts with.
///
/// # Errors
/// `InvalidInput` and `TableSchemaValidation`, with the name of `what` was given.
pub async fn decode_schema(what: &str, bytes: Bytes) -> Result<SchemaRef> {
    let chunks = Chunks::new(Body::from(bytes), None);
    Decoder::new(chunks, 0, None).read_schema().await.map_err(|error| match error {
        Error::InvalidInput(text) => Error::InvalidInput(format!("{what}: {text}")),
        Error::TableSchemaValidation(text) => {
            Error::TableSchemaValidation(format!("{what}: {text}"))
        }
        other => other,
    })
}

/// The chunks of a body.
struct Chunks {
    stream: Option<BodyDataStream>,
    received: u64,
    limit: Option<u64>,
    /// The hash of what has come, for the key of the request.
    hashed: Option<(Box<blake3::Hasher>, StreamKey)>,
}

impl Chunks {
    fn new(body: Body, limit: Option<u64>) -> Self {
        Self { stream: Some(body.into_data_stream()), received: 0, limit, hashed: None }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        match stream.next().await {
            None => {
                self.stream = None;
                if let Some((hasher, key)) = self.hashed.take() {
                    key.end(hasher.finalize().to_hex().to_string());
                }
                Ok(None)
            }
            Some(Err(error)) => {
                self.stream = None;
                Err(Error::invalid_input(broken_off(&error)))
            }
            Some(Ok(chunk)) => {
                self.received += chunk.len() as u64;
                if let Some((hasher, _)) = &mut self.hashed {
                    hasher.update(&chunk);
                }
                match self.limit {
                    Some(limit) if self.received > limit => Err(Error::invalid_input(format!(
                        "the body is larger than the {limit} bytes that this server takes"
                    ))),
                    _ => Ok(Some(chunk)),
                }
            }
        }
    }
}

/// Takes a stream apart into messages, checks each, and decodes it.
struct Decoder {
    chunks: Chunks,
    chunk: Bytes,
    arrow: StreamDecoder,
    max_batch_bytes: u64,
    /// The bytes of each dictionary. Arrow keeps them all until the end of the stream.
    dictionaries: HashMap<i64, u64>,
    /// Where there has to be room for a message before it is read.
    room: Option<Room>,
    /// The room of the message that is read, or was read last.
    taken: Option<Taken>,
    /// Whether there was room for a message before.
    is_begun: bool,
}

/// A message, or the marker that ends a stream.
enum Frame {
    Message(Buffer),
    EndOfStream,
}

impl Decoder {
    fn new(chunks: Chunks, max_batch_bytes: u64, room: Option<Room>) -> Self {
        Self {
            room,
            taken: None,
            is_begun: false,
            chunks,
            chunk: Bytes::new(),
            arrow: StreamDecoder::new(),
            max_batch_bytes,
            dictionaries: HashMap::new(),
        }
    }

    async fn read_schema(&mut self) -> Result<SchemaRef> {
        match self.frame().await? {
            Frame::EndOfStream => Err(Error::invalid_input("the Arrow stream has no schema")),
            Frame::Message(message) => {
                let header = parse(&message[8..])?.header_type();
                if header != MessageHeader::Schema {
                    return Err(Error::invalid_input(
                        "the Arrow stream does not start with a schema",
                    ));
                }
                self.decode(message)?;
                self.decode(marker())?;
                let schema = self
                    .arrow
                    .schema()
                    .ok_or_else(|| Error::invalid_input("the Arrow stream has no schema"))?;
                check_schema(&schema)?;
                Ok(schema)
            }
        }
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            match self.frame().await? {
                Frame::EndOfStream => return self.expect_end().await.map(|()| None),
                Frame::Message(message) => {
                    self.check(&message)?;
                    // The marker was given to Arrow with the message before.
                    let batch = self.decode(message.slice(4))?;
                    let late = self.decode(marker())?;
                    if let Some(batch) = batch.or(late) {
                        check_shared(&batch, self.max_batch_bytes)?;
                        return Ok(Some(batch));
                    }
                }
            }
        }
    }

    /// Checks a batch, or a dictionary and all the dictionaries with it.
    fn check(&mut self, message: &[u8]) -> Result<()> {
        let metadata_end =
            8 + u32::from_le_bytes([message[4], message[5], message[6], message[7]]) as usize;
        let header = parse(&message[8..metadata_end])?;
        let body = &message[metadata_end..];
        if header.header_type() == MessageHeader::Schema {
            return Err(Error::invalid_input("the Arrow stream has a second schema"));
        }
        if let Some(batch) = header.header_as_record_batch() {
            return check_batch(batch, body, self.max_batch_bytes).map(drop);
        }
        let dictionary = header.header_as_dictionary_batch();
        let Some((dictionary, values)) = dictionary.and_then(|it| Some((it, it.data()?))) else {
            return Err(Error::invalid_input(
                "the Arrow stream holds a message that is not a batch",
            ));
        };
        let bytes = check_batch(values, body, self.max_batch_bytes)?;
        self.keep_dictionary(dictionary.id(), dictionary.isDelta(), bytes)
    }

    fn keep_dictionary(&mut self, id: i64, is_delta: bool, bytes: u64) -> Result<()> {
        let kept = self.dictionaries.entry(id).or_default();
        *kept = if is_delta { kept.saturating_add(bytes) } else { bytes };
        let all = self.dictionaries.values().fold(0, |all: u64, bytes| all.saturating_add(*bytes));
        if all > self.max_batch_bytes {
            return Err(Error::invalid_input(format!(
                "the dictionaries of the Arrow stream have {all} bytes; at most {} are taken, so \
                 send the columns as plain values",
                self.max_batch_bytes
            )));
        }
        Ok(())
    }

    fn decode(&mut self, mut buffer: Buffer) -> Result<Option<RecordBatch>> {
        let arrow = &mut self.arrow;
        guarded(|| {
            let mut batch = None;
            while !buffer.is_empty() {
                batch = arrow.decode(&mut buffer).map_err(unreadable)?.or(batch);
            }
            Ok(batch)
        })
    }

    /// Reads one message whole: marker, length, description, body.
    async fn frame(&mut self) -> Result<Frame> {
        let mut head = [0; 8];
        let read = self.read(&mut head).await?;
        if read == 0 {
            return Err(cut_off());
        }
        if head.starts_with(b"ARROW1") {
            return Err(Error::invalid_input(
                "the body is an Arrow IPC file; send an Arrow IPC stream",
            ));
        }
        if head[..4] != CONTINUATION_MARKER {
            return Err(Error::invalid_input("the body is not an Arrow IPC stream"));
        }
        if read < head.len() {
            return Err(cut_off());
        }
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if length == 0 {
            return Ok(Frame::EndOfStream);
        }
        if length > MAX_METADATA_BYTES {
            return Err(Error::invalid_input(
                "the Arrow stream describes a message too long to be one",
            ));
        }
        // What is before it has been decoded, or is a dictionary, which the stream itself bounds.
        self.taken = None;
        let is_long = length >= LONG_METADATA_BYTES;
        if is_long {
            self.take_room(length as u64).await?;
        }
        let mut message = MutableBuffer::new(0);
        message.extend_from_slice(&head);
        self.read_into(&mut message, length as u64).await?;
        let body = u64::try_from(parse(&message[8..])?.bodyLength())
            .map_err(|_| Error::invalid_input("the Arrow stream holds a negative length"))?;
        if body > self.max_batch_bytes {
            return Err(Error::invalid_input(format!(
                "a record batch has {body} bytes; at most {} are taken in one batch, so send more \
                 and smaller ones (in pyarrow: write_table(table, max_chunksize=…))",
                self.max_batch_bytes
            )));
        }
        let rest = if is_long { body } else { length as u64 + body };
        self.take_room(rest).await?;
        self.read_into(&mut message, body).await?;
        Ok(Frame::Message(message.into()))
    }

    /// Takes room for more of the message that is read.
    async fn take_room(&mut self, bytes: u64) -> Result<()> {
        if let Some(room) = &self.room {
            let is_begun = std::mem::replace(&mut self.is_begun, true);
            self.taken = Some(room.take(bytes, self.taken.take(), is_begun).await?);
        }
        Ok(())
    }

    /// Appends exactly `count` bytes, which have to come at their pace.
    async fn read_into(&mut self, target: &mut MutableBuffer, count: u64) -> Result<()> {
        // Growing by doubling would copy a large batch several times over.
        target.reserve(usize::try_from(count.min(RESERVED_BYTES)).unwrap_or(0));
        let (mut left, mut waited) = (count, Duration::ZERO);
        while left > 0 {
            let asked = Instant::now();
            if !self.fill().await? {
                return Err(cut_off());
            }
            waited += asked.elapsed();
            let take = self.chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            target.extend_from_slice(&self.chunk[..take]);
            self.chunk.advance(take);
            left -= take as u64;
            if let Some(room) = &self.room {
                room.ensure_pace(count, count - left, waited)?;
            }
        }
        Ok(())
    }

    /// Reads as many bytes as there are, up to the length of `target`.
    async fn read(&mut self, target: &mut [u8]) -> Result<usize> {
        let mut read = 0;
        while read < target.len() && self.fill().await? {
            let take = self.chunk.len().min(target.len() - read);
            target[read..read + take].copy_from_slice(&self.chunk[..take]);
            self.chunk.advance(take);
            read += take;
        }
        Ok(read)
    }

    /// Makes sure that there is something in the current chunk. False at the end of the body.
    async fn fill(&mut self) -> Result<bool> {
        while self.chunk.is_empty() {
            match self.chunks.next().await? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The whole body has to be read, and nothing may follow the stream.
    async fn expect_end(&mut self) -> Result<()> {
        if self.fill().await? {
            return Err(Error::invalid_input("the body goes on after the end of the Arrow stream"));
        }
        Ok(())
    }
}

/// The marker, for Arrow's decoder. Arrow acts on a message without a body only when it sees a byte
/// after it, so it is given the next message's marker along with each.
fn marker() -> Buffer {
    Buffer::from(CONTINUATION_MARKER.to_vec())
}

fn cut_off() -> Error {
    Error::invalid_input(
        "the Arrow stream is cut off: it lacks the end-of-stream marker, so nothing was taken",
    )
}

fn parse(metadata: &[u8]) -> Result<Message<'_>> {
    arrow_ipc::root_as_message(metadata).map_err(|error| {
        Error::invalid_input(format!("the body is not an Arrow IPC stream: {error}"))
    })
}

/// Decoders are written for honest input: what they say by a panic is bad input too.
fn guarded<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(Error::invalid_input("the Arrow stream cannot be read: it is malformed"))
    })
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::invalid_input(format!("the Arrow stream cannot be read: {error}"))
}

fn lies() -> Error {
    Error::invalid_input("a record batch lies about its lengths")
}

fn too_large(bytes: u64, max_batch_bytes: u64) -> Error {
    Error::invalid_input(format!(
        "a record batch has {bytes} bytes uncompressed; at most {max_batch_bytes} are taken in one \
         batch, so send more and smaller ones"
    ))
}

/// Checks every length that a batch claims against the bytes that came. Gives the bytes that it
/// has once it is decoded.
fn check_batch(batch: arrow_ipc::RecordBatch<'_>, body: &[u8], max_bytes: u64) -> Result<u64> {
    let entries = check_entries(&batch)?;
    let compression = batch.compression().map(|compression| compression.codec());
    let mut buffers = Vec::new();
    let mut expanded: u64 = 0;
    for buffer in batch.buffers().iter().flatten() {
        let start = usize::try_from(buffer.offset()).map_err(|_| lies())?;
        let length = usize::try_from(buffer.length()).map_err(|_| lies())?;
        let end = start.checked_add(length).ok_or_else(lies)?;
        let bytes = body.get(start..end).ok_or_else(lies)?;
        let claimed = if compression.is_some() { claimed_bytes(bytes)? } else { None };
        expanded = expanded.saturating_add(claimed.unwrap_or(length as u64));
        buffers.extend(claimed.map(|claimed| (bytes, claimed)));
    }
    let bytes = expanded.max(entries.saturating_mul(ENTRY_BYTES));
    if bytes > max_bytes {
        return Err(too_large(bytes, max_bytes));
    }
    if compression == Some(CompressionType::LZ4_FRAME) {
        for (bytes, claimed) in buffers {
            guarded(|| check_lz4(bytes, claimed))?;
        }
    }
    Ok(bytes)
}

/// Checks what a batch says of its rows. Gives the number of entries of all columns together.
fn check_entries(batch: &arrow_ipc::RecordBatch<'_>) -> Result<u64> {
    let rows = batch.length();
    if rows > MAX_BATCH_ROWS {
        return Err(Error::invalid_input(format!(
            "a record batch has {rows} rows; at most {MAX_BATCH_ROWS} are taken in one batch, so \
             send more and smaller ones (in pyarrow: write_table(table, max_chunksize=…))"
        )));
    }
    let mut entries = u64::try_from(rows).map_err(|_| lies())?;
    for node in batch.nodes().iter().flatten() {
        if !(0..=node.length()).contains(&node.null_count()) {
            return Err(lies());
        }
        entries = entries.saturating_add(u64::try_from(node.length()).map_err(|_| lies())?);
    }
    Ok(entries)
}

/// How many bytes a buffer of a compressed batch says to have once it is decompressed: it starts
/// with that number, or with -1 when its bytes are plain.
fn claimed_bytes(buffer: &[u8]) -> Result<Option<u64>> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let prefix: [u8; 8] = buffer.get(..8).and_then(|head| head.try_into().ok()).ok_or_else(lies)?;
    match i64::from_le_bytes(prefix) {
        -1 => Ok(None),
        length => u64::try_from(length).map(Some).map_err(|_| lies()),
    }
}

/// Unpacks a buffer into nothing. Arrow reads LZ4 to its end before it looks at what the buffer
/// claimed; of ZSTD it takes no more than that by itself.
fn check_lz4(buffer: &[u8], claimed: u64) -> Result<()> {
    // Arrow does not unpack what is said to be empty.
    if claimed == 0 {
        return Ok(());
    }
    let packed = buffer.get(8..).ok_or_else(lies)?;
    let unpacked = lz4_flex::frame::FrameDecoder::new(packed);
    let length = std::io::copy(&mut unpacked.take(claimed.saturating_add(1)), &mut std::io::sink());
    if length.map_err(unreadable)? == claimed { Ok(()) } else { Err(lies()) }
}

/// Values that share bytes, as views and the keys of a dictionary do, are written out one by one,
/// so that they count one by one.
fn check_shared(batch: &RecordBatch, max_bytes: u64) -> Result<()> {
    let sizes = batch.columns().iter().map(|column| guarded(|| Ok(shared_bytes(column))));
    let mut all: u64 = 0;
    for size in sizes {
        all = all.saturating_add(size?);
    }
    if all > max_bytes {
        return Err(too_large(all, max_bytes));
    }
    Ok(())
}

/// The bytes of all values that may share theirs with others, nested ones included.
fn shared_bytes(column: &dyn Array) -> u64 {
    let all = |columns: &[Arc<dyn Array>]| {
        columns.iter().fold(0, |all: u64, column| all.saturating_add(shared_bytes(column)))
    };
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().lengths().map(u64::from).sum(),
        DataType::BinaryView => column.as_binary_view().lengths().map(u64::from).sum(),
        DataType::Dictionary(..) => dictionary_bytes(column),
        DataType::List(_) => shared_bytes(column.as_list::<i32>().values()),
        DataType::LargeList(_) => shared_bytes(column.as_list::<i64>().values()),
        DataType::FixedSizeList(..) => shared_bytes(column.as_fixed_size_list().values()),
        DataType::Map(..) => all(column.as_map().entries().columns()),
        DataType::Struct(_) => all(column.as_struct().columns()),
        _ => 0,
    }
}

fn dictionary_bytes(column: &dyn Array) -> u64 {
    downcast_dictionary_array!(
        column => {
            let values = column.values();
            let keys = column.keys().iter().flatten();
            keys.fold(0, |all: u64, key| all.saturating_add(value_bytes(values, key.as_usize())))
        }
        _ => 0
    )
}

/// The bytes of one value of a dictionary, which `check_schema` keeps from being nested.
fn value_bytes(values: &dyn Array, index: usize) -> u64 {
    let length = |length: usize| length as u64;
    match values.data_type() {
        DataType::Utf8 => length(values.as_string::<i32>().value(index).len()),
        DataType::LargeUtf8 => length(values.as_string::<i64>().value(index).len()),
        DataType::Utf8View => length(values.as_string_view().value(index).len()),
        DataType::Binary => length(values.as_binary::<i32>().value(index).len()),
        DataType::LargeBinary => length(values.as_binary::<i64>().value(index).len()),
        DataType::BinaryView => length(values.as_binary_view().value(index).len()),
        DataType::FixedSizeBinary(width) => u64::try_from(*width).unwrap_or(0),
        other => length(other.primitive_width().unwrap_or(1)),
    }
}

/// Refuses what no table should have: a table with such columns could not be read any more.
fn check_schema(schema: &Schema) -> Result<()> {
    let mut fields = 0;
    let mut row: u64 = 0;
    for field in schema.fields() {
        row = row.saturating_add(row_bytes(field, 1, &mut fields)?);
    }
    if row > MAX_ROW_BYTES {
        return Err(Error::TableSchemaValidation(format!(
            "the columns take {row} bytes in each row; at most {MAX_ROW_BYTES} are taken"
        )));
    }
    Ok(())
}

/// The bytes that the values of fixed width take in each row. `fields` counts the fields met.
fn row_bytes(field: &Field, depth: usize, fields: &mut usize) -> Result<u64> {
    let refused =
        |why: String| Err(Error::TableSchemaValidation(format!("column '{}' {why}", field.name())));
    *fields += 1;
    if *fields > MAX_FIELDS {
        return Err(Error::TableSchemaValidation(format!(
            "the schema has more than {MAX_FIELDS} columns, nested ones counted"
        )));
    }
    if depth > MAX_DEPTH {
        return refused(format!("is nested more than {MAX_DEPTH} deep"));
    }
    if let Some(why) = unstorable(field) {
        return refused(why);
    }
    let bytes = match field.data_type() {
        DataType::FixedSizeBinary(width) => u64::from(width.unsigned_abs()),
        DataType::FixedSizeList(item, width) => {
            row_bytes(item, depth + 1, fields)?.saturating_mul(u64::from(width.unsigned_abs()))
        }
        DataType::Struct(children) => {
            let mut all: u64 = 1;
            for child in children {
                all = all.saturating_add(row_bytes(child, depth + 1, fields)?);
            }
            all
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            row_bytes(item, depth + 1, fields)?;
            1
        }
        DataType::Dictionary(_, values)
            if values.is_nested() || matches!(**values, DataType::Dictionary(..)) =>
        {
            return refused("is a dictionary of nested values; send it as plain values".into());
        }
        DataType::Dictionary(_, values) => {
            row_bytes(&Field::new(field.name(), values.as_ref().clone(), true), depth + 1, fields)?
        }
        // Their values may share bytes without end, and tables do not hold them anyway.
        DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::RunEndEncoded(..)
        | DataType::Union(..) => {
            return refused(format!(
                "is of type {}, which tables do not hold; send lists, structs or plain values",
                field.data_type()
            ));
        }
        other => other.primitive_width().unwrap_or(1) as u64,
    };
    if bytes > MAX_ROW_BYTES {
        return refused(format!(
            "takes {bytes} bytes for each value; at most {MAX_ROW_BYTES} are taken"
        ));
    }
    Ok(bytes)
}

/// In which framing batches are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    File,
    Stream,
    /// A stream that keeps dictionaries, which the others answer as plain values.
    StreamWithDictionaries,
}

impl Framing {
    fn content_type(self) -> &'static str {
        match self {
            Self::File => FILE_TYPE,
            Self::Stream | Self::StreamWithDictionaries => STREAM_TYPE,
        }
    }
}

/// Answers batches as they come. The first is awaited, so that what fails at once fails with a
/// status; what fails later ends the connection without the end-of-stream marker.
pub async fn respond(batches: Batches, framing: Framing) -> Result<Response> {
    // Fused, because an answer without rows is at its end here and asked once more below.
    let mut stream = batches.stream.fuse();
    let first = match stream.next().await {
        Some(first) => Some(first?),
        None => None,
    };
    let encoder = Encoder::new(&batches.schema, framing)?;
    let rest = futures::stream::iter(first.map(Ok)).chain(stream);
    let body = Encoded { batches: Some(rest.boxed()), encoder };
    Ok(([(header::CONTENT_TYPE, framing.content_type())], Body::from_stream(body)).into_response())
}

/// A writer that Arrow writes to and the response body takes from.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Writer {
    File(FileWriter<Sink>),
    Stream(StreamWriter<Sink>),
}

struct Encoder {
    writer: Writer,
    sink: Sink,
    /// Whether the batches have dictionaries that are answered as plain values: an Arrow file has one
    /// dictionary for each column, and the batches of a table have their own.
    resolves_dictionaries: bool,
}

impl Encoder {
    fn new(schema: &SchemaRef, framing: Framing) -> Result<Self> {
        let sink = Sink::default();
        let answered = match framing {
            Framing::File | Framing::Stream => plain_schema(schema),
            Framing::StreamWithDictionaries => schema.as_ref().clone(),
        };
        let writer = match framing {
            Framing::File => FileWriter::try_new(sink.clone(), &answered).map(Writer::File),
            Framing::Stream | Framing::StreamWithDictionaries => {
                StreamWriter::try_new(sink.clone(), &answered).map(Writer::Stream)
            }
        };
        let writer = writer.map_err(|error| Error::internal("encoding an answer", error))?;
        Ok(Self { writer, sink, resolves_dictionaries: answered != **schema })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        self.encode(batch).map_err(|error| Error::internal("encoding an answer", error))?;
        Ok(self.sink.take())
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let plain = if self.resolves_dictionaries { Some(plain_batch(batch)?) } else { None };
        let batch = plain.as_ref().unwrap_or(batch);
        match &mut self.writer {
            Writer::File(writer) => writer.write(batch),
            Writer::Stream(writer) => writer.write(batch),
        }
    }

    fn finish(&mut self) -> Result<Bytes> {
        let finished = match &mut self.writer {
            Writer::File(writer) => writer.finish(),
            Writer::Stream(writer) => writer.finish(),
        };
        finished.map_err(|error| Error::internal("encoding an answer", error))?;
        Ok(self.sink.take())
    }
}

/// A batch with all dictionaries resolved.
fn plain_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = plain_schema(&batch.schema());
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| match field.data_type() {
        plain if plain == column.data_type() => Ok(column.clone()),
        plain => cast(column, plain),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)
}

fn plain_schema(schema: &Schema) -> Schema {
    let fields: Vec<_> = schema.fields().iter().map(plain_field).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let plain = plain_type(field.data_type());
    Arc::new(field.as_ref().clone().with_data_type(plain))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, width) => DataType::FixedSizeList(plain_field(item), *width),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        other => other.clone(),
    }
}

struct Encoded {
    batches: Option<BoxStream<'static, Result<RecordBatch>>>,
    encoder: Encoder,
}

impl Stream for Encoded {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(batches) = &mut this.batches else {
            return Poll::Ready(None);
        };
        let item = match futures::ready!(batches.poll_next_unpin(context)) {
            Some(batch) => batch.and_then(|batch| this.encoder.write(&batch)),
            None => {
                this.batches = None;
                this.encoder.finish()
            }
        };
        if let Err(error) = &item {
            this.batches = None;
            let cause = std::error::Error::source(error);
            tracing::error!(%error, cause, "an answer ended early");
        }
        Poll::Ready(Some(item))
    }
}
