"""Guesses which columns of a file are document and summary, and which file is which split, by names and lengths."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from bakeoff.data.conversation_guess import guess_conversation
from bakeoff.data.folders import SPLITS, split_of, words_of
from bakeoff.data.formats import Table, stem_of
from bakeoff.errors import ConfigError, DataError, in_line, listed

# Words in a column's name, the surest first.
DOCUMENT = (
    "document", "article", "dialogue", "dialog", "source", "fulltext", "transcript", "conversation", "body", "text",
    "content", "passage", "input", "question", "prompt", "description", "review", "message", "email", "report",
)  # fmt: skip
SUMMARY = (
    "summary", "summaries", "highlights", "tldr", "target", "abstract", "headline", "gist", "recap", "title", "subject",
    "output", "answer", "response", "completion", "label", "sentiment", "intent", "category", "reference",
)  # fmt: skip
KEYS = {"id", "uid", "guid", "key", "no", "nr"}
# Words in the name of a column that says which rows depend on each other.
GROUPS = KEYS | {
    "group", "author", "user", "customer", "patient", "student", "speaker", "thread", "conversation", "session",
    "account", "family", "article", "document", "doc", "source", "url",
}  # fmt: skip
LABELS = {"label", "class", "sentiment", "intent", "category"}  # of columns whose texts may be digits
REFERENCES = {"reference", "ref", "gold", "human", "annotator"}
GROUPS_WANTED = 20  # different values in the first rows: fewer would be categories
EACH = 5  # rows of a label, on average
LIKE = 3.0  # times as long or as short as the summary
TEXT_SHARE = 0.9  # of a text column's values are texts


@dataclass(frozen=True)
class Guess:
    """The `data` section's columns, and the reasons, one line each; `target` makes texts of labels that are numbers."""

    columns: dict[str, Any]
    reasons: list[str]
    target: str | None = None


@dataclass(frozen=True)
class Look:
    """What the first rows show about a column of texts."""

    name: str
    length: float  # mean, in characters
    distinct: float  # share of values that stand once

    def rank(self, words: Sequence[str]) -> int | None:
        """Return the place of the first of `words` in the column's name, or None."""
        own = words_of(self.name)
        return next((i for i, word in enumerate(words) if word in own), None)


def splits_of(files: Sequence[Path]) -> dict[str, Path]:
    """Return the files by split, from their names; a single file is training data. Raises ConfigError if unclear."""
    if len(files) == 1:
        return {"train": files[0]}
    by_split: dict[str, Path] = {}
    for file in files:
        split = split_of(stem_of(file))
        if split is None or split in by_split:
            raise ConfigError(
                f"init: {file}: is it train, validation or test? Give one file, or files whose names contain these "
                f"words"
            )
        by_split[split] = file
    if "train" not in by_split:
        raise ConfigError(f"init: none of the {len(files)} files has 'train' in its name")
    return {split: by_split[split] for split in SPLITS if split in by_split}


def guess_columns(tables: Mapping[str, Table], where: str) -> Guess:
    """Return the columns, guessed from the first rows of each split's file.

    `where` names the file of training examples. Raises DataError if fewer than two columns contain texts.
    """
    table = tables["train"]
    talk = guess_conversation(table)
    if talk:
        labels, why_labels = labels_in(tables, [name for name in table.columns if name not in talk[0].values()])
        return Guess({**talk[0], **labels}, [talk[1], *why_labels])
    looks = [look for name in table.columns if (look := look_at(name, table.rows, bool(LABELS & {*words_of(name)})))]
    numbers = next((name for name in table.columns if numbers_labels(name, table.rows)), None)
    if looks and numbers is not None and all(look.rank(SUMMARY) is None for look in looks):
        return of_numbers(tables, choose(looks, DOCUMENT), numbers)
    if len(looks) < 2:
        there = listed(table.columns) or "none"
        raise DataError(
            f"{where}: a bakeoff needs two columns with texts, and this file has {len(looks)}. Its columns with "
            f"values: {there}. Try: a file whose first row names the columns, with one example in each row below"
        )
    document = choose(looks, DOCUMENT, avoid=SUMMARY)
    rest = [look for look in looks if look is not document]
    summary = choose(rest, SUMMARY, below=document.length)
    columns: dict[str, Any] = {"document": document.name, "summary": summary.name}
    reasons = [why("document", document, DOCUMENT), why("summary", summary, SUMMARY)]
    references = references_in(tables["test"], table, document, summary) if "test" in tables else []
    if references:
        columns["references"] = references
        reasons.append(
            f"references: {listed([*map(in_line, references)])}, which are like the summary in the test file"
        )
    others = [name for name in table.columns if name not in (document.name, summary.name, *references)]
    labels, why_labels = labels_in(tables, others)
    return Guess(columns | labels, reasons + why_labels)


