import pytest

import bakeoff
from bakeoff.errors import SetupError


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


def test_a_tracker_that_fails_does_not_end_the_bakeoff(tiny_config, capsys):
    config = {**tiny_config, "entries": {"lora": {"r": 4, "learning_rate": 0.01}}, "trackers": ["tensorboard"]}
    config = {**config, "protocol": {**config["protocol"], "epochs": 1}}
    folder = bakeoff.run({**config, "trackers": []}, display="none").folder
    (folder.path / "tensorboard").write_text("a file where a folder should be")
    for file in folder.path.glob("runs/lora-*/result.json"):
        file.unlink()
    results = bakeoff.run(config, display="plain")
    assert results.document["status"] == "done"
    assert "trackers: stopped with FileExistsError" in capsys.readouterr().err


def test_a_tracker_must_be_named_right_and_installed(tiny_config, monkeypatch):
    with pytest.raises(bakeoff.errors.ConfigError, match="trackers"):
        bakeoff.load_config({**tiny_config, "trackers": ["tensorbord"]})
    monkeypatch.setattr("bakeoff.tracking.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"trackers: wandb is not installed. Try: pip install 'bakeoff\[wandb\]'"):
        bakeoff.run({**tiny_config, "trackers": ["wandb"]}, display="none")
