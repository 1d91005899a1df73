"""Corrections of p values for their number: below 0.05 after one of them, they hold for all pairs at once."""

from collections.abc import Sequence
from functools import lru_cache
from math import comb

import numpy
from numpy.typing import ArrayLike


def holm(values: ArrayLike) -> list[float]:
    """Return adjusted p values (Holm 1979), for hypotheses that can be true in any number."""
    p = numpy.asarray(values, dtype=float)
    return stepped(p, range(len(p), 0, -1))


def shaffer(values: ArrayLike, entries: int) -> list[float]:
    """Return adjusted p values of all pairs of so many entries (Shaffer 1986, procedure S1).

    Means cannot be equal in any number of pairs: once one of three pairs differs, at most one of the others is equal.
    So each step multiplies by the largest number of pairs that may still be equal. Never larger than Holm's.
    """
    return stepped(numpy.asarray(values, dtype=float), most_equal(entries))


def stepped(p: ArrayLike, factors: Sequence[int]) -> list[float]:
    """Return p values times one factor each, the smallest first; none falls below the one before it."""
    values = numpy.asarray(p, dtype=float)
    order = numpy.argsort(values, kind="stable")
    adjusted = numpy.empty(len(values))
    adjusted[order] = numpy.minimum(1, numpy.maximum.accumulate(values[order] * numpy.asarray(factors)))
    return [float(value) for value in adjusted]


@lru_cache
def most_equal(entries: int) -> tuple[int, ...]:
    """Return the largest number of equal pairs among so many entries, after 0, 1, ... pairs are known to differ.

    Entries fall into groups of equal ones; j equal entries are j (j - 1) / 2 equal pairs. `possible[k]` has a bit for
    each number of equal pairs that k entries can have.
    """
    possible = [1]
    for k in range(1, entries + 1):
        bits = 0
        for group in range(1, k + 1):
            bits |= possible[k - group] << comb(group, 2)
        possible.append(bits)
    pairs = comb(entries, 2)
    largest = 0
    found = []
    for number in range(pairs + 1):
        largest = number if possible[entries] >> number & 1 else largest
        found.append(largest)
    return tuple(found[pairs:0:-1])
