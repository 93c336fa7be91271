"""Tables: created, opened, listed, renamed, dropped."""

import pickle

import lance_namespace as ln
import pyarrow as pa

from . import world
from .world import fails, flow, ids, new_name, new_table, read, rows


@flow
def create_with_data():
    name = new_name()
    table = world.db.create_table(name, rows(0, 3))
    assert table.name == name and table.version == 1, table.version
    assert table.schema.equals(rows(0, 0).schema), table.schema
    assert ids(table) == [0, 1, 2] and table.count_rows() == 3 and len(table) == 3
    assert read(table, "text", "price", "vector") == [
        ["word0 even number", "word1 odd number", "word2 even number"],
        [0.0, 0.5, 1.0],
        [[0.0] * 4, [1.0] * 4, [2.0] * 4],
    ]
    records = world.db.create_table(new_name(), [{"id": 1, "vector": [1.0, 2.0]}, {"id": 2, "vector": [3.0, 4.0]}])
    assert records.schema.field("vector").type == pa.list_(pa.float32(), 2), records.schema
    assert records.search([3.0, 4.0]).limit(1).to_list() == [{"id": 2, "vector": [3.0, 4.0], "_distance": 0.0}]
    batches = (batch for batch in rows(0, 10).to_batches(max_chunksize=3))
    assert world.db.create_table(new_name(), batches, schema=rows(0, 0).schema).count_rows() == 10
    frame = rows(0, 4).to_pandas()
    assert ids(world.db.create_table(new_name(), frame)) == [0, 1, 2, 3]


@flow
def create_with_a_schema_only():
    table = world.db.create_table(new_name(), schema=rows(0, 0).schema)
    assert table.count_rows() == 0 and table.schema.equals(rows(0, 0).schema)
    assert table.search().to_list() == []
    table.add(rows(5, 7))
    assert ids(table) == [5, 6]


@flow
def create_one_that_exists():
    table = new_table(3)
    fails(ValueError, "already exists", call=lambda: world.db.create_table(table.name, rows(0, 1)))
    assert ids(table) == [0, 1, 2]
    same = world.db.create_table(table.name, rows(5, 9), exist_ok=True)
    assert ids(same) == [0, 1, 2] and same.version == 1
    same = world.db.create_table(table.name, rows(5, 9), mode="exist_ok")
    assert ids(same) == [0, 1, 2]
    fresh = world.db.create_table(new_name(), rows(5, 9), exist_ok=True)
    assert ids(fresh) == [5, 6, 7, 8]


@flow
def create_over_another():
    table = new_table(3)
    replaced = world.db.create_table(table.name, [{"id": 7, "flag": True}], mode="overwrite")
    assert replaced.schema.names == ["id", "flag"] and replaced.search().to_list() == [{"id": 7, "flag": True}]
    assert world.db.open_table(table.name).count_rows() == 1
    assert ids(world.db.create_table(new_name(), rows(0, 2), mode="overwrite")) == [0, 1]


@flow
def every_type_comes_back():
    schema = pa.schema(
        [
            pa.field("flag", pa.bool_()),
            *(pa.field(f"i{bits}", getattr(pa, f"int{bits}")()) for bits in (8, 16, 32, 64)),
            *(pa.field(f"u{bits}", getattr(pa, f"uint{bits}")()) for bits in (8, 16, 32, 64)),
            *(pa.field(f"f{bits}", getattr(pa, f"float{bits}")()) for bits in (16, 32, 64)),
            pa.field("string", pa.string()),
            pa.field("large_string", pa.large_string()),
            pa.field("binary", pa.binary()),
            pa.field("large_binary", pa.large_binary()),
            pa.field("fixed", pa.binary(3)),
            pa.field("date32", pa.date32()),
            pa.field("date64", pa.date64()),
            pa.field("time", pa.time64("us")),
            pa.field("timestamp", pa.timestamp("us")),
            pa.field("zoned", pa.timestamp("ms", "UTC")),
            pa.field("duration", pa.duration("s")),
            pa.field("decimal", pa.decimal128(10, 2)),
            pa.field("dictionary", pa.dictionary(pa.int32(), pa.string())),
            pa.field("list", pa.list_(pa.int32())),
            pa.field("large_list", pa.large_list(pa.string())),
            pa.field("struct", pa.struct([pa.field("a", pa.int32()), pa.field("b", pa.list_(pa.string()))])),
            pa.field("vector", pa.list_(pa.float16(), 2)),
            pa.field("required", pa.int32(), nullable=False, metadata={"unit": "m"}),
        ],
        metadata={"owner": "flows", "note": '{"a": "b"}'},
    )
    table = world.db.create_table(new_name(), schema=schema)
    assert table.schema.equals(schema, check_metadata=True), table.schema.to_string()
    reopened = world.db.open_table(table.name)
    assert reopened.schema.equals(schema, check_metadata=True), reopened.schema.to_string()
    assert reopened.head(1).schema.equals(schema), reopened.head(1).schema


