"""What the verdict says, and what it must never say."""

import re
from itertools import combinations

import numpy
import pytest

from bakeoff.analysis.caveats import rare_failures
from bakeoff.analysis.columns import size
from bakeoff.analysis.pairs import LOSS
from bakeoff.analysis.statistics import Resamples, Scores, estimate
from bakeoff.analysis.summary import COUNTED, OF_ENTRIES
from bakeoff.analysis.twins import memory_saved, twins
from bakeoff.analysis.verdict import make_verdict
from bakeoff.analysis.yardstick import Yardstick
from bakeoff.errors import SetupError
from bakeoff.report.differences import difference_rows, recommendation
from bakeoff.store.plan_document import Span
from bakeoff.store.results_document import MeanScore, ResultsRow

METRIC = Yardstick().metric
CLAIMS = ("better", "best on", "leads", "behind", "above")


def row_of(kind="entry", status="done", size=100.0, peak=1.0, seconds=1.0, validation=3.0):
    return ResultsRow(
        kind=kind, method=kind, status=status, settings={}, error=None, seeds=1, runs=[], checks={}, check_notes={},
        metrics={"validation/loss": MeanScore(mean=validation)}, fresh_loss=validation,
        costs={"adapter_bytes": size, "peak_bytes": peak, "train_seconds": seconds},
        **dict.fromkeys((*COUNTED, *OF_ENTRIES)),
    )  # fmt: skip


def with_costs(row, **costs):
    return row.model_copy(update={"costs": costs})


def judge(rows, rouge, losses=None, resamples=2000, worth=None):
    """Return the verdict on score arrays, (documents,) or (seeds, documents), by name."""
    table = {}
    for metric, values in ((METRIC, rouge), (LOSS, losses or {})):
        for name, array in values.items():
            array = numpy.atleast_2d(array)
            table[name, metric] = Scores(array, numpy.ones(array.shape[1]), rows[name].kind == "entry")
    documents = next(iter(table.values())).numerators.shape[1] if table else 0
    estimates = estimate(table, Resamples(range(documents), resamples=resamples))
    return make_verdict(rows, estimates, Yardstick(worth=worth))


@pytest.fixture
def tie():
    """Two entries that nearly agree, one far behind, lead-1 below, and one that failed."""
    generator = numpy.random.default_rng(1)
    best = generator.uniform(0.2, 0.6, 300)
    rouge = {
        "a": best + 0.002 + generator.normal(0, 0.1, 300),
        "b": best + generator.normal(0, 0.1, 300),
        "c": best - 0.1 + generator.normal(0, 0.1, 300),
        "lead-1": best - 0.2,
    }
    rows = {
        "a": row_of(size=200_000, peak=5, seconds=1, validation=2.9),
        "b": row_of(size=10, peak=4, seconds=2, validation=3.1),
        "c": row_of(size=1, peak=1, seconds=0.1, validation=1.0),
        "lead-1": row_of("baseline"),
        "d": row_of(status="failed"),
    }
    return rows, rouge


def test_a_tie_is_named_with_its_interval_and_the_rest_are_behind(tie):
    rows, rouge = tie
    verdict = judge(rows, rouge)
    first, second = sorted("ab", key=lambda n: -rouge[n].mean())
    assert (verdict.best, verdict.tied_with_best) == (first, [second])
    pair = verdict.pairs[0]
    assert (pair.first, pair.second) == (first, second)
    assert pair.difference == pytest.approx(rouge[first].mean() - rouge[second].mean())
    assert pair.low < 0 < pair.high
    assert verdict.headline.startswith(f"{first} and {second} are tied on ROUGE-L (difference ")
    assert f"95 % interval {100 * pair.low:.1f} to {100 * pair.high:.1f}" in verdict.headline
    assert "the adapter of b is 20,000.0x smaller than that of a" in verdict.text
    assert f"c is behind {first} by " in verdict.text
    assert "lead-1" not in verdict.text
    assert "d (failed)" in verdict.text
    assert "one seed per entry, so not over seeds" in verdict.text
    assert not any(claim in verdict.headline for claim in CLAIMS)


