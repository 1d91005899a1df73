"""Runs on the nodes of a Ray cluster. Ray places slots and passes on what is said; all else is as on one machine.

Each slot is an actor (`node.Node`) that holds the resources of one run. If its node is lost, the run continues from
its checkpoint elsewhere, and the slot waits until the cluster has room for it again.
"""

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from bakeoff.config.config import Config
from bakeoff.config.planned import planned_config
from bakeoff.driver.executor import Executor, Slot
from bakeoff.driver.node import Node, misfit
from bakeoff.driver.parcel import Parcel, of_run, shared_by_runs, unpack
from bakeoff.driver.ray_cluster import Head, connected, head_address
from bakeoff.driver.ready import ReadySet
from bakeoff.driver.run_server import Inbox, Message
from bakeoff.errors import SetupError
from bakeoff.store.checksums import digest
from bakeoff.store.events import Event, Note
from bakeoff.store.records import Task
from bakeoff.store.run_folder import Folder

SILENT_SECONDS = 60.0  # without any node, then a note says what the driver waits for
LAST_SECONDS = 5.0  # that a node which goes may live longer than the runs on it
TALK = "talk"  # the thread of an actor that passes on what is said; another one takes calls, in their order


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
    """A slot on whichever node Ray finds room."""

    numbers = count()

    def __init__(self, ray: Any, executor: "RayExecutor", inbox: Inbox):
        super().__init__("", executor.settings.device, {}, inbox)
        self.ray, self.executor = ray, executor
        self.refused: str | None = None
        self.place_again()

    def place_again(self) -> None:
        """Ask Ray for a place."""
        options: dict[str, Any] = {"num_cpus": 0, **self.executor.options}
        self.servers, self.spare, self.ready, self.lost, self.sees = {}, None, False, False, True
        self.actor = self.ray.remote(concurrency_groups={TALK: 1})(Node).options(**options).remote(self.device)
        self.pending = self.actor.facts.remote(*self.executor.asked)

    def usable(self) -> bool:
        """Return whether the slot has a place, and its node was found to fit."""
        return self.ready and not self.lost

    def begin(self, folder: Folder, task: Task, stall_seconds: float) -> None:
        """Start a run."""
        others = [slot for slot in self.executor.slots if slot is not self and slot.place == self.place]
        self.beside = 0 if "GPU" in self.executor.per_slot else len(others)
        super().begin(folder, task, stall_seconds)

    def start(self, kind: str) -> RemoteServer:
        """Start a server."""
        server = RemoteServer(self, next(self.numbers), kind)
        self.actor.start.remote(server.number, kind)
        self.by_number[server.number] = server
        return server

    def settle(self) -> str | None:
        """Begin to use the slot if Ray has placed it; return a note if its node cannot be used."""
        if not self.ray.wait([self.pending], timeout=0)[0]:
            return None
        try:
            facts = self.ray.get(self.pending)
        except Exception as error:
            if self.executor.is_loss(error):
                self.place_again()
                return None
            self.refused = f"a node cannot run bakeoff ({str(error).strip().splitlines()[-1]:.200})"
            return self.refused
        if facts:
            self.place, self.sees = facts["host"], facts["sees"]
            self.refused = misfit(facts, self.executor.identity)
            if self.refused:
                self.ray.kill(self.actor)
                return self.refused
            if not self.sees:
                self.pending = self.actor.receive.remote(self.executor.parcel())
                return None
        self.ready, self.by_number = True, dict[int, RemoteServer]()
        threading.Thread(target=self.listen, args=(self.actor, self.by_number), daemon=True).start()
        return None

    def listen(self, actor: Any, servers: dict[int, RemoteServer]) -> None:
        """Put what the node's servers say into the inbox, until the node is gone; first write the files that came."""
        try:
            while True:
                for number, message in self.heard(actor):
                    if "files" in message:
                        self.executor.take_files(message)  # an error in it ends the bakeoff
                    elif number in servers:
                        servers[number].status = message.get("server", servers[number].status)
                        self.inbox.put((servers[number], message))
        except Exception as error:  # the actor has died, or this driver ends
            if isinstance(error, OSError | SetupError):
                self.executor.fault = error
            self.lost = True
            for server in list(servers.values()):
                server.status = -9
                self.inbox.put((server, {"server": -9, "lost": True}))

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

    def close(self) -> None:
        """Give the slot's place back; what runs there ends, and the node's copy of the folder is removed."""
        if self.usable() and not self.sees:
            with suppress(Exception):  # it is gone
                self.ray.get(self.actor.leave.remote(), timeout=5)
        self.ray.kill(self.actor)


