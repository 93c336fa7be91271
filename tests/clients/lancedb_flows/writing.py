"""Rows written and changed: add, update, delete, merge_insert."""

import datetime

import pyarrow as pa
from lancedb.expr import col, lit

from . import world
from .world import fails, flow, ids, new_table, read, rows


@flow
def add():
    table = new_table(3)
    assert table.add(rows(3, 5)).version == 2
    assert table.add([{"id": 5, "text": "five", "price": 2.5, "vector": [5.0] * 4}]).version == 3
    assert table.add(rows(6, 8).to_pandas()).version == 4
    reader = pa.RecordBatchReader.from_batches(rows(0, 0).schema, rows(8, 11).to_batches(max_chunksize=1))
    assert table.add(reader).version == 5
    assert ids(table) == list(range(11)) and table.version == 5
    assert read(table, "text", where="id IN (4, 5)")[0] == ["word4 even number", "five"]
    # Columns that are missing are filled with nulls, and the order of columns does not matter.
    table.add(pa.table({"vector": rows(0, 1)["vector"], "id": pa.array([11], pa.int64())}))
    assert read(table, "text", "price", "vector", where="id = 11") == [[None], [None], [[0.0] * 4]]


@flow
def add_in_place_of_all():
    table = new_table(3)
    assert table.add(rows(7, 9), mode="overwrite").version == 2
    assert ids(table) == [7, 8]
    table.add(pa.table({"id": pa.array([1], pa.int64()), "extra": ["x"]}), mode="overwrite")
    assert table.schema.names == ["id", "extra"] and table.search().to_list() == [{"id": 1, "extra": "x"}]
    table.checkout(1)
    assert ids(table) == [0, 1, 2]


@flow
def add_nothing():
    table = new_table(3)
    table.add(rows(0, 0))
    assert ids(table) == [0, 1, 2]


@flow
def add_what_does_not_fit():
    table = new_table(3)
    fails(Exception, call=lambda: table.add([{"id": "no number", "text": "a", "price": 1.0, "vector": [0.0] * 4}]))
    fails(Exception, "other", call=lambda: table.add([{"id": 3, "other": 1}]))
    fails(Exception, call=lambda: table.add([{"id": 3, "vector": [1.0, 2.0]}]))
    nan = [{"id": 3, "text": "a", "price": 1.0, "vector": [float("nan")] * 4}]
    fails(Exception, call=lambda: table.add(nan))
    assert ids(table) == [0, 1, 2] and table.version == 1
    table.add(nan, on_bad_vectors="fill", fill_value=9.0)
    assert read(table, "vector", where="id = 3") == [[[9.0] * 4]]


@flow
def update():
    table = new_table(5)
    done = table.update(where="id >= 3", values={"text": "it's new", "price": 7.5})
    assert (done.rows_updated, done.version) == (2, 2), done
    assert read(table, "text", "price", where="id >= 2") == [
        ["word2 even number", "it's new", "it's new"],
        [1.0, 7.5, 7.5],
    ]
    done = table.update(where="id < 2", values_sql={"price": "price + 10", "text": "upper(text)"})
    assert (done.rows_updated, done.version) == (2, 3), done
    assert read(table, "text", "price", where="id < 2") == [["WORD0 EVEN NUMBER", "WORD1 ODD NUMBER"], [10.0, 10.5]]
    assert table.update(values={"price": 0.0}).rows_updated == 5
    assert read(table, "price") == [[0.0] * 5]
    table.update(where=col("id") == lit(1), values={"vector": [9.0, 8.0, 7.0, 6.0], "text": None})
    assert read(table, "vector", "text", where="id = 1") == [[[9.0, 8.0, 7.0, 6.0]], [None]]
    assert table.update(where="id = 99", values={"price": 1.0}).rows_updated == 0
    # Who gives an empty condition has not asked for every row.
    fails(Exception, call=lambda: table.update(where="", values={"price": 1.0}))
    assert table.count_rows() == 5 and read(table, "price") == [[0.0] * 5]


@flow
def delete():
    table = new_table(6)
    done = table.delete("id IN (1, 2)")
    assert (done.num_deleted_rows, done.version) == (2, 2), done
    assert ids(table) == [0, 3, 4, 5]
    assert table.delete("text = 'word3 odd number'").num_deleted_rows == 1
    assert table.delete("id = 99").num_deleted_rows == 0
    assert ids(table) == [0, 4, 5]
    fails(Exception, "empty", call=lambda: table.delete(""))
    assert table.delete("true").num_deleted_rows == 3
    assert table.count_rows() == 0 and table.search().to_list() == []
    assert table.add(rows(7, 8)).version == table.version and ids(table) == [7]


