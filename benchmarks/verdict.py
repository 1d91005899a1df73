"""Is the verdict right as often as it says? Simulated score tables whose truth is known: `make verdict`, or
`python benchmarks/verdict.py [--simulations 1000] [--records FILE]`; with a file of records a stopped one resumes.

Tested are the package's own `estimate` and `compare`, with fewer resamples (2,000), drawn anew for every 50 simulations
so that their chance does not add up. Printed are all rates, then every promise of docs/verdict.md with the design that
comes nearest to breaking it, or breaks it most: a promise is not held where some design's rate is more than three
standard errors of its simulation beyond it.

With one seed for every entry the truth is that of this seed: the interval says that it does not speak of others. A
rerun is a second bakeoff of the same entries on the same documents with fresh seeds: two entries are equal, two are
far behind, and both bakeoffs should say so.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from bakeoff.analysis.verdict import LOSS
from bakeoff.store.results_document import Difference, Pair
from simulated import METRIC, Design, bakeoffs, designs

BEYOND = 3.0  # standard errors
FEWER = 0.3  # of the simulations, for power and reruns: rates over several pairs, or near 1
Row = dict[str, Any]
COLUMNS = {
    "entries": "entries", "seeds": "seeds", "documents": "documents", "effect": "seed effect", "metric": "metric",
    "score": "score covered", "difference": "difference covered", "family": "family-wise error", "gap": "printed gap",
    "itself": "A against A different", "power": "detected at the gap", "again": "same ties in a rerun",
}  # fmt: skip


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


def one_ahead(design: Design, gaps: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Return how often the first entry, apart from all others by the printed gap, is told from each, by metric."""
    entries = range(len(design.seeds))
    means = {m: [mean + gaps[m], *[mean] * (len(entries) - 1)] for m, mean in design.metrics.items()}
    hits: dict[str, list[Any]] = {metric: [] for metric in means}
    for _, pairs, _ in bakeoffs(design, means, entries, stream=2):
        for metric, hit in hits.items():
            hit.append(numpy.mean([on(metric, pair).different for pair in pairs if pair.first == "0"]))
    return {metric: rate(hit) for metric, hit in hits.items()}


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
        found = {"itself": same_entry(design), "power": one_ahead(fewer, gaps), "again": ties_again(fewer, gaps)}
        rows = {metric: row | {key: by[metric] for key, by in found.items()} for metric, row in rows.items()}
    return [{"design": asdict(design), "metric": metric, **row} for metric, row in rows.items()]


def several(design: Design) -> bool:
    """Return whether intervals cover what varies, and show it: not what collapses now and then."""
    return (max(design.seeds) > 1 or design.points == 0) and "collapsing" not in design.law


def one_noisy(design: Design) -> bool:
    """Return whether one entry's seeds vary far more than the others'."""
    return bool(design.times) and min(design.times[:1]) >= 5 * max(design.times[1:])


def one_tells(design: Design) -> bool:
    """Return whether what seeds vary by is known from one entry: one is far noisier, or only one has several seeds."""
    return several(design) and (one_noisy(design) or sum(count > 1 for count in design.seeds) == 1)


def many_like_documents(design: Design) -> bool:
    """Return whether a score rests on enough documents of about equal weight, and on more than two seeds or on one."""
    weighty = design.rows == "1 to 3" and design.scores == "usual" and design.documents >= 100
    return weighty and "collapsing" not in design.law and (min(design.seeds) > 2 or max(design.seeds) == 1)


@dataclass(frozen=True)
class Promise:
    """What docs/verdict.md says of a rate: its least and highest value, and of which designs."""

    text: str
    key: str
    low: float
    high: float
    of: Callable[[Design], bool]

    def beyond(self, row: Row) -> float:
        """Return by how many standard errors a row's rate lies outside (negative: inside)."""
        share, error = row[self.key]
        sides = [self.low - share] * (self.low > 0) + [share - self.high] * (self.high < 1)
        return float(max(sides) / error)


