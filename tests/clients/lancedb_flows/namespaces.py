"""Namespaces inside a database, and the tables in them."""

from lancedb.index import BTree

from . import world
from .world import fails, flow, ids, new_name, rows


@flow
def namespaces():
    db = world.db
    top = new_name("space")
    made = db.create_namespace([top], properties={"owner": "flows"})
    assert made.properties in (None, {"owner": "flows"}), made
    db.create_namespace([top, "deep"])
    assert db.describe_namespace([top]).properties == {"owner": "flows"}
    assert top in db.list_namespaces().namespaces and db.list_namespaces([top]).namespaces == ["deep"]
    fails(Exception, "exist", call=lambda: db.create_namespace([top]))
    db.create_namespace([top], mode="exist_ok")
    assert db.describe_namespace([top]).properties == {"owner": "flows"}
    for name in ("a", "b", "c", "d"):
        db.create_namespace([top, name])
    paged, token = [], None
    for _ in range(10):
        page = db.list_namespaces([top], limit=2, page_token=token)
        assert len(page.namespaces) <= 2, page
        paged, token = paged + page.namespaces, page.page_token
        if not token:
            break
    assert paged == ["a", "b", "c", "d", "deep"], paged
    fails(Exception, call=lambda: db.drop_namespace([top]))
    db.drop_namespace([top, "deep"])
    db.drop_namespace([top], behavior="cascade")
    assert top not in db.list_namespaces().namespaces
    fails(Exception, top, call=lambda: db.describe_namespace([top]))
    fails(Exception, call=lambda: db.drop_namespace([top]))
    db.drop_namespace([top], mode="skip")


@flow
def tables_in_namespaces():
    db = world.db
    top = new_name("space")
    db.create_namespace([top])
    db.create_namespace([top, "deep"])
    deep = {"namespace_path": [top, "deep"]}
    table = db.create_table("t", rows(0, 3), **deep)
    assert ids(table) == [0, 1, 2] and db.list_tables([top, "deep"]).tables == ["t"]
    assert list(db.table_names(namespace_path=[top, "deep"])) == ["t"]
    assert "t" not in db.list_tables().tables and db.list_tables([top]).tables == []
    table.add(rows(3, 4))
    table.create_index("id", config=BTree(), wait_timeout=world.WAIT)
    table.delete("id = 0")
    assert ids(db.open_table("t", **deep)) == [1, 2, 3]
    fails(ValueError, "already exists", call=lambda: db.create_table("t", rows(0, 1), **deep))
    assert ids(db.create_table("t", rows(0, 1), exist_ok=True, **deep)) == [1, 2, 3]
    db.rename_table("t", "u", cur_namespace_path=[top, "deep"], new_namespace_path=[top])
    assert db.list_tables([top]).tables == ["u"] and db.list_tables([top, "deep"]).tables == []
    assert ids(db.open_table("u", namespace_path=[top])) == [1, 2, 3]
    db.rename_table("u", "v", cur_namespace_path=[top])
    # Without a new place the table stays where it is, as the namespace specification has it.
    here = world.same_database()
    assert here.list_tables([top]).tables == ["v"] and "v" not in here.list_tables().tables
    fails(Exception, call=lambda: db.create_table("t", rows(0, 1), namespace_path=["no such place"]))
    fails(Exception, call=lambda: db.create_table("t", rows(0, 1), namespace_path=["nowhere"]))
    fails(ValueError, call=lambda: db.open_table("t", namespace_path=["nowhere"]))


@flow
def many_tables_in_a_namespace():
    db = world.db
    top = new_name("space")
    db.create_namespace([top])
    names = [f"t{i}" for i in range(7)]
    for name in names:
        db.create_table(name, rows(0, 1), namespace_path=[top])
    first = db.list_tables([top], limit=3)
    second = db.list_tables([top], limit=3, page_token=first.page_token)
    third = db.list_tables([top], limit=3, page_token=second.page_token)
    assert [first.tables, second.tables, third.tables] == [names[:3], names[3:6], names[6:]]
    assert not third.page_token
    db.drop_table("t0", namespace_path=[top])
    assert db.list_tables([top]).tables == names[1:]
