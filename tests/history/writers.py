"""Clients that change tables, each by all roads that there are, at random but from a seed."""

import json
import random
import threading
import time
import uuid

import pyarrow as pa
from lance.fragment import write_fragments

import staging
from checker import column_of
from client import SCHEMA, Client, Request, arrow_request, json_request, rows
from record import ACKNOWLEDGED, Effect, Operation, now

#: Fragments of the table that gets columns; beyond that it is replaced, or each column would cost more than the last.
WIDE_FRAGMENTS = 8
COUNTERS = 4


class World:
    """What all writers share: the tables, and what the server can do."""

    def __init__(self, fleet, history, namespace, keyed, options):
        self.fleet = fleet
        self.history = history
        self.namespace = namespace
        #: The operationIds that take a key; with `everywhere`, all of them.
        self.keyed = keyed
        self.options = options
        self.served = set()
        #: How long a client waits for an answer.
        self.answer_seconds = options.answer_seconds
        self.locations = {}
        #: The last version of a table that anybody was told; it may be stale.
        self.newest = {}
        self.fresh = None
        self.aftercare = []
        #: What was sent with a key, to be sent again.
        self.keyed_requests = []
        self._guard = threading.Lock()

    def path(self, table, rest):
        return f"/v1/table/{self.namespace}${table}/{rest}"

    def takes_key(self, operation_id):
        return self.options.keys_everywhere or operation_id in self.keyed

    def look_after(self, client, operation, request):
        """Goes on with what has a key and an unknown outcome, while its writer does other things."""

        def settle():
            client.perform(operation, request, self.options.retry_seconds)

        thread = threading.Thread(target=settle, daemon=True)
        with self._guard:
            self.aftercare.append(thread)
        thread.start()


