// Real client: @lancedb/lancedb, LanceDB's TypeScript SDK, with connect("db://...", { hostOverride }).
//
// usage: node smoke.mjs http://127.0.0.1:2333
// needs: npm install in this folder, or the Node that scripts/client-node prints

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";

// require() and not import: only it looks in NODE_PATH, where scripts/client-node has the packages.
const require = createRequire(import.meta.url);
const lancedb = require("@lancedb/lancedb");
const arrow = require("apache-arrow");

const WAIT = 120;
const base = process.argv[2].replace(/\/+$/, "");
const connect = (name) => lancedb.connect(`db://${name}`, { apiKey: "sk_test", hostOverride: base });
const database = `node_${randomUUID().slice(0, 8)}`;
const db = await connect(database);

/** Rows whose every value follows from their id. */
const rows = (start, stop) =>
  Array.from({ length: stop - start }, (_, i) => start + i).map((id) => ({
    id,
    text: `word${id} ${id % 2 ? "odd" : "even"} number`,
    price: id / 2,
    vector: [id, id, id, id],
  }));

const point = (value) => [value, value, value, value];
const ids = async (query) => (await query.select(["id"]).toArray()).map((row) => Number(row.id));
const all = async (table, where) => {
  const query = where === undefined ? table.query() : table.query().where(where);
  return (await ids(query)).sort((a, b) => a - b);
};
const range = (start, stop) => rows(start, stop).map((row) => row.id);

async function create() {
  const table = await db.createTable("t", rows(0, 30));
  assert.deepEqual(await db.tableNames(), ["t"]);
  assert.deepEqual((await db.listTables()).tables, ["t"]);
  assert.equal(await table.version(), 1);
  assert.deepEqual((await table.schema()).fields.map((field) => field.name), ["id", "text", "price", "vector"]);
  assert.equal(await table.countRows(), 30);
  await assert.rejects(db.createTable("t", rows(0, 1)), /already exists/);
  const same = await db.createTable("t", rows(0, 1), { existOk: true });
  assert.equal(await same.countRows(), 30);
  const schema = new arrow.Schema([new arrow.Field("n", new arrow.Int32(), true)]);
  const empty = await db.createEmptyTable("empty", schema);
  assert.equal(await empty.countRows(), 0);
  await db.createTable("empty", [{ other: "x" }], { mode: "overwrite" });
  assert.deepEqual(await (await db.openTable("empty")).query().toArray().then((a) => a.map((r) => r.other)), ["x"]);
  await db.dropTable("empty");
  await assert.rejects((await connect(database)).openTable("empty"), /not found/);
  return table;
}

async function write(table) {
  assert.equal((await table.add(rows(30, 40))).version, 2);
  assert.deepEqual(await all(table), range(0, 40));
  const updated = await table.update({ where: "id < 2", values: { text: "it's new" } });
  assert.equal(updated.rowsUpdated, 2);
  assert.equal((await table.update({ where: "id = 2", valuesSql: { price: "price + 100" } })).rowsUpdated, 1);
  assert.deepEqual((await table.query().where("id IN (0, 2)").toArray()).map((r) => [r.text, r.price]).sort(), [
    ["it's new", 0],
    ["word2 even number", 101],
  ]);
  assert.equal((await table.delete("id >= 38")).numDeletedRows, 2);
  const merged = await table
    .mergeInsert("id")
    .whenMatchedUpdateAll()
    .whenNotMatchedInsertAll()
    .whenNotMatchedBySourceDelete({ where: "id = 37" })
    .execute(rows(0, 3).concat(rows(50, 52)));
  assert.deepEqual([merged.numInsertedRows, merged.numUpdatedRows, merged.numDeletedRows], [2, 3, 1]);
  assert.deepEqual(await all(table), range(0, 37).concat([50, 51]));
  assert.deepEqual((await table.query().where("id = 2").toArray()).map((r) => r.price), [1]);
}

async function search(table) {
  assert.deepEqual(await ids(table.search(point(20.2)).limit(3)), [20, 21, 19]);
  const [first] = await table.vectorSearch(point(5)).where("id > 10").limit(1).toArray();
  assert.equal(Number(first.id), 11);
  assert.equal(first._distance, 4 * 6 * 6);
  assert.deepEqual(await ids(table.query().where("id > 34").limit(2).offset(1)), [36, 50]);
  const computed = await table.query().where("id = 3").select({ twice: "id * 2" }).toArray();
  assert.deepEqual(computed.map((row) => Number(row.twice)), [6]);
  assert.equal((await table.takeOffsets([0, 4]).toArray()).length, 2);
  const several = await table.search(point(5)).addQueryVector(point(30)).limit(1).toArray();
  assert.deepEqual(several.map((row) => [row.query_index, Number(row.id)]).sort(), [[0, 5], [1, 30]]);
  assert.match(await table.query().where("id > 5").explainPlan(true), /id/);
}

