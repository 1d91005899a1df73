"""An executor's part on a cluster's node: a slot's servers of runs, with the same processes and signals as elsewhere.

Only this module and what it imports has to be installed on the nodes of Ray; it does not import Ray.
"""

import os
import queue
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import Any

from bakeoff.child_process import child, search_path
from bakeoff.compute.run.rank_host import Elsewhere, RankHost, address_toward
from bakeoff.config.sections import Pin
from bakeoff.driver.environment import PACKAGES, machine
from bakeoff.driver.parcel import Changes, Parcel, unpack
from bakeoff.driver.run_server import Inbox, Message, RunServer, Server, process_environment
from bakeoff.errors import BakeoffError
from bakeoff.store.checksums import digest
from bakeoff.store.records import Run, Task
from bakeoff.store.run_folder import Folder
from bakeoff.store.scratch import is_alive

HEAR_SECONDS = 5.0  # that an answer may take if nothing is said
LOOK_SECONDS = 2.0  # between two looks whether a run has written something that is to be sent
PREFIX = "bakeoff-node-"


class Node:
    """One slot on a node. Its methods are called for the driver, in their order.

    Each process of its runs has so many `threads`; None: as many as the environment of this process says.
    With Ray it is an actor, and `hear` is called beside the other methods.
    """

    def __init__(self, device: str, threads: int | None = None):
        self.device = device
        self.environment = process_environment(device) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        self.inbox: Inbox = queue.SimpleQueue()
        self.servers: dict[int, RunServer] = {}
        self.folder: Folder | None = None  # a copy, where this node does not see the driver's folder
        self.changes: Changes | None = None  # of the current run, where they are to be sent
        self.elsewhere: Elsewhere | None = None  # the other nodes that share this slot's runs
        self.rank_host: RankHost | None = None  # for runs that another node leads
        self.looked_at = 0.0
        self.fault: Exception | None = None  # of a call to whose answer nobody listens

    def facts(self, folder: str, mark: str, model: str, pin: Pin) -> dict[str, Any]:
        """Return what the driver compares: versions, whether the folder with this plan is seen here, and the base."""
        from bakeoff.hub import base_identity, fetch

        plan = Folder(folder).plan_file
        try:
            fetch(model, pin)
            base, error = base_identity(model, pin), None
        except BakeoffError as failure:
            base, error = None, str(failure)
        sees = plan.exists() and digest(plan) == mark and os.access(plan.parent, os.W_OK)
        host = socket.gethostname()
        return {"host": host, "machine": machine(), "sees": sees, "base": base, "error": error}

    def receive(self, parcel: Parcel) -> None:
        """Make a copy of the driver's folder, with what every run reads."""
        for left in Path(gettempdir()).glob(f"{PREFIX}*"):
            owner = left.name.removeprefix(PREFIX).partition("-")[0]
            if owner.isdigit() and not is_alive(int(owner)):
                shutil.rmtree(left, ignore_errors=True)
        self.folder = Folder(mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        unpack(self.folder, parcel)

    def host_ranks(self, toward: tuple[str, int], word: str) -> tuple[str, int]:
        """Take requests for processes of runs that another node leads; return where: an address, and a free port.

        The address is this node's on its way to another place in the cluster.
        """
        self.rank_host = RankHost(address_toward(toward), word, self.environment)
        return self.rank_host.address, self.rank_host.port

    def lead(self, toward: tuple[str, int], ranks: int, hosts: list[tuple[str, int]], word: str) -> None:
        """From now on have runs whose processes are also on other nodes: `ranks` here, and at each of the hosts."""
        self.elsewhere = Elsewhere(address_toward(toward), ranks, hosts, word)

    def start(self, number: int, kind: str) -> None:
        """Start a server under a number, unless it is there: Ray may let a call overtake one with larger arguments."""
        if number in self.servers:
            return
        words = {
            "model": child("compute.run.process", self.device, *search_path()),
            "score": child("compute.run.scorer", *search_path()),
        }
        self.servers[number] = RunServer(words[kind], self.environment, self.inbox)

    def ask(self, number: int, kind: str, folder: str, run: Run, left: Any, beside: int, parcel: Parcel) -> None:
        """Ask a server for a run; `parcel` has the run's files where this node has a copy of the folder.

        What it fails by, as a full disk, is raised by `hear`.
        """
        try:
            self.start(number, kind)
            place = self.folder or Folder(folder)
            if self.folder:
                # What an earlier part of the run has left: the driver's files count.
                shutil.rmtree(place.run(run.id).path, ignore_errors=True)
                unpack(self.folder, parcel)
                self.changes = Changes(self.folder, run.id)
            self.servers[number].ask(place.place, Task(run, left), self.device, beside, self.elsewhere)
        except (OSError, BakeoffError) as error:
            self.fault = error

    def hear(self, seconds: float | None = None) -> list[tuple[int, Message]]:
        """Wait some `seconds` for what servers say, and return all that was said, with their numbers.

        Before it comes what has changed in the files of a run that has no shared folder, under the number -1.
        """
        said: list[tuple[int, Message]] = []
        with suppress(queue.Empty):
            server, message = self.inbox.get(timeout=seconds or HEAR_SECONDS)
            said += self.passed_on(server, message)
            while True:  # each call costs milliseconds, and a run that ends waits until the last thing it said is heard
                said += self.passed_on(*self.inbox.get_nowait())
        if self.fault:
            raise self.fault
        return said

    def passed_on(self, server: Server, message: Message) -> list[tuple[int, Message]]:
        """Return what a server says with its number, after the files that have changed, if it is time for them."""
        said: list[tuple[int, Message]] = []
        ends = "exit" in message or "server" in message
        if self.changes and (ends or time.monotonic() - self.looked_at > LOOK_SECONDS):
            self.looked_at = time.monotonic()
            parcel, there = self.changes.take(ends)
            if parcel:
                said.append((-1, {"files": parcel, "run": self.changes.files.path.name, "checkpoints": there}))
        return said + [(number, message) for number, other in list(self.servers.items()) if other is server]

    def kill(self, number: int, process: int | None, signal: int) -> None:
        """Send a signal to the process of a run, or to a server."""
        if number in self.servers:
            self.servers[number].kill(process, signal)

    def close(self, number: int) -> None:
        """End a server and its current run."""
        if number in self.servers:
            self.servers.pop(number).close()

    def leave(self) -> None:
        """End all servers, and remove the copy of the folder."""
        for number in [*self.servers]:
            self.close(number)
        if self.rank_host:
            self.rank_host.close()
        if self.folder:
            shutil.rmtree(self.folder.path, ignore_errors=True)


def complaint(nodes: Sequence[Mapping[str, Any]], identity: str | None) -> str | None:
    """Return why runs cannot be on these nodes together, by the `Node.facts` of each; None if they can.

    `identity` is that of the base which the bakeoff was planned with, if there is one.
    """
    blind = [facts["host"] for facts in nodes if not facts["sees"]] if len(nodes) > 1 else []
    found = [misfit(facts, identity) for facts in nodes]
    found += [f"{host} does not see the run folder, as runs over several nodes must" for host in blind]
    return next(filter(None, found), None)


def misfit(facts: Mapping[str, Any], identity: str | None) -> str | None:
    """Return why a node with these `Node.facts` cannot be used; None if it can."""
    if facts["error"]:
        return f"{facts['host']} does not have the base ({facts['error']})"
    if identity is not None and facts["base"] != identity:
        return f"{facts['host']} has another base than this bakeoff was planned with"
    here, there = machine(), facts["machine"]
    for name in ("python", *PACKAGES):
        if here[name] != there[name]:
            return f"{facts['host']} has {name} {there[name]}, and here is {here[name]}"
    return None
