"""Blob columns: large values that are read apart from their rows."""

import lancedb
import pyarrow as pa

from . import world
from .world import fails, flow, ids, new_name

BYTES = [b"first", None, b"", bytes(range(256)) * 400]


def blobs():
    schema = pa.schema([pa.field("id", pa.int64()), lancedb.blob("image")])
    table = world.db.create_table(new_name("blobs"), schema=schema)
    table.add([{"id": id, "image": image} for id, image in enumerate(BYTES)])
    return table


def row_ids(table):
    found = table.search().with_row_id(True).select(["id"]).limit(None).to_arrow().sort_by("id")
    return found["_rowid"].to_pylist()


@flow
def blob_columns():
    table = blobs()
    assert table.blob_columns() == ["image"]
    assert world.same_database().open_table(table.name).blob_columns() == ["image"]
    assert ids(table) == [0, 1, 2, 3] and ids(table, "id = 3") == [3]
    table.add([{"id": 4, "image": b"more"}])
    assert table.count_rows() == 5


@flow
def fetch_blobs():
    table = blobs()
    assert table.fetch_blobs("image", row_ids(table)).to_pylist() == BYTES
    assert table.fetch_blobs("image", row_ids(table)[:1] * 2).to_pylist() == [b"first"] * 2
    hits = table.search().where("id = 3").with_row_id(True).limit(1).to_arrow()
    assert table.fetch_blobs("image", hits).to_pylist() == [BYTES[3]]
    fails(Exception, call=lambda: table.fetch_blobs("id", row_ids(table)))
    table.delete("id = 0")
    table.checkout(2)
    assert table.fetch_blobs("image", row_ids(table)[:1]).to_pylist() == [b"first"]


@flow
def blob_files():
    table = blobs()
    first, nothing, empty, large = table.fetch_blob_files("image", row_ids(table))
    assert nothing is None and first.read() == b"first" and empty.read() == b""
    assert large.size() == len(BYTES[3]) and large.read_range(256, 3) == bytes([0, 1, 2])
    large.seek(255)
    assert large.read(2) == b"\xff\x00" and large.tell() == 257
    large.seek(0)
    assert large.read() == BYTES[3]
