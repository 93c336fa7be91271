"""What the benchmarks share: starting the servers, and an HTTP connection that costs little.

Only Python's standard library: the benchmark itself runs on any Python, and the parts that need pylance run as separate
programs in the environment that scripts/client-venv makes.
"""
import json
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time

BENCH = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path.home() / ".cache" / "tiltyard-bench"


def default_tiltyard():
    target = os.environ.get("CARGO_TARGET_DIR") or pathlib.Path.home() / ".cache" / "tiltyard-target"
    return str(pathlib.Path(target) / "release" / "tiltyard")


def client_python():
    """The interpreter that has pylance."""
    made = subprocess.run([BENCH.parent / "scripts" / "client-venv"], stdout=subprocess.PIPE, text=True, check=True)
    return made.stdout.strip()


class Server:
    """A server program on this machine, stopped at the end of the `with` block."""

    def __init__(self, command, ready, log, wait_s=60):
        """Starts `command` and waits for a line of its standard output that matches the expression `ready`."""
        self.log = log
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        self.pid = self.process.pid
        lines = queue.Queue()

        def read():
            # To the end: a server whose pipe is full would hang.
            for line in self.process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        deadline = time.monotonic() + wait_s
        self.match = None
        while self.match is None:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.fail(f"did not become ready in {wait_s} s")
            if line is None:
                self.fail("ended before it was ready")
            self.match = re.search(ready, line)

    def fail(self, what):
        self.stop()
        tail = pathlib.Path(self.log).read_text(errors="replace")[-2000:]
        sys.exit(f"{self.process.args[0]} {what}\n{tail}")

    def peak_rss_mb(self):
        """The most memory that the process has held so far: VmHWM counts KiB."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
        raise RuntimeError("no VmHWM: this needs Linux")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def start_tiltyard(binary, folder, database=None, options=()):
    """Tiltyard on a database, SQLite if none is named, and local files below `folder`, on a port of its own choice, with
    further options."""
    if not os.access(binary, os.X_OK):
        sys.exit(f"no program {binary}: run `make build`, or name another with --tiltyard-bin")
    folder = pathlib.Path(folder)
    server = Server(
        [binary, "serve", "--listen", "127.0.0.1:0", "--database", database or f"sqlite://{folder}/catalog.db",
         "--storage-root", folder / "lake", *options],
        r"listening on http://127\.0\.0\.1:(\d+)",
        folder / "tiltyard.log",
    )
    server.port = int(server.match.group(1))
    return server


def start_peer(python, folder, options=()):
    """The reference server over its directory catalog."""
    folder = pathlib.Path(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server([python, BENCH / "peer_up.py", folder / "peer", port, *options], r"^up$", folder / "peer.log")
    server.port = port
    return server


class Connection:
    """One persistent HTTP/1.1 connection to this machine.

    Not http.client: that spends several times as long on a small request as the server does, and with two cores for both
    the benchmark would measure mostly itself.
    """

    def __init__(self, port, timeout_s=120, headers=None):
        self.address, self.timeout_s = ("127.0.0.1", port), timeout_s
        self.headers = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.socket, self.buffer = None, b""

    def post(self, path, body=b"{}"):
        """Status and body of a POST with a JSON body."""
        return self._ask("POST", path, body)

    def get(self, path):
        """Status and body of a GET."""
        return self._ask("GET", path, b"")

    def _ask(self, method, path, body):
        if self.socket is None:
            self.socket = socket.create_connection(self.address, self.timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.buffer = b""
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{self.headers}\r\n"
        try:
            self.socket.sendall(head.encode() + body)
            return self._reply()
        except OSError:
            self.close()
            raise

    def _reply(self):
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
        if b"chunked" in headers.get(b"transfer-encoding", b""):
            body = b""
            while size := int(self._line(), 16):
                body += self._take(size)
                self._line()
            self._line()
        else:
            body = self._take(int(headers.get(b"content-length", 0)))
        if headers.get(b"connection") == b"close":
            self.close()
        return int(lines[0].split()[1]), body

    def _receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer += data

    def _take(self, size):
        while len(self.buffer) < size:
            self._receive()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def _line(self):
        while b"\r\n" not in self.buffer:
            self._receive()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def close(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None


def call(connection, path, body=None):
    """The JSON answer of an operation that must succeed."""
    status, raw = connection.post(path, json.dumps(body or {}).encode())
    if status != 200:
        sys.exit(f"POST {path}: {status} {raw.decode(errors='replace')[:500]}")
    return json.loads(raw) if raw else None


def verdict(name, value, goal, met, unit=""):
    print(f"{'met   ' if met else 'MISSED'}  {name}: {value}{unit} (goal: {goal})")
    return met
