"""The trials of an entry, from their records: validation losses, the choice, whether it is at an edge, and costs."""

from collections.abc import Mapping
from typing import Any

from bakeoff.analysis.alone import costs_alone
from bakeoff.errors import SetupError
from bakeoff.store.plan_document import Choices, EntryFacts, PlanDocument, Span
from bakeoff.store.records import Run, RunResult
from bakeoff.store.results_document import TrialRow, Tuning
from bakeoff.store.run_folder import Folder
from bakeoff.tuning.search import edges


def tuning(folder: Folder, plan: PlanDocument, name: str, finals: list[str], pace: float | None) -> Tuning:
    """Return how an entry's settings were chosen; `finals` are the ids of its final runs, `pace` see `costs_alone`.

    The trials include those that were started after the plan.
    """
    planned, trials = plan.entries[name], folder.trials(name, plan)
    fields = list(planned.search)
    results = {run.id: folder.run(run.id).result() for run in trials}
    chosen = chosen_settings(folder, finals, planned.search)
    rows = [trial_row(run, results[run.id], fields, chosen is not None) for run in trials]
    ended = [row for row in rows if is_planned(row, planned) and row.status == "done"]
    best = min(ended, key=loss_of, default=None)
    edge = edges([row.settings for row in rows if is_planned(row, planned)], best.settings) if best and chosen else {}
    further = next((row for row in rows if not is_planned(row, planned)), None)
    seconds = [costs_alone(r, pace).get("train_seconds") or 0.0 for r in results.values() if r]
    return Tuning(
        label=planned.tuning,
        chosen=chosen,
        edge=dict(edge),
        extended=extended(best, further) if best and edge else None,
        trials=rows,
        seconds=sum(seconds) if fields else None,
    )


def extended(best: TrialRow, further: TrialRow | None) -> str:
    """Return the result of the one trial past an edge, compared with the best of the planned ones."""
    if further is None:
        return "no room"
    if further.status != "done":
        return further.status
    return "better" if loss_of(further) < loss_of(best) else "worse"


def is_planned(row: TrialRow, planned: EntryFacts) -> bool:
    """Return whether a trial is one of the plan's, and not the one past an edge."""
    return row.trial is not None and row.trial <= planned.trials


def loss_of(row: TrialRow) -> float:
    """Return the validation loss of a trial that has ended."""
    assert row.validation_loss is not None  # its record has it
    return row.validation_loss


def chosen_settings(folder: Folder, finals: list[str], search: Mapping[str, Span | Choices]) -> dict[str, Any] | None:
    """Return the searched values of the entry's final runs; None before the first of them was started."""
    try:
        settings = folder.run(finals[0]).run().settings
    except SetupError:
        return None
    searched = bool(search) and all(span.holds(settings.get(field)) for field, span in search.items())
    return {field: settings[field] for field in search} if searched else None


def trial_row(run: Run, result: RunResult | None, fields: list[str], decided: bool) -> TrialRow:
    """Return one trial's settings, validation loss, steps, and status: done, stopped, failed, paused or waiting."""
    status = result.status if result else "waiting"
    return TrialRow(
        trial=run.trial,
        run=run.id,
        settings={field: run.settings[field] for field in fields},
        validation_loss=result.metrics.get("validation/loss") if result else None,
        steps=result.steps if result else None,
        status="stopped" if status == "paused" and decided else status,
        error=result.error if result else None,
    )
