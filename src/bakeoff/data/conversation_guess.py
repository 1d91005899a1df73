"""Guesses from the first rows of a file in which form they hold conversations, if they do."""

from collections.abc import Mapping, Sequence
from typing import Any

from bakeoff.data.conversations import parsed
from bakeoff.data.formats import Table

SHARE = 0.9  # of the rows
KEYS = {"messages": ("role", "content"), "conversations": ("from", "value")}
ALPACA = ("instruction", "output", "input")


def guess_conversation(table: Table) -> tuple[dict[str, str], str] | None:
    """Return the `data` section's columns with a conversation, and the reason; None if rows hold none."""
    found = {name: form for name in table.columns if (form := form_of(name, table.rows))}
    roles = [name for name, form in found.items() if form == "messages"]
    if {"prompt", "completion"} <= {*roles}:
        columns = {"prompt": "prompt", "completion": "completion"}
        return columns, "prompt and completion: lists of turns with role and content"
    for name, form in found.items():
        of_role, of_text = KEYS[form]
        return {form: name}, f"{form}: '{name}', whose values are lists of turns with {of_role} and {of_text}"
    if {"instruction", "output"} <= {*table.columns}:
        there = [name for name in ALPACA if name in table.columns]
        return {name: name for name in there}, f"{', '.join(there)}: columns in Alpaca's form, by their names"
    return None


def form_of(name: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return in which form of lists a column holds turns; None if it holds others."""
    values = [parsed(row[name]) for row in rows if row.get(name) not in (None, "")]
    for form, keys in KEYS.items():
        like = [v for v in values if isinstance(v, list) and v and all(is_turn(item, keys) for item in v)]
        if values and len(like) >= SHARE * len(values):
            return form
    return None


def is_turn(item: Any, keys: tuple[str, str]) -> bool:
    """Return whether an item of a list has the keys of a turn."""
    return isinstance(item, Mapping) and all(key in item for key in keys)
