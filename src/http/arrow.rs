//! Arrow IPC in and out, streamed.
//!
//! A stream is taken apart into its messages here, and each is checked before Arrow's decoder sees
//! it: the decoder trusts lengths, and a message that lies about them would cost a panic or the
//! machine's memory. At most one message is held at a time.

use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::SchemaRef;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_ipc::{BodyCompression, Message, MessageHeader};
use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{Buf, Bytes};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::AppState;
use super::error::{ApiError, ApiResult};
use crate::error::{Error, Result};
use crate::lake::Batches;

/// The content type of an Arrow IPC stream.
pub const STREAM_TYPE: &str = "application/vnd.apache.arrow.stream";
/// The content type of an Arrow IPC file.
pub const FILE_TYPE: &str = "application/vnd.apache.arrow.file";

/// What every message starts with.
const CONTINUATION_MARKER: [u8; 4] = [0xff; 4];
/// The largest description of a message: a schema of some hundred thousand columns.
const MAX_METADATA_BYTES: usize = 64 << 20;
/// How many decoded batches may wait for the writer.
const BATCHES_AHEAD: usize = 2;
/// How much of a refused body is still read, so that the client gets to see the answer.
const MAX_DRAINED_BYTES: u64 = 1 << 30;
const MAX_DRAIN_TIME: Duration = Duration::from_secs(60);

/// The body of an upload: one Arrow IPC stream, not read yet.
pub struct ArrowBody {
    chunks: Chunks,
    max_batch_bytes: u64,
}

impl FromRequest<AppState> for ArrowBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let chunks = Chunks::new(request.into_body(), state.limits.max_body_bytes);
        Ok(Self { chunks, max_batch_bytes: state.limits.max_batch_bytes })
    }
}

impl ArrowBody {
    /// Reads up to the schema. The batches follow as they are taken; the last one is followed by
    /// an error unless the stream ended as it should.
    ///
    /// # Errors
    /// `InvalidInput` for what is not an Arrow IPC stream.
    pub async fn into_batches(self) -> Result<Batches> {
        let mut decoder = Decoder::new(self.chunks, self.max_batch_bytes);
        let schema = decoder.read_schema().await?;
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        // A task of its own: decoding goes on while the writer encodes.
        tokio::spawn(async move {
            loop {
                let next = decoder.next_batch().await;
                let last = !matches!(next, Ok(Some(_)));
                if let Some(item) = next.transpose()
                    && sender.send(item).await.is_err()
                {
                    break;
                }
                if last {
                    break;
                }
            }
        });
        let stream = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|item| (item, receiver))
        });
        Ok(Batches { schema, stream: stream.boxed() })
    }

    /// Reads the body to its end without looking at it.
    pub fn ignore(self) {
        drop(self);
    }
}

/// The chunks of a body. One that is dropped before its end is read on in the background, because
/// a connection that is closed on a client in the middle of its upload takes our answer with it.
struct Chunks {
    stream: Option<BodyDataStream>,
    received: u64,
    limit: Option<u64>,
}

