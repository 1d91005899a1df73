"""Runs that are carried out once more: those that failed because of their device, and those whose machine is gone."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from bakeoff.store.records import Task
from bakeoff.store.run_folder import Folder

# What a run fails by if its device is at fault, for example taken by another process or fallen off the bus.
DEVICE_FAULT = re.compile(r"CUDA|HIP|cuBLAS|CUBLAS|cuDNN|CUDNN|XPU|Level Zero|machine\.device|no kernel image")
MOST_LOSSES = 5  # machines that a run may lose before it counts as failed: it may be what ends them


class Place(Protocol):
    """What is to be known of a slot: where it is, and how many runs its device has failed one after the other."""

    place: str
    faults: int


class Retries:
    """Runs that failed because of their device, and are carried out once more, on another one.

    Those whose machine is gone are carried out again anywhere, from their checkpoint.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Task, str]] = []  # and the place where each has failed
        self.tried: set[str] = set()
        self.losses = Counter[str]()  # machines, by run

    def wants_lost(self, task: Task, saved: bool) -> bool:
        """Return whether a run whose machine is gone is carried out again.

        It is not after too many; those that it was `saved` before do not count.
        """
        self.losses[task.run.id] += not saved
        if self.losses[task.run.id] < MOST_LOSSES:
            self.waiting.append((task, ""))
            return True
        return False

    def wants(self, folder: Folder, task: Task, slot: Place) -> bool:
        """Take note how a run has ended on a slot, and return whether it is carried out once more."""
        files = folder.run(task.run.id)
        record = files.result()
        fault = record is not None and record.cause in ("ended", "error") and DEVICE_FAULT.search(record.error or "")
        slot.faults = slot.faults + 1 if fault else 0
        if not fault or task.run.id in self.tried:
            return False
        self.tried.add(task.run.id)
        files.result_file.unlink()
        self.waiting.append((task, slot.place))
        return True

    def take(self, slot: Place, slots: Sequence[Place]) -> Task | None:
        """Return a run that has failed elsewhere, or here if all `slots` are on this device; None if there is none."""
        anywhere = {other.place for other in slots} == {slot.place}
        found = next((pair for pair in self.waiting if anywhere or pair[1] != slot.place), None)
        if found:
            self.waiting.remove(found)
        return found[0] if found else None
