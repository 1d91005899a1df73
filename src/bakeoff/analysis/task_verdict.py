"""The joint verdict over tasks and bases: which entry is ahead on them, and for what more that holds."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy
from numpy.typing import NDArray

from bakeoff.analysis.cells import (
    Cell,
    TaskDocuments,
    common_entries,
    floored_gap,
    grid_of,
    logarithm,
    over_bases,
    shared_documents,
)
from bakeoff.analysis.level import LEVEL
from bakeoff.analysis.multiplicity import shaffer
from bakeoff.analysis.pairs import LOSS
from bakeoff.analysis.rounds import Estimates
from bakeoff.analysis.statistics import Estimate
from bakeoff.analysis.task_words import measure_text
from bakeoff.analysis.tasks import (
    ENOUGH_BASES,
    ENOUGH_TASKS,
    Joint,
    on_a_new_task,
    on_tasks_and_bases_like_these,
    on_tasks_like_these,
    on_these,
)
from bakeoff.errors import SetupError
from bakeoff.scoring.baselines import BASE
from bakeoff.store.tasks_document import Scope, TaskCell, TaskMeasure, TaskPair, TasksDocument

Array = NDArray[numpy.float64]
Pick = Callable[[Cell, Estimates, str], Estimate]  # an entry's score in one cell
COSTS = ("train_seconds", "tuning_seconds", "peak_bytes", "adapter_bytes", "price", "tuning_price")
PRICES = ("price", "tuning_price")


def summarize_tasks(cells: Sequence[Cell], name: str) -> TasksDocument:
    """Return what several bakeoffs say together; raise SetupError if they are not every task on every base."""
    tasks, bases = grid_of(cells)
    overlaps = shared_documents([TaskDocuments(c.task, str(c.folder.path), c.documents) for c in cells])
    entries, notes = common_entries(cells)
    estimates = {(c.task, c.base): c.estimates(entries) for c in cells}
    few = next((c for c in cells if min(e.clusters for e in estimates[c.task, c.base].values()) < 2), None)
    if few:
        raise SetupError(f"{few.folder.path}: one test document tells nothing. Try: more of them, or without this task")
    grid = Grid(tasks, bases, entries, {(c.task, c.base): c for c in cells}, estimates)
    measures = [grid.measure("score", ranked), grid.measure("loss", loss_ratio)]
    found = [measure for measure in measures if measure is not None]
    if not found:
        raise SetupError(f"{cells[0].folder.path}: no measure in common. Try: the same metrics in all bakeoffs")
    notes += [*overlaps, *remarks(cells, entries)]
    texts = [measure_text(measure, tasks, bases) for measure in found]
    found = [m.model_copy(update={"text": text}) for m, text in zip(found, texts, strict=True)]
    return TasksDocument(
        schema_version=1, name=name, tasks=tasks, bases=bases, entries=entries,
        cells=[
            TaskCell(task=c.task, base=c.base, name=c.document.name, folder=str(c.folder.path),
                     documents=c.document.verdict.documents, headline=c.document.verdict.headline,
                     records=c.document.records)
            for c in cells
        ],
        measures=found, costs=costs(cells, entries), currency=currency(cells),
        text=" ".join(dict.fromkeys(texts)), notes=notes,
    )  # fmt: skip


def ranked(cell: Cell, estimates: Estimates, name: str) -> Estimate:
    """Return the score that a bakeoff ranks by."""
    return estimates[name, f"test/{cell.plan.primary}"]


def loss_ratio(cell: Cell, estimates: Estimates, name: str) -> Estimate:
    """Return the logarithm of an entry's test loss over the base's: tasks then have one unit."""
    return logarithm(estimates[name, LOSS]) - logarithm(estimates[BASE, LOSS])


class Grid:
    """Entries on tasks and bases, with their estimates by (task, base)."""

    def __init__(
        self, tasks: list[str], bases: list[str], entries: list[str], cells: Mapping[tuple[str, str], Cell],
        estimates: Mapping[tuple[str, str], Estimates],
    ):  # fmt: skip
        self.tasks, self.bases, self.entries, self.cells, self.estimates = tasks, bases, entries, cells, estimates
        few_tasks, few_bases = len(tasks) < ENOUGH_TASKS, len(bases) < ENOUGH_BASES
        self.scope: Scope = "these" if few_tasks else "tasks" if few_bases else "tasks and bases"

    def measure(self, name: str, pick: Pick) -> TaskMeasure | None:
        """Return what one measure says; None if the cells do not have it in one unit."""
        facts = [cell.plan.ranked_by for cell in self.cells.values()]
        bounded = all(fact.bounded for fact in facts) and name == "score"
        if name == "score" and not bounded and len({(f.name, f.bounded) for f in facts}) > 1:
            return None
        losses = [self.estimates[at].get((n, LOSS)) for at in self.cells for n in (*self.entries, BASE)]
        if name == "loss" and not all(score is not None and score.value > 0 for score in losses):
            return None
        scores = {at: {n: pick(cell, self.estimates[at], n) for n in self.entries} for at, cell in self.cells.items()}
        means = numpy.array(
            [[[scores[t, b][n].value for n in self.entries] for b in self.bases] for t in self.tasks]
        )  # (tasks, bases, entries)
        better = 1 if name == "score" else -1
        order = sorted(range(len(self.entries)), key=lambda e: -better * means[:, :, e].mean())
        pairs = self.pairs(scores, means[:, :, order], [self.entries[e] for e in order])
        best = self.entries[order[0]]
        headings = list(dict.fromkeys(fact.heading for fact in facts))
        return TaskMeasure(
            name=name,
            heading="test loss" if name == "loss" else headings[0] if len(headings) == 1 else "the ranking scores",
            bounded=bounded,
            ratio=name == "loss",
            scope=self.scope,
            scores={
                n: {t: {b: scores[t, b][n].value for b in self.bases} for t in self.tasks} for n in self.entries
            },
            best=best,
            tied_with_best=[p.second for p in pairs if p.first == best and not p.different],
            pairs=pairs,
        )  # fmt: skip

    def pairs(
        self, scores: Mapping[tuple[str, str], Mapping[str, Estimate]], means: Array, names: Sequence[str]
    ) -> list[TaskPair]:
        """Return every pair of entries, in the order of `names`, corrected for their number."""
        gaps = {
            (a, b): {
                task: over_bases([floored_gap(scores[task, base], a, b) for base in self.bases]) for task in self.tasks
            }
            for a, b in combinations(names, 2)
        }
        found = self.joint(list(gaps.values()), means)
        known = [joint.p_value() for joint in found]
        adjusted = shaffer([1.0 if p is None else p for p in known], len(names)) if found else []
        return [
            pair_row(name, joint, p_adjusted, gaps[name], self.scope)
            for name, joint, p_adjusted in zip(gaps, found, adjusted, strict=True)
        ]

    def joint(self, gaps: Sequence[Mapping[str, Estimate]], means: Array) -> list[Joint]:
        """Return the difference of each pair over all tasks."""
        if self.scope == "these":
            return [
                on_these([g.value for g in of.values()], [g.variance for g in of.values()],
                         [g.freedom for g in of.values()])
                for of in gaps
            ]  # fmt: skip
        if self.scope == "tasks":
            return on_tasks_like_these(means.mean(axis=1)) if means.shape[2] > 1 else []
        return on_tasks_and_bases_like_these(means)


def pair_row(
    name: tuple[str, str], joint: Joint, p_adjusted: float, gaps: Mapping[str, Estimate], scope: Scope
) -> TaskPair:
    """Return one pair's row."""
    low, high = joint.interval() or (None, None)
    by_task = {task: gap.value for task, gap in gaps.items()}
    new = on_a_new_task(list(by_task.values())) if scope != "these" else (None, None)
    p = joint.p_value()
    return TaskPair(
        first=name[0], second=name[1], difference=joint.value, low=low, high=high, p=p,
        p_adjusted=None if p is None else p_adjusted, different=p is not None and p_adjusted < 1 - LEVEL,
        by_task=by_task, spans={task: span for task, gap in gaps.items() if (span := gap.interval())},
        new_low=new[0], new_high=new[1],
    )  # fmt: skip


