"""A running server as LanceDB's Python client sees it: databases, tables to work on, answers as plain values."""

import contextlib
import datetime
import re
import uuid

import lancedb
import pyarrow as pa
from lancedb.remote import ClientConfig, HeaderProvider

DIMENSION = 4
WAIT = datetime.timedelta(seconds=120)

# Places in the source of the server. The client has places of its own in what it finds wrong itself.
INSIDE = re.compile(r"-14\.\d+\.\d+/src|\bsrc/(catalog|commit|http|lake)/|panicked")

#: Every flow by its name, in the order of definition.
FLOWS = {}

base = None
#: The database that the flows share, each with tables of its own.
db = None
name = None


def connect(server):
    """Turns to a server, and makes a database there for this run."""
    global base, db, name
    base, name = server, "flows_" + uuid.uuid4().hex[:8]
    db = database(name)


def database(name, *, host=None, **options):
    return lancedb.connect(f"db://{name}", api_key="sk_test", host_override=host or base, **options)


def same_database(**options):
    """Another connection to the shared database: the client keeps the names it knows for minutes, per connection."""
    return database(name, **options)


def flow(check):
    """Marks a function as a flow: it asserts what it does, and needs no other flow."""
    assert check.__name__ not in FLOWS, check
    FLOWS[check.__name__] = check
    return check


def new_name(stem="t"):
    return f"{stem}_{uuid.uuid4().hex[:8]}"


def texts(ids):
    return [f"word{i} {'even' if i % 2 == 0 else 'odd'} number" for i in ids]


def rows(start, stop):
    """Rows whose every value follows from their id."""
    ids = range(start, stop)
    vectors = [float(i) for i in ids for _ in range(DIMENSION)]
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "text": pa.array(texts(ids), pa.string()),
            "price": pa.array([i / 2 for i in ids], pa.float64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors, pa.float32()), DIMENSION),
        }
    )


def point(value):
    """A vector that is nearest to the row of that id."""
    return [float(value)] * DIMENSION


def new_table(count=10, stem="t"):
    return db.create_table(new_name(stem), rows(0, count))


def read(table, *columns, where=None):
    """The values of some columns as one list per column, in the order of the ids; all rows."""
    query = table.search()
    if where is not None:
        query = query.where(where)
    wanted = list(dict.fromkeys(["id", *columns]))
    found = query.select(wanted).limit(None).to_arrow().sort_by("id")
    return [found[name].to_pylist() for name in columns]


def ids(table, where=None):
    return read(table, "id", where=where)[0]


def id_list(query):
    """The ids that a query answers, in its order."""
    return query.to_arrow()["id"].to_pylist()


def fails(kind, *words, call):
    """Checks that a call raises an error of that kind whose text has the words; answers the error."""
    try:
        reply = call()
    except kind as error:
        text = str(error)
        for word in words:
            assert word.lower() in text.lower(), f"no {word!r} in {type(error).__name__}: {text}"
        assert not INSIDE.search(text), f"shows its inside: {text}"
        return error
    raise AssertionError(f"should fail with {kind}, and answers {reply!r}")


class Count(HeaderProvider):
    """Counts requests: the client asks for the headers of every attempt, so a retried one counts each time."""

    def __init__(self):
        self.requests = 0

    def get_headers(self):
        self.requests += 1
        return {}


def counted():
    """A connection to the shared database whose requests are counted, and the count."""
    count = Count()
    return same_database(client_config=ClientConfig(header_provider=count)), count


@contextlib.contextmanager
def took(count, requests):
    """Checks that what is done inside takes so many requests: fewer than two tries of anything."""
    before = count.requests
    yield
    assert count.requests - before == requests, f"{count.requests - before} requests, not {requests}"
