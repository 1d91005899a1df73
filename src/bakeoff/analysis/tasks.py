"""A pair's difference over several tasks, and bases: on these alone, or on average over others like them. No torch.

On these tasks alone, what varies is what varies within each (documents and seeds). For tasks like these, tasks take the
place of seeds: the mean counts every task once, and its variance is that between tasks. Simulated in docs/verdict.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from bakeoff.analysis.level import LEVEL

ENOUGH_TASKS = 5  # from which on other tasks are spoken of
ENOUGH_BASES = 3  # the same of bases
ROUNDING = 1e-9  # relative
Array = NDArray[numpy.float64]


@dataclass(frozen=True)
class Joint:
    """A difference over several tasks, with its variance and the variance's degrees of freedom (0: nothing varies)."""

    value: float
    variance: float
    freedom: float

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Return the interval of the true difference; None if nothing varies."""
        if not self.freedom:
            return None
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.variance**0.5
        return self.value - half, self.value + half

    def p_value(self) -> float | None:
        """Return the two-sided p value of zero; None if nothing varies."""
        return float(2 * stdtr(self.freedom, -abs(self.value) / self.variance**0.5)) if self.freedom else None


def joint(value: float, variance: float, freedom: float, scale: float) -> Joint:
    """Return a difference whose variance counts as none if it is only rounding beside values of this `scale`."""
    varies = variance > (ROUNDING * scale) ** 2
    return Joint(value, variance, min(max(freedom, 1.0), 1e6)) if varies else Joint(value, 0.0, 0)


def on_these(differences: Sequence[float], variances: Sequence[float], freedoms: Sequence[float]) -> Joint:
    """Return the mean of independent tasks' differences, (tasks,) each, for these tasks alone (Satterthwaite 1946)."""
    count = len(differences)
    parts = [variance / count**2 for variance in variances]
    below = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    value, scale = float(numpy.mean(differences)), float(max(map(abs, differences)))
    return joint(value, sum(parts), sum(parts) ** 2 / below if below else 0.0, scale)


def on_tasks_like_these(means: Array) -> list[Joint]:
    """Return each pair's mean difference for tasks like these, from the entries' `means` (tasks, entries).

    The variance is the larger one of the pair's own over tasks, and of all entries' interaction with tasks: so few
    tasks of a pair may agree by chance. An own variance that is kept has one degree of freedom more if there are other
    entries, since small ones are no longer used.
    """
    tasks, entries = means.shape
    left = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    freedom = (tasks - 1) * (entries - 1)
    shared = 2 * float((left**2).sum()) / max(1, freedom) / tasks
    gaps, scale = gaps_of(means), float(abs(means).max())
    found = []
    for middle, own in zip(gaps.mean(axis=0).tolist(), (gaps.var(axis=0, ddof=1) / tasks).tolist(), strict=True):
        kept = own >= shared * (1 - ROUNDING)
        found.append(joint(middle, max(own, shared), tasks - 1 + (entries > 2) if kept else freedom, scale))
    return found


def gaps_of(means: Array) -> Array:
    """Return the difference of every pair, (..., pairs), in the order of combinations, from (..., entries)."""
    firsts, seconds = numpy.triu_indices(means.shape[-1], 1)
    return means[..., firsts] - means[..., seconds]


def on_tasks_and_bases_like_these(means: Array) -> list[Joint]:
    """Return each pair's mean difference for tasks and bases like these, from `means` (tasks, bases, entries).

    Cells are crossed, not independent: the variance is that of the tasks' means plus that of the bases' means, without
    what both contain (Satterthwaite 1946).
    """
    tasks, bases, _ = means.shape
    gaps, scale = gaps_of(means), float(abs(means).max())
    of_task, of_base, middle = gaps.mean(axis=1), gaps.mean(axis=0), gaps.mean(axis=(0, 1))
    by_task, by_base = of_task.var(axis=0, ddof=1) / tasks, of_base.var(axis=0, ddof=1) / bases
    left = gaps - of_task[:, None] - of_base + middle
    both = (left**2).sum(axis=(0, 1)) / ((tasks - 1) * (bases - 1)) / (tasks * bases)
    found = []
    for value, task, base, cell in zip(*(x.tolist() for x in (middle, by_task, by_base, both)), strict=True):
        variance = max(task + base - cell, task, base)
        below = task**2 / (tasks - 1) + base**2 / (bases - 1)
        found.append(joint(value, variance, variance**2 / below if below else 0.0, scale))
    return found


def on_a_new_task(gaps: Sequence[float]) -> tuple[float, float]:
    """Return where a pair's difference on one more task like these lies, with 95 %; `gaps` are of two tasks or more."""
    values, count = numpy.asarray(gaps, dtype=float), len(gaps)
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2) * values.std(ddof=1) * (1 + 1 / count) ** 0.5)
    return float(values.mean()) - half, float(values.mean()) + half