def costs(cells: Sequence[Cell], entries: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return each entry's costs as means over cells; None where a cell has not measured one, or has another money."""
    found, mixed = {}, len(currencies(cells)) > 1
    for name in entries:
        every = {
            cost: [None if mixed and cost in PRICES else cell.document.entries[name].costs.get(cost) for cell in cells]
            for cost in COSTS
        }
        found[name] = {cost: mean_of(values) for cost, values in every.items()}
    return found


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean, or None if a value is not known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def currencies(cells: Sequence[Cell]) -> list[str]:
    """Return the moneys that the cells' prices are in."""
    return list(dict.fromkeys(cell.document.price.currency for cell in cells if cell.document.price))


def currency(cells: Sequence[Cell]) -> str:
    """Return the money of all cells; empty if they have none, or several."""
    found = {cell.document.price.currency if cell.document.price else "" for cell in cells}
    return found.pop() if len(found) == 1 else ""


def remarks(cells: Sequence[Cell], entries: Sequence[str]) -> list[str]:
    """Return what a reader must know about bakeoffs that are read together."""
    lines = []
    if len({(cell.plan.primary, cell.plan.ranked_by.bounded) for cell in cells}) > 1:
        found = dict.fromkeys(f"{cell.plan.ranked_by.heading} on {cell.task}" for cell in cells)
        lines.append(f"Tasks are ranked by different scores ({', '.join(found)}); points of all count alike.")
    if any(cell.plan.looks for cell in cells):
        least = sorted({min(cell.plan.looks) for cell in cells if cell.plan.looks})
        lines.append(
            "Of seeds in rounds only those are used here that every entry has, the first "
            f"{' or '.join(map(str, least))}: later ones were added because of results."
        )
    if len(currencies(cells)) > 1:
        lines.append(f"Prices are in {' and '.join(currencies(cells))}, so there is no mean of them.")
    sections = {"protocol": [cell.document.protocol for cell in cells]}
    sections |= {f"entries.{name}": [cell.plan.config["entries"][name] for cell in cells] for name in entries}
    differing = [f"{name}.{key}" for name, of in sections.items() for key in keys_that_differ(of)]
    if differing:
        lines.append(f"Not equal in all bakeoffs: {', '.join(differing)}.")
    return lines


def keys_that_differ(sections: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the keys that not all sections have with the same value."""
    keys = dict.fromkeys(key for section in sections for key in section)
    return [key for key in keys if any(section.get(key) != sections[0].get(key) for section in sections)]
