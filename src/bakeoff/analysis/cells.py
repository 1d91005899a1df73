"""The bakeoffs of several tasks on several bases, as one table: which they are, and what each tells of its entries."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy

from bakeoff.analysis.pairs import LOSS
from bakeoff.analysis.rounds import Estimates
from bakeoff.analysis.seeds import SeedSpread, pooled, with_floor
from bakeoff.analysis.statistics import Estimate, Resamples, estimate
from bakeoff.analysis.summary import read_clusters, read_scores
from bakeoff.config.planned import planned_config
from bakeoff.errors import SetupError, listed
from bakeoff.scoring.baselines import BASE
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.results_document import ResultsDocument
from bakeoff.store.run_folder import Folder

SHARED = 0.5  # of the smaller of two test splits: from there on they count as one


@dataclass(frozen=True)
class Cell:
    """One task on one base: a finished bakeoff."""

    task: str
    base: str
    folder: Folder
    document: ResultsDocument

    @cached_property
    def plan(self) -> PlanDocument:
        """Its plan."""
        return self.folder.plan()

    @property
    def finished(self) -> list[str]:
        """The entries with all their final runs."""
        return [name for name, row in self.document.entries.items() if row.status == "done"]

    @cached_property
    def documents(self) -> list[str]:
        """The documents of the test split, (examples,)."""
        return [row.document.strip() for row in self.folder.examples("test")]

    def estimates(self, names: Sequence[str]) -> Estimates:
        """Return the estimates of entries by (name, metric): the score that ranks, and the loss, with the base's.

        Of seeds in rounds those count that every entry has: later ones were added because of what was seen.
        """
        tables = {}
        for name in (*names, BASE):
            group = [run for run in self.plan.runs if run.id in self.document.rows[name].runs and run.entry == name]
            group = group[: min(self.plan.looks)] if self.plan.looks else group
            results = {run.id: self.folder.result(run.id, self.plan) for run in group}
            for metric, scores in read_scores(self.folder, self.plan, group, results).items():
                if metric in (f"test/{self.plan.primary}", LOSS):
                    tables[name, metric] = scores
        clusters = read_clusters(self.folder, self.plan, planned_config(self.folder, self.plan))
        return estimate(tables, Resamples(clusters))


def labelled(found: Sequence[tuple[Folder, ResultsDocument, tuple[str, str] | None]]) -> list[Cell]:
    """Return the cells of folders with their results, and with the task and base that a grid gives them.

    Without a grid, bakeoffs of the same data are one task, of the same weights one base; two different ones of one name
    have the name of their folder behind it. Raises SetupError if a grid's task has other data in one of its bakeoffs
    than in another, or a base other files: they were changed between two sessions, or in one.
    """
    refuse_versions([(folder, document, names) for folder, document, names in found if names])
    tasks, bases, cells = dict[str, str](), dict[str, str](), []
    for folder, document, given in found:
        names = given or (document.name, Path(document.model.name).name)
        keys = document.data.identity, document.model.identity or document.model.name
        for known, key, name in zip((tasks, bases), keys, names, strict=True):
            taken = name in known.values() and known.get(key) != name
            known.setdefault(key, f"{name} ({folder.path})" if taken else name)
        cells.append(Cell(tasks[keys[0]], bases[keys[1]], folder, document))
    return cells


def refuse_versions(found: Sequence[tuple[Folder, ResultsDocument, tuple[str, str]]]) -> None:
    """Raise SetupError if two bakeoffs of a grid have different data for one task, or different files of one base."""
    first: dict[tuple[Path, str, str], tuple[str | None, Folder]] = {}
    for folder, document, (task, base) in found:
        for what, name, key in (("data", task, document.data.identity), ("base", base, document.model.identity)):
            own, before = first.setdefault((folder.path.parent, what, name), (key, folder))
            if key != own:
                raise SetupError(
                    f"{folder.path}: was run with another version of {name}'s {what} than {before.path}. Try: bakeoff "
                    "run of the grid's config again"
                )


def grid_of(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
    """Return the tasks and bases of cells, which must be every task on every base."""
    tasks, bases = (list(dict.fromkeys(values)) for values in zip(*((c.task, c.base) for c in cells), strict=True))
    if len(cells) == 1 or (len(tasks) == 1 and len(bases) == 1):
        raise SetupError(
            f"{cells[0].folder.path}: one task on one base says nothing over tasks. Try: the folders of two tasks or "
            "more"
        )
    refuse_twice(cells)
    missing = [(t, b) for t in tasks for b in bases if not any((c.task, c.base) == (t, b) for c in cells)]
    if missing:
        pairs = listed([f"{task} on {base}" for task, base in missing])
        raise SetupError(
            f"{cells[0].folder.path}: every task must be there on every base, and so {pairs} is missing. Try: bakeoff "
            "run of what is missing, or leave out that task or base"
        )
    return tasks, bases


def refuse_twice(cells: Sequence[Cell]) -> None:
    """Raise SetupError if two bakeoffs are of the same task on the same base."""
    seen: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        before = seen.setdefault((cell.task, cell.base), cell)
        if before is not cell:
            raise SetupError(
                f"{cell.folder.path}: has the same data and base as {before.folder.path}, so {cell.task} on "
                f"{cell.base} would be counted twice. Try: one of the two"
            )


class TaskDocuments(NamedTuple):
    """The documents of a task's test split, (examples,), and the bakeoff that has them."""

    task: str
    place: str
    documents: list[str]


