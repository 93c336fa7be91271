"""What schemathesis is told about the server under test: names that exist, and how Arrow bodies are written and read.

Loaded by schemathesis_run.py through SCHEMATHESIS_HOOKS. Only those parts of a case are touched that schemathesis made
to be valid; a part that it made to be wrong is sent as it is, so that it must still be refused.
"""

import base64
import io
import itertools
import json
import os
import random
import threading
import urllib.request

import pyarrow as pa
import schemathesis
from schemathesis.core.parameters import ParameterLocation

BASE = os.environ["TILTYARD_UNDER_TEST"]
ARROW_STREAM = "application/vnd.apache.arrow.stream"
ARROW_FILE = "application/vnd.apache.arrow.file"
TABLES = ["fuzz$t0", "fuzz$t1", "fuzz$t2"]
# Each of these gets something of its own to work on, or the others would soon find nothing any more.
DESTRUCTIVE = {"DropTable", "DeregisterTable", "RenameTable", "DropNamespace"}
# Calls between two renewals of the tables, whose columns and versions go away in the course of time.
CALLS_PER_RENEWAL = 400

# What is put into a request where a field or a parameter has this name.
VALUES = {
    "branch": ["main", "side", "nowhere"],
    "from_branch": ["main", "side", "nowhere"],
    "tag": ["first", "nothing"],
    "version": [1, 2, 99],
    "from_version": [1, 2],
    "read_version": [1, 2],
    "column": ["id", "name", "price", "vector", "nothing"],
    "columns": ["id", "id,name", "nothing"],
    "path": ["id", "name", "price"],
    "predicate": ["id > 1", "name = 'x'", "nothing = 1", "id = ", "true"],
    "filter": ["id > 1", "name LIKE 'n%'", "nothing = 1", "id = "],
    "where": ["id > 1", "id ="],
    "expression": ["id + 1", "nothing + 1", "1"],
    "computed": ["id + 1", "price * 2"],
    "index_type": ["BTREE", "BITMAP", "IVF_FLAT", "FTS", "LABEL_LIST", "MAGIC"],
    "index_name": ["by_id", "nothing"],
    "distance_type": ["l2", "cosine", "dot", "feeling"],
    "mode": ["create", "Overwrite", "exist_ok", "append", "Skip", "sometimes"],
    "behavior": ["Restrict", "Cascade"],
    "kind": ["query", "udtf"],
    "status": ["Succeeded", "Canceled", "Running"],
    "on": [["id"], ["id", "name"], ["nothing"]],
    "timeout": ["10s", "soon"],
    "operation": ["append", "overwrite", "merge"],
    "new_table_name": ["renamed", "t0"],
    "vector_column": ["vector", "name"],
    "single_vector": [[0.5, 0.5, 0.5, 0.5], [1.0]],
    "multi_vector": [[[0.5, 0.5, 0.5, 0.5], [1.5, 1.5, 1.5, 1.5]]],
    "column_names": [["id"], ["id", "name"], ["nothing"]],
    "column_aliases": [{"cost": "price"}, {"x": "nothing"}],
    "terms": ["name", "name 7"],
    "query": ["name 7"],
    "updates": [[["price", "price + 1"]], [["nothing", "1"]]],
    "properties": ['{"a": "b"}', {"a": "b"}],
    "storage_options": ["{}", {}],
    "data_storage_version": ["stable", "2.0", "0.0"],
    "naming_scheme": ["V2", "V1"],
    "base_tokenizer": ["simple", "nothing"],
    "language": ["English", "Klingon"],
    "source_query": [
        '{"table_id": ["fuzz", "t0"], "filter": "id > 1", "columns": {"column_names": ["id"]}}',
        '{"table_id": ["fuzz", "nothing"]}',
    ],
    "output_schema": [base64.b64encode(pa.schema([("id", pa.int64())]).serialize()).decode()],
}

_calls = itertools.count()
_names = itertools.count()
_renewing = threading.Lock()
# Ids of what was committed, and of the views that were made.
_transactions = []
_views = ["fuzz$view"]


def rows(count):
    vectors = pa.array([float(i) for i in range(count) for _ in range(4)], pa.float32())
    return pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "name": pa.array([f"name {i}" for i in range(count)], pa.string()),
            "price": pa.array([i / 2 for i in range(count)], pa.float64()),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, 4),
        }
    )


