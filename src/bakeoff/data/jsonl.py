"""Examples in JSONL files. One pass checks every row and keeps where it stands; its texts stay on disk until asked for.

A row costs some 20 bytes of memory, whatever its length. This module knows files and columns, nothing of splits.
"""

import json
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

import numpy
from numpy.typing import NDArray

from bakeoff.data.examples import Example
from bakeoff.errors import DataError, did_you_mean

BLOCK = 1000  # rows whose places are Python numbers at a time


class Line(NamedTuple):
    """A line of a file that is not blank; `number` counts from 1, `place` is in bytes from the file's start."""

    path: Path
    number: int
    place: int
    content: bytes

    def row(self) -> dict[str, Any]:
        """Return the JSON object in the line."""
        try:
            row = json.loads(self.content.decode())
        except UnicodeDecodeError as error:
            raise DataError(f"{self}: not UTF-8 text ({error.reason}). Try: iconv -t UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self}: not JSON ({error}). Expected one JSON object a line") from None
        if not isinstance(row, dict):
            raise DataError(f"{self}: expected a JSON object, got {type(row).__name__}")
        return row

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"


@dataclass(frozen=True)
class Source:
    """Where a split's examples stand: a file, the column of its documents, and the columns of their references.

    A column holds a text or a list of texts. With `beside`, references are in that file, a row for each document.
    """

    path: Path
    document: str
    references: tuple[str, ...]
    beside: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read side by side."""
        return (self.path, self.beside) if self.beside else (self.path,)

    def example(self, lines: Sequence[Line]) -> Example:
        """Return the example in a line of each file; raise DataError where they hold none."""
        rows = [line.row() for line in lines]
        document = text_of(rows[0], self.document, lines[0])
        references = tuple(t for column in self.references for t in texts_of(rows[-1], column, lines[-1]))
        return Example(str(lines[0].number), document, references[0], "", references if len(references) > 1 else ())


def text_of(row: dict[str, Any], column: str, line: Line) -> str:
    """Return a row's text; raise DataError where it is missing, no text, or blank."""
    if column not in row:
        raise DataError(
            f"{line}: no column '{column}'.{did_you_mean(column, row)} Set data.document, summary or references"
        )
    return checked(row[column], f"{line}: column '{column}'")


def texts_of(row: dict[str, Any], column: str, line: Line) -> list[str]:
    """Return the texts of a column that holds one text or a list of them; raise DataError as `text_of` does."""
    values = row.get(column)
    if not isinstance(values, list):
        return [text_of(row, column, line)]
    if not values:
        raise DataError(f"{line}: column '{column}' holds an empty list, expected one text or more")
    return [checked(value, f"{line}: column '{column}', item {i}") for i, value in enumerate(values, start=1)]


def checked(value: Any, where: str) -> str:
    """Return a value that is a text, or raise DataError."""
    if not isinstance(value, str):
        raise DataError(f"{where} holds {type(value).__name__}, expected text")
    if not value.strip():
        raise DataError(f"{where} is empty. Remove the row, or fill it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where} holds half a surrogate pair, which is no text. Mend its \\u escapes") from None
    return value


class StoredExamples(Sequence[Example]):
    """Examples that are read from their files whenever they are asked for.

    `places` (rows, files) int64 are bytes from each file's start, `numbers` (rows,) the line numbers in the first
    file, `marks` (rows,) the examples' own. Reading raises DataError where a row is not what it was.
    """

    def __init__(
        self, source: Source, places: NDArray[numpy.int64], numbers: NDArray[numpy.int32], marks: NDArray[numpy.uint64]
    ):
        self.source, self.places, self.numbers, self.marks = source, places, numbers, marks

    def take(self, chosen: Any) -> "StoredExamples":
        """Return some of the examples: `chosen` is a slice or an array of indices."""
        return StoredExamples(self.source, self.places[chosen], self.numbers[chosen], self.marks[chosen])

    def __len__(self) -> int:
        return len(self.marks)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> "StoredExamples": ...

    def __getitem__(self, index: int | slice) -> "Example | StoredExamples":
        if isinstance(index, slice):
            return self.take(index)
        return next(iter(self.take([index])))

    def __iter__(self) -> Iterator[Example]:
        with opened(self.source.files) as streams:
            for start in range(0, len(self), BLOCK):
                part = slice(start, start + BLOCK)
                facts = zip(*(values[part].tolist() for values in (self.places, self.numbers, self.marks)), strict=True)
                for places, number, mark in facts:
                    yield self._read(streams, places, number, mark)

    def _read(self, streams: Sequence[BinaryIO], places: Sequence[int], number: int, mark: int) -> Example:
        lines = []
        for path, stream, place in zip(self.source.files, streams, places, strict=True):
            stream.seek(place)
            lines.append(Line(path, number, place, stream.readline()))
        try:
            example = self.source.example(lines)
        except DataError:
            example = None
        if example is None or example.mark != mark:
            raise DataError(f"{lines[0]}: changed while it was in use. Leave data files alone, and start again")
        return example


def index_examples(source: Source) -> StoredExamples:
    """Return a source's examples after one pass over its files; raise DataError at the first row that cannot be used.

    An example's id is its line number.
    """
    places, numbers, marks = array("q"), array("i"), array("Q")
    with opened(source.files) as streams:
        scans = [scan(path, stream) for path, stream in zip(source.files, streams, strict=True)]
        for lines in zip_longest(*scans):
            if None in lines:
                longer = next(line for line in lines if line)
                raise DataError(f"{longer}: {' and '.join(map(str, source.files))} differ in their number of rows")
            places.extend(line.place for line in lines)
            numbers.append(lines[0].number)
            marks.append(source.example(lines).mark)
    return StoredExamples(
        source,
        numpy.frombuffer(places, numpy.int64).reshape(-1, len(source.files)),
        numpy.frombuffer(numbers, numpy.int32),
        numpy.frombuffer(marks, numpy.uint64),
    )


def scan(path: Path, stream: BinaryIO) -> Iterator[Line]:
    """Yield the lines of a file that are not blank."""
    place = len(BOM_UTF8) if stream.read(len(BOM_UTF8)) == BOM_UTF8 else 0
    stream.seek(place)
    for number, content in enumerate(stream, start=1):
        if not content.isspace():
            yield Line(path, number, place, content)
        place += len(content)


@contextmanager
def opened(files: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Within, the files are open; raise DataError where one cannot be read."""
    path = files[0]
    try:
        with ExitStack() as stack:
            streams: list[BinaryIO] = []
            for path in files:
                streams.append(stack.enter_context(path.open("rb")))
            yield streams
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Paths are relative to the config file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder. Name a JSONL file in it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
