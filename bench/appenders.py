"""The load of bench/commits: requests that were made beforehand, over connections that stay open.

One thread and one epoll loop: as soon as an answer is there, the next request of its connection goes out. Threads would
cost a change of threads and a fight over Python's lock for each answer, which at a thousand answers a second is a good part
of what two cores can do. Of an answer only the status and the length are read.
"""
import heapq
import select
import socket
import sys
import time


def request(path, body, content_type=b"application/json"):
    """The bytes of a POST."""
    return b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        path.encode(), content_type, len(body), body)


READ_VERSION = b'{"read_version":'
WIDTH = 12  # of the number; JSON allows spaces before it


def commit(path, version, rest):
    """A commit, as it is sent before its writer knows any other version than `version`."""
    return bytearray(request(path, READ_VERSION + b"%*d,%s}" % (WIDTH, version, rest)))


def read_now(sent, version):
    """Makes `sent` a commit of a writer that has last seen `version`."""
    at = sent.find(READ_VERSION) + len(READ_VERSION)
    sent[at:at + WIDTH] = b"%*d" % (WIDTH, version)


def version_of(answer):
    at = answer.find(b'"version":') + 10
    end = at
    while answer[end:end + 1].isdigit():
        end += 1
    return int(answer[at:end])


def content_length(head):
    """The length of a body, by its headers in small letters. All that this load asks for answers with one."""
    begin = head.find(b"content-length:")
    if begin < 0:
        sys.exit(f"an answer without a length: {head[:300]!r}")
    return int(head[begin + 15:].split(b"\r\n", 1)[0])


def pause_of(head):
    """The seconds after which to come again."""
    begin = head.find(b"retry-after:")
    return 0.05 if begin < 0 else float(head[begin + 12:].split(b"\r\n", 1)[0])


def ask(port, path, body=b"{}", content_type=b"application/json"):
    """The body of the answer to one request, which must succeed; over a connection of its own."""
    load = run(port, [[request(path, body, content_type)]], repeats=0, keep_answers=True)
    if load.refused:
        sys.exit(f"POST {path}: {load.why}")
    return load.answers[0]


class Writer:
    """One connection and the requests that it sends, in order, each after the answer to the one before."""

    def __init__(self, port, requests):
        self.port, self.requests = port, requests
        self.next, self.again = 0, 0  # the next request; how often the current one was sent again
        self.socket, self.left = None, memoryview(b"")
        self.buffer, self.wanted, self.status = b"", None, 0
        self.begun = 0.0
        self.version = 0  # that its last commit made

    def connect(self):
        self.socket = socket.create_connection(("127.0.0.1", self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def send(self):
        """Sends on; whether the whole request is out."""
        try:
            sent = self.socket.send(self.left)
        except BlockingIOError:
            return False
        self.left = self.left[sent:]
        return not self.left

    def receive(self):
        """The status of the answer, or 0 while it is not whole."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer = self.buffer + data if self.buffer else data
        if self.wanted is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return 0
            self.status = int(self.buffer[9:12])
            self.body_at = end + 4
            head = self.buffer[:end + 2].lower()
            self.wanted = self.body_at + content_length(head)
            if self.status in (429, 503):
                self.pause_s = pause_of(head)
        if len(self.buffer) < self.wanted:
            return 0
        self.body = self.buffer[self.body_at:self.wanted]
        self.buffer, self.wanted = b"", None
        return self.status


class Load:
    """What came of sending all requests of all writers."""

    def __init__(self):
        self.latencies_s = []  # of those acknowledged, until the last answer if they were sent again
        self.acknowledged, self.refused, self.repeated = 0, 0, 0
        self.why = ""  # one refusal, in full
        self.answers = []  # the bodies, if they were to be kept, as they came
        self.elapsed_s, self.cpu_s = 0.0, 0.0
        self.unsent = 0  # when the time was over

    def add(self, other):
        """Takes in what came of another load, which ran at another time."""
        self.latencies_s += other.latencies_s
        for name in ("acknowledged", "refused", "repeated", "unsent", "elapsed_s", "cpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.why = other.why or self.why

    @property
    def rate(self):
        return self.acknowledged / self.elapsed_s

    @property
    def busy(self):
        """How much of the time this process was computing: near 1 it is itself the limit."""
        return self.cpu_s / self.elapsed_s

    def at(self, share):
        """The latency below which `share` of all stay, in milliseconds."""
        if not self.latencies_s:
            return float("inf")
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3


def run(port, lists, max_s=300, repeats=20, keep_answers=False):
    """Sends each list of requests over a connection of its own, all at once. A `commit` names as the version read the one
    that its writer's commit before made, as a caller does who goes by the answers.

    429 and 503 say that nothing happened and that the request may be sent again: that is done when the answer says, up to
    `repeats` times, and counts into the latency. Every other status but 200 is a refusal. Nothing is sent once `max_s` are
    over.
    """
    writers = [Writer(port, requests) for requests in lists if requests]
    load, by_fd, waiting = Load(), {}, []
    poll = select.epoll()
    for writer in writers:
        writer.connect()
        by_fd[writer.socket.fileno()] = writer
        poll.register(writer.socket.fileno(), select.EPOLLIN)
    clock, latencies, busy = time.monotonic, load.latencies_s, len(writers)
    begin, cpu = clock(), time.process_time()
    deadline = begin + max_s

    def start(writer, fd):
        sent = writer.requests[writer.next]
        if writer.version and isinstance(sent, bytearray):
            read_now(sent, writer.version)
        writer.left = memoryview(sent)
        if not writer.send():
            poll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    for fd, writer in by_fd.items():
        writer.begun = clock()
        start(writer, fd)
    while busy:
        until = waiting[0][0] if waiting else deadline + 60
        events = poll.poll(max(0.0, until - clock()))
        while waiting and waiting[0][0] <= clock():
            fd = heapq.heappop(waiting)[1]
            start(by_fd[fd], fd)
        if not events and clock() > deadline + 60:
            sys.exit("no answer within a minute after the end")
        for fd, event in events:
            writer = by_fd[fd]
            if writer.left:
                if event & select.EPOLLOUT and writer.send():
                    poll.modify(fd, select.EPOLLIN)
                # A refusal may come before the whole body is out; then it is read below.
                if not event & select.EPOLLIN:
                    continue
            status = writer.receive()
            if not status:
                continue
            now = clock()
            if status in (429, 503) and writer.again < repeats:
                if writer.left:
                    sys.exit("asked for a pause in the middle of a body")
                writer.again += 1
                load.repeated += 1
                heapq.heappush(waiting, (now + writer.pause_s, fd))
                continue
            if status == 200:
                load.acknowledged += 1
                latencies.append(now - writer.begun)
                if keep_answers:
                    load.answers.append(writer.body)
                if isinstance(writer.requests[writer.next], bytearray):
                    writer.version = version_of(writer.body)
            else:
                load.refused += 1
                load.why = f"{status} {writer.body[:300].decode(errors='replace')}"
                if writer.left:
                    sys.exit(f"refused in the middle of a body: {load.why}")
            writer.next, writer.again = writer.next + 1, 0
            if writer.next < len(writer.requests) and now < deadline:
                writer.begun = now
                start(writer, fd)
                continue
            load.unsent += len(writer.requests) - writer.next
            poll.unregister(fd)
            writer.socket.close()
            busy -= 1
    load.elapsed_s, load.cpu_s = clock() - begin, time.process_time() - cpu
    poll.close()
    return load
