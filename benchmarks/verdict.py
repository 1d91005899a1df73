"""Is the verdict right as often as it says? Simulated score tables whose truth is known: `make verdict`, or
`python benchmarks/verdict.py --simulations 1000 [--json]`.

A row's latent score is the sum of normal effects: of its source document (one to three rows), of the row, of the entry
on that document and that row, of the entry's seed, and of the seed on that row. ROUGE is its normal distribution
function (bounded, skewed), loss its exponential, weighted by log-normal token counts that lean on the document. Both
have known means, so coverage is counted against the truth. Tested are the package's own `estimate` and `compare`, with
fewer resamples (2,000), drawn anew for every 50 simulations so that their chance does not add up.

With one seed the truth is that of this seed: the interval says that it does not speak of others. A rerun is a second
bakeoff of the same entries on the same documents with fresh seeds: two entries are equal, two are far behind, and both
bakeoffs should say so.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy
from scipy.special import ndtr, ndtri

from bakeoff.evaluation.statistics import Resamples, Scores, estimate
from bakeoff.evaluation.verdict import LOSS, Pair, Yardstick, compare

# Standard deviations of the effects, in units of the latent score. A row's ROUGE then spreads by 0.18 around 0.26.
DOCUMENT, ROW, ENTRY_DOCUMENT, ENTRY_ROW, SEED_ROW = 0.4, 0.2, 0.2, 0.2, 0.3
METRIC = Yardstick().metric
MIDDLE = {METRIC: 0.26, LOSS: 3.0}
LOSS_SCALE = 0.5  # of the latent score in the exponent
TOKENS = (2.4, 0.4, 0.2)  # log-normal: location, own spread, lean on the document
SEED_EFFECTS = {"none": 0.0, "0.8 points": 0.03}  # latent, by what they are in ROUGE
ENTRIES, RESAMPLES, BATCH = 4, 2000, 50
SEEDS, DOCUMENTS = (1, 3, 5), (100, 200, 1000)
SPREAD = numpy.sqrt(DOCUMENT**2 + ROW**2 + ENTRY_DOCUMENT**2 + ENTRY_ROW**2 + SEED_ROW**2)


@dataclass(frozen=True)
class Cell:
    """One design: how many seeds, source documents and simulations, and how much seeds matter."""

    seeds: int
    documents: int
    effect: str
    simulations: int

    @property
    def seed_spread(self) -> float:
        """Standard deviation of the seeds' effects."""
        return SEED_EFFECTS[self.effect]


def location(metric: str, mean: float, seed_spread: float) -> float:
    """Return where the latent score must lie for the metric to have this mean over documents and seeds."""
    variance = SPREAD**2 + seed_spread**2
    if metric == METRIC:
        return float(ndtri(mean) * numpy.sqrt(1 + variance))
    # Tokens lean on the document, so longer targets weigh more: E[T L] / E[T] of two log-normals.
    return float((numpy.log(mean) - LOSS_SCALE**2 * variance / 2 - LOSS_SCALE * TOKENS[2] * DOCUMENT) / LOSS_SCALE)


def mean_at(metric: str, place: Any, seed_spread: float) -> Any:
    """Return the metric's mean for latent locations; the inverse of `location`."""
    variance = SPREAD**2 + seed_spread**2
    if metric == METRIC:
        return ndtr(place / numpy.sqrt(1 + variance))
    return numpy.exp(LOSS_SCALE * place + LOSS_SCALE**2 * variance / 2 + LOSS_SCALE * TOKENS[2] * DOCUMENT)


