"""Vector search."""

import numpy as np
import pyarrow as pa
from lancedb.index import IvfFlat, IvfPq

from . import world
from .world import WAIT, fails, flow, id_list, new_name, new_table, point, rows


@flow
def nearest():
    table = new_table(50)
    found = table.search(point(20.2)).limit(3).to_arrow()
    assert found["id"].to_pylist() == [20, 21, 19] and found.column_names[-1] == "_distance", found
    np.testing.assert_allclose(found["_distance"].to_numpy(), [0.16, 2.56, 5.76], rtol=1e-4)
    assert id_list(table.search(np.array(point(7)))).__len__() == 10
    assert id_list(table.search(point(7)).offset(1).limit(2)) in ([6, 8], [8, 6])
    assert table.search(point(3)).select(["text"]).limit(1).to_list() == [{"text": "word3 odd number", "_distance": 0}]
    computed = table.search(point(3)).select({"double": "id * 2"}).limit(1).to_list()
    assert computed == [{"double": 6, "_distance": 0}], computed
    with_ids = table.search(point(3)).with_row_id(True).limit(1).to_list()
    assert with_ids[0]["id"] == 3 and "_rowid" in with_ids[0], with_ids
    frame = table.search(point(3)).limit(2).to_pandas()
    assert frame["id"].tolist()[0] == 3


@flow
def distances():
    schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), 2))])
    table = world.db.create_table(
        new_name(),
        [{"id": 0, "vector": [1.0, 0.0]}, {"id": 1, "vector": [0.0, 5.0]}, {"id": 2, "vector": [3.0, 3.0]}],
        schema=schema,
    )
    by_kind = {
        kind: table.search([2.0, 0.1]).distance_type(kind).limit(3).to_arrow() for kind in ("l2", "cosine", "dot")
    }
    assert by_kind["l2"]["id"].to_pylist() == [0, 2, 1]
    assert by_kind["cosine"]["id"].to_pylist() == [0, 2, 1]
    assert by_kind["dot"]["id"].to_pylist() == [2, 0, 1]
    np.testing.assert_allclose(by_kind["l2"]["_distance"].to_numpy(), [1.01, 9.41, 28.01], rtol=1e-4)
    np.testing.assert_allclose(by_kind["dot"]["_distance"].to_numpy(), [-5.3, -1.0, 0.5], rtol=1e-4)


@flow
def filtered_before_and_after():
    table = new_table(50)
    near = table.search(point(20))
    assert id_list(near.where("id > 30").limit(2)) == [31, 32]
    assert id_list(table.search(point(20)).where("id > 30", prefilter=True).limit(2)) == [31, 32]
    # After the search: of the five nearest, 18 to 22, those that pass.
    after = table.search(point(20)).where("id > 20", prefilter=False).limit(5)
    assert sorted(id_list(after)) == [21, 22]
    assert id_list(table.search(point(20)).where("id > 90").limit(2)) == []


@flow
def ranges():
    table = new_table(50)
    # Squared: the row i has the distance 4 * (20 - i)².
    inside = table.search(point(20)).distance_range(lower_bound=4.0, upper_bound=17.0).limit(20)
    assert sorted(id_list(inside)) == [18, 19, 21, 22]
    assert sorted(id_list(table.search(point(20)).distance_range(upper_bound=4.5).limit(20))) == [19, 20, 21]
    far = table.search(point(0)).distance_range(lower_bound=4.0 * 47 * 47).limit(20)
    assert sorted(id_list(far)) == [47, 48, 49]


@flow
def several_queries_at_once():
    table = new_table(50)
    found = table.search([point(5), point(40.2)]).limit(2).to_arrow()
    index = found["query_index"]
    assert index.type == pa.int32(), found.schema
    answers = {n: [] for n in (0, 1)}
    for n, id in zip(index.to_pylist(), found["id"].to_pylist(), strict=True):
        answers[n].append(id)
    assert answers[0][0] == 5 and len(answers[0]) == 2 and answers[1] == [40, 41], answers
    filtered = table.search([point(5), point(40.2)]).where("id > 20").select(["id"]).limit(1).to_arrow()
    assert sorted(zip(filtered["query_index"].to_pylist(), filtered["id"].to_pylist(), strict=True)) == [
        (0, 21),
        (1, 40),
    ]


