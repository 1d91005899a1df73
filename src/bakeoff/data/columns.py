"""The meaning of a row's columns: document, target, references, id, group, and the columns of the template."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bakeoff.config.templates import DOCUMENT, SUMMARY, RowTemplate, TemplateError, TooMuchError, no_column
from bakeoff.data.examples import Example
from bakeoff.data.lines import Row
from bakeoff.errors import DataError, kind_of

T = TypeVar("T")
LONG_NAME = 100  # characters: more than a column is called
NO_HEADER = ". Its first row, which names the columns, looks like data: is the row of column names missing?"


class RowError(DataError):
    """A row cannot be used; `kind` says why in few words, for counting."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Columns:
    """How a row becomes an example. `references` are the columns of its targets; each has a text or a list of texts.

    `template` is that of the prompt, if it uses more columns than the document; `target` makes the texts of the
    targets. `kept` are columns that stay with the example, for metrics.
    """

    document: str
    references: tuple[str, ...]
    id: str | None = None
    group: str | None = None
    template: RowTemplate | None = None
    target: RowTemplate | None = None
    kept: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The columns that are read from a row."""
        templates = [template.columns for template in (self.template, self.target) if template]
        own = {self.document, *self.references, *self.kept, self.id or self.document, self.group or self.document}
        return frozenset(own).union(*templates)

    def example(self, row: Row, beside: Row | None = None) -> Example:
        """Return the example in a row, with references from the row `beside` it; raise RowError if there is none."""
        for part in (row, beside):
            if part is not None and part.fault:
                raise RowError(part.fault[0], f"{part}: {part.fault[1]}")
        document = text_of(row, self.document)
        references = self.targets(row, beside or row)
        return Example(
            id=row.name if self.id is None else label_of(row, self.id),
            document=document,
            summary=references[0],
            group="" if self.group is None else label_of(row, self.group),
            references=references if len(references) > 1 else (),
            around=self.around(row.values, str(row)),
            columns={name: plain_value(value_of(row, name)) for name in self.kept} if self.kept else None,
        )

    def targets(self, row: Row, beside: Row) -> tuple[str, ...]:
        """Return a row's references; training uses the first."""
        if self.target is None or SUMMARY in self.target.columns:
            texts = [text for column in self.references for text in texts_of(beside, column)]
        else:
            texts = [""]
        if self.target is None:
            return tuple(texts)
        return tuple(self._target(row, self.target, text) for text in texts)

    def _target(self, row: Row, template: RowTemplate, summary: str) -> str:
        own = {DOCUMENT: row.values[self.document], SUMMARY: summary}
        text = rendered(lambda: template.text(row.values, **own), "target", str(row))
        return checked(text, f"{row}: target")

    def around(self, values: Mapping[str, Any], where: str) -> tuple[str, str] | None:
        """Return the texts around a row's document, or None if they are the same for all rows."""
        template = self.template
        if template is None:
            return None
        before, after = rendered(lambda: template.around(values), "template", where)
        checked(f"{before}{after}.", f"{where}: template")
        return before, after


def rendered(work: Callable[[], T], key: str, where: str) -> T:
    """Return a template's text for a row; raise RowError, or DataError if no other row need be tried."""
    try:
        return work()
    except TooMuchError as error:
        raise DataError(f"{where}: {key}: {error}") from None
    except TemplateError as error:
        raise RowError(key, f"{where}: {key}: {error}") from None


def text_of(row: Row, column: str, keys: str = "data.document, summary or references") -> str:
    """Return a row's text; raise RowError if it is missing, blank or not a text. `keys` are the settings to blame."""
    if column not in row.values:
        cure = f"Set {keys}{NO_HEADER if headless(row) else ''}"
        raise RowError(f"no column '{column}'", f"{row}: {no_column(column, tuple(row.values))} {cure}")
    return checked(row.values[column], f"{row}: column '{column}'")


def headless(row: Row) -> bool:
    """Return whether a CSV's first row looks like data: it contains a long text, or a number beside a text."""
    names = [name.strip() for name in row.values] if row.file.lower().endswith((".csv", ".tsv")) else []
    figures = [re.fullmatch(r"-?\d[\d.,]*", name) is not None for name in names if name]
    return any(len(name) > LONG_NAME for name in names) or (any(figures) and not all(figures))


def value_of(row: Row, column: str) -> Any:
    """Return any value of a row; raise RowError if the column is missing."""
    if column not in row.values:
        cure = f"{no_column(column, tuple(row.values))} Set data.metric_columns"
        raise RowError(f"no column '{column}'", f"{row}: {cure}")
    return row.values[column]


def plain_value(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite become null, dates and so on texts."""
    if isinstance(value, dict):
        return {plain_value(str(key)): plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int | None):
        return value
    return str(value).encode(errors="replace").decode()


def texts_of(row: Row, column: str) -> list[str]:
    """Return the texts of a column that contains one text or a list of them; raise RowError as `text_of` does."""
    values = row.values.get(column)
    if not isinstance(values, list):
        return [text_of(row, column)]
    if not values:
        raise RowError("empty", f"{row}: column '{column}' contains an empty list, expected one text or more")
    return [checked(value, f"{row}: column '{column}', item {i}") for i, value in enumerate(values, start=1)]


def label_of(row: Row, column: str) -> str:
    """Return the name of a row or its group, a text or whole number; raise RowError if it is neither."""
    value = row.values.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(row, column, "data.id or group")


def checked(value: Any, where: str) -> str:
    """Return a value that is a text, or raise RowError."""
    if not isinstance(value, str):
        raise RowError("no text", f"{where} contains {kind_of(value)}, expected text")
    if not value.strip():
        raise RowError("empty", f"{where} is empty. Remove the row, or fill it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(
            "half a surrogate pair", f"{where} contains half a surrogate pair, which is not text. Fix its \\u escapes"
        ) from None
    return value


def columns_of(
    document: str, references: str | Sequence[str], template: RowTemplate | None = None, **others: Any
) -> Columns:
    """Return the meaning of columns; a template whose text is the same for every row is left out."""
    names = (references,) if isinstance(references, str) else tuple(references)
    return Columns(document, names, template=None if template is None or template.constant else template, **others)
