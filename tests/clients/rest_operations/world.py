"""A running server as the generated client sees it: calls that are counted, refusals that are checked, tables to work on."""

import json
import pathlib
import time
import uuid

import lance_namespace_urllib3_client as client
import pyarrow as pa
from lance_namespace_urllib3_client import api, models
from lance_namespace_urllib3_client.exceptions import ApiException

APIS = [getattr(api, name) for name in dir(api) if name.endswith("Api")]
# Longer than anything here may take, shorter than the patience of the test run.
SECONDS_PER_CALL = 60
SECONDS_PER_JOB = 120
DIMENSION = 4

#: The check of each operation, by operationId, in the order of definition.
OPERATIONS = {}
#: The operations that were answered as they should be.
ANSWERED = set()

connection = None
namespace = None


def connect(base):
    """Turns to a server, and makes a namespace there for the tables of this run."""
    global connection, namespace
    connection = client.ApiClient(client.Configuration(host=base))
    namespace = "rest_" + uuid.uuid4().hex[:8]
    call("create_namespace", namespace, models.CreateNamespaceRequest())


def operation(check):
    """Marks the check of the operation that has the function's name."""
    OPERATIONS[operation_id(check.__name__)] = check
    return check


def operation_id(name):
    return "".join(word.capitalize() for word in name.split("_"))


def call(name, *arguments, status=200, **options):
    """One call of the generated client; answers its typed reply."""
    owner = next(one for one in APIS if hasattr(one, name))
    method = getattr(owner(connection), name + "_with_http_info")
    reply = method(*arguments, _request_timeout=SECONDS_PER_CALL, **options)
    assert reply.status_code == status, f"{name} answers {reply.status_code}, not {status}"
    ANSWERED.add(operation_id(name))
    return reply.data


# The status of each code, as the spec has it.
STATUS = {0: 406, 13: 400, 20: 400}
STATUS |= dict.fromkeys((1, 4, 6, 8, 10, 11, 12, 22), 404)
STATUS |= dict.fromkeys((2, 3, 5, 7, 9, 14, 19, 23), 409)


def refused(code, name, *arguments, **options):
    """Checks that a call is refused with a code of the spec, and answers the error."""
    try:
        reply = call(name, *arguments, **options)
    except ApiException as refusal:
        body = refusal.body if isinstance(refusal.body, str) else refusal.body.decode()
        error = models.ErrorResponse.from_json(body)
        assert (error.code, refusal.status) == (code, STATUS[code]), f"{name} refuses with {refusal.status}: {body}"
        assert error.error, f"{name} refuses without a word: {body}"
        assert ".rs" not in body and "panicked" not in body, f"{name} shows its inside: {body}"
        return json.loads(body)
    raise AssertionError(f"{name} should be refused with code {code}, and answers {reply!r}")


def new_id(stem="t"):
    """The id of a table that is not there yet."""
    return f"{namespace}${stem}_{uuid.uuid4().hex[:8]}"


def parts(id):
    return id.split("$")


def rows(start, stop):
    """Rows whose every value follows from their id."""
    ids = range(start, stop)
    vectors = [float(i) for i in ids for _ in range(DIMENSION)]
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "name": pa.array([f"name {i}" for i in ids], pa.string()),
            "price": pa.array([i / 2 for i in ids], pa.float64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors, pa.float32()), DIMENSION),
        }
    )


def stream(table):
    """The body of an upload: an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def new_table(count=10, stem="t", **options):
    """A new table of so many rows; answers its id."""
    id = new_id(stem)
    reply = call("create_table", id, stream(rows(0, count)), **options)
    assert reply.version == 1, reply
    return id


def insert(id, start, stop, **options):
    """Adds rows; answers the version that has them."""
    reply = call("insert_into_table", id, stream(rows(start, stop)), **options)
    assert reply.num_inserted_rows in (None, stop - start), reply
    return reply.version


def count(id, predicate=None, **options):
    return call("count_table_rows", id, models.CountTableRowsRequest(predicate=predicate, **options))


def query(id, *, k=1000, vector=None, columns=None, **options):
    """What a query answers, as an Arrow table: the reply is an Arrow IPC file."""
    if columns is not None:
        columns = models.QueryTableRequestColumns(column_names=columns)
    request = models.QueryTableRequest(
        k=k, vector=models.QueryTableRequestVector(single_vector=vector), columns=columns, **options
    )
    return pa.ipc.open_file(call("query_table", id, request)).read_all()


def column(id, name, **options):
    """The values of a column, in the order of the ids."""
    columns = ["id"] if name == "id" else ["id", name]
    return query(id, columns=columns, **options).sort_by("id")[name].to_pylist()


def describe(id, **options):
    return call("describe_table", id, models.DescribeTableRequest(**options), load_detailed_metadata=True)


def folder(id):
    """Where a table is on this machine's disk."""
    return pathlib.Path(describe(id).location.removeprefix("file://"))


def latest(id, branch=None):
    """The newest version of a table that the server lists."""
    return call("list_table_versions", id, branch=branch, limit=1, descending=True).versions[0].version


def finished(job):
    """Waits for a job, and checks that it came to a good end."""
    assert job, "no id of a job"
    deadline = time.monotonic() + SECONDS_PER_JOB
    while True:
        reply = call("describe_transaction", job, models.DescribeTransactionRequest())
        if reply.status in ("Succeeded", "Failed", "Canceled"):
            assert reply.status == "Succeeded", reply
            return reply
        assert reply.status in ("Queued", "Running"), reply
        assert time.monotonic() < deadline, f"job {job} is still {reply.status} after {SECONDS_PER_JOB} s"
        time.sleep(0.1)


def pages(fetch, limit=1):
    """Every page of a listing, one after the other."""
    token = None
    for _ in range(1000):
        page = fetch(limit=limit, page_token=token)
        yield page
        token = page.page_token
        if not token:
            return
    raise AssertionError("the listing has no end")
