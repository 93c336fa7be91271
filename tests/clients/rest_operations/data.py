"""Rows: written, changed, read."""

import pyarrow as pa
from lance_namespace_urllib3_client import models

from .indexes import index
from .world import (
    call,
    column,
    count,
    finished,
    insert,
    latest,
    new_id,
    new_table,
    operation,
    query,
    refused,
    rows,
    stream,
)


@operation
def insert_into_table():
    id = new_table(3)
    reply = call("insert_into_table", id, stream(rows(3, 5)))
    assert (reply.num_inserted_rows, reply.version) == (2, 2), reply
    assert column(id, "id") == [0, 1, 2, 3, 4]
    reply = call("insert_into_table", id, stream(rows(10, 11)), mode="overwrite")
    assert reply.version == 3 and column(id, "id") == [10]
    call("create_table_branch", id, models.CreateTableBranchRequest(name="side"))
    insert(id, 20, 22, branch="side")
    assert column(id, "id") == [10]
    assert column(id, "id", branch="side") == [10, 20, 21]
    refused(4, "insert_into_table", new_id(), stream(rows(0, 1)))
    refused(22, "insert_into_table", id, stream(rows(0, 1)), branch="nowhere")
    refused(20, "insert_into_table", id, stream(pa.table({"id": ["no number"]})))
    refused(13, "insert_into_table", id, stream(rows(0, 1)), mode="sideways")
    assert column(id, "id") == [10]


@operation
def merge_insert_into_table():
    id = new_table(4)
    cheap = rows(2, 6).set_column(2, "price", pa.array([0.0] * 4))
    every = {"when_matched_update_all": True, "when_not_matched_insert_all": True}
    reply = call("merge_insert_into_table", id, ["id"], stream(cheap), timeout="30s", **every)
    assert (reply.num_updated_rows, reply.num_inserted_rows, reply.num_deleted_rows) == (2, 2, 0), reply
    assert reply.version == 2 and column(id, "price") == [0.0, 0.5, 0, 0, 0, 0]
    # Two columns, sent as `on=id&on=name`: row 5 matches on both, "other 4" on one of them.
    names = pa.array(["other 4", "name 5"])
    both = rows(4, 6).set_column(1, "name", names).set_column(2, "price", pa.array([9.0, 9.0]))
    reply = call("merge_insert_into_table", id, ["id", "name"], stream(both), **every)
    assert (reply.num_updated_rows, reply.num_inserted_rows) == (1, 1), reply
    assert count(id) == 7 and count(id, "price = 9") == 2 and count(id, "id = 4") == 2
    reply = call(
        "merge_insert_into_table",
        id,
        ["id"],
        stream(rows(0, 1)),
        when_matched_update_all=True,
        when_matched_update_all_filt="target.price > 1",
        when_not_matched_by_source_delete=True,
        when_not_matched_by_source_delete_filt="id >= 4",
    )
    assert (reply.num_updated_rows, reply.num_deleted_rows) == (0, 3), reply
    assert column(id, "id") == [0, 1, 2, 3]
    version = latest(id)
    refused(12, "merge_insert_into_table", id, ["nothing"], stream(rows(0, 1)), **every)
    refused(13, "merge_insert_into_table", id, ["id"], stream(rows(0, 1)), timeout="soon", **every)
    refused(4, "merge_insert_into_table", new_id(), ["id"], stream(rows(0, 1)), **every)
    assert latest(id) == version


@operation
def update_table():
    id = new_table(5)
    request = models.UpdateTableRequest(predicate="id >= 3", updates=[["price", "price + 10"], ["name", "'new'"]])
    reply = call("update_table", id, request)
    assert (reply.updated_rows, reply.version) == (2, 2), reply
    assert column(id, "price") == [0, 0.5, 1, 11.5, 12]
    assert column(id, "name") == ["name 0", "name 1", "name 2", "new", "new"]
    assert call("update_table", id, models.UpdateTableRequest(updates=[["price", "1"]])).updated_rows == 5
    refused(12, "update_table", id, models.UpdateTableRequest(updates=[["nothing", "1"]]))
    refused(13, "update_table", id, models.UpdateTableRequest(predicate="id >>> 3", updates=[["price", "1"]]))
    refused(4, "update_table", new_id(), request)
    assert latest(id) == 3


@operation
def delete_from_table():
    id = new_table(5)
    assert call("delete_from_table", id, models.DeleteFromTableRequest(predicate="id IN (1, 2)")).version == 2
    assert column(id, "id") == [0, 3, 4]
    refused(13, "delete_from_table", id, models.DeleteFromTableRequest(predicate="id ="))
    refused(12, "delete_from_table", id, models.DeleteFromTableRequest(predicate="nothing = 1"))
    refused(4, "delete_from_table", new_id(), models.DeleteFromTableRequest(predicate="true"))
    assert latest(id) == 2


