"""Versions, the tags that name them, and the branches they grow on."""

import pathlib
import shutil
import tempfile
import uuid

import lance
from lance_namespace_urllib3_client import models

from .world import call, column, count, folder, insert, latest, new_id, new_table, operation, pages, parts, refused, rows


def staged(id, start, stop):
    """Rows appended as a client with managed versioning does it: the files are there, the manifest has no final name yet.

    Answers the next version with the path and the size of its manifest, as the fields of CreateTableVersion.
    """
    location = folder(id)
    version = latest(id) + 1
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "copy"
        shutil.copytree(location, copy)
        before = {path.relative_to(copy) for path in copy.rglob("*")}
        assert lance.write_dataset(rows(start, stop), copy, mode="append").version == version
        for path in sorted(copy.rglob("*")):
            place = path.relative_to(copy)
            if place in before or path.is_dir():
                continue
            if place.parts[0] == "_versions":
                if path.suffix != ".manifest":
                    continue
                manifest = location / f"{place}-{uuid.uuid4()}"
                place = manifest.relative_to(location)
            (location / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, location / place)
    return {
        "version": version,
        "manifest_path": str(manifest).removeprefix("/"),
        "manifest_size": manifest.stat().st_size,
        "naming_scheme": "V2",
    }


def staging(id):
    """The manifests of a table that have no final name."""
    return list((folder(id) / "_versions").glob("*.manifest-*"))


def numbers(id, **options):
    return [version.version for version in call("list_table_versions", id, **options).versions]


@operation
def list_table_versions():
    id = new_table(1)
    for start in range(1, 5):
        insert(id, start, start + 1)
    assert numbers(id, descending=True) == [5, 4, 3, 2, 1]
    assert numbers(id, descending=True, limit=2) == [5, 4]
    version = call("list_table_versions", id, descending=True, limit=1).versions[0]
    assert version.metadata["origin"] == "catalog" and version.metadata["committed_by"], version
    assert version.manifest_path.endswith(".manifest") and version.manifest_size > 0, version
    assert version.timestamp_millis > 1_600_000_000_000, version

    def page(**options):
        return call("list_table_versions", id, descending=True, **options)

    assert [[one.version for one in page.versions] for page in pages(page, limit=2)] == [[5, 4], [3, 2], [1]]
    refused(4, "list_table_versions", new_id())
    refused(22, "list_table_versions", id, branch="nowhere")


@operation
def describe_table_version():
    id = new_table(1)
    insert(id, 1, 2)
    assert call("describe_table_version", id, models.DescribeTableVersionRequest()).version.version == 2
    one = call("describe_table_version", id, models.DescribeTableVersionRequest(version=1)).version
    assert one.version == 1 and one.manifest_path.endswith(".manifest"), one
    refused(11, "describe_table_version", id, models.DescribeTableVersionRequest(version=3))
    refused(4, "describe_table_version", new_id(), models.DescribeTableVersionRequest())


@operation
def create_table_version():
    id = new_table(3)
    first, second = staged(id, 3, 5), staged(id, 5, 9)
    assert count(id) == 3, "a staged version can be seen"
    made = call("create_table_version", id, models.CreateTableVersionRequest(**first)).version
    assert made.version == 2 and made.manifest_path.endswith(".manifest"), made
    assert column(id, "id") == [0, 1, 2, 3, 4]
    refused(14, "create_table_version", id, models.CreateTableVersionRequest(**second))
    assert count(id) == 5 and numbers(id, descending=True) == [2, 1]
    gap = models.CreateTableVersionRequest(**second | {"version": 7})
    refused(14, "create_table_version", id, gap)
    lost = models.CreateTableVersionRequest(**second | {"version": 3, "manifest_path": second["manifest_path"] + "x"})
    refused(13, "create_table_version", id, lost)
    refused(4, "create_table_version", new_id(), models.CreateTableVersionRequest(**second))
    assert latest(id) == 2


@operation
def batch_create_table_versions():
    one, two = new_table(1), new_table(2)

    def entries(*versions):
        versions = [models.CreateTableVersionEntry(id=parts(id), **staged) for id, staged in versions]
        return models.BatchCreateTableVersionsRequest(entries=versions)

    stale = staged(two, 2, 5)
    request = entries((one, staged(one, 1, 4)), (two, staged(two, 2, 4)))
    reply = call("batch_create_table_versions", request)
    assert [version.version for version in reply.versions] == [2, 2], reply
    assert (count(one), count(two)) == (4, 4)
    refused(14, "batch_create_table_versions", entries((one, staged(one, 4, 9)), (two, stale)))
    assert (latest(one), latest(two)) == (2, 2), "half of a batch has landed"
    refused(4, "batch_create_table_versions", entries((one, staged(one, 4, 9)), (new_id(), stale)))
    assert (count(one), count(two)) == (4, 4)


