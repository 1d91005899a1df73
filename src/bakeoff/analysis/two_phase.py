"""How often people prefer one entry's outputs: from few people's labels, and a judge's on all documents. No torch.

Everything is in net wins, from -1 to 1: wins minus losses of the first entry, over all comparisons. The judge makes
the estimate more precise as far as it agrees with the people, and cannot shift it: what it says on the labelled
documents is taken off again (two-phase sampling with a fitted regression; simulated in docs/verdict.md).
"""

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from bakeoff.analysis.level import LEVEL
from bakeoff.analysis.seeds import SeedSpread
from bakeoff.analysis.statistics import POWER

Array = NDArray[numpy.float64]
FEWEST = 3  # labels, below which there is no interval
JOINED = 20  # labels, below which a judge is not joined: its fitted weight would make the interval too narrow


@dataclass(frozen=True)
class NetWins:
    """Net wins with their 95 % interval and p value of zero (None where they cannot be known).

    `weight` is the fitted factor of the judge, `correlation` how it goes with people's labels. `variance` is that of
    one label, without what the judge explains.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    weight: float = 0.0
    correlation: float | None = None
    variance: float = 0.0


def from_people(labels: Array, judged: Array | None = None, everywhere: Array | None = None) -> NetWins:
    """Return the net wins by people.

    `labels` are of documents drawn at random, (labelled,), each a mean over its votes. `judged` are the judge's on the
    same outputs, (labelled,), and `everywhere` on all documents with every seed, (documents, seeds).
    """
    count, value = len(labels), float(labels.mean())
    if count < FEWEST:
        return NetWins(value, None, None, None)
    if numpy.ptp(labels) == 0:
        return of_equal(value, count)
    weight, correlation, left = 0.0, None, labels - value
    shift, further, spread = 0.0, 0.0, SeedSpread(0.0, 0.0, 0)
    if judged is not None and everywhere is not None and numpy.ptp(judged) > 0:
        weight = float(numpy.cov(labels, judged)[0, 1] / judged.var(ddof=1))
        correlation = float(numpy.corrcoef(labels, judged)[0, 1])
        left = left - weight * (judged - judged.mean())
        shift = weight * float(everywhere.mean() - judged.mean())
        further = weight**2 * float(everywhere.mean(axis=1).var(ddof=1)) / len(everywhere)
        spread = judge_seeds(everywhere)
    fitted = count - 1 - (correlation is not None)
    own = float((left**2).sum()) / fitted
    variance, freedom = own / count + further, float(fitted)
    if spread.freedom:
        added = max(0.0, spread.between - spread.within)
        likely = max(0.0, spread.likely - spread.within)
        freedom = (variance + likely) ** 2 / (variance**2 / fitted + spread.likely**2 / spread.freedom)
        variance += added
    return tested(value + shift, variance, max(freedom, 1.0), weight, correlation, own)


def from_judge(everywhere: Array) -> NetWins:
    """Return the net wins by the judge alone, from its labels (documents, seeds): its preference, not people's."""
    means = everywhere.mean(axis=1)
    count, value = len(means), float(means.mean())
    if count < FEWEST:
        return NetWins(value, None, None, None)
    if numpy.ptp(means) == 0:
        return of_equal(value, count)
    own, spread = float(means.var(ddof=1)), judge_seeds(everywhere)
    variance, freedom = own / count, float(count - 1)
    if spread.freedom:
        likely = max(0.0, spread.likely - spread.within)
        freedom = (variance + likely) ** 2 / (variance**2 / freedom + spread.likely**2 / spread.freedom)
        variance += max(0.0, spread.between - spread.within)
    return tested(value, variance, max(freedom, 1.0), 0.0, None, own)


def judge_seeds(everywhere: Array) -> SeedSpread:
    """Return what seeds add, by the judge's labels (documents, seeds): mean squares of the two-way layout."""
    documents, seeds = everywhere.shape
    if seeds < 2 or documents < 2:
        return SeedSpread(0.0, 0.0, 0)
    means = everywhere.mean(axis=0)
    left = everywhere - means
    left = left - left.mean(axis=1, keepdims=True)
    within = float((left**2).sum()) / ((seeds - 1) * (documents - 1)) / seeds / documents
    return SeedSpread(float(means.var(ddof=1)) / seeds, within, seeds - 1)


def tested(
    value: float, variance: float, freedom: float, weight: float, correlation: float | None, own: float
) -> NetWins:
    """Return an estimate with its interval, within -1 and 1, and its p value."""
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * variance**0.5
    p = float(2 * stdtr(freedom, -abs(value) / variance**0.5))
    low, high = max(-1.0, value - half), min(1.0, value + half)
    return NetWins(value, low, high, p, weight, correlation, own)


def of_equal(value: float, count: int) -> NetWins:
    """Return an estimate where all labels are equal: others may have any value, but are a small share (as for scores).

    The share is the one of which none is seen in so many labels with 2.5 %.
    """
    unseen = 1 - ((1 - LEVEL) / 2) ** (1 / count)
    low, high = value - unseen * (value + 1), value + unseen * (1 - value)
    # To bring a mean of one to zero, half of all labels would have to be the other way.
    p = 1.0 if value == 0 else min(1.0, 2 * (1 - abs(value) / (1 + abs(value))) ** count)
    return NetWins(value, low, high, p)


def labels_needed(found: NetWins, labels: int) -> int | None:
    """Return about how many labels in all would show a preference as large as the one found, in 80 of 100 tastings.

    None if nothing was found, or nothing varies.
    """
    if not found.variance or abs(found.value) < 1e-9:
        return None
    wanted = (float(ndtri((1 + LEVEL) / 2) + ndtri(POWER)) / abs(found.value)) ** 2 * found.variance
    return max(labels, round(wanted))
