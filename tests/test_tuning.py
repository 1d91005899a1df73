"""Ladders, halving and extension as pure functions, and how entries' ranges are read."""

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.config.loading import load_config
from bakeoff.driver.entries import checked_entries
from bakeoff.errors import ConfigError
from bakeoff.tuning.search import Choices, Range, budget, edges, extension, most_trials, rungs, survivors, trial_points

RATE = Range(1e-5, 1e-1)


@given(st.floats(1e-8, 1.0), st.floats(1.01, 1e6), st.integers(1, 20))
def test_one_field_is_tried_at_even_points_in_the_middle_of_their_bins(low, ratio, trials):
    points = [p["learning_rate"] for p in trial_points({"learning_rate": Range(low, low * ratio)}, trials, 0)]
    edge = ratio ** (0.5 / trials)
    assert points[0] == pytest.approx(low * edge)
    assert points[-1] == pytest.approx(low * ratio / edge)
    for a, b in itertools.pairwise(points):
        assert b / a == pytest.approx(edge**2)


def test_a_linear_scale_is_even_too():
    assert [p["x"] for p in trial_points({"x": Range(-1, 1, "linear")}, 4, 0)] == [-0.75, -0.25, 0.25, 0.75]


@given(st.integers(1, 50), st.integers(0, 60), st.integers(1, 12), st.sampled_from(["log", "linear"]))
def test_whole_numbers_are_all_different_and_within(low, width, trials, scale):
    span = Range(low, low + width + trials, scale, integer=True)
    points = [p["r"] for p in trial_points({"r": span}, trials, 0)]
    assert len(set(points)) == trials
    assert points == sorted(points)
    assert all(isinstance(p, int) and low <= p <= low + width + trials for p in points)


def test_several_fields_fill_their_ranges_and_follow_the_seed():
    ranges = {"learning_rate": RATE, "r": Range(1, 64, "log", integer=True), "p": Range(0, 1, "linear")}
    points = trial_points(ranges, 64, 3)
    assert points == trial_points(ranges, 64, 3)
    assert points != trial_points(ranges, 64, 4)
    assert points[:8] == trial_points(ranges, 8, 3)
    assert all(1e-5 <= p["learning_rate"] <= 1e-1 and 1 <= p["r"] <= 64 and 0 <= p["p"] <= 1 for p in points)
    for share in (0.25, 0.5, 0.75):  # a low-discrepancy sequence: every quarter gets its part
        for below in (
            sum(p["learning_rate"] < 1e-5 * 1e4**share for p in points),
            sum(p["p"] < share for p in points),
        ):
            assert abs(below - 64 * share) <= 5
    few = {"a": Range(1, 3, "linear", integer=True), "b": Range(1, 2, "linear", integer=True)}
    assert len({(p["a"], p["b"]) for p in trial_points(few, 6, 0)}) == 6


def test_the_better_half_goes_on_and_failed_trials_never_do():
    assert survivors([3.0, 1.0, 2.0, 4.0]) == [1, 2]
    assert survivors([3.0, None, None, 4.0]) == [0, 3]
    assert survivors([None, None, None, 4.0]) == [3]
    assert survivors([1.0, 1.0, 1.0]) == [0, 1]
    assert survivors([None, None]) == []


def test_rungs_and_what_they_save():
    assert rungs(376, True) == [94, 188]
    assert rungs(10, True) == [3, 5]
    assert rungs(2, True) == [1]
    assert rungs(1, True) == rungs(10, False) == []
    assert budget(4, 400, True) == 4 * 100 + 2 * 100 + 200
    assert budget(4, 400, False) == 1600
    assert budget(1, 400, True) == 400


@given(st.integers(1, 5000), st.integers(1, 500), st.booleans(), st.integers(1, 60))
def test_a_budget_holds_as_many_trials_as_fit(limit, steps, halving, most):
    trials = most_trials(limit, steps, halving, most)
    assert 0 <= trials <= most
    assert trials == 0 or budget(trials, steps, halving) <= limit
    assert trials == most or budget(trials + 1, steps, halving) > limit


def test_edges_of_what_was_tried():
    points = [{"lr": 1e-3, "r": 4}, {"lr": 1e-2, "r": 2}, {"lr": 3e-3, "r": 8}]
    assert edges(points, points[0]) == {"lr": "low"}
    assert edges(points, points[1]) == {"lr": "high", "r": "low"}
    assert edges(points, points[2]) == {"r": "high"}
    assert edges([{"lr": 1.0}], {"lr": 1.0}) == {}


