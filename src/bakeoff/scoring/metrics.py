"""Metrics by name, which score outputs beside the loss. Every score is of one output, higher is better, and most are
from 0 to 1, so that points are hundredths.

BLEU and chrF are computed with sacrebleu per sentence, since intervals need one score per document; the corpus scores,
which papers report, are shown beside them. Exact match and token F1 keep all that a text says. By SQuAD's rule, which
ignores case, punctuation and articles (Rajpurkar et al. 2016), they are exact_match_squad and token_f1_squad. With
several references the best counts.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from bakeoff.config.names import is_function, metric_model
from bakeoff.data.examples import Example
from bakeoff.errors import ConfigError, did_you_mean
from bakeoff.scoring import learned
from bakeoff.scoring import rouge as rouge_score
from bakeoff.scoring.custom import Columns, code_identity, function_scores, label_of, tried
from bakeoff.scoring.json_fields import JSON
from bakeoff.scoring.labels import ACCURACY
from bakeoff.scoring.metric import Measure, Metric, References, Rows, Score, overlap
from bakeoff.scoring.sacrebleu_metrics import bleu, character_f, sacrebleu_metric
from bakeoff.scoring.words import meaning, only_latin, tokens, unparted
from bakeoff.store.content_hash import hash_of

LOOKED_AT = 2000  # references in which metrics' blind spots are looked for
UNSEEN = 0.02  # a share of them that is told


def plain_words(text: str) -> list[str]:
    """Return a text's words as SQuAD compares them: small letters, no ASCII punctuation, no articles."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact_match(name: str, explanation: str, same: Callable[[str], Any], **about: Any) -> Metric:
    """Return the metric that is 1 for an output that equals one of its references, compared after `same`, else 0."""

    def score(outputs: Sequence[str], references: References) -> Rows:
        pairs = zip(outputs, references, strict=True)
        return [{name: float(same(output) in [same(text) for text in texts])} for output, texts in pairs]

    return Metric((Measure(name, name.replace("_", " "), explanation),), name, score, **about)


def token_f1(name: str, explanation: str, words: Callable[[str], list[str]], **about: Any) -> Metric:
    """Return precision, recall and F of each output's words against the reference with the highest F."""

    def score(outputs: Sequence[str], references: References) -> Rows:
        pairs = zip(outputs, references, strict=True)
        return [
            {name: max((overlap(Counter(words(output)), Counter(words(text))) for text in texts), key=lambda s: s["f"])}
            for output, texts in pairs
        ]

    return Metric((Measure(name, name.replace("_", " ").replace("f1", "F1"), explanation),), name, score, **about)


def rouge_measures(suffix: str = "", heading: str = "") -> tuple[Measure, ...]:
    """Return ROUGE's columns."""
    return (
        Measure(f"rouge1{suffix}", f"ROUGE-1{heading}", "F measure, unigrams"),
        Measure(f"rouge2{suffix}", f"ROUGE-2{heading}", "F measure, bigrams"),
        Measure(f"rougeL{suffix}", f"ROUGE-L{heading}", "F measure, longest common subsequence"),
        Measure(f"rougeLsum{suffix}", f"ROUGE-Lsum{heading}", "ROUGE-L over sentences on lines of their own"),
    )


SQUAD = "it drops signs, points and operators: '-3.5' is '35' to it. Try {}"
METRICS = {
    "rouge": Metric(
        rouge_measures(), "rougeL", rouge_score.rouge, signature=rouge_score.signature,
        unseen=only_latin, blind="it sees only a to z and 0 to 9. Try rouge_unicode or chrf",
    ),
    "rouge_unicode": Metric(
        rouge_measures("_unicode", " (Unicode)"), "rougeL_unicode", rouge_score.rouge_unicode,
        signature=lambda several: rouge_score.signature(several, unicode=True),
    ),
    "exact_match": exact_match(
        "exact_match", "share of outputs that equal a reference, apart from white space around them", str.strip,
        signature=lambda several: "exact match: all but outer white space counts, any reference", rule="exact",
    ),
    "exact_match_squad": exact_match(
        "exact_match_squad", "share of outputs that equal a reference, by SQuAD's rule", plain_words,
        signature=lambda several: "exact match: SQuAD's rule (no case, punctuation, articles), any reference",
        unseen=meaning, blind=SQUAD.format("exact_match"),
    ),
    "token_f1": token_f1(
        "token_f1", "F measure of words, numbers, operators and other signs of any script", tokens,
        signature=lambda several: "token F1: words, numbers with sign and point, operators and other signs of any "
        "script, those of scripts without spaces one by one, no case | the best reference", rule="tokens of any script",
    ),
    "token_f1_squad": token_f1(
        "token_f1_squad", "F measure of words, by SQuAD's rule", plain_words,
        signature=lambda several: "token F1: SQuAD's rule (no case, punctuation, articles), the best reference",
        unseen=lambda text: max(unparted(text), meaning(text)), blind=SQUAD.format("token_f1"),
    ),
    "accuracy": ACCURACY,
    "json": JSON,
    "chrf": sacrebleu_metric("chrf", "chrF", "F measure of character n-grams", character_f),
    "bleu": bleu(),
    **{f"bleu_{name.replace('-', '_')}": bleu(name) for name in ("zh", "ja-mecab", "ko-mecab", "intl", "char")},
}  # fmt: skip


