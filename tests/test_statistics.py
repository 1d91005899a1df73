"""Intervals, p values and gaps against closed forms, hand-worked examples, invariances and simulated truths."""

from itertools import combinations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bakeoff.analysis.multiplicity import holm, most_equal, shaffer
from bakeoff.analysis.seeds import SeedSpread
from bakeoff.analysis.statistics import Estimate, Resamples, Scores, effective, estimate


def scores_of(values, **keys) -> Scores:
    rows = numpy.atleast_2d(numpy.asarray(values, dtype=float))
    return Scores(rows, numpy.ones(rows.shape[1]), **keys)


def one(values, clusters=None, resamples=10_000, **keys) -> Estimate:
    scores = scores_of(values, **keys)
    labels = range(scores.numerators.shape[1]) if clusters is None else clusters
    return estimate({"a": scores}, Resamples(list(labels), resamples=resamples))["a"]


def test_holm_by_hand():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1; the last may not fall below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def equal_pairs(groups):
    """Return how many pairs are equal where entries fall into groups of equal ones."""
    return sum(size * (size - 1) // 2 for size in groups)


def partitions(number, largest=None):
    """Yield every way to split so many entries into groups."""
    if number == 0:
        yield ()
    for size in range(1, min(number, largest or number) + 1):
        yield from ((size, *rest) for rest in partitions(number - size, size))


@pytest.mark.parametrize("entries", range(1, 9))
def test_shaffers_factors_are_what_the_groups_of_equal_entries_allow(entries):
    pairs, allowed = entries * (entries - 1) // 2, {equal_pairs(groups) for groups in partitions(entries)}
    assert most_equal(entries) == tuple(max(n for n in allowed if n <= pairs - i) for i in range(pairs))


@given(st.integers(2, 6).flatmap(lambda n: st.tuples(st.just(n), st.lists(
    st.floats(0, 1), min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2))))  # fmt: skip
def test_shaffer_is_between_the_values_and_holm_and_keeps_their_order(drawn):
    entries, values = drawn
    adjusted = shaffer(values, entries)
    assert all(p <= found <= most for p, found, most in zip(values, adjusted, holm(values), strict=True))
    order = numpy.argsort(values, kind="stable")
    assert sorted(adjusted) == [adjusted[i] for i in order]


def test_shaffer_by_hand():
    # Three entries: 0.01 x 3, then x 1, x 1: of the two pairs left at most one can be equal.
    assert shaffer([0.04, 0.01, 0.02], 3) == pytest.approx([0.04, 0.03, 0.03])
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert shaffer([], 1) == []


def test_one_seed_on_normal_data_is_students_interval_and_p_value():
    sample = numpy.random.default_rng(0).normal(0.1, 1, 40)
    found = one(sample)
    reference = stats.ttest_1samp(sample, 0)
    low, high = reference.confidence_interval(0.95)
    assert found.value == pytest.approx(sample.mean())
    assert found.interval() == pytest.approx((low, high), abs=0.02 * (high - low))
    assert found.p_value() == pytest.approx(reference.pvalue, abs=0.02)
    assert found.covers == "documents"


def test_seeds_alone_give_students_interval_over_seeds():
    # Every document scores what its seed scores, so that seeds are all there is to vary.
    means = numpy.array([0.2, 0.5, 0.3, 0.1])
    found = one(numpy.repeat(means[:, None], 50, axis=1))
    low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert found.freedom == pytest.approx(3)
    assert found.interval() == pytest.approx((low, high), abs=0.04 * (high - low))
    assert found.covers == "documents and seeds"


def test_seeds_of_two_entries_are_compared_as_welch_does():
    first, second = numpy.array([0.2, 0.5, 0.3]), numpy.array([0.15, 0.1, 0.12])
    table = {n: scores_of(numpy.repeat(m[:, None], 50, axis=1)) for n, m in (("a", first), ("b", second))}
    found = estimate(table, Resamples(range(50)))
    gap = found["a"] - found["b"]
    reference = stats.ttest_ind(first, second, equal_var=False)
    assert gap.freedom == pytest.approx(reference.df)
    assert gap.p_value() == pytest.approx(reference.pvalue, abs=0.02)


def test_what_seeds_are_likely_to_add_is_as_often_too_much_as_too_little():
    # Three seeds' mean has the variance 1 / 3; what they show of it is below that in 63 of 100 cases.
    seeds = numpy.random.default_rng(5).normal(0, 1, (4000, 3))
    found = [SeedSpread(means.var(ddof=1) / 3, 0.0, 2) for means in seeds]
    assert numpy.mean([spread.between < 1 / 3 for spread in found]) == pytest.approx(0.632, abs=0.025)
    assert numpy.mean([spread.likely < 1 / 3 for spread in found]) == pytest.approx(0.5, abs=0.025)


def test_seeds_that_happen_to_agree_leave_few_degrees_of_freedom():
    # Documents add 1 to the variance, two entries' seeds 1 each by their truth and a fifth of that by what they show.
    draws = numpy.random.default_rng(6).normal(0, 1, 10_000)
    draws /= draws.std()
    agreeing = (SeedSpread(0.2, 0.0, 2), SeedSpread(0.2, 0.0, 2))
    found = Estimate(0.0, draws, 1000, agreeing, (-numpy.inf, numpy.inf))
    assert found.variance == pytest.approx(1.4, rel=0.002)
    assert found.freedom == pytest.approx(29.6, rel=0.02)  # 47.8 with the variances as they were found


def test_a_noise_that_seeds_and_documents_share_is_counted_once():
    # No entry effect on documents, no seed effect: the truth is the variance of a mean over all cells, 1 / (S n).
    generator = numpy.random.default_rng(3)
    found = [one(generator.normal(0, 1, (4, 50)), resamples=400).variance for _ in range(300)]
    both = 1 / (4 * 50)
    assert both < numpy.mean(found) < 1.5 * both  # a sum of both sources would be 2
    assert numpy.median(found) == pytest.approx(both, rel=0.2)


def test_pairing_takes_out_what_documents_share():
    generator = numpy.random.default_rng(1)
    shared = generator.normal(0, 1, 200)
    table = {n: scores_of(shared + generator.normal(0, 0.1, 200)) for n in "ab"}
    found = estimate(table, Resamples(range(200)))
    gap = found["a"] - found["b"]
    sampled = table["a"].numerators[0] - table["b"].numerators[0]
    assert gap.document_variance == pytest.approx(sampled.var(ddof=1) / 200, rel=0.05)
    assert gap.document_variance < 0.05 * (found["a"].document_variance + found["b"].document_variance)


def test_rows_of_one_document_are_one_piece_of_evidence():
    sample = numpy.random.default_rng(2).normal(0, 1, 60)
    single = one(sample)
    doubled = one(numpy.repeat(sample, 2), clusters=numpy.repeat(numpy.arange(60), 2))
    assert doubled.clusters == 60
    assert doubled.interval() == pytest.approx(single.interval())
    pretended = one(numpy.repeat(sample, 2))
    assert pretended.variance < 0.6 * doubled.variance


def test_a_loss_is_a_ratio_of_sums():
    loss = Scores(numpy.array([[6.0, 1.0]]), numpy.array([3.0, 1.0]))
    assert estimate({"a": loss}, Resamples(range(2)))["a"].value == 7 / 4
    generator = numpy.random.default_rng(4)
    tokens = generator.integers(5, 30, 300).astype(float)
    sums = tokens * generator.normal(3, 0.5, 300)
    found = estimate({"a": Scores(sums[None], tokens)}, Resamples(range(300)))["a"]
    linear = (sums - found.value * tokens) / tokens.sum()
    assert found.document_variance == pytest.approx(300 * linear.var(ddof=1), rel=0.05)


def test_order_of_documents_and_of_entries_does_not_matter():
    generator = numpy.random.default_rng(6)
    table = {n: scores_of(generator.normal(0.3, 0.1, (3, 80))) for n in "abc"}
    found = estimate(table, Resamples(range(80)))
    turned = estimate(dict(reversed(table.items())), Resamples(range(80)))
    assert (found["a"] - found["b"]).interval() == pytest.approx((turned["a"] - turned["b"]).interval())
    order = generator.permutation(80)
    shuffled = estimate({n: scores_of(s.numerators[:, order]) for n, s in table.items()}, Resamples(range(80)))
    for name in table:
        low, high = found[name].interval()
        assert shuffled[name].interval() == pytest.approx((low, high), abs=0.05 * (high - low))
        assert shuffled[name].freedom == pytest.approx(found[name].freedom, rel=0.1)


def test_resampled_sums_do_not_depend_on_how_many_are_held_at_a_time(monkeypatch):
    resamples = Resamples(range(7), resamples=1100)
    values = numpy.arange(14.0).reshape(7, 2)
    whole = resamples.sums(values)
    monkeypatch.setattr("bakeoff.analysis.statistics.CHUNK", 70)
    numpy.testing.assert_array_equal(resamples.sums(values), whole)
    assert resamples.sums(numpy.ones((7, 1))).ravel().tolist() == [7] * 1100
    assert whole.mean(axis=0) == pytest.approx(values.sum(axis=0), rel=0.02)


def test_one_document_says_nothing_and_equal_scores_say_no_difference():
    single = one([[0.4], [0.6]])
    assert (single.value, single.interval(), single.p_value(), single.detectable()) == (0.5, None, None, None)
    table = {n: scores_of(numpy.full((3, 20), 0.25)) for n in "ab"}
    found = estimate(table, Resamples(range(20)))
    gap = found["a"] - found["b"]
    assert found["a"].interval() is None  # a loss could be anything on other documents
    assert (gap.interval(), gap.p_value(), gap.detectable()) == (None, 1.0, None)
    assert estimate({}, Resamples([])) == {}


def test_equal_documents_leave_the_others_a_share_that_the_number_of_documents_bounds():
    table = {n: scores_of(numpy.full((3, 40), v), bounds=(0, 1)) for n, v in (("none", 0.0), ("some", 0.1), ("all", 1))}
    found = estimate(table, Resamples(range(40)))
    unseen = 1 - 0.025 ** (1 / 40)  # as a share that none of 40 documents is of
    assert found["none"].interval() == pytest.approx((0, unseen))
    assert found["some"].interval() == pytest.approx((0.1 - 0.1 * unseen, 0.1 + 0.9 * unseen))
    assert found["all"].interval() == pytest.approx((1 - unseen, 1))
    same = found["none"] - found["none"]
    assert (same.interval(), same.p_value(), same.detectable()) == (pytest.approx((-unseen, unseen)), 1.0, None)
    # So many unseen documents would have to score -1 that the mean were zero: a tenth over eleven tenths of them.
    gap = found["some"] - found["none"]
    assert gap.is_constant
    assert gap.p_value() == pytest.approx(2 * (1 - 1 / 11) ** 40)
    assert (found["none"] - found["some"]).p_value() == pytest.approx(gap.p_value())


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=40), st.floats(0.01, 100))
def test_few_heavy_documents_count_as_fewer_equal_ones(values, scale):
    sample = numpy.array([*values, 1.0, -1.0])
    assert effective(scale * sample) == pytest.approx(effective(sample))
    heavy = numpy.append(numpy.full(99, 0.001), 1000.0)
    assert effective(heavy) < 4
    assert effective(numpy.random.default_rng(0).normal(0, 1, 4000)) == pytest.approx(4000, rel=0.1)


