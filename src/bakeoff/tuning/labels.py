"""Names of runs and of their settings, for people."""

from collections.abc import Sequence
from typing import Any

from bakeoff.store.records import Run


def run_names(runs: Sequence[Run]) -> dict[str, str]:
    """Return a name to show for each run: its entry, and the seed if the entry has several final runs.

    The name of a trial has its number, and the settings in which it differs from the other trials of its entry.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.entry, run.kind), []).append(run)
    differing = {
        key: {k for r in group for k in r.settings | group[0].settings if r.settings.get(k) != group[0].settings.get(k)}
        for key, group in groups.items()
    }
    names = {}
    for run in runs:
        key = run.entry, run.kind
        if run.trial is None:
            names[run.id] = f"{run.entry} seed {run.seed}" if len(groups[key]) > 1 else run.entry
            continue
        searched = [k for k in run.settings if k in differing[key]]
        values = ", ".join(f"{k} {setting_text(run.settings[k])}" for k in searched)
        names[run.id] = f"{run.entry} trial {run.trial}{': ' if values else ''}{values}"
    return names


def setting_text(value: Any, digits: int = 2) -> str:
    """Return a setting for people: a whole number as it is, another number rounded to so many digits."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
