"""Indexes of every kind that the client can ask for."""

import time

import pyarrow as pa
from lancedb.index import (
    FTS,
    Bitmap,
    BTree,
    Fm,
    HnswFlat,
    HnswSq,
    IvfFlat,
    IvfPq,
    IvfRq,
    IvfSq,
    LabelList,
)

from . import world
from .world import WAIT, fails, flow, id_list, ids, new_name, new_table, point, rows

ROWS = 400


def wide(count=ROWS, dimension=32):
    """Vectors that a quantizer can be trained on: row i has i in the first place, and noise in the others."""
    vectors = [
        float(i) if place == 0 else float((i * place) % 7) / 50 for i in range(count) for place in range(dimension)
    ]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors, pa.float32()), dimension)
    return world.db.create_table(
        new_name("wide"), pa.table({"id": pa.array(range(count), pa.int64()), "vector": vectors})
    )


def the_index(table, name):
    found = [index for index in table.list_indices() if index.name == name]
    assert len(found) == 1, table.list_indices()
    return found[0]


def built(table, column, config, kind, name=None, count=ROWS, metric=None):
    """Builds an index, and checks what is told of it."""
    table.create_index(column, config=config, wait_timeout=WAIT, name=name)
    name = name or f"{column}_idx"
    index, stats = in_its_place(table, name, kind, metric)
    assert index.columns == [column], index
    assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (count, 0), stats
    assert normal(stats.index_type) == kind, stats


def in_its_place(table, name, kind, metric):
    """The client waits for an index of that name, which one is until another is built in its place."""
    begun = time.monotonic()
    while True:
        index, stats = the_index(table, name), table.index_stats(name)
        if normal(index.index_type) == kind and metric in (None, stats.distance_type):
            return index, stats
        assert time.monotonic() - begun < WAIT.total_seconds(), (index, stats)
        time.sleep(0.1)


def normal(kind):
    """One word for IvfPq and IVF_PQ: the client has both."""
    return kind.replace("_", "").lower()


@flow
def vector_indexes():
    kinds = [
        (IvfFlat(distance_type="l2", num_partitions=2), "ivfflat", "l2"),
        (IvfPq(distance_type="l2", num_partitions=2, num_sub_vectors=8), "ivfpq", "l2"),
        (IvfPq(distance_type="cosine", num_partitions=2, num_sub_vectors=4, num_bits=4), "ivfpq", "cosine"),
        (IvfSq(distance_type="dot", num_partitions=2), "ivfsq", "dot"),
        (IvfRq(distance_type="l2", num_partitions=2), "ivfrq", "l2"),
        (HnswSq(distance_type="l2", num_partitions=1, m=8, ef_construction=50), "ivfhnswsq", "l2"),
        (HnswFlat(distance_type="cosine", num_partitions=1), "ivfhnswflat", "cosine"),
    ]
    table = wide()
    question = table.search().where("id = 123").limit(1).to_list()[0]["vector"]
    for config, kind, metric in kinds:
        built(table, "vector", config, kind, metric=metric)
        search = table.search(question).distance_type(metric).nprobes(2).refine_factor(20).limit(40)
        # An index that has the vector itself in its reach; by their product, longer vectors are nearer.
        assert 123 in id_list(search) or metric == "dot", kind
        assert "ANN" in search.explain_plan(), kind
    assert len(table.list_indices()) == 1, "one name, one index"
    fails(
        Exception, call=lambda: table.search(question, vector_column_name="vector").distance_type("no such").to_list()
    )


@flow
def vector_index_by_defaults():
    table = wide()
    table.create_index("vector", config=IvfPq(), wait_timeout=WAIT)
    assert normal(the_index(table, "vector_idx").index_type) == "ivfpq"
    # The older form of the call.
    table.create_index(metric="cosine", num_partitions=2, index_type="IVF_FLAT", wait_timeout=WAIT)
    in_its_place(table, "vector_idx", "ivfflat", "cosine")


@flow
def binary_vectors():
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array([i % 256 for i in range(300) for _ in range(8)], pa.uint8()), 8
    )
    table = world.db.create_table(new_name(), pa.table({"id": pa.array(range(300), pa.int64()), "vector": vectors}))
    built(table, "vector", IvfFlat(distance_type="hamming", num_partitions=1), "ivfflat", count=300)
    assert table.index_stats("vector_idx").distance_type == "hamming"


def things():
    data = {
        "id": pa.array(range(ROWS), pa.int64()),
        "kind": [f"kind {i % 5}" for i in range(ROWS)],
        "tags": pa.array([[f"tag {i % 3}", f"tag {i % 7}"] for i in range(ROWS)], pa.list_(pa.string())),
        "words": world.texts(range(ROWS)),
    }
    return world.db.create_table(new_name("things"), pa.table(data))


@flow
def scalar_indexes():
    table = things()
    built(table, "id", BTree(), "btree")
    built(table, "kind", Bitmap(), "bitmap")
    built(table, "tags", LabelList(), "labellist")
    built(table, "words", FTS(), "fts")
    assert sorted(index.name for index in table.list_indices()) == ["id_idx", "kind_idx", "tags_idx", "words_idx"]
    assert ids(table, "id = 77") == [77]
    assert ids(table, "kind = 'kind 3' AND id < 10") == [3, 8]
    assert ids(table, "array_has_any(tags, ['tag 6']) AND id < 21") == [6, 13, 20]
    assert "ScalarIndex" in table.search().where("id = 77").explain_plan()
    assert id_list(table.search("word77", query_type="fts")) == [77]
    assert table.stats()["num_indices"] == 4


