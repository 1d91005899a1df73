"""Trials at the edges: failing ones, several fields, little room, no search."""

import pytest

import bakeoff
from tests.conftest import with_figures
from tests.test_trials import started

pytestmark = pytest.mark.usefixtures("figures")


def test_failed_trials_rank_last_and_are_told(tiny_config):
    tiny_config["entries"] = {"wild": {"method": "last_layers", "learning_rate": {"low": 1e-3, "high": 1e37}}}
    with with_figures():
        results = bakeoff.run(tiny_config, {"protocol.clip_norm": None, "tune.trials": 4}, display="none")
    row = results.entries["wild"]
    assert row.status == "done"
    statuses = [t.status for t in row.tuning.trials]
    assert statuses[1:4] == ["failed"] * 3
    assert all("not finite" in t.error or "loss is" in t.error for t in row.tuning.trials[1:4])
    assert statuses[0] == "done"
    assert row.tuning.edge == {"learning_rate": "low"}
    page = results.folder.report_file.read_text()
    assert page.count("Failed trial of wild at") == 3
    assert "Edge:" in page


def test_where_every_trial_fails_the_entry_has_failed_and_is_tried_again(tiny_config, monkeypatch):
    tiny_config["entries"] = {
        "wild": {"method": "last_layers", "learning_rate": {"low": 1e30, "high": 1e32}},
        "lora": {"r": 2, "learning_rate": 0.01},
    }
    changes = {"protocol.clip_norm": None, "tune.trials": 2, "protocol.epochs": 1}
    results = bakeoff.run(tiny_config, changes, display="none")
    assert results.document.status == "incomplete"
    assert results.entries["wild"].status == "failed"
    assert results.entries["wild"].error.startswith("every trial failed: the training loss is")
    assert results.entries["lora"].status == "done"
    seen = started(monkeypatch)
    bakeoff.run(tiny_config, changes, display="none")
    assert [run[:3] for run in seen] == [("wild", "trial", 1), ("wild", "trial", 2)]


def test_several_fields_are_searched_together_and_whole_numbers_stay_whole(tiny_config):
    tiny_config["entries"] = {
        "lora": {"r": {"low": 1, "high": 8}, "lora_dropout": {"low": 0, "high": 0.5, "scale": "linear"}}
    }
    results = bakeoff.run(tiny_config, {"tune": {"trials": 3, "halving": False}, "protocol.epochs": 1}, display="none")
    trials = results.entries["lora"].tuning.trials
    assert all(set(t.settings) == {"learning_rate", "r", "lora_dropout"} for t in trials)
    assert all(isinstance(t.settings["r"], int) for t in trials)
    assert {t.steps for t in trials} == {5}
    plan = bakeoff.plan(tiny_config, {"tune.trials": 3})["entries"]["lora"]
    largest, chosen = (max(t["r"] for t in plan["trial_points"]), results.entries["lora"].tuning.chosen["r"])
    assert plan["trainable_parameters"] * chosen == largest * results.entries["lora"].trainable_parameters


@pytest.mark.parametrize("sampler", ["halton", "tpe"])
def test_an_optimizer_is_searched_like_a_number_and_has_a_figure(tiny_config, sampler):
    tiny_config["entries"] = {
        "lora": {"r": 2, "optimizer": ["adamw", "muon", "schedule_free"]},
        "top": {"method": "last_layers"},
    }
    changes = {"tune": {"trials": 4, "sampler": sampler}, "protocol.epochs": 2}
    with with_figures():
        results = bakeoff.run(tiny_config, changes, display="none")
    assert results.document.status == "done"
    plan, row = results.folder.plan(), results.entries["lora"]
    assert plan.entries["lora"].trial_steps == plan.entries["top"].trial_steps
    assert plan.entries["lora"].search["optimizer"].values == ["adamw", "muon", "schedule_free"]
    assert any("learning rate of lora stays at its peak" in line for line in plan.data.findings)
    assert row.tuning.chosen["optimizer"] in plan.entries["lora"].search["optimizer"].values
    assert row.settings["optimizer"] == row.tuning.chosen["optimizer"]
    assert "optimizer" not in row.tuning.edge
    assert "Trials of lora over optimizer" in results.folder.report_file.read_text()


def test_a_plan_names_choices_that_no_trial_has(tiny_config):
    tiny_config["entries"] = {"lora": {"r": 2, "optimizer": ["adamw", "muon", "schedule_free"]}, "ia3": {}}
    few, more = (bakeoff.plan(tiny_config, {"tune.trials": n})["data"]["findings"] for n in (2, 8))
    tried = {p["optimizer"] for p in bakeoff.plan(tiny_config, {"tune.trials": 2})["entries"]["lora"]["trial_points"]}
    (left,) = {"adamw", "muon", "schedule_free"} - tried
    assert f"entries.lora.optimizer: no trial has {left} (trials: 2). Try: more trials" in few
    assert not any("no trial has" in line for line in more)


def test_a_soft_prompt_is_not_extended_past_the_room_kept_for_it(tiny_config):
    tiny_config["entries"] = {"prompt_tuning": {"num_virtual_tokens": {"low": 1, "high": 12}, "learning_rate": 0.05}}
    plan = bakeoff.plan(tiny_config, {"tune.trials": 2, "protocol.max_tokens": 60})
    longest = max(point["num_virtual_tokens"] for point in plan["entries"]["prompt_tuning"]["trial_points"])
    assert plan["max_tokens"] == min(60, 64 - longest)
    results = bakeoff.run(tiny_config, {"tune.trials": 2, "protocol.max_tokens": 60}, display="none")
    found = results.entries["prompt_tuning"].tuning
    assert max(t.settings["num_virtual_tokens"] for t in found.trials) == longest
    if found.edge == {"num_virtual_tokens": "high"}:
        assert found.extended == "no room"


def test_off_takes_the_methods_own_rate(tiny_config):
    plan = bakeoff.plan(tiny_config)
    assert {row["tuning"] for row in plan["entries"].values()} == {"off"}
    assert plan["entries"]["lora"]["learning_rate"] == 1e-3
    assert plan["rungs"] == []
    assert {run["kind"] for run in plan["runs"]} == {"baseline", "entry"}
