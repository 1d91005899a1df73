"""What is left of a bakeoff does not depend on which of its processes were killed, and when."""

import dataclasses
import json

import pytest

import bakeoff
from bakeoff import running
from bakeoff.compute.run.execution import execute
from bakeoff.interrupts import Stopped
from bakeoff.store.records import RunResult
from bakeoff.store.run_folder import Folder
from tests.conftest import Inline, inline, write_splits


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model):
    """The config of a tuned bakeoff, and its folder when nothing disturbs it."""
    tmp = tmp_path_factory.mktemp("undisturbed")
    config = {
        "name": "tuned",
        "model": str(tiny_model),
        "data": write_splits(tmp),
        "entries": {"lora": {"r": 4, "lora_dropout": 0.1}},
        "baselines": ["base"],
        "tune": {"trials": 3},
        "protocol": {"epochs": 2, "max_tokens": 48, "seeds": 2, "evaluate_every": 1},
        "output": str(tmp / "out"),
    }
    return config, bakeoff.run(config, display="none").folder


def records(folder):
    """Return every run's record and curve, without times and memory, and the names of all files."""
    found = {"files": sorted(str(file.relative_to(folder.path)) for file in folder.path.rglob("*"))}
    for file in folder.path.glob("runs/*/result.json"):
        files = folder.run(file.parent.name)
        record = dataclasses.asdict(files.result())
        record["costs"] = sorted(record["costs"])
        record["files"] = {k: v for k, v in record["files"].items() if k != "metrics.jsonl"}
        found[file.parent.name] = record, [row.row() | {"seconds": 0} for row in files.curve()]
    return found


def killing(condemned):
    """Return an executor whose process of the runs that `condemned` accepts is killed at once."""

    def carry_out(path, tasks, _):
        folder = Folder(path)
        for task in tasks:
            if condemned(task.run):
                folder.run(task.run.id).write_result(RunResult(task.run, "failed", error="killed", cause="ended"))
            else:
                yield from inline(path, [task])

    return lambda _: Inline(carry_out)


def best_trial(folder):
    """Return the planned trial that came to the end."""
    (trial,) = [run.id for run in folder.runs() if run.kind == "trial" and folder.run(run.id).done()]
    return trial


def finals_of(folder):
    return [run.id for run in folder.runs() if run.kind == "entry"]


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_a_trial_that_went_on_in_the_place_of_a_killed_one_leaves_the_record_it_would_have_left(
    undisturbed, tmp_path, monkeypatch, rung
):
    """The chosen trial's process is killed on its way to each rung; the others then go further than they should."""
    config, whole = undisturbed
    folder = Folder(tmp_path / "out")
    survivor, limit = best_trial(whole), [*whole.plan().rungs, None][rung]

    def condemned(run):
        return run.id == survivor and run.until == limit

    with monkeypatch.context() as patch:
        patch.setattr(running, "LocalExecutor", killing(condemned))
        disturbed = bakeoff.run({**config, "output": str(folder.path)}, display="none")
    further = [run for run in folder.trials("lora") if records(folder)[run.id] != records(whole).get(run.id)]
    assert len(further) > 1  # not only the killed one
    assert disturbed.entries["lora"].settings != whole.run(finals_of(whole)[0]).run().settings
    again = bakeoff.run({**config, "output": str(folder.path)}, display="none")
    assert records(folder) == records(whole)
    tuning = [json.loads(f.results_file.read_text())["entries"]["lora"]["tuning"] for f in (folder, whole)]
    assert {**tuning[0], "seconds": 0} == {**tuning[1], "seconds": 0}
    assert again.document.status == "done"


def test_a_final_run_that_was_begun_at_other_settings_starts_anew(undisturbed, tmp_path, monkeypatch):
    """Its checkpoint is of settings that are chosen no more; its id, which comes from the search, is the same."""
    config, whole = undisturbed
    folder = Folder(tmp_path / "out")
    final, survivor = finals_of(whole)[1], best_trial(whole)

    def stopped_in_the_final_run(path, tasks, _):
        for task in tasks:
            run = task.run
            if run.id == survivor:
                folder.run(run.id).write_result(RunResult(run, "failed", error="killed", cause="ended"))
            elif run.id == final:
                with pytest.raises(Stopped):  # after its first step
                    execute(path, run.id, task.left, print, lambda: True)
                raise KeyboardInterrupt
            else:
                yield from inline(path, [task])

    with monkeypatch.context() as patch:
        patch.setattr(running, "LocalExecutor", lambda _: Inline(stopped_in_the_final_run))
        with pytest.raises(KeyboardInterrupt):
            bakeoff.run({**config, "output": str(folder.path)}, display="none")
    assert [*folder.run(final).checkpoints.glob("*.safetensors")]
    assert folder.run(final).run().settings != whole.run(final).run().settings
    bakeoff.run({**config, "output": str(folder.path)}, display="none")
    assert records(folder)[final] == records(whole)[final]
