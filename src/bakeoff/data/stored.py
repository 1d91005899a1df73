"""Examples that stay on disk. One pass checks every row and keeps where its example stands; texts are read when asked
for. A JSONL file of the user's is read where it is; rows of any other format are copied as JSONL to a temporary folder,
which goes when nothing refers to its examples any more.

A row costs some 30 bytes of memory, whatever its length. This module knows nothing of splits.
"""

import json
import shutil
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, BinaryIO, overload

import numpy
from numpy.typing import NDArray

from bakeoff.data.columns import Columns, RowError
from bakeoff.data.examples import Example
from bakeoff.data.formats import read_rows, stays_in_place
from bakeoff.data.lines import Row, json_row, opened
from bakeoff.errors import DataError

BLOCK = 1000  # rows whose places are Python numbers at a time
SHOWN = 5  # line numbers of a kind of fault


@dataclass(frozen=True)
class Store:
    """A file with an example a line. `name` is the user's file, `example` makes one of a line's number and content."""

    path: Path
    name: str
    example: Callable[[int, bytes], Example]


class StoredExamples(Sequence[Example]):
    """Examples that are read from their file whenever they are asked for.

    `places` (rows,) int64 are bytes from the file's start, `numbers` (rows,) the line numbers in the user's file,
    `marks` and `origins` (rows,) the examples' own. Reading raises DataError where a row is not what it was.
    """

    def __init__(
        self,
        store: Store,
        places: NDArray[numpy.int64],
        numbers: NDArray[numpy.int32],
        marks: NDArray[numpy.uint64],
        origins: NDArray[numpy.uint64],
    ):
        self.store, self.places, self.numbers, self.marks, self.origins = store, places, numbers, marks, origins

    def take(self, chosen: Any) -> "StoredExamples":
        """Return some of the examples: `chosen` is a slice, or an array of indices or of truth values."""
        facts = (self.places, self.numbers, self.marks, self.origins)
        return StoredExamples(self.store, *(values[chosen] for values in facts))

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
        with opened([self.store.path]) as (stream,):
            for start in range(0, len(self), BLOCK):
                part = slice(start, start + BLOCK)
                facts = (values[part].tolist() for values in (self.places, self.numbers, self.marks))
                for place, number, mark in zip(*facts, strict=True):
                    yield self._read(stream, place, number, mark)

    def _read(self, stream: BinaryIO, place: int, number: int, mark: int) -> Example:
        stream.seek(place)
        try:
            example = self.store.example(number, stream.readline())
        except DataError:
            example = None
        if example is None or example.mark != mark:
            where = f"{self.store.name}:{number}"
            raise DataError(f"{where}: changed while it was in use. Leave data files alone, and start again")
        return example


@dataclass
class Refusals:
    """The rows of a file that cannot be used: how many of each kind, and where the first of them are."""

    rows: int = 0  # of all that were read
    first: RowError | None = None
    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[int]] = field(default_factory=dict)

    def add(self, row: Row, error: RowError) -> None:
        """Note a row."""
        self.first = self.first or error
        self.counts[error.kind] = self.counts.get(error.kind, 0) + 1
        places = self.places.setdefault(error.kind, [])
        if len(places) < SHOWN:
            places.append(row.number)

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        parts = []
        for kind, count in self.counts.items():
            places = ", ".join(map(str, self.places[kind]))
            more = ", ..." if count > SHOWN else ""
            parts.append(f"{count:,} {kind} (at {places}{more})")
        return ", ".join(parts)


def store_file(path: Path, columns: Columns, beside: Path | None = None) -> tuple[StoredExamples, Refusals]:
    """Return the examples in a file of any format, and what rows of it cannot be used.

    With `beside`, references are in that file, a row for each of the first. An example's id is its line number unless
    `columns` have one.
    """
    if beside is None and stays_in_place(path):
        name = str(path)
        store = Store(path, name, lambda number, content: columns.example(json_row(name, number, content)))
        return _index(store, ((row, None) for row in read_rows(path)), columns, None)
    pairs = zip_longest(read_rows(path), read_rows(beside)) if beside else ((row, None) for row in read_rows(path))
    return store_rows(_even(pairs, path, beside), str(path), columns)


def _even(
    pairs: Iterable[tuple[Row | None, Row | None]], path: Path, beside: Path | None
) -> Iterator[tuple[Row, Row | None]]:
    for row, other in pairs:
        if row is None or (beside and other is None):
            raise DataError(f"{row or other}: {path} and {beside} differ in their number of rows")
        yield row, other


def store_rows(rows: Iterable[tuple[Row, Row | None]], name: str, columns: Columns) -> tuple[StoredExamples, Refusals]:
    """Return the examples in rows from wherever, copied to a temporary folder, and what rows cannot be used."""
    folder = mkdtemp(prefix="bakeoff-data-")
    path = Path(folder) / "examples.jsonl"
    store = Store(path, name, lambda _, content: Example.from_row(json.loads(content)))
    weakref.finalize(store, shutil.rmtree, folder, ignore_errors=True)
    with path.open("wb") as copy:
        return _index(store, rows, columns, copy)


def _index(
    store: Store, rows: Iterable[tuple[Row, Row | None]], columns: Columns, copy: BinaryIO | None
) -> tuple[StoredExamples, Refusals]:
    places, numbers, marks, origins, refusals = array("q"), array("i"), array("Q"), array("Q"), Refusals()
    for row, beside in rows:
        refusals.rows += 1
        try:
            example = columns.example(row, beside)
        except RowError as error:
            refusals.add(row, error)
            continue
        places.append(copy.tell() if copy else row.place)
        numbers.append(row.number)
        marks.append(example.mark)
        origins.append(example.origin)
        if copy:
            copy.write(json.dumps(example.row()).encode() + b"\n")
    examples = StoredExamples(
        store,
        numpy.frombuffer(places, numpy.int64),
        numpy.frombuffer(numbers, numpy.int32),
        numpy.frombuffer(marks, numpy.uint64),
        numpy.frombuffer(origins, numpy.uint64),
    )
    return examples, refusals
