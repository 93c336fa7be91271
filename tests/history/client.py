"""HTTP as a careful client speaks it: every attempt is recorded, and only what may be sent again is."""

import dataclasses
import json
import random
import threading
import time

import pyarrow as pa
import requests
import urllib3.exceptions

from record import Attempt, now

ARROW = "application/vnd.apache.arrow.stream"
SCHEMA = pa.schema([("op", pa.string()), ("part", pa.int32()), ("x", pa.int64()), ("last", pa.string())])


def rows(entries):
    """Rows of (op, part, x, last)."""
    columns = zip(*entries) if entries else ([], [], [], [])
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA)], schema=SCHEMA)


def stream(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@dataclasses.dataclass
class Request:
    path: str
    body: bytes = b"{}"
    content_type: str = "application/json"
    headers: dict = dataclasses.field(default_factory=dict)
    method: str = "POST"


def json_request(path, body, headers=None):
    return Request(path, json.dumps(body).encode(), headers=headers or {})


def arrow_request(path, table, headers=None):
    return Request(path, stream(table), ARROW, headers or {})


class Client:
    """The requests of one thread."""

    def __init__(self, fleet, history, choice=None, seconds=150):
        self.fleet = fleet
        self.history = history
        self.choice = choice or random.Random(0)
        #: How long an answer is waited for.
        self.seconds = seconds
        self._sessions = threading.local()

    def _session(self):
        session = getattr(self._sessions, "session", None)
        if session is None:
            session = self._sessions.session = requests.Session()
            session.trust_env = False
        return session

    def send(self, request, server=None):
        """Answers the attempt, and the raw answer if there is one."""
        server = server or self.fleet.pick(self.choice)
        headers = {"content-type": request.content_type, **request.headers}
        attempt = Attempt(server.name, now(), 0)
        reply = None
        try:
            reply = self._session().request(
                request.method, server.base + request.path, data=request.body, headers=headers, timeout=(10, self.seconds)
            )
            attempt.status, attempt.text = reply.status_code, reply.text if is_text(reply) else ""
        except requests.RequestException as error:
            attempt.text = f"{type(error).__name__}: {error}"
            attempt.unsent = was_never_sent(error)
            # A connection that broke must not be used again.
            self._session().close()
            self._sessions.session = None
        attempt.ended = now()
        return attempt, reply

    def ask(self, request, patience=20):
        """For what changes no table: sent until it is answered. None when that takes too long, or it is refused."""
        deadline = now() + patience
        while True:
            attempt, reply = self.send(request)
            if attempt.acknowledged:
                return reply
            if attempt.refused or now() > deadline:
                return None
            time.sleep(0.1)

    def perform(self, operation, request, patience=0.0):
        """Sends an operation until it is answered, refused, or its fate is unknown. With a key it goes on for `patience`
        after that. Answers the last attempt that reached a server."""
        deadline = now() + patience
        give_up = now() + max(patience, 30)
        while True:
            attempt, _ = self.send(request)
            self.history.attempt(operation, attempt)
            if attempt.acknowledged or attempt.refused:
                return attempt
            if attempt.without_effect and now() < give_up:
                time.sleep(self.choice.uniform(0.05, 0.3))
                continue
            if operation.key is None or now() >= deadline:
                return attempt
            time.sleep(self.choice.uniform(0.1, 0.6))


def is_text(reply):
    kind = reply.headers.get("content-type", "")
    return "json" in kind or "text" in kind


def was_never_sent(error):
    """Whether the port was closed: then not a byte was sent."""
    reason = error.args[0] if error.args else None
    if isinstance(reason, urllib3.exceptions.MaxRetryError):
        reason = reason.reason
    return isinstance(reason, urllib3.exceptions.NewConnectionError)