def test_a_recommendation_is_the_cheapest_that_is_shown_to_be_near_the_best_and_quality_is_by_validation(shared, tie):
    verdict = judge(*tie, worth=0.03)
    assert verdict.recommendations == {"quality": "a", "memory": "b", "size": "b", "time": "a"}
    assert (verdict.near_best, verdict.worth, verdict.worth_given) == (["a", "b"], 0.03, True)
    results = shared[1].document.model_copy(update={"verdict": verdict, "entries": tie[0]})
    assert recommendation(results, "size") == (
        "Preferring size: b (smallest adapter, 10 B; of the 2 entries that are shown to be within 3.0 points of the "
        "best on ROUGE-L (protocol.worth))."
    )
    assert recommendation(results, "quality").endswith("; of the 2 entries tied on ROUGE-L).")
    # Tied, but not shown to be as near as half the gap that can be found: what costs less is not taken for as good.
    half = judge(*tie)
    assert half.worth == pytest.approx(half.detectable_gap / 2)
    assert half.pairs[0].at_most > half.worth
    assert half.recommendations == {"quality": "a", "memory": "a", "size": "a", "time": "a"}
    results = results.model_copy(update={"verdict": half})
    assert recommendation(results, "size").startswith(  # not "the smallest", of one
        f"Preferring size: a (adapter, {size(tie[0]['a'].costs['adapter_bytes'])}; no other entry is shown to be "
        "within 1.4 points of it on ROUGE-L (half the"
    )
    tie[0]["a"] = with_costs(tie[0]["a"], peak_bytes=None)
    unmeasured = judge(*tie, worth=0.03)
    assert unmeasured.recommendations["memory"] is None
    results = results.model_copy(update={"verdict": unmeasured, "entries": tie[0]})
    assert "not measured" in recommendation(results, "memory")


def test_every_pair_is_there_once_with_adjusted_p_values(tie):
    verdict = judge(*tie)
    named = [frozenset((p.first, p.second)) for p in verdict.pairs]
    assert sorted(map(sorted, named)) == [list(pair) for pair in combinations("abc", 2)]
    for pair in verdict.pairs:
        assert pair.difference >= 0
        assert pair.p_adjusted >= pair.p
        assert pair.different == (pair.p_adjusted < 0.05)
        assert pair.loss is None
    assert [p.second for p in verdict.baseline_pairs] == ["lead-1"] * 3
    assert verdict.detectable_gap > 0
    assert len(difference_rows(verdict)) == 6


def test_the_best_is_among_those_that_none_is_shown_to_beat():
    generator = numpy.random.default_rng(0)
    documents = generator.uniform(0.2, 0.5, 200)
    noise = generator.normal(0, 1, (3, 200))
    noise = 0.02 * (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, ddof=1, keepdims=True)
    # a - c: t = 2.3, p = 0.02: too much for three pairs, enough against one's best at 0.05 / 2 on one side.
    rouge = {"a": documents + 0.00325, "b": documents + 0.003 + noise[1], "c": documents + noise[2]}
    verdict = judge({n: row_of() for n in rouge}, rouge, resamples=10_000)
    assert (verdict.best, verdict.tied_with_best, verdict.maybe_best) == ("a", ["b", "c"], ["a", "b"])
    assert "The best is among a and b (95 % confidence for this alone)." in verdict.text


def test_failures_that_were_seen_are_counted_and_what_few_runs_cannot_show_is_said():
    rows = {n: row_of().model_copy(update={"seeds": 3, "trainings": 7}) for n in "ab"}
    rows["b"] = rows["b"].model_copy(update={"diverged": 2})
    assert rare_failures(rows) == [
        "diverged: b in 2 of 7 trainings",
        "rare failures: with 3 final runs per entry, one that strikes up to 63% of all runs can go unseen",
    ]
    assert rare_failures({"a": row_of()}) == []