def simulate(
    generator: numpy.random.Generator, cell: Cell, labels: Any, means: dict[str, list[float]], owners: Sequence[int]
) -> tuple[dict[tuple[str, str], Scores], dict[tuple[str, str], float]]:
    """Return simulated scores and the truth of each, by (entry, metric).

    `means` are the entries' true means on each metric. Entries of one owner are one entry, run with other seeds.
    """
    rows, sources = len(labels), cell.documents
    draw = generator.normal
    source = draw(0, DOCUMENT, sources)
    shared = source[labels] + draw(0, ROW, rows)
    tokens = numpy.exp(TOKENS[0] + draw(0, TOKENS[1], rows) + TOKENS[2] * source[labels] / DOCUMENT)
    owned: dict[int, Any] = {}
    scores, truth = {}, {}
    for entry, owner in enumerate(owners):
        if owner not in owned:
            owned[owner] = draw(0, ENTRY_DOCUMENT, sources)[labels] + draw(0, ENTRY_ROW, rows)
        own = owned[owner]
        seeds = draw(0, cell.seed_spread, (cell.seeds, 1))
        effects = shared + own + seeds + draw(0, SEED_ROW, (cell.seeds, rows))
        for metric, middle in means.items():
            place = location(metric, middle[entry], cell.seed_spread)
            key = (str(entry), metric)
            if metric == METRIC:
                scores[key] = Scores(ndtr(place + effects), numpy.ones(rows))
            else:
                scores[key] = Scores(numpy.exp(LOSS_SCALE * (place + effects)) * tokens, tokens)
            truth[key] = middle[entry] if cell.seeds > 1 else float(mean_at(metric, place + seeds[0, 0], 0.0))
    return scores, truth


def batches(cell: Cell, means: dict[str, list[float]], owners: Sequence[int], stream: int, runs: int = 1) -> Any:
    """Yield for each simulation its estimates, its compared pairs, and the truth.

    Pairs are compared within each of so many `runs`, which share out the entries.
    """
    generator = numpy.random.default_rng([cell.seeds, cell.documents, cell.effect != "none", stream])
    labels = numpy.repeat(numpy.arange(cell.documents), generator.choice([1, 2, 3], cell.documents, p=[0.7, 0.2, 0.1]))
    entries = [[str(i) for i in group] for group in numpy.array_split(range(len(owners)), runs)]
    names = [list(combinations(group, 2)) for group in entries]
    for batch in range(0, cell.simulations, BATCH):
        drawn = [simulate(generator, cell, labels, means, owners) for _ in range(min(BATCH, cell.simulations - batch))]
        resamples = Resamples(list(labels), seed=batch, resamples=RESAMPLES)
        found = estimate({(i, *k): s for i, (scores, _) in enumerate(drawn) for k, s in scores.items()}, resamples)
        for i, (scores, truth) in enumerate(drawn):
            estimates = {key: found[(i, *key)] for key in scores}
            yield estimates, [pair for group in names for pair in compare(group, estimates, METRIC)], truth


def on(metric: str, pair: Pair) -> Pair:
    """Return a pair's figures on one metric."""
    return pair if metric == METRIC else pair["loss"]


def equal_entries(cell: Cell) -> dict[str, dict[str, float]]:
    """Return coverage, family-wise error and the printed detectable gap over entries of equal mean, by metric."""
    means = {metric: [middle] * ENTRIES for metric, middle in MIDDLE.items()}
    counts: dict[str, dict[str, list[Any]]] = {m: {"score": [], "pair": [], "family": [], "gap": []} for m in means}
    for estimates, pairs, truth in batches(cell, means, range(ENTRIES), stream=0):
        for metric, count in counts.items():
            for (entry, its), value in estimates.items():
                if its == metric:
                    low, high = value.interval()
                    count["score"].append(low <= truth[entry, metric] <= high)
            for pair in pairs:
                gap = truth[pair["first"], metric] - truth[pair["second"], metric]
                count["pair"].append(on(metric, pair)["low"] <= gap <= on(metric, pair)["high"])
            count["family"].append(any(on(metric, pair)["different"] for pair in pairs))
            count["gap"] += [on(metric, pair)["detectable"] for pair in pairs]
    return {
        metric: {
            "score_coverage": float(numpy.mean(count["score"])),
            "difference_coverage": float(numpy.mean(count["pair"])),
            "family_wise_error": float(numpy.mean(count["family"])),
            "detectable_gap": float(numpy.mean(count["gap"])),
        }
        for metric, count in counts.items()
    }


def same_entry(cell: Cell) -> dict[str, float]:
    """Return how often an entry is called different from itself under other seeds, by metric."""
    found = [pairs[0] for _, pairs, _ in batches(cell, {m: [v] * 2 for m, v in MIDDLE.items()}, [0, 0], stream=1)]
    return {metric: float(numpy.mean([on(metric, pair)["different"] for pair in found])) for metric in MIDDLE}


