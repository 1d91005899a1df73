import numpy
import pytest
from rouge_score.rouge_scorer import RougeScorer

from bakeoff.evaluation.rouge import TYPES, lead, rouge, sentences
from bakeoff.evaluation.statistics import Resamples, interval, summary
from bakeoff.evaluation.verdict import make_verdict

PAIRS = [
    ("Return the sorted keys of a mapping.", "Returns sorted keys of the given mapping"),
    ("", "Anything at all."),
    ("One sentence here. Another one there.", "Another sentence there. One here, too."),
    ("running runs ran", "run running"),
]


def test_scores_are_rouge_scores_own():
    ours = rouge(*zip(*PAIRS, strict=True))
    scorer = RougeScorer(list(TYPES), use_stemmer=True)
    for (output, reference), row in zip(PAIRS, ours, strict=True):
        theirs = scorer.score("\n".join(sentences(reference)), "\n".join(sentences(output)))
        for name in TYPES:
            expected = (theirs[name].precision, theirs[name].recall, theirs[name].fmeasure)
            assert (row[name]["p"], row[name]["r"], row[name]["f"]) == pytest.approx(expected, abs=1e-9)


def test_hand_counted_rouge():
    row = rouge(["the cat sat"], ["the cat ran off"])[0]
    assert row["rouge1"] == pytest.approx({"p": 2 / 3, "r": 2 / 4, "f": 4 / 7})
    assert row["rouge2"] == pytest.approx({"p": 1 / 2, "r": 1 / 3, "f": 2 / 5})
    assert row["rougeL"] == pytest.approx({"p": 2 / 3, "r": 2 / 4, "f": 4 / 7})


def test_sentences_and_lead():
    text = "First one, e.g. this. Second one!\nThird"
    assert sentences(text) == ["First one, e.g. this.", "Second one!", "Third"]
    assert lead(text) == "First one, e.g. this."
    assert lead(text, 2) == "First one, e.g. this. Second one!"


def test_interval_covers_a_known_mean_as_often_as_it_says():
    generator = numpy.random.default_rng(5)
    weights = Resamples(120, resamples=600)
    hits = 0
    for _ in range(400):
        sample = generator.normal(0.3, 0.2, 120)
        row = summary(list(sample), [1.0] * 120, weights)
        hits += row["low"] <= 0.3 <= row["high"]
    assert 0.91 <= hits / 400 <= 0.98


def test_a_ratio_is_of_sums():
    row = summary([6.0, 1.0], [3.0, 1.0], Resamples(2))
    assert row["mean"] == 7 / 4
    assert (row["low"], row["high"]) == (1.0, 2.0)
    assert interval(numpy.arange(1001.0)) == pytest.approx((25.0, 975.0))


def row_of(kind="entry", status="done", size=100.0):
    return {"kind": kind, "status": status, "seeds": 1, "costs": {"adapter_bytes": size}}


def test_the_verdict_says_tied_where_the_interval_holds_zero_and_behind_where_not():
    generator = numpy.random.default_rng(1)
    best = generator.uniform(0.2, 0.6, 300)
    scores = {
        "a": best,
        "b": best + generator.normal(-0.002, 0.1, 300),
        "c": best - 0.1 + generator.normal(0, 0.1, 300),
        "lead-1": best - 0.2,
    }
    rows = {
        "a": row_of(size=1000),
        "b": row_of(size=10),
        "c": row_of(),
        "lead-1": row_of("baseline"),
        "d": row_of(status="failed"),
    }
    verdict = make_verdict(rows, scores, Resamples(300))
    assert verdict["tied_with_best"] == ["b" if verdict["best"] == "a" else "a"]
    assert "are tied on ROUGE-L" in verdict["text"]
    assert "b stores 100.0x less than a" in verdict["text"]
    assert " leads c by " in verdict["text"]
    assert "lead-1" not in verdict["text"]
    assert "d (failed)" in verdict["text"]
    assert "better" not in verdict["text"]


def test_the_verdict_tells_an_entry_that_does_not_beat_lead_1():
    scores = {"a": numpy.full(50, 0.2), "lead-1": numpy.full(50, 0.3)}
    verdict = make_verdict({"a": row_of(), "lead-1": row_of("baseline")}, scores, Resamples(50))
    assert "Not shown to beat the document's first sentence (lead-1): a." in verdict["text"]
    empty = make_verdict({"a": row_of(status="failed")}, {}, Resamples(50))
    assert empty["best"] is None


def test_resampled_sums_equal_those_of_the_whole_matrix():
    weights = Resamples(7, resamples=1100)
    values = numpy.arange(7.0)
    whole = numpy.random.default_rng(0).multinomial(7, numpy.full(7, 1 / 7), size=1100)
    numpy.testing.assert_array_equal(weights @ values, whole @ values)
