"""Versions, tags and branches."""

import datetime

import pyarrow as pa
from lancedb.index import BTree

from . import world
from .world import fails, flow, ids, new_table, read, rows


@flow
def list_versions():
    before = datetime.datetime.now()
    table = new_table(3)
    table.add(rows(3, 4))
    table.delete("id = 0")
    listed = sorted(table.list_versions(), key=lambda one: one["version"])
    assert [one["version"] for one in listed] == [1, 2, 3], listed
    slack = datetime.timedelta(seconds=5)
    for one in listed:
        assert before - slack < one["timestamp"] < datetime.datetime.now() + slack, one
        assert isinstance(one["metadata"], dict), one
    assert table.version == 3


@flow
def checkout():
    table = new_table(3)
    table.add(rows(3, 5))
    table.checkout(1)
    assert table.version == 1 and ids(table) == [0, 1, 2] and table.count_rows() == 3
    assert table.search([4.0] * 4).limit(1).to_list()[0]["id"] == 2
    fails(Exception, call=lambda: table.add(rows(9, 10)))
    fails(Exception, call=lambda: table.delete("true"))
    table.checkout_latest()
    assert table.version == 2 and ids(table) == [0, 1, 2, 3, 4]
    table.add(rows(5, 6))
    assert table.version == 3 and table.count_rows() == 6
    assert ids(world.db.open_table(table.name, version=2)) == [0, 1, 2, 3, 4]
    fails(Exception, call=lambda: table.checkout(99))
    table.checkout_latest()
    assert table.version == 3
    # The columns of an old version are its own.
    table.drop_columns(["price"])
    table.checkout(1)
    assert "price" in table.schema.names and read(table, "price") == [[0.0, 0.5, 1.0]]
    table.checkout_latest()
    assert "price" not in table.schema.names


@flow
def restore():
    table = new_table(3)
    table.add(rows(3, 5))
    table.delete("id < 2")
    table.restore(2)
    assert ids(table) == [0, 1, 2, 3, 4] and table.version == 4
    table.checkout(1)
    table.restore()
    assert ids(table) == [0, 1, 2] and table.version == 5
    table.add(rows(7, 8))
    assert ids(table) == [0, 1, 2, 7] and table.version == 6
    fails(Exception, call=lambda: table.restore(99))
    table.tags.create("two", 2)
    table.restore("two")
    assert ids(table) == [0, 1, 2, 3, 4]


@flow
def tags():
    table = new_table(3)
    table.add(rows(3, 4))
    table.add(rows(4, 5))
    assert table.tags.list() == {}
    table.tags.create("first", 1)
    table.tags.create("v2.0", 2)
    listed = table.tags.list()
    assert {name: tag["version"] for name, tag in listed.items()} == {"first": 1, "v2.0": 2}, listed
    assert all(tag["manifest_size"] > 0 for tag in listed.values()), listed
    assert table.tags.get_version("v2.0") == 2
    table.checkout("first")
    assert ids(table) == [0, 1, 2] and table.version == 1
    table.checkout_latest()
    table.tags.update("first", 3)
    assert table.tags.get_version("first") == 3
    table.checkout("first")
    assert ids(table) == [0, 1, 2, 3, 4]
    table.checkout_latest()
    table.tags.delete("v2.0")
    assert list(table.tags.list()) == ["first"]
    fails(Exception, "v2.0", call=lambda: table.tags.get_version("v2.0"))
    fails(Exception, call=lambda: table.tags.create("late", 99))
    fails(Exception, call=lambda: table.tags.delete("v2.0"))
    fails(Exception, call=lambda: table.tags.update("v2.0", 1))
    fails(Exception, call=lambda: table.checkout("v2.0"))
    table.checkout_latest()
    assert list(table.tags.list()) == ["first"] and table.count_rows() == 5


