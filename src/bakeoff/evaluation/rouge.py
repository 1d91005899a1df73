"""ROUGE by Google's `rouge-score`, with its stemmer: the scores that papers report, and nothing of our own."""

import re
from collections.abc import Sequence
from importlib.metadata import version

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
BEST_TYPES = tuple(f"{name}_max" for name in TYPES)

Scores = dict[str, dict[str, float]]


def rouge(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[Scores]:
    """Return for each output {"rouge1": {"p", "r", "f"}, ...}: precision, recall and F measure, 0 to 1.

    `references` holds a list for each output. Where any has several, the scores are means over an output's references,
    which do not grow with how many it has, and rouge1_max and the rest are of the reference with the highest F, as
    rouge-score's own `score_multi` has it. rougeLsum wants one sentence a line; line breaks are put after sentence
    ends for it (Lin 2004, section 3.2).
    """
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk and scipy.stats: seconds, which only scoring pays

    scorer = RougeScorer(list(TYPES), use_stemmer=True)
    several = any(len(texts) > 1 for texts in references)
    scored = []
    for output, texts in zip(outputs, references, strict=True):
        results = [scorer.score(sentences_on_lines(text), sentences_on_lines(output)) for text in texts]
        row: Scores = {}
        for name in TYPES:
            each = [{"p": r[name].precision, "r": r[name].recall, "f": r[name].fmeasure} for r in results]
            row[name] = {letter: sum(s[letter] for s in each) / len(each) for letter in "prf"}
            if several:
                row[f"{name}_max"] = max(each, key=lambda s: s["f"])
        scored.append(row)
    return scored


def signature(several: bool) -> str:
    """Return how scores were made, so that others can compare theirs; `several`: there were several references."""
    references = "mean over references (_max: the one with the highest F)" if several else "one reference"
    return (
        f"rouge-score {version('rouge-score')} | stemmer: yes | rougeLsum: sentences end at line breaks and . ! ? "
        f"where a space and no small letter follows | {references} | scores: F, 0 to 1"
    )


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: cut at line breaks and after . ! ? where a space and no small letter follows."""
    return [s.strip() for s in re.split(r"\n+|(?<=[.!?])\s+(?![a-z])", text) if s.strip()]


def sentences_on_lines(text: str) -> str:
    """Return the text with each sentence on a line of its own."""
    return "\n".join(sentences(text))


def lead(document: str, count: int = 1) -> str:
    """Return the first `count` sentences of a document: the baseline lead-k."""
    return " ".join(" ".join(s.split()) for s in sentences(document)[:count])
