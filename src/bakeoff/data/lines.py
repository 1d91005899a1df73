"""Reads JSONL files row by row, and names the line of each row that it cannot read. Keeps one row in memory.

It uses the standard library, because then every error names its line, and every text stays unchanged.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bakeoff.data.streams import OTHER_ENCODING, Reading, opened
from bakeoff.errors import DataError, kind_of, no_utf8

LONGEST = 1 << 25  # bytes or characters of a row
TOO_LONG = f"longer than {LONGEST:,} bytes, so it is not a document"


class Row(NamedTuple):
    """A row of a file: its columns by name. `number` is the line where it begins; rows of a table are counted from 1.

    `item` counts the rows that begin on one line. `shard` is the file's name if a split has several files. `place` is
    where a line of JSONL begins, in bytes from the file's start. A row that cannot be read has a `fault`: what is wrong
    in few words, and in full.
    """

    file: str
    number: int
    values: dict[str, Any]
    place: int = 0
    unit: str = ""  # "row " where the file has no lines
    fault: tuple[str, str] | None = None
    item: int = 1
    shard: str = ""

    @property
    def name(self) -> str:
        """The name of the row if no column names it: its file, its line, and its number among the rows of that line."""
        shard = f"{self.shard}:" if self.shard else ""
        return f"{shard}{self.number}{f'.{self.item}' if self.item > 1 else ''}"

    def __str__(self) -> str:
        where = f"{self.file}: {self.unit}{self.number}" if self.unit else f"{self.file}:{self.number}"
        return f"{where} (item {self.item})" if self.item > 1 else where


def json_row(file: str, number: int, content: bytes, place: int = 0) -> Row:
    """Return the row in a line of JSONL."""
    try:
        values = json.loads(content.decode())
    except UnicodeDecodeError as error:
        return Row(file, number, {}, place, fault=("not UTF-8", no_utf8(error, OTHER_ENCODING)))
    except (ValueError, RecursionError) as error:
        return Row(
            file, number, {}, place, fault=("not JSON", f"not JSON ({error}). Expected one JSON object per line")
        )
    if not isinstance(values, dict):
        fault = ("no JSON object", f"expected a JSON object, got {kind_of(values)}")
        return Row(file, number, {}, place, fault=fault)
    return Row(file, number, values, place)


def jsonl_rows(path: Path, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object per line; blank lines are skipped."""
    with opened(path, reading.encoding) as stream:
        place = 0
        for number, content in enumerate(lines_of(stream), start=1):
            mark = 0
            if number == 1:
                mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
                refuse_wide(path, content)
            if len(content) > LONGEST:
                yield Row(str(path), number, {}, place, fault=("too long", TOO_LONG))
            elif content[mark:].strip():
                yield json_row(str(path), number, content[mark:], place + mark)
            place = stream.tell()


def lines_of(stream: BinaryIO) -> Iterator[bytes]:
    """Yield a file's lines; of a line longer than LONGEST, only the beginning, which is longer than LONGEST, too."""
    while content := stream.readline(LONGEST + 1):
        rest = content
        while len(rest) > LONGEST and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST + 1)
        yield content


def refuse_wide(path: Path, start: bytes) -> None:
    """Raise DataError if a file begins like text with two or four bytes per character."""
    if name := wide_name(start):
        raise DataError(f"{path}:1: not UTF-8 text, but {name}. Set data.encoding: {name.lower()}")


def wide_name(start: bytes) -> str:
    """Return the encoding of a text that begins like one with two or four bytes per character; empty if it does not."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    quarters = [set(start[first:200:4]) for first in range(4)]
    for name, (own, *others) in {"UTF-32LE": (0, 3, 2), "UTF-32BE": (3, 0, 1)}.items():
        if len(start) > 7 and 0 not in quarters[own] and all(quarters[other] == {0} for other in others):
            return name
    zeros = [sum(byte == 0 for byte in start[first:200:2]) for first in (0, 1)]
    name = "UTF-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
    if not name and max(zeros) > 0.9 * len(start[:200:2]) and not min(zeros):
        name = "UTF-16BE" if zeros[0] else "UTF-16LE"
    return name
