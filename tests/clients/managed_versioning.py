"""Real client: pylance on tables whose versions the catalog manages.

usage: python managed_versioning.py http://127.0.0.1:2333 [check ...]
needs: pip install pylance lance-namespace; the server's tables must be on this machine's disk

It writes data and a staged manifest (`_versions/<v>.manifest-<uuid>`) straight to storage and asks the server
for the commit (CreateTableVersion). So every version must be the server's own, with its author; a lost race must leave
nothing behind; and a plain lance.dataset(location) must see the same table.
"""

import concurrent.futures
import multiprocessing
import pathlib
import sys
import time
import traceback
import uuid

import lance
import lance_namespace as ln
import pyarrow as pa
from lance_namespace import errors

DIMENSION = 4
CHECKS = []
base = None
space = None
namespace = "managed_" + uuid.uuid4().hex[:8]


def check(function):
    CHECKS.append(function)
    return function


def rows(start, stop):
    ids = range(start, stop)
    vectors = pa.array([float(i) for i in ids for _ in range(DIMENSION)], pa.float32())
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "text": pa.array([f"word{i} common" for i in ids], pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, DIMENSION),
        }
    )


def new_id():
    return [namespace, "t_" + uuid.uuid4().hex[:8]]


def through(id):
    """The arguments that make pylance go through the catalog."""
    return {"namespace_client": space, "table_id": id}


def ids(dataset):
    return sorted(dataset.to_table(columns=["id"])["id"].to_pylist())


def folder(id):
    return pathlib.Path(space.describe_table(ln.DescribeTableRequest(id=id)).location.removeprefix("file://"))


def versions(id, branch=None):
    """Every version that the server lists, oldest first."""
    found, token = [], None
    while True:
        request = ln.ListTableVersionsRequest(id=id, branch=branch, limit=7, page_token=token, descending=True)
        page = space.list_table_versions(request)
        found += page.versions
        token = page.page_token
        if not token:
            return found[::-1]


def committed_here(id, count, branch=None):
    """Checks that there are so many versions, all committed by the catalog, and that storage agrees."""
    found = versions(id, branch)
    first = found[0].version
    assert [one.version for one in found] == list(range(first, first + count)), [one.version for one in found]
    for one in found:
        assert one.metadata["origin"] == "catalog" and one.metadata["committed_by"], one
    place = folder(id) / "tree" / branch if branch else folder(id)
    assert lance.dataset(place).version == found[-1].version
    nothing_staged(id)


