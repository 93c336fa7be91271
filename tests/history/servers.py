"""Processes of the server: started, killed, frozen, thawed. Each keeps its port over its lives, as a service would."""

import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

import requests

START_SECONDS = 120
#: Should the test be killed outright, the kernel ends its servers too, where there is a program to ask it.
DIE_WITH_THE_PARENT = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, name, binary, folder, database, history, arguments=()):
        self.name = name
        self.history = history
        self.log = pathlib.Path(folder) / f"{name}.log"
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        root = str(pathlib.Path(folder) / "lake")
        self._command = [*DIE_WITH_THE_PARENT, str(binary), "serve", "--listen", f"127.0.0.1:{port}", "--database", database]
        self._command += ["--storage-root", root, *arguments]
        self._folder = folder
        self._process = None
        self._guard = threading.Lock()

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TILTYARD_")}
        with self._guard, open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait_until_up()
        self.history.event(f"{self.name} is up, process {self._process.pid}")

    def _wait_until_up(self):
        deadline = time.monotonic() + START_SECONDS
        with requests.Session() as session:
            session.trust_env = False
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended at its start: {self.tail()}")
                try:
                    if session.get(self.base + "/healthz", timeout=5).status_code == 200:
                        return
                except requests.RequestException:
                    time.sleep(0.02)
        raise RuntimeError(f"{self.name} is not up after {START_SECONDS} s: {self.tail()}")

    def kill(self):
        with self._guard:
            if self._process is None:
                return
            # Before the signal: what is lost after this moment may be the kill's doing.
            self.history.event(f"{self.name} gets kill -9")
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self):
        self.history.event(f"{self.name} is frozen")
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)
        self.history.event(f"{self.name} goes on")

    def memory(self):
        """What the process has in memory, in MiB; None while there is none."""
        with self._guard:
            if self._process is None:
                return None
            status = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
        resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(resident[0]) / 1024 if resident else None

    def died_by_itself(self):
        """The status of a process that ended without being told to."""
        with self._guard:
            return self._process.poll() if self._process is not None else None

    def tail(self, lines=20):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def panics(self):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [line for line in text.splitlines() if "panicked at" in line]


class Fleet:
    """The servers of one catalog and one storage."""

    def __init__(self, servers):
        self.servers = servers

    def pick(self, choice=random):
        return choice.choice(self.servers)

    def start(self):
        for server in self.servers:
            server.start()

    def stop(self):
        for server in self.servers:
            server.kill()


def kill_now_and_then(fleet, choice, times, until, pause):
    """Kills one server after the other and starts it again, `times` times or until `until`. Answers how often."""
    done = 0
    while (times is None or done < times) and time.monotonic() < until:
        time.sleep(choice.uniform(*pause))
        server = fleet.pick(choice)
        server.kill()
        # Now and then nobody is there for a while, so that clients meet a closed port too.
        if choice.random() < 0.2:
            time.sleep(choice.uniform(0.1, 0.6))
        server.start()
        done += 1
    return done


def restart_postgres(history):
    """Restarts the PostgreSQL that scripts/with-postgres started."""
    history.event("PostgreSQL is restarted")
    os.kill(int(os.environ["TILTYARD_TEST_POSTGRES_OWNER"]), signal.SIGUSR1)


def restart_now_and_then(history, choice, until, pause):
    """Restarts PostgreSQL now and then. Answers how often."""
    done = 0
    while time.monotonic() < until:
        time.sleep(choice.uniform(*pause))
        restart_postgres(history)
        done += 1
    return done


def freeze_now_and_then(fleet, choice, until, lengths):
    """Stops one server for a while, then lets it go on as if nothing had been."""
    done = 0
    while time.monotonic() < until:
        time.sleep(choice.uniform(0.5, 2))
        server = fleet.pick(choice)
        server.freeze()
        try:
            time.sleep(choice.choice(lengths))
        finally:
            server.thaw()
        done += 1
    return done
