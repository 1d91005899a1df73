"""A stand-in for Ray with its nodes in this process: calls of an actor in their order, one group of them beside."""

import concurrent.futures
import queue
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

from bakeoff.compute.run.execution import execute
from bakeoff.compute.run.handover import Given
from bakeoff.compute.run.rank_host import LOST
from bakeoff.driver import node
from bakeoff.errors import SetupError
from bakeoff.interrupts import MachineLost
from bakeoff.store.files import append_jsonl
from bakeoff.store.records import Run, RunResult
from bakeoff.store.run_folder import Folder

ONE_AT_A_TIME = threading.Lock()  # runs in one process share torch's random numbers


class LostError(Exception):
    """The error of calls to an actor whose node is gone."""


class Ended(BaseException):
    """Ends a run in the middle, as a signal ends its process."""


class Ray:
    """A cluster of so many nodes, each with room for one actor."""

    exceptions = SimpleNamespace(RayActorError=LostError)
    util = SimpleNamespace(
        placement_group=lambda bundles, strategy: bundles, remove_placement_group=lambda group: None,
        scheduling_strategies=SimpleNamespace(PlacementGroupSchedulingStrategy=lambda *_, **__: None),
    )  # fmt: skip

    def __init__(self, nodes=1, has=None):
        self.has, self.count, self.actors = has or {"CPU": 1.0}, nodes, []
        self.head = SimpleNamespace(
            gone=False, silent=0.0, address="10.0.0.1:6379", place=("127.0.0.1", 6379), close=lambda: None
        )

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {name: self.count * amount for name, amount in self.has.items()}

    def available_resources(self):
        return {}

    def nodes(self):
        return [{"Alive": True, "Resources": self.has}] * self.count

    def remote(self, **_):
        return lambda kind: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *a: self.place(kind, *a)))

    def place(self, kind, *arguments):
        self.actors.append(Actor(self, kind(*arguments)))
        self.settle()
        return self.actors[-1]

    def settle(self):
        """Let actors that wait begin where a node is free."""
        for actor in self.actors:
            if not actor.alive.is_set() and not actor.dead and len(self.living()) < self.count:
                actor.begin()

    def living(self):
        return [actor for actor in self.actors if actor.alive.is_set() and not actor.dead]

    def lose(self, actor, whole=False):
        """Let an actor's node go; another one comes unless it is the `whole` node that stays away."""
        self.count -= whole
        self.kill(actor)

    def kill(self, actor):
        if not actor.dead:
            actor.dead = True
            actor.end()
        self.settle()

    def put(self, value):
        future = Future()
        future.set_result(value)
        return future

    def get(self, future, timeout=None):
        return [one.result(timeout) for one in future] if isinstance(future, list) else future.result(timeout)

    def wait(self, futures, num_returns=1, timeout=None):
        if timeout:
            concurrent.futures.wait(futures, timeout)
        return [future for future in futures if future.done()], []

    def shutdown(self):
        pass


class Actor:
    """An object whose methods are called by two threads: one for `hear`, one for all others."""

    def __init__(self, ray, node):
        self.ray, self.node, self.dead, self.alive = ray, node, False, threading.Event()
        self.calls = {"hear": queue.SimpleQueue(), "others": queue.SimpleQueue()}

    def begin(self):
        self.alive.set()
        for calls in self.calls.values():
            threading.Thread(target=self.work, args=(calls,), daemon=True).start()

    def work(self, calls):
        while True:
            name, arguments, future = calls.get()
            try:
                given = [a.result() if isinstance(a, Future) else a for a in arguments]
                result = getattr(self.node, name)(*given)
            except Exception as error:
                result = error
            if self.dead:
                future.set_exception(LostError())
            elif isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def end(self):
        for server in self.node.servers.values():
            server.gone = True
        if self.node.rank_host:
            self.node.rank_host.close()

    def __getattr__(self, name):
        def remote(*arguments):
            future = Future()
            if self.dead:
                future.set_exception(LostError())
            else:
                self.calls.get(name, self.calls["others"]).put((name, arguments, future))
            return future

        method = SimpleNamespace(remote=remote)
        method.options = lambda **_: method
        return method


class InlineServer:
    """A server that carries out runs in a thread of this process; `seen` gets each event before it is said."""

    seen = staticmethod(lambda server, event: None)

    def __init__(self, words, environment, inbox):
        self.inbox, self.gone = inbox, False

    def ask(self, path, task, device, beside, elsewhere):
        self.place = path
        threading.Thread(target=self.carry_out, args=(path, task, elsewhere), daemon=True).start()

    def carry_out(self, path, task, elsewhere):
        def emit(event):
            self.seen(self, event)
            if self.gone:
                raise Ended
            self.inbox.put((self, {"event": event.row()}))

        self.inbox.put((self, {"started": 1}))
        with ONE_AT_A_TIME:
            try:
                execute(path, task.run.id, task.left, emit, given=Given(elsewhere=elsewhere))
            except Ended:
                return
            except MachineLost:
                self.inbox.put((self, {"exit": LOST}))
                return
            except SetupError:
                if self.gone:  # a process would have been killed before its files were removed
                    return
                raise
        self.inbox.put((self, {"exit": 0}))

    def kill(self, process, number):
        self.gone = True

    def ended(self):
        return None

    def close(self):
        self.gone = True


def spoil(place, run_id):
    """Do to a run's files, where they were lent, what a node that was cut off may do, and worse.

    Nothing as long as the driver has not taken them back: until then they are what counts.
    """
    if Path(f"{place}.json").exists():
        return
    files = Folder(place).run(run_id)
    for file in [file for file in files.path.rglob("*") if file.is_file()]:
        file.unlink()  # all files of a run but those that grow are replaced, and never written again
        file.write_bytes(b"spoilt")
    append_jsonl(files.metrics_file, {"step": 9999, "epoch": 9.0, "seconds": 1.0, "validation/loss": 0.0})
    files.write_result(RunResult(Run(run_id, "lora", "entry", "lora", {}, 0), "failed", error="cut off"))


def installed(patch, ray):
    """Let bakeoffs use this stand-in, and its nodes carry out runs in this process."""
    from bakeoff.driver import ray_executor

    patch.setattr(ray_executor, "connected", lambda _: (ray, False))
    patch.setattr(ray_executor, "head_address", lambda *_: "10.0.0.1:6379")
    patch.setattr(ray_executor, "Head", lambda address: ray.head)
    patch.setattr(node, "RunServer", InlineServer)
    patch.setattr(node, "HEAR_SECONDS", 0.05)
    patch.setattr(node, "LOOK_SECONDS", 0.0)
    return ray