PROMISES = (
    Promise("a score's interval holds the truth", "score", 0.93, 0.97, many_like_documents),
    Promise("a difference's interval holds the truth", "difference", 0.93, 1, several),
    Promise("an entry is called different from itself", "itself", 0, 0.05, several),
    Promise(
        "any pair of equal entries is called different", "family", 0, 0.05, lambda d: several(d) and not one_tells(d)
    ),
    Promise("the same, one entry far noisier", "family", 0, 0.06, lambda d: one_tells(d) and len(d.seeds) > 2),
    Promise(
        "the same, of two entries one far noisier or with one seed",
        "family",
        0,
        0.07,
        lambda d: one_tells(d) and len(d.seeds) == 2,
    ),
    Promise("found at the printed gap, several seeds", "power", 0.65, 1, lambda d: min(d.seeds) > 2),
    Promise("same ties in a rerun, several seeds", "again", 0.93, 1, lambda d: min(d.seeds) > 2),
)


def named(row: Row) -> dict[str, str]:
    """Return what a design is, in words, by column."""
    design = design_of(row)
    counts = dict.fromkeys(design.seeds)
    effect = f"{design.points:g} points" if design.points else "none"
    effect += "".join(f", {law}" for law in dict.fromkeys(design.law) if law != "normal")
    if one_noisy(design):
        effect += f", one entry x {max(design.times) / min(design.times):g}"
    elif design.times:
        effect += f", x {min(design.times):g} to {max(design.times):g}"
    kind = {"rare": "exact match, 3 %", "heavy": "heavy loss"}.get(design.scores, row["metric"].removeprefix("test/"))
    rows = "" if design.rows == "1 to 3" else f", {design.rows} rows"
    return {
        "entries": str(len(design.seeds)),
        "seeds": str(design.seeds[0]) if len(counts) == 1 else ", ".join(map(str, design.seeds)),
        "documents": f"{design.documents}{rows}",
        "effect": effect,
        "metric": kind,
        "gap": f"{100 * row['gap']:.1f} points" if row["metric"] == METRIC else f"{row['gap']:.3f}",
    }


def design_of(row: Row) -> Design:
    """Return the design of a row that may have been read from a file."""
    return Design(**{k: tuple(v) if isinstance(v, list) else v for k, v in row["design"].items()})


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows))


def table(rows: Sequence[Row]) -> str:
    """Return all rates in per cent; designs of which fewer are measured have a table of their own."""
    tables = []
    for whole in (True, False):
        among = [row for row in rows if design_of(row).whole is whole]
        keys = [
            key for key in COLUMNS if key in ("entries", "seeds", "documents", "effect", "metric") or key in among[0]
        ]
        shown = [
            named(row) | {k: f"{100 * row[k][0]:.1f}" for k in keys if isinstance(row.get(k), list)} for row in among
        ]
        tables.append(lines([COLUMNS[key] for key in keys], [[row[key] for key in keys] for row in shown]))
    return "\n\n".join(tables)


def promises(rows: Sequence[Row]) -> str:
    """Return a line a promise: asked for, of how many rates, the worst of them, and whether it is held."""
    found = []
    for promise in PROMISES:
        among = [row for row in rows if promise.key in row and promise.of(design_of(row))]
        worst = max(among, key=promise.beyond)
        share, error = worst[promise.key]
        asked = [f"at least {100 * promise.low:g}"] * (promise.low > 0) + [f"at most {100 * promise.high:g}"] * (
            promise.high < 1
        )
        words = named(worst)
        where = "; ".join(f"{key}: {words[key]}" for key in ("entries", "seeds", "documents", "effect", "metric"))
        held = "held" if promise.beyond(worst) <= BEYOND else "NOT HELD"
        cells = (promise.text, ", ".join(asked), f"{len(among)}", f"{100 * share:.1f} ({100 * error:.1f})", where, held)
        found.append(cells)
    return lines(("promise", "asked for, %", "rates", "the worst (standard error)", "its design", "held?"), found)


def main() -> None:
    """Measure every design that is not on record yet and print rates and promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--simulations", type=int, default=1000, help="per design (default: 1000; of some more or fewer)"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="side by side (default: all cores)")
    parser.add_argument("--records", type=Path, help="file of JSON lines that rates are added to and read from")
    arguments = parser.parse_args()
    every = designs(arguments.simulations)
    file = arguments.records
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []
    have = {design_of(row) for row in rows}
    start = time.monotonic()
    with multiprocessing.Pool(arguments.processes) as pool:
        for found in pool.imap_unordered(measure, sorted(set(every) - have, key=lambda design: design.whole)):
            rows += json.loads(json.dumps(found))
            if file:
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = sorted((row for row in rows if design_of(row) in every), key=lambda row: every.index(design_of(row)))
    print(f"{table(rows)}\n\n{promises(rows)}\n\n{time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
