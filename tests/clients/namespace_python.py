"""Real client: lance_namespace.connect("rest", ...), the namespace interface that lance's Python tools are written to.

usage: python namespace_python.py http://127.0.0.1:2333 [check ...]
needs: pip install lance-namespace pylance

Its calls go through Rust (lance's RestNamespace), not through the client generated for Python, and errors come back as
the exceptions of lance_namespace.errors. Three operations of the spec are not in that class: update_field_metadata,
batch_create_table_versions and batch_commit_tables; namespace_rest.py has them.
"""

import base64
import json
import sys
import time
import traceback
import uuid

import lance_namespace as ln
import pyarrow as pa
from lance_namespace import errors
from lance_namespace_urllib3_client import models

SECONDS_PER_JOB = 120
DIMENSION = 4
CHECKS = []
space = None
namespace = "python_" + uuid.uuid4().hex[:8]


def check(function):
    CHECKS.append(function)
    return function


def raises(kind, call, *arguments):
    """Checks that a call is refused with the exception of its code, and nothing more general."""
    try:
        reply = call(*arguments)
    except errors.LanceNamespaceError as error:
        assert type(error) is kind, f"{kind.__name__} expected, not {type(error).__name__}: {error}"
        assert str(error).strip(), f"{kind.__name__} without a word"
        return str(error)
    raise AssertionError(f"{kind.__name__} expected, not {reply!r}")


def new_id():
    return [namespace, "t_" + uuid.uuid4().hex[:8]]


def rows(start, stop):
    ids = range(start, stop)
    vectors = pa.array([float(i) for i in ids for _ in range(DIMENSION)], pa.float32())
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "name": pa.array([f"name {i}" for i in ids], pa.string()),
            "price": pa.array([i / 2 for i in ids], pa.float64()),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, DIMENSION),
        }
    )


