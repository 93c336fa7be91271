"""Real client: pylance on S3, with no credentials but those that the server hands out for each table.

usage: python vended_credentials.py http://127.0.0.1:2333 http://S3-ENDPOINT
needs: pip install pylance lance-namespace; a server that vends credentials for that S3 server
"""
import os
import sys
import time
import uuid

for name in list(os.environ):
    if name.startswith("AWS_"):
        del os.environ[name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

import lance
import lance_namespace as ln
import pyarrow as pa

base, endpoint = (argument.rstrip("/") for argument in sys.argv[1:3])
space = ln.connect("rest", {"uri": base})
namespace = "vended_" + uuid.uuid4().hex[:8]
space.create_namespace(ln.CreateNamespaceRequest(id=[namespace]))


def rows(start, stop):
    return pa.table({"id": pa.array(range(start, stop), pa.int64()), "text": [f"t{i}" for i in range(start, stop)]})


def write_and_read(name, managed):
    id = [namespace, name]
    space.declare_table(ln.DeclareTableRequest(id=id, properties={"managed_versioning": managed}))
    through = {"namespace_client": space, "table_id": id}
    # The first version of a table that is declared is an overwrite.
    lance.write_dataset(rows(0, 5), mode="overwrite", **through)
    lance.write_dataset(rows(5, 8), mode="append", **through)
    dataset = lance.dataset(**through)
    assert sorted(dataset.to_table()["id"].to_pylist()) == list(range(8))
    dataset.update({"text": "'changed'"}, where="id = 1")
    dataset.delete("id = 0")
    merge = dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    assert merge.execute(rows(7, 10))["num_inserted_rows"] == 2
    dataset.create_scalar_index("id", "BTREE")
    dataset.optimize.compact_files()
    assert lance.dataset(**through).count_rows() == 9
    assert space.count_table_rows(ln.CountTableRowsRequest(id=id)).count == 9
    return id


write_and_read("managed", "true")
mine = write_and_read("mine", "false")

described = space.describe_table(ln.DescribeTableRequest(id=mine, vend_credentials=True))
options = described.storage_options
assert options["aws_session_token"] and options["aws_endpoint"] == endpoint, sorted(options)
left = int(options["expires_at_millis"]) / 1000 - time.time()
assert 1800 <= left <= 3600, left
assert lance.dataset(described.location, storage_options=options).count_rows() == 9

# They are for this table only.
stranger = [namespace, "stranger"]
location = space.declare_table(ln.DeclareTableRequest(id=stranger)).location
lance.write_dataset(rows(0, 2), mode="overwrite", namespace_client=space, table_id=stranger)
for attempt in (
    lambda: lance.dataset(location, storage_options=options),
    lambda: lance.write_dataset(rows(0, 1), location, mode="append", storage_options=options),
):
    try:
        attempt()
    except Exception as error:
        assert "403" in str(error) or "denied" in str(error).lower(), error
    else:
        raise AssertionError("the credentials of one table open another")
print("vended credentials: written, read, changed and compacted, and of no use for another table")
