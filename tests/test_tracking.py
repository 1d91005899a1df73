import shutil
import sys
import time
from types import SimpleNamespace
from typing import ClassVar

import pytest

import bakeoff
from bakeoff.errors import SetupError
from bakeoff.interrupts import EndAtOnce
from bakeoff.progress import trackers
from bakeoff.progress.trackers import follow, tracked
from bakeoff.store.event_log import EventLog
from bakeoff.store.events import Metrics, Start, event_of
from bakeoff.store.run_folder import Folder

START = Start(done=[], steps={})

REST = {"epoch": 0.1, "seconds": 1.0, "validation/loss": 2.0}


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
        assert points == pytest.approx({row.step: row.validation_loss for row in curve})
        if run.kind == "entry":
            (last,) = board.Scalars("test/rougeL")
            assert last.value == pytest.approx(record.metrics["test/rougeL"])
            assert last.step == record.steps


def test_a_tracker_that_fails_is_told_and_ends_nothing(shared, tmp_path):
    folder = Folder(shutil.copytree(shared[1].folder.path, tmp_path / "copied"))
    (folder.path / "tensorboard").write_text("a file where a folder should be")
    notes, journal = [], EventLog(folder.events_file)
    (run,) = [run.id for run in folder.runs() if run.entry == "lora"]
    with tracked(folder, SimpleNamespace(trackers=["tensorboard"]), notes.append), journal.session(START):
        journal.handle(Metrics(run=run, step=1, **REST))
    assert [note.partition(":")[0] for note in notes] == ["trackers"]
    assert "stopped with NotADirectoryError" in notes[0]


def test_a_tracker_must_be_named_right_and_installed(tiny_config, monkeypatch):
    with pytest.raises(bakeoff.errors.ConfigError, match="trackers"):
        bakeoff.load_config({**tiny_config, "trackers": ["tensorbord"]})
    monkeypatch.setattr("bakeoff.progress.trackers.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"trackers: wandb is not installed. Try: pip install 'bakeoff\[wandb\]'"):
        bakeoff.run({**tiny_config, "trackers": ["wandb"]}, display="none")


def test_a_tracker_of_one_run_at_a_time_is_not_given_several(tiny_config):
    config = bakeoff.load_config({**tiny_config, "trackers": ["tensorboard", "mlflow"]})
    trackers.check_several(config, 1)
    with pytest.raises(SetupError, match="trackers: mlflow takes one run at a time, and here are 2. Try: --workers 1"):
        trackers.check_several(config, 2)
    trackers.check_several(bakeoff.load_config({**tiny_config, "trackers": ["tensorboard"]}), 8)


def test_an_interrupt_loses_no_row_at_the_trackers(shared, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(trackers, "INTERRUPTED_SECONDS", 300.0)
    folder = Folder(shutil.copytree(shared[1].folder.path, tmp_path / "copied"))
    notes, journal = [], EventLog(folder.events_file)
    (run,) = [run.id for run in folder.runs() if run.entry == "lora"]
    folder.run(run).metrics_file.unlink()

    def interrupted():
        with tracked(folder, SimpleNamespace(trackers=["tensorboard"]), notes.append), journal.session(START):
            for step in (1, 2):
                journal.handle(Metrics(run=run, step=step, **REST))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    board = EventAccumulator(str(folder.path / "tensorboard" / run)).Reload()
    assert [point.step for point in board.Scalars("validation/loss")] == [1, 2]
    assert notes == []


def test_a_second_interrupt_waits_for_no_tracker(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "INTERRUPTED_SECONDS", 300.0)
    monkeypatch.setattr(trackers, "DRAIN_SECONDS", 300.0)
    folder = Folder(shutil.copytree(shared[1].folder.path, tmp_path / "copied"))
    begun = time.monotonic()
    with pytest.raises(EndAtOnce), tracked(folder, SimpleNamespace(trackers=["tensorboard"]), print):
        raise EndAtOnce
    assert time.monotonic() - begun < 100


class Tracker:
    """A tracker of accelerate's kind that notes how its runs ended."""

    ends: ClassVar[list] = []

    def __init__(self, project, **_):
        self.run = self.tracker = SimpleNamespace(
            finish=lambda exit_code: self.ends.append(exit_code), info=SimpleNamespace(run_id="1")
        )

    def start(self):
        pass

    def log(self, values, step):
        pass

    def store_init_configuration(self, values):
        pass


@pytest.mark.parametrize(
    ("last", "kind", "end"),
    [
        ({"kind": "done", "metrics": {}, "costs": {}, "check_notes": {}}, "mlflow", "FINISHED"),
        ({"kind": "failed", "error": "no memory"}, "mlflow", "FAILED"),
        ({"kind": "state", "state": "stopping"}, "mlflow", "KILLED"),
        ({"kind": "state", "state": "stopping"}, "wandb", 1),
        ({"kind": "done", "metrics": {}, "costs": {}, "check_notes": {}}, "wandb", 0),
    ],
)
def test_no_run_stays_running_at_a_tracker(copied, monkeypatch, last, kind, end):
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    monkeypatch.setattr(Tracker, "ends", [])
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, kind, Tracker)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(end_run=Tracker.ends.append))
    (run,) = [run.id for run in copied.runs() if run.entry == "lora"]
    copied.events_file.unlink()
    journal = EventLog(copied.events_file)
    with journal.session(START):
        journal.handle(Metrics(run=run, step=1, **REST))
        journal.handle(event_of({"run": run, **last}))
    with journal.session(START):  # another session's is another follower's
        journal.handle(Metrics(run=run, step=2, **REST))
    follow(copied, 0, [kind])
    assert Tracker.ends == [end]