def test_no_gap_is_larger_than_a_score():
    assert Yardstick().detected(0.08) == "a true gap of 8.0 points is detected with 80 % power"
    said = "not even a true gap of 100.0 points, the largest possible one, is detected with 80 % power"
    assert Yardstick().detected(1.306) == said
    assert Yardstick(bounded=False).detected(1.306) == "a true gap of 1.31 is detected with 80 % power"


def test_scores_that_rest_on_few_documents_are_marked():
    generator = numpy.random.default_rng(0)
    many, few = generator.uniform(0.2, 0.6, 300), numpy.zeros(300)
    few[:4] = 1
    text = judge({n: row_of() for n in "ab"}, {"a": many, "b": few}).text
    assert "The scores of b rest on few documents (they tell as much as 9 that all weigh the same)" in text
    assert "rest on few" not in judge({n: row_of() for n in "ab"}, {"a": many, "b": many - 0.01}).text


def test_a_clear_winner_is_best_with_the_gap_to_the_next():
    generator = numpy.random.default_rng(2)
    base = generator.uniform(0.2, 0.5, (3, 200))
    rouge = {"a": base + 0.2, "b": base + generator.normal(0, 0.02, (3, 200))}
    verdict = judge({n: row_of() for n in "ab"}, rouge)
    assert verdict.headline.startswith("a is best on ROUGE-L: ")
    assert "points (95 % interval " in verdict.headline
    assert verdict.headline.endswith(" above b.")
    assert "behind" not in verdict.text
    assert verdict.tied_with_best == []
    assert "Intervals are 95 % confidence intervals over 200 test documents and seeds." in verdict.text
    assert verdict.covers == "documents and seeds"
    two = judge({n: row_of() for n in "ab"}, {name: scores[:2] for name, scores in rouge.items()})
    assert "and two seeds (two are too few to know their spread; use three)." in two.text


def test_what_only_one_pair_alone_would_show_is_a_tie_and_said_to_be():
    generator = numpy.random.default_rng(3)
    noise = generator.normal(0, 1, (6, 100))
    noise = (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, keepdims=True)
    rouge = {n: 0.3 + 0.02 * noise[i] for i, n in enumerate("abcdef")}
    rouge["a"] = rouge["a"] + 0.0065
    verdict = judge({n: row_of() for n in "abcdef"}, rouge)
    pairs = [p for p in verdict.pairs if p.first == "a"]
    assert any(p.low > 0 for p in pairs)
    assert all(not p.different for p in pairs)
    assert sorted(verdict.tied_with_best) == list("bcdef")
    assert not any(claim in verdict.text for claim in CLAIMS)


def test_a_lone_tie_whose_own_interval_leaves_out_zero_says_why_it_is_one():
    generator = numpy.random.default_rng(3)
    noise = generator.normal(0, 1, (3, 100))
    noise = (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, ddof=1, keepdims=True)
    low, high = numpy.full(100, 0.3), numpy.full(100, 0.1)
    # Standard error 0.002, so t = 2.14 and p = 0.035; four pairs differ, which leaves a factor of two.
    rouge = {"a": low + 0.00428 + 0.02 * noise[0], "b": low, "c": high + 0.02 * noise[1], "d": high + 0.02 * noise[2]}
    verdict = judge({n: row_of() for n in rouge}, rouge, resamples=10_000)
    pair = verdict.pairs[0]
    assert pair.low > 0
    assert 0.05 < pair.p_adjusted == pytest.approx(2 * pair.p)
    assert verdict.headline.startswith("a and b are tied on ROUGE-L (difference 0.4 points, 95 % interval 0.0 to 0.8; ")
    assert verdict.headline.endswith("not significant after correction for all pairs).")


