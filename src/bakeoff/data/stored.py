"""Examples that stay on disk. One pass checks every row and stores where its example is; texts are read on demand.

A user's JSONL file is read in place. Rows of other formats are copied to a temporary file without a name, which the
system removes when the process ends. A row needs about 30 bytes of memory, whatever its length. This module does not
know splits.
"""

import json
import os
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, overload

import numpy
from numpy.typing import NDArray

from bakeoff.data.columns import RowError
from bakeoff.data.conversations import AnyColumns
from bakeoff.data.examples import Example
from bakeoff.data.formats import ALL, read_rows, stays_in_place
from bakeoff.data.lines import Row, json_row
from bakeoff.data.streams import Reading, opened
from bakeoff.errors import DataError
from bakeoff.store.scratch import room

BLOCK = 1000  # rows whose places are Python numbers at a time
SHOWN = 5  # line numbers of a kind of fault
HEAD = 8  # bytes before a copied example that say how many it has


@dataclass(frozen=True, eq=False)
class Store:
    """A file of examples: one of the user's with one example per line, or a copy. `name` is the user's file.

    `example` makes an example from a line's number and content.
    """

    name: str
    example: Callable[[int, bytes], Example]
    path: Path | None = None
    copy: BinaryIO | None = None

    @contextmanager
    def reading(self) -> Iterator[Callable[[int], bytes]]:
        """Open the content for reading at any place."""
        if self.copy is not None:
            descriptor = self.copy.fileno()
            yield lambda place: os.pread(
                descriptor, int.from_bytes(os.pread(descriptor, HEAD, place), "little"), place + HEAD
            )
            return
        with opened(self.path or Path(self.name)) as stream:

            def line(place: int) -> bytes:
                stream.seek(place)
                return stream.readline()

            yield line


class StoredExamples(Sequence[Example]):
    """Examples that are read from their file when they are needed.

    `places` (rows,) int64 are bytes from the file's start, `numbers` (rows,) the line numbers in the user's file,
    `content_hashes` and `origins` (rows,) those of the examples. Reading raises DataError if a row has changed.
    """

    def __init__(
        self,
        store: Store,
        places: NDArray[numpy.int64],
        numbers: NDArray[numpy.int32],
        content_hashes: NDArray[numpy.uint64],
        origins: NDArray[numpy.uint64],
    ):
        self.store, self.places, self.numbers = store, places, numbers
        self.content_hashes, self.origins = content_hashes, origins

    def take(self, chosen: Any) -> "StoredExamples":
        """Return some of the examples: `chosen` is a slice, or an array of indices or of truth values."""
        facts = (self.places, self.numbers, self.content_hashes, self.origins)
        return StoredExamples(self.store, *(values[chosen] for values in facts))

    def __len__(self) -> int:
        return len(self.content_hashes)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> "StoredExamples": ...

    def __getitem__(self, index: int | slice) -> "Example | StoredExamples":
        if isinstance(index, slice):
            return self.take(index)
        return next(iter(self.take([index])))

    def __iter__(self) -> Iterator[Example]:
        with self.store.reading() as read:
            for start in range(0, len(self), BLOCK):
                part = slice(start, start + BLOCK)
                facts = (values[part].tolist() for values in (self.places, self.numbers, self.content_hashes))
                for place, number, content_hash in zip(*facts, strict=True):
                    yield self._checked(number, read(place), content_hash)

    def _checked(self, number: int, content: bytes, content_hash: int) -> Example:
        try:
            example = self.store.example(number, content)
        except DataError:
            example = None
        if example is None or example.content_hash != content_hash:
            where = f"{self.store.name}:{number}"
            raise DataError(
                f"{where}: changed while it was in use. Try: bakeoff run again, without changing data files"
            )
        return example


def place_of(example: Example, examples: Iterable[Example]) -> str:
    """Return where an example stands: its file and line if it was read from a file, else its id."""
    if isinstance(examples, StoredExamples):
        found = next((i for i, other in enumerate(examples) if other == example), None)
        if found is not None:
            return f"{examples.store.name}:{examples.numbers[found]}"
    return f"example '{example.id}'"