def nothing_staged(id):
    """Checks that no staged manifest is left: the winner's by the server, a loser's by whoever comes first."""
    deadline = time.monotonic() + 5
    while left := [str(path) for path in folder(id).rglob("*.manifest-*")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@check
def write_and_read():
    id = new_id()
    lance.write_dataset(rows(0, 5), mode="create", **through(id))
    assert space.describe_table(ln.DescribeTableRequest(id=id)).managed_versioning is True
    committed_here(id, 1)
    lance.write_dataset(rows(5, 8), mode="append", **through(id))
    dataset = lance.dataset(**through(id))
    assert ids(dataset) == list(range(8)) and dataset.version == 2
    assert space.count_table_rows(ln.CountTableRowsRequest(id=id)).count == 8
    lance.write_dataset(rows(20, 22), mode="overwrite", **through(id))
    assert ids(lance.dataset(**through(id))) == [20, 21]
    assert ids(lance.dataset(version=2, **through(id))) == list(range(8))
    assert ids(lance.dataset(folder(id))) == [20, 21]
    committed_here(id, 3)
    try:
        lance.write_dataset(rows(0, 1), mode="create", **through(id))
        raise AssertionError("a table is created twice")
    except errors.TableAlreadyExistsError:
        pass
    committed_here(id, 3)


@check
def changes():
    id = new_id()
    lance.write_dataset(rows(0, 10), mode="create", **through(id))
    dataset = lance.dataset(**through(id))
    assert dataset.update({"text": "'changed'"}, where="id = 1")["num_rows_updated"] == 1
    dataset.delete("id = 0")
    merge = dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    assert merge.execute(rows(9, 12)) == {"num_inserted_rows": 2, "num_updated_rows": 1, "num_deleted_rows": 0}
    dataset.create_scalar_index("id", "BTREE")
    dataset.add_columns({"twice": "id * 2"})
    dataset.drop_columns(["text"])
    dataset.optimize.compact_files()
    now = lance.dataset(**through(id))
    assert ids(now) == list(range(1, 12)) and now.schema.names == ["id", "vector", "twice"]
    assert now.count_rows("id = 7 AND twice = 14") == 1
    lance.dataset(version=1, **through(id)).restore()
    assert ids(lance.dataset(**through(id))) == list(range(10))
    committed_here(id, lance.dataset(folder(id)).version)


@check
def tags_and_branches():
    id = new_id()
    lance.write_dataset(rows(0, 3), mode="create", **through(id))
    lance.write_dataset(rows(3, 5), mode="append", **through(id))
    dataset = lance.dataset(**through(id))
    dataset.tags.create("first", 1)
    assert ids(lance.dataset(version="first", **through(id))) == [0, 1, 2]
    assert space.get_table_tag_version(ln.GetTableTagVersionRequest(id=id, tag="first")).version == 1
    # A managed branch begins with CreateTableVersion on a branch that does not exist yet.
    branch = dataset.create_branch("side")
    branch.insert(rows(10, 12))
    assert ids(lance.dataset(**through(id)).checkout_version(("side", None))) == [0, 1, 2, 3, 4, 10, 11]
    assert ids(lance.dataset(**through(id))) == [0, 1, 2, 3, 4]
    assert space.count_table_rows(ln.CountTableRowsRequest(id=id, branch="side")).count == 7
    assert list(space.list_table_branches(ln.ListTableBranchesRequest(id=id)).branches) == ["side"]
    committed_here(id, 2)
    committed_here(id, 2, branch="side")
    # What the server makes, the client can use.
    space.create_table_tag(ln.CreateTableTagRequest(id=id, tag="second", version=2))
    assert ids(lance.dataset(version="second", **through(id))) == [0, 1, 2, 3, 4]
    space.create_table_branch(ln.CreateTableBranchRequest(id=id, name="other", from_version=1))
    other = lance.dataset(**through(id)).checkout_version(("other", None))
    other.insert(rows(30, 31))
    assert space.count_table_rows(ln.CountTableRowsRequest(id=id, branch="other")).count == 4


def append(id, start, stop):
    """One append of a row at a time; runs in threads and in processes."""
    for row in range(start, stop):
        lance.write_dataset(rows(row, row + 1), mode="append", **through(id))


def append_in_a_process(address, id, start, stop):
    global space
    space = ln.connect("rest", {"uri": address})
    append(id, start, stop)


def all_landed_once(id, count, made):
    """Checks that rows 0..count are there once each, in so many versions."""
    assert ids(lance.dataset(**through(id))) == list(range(count))
    assert ids(lance.dataset(folder(id))) == list(range(count))
    assert space.count_table_rows(ln.CountTableRowsRequest(id=id)).count == count
    committed_here(id, made)


@check
def threads():
    id = new_id()
    lance.write_dataset(rows(0, 0), mode="create", **through(id))
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(append, id, start, start + 5) for start in range(0, 30, 5)]:
            done.result()
    all_landed_once(id, 30, 31)


@check
def processes():
    id = new_id()
    lance.write_dataset(rows(0, 0), mode="create", **through(id))
    # Spawned: a fork would copy the runtime of lance without its threads.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=context) as pool:
        jobs = [pool.submit(append_in_a_process, base, id, start, start + 6) for start in range(0, 18, 6)]
        for done in jobs:
            done.result()
    all_landed_once(id, 18, 19)


@check
def beside_the_server():
    """Managed clients, uploads to the server and a writer that knows no catalog, all on one table."""
    id = new_id()
    lance.write_dataset(rows(0, 0), mode="create", **through(id))

    def upload(start, stop):
        for row in range(start, stop):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows(0, 0).schema) as writer:
                writer.write_table(rows(row, row + 1))
            space.insert_into_table(ln.InsertIntoTableRequest(id=id), sink.getvalue().to_pybytes())

    def foreign(start, stop):
        for row in range(start, stop):
            lance.write_dataset(rows(row, row + 1), place, mode="append")

    place = folder(id)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(append, id, 0, 5),
            pool.submit(append, id, 5, 10),
            pool.submit(upload, 10, 15),
            pool.submit(foreign, 15, 20),
        ]
        for done in jobs:
            done.result()
    assert ids(lance.dataset(**through(id))) == list(range(20))
    assert ids(lance.dataset(place)) == list(range(20))
    found = versions(id)
    assert [one.version for one in found] == list(range(1, lance.dataset(place).version + 1))
    origins = [one.metadata["origin"] for one in found]
    assert origins.count("foreign") == 5, origins
    nothing_staged(id)


@check
def turned_off_for_a_table():
    id = new_id()
    request = ln.DeclareTableRequest(id=id, properties={"managed_versioning": "false"})
    assert not space.declare_table(request).managed_versioning
    assert not space.describe_table(ln.DescribeTableRequest(id=id)).managed_versioning
    lance.write_dataset(rows(0, 3), mode="overwrite", **through(id))
    lance.write_dataset(rows(3, 5), mode="append", **through(id))
    assert ids(lance.dataset(**through(id))) == [0, 1, 2, 3, 4]
    found = versions(id)
    assert [one.metadata["origin"] for one in found] == ["foreign", "foreign"], found
    assert space.count_table_rows(ln.CountTableRowsRequest(id=id)).count == 5


def main():
    global base, space
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
