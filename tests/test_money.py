"""Costs in money: every device that a run held counts."""

import pytest

from bakeoff.analysis.columns import money
from bakeoff.analysis.money import device_seconds
from bakeoff.store.records import Run, RunResult
from bakeoff.store.results_document import Price

RUN = Run("lora-1", "lora", "entry", "lora", {}, 0)
PARTS = ("train_seconds", "trunk_seconds")


@pytest.mark.parametrize(("device", "held"), [("GPU", 4), ("machine", 2)])
def test_a_run_costs_each_device_that_it_held(device, held):
    price = Price(hour=3.6, device=device, currency="EUR")
    costs = {"train_seconds": 10.0, "trunk_seconds": 5.0, "setup_seconds": 99.0}
    assert device_seconds(RunResult(RUN, "done", costs=costs, shards=4, machines=2), price, None, PARTS) == 15 * held
    assert device_seconds(RunResult(RUN, "done", costs=costs), price, None, PARTS) == 15
    assert device_seconds(RunResult(RUN, "failed", shards=4), price, None, PARTS) is None


def test_the_price_of_an_entry_is_the_mean_of_its_runs_and_that_of_tuning_the_sum_of_its_trials(tmp_path, tiny_config):
    import bakeoff
    from bakeoff.analysis.summary import summarize

    config = tiny_config | {"price": {"cpu_hour": 3600.0}, "protocol": {**tiny_config["protocol"], "seeds": 2}}
    config |= {"entries": {"lora": {"r": 2}}, "tune": {"trials": 2}, "baselines": ["base"]}
    folder = bakeoff.run(config, display="none").folder
    seconds = []
    finals = [run for run in folder.runs() if run.entry == "lora" and run.kind == "entry"]
    for run in [*folder.trials("lora", folder.plan()), *finals]:
        record = folder.run(run.id).result()
        record.machines = len(seconds) + 1
        folder.run(run.id).write_result(record, known=record.files)
        spent = record.costs["train_seconds"] + record.costs.get("trunk_seconds", 0.0) * (run.kind == "entry")
        seconds.append((run.kind, record.machines * spent))
    costs = summarize(folder).entries["lora"].costs
    assert costs["price"] == pytest.approx(sum(value for kind, value in seconds if kind == "entry") / 2)
    assert costs["tuning_price"] == pytest.approx(sum(value for kind, value in seconds if kind == "trial"))


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.0000927, "0.000093"), (0.05, "0.05"), (0.128, "0.13"), (1234.5, "1,234.50")]
)
def test_small_sums_have_two_digits_and_no_exponent(value, shown):
    assert money("EUR")(value) == f"{shown} EUR"
