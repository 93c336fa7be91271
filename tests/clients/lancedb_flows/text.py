"""Full text search, and hybrid search with a reranker on the client's side."""

import pyarrow as pa
from lancedb.index import FTS
from lancedb.query import (
    BooleanQuery,
    BoostQuery,
    DocumentGranularity,
    FullTextOperator,
    MatchQuery,
    MultiMatchQuery,
    Occur,
    PhraseQuery,
)
from lancedb.rerankers import LinearCombinationReranker, RRFReranker

from . import world
from .world import WAIT, fails, flow, id_list, new_name, new_table, point

BOOKS = [
    ("The old man and the sea", "an old fisherman and a marlin"),
    ("Old Possum's book of cats", "poems on cats"),
    ("The sea wolf", "a ship and her captain"),
    ("Twenty thousand leagues", "a voyage under the sea"),
    ("Crime", "a student and an old pawnbroker"),
]


def books():
    titles, abouts = zip(*BOOKS, strict=True)
    vectors = pa.array([point(i) for i in range(len(BOOKS))], pa.list_(pa.float32(), 4))
    data = pa.table({"id": range(len(BOOKS)), "title": titles, "about": abouts, "vector": vectors})
    table = world.db.create_table(new_name("books"), data)
    for column in ("title", "about"):
        table.create_index(column, config=FTS(with_position=True, stem=True), wait_timeout=WAIT)
    return table


def search(table, query, **options):
    return table.search(query, query_type="fts", **options)


@flow
def words():
    table = books()
    found = search(table, "cats", fts_columns="title").to_arrow()
    assert found["id"].to_pylist() == [1] and found["_score"].to_pylist()[0] > 0, found
    assert sorted(id_list(search(table, "sea", fts_columns=["title"]))) == [0, 2]
    # Without a column every column with an index is searched.
    assert sorted(id_list(search(table, "sea"))) == [0, 2, 3]
    assert sorted(id_list(search(table, "wolf crime", fts_columns="title"))) == [2, 4]
    assert id_list(search(table, "nowhere")) == []
    assert len(id_list(search(table, "sea").limit(2))) == 2
    assert id_list(search(table, "sea").where("id > 2")) == [3]
    assert id_list(search(table, "sea").where("id > 2", prefilter=False)) == [3]
    assert search(table, "crime", fts_columns="title").select(["title"]).to_list()[0]["title"] == "Crime"
    assert "_rowid" in search(table, "crime").with_row_id(True).to_arrow().column_names
    assert sorted(id_list(table.search("sea"))) == [0, 2, 3]
    assert "Match" in search(table, "sea", fts_columns="title").explain_plan()


@flow
def structured_text_queries():
    table = books()

    def found(query):
        return sorted(id_list(search(table, query).limit(10)))

    assert found(MatchQuery("old sea", "title")) == [0, 1, 2]
    assert found(MatchQuery("old sea", "title", operator=FullTextOperator.AND)) == [0]
    assert found(MatchQuery("wolv", "title")) == []
    assert found(MatchQuery("walf", "title", fuzziness=1)) == [2]
    assert found(MatchQuery("wolx", "title", fuzziness=1, prefix_length=3, max_expansions=10)) == [2]
    assert found(PhraseQuery("old man", "title")) == [0]
    assert found(PhraseQuery("man old", "title")) == []
    assert found(PhraseQuery("old sea", "title", slop=4)) == [0]
    assert found(MultiMatchQuery("sea", ["title", "about"])) == [0, 2, 3]
    assert found(MultiMatchQuery("sea", ["title", "about"], boosts=[1.0, 2.0])) == [0, 2, 3]
    assert found(MatchQuery("sea", "title") & MatchQuery("old", "about")) == [0]
    assert found(MatchQuery("cats", "title") | MatchQuery("ship", "about")) == [1, 2]
    no_wolf = BooleanQuery([(Occur.MUST, MatchQuery("sea", "title")), (Occur.MUST_NOT, MatchQuery("wolf", "title"))])
    assert found(no_wolf) == [0]
    boost = BoostQuery(MatchQuery("sea", "title"), MatchQuery("wolf", "title"), negative_boost=0.1)
    assert id_list(search(table, boost)) == [0, 2], "what is unwanted comes last"
    assert id_list(search(table, MatchQuery("sea", "title", boost=3.0)).where("id = 2")) == [2]