class Writer:
    def __init__(self, world, name, seed, tables):
        self.world = world
        self.name = name
        self.choice = random.Random(seed)
        self.client = Client(world.fleet, world.history, random.Random(seed + 1), world.answer_seconds)
        self.tables = tables
        self.sequence = 0
        #: How often an operation that takes a key gets one.
        self.key_chance = 0.6
        #: Tokens of own rows that are certainly there, by table: what may be changed or deleted.
        self.mine = {}

    def work(self, until):
        while now() < until:
            self.step()
            if self.choice.random() < 0.2:
                time.sleep(self.choice.uniform(0, 0.05))

    def step(self):
        table = self.choice.choices(*zip(*self.tables.items()))[0]
        if table == "counters":
            return self.count_up()
        if table == "pair":
            return self.commit_to_many()
        if table == "wide":
            return self.choice.choice([self.add_column, self.add_column, lambda: self.append("wide", SIMPLE)])()
        if table == "replaced":
            return self.choice.choice([self.replace, lambda: self.append("replaced", SIMPLE + QUIET)])()
        if table == "keyed":
            return self.append_with_key()
        if table == "fresh":
            return self.append_to_fresh()
        action = self.choice.choices(["append", "update", "delete", "merge"], [70, 10, 8, 12])[0]
        if action == "append" or not self.mine.get(table):
            return self.append(table, ROADS + QUIET if table == "shared_too" else ROADS)
        return {"update": self.update, "delete": self.delete, "merge": self.merge}[action](table)

    def operation(self, road, effects, operation_id=None):
        """Notes an operation before anything of it is sent."""
        self.sequence += 1
        token = f"{self.name}.{self.sequence}"
        for effect in effects.values():
            if effect.column:
                effect.column = column_of(token)
        operation = Operation(token, self.name, road, effects)
        keyed = operation_id is not None and self.world.takes_key(operation_id)
        if keyed and self.choice.random() < self.key_chance:
            operation.key = f"{token}-{uuid.UUID(int=self.choice.getrandbits(128))}"
        return self.world.history.begin(operation)

    def send(self, operation, request):
        """Sends what makes the change. Afterwards the key may be used again, at any server, for the same answer."""
        if operation.key and "Idempotency-Key" not in request.headers and "x-request-id" not in request.headers:
            request.headers["Idempotency-Key"] = operation.key
        if operation.key:
            self.world.keyed_requests.append((operation, request))
        twin = self.twin(operation, request)
        attempt = self.client.perform(operation, request)
        if twin is not None:
            twin.join()
        for table, version in operation.versions().items():
            self.world.newest[table] = max(self.world.newest.get(table, 0), version or 0)
        if attempt.unknown and operation.key:
            self.world.look_after(self.client, operation, request)
        elif operation.key and attempt.acknowledged and self.choice.random() < 0.2:
            again, _ = self.client.send(request)
            self.world.history.attempt(operation, again)
        return operation.outcome == ACKNOWLEDGED

    def twin(self, operation, request):
        """Now and then the same request goes out twice at once, as after a proxy's retry."""
        if operation.key is None or self.choice.random() > 0.1:
            return None

        def send():
            attempt, _ = self.client.send(request)
            self.world.history.attempt(operation, attempt)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        return thread

    def append(self, table, roads):
        road = self.choice.choice(roads)
        count = self.choice.randint(1, 5)
        landed = road(self, table, count)
        if landed is not None and table.startswith("shared"):
            self.mine.setdefault(table, []).append((landed.token, len(landed.effects[table].inserts)))

    def new_rows(self, operation, count):
        return rows([(operation.token, part, 0, operation.token) for part in range(count)])

    def append_to_fresh(self):
        """The first versions of a table that was only declared, which several make at once."""
        if self.world.fresh is None or self.choice.random() < 0.25:
            name = f"fresh_{self.name}_{self.sequence}"
            reply = self.client.ask(json_request(self.world.path(name, "declare"), {}))
            if reply is not None:
                self.world.locations[name] = reply.json()["location"]
                self.world.fresh = name
        if self.world.fresh is not None:
            self.append(self.world.fresh, FIRST)

    def append_with_key(self):
        """Nothing but commits that are retried: the most that a kill can catch between the put and its record."""
        self.key_chance = 1.0
        self.append("keyed", [committed_late, committed_late, committed])

    def upload(self, operation, table, data, mode=None):
        """Answers the upload, or None after a note of why there is none."""
        query = f"?mode={mode}" if mode else ""
        attempt, reply = self.client.send(arrow_request(self.world.path(table, "fragments" + query), data))
        if attempt.acknowledged:
            return reply.json()
        operation.notes.append(f"upload to {table} {attempt.shown()}")
        return None

    def commit_body(self, change, upload, by_fragments):
        body = {"operation": change, "read_version": upload["read_version"]}
        if by_fragments:
            body["fragments"] = upload["fragments"]
            body["schema"] = upload["schema"]
        else:
            body["uploads"] = [upload["upload_id"]]
        if self.choice.random() < 0.2:
            body["on_conflict"] = "fail"
        if self.choice.random() < 0.3:
            body["coalesce"] = self.choice.choice([True, False])
        return body

    def replace(self):
        table, count = "replaced", self.choice.randint(1, 5)
        effect = {table: Effect(inserts=dict.fromkeys(range(count), 0), replaces=True)}
        if self.choice.random() < 0.4:
            operation = self.operation("insert to overwrite", effect, "InsertIntoTable")
            data = self.new_rows(operation, count)
            self.send(operation, arrow_request(self.world.path(table, "insert?mode=Overwrite"), data))
        else:
            self.overwrite(table, effect, count)

    def overwrite(self, table, effect, count):
        operation = self.operation("commit to overwrite", effect, "CommitTable")
        upload = self.upload(operation, table, self.new_rows(operation, count), "overwrite")
        if upload is not None:
            body = self.commit_body("overwrite", upload, self.choice.random() < 0.5)
            self.send(operation, json_request(self.world.path(table, "commit"), body))

    def add_column(self):
        """A column, uploaded fragment by fragment, and merged by one commit."""
        attempt, reply = self.client.send(Request(self.world.path("wide", "fragments"), None, method="GET"))
        if not attempt.acknowledged:
            return
        listed = reply.json()
        if len(listed["fragments"]) > WIDE_FRAGMENTS or len(listed["schema"]["fields"]) > 20:
            count = self.choice.randint(1, 3)
            effect = {"wide": Effect(inserts=dict.fromkeys(range(count), 0), replaces=True)}
            return self.overwrite("wide", effect, count)
        operation = self.operation("merge of columns", {"wide": Effect(column="yes")}, "CommitTable")
        column = operation.effects["wide"].column
        uploads = []
        for fragment in listed["fragments"]:
            data = pa.table({column: pa.array([1] * fragment["physical_rows"], pa.int32())})
            path = self.world.path("wide", f"fragments/{fragment['id']}/columns?read_version={listed['version']}")
            attempt, reply = self.client.send(arrow_request(path, data))
            if not attempt.acknowledged:
                return operation.notes.append(f"upload of a column {attempt.shown()}")
            uploads.append(reply.json()["upload_id"])
        body = {"operation": "merge", "read_version": listed["version"], "uploads": uploads}
        self.send(operation, json_request(self.world.path("wide", "commit"), body))

    def count_up(self):
        row = ("counters", self.choice.randrange(COUNTERS))
        self.change("counters", {row: None}, f"op = 'counters' AND part = {row[1]}")

    def update(self, table):
        token, count = self.choice.choice(self.mine[table])
        changes = {(token, part): None for part in range(count)}
        if not self.change(table, changes, f"op = '{token}'"):
            self.mine[table].remove((token, count))

    def change(self, table, changes, predicate):
        slash = self.choice.choice(["", "/"])
        road = "update of LanceDB" if slash else "update"
        operation = self.operation(road, {table: Effect(changes=changes)}, in_dialect("UpdateTable", slash))
        updates = [["x", "x + 1"], ["last", f"'{operation.token}'"]]
        body = {"predicate": predicate, "updates": updates}
        request = json_request(self.world.path(table, "update" + slash), body)
        return self.send(operation, self.identified(operation, request, slash))

    def identified(self, operation, request, slash):
        """The key of LanceDB's own clients is the id of their request, for what they send again under the same."""
        if slash and operation.key and self.choice.random() < 0.5:
            request.headers["x-request-id"] = operation.key[-36:]
        return request

    def delete(self, table):
        token, count = self.mine[table].pop(self.choice.randrange(len(self.mine[table])))
        slash = self.choice.choice(["", "/"])
        road = "delete of LanceDB" if slash else "delete"
        operation = self.operation(road, {table: Effect(removes=token)}, in_dialect("DeleteFromTable", slash))
        request = json_request(self.world.path(table, "delete" + slash), {"predicate": f"op = '{token}'"})
        self.send(operation, self.identified(operation, request, slash))

    def merge(self, table):
        token, count = self.choice.choice(self.mine[table])
        new, x = self.choice.randint(0, 2), 1000 * self.sequence
        changes = {(token, part): x for part in range(count)}
        effect = Effect(inserts=dict.fromkeys(range(new), x), changes=changes)
        slash = self.choice.choice(["", "/"])
        road = "merge_insert of LanceDB" if slash else "merge_insert"
        operation = self.operation(road, {table: effect}, in_dialect("MergeInsertIntoTable", slash))
        data = [(op, part, x, operation.token) for op, part in changes]
        data += [(operation.token, part, x, operation.token) for part in range(new)]
        query = "?on=op&on=part&when_matched_update_all=true&when_not_matched_insert_all=true"
        request = arrow_request(self.world.path(table, f"merge_insert{slash}{query}"), rows(data))
        if not self.send(operation, request):
            self.mine[table].remove((token, count))

    def commit_to_many(self):
        roads = [road for road, needs in MANY if needs in self.world.served]
        tables = ["left", "right"]
        self.choice.shuffle(tables)
        if roads and self.choice.random() < 0.8:
            self.choice.choice(roads)(self, tables)
        else:
            # Others at one of the two, so that commits to both meet somebody.
            self.append(self.choice.choice(tables), SIMPLE + QUIET)


