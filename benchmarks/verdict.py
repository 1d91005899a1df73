"""Is the verdict right as often as it says? Simulated score tables whose truth is known: `make verdict`, or
`python benchmarks/verdict.py [--simulations 1000] [--designs GROUP ...] [--records FILE]`; with a file of records a
stopped one resumes.

Tested are the package's own `estimate` and `compare`, with fewer resamples (2,000), drawn anew for every 50 simulations
so that their chance does not add up. Printed are all rates, then every promise of docs/verdict.md with the design that
comes nearest to breaking it, or breaks it most: a promise is not held where some design's rate is more than three
standard errors of its simulation beyond it.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from designs import Design, designs
from promises import design_of, lines, named, promises
from rates import Row, measure
from simulated_preferences import measure_preferences
from simulated_rounds import measure_rounds
from simulated_tasks import measure_tasks

COLUMNS = {
    "entries": "entries", "tasks": "tasks", "bases": "bases",
    "labels": "labels", "agrees": "judge agrees", "bias": "its bias",
    "seeds": "seeds", "documents": "documents", "effect": "seed effect", "metric": "metric",
    "score": "score covered", "difference": "difference covered", "family": "family-wise error", "gap": "printed gap",
    "itself": "A against A different", "power": "detected at the gap", "right": "right tie group at the gap",
    "others": "its error there",
    "kept": "best is among those named", "far": "called near the best, but far", "again": "same ties in a rerun",
    "times": "ahead by", "wrong": "any wrong claim", "covered": "interval at the end covered",
    "people_holds": "people's interval holds", "joined_holds": "joined interval holds",
    "judge_holds": "biased judge's holds", "narrower": "joined is narrower by",
    "these": "wrong on these tasks", "these_holds": "interval holds", "like": "wrong for like tasks",
    "like_holds": "interval holds", "as_one": "wrong if these are read as all",
    "new": "one more task's interval holds",
    "used": "final runs per entry", "told": "right tie group", "five": "right with five seeds",
    "own": "right with five seeds, earlier test", "own_wrong": "its wrong claims",
}  # fmt: skip


def measured(design: Design) -> list[Row]:
    """Return the rows of a design."""
    if design.judge:
        return measure_preferences(design)
    if design.grid[0]:
        return measure_tasks(design)
    return measure_rounds(design) if design.looks else measure(design)


def tables(rows: Sequence[Row]) -> str:
    """Return all rates in per cent; designs of which fewer are measured have a table of their own."""
    kinds = [
        lambda d: d.whole, lambda d: not (d.whole or d.looks or d.grid[0] or d.judge), lambda d: bool(d.looks),
        lambda d: bool(d.grid[0]), lambda d: bool(d.judge),
    ]  # fmt: skip
    parts = [[row for row in rows if kind(design_of(row))] for kind in kinds]
    return "\n\n".join(table(part) for part in parts if part)


def share(key: str, value: float) -> str:
    """Return a rate in per cent, or a number of runs."""
    return f"{value:.2f}" if key == "used" else f"{100 * value:.1f}"


def table(rows: Sequence[Row]) -> str:
    """Return the rates of designs of which the same is measured."""
    words = named(rows[0])
    keys = [k for k in COLUMNS if words.get(k) or any(k in row for row in rows if k not in named(row))]
    keys = [k for k in keys if k not in ("gap", "metric") or words.get(k)]
    shown = [named(row) | {k: share(k, row[k][0]) for k in keys if isinstance(row.get(k), list)} for row in rows]
    return lines([COLUMNS[key] for key in keys], [[row.get(key, "") for key in keys] for row in shown])


def main() -> None:
    """Measure every design that is not on record yet and print rates and promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--simulations", type=int, default=1000, help="per design (default: 1000; of some more or fewer)"
    )
    parser.add_argument("--designs", nargs="+", choices=designs(1), help="groups of designs (default: all)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="side by side (default: all cores)")
    parser.add_argument("--records", type=Path, help="file of JSON lines that rates are added to and read from")
    arguments = parser.parse_args()
    groups = designs(arguments.simulations)
    every = list(chain.from_iterable(groups[name] for name in arguments.designs or groups))
    file = arguments.records
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []
    have = {design_of(row) for row in rows}
    start = time.monotonic()
    with multiprocessing.Pool(arguments.processes) as pool:
        for found in pool.imap_unordered(measured, sorted(set(every) - have, key=lambda design: design.whole)):
            rows += json.loads(json.dumps(found))
            if file:
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = sorted((row for row in rows if design_of(row) in every), key=lambda row: every.index(design_of(row)))
    print(f"{tables(rows)}\n\n{promises(rows)}\n\n{time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
