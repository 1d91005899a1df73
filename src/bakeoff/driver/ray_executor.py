"""Runs on the nodes of a Ray cluster. Ray places slots and passes on what is said; all else is as on one machine.

If a slot's node is lost, its run continues from its checkpoint elsewhere, and the slot waits until the cluster has room
for it again.
"""

import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.compute.run.rank_host import LAST_SECONDS
from bakeoff.config.config import Config
from bakeoff.config.planned import planned_config
from bakeoff.driver.executor import Executor, Slot
from bakeoff.driver.parcel import shared_by_runs, unpack
from bakeoff.driver.ray_cluster import Head, connected, head_address
from bakeoff.driver.ray_slot import RaySlot, last_line
from bakeoff.driver.ready import ReadySet
from bakeoff.driver.run_server import Message
from bakeoff.driver.shards import check_gpus
from bakeoff.errors import SetupError
from bakeoff.store.checksums import digest
from bakeoff.store.events import Event, Note
from bakeoff.store.run_folder import Folder

DECIMALS = 4  # of a resource's amount, which Ray takes
MOST_SLOTS = 1024  # as many as machine.workers may say
SILENT_SECONDS = 60.0  # without any node, then a note says what the driver waits for


class RayExecutor(Executor):
    """Carries out runs on a cluster. `machine.workers` slots, by default as many as there is room for."""

    def __init__(self, config: Config) -> None:
        self.settings = config.machine
        self.device = config.machine.device
        self.fault: Exception | None = None  # of writing what a node has sent
        super().__init__([], queue.SimpleQueue())
        self.ray, self.connects = connected(self.settings)
        self.head = Head(head_address(self.ray, self.settings))
        try:
            self.parts, self.share = self.divided()
        except SetupError:
            self.__exit__()
            raise
        self.ranks = self.settings.shards // self.parts
        # Ray lets a worker use all the processors of its place, and each process of a run would use as many.
        self.threads = max(1, int(self.share.get("CPU", 1) // self.ranks)) if self.ranks > 1 else None
        self.waiting_since, self.told = 0.0, False

    def divided(self) -> tuple[int, dict[str, float]]:
        """Return on how many nodes a run is, the fewest that the cluster has room for, and what it takes of each.

        Raises SetupError if there is no room, unless it waits for nodes that an autoscaler starts.
        """
        shards = self.settings.shards
        gpus = self.ray.cluster_resources().get("GPU")
        asked = self.settings.resources or {"GPU" if gpus else "CPU": float(shards)}
        check_gpus(asked, shards)
        least = shards / 10**DECIMALS
        for name, amount in asked.items():
            if amount < least:
                raise SetupError(
                    f"machine.resources: {name} {amount:g} is less than Ray counts. Try: {name}: {least:g}"
                )
        shares = {n: {name: round(amount / n, DECIMALS) for name, amount in asked.items()} for n in divisors(shards)}
        nodes = self.nodes()
        for parts, share in shares.items():
            if sum(fits(share, node) for node in nodes) >= parts:
                return parts, share
        if self.settings.workers is not None:
            return next(((n, share) for n, share in shares.items() if any(fits(share, x) for x in nodes)), (1, asked))
        has = ", ".join(f"{named(of_users(node))}" for node in nodes) or "no node"
        where = "no node of the cluster has" if shards == 1 else "no nodes of the cluster have together"
        raise SetupError(
            f"machine.resources: {where} {named(asked)}. There is: {has}. "
            f"Try: -s 'machine.resources={{CPU: {shards}}}', or --workers N, which waits for nodes to come"
        )

    def nodes(self) -> list[Mapping[str, float]]:
        """Return what the nodes of the cluster have."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def room(self) -> int:
        """Return how many slots the cluster's nodes have room for."""
        return min(MOST_SLOTS, sum(fits(self.share, node) for node in self.nodes()) // self.parts)

    def start_early(self) -> None:
        """Do nothing: where runs will be carried out is not known yet."""

    def spread(self, devices: Sequence[str]) -> None:
        """Have as many slots as the config says, or as there is room for now. They are placed when runs begin."""
        self.slots = [Slot("", self.settings.device, {}, self.inbox)] * (self.settings.workers or max(1, self.room()))

    def run(self, path: Path, ready: ReadySet, stop: Callable[[], bool] = bool) -> Iterator[Event]:
        """Carry out what is ready on the cluster's nodes; see `Executor.run`.

        Raises SetupError if Ray does not take what a run takes of a node.
        """
        self.folder = Folder(path)
        plan = self.folder.plan()
        config = planned_config(self.folder, plan)
        self.identity = plan.model.identity
        self.asked = (str(path.resolve()), digest(self.folder.plan_file), config.model, config.pin)
        self.bundle: Any = None
        self.waiting_since = time.monotonic()
        try:
            self.slots = [RaySlot(self, self.inbox) for _ in self.slots]
        except (TypeError, ValueError) as error:
            raise SetupError(
                f"machine.resources: Ray refuses {named(self.share)} ({last_line(error)}). Try: {{GPU: 1, CPU: 4}}"
            ) from None
        yield from super().run(path, ready, stop)

    def close(self) -> None:
        """End the current runs, and give the slots' places back. Without a head Ray kills no actors: they are asked."""
        if not self.head.silent:
            super().close()
            return
        leaving = [answer for slot in self.slots if isinstance(slot, RaySlot) for answer in slot.leave()]
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
                why = f" ({slot.why})" if slot.why else ""
                yield Note(text=f"a slot on {slot.place} is lost{why}; its run continues elsewhere from its checkpoint")
                slot.place_again()
            if not slot.ready and slot.refused is None and (note := slot.settle()):
                yield Note(text=f"{note}, so it is not used")
                self.slots.remove(slot)
                if not self.slots:
                    blind = self.parts > 1 and not slot.sees
                    cure = "an output folder that all nodes see" if blind else "the same versions and base on all nodes"
                    raise SetupError(f"machine.executor: {note}. Try: {cure}")
        if any(slot.usable() for slot in self.slots):
            self.waiting_since = time.monotonic()
        elif time.monotonic() - self.waiting_since > SILENT_SECONDS and not self.told:
            self.told = True
            asked = {name: self.parts * amount for name, amount in self.share.items()}
            free = named(of_users(self.ray.available_resources()))
            yield Note(text=f"waiting for a free slot: asked for is {named(asked)}, free is {free}")

    def is_loss(self, error: Exception) -> bool:
        """Return whether an error means that an actor's node is gone."""
        return isinstance(error, self.ray.exceptions.RayActorError) and "creation task" not in str(error)

    def take_files(self, message: Message) -> None:
        """Write what a run has left on a node without the folder, and delete the checkpoints that it has deleted."""
        files = self.folder.run(message["run"])
        unpack(self.folder, message["files"], f"runs/{files.path.name}/")
        checkpoints = files.checkpoints
        for file in checkpoints.glob("*.safetensors"):
            if file.name not in message["checkpoints"]:
                file.unlink()


def divisors(number: int) -> list[int]:
    """Return into how many equal parts a number can be divided, the fewest first."""
    return [n for n in range(1, number + 1) if number % n == 0]


def fits(share: Mapping[str, float], node: Mapping[str, float]) -> int:
    """Return how often a node with these resources has room for a share of them."""
    return int(min(node.get(name, 0) / amount for name, amount in share.items()) + 1e-6)  # 0.3 has room for three 0.1


def of_users(resources: Mapping[str, float]) -> dict[str, float]:
    """Return resources without those that Ray has for itself."""
    return {name: amount for name, amount in resources.items() if not name.startswith(("node:", "object_store"))}


def named(resources: Mapping[str, float]) -> str:
    """Return resources in words."""
    sizes = {name: f"{v / 2**30:.1f} GiB" if name == "memory" else f"{v:g}" for name, v in sorted(resources.items())}
    return ", ".join(f"{name} {amount}" for name, amount in sizes.items()) or "nothing"
