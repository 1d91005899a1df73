"""Tuned bakeoffs over the tiny model: trials, halving, extension, adoption, and going on after an interrupt."""

import itertools
import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

import bakeoff
from bakeoff import reporting, running
from bakeoff.analysis.remarks import remarks
from bakeoff.cli.main import main
from bakeoff.driver import scheduler
from bakeoff.progress.session import Session
from bakeoff.store.run_folder import Folder
from tests.conftest import Inline, inline, write_splits

pytestmark = pytest.mark.usefixtures("figures")

SEEDS = (5, 6)
TRIALS = 4


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, tiny_model):
    """A finished bakeoff with two tuned entries and a fixed one."""
    tmp = tmp_path_factory.mktemp("tuned")
    config = {
        "name": "tuned",
        "model": str(tiny_model),
        "data": write_splits(tmp),
        "entries": {
            "lora": {"r": 4, "lora_dropout": 0.1},
            "top": {"method": "last_layers", "learning_rate": {"low": 1e-3, "high": 1.0}},
            "fixed": {"method": "last_layers", "learning_rate": 0.01},
        },
        "baselines": ["base", "lead-1"],
        "protocol": {"epochs": 2, "max_tokens": 48, "seed": SEEDS[0], "seeds": 2},
        "output": str(tmp / "out"),
    }
    return config, bakeoff.run(config, display="none")


def test_every_entry_has_the_same_budget_and_its_best_trial_is_chosen(tuned):
    _, results = tuned
    assert results.document.status == "done"
    for name in ("lora", "top"):
        found = results.entries[name].tuning
        planned = found.trials[:TRIALS]
        assert sorted(t.steps for t in planned) == [3, 3, 5, 10]
        assert sorted(t.status for t in planned) == ["done", "stopped", "stopped", "stopped"]
        ended = [t for t in found.trials if t.status == "done"]
        best = min(ended, key=lambda t: t.validation_loss)
        assert best.validation_loss == min(t.validation_loss for t in found.trials)
        assert found.chosen == best.settings
        assert results.entries[name].learning_rate == best.settings["learning_rate"]
        assert found.label == "tuned"
        assert results.entries[name].costs["tuning_seconds"] > results.entries[name].costs["train_seconds"]
        assert results.entries[name].seeds == len(SEEDS)
    fixed = results.entries["fixed"]
    assert fixed.tuning.label == "fixed"
    assert fixed.tuning.trials == []
    assert fixed.learning_rate == 0.01


def test_an_edge_is_flagged_and_one_trial_is_taken_past_it(tuned):
    _, results = tuned
    lora, top = (results.entries[n].tuning for n in ("lora", "top"))
    assert lora.edge == {"learning_rate": "high"}
    assert lora.extended == "better"
    rates = [t.settings["learning_rate"] for t in lora.trials]
    assert len(rates) == TRIALS + 1
    assert {round(b / a, 9) for a, b in itertools.pairwise(rates)} == {round(100 ** (1 / TRIALS), 9)}
    assert lora.chosen == lora.trials[-1].settings
    assert lora.trials[-1].steps == 10
    assert top.edge == {}
    assert top.extended is None
    assert len(top.trials) == TRIALS


def test_halving_stops_those_that_were_worse_then(tuned):
    _, results = tuned
    for name in ("lora", "top"):
        trials = results.entries[name].tuning.trials[:TRIALS]
        curves = {t.run: results.folder.run(t.run).curve() for t in trials}
        for rung in (3, 5):
            at = {i: min(p.validation_loss for p in c if p.step <= rung) for i, c in curves.items()
                  if c[-1].step >= rung}  # fmt: skip
            further = {i for i in at if curves[i][-1].step > rung}
            assert len(further) == len(at) // 2
            assert max(at[i] for i in further) <= min(at[i] for i in at if i not in further)