def inserted(writer, table, count):
    slash = writer.choice.choice(["", "/"])
    road = "insert of LanceDB" if slash else "insert"
    operation = writer.operation(road, effect_of(table, count), in_dialect("InsertIntoTable", slash))
    request = arrow_request(writer.world.path(table, "insert" + slash), writer.new_rows(operation, count))
    return operation if writer.send(operation, request) else None


def committed(writer, table, count):
    by_fragments = writer.choice.random() < 0.5
    road = "commit of fragments" if by_fragments else "commit of an upload"
    operation = writer.operation(road, effect_of(table, count), "CommitTable")
    upload = writer.upload(operation, table, writer.new_rows(operation, count))
    if upload is None:
        return None
    body = writer.commit_body("append", upload, by_fragments)
    request = json_request(writer.world.path(table, "commit"), body)
    return operation if writer.send(operation, request) else None


def committed_late(writer, table, count):
    """Fragments of pylance's making, against a version that others have left behind."""
    operation = writer.operation("commit of pylance's fragments", effect_of(table, count), "CommitTable")
    data = writer.new_rows(operation, count)
    fragments = [fragment.to_json() for fragment in write_fragments(data, writer.world.locations[table], schema=SCHEMA)]
    fragments = [json.loads(fragment) if isinstance(fragment, str) else fragment for fragment in fragments]
    newest = writer.world.newest.get(table, 0)
    body = {"operation": "append", "read_version": max(0, newest - writer.choice.randint(0, 3)), "fragments": fragments}
    if writer.choice.random() < 0.15:
        body["on_conflict"] = "fail"
    request = json_request(writer.world.path(table, "commit"), body)
    return operation if writer.send(operation, request) else None


