"""What happens to servers and writers at once, and the end of it: everything settles, then it is checked."""

import json
import pathlib
import random
import subprocess
import sys
import threading
import time
import uuid

import checker
import observe
import report
from client import Client, Request, arrow_request, json_request, rows
from readers import Reader, look_through_the_catalog
from record import ACKNOWLEDGED, Attempt, Effect, History, Operation, now
from servers import Fleet, Server, freeze_now_and_then, kill_now_and_then, restart_now_and_then
from writers import COUNTERS, Writer, World

#: Weights of the tables that a writer turns to.
TABLES = {"shared": 60, "counters": 8, "replaced": 5, "wide": 3, "pair": 12, "fresh": 8, "shared_too": 4}
#: Where servers are frozen: what is worst when somebody goes on with it who was taken for dead.
FROZEN_TABLES = {"shared": 25, "counters": 10, "replaced": 30, "wide": 3, "pair": 30, "fresh": 2}
#: Swept while it runs, so that the sweeper is one of those who must not break anything. With the first of these lives of
#: an upload it goes before the retry of a killed commit comes, with the other it does not.
SWEPT_EVERY, UPLOADS_LIVE = "3s", ["20s", "120s"]
#: Fewer acknowledged operations prove nothing.
ENOUGH = 30
#: How long a table may stay shut at the end.
SETTLE_SECONDS = 90


def setting(name):
    """How many servers and what is done to them."""
    return {
        "writers": {"servers": 1},
        "kills": {"servers": 1, "kills": True},
        "keys": {"servers": 1, "kills": True, "pause": (1.0, 4.0), "tables": {"keyed": 1}},
        "two": {"servers": 2, "kills": True, "pause": (2.0, 6.0)},
        # PostgreSQL is restarted under them, and nobody restarts them.
        "restarts": {"servers": 2, "restarts": (3.0, 8.0)},
        "foreign": {"servers": 1, "foreign": 2, "kills": True, "pause": (2.0, 6.0)},
        # Clients do not wait for a server that is frozen: they go to the other one with the same key.
        "freeze": {"servers": 2, "freeze": True, "answer_seconds": 4.0, "tables": FROZEN_TABLES},
        # What is done to them, soak.py says.
        "soak": {"servers": 2},
    }[name]


