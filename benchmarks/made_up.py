"""Bakeoffs without any training, for benchmarks/scale.py: a real plan, real records, and made-up outputs and losses.

What carries out runs in place of processes: `at_once`, one after the other, and `Cluster`, on simulated slots.
"""

import heapq
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bakeoff import running
from bakeoff.driver.ready import ReadySet
from bakeoff.store.content_hash import hash_of
from bakeoff.store.events import Done, Event, Failed, State
from bakeoff.store.files import write_jsonl
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Run, RunResult, Task
from bakeoff.store.run_folder import Folder

WORDS = [a + b for a in ("ba", "de", "fi", "go", "lu", "ma") for b in ("nan", "bet", "tir", "son", "rud", "kel")]
SIZES = {"train": 64, "validation": 16}


def config(folder: Path, entries: int, trials: int, seeds: int, documents: int, methods: list[str]) -> dict[str, Any]:
    """Return a bakeoff with so many entries, test documents and (but for baselines) runs, and write its data."""
    chosen, data = random.Random(0), {}
    for split, count in {**SIZES, "test": documents}.items():
        file = folder / f"{split}.jsonl"
        texts = [" ".join(chosen.choices(WORDS, k=20)) for _ in range(count)]
        file.write_text("".join(json.dumps({"document": t, "summary": t[:20]}) + "\n" for t in texts))
        data[split] = str(file)
    named = {f"entry-{i}": {"method": methods[i % len(methods)]} for i in range(entries)}
    for i, entry in enumerate(named.values()):
        if entry["method"] == "lora":
            entry["r"] = 2 + i // len(methods)  # each has a shape of its own, as in a real bakeoff
    return {
        "name": "scale", "data": data, "baselines": ["base", "lead-1"], "entries": named,
        "tune": {"trials": trials} if trials else None, "protocol": {"seeds": seeds, "max_tokens": 64},
        "generation": {"max_new_tokens": 12}, "output": str(folder / "out"),
    }  # fmt: skip


def finish(folder: Folder, plan: PlanDocument, run: Run) -> Event:
    """Leave the record of a run that has gone as far as it was asked to, and return its last event.

    Losses and outputs follow from its settings and seed.
    """
    files, steps = folder.run(run.id), run.until or run.steps or 0
    record = RunResult(run, "paused" if run.until else "done", steps=steps, best_step=steps)
    luck = random.Random(hash_of([run.settings, run.seed, run.entry]))
    if run.steps:
        quality = luck.uniform(0.4, 0.6)
        at = [s for s in [0, *plan.rungs, run.steps] if s <= steps]
        losses = [round(2 + 2 * (1 - quality * s / run.steps), 4) for s in at]
        rows = [
            {"step": s, "epoch": 1.0, "seconds": 1.0, "validation/loss": v} for s, v in zip(at, losses, strict=True)
        ]
        write_jsonl(files.metrics_file, rows)
        record.metrics = {"validation/loss": losses[-1], "train/loss": losses[-1]}
        record.costs = {"train_seconds": 10.0, "setup_seconds": 1.0, "evaluation_seconds": 1.0, "peak_bytes": 1e9}
    if run.kind == "trial":
        files.write_result(record)
        return State(run=run.id, state="paused")
    record.decoding, record.scoring = plan.decoding, plan.scoring
    rows = []
    for example in folder.examples("test"):
        scores = {m.name: round(luck.random(), 4) for m in plan.metrics}
        rows.append({"id": example.id, "output": example.document[:30], "loss": 20.0, "tokens": 10, **scores})
    write_jsonl(files.predictions_file, rows)
    record.metrics |= {"test/loss": 2.0} | {f"test/{m.name}": 0.5 for m in plan.metrics}
    record.costs |= {"generation_seconds": 1.0, "adapter_bytes": 1000.0}
    files.write_result(record)
    return Done(run=run.id, metrics={**record.metrics}, costs={**record.costs}, check_notes={})


