"""What a plan says of costs: exact counts, a forecast from measurements, and a probe that measures."""

import json
from dataclasses import asdict

import numpy
import pytest
from click.testing import CliRunner

from bakeoff.api import plan
from bakeoff.cli.main import main
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Lengths
from bakeoff.driver.counts import exact_counts
from bakeoff.progress.throughput import NEUTRAL_TOKENS, expected_costs
from bakeoff.report.plan import bars, duration, forecast_lines, other_budgets
from bakeoff.store.records import Run
from tests.conftest import plan_with

MEASURED = {
    "error": None, "load_seconds": 7.0, "setup_seconds": 1.0, "start_seconds": 0.0, "step_seconds": 0.5, "tokens": 100,
    "evaluation_seconds": 0.2, "evaluated_tokens": 100, "prefill_seconds": 0.3, "prefill_tokens": 60,
    "generation_seconds": 1.0, "generated_tokens": 50, "peak_bytes": 800, "reads_targets": False,
}  # fmt: skip


def test_counts_are_of_the_tokens_that_are_read_and_written():
    prompts, targets = numpy.array([5, 9, 2], numpy.int32), numpy.array([1, 2, 3], numpy.int32)
    lengths = Lengths(prompts, targets, *[numpy.zeros(3, numpy.int32)] * 4)
    found = exact_counts(dict.fromkeys(("train", "validation", "test"), lengths), ProtocolConfig(batch_size=2), 7)
    assert found == {
        "train_tokens": 22, "longest_batch_tokens": 22, "validation_tokens": 22, "test_tokens": 22, "output_tokens": 21
    }  # fmt: skip


def document(trials=0, **more):
    runs = [Run(f"lora-{seed}", "lora", "entry", "lora", {}, seed, 10) for seed in range(3)]
    point = {"learning_rate": 1, "r": 1}
    runs += [Run(f"lora-t{i}", "lora", "trial", "lora", point, 0, 10, i, "s") for i in range(trials)]
    row = {"trials": trials, "steps": 10, "trial_steps": 25 if trials else 0, "least_bytes": 900}
    row["step_products"] = {"prompt": 0, "target": 0, "example": 1}
    span = {"low": 1, "high": 2, "scale": "log"}
    row["search"] = {"learning_rate": span, "r": span} if trials else {}
    counts = {"train_tokens": 1000, "validation_tokens": 100, "test_tokens": 200, "output_tokens": 50,
              "longest_batch_tokens": 100}  # fmt: skip
    splits = {"test": {"examples": 10, "prompt_tokens_mean": 15.0}}
    return plan_with({"counts": counts, "epochs": 2, "entries": {"lora": row}, "runs": [asdict(run) for run in runs],
            "memory_bytes": 1000, "data": {"splits": splits}, "output_tokens": 5,
            "rungs": [3, 5] if trials else [], **more})  # fmt: skip


def test_an_estimate_is_measured_seconds_times_the_amounts_of_work():
    step, validation = 0.5 / 100 * 1000 * 2 / 10, 0.2 / 100 * 100
    tested = 0.2 / 100 * (200 + 100 + NEUTRAL_TOKENS) + 10 * (0.3 / 60 * 15 + 1.0 / 50 * 4)
    every_other = ProtocolConfig(epochs=2, evaluate_every=2)  # validations at 0, 2, 4, 5, 6, 8, 10
    found = expected_costs(document(), every_other, {"lora": MEASURED})
    assert found.entries["lora"].seconds == pytest.approx(3 * (2 * 1.0 + 10 * step + 7 * validation + tested))
    assert found.seconds == pytest.approx(found.entries["lora"].seconds + 7.0)  # the base is loaded once for all runs
    assert found.too_large == []
    once = expected_costs(document(), every_other, {"lora": {**MEASURED, "reads_targets": True}})
    assert once.seconds == pytest.approx(found.seconds - 3 * 10 * 0.3 / 60 * 15)
    tuned = expected_costs(document(trials=4), every_other, {"lora": MEASURED})
    # Four trials take 25 steps with 2.5 trainings' 8 validations in 4 + 2 + 1 set-ups; a step further is 0.75 likely
    # with two fields. The first seed's run resumes one of them.
    trials = (2.5 + 0.75) * (10 * step + 8 * validation) + (7 + 0.75) * 1.0
    finals = 3 * (2 * 1.0 + tested) + 2 * (10 * step + 8 * validation)
    assert tuned.seconds == pytest.approx(trials + finals + 7.0)


