"""The predictions of many runs, read by column: a model of each row takes three times as long."""

from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from bakeoff.store.documents import LARGEST_SCORE, PartedScore, PredictionRow
from bakeoff.store.files import read_jsonl

Columns = dict[str, list[Any]]
PARTS = PartedScore.__annotations__.keys()


def read_columns(file: Path) -> Columns:
    """Return the values of predictions.jsonl by column, each in test order; empty if rows have different columns.

    Raises SetupError if there is no file, or a row is not as PredictionRow says.
    """
    columns = plain_columns([*read_jsonl(file, partial(from_json, allow_inf_nan=False), torn=False)])
    if columns is None:
        rows = [row.row() for row in read_jsonl(file, PredictionRow.model_validate_json, torn=False)]
        alike = all(row.keys() == rows[0].keys() for row in rows)
        columns = {name: [row[name] for row in rows] for name in rows[0]} if rows and alike else {}
    return columns


def plain_columns(rows: list[Any]) -> Columns | None:
    """Return rows by column if they have the same ones and hold beyond doubt what PredictionRow takes, else None."""
    names = rows[0].keys() if rows and type(rows[0]) is dict else set()
    if not {"id", "output"} <= names or ("loss" in names) != ("tokens" in names):
        return None
    if not all(type(row) is dict and row.keys() == names for row in rows):
        return None
    columns = {name: [row[name] for row in rows] for name in names}
    kinds = {"id": is_text, "output": is_text, "loss": is_number, "tokens": is_count}
    fits = all(all(map(kinds.get(name, is_score), column)) for name, column in columns.items())
    return columns if fits else None


def is_text(value: Any) -> bool:
    """Return whether a value is a text."""
    return type(value) is str


def is_count(value: Any) -> bool:
    """Return whether a value is a number of tokens."""
    return type(value) is int and 0 <= value < 2**62


def is_number(value: Any) -> bool:
    """Return whether a value is a number within the range of scores."""
    return type(value) in (float, int) and -LARGEST_SCORE <= value <= LARGEST_SCORE


def is_score(value: Any) -> bool:
    """Return whether a value is a number, or one with parts."""
    if type(value) is dict:
        return "f" in value and value.keys() <= PARTS and all(map(is_number, value.values()))
    return is_number(value)
