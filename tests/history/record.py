"""What clients sent and what they were told: the history that is checked afterwards.

Times are seconds of the monotonic clock, which all processes of a machine share, so that what one process recorded can be
compared with what another did.
"""

import dataclasses
import json
import threading
import time

#: Nobody said what became of it.
UNKNOWN = "unknown"
ACKNOWLEDGED = "acknowledged"
REFUSED = "refused"
#: The request that would have made it was never sent.
WITHHELD = "withheld"


def now():
    return time.monotonic()


@dataclasses.dataclass
class Attempt:
    """One request and its answer. `status` is None when no answer came."""

    server: str
    sent: float
    ended: float
    status: int | None = None
    text: str = ""
    #: Whether the request certainly never reached a server.
    unsent: bool = False

    @property
    def acknowledged(self):
        return self.status is not None and 200 <= self.status < 300

    @property
    def refused(self):
        return self.status is not None and 400 <= self.status < 500 and self.status != 429

    @property
    def without_effect(self):
        """It did not happen, and whoever sends it again knows that. 429 says so by its meaning."""
        return self.unsent or self.status == 429

    @property
    def unknown(self):
        return not (self.acknowledged or self.refused or self.without_effect)

    def body(self):
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def shown(self):
        answer = f"{self.status} {self.text[:300]}" if self.status else self.text[:100]
        answer = "nobody there" if self.unsent else answer
        return f"{self.sent:.3f} to {self.server}, {self.ended:.3f}: {answer}"


@dataclasses.dataclass
class Effect:
    """What an operation does to a table when it takes effect. A row is known by the token of the operation that inserted
    it and its part; `last` is the token of the one that wrote it last, so that storage tells who did what."""

    #: Rows under the operation's own token: part to x.
    inserts: dict = dataclasses.field(default_factory=dict)
    #: Rows that are there: (token, part) to the new x, None where it is one more than before.
    changes: dict = dataclasses.field(default_factory=dict)
    #: The token whose rows are deleted.
    removes: str | None = None
    #: Whether all rows that were there go.
    replaces: bool = False
    column: str | None = None

    @property
    def only_appends(self):
        return bool(self.inserts) and not (self.changes or self.removes or self.replaces or self.column)


@dataclasses.dataclass
class Operation:
    """One change that a client asked for, however often it sent it."""

    token: str
    writer: str
    #: By which road: `insert`, `commit by upload`, `pylance`, ...
    road: str
    #: Table name to effect.
    effects: dict
    #: The key under which it may be sent again and takes effect once.
    key: str | None = None
    attempts: list = dataclasses.field(default_factory=list)
    #: What is told of steps before the one that counts.
    notes: list = dataclasses.field(default_factory=list)
    began: float = dataclasses.field(default_factory=now)

    @property
    def outcome(self):
        """What the client may conclude. With a key, a refusal settles what was unknown before it."""
        if any(attempt.acknowledged for attempt in self.attempts):
            return ACKNOWLEDGED
        told = [attempt for attempt in self.attempts if not attempt.without_effect]
        if not told:
            return WITHHELD
        refusals = [attempt.sent for attempt in told if attempt.refused]
        for attempt in told:
            settled = self.key is not None and any(sent >= attempt.ended for sent in refusals)
            if attempt.unknown and not settled:
                return UNKNOWN
        return REFUSED

    @property
    def answer(self):
        return next((attempt for attempt in self.attempts if attempt.acknowledged), None)

    def versions(self):
        """The version of each table that the answer names."""
        body = self.answer.body() if self.answer else None
        if not isinstance(body, dict):
            return {}
        tables = list(self.effects)
        if "commits" in body:
            return {name: entry.get("version") for name, entry in zip(tables, body["commits"])}
        if "versions" in body:
            return {name: entry.get("version") for name, entry in zip(tables, body["versions"])}
        version = body.get("version")
        # CreateTableVersion describes the version that it made.
        version = version.get("version") if isinstance(version, dict) else version
        return {name: version for name in tables}

    def shown(self):
        effects = ", ".join(f"{table}: {shown_effect(effect)}" for table, effect in self.effects.items())
        key = f", key {self.key}" if self.key else ""
        lines = [f"{self.token} by {self.road}{key} began {self.began:.3f}: {self.outcome}; {effects}"]
        lines += [f"    {note}" for note in self.notes]
        lines += [f"    sent {attempt.shown()}" for attempt in self.attempts]
        return "\n".join(lines)


def shown_effect(effect):
    parts = []
    if effect.replaces:
        parts.append("replaces all rows")
    if effect.inserts:
        parts.append(f"inserts {len(effect.inserts)}")
    if effect.changes:
        parts.append(f"changes {sorted(effect.changes)}")
    if effect.removes:
        parts.append(f"deletes those of {effect.removes}")
    if effect.column:
        parts.append(f"adds column {effect.column}")
    return " and ".join(parts)


@dataclasses.dataclass
class VersionRead:
    """A reader was told that this is a table's newest version."""

    reader: str
    server: str
    table: str
    began: float
    ended: float
    version: int


@dataclasses.dataclass
class PairRead:
    """A reader read one table whole, and after that another."""

    reader: str
    servers: tuple
    first: str
    first_tokens: frozenset
    second: str
    second_tokens: frozenset
    began: float
    ended: float


class History:
    """All of it; filled by many threads at once."""

    def __init__(self):
        self.operations = []
        self.version_reads = []
        self.pair_reads = []
        #: (time, what happened to which server)
        self.events = []
        #: Violations that were seen while it ran.
        self.seen_at_once = []
        self._lock = threading.Lock()

    def begin(self, operation):
        """Must come before anything of the operation is sent: storage may show it at once."""
        with self._lock:
            self.operations.append(operation)
        return operation

    def attempt(self, operation, attempt):
        with self._lock:
            operation.attempts.append(attempt)

    def read(self, read):
        with self._lock:
            (self.pair_reads if isinstance(read, PairRead) else self.version_reads).append(read)

    def event(self, text):
        with self._lock:
            self.events.append((now(), text))

    def violated(self, text):
        with self._lock:
            self.seen_at_once.append(text)

    def save(self, path):
        """For people, one operation or event after the other."""
        lines = [(operation.began, operation.shown()) for operation in self.operations]
        lines += [(at, f"-- {at:.3f} {text}") for at, text in self.events]
        with open(path, "w") as file:
            for _, text in sorted(lines, key=lambda line: line[0]):
                file.write(text + "\n")