@lru_cache(maxsize=16)
def metric(name: str) -> Metric:
    """Return a metric by its name. If the name is that of a function, it is loaded when it first scores."""
    if by_model := metric_model(name):
        return learned.learned(*by_model)
    if not is_function(name):
        return METRICS[name]
    label, shown = label_of(name), name.rpartition("/")[2]

    def score(outputs: Sequence[str], references: References, rows: Sequence[Columns] | None = None) -> Rows:
        found = function_scores(name, outputs, references, rows or [{} for _ in outputs])
        return [{label: value} for value in found]

    measure = Measure(label, label.replace("_", " "), f"a mean of {shown}", bounded=False)
    return Metric((measure,), label, score, signature=lambda several: f"{label}: {shown}", sees_rows=True)


def score_outputs(
    names: Sequence[str], outputs: Sequence[str], references: References, begins: Callable[[str], object] = bool,
    columns: Sequence[Columns] | None = None,
) -> tuple[Rows, dict[str, float]]:  # fmt: skip
    """Return each output's scores by all metrics named, and the scores of the corpus as a whole.

    `begins` is called with the name of each metric before it scores. Those that see an output's row get the `columns`
    of its example.
    """
    tables = []
    for name in names:
        begins(name)
        by = metric(name)
        tables.append(by.score(outputs, references, *((columns,) if by.sees_rows else ())))
    rows = [{k: v for row in parts for k, v in row.items()} for parts in zip(*tables, strict=True)]
    return rows, {k: v for name in names for k, v in metric(name).corpus(outputs, references).items()}


def measures(names: Sequence[str]) -> list[Measure]:
    """Return the columns of the metrics named; raise ConfigError if two have the same name."""
    measures = [measure for name in names for measure in metric(name).measures]
    given = Counter(f"{m.name}{suffix}" for m in measures for suffix in ("", "_precision", "_recall", "_max"))
    twice = [m.name for m in measures if given[m.name] > 1]
    if twice:
        raise ConfigError(f"metrics: two of them have the score '{twice[0]}'. Rename a function")
    return measures


def primary_of(names: Sequence[str], chosen: str | None) -> str:
    """Return the measure that entries are ranked by: the chosen one, or that of the first metric.

    Raises ConfigError if no metric has it.
    """
    known = [measure.name for measure in measures(names) if not measure.corpus]
    if chosen is not None and chosen not in known:
        raise ConfigError(f"primary: no metric gives the score '{chosen}'.{did_you_mean(chosen, known)}")
    return chosen or metric(names[0]).primary


def value_of(score: Score) -> float:
    """Return the number by which a score is compared: its F if it has one."""
    return float(score["f"] if isinstance(score, Mapping) else score)


def signature(names: Sequence[str], several: bool) -> str:
    """Return how scores were computed, so that others can compare theirs; `several`: there were several references."""
    return " || ".join(metric(name).signature(several) for name in names)


def scoring(names: Sequence[str], primary: str | None, test: Sequence[Example]) -> dict[str, Any]:
    """Return what a plan says about scores; raise ConfigError if a name is unknown, or given twice."""
    return {
        "metrics": [asdict(measure) for measure in measures(names)],
        "primary": primary_of(names, primary),
        "score_signature": signature(names, any(example.references for example in test)),
    }


def rules(names: Sequence[str], test: Sequence[Example]) -> list[tuple[str, str]]:
    """Return what scores depend on besides outputs, for the scoring hash: names of metrics, rules and code.

    Each metric is tried on a reference first; raises BakeoffError if that fails. A function's code and a model's files
    count, but not their folders.
    """
    references = test[0].references or (test[0].summary,)
    score_outputs([*filter(is_plain, names)], references[:1], [references])

    def try_it(name: str) -> str:
        by = learned.tried if metric_model(name) else tried
        return by(name, references[0], references, columns_of(test[0]))

    return rules_by(names, test, try_it)


def current_rules(names: Sequence[str], test: Sequence[Example]) -> list[tuple[str, str]]:
    """Return the same as `rules`, from files as they are now, in a process that has scored with them."""
    return rules_by(names, test, lambda name: learned.identity(name) if metric_model(name) else code_identity(name))


def is_plain(name: str) -> bool:
    """Return whether a metric is neither a function of the user's nor has a model."""
    return not is_function(name) and metric_model(name) is None


def columns_of(example: Example) -> dict[str, Any]:
    """Return what a function of the user's gets as an output's row."""
    own = {"id": example.id, "document": example.document, "summary": example.summary, "group": example.group}
    return {**(example.columns or {}), **own}


def rules_by(names: Sequence[str], test: Sequence[Example], code: Callable[[str], str]) -> list[tuple[str, str]]:
    """Return `rules`; `code` returns the hash of a function's code, or of a model's files."""
    kept = test[0].columns is not None and any(map(is_function, names))
    of_columns = [("columns", hash_of([example.columns for example in test]))] if kept else []
    return of_columns + [
        (name, metric(name).rule) if is_plain(name) else (placeless(name), code(name)) for name in names
    ]


def placeless(name: str) -> str:
    """Return a metric's name without the folder of its code or model."""
    if by_model := metric_model(name):
        return by_model[0]
    return label_of(name) if name.rpartition(":")[0].endswith(".py") else name


def blind_spots(names: Sequence[str], test: Sequence[Example]) -> list[str]:
    """Return a finding for each metric that ignores much of the test references, from a sample of them."""
    every = max(1, len(test) // LOOKED_AT)
    texts = [test[i].summary for i in range(0, len(test), every)]
    lines = []
    for name in names:
        share = sum(metric(name).unseen(text) * len(text) for text in texts) / sum(map(len, texts))
        if share > UNSEEN:
            lines.append(
                f"metrics: {name}: {share:.0%} of the text in the test references is invisible to it: "
                f"{metric(name).blind}"
            )
    return lines
