"""Pairs of entries, or of an entry and a baseline: their paired differences, and which of them are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import comb

from bakeoff.analysis.multiplicity import holm, shaffer
from bakeoff.analysis.statistics import LEVEL, Estimate, SeedSpread, pooled, with_floor
from bakeoff.store.results_document import Difference, Pair

LOSS = "test/loss"
Estimates = Mapping[tuple[str, str], Estimate]


def compare(names: Sequence[tuple[str, str]], estimates: Estimates, metric: str) -> list[Pair]:
    """Return the paired differences first - second of each pair on `metric`, and on test loss if both have one.

    Each metric's pairs are one family: see `judged`.
    """
    pairs = judged(names, estimates, metric)
    both = [(a, b) for a, b in names if (a, LOSS) in estimates and (b, LOSS) in estimates]
    losses = dict(zip(both, judged(both, estimates, LOSS), strict=True))
    found = zip(names, pairs, strict=True)
    return [Pair(first=a, second=b, **dict(pair), loss=losses.get((a, b))) for (a, b), pair in found]


def judged(names: Sequence[tuple[str, str]], estimates: Estimates, metric: str) -> list[Difference]:
    """Return the paired differences on one metric, with the floor of seed variance, corrected for their number.

    Shaffer's steps hold for all pairs of some entries alone; entries against baselines have Holm's.
    """
    compared = dict.fromkeys(name for pair in names for name in pair)
    pool = pooled([spread for name in compared for spread in estimates[name, metric].spreads])
    pairs = [difference(estimates[a, metric] - estimates[b, metric], pool, len(names)) for a, b in names]
    known = [1.0 if pair.p is None else pair.p for pair in pairs]
    every_two = len(names) == comb(len(compared), 2)
    adjusted = shaffer(known, len(compared)) if every_two else holm(known)
    return [
        pair if pair.p is None else corrected(pair, p_adjusted)
        for pair, p_adjusted in zip(pairs, adjusted, strict=True)
    ]


def corrected(pair: Difference, p_adjusted: float) -> Difference:
    """Return a difference with its p value after the correction for all pairs, and whether the two then differ."""
    return pair.model_copy(update={"p_adjusted": p_adjusted, "different": p_adjusted < 1 - LEVEL})


def difference(gap: Estimate, pool: SeedSpread, comparisons: int) -> Difference:
    """Return one paired difference, whose seed variance is at least the pooled one; None for one document."""
    floored = replace(gap, spreads=with_floor(gap.spreads, pool))
    low, high = floored.interval() or (None, None)
    return Difference(
        difference=gap.value,
        low=low,
        high=high,
        p=floored.p_value(),
        p_adjusted=None,
        different=False,
        detectable=floored.detectable(comparisons),
        covers=gap.covers,
    )
