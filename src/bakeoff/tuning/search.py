"""Equal tuning budgets: which settings are tried, which trials continue, and which one is chosen.

Pure functions over numbers. Every entry gets the same number of trials, drawn in advance from its own ranges, and all
entries follow one rule of halving, selection and extension (protocol rule 2). This module does not know runs or files.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Settings = dict[str, Any]
Side = Literal["low", "high"]
# After these shares of the steps the worse half of an entry's trials stops.
RUNGS = (0.25, 0.5)


@dataclass(frozen=True)
class Range:
    """The values that a numeric field is searched over."""

    low: float
    high: float
    scale: Literal["log", "linear"] = "log"
    integer: bool = False

    def at(self, share: float) -> float:
        """Return the value at `share` (0 to 1) of the way from low to high on the range's scale."""
        if self.scale == "log":
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        if not self.integer:
            return value
        return min(max(round(value), math.ceil(self.low)), math.floor(self.high))

    def beyond(self, value: float, side: Side, trials: int) -> float:
        """Return the value one step past `value`; a step is the distance between `trials` even points."""
        sign = 1 if side == "high" else -1
        if self.scale == "log":
            further = value * (self.high / self.low) ** (sign / trials)
        else:
            further = value + sign * (self.high - self.low) / trials
        if not self.integer:
            return further
        return round(further) if round(further) != value else value + sign

    def count(self) -> float:
        """Return the number of different values."""
        return math.floor(self.high) - math.ceil(self.low) + 1 if self.integer else math.inf


@dataclass(frozen=True)
class Choices:
    """The values that a field is searched over which is no number. They have no order, so there is no edge."""

    values: tuple[str, ...]

    def at(self, share: float) -> str:
        """Return the value at `share` (0 to 1) of the way through the values, each of which has the same length."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def count(self) -> int:
        """Return the number of different values."""
        return len(self.values)


Span = Range | Choices


def trial_points(ranges: Mapping[str, Span], trials: int, seed: int) -> list[Settings]:
    """Return the settings to try, all different: known before anything runs, the same for the same arguments.

    For one field: even points on its scale, each in the middle of its bin, ascending. For several: a scrambled Halton
    sequence (Owen 2017, arXiv:1706.02808), in which a point that equals an earlier one after rounding is left out. The
    ranges must hold `trials` different points (`Range.count`).
    """
    if len(ranges) == 1:
        ((name, span),) = ranges.items()
        return [{name: value} for value in _even(span, trials)]
    from scipy.stats import qmc

    sequence = qmc.Halton(len(ranges), scramble=True, rng=seed)
    points: list[Settings] = []
    while len(points) < trials:
        for row in sequence.random(trials):
            point = {name: span.at(float(share)) for (name, span), share in zip(ranges.items(), row, strict=True)}
            if point not in points:
                points.append(point)
    return points[:trials]


def _even(span: Span, trials: int) -> list[Any]:
    """Return ascending points in the middles of even bins; a whole number that occurs twice moves to a free one."""
    if isinstance(span, Choices):
        return [span.at((i + 0.5) / trials) for i in range(trials)]
    values = [span.at((i + 0.5) / trials) for i in range(trials)]
    if not span.integer:
        return values
    taken: list[float] = []
    for value in values:
        nearby = (place for distance in itertools.count() for place in (value + distance, value - distance))
        taken.append(next(n for n in nearby if span.low <= n <= span.high and n not in taken))
    return sorted(taken)


def rungs(steps: int, halving: bool) -> list[int]:
    """Return after which steps every run validates and the worse half of the trials stops."""
    steps_of_rungs = {math.ceil(share * steps) for share in RUNGS} if halving else set()
    return sorted(step for step in steps_of_rungs if step < steps)


def survivors(losses: Sequence[float | None]) -> list[int]:
    """Return which trials continue, in their order: the better half, rounded up, by validation loss (None: failed)."""
    alive = [i for i, loss in enumerate(losses) if loss is not None]
    best = sorted(alive, key=lambda i: losses[i])  # type: ignore[arg-type, return-value]
    return sorted(best[: math.ceil(len(losses) / 2)])


def budget(trials: int, steps: int, halving: bool) -> int:
    """Return how many optimizer steps an entry's trials take if none fails and no extension is needed."""
    total = start = 0
    for end in [*rungs(steps, halving), steps]:
        total += trials * (end - start)
        trials, start = math.ceil(trials / 2), end
    return total


def most_trials(limit: int, steps: int, halving: bool, most: int) -> int:
    """Return how many trials, at most `most`, an entry has within a `limit` of optimizer steps; 0 if none fits."""
    return bisect.bisect_right(range(1, most + 1), limit, key=lambda trials: budget(trials, steps, halving))


def edges(points: Sequence[Settings], chosen: Settings) -> dict[str, Side]:
    """Return the fields whose chosen value is the lowest or highest number that was tried."""
    sides: dict[str, Side] = {}
    for name, value in chosen.items():
        values = [point[name] for point in points]
        if not isinstance(value, str) and min(values) < max(values) and value in (min(values), max(values)):
            sides[name] = "low" if value == min(values) else "high"
    return sides


def extension(
    ranges: Mapping[str, Span],
    chosen: Settings,
    sides: Mapping[str, Side],
    trials: int,
    allowed: Callable[[Settings], bool],
) -> Settings | None:
    """Return the settings one step further for every field on an edge; None if their bounds leave no room."""
    further = dict(chosen)
    for name, side in sides.items():
        span = ranges[name]
        assert isinstance(span, Range), name  # choices have no edge
        moved = {**further, name: span.beyond(chosen[name], side, trials)}
        further = moved if allowed(moved) else further
    return None if further == chosen else further
