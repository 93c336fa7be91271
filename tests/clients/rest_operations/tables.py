"""Tables as entries of the catalog."""

import pathlib
import uuid

import lance
from lance_namespace_urllib3_client import models

from . import world
from .world import call, count, describe, folder, insert, new_id, new_table, operation, pages, parts, refused, rows, stream


def names_under(namespace, **options):
    return call("list_tables", namespace, **options).tables


@operation
def create_table():
    id = new_id()
    body = stream(rows(0, 3))
    reply = call("create_table", id, body, properties='{"owner": "clients"}')
    assert (reply.version, reply.properties) == (1, {"owner": "clients"}), reply
    assert lance.dataset(reply.location).to_table() == rows(0, 3)
    refused(5, "create_table", id, body)
    call("create_table", id, stream(rows(0, 5)), mode="ExistOk")
    assert count(id) == 3
    call("create_table", id, stream(rows(0, 7)), mode="overwrite")
    assert count(id) == 7
    refused(1, "create_table", f"nowhere_{uuid.uuid4().hex}$t", body)
    refused(13, "create_table", new_id(), b"this is no Arrow stream")


@operation
def declare_table():
    id = new_id()
    request = models.DeclareTableRequest(properties={"owner": "clients"})
    reply = call("declare_table", id, request)
    assert reply.location and reply.properties == {"owner": "clients"}, reply
    assert reply.managed_versioning is True, reply
    refused(5, "declare_table", id, request)
    assert insert(id, 0, 4) == 1
    assert count(id) == 4
    own = models.DeclareTableRequest(properties={"managed_versioning": "false"})
    assert not call("declare_table", new_id(), own).managed_versioning


@operation
def list_tables():
    names = sorted(parts(new_table(1, "listed"))[1] for _ in range(3))
    declared = new_id("declared")
    call("declare_table", declared, models.DeclareTableRequest())
    assert set(names + [parts(declared)[1]]) <= set(names_under(world.namespace))
    without = names_under(world.namespace, include_declared=False)
    assert set(names) <= set(without) and parts(declared)[1] not in without
    listed = [page.tables for page in pages(lambda **page: call("list_tables", world.namespace, **page), limit=2)]
    assert max(map(len, listed)) <= 2
    assert sorted(sum(listed, [])) == sorted(names_under(world.namespace))
    refused(1, "list_tables", "nowhere_" + uuid.uuid4().hex)


@operation
def list_all_tables():
    ids = [new_table(1, "all") for _ in range(3)]
    assert set(ids) <= set(call("list_all_tables").tables)
    assert set(id.replace("$", ".") for id in ids) <= set(call("list_all_tables", delimiter=".").tables)
    listed = [page.tables for page in pages(lambda **page: call("list_all_tables", **page), limit=2)]
    assert max(map(len, listed)) <= 2 and set(ids) <= set(sum(listed, []))
    assert len(sum(listed, [])) == len(set(sum(listed, []))), "a table is listed twice"


@operation
def register_table():
    beside = folder(new_table(1)).parent / f"made_elsewhere_{uuid.uuid4().hex[:8]}"
    lance.write_dataset(rows(0, 6), beside)
    id = new_id()
    request = models.RegisterTableRequest(location=str(beside), properties={"owner": "clients"})
    reply = call("register_table", id, request)
    assert pathlib.Path(reply.location.removeprefix("file://")) == beside, reply
    assert count(id) == 6
    assert describe(id).properties["owner"] == "clients"
    refused(5, "register_table", id, request)
    refused(13, "register_table", new_id(), models.RegisterTableRequest(location=""))


@operation
def describe_table():
    id = new_table(5)
    insert(id, 5, 8)
    reply = describe(id)
    assert (reply.table, reply.namespace, reply.version) == (parts(id)[1], [world.namespace], 2), reply
    assert [field.name for field in reply.var_schema.fields] == ["id", "name", "price", "vector"]
    assert [field.type.type for field in reply.var_schema.fields] == ["int64", "utf8", "float64", "fixed_size_list"]
    assert reply.var_schema.fields[3].type.length == world.DIMENSION
    assert reply.managed_versioning is True and reply.is_only_declared is not True, reply
    assert reply.stats.num_fragments == 2 and reply.stats.num_deleted_rows == 0, reply.stats
    assert describe(id, version=1).version == 1
    bare = call("describe_table", id, models.DescribeTableRequest(), with_table_uri=True)
    assert "://" in bare.table_uri and bare.var_schema is None, bare
    refused(4, "describe_table", new_id(), models.DescribeTableRequest())
    refused(11, "describe_table", id, models.DescribeTableRequest(version=99), load_detailed_metadata=True)
    only_declared = new_id()
    call("declare_table", only_declared, models.DeclareTableRequest())
    assert call("describe_table", only_declared, models.DescribeTableRequest(), check_declared=True).is_only_declared


@operation
def table_exists():
    id = new_table(1)
    assert call("table_exists", id, models.TableExistsRequest()) is None
    call("table_exists", id, models.TableExistsRequest(version=1))
    refused(4, "table_exists", new_id(), models.TableExistsRequest())
    refused(11, "table_exists", id, models.TableExistsRequest(version=99))


@operation
def drop_table():
    id = new_table(1)
    location = folder(id)
    assert any(location.iterdir())
    call("drop_table", id)
    refused(4, "table_exists", id, models.TableExistsRequest())
    assert not location.exists() or not any(location.rglob("*.manifest")), "the table is still there"
    refused(4, "drop_table", id)


@operation
def deregister_table():
    id = new_table(4)
    reply = call("deregister_table", id, models.DeregisterTableRequest())
    refused(4, "table_exists", id, models.TableExistsRequest())
    assert lance.dataset(reply.location).count_rows() == 4
    refused(4, "deregister_table", id, models.DeregisterTableRequest())


@operation
def rename_table():
    id, taken = new_table(4), new_table(1)
    call("rename_table", id, models.RenameTableRequest(new_table_name=parts(id)[1] + "_moved"))
    moved = id + "_moved"
    assert count(moved) == 4
    refused(4, "table_exists", id, models.TableExistsRequest())
    refused(5, "rename_table", moved, models.RenameTableRequest(new_table_name=parts(taken)[1]))
    other = "other_" + uuid.uuid4().hex[:8]
    call("create_namespace", other, models.CreateNamespaceRequest())
    elsewhere = models.RenameTableRequest(new_table_name="moved", new_namespace_id=[other])
    call("rename_table", moved, elsewhere)
    assert count(f"{other}$moved") == 4 and names_under(other) == ["moved"]
    assert insert(f"{other}$moved", 4, 6) == 2
    refused(4, "rename_table", moved, elsewhere)
    nowhere = models.RenameTableRequest(new_table_name="t", new_namespace_id=["nowhere_" + uuid.uuid4().hex])
    refused(1, "rename_table", f"{other}$moved", nowhere)


@operation
def get_table_stats():
    id = new_table(10)
    insert(id, 10, 15)
    call("delete_from_table", id, models.DeleteFromTableRequest(predicate="id < 2"))
    stats = call("get_table_stats", id, models.GetTableStatsRequest())
    assert (stats.num_rows, stats.num_indices) == (13, 0), stats
    assert stats.total_bytes > 0
    fragments = stats.fragment_stats
    assert fragments.num_fragments == 2 and fragments.num_small_fragments == 2, fragments
    # The length of a fragment may count its deleted rows or not: the spec does not say.
    assert fragments.lengths.min == 5 and fragments.lengths.max in (8, 10), fragments.lengths
    refused(4, "get_table_stats", new_id(), models.GetTableStatsRequest())
