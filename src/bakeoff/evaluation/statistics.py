"""What the scores allow one to say: bootstrap intervals and paired differences over documents. numpy only."""

import numpy
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
ROWS = 500
Array = NDArray[numpy.float64]


class Resamples:
    """How often each document is drawn in each resample, (resamples, documents): the same draws for every entry.

    A count fits a byte (255 draws of one document do not happen), and products are taken some rows at a time, so that
    100,000 test documents need 1 GB and not 16.
    """

    def __init__(self, documents: int, seed: int = 0, resamples: int = RESAMPLES):
        generator = numpy.random.default_rng(seed)
        share = numpy.full(documents, 1 / documents)
        self.counts = numpy.empty((resamples, documents), dtype=numpy.uint8)
        for start in range(0, resamples, ROWS):
            part = self.counts[start : start + ROWS]
            part[:] = generator.multinomial(documents, share, size=len(part))

    def __matmul__(self, values: Array) -> Array:
        """Return the sum of `values` (documents,) over each resample's documents, (resamples,)."""
        parts = [self.counts[start : start + ROWS] @ values for start in range(0, len(self.counts), ROWS)]
        return numpy.concatenate(parts)


def resampled_ratio(numerators: Array, denominators: Array, weights: Resamples) -> Array:
    """Return sum(numerator) / sum(denominator) in every resample, (resamples,); a mean has denominators of 1."""
    return (weights @ numerators) / (weights @ denominators)


def interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of resampled values (Efron 1979)."""
    low, high = numpy.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summary(numerators: ArrayLike, denominators: ArrayLike, weights: Resamples) -> dict[str, float]:
    """Return {"mean", "low", "high"} of a ratio of sums with its 95 % interval over documents."""
    top, bottom = numpy.asarray(numerators, dtype=float), numpy.asarray(denominators, dtype=float)
    low, high = interval(resampled_ratio(top, bottom, weights))
    return {"mean": float(top.sum() / bottom.sum()), "low": low, "high": high}