def test_an_extension_is_one_step_on_and_keeps_within_bounds():
    points = trial_points({"lr": RATE}, 4, 0)
    further = extension({"lr": RATE}, points[-1], {"lr": "high"}, 4, lambda _: True)
    assert further["lr"] / points[-1]["lr"] == pytest.approx(points[1]["lr"] / points[0]["lr"])
    assert extension({"lr": RATE}, points[0], {"lr": "low"}, 4, lambda _: True)["lr"] == pytest.approx(10**-5.5)
    span = Range(0, 1, "linear")
    assert extension({"p": span}, {"p": 0.875}, {"p": "high"}, 4, lambda s: s["p"] < 1) is None
    both = {"lr": RATE, "p": span}
    chosen = {"lr": 1e-2, "p": 0.9}
    moved = extension(both, chosen, {"lr": "high", "p": "high"}, 4, lambda s: s["p"] < 1)
    assert moved == {"lr": pytest.approx(1e-1), "p": 0.9}
    ranks = Range(1, 4, "log", integer=True)
    assert ranks.beyond(1, "low", 4) == 0
    assert ranks.beyond(4, "high", 4) == 6
    assert ranks.beyond(2, "high", 100) == 3


def entry(fields, steps=None, **rest):
    config = load_config({"data": "docstrings", "entries": {"x": {"method": "lora", **fields}}, **rest})
    return checked_entries(config, steps)["x"]


def test_what_is_searched_what_is_fixed_and_what_is_off():
    own = entry({})
    assert (own.label, own.ranges) == ("tuned", {"learning_rate": Range(3e-5, 3e-3)})
    assert len(own.trial_points) == len(own.methods()) == 4
    given_rate = entry({"learning_rate": "1e-4"})
    assert (given_rate.label, given_rate.trial_points) == ("fixed", [])
    assert given_rate.methods()[0].learning_rate == 1e-4
    both = entry({"learning_rate": {"low": "1e-5", "high": 1e-2}, "r": {"low": 2, "high": 16}}, tune={"trials": 5})
    assert both.ranges == {"learning_rate": Range(1e-5, 1e-2), "r": Range(2, 16, "log", integer=True)}
    assert len({m.r for m in both.methods()}) > 1
    rank_only = entry({"learning_rate": 1e-3, "r": {"low": 2, "high": 16}})
    assert list(rank_only.ranges) == ["r"]
    for off in (False, "off", None):
        without = entry({}, tune=off)
        assert (without.label, without.trial_points) == ("off", [])
        assert without.methods()[0].learning_rate == 1e-3


@pytest.mark.parametrize(
    ("fields", "tune", "message"),
    [
        ({"learning_rate": {"low": 1e-2, "high": 1e-5}}, {}, "low 0.01 is not below high 1e-05"),
        ({"learning_rate": {"low": 1e-3, "high": 1e-3}}, {}, "is not below"),
        ({"learning_rate": {"low": 0, "high": 1}}, {}, "low 0 on a log scale. Try: a low above 0, or scale: linear"),
        ({"learning_rate": {"low": 0, "high": 1, "scale": "linear"}}, {}, "greater than 0"),
        ({"learning_rate": {"low": "x", "high": 1}}, {}, "entries.x.learning_rate.low: .*got 'x'"),
        ({"learning_rate": {"low": 1e-3, "high": math.inf}}, {}, "high: .*finite"),
        ({"learning_rate": {"low": 1e-3}}, {}, "'high' is missing. A range has low and high"),
        ({"learning_rate": {"low": 1, "high": 2, "step": 1}}, {}, "learning_rate.step: unknown key"),
        ({"learning_rate": {"low": 1, "high": 2, "scale": "lin"}}, {}, "'log' or 'linear'"),
        (
            {"target_modules": {"low": 1, "high": 2}},
            {},
            "this field is not a number. Numeric fields of lora: learning_rate, r",
        ),
        (
            {"method": "trainable_tokens", "token_indices": {"low": 1, "high": 2}},
            {},
            "this field is not a number. Numeric fields of trainable_tokens: learning_rate$",
        ),
        ({"lora_dropout": {"low": 0.1, "high": 1.5}}, {}, "entries.x.lora_dropout: .*less than 1"),
        ({"optimizer": ["adamw", "muno"]}, {}, r"entries.x.optimizer: unknown 'muno'. Did you mean 'muon'\?"),
        (
            {"optimizer": ["adamw", "adamw"]},
            {},
            "optimizer: expected one value, or several .*. Allowed: adamw",
        ),
        ({"optimizer": ["adamw"]}, {}, "optimizer: expected one value, or several"),
        ({"optimizer": [{}, 3]}, {}, "optimizer: unknown {}. Allowed: adamw"),
        ({"optimizer": ["adamw", "muon"]}, "off", "a range, but tune is off. Try: one value"),
        (
            {"optimizer": ["adamw", "muon"], "learning_rate": 1e-3},
            {},
            r"entries.x.optimizer: its range or list has 2 values, fewer than there are trials \(4\)",
        ),
        ({"rank": {"low": 1, "high": 2}}, {}, "'rank' is not a field of lora"),
        ({"learning_rate": 1e-3, "r": {"low": 4, "high": 6}}, {}, "has 3 values, fewer than there are trials"),
        ({"learning_rate": {"low": 1e-5, "high": 1e-2}}, "off", "a range, but tune is off"),
        ({}, {"trials": 0}, r"tune.trials: .*greater than or equal to 1 \(got 0\)"),
        ({}, {"trial": 4}, r"tune.trial: unknown key. Did you mean 'trials'\?"),
        ({}, 4, "tune"),
    ],
)
def test_ranges_that_are_none_are_one_line(fields, tune, message):
    with pytest.raises(ConfigError, match=message) as caught:
        entry(fields, tune=tune)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("trials", [4, 8, 16])
