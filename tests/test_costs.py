"""What a plan says of costs: exact counts, a forecast from measurements, and a probe that measures."""

import json

import numpy
import pytest
from click.testing import CliRunner

from bakeoff.api import plan
from bakeoff.cli import main
from bakeoff.costs import exact_counts, forecast, least_bytes
from bakeoff.data.tokens import Lengths
from bakeoff.report.plan import bars, duration, forecast_lines
from bakeoff.sections import ProtocolConfig

MEASURED = {
    "error": None, "setup_seconds": 1.0, "step_seconds": 0.5, "tokens": 100, "evaluation_seconds": 0.2,
    "evaluated_tokens": 100, "generation_seconds": 1.0, "generated_tokens": 50, "peak_bytes": 800,
}  # fmt: skip


def test_counts_are_of_the_tokens_that_are_read_and_written():
    prompts, targets = numpy.array([5, 9, 2], numpy.int32), numpy.array([1, 2, 3], numpy.int32)
    lengths = Lengths(prompts, targets, *[numpy.zeros(3, numpy.int32)] * 3)
    found = exact_counts(dict.fromkeys(("train", "validation", "test"), lengths), ProtocolConfig(batch_size=2), 7)
    assert found == {
        "train_tokens": 22, "longest_batch_tokens": 22, "validation_tokens": 22, "test_tokens": 22, "output_tokens": 21
    }  # fmt: skip
    assert least_bytes(100, 10, "bf16") == 90 * 2 + 10 * 16


def document(trials=0):
    steps = {"trials": trials, "steps": 10, "trial_steps": 25 if trials else 0, "least_bytes": 900}
    counts = {"train_tokens": 1000, "validation_tokens": 100, "test_tokens": 200, "output_tokens": 50,
              "longest_batch_tokens": 100}  # fmt: skip
    runs = [{"entry": "lora", "kind": "entry"}] * 3 + [{"entry": "lora", "kind": "trial"}] * trials
    return {"counts": counts, "epochs": 2, "entries": {"lora": steps}, "runs": runs, "memory_bytes": 1000}


def test_a_forecast_is_measured_seconds_a_token_times_tokens():
    a_run = 2 * 1000 * 0.5 / 100 + 3 * 100 * 0.2 / 100 + 200 * 0.2 / 100 + 50 * 1.0 / 50 + 1.0
    found = forecast(document(), {"lora": MEASURED})
    assert found["seconds"] == pytest.approx(3 * a_run)
    assert found["too_large"] == []
    tuned = forecast(document(trials=4), {"lora": MEASURED})
    assert tuned["seconds"] == pytest.approx(3 * a_run + 10.0 * 1.5)  # 15 steps beside those of the chosen trial


def test_what_does_not_fit_is_named():
    large = forecast(document(), {"lora": {**MEASURED, "peak_bytes": 1200}})
    assert large["too_large"] == ["lora"]
    killed = forecast(document(), {"lora": {**MEASURED, "error": "no memory left"}})
    assert (killed["seconds"], killed["too_large"]) == (None, ["lora"])
    lines = forecast_lines({**document(), "forecast": killed})
    assert lines[1] == "lora: no memory left"
    assert lines[2].startswith("does not fit into 1,000 B: lora. Try a smaller protocol.batch_size")
    assert forecast_lines({**document(), "memory_bytes": 800})[-1].startswith("does not fit into 800 B: lora.")
    assert len(forecast_lines(document())) == 2


def test_a_probe_measures_every_entry_and_leaves_nothing(tiny_config, tmp_path):
    config = tiny_config | {"entries": {"lora": tiny_config["entries"]["lora"]}}
    planned = plan(config, probe=True)
    found = planned["forecast"]
    row = found["entries"]["lora"]
    assert row["error"] is None
    assert 0 < row["seconds"] < 600
    assert 1e7 < row["peak_bytes"] < planned["memory_bytes"]
    assert found["seconds"] == row["seconds"]
    assert not (tmp_path / "bakeoffs").exists()


def test_a_plan_says_what_it_knows(tiny_config, tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps(tiny_config))
    shown = CliRunner().invoke(main, ["plan", str(tmp_path / "c.yaml")]).stdout
    assert "an epoch trains on " in shown
    assert "targets never; documents " in shown
    assert "weights and optimizer alone take: prompt_tuning " in shown
    assert bars([0, 1, 100, 50]) == " \u2581\u2588\u2584"
    assert [duration(s) for s in (3.2, 600, 9000)] == ["3 s", "10 min", "2.5 h"]
