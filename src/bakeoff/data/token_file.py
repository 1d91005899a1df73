"""A split's token ids in a file: written as they are made, read by row."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, overload

import numpy
from numpy.typing import NDArray

from bakeoff.data.examples import Example
from bakeoff.data.tokens import Ints, Lengths, Tokens
from bakeoff.errors import SetupError
from bakeoff.store.files import replacing
from bakeoff.store.run_folder import Folder

FACTS = 6  # numbers of a row beside its ids
FORM = 2  # of the file: what another form holds is made again


def lengths_of(rows: Iterable[Tokens]) -> Lengths:
    """Return the lengths of rows; go through the rows only if the lengths are not stored."""
    if isinstance(rows, StoredTokens):
        return rows.lengths
    facts = array("i")
    for row in rows:
        facts.extend(_facts(row))
    return _lengths(facts)


def _facts(row: Tokens) -> tuple[int, ...]:
    return len(row.prompt), len(row.target), row.cut, row.head, row.tail, sum(end - start for start, end in row.gaps)


def _lengths(facts: Any) -> Lengths:
    return Lengths(*numpy.frombuffer(facts, numpy.int32).reshape(-1, FACTS).T)


def save_tokens(path: Path, rows: Iterable[Tokens]) -> None:
    """Write rows as they come; `load_tokens` reads them.

    The file has int32: prompt and target of every row, then for every row the number of tokens of its parts; and last,
    in eight bytes, the number of rows. An id that is in a gap of its target is stored as -1 minus the id.
    """
    facts = array("i")
    with replacing(path, "wb") as file:
        for row in rows:
            try:
                ids = array("i", row.prompt + row.target)
                for start, end in row.gaps:
                    for place in range(len(row.prompt) + start, len(row.prompt) + end):
                        ids[place] = ~ids[place]
                file.write(ids)
            except OverflowError:
                largest = max(row.prompt + row.target)
                raise SetupError(
                    f"the model's tokenizer gives the id {largest}, which is too large. Try: a whole model folder"
                ) from None
            facts.extend(_facts(row))
        file.write(facts)
        file.write(array("q", [len(facts) // FACTS]))


def tested(folder: Folder, limit: int | None) -> tuple[list[Example], list[Tokens]]:
    """Return the first `limit` test examples of a bakeoff, by default all, and their ids."""
    rows = [*load_tokens(folder.tokens_file("test"))[:limit]]
    return [Example.from_row(e.row()) for e, _ in zip(folder.examples("test"), rows, strict=False)], rows


def load_tokens(path: Path) -> "StoredTokens":
    """Return the rows that `save_tokens` wrote; raise SetupError if the file is incomplete."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        last = file.read()
        rows = int(numpy.frombuffer(last, numpy.int64)[0]) if len(last) == 8 else -1
        start = size - 8 - 4 * FACTS * rows
        if rows >= 0 and start >= 0:
            file.seek(start)
            lengths = _lengths(file.read(4 * FACTS * rows))
            ends = 4 * numpy.cumsum(lengths.totals, dtype=numpy.int64)
            if start == (ends[-1] if rows else 0):
                return StoredTokens(path, ends - 4 * lengths.totals, lengths)
    raise SetupError(f"{path}: not a complete file of tokens. Try: remove the run folder, and run again")


def gaps_in(target: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the spans of a target's ids that are stored as given ones."""
    runs, place = [], 0
    for given, group in groupby(target, key=lambda i: i < 0):
        length = len(list(group))
        if given:
            runs.append((place, place + length))
        place += length
    return tuple(runs)


class StoredTokens(Sequence[Tokens]):
    """A split's rows, which are read from their file when they are needed; `places` (rows,) are in bytes.

    The file is read and not mapped: mapped pages would count as this process's memory.
    """

    def __init__(self, path: Path, places: NDArray[numpy.int64], lengths: Lengths):
        self.path, self.places, self.lengths = path, places, lengths

    def __len__(self) -> int:
        return len(self.places)

    def blocks(self, size: int) -> Iterator[tuple[Ints, Lengths]]:
        """Yield the ids of `size` rows at a time, one after the other, with the rows' lengths, for a whole split."""
        with self.path.open("rb") as file:
            for start in range(0, len(self), size):
                part = self.lengths.take(slice(start, start + size))
                yield numpy.frombuffer(file.read(4 * int(part.totals.sum())), numpy.int32), part

    @overload
    def __getitem__(self, index: int) -> Tokens: ...

    @overload
    def __getitem__(self, index: slice) -> "StoredTokens": ...

    def __getitem__(self, index: int | slice) -> "Tokens | StoredTokens":
        lengths = self.lengths
        if isinstance(index, slice):
            return StoredTokens(self.path, self.places[index], lengths.take(index))
        prompt, total = int(lengths.prompts[index]), int(lengths.prompts[index] + lengths.targets[index])
        file = os.open(self.path, os.O_RDONLY)
        try:
            content = os.pread(file, 4 * total, int(self.places[index]))
        finally:
            os.close(file)
        ids = array("i", content).tolist()
        if len(ids) < total:
            raise SetupError(f"{self.path}: cut short while it was in use. Try: remove the run folder, and run again")
        cut, head, tail = (int(values[index]) for values in (lengths.cut, lengths.heads, lengths.tails))
        target = ids[prompt:]
        gaps = gaps_in(target) if lengths.gaps[index] else ()
        return Tokens(ids[:prompt], [~i if i < 0 else i for i in target] if gaps else target, cut, head, tail, gaps)
