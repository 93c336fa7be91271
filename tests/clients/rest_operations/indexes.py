"""Indexes."""

from lance_namespace_urllib3_client import models

from .world import call, finished, insert, new_id, new_table, operation, pages, query, refused


def index(id, column, kind, name, scalar=False, **options):
    """Asks for an index; answers the id of the job that builds it."""
    request = models.CreateTableIndexRequest(column=column, index_type=kind, name=name, **options)
    operation = "create_table_scalar_index" if scalar else "create_table_index"
    return call(operation, id, request).transaction_id


def listed(id, **options):
    reply = call("list_table_indices", id, models.ListTableIndicesRequest(**options))
    return {index.index_name: index for index in reply.indexes}


@operation
def create_table_index():
    id = new_table(600)
    finished(index(id, "vector", "IVF_FLAT", "near", distance_type="l2", num_partitions=2))
    finished(index(id, "vector", "IVF_PQ", "packed", num_partitions=2, num_sub_vectors=2, distance_type="cosine"))
    finished(index(id, "name", "FTS", "words"))
    indexes = listed(id)
    assert indexes["near"].columns == ["vector"] and indexes["near"].index_type == "IVF_FLAT", indexes["near"]
    assert indexes["packed"].index_type == "IVF_PQ" and indexes["near"].num_indexed_rows == 600
    assert query(id, k=1, vector=[77.0] * 4, columns=["id"], nprobes=2)["id"].to_pylist() == [77]

    def request(**options):
        return models.CreateTableIndexRequest(**({"column": "vector", "index_type": "IVF_FLAT"} | options))

    refused(7, "create_table_index", id, request(name="near"))
    refused(12, "create_table_index", id, request(column="nothing"))
    refused(13, "create_table_index", id, request(index_type="MAGIC"))
    refused(13, "create_table_index", id, request(distance_type="feeling"))
    refused(4, "create_table_index", new_id(), request())
    assert set(listed(id)) == {"near", "packed", "words"}


@operation
def create_table_scalar_index():
    id = new_table(20)
    finished(index(id, "id", "BTREE", "by_id", scalar=True))
    finished(index(id, "price", "BITMAP", "by_price", scalar=True))
    indexes = listed(id)
    assert {name: one.index_type for name, one in indexes.items()} == {"by_id": "BTREE", "by_price": "BITMAP"}
    assert query(id, filter="id = 7", columns=["id"])["id"].to_pylist() == [7]
    again = models.CreateTableIndexRequest(column="id", index_type="BTREE", name="by_id")
    refused(7, "create_table_scalar_index", id, again)
    nothing = models.CreateTableIndexRequest(column="nothing", index_type="BTREE")
    refused(12, "create_table_scalar_index", id, nothing)
    refused(4, "create_table_scalar_index", new_id(), again)


@operation
def list_table_indices():
    id = new_table(20)
    assert listed(id) == {}
    for name in ("one", "two", "three"):
        finished(index(id, "id", "BTREE", name, scalar=True))
    one = listed(id)["one"]
    assert one.index_uuid and one.status and one.columns == ["id"], one
    assert (one.num_indexed_rows, one.num_unindexed_rows) == (20, 0), one

    def page(**options):
        return call("list_table_indices", id, models.ListTableIndicesRequest(**options))

    names = [[index.index_name for index in one.indexes] for one in pages(page, limit=2)]
    assert sorted(sum(names, [])) == ["one", "three", "two"] and max(map(len, names)) == 2, names
    assert listed(id, version=1) == {}
    refused(4, "list_table_indices", new_id(), models.ListTableIndicesRequest())


@operation
def describe_table_index_stats():
    id = new_table(20)
    finished(index(id, "id", "BTREE", "by_id", scalar=True))
    insert(id, 20, 25)
    request = models.DescribeTableIndexStatsRequest()
    stats = call("describe_table_index_stats", id, "by_id", request)
    assert (stats.index_type, stats.num_indexed_rows, stats.num_unindexed_rows) == ("BTREE", 20, 5), stats
    assert stats.num_indices == 1, stats
    refused(6, "describe_table_index_stats", id, "nothing", request)
    refused(4, "describe_table_index_stats", new_id(), "by_id", request)


@operation
def drop_table_index():
    id = new_table(20)
    finished(index(id, "id", "BTREE", "by_id", scalar=True))
    call("drop_table_index", id, "by_id")
    assert listed(id) == {}
    refused(6, "drop_table_index", id, "by_id")
    refused(4, "drop_table_index", new_id(), "by_id")
