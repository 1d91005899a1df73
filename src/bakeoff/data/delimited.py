"""CSV and TSV files row by row, with the line of whatever cannot be read. Nothing is held but a row."""

import codecs
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bakeoff.data.lines import Row, no_utf8, opened
from bakeoff.errors import DataError


def delimited_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file whose first row names the columns; every value is a text.

    A CSV's columns are parted by whichever of comma, semicolon and tab its first line has most of.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses a field of 131,072 characters
    with opened([path]) as (stream,):
        first = stream.readline()
        stream.seek(0)
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{path}: UTF-16, not UTF-8. Try: iconv -f UTF-16 -t UTF-8")
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=lambda c: first.count(c.encode()))
        lines = DecodedLines(stream)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        names: list[str] = []
        try:
            for cells in reader:
                begins, lines.begins = lines.begins, reader.line_num + 1
                reason, lines.reason = lines.reason, None
                if not names and cells:
                    names = checked_names(path, cells, reason)
                elif cells:
                    yield delimited_row(Row(str(path), begins, {}), names, cells, delimiter, reason)
        except csv.Error as error:
            hint = "Is a double quote opened and never closed?"
            raise DataError(f"{path}:{lines.begins}: not CSV ({error}). {hint}") from None


def checked_names(path: Path, cells: list[str], reason: str | None) -> list[str]:
    """Return the names of a CSV's columns; raise DataError where they are not UTF-8, or two are the same."""
    twice = [name for name in cells if cells.count(name) > 1]
    if twice and not reason:
        reason = f"two columns are named '{twice[0]}'. Rename one of them"
    if reason:
        raise DataError(f"{path}:1: {reason}")
    return cells


def delimited_row(row: Row, names: list[str], cells: list[str], delimiter: str, reason: str | None) -> Row:
    """Return the row of a CSV's cells, or with what is wrong with them; `reason`: why they are not UTF-8."""
    if reason:
        return row._replace(fault=("not UTF-8", reason))
    if len(cells) != len(names):
        fault = (
            f"{len(cells)} fields, but the first row names {len(names)} columns. "
            f"Put texts that hold '{delimiter}' or a line break in double quotes"
        )
        return row._replace(fault=("wrong number of fields", fault))
    return row._replace(values=dict(zip(names, cells, strict=True)))


class DecodedLines:
    """A file's lines as text, without a byte order mark. `begins` is the line that the row at hand began on, `reason`
    why a line of it is not UTF-8.
    """

    def __init__(self, stream: BinaryIO):
        self.stream, self.begins, self.first = stream, 1, True
        self.reason: str | None = None

    def __iter__(self) -> Iterator[str]:
        for content in self.stream:
            try:
                yield content.decode("utf-8-sig" if self.first else "utf-8")
            except UnicodeDecodeError as error:
                self.reason = no_utf8(error)
                yield content.decode("latin-1")  # so that the row ends where it ends; its text is not used
            self.first = False
