"""The wire between a client and the server: what was asked, and connections that break at a chosen moment."""

import contextlib
import re
import socket
import threading
import time
import urllib.parse

from . import world

REQUEST = re.compile(rb"(GET|HEAD|POST) (\S+) HTTP/1\.1\r\n")
PIECE = 1 << 14


class Wire:
    """Passes bytes between clients and the server.

    A client asks one thing at a time on a connection, so every request begins a piece of what it sends.
    """

    def __init__(self, server):
        host = urllib.parse.urlsplit(server)
        self.server = (host.hostname, host.port)
        #: Methods and paths, in the order in which they were asked.
        self.requests = []
        self.faults = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def lose_answer(self, path):
        """The next answer to a request whose path has this never reaches the client: the connection ends."""
        self.faults.append((path, "answer", 0))

    def hold_answer(self, path, seconds):
        """The next answer to a request whose path has this is so late."""
        self.faults.append((path, "hold", seconds))

    def cut_request(self, path, after):
        """The next request whose path has this is cut off after so many bytes."""
        self.faults.append((path, "request", after))

    def asked(self, path):
        with self.lock:
            return [request for request in self.requests if path in request]

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with socket.create_connection(self.server) as server, client:
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            state = {"lose": False, "hold": 0}
            answers = threading.Thread(target=self.pass_answers, args=(server, client, state), daemon=True)
            answers.start()
            with contextlib.suppress(OSError):
                self.pass_requests(client, server, state)
            for one in (client, server):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            answers.join()

    def pass_requests(self, client, server, state):
        left = None
        while piece := client.recv(PIECE):
            if request := REQUEST.match(piece):
                fault = self.noted(request)
                kind, amount = fault[1:] if fault is not None else (None, 0)
                state["lose"], state["hold"] = kind == "answer", amount if kind == "hold" else 0
                left = amount if kind == "request" else None
            if left is not None:
                server.sendall(piece[:left])
                left -= len(piece)
                if left <= 0:
                    return
            else:
                server.sendall(piece)

    def noted(self, request):
        line = f"{request[1].decode()} {request[2].decode()}"
        with self.lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault[0] in line:
                    self.faults.remove(fault)
                    return fault
        return None

    @staticmethod
    def pass_answers(server, client, state):
        with contextlib.suppress(OSError):
            while piece := server.recv(PIECE):
                if state["lose"]:
                    break
                time.sleep(state["hold"])
                client.sendall(piece)
            for one in (client, server):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def wire(**options):
    """A wire to the server, and a connection to the shared database through it."""
    between = Wire(world.base)
    try:
        yield between, world.same_database(host=between.base, **options)
    finally:
        between.close()
