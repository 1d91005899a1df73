"""p values that stay valid however often one looks: a group-sequential boundary over the looks that were planned.

A pair's statistic after s seeds correlates with that after t seeds at least as the means of s and t draws do, because
both have the same documents. So what is computed here for means of independent draws, sqrt(s / t), is safe. The largest
of the weighted |Z| over all planned looks has the weights of Wang and Tsiatis (1987): (s / last) ** 1/4.
"""

from functools import lru_cache

import numpy
from numpy.typing import NDArray
from scipy.special import ndtr

NODES, MASSES = numpy.polynomial.legendre.leggauss(128)  # over which densities are integrated
GRID = numpy.linspace(0.3, 9, 175)  # of maxima
Array = NDArray[numpy.float64]


class Boundary:
    """What the largest weighted |Z| over some planned looks is by chance; `looks` are numbers of seeds."""

    def __init__(self, looks: tuple[int, ...]):
        self.looks = looks
        self.weights = tuple((s / looks[-1]) ** 0.25 for s in looks)
        self.logs = numpy.log([min(1.0, crossing(looks, self.weights, most)) for most in GRID])

    def p_value(self, most: float) -> float:
        """Return the chance of a largest weighted |Z| of at least `most`, over all planned looks.

        Beyond the grid, that chance is bounded by the sum over the looks of each look's own.
        """
        if most < GRID[0]:
            return 1.0
        if most > GRID[-1]:
            return float(min(1.0, sum(2 * ndtr(-most / weight) for weight in self.weights)))
        return float(numpy.exp(numpy.interp(most, GRID, self.logs)))

    def critical(self, level: float) -> float:
        """Return the largest weighted |Z| that is exceeded with this chance."""
        return float(numpy.interp(-numpy.log(level), -self.logs, GRID))


@lru_cache
def boundary(looks: tuple[int, ...]) -> Boundary:
    """Return the boundary of some looks; computed once."""
    return Boundary(looks)


def crossing(looks: tuple[int, ...], weights: tuple[float, ...], most: float) -> float:
    """Return the chance that a sum of normal draws leaves the boundary at some look, by recursion over its density."""
    ends = [s**0.5 * most / weight for s, weight in zip(looks, weights, strict=True)]
    places, masses = NODES * ends[0], MASSES * ends[0]
    inside = normal(places, looks[0])
    crossed = 2 * ndtr(-ends[0] / looks[0] ** 0.5)
    for earlier, now, end in zip(looks, looks[1:], ends[1:], strict=False):
        variance, mass = now - earlier, inside * masses
        crossed += (mass * (ndtr((-end - places) / variance**0.5) + ndtr((places - end) / variance**0.5))).sum()
        further = NODES * end
        inside, places, masses = normal(further[:, None] - places, variance) @ mass, further, MASSES * end
    return float(crossed)


def normal(values: Array, variance: float) -> Array:
    """Return the density of a normal variable."""
    density: Array = numpy.exp(-(values**2) / 2 / variance) / (2 * numpy.pi * variance) ** 0.5
    return density
