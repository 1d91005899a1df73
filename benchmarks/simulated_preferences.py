"""Simulated tastings and judges, for benchmarks/verdict.py: the package's own estimates of net wins.

A document's latent advantage of the first entry is the sum of normal effects of the document and of each seed; people
and the judge see it with noise of their own, and say win, tie or loss. The judge sees it with a bias too, and prefers
what stands first. The truth is people's net wins over all documents, and over seeds where there are several.
"""

from dataclasses import asdict
from typing import Any

import numpy
from scipy.special import ndtr

from bakeoff.analysis.two_phase import NetWins, from_judge, from_people
from designs import METRIC, Design
from rates import Row, rate

DOCUMENT, SEED_DOCUMENT, PERSON, TIE = 1.0, 0.5, 0.7, 0.35  # standard deviations, and from where on there is a winner
AHEAD, FIRST = 0.15, 0.5  # the first entry's true lead, and the judge's love of what stands first


def said(latent: Any) -> Any:
    """Return 1, 0 or -1: a win, a tie or a loss."""
    return numpy.sign(latent) * (numpy.abs(latent) > TIE)


def measure_preferences(design: Design) -> list[Row]:
    """Return how often each estimate's interval holds the truth, and how much narrower the joined one is."""
    labels, agrees, bias = design.judge
    seeds, generator = design.seeds[0], numpy.random.default_rng([design.documents, int(labels), design.seeds[0]])
    spread = (DOCUMENT**2 + SEED_DOCUMENT**2 + PERSON**2 + design.points**2) ** 0.5
    truth = float(ndtr((AHEAD - TIE) / spread) - ndtr((-AHEAD - TIE) / spread))
    found: dict[str, list[Any]] = {"people_holds": [], "joined_holds": [], "judge_holds": [], "narrower": []}
    noise = (1 / agrees**2 - 1) ** 0.5
    for _ in range(design.simulations):
        shape = (design.documents, seeds)
        latent = AHEAD + DOCUMENT * generator.standard_normal((design.documents, 1))
        latent = latent + design.points * generator.standard_normal((1, seeds))
        latent = latent + SEED_DOCUMENT * generator.standard_normal(shape)
        people = said(latent + PERSON * generator.standard_normal(shape))
        seen = latent + bias + noise * generator.standard_normal(shape)
        orders = [said(seen + side + 0.4 * generator.standard_normal(shape)) for side in (FIRST, -FIRST)]
        judge = sum(orders) / 2
        rows, picked = numpy.arange(int(labels)), generator.permutation(int(labels)) % seeds
        own = people[rows, picked]
        alone, joined = from_people(own), from_people(own, judge[rows, picked], judge)
        for key, estimate in (("people_holds", alone), ("joined_holds", joined), ("judge_holds", from_judge(judge))):
            found[key].append(holds(estimate, truth))
        if None not in (alone.low, alone.high, joined.low, joined.high):
            found["narrower"].append(1 - (joined.high - joined.low) / (alone.high - alone.low))  # type: ignore[operator]
    return [{"design": asdict(design), "metric": METRIC, "gap": 0.0, **{k: rate(v) for k, v in found.items()}}]


def holds(estimate: NetWins, truth: float) -> bool:
    """Return whether an interval holds the truth."""
    return estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high
