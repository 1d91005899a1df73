"""The time that `protocol.budget` gives to seeds in rounds: whether the next round still fits into it.

It is a function of the records alone, so that an interrupt does not change it. It does not look at scores, so the error
rate stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Run, RunResult
from bakeoff.store.run_folder import Folder

SPENT = ("train_seconds", "setup_seconds", "evaluation_seconds", "generation_seconds")


@dataclass(frozen=True)
class OverBudget:
    """A budget that ends the rounds, in seconds: what runs have taken so far, and what the next round would take."""

    budget: float
    spent: float
    expected: float


def next_round(plan: PlanDocument, wanted: Mapping[str, int]) -> list[Run]:
    """Return the final runs of the first seeds that a look wants of each entry, done or not."""
    found = []
    for name, seeds in wanted.items():
        found += [run for run in plan.runs if run.kind == "entry" and run.entry == name][:seeds]
    return found


def over_budget(
    folder: Folder, plan: PlanDocument, following: Sequence[Run], budget: float | None
) -> OverBudget | None:
    """Return how a round of these runs does not fit into the budget; None if it does, or there is no budget or run."""
    if budget is None or not following:
        return None
    known = [result for run in plan.runs if (result := folder.run(run.id).result())]
    spent, expected = sum(map(seconds, known)), 0.0
    for run in following:
        own = [seconds(result) for result in known if result.run.kind == "entry" and result.run.entry == run.entry]
        expected += sum(own) / max(1, len(own))
    return OverBudget(budget, spent, expected) if spent + expected > budget else None


def seconds(result: RunResult) -> float:
    """Return how long a run took."""
    return sum(result.costs.get(name) or 0.0 for name in SPENT)
