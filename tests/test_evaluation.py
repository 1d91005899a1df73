import subprocess
import sys

import pytest
from rouge_score.rouge_scorer import RougeScorer

from bakeoff.scoring.lengths import text_lengths
from bakeoff.scoring.rouge import TYPES, rouge, sentences_at_marks, signature
from bakeoff.scoring.sentences import lead, sentences

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
        theirs = scorer.score("\n".join(sentences_at_marks(reference)), "\n".join(sentences_at_marks(output)))
        for name in TYPES:
            expected = (theirs[name].precision, theirs[name].recall, theirs[name].fmeasure)
            assert (row[name]["p"], row[name]["r"], row[name]["f"]) == pytest.approx(expected, abs=1e-9)


def test_rouge_needs_of_nltk_its_stemmer_alone_and_hides_nothing_from_others():
    """Modules are counted, and no seconds: all of NLTK, with scipy.stats, takes two or three."""
    code = (
        "import sys\nfrom bakeoff.scoring.rouge import rouge\n"
        "print(rouge(['a running dog'], [['a dog runs']])[0]['rouge1']['f'])\n"
        "print([name for name in sys.modules if name.startswith(('nltk', 'rouge_score', 'scipy'))])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["1.0", "[]"]


def test_several_references_are_averaged_and_the_best_is_rouge_scores_own():
    references = [
        ["Returns sorted keys of the given mapping", "Return the mapping's keys. They are sorted."],
        ["Anything at all."],
        ["run running", "One sentence here.", "Another sentence there. One here, too. And a third."],
    ]
    outputs = ["Return the sorted keys of a mapping", "", "One sentence here. Another one there."]
    scorer = RougeScorer(list(TYPES), use_stemmer=True)
    for output, texts, row in zip(outputs, references, rouge(outputs, references), strict=True):
        lines = ["\n".join(sentences_at_marks(text)) for text in texts]
        each = [scorer.score(line, "\n".join(sentences_at_marks(output))) for line in lines]
        best = scorer.score_multi(lines, "\n".join(sentences_at_marks(output)))
        for name in TYPES:
            mean = [sum(s[name][i] for s in each) / len(each) for i in range(3)]
            assert [row[name][k] for k in "prf"] == pytest.approx(mean, abs=1e-9)
            assert [row[f"{name}_max"][k] for k in "prf"] == pytest.approx(list(best[name]), abs=1e-9)
    assert set(rouge(["a"], [["a"]])[0]) == set(TYPES)
    assert "mean over references" in signature(several=True)
    assert "one reference" in signature(several=False)


def test_lengths_are_of_the_texts_and_means_over_references(base):
    rows = text_lengths(["ba be bi", " "], [["ba", "ba be bi bo"], ["ba be"]], base.tokenizer)
    assert rows == [
        {"output_words": 3, "output_tokens": 3, "reference_words": 2.5, "reference_tokens": 2.5},
        {"output_words": 0, "output_tokens": 0, "reference_words": 2, "reference_tokens": 2},
    ]


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
