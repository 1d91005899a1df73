"""Runs, each in its own process, on one of several slots, which are places for one run at a time."""

import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from bakeoff.child_process import child, search_path
from bakeoff.config.config import Config
from bakeoff.config.planned import planned_config
from bakeoff.driver import left_jobs
from bakeoff.driver.attempt import POLL_SECONDS, Attempt
from bakeoff.driver.device import first_devices
from bakeoff.driver.environment import usable_cores
from bakeoff.driver.ready import ReadySet
from bakeoff.driver.retries import MOST_LOSSES, Retries
from bakeoff.driver.run_server import Inbox, RunServer, Server, environment_of
from bakeoff.driver.slot_folder import SlotFolder, tidy
from bakeoff.store.events import Event, Failed, Note
from bakeoff.store.records import RunResult, Step, Task
from bakeoff.store.run_folder import Folder

MOST_FAULTS = 2  # runs one after the other, then a device is not used any more


class Slot:
    """A place for one run at a time: a device, or a share of it.

    It has one server for runs that need a model, and one for runs that only score.
    """

    def __init__(self, place: str, device: str, environment: Mapping[str, str], inbox: Inbox, alone: bool = False):
        self.place, self.device, self.environment, self.inbox = place, device, environment, inbox
        self.beside = 0  # how many other slots have the same device
        options = ["--alone"] if alone else []
        self.words = {
            "model": child("compute.run.process", *options, device, *search_path()),
            "score": child("compute.run.scorer", *search_path()),
        }
        self.servers: dict[str, Server] = {}
        self.spare: Server | None = None
        self.attempt: Attempt | None = None
        self.files: SlotFolder | None = None  # where its runs write, on a cluster's disk
        self.faults = 0  # of its device, in runs one after the other

    def start(self, kind: str) -> Server:
        """Start a server."""
        return RunServer(self.words[kind], self.environment, self.inbox)

    def server(self, left: Step) -> Server:
        """Return the server of runs for which this is left to do; start it if it is not there, or has ended.

        A spare one that was started before takes its place at once.
        """
        kind = "score" if left == "score" else "model"
        server = self.servers.get(kind)
        while server is None or server.ended() is not None:
            if server:
                server.close()
            spare, self.spare = (self.spare, None) if kind == "model" else (None, self.spare)
            server = self.servers[kind] = spare or self.start(kind)
        return server

    def reserve(self) -> None:
        """Start a spare server of runs that need a model: the one there is may end with any run."""
        if self.spare is None:
            self.spare = self.start("model")

    def begin(self, folder: Folder, task: Task, stall_seconds: float) -> None:
        """Start a run."""
        server = self.server(task.left)
        self.attempt = Attempt(server, folder, task, stall_seconds, self.reserve, self.take_back)
        place = self.files.lend(task.run.id, task.run.adopts) if self.files else folder.path
        server.ask(place, task, self.device, self.beside)

    def usable(self) -> bool:
        """Return whether runs can be started here now."""
        return True

    def end(self) -> Task:
        """Leave the run that is over, and return its task."""
        assert self.attempt is not None
        self.take_back()
        task, self.attempt = self.attempt.task, None
        return task

    def take_back(self) -> None:
        """Take the files of a run that is over, where it had a folder of its own."""
        if self.files:
            self.files.take_back()

    def close(self) -> None:
        """End all servers, and the current run."""
        for server in filter(None, (*self.servers.values(), self.spare)):
            server.close()


