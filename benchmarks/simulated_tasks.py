"""Simulated tasks and bases, for benchmarks/verdict.py: the package's own joint statements over entries of equal mean.

The unit is an entry's standard deviation within a task, which differs between tasks (log-normal, by a factor of ten)
and is known from eight degrees of freedom. Over tasks, bases and both together an entry's true score varies by
multiples of it, of one entry four times as much in some designs, and with heavy tails (t, three degrees) in others.
"""

from dataclasses import asdict
from typing import Any

import numpy

from bakeoff.analysis.multiplicity import shaffer
from bakeoff.analysis.tasks import (
    Joint,
    gaps_of,
    on_a_new_task,
    on_tasks_and_bases_like_these,
    on_tasks_like_these,
    on_these,
)
from designs import METRIC, Design
from rates import Row, rate

WITHIN_FREEDOM = 8
UNEVEN = 0.6  # of the logarithm of the standard deviation within a task


def measure_tasks(design: Design) -> list[Row]:
    """Return the rates of one design: wrong claims, and how often intervals hold, for these tasks and for like ones."""
    generator = numpy.random.default_rng([*design.grid, len(design.seeds), round(10 * design.points), len(design.law)])
    found: dict[str, list[Any]] = {
        "these": [],
        "these_holds": [],
        "like": [],
        "like_holds": [],
        "new": [],
        "as_one": [],
    }
    for _ in range(design.simulations):
        effects, spread = drawn(generator, design)
        noise = spread * generator.standard_normal(effects.shape)
        known = spread**2 * generator.chisquare(WITHIN_FREEDOM, effects.shape) / WITHIN_FREEDOM
        add_these(found, effects - effects.mean(axis=(0, 1)), noise, known)
        if design.grid[0] >= 5:
            add_like(found, effects[:-1] + noise[:-1], effects[-1])
        found["as_one"].append(wrong(on_each(effects[:-1] + noise[:-1], known), len(design.seeds)))
    rates = {key: rate(values) for key, values in found.items() if values}
    return [{"design": asdict(design), "metric": METRIC, "gap": 0.0, **rates}]


def drawn(generator: numpy.random.Generator, design: Design) -> tuple[Any, Any]:
    """Return true scores and standard deviations within, (tasks + 1, bases, entries); the last task is a new one."""
    tasks, bases, entries = design.grid[0] + 1, design.grid[1], len(design.seeds)
    times = numpy.array(design.times or (1.0,) * entries)

    def of(*shape: int) -> Any:
        heavy = design.law[0] == "heavy"
        return generator.standard_t(3, shape) / 3**0.5 if heavy else generator.standard_normal(shape)

    effects = of(tasks, 1, entries) + of(tasks, bases, entries) * (bases > 1) + of(1, bases, entries) * (bases > 2)
    spread = numpy.exp(UNEVEN * generator.standard_normal((tasks, 1, 1))) * numpy.ones((1, bases, entries))
    return design.points * times * effects, spread


def add_these(found: dict[str, list[Any]], effects: Any, noise: Any, known: Any) -> None:
    """Judge pairs on these tasks and bases alone, where all entries are equal on average."""
    judge(found, "these", on_each(effects[:-1] - effects[:-1].mean(axis=(0, 1)) + noise[:-1], known), effects.shape[2])


def on_each(y: Any, known: Any) -> list[Joint]:
    """Return each pair's difference on these tasks and bases alone."""
    tasks, bases = y.shape[:2]
    firsts, seconds = numpy.triu_indices(y.shape[2], 1)
    both = numpy.stack([known[:tasks, :, firsts], known[:tasks, :, seconds]])  # (2, tasks, bases, pairs)
    variances = both.sum(axis=(0, 2)) / bases**2
    freedoms = both.sum(axis=(0, 2)) ** 2 / (both**2).sum(axis=(0, 2)) * WITHIN_FREEDOM
    gaps = gaps_of(y).mean(axis=1)
    return [on_these(*(x[:, pair].tolist() for x in (gaps, variances, freedoms))) for pair in range(gaps.shape[1])]


def add_like(found: dict[str, list[Any]], y: Any, new: Any) -> None:
    """Judge pairs for tasks like these, with three bases or more for bases like these too; and predict a new task."""
    several = y.shape[1] >= 3
    joints = on_tasks_and_bases_like_these(y) if several else on_tasks_like_these(y.mean(axis=1))
    judge(found, "like", joints, y.shape[2])
    for gaps, true in zip(gaps_of(y).mean(axis=1).T, gaps_of(new).mean(axis=0), strict=True):
        low, high = on_a_new_task(gaps.tolist())
        found["new"].append(low <= true <= high)


def judge(found: dict[str, list[Any]], key: str, joints: list[Joint], entries: int) -> None:
    """Add whether any pair is called different, and the share of intervals that hold zero, which is the truth."""
    found[key].append(wrong(joints, entries))
    spans = [joint.interval() for joint in joints]
    found[f"{key}_holds"].append(numpy.mean([span is not None and span[0] <= 0 <= span[1] for span in spans]))


def wrong(joints: list[Joint], entries: int) -> bool:
    """Return whether any pair of entries, which are all equal, is called different."""
    p = [joint.p_value() for joint in joints]
    return any(value < 0.05 for value in shaffer([1.0 if v is None else v for v in p], entries))