def stream(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def new_table(count):
    id = new_id()
    assert space.create_table(ln.CreateTableRequest(id=id), stream(rows(0, count))).version == 1
    return id


def insert(id, start, stop, **options):
    return space.insert_into_table(ln.InsertIntoTableRequest(id=id, **options), stream(rows(start, stop)))


def count(id, **options):
    return space.count_table_rows(ln.CountTableRowsRequest(id=id, **options)).count


def query(id, *, k=1000, vector=None, columns=("id",), **options):
    request = ln.QueryTableRequest(
        id=id,
        k=k,
        vector=models.QueryTableRequestVector(single_vector=vector),
        columns=models.QueryTableRequestColumns(column_names=list(columns)),
        **options,
    )
    return pa.ipc.open_file(space.query_table(request).data).read_all()


def finished(job):
    assert job, "no id of a job"
    deadline = time.monotonic() + SECONDS_PER_JOB
    while True:
        status = space.describe_transaction(ln.DescribeTransactionRequest(id=[job])).status
        if status not in ("Queued", "Running"):
            assert status == "Succeeded", status
            return
        assert time.monotonic() < deadline, f"job {job} is still {status}"
        time.sleep(0.1)


@check
def namespaces():
    id = [namespace, "child"]
    reply = space.create_namespace(ln.CreateNamespaceRequest(id=id, properties={"k": "v"}))
    assert reply.properties == {"k": "v"}
    raises(errors.NamespaceAlreadyExistsError, space.create_namespace, ln.CreateNamespaceRequest(id=id))
    assert space.describe_namespace(ln.DescribeNamespaceRequest(id=id)).properties == {"k": "v"}
    space.namespace_exists(ln.NamespaceExistsRequest(id=id))
    assert space.list_namespaces(ln.ListNamespacesRequest(id=[namespace])).namespaces == ["child"]
    assert namespace in space.list_namespaces(ln.ListNamespacesRequest(id=[])).namespaces
    space.create_namespace(ln.CreateNamespaceRequest(id=id + ["deep"]))
    raises(errors.NamespaceNotEmptyError, space.drop_namespace, ln.DropNamespaceRequest(id=id))
    space.drop_namespace(ln.DropNamespaceRequest(id=id + ["deep"]))
    space.drop_namespace(ln.DropNamespaceRequest(id=id))
    raises(errors.NamespaceNotFoundError, space.drop_namespace, ln.DropNamespaceRequest(id=id))
    raises(errors.NamespaceNotFoundError, space.describe_namespace, ln.DescribeNamespaceRequest(id=id))
    raises(errors.NamespaceNotFoundError, space.namespace_exists, ln.NamespaceExistsRequest(id=id))
    raises(errors.NamespaceNotFoundError, space.list_namespaces, ln.ListNamespacesRequest(id=id))
    raises(errors.NamespaceNotFoundError, space.list_tables, ln.ListTablesRequest(id=id))


@check
def tables():
    id = new_id()
    reply = space.create_table(ln.CreateTableRequest(id=id, properties={"owner": "me"}), stream(rows(0, 3)))
    assert reply.version == 1 and reply.properties == {"owner": "me"}, reply
    raises(errors.TableAlreadyExistsError, space.create_table, ln.CreateTableRequest(id=id), stream(rows(0, 3)))
    space.create_table(ln.CreateTableRequest(id=id, mode="Overwrite"), stream(rows(0, 5)))
    assert count(id) == 5
    space.table_exists(ln.TableExistsRequest(id=id))
    raises(errors.TableNotFoundError, space.table_exists, ln.TableExistsRequest(id=new_id()))
    described = space.describe_table(ln.DescribeTableRequest(id=id, load_detailed_metadata=True))
    assert (described.table, described.namespace, described.version) == (id[1], [namespace], 2), described
    assert described.managed_versioning is True, described
    assert [field.name for field in described.var_schema.fields] == ["id", "name", "price", "vector"]
    raises(errors.TableNotFoundError, space.describe_table, ln.DescribeTableRequest(id=new_id()))
    assert id[1] in space.list_tables(ln.ListTablesRequest(id=[namespace])).tables
    assert "$".join(id) in space.list_all_tables(ln.ListTablesRequest()).tables
    space.rename_table(ln.RenameTableRequest(id=id, new_table_name="renamed"))
    id = [namespace, "renamed"]
    assert count(id) == 5
    stats = space.get_table_stats(ln.GetTableStatsRequest(id=id))
    assert stats.num_rows == 5 and stats.total_bytes > 0 and stats.fragment_stats.num_fragments == 1, stats
    location = space.deregister_table(ln.DeregisterTableRequest(id=id)).location
    raises(errors.TableNotFoundError, space.deregister_table, ln.DeregisterTableRequest(id=id))
    space.register_table(ln.RegisterTableRequest(id=id, location=location))
    assert count(id) == 5
    raises(errors.TableAlreadyExistsError, space.register_table, ln.RegisterTableRequest(id=id, location=location))
    space.drop_table(ln.DropTableRequest(id=id))
    raises(errors.TableNotFoundError, space.drop_table, ln.DropTableRequest(id=id))
    declared = new_id()
    assert space.declare_table(ln.DeclareTableRequest(id=declared)).managed_versioning is True
    raises(errors.TableAlreadyExistsError, space.declare_table, ln.DeclareTableRequest(id=declared))
    assert insert(declared, 0, 2).version == 1
    nowhere = [namespace, "nowhere", "t"]
    raises(errors.NamespaceNotFoundError, space.declare_table, ln.DeclareTableRequest(id=nowhere))


@check
def writes():
    id = new_table(4)
    reply = insert(id, 4, 6)
    assert reply.version == 2 and reply.transaction_id, reply
    reply = space.merge_insert_into_table(
        ln.MergeInsertIntoTableRequest(
            id=id, on=["id"], when_matched_update_all=True, when_not_matched_insert_all=True
        ),
        stream(rows(5, 8)),
    )
    assert (reply.num_updated_rows, reply.num_inserted_rows, reply.version) == (1, 2, 3), reply
    reply = space.update_table(ln.UpdateTableRequest(id=id, predicate="id < 2", updates=[["price", "-1.0"]]))
    assert (reply.updated_rows, reply.version) == (2, 4), reply
    assert space.delete_from_table(ln.DeleteFromTableRequest(id=id, predicate="id = 0")).version == 5
    assert count(id) == 7 and count(id, predicate="price < 0") == 1 and count(id, version=1) == 4
    missing = ln.InsertIntoTableRequest(id=new_id())
    raises(errors.TableNotFoundError, space.insert_into_table, missing, stream(rows(0, 1)))
    wrong = stream(pa.table({"id": ["no number"]}))
    raises(errors.TableSchemaValidationError, space.insert_into_table, ln.InsertIntoTableRequest(id=id), wrong)
    broken = ln.DeleteFromTableRequest(id=id, predicate="id =")
    raises(errors.InvalidInputError, space.delete_from_table, broken)
    nothing = ln.UpdateTableRequest(id=id, updates=[["nothing", "1"]])
    raises(errors.TableColumnNotFoundError, space.update_table, nothing)
    assert count(id) == 7


@check
def reads():
    id = new_table(30)
    assert query(id, k=2, filter="id > 20")["id"].to_pylist() == [21, 22]
    assert query(id, k=1, vector=[9.9] * 4)["id"].to_pylist() == [10]
    search = ln.QueryTableRequest(id=id, k=3, vector=models.QueryTableRequestVector(), filter="id > 2")
    plan = space.explain_table_query_plan(ln.ExplainTableQueryPlanRequest(id=id, query=search))
    assert isinstance(plan, str) and "\n" in plan.strip() and not plan.startswith('"'), plan
    analysis = ln.AnalyzeTableQueryPlanRequest(id=id, k=3, vector=models.QueryTableRequestVector(), filter="id > 2")
    plan = space.analyze_table_query_plan(analysis)
    assert "output_rows" in plan and not plan.startswith('"'), plan
    raises(errors.TableNotFoundError, query, new_id())
    raises(errors.TableVersionNotFoundError, lambda: query(id, version=99))


@check
def indexes():
    id = new_table(20)
    by_id = ln.CreateTableIndexRequest(id=id, column="id", index_type="BTREE", name="by_id")
    finished(space.create_table_scalar_index(by_id).transaction_id)
    words = ln.CreateTableIndexRequest(id=id, column="name", index_type="FTS", name="words")
    finished(space.create_table_index(words).transaction_id)
    listed = space.list_table_indices(ln.ListTableIndicesRequest(id=id)).indexes
    assert sorted(index.index_name for index in listed) == ["by_id", "words"], listed
    stats = space.describe_table_index_stats(ln.DescribeTableIndexStatsRequest(id=id, index_name="by_id"))
    assert (stats.index_type, stats.num_indexed_rows) == ("BTREE", 20), stats
    found = query(
        id,
        full_text_query=models.QueryTableRequestFullTextQuery(
            string_query=models.StringFtsQuery(query="7", columns=["name"])
        ),
    )
    assert found["id"].to_pylist() == [7], found
    raises(errors.TableIndexAlreadyExistsError, space.create_table_scalar_index, by_id)
    nothing = ln.CreateTableIndexRequest(id=id, column="nothing", index_type="BTREE")
    raises(errors.TableColumnNotFoundError, space.create_table_scalar_index, nothing)
    space.drop_table_index(ln.DropTableIndexRequest(id=id, index_name="by_id"))
    drop = ln.DropTableIndexRequest(id=id, index_name="by_id")
    raises(errors.TableIndexNotFoundError, space.drop_table_index, drop)
    gone = ln.DescribeTableIndexStatsRequest(id=id, index_name="by_id")
    raises(errors.TableIndexNotFoundError, space.describe_table_index_stats, gone)


@check
def schema():
    id = new_table(3)

    def add(**entry):
        entries = [models.AddColumnsEntry(**entry)]
        return space.alter_table_add_columns(ln.AlterTableAddColumnsRequest(id=id, new_columns=entries))

    assert add(name="twice", expression="id * 2").version == 2
    add(name="half", computed="price / 2")
    finished(space.alter_table_backfill_columns(ln.AlterTableBackfillColumnsRequest(id=id, column="half")).job_id)
    assert query(id, columns=["twice", "half"]).to_pydict() == {"twice": [0, 2, 4], "half": [0, 0.25, 0.5]}
    rename = models.AlterColumnsEntry(path="twice", rename="double")
    space.alter_table_alter_columns(ln.AlterTableAlterColumnsRequest(id=id, alterations=[rename]))
    space.alter_table_drop_columns(ln.AlterTableDropColumnsRequest(id=id, columns=["half"]))
    described = space.describe_table(ln.DescribeTableRequest(id=id, load_detailed_metadata=True))
    assert [field.name for field in described.var_schema.fields] == ["id", "name", "price", "vector", "double"]
    metadata = ln.UpdateTableSchemaMetadataRequest(id=id, metadata={"k": "v"})
    assert space.update_table_schema_metadata(metadata).metadata == {"k": "v"}
    drop = ln.AlterTableDropColumnsRequest(id=id, columns=["half"])
    raises(errors.TableColumnNotFoundError, space.alter_table_drop_columns, drop)


@check
def versions():
    id = new_table(1)
    insert(id, 1, 3)
    insert(id, 3, 6)
    listed = space.list_table_versions(ln.ListTableVersionsRequest(id=id, descending=True)).versions
    assert [version.version for version in listed] == [3, 2, 1], listed
    assert all(version.metadata["origin"] == "catalog" for version in listed), listed
    assert space.describe_table_version({"id": id, "version": 2})["version"]["version"] == 2
    raises(errors.TableVersionNotFoundError, space.describe_table_version, {"id": id, "version": 99})
    space.restore_table(ln.RestoreTableRequest(id=id, version=1))
    assert count(id) == 1
    raises(errors.TableVersionNotFoundError, space.restore_table, ln.RestoreTableRequest(id=id, version=99))
    ranges = [{"start_version": 1, "end_version": 3}]
    assert space.batch_delete_table_versions({"id": id, "ranges": ranges})["deleted_count"] == 2
    taken = {"id": id, "version": 4, "manifest_path": listed[0].manifest_path, "manifest_size": 1}
    raises(errors.ConcurrentModificationError, space.create_table_version, taken)


@check
def tags_and_branches():
    id = new_table(1)
    insert(id, 1, 2)
    tag = ln.CreateTableTagRequest(id=id, tag="first", version=1)
    space.create_table_tag(tag)
    raises(errors.TableTagAlreadyExistsError, space.create_table_tag, tag)
    space.update_table_tag(ln.UpdateTableTagRequest(id=id, tag="first", version=2))
    assert space.get_table_tag_version(ln.GetTableTagVersionRequest(id=id, tag="first")).version == 2
    assert list(space.list_table_tags(ln.ListTableTagsRequest(id=id)).tags) == ["first"]
    space.delete_table_tag(ln.DeleteTableTagRequest(id=id, tag="first"))
    gone = ln.GetTableTagVersionRequest(id=id, tag="first")
    raises(errors.TableTagNotFoundError, space.get_table_tag_version, gone)
    branch = ln.CreateTableBranchRequest(id=id, name="side", from_version=1)
    space.create_table_branch(branch)
    raises(errors.TableBranchAlreadyExistsError, space.create_table_branch, branch)
    insert(id, 10, 14, branch="side")
    assert count(id, branch="side") == 5 and count(id) == 2
    assert list(space.list_table_branches(ln.ListTableBranchesRequest(id=id)).branches) == ["side"]
    space.delete_table_branch(ln.DeleteTableBranchRequest(id=id, name="side"))
    gone = ln.DeleteTableBranchRequest(id=id, name="side")
    raises(errors.TableBranchNotFoundError, space.delete_table_branch, gone)


@check
def transactions():
    id = [insert(new_table(1), 1, 2).transaction_id]
    assert space.describe_transaction(ln.DescribeTransactionRequest(id=id)).status == "Succeeded"
    # This client drops what an action is to do and sends `"actions": [{}]`. (It looks for setPropertyAction in a
    # dictionary that has set_property_action.) The server must not take that for success.
    put = models.AlterTransactionSetProperty(key="seen", value="yes")
    action = models.AlterTransactionAction(setPropertyAction=put)
    empty = ln.AlterTransactionRequest(id=id, actions=[action])
    raises(errors.InvalidInputError, space.alter_transaction, empty)
    unknown = ln.DescribeTransactionRequest(id=[str(uuid.uuid4())])
    raises(errors.TransactionNotFoundError, space.describe_transaction, unknown)


@check
def views():
    source, id = new_table(6), new_id()
    text = json.dumps({"table_id": source, "filter": "id >= 4", "columns": {"column_names": ["id"]}})
    output = base64.b64encode(pa.schema([("id", pa.int64())]).serialize()).decode()
    fields = {"kind": "query", "source_query": text, "output_schema": output}
    reply = space.create_materialized_view(ln.CreateMaterializedViewRequest(id=id, **fields))
    assert reply.version >= 1, reply
    finished(space.refresh_materialized_view(ln.RefreshMaterializedViewRequest(id=id)).job_id)
    assert query(id)["id"].to_pylist() == [4, 5]
    again = ln.CreateMaterializedViewRequest(id=id, **fields)
    raises(errors.TableAlreadyExistsError, space.create_materialized_view, again)
    missing = ln.RefreshMaterializedViewRequest(id=new_id())
    raises(errors.TableNotFoundError, space.refresh_materialized_view, missing)


def main():
    global space
    base, wanted = sys.argv[1].rstrip("/"), sys.argv[2:]
    space = ln.connect("rest", {"uri": base})
    space.create_namespace(ln.CreateNamespaceRequest(id=[namespace]))
    failed = []
    for one in CHECKS:
        if wanted and one.__name__ not in wanted:
            continue
        started = time.monotonic()
        try:
            one()
            outcome = "ok"
        except Exception:
            failed.append(one.__name__)
            outcome = "FAILED\n" + traceback.format_exc(limit=-4)
        print(f"{one.__name__}: {outcome} ({time.monotonic() - started:.2f} s)", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