@flow
def tag_that_exists():
    """The client tries again what is refused with 409; a tag that is there already must not cost it three tries."""
    name = new_table(3).name
    connection, count = world.counted()
    table = connection.open_table(name)
    table.tags.create("once", 1)
    with world.took(count, 1):
        fails(Exception, "once", call=lambda: table.tags.create("once", 1))
    assert table.tags.get_version("once") == 1


@flow
def branches():
    table = new_table(3)
    assert table.branches.list() == {} and table.current_branch() is None
    dev = table.branches.create("dev")
    assert dev.current_branch() == "dev" and ids(dev) == [0, 1, 2]
    dev.add(rows(10, 12))
    dev.update(where="id = 0", values={"price": 99.0})
    dev.delete("id = 1")
    done = dev.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows(11, 14))
    assert (done.num_updated_rows, done.num_inserted_rows) == (1, 2), done
    assert ids(dev) == [0, 2, 10, 11, 12, 13] and dev.count_rows("price = 99") == 1
    assert ids(table) == [0, 1, 2] and read(table, "price") == [[0.0, 0.5, 1.0]]
    table.add(rows(5, 6))
    assert ids(dev) == [0, 2, 10, 11, 12, 13] and ids(table) == [0, 1, 2, 5]
    assert ids(world.db.open_table(table.name, branch="dev")) == [0, 2, 10, 11, 12, 13]
    listed = table.branches.list()
    assert list(listed) == ["dev"] and listed["dev"]["parent_version"] == 1, listed
    assert dev.search([12.2] * 4).limit(1).to_list()[0]["id"] == 12
    dev.add_columns({"twice": "id * 2"})
    assert "twice" in dev.schema.names and "twice" not in table.schema.names
    dev.create_index("id", config=BTree(), wait_timeout=world.WAIT)
    assert [index.name for index in dev.list_indices()] == ["id_idx"] and list(table.list_indices()) == []
    assert dev.stats()["num_rows"] == 6 and table.stats()["num_rows"] == 4
    versions = sorted(one["version"] for one in dev.list_versions())
    assert versions[-1] == dev.version, versions
    first = table.branches.checkout("dev", version=versions[-1])
    assert "twice" in first.schema.names
    table.branches.delete("dev")
    assert table.branches.list() == {}
    fails(Exception, call=lambda: table.branches.checkout("dev").count_rows())
    assert ids(table) == [0, 1, 2, 5]


@flow
def branch_of_a_version_and_of_a_branch():
    table = new_table(3)
    table.add(rows(3, 5))
    old = table.branches.create("old", from_version=1)
    assert ids(old) == [0, 1, 2]
    old.add(rows(20, 21))
    deeper = table.branches.create("deeper", from_ref="old")
    assert ids(deeper) == [0, 1, 2, 20]
    deeper.add(rows(30, 31))
    assert ids(deeper) == [0, 1, 2, 20, 30] and ids(old) == [0, 1, 2, 20] and ids(table) == [0, 1, 2, 3, 4]
    assert sorted(table.branches.list()) == ["deeper", "old"]
    assert table.branches.list()["deeper"]["parent_branch"] == "old"


@flow
def branch_that_cannot_be():
    table = new_table(3)
    table.branches.create("dev")
    fails(ValueError, "dev", call=lambda: table.branches.create("dev"))
    fails(Exception, call=lambda: table.branches.create("late", from_version=99))
    fails(Exception, "nowhere", call=lambda: table.branches.create("side", from_ref="nowhere"))
    fails(Exception, "nowhere", call=lambda: table.branches.delete("nowhere"))
    assert list(table.branches.list()) == ["dev"]


@flow
def branch_written_in_parallel():
    table = new_table(3)
    dev = table.branches.create("dev")
    batches = pa.Table.from_batches(rows(100, 900).to_batches(max_chunksize=50))
    dev.add(batches, write_parallelism=4)
    assert ids(dev) == [0, 1, 2, *range(100, 900)] and ids(table) == [0, 1, 2]