class Run:
    """One scenario from its start to its verdict."""

    def __init__(self, scenario, options, folder, fleet=None):
        self.scenario = scenario
        self.options = options
        self.folder = pathlib.Path(folder)
        self.choice = random.Random(options.seed)
        self.history = History()
        self.setting = setting(scenario)
        self.fleet = fleet or self.new_fleet()
        for server in self.fleet.servers:
            server.history = self.history
        self.client = Client(self.fleet, self.history, random.Random(options.seed + 1), options.answer_seconds)
        self.foreigners = []

    def new_fleet(self):
        database = self.options.database
        if database == "sqlite":
            database = f"sqlite://{self.folder}/catalog.db"
        elif database.startswith("sqlite"):
            raise SystemExit("--database is sqlite, or the URL of a PostgreSQL database")
        flags = ["--gc-interval", SWEPT_EVERY, "--upload-ttl", self.choice.choice(UPLOADS_LIVE)]
        names = [f"server-{number}" for number in range(self.setting["servers"])]
        return Fleet([Server(name, self.options.binary, self.folder, database, self.history, flags) for name in names])

    def run(self):
        """Answers the violations."""
        try:
            self.fleet.start()
            self.prepare()
            self.storm()
            self.settle()
            tables = self.look()
        finally:
            self.fleet.stop()
            self.history.save(self.folder / "history.txt")
        self.read_foreigners()
        return self.judge(tables)

    def judge(self, tables):
        """Prints what was found. Answers the violations."""
        violations = checker.check(self.history, tables) + self.proves_something()
        violations += [checker.Violation(line) for server in self.fleet.servers for line in server.panics()]
        print(f"scenario {self.scenario}, seed {self.options.seed}: {len(violations)} violations", flush=True)
        print(checker.tally(self.history, tables), flush=True)
        self.history.save(self.folder / "history.txt")
        report.tell(violations, self.history, tables, sys.stdout)
        return violations

    def prepare(self):
        capabilities = self.client.ask(Request("/v1/capabilities", None, method="GET")).json()
        document = self.client.ask(Request("/openapi.json", None, method="GET")).json()
        keyed = {
            operation["operationId"]
            for item in document["paths"].values()
            for operation in item.values()
            if any(one.get("name") == "Idempotency-Key" for one in operation.get("parameters", []))
        }
        # PostgreSQL may hold what an earlier run left.
        namespace = f"h{self.options.seed}_{uuid.uuid4().hex[:8]}"
        self.world = World(self.fleet, self.history, namespace, keyed, self.options)
        self.world.answer_seconds = self.setting.get("answer_seconds", self.options.answer_seconds)
        self.world.served = set(capabilities["operations"])
        assert self.client.ask(json_request(f"/v1/namespace/{namespace}/create", {})) is not None
        for table in ("shared", "shared_too", "keyed", "counters", "replaced", "wide", "left", "right"):
            reply = self.client.ask(json_request(self.world.path(table, "declare"), {}))
            assert reply is not None, table
            self.world.locations[table] = reply.json()["location"]
            # The counters are rows of that name, for all to change.
            token = "counters" if table == "counters" else f"setup_{table}"
            count = COUNTERS if table == "counters" else 1
            effects = {table: Effect(inserts=dict.fromkeys(range(count), 0))}
            operation = self.history.begin(Operation(token, "setup", "setup", effects))
            data = rows([(token, part, 0, token) for part in range(count)])
            self.client.perform(operation, arrow_request(self.world.path(table, "insert"), data), 30)
            assert operation.outcome == ACKNOWLEDGED, operation.shown()

    def storm(self):
        """Writers and readers at work while servers die."""
        seconds = self.options.seconds
        kills = self.options.kills if self.setting.get("kills") else None
        # As many kills as were asked for, however long that takes; the writers go on until then.
        over = threading.Event()
        until = now() + (3600 if kills else seconds)
        weights = self.setting.get("tables", TABLES)
        writers = [
            Writer(self.world, f"w{number:02}", self.options.seed * 1000 + number * 10, weights)
            for number in range(self.options.writers)
        ]
        readers = [Reader(self.world, f"reader-{number}", self.options.seed + 7 * number) for number in range(2)]
        threads = [threading.Thread(target=self.at_work, args=(one, over), daemon=True) for one in writers + readers]
        for thread in threads:
            thread.start()
        if self.setting.get("foreign"):
            self.start_foreigners()
        if self.setting.get("kills"):
            pause = self.setting.get("pause", (0.2, 4.0))
            done = kill_now_and_then(self.fleet, self.choice, kills, until, pause)
            print(f"killed {done} times", flush=True)
            time.sleep(1)
        elif self.setting.get("restarts"):
            done = restart_now_and_then(self.history, self.choice, until, self.setting["restarts"])
            print(f"restarted PostgreSQL {done} times", flush=True)
        elif self.setting.get("freeze"):
            done = freeze_now_and_then(self.fleet, self.choice, until, self.options.freezes)
            print(f"frozen {done} times", flush=True)
        while now() < until and not kills:
            time.sleep(0.1)
            self.note_deaths()
        over.set()
        for thread in threads:
            thread.join(self.options.answer_seconds + 60)
            if thread.is_alive():
                self.history.violated("a client waits for an answer without end")

    def at_work(self, one, over):
        """A client that itself fails is a defect of the test, and must be seen."""
        while not over.is_set():
            try:
                one.work(now() + 0.2)
            except Exception as error:
                import traceback

                self.history.violated(f"the client {one.name} failed: {error!r}\n{traceback.format_exc(limit=-4)}")
                return

    def note_deaths(self):
        for server in self.fleet.servers:
            status = server.died_by_itself()
            if status is not None:
                self.history.violated(f"{server.name} ended by itself with {status}: {server.tail()}")
                server.kill()
                server.start()

    def start_foreigners(self):
        script = pathlib.Path(__file__).parent / "foreign.py"
        locations = [self.world.locations[name] for name in ("shared", "shared_too")]
        for number in range(self.setting["foreign"]):
            name = f"f{number}"
            record = self.folder / f"{name}.jsonl"
            command = [sys.executable, str(script), name, str(self.options.seed + number), str(record)]
            process = subprocess.Popen(command + locations, stdin=subprocess.PIPE)
            self.foreigners.append((process, record))

    def read_foreigners(self):
        """What pylance's writers recorded becomes part of the history."""
        names = {location: name for name, location in self.world.locations.items()}
        for _, record in self.foreigners:
            known = {}
            for line in record.read_text().splitlines() if record.exists() else ():
                told = json.loads(line)
                token = told["token"]
                if "location" in told:
                    effects = {names[told["location"]]: Effect(inserts=dict.fromkeys(range(told["count"]), 0))}
                    known[token] = self.history.begin(Operation(token, "foreign", "pylance", effects, began=told["sent"]))
                    continue
                attempt = Attempt("storage", known[token].began, told["ended"])
                if "version" in told:
                    attempt.status, attempt.text = 200, json.dumps({"version": told["version"]})
                else:
                    attempt.text = told["error"]
                self.history.attempt(known.pop(token), attempt)
            for operation in known.values():
                self.history.attempt(operation, Attempt("storage", operation.began, now(), text="it did not come back"))

    def settle(self):
        """Everybody comes to an end, and every table takes one more row: what was left half done is finished by that."""
        for process, _ in self.foreigners:
            process.stdin.close()
            process.wait(120)
        for thread in list(self.world.aftercare):
            thread.join(self.options.retry_seconds + self.options.answer_seconds)
        self.send_keys_again()
        for table in self.world.locations:
            self.take_one_more(table)

    def take_one_more(self, table):
        deadline, tries = now() + SETTLE_SECONDS, 0
        while True:
            tries += 1
            token = f"last_{table}.{tries}"
            operation = Operation(token, "settle", "settle", {table: Effect(inserts={0: 0})})
            self.history.begin(operation)
            request = arrow_request(self.world.path(table, "insert"), rows([(token, 0, 0, token)]))
            self.client.perform(operation, request)
            if operation.outcome == ACKNOWLEDGED:
                return
            if now() > deadline:
                return self.history.violated(f"{table} takes no more rows: {operation.shown()}")
            time.sleep(0.5)

    def proves_something(self):
        """A run in which nothing happened must not pass."""
        found = []
        acknowledged = sum(1 for operation in self.history.operations if operation.answer)
        if acknowledged < ENOUGH:
            found.append(f"too little was done to prove anything: {acknowledged} operations were acknowledged")
        if self.setting.get("restarts") and not any("PostgreSQL" in text for _, text in self.history.events):
            found.append("PostgreSQL was never restarted")
        lost = sum(1 for operation in self.history.operations for attempt in operation.attempts if attempt.unknown)
        if lost == 0 and (self.setting.get("kills") or self.setting.get("freeze")):
            found.append("no request was lost: the servers were killed or frozen while nobody was there")
        return [checker.Violation(text) for text in found]

    def send_keys_again(self):
        """Answers are kept: after all that was killed, each key gets the same one."""
        again = [(operation, request) for operation, request in self.world.keyed_requests if operation.answer]
        for operation, request in self.choice.sample(again, min(60, len(again))):
            attempt, _ = self.client.send(request)
            self.history.attempt(operation, attempt)

    def look(self):
        tables = []
        for name, location in self.world.locations.items():
            seen = observe.look(name, location)
            look_through_the_catalog(self.client, self.world, seen)
            tables.append(seen)
        # What was refused is absent later too: nothing came after it was read.
        time.sleep(1)
        for seen in tables:
            newest = max(observe.manifests(seen.location), default=0)
            if newest != max(seen.manifests, default=0):
                self.history.violated(f"version {newest} of {seen.name} came after everybody had gone")
        return tables
