"""Real clients that say who they are: lance_namespace and lance-ray by headers, lancedb by its api_key.

usage: python logging_in.py http://127.0.0.1:2333 API_KEY [TOKEN]
needs: the packages of requirements.txt
"""
import sys
import uuid

import lance_namespace as ln
import lance_ray as lr
import lancedb
import ray

base, key, tokens = sys.argv[1].rstrip("/"), sys.argv[2], sys.argv[3:]
name = "in_" + uuid.uuid4().hex[:8]


def fails(call):
    try:
        call()
    except Exception as error:
        assert not isinstance(error, AssertionError), error
        return str(error)
    raise AssertionError("it was let in")


# Whoever says nothing, or something wrong, sees nothing.
stranger = ln.connect("rest", {"uri": base})
fails(lambda: stranger.list_namespaces(ln.ListNamespacesRequest(id=[])))
forged = ln.connect("rest", {"uri": base, "headers.x-api-key": key[:-4] + "AAAA"})
fails(lambda: forged.create_namespace(ln.CreateNamespaceRequest(id=[name])))
fails(lambda: lancedb.connect(f"db://{name}", api_key="sk_test", host_override=base).list_tables())

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
ways = {"by_key": {"headers.x-api-key": key}, "by_bearer": {"headers.Authorization": f"Bearer {key}"}}
ways |= {"by_token": {"headers.Authorization": f"Bearer {token}"} for token in tokens}
for way, headers in ways.items():
    props = {"uri": base, **headers}
    space = ln.connect("rest", props)
    if name not in space.list_namespaces(ln.ListNamespacesRequest(id=[])).namespaces:
        space.create_namespace(ln.CreateNamespaceRequest(id=[name]))
    table = [name, way]
    kw = dict(namespace_impl="rest", namespace_properties=props, table_id=table)
    lr.write_lance(ray.data.from_items([{"id": i} for i in range(100)]), mode="create", **kw)
    lr.write_lance(ray.data.from_items([{"id": i} for i in range(50)]), mode="append", **kw)
    assert lr.read_lance(**kw).count() == 150

db = lancedb.connect(f"db://{name}", api_key=key, host_override=base)
made = db.create_table("by_lancedb", [{"id": i} for i in range(3)])
made.add([{"id": 3}])
assert made.count_rows() == 4
assert sorted(db.list_tables().tables) == sorted(["by_lancedb", *ways]), db.list_tables()
for token in tokens:
    assert lancedb.connect(f"db://{name}", api_key=token, host_override=base).open_table("by_lancedb").count_rows() == 4
print("logged in: lance_namespace and write_lance", ", ".join(ways), "and lancedb by api_key")