async function index(table) {
  await table.createIndex("id", { config: lancedb.Index.btree(), waitTimeoutSeconds: WAIT });
  await table.createIndex("vector", {
    config: lancedb.Index.ivfFlat({ distanceType: "l2", numPartitions: 1 }),
    waitTimeoutSeconds: WAIT,
  });
  await table.createIndex("text", { config: lancedb.Index.fts({ withPosition: true }), waitTimeoutSeconds: WAIT });
  const kinds = (await table.listIndices()).map((one) => [one.name, one.indexType, one.columns.join()]).sort();
  assert.deepEqual(kinds, [
    ["id_idx", "BTree", "id"],
    ["text_idx", "FTS", "text"],
    ["vector_idx", "IvfFlat", "vector"],
  ]);
  const stats = await table.indexStats("vector_idx");
  assert.deepEqual([stats.numIndexedRows, stats.numUnindexedRows, stats.distanceType], [39, 0, "l2"]);
  assert.deepEqual(await all(table, "id = 7"), [7]);
  assert.deepEqual(await ids(table.search(point(7.1)).limit(1)), [7]);
  assert.deepEqual(await ids(table.search("word9", "fts", "text")), [9]);
  const phrase = new lancedb.PhraseQuery("word9 odd", "text");
  assert.deepEqual(await ids(table.query().fullTextSearch(phrase)), [9]);
  const hybrid = table
    .query()
    .nearestTo(point(9.4))
    .fullTextSearch("word10")
    .rerank(await lancedb.rerankers.RRFReranker.create())
    .limit(3);
  assert.equal(Number((await hybrid.toArray())[0].id), 10);
  const job = await table.createIndexAsync("price", { config: lancedb.Index.btree() });
  await job.wait();
  assert.ok((await table.listIndices()).some((one) => one.name === "price_idx"));
  await table.dropIndex("id_idx");
  await assert.rejects(table.dropIndex("id_idx"), /id_idx/);
  assert.equal((await table.listIndices()).length, 3);
}

async function versions(table) {
  const newest = await table.version();
  assert.equal((await table.listVersions()).length, newest);
  await (await table.tags()).create("made", 1);
  await table.checkout("made");
  assert.deepEqual(await all(table), range(0, 30));
  await table.checkoutLatest();
  assert.equal(await table.countRows(), 39);
  const branch = await (await table.branches()).create("dev");
  await branch.add(rows(90, 92));
  assert.deepEqual([await branch.countRows(), await table.countRows()], [41, 39]);
  await table.addColumns([{ name: "twice", valueSql: "id * 2" }]);
  assert.deepEqual((await table.query().where("id = 4").toArray()).map((row) => Number(row.twice)), [8]);
  await table.alterColumns([{ path: "twice", rename: "double" }]);
  await table.dropColumns(["double"]);
  await table.checkout(1);
  await table.restore();
  assert.deepEqual(await all(table), range(0, 30));
}

async function namespaces() {
  await db.createNamespace(["space"], { properties: { owner: "node" } });
  assert.deepEqual((await db.listNamespaces()).namespaces, ["space"]);
  assert.deepEqual((await db.describeNamespace(["space"])).properties, { owner: "node" });
  await db.createTable("inner", rows(0, 2), ["space"]);
  assert.deepEqual((await db.listTables(["space"])).tables, ["inner"]);
  await db.dropTable("inner", ["space"]);
  await db.dropNamespace(["space"]);
}

async function drop(table) {
  await db.renameTable("t", "u");
  assert.deepEqual((await db.listTables()).tables, ["u"]);
  const other = await connect(`${database}_other`);
  assert.deepEqual((await other.listTables()).tables, []);
  await db.dropTable("u");
  assert.deepEqual(await db.tableNames(), []);
  await assert.rejects(table.countRows(), /not found/);
}

const table = await create();
for (const step of [write, search, index, versions, namespaces, drop]) {
  await step(table);
  console.log(`${step.name}: ok`);
}