def test_the_plan_holds_all_trials_before_anything_runs(tuned):
    config, results = tuned
    plan = bakeoff.plan(config)
    assert json.loads(json.dumps(plan)) == json.loads(results.folder.plan_file.read_text())
    lora = plan["entries"]["lora"]
    assert (lora["trials"], lora["tuning"], lora["learning_rate"]) == (TRIALS, "tuned", None)
    assert lora["search"] == {"learning_rate": {"low": 3e-5, "high": 3e-3, "scale": "log"}}
    assert lora["trial_points"] == [t.settings for t in results.entries["lora"].tuning.trials[:TRIALS]]
    assert lora["trial_steps"] == 3 * 4 + 2 * 2 + 5
    kinds = [(run["entry"], run["kind"]) for run in plan["runs"]]
    assert [kinds.count((n, "trial")) for n in plan["entries"]] == [TRIALS, TRIALS, 0]
    assert [kinds.count((n, "entry")) for n in plan["entries"]] == [2, 2, 2]
    assert plan["entries"]["fixed"]["tuning"] == "fixed"


def test_every_run_validates_at_the_same_steps(tuned):
    _, results = tuned
    for row in results.entries.values():
        for run_id in row.runs:
            assert [p.step for p in results.folder.run(run_id).curve()] == [0, 3, 5, 10]


def test_adopting_the_chosen_trial_is_training_anew(tuned, tmp_path):
    """The first seed's run continues a trial; a bakeoff with the chosen rate given trains it in one piece."""
    config, results = tuned
    for name in ("lora", "top"):
        row = results.entries[name]
        fields = {**config["entries"][name], "learning_rate": row.learning_rate}
        again = bakeoff.run({**config, "entries": {name: fields}, "output": str(tmp_path / name)}, display="none")
        assert again.entries[name].tuning.label == "fixed"
        for first, second in zip(row.runs, again.entries[name].runs, strict=True):
            one, other = results.folder.run(first), again.folder.run(second)
            assert one.predictions_file.read_bytes() == other.predictions_file.read_bytes()
            assert one.result().metrics == other.result().metrics
            assert one.result().best_step == other.result().best_step
            for a, b in zip(one.curve(), other.curve(), strict=True):
                assert a.row() | {"seconds": 0} == b.row() | {"seconds": 0}
    first = results.folder.run(results.entries["lora"].runs[0])
    adopted = results.folder.run(first.run().adopts).result()
    assert first.result().costs["train_seconds"] == adopted.costs["train_seconds"] > 0
    assert first.result().costs["peak_bytes"] == adopted.costs["peak_bytes"] > 0
    assert results.folder.run(results.entries["lora"].runs[1]).run().adopts is None


def test_trials_leave_no_checkpoints_adapters_or_test_scores(tuned):
    _, results = tuned
    assert not list(results.folder.path.rglob("*checkpoint*"))
    for name in ("lora", "top"):
        for trial in results.folder.trials(name):
            files = {file.name for file in results.folder.run(trial.id).path.iterdir()}
            assert files == {"run.json", "result.json", "metrics.jsonl"}
            assert not [m for m in results.folder.run(trial.id).result().metrics if m.startswith("test/")]


def started(monkeypatch):
    """Return a list that fills with the runs that a bakeoff starts: (entry, kind, trial, seed, until)."""
    seen = []
    start = scheduler.Scheduler.start

    def noted(self, run, *left):
        seen.append((run.entry, run.kind, run.trial, run.seed, run.until))
        return start(self, run, *left)

    monkeypatch.setattr(scheduler.Scheduler, "start", noted)
    return seen


def test_a_finished_one_starts_nothing_again(tuned, monkeypatch):
    config, results = tuned
    seen = started(monkeypatch)
    displays = []
    opened = Session.display
    monkeypatch.setattr(Session, "display", lambda *given: displays.append(opened(*given)) or displays[-1])
    again = bakeoff.run(config, display="plain")
    assert seen == []
    assert again.document == results.document
    shown = displays[-1]
    assert shown.runs
    assert {run.id for run in shown.runs if run.kind != "trial"} <= set(shown.done)
    assert not [run for run in shown.runs if run.trial and run.trial > 4]  # an extension of before has nothing to do
    assert not shown.left()


@pytest.fixture
def only_lora(tuned, tmp_path):
    """The tuned bakeoff with LoRA alone, in a folder of its own, and its whole results."""
    config, results = tuned
    config = {**config, "entries": {"lora": config["entries"]["lora"]}, "output": str(tmp_path / "out")}
    return config, results.entries["lora"]


