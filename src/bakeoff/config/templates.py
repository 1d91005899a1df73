"""Jinja templates over the columns of a row: the prompt around a document, and the target.

A template is in the user's own config, but a config may come from elsewhere. So a template calls nothing, loops only
over values of the row, and its computation is limited (`sandbox.py`). The document itself is not rendered, only its
place is kept, because only the document may be cut.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from math import inf
from typing import Any

from bakeoff.config.sandbox import FILTERS, STEPS, TemplateError, TooMuchError, counted, environment, left
from bakeoff.errors import did_you_mean

__all__ = ["RowTemplate", "TemplateError", "TooMuchError", "no_column", "prompt_template", "target_template"]
DOCUMENT, SUMMARY, ROW = "document", "summary", "row"
PLACE = "\x02\ue000document\ue000\x03"  # where the document goes
SHOWN = 20  # columns in a message
MAX_SOURCE = 10_000  # characters of a template
MAX_TEXT = 100_000  # characters that one row may be rendered to
ALLOWED = (
    "Template", "Output", "TemplateData", "Name", "Const", "Getattr", "Getitem", "Filter", "Test", "If", "CondExpr",
    "For", "Compare", "Operand", "And", "Or", "Not", "Concat", "Add", "Sub", "Neg", "Slice", "List", "Tuple", "Keyword",
)  # fmt: skip
# What Jinja raises over a template that is none, and what Python's own compiler does over one too large for it.
NO_TEMPLATE = (ValueError, SyntaxError, OverflowError, MemoryError)
# What the operators and filters of a template raise over values that are not for them.
NO_VALUE = (TypeError, ValueError, ArithmeticError, LookupError, AssertionError, AttributeError, RecursionError)


class RowTemplate:
    """A template that is rendered row by row. `names` are the names that it uses, `keys` the columns in row["..."]."""

    def __init__(self, source: str):
        self.source = source
        self.names, self.keys, self._template = compiled(source)

    @property
    def columns(self) -> frozenset[str]:
        """The columns that it uses."""
        return self.names | self.keys

    @property
    def constant(self) -> bool:
        """Whether the text around every document is the same."""
        return self.names <= {DOCUMENT} and not self.keys

    def text(self, values: Mapping[str, Any], **own: str) -> str:
        """Return the text for a row; `own` are names of texts that are not columns.

        Raises TemplateError if a column of the template is missing in the row, or is not text.
        """
        from jinja2 import TemplateError as JinjaError
        from jinja2 import UndefinedError

        if ROW in self.names and ROW not in values:
            raise TemplateError(f"no column '{ROW}'. Name one column of the row, as in {ROW}[\"its name\"]")
        given = {ROW: values, **values, **own}
        parts, length = [], 0
        left.set([STEPS])
        try:
            for part in self._template.generate(given):
                parts.append(part)
                length += len(part)
                if length > MAX_TEXT:
                    raise TemplateError(f"makes a text of more than {MAX_TEXT:,} characters")
        except UndefinedError as error:
            missing = [name for name in sorted(self.names) if name not in given]
            missing += [name for name in sorted(self.keys) if name not in values]
            if missing:
                raise TemplateError(no_column(missing[0], tuple(values))) from None
            raise TemplateError(str(error)) from None
        except (JinjaError, *NO_VALUE) as error:
            raise TemplateError(str(error) or type(error).__name__) from None
        return "".join(parts)

    def around(self, values: Mapping[str, Any]) -> tuple[str, str]:
        """Return the texts before and after a row's document; raise TemplateError as `text` does."""
        parts = self.text(values, **{DOCUMENT: PLACE}).split(PLACE)
        if len(parts) != 2:
            raise TemplateError(f"contains the document {len(parts) - 1} times, expected once")
        return parts[0], parts[1]


@lru_cache(maxsize=8)
def no_column(name: str, names: tuple[str, ...]) -> str:
    """Return in words that a column does not exist. Cached: every row asks, and looking for a similar name is slow."""
    known = get_close_matches(name, names, n=1) or [other[:60] for other in names[:SHOWN]]
    more = f" And {len(names) - SHOWN:,} more." if len(names) > SHOWN and len(known) > 1 else ""
    return f"no column '{name}'.{did_you_mean(name, known)}{more}"


@lru_cache(maxsize=32)
def prompt_template(source: str) -> RowTemplate:
    """Return the template of a prompt; raise TemplateError unless it has {{ document }} once, without filter."""
    template = RowTemplate(source)
    if places_of_document(source) != (1, 1):
        raise TemplateError(
            "must contain {{ document }} exactly once, without a filter or condition: it is the part that is cut"
        )
    return template


@lru_cache(maxsize=32)
def target_template(source: str) -> RowTemplate:
    """Return the template of a target; raise TemplateError if it uses no column."""
    template = RowTemplate(source)
    if not template.columns:
        raise TemplateError("uses no column, so every target would be the same")
    return template


def compiled(source: str) -> tuple[frozenset[str], frozenset[str], Any]:
    """Return the names that a template uses, the columns in its row["..."], and jinja2's template.

    Raises TemplateError if the template may not run.
    """
    from jinja2 import TemplateSyntaxError, meta, nodes
    from jinja2.sandbox import SecurityError

    if len(source) > MAX_SOURCE:
        raise TemplateError(f"has {len(source):,} characters. Allowed: {MAX_SOURCE:,}")
    try:
        tree = environment().parse(source)
        for node in tree.find_all(nodes.Node):
            kind = type(node).__name__
            if kind not in ALLOWED:
                raise TemplateError(f"{kind.lower()} is not allowed. Allowed: columns, filters, if and for")
            if kind == "Filter" and node.name not in FILTERS:
                raise TemplateError(f"unknown filter '{node.name}'.{did_you_mean(node.name, FILTERS)}")
            if kind == "Const" and node.value in (inf, -inf):
                raise TemplateError("contains a number that is too large")
        keys, bare = of_row(tree)
        names = frozenset(meta.find_undeclared_variables(tree)) - (frozenset() if bare else {ROW})
        return names, keys, environment().from_string(counted(tree))
    except (TemplateSyntaxError, SecurityError, *NO_TEMPLATE) as error:
        raise TemplateError(f"not a template ({error})") from None
    except RecursionError:
        raise TemplateError("not a template (nested too deep)") from None


def of_row(tree: Any) -> tuple[frozenset[str], bool]:
    """Return the columns in row["..."], for names that Jinja does not allow, and whether row is also used alone."""
    from jinja2 import nodes

    keys = [n.attr for n in tree.find_all(nodes.Getattr) if is_row(n.node)]
    others = [n.arg for n in tree.find_all(nodes.Getitem) if is_row(n.node)]
    keys += [arg.value for arg in others if isinstance(arg, nodes.Const) and isinstance(arg.value, str)]
    return frozenset(keys), len(keys) < sum(map(is_row, tree.find_all(nodes.Name)))


def is_row(node: Any) -> bool:
    """Return whether a part of a template is the name `row`, which means the whole row."""
    return getattr(node, "name", None) == ROW and type(node).__name__ == "Name"


def places_of_document(source: str) -> tuple[int, int]:
    """Return how often the document is named, and how often it is inserted unchanged."""
    from jinja2 import nodes

    tree = environment().parse(source)
    named = sum(name.name == DOCUMENT for name in tree.find_all(nodes.Name))
    bare = sum(
        isinstance(node, nodes.Name) and node.name == DOCUMENT
        for output in tree.find_all(nodes.Output)
        for node in output.nodes
    )
    return named, bare
