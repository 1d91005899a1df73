import shutil
from types import SimpleNamespace

import pytest

import bakeoff
from bakeoff.errors import SetupError
from bakeoff.journal import Journal
from bakeoff.records import Event, Folder
from bakeoff.tracking import tracked


def test_tensorboard_files_hold_curves_and_scores(tiny_config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tune = {"trials": 2, "halving": True}
    lora = {"r": 4, "target_modules": ["c_attn"]}
    config = {**tiny_config, "entries": {"lora": lora}, "tune": tune, "trackers": ["tensorboard"]}
    results = bakeoff.run(config, display="none")
    folder = results.folder
    for run in folder.runs():
        if run.kind == "baseline":
            continue
        record, curve = folder.run(run.id).result(), folder.run(run.id).curve()
        board = EventAccumulator(str(folder.path / "tensorboard" / run.id)).Reload()
        points = {point.step: point.value for point in board.Scalars("validation/loss")}
        # a trial that went on after its rung has the point there once more
        assert points == pytest.approx({row["step"]: row["validation/loss"] for row in curve})
        if run.kind == "entry":
            (last,) = board.Scalars("test/rougeL")
            assert last.value == pytest.approx(record.metrics["test/rougeL"])
            assert last.step == record.steps


def test_a_tracker_that_fails_is_told_and_ends_nothing(shared, tmp_path):
    folder = Folder(shutil.copytree(shared[1].folder.path, tmp_path / "copied"))
    (folder.path / "tensorboard").write_text("a file where a folder should be")
    notes, journal = [], Journal(folder.events_file)
    (run,) = [run.id for run in folder.runs() if run.entry == "lora"]
    with tracked(folder, SimpleNamespace(trackers=["tensorboard"]), notes.append), journal.session([], {}):
        journal.add(Event(run, "metrics", {"step": 1, "validation/loss": 2.0}))
    assert [note.partition(":")[0] for note in notes] == ["trackers"]
    assert "stopped with NotADirectoryError" in notes[0]


def test_a_tracker_must_be_named_right_and_installed(tiny_config, monkeypatch):
    with pytest.raises(bakeoff.errors.ConfigError, match="trackers"):
        bakeoff.load_config({**tiny_config, "trackers": ["tensorbord"]})
    monkeypatch.setattr("bakeoff.tracking.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"trackers: wandb is not installed. Try: pip install 'bakeoff\[wandb\]'"):
        bakeoff.run({**tiny_config, "trackers": ["wandb"]}, display="none")
