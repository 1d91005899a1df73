"""Seeds in rounds: looks that are paid for, decided by records alone, whatever ends a bakeoff."""

from itertools import pairwise
from types import SimpleNamespace

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import bakeoff
from bakeoff import running
from bakeoff.analysis.boundary import boundary
from bakeoff.analysis.replay import replay
from bakeoff.analysis.round_words import how_it_went
from bakeoff.analysis.statistics import Scores
from bakeoff.analysis.yardstick import Yardstick
from bakeoff.config.loading import load_config
from bakeoff.config.sections import SeedRange
from bakeoff.driver.rounds import release
from bakeoff.driver.seed_range import check_fixed, looked_at
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.store.records import Run
from bakeoff.store.run_folder import Folder
from tests.conftest import Inline, inline

pytestmark = pytest.mark.usefixtures("figures")

METRIC = "test/score"
LOOKS = (3, 4, 5, 6, 8)


def test_looks_are_close_at_first_and_end_at_the_most():
    assert SeedRange(min=3, max=8).looks == LOOKS
    assert SeedRange(min=3, max=3).looks == (3,)
    assert SeedRange(min=2, max=30).looks == (2, 3, 4, 5, 6, 8, 11, 16, 23, 30)


@given(st.integers(2, 20), st.integers(0, 200))
def test_looks_increase_from_min_to_max(least, more):
    looks = SeedRange(min=least, max=least + more).looks
    assert (looks[0], looks[-1]) == (least, least + more)
    assert all(a < b <= 1.5 * a + 1 for a, b in pairwise(looks))


def test_one_look_is_a_plain_p_value_and_five_ask_more_at_each():
    assert boundary((3,)).p_value(1.96) == pytest.approx(0.05, abs=1e-3)
    bound = boundary(LOOKS)
    asked = [2 * stats.norm.sf(bound.critical(0.05) / weight) for weight in bound.weights]
    assert asked == pytest.approx([0.0062, 0.0108, 0.0160, 0.0213, 0.0321], abs=2e-4)


def test_the_largest_of_all_looks_is_exceeded_as_often_as_computed():
    generator, bound = numpy.random.default_rng(0), boundary(LOOKS)
    sums = generator.normal(0, 1, (40_000, LOOKS[-1])).cumsum(axis=1)
    found = numpy.abs(numpy.stack([w * sums[:, s - 1] / s**0.5 for s, w in zip(LOOKS, bound.weights, strict=True)]))
    for level in (0.01, 0.05, 0.3):
        assert numpy.mean(found.max(axis=0) > bound.critical(level)) == pytest.approx(level, abs=0.007)


@given(st.floats(0, 12), st.floats(0, 12))
def test_p_over_all_looks_falls_and_is_never_below_that_of_one(one, other):
    bound, (low, high) = boundary(LOOKS), sorted((one, other))
    assert 0 <= bound.p_value(high) <= bound.p_value(low) <= 1
    assert bound.p_value(high) >= 0.999 * 2 * stats.norm.sf(high) or bound.p_value(high) == 1


def scores_of(means, seeds=8, documents=60, spread=0.01, seed=0):
    """Return scores of entries a, b, ... with these means, by name and metric."""
    generator = numpy.random.default_rng(seed)
    shared, ones = generator.normal(0, 0.1, documents), numpy.ones(documents)
    return {
        chr(ord("a") + i): {
            METRIC: Scores(
                mean + shared + generator.normal(0, spread, (seeds, 1)) + generator.normal(0, 0.02, (seeds, documents)),
                ones,
            )
        }
        for i, mean in enumerate(means)
    }


def taken(scores, looks=LOOKS, worth=None, seeds=None):
    """Return the rounds after all looks for which there are enough seeds."""
    if seeds is not None:
        scores = {
            n: {m: Scores(s.numerators[: seeds[n]], s.denominators) for m, s in row.items()}
            for n, row in scores.items()
        }
    return replay(looks, list(scores), scores, range(60), METRIC, worth)


def test_who_is_far_behind_gets_no_more_seeds_and_who_may_be_told_apart_does():
    rounds = taken(scores_of([0.5, 0.48, 0.2]))
    assert rounds.counts["c"] == 3
    assert rounds.counts["a"] == rounds.counts["b"] > 3
    assert rounds.state_of("c", "a") == rounds.state_of("b", "c") == "different"
    assert rounds.wanted == {}
    assert "c" in rounds.behind


def test_equal_entries_end_early_and_those_within_what_is_worth_little_are_equal():
    clear = taken(scores_of([0.5, 0.5, 0.5], spread=0.0001, seed=3))
    assert set(clear.counts.values()) == {3}
    assert set(clear.states.values()) == {"hopeless"}
    near = taken(scores_of([0.5, 0.501, 0.2], spread=0.001), worth=0.1)
    assert near.state_of("a", "b") in ("equal", "different")
    assert taken(scores_of([0.5, 0.5, 0.2], spread=0.001), worth=0.1).state_of("a", "b") == "equal"


