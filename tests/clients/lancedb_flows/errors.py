"""What goes wrong: said with the right error, at once, and without a trace."""

import lancedb
import pyarrow as pa
from lancedb.index import BTree
from lancedb.remote.errors import HttpError

from . import world
from .world import counted, fails, flow, ids, new_name, new_table, rows, took


@flow
def refusals_are_not_retried():
    """A request that cannot succeed is made once."""
    name = new_table(5).name
    db, count = counted()
    table = db.open_table(name)
    assert table.schema.names == ["id", "text", "price", "vector"]
    with took(count, 1):
        fails(ValueError, "nothing", call=lambda: db.open_table("nothing"))
    with took(count, 1):
        fails(ValueError, "already exists", call=lambda: db.create_table(name, rows(0, 1)))
    with took(count, 1):
        fails(Exception, call=lambda: db.drop_table("nothing"))
    with took(count, 1):
        fails(Exception, "no_such", call=lambda: table.count_rows("no_such = 1"))
    with took(count, 1):
        fails(Exception, call=lambda: table.count_rows("id >>> 1"))
    with took(count, 1):
        fails(Exception, "no_such", call=lambda: table.delete("no_such = 1"))
    with took(count, 1):
        fails(Exception, "no_such", call=lambda: table.update(where="no_such = 1", values={"price": 1.0}))
    with took(count, 1):
        fails(Exception, "no_such", call=lambda: table.update(values={"no_such": 1.0}))
    # The client forgets the schema after a refusal, and fetches it again where it needs it.
    fails(Exception, "no_such", call=lambda: table.search().where("no_such = 1").to_arrow())
    before = count.requests
    fails(Exception, "no_such", call=lambda: table.search().select(["no_such"]).to_arrow())
    assert count.requests - before <= 2, count.requests - before
    before = count.requests
    fails(Exception, call=lambda: table.search([1.0, 2.0]).to_arrow())
    assert count.requests - before <= 2, count.requests - before
    before = count.requests
    fails(Exception, call=lambda: table.merge_insert("no_such").when_matched_update_all().execute(rows(0, 1)))
    assert count.requests - before <= 2, count.requests - before
    with took(count, 1):
        fails(Exception, call=lambda: table.drop_columns(["no_such"]))
    with took(count, 1):
        fails(Exception, call=lambda: table.alter_columns({"path": "no_such", "rename": "b"}))
    with took(count, 1):
        fails(Exception, call=lambda: table.drop_index("no_such"))
    with took(count, 1):
        fails(Exception, call=lambda: table.tags.create("late", 99))
    with took(count, 1):
        fails(Exception, call=lambda: table.tags.delete("no_such"))
    with took(count, 1):
        fails(Exception, call=lambda: table.restore(99))
    before = count.requests
    fails(Exception, call=lambda: table.create_index("no_such", config=BTree()))
    assert count.requests - before <= 2, count.requests - before
    with took(count, 0):
        fails(ValueError, call=lambda: db.create_namespace(["a$b"]))
    assert table.version == 1 and ids(table) == [0, 1, 2, 3, 4]


@flow
def unknown_table():
    db, count = counted()
    name = new_table(1).name
    table = db.open_table(name)
    world.db.drop_table(name)
    for what, call in {
        "count": lambda: table.count_rows(),
        "search": lambda: table.search().to_arrow(),
        "delete": lambda: table.delete("true"),
        "update": lambda: table.update(values={"price": 1.0}),
        "versions": lambda: table.list_versions(),
        "tags": lambda: table.tags.list(),
        "statistics": lambda: table.stats(),
        "checkout": lambda: table.checkout(1),
        "drop an index": lambda: table.drop_index("any"),
    }.items():
        before = count.requests
        fails(Exception, "not found", call=call)
        assert count.requests - before == 1, f"{what} takes {count.requests - before} requests to learn it"


@flow
def refusals_name_their_request():
    """The client shows the id of its request; the text of the answer is shown as it is."""
    error = fails(HttpError, call=lambda: world.db.drop_table("nothing"))
    assert error.status_code == 404 and error.request_id in str(error), error
    assert "nothing" in str(error), error


@flow
def wrong_schema():
    """The client casts what is added itself, and leaves to the server what is merged."""
    table = new_table(3)
    other = pa.table({"id": pa.array([1], pa.int64()), "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))})
    fails(Exception, call=lambda: table.add(other))
    fails(Exception, call=lambda: table.merge_insert("id").when_not_matched_insert_all().execute(other))
    assert ids(table) == [0, 1, 2] and table.version == 1


@flow
def bad_names():
    for name in ("with space", "a$b", "a/b", "ä", ""):
        fails(Exception, call=lambda name=name: world.db.create_table(name, rows(0, 1)))
        fails(Exception, call=lambda name=name: world.db.open_table(name))
    good = "Good-name_1.0"
    world.db.create_table(good, rows(0, 1), mode="overwrite")
    assert ids(world.db.open_table(good)) == [0] and good in world.db.list_tables().tables
    fails(Exception, call=lambda: lancedb.connect("db://", api_key="k", host_override=world.base).list_tables())


@flow
def what_is_not_served_says_so():
    """The objects of LanceDB's enterprise edition: refused at once, as what is not there and not as a missing table."""
    db, count = counted()
    table = db.open_table(new_table(3).name)
    for what, call in {
        "diff": lambda: table.branches.diff("dev"),
        "cherry_pick": lambda: table.branches.cherry_pick("dev"),
        "functions": lambda: db.list_functions(),
        "secrets": lambda: db.list_secrets(),
        "secret": lambda: db.describe_secret("one"),
        "views": lambda: db.list_views(),
        "view": lambda: db.describe_view("one"),
        "materialized views": lambda: db.list_materialized_views(),
        "flush": lambda: table.flush_lsm(),
        "write statistics": lambda: table.get_lsm_stats(),
        "function errors": lambda: table.function_errors(),
        "computed columns": lambda: table.add_columns(computed={"twice": "id * 2"}),
        "pause": lambda: db.pause_job("one"),
        "merge by the log": lambda: (
            table.merge_insert("id").use_lsm(True).when_matched_update_all().execute(rows(0, 1))
        ),
        "search of the log": lambda: table.search().use_lsm(True).to_arrow(),
    }.items():
        before = count.requests
        error = fails(Exception, "501", call=call)
        assert count.requests - before <= 1, (what, count.requests - before, error)
    assert ids(table) == [0, 1, 2] and table.version == 1


@flow
def text_that_is_no_answer():
    """Texts with quotes, newlines and other scripts pass both ways."""
    odd = ["it's", 'a "quote"', "line\nbreak", "Ünïcödé 漢字 🦀", "back\\slash", "nul\x00byte", ""]
    table = world.db.create_table(new_name(), pa.table({"id": range(len(odd)), "text": odd}))
    assert [row["text"] for row in sorted(table.search().limit(None).to_list(), key=lambda row: row["id"])] == odd
    assert ids(table, "text = 'Ünïcödé 漢字 🦀'") == [3] and ids(table, "text = 'it''s'") == [0]
    table.update(where="id = 0", values={"text": odd[2]})
    assert table.count_rows("text = 'line\nbreak'") == 2
