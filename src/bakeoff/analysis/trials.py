"""The trials of an entry, from their records: validation losses, the choice, whether it is at an edge, and costs."""

from collections.abc import Sequence
from typing import Any

from bakeoff.errors import SetupError
from bakeoff.store.documents import is_number
from bakeoff.store.plan_document import EntryFacts, PlanDocument
from bakeoff.store.records import Run, RunResult
from bakeoff.store.run_folder import Folder
from bakeoff.tuning.search import edges


def add_tuning(folder: Folder, plan: PlanDocument, name: str, row: dict[str, Any]) -> None:
    """Add `tuning` (None for a baseline) to a results row, and the costs of the trials to its costs."""
    planned = plan.entries.get(name)
    row["tuning"] = None
    if planned:
        row["tuning"] = tuning(folder, folder.trials(name, plan), planned, row["runs"])
        row["costs"]["tuning_seconds"] = row["tuning"]["seconds"]


def tuning(folder: Folder, trials: Sequence[Run], planned: EntryFacts, finals: list[str]) -> dict[str, Any]:
    """Return label, chosen, edge, extended, trials and seconds of one entry.

    `trials` include those that were started after the plan. `chosen` are the values of the searched fields, once a
    final run was started. `edge` names the fields whose best value was the lowest or highest of the planned trials.
    `extended` is the result of the one trial past that edge: better, worse, failed, or "no room" if the field's bounds
    allow no further value. `seconds` are those of the trials' optimizer steps; those of the chosen trial also count for
    the final run of its seed.
    """
    fields = list(planned.search)
    results = {run.id: folder.run(run.id).result() for run in trials}
    chosen = chosen_settings(folder, finals, fields)
    rows = [trial_row(run, results[run.id], fields, chosen is not None) for run in trials]
    planned_rows = [row for row in rows if row["trial"] <= planned.trials]
    further = [row for row in rows if row["trial"] > planned.trials]
    ended = [row for row in planned_rows if row["status"] == "done"]
    best = min(ended, key=lambda row: row["validation_loss"], default=None)
    edge = edges(planned.trial_points, best["settings"]) if best and chosen else {}
    extended = None
    if edge:
        extended = further[0]["status"] if further else "no room"
        if extended == "done":
            assert best is not None
            extended = "better" if further[0]["validation_loss"] < best["validation_loss"] else "worse"
    seconds = [r.costs.get("train_seconds") or 0.0 for r in results.values() if r]
    return {
        "label": planned.tuning,
        "chosen": chosen,
        "edge": edge,
        "extended": extended,
        "trials": rows,
        "seconds": sum(seconds) if fields else None,
    }


def chosen_settings(folder: Folder, finals: list[str], fields: list[str]) -> dict[str, Any] | None:
    """Return the searched values of the entry's final runs; None before the first of them was started."""
    try:
        settings = folder.run(finals[0]).run().settings
    except SetupError:
        return None
    searched = bool(fields) and all(is_number(settings.get(field)) for field in fields)
    return {field: settings[field] for field in fields} if searched else None


def trial_row(run: Run, result: RunResult | None, fields: list[str], decided: bool) -> dict[str, Any]:
    """Return one trial's settings, validation loss, steps, and status: done, stopped, failed, paused or waiting."""
    status = result.status if result else "waiting"
    return {
        "trial": run.trial,
        "run": run.id,
        "settings": {field: run.settings[field] for field in fields},
        "validation_loss": result.metrics.get("validation/loss") if result else None,
        "steps": result.steps if result else None,
        "status": "stopped" if status == "paused" and decided else status,
        "error": result.error if result else None,
    }