def test_a_tie_with_the_third_entry_shows_that_pairs_difference():
    generator = numpy.random.default_rng(5)
    documents, calm, noisy = generator.uniform(0.4, 0.5, 200), [[0.001], [0], [-0.001]], [[0.04], [0], [-0.04]]
    lower = {"a": 0, "b": 0.05, "c": 0.055, "d": 0.2, "e": 0.21, "f": 0.22, "g": 0.23}
    rouge = {n: documents - by + numpy.array(noisy if n == "c" else calm) for n, by in lower.items()}
    verdict = judge({n: row_of() for n in rouge}, rouge)
    first, third = verdict.pairs[0], verdict.pairs[1]
    assert (first.second, first.different) == ("b", True)
    assert (third.second, third.different) == ("c", False)
    shown = f"{100 * third.difference:.1f} points, 95 % interval {100 * third.low:.1f} to {100 * third.high:.1f}"
    assert verdict.headline == f"a and c are tied on ROUGE-L (difference {shown})."
    assert f"b is behind a by {100 * first.difference:.1f} points" in verdict.text


def test_loss_is_judged_beside_rouge():
    generator = numpy.random.default_rng(4)
    rouge = {n: generator.uniform(0.2, 0.6, 150) for n in "ab"}
    losses = {"a": generator.normal(3, 0.3, 150)}
    losses["b"] = losses["a"] - 0.2 + generator.normal(0, 0.05, 150)
    verdict = judge({n: row_of() for n in "ab"}, rouge, losses)
    loss = verdict.pairs[0].loss
    assert loss.different
    assert "The test loss of b is lower than that of a by 0.2" in verdict.text
    assert "tied on ROUGE-L" in verdict.headline


def test_of_many_tied_entries_the_first_line_names_six_and_the_text_all():
    generator = numpy.random.default_rng(4)
    shared, names = generator.uniform(0.2, 0.6, 150), "abcdefghij"
    rouge = {n: shared + generator.normal(0, 0.05, 150) for n in names}
    losses = {n: shared + 3 + (0.1 if n in "cd" else 0) + generator.normal(0, 0.01, 150) for n in names}
    verdict = judge({n: row_of() for n in names}, rouge, losses)
    tied = verdict.tied_with_best
    assert len(tied) == 9
    assert f"{verdict.best}, {', '.join(tied[:5])} and 4 more are tied on ROUGE-L" in verdict.headline
    assert f"Tied with {verdict.best} are also {', '.join(tied[5:-1])} and {tied[-1]}." in verdict.text
    worse = [n for n in tied if n in "cd"]
    assert len(worse) == 2
    lower = f"The test loss of {verdict.best} is lower than that of "
    assert re.search(rf"{lower}{worse[0]} by 0\.\d\d\d and that of {worse[1]} by 0\.\d\d\d\.", verdict.text)


def test_of_many_entries_the_shorter_list_is_told():
    generator = numpy.random.default_rng(5)
    shared, names = generator.uniform(0.2, 0.6, 150), "abcdefghij"
    rouge = {n: shared + (0.1 if n in "ab" else 0) + generator.normal(0, 0.02, 150) for n in names}
    rows = {n: row_of() for n in names} | {"base": row_of("baseline"), "lead-1": row_of("baseline")}
    verdict = judge(rows, rouge | {"base": shared, "lead-1": shared + 0.3})
    assert "Only b and a of 10 entries are shown to beat the untouched base." in verdict.text
    assert "None of 10 entries is shown to beat the document's first sentence (lead-1)." in verdict.text
    most = {n: shared + (-0.1 if n in "ab" else 0) + generator.normal(0, 0.02, 150) for n in names}
    text = judge({n: row_of() for n in names}, most).text
    assert "The best is not among a and b (95 % confidence for this alone)." in text