def numbers_labels(name: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether a column contains labels that are numbers: it is called so, and few whole numbers are in it."""
    values = [row.get(name) for row in rows]
    whole = all(isinstance(value, int) for value in values)
    return bool(LABELS & {*words_of(name)}) and whole and 1 < len({*values}) <= len(values) / EACH


def of_numbers(tables: Mapping[str, Table], document: Look, labels: str) -> Guess:
    """Return the guess for labels that are numbers."""
    place = labels if labels.isidentifier() else f"row[{json.dumps(labels, ensure_ascii=False)}]"
    others = [name for name in tables["train"].columns if name not in (document.name, labels)]
    keys, why_keys = labels_in(tables, others)
    reasons = [
        why("document", document, DOCUMENT),
        f"target: {quoted(labels)}, whose numbers are labels. If they have names, write them: "
        f"\"{{{{ ['first', 'second'][{place}] }}}}\", and set labels",
    ]
    return Guess({"document": document.name, **keys}, reasons + why_keys, f"{{{{ {place} }}}}")


def labels_in(tables: Mapping[str, Table], others: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return which of the other columns name rows and groups, and the reasons."""
    columns: dict[str, Any] = {}
    reasons: list[str] = []
    key = next((name for name in others if KEYS & {*words_of(name)} and names_rows(name, tables.values())), None)
    if key is not None:
        columns["id"] = key
        reasons.append(f"id: {quoted(key)}, by its name, and because no value repeats in the first rows")
    shared = next((name for name in others if GROUPS & {*words_of(name)} and groups_rows(name, tables.values())), None)
    if shared is not None:
        columns["group"] = shared
        reasons.append(f"group: {quoted(shared)}, by its name, and because several rows have the same value")
    return columns, reasons


def look_at(name: str, rows: Sequence[dict[str, Any]], of_digits: bool = False) -> Look | None:
    """Return what a column of texts looks like; None if it does not contain texts, with letters or `of_digits`."""
    values = [row.get(name) for row in rows if row.get(name) not in (None, "")]
    firsts = [v[0] if isinstance(v, list) and v else v for v in values]
    texts = [text for text in firsts if isinstance(text, str) and (of_digits or re.search(r"[^\W\d_]", text))]
    if not texts or len(texts) < TEXT_SHARE * len(values):
        return None
    return Look(name, mean(len(text) for text in texts), len(set(texts)) / len(texts))


def choose(looks: Sequence[Look], words: Sequence[str], avoid: Sequence[str] = (), below: float = float("inf")) -> Look:
    """Return the column whose name has the surest word; without one, the longest of varied texts below a length."""
    named = [look for look in looks if look.rank(words) is not None]
    if named:
        return min(named, key=lambda look: (look.rank(words), -look.length))
    looks = [look for look in looks if look.rank(avoid) is None] or list(looks)
    return max(looks, key=lambda look: (look.length < below and look.distinct > 0.5, look.length))


def why(key: str, look: Look, words: Sequence[str]) -> str:
    """Return in words why a column was chosen."""
    by = "by its name" if look.rank(words) is not None else "by its length"
    return f"{key}: {quoted(look.name)}, {by} ({look.length:,.0f} characters on average)"


def quoted(name: str) -> str:
    """Return a column's name in quotes and on one line."""
    return f"'{name}'" if name.isprintable() else repr(name)


def references_in(test: Table, train: Table, document: Look, summary: Look) -> list[str]:
    """Return the columns of the test file that are like the summary in name and length, if there are several."""
    own = {summary.name, *(set(test.columns) - set(train.columns))}
    looks = [look for name in test.columns if name in own and (look := look_at(name, test.rows))]
    words = {*words_of(summary.name), *REFERENCES}
    alike = [
        look.name for look in looks
        if look.name != document.name and words & {*words_of(look.name)}
        and summary.length / LIKE < look.length < summary.length * LIKE
    ]  # fmt: skip
    return alike if len(alike) > 1 else []


def groups_rows(name: str, tables: Any) -> bool:
    """Return whether a column has a text or whole number in every row of every table, and many values stand twice."""
    values = [row.get(name) for table in tables for row in table.rows]
    if not all(isinstance(v, str | int) and v != "" for v in values):
        return False
    return GROUPS_WANTED <= len(set(values)) < len(values)


def names_rows(name: str, tables: Any) -> bool:
    """Return whether a column has a text or whole number in every row of every table, and no value twice in one."""
    for table in tables:
        values = [row.get(name) for row in table.rows]
        if not all(isinstance(v, str | int) and v != "" for v in values) or len(set(values)) < len(values):
            return False
    return True
