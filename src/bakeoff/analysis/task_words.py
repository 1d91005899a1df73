"""Sentences of the joint verdict over tasks: none says more than its scope allows."""

import math
from collections.abc import Sequence

from bakeoff.analysis.caveats import listed
from bakeoff.analysis.tasks import ENOUGH_BASES, ENOUGH_TASKS
from bakeoff.store.tasks_document import TaskMeasure, TaskPair


def shown(measure: TaskMeasure, value: float) -> str:
    """Return a difference of scores as a sentence shows it: in points, or in the score's own unit."""
    return f"{100 * value:z.1f}" if measure.bounded else f"{value:z.3g}"


def span(measure: TaskMeasure, low: float | None, high: float | None) -> str:
    """Return an interval in brackets; empty if there is none."""
    if low is None or high is None:
        return ""
    ends = [shown(measure, low), shown(measure, high)]
    return f" (95 % interval {' to '.join(ends)})"


def lead(measure: TaskMeasure, pair: TaskPair) -> str:
    """Return by how much the first of a pair is better, with unit and interval: of a loss, by how much it is lower."""
    if measure.ratio:
        less = [None if end is None else 100 * (1 - math.exp(end)) for end in (pair.difference, pair.high, pair.low)]
        value, low, high = less
        return f"{value:.1f} %" + ("" if low is None or high is None else f" (95 % interval {low:.1f} to {high:.1f} %)")
    unit = " points" if measure.bounded else ""
    return f"{shown(measure, pair.difference)}{unit}{span(measure, pair.low, pair.high)}"


def ahead(measure: TaskMeasure, pair: TaskPair) -> str:
    """Return on how many tasks the first of a pair is ahead."""
    sign = -1 if measure.ratio else 1
    count = sum(sign * value > 0 for value in pair.by_task.values())
    return f"ahead on {count} of {len(pair.by_task)} tasks"


def place(measure: TaskMeasure, tasks: Sequence[str], bases: Sequence[str]) -> str:
    """Return where a statement holds, as the beginning of a sentence."""
    these = f"{len(bases)} bases" if len(bases) > 1 else "this base"
    own = f"these {these}" if len(bases) > 1 else these
    if measure.scope == "these":
        many = f"these {len(tasks)} tasks" if len(tasks) > 1 else "this task"
        return f"On {many} and {own}"
    if measure.scope == "tasks":
        return f"On average over tasks like these {len(tasks)}, on {own}"
    return f"On average over tasks like these {len(tasks)} and bases like these {len(bases)}"


def measure_text(measure: TaskMeasure, tasks: Sequence[str], bases: Sequence[str]) -> str:
    """Return the sentences on one measure: who is ahead, by how much, on how many tasks, and how far that reaches."""
    where, best = place(measure, tasks, bases), measure.best
    if not measure.pairs:
        return f"{where}, {best} is the only entry that every bakeoff has finished."
    mine = [pair for pair in measure.pairs if pair.first == best]
    behind = [pair for pair in mine if pair.different]
    if measure.tied_with_best:
        group = f"{where}, {listed([best, *measure.tied_with_best])} are tied on {measure.heading}"
        near = max((p for p in mine if not p.different), key=lambda p: abs(p.difference))
        parts = [f"{group}; the largest difference, of {near.second}, is {lead(measure, near)}."]
    else:
        best_word = "lowest" if measure.ratio else "best"
        parts = [f"{where}, {best} is {best_word} on {measure.heading}."]
    for pair in behind:
        own = f"the loss of {best}" if measure.tied_with_best else "its loss"
        subject = f"{best if measure.tied_with_best else 'It'} is ahead of"
        if measure.ratio:
            subject = f"Against the base's, {own} is lower than that of"
        parts.append(f"{subject} {pair.second} by {lead(measure, pair)}, {ahead(measure, pair)}.")
    parts += reach(measure, mine, tasks, bases)
    return " ".join(parts)


def reach(measure: TaskMeasure, mine: Sequence[TaskPair], tasks: Sequence[str], bases: Sequence[str]) -> list[str]:
    """Return the sentences on how far a statement reaches: on a new task, or not beyond these."""
    if measure.ratio:
        return []
    if measure.scope == "these":
        return [f"This holds for these alone: from {ENOUGH_TASKS} tasks on it can be said of others like them."]
    lines = []
    first = mine[0]
    if first.new_low is not None and first.new_high is not None:
        ends = f"{shown(measure, first.new_low)} and {shown(measure, first.new_high)}"
        unit = " points" if measure.bounded else ""
        lines.append(
            f"On one more task like these, {first.first} minus {first.second} would lie between {ends}{unit} (95 %)."
        )
    if measure.scope == "tasks" and len(bases) > 1:
        lines.append(f"Of other bases nothing is said: that takes {ENOUGH_BASES} or more.")
    lines.append("All of it holds if tasks were not chosen after their results were seen.")
    return lines