def test_an_entry_that_does_not_beat_a_baseline_is_told_so_but_none_must_beat_the_oracle():
    rouge = {"a": numpy.linspace(0.1, 0.3, 50), "lead-1": numpy.full(50, 0.3), "base": numpy.full(50, 0.2)}
    rouge["oracle"] = numpy.full(50, 0.9)
    rows = {"a": row_of(), **{n: row_of("baseline") for n in ("lead-1", "base", "oracle")}}
    verdict = judge(rows, rouge)
    assert "Not shown to beat the document's first sentence (lead-1): a." in verdict.text
    assert "Not shown to beat the untouched base: a." in verdict.text
    assert "oracle" not in verdict.text
    assert verdict.headline.startswith("a is the only finished entry: ROUGE-L 20.0 (95 % interval ")


def test_nothing_finished_one_document_and_equal_entries(shared):
    empty = judge({"a": row_of(status="failed")}, {})
    assert (empty.best, empty.pairs, empty.detectable_gap) == (None, [], None)
    assert set(empty.recommendations.values()) == {None}
    with pytest.raises(SetupError, match="no entry has finished"):
        recommendation(shared[1].document.model_copy(update={"verdict": empty, "entries": {}}), "size")
    single = judge({n: row_of() for n in "ab"}, {"a": numpy.array([0.5]), "b": numpy.array([0.1])})
    assert single.headline == "One test document cannot tell entries apart, so nothing can be concluded."
    assert single.tied_with_best == ["b"]
    assert single.pairs[0].p is None
    assert "not known" in str(difference_rows(single))
    equal = judge({n: row_of() for n in "ab"}, {n: numpy.full(20, 0.25) for n in "ab"})
    assert equal.headline == "a and b are tied on ROUGE-L (difference 0.0 points)."
    assert "All 20 test documents have the same ROUGE-L with a and b" in equal.text
    assert equal.detectable_gap is None


def test_twins_are_compared_by_their_bits():
    """What differs in how its base is stored alone, with the most bits as the measure; searched values may differ."""

    def row(peak=1000, rate=1e-3, **changes):
        search = {"learning_rate": Span(low=1e-5, high=1e-2, scale="log")}
        facts = {"method": "lora", "settings": {"r": 4, "learning_rate": rate}, "search": search}
        return row_of(peak=peak).model_copy(update=facts | changes)

    plain, four = row(), row(400, 2e-3, quantize="nf4")
    rows = {
        "four": four, "plain": row(quantize="none"), "q": row(400, 2e-3, quantize="nf4", method="qlora"),
        "eight": row(1100, 2e-3, quantize="int8"), "wide": row(400, quantize="nf4", settings={"r": 8}),
    }  # fmt: skip
    assert twins(rows) == [("four", "plain"), ("q", "plain"), ("eight", "plain")]
    assert twins({n: rows[n] for n in ("four", "eight", "wide")}) == [("four", "eight")]
    assert memory_saved(four, plain) == " and saves 60% of the peak memory of training (400 B, not 1,000 B)"
    assert memory_saved(rows["eight"], plain) == " and adds 10% to the peak memory of training (1.07 KiB, not 1,000 B)"
    assert memory_saved(four, with_costs(plain)) == ""
    best = numpy.random.default_rng(0).uniform(0.2, 0.6, 300)
    little = numpy.tile([1e-5, -1e-5], 150)
    text = judge({n: rows[n] for n in ("four", "plain")}, {"plain": best, "four": best - 0.01 + little}).text
    assert "four is plain over a base in nf4, which costs 1.0 points (95 % interval 1.0 to 1.0) and saves 60%" in text
    noise = numpy.random.default_rng(1).normal(0, 0.1, 300)
    text = judge({n: rows[n] for n in ("four", "plain")}, {"plain": best, "four": best - noise + noise.mean() + 1e-3})
    assert "which gains 0.1 points (95 % interval" in text.text
    assert "; not significant) and saves 60%" in text.text
