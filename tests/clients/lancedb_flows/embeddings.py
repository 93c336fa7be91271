"""Embedding functions: kept in the schema's metadata, so a handle that opens the table finds them again."""

import numpy as np
from lancedb.embeddings import EmbeddingFunctionRegistry, TextEmbeddingFunction, register
from lancedb.index import FTS
from lancedb.pydantic import LanceModel, Vector

from . import world
from .world import flow, new_name

NAMES = ["north", "east", "south", "west"]


@register("compass-of-the-flows")
class Compass(TextEmbeddingFunction):
    """One number for each direction: how often it is named."""

    loudness: float = 1.0

    def generate_embeddings(self, texts):
        return [np.array([self.loudness * text.count(name) for name in NAMES], np.float32) for text in texts]

    def ndims(self):
        return len(NAMES)


@flow
def embedding_functions():
    compass = EmbeddingFunctionRegistry.get_instance().get("compass-of-the-flows").create(loudness=2.0)

    class Walk(LanceModel):
        text: str = compass.SourceField()
        vector: Vector(compass.ndims()) = compass.VectorField()

    made = world.db.create_table(new_name("walks"), schema=Walk)
    assert b"embedding_functions" in made.schema.metadata, made.schema.metadata
    table = world.same_database().open_table(made.name)
    config = table.embedding_functions["vector"]
    assert config.source_column == "text" and config.function.loudness == 2.0, config
    made.add([{"text": "go north north"}, {"text": "go south"}])
    table.add([{"text": "go west, then west, then west"}])
    assert table.search().where("text = 'go south'").to_list() == [{"text": "go south", "vector": [0.0, 0.0, 2.0, 0.0]}]
    found = table.search("south", query_type="vector", vector_column_name="vector").limit(1).to_pydantic(Walk)
    assert [walk.text for walk in found] == ["go south"]
    # A text question is made a vector by the table's own function.
    assert (
        table.search("west west west", vector_column_name="vector").limit(1).to_list()[0]["text"]
        == "go west, then west, then west"
    )
    table.create_index("text", config=FTS(), wait_timeout=world.WAIT)
    hybrid = table.search("south", query_type="hybrid", vector_column_name="vector").limit(1).to_list()
    assert hybrid[0]["text"] == "go south", hybrid
    table.update(where="text = 'go south'", values={"text": "stay"})
    assert b"embedding_functions" in world.same_database().open_table(made.name).schema.metadata