def test_interrupted_after_any_run_it_goes_on_with_the_same_decisions(only_lora, monkeypatch):
    config, whole = only_lora
    seen = started(monkeypatch)

    def one_run(path, runs, _):
        yield from inline(path, itertools.islice(runs, 1))
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(one_run))
    for _ in range(12):
        with pytest.raises(KeyboardInterrupt):
            bakeoff.run(config, display="none")
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline())
    results = bakeoff.run(config, display="none")
    trials = [(*run[2:3], *run[4:]) for run in seen if run[1] == "trial"]
    assert trials == [(1, 3), (2, 3), (3, 3), (4, 3), (3, 5), (4, 5), (4, None), (5, None)]
    assert len(seen) == len(set(seen)) == 2 + 8 + 2
    assert results.entries["lora"].metrics == whole.metrics
    assert results.entries["lora"].tuning.row() | {"seconds": 0} == whole.tuning.row() | {"seconds": 0}


def test_a_record_lost_in_the_middle_of_a_trial_is_made_again_from_its_checkpoint(only_lora, monkeypatch):
    config, whole = only_lora
    folder = Folder(config["output"])

    def until_second_rung(path, runs, _):
        yield from inline(path, itertools.islice(runs, 2 + 4 + 2))
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(until_second_rung))
    with pytest.raises(KeyboardInterrupt):
        bakeoff.run(config, display="none")
    third, fourth = folder.trials("lora")[2:4]
    for trial in (third, fourth):
        folder.run(trial.id).result_file.unlink()
    shutil.rmtree(folder.run(third.id).checkpoints)  # that one starts anew
    with folder.run(fourth.id).metrics_file.open("a") as file:  # and that one had gone further
        file.write('{"step": 10, "validation/loss": 0.0}\n')
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline())
    results = bakeoff.run(config, display="none")
    assert results.entries["lora"].metrics == whole.metrics
    assert [p.step for p in folder.run(fourth.id).curve()] == [0, 3, 5, 10]


def test_the_report_shows_the_sweep_the_choice_and_the_seeds(tuned):
    _, results = tuned
    page = results.folder.report_file.read_text()
    assert "Learning-rate sweep" in page
    assert "lora: validation loss by learning_rate" in page
    assert "one step further was better and was chosen" in page
    assert "without trials (fixed)" in page
    csv = results.folder.csv_file.read_text().splitlines()
    head = csv[0].split(",")
    rows = {line.split(",")[0]: dict(zip(head, line.split(","), strict=True)) for line in csv[1:]}
    assert rows["lora"]["tuning/label"] == "tuned"
    assert rows["fixed"]["tuning/label"] == "fixed"
    assert float(rows["lora"]["learning_rate"]) == results.entries["lora"].learning_rate
    assert rows["lora"]["seeds"] == "2"
    assert float(rows["lora"]["tuning_seconds"]) > 0
    assert rows["fixed"]["tuning_seconds"] == ""
    assert "the best trial was at the edge of the search" in results.folder.markdown_file.read_text()


def test_the_command_line_tells_of_trials(tuned, tmp_path):
    config, results = tuned
    path = tmp_path / "tuned.yaml"
    path.write_text(yaml.safe_dump(config))
    plan = CliRunner().invoke(main, ["plan", str(path)]).output
    assert "4 trials for each tuned entry, 21 steps together" in plan
    assert "3e-05 to 0.003" in plan
    shown = CliRunner().invoke(main, ["show", str(results.folder.path)]).output
    assert "lora: the best trial was at the edge of the search: learning_rate was the highest of the 4 tried" in shown
    assert results.entries["lora"].converged is not None
    early = results.entries | {"top": results.entries["top"].model_copy(update={"converged": False})}
    early = results.document.model_copy(update={"entries": early})
    assert any(line.startswith("not converged: top: ") for line in remarks(early))
    copy = tmp_path / "copy"
    shutil.copytree(results.folder.path, copy)
    for trial in Folder(copy).trials("top"):  # a bakeoff in the middle of its search has a page too
        result = Folder(copy).run(trial.id).result()
        result.status = "paused"
        Folder(copy).run(trial.id).write_result(result)
    for run in results.entries["top"].runs:
        shutil.rmtree(copy / "runs" / run)
    assert reporting.refresh_report(copy).exists()
    assert {t.status for t in bakeoff.load_results(copy).entries["top"].tuning.trials} == {"paused"}