def test_decisions_are_those_of_the_records_however_often_they_are_taken_again():
    """A bakeoff that ends anywhere resumes with the looks that it had, and asks for the same seeds."""
    for seed in range(4):
        scores = scores_of([0.5, 0.48, 0.47, 0.45], spread=0.03, seed=seed)
        whole, seeds, steps = taken(scores), dict.fromkeys(scores, 0), []
        while wanted := taken(scores, seeds=seeds).wanted:
            steps.append(wanted)
            seeds |= wanted
        assert steps[0] == dict.fromkeys(scores, 3)
        again = taken(scores, seeds=seeds)
        assert (again.counts, again.states, seeds) == (whole.counts, whole.states, whole.counts)


def lock(done, failed=(), looks=(3, 5), entries="abc", before=(3, 5)):
    """Return a folder with these records, and its last plan."""
    runs = [Run(f"{e}{i}", e, "entry", "lora", {}, i, 1) for e in entries for i in range(looks[-1])]
    records = {n: SimpleNamespace(status="done") for n in done} | {n: SimpleNamespace(status="failed") for n in failed}

    def run(name):
        record = records.get(name)
        return SimpleNamespace(finished=lambda: record if name in done else None, result=lambda: record)

    plan = SimpleNamespace(name="tiny", runs=runs, looks=list(before))
    return SimpleNamespace(run=run, last_plan=lambda: plan), plan


def test_an_entry_that_has_failed_does_not_open_the_range_again():
    first = [f"{e}{i}" for e in "ab" for i in range(3)]
    assert not looked_at(*lock(first))
    assert looked_at(*lock(first, failed=["c0"]))
    assert not looked_at(*lock(first[:-1], failed=["c0"]))
    assert not looked_at(*lock([], failed=["a0", "b0", "c0"]))


def test_a_range_is_not_chosen_after_a_look_at_fixed_seeds(tiny_config):
    config = load_config(tiny_config | {"protocol": {"seeds": {"min": 3, "max": 5}}})
    seen = [f"{e}{i}" for e in "abc" for i in range(3)]
    folder, plan = lock(seen, before=())
    with pytest.raises(SetupError, match="protocol.seeds: results of 5 seeds were looked at; a range now would void"):
        check_fixed(config, folder, plan.runs)
    folder, plan = lock(seen[:-1], before=())
    check_fixed(config, folder, plan.runs)
    folder, plan = lock(seen)
    check_fixed(config, folder, plan.runs)


@pytest.fixture
def rounds_config(tiny_config):
    """A bakeoff of three entries with three to five seeds."""
    protocol = {"epochs": 1, "max_tokens": 48, "seeds": {"min": 3, "max": 5}}
    return tiny_config | {"protocol": protocol, "baselines": ["base", "lead-1"]}


def test_a_bakeoff_in_rounds_stops_where_nothing_more_can_be_decided(rounds_config, capsys, monkeypatch):
    plan = bakeoff.plan(rounds_config)
    assert plan["looks"] == [3, 4, 5]
    results = bakeoff.run(rounds_config, display="plain")
    said, verdict = capsys.readouterr().err, results.document.verdict
    facts = verdict.rounds
    assert (results.document.status, facts.waiting) == ("done", {})
    assert "look 1 of at most 3, at 3 seeds" in said
    assert {n: row.seeds for n, row in results.document.entries.items()} == facts.seeds
    assert all(3 <= count <= 5 for count in facts.seeds.values())
    assert "Seeds were added in rounds" in verdict.text
    assert "however often the results were looked at" in verdict.text
    trained = sum(run.kind == "entry" and results.folder.run(run.id).done() for run in results.folder.runs())
    assert trained == sum(facts.seeds.values())
    assert {row.seeds for row in facts.rows} <= {3, 4, 5}
    # Nothing is left to do, and another range would void what was decided.
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(never))
    assert bakeoff.run(rounds_config, display="none").document.verdict == verdict
    for seeds in ({"min": 3, "max": 8}, {"min": 3, "max": 4}, 8):
        for refused in (bakeoff.plan, bakeoff.run):
            with pytest.raises(
                BakeoffError, match="protocol.seeds: results were looked at while seeds went from 3 to 5"
            ):
                refused(rounds_config, {"protocol.seeds": seeds})
    assert bakeoff.plan(rounds_config | {"name": "another"}, {"protocol.seeds": 8})["looks"] == []


def never(path, tasks, _=None):
    """Carry out no run: there is none."""
    assert list(tasks) == []
    return iter(())