def shared_documents(splits: Sequence[TaskDocuments]) -> list[str]:
    """Return a line on each two tasks that have some test documents in common; a task has the same ones everywhere.

    Raises SetupError if they have most of them in common.
    """
    first, lines = dict[str, TaskDocuments](), []
    for split in splits:
        first.setdefault(split.task, split)
    for own, other in combinations(first.values(), 2):
        mine, theirs = set(own.documents), set(other.documents)
        both, least = len(mine & theirs), min(len(mine), len(theirs))
        if both > SHARED * least:
            raise SetupError(
                f"{other.place}: shares test documents with {own.place}, so {own.task} and {other.task} are one task, "
                "counted twice. Try: one of the two"
            )
        if both:
            lines.append(
                f"{own.task} and {other.task} share {both} of {least} test documents, so they are less independent "
                "than the joint statement assumes."
            )
    return lines


def common_entries(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
    """Return the entries that are finished in all cells, and lines on those that are left out."""
    names = [n for n in cells[0].document.entries if all(n in c.finished for c in cells)]
    every = list(dict.fromkeys(name for cell in cells for name in cell.document.entries))
    refuse_two_methods(str(cells[0].folder.path), names, [cell.plan for cell in cells])
    if not names:
        raise SetupError(
            f"{cells[0].folder.path}: no entry is finished in all {len(cells)} bakeoffs. Try: bakeoff run again"
        )
    left = [name for name in every if name not in names]
    lines = [f"Left out, because not finished in every bakeoff: {listed(left)}."] if left else []
    return names, lines


def refuse_two_methods(place: str, names: Sequence[str], plans: Sequence[PlanDocument]) -> None:
    """Raise SetupError if an entry is one method in one plan and another in another."""
    for name in names:
        kinds = {str(plan.entries[name].method) for plan in plans}
        if len(kinds) > 1:
            raise SetupError(
                f"{place}: entry '{name}' is {' in one bakeoff and '.join(sorted(kinds))} in another. "
                "Try: one name for one method"
            )


def logarithm(score: Estimate) -> Estimate:
    """Return the estimate of a positive score's logarithm (delta method for the seeds)."""
    squared = score.value**2
    spreads = tuple(SeedSpread(s.between / squared, s.within / squared, s.freedom) for s in score.spreads)
    draws = numpy.log(numpy.maximum(1 + score.draws / score.value, 1e-12))
    bounds = (-math.inf, math.inf)
    return replace(
        score, value=math.log(score.value), draws=draws, spreads=spreads, bounds=bounds,
        scale=max(1.0, abs(math.log(score.value))),
    )  # fmt: skip


def over_bases(gaps: Sequence[Estimate]) -> Estimate:
    """Return the mean of a pair's difference over bases: documents were drawn alike for all, seeds were not."""
    count = len(gaps)
    spreads = tuple(
        SeedSpread(s.between / count**2, s.within / count**2, s.freedom) for gap in gaps for s in gap.spreads
    )
    value = sum(gap.value for gap in gaps) / count
    draws = sum((gap.draws for gap in gaps[1:]), gaps[0].draws) / count
    return replace(gaps[0], value=value, draws=draws, spreads=spreads, scale=max(gap.scale for gap in gaps))


def floored_gap(estimates: Mapping[str, Estimate], first: str, second: str) -> Estimate:
    """Return a pair's difference in one cell, with the floor of all its entries' seeds."""
    pool = pooled([spread for score in estimates.values() for spread in score.spreads])
    gap = estimates[first] - estimates[second]
    return replace(gap, spreads=with_floor(gap.spreads, pool))
