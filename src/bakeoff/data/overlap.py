"""Finds documents that are in two splits, word for word or nearly so.

The evaluation splits are small and are indexed; the training documents are streamed. The shingles of a document are its
runs of 10 characters, hashed; its sketch is the lowest of them. Two documents share about as large a part of their
sketches as of their shingles (bottom-k MinHash; Broder 1997, "On the resemblance and containment of documents").
Candidates from the sketches are then compared shingle by shingle, so chance finds nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy
from numpy.typing import NDArray

from bakeoff.data.examples import Example, hash_of_text

SHINGLE = 10  # characters
SKETCH = 32  # hashes
ALIKE = 0.8  # of the shingles of both together that both have
LOOKED_AT = 3  # candidates that are compared for one document
NEEDED, COMMON = 8, 20  # hashes that a candidate shares; sketches that a hash stands in before it counts for nothing
PAIRS = (("train", "test"), ("validation", "test"), ("train", "validation"))
BLOCK_ROWS, BLOCK_CHARACTERS = 500, 200_000  # of documents that are hashed together
TABLE_BITS = 22
SHOWN = 3  # pairs in a finding
Hashes = NDArray[numpy.uint64]
FACTOR = 0x9E3779B97F4A7C15


def hashes_of(texts: Sequence[str]) -> tuple[Hashes, NDArray[numpy.int64]]:
    """Return the hashes of all texts' runs of SHINGLE characters, and the text of each.

    Case and spacing do not count. A shorter text is one run.
    """
    plain = [" ".join(text.lower().split()).ljust(SHINGLE) for text in texts]
    codes = numpy.frombuffer("".join(plain).encode("utf-32-le"), numpy.uint32).astype(numpy.uint64)
    # Polynomials of runs of 2, 4 and 8 characters, each of two of the runs before; then of 8 and 2.
    two = joined(codes, codes, 1)
    four = joined(two, two, 2)
    hashes = joined(joined(four, four, 4), two, 8, beyond=2)
    hashes = (hashes ^ (hashes >> numpy.uint64(31))) * numpy.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> numpy.uint64(29)
    lengths = numpy.array([len(text) for text in plain])
    owners = numpy.repeat(numpy.arange(len(plain)), lengths)
    left = numpy.repeat(numpy.cumsum(lengths), lengths) - numpy.arange(len(codes))  # characters to the text's end
    whole = (left >= SHINGLE)[: len(hashes)]
    return hashes[whole], owners[: len(hashes)][whole]


def joined(first: Hashes, second: Hashes, length: int, beyond: int | None = None) -> Hashes:
    """Return the polynomials of runs of characters: one of `first` of a `length`, then one of `second`.

    The second is `beyond` long; by default it is as long as the first.
    """
    after = second[length:]
    return first[: len(after)] * numpy.uint64(pow(FACTOR, beyond or length, 2**64)) + after


def blocks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield the examples, some at a time."""
    block: list[Example] = []
    characters = 0
    for example in examples:
        block.append(example)
        characters += len(example.source)
        if len(block) == BLOCK_ROWS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def shingles(text: str) -> Hashes:
    """Return the hashes of a text's runs of SHINGLE characters, each once, the lowest first."""
    return numpy.unique(hashes_of([text])[0])


def likeness(first: Hashes, second: Hashes) -> float:
    """Return the share of two documents' shingles that both have (Jaccard), 0 to 1."""
    both = len(numpy.intersect1d(first, second, assume_unique=True))
    return both / (len(first) + len(second) - both)