@flow
def open_and_list():
    db = world.database(new_name("listing"))
    assert list(db.table_names()) == [] and db.list_tables().tables == []
    names = [f"t{i:02}" for i in range(12)]
    for name in reversed(names):
        db.create_table(name, rows(0, 1))
    assert db.open_table("t03").count_rows() == 1
    assert list(db.table_names(limit=100)) == names and sorted(db.list_tables().tables) == names
    # The first page token of this listing is a name, and the page starts after it.
    assert list(db.table_names(limit=5)) == names[:5]
    assert list(db.table_names(page_token="t04", limit=4)) == names[5:9]
    assert list(db.table_names(page_token="t11", limit=5)) == []
    assert list(db.table_names(page_token="t031", limit=2)) == ["t04", "t05"]
    paged, token = [], None
    for _ in range(20):
        page = db.list_tables(limit=5, page_token=token)
        assert len(page.tables) <= 5, page
        paged, token = paged + page.tables, page.page_token
        if not token:
            break
    assert paged == names and not token, paged
    fails(ValueError, "t99", call=lambda: db.open_table("t99"))


@flow
def rename():
    table = new_table(3)
    other = new_table(1)
    name = new_name("renamed")
    world.db.rename_table(table.name, name)
    assert ids(world.db.open_table(name)) == [0, 1, 2]
    assert name in world.db.list_tables().tables and table.name not in world.db.list_tables().tables
    fresh = world.same_database()
    fails(ValueError, table.name, call=lambda: fresh.open_table(table.name))
    fails(Exception, "exist", call=lambda: world.db.rename_table(name, other.name))
    assert ids(world.db.open_table(name)) == [0, 1, 2] and ids(other) == [0]
    fails(Exception, "not", call=lambda: world.db.rename_table(new_name(), new_name()))


@flow
def drop():
    table = new_table(3)
    world.db.drop_table(table.name)
    assert table.name not in world.db.list_tables().tables
    fresh = world.same_database()
    fails(ValueError, table.name, call=lambda: fresh.open_table(table.name))
    fails(ValueError, "not found", call=lambda: table.count_rows())
    fails(Exception, "not", call=lambda: world.db.drop_table(table.name))
    again = world.db.create_table(table.name, rows(9, 10))
    assert ids(again) == [9] and again.version == 1
    one = new_table(1)
    job = world.db.drop_table_async(one.name)
    job.wait(timeout=world.WAIT)
    assert one.name not in world.db.list_tables().tables


@flow
def statistics_and_place():
    table = new_table(3)
    table.add(rows(3, 8))
    stats = table.stats()
    assert stats["num_rows"] == 8 and stats["num_indices"] == 0 and stats["total_bytes"] > 0, stats
    fragments = stats["fragment_stats"]
    assert fragments["num_fragments"] == 2 and fragments["num_small_fragments"] == 2, fragments
    lengths = fragments["lengths"]
    assert (lengths["min"], lengths["max"], lengths["mean"]) == (3, 5, 4), lengths
    assert lengths["p25"] <= lengths["p50"] <= lengths["p75"] <= lengths["p99"] == 5, lengths
    assert table.name in table.uri or "/" in table.uri, table.uri


@flow
def pickled_handle():
    """A handle that goes to another process opens its table again, at its branch and version."""
    table = new_table(3)
    table.add(rows(3, 5))
    assert ids(pickle.loads(pickle.dumps(table))) == [0, 1, 2, 3, 4]
    table.checkout(1)
    assert ids(pickle.loads(pickle.dumps(table))) == [0, 1, 2]


@flow
def type_that_these_clients_do_not_know():
    """They cannot read a schema with a map. So none is made for them, and one that is there does not open."""
    maps = pa.table({"id": [1], "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32()))})
    name = new_name()
    fails(Exception, "map", call=lambda: world.db.create_table(name, maps))
    assert name not in world.db.list_tables().tables
    body = pa.BufferOutputStream()
    with pa.ipc.new_stream(body, maps.schema) as writer:
        writer.write_table(maps)
    space = ln.connect("rest", {"uri": world.base})
    space.create_table(ln.CreateTableRequest(id=[world.name, name]), body.getvalue().to_pybytes())
    fails(Exception, "map", call=lambda: world.db.open_table(name).schema)
    world.db.drop_table(name)
