"""Jinja for the chat templates that come with models: what transformers gives them, with every step counted.

A chat template is code from elsewhere. transformers' sandbox keeps it away from Python, but lets it run forever or fill
the memory. Here every value is charged by its size to an account with a limit per conversation, as in `sandbox.py`.
"""

import json
import re
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from datetime import date
from functools import lru_cache, wraps
from typing import Any

from bakeoff.config.sandbox import CHARACTERS, STEPS, TemplateError, TooMuchError, charge, counted, left

LARGEST = 10_000  # number that a template may give to a function, a filter or a width
MAX_SOURCE = 100_000  # characters of a chat template
MAX_TEXT = 10_000_000  # characters of a rendered conversation
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
SLOW = ("expandtabs", "translate")  # methods of texts that no template needs
# What a template's own errors, and errors of the operators and functions that it uses, raise.
NO_VALUE = (
    TypeError, ValueError, ArithmeticError, LookupError, AssertionError, AttributeError, NameError, RecursionError,
)  # fmt: skip
NO_TEMPLATE = (*NO_VALUE, SyntaxError, MemoryError)


class ChatTemplate:
    """A chat template that is rendered with limited steps. `asks_date` says whether it has asked for today's date."""

    def __init__(self, source: str, day: str):
        from jinja2 import TemplateError as JinjaError

        if len(source) > MAX_SOURCE:
            raise TemplateError(f"has {len(source):,} characters. Allowed: {MAX_SOURCE:,}")
        self.asks_date = False

        def strftime_now(form: str) -> str:
            self.asks_date = True
            check_widths(form)
            return date.fromisoformat(day).strftime(form)

        made = environment()
        try:
            self._template = made.from_string(all_charged(made.parse(source)))
        except (JinjaError, *NO_TEMPLATE) as error:
            raise TemplateError(f"not a template ({in_short(error)})") from None
        self._given = {"strftime_now": strftime_now}

    def render(self, messages: list[dict[str, Any]], values: Mapping[str, Any], generation_prompt: bool) -> str:
        """Return a conversation as text; raise TemplateError if the template refuses it or takes too many steps.

        `values` are special tokens and the config's `kwargs`.
        """
        from jinja2 import TemplateError as JinjaError

        given = {**self._given, **values, "messages": messages, "tools": None, "documents": None}
        parts, length = [], 0
        left.set([STEPS])
        try:
            for part in self._template.generate({**given, "add_generation_prompt": generation_prompt}):
                parts.append(part)
                length += len(part)
                if length > MAX_TEXT:
                    raise TooMuchError(f"makes a text of more than {MAX_TEXT:,} characters")
        except TooMuchError as error:
            raise TemplateError(str(error).partition(". Try: ")[0]) from None
        except (JinjaError, *NO_VALUE, MemoryError) as error:
            raise TemplateError(f"fails ({in_short(error)})") from None
        return "".join(parts)


def in_short(error: BaseException) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def charged(value: Any) -> Any:
    """Return a value of a step, after charging its size."""
    if isinstance(value, tuple):  # it may be a key, for which all that is in it is looked at
        return whole(value)
    if isinstance(value, str):
        charge(1 + len(value) // CHARACTERS)
    else:
        charge(1 + len(value) if isinstance(value, list | Mapping | range) else 1)
    return value


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
    from jinja2 import nodes

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


@lru_cache(maxsize=1)
def environment() -> Any:
    """Return the environment of all chat templates."""
    import jinja2
    from jinja2 import pass_eval_context
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %}, around an assistant's text, changes nothing in what is rendered."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's own way

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("inside"), [], [], body).set_lineno(line)

        def inside(self, caller: Any) -> Any:
            return caller()

    class Environment(ImmutableSandboxedEnvironment):
        """Charges what calls and operators make."""

        intercepted_binops = frozenset(("+", "*", "**", "%"))

        def call(self, context: Any, function: Any, /, *values: Any, **others: Any) -> Any:
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
            return "<Namespace>"  # all that is in it may be far more than its names

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
    made.tests = {name: careful(test, name) for name, test in made.tests.items()}
    made.globals = {name: made.globals[name] for name in GLOBALS}
    made.globals |= {"raise_exception": raise_exception, "namespace": Namespace}
    return made
