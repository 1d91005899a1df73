"""The environment of all chat templates: what transformers' own has, with what calls and operators make charged."""

import json
from collections.abc import Mapping
from functools import lru_cache, wraps
from typing import Any

import jinja2
from jinja2 import nodes, pass_eval_context
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bakeoff.config.chat_charges import (
    charge_growth,
    charged,
    check_arguments,
    check_widths,
    each,
    in_short,
    text,
    whole,
)
from bakeoff.config.sandbox import TemplateError, TooMuchError, charge, counted

INDENT = 16  # spaces of a level of JSON
GLOBALS = ("cycler", "dict", "joiner", "range")
# Jinja's filters that look at no part of a part, and others. Not here is what makes another text each time, or what may
# take far longer than its texts are.
SHALLOW = (
    "attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr",
    "reverse", "select", "selectattr",
)  # fmt: skip
DEEP = (
    "abs", "capitalize", "center", "dictsort", "e", "escape", "float", "format", "indent", "int", "join", "lower",
    "max", "min", "replace", "round", "safe", "sort", "string", "title", "trim", "truncate", "unique", "upper",
)  # fmt: skip
# Tests by which a template could tell this environment from transformers' own, which has no limits, and loop there.
TELLING = ("filter", "test")
SLOW = ("expandtabs", "translate")  # methods of texts that no template needs


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return a value as JSON, as transformers' own filter does."""
    if (indent if isinstance(indent, int) else len(indent or "")) > INDENT:
        raise TooMuchError(f"indents JSON by more than {INDENT}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: Any) -> None:
    """Let a template refuse a conversation."""
    raise TemplateError(f"refuses the conversation ({in_short(Exception(message))})")


def lipsum(*_: Any, **__: Any) -> None:
    """Refuse to make another text each time; it exists, since transformers' own environment has it."""
    raise TemplateError("calls lipsum, which makes another text each time")


def careful(function: Any, name: str) -> Any:
    """Return one of Jinja's filters or tests, whose arguments are checked and charged, as is its result."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # which it is given before the template's own

    @wraps(function)  # and with it, what Jinja passes to it by itself
    def apply(*values: Any, **others: Any) -> Any:
        value, *given = [*values[first:], *others.values()]
        check_arguments(given)
        if name not in SHALLOW:
            whole([value, *given])
            charge_growth(name, value, given)
        if name == "format":
            check_widths(value)
        return each(function(*values, **others))

    return apply


def all_charged(tree: Any) -> Any:
    """Return the tree of a template that charges also what it compares, and the texts that a loop writes again."""

    def through(node: Any, name: str) -> Any:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

    for node in [*tree.find_all(nodes.Compare)]:
        node.expr = through(node.expr, "whole")
        for other in node.ops:
            other.expr = through(other.expr, "whole")
    for loop in tree.find_all(nodes.For):
        for output in loop.find_all(nodes.Output):
            output.nodes = [
                through(nodes.Const(n.data, lineno=n.lineno), "charged") if isinstance(n, nodes.TemplateData) else n
                for n in output.nodes
            ]
    return counted(tree)


class Generation(Extension):
    """{% generation %}, around an assistant's text, changes nothing in what is rendered."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way

    def parse(self, parser: Any) -> Any:
        """Return the tag's node, which calls `inside`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("inside"), [], [], body).set_lineno(line)

    def inside(self, caller: Any) -> Any:
        """Return what is between the tags."""
        return caller()


class Environment(ImmutableSandboxedEnvironment):
    """Charges what calls and operators make."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def call(self, context: Any, function: Any, /, *values: Any, **others: Any) -> Any:
        """Call a function; raise TooMuchError if its arguments, or what it makes of them, are too large."""
        check_arguments(value for value in (*values, *others.values()) if not isinstance(value, bool))
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        if isinstance(owner, str | list | tuple | Mapping):
            name, given = function.__name__, [*values, *others.values()]
            if name in SLOW:
                raise TooMuchError(f"calls {name}, which may make a huge text")
            whole([owner if isinstance(owner, str) or name in ("count", "index") else "", *given])
            if name == "join" and given:
                charge_growth(name, given[0], [owner])
            else:
                charge_growth(name, owner if isinstance(owner, str) else "", given)
            if name in ("format", "format_map"):
                check_widths(owner)
        return charged(super().call(context, function, *values, **others))

    def call_binop(self, context: Any, operator: str, one: Any, other: Any) -> Any:
        """Apply an operator; raise TooMuchError if its result is too large."""
        sizes = [len(part) for part in (one, other) if isinstance(part, str | list | tuple)]
        if operator == "*":
            counts = [abs(part) for part in (one, other) if isinstance(part, int)]
            charge(sum(sizes) * sum(counts) if sizes and counts else 1)
        if operator in ("*", "**") and not sizes:
            check_arguments((one, other))
        if operator == "**" and isinstance(other, int) and abs(other) > 100:
            raise TooMuchError(f"raises a number to the power {other}. Allowed: up to 100")
        if operator == "%" and isinstance(one, str):
            check_widths(one)
            check_arguments(other if isinstance(other, tuple) else (other,))
            charge_growth("format", one, [whole(other)])
        return charged(super().call_binop(context, operator, one, other))


class Namespace(jinja2.utils.Namespace):
    """Holds no names that Python keeps for itself."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateError(f"sets '{name}' on a namespace. Allowed: names without an underscore in front")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        raise TemplateError("writes a namespace")  # all that is in it may be far more than its names


@lru_cache(maxsize=1)
def environment() -> Any:
    """Return the environment of all chat templates."""
    made = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], optimized=False,
        finalize=pass_eval_context(lambda _, value: whole(value)),  # with a context nothing is computed beforehand
    )  # fmt: skip
    made.filters = {name: careful(made.filters[name], name) for name in (*SHALLOW, *DEEP)}
    made.filters |= {
        "tojson": careful(tojson, "tojson"),
        "charged": charged,
        "each": each,
        "text": text,
        "whole": whole,
    }
    made.tests = {name: careful(test, name) for name, test in made.tests.items() if name not in TELLING}
    made.globals = {name: made.globals[name] for name in GLOBALS}
    made.globals |= {"raise_exception": raise_exception, "namespace": Namespace, "lipsum": lipsum}
    return made
