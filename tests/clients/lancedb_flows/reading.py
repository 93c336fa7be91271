"""Rows read without a vector: scans, filters, projections, order, take, head, plans."""

import datetime

import pyarrow as pa
from lancedb.expr import col, lit
from lancedb.query import ColumnOrdering

from .world import fails, flow, id_list, ids, new_table, rows


@flow
def scan():
    table = new_table(30)
    assert table.search().limit(3).to_list() == rows(0, 3).to_pylist()
    # Without a limit there is none: the client sends the largest number there is.
    assert sorted(id_list(table.search())) == list(range(30))
    assert sorted(id_list(table.search().limit(None))) == list(range(30))
    assert id_list(table.search().offset(4).limit(3)) == [4, 5, 6]
    assert sorted(id_list(table.search().offset(27))) == [27, 28, 29]
    assert id_list(table.search().offset(100)) == []
    batches = list(table.search().to_batches(7))
    assert sum(batch.num_rows for batch in batches) == 30
    frame = table.search().where("id = 3").to_pandas()
    assert frame["text"].tolist() == ["word3 odd number"]


@flow
def many_rows():
    """More rows than one batch of Arrow has."""
    table = new_table(10)
    count = 100_000
    table.add(pa.table({"id": pa.array(range(10, count), pa.int64())}))
    assert ids(table) == list(range(count))


@flow
def filters():
    table = new_table(20)
    assert ids(table, "id > 16") == [17, 18, 19]
    assert ids(table, "text LIKE '%odd%' AND price < 3") == [1, 3, 5]
    assert ids(table, "id IN (1, 3, 99) OR id = 5") == [1, 3, 5]
    assert ids(table, "text = 'it''s none'") == []
    assert ids(table, col("id") > lit(17)) == [18, 19]
    assert ids(table, (col("id") == 3) | (col("text").contains("word4"))) == [3, 4]
    assert ids(table, "price IS NULL") == []
    assert sorted(id_list(table.search().where("id > 5").where("id < 8").limit(None))) == [6, 7]


@flow
def projections():
    table = new_table(5)
    found = table.search().select(["price", "id"]).where("id = 4").to_arrow()
    assert found.to_pydict() == {"price": [2.0], "id": [4]} and found.column_names == ["price", "id"], found
    computed = table.search().select({"twice": "id * 2", "shout": "upper(text)", "id": "id"}).where("id = 3").to_list()
    assert computed == [{"twice": 6, "shout": "WORD3 ODD NUMBER", "id": 3}], computed
    computed = table.search().select({"cost": col("price") * lit(10.0)}).where("id = 3").to_list()
    assert computed == [{"cost": 15.0}], computed
    with_ids = table.search().with_row_id(True).select(["id"]).to_arrow()
    assert with_ids["_rowid"].type == pa.uint64() and len(set(with_ids["_rowid"].to_pylist())) == 5
    assert table.search().select(["id"]).output_schema() == pa.schema([("id", pa.int64())])


@flow
def order():
    table = new_table(6)
    table.add(pa.table({"id": pa.array([6], pa.int64())}))

    def ordered(*by, **options):
        orderings = [ColumnOrdering(column_name=name, ascending=ascending, **options) for name, ascending in by]
        return id_list(table.search().order_by(orderings).limit(4))

    assert ordered(("id", False)) == [6, 5, 4, 3]
    assert ordered(("price", True), nulls_first=True) == [6, 0, 1, 2]
    assert ordered(("price", False)) == [5, 4, 3, 2]
    table.update(values={"price": 1.0}, where="id < 3")
    assert ordered(("price", True), ("id", False)) == [2, 1, 0, 3]
    page = table.search().order_by([ColumnOrdering(column_name="id", ascending=False)]).offset(2).limit(2)
    assert id_list(page) == [4, 3]


@flow
def head_and_count():
    table = new_table(20)
    assert table.head(3).to_pylist() == rows(0, 3).to_pylist()
    assert table.head().num_rows == 5 and table.head(100).num_rows == 20
    assert table.count_rows() == 20 and table.count_rows("id < 4") == 4 and table.count_rows("id < 0") == 0


@flow
def take():
    table = new_table(20)
    table.add(rows(20, 30))
    table.delete("id = 4")
    assert sorted(id_list(table.take_offsets([0, 4, 28]))) == [0, 5, 29]
    found = table.take_offsets([2]).select(["text"]).to_list()
    assert found == [{"text": "word2 even number"}], found
    row_ids = table.search().where("id IN (3, 25)").with_row_id(True).select(["id"]).to_arrow()
    taken = table.take_row_ids(row_ids["_rowid"].to_pylist()).to_arrow()
    assert sorted(taken["id"].to_pylist()) == [3, 25]
    taken = table.take_row_ids(row_ids["_rowid"].to_pylist()[:1]).with_row_id().select(["id"]).to_arrow()
    assert taken["_rowid"].to_pylist() == row_ids["_rowid"].to_pylist()[:1], taken
    assert table.take_offsets([3]).to_pandas()["id"].tolist() == [3]


@flow
def plans():
    table = new_table(20)
    plan = table.search().where("id > 5").select(["id"]).explain_plan(verbose=True)
    assert "id" in plan and len(plan.strip().splitlines()) >= 1 and not plan.startswith('"'), plan
    plan = table.search([1.0] * 4).limit(2).explain_plan()
    assert "KNN" in plan, plan
    measured = table.search().where("id > 5").analyze_plan()
    assert "metrics=" in measured and "output_rows" in measured, measured
    measured = table.search([1.0] * 4).limit(2).analyze_plan()
    assert "KNN" in measured and "output_rows" in measured, measured
    assert "output_rows" in table.search().where("id > 5").analyze_plan(distributed_metrics="full")


@flow
def time_allowed():
    """A time limit is for the server to keep, and one that is long enough changes nothing."""
    table = new_table(5)
    assert table.search().limit(2).to_arrow(timeout=datetime.timedelta(seconds=60)).num_rows == 2
    fails(Exception, call=lambda: table.search().to_arrow(timeout=datetime.timedelta(microseconds=1)))
    assert ids(table) == [0, 1, 2, 3, 4]
