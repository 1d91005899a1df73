"""Seeds that happen to agree are no evidence: a pair's spread has all entries' seeds as its floor."""

from dataclasses import replace
from itertools import combinations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bakeoff.analysis.pairs import compare
from bakeoff.analysis.seeds import SeedSpread, pooled, with_floor
from bakeoff.analysis.statistics import Estimate

METRIC = "test/score"


def estimate_of(value, spread, documents=0.0):
    draws = numpy.random.default_rng(0).normal(0, 1, 2000) * documents
    return Estimate(value, draws, 50, () if spread is None else (spread,), (-numpy.inf, numpy.inf))


def pair_of(spreads, first="a", second="b"):
    """Return the pair's figures where there are such entries, from the letter a on, first - second being 1."""
    names = [chr(ord("a") + i) for i in range(len(spreads))]
    table = {(n, METRIC): estimate_of(float(n == first), s) for n, s in zip(names, spreads, strict=True)}
    pairs = compare(list(combinations(names, 2)), table, METRIC)
    return next(pair for pair in pairs if (pair.first, pair.second) == (first, second))


def test_the_pool_is_of_one_seed_and_weighted_by_degrees_of_freedom():
    spreads = [SeedSpread(0.5, 0.1, 2), SeedSpread(0.1, 0.02, 4), SeedSpread(0, 0, 0)]
    found = pooled(spreads)
    assert found.freedom == 6
    assert found.between == pytest.approx((2 * 1.5 + 4 * 0.5) / 6)
    assert found.within == pytest.approx((2 * 0.3 + 4 * 0.1) / 6)
    assert pooled([SeedSpread(0, 0, 0)] * 3).freedom == pooled([]).freedom == 0


def test_a_pair_whose_seeds_agree_by_chance_has_the_spread_of_all():
    calm, usual = SeedSpread(0.001, 0, 2), SeedSpread(0.1, 0, 2)
    found = pair_of([calm, calm, usual, usual])
    variance = 2 * (0.001 + 0.001 + 0.1 + 0.1) / 4
    assert found.p == pytest.approx(2 * stats.t.sf(1 / variance**0.5, 8), abs=0.02)
    assert with_floor((calm, calm), pooled([calm] * 2 + [usual] * 2)) == (SeedSpread(pytest.approx(variance), 0, 8),)


def test_a_pair_noisier_than_the_rest_keeps_its_own_spread():
    calm, noisy = SeedSpread(0.001, 0, 2), SeedSpread(0.5, 0, 2)
    kept = with_floor((noisy, calm), pooled([noisy, calm, calm, calm]))
    assert [s.between for s in kept] == [0.5, 0.001]
    assert [s.freedom for s in kept] == [3, 3]


def test_a_noise_that_documents_hold_already_is_not_floored_twice():
    # What seeds vary by is all theirs with documents: nothing is added, whatever the pool.
    spread = SeedSpread(0.3, 0.3, 2)
    pair = with_floor((spread, spread), pooled([spread] * 4))
    assert sum(s.between - s.within for s in pair) == pytest.approx(0)


def test_an_entry_with_one_seed_varies_as_the_others_do():
    known = SeedSpread(0.1, 0, 4)  # 0.5 of one seed
    found = pair_of([known, SeedSpread(0, 0, 0)])
    assert found.p == pytest.approx(2 * stats.t.sf(1 / 0.6**0.5, 4), abs=0.02)
    assert found.covers == "documents and some seeds"


def test_a_baseline_has_no_seeds_to_floor():
    spread, noisy = SeedSpread(0.02, 0, 2), SeedSpread(0.1, 0, 2)
    table = {("a", METRIC): estimate_of(1.0, spread), ("b", METRIC): estimate_of(1.0, noisy)}
    table["lead-1", METRIC] = estimate_of(0.0, None)
    first = compare([("a", "lead-1"), ("b", "lead-1")], table, METRIC)[0]
    assert first.p == pytest.approx(2 * stats.t.sf(1 / 0.06**0.5, 4), abs=0.02)
    assert first.covers == "documents and seeds"


variances = st.floats(0.001, 10)
spreads = st.builds(lambda b, share, f: SeedSpread(b, b * share, f), variances, st.floats(0, 2), st.integers(1, 6))


@given(variances, variances, st.integers(1, 6))
def test_two_entries_of_equal_seeds_are_judged_as_they_were(first, second, freedom):
    pair = (SeedSpread(first, 0.1, freedom), SeedSpread(second, 0.1, freedom))
    assert with_floor(pair, pooled(pair)) == pair


@given(st.lists(spreads, min_size=2, max_size=6))
def test_no_pair_is_calmer_than_its_own_seeds_or_than_the_pool(every):
    pool = pooled(every)
    for pair in combinations(every, 2):
        added = sum(s.between - s.within for s in with_floor(pair, pool))
        own = sum(s.between - s.within for s in pair)
        shared = sum(pool.between / s.seeds - s.within for s in pair)
        assert added == pytest.approx(max(own, shared), rel=1e-6, abs=1e-6)


@given(st.lists(st.builds(SeedSpread, st.just(0.0), st.just(0.0), st.just(0)), min_size=2, max_size=4))
def test_without_seeds_nothing_changes(every):
    pair = tuple(every[:2])
    assert with_floor(pair, pooled(every)) == pair


@given(st.lists(spreads, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_entries_does_not_matter(every, random):
    shuffled = random.sample(every, len(every))
    pool, again = pooled(every), pooled(shuffled)
    gap = replace(estimate_of(1.0, every[0], documents=0.1), spreads=with_floor(every[:2], pool))
    turned = replace(gap, spreads=with_floor(every[1::-1], again))
    assert gap.freedom == pytest.approx(turned.freedom, rel=1e-6)
    assert gap.variance == pytest.approx(turned.variance)
