"""Records: each is read as often as it must be, and one of another shape is none."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from bakeoff.analysis.summary import summarize
from bakeoff.analysis.trials import chosen_settings
from bakeoff.driver.bus import Bus
from bakeoff.driver.scheduler import Scheduler
from bakeoff.store.documents import result_fault
from bakeoff.store.files import write_json
from bakeoff.store.records import RunResult
from bakeoff.store.run_folder import Folder, RunFolder


@pytest.fixture
def searched(copied):
    """The finished bakeoff with a plan in which lora was searched by two trials, of which nothing was recorded."""
    plan = json.loads(copied.plan_file.read_text())
    final = next(run for run in plan["runs"] if run["entry"] == "lora")
    span = {"low": 1e-4, "high": 1e-1, "scale": "log"}
    points = [{"learning_rate": 0.001}, {"learning_rate": 0.01}]
    plan["entries"]["lora"] |= {"search": {"learning_rate": span}, "trial_points": points, "trials": 2}
    plan["runs"] += [
        {**final, "id": f"lora-t{i}", "kind": "trial", "trial": i, "search": "s", "settings": final["settings"] | point}
        for i, point in enumerate(points, 1)
    ]
    write_json(copied.plan_file, plan)
    return copied


def start(folder, row, **changed):
    """Write a run's run.json."""
    row = row | changed
    write_json(folder.run(row["id"]).run_file, row)


def test_a_search_of_many_runs_is_read_once(searched, monkeypatch):
    """Results of E entries by R runs took E x R readings and two plans an entry: minutes of 2,000 runs."""
    plan, plans, read = searched.plan(), [], []
    for run in plan.runs:
        if run.kind == "trial":
            start(searched, asdict(run))
    monkeypatch.setattr(Folder, "plan", lambda self: plans.append(1) or plan)
    run = RunFolder.run
    monkeypatch.setattr(RunFolder, "run", lambda self: read.append(self.path.name) or run(self))
    trials = summarize(searched).entries["lora"].tuning.trials
    assert [row.run for row in trials] == ["lora-t1", "lora-t2"]
    assert len(plans) == 1
    assert all(not name.startswith("lora-t") for name in read)  # the plan knows those


def test_a_further_trial_counts_with_what_was_searched_alone(searched):
    """A run.json without the searched field ended show and report in a KeyError."""
    row = next(row for row in searched.plan().row()["runs"] if row["kind"] == "trial")
    start(searched, row, id="lora-t3", trial=3, settings={"r": 4})
    assert [run.id for run in searched.trials("lora")] == ["lora-t1", "lora-t2"]
    start(searched, row, id="lora-t3", trial=3, settings=row["settings"] | {"learning_rate": 0.1})
    start(searched, row, id="last_layers-t3", trial=3)
    assert [run.id for run in searched.trials("lora")] == ["lora-t1", "lora-t2", "lora-t3"]
    assert len(summarize(searched).entries["lora"].tuning.trials) == 3


def test_a_final_run_without_the_searched_field_has_chosen_nothing(searched):
    row = next(row for row in searched.plan().row()["runs"] if row["entry"] == "lora" and row["kind"] == "entry")
    spans = searched.plan().entries["lora"].search
    assert chosen_settings(searched, [row["id"]], spans) == {"learning_rate": 0.01}
    start(searched, row, settings={})
    assert chosen_settings(searched, [row["id"]], spans) is None
    assert summarize(searched).entries["lora"].tuning.chosen is None


def test_a_curve_without_validations_has_no_lowest_loss(searched):
    run = searched.trials("lora")[0]
    files = searched.run(run.id)
    files.path.mkdir()
    files.metrics_file.write_text('{"step": 3, "epoch": 1.0, "seconds": 1.0, "train/loss": 2.0}\n')
    files.write_result(RunResult(replace(run), "paused", steps=3, metrics={"validation/loss": 2.0}))
    schedule = Scheduler(searched, SimpleNamespace(), Bus(), {})
    assert schedule.loss(run, 3) is None


def test_a_failed_check_says_why(copied):
    """A page looked the reason up, and ended in a KeyError."""
    row = json.loads(next(copied.path.glob("runs/lora-*/result.json")).read_text())
    row |= {"checks": {"loss_finite": False}}
    assert result_fault(row | {"check_notes": {}}) == "check_notes: the note of a failed check is missing"
    assert result_fault(row | {"check_notes": {"loss_finite": "nan"}}) is None
