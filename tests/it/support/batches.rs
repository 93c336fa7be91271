//! Arrow data to send, and ways to read what came back.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int32Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type, Schema};
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};

/// What ends an IPC stream.
pub const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Columns that may all hold nulls.
pub fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    let columns = columns.iter().map(|(name, values)| (*name, values.clone(), true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

pub fn ints(values: Range<i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(values))
}

pub fn ints_or_null(values: &[Option<i32>]) -> ArrayRef {
    Arc::new(values.iter().copied().collect::<Int32Array>())
}

/// `s0`, `s1`, …
pub fn texts(values: Range<i32>) -> ArrayRef {
    let values = values.map(|value| format!("s{value}"));
    Arc::new(StringArray::from_iter_values(values))
}

/// The usual table: `a` counts, `b` is its name.
pub fn batch_ab(values: Range<i32>) -> RecordBatch {
    batch(&[("a", ints(values.clone())), ("b", texts(values))])
}

/// Only `a`.
pub fn batch_a(values: Range<i32>) -> RecordBatch {
    batch(&[("a", ints(values))])
}

/// A single column of integers that must not be null.
pub fn batch_not_null(name: &str, values: Range<i32>) -> RecordBatch {
    let schema = Schema::new(vec![Field::new(name, DataType::Int32, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![ints(values)]).expect("one column")
}

/// `id` counts, and `vec` is the vector `[id, id, …]` of `dimension` numbers.
pub fn batch_vectors(rows: i32, dimension: i32) -> RecordBatch {
    let numbers = (0..rows).flat_map(|row| (0..dimension).map(move |_| row as f32));
    let numbers = Float32Array::from_iter_values(numbers);
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::try_new(item, dimension, Arc::new(numbers), None);
    let vectors: ArrayRef = Arc::new(vectors.expect("whole vectors"));
    batch(&[("id", ints(0..rows)), ("vec", vectors)])
}

pub fn ipc(batches: &[RecordBatch]) -> Vec<u8> {
    ipc_with(batches, IpcWriteOptions::default())
}

pub fn ipc_with(batches: &[RecordBatch], options: IpcWriteOptions) -> Vec<u8> {
    let schema = batches.first().expect("at least one batch").schema();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options)
        .expect("the head of a stream");
    for batch in batches {
        writer.write(batch).expect("a batch of a stream");
    }
    writer.into_inner().expect("the end of a stream")
}

/// A whole stream of no rows.
pub fn ipc_without_rows(schema: &Schema) -> Vec<u8> {
    let writer = StreamWriter::try_new(Vec::new(), schema).expect("the head of a stream");
    writer.into_inner().expect("the end of a stream")
}

/// The file format, which is not what uploads take.
pub fn ipc_file(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).expect("the head of a file");
    writer.write(batch).expect("a batch of a file");
    writer.into_inner().expect("the end of a file")
}

/// Reads a whole stream, its end marker included.
#[track_caller]
pub fn read_stream(bytes: &[u8]) -> Vec<RecordBatch> {
    assert!(bytes.ends_with(&END_OF_STREAM), "the stream has no end marker");
    let reader = StreamReader::try_new(Cursor::new(bytes), None).expect("an Arrow stream");
    reader.collect::<Result<Vec<_>, _>>().expect("whole batches")
}

#[track_caller]
pub fn read_file(bytes: &[u8]) -> Vec<RecordBatch> {
    let reader = FileReader::try_new(Cursor::new(bytes), None).expect("an Arrow file");
    reader.collect::<Result<Vec<_>, _>>().expect("whole batches")
}

/// Names of the columns, in order. There must be a batch.
#[track_caller]
pub fn columns(batches: &[RecordBatch]) -> Vec<String> {
    let schema = batches.first().expect("a batch").schema();
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.collect()
}

/// A column of integers, in order, nulls included.
#[track_caller]
pub fn optional_ints(batches: &[RecordBatch], name: &str) -> Vec<Option<i32>> {
    let mut values = Vec::new();
    for batch in batches {
        let column = batch.column_by_name(name);
        let column = column.unwrap_or_else(|| panic!("no column {name}"));
        values.extend(column.as_primitive::<Int32Type>().iter());
    }
    values
}

/// A column of integers, in order; null becomes -1.
#[track_caller]
pub fn int_values(batches: &[RecordBatch], name: &str) -> Vec<i32> {
    let values = optional_ints(batches, name);
    values.into_iter().map(|value| value.unwrap_or(-1)).collect()
}

#[track_caller]
pub fn float_values(batches: &[RecordBatch], name: &str) -> Vec<f32> {
    let mut values = Vec::new();
    for batch in batches {
        let column = batch.column_by_name(name);
        let column = column.unwrap_or_else(|| panic!("no column {name}"));
        values.extend(column.as_primitive::<Float32Type>().values().iter());
    }
    values
}

#[track_caller]
pub fn text_values(batches: &[RecordBatch], name: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    for batch in batches {
        let column = batch.column_by_name(name);
        let column = column.unwrap_or_else(|| panic!("no column {name}"));
        let column = column.as_string::<i32>();
        values.extend(column.iter().map(|value| value.map(str::to_string)));
    }
    values
}

pub fn row_count(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}