@operation
def batch_delete_table_versions():
    id = new_table(1)
    for start in range(1, 4):
        insert(id, start, start + 1)
    ranges = [models.VersionRange(start_version=1, end_version=3)]
    request = models.BatchDeleteTableVersionsRequest(ranges=ranges)
    assert call("batch_delete_table_versions", id, request).deleted_count == 2
    assert numbers(id, descending=True) == [4, 3]
    refused(11, "describe_table_version", id, models.DescribeTableVersionRequest(version=1))
    assert count(id) == 4 and count(id, version=3) == 3
    refused(4, "batch_delete_table_versions", new_id(), request)
    backwards = [models.VersionRange(start_version=5, end_version=2)]
    refused(13, "batch_delete_table_versions", id, models.BatchDeleteTableVersionsRequest(ranges=backwards))


@operation
def batch_commit_tables():
    written, trimmed, leaving, declared = new_table(1), new_table(1), new_table(1), new_id()
    insert(trimmed, 1, 2)
    step = models.CommitTableOperation
    declare = step(declare_table=models.DeclareTableRequest(id=parts(declared)))
    trim = models.BatchDeleteTableVersionsRequest(
        id=parts(trimmed), ranges=[models.VersionRange(start_version=1, end_version=2)]
    )
    leave = step(deregister_table=models.DeregisterTableRequest(id=parts(leaving)))

    def write(**fields):
        return step(create_table_version=models.CreateTableVersionRequest(id=parts(written), **fields))

    operations = [declare, write(**staged(written, 1, 6)), step(delete_table_versions=trim), leave]
    reply = call("batch_commit_tables", models.BatchCommitTablesRequest(operations=operations))
    made, version, deleted, left = reply.results
    assert made.declare_table.location and made.create_table_version is None, made
    assert version.create_table_version.version.version == 2, version
    assert deleted.delete_table_versions.deleted_count == 1, deleted
    assert left.deregister_table.location, left
    call("table_exists", declared, models.TableExistsRequest())
    assert count(written) == 6 and numbers(trimmed) == [2]
    refused(4, "table_exists", leaving, models.TableExistsRequest())
    # The last step cannot be done, so none is.
    other = new_id()
    operations = [
        step(declare_table=models.DeclareTableRequest(id=parts(other))),
        write(**staged(written, 6, 7)),
        leave,
    ]
    refused(4, "batch_commit_tables", models.BatchCommitTablesRequest(operations=operations))
    refused(4, "table_exists", other, models.TableExistsRequest())
    assert latest(written) == 2
    operations = [step(declare_table=models.DeclareTableRequest(id=parts(declared)))]
    refused(5, "batch_commit_tables", models.BatchCommitTablesRequest(operations=operations))
    refused(13, "batch_commit_tables", models.BatchCommitTablesRequest(operations=[step()]))


@operation
def restore_table():
    id = new_table(2)
    insert(id, 2, 5)
    call("restore_table", id, models.RestoreTableRequest(version=1))
    assert column(id, "id") == [0, 1] and latest(id) == 3
    refused(11, "restore_table", id, models.RestoreTableRequest(version=99))
    refused(4, "restore_table", new_id(), models.RestoreTableRequest(version=1))
    assert latest(id) == 3


@operation
def create_table_tag():
    id = new_table(1)
    insert(id, 1, 2)
    call("create_table_tag", id, models.CreateTableTagRequest(tag="first", version=1))
    assert call("get_table_tag_version", id, models.GetTableTagVersionRequest(tag="first")).version == 1
    refused(9, "create_table_tag", id, models.CreateTableTagRequest(tag="first", version=2))
    refused(11, "create_table_tag", id, models.CreateTableTagRequest(tag="far", version=99))
    refused(4, "create_table_tag", new_id(), models.CreateTableTagRequest(tag="first", version=1))
    described = call("describe_table", id, models.DescribeTableRequest(tag="first"), load_detailed_metadata=True)
    assert described.version == 1, described


@operation
def list_table_tags():
    id = new_table(1)
    assert call("list_table_tags", id).tags == {}
    insert(id, 1, 2)
    for tag, version in (("a", 1), ("b", 2), ("c", 2)):
        call("create_table_tag", id, models.CreateTableTagRequest(tag=tag, version=version))
    tags = call("list_table_tags", id).tags
    assert {tag: one.version for tag, one in tags.items()} == {"a": 1, "b": 2, "c": 2}
    assert all(one.manifest_size > 0 and one.branch is None for one in tags.values()), tags
    listed = [list(page.tags) for page in pages(lambda **page: call("list_table_tags", id, **page), limit=2)]
    assert sorted(sum(listed, [])) == ["a", "b", "c"] and max(map(len, listed)) == 2, listed
    refused(4, "list_table_tags", new_id())