@flow
def several_vector_columns():
    both = rows(0, 10)
    other = [[float(9 - i)] * 2 for i in range(10)]
    both = both.append_column("other", pa.array(other, pa.list_(pa.float32(), 2)))
    table = world.db.create_table(new_name(), both)
    assert id_list(table.search(point(2), vector_column_name="vector").limit(1)) == [2]
    assert id_list(table.search([2.0, 2.0], vector_column_name="other").limit(1)) == [7]
    # A vector that fits only one of them names it.
    fails(Exception, call=lambda: table.search([1.0] * 3, vector_column_name="other").to_arrow())


@flow
def multivector_column():
    """Each row has several vectors, and is as near as they say together."""
    kind = pa.list_(pa.list_(pa.float32(), 2))
    vectors = [[[1.0, 0.0], [0.9, 0.1]], [[0.0, 1.0], [0.1, 0.9]], [[1.0, 0.0], [0.0, 1.0]]]
    table = world.db.create_table(
        new_name(), pa.table({"id": pa.array([0, 1, 2], pa.int64()), "vector": pa.array(vectors, kind)})
    )
    assert table.schema.field("vector").type == kind
    assert id_list(table.search([1.0, 0.0]).distance_type("cosine").limit(2))[0] in (0, 2)
    assert id_list(table.search([[1.0, 0.0], [0.0, 1.0]]).distance_type("cosine").limit(1)) == [2]
    assert id_list(table.search([[1.0, 0.0], [0.9, 0.1]]).distance_type("cosine").limit(1)) == [0]
    many = [[[float(i % 7 + 1), float(i % 5)], [float(i % 3), float(i % 11 + 1)]] for i in range(300)]
    table.add(pa.table({"id": pa.array(range(3, 303), pa.int64()), "vector": pa.array(many, kind)}))
    table.create_index(
        "vector", config=IvfPq(distance_type="cosine", num_partitions=2, num_sub_vectors=1), wait_timeout=WAIT
    )
    assert len(id_list(table.search([[1.0, 0.0], [0.0, 1.0]]).distance_type("cosine").nprobes(2).limit(5))) == 5


@flow
def knobs_of_an_index():
    table = new_table(300)
    table.create_index("vector", config=IvfFlat(distance_type="l2", num_partitions=4), wait_timeout=WAIT)
    assert id_list(table.search(point(100.2)).nprobes(4).limit(2)) == [100, 101]
    assert id_list(table.search(point(100.2)).minimum_nprobes(4).maximum_nprobes(4).limit(2)) == [100, 101]
    assert id_list(table.search(point(100.2)).refine_factor(3).nprobes(4).limit(2)) == [100, 101]
    assert id_list(table.search(point(100.2)).bypass_vector_index().limit(2)) == [100, 101]
    table.add(rows(300, 302))
    # Rows that came after the index: found, unless the search shall be fast.
    assert id_list(table.search(point(301)).nprobes(4).limit(1)) == [301]
    assert id_list(table.search(point(301), fast_search=True).nprobes(4).limit(1)) == [299]
    assert "ANN" in table.search(point(1)).explain_plan()
    assert "ANN" not in table.search(point(1)).bypass_vector_index().explain_plan()


@flow
def wrong_vectors():
    table = new_table(5)
    fails(Exception, call=lambda: table.search([1.0, 2.0]).to_arrow())
    fails(Exception, call=lambda: table.search(point(1), vector_column_name="text").to_arrow())
    fails(Exception, call=lambda: table.search(point(1), vector_column_name="nothing").to_arrow())
    assert id_list(table.search(point(1)).limit(1)) == [1]