@flow
def text_with_other_tokens():
    table = world.db.create_table(new_name(), [{"id": 0, "code": "Müller-LÜDENSCHEID"}, {"id": 1, "code": "xyz"}])
    table.create_index(
        "code", config=FTS(base_tokenizer="ngram", ngram_min_length=3, ngram_max_length=5), wait_timeout=WAIT
    )
    assert id_list(search(table, "den")) == [0]
    table.create_index(
        "code",
        config=FTS(
            base_tokenizer="whitespace", stem=False, remove_stop_words=False, ascii_folding=True, lower_case=True
        ),
        wait_timeout=WAIT,
    )
    assert id_list(search(table, "muller-ludenscheid")) == [0]
    assert [token.text for token in table.tokenize("Ein Wort", column="code")] == ["ein", "wort"]


@flow
def text_added_later():
    table = books()
    table.add([{"id": 9, "title": "A later sea", "about": "added", "vector": point(9)}])
    assert sorted(id_list(search(table, "sea", fts_columns="title"))) == [0, 2, 9]


@flow
def text_without_an_index():
    table = new_table(3)
    fails(Exception, call=lambda: search(table, "word1").to_arrow())
    assert table.count_rows() == 3


@flow
def hybrid():
    table = books()

    def query():
        return table.search(query_type="hybrid", fts_columns="title").vector(point(3)).text("sea")

    for reranker in (RRFReranker(), LinearCombinationReranker(weight=0.7)):
        found = query().rerank(reranker).limit(4).to_arrow()
        names = found.column_names
        assert "_relevance_score" in names and "_rowid" not in names, names
        scores = found["_relevance_score"].to_pylist()
        assert scores == sorted(scores, reverse=True), scores
        assert found["id"].to_pylist()[0] == 2, found["id"]
    found = query().rerank(RRFReranker(return_score="all")).limit(5).to_arrow()
    assert {"_score", "_distance", "_relevance_score"} <= set(found.column_names), found.column_names
    assert sorted(found["id"].to_pylist()) == [0, 1, 2, 3, 4]
    by_id = dict(zip(found["id"].to_pylist(), found["_distance"].to_pylist(), strict=True))
    assert by_id[3] == 0 and by_id[2] == 4, by_id
    assert id_list(query().rerank(RRFReranker()).where("id < 2").limit(1)) in ([0], [1])
    assert "_rowid" in query().with_row_id(True).limit(2).to_arrow().column_names
    kept = table.search(query_type="hybrid", fts_columns="title").vector(point(3)).text("sea").select(["id"]).limit(2)
    assert kept.to_arrow()["id"].to_pylist()[0] == 2
    nothing = table.search(query_type="hybrid", fts_columns="title").vector(point(3)).text("sea").where("id > 90")
    assert nothing.to_arrow().num_rows == 0
    assert "Vector" in query().explain_plan()


@flow
def text_in_the_elements_of_a_list():
    """An index whose documents are the elements of a list, and not the whole rows."""
    notes = [["red car", "blue sky"], ["red sky"], ["car"], []]
    data = pa.table({"id": range(4), "notes": pa.array(notes, pa.list_(pa.string()))})
    table = world.db.create_table(new_name("notes"), data)
    elements = DocumentGranularity.LIST_ELEMENT
    # With a name: by default Lance calls it notes_list_element_idx, and this client would wait for notes_idx.
    config = FTS(document_granularity=elements, with_position=True)
    table.create_index("notes", config=config, name="elements", wait_timeout=WAIT)

    def found(query):
        return sorted(set(id_list(search(table, query).limit(10))))

    assert found(MatchQuery("red", "notes", document_granularity=elements)) == [0, 1]
    both = MatchQuery("red sky", "notes", operator=FullTextOperator.AND, document_granularity=elements)
    assert found(both) == [1], "the words are in one element"
    assert found(PhraseQuery("blue sky", "notes", document_granularity=elements)) == [0]