@operation
def get_table_tag_version():
    id = new_table(1)
    call("create_table_branch", id, models.CreateTableBranchRequest(name="side"))
    version = insert(id, 1, 2, branch="side")
    call("create_table_tag", id, models.CreateTableTagRequest(tag="aside", version=version, branch="side"))
    found = call("get_table_tag_version", id, models.GetTableTagVersionRequest(tag="aside"))
    assert (found.version, found.branch) == (version, "side"), found
    refused(8, "get_table_tag_version", id, models.GetTableTagVersionRequest(tag="nothing"))
    refused(4, "get_table_tag_version", new_id(), models.GetTableTagVersionRequest(tag="nothing"))


@operation
def update_table_tag():
    id = new_table(1)
    insert(id, 1, 2)
    call("create_table_tag", id, models.CreateTableTagRequest(tag="moving", version=1))
    call("update_table_tag", id, models.UpdateTableTagRequest(tag="moving", version=2))
    assert call("get_table_tag_version", id, models.GetTableTagVersionRequest(tag="moving")).version == 2
    refused(8, "update_table_tag", id, models.UpdateTableTagRequest(tag="nothing", version=1))
    refused(11, "update_table_tag", id, models.UpdateTableTagRequest(tag="moving", version=99))
    refused(4, "update_table_tag", new_id(), models.UpdateTableTagRequest(tag="moving", version=1))


@operation
def delete_table_tag():
    id = new_table(1)
    call("create_table_tag", id, models.CreateTableTagRequest(tag="short", version=1))
    call("delete_table_tag", id, models.DeleteTableTagRequest(tag="short"))
    assert call("list_table_tags", id).tags == {}
    refused(8, "delete_table_tag", id, models.DeleteTableTagRequest(tag="short"))
    refused(4, "delete_table_tag", new_id(), models.DeleteTableTagRequest(tag="short"))


@operation
def create_table_branch():
    id = new_table(1)
    insert(id, 1, 2)
    call("create_table_branch", id, models.CreateTableBranchRequest(name="old", from_version=1))
    call("create_table_branch", id, models.CreateTableBranchRequest(name="new"))
    assert (count(id, branch="old"), count(id, branch="new")) == (1, 2)
    insert(id, 10, 13, branch="old")
    call("create_table_branch", id, models.CreateTableBranchRequest(name="twig", from_branch="old"))
    assert (count(id, branch="twig"), count(id, branch="old"), count(id)) == (4, 4, 2)
    refused(23, "create_table_branch", id, models.CreateTableBranchRequest(name="old"))
    refused(22, "create_table_branch", id, models.CreateTableBranchRequest(name="x", from_branch="nowhere"))
    refused(11, "create_table_branch", id, models.CreateTableBranchRequest(name="x", from_version=99))
    refused(13, "create_table_branch", id, models.CreateTableBranchRequest(name="main"))
    refused(4, "create_table_branch", new_id(), models.CreateTableBranchRequest(name="x"))


@operation
def list_table_branches():
    id = new_table(1)
    assert call("list_table_branches", id).branches == {}
    for name in ("a", "b", "c"):
        call("create_table_branch", id, models.CreateTableBranchRequest(name=name))
    call("create_table_branch", id, models.CreateTableBranchRequest(name="twig", from_branch="a"))
    branches = call("list_table_branches", id).branches
    assert set(branches) == {"a", "b", "c", "twig"}
    assert (branches["a"].parent_version, branches["a"].parent_branch) == (1, None), branches["a"]
    assert branches["twig"].parent_branch == "a", branches["twig"]
    # Seconds, while the versions have milliseconds.
    assert 1_600_000_000 < branches["a"].create_at < 10_000_000_000, branches["a"]
    listed = [list(page.branches) for page in pages(lambda **page: call("list_table_branches", id, **page), limit=3)]
    assert sorted(sum(listed, [])) == ["a", "b", "c", "twig"] and max(map(len, listed)) == 3, listed
    refused(4, "list_table_branches", new_id())


@operation
def delete_table_branch():
    id = new_table(1)
    call("create_table_branch", id, models.CreateTableBranchRequest(name="short"))
    insert(id, 1, 4, branch="short")
    call("delete_table_branch", id, models.DeleteTableBranchRequest(name="short"))
    assert call("list_table_branches", id).branches == {} and count(id) == 1
    refused(22, "delete_table_branch", id, models.DeleteTableBranchRequest(name="short"))
    refused(22, "count_table_rows", id, models.CountTableRowsRequest(branch="short"))
    refused(4, "delete_table_branch", new_id(), models.DeleteTableBranchRequest(name="short"))
