"""Simulated bakeoffs with seeds in rounds, for benchmarks/verdict.py: the package's own looks at score tables.

Some entries are ahead of the others by a multiple of the gap that five seeds of the same design print. Beside rounds
the same tables are judged with five fixed seeds: by the present test, and by the one before 2026-11-30, of each pair's
own seeds with Holm's correction, against which rounds were planned.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy

from bakeoff.analysis.multiplicity import holm
from bakeoff.analysis.pairs import judged
from bakeoff.analysis.replay import first
from bakeoff.analysis.rounds import Rounds
from bakeoff.analysis.statistics import Resamples, Scores, estimate
from designs import METRIC, Design
from rates import Row, rate
from simulated import BATCH, RESAMPLES, labels_of, simulate

FIXED = 5
Table = dict[str, Scores]


@dataclass(frozen=True)
class Judged:
    """What one bakeoff concluded: (the one that is ahead, the one that is behind) of each pair, and all final runs."""

    told: frozenset[tuple[str, str]]
    runs: int
    covered: float = 1.0


def batches(design: Design, means: list[float]) -> Iterator[tuple[list[Table], Resamples]]:
    """Yield score tables with as many seeds as the last look has, some at a time, with the draws that they share."""
    full = replace(design, seeds=(max(design.looks[-1], FIXED),) * len(design.seeds))
    generator = numpy.random.default_rng([*design.looks, design.documents, round(1000 * design.points), 7])
    for batch in range(0, design.simulations, BATCH):
        count, labels = min(BATCH, design.simulations - batch), labels_of(generator, design)
        drawn = [simulate(generator, full, labels, {METRIC: means}, range(len(means)))[0] for _ in range(count)]
        tables = [{entry: scores for (entry, _), scores in table.items()} for table in drawn]
        yield tables, Resamples(list(labels), seed=batch, resamples=RESAMPLES)


def estimated(tables: Sequence[Table], resamples: Resamples) -> list[dict[tuple[str, str], Any]]:
    """Return each table's estimates."""
    found = estimate({(i, entry): s for i, table in enumerate(tables) for entry, s in table.items()}, resamples)
    return [{(entry, METRIC): found[i, entry] for entry in table} for i, table in enumerate(tables)]


def in_rounds(tables: Sequence[Table], resamples: Resamples, design: Design, means: Sequence[float]) -> list[Judged]:
    """Return what each bakeoff concludes with seeds in rounds."""
    every = [Rounds(design.looks, table, METRIC) for table in tables]
    while going := [i for i, rounds in enumerate(every) if rounds.wanted]:
        seen = [{e: first(s, every[i].seen_with(e)) for e, s in tables[i].items()} for i in going]
        for i, estimates in zip(going, estimated(seen, resamples), strict=True):
            every[i].take(estimates)
    return [
        Judged(
            frozenset(rounds.ahead(*pair) for pair, state in rounds.states.items() if state == "different"),
            sum(rounds.counts.values()),
            covered(rounds, means),
        )
        for rounds in every
    ]


def covered(rounds: Rounds, means: Sequence[float]) -> float:
    """Return the share of pairs whose interval at their last look holds the true difference."""
    ends = {pair: followed.glances[-1] for pair, followed in rounds.pairs.items()}
    gaps = {(a, b): means[int(a)] - means[int(b)] for a, b in ends}
    return float(numpy.mean([end.low <= gaps[pair] <= end.high for pair, end in ends.items()]))  # type: ignore[operator]


def fixed(tables: Sequence[Table], resamples: Resamples, own: bool) -> list[tuple[Judged, list[float]]]:
    """Return what each bakeoff concludes with five seeds, and the gaps that it prints; `own`: by the earlier test."""
    found = []
    for estimates in estimated([{e: first(s, FIXED) for e, s in table.items()} for table in tables], resamples):
        names = list(combinations(dict.fromkeys(entry for entry, _ in estimates), 2))
        if own:
            gaps = [estimates[a, METRIC] - estimates[b, METRIC] for a, b in names]
            values = [gap.value for gap in gaps]
            apart = [p < 0.05 for p in holm([gap.p_value() for gap in gaps])]
            printed = [gap.detectable(len(names)) for gap in gaps]
        else:
            pairs = judged(names, estimates, METRIC)
            values, apart = [pair.difference for pair in pairs], [pair.different for pair in pairs]
            printed = [pair.detectable for pair in pairs]
        told = {(a, b) if v > 0 else (b, a) for (a, b), v, yes in zip(names, values, apart, strict=True) if yes}
        found.append((Judged(frozenset(told), FIXED * len(estimates)), printed))
    return found


def summed_up(found: Sequence[Judged], means: Sequence[float], entries: int) -> Row:
    """Return the rates of some bakeoffs: any wrong claim, the right tie group, and final runs per entry."""
    top = {str(i) for i, mean in enumerate(means) if mean == max(means)}
    wrong, right = [], []
    for one in found:
        wrong.append(any(means[int(a)] <= means[int(b)] for a, b in one.told))
        right.append({b for _, b in one.told} == {str(i) for i in range(entries)} - top)
    runs = [one.runs / entries for one in found]
    return {
        "family": rate(wrong),
        "right": rate(right),
        "runs": rate(runs),
        "covered": rate([f.covered for f in found]),
    }


def measure_rounds(design: Design) -> list[Row]:
    """Return a row per multiple of the gap: rates in rounds, and of five fixed seeds by both tests."""
    entries, middle = len(design.seeds), 0.26
    printed: list[float] = []
    few = replace(design, simulations=min(design.simulations, 2 * BATCH))
    for tables, resamples in batches(few, [middle] * entries):
        printed += [gap for _, gaps in fixed(tables, resamples, own=True) for gap in gaps]
    unit, rows = float(numpy.median(printed)), []
    for times in design.gaps:
        means = [middle + times * unit, *[middle] * (entries - 1)]
        found: dict[str, list[Judged]] = {"rounds": [], "five": [], "own": []}
        for tables, resamples in batches(design, means):
            found["rounds"] += in_rounds(tables, resamples, design, means)
            found["five"] += [one for one, _ in fixed(tables, resamples, own=False)]
            found["own"] += [one for one, _ in fixed(tables, resamples, own=True)]
        rates = {kind: summed_up(judged, means, entries) for kind, judged in found.items()}
        rounds, five, own = rates["rounds"], rates["five"], rates["own"]
        more = [float(a) - float(b) for a, b in zip(*(hits(found[k], means) for k in ("rounds", "own")), strict=True)]
        row: Row = {
            "design": asdict(design), "metric": METRIC, "times": times, "gap": times * unit,
            "wrong": rounds["family"], "covered": rounds["covered"], "used": rounds["runs"], "told": rounds["right"],
            "five": five["right"], "own": own["right"], "own_wrong": own["family"],
        }  # fmt: skip
        if design.looks[-1] == FIXED:
            row["saved"] = (1 - rounds["runs"][0] / FIXED, rounds["runs"][1] / FIXED)
        elif times == 1:
            row["more"] = rate(more)
        rows.append(row)
    return rows


def hits(found: Sequence[Judged], means: Sequence[float]) -> list[bool]:
    """Return for each bakeoff whether its tie group is right."""
    behind = {str(i) for i, mean in enumerate(means) if mean < max(means)}
    return [{b for _, b in one.told} == behind for one in found]