def test_an_entry_with_one_seed_beside_one_with_three_is_said_not_to_cover_seeds():
    generator = numpy.random.default_rng(7)
    table = {
        "three": scores_of(generator.normal(0.3, 0.1, (3, 40))),
        "one": scores_of(generator.normal(0.3, 0.1, (1, 40))),
        "lead": scores_of(generator.normal(0.3, 0.1, (1, 40)), seeded=False),
    }
    found = estimate(table, Resamples(range(40)))
    assert (found["three"] - found["one"]).covers == "documents and some seeds"
    assert (found["three"] - found["lead"]).covers == "documents and seeds"


def test_an_interval_stays_within_what_the_metric_can_be():
    low, high = one([0.0, 0.4], bounds=(0, 1)).interval()
    assert (low, high) == (0, 1)
    table = {n: scores_of(v, bounds=(0, 1)) for n, v in (("a", [0.0, 0.9]), ("b", [0.5, 0.0]))}
    found = estimate(table, Resamples(range(2)))
    assert (found["a"] - found["b"]).interval() == (-1, 1)


def test_p_values_are_not_bounded_by_the_number_of_draws():
    sample = numpy.random.default_rng(0).normal(0, 1, 60)
    found, last = {}, 1.0
    for t in (1.0, 2.0, 2.5, 2.6, 2.7, 2.8, 3.0, 4.0, 5.0, 8.0):
        shifted = (sample - sample.mean()) / sample.std(ddof=1) + t / 60**0.5
        found[t] = one(shifted).p_value()
        assert one(-shifted).p_value() == pytest.approx(found[t])
        assert found[t] == pytest.approx(2 * stats.t.sf(t, 59), rel=0.75)
        assert found[t] < last  # no step where the tail begins
        last = found[t]
    assert one(numpy.full(60, 0.5)).p_value() is None  # without a spread there is no tail