class Executor:
    """Carries out runs, as many at a time as it has usable slots; if it is `lasting`, for one bakeoff after another."""

    def __init__(self, slots: Sequence[Slot], inbox: Inbox) -> None:
        self.slots, self.inbox, self.lasting = list(slots), inbox, False
        self.looked_at = 0.0  # when it was last seen what time has done to the runs

    def close(self) -> None:
        """End all servers, and the current runs."""
        for slot in self.slots:
            slot.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, path: Path, ready: ReadySet, stop: Callable[[], bool] = bool) -> Iterator[Event]:
        """Carry out what is `ready` of the bakeoff in folder `path` and yield the runs' events.

        If a process dies silently, or makes no progress for `safety.stall_seconds`, a failed record says so, and the
        next run starts. Once `stop` is true, every current run writes a checkpoint and KeyboardInterrupt is raised.
        Closing the iterator ends everything.
        """
        folder = Folder(path)
        stall, again, keep = planned_config(folder, folder.plan()).safety.stall_seconds, Retries(), False
        try:
            while True:
                yield from self.renew()
                for slot in [slot for slot in self.slots if slot.attempt is None and slot.usable()]:
                    if not stop() and (task := again.take(slot, self.slots) or ready.take()):
                        slot.begin(folder, task, stall)
                busy = [slot for slot in self.slots if slot.attempt]
                if not busy and (stop() or any(slot.usable() for slot in self.slots)):
                    break
                yield from self.hear(busy, stop)
                for slot in [slot for slot in busy if slot.attempt and slot.attempt.over]:
                    yield from self.leave(slot, folder, ready, again)
            if stop():  # before another run is chosen: this one may have left no record
                raise KeyboardInterrupt
            keep = self.lasting
        finally:
            if not keep:
                self.close()
            tidy(folder)

    def leave(self, slot: Slot, folder: Folder, ready: ReadySet, again: Retries) -> Iterator[Event]:
        """Take note that a slot's run is over: it has ended, or is carried out once more elsewhere."""
        assert slot.attempt is not None
        attempt, task = slot.attempt, slot.end()
        files, others = folder.run(task.run.id), [other for other in self.slots if other.place != slot.place]
        if attempt.lost and files.result() is None:
            if again.wants_lost(task, attempt.saved):
                return
            error = f"{MOST_LOSSES} machines were lost while they carried it out"
            files.write_result(RunResult(task.run, "failed", error=error, cause="ended"))
            yield Failed(run=task.run.id, error=error)
        elif others and again.wants(folder, task, slot):
            attempt.given_up = True
        if others and slot.faults >= MOST_FAULTS:
            self.slots.remove(slot)
            slot.close()
            self.lasting = False  # another bakeoff tries all places
            yield Note(text=f"{slot.place} is not used any more: {slot.faults} runs failed there")
        if not attempt.given_up:
            ready.end(task)

    def start_early(self) -> None:
        """Start what takes seconds to start, while a plan is made."""

    def take_over(self, folder: Folder, say: Callable[[str], None]) -> None:
        """End what a driver that was killed has left running in the folder elsewhere, or use it again.

        What takes long is said to the user. Afterwards nothing writes into the folder.
        """
        left_jobs.ended(folder, say)

    def spread(self, devices: Sequence[str]) -> None:
        """Make the slots of a bakeoff, which may use these devices of this machine."""

    def renew(self) -> Iterator[Event]:
        """Look which slots have come and gone."""
        return iter(())

    def hear(self, busy: Sequence[Slot], stop: Callable[[], bool]) -> Iterator[Event]:
        """Wait a moment for a message of a server; yield what it, and the time that passed, mean for the runs.

        What time does to all runs is looked at once in POLL_SECONDS, however many messages there are.
        """
        with suppress(queue.Empty):
            server, message = self.inbox.get(timeout=POLL_SECONDS)
            for slot in busy:
                if slot.attempt and slot.attempt.server is server:
                    yield from slot.attempt.take(message, 0.0, stop())
        passed = time.monotonic() - self.looked_at
        if passed < POLL_SECONDS:
            return
        self.looked_at += passed
        # What is longer than a poll is no silence: this process, and maybe the run's too, was itself at rest.
        passed = min(passed, 2 * POLL_SECONDS)
        for slot in busy:
            if slot.attempt and not slot.attempt.over:
                yield from slot.attempt.take(None, passed, stop())


class LocalExecutor(Executor):
    """Carries out runs on this machine.

    On an accelerator, or if `alone` is set, a server of runs that need a model does not fork: it carries them out
    itself, and ends when one fails. Meanwhile a spare server is started, and waits to replace it.
    """

    def __init__(self, config: Config, alone: bool = False) -> None:
        self.machine, self.environment, self.alone = config.machine, environment_of(config), alone
        super().__init__([], queue.SimpleQueue())
        self.slots = [self.slot(first_devices(self.machine))]

    def slot(self, device: str) -> Slot:
        """Return a slot on a device, or on several with commas between them."""
        name, environment = hiding_others(device, self.environment)
        processes = (self.machine.workers or 1) * self.machine.shards
        if processes > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
        return Slot(device, name, environment, self.inbox, self.alone)

    def spread(self, devices: Sequence[str]) -> None:
        """Have as many slots as `machine.workers` says, by default one per device.

        The first one is there already, or those of the bakeoff before.
        """
        count = self.machine.workers or len(devices)
        places = [devices[i % len(devices)] for i in range(count)]
        self.slots += [self.slot(place) for place in places[len(self.slots) :]]
        for slot, place in zip(self.slots, places, strict=False):  # one that only scores has fewer places
            slot.place, slot.beside, slot.faults = place, places.count(place) - 1, 0
            if self.slots[0].servers:  # started early
                slot.server("train")

    def start_early(self) -> None:
        """Start the server of runs that need a model: its imports take seconds, while a plan is made."""
        self.slots[0].server("train")


def hiding_others(device: str, environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return how a process names a device that has an index, and an environment that hides all others from it.

    Several devices have commas between them; the process then names their kind, and sees them all.

    Libraries open every GPU that they see, which takes some hundred MB of each.
    """
    kind, _, index = device.partition(":")
    indices = [name.partition(":")[2] for name in device.split(",")]
    if not index:
        return device, dict(environment)
    of_amd = {"HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"} & environment.keys()  # HIP's counts what ROCr's has left
    variables = {"cuda": "HIP_VISIBLE_DEVICES" if of_amd else "CUDA_VISIBLE_DEVICES"}
    variable = variables.get(kind, "ZE_AFFINITY_MASK")
    seen = environment.get(variable)
    names = [seen.split(",")[int(place)] for place in indices] if seen else indices
    return kind, {**environment, variable: ",".join(names)}
