"""ROUGE by Google's `rouge-score`, with its stemmer: the scores that papers report, unchanged (protocol rule 8).

Its words have only a to z and 0 to 9; `rouge_unicode` is the same scorer over the words of any script.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from bakeoff.scoring.sentences import sentences
from bakeoff.scoring.words import words

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
UNICODE = "_unicode"

Scores = dict[str, dict[str, float]]


class AnyScript:
    """The words of any script, unstemmed, as a tokenizer for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        """Return a text's words."""
        return words(text)


@contextmanager
def a_home() -> Iterator[None]:
    """Provide a home folder: NLTK, which rouge-score imports, needs one, and some user ids have none."""
    if os.path.expanduser("~/") != "~/":  # noqa: PTH111  # pathlib's raises where there is none
        yield
        return
    os.environ["HOME"] = tempfile.gettempdir()
    try:
        yield
    finally:
        del os.environ["HOME"]


@contextmanager
def stemmer_alone() -> Iterator[None]:
    """Let rouge-score be imported with NLTK's stemmer alone: the rest of NLTK, which takes seconds, is not used here.

    NLTK's packages are known by their folders alone meanwhile. Afterwards all this is unknown again, so that whoever
    else imports NLTK or rouge-score, as a user's metric may, gets all of it.
    """
    spec = None if "nltk" in sys.modules else find_spec("nltk")
    if spec is None or spec.submodule_search_locations is None:
        yield
        return
    places = [*spec.submodule_search_locations]
    for name, where in (("nltk", places), ("nltk.stem", [os.path.join(place, "stem") for place in places])):  # noqa: PTH118
        package = ModuleType(name)
        package.__path__ = where
        sys.modules[name] = package
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("nltk", "rouge_score")]:
            del sys.modules[name]


@cache
def imported() -> tuple[Any, Any]:
    """Return rouge-score's scorer and tokenizer."""
    with suppress(ImportError, AttributeError), stemmer_alone():
        return _imported()
    with a_home():  # an NLTK whose stemmer needs more of it
        return _imported()


def _imported() -> tuple[Any, Any]:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    return RougeScorer, DefaultTokenizer


def scorer(**settings: Any) -> Any:
    """Return rouge-score's scorer."""
    return imported()[0](list(TYPES), **settings)


def stemming() -> Any:
    """Return rouge-score's own tokenizer."""
    return imported()[1](use_stemmer=True)


def rouge(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[Scores]:
    """Return ROUGE as papers report it; for rougeLsum each sentence is on its own line (Lin 2004, section 3.2).

    Line breaks are inserted after sentence ends for it.
    """
    return scored(scorer(use_stemmer=True), outputs, references, sentences_at_marks)


def rouge_unicode(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[Scores]:
    """Return ROUGE over words of any script: rouge1_unicode and the rest."""
    rows = scored(scorer(tokenizer=AnyScript()), outputs, references, sentences)
    renamed = [(name, f"{name.removesuffix('_max')}{UNICODE}{'_max' * name.endswith('_max')}") for name in rows[0]]
    return [{new: row[name] for name, new in renamed} for row in rows]


def scored(
    scorer: Any, outputs: Sequence[str], references: Sequence[Sequence[str]],
    split: Callable[[str], list[str]],
) -> list[Scores]:  # fmt: skip
    """Return for each output {"rouge1": {"p", "r", "f"}, ...}: precision, recall and F measure, 0 to 1.

    `references` has a list for each output. If any has several, the scores are means over an output's references, which
    do not grow with their number, and rouge1_max and the rest are those of the reference with the highest F, as in
    rouge-score's own `score_multi`.
    """
    several = any(len(texts) > 1 for texts in references)
    rows = []
    for output, texts in zip(outputs, references, strict=True):
        results = [scorer.score("\n".join(split(text)), "\n".join(split(output))) for text in texts]
        row: Scores = {}
        for name in TYPES:
            each = [{"p": r[name].precision, "r": r[name].recall, "f": r[name].fmeasure} for r in results]
            row[name] = {letter: sum(s[letter] for s in each) / len(each) for letter in "prf"}
            if several:
                row[f"{name}_max"] = max(each, key=lambda s: s["f"])
        rows.append(row)
    return rows


def signature(several: bool, unicode: bool = False) -> str:
    """Return how scores were computed, so that others can compare theirs; `several`: there were several references."""
    references = "mean over references (_max: the one with the highest F)" if several else "one reference"
    if unicode:
        made = "words: Unicode letters and numbers, signs of scripts without spaces one by one | stemmer: no"
        ends = "line breaks and the marks of any script, not at abbreviations"
    else:
        made = "stemmer: yes"
        ends = "line breaks and . ! ? where a space and no small letter follows"
    return (
        f"rouge-score {version('rouge-score')} | {made} | rougeLsum: sentences end at {ends} | {references} "
        "| scores: F, 0 to 1"
    )


def sentences_at_marks(text: str) -> list[str]:
    """Return the sentences of a text: cut at line breaks and after . ! ? where a space and no small letter follows."""
    return [s.strip() for s in re.split(r"\n+|(?<=[.!?])\s+(?![a-z])", text) if s.strip()]
