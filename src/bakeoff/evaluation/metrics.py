"""Metrics by name: what outputs are scored with beside the loss. Every score is of one output, higher is better, and
most are from 0 to 1, so that points are hundredths.

BLEU and chrF are sacrebleu's of each sentence, since intervals need a score a document; the corpus' own, which papers
report, stand beside them. Exact match and token F1 are SQuAD's: case, punctuation and articles do not count, and of
several references the best does (Rajpurkar et al. 2016).
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from bakeoff.config import is_function
from bakeoff.data.examples import Example
from bakeoff.errors import BakeoffError, ConfigError, did_you_mean
from bakeoff.evaluation import rouge as rouge_score
from bakeoff.evaluation.functions import FAULTS, load_function

Score = float | dict[str, float]  # a number, or precision, recall and F as p, r and f
Rows = Sequence[Mapping[str, Score]]
References = Sequence[Sequence[str]]


class MetricError(BakeoffError):
    """A metric gave no score."""


@dataclass(frozen=True)
class Measure:
    """A column of scores: its name in the records, its heading, and what it is; `bounded`: from 0 to 1.

    One of the `corpus` is no mean over outputs: it has no interval, and entries are not ranked by it.
    """

    name: str
    heading: str
    explanation: str
    bounded: bool = True
    corpus: bool = False


@dataclass(frozen=True)
class Metric:
    """What one name in the config's `metrics` stands for. Entries are ranked by `primary`, one of `measures`."""

    measures: tuple[Measure, ...]
    primary: str
    score: Callable[[Sequence[str], References], Rows]
    corpus: Callable[[Sequence[str], References], dict[str, float]] = lambda outputs, references: {}
    signature: Callable[[bool], str] = lambda several: ""


def plain_words(text: str) -> list[str]:
    """Return a text's words as SQuAD compares them: small letters, no ASCII punctuation, no articles."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact_match(outputs: Sequence[str], references: References) -> Rows:
    """Return 1 for each output that is one of its references, else 0."""
    return [
        {"exact_match": float(any(plain_words(output) == plain_words(text) for text in texts))}
        for output, texts in zip(outputs, references, strict=True)
    ]


def token_f1(outputs: Sequence[str], references: References) -> Rows:
    """Return precision, recall and F of each output's words against the reference with the highest F."""
    return [
        {"token_f1": max((_overlap(plain_words(o), plain_words(t)) for t in texts), key=lambda s: s["f"])}
        for o, texts in zip(outputs, references, strict=True)
    ]


def _overlap(output: list[str], reference: list[str]) -> dict[str, float]:
    if not output or not reference:
        same = float(output == reference)
        return {"p": same, "r": same, "f": same}
    common = sum((Counter(output) & Counter(reference)).values())
    p, r = common / len(output), common / len(reference)
    return {"p": p, "r": r, "f": 2 * p * r / (p + r) if common else 0.0}


def sacrebleu_metric(name: str, heading: str, explanation: str, make: Callable[[bool], Any]) -> Metric:
    """Return one of sacrebleu's metrics; `make` gives its scorer, for sentences (True) or for a corpus."""

    def score(outputs: Sequence[str], references: References) -> Rows:
        scorer = make(True)
        pairs = zip(outputs, references, strict=True)
        return [{name: scorer.sentence_score(output, list(texts)).score / 100} for output, texts in pairs]

    def corpus(outputs: Sequence[str], references: References) -> dict[str, float]:
        return {f"{name}_corpus": make(False).corpus_score(list(outputs), streams(references)).score / 100}

    def signature(several: bool) -> str:
        scorer = make(False)
        scorer.corpus_score(["a"], [["a"]])
        return f"sacrebleu {name} | {scorer.get_signature()}"

    one = Measure(name, heading, f"{explanation}, a mean over outputs")
    whole = Measure(f"{name}_corpus", f"{heading} (corpus)", f"{explanation}, of all outputs together", corpus=True)
    return Metric((one, whole), name, score, corpus, signature)


def streams(references: References) -> list[list[str | None]]:
    """Return references as sacrebleu wants a corpus': a list of every output's first, of every second, and so on."""
    longest = max(len(texts) for texts in references)
    return [[texts[i] if i < len(texts) else None for texts in references] for i in range(longest)]


