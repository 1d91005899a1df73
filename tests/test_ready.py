"""What may run side by side: the order of a plan with one slot, and the same decisions with any number of them."""

import itertools
import json
import random
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.compute.model.loading import load_tokenizer
from bakeoff.config.loading import load_config
from bakeoff.driver.bus import Bus
from bakeoff.driver.plan import make_plan
from bakeoff.driver.ready import ReadySet
from bakeoff.driver.resume import left_to_do
from bakeoff.driver.scheduler import Scheduler
from bakeoff.store.content_hash import hash_of
from bakeoff.store.files import write_json, write_jsonl
from bakeoff.store.records import Run, RunResult, Task
from bakeoff.store.run_folder import Folder
from tests.conftest import HEAVY, many, write_splits

TREES = st.recursive(st.just("task"), lambda inner: st.lists(st.lists(inner, max_size=3), max_size=3), max_leaves=12)


def work(tree, names, ended):
    """Yield a tree's tasks: a list is stages one after the other, each of parts side by side."""
    if tree == "task":
        name = next(names)
        yield Task(Run(name, "a", "entry", "lora", {}, 0), "train")
        assert name in ended
        return
    for stage in tree:
        parts = [work(part, names, ended) for part in stage]
        yield parts
        assert all(next(part, None) is None for part in parts)


@many(60)
@given(tree=TREES, slots=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_task_is_taken_once_and_no_slot_waits_without_need(tree, slots, seed):
    ended, running, taken, chosen = set(), [], [], random.Random(seed)
    ready = ReadySet(work(tree, map(str, itertools.count()), ended))
    while True:
        while len(running) < slots and (task := ready.take()):
            running.append(task)
            taken.append(task.run.id)
        if not running:
            break
        task = running.pop(chosen.randrange(len(running)))
        ended.add(task.run.id)
        ready.end(task)
    assert len(taken) == len(set(taken)) == json.dumps(tree).count("task")
    assert ready.take() is None


def test_parts_of_a_stage_run_side_by_side_and_the_next_stage_waits():
    def task(name):
        return Task(Run(name, "a", "entry", "lora", {}, 0), "train")

    def stages():
        yield [iter([task("a1"), task("a2")]), iter([task("b")])]
        yield [iter([task("c")])]

    ready = ReadySet(stages())
    first, second = ready.take(), ready.take()
    assert (first.run.id, second.run.id, ready.take()) == ("a1", "b", None)
    ready.end(second)
    assert ready.take() is None
    ready.end(first)
    last = ready.take()
    assert (last.run.id, ready.take()) == ("a2", None)
    ready.end(last)
    assert ready.take().run.id == "c"


class Session:
    """A start of a bakeoff whose runs are made up: a run's losses depend on its settings and seed alone."""

    def __init__(self, folder, planned, chance=0.0, seed=0):
        self.folder, self.planned, self.chance, self.random = folder, planned, chance, random.Random(seed)
        self.started = []

    def go_on(self, slots, stop_after=10**9):
        """Carry out runs on so many slots, which end in a random order; stop after so many."""
        left = left_to_do(self.folder, self.planned.document)
        ready, running = ReadySet(Scheduler(self.folder, self.planned, Bus(), left).work()), []
        while stop_after:
            while len(running) < slots and (task := ready.take()):
                running.append(task)
                self.started.append((task.run.id, task.run.until))
            if not running:
                return
            task = running.pop(self.random.randrange(len(running)))
            self.carry_out(task.run)
            ready.end(task)
            stop_after -= 1

    def carry_out(self, run):
        """Leave the record of a run; it fails by chance."""
        files = self.folder.run(run.id)
        record = RunResult(run, "paused" if run.until else "done", steps=run.until or run.steps)
        if run.kind != "trial":
            record.decoding, record.scoring = self.planned.document.decoding, self.planned.document.scoring
        if run.steps:
            steps = [s for s in [0, *self.planned.document.rungs, run.steps] if s <= record.steps]
            losses = [int(hash_of([run.settings, run.seed, step])[:4], 16) / 2**12 for step in steps]
            rows = [{"step": s, "epoch": 0.0, "seconds": 0.0, "validation/loss": v} for s, v in zip(steps, losses)]  # noqa: B905
            write_jsonl(files.metrics_file, rows)
            record.metrics = {"validation/loss": min(losses)}
        if self.random.random() < self.chance:
            record = RunResult(run, "failed", error="by chance", cause="ended")
        files.write_result(record)

    def records(self):
        """Return every record, with what its process was asked for."""
        found = {}
        for file in self.folder.path.glob("runs/*/result.json"):
            files = self.folder.run(file.parent.name)
            found[file.parent.name] = asdict(files.result()) | {"asked": asdict(files.run())}
        return found


@pytest.fixture(scope="module")
def planned(tmp_path_factory, tiny_model):
    """Return a function that plans a bakeoff of two tuned entries and a fixed one in a folder."""
    tmp = tmp_path_factory.mktemp("ready")
    config = load_config(
        {
            "name": "ready", "model": str(tiny_model), "data": write_splits(tmp), "baselines": ["base", "lead-1"],
            "entries": {
                "lora": {"r": 4}, "top": {"method": "last_layers"}, "all": {"method": "full", "learning_rate": 0.1},
            },
            "protocol": {"epochs": 2, "max_tokens": 48, "seeds": 2},
        }
    )  # fmt: skip
    plan = make_plan(config, load_tokenizer(config.model, config.pin))

    def made(name):
        folder = Folder(tmp / name)
        folder.path.mkdir()
        write_json(folder.plan_file, plan.document.row())
        return folder, plan

    return made


def test_decisions_depend_neither_on_the_order_of_results_nor_on_failures_or_interruptions(planned):
    folder, plan = planned("one-slot")
    whole = Session(folder, plan)
    whole.go_on(1)
    expected = whole.records()
    kinds = [folder.run(run_id).run().kind for run_id, _ in whole.started]
    assert [kind for kind, _ in itertools.groupby(kinds)] == ["baseline", "trial", "entry", "trial", "entry"]
    for seed in range(HEAVY or 6):
        chosen = random.Random(seed)
        folder, plan = planned(f"case-{seed}")
        for _ in range(seed % 4):
            Session(folder, plan, chance=0.3, seed=seed).go_on(chosen.randint(1, 4), chosen.randint(1, 9))
        last = Session(folder, plan, seed=seed)
        last.go_on(chosen.randint(2, 5))
        assert last.records() == expected, seed
        again = Session(folder, plan)
        again.go_on(3)
        assert again.started == []
