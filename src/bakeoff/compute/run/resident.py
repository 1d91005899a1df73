"""A base that is loaded and tried once for many runs: by a process from which theirs are forked, or that they share."""

import gc
import os
import time
from dataclasses import dataclass, field

import torch

from bakeoff.child_process import limit
from bakeoff.compute.decoding.conformance import conforming
from bakeoff.compute.model.base import Base, load_base
from bakeoff.compute.model.device import CPU
from bakeoff.compute.run.checks import Marks
from bakeoff.config.config import Config
from bakeoff.config.sections import Pin
from bakeoff.hub import base_files
from bakeoff.scoring.baselines import takes_model
from bakeoff.scoring.forgetting import passages
from bakeoff.store.content_hash import Stamped
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Quantize, Run


@dataclass(frozen=True)
class Wanted:
    """The base that a run wants. If two are equal, loading gives the same base."""

    name: str
    pin: Pin
    files: tuple[Stamped, ...]
    precision: str
    quantize: Quantize
    memory_limit: int | None  # under which it is loaded


@dataclass
class Resident:
    """A base that was loaded and tried for several runs."""

    wanted: Wanted
    base: Base
    note: str | None  # if its calls are slower than usual
    seconds: float  # that loading and trying took
    marks: Marks | None  # of the base, as it was loaded
    base_losses: dict[str, float] = field(default_factory=dict)  # on a bakeoff's probe, by its folder


def wanted_by(config: Config, plan: PlanDocument, run: Run) -> Wanted | None:
    """Return the base that a run wants; None if it wants none, or one whose files are not on this machine.

    Also if several processes share the run: each loads the base, and may keep only a part of it.
    """
    files = base_files(config.model, config.pin)
    if (run.kind == "baseline" and not takes_model(run.method)) or not files or config.machine.shards > 1:
        return None
    return Wanted(config.model, config.pin, files, plan.precision, run.quantize, config.safety.memory_limit)


def tried(wanted: Wanted, device: torch.device = CPU) -> Resident:
    """Return the base, loaded and tried."""
    start = time.perf_counter()
    base, note = conforming(load_base(wanted.name, wanted.precision, wanted.pin, wanted.quantize, device))
    seconds = time.perf_counter() - start
    return Resident(wanted, base, note, seconds, Marks(base.model))


def load(wanted: Wanted) -> Resident:
    """Return the base, loaded and tried by this thread alone.

    A forked process has only the thread that forked it; it would wait forever for other threads. Raises RuntimeError
    if something has started a thread nevertheless.
    """
    limit(wanted.memory_limit)
    torch.set_num_threads(1)
    resident = tried(wanted)
    passages()  # are found once for all runs
    gc.collect()
    gc.freeze()  # else a run's first collection would write to all objects, and copy their pages
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - names alone
        raise RuntimeError("loading has started threads")
    return resident