def one_behind(cell: Cell, gaps: dict[str, float]) -> dict[str, float]:
    """Return how often the first entry, apart from all others by the printed gap, is told from each, by metric."""
    means = {metric: [middle + gaps[metric], *[middle] * (ENTRIES - 1)] for metric, middle in MIDDLE.items()}
    hits: dict[str, list[bool]] = {metric: [] for metric in means}
    for _, pairs, _ in batches(cell, means, range(ENTRIES), stream=2):
        for metric, hit in hits.items():
            hit += [on(metric, pair)["different"] for pair in pairs if pair["first"] == "0"]
    return {metric: float(numpy.mean(hit)) for metric, hit in hits.items()}


def ties_again(cell: Cell, gaps: dict[str, float]) -> dict[str, float]:
    """Return how often a rerun has the same entries tied with its best, by metric.

    Half of the entries are equal and ahead of the others, which are equal too, by twice the printed gap.
    """
    half, owners = ENTRIES // 2, list(range(ENTRIES)) * 2
    ahead = {metric: middle + (2 if metric == METRIC else -2) * gaps[metric] for metric, middle in MIDDLE.items()}
    means = {metric: ([ahead[metric]] * half + [middle] * half) * 2 for metric, middle in MIDDLE.items()}
    same: dict[str, list[bool]] = {metric: [] for metric in means}
    for estimates, pairs, _ in batches(cell, means, owners, stream=3, runs=2):
        for metric, hits in same.items():
            runs = range(ENTRIES), range(ENTRIES, 2 * ENTRIES)
            first, second = (tied(run, estimates, pairs, metric) for run in runs)
            hits.append(first == second)
    return {metric: float(numpy.mean(hits)) for metric, hits in same.items()}


def tied(run: Sequence[int], estimates: Any, pairs: list[Pair], metric: str) -> set[int]:
    """Return which of a run's entries are its best or tied with it, as their owners."""
    sign = 1 if metric == METRIC else -1
    best = max(run, key=lambda entry: sign * estimates[str(entry), metric].value)
    apart = {frozenset((p["first"], p["second"])) for p in pairs if on(metric, p)["different"]}
    return {entry % ENTRIES for entry in run if frozenset((str(entry), str(best))) not in apart}


def measure(cell: Cell) -> list[dict[str, Any]]:
    """Return a row a metric: one design's rates."""
    equal, same = equal_entries(cell), same_entry(cell)
    gaps = {metric: row["detectable_gap"] for metric, row in equal.items()}
    power, again = one_behind(cell, gaps), ties_again(cell, gaps)
    design = {"seeds": cell.seeds, "documents": cell.documents, "seed_effect": cell.effect}
    return [
        design
        | {"metric": metric}
        | row
        | {"same_entry_different": same[metric], "detected_at_gap": power[metric], "ties_again": again[metric]}
        for metric, row in equal.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rates as a Markdown table, in per cent."""
    columns = {
        "seeds": "seeds", "documents": "documents", "seed_effect": "seed effect", "metric": "metric",
        "score_coverage": "score covered", "difference_coverage": "difference covered",
        "same_entry_different": "A against A different", "family_wise_error": "family-wise error",
        "detectable_gap": "printed gap", "detected_at_gap": "detected at it",
        "ties_again": "same ties in a rerun",
    }  # fmt: skip
    lines = ["| " + " | ".join(columns.values()) + " |", "|---:|---:|---|---|" + "---:|" * 7]
    for row in rows:
        cells = []
        for key in columns:
            value = row[key]
            if key == "detectable_gap":
                cells.append(f"{100 * value:.1f} points" if row["metric"] == METRIC else f"{value:.3f}")
            elif isinstance(value, float):
                cells.append(f"{100 * value:.1f}")
            else:
                cells.append(str(value).removeprefix("test/"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure every design and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="per design (default: 1000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="side by side (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    cells = [
        Cell(seeds, documents, effect, arguments.simulations)
        for seeds in SEEDS
        for effect in SEED_EFFECTS
        for documents in DOCUMENTS
    ]
    start = time.monotonic()
    with multiprocessing.Pool(arguments.processes) as pool:
        rows = [row for found in pool.imap(measure, cells) for row in found]
    seconds = time.monotonic() - start
    if arguments.json:
        print(json.dumps({"simulations": arguments.simulations, "seconds": seconds, "rows": rows}, indent=1))
    else:
        print(f"{table(rows)}\n\n{arguments.simulations} simulations a design, in {seconds:.0f} s.")


if __name__ == "__main__":
    main()