impl Chunks {
    fn new(body: Body, limit: Option<u64>) -> Self {
        Self { stream: Some(body.into_data_stream()), received: 0, limit }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        match stream.next().await {
            None => {
                self.stream = None;
                Ok(None)
            }
            Some(Err(_)) => {
                self.stream = None;
                Err(Error::invalid_input("the body was cut off before its end"))
            }
            Some(Ok(chunk)) => {
                self.received += chunk.len() as u64;
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

impl Drop for Chunks {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let drain = async {
                let mut drained = 0;
                while let Some(Ok(chunk)) = stream.next().await {
                    drained += chunk.len() as u64;
                    if drained > MAX_DRAINED_BYTES {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(MAX_DRAIN_TIME, drain).await;
        });
    }
}

/// Takes a stream apart into messages, checks each, and decodes it.
struct Decoder {
    chunks: Chunks,
    chunk: Bytes,
    arrow: StreamDecoder,
    max_batch_bytes: u64,
}

/// A message, or the marker that ends a stream.
enum Frame {
    Message(Buffer),
    EndOfStream,
}

impl Decoder {
    fn new(chunks: Chunks, max_batch_bytes: u64) -> Self {
        Self { chunks, chunk: Bytes::new(), arrow: StreamDecoder::new(), max_batch_bytes }
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
                self.arrow
                    .schema()
                    .ok_or_else(|| Error::invalid_input("the Arrow stream has no schema"))
            }
        }
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            match self.frame().await? {
                Frame::EndOfStream => return self.expect_end().await.map(|()| None),
                Frame::Message(message) => {
                    check_message(&message, self.max_batch_bytes)?;
                    // The marker was given to Arrow with the message before.
                    let batch = self.decode(message.slice(4))?;
                    let late = self.decode(marker())?;
                    if let Some(batch) = batch.or(late) {
                        return Ok(Some(batch));
                    }
                }
            }
        }
    }

    /// Arrow's decoder is written for honest input: what it says by a panic is bad input too.
    fn decode(&mut self, mut buffer: Buffer) -> Result<Option<RecordBatch>> {
        let arrow = &mut self.arrow;
        let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut batch = None;
            while !buffer.is_empty() {
                batch = arrow.decode(&mut buffer)?.or(batch);
            }
            Ok::<_, arrow::error::ArrowError>(batch)
        }));
        match decoded {
            Ok(Ok(batch)) => Ok(batch),
            Ok(Err(error)) => {
                Err(Error::invalid_input(format!("the Arrow stream cannot be read: {error}")))
            }
            Err(_) => Err(Error::invalid_input("the Arrow stream cannot be read: it is malformed")),
        }
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
        self.read_into(&mut message, body).await?;
        Ok(Frame::Message(message.into()))
    }

    /// Appends exactly `count` bytes, reserving only for what has arrived.
    async fn read_into(&mut self, target: &mut MutableBuffer, mut count: u64) -> Result<()> {
        while count > 0 {
            if !self.fill().await? {
                return Err(cut_off());
            }
            let take = self.chunk.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            target.extend_from_slice(&self.chunk[..take]);
            self.chunk.advance(take);
            count -= take as u64;
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

/// Checks every length that a message claims against the bytes that came.
fn check_message(message: &[u8], max_batch_bytes: u64) -> Result<()> {
    let metadata_end =
        8 + u32::from_le_bytes([message[4], message[5], message[6], message[7]]) as usize;
    let header = parse(&message[8..metadata_end])?;
    let body = &message[metadata_end..];
    let batch = match header.header_type() {
        MessageHeader::RecordBatch => header.header_as_record_batch(),
        MessageHeader::DictionaryBatch => {
            header.header_as_dictionary_batch().and_then(|dictionary| dictionary.data())
        }
        MessageHeader::Schema => {
            return Err(Error::invalid_input("the Arrow stream has a second schema"));
        }
        _ => None,
    };
    let lies = || Error::invalid_input("a record batch lies about its lengths");
    let Some(batch) = batch else {
        return Err(Error::invalid_input("the Arrow stream holds a message that is not a batch"));
    };
    // Columns of nulls take no bytes, so that rows alone could be claimed without end.
    let rows_fit = (0..=i64::from(i32::MAX)).contains(&batch.length());
    let nodes_fit = batch.nodes().iter().flatten().all(|node| {
        (0..=i64::from(i32::MAX) * 1024).contains(&node.length())
            && (0..=node.length()).contains(&node.null_count())
    });
    if !rows_fit || !nodes_fit {
        return Err(lies());
    }
    let mut expanded: u64 = 0;
    for buffer in batch.buffers().iter().flatten() {
        let start = usize::try_from(buffer.offset()).map_err(|_| lies())?;
        let length = usize::try_from(buffer.length()).map_err(|_| lies())?;
        let end = start.checked_add(length).ok_or_else(lies)?;
        let bytes = body.get(start..end).ok_or_else(lies)?;
        expanded = expanded.saturating_add(expanded_bytes(bytes, batch.compression())?);
    }
    if expanded > max_batch_bytes {
        return Err(Error::invalid_input(format!(
            "a record batch has {expanded} bytes uncompressed; at most {max_batch_bytes} are taken \
             in one batch, so send more and smaller ones"
        )));
    }
    Ok(())
}

/// How many bytes a buffer has once it is decompressed: a compressed buffer starts with that
/// number, or with -1 when its bytes are plain.
fn expanded_bytes(bytes: &[u8], compression: Option<BodyCompression<'_>>) -> Result<u64> {
    let plain = bytes.len() as u64;
    if compression.is_none() || bytes.is_empty() {
        return Ok(plain);
    }
    let lies = || Error::invalid_input("a record batch lies about its lengths");
    let prefix: [u8; 8] = bytes.get(..8).and_then(|head| head.try_into().ok()).ok_or_else(lies)?;
    match i64::from_le_bytes(prefix) {
        -1 => Ok(plain),
        length => u64::try_from(length).map_err(|_| lies()),
    }
}

/// In which framing batches are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    File,
    Stream,
}

impl Framing {
    fn content_type(self) -> &'static str {
        match self {
            Self::File => FILE_TYPE,
            Self::Stream => STREAM_TYPE,
        }
    }
}

/// Answers batches as they come. The first is awaited, so that what fails at once fails with a
/// status; what fails later ends the connection without the end-of-stream marker.
pub async fn respond(mut batches: Batches, framing: Framing) -> ApiResult<Response> {
    let first = match batches.stream.next().await {
        Some(first) => Some(first?),
        None => None,
    };
    let encoder = Encoder::new(&batches.schema, framing)?;
    let rest = futures::stream::iter(first.map(Ok)).chain(batches.stream);
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
}

impl Encoder {
    fn new(schema: &SchemaRef, framing: Framing) -> Result<Self> {
        let sink = Sink::default();
        let writer = match framing {
            Framing::File => FileWriter::try_new(sink.clone(), schema).map(Writer::File),
            Framing::Stream => StreamWriter::try_new(sink.clone(), schema).map(Writer::Stream),
        };
        let writer = writer.map_err(|error| Error::internal("encoding an answer", error))?;
        Ok(Self { writer, sink })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        let written = match &mut self.writer {
            Writer::File(writer) => writer.write(batch),
            Writer::Stream(writer) => writer.write(batch),
        };
        written.map_err(|error| Error::internal("encoding an answer", error))?;
        Ok(self.sink.take())
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
            Some(Ok(batch)) => this.encoder.write(&batch),
            Some(Err(error)) => {
                this.batches = None;
                tracing::error!(%error, "an answer ended early");
                Err(error)
            }
            None => {
                this.batches = None;
                this.encoder.finish()
            }
        };
        Poll::Ready(Some(item))
    }
}