@dataclass
class Refusals:
    """The rows of a file that cannot be used: how many of each kind, and where the first ones are."""

    rows: int = 0  # of all that were read
    first: RowError | None = None
    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: Row, error: RowError) -> None:
        """Count a row."""
        self.first = self.first or error
        self.counts[error.kind] = self.counts.get(error.kind, 0) + 1
        places = self.places.setdefault(error.kind, [])
        if len(places) < SHOWN:
            places.append(row.name)

    @property
    def total(self) -> int:
        """The number of rows."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        parts = []
        for kind, count in self.counts.items():
            places = ", ".join(self.places[kind])
            more = ", ..." if count > SHOWN else ""
            parts.append(f"{count:,} {kind} (at {places}{more})")
        return ", ".join(parts)


def store_files(
    paths: Sequence[Path], columns: AnyColumns, beside: Path | None = None, reading: Reading = ALL
) -> tuple[StoredExamples, Refusals]:
    """Return the examples in files of any format, and the rows that cannot be used.

    With `beside`, references are in that file, one row per row of the first. An example's id is its line number unless
    `columns` name one.
    """
    reading = replace(reading, columns=columns.names)
    rows = read_rows(paths, reading)
    name = str(paths[0] if len(paths) == 1 else paths[0].parent)
    if beside is None and len(paths) == 1 and stays_in_place(paths[0], reading.encoding):
        store = Store(name, lambda number, content: columns.example(json_row(name, number, content)), path=paths[0])
        return _index(store, ((row, None) for row in rows), columns)
    others = read_rows([beside], reading) if beside else None
    pairs = zip_longest(rows, others) if others else ((row, None) for row in rows)
    return store_rows(_even(pairs, name, beside), name, columns)


def _even(
    pairs: Iterable[tuple[Row | None, Row | None]], name: str, beside: Path | None
) -> Iterator[tuple[Row, Row | None]]:
    for row, other in pairs:
        if row is None or (beside and other is None):
            raise DataError(f"{row or other}: {name} and {beside} have different numbers of rows")
        yield row, other


def store_rows(
    rows: Iterable[tuple[Row, Row | None]], name: str, columns: AnyColumns
) -> tuple[StoredExamples, Refusals]:
    """Return the examples in rows from anywhere, copied to a temporary file, and the rows that cannot be used."""
    with room(f"{name}: a copy of its rows"):
        copy = TemporaryFile(prefix="bakeoff-data-")  # noqa: SIM115 - as long as there are its examples
        store = Store(name, lambda _, content: Example.from_row(json.loads(content)), copy=copy)
        weakref.finalize(store, discard, copy)
        index = _index(store, rows, columns)
        copy.flush()
        return index


def discard(copy: BinaryIO) -> None:
    """Close a copy that nobody needs any more, even if its disk is full."""
    with suppress(OSError):
        copy.close()


def _index(
    store: Store, rows: Iterable[tuple[Row, Row | None]], columns: AnyColumns
) -> tuple[StoredExamples, Refusals]:
    places, numbers, content_hashes, origins, refusals = array("q"), array("i"), array("Q"), array("Q"), Refusals()
    end = 0  # of the copy
    for row, beside in rows:
        refusals.rows += 1
        try:
            example = columns.example(row, beside)
        except RowError as error:
            refusals.add(row, error)
            continue
        places.append(end if store.copy else row.place)
        numbers.append(row.number)
        content_hashes.append(example.content_hash)
        origins.append(example.origin)
        if store.copy:
            content = json.dumps(example.row()).encode()
            end += store.copy.write(len(content).to_bytes(HEAD, "little") + content)
    examples = StoredExamples(
        store,
        numpy.frombuffer(places, numpy.int64),
        numpy.frombuffer(numbers, numpy.int32),
        numpy.frombuffer(content_hashes, numpy.uint64),
        numpy.frombuffer(origins, numpy.uint64),
    )
    return examples, refusals
