"""Pairs of entries, or of an entry and a baseline: their paired differences, and which of them are shown."""

from collections.abc import Sequence
from dataclasses import replace
from math import comb

from bakeoff.analysis.level import LEVEL
from bakeoff.analysis.multiplicity import holm, shaffer
from bakeoff.analysis.rounds import Estimates, Followed, Name, Rounds, adjusted, detectable, follow
from bakeoff.analysis.seeds import SeedSpread, pooled, with_floor
from bakeoff.analysis.statistics import Estimate
from bakeoff.store.results_document import Difference, Pair

LOSS = "test/loss"


def compare(names: Sequence[Name], estimates: Estimates, metric: str, rounds: Rounds | None = None) -> list[Pair]:
    """Return the paired differences first - second of each pair on `metric`, and on test loss if both have one.

    Each metric's pairs are one family: see `judged`. With seeds in `rounds`, values are those of the looks.
    """

    def judge(names: Sequence[Name], metric: str) -> list[Difference]:
        return judged_in_rounds(names, rounds, metric) if rounds else judged(names, estimates, metric)

    both = [(a, b) for a, b in names if (a, LOSS) in estimates and (b, LOSS) in estimates]
    losses = dict(zip(both, judge(both, LOSS), strict=True))
    return [
        Pair(first=a, second=b, **dict(pair), loss=losses.get((a, b)), state=rounds.state_of(a, b) if rounds else None)
        for (a, b), pair in zip(names, judge(names, metric), strict=True)
    ]


def judged_in_rounds(names: Sequence[Name], rounds: Rounds, metric: str) -> list[Difference]:
    """Return the paired differences on one metric, as of each pair's last common look, valid over all planned looks."""
    bound, found = rounds.bound, dict[Name, Followed]()
    for look in rounds.taken:
        found = follow(found, names, look, metric, bound)
    pairs = [found[name] for name in names]
    compared = {name for pair in names for name in pair}
    corrected_p = adjusted(pairs, len(compared) if len(names) == comb(len(compared), 2) else 0, bound)
    return [
        Difference(
            difference=pair.gap.value,
            low=pair.glances[-1].low,
            high=pair.glances[-1].high,
            at_most=pair.glances[-1].high,
            p=bound.p_value(pair.most),
            p_adjusted=p,
            different=p < 1 - LEVEL,
            detectable=detectable(pair, bound, len(names)),
            covers=pair.gap.covers,
            seeds=pair.seeds,
        )
        for pair, p in zip(pairs, corrected_p, strict=True)
    ]


def judged(names: Sequence[Name], estimates: Estimates, metric: str) -> list[Difference]:
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
    _, at_most = floored.interval(2 * LEVEL - 1) or (None, None)
    return Difference(
        difference=gap.value,
        low=low,
        high=high,
        at_most=at_most,
        p=floored.p_value(),
        p_adjusted=None,
        different=False,
        detectable=floored.detectable(comparisons),
        covers=gap.covers,
    )