def stream(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def post(path, body, kind="application/json"):
    """A call of our own. Its refusal does not matter: what is to be there may be there already."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, body, {"content-type": kind}, method="POST")
    try:
        return json.loads(urllib.request.urlopen(request, timeout=30).read() or b"null")
    except urllib.error.HTTPError as refusal:
        assert refusal.code < 500, f"{path}: {refusal.code} {refusal.read()!r}"
        return None


def renew():
    """Makes the namespace and the tables as they were in the beginning: two versions, a branch, a tag, an index."""
    post("/v1/namespace/fuzz/create", {"mode": "exist_ok"})
    for table in TABLES:
        post(f"/v1/table/{table}/drop", {})
        post(f"/v1/table/{table}/create", stream(rows(20)), ARROW_STREAM)
        inserted = post(f"/v1/table/{table}/insert", stream(rows(5)), ARROW_STREAM)
        if inserted and inserted.get("transaction_id"):
            _transactions.append(inserted["transaction_id"])
        post(f"/v1/table/{table}/branches/create", {"name": "side"})
        post(f"/v1/table/{table}/tags/create", {"tag": "first", "version": 1})
        index = {"column": "id", "index_type": "BTREE", "name": "by_id"}
        post(f"/v1/table/{table}/create_scalar_index", index)


def sacrifice(operation):
    """The id of something new, for an operation that makes away with it."""
    name = f"victim{next(_names)}"
    if operation == "DropNamespace":
        post(f"/v1/namespace/{name}/create", {})
        return name
    post(f"/v1/table/fuzz${name}/create", stream(rows(2)), ARROW_STREAM)
    return f"fuzz${name}"


def target(operation, path, choice):
    """The id that an operation is sent to, or None for the one that was generated."""
    if choice.random() < 0.1:
        return None
    if operation in DESTRUCTIVE:
        return sacrifice(operation)
    if path.startswith("/v1/namespace/"):
        return choice.choice(["fuzz", "$"])
    if path.startswith("/v1/transaction/"):
        return choice.choice(_transactions) if _transactions else None
    if operation == "CreateMaterializedView":
        _views.append(f"fuzz$view{next(_names)}")
        return _views[-1]
    if operation == "RefreshMaterializedView":
        return choice.choice(_views)
    return choice.choice(TABLES)


def known(fields, choice):
    """Puts names that exist in the place of generated ones, in most of the fields that can have them."""
    for name, value in fields.items():
        listed = isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
        fitting = [new for new in VALUES.get(name, []) if type(new) is type(value)]
        if fitting and not listed:
            if choice.random() < 0.8:
                fields[name] = choice.choice(fitting)
        elif listed or isinstance(value, dict):
            for one in value if listed else [value]:
                known(one, choice)


@schemathesis.hook
def before_call(context, case, kwargs):
    if next(_calls) % CALLS_PER_RENEWAL == 0 and _renewing.acquire(blocking=False):
        try:
            renew()
        finally:
            _renewing.release()
    operation = case.operation.definition.raw.get("operationId", "")
    choice = random.Random(f"{operation} {case.path_parameters} {case.query} {case.body!r}"[:500])

    def valid(location):
        return case.meta is None or not case.meta.is_negative_at(location)

    if case.path_parameters and "id" in case.path_parameters and valid(ParameterLocation.PATH):
        id = target(operation, case.operation.path, choice)
        if id is not None:
            case.path_parameters["id"] = id
            if valid(ParameterLocation.QUERY) and case.query:
                case.query.pop("delimiter", None)
    if case.query and valid(ParameterLocation.QUERY):
        known(case.query, choice)
        # A generated page token is never one that the server has given.
        if choice.random() < 0.8:
            case.query.pop("page_token", None)
    if isinstance(case.body, dict) and valid(ParameterLocation.BODY):
        # An id in the body must be that of the path, and a generated one never is.
        case.body.pop("id", None)
        known(case.body, choice)


@schemathesis.serializer(ARROW_STREAM)
def write_arrow(context, value):
    """Arrow for two bodies of three, cut short for one of them at times; the rest is sent as generated."""
    value = value if isinstance(value, bytes) else str(value).encode()
    choice = random.Random(value)
    body = stream(rows(choice.randint(0, 5)))
    if choice.random() < 0.2:
        body = body[: choice.randint(0, len(body))]
    return {"data": body if choice.random() < 0.7 else value}


@schemathesis.deserializer(ARROW_STREAM)
def read_arrow_stream(context, response):
    pa.ipc.open_stream(io.BytesIO(response.content)).read_all()
    return ""


@schemathesis.deserializer(ARROW_FILE)
def read_arrow_file(context, response):
    pa.ipc.open_file(io.BytesIO(response.content)).read_all()
    return ""
