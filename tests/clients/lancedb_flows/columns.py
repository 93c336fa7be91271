"""Columns: added, altered, dropped, described."""

import pyarrow as pa

from . import world
from .world import fails, flow, ids, new_name, new_table, read, rows


@flow
def add_computed_columns():
    table = new_table(3)
    done = table.add_columns({"twice": "id * 2", "shout": "upper(text)"})
    assert done.version == table.version == 2, done
    assert read(table, "twice", "shout")[0] == [0, 2, 4] and read(table, "shout")[0][1] == "WORD1 ODD NUMBER"
    assert table.schema.field("twice").type == pa.int64()
    table.add([{"id": 3, "twice": 7}])
    assert read(table, "twice", where="id = 3") == [[7]]
    fails(Exception, call=lambda: table.add_columns({"twice": "id"}))
    fails(Exception, "no_such", call=lambda: table.add_columns({"more": "no_such + 1"}))
    fails(Exception, call=lambda: table.add_columns({"more": "id +"}))
    assert "more" not in world.same_database().open_table(table.name).schema.names


@flow
def add_columns_of_nulls():
    table = new_table(3)
    assert table.add_columns(pa.field("note", pa.string())).version == 2
    table.add_columns([pa.field("rank", pa.int32()), pa.field("when", pa.timestamp("us", "UTC"))])
    table.add_columns(pa.schema([pa.field("other", pa.list_(pa.float32(), 2))]))
    kinds = {field.name: field.type for field in table.schema}
    assert kinds["note"] == pa.string() and kinds["rank"] == pa.int32(), kinds
    assert kinds["when"] == pa.timestamp("us", "UTC") and kinds["other"] == pa.list_(pa.float32(), 2), kinds
    assert read(table, "note", "rank", "when", "other") == [[None] * 3] * 4
    table.update(where="id = 1", values={"note": "set", "rank": 5})
    assert read(table, "note", "rank") == [[None, "set", None], [None, 5, None]]
    fails(Exception, call=lambda: table.add_columns(pa.field("must", pa.int32(), nullable=False)))
    assert ids(table) == [0, 1, 2]


@flow
def alter_columns():
    table = new_table(3)
    done = table.alter_columns({"path": "text", "rename": "label"})
    assert done.version == table.version == 2, done
    assert read(table, "label") == [["word0 even number", "word1 odd number", "word2 even number"]]
    table.alter_columns(
        {"path": "price", "data_type": pa.float32()}, {"path": "id", "rename": "number", "nullable": True}
    )
    assert table.schema.field("price").type == pa.float32() and table.schema.names[0] == "number"
    table.alter_columns({"path": "vector", "data_type": pa.list_(pa.float16(), 4)})
    assert table.schema.field("vector").type == pa.list_(pa.float16(), 4)
    assert table.search([2.0] * 4).limit(1).to_list()[0]["number"] == 2
    fails(Exception, "nothing", call=lambda: table.alter_columns({"path": "nothing", "rename": "b"}))
    fails(Exception, call=lambda: table.alter_columns({"path": "label", "rename": "price"}))
    assert sorted(table.search().select(["number"]).limit(None).to_arrow()["number"].to_pylist()) == [0, 1, 2]


@flow
def drop_columns():
    table = new_table(3)
    done = table.drop_columns(["text", "price"])
    assert done.version == table.version == 2, done
    assert table.schema.names == ["id", "vector"]
    assert table.search().limit(1).to_list() == [{"id": 0, "vector": [0.0] * 4}]
    fails(Exception, "text", call=lambda: table.drop_columns(["text"]))
    fails(Exception, call=lambda: table.drop_columns(["id", "vector"]))
    assert table.schema.names == ["id", "vector"]


@flow
def nested_columns():
    data = pa.table({"id": pa.array([1, 2], pa.int64()), "inner": [{"a": 5, "b": "x"}, {"a": 6, "b": "y"}]})
    table = world.db.create_table(new_name(), data)
    table.alter_columns({"path": "inner.a", "rename": "first"})
    assert table.search().where("inner.first = 6").to_list() == [{"id": 2, "inner": {"first": 6, "b": "y"}}]
    table.drop_columns(["inner.b"])
    assert table.search().limit(1).to_list() == [{"id": 1, "inner": {"first": 5}}]
    assert table.search().select({"deep": "inner.first"}).limit(1).to_list() == [{"deep": 5}]


@flow
def field_metadata():
    table = new_table(3)
    done = table.update_field_metadata(
        {"path": "text", "metadata": {"lancedb:description": "a word", "unit": "none"}},
        {"path": "price", "metadata": {"unit": "EUR"}},
    )
    assert done.version == 2, done
    assert table.schema.field("text").metadata == {b"lancedb:description": b"a word", b"unit": b"none"}
    assert table.schema.field("price").metadata == {b"unit": b"EUR"}
    table.update_field_metadata({"path": "text", "metadata": {"unit": None, "more": "1"}})
    assert table.schema.field("text").metadata == {b"lancedb:description": b"a word", b"more": b"1"}
    table.update_field_metadata({"path": "text", "metadata": {"only": "this"}, "replace": True})
    assert table.schema.field("text").metadata == {b"only": b"this"}
    fails(Exception, "nothing", call=lambda: table.update_field_metadata({"path": "nothing", "metadata": {"a": "b"}}))
    assert ids(table) == [0, 1, 2]


@flow
def add_with_new_columns():
    """A column that the table has not is refused by the client itself; an old handle learns of a new one."""
    table = new_table(1)
    old = world.same_database().open_table(table.name)
    assert "note" not in old.schema.names
    table.add_columns(pa.field("note", pa.string()))
    data = rows(1, 2).append_column("note", pa.array(["new"]))
    fails(Exception, "unexpected", call=lambda: table.add(data.append_column("unexpected", pa.array([1]))))
    table.add(data)
    assert read(table, "note") == [[None, "new"]]
