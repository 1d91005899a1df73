"""The names of metrics, baselines and labels in a config."""

import re
import unicodedata

from bakeoff.errors import did_you_mean

METRICS = (
    "rouge", "rouge_unicode", "exact_match", "exact_match_squad", "token_f1", "token_f1_squad", "chrf",
    "bleu", "bleu_zh", "bleu_ja_mecab", "bleu_ko_mecab", "bleu_intl", "bleu_char", "accuracy", "json",
)  # fmt: skip
# What a row of predictions, its example and a run's record hold beside scores.
RESERVED = (
    "id", "output", "loss", "tokens", "output_words", "output_tokens", "reference_words", "reference_tokens",
    "cut_documents", "shots", "document", "summary", "group", "references", "around", "columns", "turns",
)  # fmt: skip
LEARNED = re.compile(r"(bertscore|consistency)=(.*\S)")  # a metric by a model, and which one
FUNCTION = re.compile(r"(?:[A-Za-z_][\w.]*|.+\.py):[A-Za-z_]\w*")  # a metric that is Python code
BASELINES = ("base", "few-shot-2", "lead-1", "oracle")
MAJORITY = "majority"  # a baseline of labels alone
COUNTED = ("lead", "few-shot", "nearest")  # baselines whose name ends with a number
MANY_SHOT, INSTRUCTION = "many-shot", "instruction"  # prompted baselines without a number


def plain_name(text: str, most: int, others: str = "._-") -> str:
    """Return a name of at most `most` letters, digits and `others` for a text, such as a file's name; it may be empty.

    Letters lose their accents; every other character becomes a hyphen.
    """
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.sub(rf"[^A-Za-z0-9{others}]+", "-", letters).lstrip("._-")[:most].rstrip("-")


def is_function(name: str) -> bool:
    """Return whether a metric's name is that of a Python function."""
    return FUNCTION.fullmatch(name) is not None and metric_model(name) is None


def metric_model(name: str) -> tuple[str, str] | None:
    """Return kind and model of a metric by a model of its own; None for another metric."""
    found = LEARNED.fullmatch(name)
    return None if found is None else (found[1], found[2])


def checked_baselines(names: list[str]) -> list[str]:
    """Return the names of baselines; raise ValueError if one is unknown, base is missing, or a name is there twice."""
    fixed = ("base", "oracle", MAJORITY, MANY_SHOT, INSTRUCTION)
    numbered = rf"({'|'.join(COUNTED)})-[1-9]\d?"
    unknown = [name for name in names if name not in fixed and not re.fullmatch(numbered, name)]
    if unknown:
        number = re.search(r"-[1-9]\d?$", unknown[0])  # then the slip is elsewhere
        counted = [f"{name}{number[0]}" for name in COUNTED] if number else [*BASELINES, "nearest-4"]
        hint = did_you_mean(unknown[0], (*fixed, *counted))
        raise ValueError(
            f"unknown baseline '{unknown[0]}'.{hint} Allowed: base, few-shot-K, nearest-K, {MANY_SHOT}, {INSTRUCTION}, "
            f"lead-K, oracle and {MAJORITY}; K from 1 to 99"
        )
    if "base" not in names or len(set(names)) < len(names):
        raise ValueError("must include base, and no name twice")
    return names


def checked_metrics(names: list[str]) -> list[str]:
    """Return the names of metrics; raise ValueError if one is unknown or taken, or is there twice."""
    unknown = [name for name in names if not (name in METRICS or is_function(name) or metric_model(name))]
    if unknown:
        known = (*METRICS, "bertscore=MODEL", "consistency=MODEL")
        raise ValueError(
            f"unknown metric '{unknown[0]}'.{did_you_mean(unknown[0], known)} Or name a function as module:function"
        )
    taken = [name for name in names if is_function(name) and name.rpartition(":")[2] in RESERVED]
    if taken:
        raise ValueError(f"'{taken[0]}': the results use this name for something else. Rename the function")
    if len(set(names)) < len(names):
        raise ValueError("must not name a metric twice")
    return names


def checked_labels(labels: list[str]) -> list[str]:
    """Return the labels of a classification; raise ValueError if there are fewer than two, or two are alike."""
    alike = {" ".join(label.split()).casefold() for label in labels}
    if len(labels) < 2:
        raise ValueError("expected two or more")
    if len(alike) < len(labels) or "" in alike:
        raise ValueError("must be texts that differ in more than case and white space, and not be empty")
    return labels
