"""Jinja for templates, restricted: no calls, nothing computed before a row is given, and every step counted.

A template may come from elsewhere. So each value that it makes is charged, by its size, to an account with a limit per
row. Nested loops, texts that double, and filters whose results are much larger than their inputs all reach this limit.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import date, time
from decimal import Decimal
from functools import lru_cache, wraps
from typing import Any

from bakeoff.errors import BakeoffError

STEPS = 1_000_000  # of one row's text
CHARACTERS = 16  # that a step may make
DIGITS = 15  # that a number is rounded to
PLAIN = (
    "count", "d", "default", "first", "float", "int", "last", "length", "list", "reverse", "sort", "unique",
)  # fmt: skip
OF_TEXT = ("capitalize", "lower", "string", "title", "trim", "truncate", "upper", "wordcount")
FILTERS = tuple(sorted((*PLAIN, *OF_TEXT, "join", "replace", "round", "tojson")))
LOOP = {"index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem"}
left: ContextVar[list[int]] = ContextVar("left")  # steps of the row at hand


class TemplateError(BakeoffError):
    """A template cannot be used, or not for this row; the message says why, but not where."""


class TooMuchError(TemplateError):
    """A template needs more steps than allowed: it is not tried with another row."""


def charge(steps: int) -> None:
    """Take steps off the row's account; raise TooMuchError if it is empty."""
    account = left.get()
    account[0] -= steps
    if account[0] < 0:
        raise TooMuchError(f"takes more than {STEPS:,} steps for one row. Try: fewer loops and filters")


def charged(value: Any) -> Any:
    """Return a value of a step, after charging its size."""
    if isinstance(value, str):
        charge(1 + len(value) // CHARACTERS)
    else:
        charge(1 + len(value) if isinstance(value, list | tuple | Mapping) else 1)
    return value


def each(value: Any) -> Any:
    """Return the items of a loop, charging a step for each."""
    charge(len(value) if isinstance(value, str | list | tuple | Mapping) else 1)
    return value


def plain(value: Any) -> Any:
    """Return a text, number or date; raise TemplateError for other values."""
    from jinja2 import Undefined

    if isinstance(value, str | int | float | Decimal | date | time | Undefined):
        return value
    if value is None:
        raise TemplateError("a column is empty. Try: {{ column or '' }}")
    if isinstance(value, list | tuple | Iterator):
        raise TemplateError("a column contains a list, not text. Try: {{ column[0] }} or {{ column | join }}")
    if isinstance(value, Mapping):
        raise TemplateError("a column contains keys and values, not text. Try: {{ column.key }}")
    raise TemplateError(f"a column contains {type(value).__name__}, not text")


def text(value: Any) -> str:
    """Return a value as text, after charging it; raise TemplateError as `plain` does."""
    return charged(str(plain(value)))


def joined(environment: Any, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    """Return the texts of a list, with a separator between them."""
    from jinja2.filters import make_attrgetter

    if not isinstance(value, list | tuple | str | Mapping):
        plain(value)
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    texts, between = [text(item) for item in items], text(d)
    charge(len(between) * len(texts) // CHARACTERS)
    return between.join(texts)


def replaced(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Return a text in which one part is replaced by another."""
    value, old, new = text(value), text(old), text(new)
    charge(value.count(old) * max(0, len(new) - len(old)) // CHARACTERS)
    return value.replace(old, new, -1 if count is None else count)


def rounded(value: Any, precision: int = 0, method: str = "common") -> float:
    """Return a number rounded to so many digits."""
    from jinja2.filters import FILTERS as JINJAS

    if not -DIGITS <= precision <= DIGITS:
        raise TemplateError(f"rounds to {precision} digits. Allowed: up to {DIGITS}")
    return JINJAS["round"](value, precision, method)


def as_json(value: Any) -> str:
    """Return any value of a row as JSON on one line."""
    from jinja2 import Undefined

    if isinstance(value, Undefined):
        str(value)  # which raises
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=lambda inner: str(plain(inner)))


def checked(function: Any, of_text: bool) -> Any:
    """Return one of Jinja's filters, which accepts only texts (if `of_text`) and does not return iterators."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # which it is given before the template's own

    @wraps(function)
    def apply(*values: Any, **others: Any) -> Any:
        if of_text:
            for value in (*values[first:], *others.values()):
                plain(value)
        result = function(*values, **others)
        return list(result) if isinstance(result, Iterator) else result

    return apply


@lru_cache(maxsize=1)
def environment() -> Any:
    """Return the environment of all templates, which has only the filters above."""
    from jinja2 import StrictUndefined, Undefined, pass_environment, pass_eval_context
    from jinja2.filters import FILTERS as JINJAS
    from jinja2.runtime import LoopContext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        """Reaches the contents of data, but no attribute of the Python objects that hold them."""

        def getattr(self, obj: Any, attribute: str) -> Any:
            if isinstance(obj, LoopContext) and attribute in LOOP:
                return getattr(obj, attribute)
            return self.getitem(obj, attribute)

        def getitem(self, obj: Any, argument: Any) -> Any:
            if isinstance(obj, Undefined):
                return obj[argument]  # which raises
            inside = isinstance(argument, int) if isinstance(obj, str | list | tuple) else isinstance(obj, Mapping)
            try:
                return obj[argument] if inside else self.undefined(obj=obj, name=argument)
            except (LookupError, TypeError):
                return self.undefined(obj=obj, name=argument)

    made = Environment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        optimized=False,
        # depends on a context by its looks, so that Jinja computes nothing while it compiles
        finalize=pass_eval_context(lambda _, value: plain(value)),
    )
    made.globals.clear()
    made.filters = {name: checked(JINJAS[name], name in OF_TEXT) for name in (*PLAIN, *OF_TEXT)}
    made.filters |= {"join": pass_environment(joined), "replace": replaced, "round": rounded, "tojson": as_json}
    made.filters |= {"charged": charged, "each": each, "text": text}  # which no template may name
    return made


def counted(tree: Any) -> Any:
    """Return the tree of a template with a charge on every value."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    made = (
        nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Concat, nodes.Add, nodes.Sub, nodes.List,
        nodes.Tuple,
    )  # fmt: skip

    def through(node: Any, name: str) -> Any:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

    class Counting(NodeTransformer):
        def generic_visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
            node = super().generic_visit(node, *args, **kwargs)
            if isinstance(node, nodes.For):
                node.iter = through(node.iter, "each")
            elif isinstance(node, nodes.Concat):
                node.nodes = [through(part, "text") for part in node.nodes]
            loads = isinstance(node, made) and getattr(node, "ctx", "load") == "load"
            return through(node, "charged") if loads else node

    return Counting().visit(tree)