def in_parts(writer, table, count):
    """A multipart write. Its completion may be sent as often as one likes: the session is its key."""
    parts = writer.choice.randint(1, 3)
    operation = writer.operation("multipart write", effect_of(table, count * parts))
    reply = writer.client.ask(Request(writer.world.path(table, "multipart_write/create"), b""))
    if reply is None:
        return None
    session = reply.json()["upload_id"]
    for part in range(parts):
        data = rows([(operation.token, number, 0, operation.token) for number in range(part * count, (part + 1) * count)])
        path = writer.world.path(table, f"insert/?upload_id={session}&upload_part_id=part-{part}")
        # The same part again takes the place of the first.
        for _ in range(writer.choice.choice([1, 1, 2])):
            attempt, _ = writer.client.send(arrow_request(path, data))
            if not attempt.acknowledged:
                operation.notes.append(f"part {part} {attempt.shown()}")
                return None
    if writer.choice.random() < 0.1:
        operation.notes.append("given up")
        writer.client.ask(Request(writer.world.path(table, f"multipart_write/abort?upload_id={session}"), b""), 1)
        return None
    operation.key = session
    request = Request(writer.world.path(table, f"multipart_write/complete?upload_id={session}"), b"")
    request.headers["x-request-id"] = str(uuid.UUID(int=writer.choice.getrandbits(128)))
    return operation if writer.send(operation, request) else None


def managed(writer, table, count):
    """A version that the client makes itself, and asks to be put."""
    operation = writer.operation("version that was staged", effect_of(table, count))
    try:
        claim = staging.stage(writer.world.locations[table], writer.new_rows(operation, count))
    except Exception as error:
        # The newest version may be a batch's, which is taken back.
        operation.notes.append(f"could not stage: {error}")
        return None
    request = json_request(writer.world.path(table, "version/create"), claim)
    return operation if writer.send(operation, request) else None


def commits_to_all(writer, tables):
    effects = {table: Effect(inserts={0: 0, 1: 0}) for table in tables}
    operation = writer.operation("commit to several tables", effects, "CommitTables")
    commits = []
    for table in tables:
        upload = writer.upload(operation, table, writer.new_rows(operation, 2))
        if upload is None:
            return
        body = writer.commit_body("append", upload, writer.choice.random() < 0.3)
        body.pop("coalesce", None)
        commits.append({"id": [writer.world.namespace, table], **body})
    writer.send(operation, json_request("/v1/commit", {"commits": commits}))


def versions_for_all(writer, tables):
    effects = {table: Effect(inserts={0: 0, 1: 0}) for table in tables}
    operation = writer.operation("versions of several tables", effects, "BatchCreateTableVersions")
    entries = []
    for table in tables:
        try:
            claim = staging.stage(writer.world.locations[table], writer.new_rows(operation, 2))
        except Exception as error:
            return operation.notes.append(f"could not stage: {error}")
        entries.append({"id": [writer.world.namespace, table], **claim})
    writer.send(operation, json_request("/v1/table/version/batch-create", {"entries": entries}))


def in_dialect(operation_id, slash):
    """The name under which it is known whether an operation takes a key. The document of the server is silent about what
    LanceDB's clients send."""
    return f"LanceDB {operation_id}" if slash else operation_id


def effect_of(table, count):
    return {table: Effect(inserts=dict.fromkeys(range(count), 0))}


#: The roads of an append.
SIMPLE = [inserted, committed]
FIRST = [inserted, committed, committed_late, in_parts]
ROADS = [inserted, inserted, committed, committed, committed_late, in_parts]
#: Where there is a chance that nobody is faster than who stages a version.
QUIET = [managed, managed]
#: The roads of a change of several tables, and the operation that each needs.
MANY = [(commits_to_all, "CommitTables"), (versions_for_all, "BatchCreateTableVersions")]
