import pytest
from rouge_score.rouge_scorer import RougeScorer

from bakeoff.evaluation.rouge import TYPES, lead, rouge, sentences

PAIRS = [
    ("Return the sorted keys of a mapping.", "Returns sorted keys of the given mapping"),
    ("", "Anything at all."),
    ("One sentence here. Another one there.", "Another sentence there. One here, too."),
    ("running runs ran", "run running"),
]


def test_scores_are_rouge_scores_own():
    ours = rouge([output for output, _ in PAIRS], [[reference] for _, reference in PAIRS])
    scorer = RougeScorer(list(TYPES), use_stemmer=True)
    for (output, reference), row in zip(PAIRS, ours, strict=True):
        theirs = scorer.score("\n".join(sentences(reference)), "\n".join(sentences(output)))
        for name in TYPES:
            expected = (theirs[name].precision, theirs[name].recall, theirs[name].fmeasure)
            assert (row[name]["p"], row[name]["r"], row[name]["f"]) == pytest.approx(expected, abs=1e-9)


def test_hand_counted_rouge():
    row = rouge(["the cat sat"], [["the cat ran off"]])[0]
    assert row["rouge1"] == pytest.approx({"p": 2 / 3, "r": 2 / 4, "f": 4 / 7})
    assert row["rouge2"] == pytest.approx({"p": 1 / 2, "r": 1 / 3, "f": 2 / 5})
    assert row["rougeL"] == pytest.approx({"p": 2 / 3, "r": 2 / 4, "f": 4 / 7})


def test_sentences_and_lead():
    text = "First one, e.g. this. Second one!\nThird"
    assert sentences(text) == ["First one, e.g. this.", "Second one!", "Third"]
    assert lead(text) == "First one, e.g. this."
    assert lead(text, 2) == "First one, e.g. this. Second one!"
