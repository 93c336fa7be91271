"""Load for a long while on two servers of one PostgreSQL, which is restarted on the way, as one of the servers is: nothing
is lost or doubled, and memory at the end is what it was after a third of the time.

The tables change every other minute: a table of many thousand versions would tell of its manifests' size, not of what a
server forgets to give back, and reading all of its versions afterwards would take longer than making them.
"""

import argparse
import statistics
import threading

import checker
from record import now
from scenarios import Run
from servers import restart_postgres

#: How long writers stay with the same tables, in seconds; less when all of it is short.
GENERATION = 120
#: When, in parts of the whole time, PostgreSQL is restarted, and a server is killed and started again.
RESTARTS, KILL = (0.08, 0.25, 0.42, 0.58, 0.75, 0.92), 0.15
#: When memory is looked at for the comparison, for how long, and how much more there may be at the end.
SETTLED, WINDOW, GROWTH = 1 / 3, 1 / 30, 1.1


class Soak:
    def __init__(self, options, folder):
        if not options.database.startswith("postgres"):
            raise SystemExit("soak needs --database postgres://..., as scripts/with-postgres starts it")
        self.options = options
        self.folder = folder
        self.generation = min(GENERATION, options.seconds / 3)
        self.first = Run("soak", options, folder)
        self.fleet = self.first.fleet
        self.runs = []
        #: (when, server, MiB)
        self.memory = []
        self.over, self.looked = threading.Event(), threading.Event()

    def run(self):
        """Answers the violations."""
        tables = []
        self.fleet.start()
        try:
            self.began = now()
            for work in (self.trouble, self.watch):
                threading.Thread(target=work, daemon=True).start()
            # The last one ends with the time, so that both looks at memory are at the end of one.
            while now() + self.generation / 2 < self.began + self.options.seconds:
                self.runs.append(self.next_run())
                self.runs[-1].prepare()
                self.runs[-1].storm()
                self.runs[-1].settle()
            self.ended = now()
            self.over.set()
            tables = [run.look() for run in self.runs]
        finally:
            self.looked.set()
            self.fleet.stop()
            for run in self.runs:
                run.history.save(run.folder / "history.txt")
        violations = [violation for run, seen in zip(self.runs, tables) for violation in run.judge(seen)]
        further = self.events_happened() + self.memory_is_the_same()
        for violation in further:
            print(f"VIOLATION {violation.text}", flush=True)
        return violations + further

    def next_run(self):
        number = len(self.runs)
        folder = self.folder / f"generation-{number}"
        folder.mkdir()
        until = self.began + self.options.seconds
        seconds = min(self.generation, max(until - now(), self.generation / 2))
        options = argparse.Namespace(**{**vars(self.options), "seconds": seconds, "seed": self.options.seed + number})
        return Run("soak", options, folder, self.fleet)

    def trouble(self):
        events = sorted([(part, self.restart) for part in RESTARTS] + [(KILL, self.kill)], key=lambda event: event[0])
        for part, happen in events:
            if self.over.wait(max(0, self.began + part * self.options.seconds - now())):
                return
            happen()
        # The kernel ends a server when the thread ends that started it.
        self.looked.wait()

    def restart(self):
        restart_postgres(self.fleet.servers[0].history)

    def kill(self):
        self.fleet.servers[1].kill()
        self.over.wait(1)
        self.fleet.servers[1].start()

    def watch(self):
        while not self.over.wait(1):
            for server in self.fleet.servers:
                memory = server.memory()
                if memory is not None:
                    self.memory.append((now() - self.began, server.name, memory))

    def events_happened(self):
        texts = [text for run in self.runs for _, text in run.history.events]
        # The end is a kill too.
        wanted = {"PostgreSQL is restarted": len(RESTARTS), "server-1 gets kill -9": 2}
        return [
            checker.Violation(f"{event}: {texts.count(event)} times, not {times}")
            for event, times in wanted.items()
            if texts.count(event) != times
        ]

    def memory_is_the_same(self):
        violations, whole = [], self.ended - self.began
        for server in self.fleet.servers:
            def at(end):
                begin = end - WINDOW * whole
                found = [memory for when, name, memory in self.memory if name == server.name and begin <= when <= end]
                return statistics.median(found) if found else 0.0

            trace = ", ".join(f"{at(whole * part / 30):.0f}" for part in range(1, 31))
            settled, last = at(SETTLED * whole), at(whole)
            print(f"{server.name}: MiB in each thirtieth of {whole:.0f} s: {trace}", flush=True)
            print(f"{server.name}: {last:.0f} MiB at the end, {settled:.0f} after a third: {last / max(settled, 1):.2f}", flush=True)
            if not settled or last > GROWTH * settled:
                violations.append(checker.Violation(f"{server.name} has {last:.0f} MiB at the end, and had {settled:.0f}"))
        return violations
