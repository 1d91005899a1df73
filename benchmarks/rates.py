"""How often a verdict is right over simulated bakeoffs, by design: the rates of benchmarks/verdict.py.

With one seed for every entry the truth is that of this seed: the interval says that it does not speak of others. A
rerun is a second bakeoff of the same entries on the same documents with fresh seeds: two entries are equal, two are
far behind, and both bakeoffs should say so.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import numpy

from bakeoff.analysis.pairs import LOSS, compare
from bakeoff.analysis.preferences import maybe_best, near_best
from bakeoff.store.results_document import Difference, Pair
from designs import METRIC, Design
from simulated import bakeoffs

FEWER = 0.3  # of the simulations, for power and reruns: rates over several pairs, or near 1
Row = dict[str, Any]


def rate(values: Sequence[Any]) -> tuple[float, float]:
    """Return a mean over simulations and its standard error, which where all agree is that of one that might not."""
    count = len(values)
    return float(numpy.mean(values)), max(float(numpy.std(values)) / count**0.5, 1 / count)


def on(metric: str, pair: Pair) -> Difference:
    """Return a pair's figures on one metric."""
    found = pair.loss if metric == LOSS else pair
    assert found is not None  # every simulated entry has a loss
    return found


def equal_entries(design: Design) -> dict[str, Row]:
    """Return coverage, family-wise error and the printed detectable gap over entries of equal mean, by metric."""
    entries = range(len(design.seeds))
    means = {metric: [mean] * len(entries) for metric, mean in design.metrics.items()}
    counts: dict[str, dict[str, list[Any]]] = {
        m: {"score": [], "difference": [], "family": [], "gap": []} for m in means
    }
    for estimates, pairs, truth in bakeoffs(design, means, entries, stream=0):
        for metric, count in counts.items():
            spans = [(truth[e, m], value.interval()) for (e, m), value in estimates.items() if m == metric]
            count["score"].append(numpy.mean([low <= true <= high for true, (low, high) in spans]))
            seeds_vary = max(design.seeds) > 1
            gaps = [0 if seeds_vary else truth[p.first, metric] - truth[p.second, metric] for p in pairs]
            of = [on(metric, pair) for pair in pairs]
            held = [pair.low <= gap <= pair.high for pair, gap in zip(of, gaps, strict=True)]
            count["difference"].append(numpy.mean(held))
            count["family"].append(any(pair.different for pair in of))
            count["gap"] += [pair.detectable for pair in of if pair.detectable is not None]
    return {
        metric: {key: rate(found) for key, found in count.items() if key != "gap"}
        | {"gap": float(numpy.median(count["gap"]))}
        for metric, count in counts.items()
    }


def same_entry(design: Design) -> dict[str, tuple[float, float]]:
    """Return how often an entry is called different from itself under other seeds, by metric."""
    means = {metric: [mean] * 2 for metric, mean in design.metrics.items()}
    found = [pairs[0] for _, pairs, _ in bakeoffs(design.of([0, 0]), means, [0, 0], stream=1)]
    return {metric: rate([on(metric, pair).different for pair in found]) for metric in means}


def one_ahead(design: Design, gaps: dict[str, float]) -> dict[str, Row]:
    """Return rates where the first entry is apart from all others by the printed gap, by metric.

    Power: how often it is told from each. Right: how often from all. Others: how often any pair of the others, which
    are equal, is called different; there Shaffer's correction asks less than Holm's.
    """
    entries = range(len(design.seeds))
    means = {m: [mean + gaps[m], *[mean] * (len(entries) - 1)] for m, mean in design.metrics.items()}
    counts: dict[str, dict[str, list[Any]]] = {m: {"power": [], "right": [], "others": []} for m in means}
    counts[METRIC] |= {"kept": [], "far": []}
    for estimates, pairs, _ in bakeoffs(design, means, entries, stream=2):
        kept, far = choices(estimates, means[METRIC])
        counts[METRIC]["kept"].append(kept)
        counts[METRIC]["far"].append(far)
        for metric, count in counts.items():
            told = [on(metric, pair).different for pair in pairs if pair.first == "0"]
            count["power"].append(numpy.mean(told))
            count["right"].append(all(told))
            count["others"].append(any(on(metric, pair).different for pair in pairs if pair.first != "0"))
    return {metric: {key: rate(values) for key, values in count.items()} for metric, count in counts.items()}


def choices(estimates: Any, means: Sequence[float]) -> tuple[bool, bool]:
    """Return whether the truly best entry may be the best, and whether one counts as near it that is not."""
    entries = sorted((e for e, m in estimates if m == METRIC), key=lambda e: -estimates[e, METRIC].value)
    pairs = compare(list(combinations(entries, 2)), {(e, METRIC): estimates[e, METRIC] for e in entries}, METRIC)
    gaps = sorted(pair.detectable for pair in pairs if pair.detectable is not None)
    worth = gaps[len(gaps) // 2] / 2
    near = near_best(entries[0], pairs, worth)
    best = means[int(entries[0])]
    return "0" in maybe_best(entries, pairs), any(best - means[int(entry)] > worth for entry in near)


def ties_again(design: Design, gaps: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Return how often a rerun has the same entries tied with its best, by metric.

    Half of the entries are equal and ahead of the others, which are equal too, by twice the printed gap.
    """
    count = len(design.seeds)
    half, owners = count // 2, [*range(count)] * 2
    ahead = {m: mean + (2 if m == METRIC else -2) * gaps[m] for m, mean in design.metrics.items()}
    means = {m: ([ahead[m]] * half + [mean] * (count - half)) * 2 for m, mean in design.metrics.items()}
    same: dict[str, list[bool]] = {metric: [] for metric in means}
    for estimates, pairs, _ in bakeoffs(design.of(owners), means, owners, stream=3, runs=2):
        for metric, hits in same.items():
            runs = range(count), range(count, 2 * count)
            first, second = (tied(run, count, estimates, pairs, metric) for run in runs)
            hits.append(first == second)
    return {metric: rate(hits) for metric, hits in same.items()}


def tied(run: Sequence[int], count: int, estimates: Any, pairs: list[Pair], metric: str) -> set[int]:
    """Return which of a run's entries are its best or tied with it, as their owners."""
    sign = 1 if metric == METRIC else -1
    best = max(run, key=lambda entry: sign * estimates[str(entry), metric].value)
    apart = {frozenset((p.first, p.second)) for p in pairs if on(metric, p).different}
    return {entry % count for entry in run if frozenset((str(entry), str(best))) not in apart}


def measure(design: Design) -> list[Row]:
    """Return a row a metric: one design's rates, each with its standard error."""
    rows = equal_entries(design)
    if design.whole:
        gaps = {metric: row["gap"] for metric, row in rows.items()}
        fewer = replace(design, simulations=round(FEWER * design.simulations))
        found = {"itself": same_entry(design), "again": ties_again(fewer, gaps)}
        rows = {metric: row | {key: by[metric] for key, by in found.items()} for metric, row in rows.items()}
        ahead = one_ahead(fewer, gaps)
        rows = {metric: row | ahead[metric] for metric, row in rows.items()}
    return [{"design": asdict(design), "metric": metric, **row} for metric, row in rows.items()]
