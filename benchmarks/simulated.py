"""Simulated bakeoffs whose truth is known, for benchmarks/verdict.py: designs, and score tables drawn from them.

A row's latent score is the sum of normal effects: of its source document, of the row, of the entry on that document and
that row, of the seed on that row, and of the entry's seed, which need not be normal. ROUGE is the latent score's normal
distribution function (bounded, skewed), loss its exponential, weighted by log-normal token counts that lean on the
document; an exact match is 1 with ROUGE's value as its chance. All have known means.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy
from scipy.optimize import brentq
from scipy.special import ndtr

from bakeoff.analysis.statistics import Resamples, Scores, estimate
from bakeoff.analysis.verdict import LOSS, Yardstick, compare

# Standard deviations of the effects, in units of the latent score. A row's ROUGE then spreads by 0.18 around 0.26.
DOCUMENT, ROW, ENTRY_DOCUMENT, ENTRY_ROW, SEED_ROW = 0.4, 0.2, 0.2, 0.2, 0.3
SPREAD = numpy.sqrt(DOCUMENT**2 + ROW**2 + ENTRY_DOCUMENT**2 + ENTRY_ROW**2 + SEED_ROW**2)
METRIC = Yardstick().metric
POINTS = 0.0375  # standard deviation of the latent score that is one point of ROUGE
COLLAPSES = 0.1  # of collapsing seeds
RESAMPLES, BATCH = 2000, 50
# Quantiles of what is not normal, with a mean of zero: one-sided, or a collapse now and then.
QUANTILES = {
    "skewed": 1 + numpy.log((numpy.arange(4000) + 0.5) / 4000),
    "collapsing": numpy.array([COLLAPSES - 1] + [COLLAPSES] * 9),
}


@dataclass(frozen=True)
class Design:
    """One kind of bakeoff: each entry's number of seeds, source documents, and how much seeds matter.

    `points` is the standard deviation of seeds' effects in points of ROUGE (of collapsing ones the drop), `times` what
    each entry's is multiplied by, `laws` how each entry's are distributed. `rows` says how many rows a document has.
    `scores` are usual, an exact match that is `rare`, or `heavy` losses; only usual ones are measured on both metrics,
    and those of many entries, of which simulations are long, on ROUGE.
    """

    seeds: tuple[int, ...]
    documents: int
    points: float
    simulations: int
    times: tuple[float, ...] = ()
    laws: tuple[str, ...] = ()
    rows: str = "1 to 3"
    scores: str = "usual"
    whole: bool = False  # measured too: an entry against itself, power at the printed gap, reruns

    @property
    def spreads(self) -> tuple[float, ...]:
        """Each entry's spread of seeds, of the latent score."""
        return tuple(self.points * POINTS * times for times in self.times or (1,) * len(self.seeds))

    @property
    def metrics(self) -> dict[str, float]:
        """What is measured, with the entries' common mean."""
        every = {METRIC: 0.03 if self.scores == "rare" else 0.26, LOSS: 3.0}
        dropped = {"rare": LOSS, "heavy": METRIC}.get(self.scores, LOSS if len(self.seeds) > 6 else None)
        return {metric: mean for metric, mean in every.items() if metric != dropped}

    @property
    def loss_scale(self) -> float:
        """Of the latent score in a loss's exponent."""
        return 1.65 if self.scores == "heavy" else 0.5

    @property
    def tokens(self) -> tuple[float, float, float]:
        """Of the log-normal token counts: location, own spread, lean on the document."""
        return (2.4, 1.0, 0.2) if self.scores == "heavy" else (2.4, 0.4, 0.2)

    @property
    def law(self) -> tuple[str, ...]:
        """How each entry's seeds are distributed."""
        return self.laws or ("normal",) * len(self.seeds)

    def of(self, entries: Sequence[int]) -> "Design":
        """Return the design for entries chosen from this one's, some perhaps twice."""
        seeds, times = [self.seeds[i] for i in entries], [(self.times or (1,) * len(self.seeds))[i] for i in entries]
        laws = tuple(self.law[i] for i in entries)
        return Design(
            tuple(seeds), self.documents, self.points, self.simulations, tuple(times), laws, self.rows, self.scores
        )


def designs(simulations: int) -> list[Design]:
    """Return every design; the longer its simulations, the fewer of them."""
    many, twice, most, half = (round(share * simulations) for share in (4, 2, 0.75, 0.5))
    four, twelve = (3,) * 4, (3,) * 12
    one_of_two, one_of_four, one_of_twelve = (5.0, 1.0), (5.0, *(1.0,) * 3), (5.0, *(1.0,) * 11)
    uneven = (0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.1, 1.4, 1.9, 2.6, 3.6, 5.0)
    collapsing = ("collapsing", *("normal",) * 3)
    found = [
        Design((seeds,) * 4, documents, points, most, whole=True)
        for seeds in (1, 3, 5)
        for points in (0.0, 0.8)
        for documents in (100, 1000)
    ]
    found += [
        *(Design((seeds,) * 6, 200, 2.0, simulations) for seeds in (2, 3)),
        *(Design((seeds,) * 12, 200, 2.0, simulations) for seeds in (2, 3, 5)),
        Design(twelve, 1000, 0.8, simulations),
        Design((3,) * 23, 200, 2.0, half),
        *(Design(seeds, 200, 2.0, twice) for seeds in ((5, 3, 2, 1), (3, 3, 1, 1), (2, 2, 5, 5))),
        Design((1, 5), 200, 2.0, many),
        Design((3, 3), 200, 0.8, many, one_of_two),
        Design(four, 200, 0.8, twice, one_of_four),
        Design(twelve, 200, 0.8, simulations, one_of_twelve),
        Design((3, 3), 200, 0.2, many, (25.0, 1.0)),
        Design(four, 200, 0.2, twice, (25.0, 1.0, 1.0, 1.0)),
        Design(twelve, 200, 1.0, simulations, uneven),
        Design(four, 200, 2.0, simulations, laws=("skewed",) * 4),
        Design(four, 200, 8.0, simulations, laws=("collapsing",) * 4),
        Design(four, 200, 8.0, simulations, (1.0, 0.05, 0.05, 0.05), collapsing),
        Design(four, 40, 0.8, simulations),
        *(Design(four, documents, 0.8, simulations, rows="1 to 30") for documents in (10, 40)),
        Design(four, 100, 0.8, simulations, rows="Zipf"),
        *(Design((1,) * 4, documents, 0.0, simulations, scores="rare") for documents in (40, 200)),
        *(Design(four, documents, 0.8, simulations, scores="heavy") for documents in (40, 200, 1000)),
    ]
    return found


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
