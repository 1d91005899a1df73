"""A slot on the nodes of a Ray cluster, and its servers of runs, as the driver sees them.

A slot is an actor (`node.Node`) that holds the resources of one run. If no node has as many devices as share a run, it
is several of them in a placement group: the first one has rank 0, and the others start their ranks for it.
"""

import secrets
import signal
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from bakeoff.compute.run.rank_host import LAST_SECONDS, LOST
from bakeoff.driver.executor import Slot
from bakeoff.driver.node import Node, complaint
from bakeoff.driver.parcel import Parcel, of_run
from bakeoff.driver.ray_cluster import Head
from bakeoff.driver.run_server import Inbox, Message
from bakeoff.driver.slot_folder import SlotFolder
from bakeoff.errors import SetupError
from bakeoff.store.records import Task
from bakeoff.store.run_folder import Folder

TALK = "talk"  # the thread of an actor that passes on what is said; another one takes calls, in their order
Steps: TypeAlias = Generator[list[Any], list[Any], None]


class Cluster(Protocol):
    """What a slot needs to know of its executor."""

    ray: Any
    head: Head
    folder: Folder
    slots: list[Slot]
    fault: Exception | None  # of writing what a node has sent
    device: str  # of runs, as machine.device names one
    share: dict[str, float]  # what a run takes of each of its nodes
    parts: int  # on how many nodes it is
    ranks: int  # how many processes it has on each
    threads: int | None  # of each process; None: what Ray lets it use
    identity: str | None  # of the base
    asked: tuple[Any, ...]  # what nodes are asked

    def parcel(self) -> Any:
        """Return a reference to what every run reads."""

    def take_files(self, message: Message) -> None:
        """Write what a run has left on a node without the folder."""

    def is_loss(self, error: Exception) -> bool:
        """Return whether an error means that an actor's node is gone."""


class RemoteServer:
    """A server of runs on a slot's node."""

    def __init__(self, slot: "RaySlot", number: int, kind: str):
        self.slot, self.actor, self.number, self.kind = slot, slot.actor, number, kind
        self.status: int | None = None

    def ask(self, folder: Path, task: Task, device: str, beside: int) -> None:
        """Ask for a run; where the node has no shared folder the run's files go with it."""
        parcel: Parcel = {}
        if not self.slot.sees:
            parcel = of_run(Folder(folder), filter(None, (task.run.id, task.run.adopts)))
        where = str(folder.resolve())
        self.actor.ask.remote(self.number, self.kind, where, task.run, task.left, beside, parcel)

    def kill(self, process: int | None, number: int) -> None:
        """Send a signal to the process of a run, or to the server."""
        self.actor.kill.remote(self.number, process, int(number))

    def ended(self) -> int | None:
        """Return the status that the server was said to have ended with, or has since its node is gone."""
        gone = self.slot.lost or self.slot.actor is not self.actor
        return -9 if gone and self.status is None else self.status

    def close(self) -> None:
        """End the server and its run."""
        self.actor.close.remote(self.number)


