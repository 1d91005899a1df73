"""Three identities of a run: what it trains, what its outputs are made by, what scores them. Each is redone alone."""

import errno
import json
import shutil
from collections import Counter

import pytest

import bakeoff
from bakeoff import running
from bakeoff.compute.run import evaluate, execution, worker
from bakeoff.errors import SetupError
from bakeoff.scoring import outputs
from bakeoff.store import checksums
from bakeoff.store.run_folder import Folder, RunFolder
from tests.conftest import Inline, inline, write_splits

FUNCTION = "def length(output, references):\n    return float(len(output))\n"


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """The config of a finished bakeoff of three entries."""
    folder = tmp_path_factory.mktemp("finished")
    config = {
        "name": "tiny", "model": str(tiny_model), "data": write_splits(folder),
        "entries": {"prompt_tuning": {"num_virtual_tokens": 4}, "last_layers": {},
                    "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"]}},
        "tune": None, "protocol": {"epochs": 2, "max_tokens": 48, "seeds": 1}, "output": str(folder / "out"),
    }  # fmt: skip
    bakeoff.run(config, display="none")
    return config


@pytest.fixture
def tiny_config(finished, tmp_path):
    """Its config in a copy of its folder."""
    shutil.copytree(finished["output"], tmp_path / "out")
    return {**finished, "output": str(tmp_path / "out")}


@pytest.fixture
def again(tiny_config, monkeypatch):
    """A function that runs the same bakeoff with changes, and says what it trained meanwhile."""
    trained = []
    train = worker.train

    def training(work, method):
        trained.append((work.run.entry, work.run.kind))
        return train(work, method)

    monkeypatch.setattr(worker, "train", training)

    def run(**changes):
        trained.clear()
        return bakeoff.run({**tiny_config, **changes}, display="none"), list(trained)

    return run


def measured(results):
    """Return all that is compared of results: rows without costs, ids and clocks."""
    rows = {**results.document.entries, **results.document.baselines}
    return {name: (row.status, row.metrics, row.checks) for name, row in rows.items()}


def predictions(results):
    folder = results.folder
    return {run.entry: folder.run(run.id).predictions() for run in folder.runs() if run.kind != "trial"}