@operation
def count_table_rows():
    id = new_table(10)
    insert(id, 10, 12)
    found = count(id)
    assert isinstance(found, int) and found == 12
    assert count(id, "id < 3") == 3
    assert count(id, version=1) == 10
    refused(4, "count_table_rows", new_id(), models.CountTableRowsRequest())
    refused(11, "count_table_rows", id, models.CountTableRowsRequest(version=99))
    refused(13, "count_table_rows", id, models.CountTableRowsRequest(predicate="id <"))


@operation
def query_table():
    id = new_table(50)
    plain = query(id, k=5, filter="id >= 10", columns=["id", "price"])
    assert plain.column_names == ["id", "price"] and plain["id"].to_pylist() == [10, 11, 12, 13, 14]
    assert query(id, k=2, offset=3, columns=["id"])["id"].to_pylist() == [3, 4]
    assert "_rowid" in query(id, k=1, with_row_id=True).column_names
    near = query(id, k=3, vector=[20.2] * 4, columns=["id"], distance_type="l2")
    assert near["id"].to_pylist() == [20, 21, 19] and "_distance" in near.column_names, near
    near = query(id, k=2, vector=[20.2] * 4, filter="id > 30", prefilter=True, columns=["id"])
    assert near["id"].to_pylist() == [31, 32]
    several = pa.ipc.open_file(
        call(
            "query_table",
            id,
            models.QueryTableRequest(
                k=1,
                vector=models.QueryTableRequestVector(multi_vector=[[5.0] * 4, [40.0] * 4]),
                columns=models.QueryTableRequestColumns(column_names=["id"]),
            ),
        )
    ).read_all()
    assert several.sort_by("query_index")["id"].to_pylist() == [5, 40], several
    aliased = pa.ipc.open_file(
        call(
            "query_table",
            id,
            models.QueryTableRequest(
                k=2,
                vector=models.QueryTableRequestVector(),
                columns=models.QueryTableRequestColumns(column_aliases={"cost": "price"}),
            ),
        )
    ).read_all()
    assert aliased.to_pydict() == {"cost": [0, 0.5]}, aliased
    insert(id, 50, 60)
    assert query(id, version=1).num_rows == 50 and query(id).num_rows == 60
    request = models.QueryTableRequest(k=1, vector=models.QueryTableRequestVector(single_vector=[1.0]))
    refused(13, "query_table", id, request)
    refused(4, "query_table", new_id(), request)
    nothing = models.QueryTableRequest(k=1, vector=models.QueryTableRequestVector(), filter="nothing = 1")
    refused(12, "query_table", id, nothing)


def text_search(id, **query_options):
    search = models.QueryTableRequestFullTextQuery(**query_options)
    return query(id, columns=["id"], full_text_query=search)


@operation
def explain_table_query_plan():
    id = new_table(5)
    search = models.QueryTableRequest(k=3, vector=models.QueryTableRequestVector(), filter="id > 2")
    for verbose in (False, True):
        plan = call("explain_table_query_plan", id, models.ExplainTableQueryPlanRequest(query=search, verbose=verbose))
        assert isinstance(plan, str) and "id" in plan and "\n" in plan.strip(), plan
    refused(4, "explain_table_query_plan", new_id(), models.ExplainTableQueryPlanRequest(query=search))


@operation
def analyze_table_query_plan():
    id = new_table(5)
    request = models.AnalyzeTableQueryPlanRequest(k=3, vector=models.QueryTableRequestVector(), filter="id > 2")
    plan = call("analyze_table_query_plan", id, request)
    assert isinstance(plan, str) and "output_rows" in plan, plan
    refused(4, "analyze_table_query_plan", new_id(), request)


def check_full_text_search():
    """The text queries of QueryTable, which need an index first."""
    id = new_table(30)
    finished(index(id, "name", "FTS", "words", with_position=True))
    found = text_search(id, string_query=models.StringFtsQuery(query="7", columns=["name"]))
    assert found["id"].to_pylist() == [7] and "_score" in found.column_names, found
    match = models.FtsQuery(match=models.MatchQuery(column="name", terms="name 7", operator="And"))
    found = text_search(id, structured_query=models.StructuredFtsQuery(query=match))
    assert found["id"].to_pylist() == [7], found
    phrase = models.FtsQuery(phrase=models.PhraseQuery(column="name", terms="name 9"))
    found = text_search(id, structured_query=models.StructuredFtsQuery(query=phrase))
    assert found["id"].to_pylist() == [9], found