class RaySlot(Slot):
    """A slot on whichever node Ray finds room, or on several."""

    numbers = count()

    def __init__(self, cluster: Cluster, inbox: Inbox):
        super().__init__("", cluster.device, {}, inbox)
        self.ray, self.cluster = cluster.ray, cluster
        self.refused: str | None = None
        self.nodes: list[Any] = []
        self.group: Any = None
        self.place_again()

    def place_again(self) -> None:
        """Ask Ray for a place, and give back what is left of an earlier one."""
        self.release()
        self.servers, self.spare, self.ready, self.lost, self.sees = {}, None, False, False, True
        self.files, self.why = None, ""  # why it was lost, if its nodes have failed by something
        parts = self.cluster.parts
        if parts > 1:
            self.group = self.ray.util.placement_group([self.cluster.share] * parts, strategy="PACK")
        self.nodes = [self.node(part) for part in range(parts)]
        self.actor = self.nodes[0]
        self.steps = self.settling()
        self.awaited = next(self.steps)

    def node(self, part: int) -> Any:
        """Ask Ray for the actor of one part of the slot."""
        options: dict[str, Any] = {"num_cpus": 0, **as_options(self.cluster.share)}
        if self.group is not None:
            strategy = self.ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
            options["scheduling_strategy"] = strategy(self.group, placement_group_bundle_index=part)
        actor = self.ray.remote(concurrency_groups={TALK: 1})(Node).options(**options)
        return actor.remote(self.device, self.cluster.threads)

    def release(self) -> None:
        """Give all places back; what runs there ends."""
        for node in self.nodes:
            self.ray.kill(node)
        if self.group is not None:
            self.ray.util.remove_placement_group(self.group)
        self.nodes, self.group = [], None

    def usable(self) -> bool:
        """Return whether the slot has a place, and its nodes were found to fit."""
        return self.ready and not self.lost

    def begin(self, folder: Folder, task: Task, stall_seconds: float) -> None:
        """Start a run."""
        others = [slot for slot in self.cluster.slots if slot is not self and slot.place == self.place]
        self.beside = 0 if self.cluster.share.get("GPU", 0) >= 1 else len(others)
        super().begin(folder, task, stall_seconds)

    def start(self, kind: str) -> RemoteServer:
        """Start a server."""
        server = RemoteServer(self, next(self.numbers), kind)
        self.actor.start.remote(server.number, kind)
        self.by_number[server.number] = server
        return server

    def settle(self) -> str | None:
        """Begin to use the slot if Ray has placed it; return a note if its nodes cannot be used."""
        if len(self.ray.wait(self.awaited, num_returns=len(self.awaited), timeout=0)[0]) < len(self.awaited):
            return None
        try:
            found = self.ray.get(self.awaited)
        except Exception as error:
            if self.cluster.is_loss(error):
                self.place_again()
                return None
            self.refused = f"a node cannot run bakeoff ({last_line(error)})"
            self.release()
            return self.refused
        try:
            self.awaited = self.steps.send(found)
        except StopIteration:
            self.begin_to_listen()
        return self.refused

    def settling(self) -> Steps:
        """Yield what the nodes are asked, one step after the other, and get their answers; refuse what does not fit."""
        facts = yield [node.facts.remote(*self.cluster.asked) for node in self.nodes]
        self.place = ", ".join(dict.fromkeys(one["host"] for one in facts))
        self.sees = all(one["sees"] for one in facts)
        self.refused = complaint(facts, self.cluster.identity)
        if self.refused:
            self.release()
            return
        if not self.sees:
            yield [self.actor.receive.remote(self.cluster.parcel())]
        else:
            self.files = SlotFolder(self.cluster.folder)
        if others := self.nodes[1:]:
            word, toward = secrets.token_hex(), self.cluster.head.place
            hosts = yield [node.host_ranks.remote(toward, word) for node in others]
            yield [self.actor.lead.remote(toward, self.cluster.ranks, hosts, word)]

    def begin_to_listen(self) -> None:
        """Begin to use the slot, unless it was refused."""
        if self.refused is None:
            self.ready, self.by_number = True, dict[int, RemoteServer]()
            threading.Thread(target=self.listen, args=(self.actor, self.by_number), daemon=True).start()

    def listen(self, actor: Any, servers: dict[int, RemoteServer]) -> None:
        """Put what the node's servers say into the inbox, until one of the slot's nodes is gone."""
        try:
            while self.pass_on(self.heard(actor), servers):
                pass
        except Exception as error:  # the actor has died, or this driver ends
            self.why = "" if self.cluster.is_loss(error) else last_line(error)
        self.lost = True
        for server in list(servers.values()):
            server.status = -9
            self.inbox.put((server, {"server": -9, "lost": True}))

    def pass_on(self, said: Sequence[tuple[int, Message]], servers: dict[int, RemoteServer]) -> bool:
        """Put what was said into the inbox; first write the files that came. Return False if a node is gone."""
        for number, message in said:
            if "files" in message:
                try:
                    self.cluster.take_files(message)
                except (OSError, SetupError) as error:
                    self.cluster.fault = error  # ends the bakeoff
                    return False
            elif self.group is not None and LOST in (message.get("exit"), message.get("server")):
                return False
            elif number in servers:
                servers[number].status = message.get("server", servers[number].status)
                self.inbox.put((servers[number], message))
        return True

    def heard(self, actor: Any) -> list[tuple[int, Message]]:
        """Return what the node says next; raise Ray's error if it is gone.

        If a run was killed, the node may be going, and has ended its processes first. So it is asked once more.
        """
        hear = actor.hear.options(concurrency_group=TALK)
        said = self.ray.get(hear.remote())
        if any(message.get("exit") == -signal.SIGKILL for _, message in said):
            time.sleep(LAST_SECONDS)
            said += self.ray.get(hear.remote(0.1))
        return said

    def leave(self) -> list[Any]:
        """Ask all nodes to end what runs there, and to remove a copy of the folder; return what can be waited for."""
        return [node.leave.remote() for node in self.nodes] if self.usable() else []

    def close(self) -> None:
        """Give the slot's place back; what runs there ends, and the node's copy of the folder is removed."""
        if not self.sees:
            with suppress(Exception):  # it is gone
                self.ray.get(self.leave(), timeout=5)
        self.release()


def last_line(error: Exception) -> str:
    """Return the last line of what Ray says of an error on a node; the others are a traceback."""
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[-1]:.200}"


def as_options(resources: dict[str, float]) -> dict[str, Any]:
    """Return resources as options of Ray's actors."""
    own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    others = {name: amount for name, amount in resources.items() if name not in own}
    return {own[name]: amount for name, amount in resources.items() if name in own} | {"resources": others}
