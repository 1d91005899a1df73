"""Settings that follow from losses: the same again from what was tried, new ones, better than points drawn before."""

import math
import statistics

import pytest

import bakeoff
from bakeoff.config.loading import load_config
from bakeoff.driver.entries import checked_entries
from bakeoff.errors import ConfigError
from bakeoff.report.plan import plan_lines
from bakeoff.tuning import asking
from bakeoff.tuning.asking import ask
from bakeoff.tuning.search import Range, trial_points

RANGES = {"learning_rate": Range(1e-5, 1e-1), "r": Range(1, 64, integer=True)}


def loss_at(point):
    """Return a loss with one valley, along which the rate and the rank belong together."""

    return (math.log10(point["learning_rate"]) + 3) ** 2 + 0.2 * (math.log2(point["r"]) - 3) ** 2


def searched(trials, seed, ranges=RANGES, loss=loss_at):
    tried = [(point, loss(point)) for point in trial_points(ranges, trials - trials // 2, seed)]
    while len(tried) < trials:
        point = ask(ranges, tried, seed)
        tried.append((point, loss(point)))
    return tried


def test_the_same_trials_lead_to_the_same_settings_within_the_ranges():
    tried = searched(8, 3)
    assert tried == searched(8, 3)
    assert tried[4:] != searched(8, 4)[4:]
    for point, _ in tried:
        assert 1e-5 <= point["learning_rate"] <= 1e-1
        assert isinstance(point["r"], int)
        assert 1 <= point["r"] <= 64


def test_no_settings_are_tried_twice():
    ranges = {"r": Range(1, 6, integer=True)}
    tried = [point["r"] for point, _ in searched(6, 0, ranges, lambda point: abs(point["r"] - 2.0))]
    assert sorted(tried) == [1, 2, 3, 4, 5, 6]


def test_failures_are_told_as_the_worst():
    points = trial_points(RANGES, 4, 0)
    assert ask(RANGES, [(point, None) for point in points], 0) not in points
    told = [(point, None if point["learning_rate"] > 1e-3 else loss_at(point)) for point in points]
    assert ask(RANGES, told, 0) not in points


def test_on_a_surface_with_a_valley_it_finds_lower_losses_than_points_drawn_before():
    seeds, trials = range(8), 12
    drawn = [min(map(loss_at, trial_points(RANGES, trials, seed))) for seed in seeds]
    asked = [min(loss for _, loss in searched(trials, seed)) for seed in seeds]
    assert statistics.mean(asked) < statistics.mean(drawn)


def test_half_of_the_trials_are_known_in_a_plan(tiny_config):
    tune = {"trials": 5, "sampler": "tpe"}
    fields = {"lora": {"r": {"low": 1, "high": 4}}, "prompt": {"method": "prompt_tuning", "learning_rate": 0.1}}
    entries = checked_entries(load_config({**tiny_config, "entries": fields, "tune": tune}))
    assert [(len(e.trial_points), e.asked, e.trials) for e in entries.values()] == [(3, 2, 5), (0, 0, 0)]
    plain = checked_entries(load_config({**tiny_config, "entries": fields, "tune": {"trials": 3}}))
    assert plain["lora"].trial_points == entries["lora"].trial_points
    assert plain["lora"].ladder != entries["lora"].ladder


def test_positions_are_kept_free_for_the_largest_soft_prompt_that_may_be_asked_for(tiny_config):
    fields = {"prompt": {"method": "prompt_tuning", "num_virtual_tokens": {"low": 2, "high": 9}}}
    config = {**tiny_config, "entries": fields, "tune": {"trials": 4, "sampler": "tpe"}}
    (entry,) = checked_entries(load_config(config)).values()
    assert max(method.virtual_tokens for method in entry.methods()) == 9


def test_a_search_that_asks_is_resumed_from_its_records(tiny_config):
    tiny_config["entries"] = {"lora": {"r": {"low": 1, "high": 4}}}
    tiny_config |= {"tune": {"trials": 4, "sampler": "tpe"}, "baselines": ["base"]}
    tiny_config["protocol"] = {"epochs": 1, "max_tokens": 32, "seeds": 1}
    results = bakeoff.run(tiny_config, display="none")
    tuning = results.document.entries["lora"].tuning
    trials = [trial for trial in tuning.trials if trial.trial <= 4]
    assert [trial.trial for trial in trials] == [1, 2, 3, 4]
    assert len({str(trial.settings) for trial in trials}) == 4
    planned = results.folder.plan()
    assert len(planned.entries["lora"].trial_points) == 2
    assert plan_lines(planned)[0].startswith("6 runs, ")  # base, four trials, one seed
    assert any(line.startswith("settings of 2 trials follow from") for line in plan_lines(planned))
    last = results.folder.run(trials[-1].run)
    final = results.folder.run(results.document.entries["lora"].runs[0])
    last.remove()
    final.remove()
    again = bakeoff.run(tiny_config, display="none").document.entries["lora"].tuning
    assert [(t.run, t.settings) for t in again.trials] == [(t.run, t.settings) for t in tuning.trials]
    assert again.chosen == tuning.chosen


def test_without_optuna_the_plan_says_what_to_install(tiny_config, monkeypatch):
    monkeypatch.setattr(asking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="tune.sampler: tpe needs Optuna. Try: pip install 'bakeoff.optuna.'"):
        checked_entries(load_config({**tiny_config, "tune": {"sampler": "tpe"}}))
