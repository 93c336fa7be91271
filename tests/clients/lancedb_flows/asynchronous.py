"""The asynchronous client, in one short flow."""

import asyncio

import lancedb
import pyarrow as pa
from lancedb.index import FTS, BTree
from lancedb.rerankers import RRFReranker

from . import world
from .world import WAIT, flow, new_name, point, rows


async def found(query):
    return (await query.to_arrow())["id"].to_pylist()


async def work(db):
    name = new_name("later")
    table = await db.create_table(name, rows(0, 40))
    assert await table.count_rows() == 40 and await table.version() == 1
    assert (await table.schema()).names == ["id", "text", "price", "vector"]
    assert name in (await db.list_tables()).tables
    await table.add(rows(40, 50))
    await asyncio.gather(*(table.add(rows(n, n + 1)) for n in range(100, 108)))
    assert await table.count_rows() == 58
    assert await found(table.query().nearest_to(point(20.2)).limit(2)) == [20, 21]
    assert await found(table.query().where("id > 105").select(["id"])) in ([106, 107], [107, 106])
    assert sorted(await found(table.query().where("id = 3 OR id = 5"))) == [3, 5]
    await table.create_index("text", config=FTS(), wait_timeout=WAIT)
    await table.create_index("id", config=BTree(), wait_timeout=WAIT)
    assert sorted(index.name for index in await table.list_indices()) == ["id_idx", "text_idx"]
    assert await found(table.query().nearest_to_text("word7")) == [7]
    hybrid = table.query().nearest_to(point(9.4)).nearest_to_text("word10").rerank(RRFReranker()).limit(3)
    best = await hybrid.to_arrow()
    assert best["id"].to_pylist()[0] == 10 and "_relevance_score" in best.column_names, best
    batches = [batch async for batch in await table.query().where("id < 10").to_batches()]
    assert pa.Table.from_batches(batches).num_rows == 10
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    done = await merge.execute(rows(49, 52))
    assert (done.num_updated_rows, done.num_inserted_rows) == (1, 2), done
    assert (await table.update({"price": -1.0}, where="id = 1")).rows_updated == 1
    assert (await table.delete("id >= 100")).num_deleted_rows == 8
    assert await table.count_rows("price = -1") == 1
    assert sorted(await found(table.take_offsets([0, 2]))) and (await table.head(2)).num_rows == 2
    await table.tags.create("here", await table.version())
    await table.checkout("here")
    assert await table.count_rows() == 52
    await table.checkout_latest()
    await table.drop_index("id_idx")
    await db.rename_table(name, name + "_2")
    await db.drop_table(name + "_2")
    assert name + "_2" not in (await db.list_tables()).tables


@flow
def asynchronous():
    async def run():
        db = await lancedb.connect_async(f"db://{world.name}", api_key="sk_test", host_override=world.base)
        await work(db)

    asyncio.run(run())
