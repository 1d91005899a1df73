"""What the scores allow one to say: bootstrap intervals and paired differences over documents. numpy only."""

import numpy
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
Array = NDArray[numpy.float64]


def resample_weights(documents: int, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Return (resamples, documents) counts of how often each document is drawn: the same draws for every entry."""
    generator = numpy.random.default_rng(seed)
    return generator.multinomial(documents, numpy.full(documents, 1 / documents), size=resamples).astype(float)


def resampled_ratio(numerators: Array, denominators: Array, weights: Array) -> Array:
    """Return sum(numerator) / sum(denominator) in every resample, (resamples,); a mean has denominators of 1."""
    return (weights @ numerators) / (weights @ denominators)


def interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of resampled values (Efron 1979)."""
    low, high = numpy.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summary(numerators: ArrayLike, denominators: ArrayLike, weights: Array) -> dict[str, float]:
    """Return {"mean", "low", "high"} of a ratio of sums with its 95 % interval over documents."""
    top, bottom = numpy.asarray(numerators, dtype=float), numpy.asarray(denominators, dtype=float)
    low, high = interval(resampled_ratio(top, bottom, weights))
    return {"mean": float(top.sum() / bottom.sum()), "low": low, "high": high}