def cheap(start, stop):
    return rows(start, stop).set_column(2, "price", pa.array([0.0] * (stop - start)))


def numbers(done):
    return done.num_inserted_rows, done.num_updated_rows, done.num_deleted_rows


@flow
def merge_upsert():
    table = new_table(4)
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    done = merge.execute(cheap(2, 6))
    assert numbers(done) == (2, 2, 0) and done.version == 2, done
    assert ids(table) == [0, 1, 2, 3, 4, 5] and read(table, "price") == [[0.0, 0.5, 0.0, 0.0, 0.0, 0.0]]
    assert numbers(merge.execute(cheap(0, 1), timeout=datetime.timedelta(seconds=30))) == (0, 1, 0)
    assert numbers(merge.use_index(False).execute(cheap(1, 2))) == (0, 1, 0)
    assert read(table, "price") == [[0.0] * 6]


@flow
def merge_insert_if_absent():
    table = new_table(4)
    done = table.merge_insert("id").when_not_matched_insert_all().execute(cheap(2, 6))
    assert numbers(done) == (2, 0, 0), done
    assert read(table, "price") == [[0.0, 0.5, 1.0, 1.5, 0.0, 0.0]]


@flow
def merge_update_only():
    table = new_table(4)
    done = table.merge_insert("id").when_matched_update_all().execute(cheap(2, 6))
    assert numbers(done) == (0, 2, 0), done
    assert read(table, "price") == [[0.0, 0.5, 0.0, 0.0]]
    dear = table.merge_insert("id").when_matched_update_all(where="target.price > 0 AND source.price = 0")
    assert numbers(dear.execute(cheap(0, 3))) == (0, 1, 0)
    assert read(table, "price") == [[0.0] * 4]


@flow
def merge_replace_a_range():
    table = new_table(8)
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    done = merge.when_not_matched_by_source_delete("id >= 4").execute(cheap(5, 6))
    assert numbers(done) == (0, 1, 3), done
    assert ids(table) == [0, 1, 2, 3, 5] and read(table, "price") == [[0.0, 0.5, 1.0, 1.5, 0.0]]
    low = table.merge_insert("id").when_matched_update_all().when_not_matched_by_source_delete("id < 2")
    assert numbers(low.execute(cheap(5, 6))) == (0, 1, 2)
    assert ids(table) == [2, 3, 5]
    mirror = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    assert numbers(mirror.when_not_matched_by_source_delete().execute(rows(10, 12))) == (2, 0, 3)
    assert ids(table) == [10, 11]


@flow
def merge_on_two_columns():
    table = new_table(3)
    text = pa.array(["word1 odd number", "another"])
    source = cheap(1, 3).set_column(1, "text", text)
    merge = table.merge_insert(["id", "text"]).when_matched_update_all().when_not_matched_insert_all()
    assert numbers(merge.execute(source)) == (1, 1, 0)
    assert table.count_rows() == 4 and table.count_rows("price = 0 AND id = 1") == 1
    assert table.count_rows("id = 2 AND text = 'another'") == 1


@flow
def merge_what_does_not_fit():
    table = new_table(3)
    merge = table.merge_insert("nothing").when_matched_update_all()
    fails(Exception, "nothing", call=lambda: merge.execute(rows(0, 1)))
    merge = table.merge_insert("id").when_matched_update_all(where="no_such_column = 1")
    fails(Exception, "no_such_column", call=lambda: merge.execute(rows(0, 1)))
    merge = table.merge_insert("id").when_not_matched_insert_all()
    fails(Exception, call=lambda: merge.execute(pa.table({"id": ["text"], "text": ["a"]})))
    assert ids(table) == [0, 1, 2] and table.version == 1


@flow
def own_writes_are_read_elsewhere():
    """A handle that wrote sees its write, and so does another connection at once."""
    table = new_table(1)
    other = world.same_database(read_consistency_interval=datetime.timedelta(0)).open_table(table.name)
    for count in range(2, 8):
        table.add(rows(count - 1, count))
        assert table.count_rows() == count
        assert other.count_rows() == count