ROUGE = Metric(
    (
        Measure("rouge1", "ROUGE-1", "F measure, unigrams"),
        Measure("rouge2", "ROUGE-2", "F measure, bigrams"),
        Measure("rougeL", "ROUGE-L", "F measure, longest common subsequence"),
        Measure("rougeLsum", "ROUGE-Lsum", "ROUGE-L over sentences on lines of their own"),
    ),
    "rougeL",
    rouge_score.rouge,
    signature=rouge_score.signature,
)
METRICS = {
    "rouge": ROUGE,
    "exact_match": Metric(
        (Measure("exact_match", "exact match", "share of outputs that are a reference, by SQuAD's rule"),),
        "exact_match", exact_match, signature=lambda several: "exact match: SQuAD's rule, any reference",
    ),
    "token_f1": Metric(
        (Measure("token_f1", "token F1", "F measure of words, by SQuAD's rule"),),
        "token_f1", token_f1, signature=lambda several: "token F1: SQuAD's rule, the best reference",
    ),
    "chrf": sacrebleu_metric("chrf", "chrF", "F measure of character n-grams", lambda sentence: CHRF()),
    "bleu": sacrebleu_metric("bleu", "BLEU", "n-gram precision", lambda sentence: BLEU(effective_order=sentence)),
}  # fmt: skip


@lru_cache(maxsize=16)
def metric(name: str) -> Metric:
    """Return a metric by its name, or of a function that the config names; raise ConfigError where there is none."""
    if not is_function(name):
        return METRICS[name]
    function = load_function(name)
    label = function.__name__

    def score(outputs: Sequence[str], references: References) -> Rows:
        pairs = zip(outputs, references, strict=True)
        return [{label: _scored(name, function, i, output, texts)} for i, (output, texts) in enumerate(pairs, 1)]

    measure = Measure(label, label.replace("_", " "), f"a mean of {name.rpartition('/')[2]}", bounded=False)
    return Metric((measure,), label, score, signature=lambda several: f"{label}: {name.rpartition('/')[2]}")


def _scored(name: str, function: Callable[..., Any], number: int, output: str, references: Sequence[str]) -> float:
    try:
        value = function(output, list(references))
    except FAULTS as error:
        raise MetricError(f"metrics: {name}: {type(error).__name__} for output {number}: {error}") from None
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise MetricError(f"metrics: {name}: gave {value!r:.60} for output {number}. Expected a finite number")


def score_outputs(
    names: Sequence[str], outputs: Sequence[str], references: References
) -> tuple[Rows, dict[str, float]]:
    """Return each output's scores by all the metrics named, and scores of the corpus as a whole."""
    tables = [metric(name).score(outputs, references) for name in names]
    rows = [{k: v for row in parts for k, v in row.items()} for parts in zip(*tables, strict=True)]
    return rows, {k: v for name in names for k, v in metric(name).corpus(outputs, references).items()}


def measures(names: Sequence[str]) -> list[Measure]:
    """Return the columns of the metrics named; raise ConfigError where two have the same name."""
    found = [measure for name in names for measure in metric(name).measures]
    twice = [m.name for m in found if sum(other.name == m.name for other in found) > 1]
    if twice:
        raise ConfigError(f"metrics: two of them give '{twice[0]}'. Rename a function")
    return found


def primary_of(names: Sequence[str], chosen: str | None) -> str:
    """Return the measure that entries are ranked by: the one chosen, or the first metric's own.

    Raises ConfigError where no metric gives it.
    """
    known = [measure.name for measure in measures(names) if not measure.corpus]
    if chosen is not None and chosen not in known:
        raise ConfigError(f"primary: '{chosen}' is given by none of the metrics.{did_you_mean(chosen, known)}")
    return chosen or metric(names[0]).primary


def value_of(score: Score) -> float:
    """Return the number that a score is compared by: F where it has one."""
    return score["f"] if isinstance(score, Mapping) else score


def signature(names: Sequence[str], several: bool) -> str:
    """Return how scores were made, so that others can compare theirs; `several`: there were several references."""
    return " || ".join(metric(name).signature(several) for name in names)


def scoring(names: Sequence[str], primary: str | None, test: Sequence[Example]) -> dict[str, Any]:
    """Return what a plan says of scores, after trying them on a reference; raise a BakeoffError where that fails."""
    references = test[0].references or (test[0].summary,)
    score_outputs(names, references[:1], [references])
    return {
        "metrics": [asdict(measure) for measure in measures(names)],
        "primary": primary_of(names, primary),
        "score_signature": signature(names, any(example.references for example in test)),
    }
