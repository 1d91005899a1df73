"""Simulated bakeoffs whose truth is known, for benchmarks/verdict.py: score tables drawn for a design.

A row's latent score is the sum of normal effects: of its source document, of the row, of the entry on that document and
that row, of the seed on that row, and of the entry's seed, which need not be normal. ROUGE is the latent score's normal
distribution function (bounded, skewed), loss its exponential, weighted by log-normal token counts that lean on the
document; an exact match is 1 with ROUGE's value as its chance. All have known means.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import numpy
from scipy.optimize import brentq
from scipy.special import ndtr

from bakeoff.analysis.pairs import LOSS, compare
from bakeoff.analysis.statistics import Resamples, Scores, estimate
from designs import METRIC, Design

# Standard deviations of the effects, in units of the latent score. A row's ROUGE then spreads by 0.18 around 0.26.
DOCUMENT, ROW, ENTRY_DOCUMENT, ENTRY_ROW, SEED_ROW = 0.4, 0.2, 0.2, 0.2, 0.3
SPREAD = numpy.sqrt(DOCUMENT**2 + ROW**2 + ENTRY_DOCUMENT**2 + ENTRY_ROW**2 + SEED_ROW**2)
COLLAPSES = 0.1  # of collapsing seeds
RESAMPLES, BATCH = 2000, 50
# Quantiles of what is not normal, with a mean of zero: one-sided, or a collapse now and then.
QUANTILES = {
    "skewed": 1 + numpy.log((numpy.arange(4000) + 0.5) / 4000),
    "collapsing": numpy.array([COLLAPSES - 1] + [COLLAPSES] * 9),
}


@cache
def location(design: Design, entry: int, metric: str, mean: float) -> float:
    """Return where an entry's latent score must lie for the metric to have this mean over documents and seeds."""
    span = (-60.0, 60.0)
    return float(brentq(lambda place: mean_at(design, entry, metric, place) - mean, *span, xtol=1e-10))


def mean_at(design: Design, entry: int, metric: str, place: float) -> float:
    """Return the metric's mean over documents and seeds at a latent location."""
    spread, law = design.spreads[entry], design.law[entry]
    if law == "normal":
        return float(mean_over_documents(design, metric, place, spread))
    return float(numpy.mean(mean_over_documents(design, metric, place + spread * QUANTILES[law], 0.0)))


def mean_over_documents(design: Design, metric: str, place: Any, spread: float) -> Any:
    """Return the metric's mean over documents, and over a normal spread of seeds."""
    variance = SPREAD**2 + spread**2
    if metric == METRIC:
        return ndtr(place / numpy.sqrt(1 + variance))
    # Tokens lean on the document, so longer targets weigh more: E[T L] / E[T] of two log-normals.
    scale = design.loss_scale
    return numpy.exp(scale * place + scale**2 * variance / 2 + scale * design.tokens[2] * DOCUMENT)


def labels_of(generator: numpy.random.Generator, design: Design) -> Any:
    """Return each row's source document."""
    count = design.documents
    if design.rows == "Zipf":
        sizes = numpy.ceil(60 / numpy.arange(1, count + 1)).astype(int)
    elif design.rows == "1 to 30":
        sizes = generator.integers(1, 31, count)
    else:
        sizes = generator.choice([1, 2, 3], count, p=[0.7, 0.2, 0.1])
    return numpy.repeat(numpy.arange(count), sizes)


def seed_effects(generator: numpy.random.Generator, law: str, spread: float, count: int) -> Any:
    """Return the effects of an entry's seeds, (seeds, 1)."""
    if law == "normal":
        return generator.normal(0, spread, (count, 1))
    return spread * generator.choice(QUANTILES[law], (count, 1))


def simulate(
    generator: numpy.random.Generator, design: Design, labels: Any, means: dict[str, list[float]], owners: Sequence[int]
) -> tuple[dict[tuple[str, str], Scores], dict[tuple[str, str], float]]:
    """Return simulated scores and the truth of each, by (entry, metric): with one seed the truth is this seed's.

    `means` are the entries' true means on each metric. Entries of one owner are one entry, run with other seeds.
    """
    rows, sources = len(labels), design.documents
    draw = generator.normal
    source = draw(0, DOCUMENT, sources)
    shared = source[labels] + draw(0, ROW, rows)
    middle, own_spread, lean = design.tokens
    tokens = numpy.exp(middle + draw(0, own_spread, rows) + lean * source[labels] / DOCUMENT)
    owned: dict[int, Any] = {}
    scores, truth = {}, {}
    for entry, owner in enumerate(owners):
        if owner not in owned:
            owned[owner] = draw(0, ENTRY_DOCUMENT, sources)[labels] + draw(0, ENTRY_ROW, rows)
        count = design.seeds[entry]
        seeds = seed_effects(generator, design.law[entry], design.spreads[entry], count)
        effects = shared + owned[owner] + seeds + draw(0, SEED_ROW, (count, rows))
        for metric, mean in means.items():
            place = location(design, entry, metric, mean[entry])
            key = (str(entry), metric)
            if metric == METRIC:
                values = ndtr(place + effects)
                hits = generator.random(values.shape) < values if design.scores == "rare" else values
                scores[key] = Scores(hits.astype(float), numpy.ones(rows), bounds=(0, 1))
            else:
                scores[key] = Scores(numpy.exp(design.loss_scale * (place + effects)) * tokens, tokens)
            one = float(mean_over_documents(design, metric, place + seeds[0, 0], 0.0))
            truth[key] = one if count == 1 else mean[entry]
    return scores, truth


def bakeoffs(
    design: Design, means: dict[str, list[float]], owners: Sequence[int], stream: int, runs: int = 1
) -> Iterator[Any]:
    """Yield for each simulation its estimates, its compared pairs, and the truth.

    Pairs are compared within each of so many `runs`, which share out the entries.
    """
    generator = numpy.random.default_rng([*design.seeds, design.documents, round(1000 * design.points), stream])
    entries = [[str(i) for i in group] for group in numpy.array_split(range(len(owners)), runs)]
    names = [list(combinations(group, 2)) for group in entries]
    first = METRIC if METRIC in means else LOSS
    for batch in range(0, design.simulations, BATCH):
        count, labels = min(BATCH, design.simulations - batch), labels_of(generator, design)
        drawn = [simulate(generator, design, labels, means, owners) for _ in range(count)]
        resamples = Resamples(list(labels), seed=batch, resamples=RESAMPLES)
        found = estimate({(i, *k): s for i, (scores, _) in enumerate(drawn) for k, s in scores.items()}, resamples)
        for i, (scores, truth) in enumerate(drawn):
            estimates = {key: found[(i, *key)] for key in scores}
            yield estimates, [pair for group in names for pair in compare(group, estimates, first)], truth