CHANGES = {
    "a metric more": {"metrics": ["rouge", "chrf"]},
    "another metric": {"metrics": ["exact_match"]},
    "shorter outputs": {"generation": {"max_new_tokens": 3}},
    "longer outputs": {"generation": {"max_new_tokens": 12}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_finished_bakeoff_with_another_metric_or_generation_trains_nothing_and_is_as_if_made_anew(
    again, tmp_path, change
):
    before, _ = again()
    changed, trained = again(**change)
    assert trained == []
    fresh, trained = again(**change, output=str(tmp_path / "fresh"))
    assert trained
    assert measured(changed) == measured(fresh)
    assert predictions(changed) == predictions(fresh)
    assert measured(changed) != measured(before)
    back, trained = again()
    assert trained == []
    assert measured(back) == measured(before)


def test_trials_are_kept_with_another_metric(again):
    tuned = {"tune": {"trials": 2}, "entries": {"lora": {"r": 2}}}
    again(**tuned)
    changed, trained = again(**tuned, metrics=["chrf"], generation={"max_new_tokens": 2})
    assert trained == []
    assert changed.entries["lora"].tuning.trials


def test_scores_alone_load_no_base(again, monkeypatch):
    again()
    monkeypatch.setattr(worker, "work_on", None)
    changed, _ = again(metrics=["chrf"])
    assert "test/chrf" in changed.entries["lora"].metrics
    assert changed.document.status == "done"


def test_an_edited_metric_scores_again(again, tmp_path):
    file = tmp_path / "score.py"
    file.write_text(FUNCTION)
    metrics = [f"{file}:length"]
    one, _ = again(metrics=metrics)
    file.write_text(FUNCTION.replace("len(output)", "-len(output)"))
    two, trained = again(metrics=metrics)
    assert trained == []
    means = [results.entries["lora"].metrics["test/length"].mean for results in (one, two)]
    assert means[0] == -means[1] != 0


def test_scores_by_code_that_was_edited_after_the_plan_are_not_kept(again, tmp_path, monkeypatch):
    file = tmp_path / "score.py"
    file.write_text(FUNCTION)
    one, _ = again(metrics=[f"{file}:length"])
    file.write_text(FUNCTION + "# as planned\n")

    def edited(path, tasks, _):
        for task in tasks:
            if task.run.entry == "lora":
                file.write_text(FUNCTION.replace("len(output)", "-len(output)"))
            yield from inline(path, [task])

    with monkeypatch.context() as patch:
        patch.setattr(running, "LocalExecutor", lambda _: Inline(edited))
        failed, trained = again(metrics=[f"{file}:length"])
    assert trained == []
    assert failed.entries["last_layers"].status == "done"
    assert failed.entries["lora"].error == (
        f"metrics: {file}:length: the code was edited after this bakeoff had started, so its scores are not kept. "
        "Run the same command again"
    )
    two, trained = again(metrics=[f"{file}:length"])
    assert trained == []
    for name, row in one.entries.items():
        assert two.entries[name].metrics["test/length"].mean == -row.metrics["test/length"].mean != 0


def test_code_that_is_edited_while_it_scores_is_noticed(again, tmp_path):
    file = tmp_path / "score.py"
    file.write_text(
        "from pathlib import Path\n\n"
        "def edits(output, references):\n"
        "    if output not in references:\n"
        "        Path(__file__).write_text('def edits(output, references):\\n    return 0\\n')\n"
        "    return 1\n"
    )
    results, _ = again(metrics=[f"{file}:edits"], baselines=["base", "lead-1"])
    assert "the code was edited after" in results.document.baselines["lead-1"].error


def test_what_is_left_is_asked_once_and_what_was_trained_keeps_its_checksums(again, tiny_config, monkeypatch):
    again()
    asked, hashed = Counter(), Counter()
    left_to_do, digest = RunFolder.left_to_do, checksums.digest

    def asking(files, plan):
        asked[files.path.name] += 1
        return left_to_do(files, plan)

    def hashing(path):
        hashed[path.suffix] += 1
        return digest(path)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "left_to_do", asking)
        patch.setattr(checksums, "digest", hashing)
        patch.setattr(running, "write_results", lambda folder: (None, {}))  # a report has checks of its own
        again(metrics=["chrf"])
    assert dict(asked) == {run.id: 1 for run in Folder(tiny_config["output"]).runs()}
    assert hashed[".safetensors"] == 3  # of three entries


def test_a_metric_that_fails_loses_no_training(again, tmp_path):
    again()
    file = tmp_path / "score.py"
    file.write_text(
        "calls = []\n\ndef bad(output, references):\n    calls.append(1)\n    return 1 / (len(calls) < 2)\n"
    )
    failed, trained = again(metrics=[f"{file}:bad"])
    assert trained == []
    assert "division by zero" in failed.entries["lora"].error
    fixed, trained = again(metrics=["chrf"])
    assert trained == []
    assert fixed.document.status == "done"


class Ended(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("change", [CHANGES["another metric"], CHANGES["shorter outputs"]])
@pytest.mark.parametrize("killed_at", ["score_outputs", "write_jsonl", "write_result"])
def test_a_kill_while_outputs_are_made_or_scored_again_loses_no_training(again, monkeypatch, change, killed_at):
    again()

    def end(*_, **__):
        raise Ended

    with monkeypatch.context() as patch:
        if killed_at == "write_result":
            patch.setattr("bakeoff.store.run_folder.RunFolder.write_result", end)
        elif killed_at == "score_outputs":
            patch.setattr(outputs, killed_at, end)
        else:
            patch.setattr(evaluate, killed_at, end)
            patch.setattr(execution, killed_at, end)
        with pytest.raises(Ended):
            again(**change)
    resumed, trained = again(**change)
    assert trained == []
    assert resumed.document.status == "done"
    assert not list(resumed.folder.path.rglob("earlier.json"))


def test_what_is_not_scored_as_planned_yet_is_shown_as_unfinished(again, tiny_config, monkeypatch):
    again()
    monkeypatch.setattr(outputs, "score_outputs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        again(metrics=["chrf"])
    document = bakeoff.load_results(tiny_config["output"]).document
    assert document.status == "incomplete"
    assert {row.status for row in document.entries.values()} != {"done"}


def test_a_file_that_cannot_be_read_for_now_loses_no_training(again, tiny_config, monkeypatch):
    again()
    whole = checksums.digest

    def denied(path):
        if path.suffix == ".safetensors" and "lora" in str(path):
            raise PermissionError(errno.EACCES, "denied", str(path))
        return whole(path)

    with monkeypatch.context() as patch:
        patch.setattr(checksums, "digest", denied)
        refused, trained = again(metrics=["chrf"])
    assert trained == []
    assert "cannot be read (Permission denied)" in refused.entries["lora"].error
    after, trained = again(metrics=["chrf"])
    assert trained == []
    assert after.document.status == "done"


def test_a_torn_run_file_loses_no_training(again, tiny_config):
    again()
    folder = Folder(tiny_config["output"])
    for run in folder.runs():
        folder.run(run.id).run_file.write_text("{")
    after, trained = again(metrics=["chrf"])
    assert trained == []
    assert after.document.status == "done"


def test_trials_that_all_fail_later_lose_no_final_training(again, tiny_config, monkeypatch):
    tuned = {"tune": {"trials": 2}, "entries": {"lora": {"r": 2}}}
    again(**tuned)
    folder = Folder(tiny_config["output"])
    trials = [run.id for run in folder.runs() if run.kind == "trial"]
    for trial in trials:
        folder.run(trial).remove()

    def fail(work, method):
        raise SetupError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "train", fail)
        failed, _ = again(**tuned)
    assert "every trial failed" in failed.entries["lora"].error
    after, trained = again(**tuned)
    assert {kind for _, kind in trained} == {"trial"}
    assert after.document.status == "done"


def test_a_run_whose_process_dies_at_once_has_no_record_of_before(again, tiny_config, monkeypatch):
    again()
    seen = []

    def died(path, tasks, _):
        for task in tasks:
            seen.append(Folder(path).run(task.run.id).result())
            raise KeyboardInterrupt
        yield

    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(died))
    with pytest.raises(KeyboardInterrupt):
        again(metrics=["chrf"])
    assert seen == [None]


def test_a_card_is_of_the_planned_scores_alone(again, tiny_config, monkeypatch):
    again()
    cards = Folder(tiny_config["output"]).path.glob("runs/*/adapter/README.md")
    before = {card: card.read_text() for card in cards}

    def stopped(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(stopped))
    with pytest.raises(KeyboardInterrupt):
        again(metrics=["chrf"])
    assert before
    assert all(card.read_text() == text for card, text in before.items())


def test_damaged_predictions_are_made_again_by_the_adapter(again, tiny_config):
    before, _ = again()
    folder = Folder(tiny_config["output"])
    run = next(run for run in folder.runs() if run.kind == "entry")
    folder.run(run.id).predictions_file.write_text("")
    after, trained = again()
    assert trained == []
    assert predictions(after) == predictions(before)


def test_what_changed_and_what_is_done_again_is_said(again, tiny_config):
    again()
    again(metrics=["chrf"])
    again(metrics=["chrf"], generation={"max_new_tokens": 3})
    rows = map(json.loads, Folder(tiny_config["output"]).events_file.read_text().splitlines())
    notes = [row["text"] for row in rows if row["kind"] == "note" and row["text"].startswith("changed since")]
    assert [note.partition(".")[0] for note in notes] == [
        "changed since the last session: metrics",
        "changed since the last session: generation",
    ]
    assert "whose outputs are scored again: 7" in notes[0]
    assert "whose outputs are decoded again, without training: 7" in notes[1]
