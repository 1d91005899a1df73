"""Reads CSV and TSV files row by row, and names the line of each row that it cannot read. Keeps one row in memory."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bakeoff.data.dialect import Dialect, dialect_of
from bakeoff.data.lines import LONGEST, TOO_LONG, Row, lines_of, refuse_wide
from bakeoff.data.streams import OTHER_ENCODING, Reading, ending_of, opened
from bakeoff.errors import DataError, no_utf8

NEVER_CLOSED = "Is a double quote opened and never closed?"
# By what the csv module says.
HINTS = {
    "unexpected end": NEVER_CLOSED,
    "field larger": NEVER_CLOSED,
    "new-line": "A carriage return alone does not end a line. Try: tr '\\r' '\\n' < OLD > NEW",
    "expected after": 'Put a text that contains a double quote in double quotes, and write the quote in it twice ("")',
}


def delimited_rows(path: Path, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file whose first row names the columns; every value is a text.

    The delimiter and the place of that first row are found from the file's own rows (`dialect_of`).
    """
    csv.field_size_limit(LONGEST)
    with opened(path, reading.encoding) as stream:
        refuse_wide(path, stream.read(200))
        stream.seek(0)
        dialect = dialect_of(stream, ending_of(path) == ".tsv")
        lines, above = DecodedLines(path, stream), dialect.skipped
        names: list[str] = []
        try:
            for cells in csv.reader(lines, strict=True, **dialect.format):
                held = lines.taken()
                if not cells:
                    continue
                if above:
                    above -= 1
                elif not names:
                    names = checked_names(path, held, cells)
                else:
                    yield delimited_row(Row(str(path), held.begins, {}), names, cells, dialect, held)
        except csv.Error as error:
            cure = next((cure for words, cure in HINTS.items() if words in str(error)), NEVER_CLOSED)
            raise DataError(f"{path}:{lines.held.begins}: not CSV ({error}). {cure}") from None


class Held(NamedTuple):
    """The lines of one row: the number of the first, why one is not UTF-8, and how many cells its tabs separate."""

    begins: int
    reason: str | None
    widths: list[int]


def checked_names(path: Path, held: Held, cells: list[str]) -> list[str]:
    """Return the names of a CSV's columns; raise DataError if they are not UTF-8, or two are the same."""
    twice = [name for name, count in Counter(cells).items() if count > 1 and name]
    reason = held.reason or (f"two columns are named '{twice[0]:.60}'. Rename one of them" if twice else None)
    if reason:
        raise DataError(f"{path}:{held.begins}: {reason}")
    return cells


def delimited_row(row: Row, names: list[str], cells: list[str], dialect: Dialect, held: Held) -> Row:
    """Return the row of a CSV's cells, with a fault if it cannot be used."""
    if held.reason:
        return row._replace(fault=("not UTF-8", held.reason))
    if len(cells) != len(names):
        fault = (
            f"{len(cells)} fields, but the header names {len(names)} columns. "
            f"Put texts that contain '{dialect.delimiter}' or a line break in double quotes"
        )
        return row._replace(fault=("wrong number of fields", fault))
    if dialect.delimiter == "\t" and len(held.widths) > 1 and set(held.widths) == {len(names)}:
        last = held.begins + len(held.widths) - 1
        fault = (
            f"double quotes join lines {held.begins} to {last} into one row, though each looks like a row. Try: JSONL"
        )
        return row._replace(fault=("several rows in quotes", fault))
    return row._replace(values=dict(zip(names, cells, strict=True)))


class DecodedLines:
    """A file's lines as text, without a byte order mark; `held` are those of the row that is being read."""

    def __init__(self, path: Path, stream: BinaryIO):
        self.path, self.stream, self.number = path, stream, 0
        self.held = Held(1, None, [])

    def taken(self) -> Held:
        """Return the lines of the row that was read last, and begin another row."""
        held, self.held = self.held, Held(self.number + 1, None, [])
        return held

    def __iter__(self) -> Iterator[str]:
        for content in lines_of(self.stream):
            self.number += 1
            begins, reason, widths = self.held
            if len(content) > LONGEST:
                raise DataError(f"{self.path}:{self.number}: a line {TOO_LONG}")
            try:
                text = content.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                reason = no_utf8(error, OTHER_ENCODING)
                text = content.decode("latin-1")  # so that the row ends where it ends; its text is not used
            widths.append(content.count(b"\t") + 1)
            self.held = Held(begins, reason, widths)
            yield text
