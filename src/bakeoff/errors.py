"""Errors that a user can fix. Each message is one line: where, what, what is allowed, what to try."""

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
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
    "string_pattern_mismatch": "up to 64 letters (A to Z, a to z), digits, '.', '_' and '-', a letter or digit first",
}
LONGEST = 2_000  # letters of a message: where it begins and what to try stand at its ends
GOT = {dict: "keys and values", list: "a list", type(None): "nothing"}
KINDS = GOT | {bool: "true or false", int: "a number", float: "a number", str: "text"}


class BakeoffError(Exception):
    """An error that the user can fix; the command line prints it without a traceback and exits with 2.

    Its text is one line, whatever names and values are in it: unprintable characters are escaped, and the middle of a
    very long text is left out.
    """

    def __str__(self) -> str:
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class ConfigError(BakeoffError):
    """The YAML, an override or a command-line option is wrong."""


class DataError(BakeoffError):
    """A data file is missing, or a row in it cannot be used."""


class SetupError(BakeoffError):
    """The model, the run folder or the environment cannot be used."""


class DivergedError(BakeoffError):
    """A figure of a training is not finite any more."""


class MemberError(BakeoffError):
    """A process that shares a run has failed; `cause` is the kind of its reason, as records have it."""

    def __init__(self, reason: str, cause: Any):
        super().__init__(reason)
        self.cause = cause


LINES = "\n\t"  # what a text of several lines keeps; a file has "\r" before its line breaks, too
JOINERS = "\u200c\u200d"  # shown nowhere, and letters and emoji need them


def printable(text: Any, keep: str = "") -> str:
    """Return a text that a terminal shows but does not obey: unprintable characters except `keep` become escapes.

    Control characters, halves of a character, and marks of the direction of writing become escapes; spaces of every
    width stay. Every name, error and output that bakeoff prints passes through here.
    """
    if (whole := str(text)).isprintable():
        return whole
    return "".join(
        c if c.isprintable() or c in keep or c in JOINERS or unicodedata.category(c) == "Zs" else repr(c)[1:-1]
        for c in whole
    )


def printable_within(value: Any) -> Any:
    """Return JSON values with every text in them, also keys, made printable; line breaks and tabs stay."""
    if isinstance(value, str):
        return printable(value, f"{LINES}\r")
    if isinstance(value, dict):
        return {printable_within(key): printable_within(inner) for key, inner in value.items()}
    return [printable_within(inner) for inner in value] if isinstance(value, list) else value


def listed(names: Sequence[Any], most: int = 20) -> str:
    """Return names separated by commas; of many names the first ones, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(short if len(short := str(name)) <= 80 else f"{short[:77]}..." for name in names[:most]) + more


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" if a known word is close, in any case, else the known words (of many the first).

    Of words that are equally close it is the one of the same letters: a word with two of them exchanged is a slip.
    """
    names = sorted(known)
    if not names:
        return " There is none."
    small = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word[:200], names, n=5)
    close = close or [small[name] for name in difflib.get_close_matches(word[:200].lower(), small, n=5)]
    close.sort(key=lambda name: sorted(name.lower()) != sorted(word.lower()))
    return f" Did you mean '{close[0]}'?" if close else f" Allowed: {listed(names)}."


def plain(complaint: Mapping[str, Any]) -> str:
    """Return an error of pydantic in plain words: what was expected, and what was given."""
    value = complaint["input"]
    got = GOT.get(type(value)) or f"{value!r:.60}"
    if complaint["type"] in EXPECTED:
        quotes = complaint["type"] == "string_type" and type(value) not in GOT  # YAML's no, 2024, dates
        return f"expected {EXPECTED[complaint['type']]}, got {got}{'. Try: quotes around it' if quotes else ''}"
    if complaint["type"] == "too_short":
        return "expected one or more, got none"
    if complaint["type"] == "too_long":
        return f"expected at most {complaint['ctx']['max_length']}, got {complaint['ctx']['actual_length']}"
    text = complaint["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    said = f"got {got}" in text or (isinstance(value, str) and got in text)  # a text's quotes tell it from other words
    return text[:1].lower() + text[1:] + ("" if said or isinstance(value, dict | list) else f" (got {got})")


def kind_of(value: Any) -> str:
    """Return in plain words what kind of value a file contains."""
    return KINDS.get(type(value)) or type(value).__name__


ICONV = "Try: iconv -f CP1252 -t UTF-8 OLD > NEW, with the file's own encoding for CP1252"


def no_utf8(error: UnicodeDecodeError, cure: str = ICONV) -> str:
    """Return a message that a text is not UTF-8."""
    return f"not UTF-8 text ({error.reason}). {cure}"


def in_line(name: Any) -> str:
    """Return a name unchanged, or quoted if it would break the line."""
    return str(name) if str(name).isprintable() else repr(name)
