"""Databases: beside each other, with prefixes, and the other dialect of the same server."""

import lance_namespace as ln
import lancedb

from . import world
from .world import fails, flow, ids, new_name, rows


@flow
def two_databases():
    names = [new_name("left"), new_name("right")]
    left, right = (world.database(name) for name in names)
    left.create_table("same", rows(0, 3))
    assert right.list_tables().tables == []
    fails(ValueError, "same", call=lambda: right.open_table("same"))
    right.create_table("same", rows(5, 7))
    right.create_table("only", rows(0, 1))
    assert ids(left.open_table("same")) == [0, 1, 2] and ids(right.open_table("same")) == [5, 6]
    assert left.list_tables().tables == ["same"] and sorted(right.list_tables().tables) == ["only", "same"]
    left.create_namespace(["inner"])
    assert right.list_namespaces().namespaces == [] and left.list_namespaces().namespaces == ["inner"]
    right.drop_table("same")
    assert ids(world.database(names[0]).open_table("same")) == [0, 1, 2]
    fails(Exception, call=lambda: left.rename_table("only", "mine"))


@flow
def prefixes():
    name = new_name("shared")
    plain, one, other = world.database(name), world.database(f"{name}/a/b"), world.database(f"{name}/a/c")
    one.create_table("t", rows(0, 2))
    assert one.list_tables().tables == ["t"] and other.list_tables().tables == []
    assert plain.list_tables().tables == []
    other.create_table("t", rows(5, 6))
    plain.create_table("t", rows(8, 9))
    assert [ids(db.open_table("t")) for db in (plain, one, other)] == [[8], [0, 1], [5]]
    one.drop_table("t")
    assert one.list_tables().tables == [] and other.list_tables().tables == ["t"] and ids(plain.open_table("t")) == [8]


@flow
def unknown_database():
    """A database is made by its first table; before that there is nothing in it, and asking is no error."""
    name = new_name("unknown")
    db = world.database(name)
    assert db.list_tables().tables == [] and list(db.table_names()) == [] and db.list_namespaces().namespaces == []
    fails(ValueError, "t", call=lambda: db.open_table("t"))
    roots = ln.connect("rest", {"uri": world.base})
    assert name not in roots.list_namespaces(ln.ListNamespacesRequest(id=[])).namespaces
    db.create_table("t", rows(0, 1))
    assert name in roots.list_namespaces(ln.ListNamespacesRequest(id=[])).namespaces


@flow
def both_dialects():
    """What one dialect writes the other reads: a database is a root namespace."""
    space = ln.connect("rest", {"uri": world.base})
    table = world.db.create_table(new_name(), rows(0, 3))
    id = [world.name, table.name]
    assert table.name in space.list_tables(ln.ListTablesRequest(id=[world.name])).tables
    assert space.count_table_rows(ln.CountTableRowsRequest(id=id)).count == 3
    described = space.describe_table(ln.DescribeTableRequest(id=id))
    assert described.location == table.uri.removeprefix("file://"), (described.location, table.uri)
    space.delete_from_table(ln.DeleteFromTableRequest(id=id, predicate="id = 0"))
    assert ids(world.same_database().open_table(table.name)) == [1, 2]


@flow
def namespace_client_of_a_connection():
    """The connection hands out a client of the other dialect, with the headers of this one."""
    table = world.db.create_table(new_name(), rows(0, 3))
    space = world.db.namespace_client()
    found = space.list_tables(ln.ListTablesRequest(id=[]))
    assert table.name in found.tables, found


@flow
def catalog_of_databases():
    """The client's own list of databases: the root namespaces, asked for without the header of a database."""
    catalog = lancedb.connect_catalog(world.base, api_key="sk_test")
    name = new_name("listed")
    db = catalog.create_database(name)
    assert db.list_tables().tables == []
    table = db.create_table("t", rows(0, 2))
    assert ids(table) == [0, 1] and ids(world.database(name).open_table("t")) == [0, 1]
    assert ids(catalog.connect_database(name).open_table("t")) == [0, 1]
    names, token = [], None
    while True:
        page = catalog.list_databases(limit=3, page_token=token)
        assert len(page.databases) <= 3, page
        names, token = names + page.databases, page.page_token
        if not token:
            break
    assert name in names and world.name in names and names == sorted(set(names)), names
    fails(Exception, "exist", call=lambda: catalog.create_database(name))
    catalog.create_database(name, exist_ok=True)
    fails(Exception, name, call=lambda: catalog.drop_database(name))
    db.drop_table("t")
    catalog.drop_database(name)
    fails(Exception, name, call=lambda: catalog.connect_database(name))
    fails(Exception, name, call=lambda: catalog.drop_database(name))
    catalog.drop_database(name, ignore_missing=True)
