"""Intervals, p values and detectable gaps of scores, over test documents and seeds (protocol rule 9). No torch.

The score of an entry is the mean over its seeds of a ratio of sums over documents. Its uncertainty has two sources,
which are crossed: every seed is scored on every document. Documents are resampled (bootstrap): all rows of one document
together, with the same draws for all entries. Seeds are too few to resample: three seeds have ten different resamples,
whose variance is a third too small. So the variance that seeds add is estimated and noise of this variance is drawn.
Each draw is then widened as in a t distribution, because so few seeds estimate that variance badly. Calibrated by
benchmarks/verdict.py.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy
from numpy.typing import NDArray
from scipy.special import nctdtrinc, stdtr, stdtrit

from bakeoff.analysis.level import LEVEL
from bakeoff.analysis.seeds import SeedSpread, coverage

RESAMPLES = 10_000
POWER = 0.8
TAIL = 0.005  # share of draws on one side from which on p values follow the t distribution
CHUNK = 4_000_000  # draws held at a time: 32 MB
ROUNDING = 1e-9  # relative
Array = NDArray[numpy.float64]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Scores:
    """One entry's scores on one metric: `numerators` (seeds, documents) over `denominators` (documents,).

    For a mean, the denominators are 1; for a loss, `numerators` are sums of losses and `denominators` numbers of target
    tokens. `seeded` is false for what has no seeds, such as lead-1, which has one row of scores. `bounds` are those of
    the metric.
    """

    numerators: Array
    denominators: Array
    seeded: bool = True
    bounds: tuple[float, float] = (-numpy.inf, numpy.inf)


class Resamples:
    """Bootstrap draws of source documents, the same for everything that is summed over documents.

    `clusters` names the source document of each row, (documents,): rows of one source are drawn together.
    """

    def __init__(self, clusters: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES):
        numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
        self.labels = numpy.array([numbers[name] for name in clusters], dtype=numpy.intp)
        self.clusters, self.seed, self.resamples = len(numbers), seed, resamples

    def totals(self, values: Array) -> Array:
        """Return sums over each source document's rows, (..., clusters), of `values` (..., documents)."""
        if self.clusters == len(self.labels):
            return values
        rows = values.reshape(-1, values.shape[-1])
        sums: Array = numpy.stack([numpy.bincount(self.labels, row, self.clusters) for row in rows]).astype(float)
        return sums.reshape(*values.shape[:-1], self.clusters)

    def sums(self, values: Array) -> Array:
        """Return the sum of each column of `values` (clusters, columns) in every resample, (resamples, columns).

        The draws are made again at every call, for some rows at a time, so that memory does not grow with the
        documents.
        """
        generator = numpy.random.default_rng(self.seed)
        count, draws = self.clusters, numpy.empty((self.resamples, values.shape[1]))
        rows = max(1, CHUNK // count)
        for start in range(0, self.resamples, rows):
            part = draws[start : start + rows]
            drawn = generator.integers(0, count, (len(part), count))
            drawn += count * numpy.arange(len(part))[:, None]
            drawn_counts = numpy.bincount(drawn.ravel(), minlength=drawn.size)
            part[:] = drawn_counts.reshape(drawn.shape).astype(float) @ values
        return draws


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of scores, with its uncertainty.

    `draws` are deviations from it over resampled documents, (resamples,); `spreads` has one SeedSpread for each entry
    with seeds. With one source document, intervals and p values are None. `scale` is the magnitude of the scores behind
    it. `effective` documents of equal weight would tell as much about a score's variance as its documents do.
    """

    value: float
    draws: Array
    clusters: int
    spreads: tuple[SeedSpread, ...]
    bounds: tuple[float, float]
    seed: int = 0
    scale: float = 0.0
    effective: float = math.inf

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Return the paired difference: the same documents drawn for both, seeds of their own.

        Seeds are not paired although equal seeds share an order of examples: pairing would leave half the degrees of
        freedom, and what is common to both entries' seeds only makes the unpaired interval too wide, never too narrow.
        """
        (low, high), (other_low, other_high) = self.bounds, other.bounds
        bounds = (low - other_high, high - other_low)
        draws, spreads = self.draws - other.draws, self.spreads + other.spreads
        scale, effective = max(self.scale, other.scale), min(self.effective, other.effective)
        return Estimate(self.value - other.value, draws, self.clusters, spreads, bounds, self.seed, scale, effective)

    @property
    def covers(self) -> str:
        """The chance that its interval covers; see `coverage`."""
        return coverage(self.spreads)

    @cached_property
    def document_variance(self) -> float:
        """Variance over documents; n/(n-1) corrects the bootstrap's underestimate (Rao and Wu 1988)."""
        return float(self.draws.var() * self.clusters / (self.clusters - 1))

    @cached_property
    def seed_variance(self) -> float:
        """Variance that seeds add to that of documents, from the two-way layout's mean squares; never below zero."""
        return max(0.0, sum(s.between - s.within for s in self.spreads))

    @property
    def variance(self) -> float:
        """Variance over documents and seeds."""
        return self.document_variance + self.seed_variance

    @property
    def is_constant(self) -> bool:
        """Whether all documents and seeds have the same value, so that there is no spread to compute with."""
        return self.variance <= (ROUNDING * self.scale) ** 2

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the variance (Satterthwaite 1946), with the variance that seeds likely add.

        With the variances as measured, seeds that agree by chance would give too many degrees of freedom, and three
        seeds too many differences (design/LOG.md).
        """
        added = max(0.0, sum(s.likely - s.within for s in self.spreads))
        parts = [self.document_variance**2 / (self.clusters - 1)]
        parts += [s.likely**2 / s.freedom for s in self.spreads if s.freedom]
        return min(max((self.document_variance + added) ** 2 / sum(parts), 1.0), 1e6) if sum(parts) > 0 else 1e6

    @cached_property
    def distribution(self) -> Array | None:
        """Where the true value may be, (resamples,): its percentiles are the interval; None for one document."""
        if self.clusters < 2:
            return None
        normal, after = normal_draws(self.seed, len(self.draws))
        generator = numpy.random.Generator(numpy.random.PCG64(0))
        generator.bit_generator.state = after
        freedom = self.freedom
        doubt = numpy.sqrt(freedom / generator.chisquare(freedom, len(self.draws)))
        documents = self.draws * (self.clusters / (self.clusters - 1)) ** 0.5
        return self.value + (documents + self.seed_variance**0.5 * normal) * doubt

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Return the 95 % interval, within the bounds of the metric; None for one document, or without a spread.

        If all documents have the same value, others may have any other: the interval is what a share of them could do
        that so many drawn documents show with 2.5 %. Without bounds there is no such interval.
        """
        if self.distribution is None:
            return None
        if self.is_constant:
            low, high = self.bounds
            unseen = 1 - ((1 - level) / 2) ** (1 / self.clusters)
            ends = self.value - unseen * (self.value - low), self.value + unseen * (high - self.value)
            return ends if math.isfinite(high - low) else None
        low, high = numpy.quantile(self.distribution, [(1 - level) / 2, (1 + level) / 2])
        return float(max(low, self.bounds[0])), float(min(high, self.bounds[1]))

    def p_value(self) -> float | None:
        """Return the two-sided p value of zero, twice the smaller share of draws beyond it; None as for `interval`.

        If that share is below TAIL, draws are too few to estimate it, and their number would limit it: 2 of 10,001 is
        more than is allowed for the first of 253 pairs. Beyond the outermost TAIL of the draws, p therefore falls like
        the tail of the t distribution, with the variance and degrees of freedom that the draws have.
        """
        if self.distribution is None:
            return None
        if self.is_constant:
            return self.p_value_of_constant()
        sign = 1 if (self.distribution <= 0).sum() <= (self.distribution >= 0).sum() else -1
        count, distance = len(self.distribution), sign * self.value
        towards_zero = distance - sign * self.distribution
        beyond, few = int((towards_zero >= distance).sum()), math.ceil(TAIL * count)
        if beyond >= few:
            return min(1.0, 2 * (beyond + 1) / (count + 1))
        outermost = float(numpy.partition(towards_zero, -few)[-few])
        ends = stdtr(self.freedom, numpy.array([-distance, -outermost]) / self.variance**0.5)
        return float(2 * (few + 1) / (count + 1) * ends[0] / ends[1])

    def p_value_of_constant(self) -> float | None:
        """Return the p value of zero where all documents have the same value: unseen ones would have to outweigh it."""
        if abs(self.value) <= ROUNDING * self.scale:
            return 1.0
        low, high = self.bounds
        end = low if self.value > 0 else high
        return min(1.0, 2 * (1 - self.value / (self.value - end)) ** self.clusters) if math.isfinite(end) else None

    def detectable(self, comparisons: int = 1) -> float | None:
        """Return the smallest true value that is detected with 80 % power, after correction.

        The correction is Bonferroni's for so many comparisons, which is the first and hardest step of the others. None
        if there is no spread.
        """
        if self.clusters < 2 or self.is_constant:
            return None
        critical = stdtrit(self.freedom, 1 - (1 - LEVEL) / 2 / comparisons)
        return float(nctdtrinc(self.freedom, 1 - POWER, critical) * self.variance**0.5)


@lru_cache(maxsize=4)
def normal_draws(seed: int, count: int) -> tuple[Array, dict[str, Any]]:
    """Return standard normal draws, the same for all estimates, and the generator's state after them."""
    generator = numpy.random.default_rng([seed, 1])
    drawn = generator.standard_normal(count)
    drawn.flags.writeable = False
    return drawn, dict(generator.bit_generator.state)


def estimate(table: Mapping[Key, Scores], resamples: Resamples) -> dict[Key, Estimate]:
    """Return each entry's score with its uncertainty, over the same draws for all."""
    if not table:
        return {}
    columns = [resamples.totals(numpy.stack([s.numerators.mean(axis=0), s.denominators])) for s in table.values()]
    sums = resamples.sums(numpy.concatenate(columns).T)
    estimates = {}
    for index, (key, scores) in enumerate(table.items()):
        value = float(scores.numerators.mean(axis=0).sum() / scores.denominators.sum())
        draws = sums[:, 2 * index] / sums[:, 2 * index + 1] - value
        spreads = (seed_spread(scores, resamples),) if scores.seeded else ()
        influence = columns[index][0] - value * columns[index][1]
        estimates[key] = Estimate(
            value, draws, resamples.clusters, spreads, scores.bounds, resamples.seed,
            scale=float(abs(scores.numerators).max() / scores.denominators.mean()), effective=effective(influence),
        )  # fmt: skip
    return estimates


def effective(influence: Array) -> float:
    """Return how many normal values would tell as much about their variance as these, by their kurtosis."""
    squares = (influence - influence.mean()) ** 2
    excess = (squares**2).mean() / squares.mean() ** 2 - 1 if squares.any() else 0.0
    return float(1 + 2 * len(influence) / excess) if excess > 0 else math.inf


def seed_spread(scores: Scores, resamples: Resamples) -> SeedSpread:
    """Return the mean squares between seeds, and of seeds by documents, as variances of the mean over seeds."""
    seeds, clusters = len(scores.numerators), resamples.clusters
    if seeds < 2 or clusters < 2:
        return SeedSpread(0.0, 0.0, 0)
    total = scores.denominators.sum()
    means = scores.numerators.sum(axis=1) / total
    # What each source document adds to each seed's score, beyond its size's share, (seeds, clusters).
    parts = resamples.totals(scores.numerators - means[:, None] * scores.denominators) / total
    left = parts - parts.mean(axis=0)
    within = clusters * (left**2).sum() / ((seeds - 1) * (clusters - 1)) / seeds
    return SeedSpread(float(means.var(ddof=1) / seeds), float(within), seeds - 1)
