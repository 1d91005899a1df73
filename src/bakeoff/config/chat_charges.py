"""What a chat template's values cost: charged by their size before they are made, so that none fills the memory."""

import re
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any

from bakeoff.config import sandbox
from bakeoff.config.sandbox import CHARACTERS, TooMuchError, charge

LARGEST = 10_000  # number that a template may give to a function, a filter or a width


def in_short(error: BaseException) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def charged(value: Any) -> Any:
    """Return a value of a step, after charging its size."""
    if isinstance(value, tuple):  # it may be a key, for which all that is in it is looked at
        return whole(value)
    if isinstance(value, range):
        charge(len(value))
    return sandbox.charged(value)


def whole(value: Any) -> Any:
    """Return a value whose parts are all used, after charging each of them: a list may contain one list many times."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        charge(1 + len(part) // CHARACTERS if isinstance(part, str) else 1)
        if isinstance(part, Mapping):
            waiting += part.items()
        elif isinstance(part, list | tuple | ItemsView | KeysView | ValuesView):
            waiting += part
    return value


def charge_growth(name: str, value: Any, given: Sequence[Any]) -> None:
    """Charge for what a function will add to a value, by the arguments that it is `given`."""
    text, most = str(value), sum(given_size(each) for each in given)
    times = 0
    if name == "join":
        times = len(value) if hasattr(value, "__len__") else 1
    elif name == "replace":
        times = max((text.count(str(part)) for part in given), default=0)
    elif name in ("format", "format_map"):
        times = text.count("{") + text.count("%")
    elif name == "indent":
        times = 1 + text.count("\n")
    charge(times * most // CHARACTERS)


def given_size(value: Any) -> int:
    """Return how many characters a number asks for, or another value has."""
    return abs(value) if isinstance(value, int) else len(str(whole(value)))


def each(value: Any) -> Any:
    """Return the items of a loop, charging a step for each."""
    if isinstance(value, Iterator):
        items = []
        for item in value:
            charge(1)
            items.append(item)
        return items
    return charged(value)


def text(value: Any) -> str:
    """Return a value as Jinja writes it, after charging it."""
    return str(whole(value))


def check_arguments(values: Any) -> None:
    """Raise TooMuchError for a number by which a function could make a huge text."""
    for value in values:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise TooMuchError(f"gives the number {value:,} to a function. Allowed: up to {LARGEST:,}")


def check_widths(form: Any) -> None:
    """Raise TooMuchError for a format with a huge width."""
    if isinstance(form, str) and re.search(r"\d{5,}|\{[^{}]*\{", form):
        raise TooMuchError(f"formats with a width of more than {LARGEST:,}, or one that is given apart")
