"""Real client: lancedb.connect_namespace("rest", ...), with managed versioning.

usage: python lancedb_namespace.py http://127.0.0.1:2333 [check ...]
needs: pip install lancedb pylance lance-namespace; the server's tables must be on this machine's disk

lancedb carries a lance of its own (13, beside pylance 14). It does its work on storage and asks the server for names,
places and commits; where it can leave the work to the server (QueryTable, CreateTable) there is a check for that too.
"""

import sys
import time
import traceback
import warnings

import lance_namespace as ln
import lancedb
import managed_versioning
from lance_namespace import errors
from managed_versioning import DIMENSION, committed_here, namespace, nothing_staged, rows

CHECKS = []
base = None
space = None


def check(function):
    CHECKS.append(function)
    return function


def searched(query):
    return query.to_arrow()["id"].to_pylist()


@check
def lancedb_namespaces():
    db = lancedb.connect_namespace("rest", {"uri": base})
    top = f"{namespace}_lancedb"
    db.create_namespace([top], properties={"owner": "lancedb"})
    db.create_namespace([top, "deep"])
    db.create_namespace([top], mode="exist_ok")
    assert db.describe_namespace([top]).properties == {"owner": "lancedb"}
    assert top in db.list_namespaces().namespaces and db.list_namespaces([top]).namespaces == ["deep"]
    deep = {"namespace_path": [top, "deep"]}
    assert db.create_table("empty", schema=rows(0, 0).schema, **deep).count_rows() == 0
    db.create_table("moving", rows(0, 3), **deep)
    assert sorted(db.list_tables([top, "deep"]).tables) == ["empty", "moving"]
    # The path of names tells the server where to; lancedb itself only renames within and between namespaces.
    db.rename_table("moving", "moved", cur_namespace_path=[top, "deep"], new_namespace_path=[top])
    assert db.open_table("moved", namespace_path=[top]).count_rows() == 3
    assert db.list_tables([top, "deep"]).tables == ["empty"] and db.list_tables([top]).tables == ["moved"]
    db.drop_table("empty", **deep)
    try:
        db.open_table("empty", **deep)
        raise AssertionError("a dropped table opens")
    except errors.TableNotFoundError:
        pass
    try:
        db.drop_namespace([top])
        raise AssertionError("a full namespace is dropped")
    except errors.NamespaceNotEmptyError:
        pass
    db.drop_all_tables([top])
    db.drop_namespace([top, "deep"])
    db.drop_namespace([top])
    assert top not in db.list_namespaces().namespaces


@check
def lancedb_tables():
    db = lancedb.connect_namespace("rest", {"uri": base})
    db.create_namespace([namespace, "deep"])
    id = [namespace, "deep", "t"]
    deep = {"namespace_path": id[:-1]}
    db.create_table("t", rows(0, 300), **deep)
    try:
        db.create_table("t", rows(0, 1), **deep)
        raise AssertionError("a table is created twice")
    except ValueError as error:
        assert "already exists" in str(error), error
    assert db.create_table("t", rows(0, 1), exist_ok=True, **deep).count_rows() == 300
    table = db.open_table("t", **deep)
    assert table.add(rows(300, 310)).version == 2
    assert searched(table.search([7.0] * DIMENSION).limit(2)) == [7, 6]
    assert sorted(searched(table.search().where("id > 306"))) == [307, 308, 309]
    table.create_fts_index("text")
    assert searched(table.search("word7", query_type="fts")) == [7]
    table.create_scalar_index("id")
    table.create_index(metric="l2", index_type="IVF_FLAT", num_partitions=2)
    assert searched(table.search([9.0] * DIMENSION).nprobes(2).limit(1)) == [9]
    assert sorted(index.name for index in table.list_indices()) == ["id_idx", "text_idx", "vector_idx"]
    listed = space.list_table_indices(ln.ListTableIndicesRequest(id=id)).indexes
    assert sorted(index.index_name for index in listed) == ["id_idx", "text_idx", "vector_idx"], listed
    assert table.update(where="id = 1", values={"text": "changed"}).rows_updated == 1
    assert table.delete("id = 0").num_deleted_rows == 1
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    merged = merge.execute(rows(309, 312))
    assert (merged.num_inserted_rows, merged.num_updated_rows) == (2, 1), merged
    table.add_columns({"twice": "id * 2"})
    table.drop_columns(["twice"])
    table.tags.create("made", 1)
    table.drop_index("id_idx")
    assert table.count_rows() == 311
    assert space.count_table_rows(ln.CountTableRowsRequest(id=id)).count == 311
    committed_here(id, table.version)
    table.checkout("made")
    assert table.count_rows() == 300
    table.restore()
    assert db.open_table("t", **deep).count_rows() == 300
    branch = table.branches.create("dev")
    branch.add(rows(900, 905))
    assert branch.count_rows() == 305 and db.open_table("t", **deep).count_rows() == 300
    assert space.count_table_rows(ln.CountTableRowsRequest(id=id, branch="dev")).count == 305
    assert db.create_table("t", rows(0, 5), mode="overwrite", **deep).count_rows() == 5
    nothing_staged(id)
    db.drop_table("t", **deep)
    assert "t" not in db.list_tables(id[:-1]).tables


@check
def lancedb_with_the_server_at_work():
    """QueryTable and CreateTable done by the server, the rest by lancedb."""
    operations = ["QueryTable", "CreateTable"]
    db = lancedb.connect_namespace("rest", {"uri": base}, namespace_client_pushdown_operations=operations)
    here = {"namespace_path": [namespace]}
    table = db.create_table("pushed", rows(0, 30), **here)
    assert searched(table.search([7.2] * DIMENSION).limit(2)) == [7, 8]
    assert sorted(searched(table.search().where("id > 25").select(["id"]))) == [26, 27, 28, 29]
    table.create_fts_index("text")
    assert searched(table.search("word7", query_type="fts")) == [7]
    assert searched(table.search([7.2] * DIMENSION).where("id > 20").limit(1)) == [21]
    try:
        db.create_table("pushed", rows(0, 1), **here)
        raise AssertionError("a table is created twice")
    except ValueError as error:
        assert "already exists" in str(error), error
    assert db.create_table("pushed", rows(0, 3), mode="overwrite", **here).count_rows() == 3


def main():
    global base, space
    # lancedb announces its next major version with every call.
    warnings.simplefilter("ignore")
    base, wanted = sys.argv[1].rstrip("/"), sys.argv[2:]
    space = managed_versioning.space = ln.connect("rest", {"uri": base})
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