def test_interrupted_anywhere_it_comes_to_the_same_verdict(rounds_config, tmp_path, monkeypatch):
    """With one more run per session: the looks and what they decide are the same."""
    few = rounds_config | {"entries": {"last_layers": {}, "lora": {"r": 2}}, "baselines": ["base"]}
    whole = bakeoff.run(few | {"output": str(tmp_path / "whole")}, display="none").document.verdict

    def one(path, tasks, _=None):
        yield from inline(path, (task for _, task in zip(range(1), tasks, strict=False)))
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(one))
    folder = Folder(tmp_path / "parts")
    for _ in range(len(bakeoff.plan(few)["runs"])):
        with pytest.raises(KeyboardInterrupt):
            bakeoff.run(few | {"output": str(folder.path)}, display="none")
        found = bakeoff.load_results(folder.path).document
        if found.verdict.rounds and found.verdict.rounds.taken and not found.verdict.rounds.waiting:
            break
        assert found.verdict.pairs == [] or found.verdict.rounds.taken
    assert found.verdict.pairs == whole.pairs
    assert found.verdict.rounds == whole.rounds


def test_a_budget_ends_rounds_and_a_larger_one_resumes_them(rounds_config, capsys, monkeypatch):
    monkeypatch.setattr("bakeoff.analysis.rounds.HOPELESS", 0.0)  # then every pair is open until the last look
    short = {"protocol.budget": 0.01}
    first = bakeoff.run(rounds_config, short, display="plain").document.verdict
    assert "protocol.budget: " in capsys.readouterr().err
    assert set(first.rounds.seeds.values()) == {3}
    assert len(first.rounds.waiting) >= 2
    assert "protocol.budget (0.01 s) has no room for the next one, to 4 seeds of " in first.text
    assert first.rounds.budget == 0.01
    last = bakeoff.run(rounds_config, {"protocol.budget": "1d"}, display="none").document.verdict
    assert (max(last.rounds.seeds.values()), last.rounds.budget) == (5, None)


@pytest.mark.parametrize(
    ("failed", "ended", "left"),
    [
        ([], False, ["b4"]), ([], True, ["a3", "a4", "b4"]), (["c1"], False, ["b4", "c3", "c4"]),
        (["c3"], False, ["b4", "c4"]),
    ],
)  # fmt: skip
def test_runs_that_are_not_needed_leave_the_forecast(failed, ended, left):
    folder, plan = lock(["b3"], failed=failed, looks=(3, 4, 5), entries="abc" if failed else "ab")
    rounds = SimpleNamespace(looks=(3, 4, 5), counts={"a": 3, "b": 4}, wanted={"a": 4})
    told = []
    release(folder, plan, rounds, SimpleNamespace(handle=lambda event: told.append(event.run)), ended)
    assert told == left


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ({"seeds": {"min": 5, "max": 3}}, r"protocol\.seeds\.max: below min \(5\)"),
        ({"seeds": {"min": 1, "max": 3}}, r"protocol\.seeds\.min: must be greater than or equal to 2"),
        ({"seeds": {"min": 3}}, r"protocol\.seeds\.max: missing"),
        ({"seeds": {"min": 3, "most": 8}}, r"protocol\.seeds\.m"),
        ({"seeds": 0}, r"protocol\.seeds: 0 final runs per entry\. Allowed: 1 to 1,000, or a range"),
        ({"seeds": "many"}, r"protocol\.seeds: expected a whole number"),
        ({"seeds": {"min": 2, "max": 8}}, r"protocol\.seeds\.min: 2 seeds of 3 entries are too few"),
        ({"budget": "4h"}, "'budget' is set, but a fixed number of seeds is always run"),
        ({"budget": "soon", "seeds": {"max": 5}}, r"protocol\.budget: not a time\. Write it as 90m, 4h or 1\.5d"),
        ({"budget": 0, "seeds": {"max": 5}}, r"protocol\.budget: must be greater than 0"),
        ({"worth": -1}, r"protocol\.worth: must be greater than 0"),
    ],
)
def test_ranges_that_cannot_be_are_said(tiny_config, protocol, said):
    with pytest.raises(BakeoffError, match=said):
        bakeoff.plan(tiny_config | {"protocol": {"epochs": 1, "max_tokens": 48, **protocol}})


@pytest.mark.parametrize("pairs", [1, 3])
def test_a_correction_is_named_only_for_several_pairs(pairs):
    facts = SimpleNamespace(seeds={"a": 3, "b": 3}, looks=[3, 4], waiting=None, limit=None, budget=None)
    verdict = SimpleNamespace(documents=9, pairs=[None] * pairs, detectable_gap=None)
    said = how_it_went(verdict, facts, Yardstick())[-1]
    assert ("Shaffer" in said) == (pairs > 1)
    assert said.endswith("however often the results were looked at.")