class RayExecutor(Executor):
    """Carries out runs on a cluster. `machine.workers` slots, by default as many as there is room for."""

    def __init__(self, config: Config) -> None:
        self.settings = config.machine
        self.fault: Exception | None = None  # of writing what a node has sent
        super().__init__([], queue.SimpleQueue())
        self.ray, self.connects = connected(self.settings)
        self.head = Head(head_address(self.ray, self.settings))
        try:
            self.options = self.resources()
        except SetupError:
            self.__exit__()
            raise
        self.waiting_since, self.told = 0.0, False

    def resources(self) -> dict[str, Any]:
        """Return what a slot asks of a node, as Ray's options; raise SetupError if no node has as much."""
        there = self.ray.cluster_resources()
        shards = float(self.settings.shards)
        asked = self.settings.resources or ({"GPU": shards} if there.get("GPU") else {"CPU": shards})
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        waits = self.settings.workers is not None  # for nodes that an autoscaler starts
        if not waits and not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            has = ", ".join(f"{named(node)}" for node in nodes) or "no node"
            raise SetupError(
                f"machine.resources: no node of the cluster has {named(asked)}. There is: {has}. "
                "Try: -s 'machine.resources={CPU: 1}', or --workers N, which waits for nodes to come"
            )
        self.per_slot = asked
        own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
        others = {name: amount for name, amount in asked.items() if name not in own}
        return {own[name]: amount for name, amount in asked.items() if name in own} | {"resources": others}

    def room(self) -> int:
        """Return how many slots the cluster's nodes have room for."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return sum(
            int(min(node.get(name, 0) // amount for name, amount in self.per_slot.items() if amount)) for node in nodes
        )

    def start_early(self) -> None:
        """Do nothing: where runs will be carried out is not known yet."""

    def spread(self, devices: Sequence[str]) -> None:
        """Have as many slots as the config says, or as there is room for now. They are placed when runs begin."""
        self.slots = [Slot("", self.settings.device, {}, self.inbox)] * (self.settings.workers or max(1, self.room()))

    def run(self, path: Path, ready: ReadySet, stop: Callable[[], bool] = bool) -> Iterator[Event]:
        """Carry out what is ready on the cluster's nodes; see `Executor.run`."""
        self.folder = Folder(path)
        plan = self.folder.plan()
        config = planned_config(self.folder, plan)
        self.identity = plan.model.identity
        self.asked = (str(path.resolve()), digest(self.folder.plan_file), config.model, config.pin)
        self.bundle: Any = None
        self.waiting_since = time.monotonic()
        self.slots = [RaySlot(self.ray, self, self.inbox) for _ in self.slots]
        yield from super().run(path, ready, stop)

    def close(self) -> None:
        """End the current runs, and give the slots' places back. Without a head Ray kills no actors: they are asked."""
        if not self.head.silent:
            super().close()
            return
        leaving = [slot.actor.leave.remote() for slot in self.slots if isinstance(slot, RaySlot) and slot.usable()]
        self.slots = []
        if leaving:
            self.ray.wait(leaving, num_returns=len(leaving), timeout=LAST_SECONDS)

    def __exit__(self, *words: object) -> None:
        super().__exit__(*words)
        self.head.close()
        if self.connects:
            self.ray.shutdown()

    def parcel(self) -> Any:
        """Return a reference to what every run reads, in Ray's object store."""
        if self.bundle is None:
            self.bundle = self.ray.put(shared_by_runs(self.folder))
        return self.bundle

    def renew(self) -> Iterator[Event]:
        """Begin to use slots that were placed, and place those anew whose nodes are lost."""
        if self.fault:
            raise self.fault
        if self.head.gone:
            raise SetupError(
                f"machine.address: the head of the Ray cluster ({self.head.address}) has not answered for "
                f"{self.head.silent:.0f} seconds. Try: the same command again once the cluster is back; it resumes"
            )
        if self.head.silent:  # what asks it for something would wait
            return
        for slot in [slot for slot in self.slots if isinstance(slot, RaySlot)]:
            if slot.lost and slot.attempt is None:
                yield Note(text=f"a slot on {slot.place} is lost; its run continues elsewhere from its checkpoint")
                slot.place_again()
            if not slot.ready and slot.refused is None and (note := slot.settle()):
                yield Note(text=f"{note}, so it is not used")
                self.slots.remove(slot)
                if not self.slots:
                    raise SetupError(f"machine.executor: {note}. Try: the same versions and base on all nodes")
        if any(slot.usable() for slot in self.slots):
            self.waiting_since = time.monotonic()
        elif time.monotonic() - self.waiting_since > SILENT_SECONDS and not self.told:
            self.told = True
            free = named(self.ray.available_resources())
            yield Note(text=f"waiting for a free slot: asked for is {named(self.per_slot)}, free is {free}")

    def is_loss(self, error: Exception) -> bool:
        """Return whether an error means that an actor's node is gone."""
        return isinstance(error, self.ray.exceptions.RayActorError) and "creation task" not in str(error)

    def take_files(self, message: Message) -> None:
        """Write what a run has left on a node without the folder, and delete the checkpoints that it has deleted."""
        unpack(self.folder, message["files"])
        checkpoints = self.folder.run(message["run"]).checkpoints
        for file in checkpoints.glob("*.safetensors"):
            if file.name not in message["checkpoints"]:
                file.unlink()


def named(resources: dict[str, float]) -> str:
    """Return resources in words, without those that Ray has for itself."""
    own = {k: v for k, v in sorted(resources.items()) if not k.startswith(("node:", "object_store"))}
    sizes = {name: f"{v / 2**30:.1f} GiB" if name == "memory" else f"{v:g}" for name, v in own.items()}
    return ", ".join(f"{name} {amount}" for name, amount in sizes.items()) or "nothing"
