"""Materialized views."""

import base64
import json

import pyarrow as pa
from lance_namespace_urllib3_client import models

from .world import call, column, count, finished, insert, new_id, new_table, operation, parts, refused

SCHEMA = pa.schema([("id", pa.int64()), ("price", pa.float64())])


def view(source, **options):
    """The request for a view of the dearer rows of a table."""
    query = {"table_id": parts(source), "filter": "price >= 2", "columns": {"column_names": ["id", "price"]}}
    fields = {
        "kind": "query",
        "source_query": json.dumps(query),
        "output_schema": base64.b64encode(SCHEMA.serialize()).decode(),
    }
    return models.CreateMaterializedViewRequest(**fields | options)


@operation
def create_materialized_view():
    source, id = new_table(6), new_id("view")
    reply = call("create_materialized_view", id, view(source), status=201)
    assert reply.version >= 1 and reply.job_id is None, reply
    assert count(id) == 0
    refused(5, "create_materialized_view", id, view(source))
    filled = new_id("view")
    reply = call("create_materialized_view", filled, view(source, with_no_data=False), status=201)
    finished(reply.job_id)
    assert column(filled, "id") == [4, 5]
    refused(4, "create_materialized_view", new_id("view"), view(new_id()))
    refused(13, "create_materialized_view", new_id("view"), view(source, source_query="{"))
    spec = models.MaterializedViewUdtfEntry(
        kind="udtf", udtf="", udtf_sha="0", udtf_name="f", udtf_version="1"
    )
    refused(0, "create_materialized_view", new_id("view"), view(source, kind="udtf", udtf_spec=spec))


@operation
def refresh_materialized_view():
    source, id = new_table(6), new_id("view")
    call("create_materialized_view", id, view(source), status=201)

    def refresh(**options):
        request = models.RefreshMaterializedViewRequest(**options)
        options = {"refresh_materialized_view_request": request}
        finished(call("refresh_materialized_view", id, status=202, **options).job_id)

    refresh()
    assert column(id, "id") == [4, 5] and column(id, "price") == [2, 2.5]
    insert(source, 6, 8)
    call("delete_from_table", source, models.DeleteFromTableRequest(predicate="id = 4"))
    assert column(id, "id") == [4, 5]
    refresh()
    assert column(id, "id") == [5, 6, 7]
    refresh(src_version=1)
    assert column(id, "id") == [4, 5]
    # Without a body.
    finished(call("refresh_materialized_view", id, status=202).job_id)
    assert column(id, "id") == [5, 6, 7]
    refused(4, "refresh_materialized_view", new_id("view"))
    refused(13, "refresh_materialized_view", source)
