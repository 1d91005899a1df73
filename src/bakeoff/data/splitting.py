"""Which examples are in which split: shares for splits without a file, and samples for limits."""

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from bakeoff.data.examples import Example, hash_of_text
from bakeoff.data.stored import StoredExamples
from bakeoff.errors import DataError

TEXTS = 2**64


class FewError(DataError):
    """There are too few different documents or groups to split off a share."""


def split_off(examples: StoredExamples, shares: dict[str, float], group: str | None) -> dict[str, StoredExamples]:
    """Return the examples in parts: `train` and, for each name in `shares`, about that share of them.

    The hash of an example's group, or of its document if there are no groups, decides in which part it is. So no group
    or document is in two parts, and another order, or more examples, moves none. Raises DataError if a part is empty.
    """
    keys = (f"split\0{e.group if group else e.source.strip()}" for e in examples)
    places = numpy.fromiter((hash_of_text(key) for key in keys), numpy.uint64, len(examples)) / TEXTS
    parts, low = {}, 0.0
    for name, share in shares.items():
        inside = (places >= low) & (places < low + share)
        parts[name], low = examples.take(inside), low + share
    parts["train"] = examples.take(places >= low)
    empty = [name for name, part in parts.items() if not part]
    if empty:
        what = f"groups ('{group}')" if group else "documents"
        count = len(numpy.unique(places))
        larger = f", or raise data.{empty[0] if empty[0] in shares else 'test'}_share" if count >= len(parts) else ""
        raise FewError(
            f"data.{empty[0]}: too few different {what} ({count}) in {examples.store.name} to split off a share. "
            f"Name a file for it{larger}"
        )
    return parts


def limited(examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
    """Return at most `limit` examples in their order: those whose contents hash lowest."""
    if limit is None or limit >= len(examples):
        return examples
    return take(examples, numpy.sort(numpy.argsort(content_hashes(examples), kind="stable")[:limit]))


def content_hashes(examples: Sequence[Example]) -> NDArray[numpy.uint64]:
    """Return every example's content hash, (examples,)."""
    if isinstance(examples, StoredExamples):
        return examples.content_hashes
    return numpy.fromiter((e.content_hash for e in examples), numpy.uint64, len(examples))


def origins_of(examples: Sequence[Example]) -> NDArray[numpy.uint64]:
    """Return every example's origin, (examples,)."""
    if isinstance(examples, StoredExamples):
        return examples.origins
    return numpy.fromiter((e.origin for e in examples), numpy.uint64, len(examples))


def take(examples: Sequence[Example], chosen: NDArray[numpy.int64] | Sequence[int]) -> Sequence[Example]:
    """Return the examples at these indices."""
    return examples.take(chosen) if isinstance(examples, StoredExamples) else [examples[i] for i in chosen]
