"""How low a loss trials reach that are drawn before anything runs, and trials that are asked for, at equal cost.

    python benchmarks/samplers.py [RUN_FOLDER ...] [--seeds 30] [--trials 4 8 16]

Without run folders the losses are those of two made-up surfaces: a valley along a learning rate and a rank, and one
along a learning rate alone. With run folders they are interpolated between an entry's recorded trials (by linear radial
functions, on the scales of its ranges), of which there must be at least eight that went to the end.
"""

import argparse
import math
import random
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy
from scipy.interpolate import RBFInterpolator

from bakeoff.api import load_results
from bakeoff.store.results_document import ResultsRow
from bakeoff.tuning.asking import ask
from bakeoff.tuning.search import Range, Settings, trial_points

Loss = Callable[[Settings], float]
RATE, RANK = Range(1e-5, 1e-1), Range(1, 64, integer=True)
LEAST = 8  # recorded trials


def valley(seed: int) -> Loss:
    """Return a loss that is lowest at a rate that differs from seed to seed, and at rank 8 if there are ranks."""
    centre = random.Random(seed).uniform(-4.5, -1.5)
    return lambda p: (math.log10(p["learning_rate"]) - centre) ** 2 + 0.2 * (math.log2(p.get("r", 8)) - 3) ** 2


def recorded(row: ResultsRow, ranges: Mapping[str, Range]) -> Loss:
    """Return the loss between an entry's recorded trials."""
    done = [t for t in row.tuning.trials if t.status == "done"] if row.tuning else []

    def place(settings: Settings) -> list[float]:
        return [share(settings[name], span) for name, span in ranges.items()]

    known = RBFInterpolator([place(t.settings) for t in done], [t.validation_loss for t in done], kernel="linear")
    return lambda settings: float(known(numpy.array([place(settings)]))[0])


def share(value: float, span: Range) -> float:
    """Return where a value is in its range, 0 to 1 on its scale."""
    if span.scale == "log":
        return math.log(value / span.low) / math.log(span.high / span.low)
    return (value - span.low) / (span.high - span.low)


def lowest(ranges: Mapping[str, Range], loss: Loss, trials: int, seed: int) -> tuple[float, float]:
    """Return the lowest loss of trials that are drawn, and of as many of which half are asked for."""
    drawn = min(map(loss, trial_points(ranges, trials, seed)))
    tried: list[tuple[Settings, float | None]] = [
        (point, loss(point)) for point in trial_points(ranges, trials - trials // 2, seed)
    ]
    while len(tried) < trials:
        point = ask(ranges, tried, seed)
        tried.append((point, loss(point)))
    return drawn, min(found for _, found in tried if found is not None)


def compare(name: str, ranges: Mapping[str, Range], loss_of: Callable[[int], Loss], trials: int, seeds: int) -> None:
    """Print the mean lowest losses over seeds, and how often what was asked for is lower."""
    pairs = [lowest(ranges, loss_of(seed), trials, seed) for seed in range(seeds)]
    drawn, asked = (statistics.mean(column) for column in zip(*pairs, strict=True))
    lower, equal = sum(a < d for d, a in pairs), sum(a == d for d, a in pairs)
    counts = f"lower {lower}, equal {equal}, of {seeds}"
    print(f"{name}, {trials} trials: drawn {drawn:.4f}, asked {asked:.4f} ({counts})")


def main() -> None:
    """Compare on what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--trials", type=int, nargs="+", default=[4, 8, 16])
    given = parser.parse_args()
    surfaces: list[tuple[str, Mapping[str, Range], Callable[[int], Loss]]] = []
    for folder in given.folders:
        for name, row in load_results(folder).document.entries.items():
            if row.tuning and sum(t.status == "done" for t in row.tuning.trials) >= LEAST:
                ranges = {
                    k: Range(s.low, s.high, s.scale, all(isinstance(t.settings[k], int) for t in row.tuning.trials))
                    for k, s in row.search.items()
                }
                loss = recorded(row, ranges)
                surfaces.append((f"{folder.name}/{name}", ranges, lambda _, loss=loss: loss))
    if not given.folders:
        surfaces = [
            ("rate and rank", {"learning_rate": RATE, "r": RANK}, valley),
            ("rate", {"learning_rate": RATE}, valley),
        ]
    for name, ranges, loss_of in surfaces:
        for trials in given.trials:
            compare(name, ranges, loss_of, trials, given.seeds)


if __name__ == "__main__":
    main()