class AtOnce:
    """An executor whose runs take no time."""

    def __init__(self, slots: int = 1):
        self.slots = ["made up"] * slots

    def run(self, path: Path, ready: ReadySet, stop: Callable[[], bool] = bool) -> Iterator[Event]:
        """Leave every run's record, one after the other."""
        folder = Folder(path)
        plan = folder.plan()
        for task in ready.in_order():
            yield finish(folder, plan, task.run)

    def __enter__(self) -> "AtOnce":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start_early(self) -> None:
        """Do nothing."""

    def spread(self, devices: list[str]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Faults:
    """How often what fails, in seconds: nodes of some slots each, which come back, and runs by themselves."""

    node_lives: float = float("inf")  # on average
    node_returns: float = 600.0
    slots_per_node: int = 8
    run_fails: float = 0.0  # the share of runs that leave a failed record, which the next session tries again
    checkpoint: float = 60.0  # the most that is lost of a run whose node dies, besides loading


@dataclass
class Cluster(AtOnce):
    """An executor of simulated slots: its clock jumps from one end of a run, or of a node, to the next."""

    count: int
    seconds: Callable[[Task], float]  # that a run takes, besides loading
    loading: float
    faults: Faults
    luck: random.Random
    now: float = 0.0
    work: float = 0.0  # seconds of slots that runs needed, without what was lost
    lost: float = 0.0
    deaths: int = 0
    failed: int = 0
    driver_cpu: float = 0.0  # processor seconds, without those of records, which the processes of runs write
    ends: list[tuple[float, int, str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slots = [f"slot {i}" for i in range(self.count)]

    def run(self, path: Path, ready: ReadySet, stop: Callable[[], bool] = bool) -> Iterator[Event]:
        """Carry out what is ready on all slots whose nodes are alive."""
        folder, number = Folder(path), iter(range(10**9))
        plan, cpu = folder.plan(), time.process_time()
        free, waiting = list(range(self.count)), list[tuple[Task, float]]()
        down, at_work = set[int](), dict[int, tuple[Task, float, float]]()  # slot: task, begin, seconds that it needs
        self.ends = []
        for node in range(self.count // self.faults.slots_per_node):
            heapq.heappush(self.ends, (self.now + self.life(), next(number), "node", node))
        while True:
            while free and (job := waiting.pop() if waiting else self.next_of(ready)):
                slot = free.pop()
                at_work[slot] = (job[0], self.now, job[1])
                heapq.heappush(self.ends, (self.now + job[1], next(number), "run", (slot, self.now)))
            if not at_work and not waiting:
                self.driver_cpu += time.process_time() - cpu
                return
            self.now, _, kind, what = heapq.heappop(self.ends)
            if kind == "run" and at_work.get(what[0], (None, None))[1] == what[1]:  # not ended with its node before
                task, _, _ = at_work.pop(what[0])
                free.append(what[0])
                yield self.end(folder, plan, task)
                ready.end(task)
            elif kind == "node":
                mine = {what * self.faults.slots_per_node + i for i in range(self.faults.slots_per_node)}
                self.deaths, down = self.deaths + 1, down | mine
                free = [slot for slot in free if slot not in mine]
                for slot in mine & at_work.keys():
                    task, began, needed = at_work.pop(slot)
                    done = self.now - began
                    saved = max(0.0, done - self.loading - self.luck.uniform(0, self.faults.checkpoint))
                    self.lost += done - saved
                    waiting.append((task, needed - saved))
                heapq.heappush(self.ends, (self.now + self.faults.node_returns, next(number), "back", (what, mine)))
            elif kind == "back":
                free += sorted(what[1])
                heapq.heappush(self.ends, (self.now + self.life(), next(number), "node", what[0]))

    def life(self) -> float:
        """Return how long a node lives from now on."""
        lives = self.faults.node_lives
        return self.luck.expovariate(1 / lives) if lives < float("inf") else lives

    def next_of(self, ready: ReadySet) -> tuple[Task, float] | None:
        """Return a run that can start now, and the seconds that it takes."""
        task = ready.take()
        if task is None:
            return None
        seconds = self.loading + self.seconds(task)
        self.work += seconds
        return task, seconds

    def end(self, folder: Folder, plan: PlanDocument, task: Task) -> Event:
        """Leave the record of a run that has ended, or failed by itself."""
        before = time.process_time()
        try:
            if self.luck.random() >= self.faults.run_fails:
                return finish(folder, plan, task.run)
            self.failed += 1
            record = RunResult(task.run, "failed", error="its process ended with SIGKILL", cause="ended")
            folder.run(task.run.id).write_result(record)
            return Failed(run=task.run.id, error=record.error)
        finally:
            self.driver_cpu -= time.process_time() - before


@contextmanager
def carried_out_by(executor: Any) -> Iterator[None]:
    """Let bakeoffs in this process be carried out by an executor."""
    usual = running.LocalExecutor
    running.LocalExecutor = lambda _: executor  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        running.LocalExecutor = usual  # type: ignore[misc]
