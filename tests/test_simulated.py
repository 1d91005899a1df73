"""The benchmark behind `make verdict`: small simulations agree with what the statistics say."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def benchmark(monkeypatch):
    """The module behind `make verdict`, with few draws."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    found = importlib.import_module("rates")
    monkeypatch.setattr(importlib.import_module("simulated"), "RESAMPLES", 1000)
    monkeypatch.setattr(found, "FEWER", 1)
    return found


def test_simulated_bakeoffs_are_judged_as_often_right_as_the_statistics_say(benchmark):
    for row in benchmark.measure(benchmark.Design((3,) * 4, 100, 0.8, 150, whole=True)):
        # About three standard errors of 150 simulations around what is claimed.
        assert 0.89 <= row["score"][0] <= 0.99
        assert 0.92 <= row["difference"][0] <= 0.985
        assert row["itself"][0] <= 0.107
        assert row["family"][0] <= 0.107
        assert 0.68 <= row["power"][0] <= 0.92
        assert row["again"][0] >= 0.85


@pytest.mark.parametrize(("seeds", "documents"), [((1, 5), 100), ((5, 3, 2, 1), 60)])
def test_equal_entries_are_rarely_called_different_with_unequal_seeds(benchmark, seeds, documents):
    # Without the floor 21 and 16 to 20 in 100.
    for row in benchmark.equal_entries(benchmark.Design(seeds, documents, 3.0, 200)).values():
        assert row["family"][0] <= 0.095


def test_a_promise_is_held_within_three_standard_errors(benchmark):
    promises = importlib.import_module("promises")
    promise = promises.Promise("", "family", 0, 0.05, lambda design: True)
    assert promise.beyond({"family": (0.07, 0.01)}) == pytest.approx(2)
    assert promise.beyond({"family": (0.02, 0.01)}) < 0
    design = benchmark.Design((3,) * 4, 100, 0.8, 100, whole=True)
    rates = {"score": [0.95, 0.01], "difference": [0.95, 0.01], "itself": [0.04, 0.01], "power": [0.8, 0.01]}
    rates |= {"right": [0.7, 0.01], "others": [0.03, 0.01], "kept": [1, 0.01], "far": [0, 0.01]}
    rates |= {"wrong": [0.03, 0.01], "covered": [0.95, 0.01], "saved": [0.3, 0.01], "more": [0.2, 0.01]}
    rates |= {"these": [0.03, 0.01], "these_holds": [0.95, 0.01], "like": [0.03, 0.01], "like_holds": [0.95, 0.01]}
    rates |= {"new": [0.95, 0.01], "joined_holds": [0.95, 0.01]}
    row = {"design": benchmark.asdict(design), "metric": "test/loss", "gap": 0.1, "again": [0.95, 0.01], **rates}
    votes = {"design": row["design"] | {"seeds": (1, 1)}, "metric": "", "gap": 0.1, "people_holds": [0.95, 0.01]}
    plenty = row | {"design": row["design"] | {"documents": 1000}, "family": [0.05, 0.01]}
    noisy = row | {"design": row["design"] | {"times": (5, 1, 1, 1)}, "family": [0.05, 0.01]}
    noisy_two = noisy | {"design": noisy["design"] | {"seeds": (2,) * 4}, "family": [0.08, 0.01]}
    two = row | {"design": row["design"] | {"seeds": (1, 5)}, "family": [0.06, 0.01]}
    for share, said in ((0.05, 0), (0.09, 1)):
        table = promises.promises([row | {"family": [share, 0.01]}, noisy, noisy_two, two, plenty, votes])
        assert (table.count("| held |"), table.count("| NOT HELD |")) == (len(promises.PROMISES) - said, said)
