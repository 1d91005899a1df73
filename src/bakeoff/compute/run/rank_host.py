"""Processes that share a run, on other machines: a host there starts them for rank 0, which sees them by a connection.

A process lives as long as its connection. It is killed when rank 0's end is closed or does not answer any more; rank 0
learns how it has ended, or that its machine is gone. So none outlives another. It loads no torch.
"""

import json
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGKILL
from tempfile import TemporaryFile
from typing import Any

from bakeoff.child_process import child, search_path

LOST = 75  # exit status of a run that has lost a machine which it was spread over
ANSWER_SECONDS = 10.0  # that a host may take to answer
LAST_SECONDS = 5.0  # that a machine which goes may live longer than the processes on it
SILENT_SECONDS = 20.0  # that may pass until it is known that a machine is gone: PROBES and LAST_SECONDS
PROBES = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}  # seconds, seconds, how often
MOST_BYTES = 2**20  # of a request
LOG_BYTES = 16_384  # of what a process that failed has printed


@dataclass(frozen=True)
class Elsewhere:
    """The other machines of a run: each of the `hosts` has `ranks` processes, and so has rank 0's, at `address`.

    `word` is what the hosts ask for.
    """

    address: str
    ranks: int
    hosts: list[tuple[str, int]]
    word: str

    @property
    def machines(self) -> int:
        """How many machines there are, with rank 0's; one may have several hosts."""
        return len({self.address, *(address for address, _ in self.hosts)})


def address_toward(place: tuple[str, int]) -> str:
    """Return this machine's address on the way to another machine's port; nothing is sent."""
    family = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        way.connect(place)
        return way.getsockname()[0]


def keep_alive(connection: socket.socket) -> None:
    """Let a connection end when the machine at its other end does not answer any more."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PROBES.items():
        if hasattr(socket, name):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class RankHost:
    """Starts processes on this machine for whoever knows the word, at an address and a free `port`."""

    def __init__(self, address: str, word: str, environment: Mapping[str, str]):
        self.address, self.word, self.environment = address, word, dict(environment)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = socket.create_server((address, 0), family=family)
        self.port: int = self.listener.getsockname()[1]
        self.connections: set[socket.socket] = set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Serve each connection in a thread of its own, which its process ends with."""
        with suppress(OSError):  # closed
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        """Carry out one request, and say how its process has ended."""
        self.connections.add(connection)
        with connection, suppress(OSError, ValueError, RecursionError):
            keep_alive(connection)
            connection.settimeout(ANSWER_SECONDS)
            with connection.makefile("rb") as lines:
                asked = json.loads(lines.readline(MOST_BYTES))
            word = str(asked.pop("word", "")) if isinstance(asked, dict) else ""
            if secrets.compare_digest(word.encode(), self.word.encode()):
                connection.settimeout(None)
                connection.sendall(json.dumps(self.carry_out(connection, asked)).encode())
                connection.shutdown(socket.SHUT_RDWR)  # closed alone, it stays open while `end_with` reads it
        self.connections.discard(connection)

    def carry_out(self, connection: socket.socket, asked: dict[str, Any]) -> dict[str, Any]:
        """Start a process, and return what it has said, how it has ended, and the last of what it has printed."""
        request = json.dumps({**asked, "places": search_path()})
        with TemporaryFile() as log:
            process = subprocess.Popen(
                child("compute.run.members"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=self.environment,
            )  # fmt: skip
            threading.Thread(target=self.end_with, args=(connection, process), daemon=True).start()
            said, _ = process.communicate(request)
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            printed = log.read().decode(errors="replace")
        return {"said": said, "status": process.returncode, "log": printed}

    def end_with(self, connection: socket.socket, process: "subprocess.Popen[str]") -> None:
        """Kill a process when the connection ends, over which nothing more comes."""
        with suppress(OSError):
            connection.recv(1)
        process.kill()

    def close(self) -> None:
        """End all processes, and take no more requests."""
        for place in (self.listener, *self.connections):
            with suppress(OSError):  # it has ended
                place.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait for it
        self.listener.close()


class RemoteProcess:
    """A process on another machine, as rank 0 sees it. It is killed at the latest when this process ends."""

    def __init__(self, place: tuple[str, int], word: str, request: Mapping[str, Any]):
        self.place, self.over = place, threading.Event()
        self.connection: socket.socket | None = None
        with suppress(OSError):  # then its machine is gone, as `outcome` says
            self.connection = socket.create_connection(place, timeout=ANSWER_SECONDS)
            keep_alive(self.connection)
            self.connection.sendall(json.dumps({**request, "word": word}).encode() + b"\n")
            self.connection.settimeout(None)

    def outcome(self) -> tuple[str, int | None, str]:
        """Wait until it ends; return what it has said, its status, and the last that it has printed.

        The status is None if its machine is gone. One that goes may have killed it before, so it is asked once more.
        """
        try:
            found = self.answer()
            if found["status"] == -SIGKILL and not self.over.wait(LAST_SECONDS):
                socket.create_connection(self.place, timeout=ANSWER_SECONDS).close()
            return found["said"], found["status"], found["log"]
        except (OSError, ValueError):
            return "", None, ""
        finally:
            self.over.set()
            if self.connection:
                self.connection.close()

    def answer(self) -> dict[str, Any]:
        """Return what its host says of it at its end; raise OSError or ValueError if the host is gone."""
        if self.connection is None:
            raise OSError
        with self.connection.makefile("rb") as lines:
            return json.loads(lines.read())

    def end(self, until: float) -> None:
        """Wait for its end until a time of the clock that counts evenly, then let its host kill it."""
        self.over.wait(max(0.0, until - time.monotonic()))
        if self.connection:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