class Index:
    """The documents of a split by their hashes and by their sketches."""

    def __init__(self, examples: Sequence[Example]):
        self.examples = examples
        self.same: dict[int, list[int]] = {}  # places by hash
        sketches = []
        for i, example in enumerate(examples):
            self.same.setdefault(hash_of_text(example.source.strip()), []).append(i)
            sketches.append(shingles(example.source)[:SKETCH])
        owners = numpy.repeat(numpy.arange(len(sketches)), [len(s) for s in sketches])
        hashes = numpy.concatenate(sketches)
        order = numpy.argsort(hashes, kind="stable")
        self.hashes, self.owners = hashes[order], owners[order]
        self.table = numpy.zeros(1 << TABLE_BITS, bool)  # a quick no for most hashes
        self.table[self.hashes & numpy.uint64(len(self.table) - 1)] = True

    def alike(self, texts: Sequence[str]) -> dict[int, list[int]]:
        """Return, for some texts, the places of the documents that share ALIKE of their shingles with them."""
        places_of: dict[int, list[int]] = {}
        looked = Counter[int]()
        for text, place in self._candidates(texts):
            looked[text] += 1
            if looked[text] <= LOOKED_AT:
                likely = likeness(shingles(self.examples[place].source), shingles(texts[text]))
                if likely >= ALIKE:
                    places_of.setdefault(text, []).append(place)
        return places_of

    def _candidates(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """Return pairs of a text and a document that shares a part of its sketch, the larger parts first.

        Hashes that occur in many sketches (a turn of phrase, a form) are ignored.
        """
        hashes, owners = hashes_of(texts)
        counts = numpy.bincount(owners, minlength=len(texts))
        short = counts < 2 * SKETCH
        # What a sketch of a long text can hold lies this low, with as much again to spare.
        low = numpy.where(short, 1.0, 2 * SKETCH / counts) * (2.0**64 - 2**12)
        kept = (hashes <= low.astype(numpy.uint64)[owners]) & self.table[hashes & numpy.uint64(len(self.table) - 1)]
        hashes, owners = hashes[kept], owners[kept]
        start, end = (numpy.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        width = numpy.where(end - start > max(COMMON, len(self.examples) // 100), 0, end - start)
        first = numpy.repeat(numpy.cumsum(width) - width, width)
        places = self.owners[numpy.repeat(start, width) + numpy.arange(len(first)) - first]
        pairs, shared = numpy.unique(numpy.repeat(owners, width) * len(self.examples) + places, return_counts=True)
        enough = shared >= numpy.where(short[pairs // len(self.examples)], 1, NEEDED)
        pairs, shared = pairs[enough], shared[enough]
        order = pairs[numpy.argsort(-shared, kind="stable")]
        return list(zip(*(part.tolist() for part in divmod(order, len(self.examples))), strict=True))


class Overlap:
    """The documents that are in two splits. `train` (examples,) says which training examples others contain, too."""

    def __init__(self, splits: Mapping[str, Sequence[Example]]):
        self.train = numpy.zeros(len(splits["train"]), bool)
        self.same = {pair: numpy.zeros(len(splits[pair[1]]), bool) for pair in PAIRS}
        self.alike = {pair: numpy.zeros(len(splits[pair[1]]), bool) for pair in PAIRS}
        self.shown: dict[tuple[str, str], list[str]] = {pair: [] for pair in PAIRS}
        indices = {split: Index(splits[split]) for split in ("test", "validation")}
        for first in ("train", "validation"):
            start = 0
            for block in blocks(splits[first]):
                for second in (second for one, second in PAIRS if one == first):
                    met = self._meet((first, second), block, indices[second])
                    if first == "train":
                        self.train[[start + i for i in met]] = True
                start += len(block)

    def _meet(self, pair: tuple[str, str], block: Sequence[Example], index: Index) -> set[int]:
        """Note which documents of the index a block's documents equal, or are like; return the places of those."""
        met = set()
        for i, example in enumerate(block):
            places = index.same.get(hash_of_text(example.source.strip()))
            if places:
                self.same[pair][places] = True
                met.add(i)
        for i, places in index.alike([example.source for example in block]).items():
            exact = index.same.get(hash_of_text(block[i].source.strip()), [])
            near = [place for place in places if place not in exact]
            self.alike[pair][near] = True
            if near:
                met.add(i)
                shown = self.shown[pair]
                shown += [f"{block[i].id} and {index.examples[near[0]].id}"] if len(shown) < SHOWN else []
        return met

    def findings(self, dropped: bool) -> list[str]:
        """Return one line for each two splits with the same documents, and one for those with similar documents."""
        lines = []
        for first, second in PAIRS:
            of_train = first == "train"
            cure = " Set data.shared_documents: drop, or remove them from train" if of_train and not dropped else ""
            same, alike, total = self.same[first, second], self.alike[first, second], len(self.same[first, second])
            if same.any():
                memory = ", so test scores show what was memorised, not what was learnt" if second == "test" else ""
                text = f"data: {of(int(same.sum()), total)} {second} documents are also in {first}"
                lines.append(text + (memory + "." + cure if of_train else ""))
            if alike.any():
                pairs = "; ".join(self.shown[first, second])
                lines.append(
                    f"data: {of(int(alike.sum()), total)} {second} documents are nearly the same as one in {first} "
                    f"(ids in {first} and {second}: {pairs}).{cure}"
                )
        return lines


def of(part: int, whole: int) -> str:
    """Return a count, the whole, and the share, as text."""
    return f"{part:,} of {whole:,} ({part / whole:.1%})"
