"""Errors that a user can mend. Each message is one line: where, what, what is allowed, what to try."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

# What pydantic means by the kinds of its complaints.
EXPECTED = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "keys and values"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "text",
    "list_type": "a list",
    "byte_size": "a size, as in 8GB",
    "string_pattern_mismatch": "up to 64 letters, digits, '.', '_' and '-', a letter or digit first",
}
GOT = {dict: "keys and values", list: "a list", type(None): "nothing"}


class BakeoffError(Exception):
    """Something the user can mend; the command line prints it without a traceback and exits with 2.

    Its text is one line whatever names and values stand in it: what no terminal shows is written as an escape.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())


class ConfigError(BakeoffError):
    """The YAML, an override or a command-line option is wrong."""


class DataError(BakeoffError):
    """A data file is missing, or a row in it cannot be used."""


class SetupError(BakeoffError):
    """The model, the run folder or the environment is not as needed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" where a known word is close, else the list of known words."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Allowed: {', '.join(names)}."


def plain(complaint: Mapping[str, Any]) -> str:
    """Return one of pydantic's complaints in plain words: what was expected, and what there was instead."""
    value = complaint["input"]
    got = GOT.get(type(value)) or f"{value!r:.60}"
    if complaint["type"] in EXPECTED:
        return f"expected {EXPECTED[complaint['type']]}, got {got}"
    if complaint["type"] == "too_short":
        return "expected one or more, got none"
    text = complaint["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return text[:1].lower() + text[1:] + ("" if isinstance(value, dict | list) else f" (got {got})")


def in_line(name: Any) -> str:
    """Return a name as it stands, or quoted where it would break the line."""
    return str(name) if str(name).isprintable() else repr(name)
