"""Where the runs of a soak are carried out, and what can be ended there: see `survive.py`."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from processes import Victims, children, of_server, victims

AWAY_SECONDS = 5.0  # that a node may be away until another one comes


class Local:
    """One run at a time on this machine."""

    what = "processes killed at random moments"
    settings: tuple[str, ...] = ()
    weights: ClassVar = {"run": 8, "driver": 2, "server": 1}

    def victims(self, driver: int) -> Victims:
        """Return the processes of a bakeoff by what they are."""
        return victims(driver)

    def strike(self, wanted: str, pid: int) -> None:
        """End a process, or what stands for it."""
        os.kill(pid, signal.SIGKILL)

    def recover(self, chosen: random.Random) -> None:
        """Put back what the bakeoff needs and cannot start itself."""


class Slots(Local):
    """Two runs at a time on this machine."""

    what = "processes killed at random moments, two workers"
    settings = ("machine.workers=2",)


class OnRay(Local):
    """Two nodes of a Ray cluster on this machine, with one slot each; its head has none."""

    what = "processes killed at random moments, two nodes of Ray"
    weights: ClassVar = {"run": 4, "driver": 3, "worker": 4, "node": 4}

    def __init__(self, cluster: Any):
        self.cluster = cluster
        machine = f"{{executor: ray, address: '{cluster.address}', resources: {{slot: 1}}, workers: 2}}"
        self.settings = (f"machine={machine}",)

    def victims(self, driver: int) -> Victims:
        """Return the processes of a bakeoff by what they are; a node is named by its raylet."""
        found = Victims(list, driver=[driver], node=[raylet(node) for node in self.cluster.worker_nodes])
        found["worker"] = [pid for node in found["node"] for pid in children(node) if is_worker(pid)]
        for worker in found["worker"]:
            for server in children(worker):
                of_server(found, server)
        return found

    def strike(self, wanted: str, pid: int) -> None:
        """End a process, or a whole node as if its machine were gone."""
        if wanted == "node":
            gone = next(node for node in self.cluster.worker_nodes if raylet(node) == pid)
            self.cluster.remove_node(gone, allow_graceful=False)
        else:
            super().strike(wanted, pid)

    def recover(self, chosen: random.Random) -> None:
        """Add the nodes that are gone, after a while."""
        while len(self.cluster.worker_nodes) < 2:
            time.sleep(chosen.uniform(0, AWAY_SECONDS))
            self.cluster.add_node(**NODE)


NODE = {"num_cpus": 1, "resources": {"slot": 1}, "object_store_memory": 10**8}


def raylet(node: Any) -> int:
    """Return the process that a node of Ray is known by."""
    return node.all_processes["raylet"][0].process.pid


def is_worker(pid: int) -> bool:
    """Return whether a process is that of one of our actors."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Node")
    except OSError:
        return False


@contextmanager
def on_ray() -> Iterator[OnRay]:
    """Start a cluster, and end it afterwards."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 10**8, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    place = OnRay(cluster)
    try:
        place.recover(random.Random())
        yield place
    finally:
        cluster.shutdown()


@contextmanager
def on_this_machine(kind: type[Local]) -> Iterator[Local]:
    """Yield a place that needs nothing."""
    yield kind()


PLACES = {"local": lambda: on_this_machine(Local), "slots": lambda: on_this_machine(Slots), "ray": on_ray}