def test_one_far_ahead_of_many_is_told_from_each():
    generator = numpy.random.default_rng(5)
    table = {str(i): scores_of(generator.normal(0.3, 0.1, 100) + (i == 0)) for i in range(23)}
    found = estimate(table, Resamples(range(100)))
    names = list(combinations(table, 2))
    adjusted = dict(zip(names, holm([(found[a] - found[b]).p_value() for a, b in names]), strict=True))
    assert {pair for pair, p in adjusted.items() if p < 0.05} == {pair for pair in names if "0" in pair}


def test_the_detectable_gap_is_that_of_the_t_tests_power():
    for seeds, documents in ((0, 30), (2, 400)):
        spread = (SeedSpread(0.004, 0.0, seeds),) if seeds else ()
        draws = numpy.random.default_rng(8).normal(0, 0.01, 5000)
        found = Estimate(0.0, draws, documents, spread, (-1, 1))
        freedom, error = found.freedom, found.variance**0.5
        for comparisons in (1, 6):
            critical = stats.t.ppf(1 - 0.025 / comparisons, freedom)
            power = stats.nct.sf(critical, freedom, found.detectable(comparisons) / error)
            assert power == pytest.approx(0.8, abs=1e-3)


def test_draws_that_all_pairs_share_are_those_that_each_would_draw():
    """Also where other estimates, of other seeds and sizes, have drawn in between."""
    for seed, count in ((0, 50), (1, 50), (0, 30), (0, 50)):
        draws = numpy.linspace(-1, 1, count)
        found = Estimate(0.25, draws, 9, (SeedSpread(0.04, 0.01, 2),), (-1, 1), seed)
        generator = numpy.random.default_rng([seed, 1])
        spread = draws * (9 / 8) ** 0.5 + found.seed_variance**0.5 * generator.standard_normal(count)
        doubt = numpy.sqrt(found.freedom / generator.chisquare(found.freedom, count))
        assert found.distribution.tolist() == (0.25 + spread * doubt).tolist()
