"""Clients that look at the tables all the time: what they are told must fit what the writers were told."""

import random
import time

import pyarrow as pa

import observe
from client import Client, Request, json_request
from record import PairRead, VersionRead, now

PAGE = 37
EVERY_ROW = {"k": 10_000_000, "vector": {}, "columns": {"column_names": observe.COLUMNS}}


class Reader:
    def __init__(self, world, name, seed):
        self.world = world
        self.name = name
        self.choice = random.Random(seed)
        self.client = Client(world.fleet, world.history, self.choice, world.answer_seconds)

    def work(self, until):
        while now() < until:
            if self.choice.random() < 0.5:
                self.read_pair()
            else:
                self.read_version(self.choice.choice(["shared", "counters", "left", "right", "replaced"]))
            time.sleep(self.choice.uniform(0.02, 0.15))

    def read_version(self, table):
        began = now()
        path = self.world.path(table, "version/list?limit=1&descending=true")
        attempt, reply = self.client.send(Request(path))
        if attempt.status == 500:
            self.world.history.violated(f"{self.name}: {path} {attempt.shown()}")
        if attempt.acknowledged:
            version = reply.json()["versions"][0]["version"]
            read = VersionRead(self.name, attempt.server, table, began, now(), version)
            self.world.history.read(read)

    def read_pair(self):
        """Both tables whole, one after the other: what several tables got together is in both or not yet in the second's
        future."""
        tables = ["left", "right"]
        self.choice.shuffle(tables)
        began, servers, tokens = now(), [], []
        for table in tables:
            attempt, reply = self.client.send(json_request(self.world.path(table, "query"), EVERY_ROW))
            if attempt.status == 500:
                self.world.history.violated(f"{self.name}: query of {table} {attempt.shown()}")
            if not attempt.acknowledged:
                return
            servers.append(attempt.server)
            tokens.append(frozenset(pa.ipc.open_file(reply.content).read_all()["op"].to_pylist()))
        first, second = tables
        self.world.history.read(PairRead(self.name, tuple(servers), first, tokens[0], second, tokens[1], began, now()))


def look_through_the_catalog(client, world, seen):
    """Adds to what storage holds what the catalog says of it."""
    for descending, field in (("false", "listed_up"), ("true", "listed_down")):
        setattr(seen, field, [])
        token = None
        while True:
            path = world.path(seen.name, f"version/list?limit={PAGE}&descending={descending}")
            reply = client.ask(Request(path + (f"&page_token={token}" if token else "")), 60)
            if reply is None:
                return seen.broken.append("the catalog does not list its versions")
            page = reply.json()
            getattr(seen, field).extend(version["version"] for version in page["versions"])
            seen.origins.update((one["version"], one["metadata"].get("origin")) for one in page["versions"])
            token = page.get("page_token")
            if not token:
                break
    reply = client.ask(json_request(world.path(seen.name, "query"), EVERY_ROW), 60)
    if reply is None:
        return seen.broken.append("the catalog does not answer its rows")
    table = pa.ipc.open_file(reply.content).read_all()
    seen.queried = list(zip(*(table[name].to_pylist() for name in observe.COLUMNS)))