def test_a_base_is_loaded_once_for_each_way_to_store_it():
    plain = document()
    row = plain.entries["lora"]
    entries = {"lora": row, "dora": row, "packed": row.model_copy(update={"quantize": "nf4"})}
    probes = {"lora": MEASURED, "dora": MEASURED, "packed": {**MEASURED, "load_seconds": 20.0}}
    found = expected_costs(plain.model_copy(update={"entries": entries}), ProtocolConfig(epochs=2), probes)
    assert found.seconds == pytest.approx(sum(entry.seconds for entry in found.entries.values()) + 7.0 + 20.0)


def test_the_first_round_alone_is_compared_with_the_budget():
    rounds = document(looks=[2, 3], config={"protocol": {"budget": 60.0}})
    found = expected_costs(rounds, ProtocolConfig(epochs=2), {"lora": MEASURED})
    assert found.first_round_seconds - 7 == pytest.approx((found.seconds - 7) * 2 / 3)
    for seconds, end in (
        (50.0, ""),
        (90.0, ", which is over protocol.budget (60 s), so no seeds would be added after"),
    ):
        forecast = found.model_copy(update={"first_round_seconds": seconds})
        lines = forecast_lines(rounds.model_copy(update={"forecast": forecast}))
        (line,) = [line for line in lines if line.startswith("the first round")]
        assert line.startswith(f"the first round of seeds: about {seconds:.0f} s{end}")
        assert bool(end) == ("Try: a larger budget" in line)


def test_what_does_not_fit_is_named():
    large = expected_costs(document(), ProtocolConfig(epochs=2), {"lora": {**MEASURED, "peak_bytes": 1200}})
    assert large.too_large == ["lora"]
    killed = expected_costs(document(), ProtocolConfig(epochs=2), {"lora": {**MEASURED, "error": "out of memory"}})
    assert (killed.seconds, killed.too_large) == (None, ["lora"])
    lines = forecast_lines(document(forecast=killed))
    assert lines[1] == "lora: out of memory"
    assert lines[2].startswith("does not fit into the 1,000 B of memory: lora. Try: a smaller protocol.batch_size")
    short = "does not fit into the {} B of memory: lora ({} B are missing). Try: "
    assert forecast_lines(document(memory_bytes=800))[-1].startswith(short.format(800, 100))
    assert forecast_lines(document(forecast=large))[-1].startswith(short.format("1,000", 200))
    assert len(forecast_lines(document())) == 2
    both = "2 runs at once on a device need up to 1.76 KiB of memory without activations and logits (of lora), "
    assert forecast_lines(document(at_once=2, memory_bytes=1800))[-1] == both + "of 1.76 KiB"
    short = both + "more than its 1.66 KiB. Try: --workers, at most 1 for each device"
    assert forecast_lines(document(at_once=2, memory_bytes=1700))[-1] == short


def test_a_plan_says_what_other_budgets_of_steps_there_are():
    row = document(trials=4).entries["lora"].model_copy(update={"steps": 10, "trials": 4})
    assert other_budgets(row, True) == "13 steps with 2, 42 steps with 8, 84 steps with 16"
    assert other_budgets(row, False) == "20 steps with 2, 80 steps with 8, 160 steps with 16"


def test_a_probe_measures_every_entry_and_leaves_nothing(tiny_config, tmp_path):
    config = tiny_config | {"entries": {"lora": tiny_config["entries"]["lora"]}}
    planned = plan(config, probe=True)
    found = planned["forecast"]
    row = found["entries"]["lora"]
    assert row["error"] is None
    assert 0 < row["seconds"] < 600
    assert 1e7 < row["peak_bytes"] < planned["memory_bytes"]
    assert found["seconds"] > row["seconds"]  # with the base's loading
    assert not (tmp_path / "bakeoffs").exists()


def test_a_plan_says_what_it_knows(tiny_config, tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps(tiny_config))
    shown = CliRunner().invoke(main, ["plan", str(tmp_path / "c.yaml")]).stdout
    assert "an epoch trains on " in shown
    assert "of their tokens); documents " in shown
    assert "memory without activations and logits: prompt_tuning " in shown
    assert bars([0, 1, 100, 50]) == " \u2581\u2588\u2584"
    assert [duration(s) for s in (3.2, 600, 9000)] == ["3 s", "10 min", "2.5 h"]