def test_each_choice_has_as_many_trials_as_the_others_and_no_edge(trials):
    found = entry({"r": {"low": 2, "high": 16}, "optimizer": ["adamw", "muon"]}, tune={"trials": trials})
    assert found.ranges["optimizer"] == Choices(("adamw", "muon"))
    tried = [point["optimizer"] for point in found.trial_points]
    assert tried.count("adamw") == tried.count("muon") == trials // 2
    assert len({point["learning_rate"] for point in found.trial_points}) == trials
    assert "optimizer" not in edges(found.trial_points, found.trial_points[0])
    alone = entry({"optimizer": ["muon", "adamw"], "learning_rate": 1e-3}, tune={"trials": 2})
    assert alone.trial_points == [{"optimizer": "muon"}, {"optimizer": "adamw"}]


def test_settings_that_are_asked_for_are_checked_at_every_choice():
    found = entry({"optimizer": ["adamw", "schedule_free", "muon"]}, tune={"trials": 2, "sampler": "tpe"})
    assert {method.optimizer for method in found.methods()} == {"adamw", "muon", "schedule_free"}


def test_trials_on_the_command_line_turn_tuning_on():
    config = {"data": "docstrings", "entries": ["lora"], "tune": False}
    assert load_config(config).tune is None
    assert load_config(config, {"tune.trials": 2}).tune.trials == 2
    assert load_config({**config, "tune": True}).tune.trials is None


def test_a_budget_in_steps_gives_every_entry_the_trials_that_it_holds():
    given = {"learning_rate": {"low": 1e-5, "high": 1e-2}, "r": {"low": 2, "high": 16}}
    four = entry(given, tune={"trials": 4})
    assert entry(given, steps=64, tune={"budget": 2 * 64}) == four
    assert entry(given, steps=64, tune={"budget": 2 * 64 - 1}).trials == 3
    assert entry(given, steps=64, tune={"budget": 4 * 64, "halving": False}) == four
    ends = {(method.learning_rate, method.r) for method in entry(given, tune={"budget": 128}).methods()}
    assert ends == {(1e-5, 2), (1e-2, 16)}  # before the steps are known: the largest trial is among them
    with pytest.raises(ConfigError, match=r"tune.budget: 63 optimizer steps hold no trial, which takes 64. Try: at le"):
        entry(given, steps=64, tune={"budget": 63})
    with pytest.raises(ConfigError, match=r"tune: .*'budget' and 'trials' are two measures"):
        entry(given, tune={"budget": 100, "trials": 3})
    with pytest.raises(ConfigError, match=r"tune.budget: not a number of optimizer steps"):
        entry(given, tune={"budget": "30m"})


def test_the_demos_differ_in_their_budget_alone():
    import bakeoff

    assets = Path(bakeoff.__file__).parent / "assets"
    quick, full = (load_config(assets / f"{name}.yaml") for name in ("demo", "demo_full"))
    assert {entry.label for entry in checked_entries(quick).values()} == {"off"}
    assert {len(entry.trial_points) for entry in checked_entries(full).values()} == {4}
    assert (quick.protocol.seeds, full.protocol.seeds) == (1, 3)
    assert quick.protocol.model_copy(update={"seeds": 3}) == full.protocol
    assert (quick.data, quick.template, quick.model) == (full.data, full.template, full.model)
    for name, fields in quick.entries.items():
        assert {k: v for k, v in fields.items() if k != "learning_rate"} == full.entries[name]