@flow
def substring_index():
    table = things()
    try:
        table.create_index("words", config=Fm(), wait_timeout=WAIT)
    except Exception as error:
        # A server that cannot make one says so at once, and leaves nothing behind.
        assert "406" in str(error) or "501" in str(error) or "400" in str(error), error
        assert list(table.list_indices()) == []
    else:
        assert normal(the_index(table, "words_idx").index_type) == "fm"
        assert ids(table, "contains(words, 'word77 ')") == [77]


@flow
def older_calls_for_scalar_indexes():
    table = things()
    table.create_scalar_index("id", wait_timeout=WAIT)
    table.create_scalar_index("kind", "BITMAP", wait_timeout=WAIT)
    table.create_fts_index("words", with_position=True, wait_timeout=WAIT)
    kinds = {index.name: normal(index.index_type) for index in table.list_indices()}
    assert kinds == {"id_idx": "btree", "kind_idx": "bitmap", "words_idx": "fts"}, kinds


@flow
def named_indexes():
    table = things()
    built(table, "id", BTree(), "btree", name="by number")
    index = the_index(table, "by number")
    assert index.num_indexed_rows in (None, ROWS) and index.num_unindexed_rows in (None, 0), index
    table.drop_index("by number")
    assert list(table.list_indices()) == []
    built(table, "id", BTree(), "btree", name="number-index_2.0")
    fails(
        Exception, call=lambda: table.create_index("kind", config=BTree(), name="number-index_2.0", wait_timeout=WAIT)
    )
    assert the_index(table, "number-index_2.0").columns == ["id"]


@flow
def index_that_exists():
    table = things()
    table.create_index("id", config=BTree(), wait_timeout=WAIT)
    table.create_index("id", config=BTree(), replace=True, wait_timeout=WAIT)
    fails(
        Exception,
        "exists",
        call=lambda: table.create_index_async("id", config=BTree(), replace=False).wait(timeout=WAIT),
    )
    assert [index.name for index in table.list_indices()] == ["id_idx"]


@flow
def drop_and_prewarm():
    table = things()
    table.create_index("id", config=BTree(), wait_timeout=WAIT)
    table.prewarm_index("id_idx")
    fails(Exception, "501", call=lambda: table.prewarm_data(["id"]))
    fails(Exception, "nothing", call=lambda: table.prewarm_index("nothing"))
    table.drop_index("id_idx")
    assert list(table.list_indices()) == [] and table.index_stats("id_idx") is None
    fails(Exception, "id_idx", call=lambda: table.drop_index("id_idx"))
    assert ids(table, "id = 77") == [77]


@flow
def wait_for_several():
    table = things()
    table.create_index("id", config=BTree())
    table.create_index("kind", config=Bitmap())
    table.wait_for_index(["id_idx", "kind_idx"], WAIT)
    table.add([{"id": 1000, "kind": "new", "tags": [], "words": "late"}])
    assert table.index_stats("id_idx").num_unindexed_rows == 1
    assert ids(table, "id = 1000") == [1000] and ids(table, "kind = 'new'") == [1000]


@flow
def index_as_a_job():
    table = things()
    job = table.create_index_async("id", config=BTree())
    job.wait(timeout=WAIT)
    assert job.status() == "finished"
    assert the_index(table, "id_idx").columns == ["id"]


@flow
def index_that_cannot_be():
    table = new_table(5)
    fails(Exception, "nothing", call=lambda: table.create_index("nothing", config=BTree(), wait_timeout=WAIT))
    fails(Exception, call=lambda: table.create_index_async("text", config=IvfPq()).wait(timeout=WAIT))
    fails(Exception, call=lambda: table.create_index_async("vector", config=FTS()).wait(timeout=WAIT))
    # Four numbers make no three parts of the same length.
    fails(
        Exception, call=lambda: table.create_index_async("vector", config=IvfPq(num_sub_vectors=3)).wait(timeout=WAIT)
    )
    assert list(table.list_indices()) == [] and id_list(table.search(point(2)).limit(1)) == [2]


@flow
def index_on_a_nested_column():
    data = pa.table({"id": pa.array([1, 2], pa.int64()), "inner": [{"a": 5, "b": "x"}, {"a": 6, "b": "y"}]})
    table = world.db.create_table(new_name(), data)
    table.create_index("inner.a", config=BTree(), wait_timeout=WAIT)
    indexes = list(table.list_indices())
    assert [index.columns for index in indexes] == [["inner.a"]], indexes
    assert ids(table, "inner.a = 6") == [2]


@flow
def index_on_a_name_with_capitals():
    table = world.db.create_table(new_name(), [{"id": 1, "camelCase": 7}, {"id": 2, "camelCase": 8}])
    table.create_index("camelCase", config=BTree(), wait_timeout=WAIT)
    assert [index.columns for index in table.list_indices()] == [["camelCase"]]
    assert ids(table, "`camelCase` = 8") == [2]


@flow
def indexes_of_an_empty_table():
    table = world.db.create_table(new_name(), schema=rows(0, 0).schema)
    table.create_index("id", config=BTree(), wait_timeout=WAIT)
    table.add(rows(0, 3))
    assert ids(table, "id = 2") == [2]
