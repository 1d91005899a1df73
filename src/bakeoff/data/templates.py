"""Jinja templates over a row's columns: what stands around a document, and what a target is made of.

A template comes from the user's own config, but a config may come from elsewhere: so it runs in jinja2's sandbox, calls
nothing, loops over nothing but what a row holds, and its text has an end. The document itself is not rendered: its
place is kept, because the document alone may be cut.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from bakeoff.errors import BakeoffError, did_you_mean

DOCUMENT, SUMMARY = "document", "summary"
PLACE = "\x02\ue000document\ue000\x03"  # where the document goes
MAX_SOURCE = 10_000  # characters of a template
MAX_TEXT = 100_000  # characters that one row may be rendered to
FILTERS = (
    "capitalize", "count", "d", "default", "first", "float", "int", "join", "last", "length", "list", "lower",
    "replace", "reverse", "round", "sort", "string", "title", "trim", "truncate", "unique", "upper",
    "wordcount",
)  # fmt: skip
ALLOWED = (
    "Template", "Output", "TemplateData", "Name", "Const", "Getattr", "Getitem", "Filter", "Test", "If", "CondExpr",
    "For", "Compare", "Operand", "And", "Or", "Not", "Concat", "Add", "Sub", "Neg", "Slice", "List", "Tuple", "Keyword",
)  # fmt: skip


class TemplateError(BakeoffError):
    """A template cannot be used, or not for this row; the message says why, not where."""


class RowTemplate:
    """A template that is rendered row by row. `columns` are the names that it uses."""

    def __init__(self, source: str):
        self.source = source
        self.columns, self._template = compiled(source)

    @property
    def constant(self) -> bool:
        """Whether it is the same text around every document."""
        return self.columns <= {DOCUMENT}

    def text(self, values: Mapping[str, Any]) -> str:
        """Return the text for a row; raise TemplateError where the row lacks a column or holds no text in it."""
        from jinja2 import TemplateError as JinjaError
        from jinja2 import UndefinedError

        parts, length = [], 0
        try:
            for part in self._template.generate(values):
                parts.append(part)
                length += len(part)
                if length > MAX_TEXT:
                    raise TemplateError(f"makes more than {MAX_TEXT:,} characters of it")
        except UndefinedError as error:
            missing = [name for name in self.columns if name not in values]
            if missing:
                raise TemplateError(f"no column '{missing[0]}'.{did_you_mean(missing[0], values)}") from None
            raise TemplateError(str(error)) from None
        except (JinjaError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise TemplateError(str(error) or type(error).__name__) from None
        return "".join(parts)

    def around(self, values: Mapping[str, Any]) -> tuple[str, str]:
        """Return the texts before and after a row's document; raise TemplateError as `text` does."""
        parts = self.text({**values, DOCUMENT: PLACE}).split(PLACE)
        if len(parts) != 2:
            raise TemplateError(f"has the document {len(parts) - 1} times, not once")
        return parts[0], parts[1]


@lru_cache(maxsize=32)
def prompt_template(source: str) -> RowTemplate:
    """Return the template of a prompt; raise TemplateError where {{ document }} does not stand in it once, bare."""
    template = RowTemplate(source)
    if places_of_document(source) != (1, 1):
        raise TemplateError(
            "must hold {{ document }} exactly once, with no filter or condition on it: it is the part that is cut"
        )
    return template


@lru_cache(maxsize=32)
def target_template(source: str) -> RowTemplate:
    """Return the template of a target; raise TemplateError where it uses no column."""
    template = RowTemplate(source)
    if not template.columns:
        raise TemplateError("uses no column, so every target would be the same")
    return template


def compiled(source: str) -> tuple[frozenset[str], Any]:
    """Return the names that a template uses, and jinja2's template; raise TemplateError where it may not run."""
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import SecurityError

    if len(source) > MAX_SOURCE:
        raise TemplateError(f"has {len(source):,} characters. Allowed: {MAX_SOURCE:,}")
    environment = sandbox()
    try:
        tree = environment.parse(source)
        for node in tree.find_all(nodes_class()):
            kind = type(node).__name__
            if kind not in ALLOWED:
                raise TemplateError(f"{kind.lower()} is not allowed. Allowed: columns, filters, if and for")
            if kind == "Filter" and node.name not in FILTERS:
                raise TemplateError(f"no filter '{node.name}'.{did_you_mean(node.name, FILTERS)}")
        return frozenset(meta.find_undeclared_variables(tree)), environment.from_string(source)
    except (TemplateSyntaxError, SecurityError) as error:
        raise TemplateError(f"not a template ({error})") from None
    except RecursionError:
        raise TemplateError("not a template (nested too deep)") from None


def places_of_document(source: str) -> tuple[int, int]:
    """Return how often the document is named, and how often it is put out as it is."""
    from jinja2 import nodes

    tree = sandbox().parse(source)
    named = sum(name.name == DOCUMENT for name in tree.find_all(nodes.Name))
    bare = sum(
        isinstance(node, nodes.Name) and node.name == DOCUMENT
        for output in tree.find_all(nodes.Output)
        for node in output.nodes
    )
    return named, bare


def nodes_class() -> Any:
    """Return the class of all of a template's parts."""
    from jinja2 import nodes

    return nodes.Node


@lru_cache(maxsize=1)
def sandbox() -> Any:
    """Return the environment of all templates: nothing in it but the filters above."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=plain)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    return environment


def plain(value: Any) -> Any:
    """Return what a template puts out; raise TemplateError for what would stand in the text as Python writes it."""
    from jinja2 import Undefined

    if isinstance(value, str | int | float | Undefined):
        return value
    if value is None:
        raise TemplateError("a column holds nothing. Try: {{ column or '' }}")
    if isinstance(value, list | tuple | dict | bytes | Iterator):
        kind = {dict: "keys and values", bytes: "bytes"}.get(type(value), "a list")
        raise TemplateError(f"a column holds {kind}, not text. Try: {{{{ column[0] }}}} or {{{{ column | join }}}}")
    return str(value)
