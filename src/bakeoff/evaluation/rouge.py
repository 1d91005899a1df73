"""ROUGE by Google's `rouge-score`, with its stemmer: the scores that papers report, and nothing of our own."""

import re
from collections.abc import Sequence
from importlib.metadata import version

from rouge_score.rouge_scorer import RougeScorer

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SIGNATURE = f"rouge-score {version('rouge-score')} | stemmer: yes | rougeLsum: sentences on lines | scores: F, 0 to 1"

Scores = dict[str, dict[str, float]]


def rouge(outputs: Sequence[str], references: Sequence[str]) -> list[Scores]:
    """Return for each pair {"rouge1": {"p", "r", "f"}, ...}: precision, recall and F measure, 0 to 1.

    rougeLsum wants one sentence a line; line breaks are put after sentence ends for it (Lin 2004, section 3.2).
    """
    scorer = RougeScorer(list(TYPES), use_stemmer=True)
    scored = []
    for output, reference in zip(outputs, references, strict=True):
        result = scorer.score(sentences_on_lines(reference), sentences_on_lines(output))
        scored.append({name: {"p": s.precision, "r": s.recall, "f": s.fmeasure} for name, s in result.items()})
    return scored


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: cut at line breaks and after . ! ? where a space and no small letter follows."""
    return [s.strip() for s in re.split(r"\n+|(?<=[.!?])\s+(?![a-z])", text) if s.strip()]


def sentences_on_lines(text: str) -> str:
    """Return the text with each sentence on a line of its own."""
    return "\n".join(sentences(text))


def lead(document: str, count: int = 1) -> str:
    """Return the first `count` sentences of a document: the baseline lead-k."""
    return " ".join(" ".join(s.split()) for s in sentences(document)[:count])
