"""What a row's columns mean: its document, its target and references, an id, a group, and what the template takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bakeoff.data.examples import Example
from bakeoff.data.lines import Row
from bakeoff.data.templates import DOCUMENT, SUMMARY, RowTemplate, TemplateError
from bakeoff.errors import DataError, did_you_mean


class RowError(DataError):
    """A row cannot be used; `kind` is what is wrong, in few words, for counting."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Columns:
    """How a row becomes an example. `references` are the columns of its targets; each holds a text or a list of texts.

    `template` is the prompt's where it uses more of a row than the document; `target` makes the targets' texts.
    """

    document: str
    references: tuple[str, ...]
    id: str | None = None
    group: str | None = None
    template: RowTemplate | None = None
    target: RowTemplate | None = None

    def example(self, row: Row, beside: Row | None = None) -> Example:
        """Return the example in a row, its references in the row `beside` it; raise RowError where there is none."""
        for part in (row, beside):
            if part is not None and part.fault:
                raise RowError(part.fault[0], f"{part}: {part.fault[1]}")
        document = text_of(row, self.document)
        references = self.targets(row, beside or row)
        return Example(
            id=str(row.number) if self.id is None else label_of(row, self.id),
            document=document,
            summary=references[0],
            group="" if self.group is None else label_of(row, self.group),
            references=references if len(references) > 1 else (),
            around=self.around(row.values, str(row)),
        )

    def targets(self, row: Row, beside: Row) -> tuple[str, ...]:
        """Return a row's references, the first of which is trained on."""
        if self.target is None or SUMMARY in self.target.columns:
            texts = [text for column in self.references for text in texts_of(beside, column)]
        else:
            texts = [""]
        if self.target is None:
            return tuple(texts)
        return tuple(self._target(row, {**row.values, DOCUMENT: row.values[self.document], SUMMARY: t}) for t in texts)

    def _target(self, row: Row, values: Mapping[str, Any]) -> str:
        try:
            text = self.target.text(values) if self.target else ""
        except TemplateError as error:
            raise RowError("target", f"{row}: target: {error}") from None
        return checked(text, f"{row}: target")

    def around(self, values: Mapping[str, Any], where: str) -> tuple[str, str] | None:
        """Return the texts around a row's document, or None where they are the same for all rows."""
        if self.template is None:
            return None
        try:
            before, after = self.template.around(values)
        except TemplateError as error:
            raise RowError("template", f"{where}: template: {error}") from None
        checked(f"{before}{after}.", f"{where}: template")
        return before, after


def text_of(row: Row, column: str, keys: str = "data.document, summary or references") -> str:
    """Return a row's text; raise RowError where it is missing (`keys` may be set then), no text, or blank."""
    if column not in row.values:
        hint = did_you_mean(column, row.values)
        raise RowError(f"no column '{column}'", f"{row}: no column '{column}'.{hint} Set {keys}")
    return checked(row.values[column], f"{row}: column '{column}'")


def texts_of(row: Row, column: str) -> list[str]:
    """Return the texts of a column that holds one text or a list of them; raise RowError as `text_of` does."""
    values = row.values.get(column)
    if not isinstance(values, list):
        return [text_of(row, column)]
    if not values:
        raise RowError("empty", f"{row}: column '{column}' holds an empty list, expected one text or more")
    return [checked(value, f"{row}: column '{column}', item {i}") for i, value in enumerate(values, start=1)]


def label_of(row: Row, column: str) -> str:
    """Return what names a row or its group: a text or a whole number; raise RowError where it is neither."""
    value = row.values.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(row, column, "data.id or group")


def checked(value: Any, where: str) -> str:
    """Return a value that is a text, or raise RowError."""
    if not isinstance(value, str):
        raise RowError("no text", f"{where} holds {type(value).__name__}, expected text")
    if not value.strip():
        raise RowError("empty", f"{where} is empty. Remove the row, or fill it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(
            "half a surrogate pair", f"{where} holds half a surrogate pair, which is no text. Mend its \\u escapes"
        ) from None
    return value


def columns_of(
    document: str, references: str | Sequence[str], template: RowTemplate | None = None, **others: Any
) -> Columns:
    """Return the meaning of columns; a template that is the same text for every row is left out."""
    names = (references,) if isinstance(references, str) else tuple(references)
    return Columns(document, names, template=None if template is None or template.constant else template, **others)
