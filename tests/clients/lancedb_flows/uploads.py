"""Parallel uploads: many parts, one commit; and what is left when they break."""

import datetime
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from lancedb.remote import ClientConfig, TimeoutConfig

from . import world
from .wire import wire
from .world import fails, flow, ids, new_name, new_table, read, rows

#: So many rows in so many batches: each part gets several of them.
COUNT = 4000


def batches(start, stop, size=100):
    return pa.Table.from_batches(rows(start, stop).to_batches(max_chunksize=size))


@flow
def add_in_parallel():
    name = new_table(3).name
    with wire() as (between, db):
        table = db.open_table(name)
        done = table.add(batches(3, COUNT), write_parallelism=4)
        assert done.version == 2 == table.version, done
        assert ids(table) == list(range(COUNT))
        assert read(table, "text", where="id = 3999") == [["word3999 odd number"]]
        assert len(between.asked("multipart_write/create")) == 1, between.requests
        assert len(between.asked("multipart_write/complete")) == 1, between.requests
        assert between.asked("multipart_write/abort") == []
        parts = between.asked("/insert/")
        assert len(parts) == 4 and all("upload_id=" in part and "upload_part_id=" in part for part in parts), parts
        assert len(table.list_versions()) == 2


@flow
def replace_in_parallel():
    table = new_table(3)
    table.add(batches(100, 900), write_parallelism=3, mode="overwrite")
    assert ids(table) == list(range(100, 900)) and table.version == 2
    other = pa.Table.from_batches(pa.table({"id": pa.array(range(500), pa.int64())}).to_batches(max_chunksize=50))
    table.add(other, write_parallelism=3, mode="overwrite")
    assert table.schema.names == ["id"] and ids(table) == list(range(500))


@flow
def add_in_parallel_without_some_columns():
    """Parts without a column of the table have nulls there."""
    table = new_table(3)
    thin = batches(3, 503).select(["id", "vector"])
    table.add(thin, write_parallelism=3)
    assert ids(table) == list(range(503)) and table.count_rows("text IS NULL") == 500


@flow
def two_uploads_at_the_same_time():
    table = new_table(3)

    def upload(start):
        world.same_database().open_table(table.name).add(batches(start, start + 500), write_parallelism=2)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upload, [1000, 2000, 3000, 4000]))
    expected = [0, 1, 2] + [id for start in (1000, 2000, 3000, 4000) for id in range(start, start + 500)]
    assert ids(table) == expected
    assert 2 <= table.version <= 5, "those that waited for each other share a version"


@flow
def answer_to_complete_is_lost():
    """The rows are there, the client cannot know; its abort must not take them away."""
    table = new_table(3)
    with wire() as (between, db):
        far = db.open_table(table.name)
        between.lose_answer("multipart_write/complete")
        fails(Exception, call=lambda: far.add(batches(3, 403), write_parallelism=3))
        assert len(between.asked("multipart_write/abort")) == 1, between.requests
        assert len(between.asked("multipart_write/complete")) == 1, between.requests
    assert ids(table) == list(range(403)) and len(table.list_versions()) == 2
    table.add(rows(403, 404))
    assert ids(table) == list(range(404))


@flow
def part_is_cut_off():
    table = new_table(3)
    with wire() as (between, db):
        far = db.open_table(table.name)
        between.cut_request("/insert/?", after=2000)
        fails(Exception, call=lambda: far.add(batches(3, COUNT), write_parallelism=3))
        assert len(between.asked("multipart_write/abort")) == 1, between.requests
        assert between.asked("multipart_write/complete") == []
    assert ids(table) == [0, 1, 2] and len(table.list_versions()) == 1
    table.add(batches(3, 403), write_parallelism=3)
    assert ids(table) == list(range(403))


@flow
def insert_is_cut_off():
    table = new_table(3)
    with wire() as (between, db):
        far = db.open_table(table.name)
        between.cut_request("/insert/", after=20_000)
        fails(Exception, call=lambda: far.add(rows(3, 20_000), write_parallelism=1))
        assert between.asked("multipart_write") == []
    assert ids(table) == [0, 1, 2] and len(table.list_versions()) == 1


@flow
def create_is_cut_off():
    """Nothing is there afterwards, and the name is free."""
    name = new_name()
    with wire() as (between, db):
        between.cut_request("/create/", after=20_000)
        fails(Exception, call=lambda: db.create_table(name, rows(0, 20_000)))
        assert name not in db.list_tables().tables
        assert ids(db.create_table(name, rows(0, 5))) == [0, 1, 2, 3, 4]


#: A client that gives an answer up after two seconds, and asks again.
IMPATIENT = ClientConfig(timeout_config=TimeoutConfig(read_timeout=datetime.timedelta(seconds=2)))


@flow
def answer_to_an_update_is_late():
    """The client asks again, under the same id of its request; the server has done it once."""
    table = new_table(3)
    with wire(client_config=IMPATIENT) as (between, db):
        far = db.open_table(table.name)
        between.hold_answer("/update/", 5)
        done = far.update(values_sql={"price": "price + 100"})
        assert (done.rows_updated, done.version) == (3, 2), done
        assert len(between.asked("/update/")) >= 2, between.requests
    assert read(table, "price") == [[100.0, 100.5, 101.0]] and len(table.list_versions()) == 2


@flow
def answer_to_a_delete_is_late():
    table = new_table(3)
    with wire(client_config=IMPATIENT) as (between, db):
        far = db.open_table(table.name)
        between.hold_answer("/delete/", 5)
        done = far.delete("id = 1")
        assert (done.num_deleted_rows, done.version) == (1, 2), done
        assert len(between.asked("/delete/")) >= 2, between.requests
    assert ids(table) == [0, 2] and len(table.list_versions()) == 2


@flow
def answer_to_complete_is_late():
    """Asked again, it answers what it answered before."""
    table = new_table(3)
    with wire(client_config=IMPATIENT) as (between, db):
        far = db.open_table(table.name)
        between.hold_answer("multipart_write/complete", 5)
        assert far.add(batches(3, 403), write_parallelism=3).version == 2
        assert len(between.asked("multipart_write/complete")) >= 2, between.requests
    assert ids(table) == list(range(403)) and len(table.list_versions()) == 2
