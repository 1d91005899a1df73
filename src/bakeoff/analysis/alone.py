"""Costs of runs that shared their device with others, as they would be without the others.

Seconds that were measured beside other runs depend on what these did, so entries could not be compared by them. One
final run of each entry is therefore timed once more while no other run is carried out (`compute/run/timing.py`).
"""

from collections.abc import Iterable
from typing import Any

from bakeoff.store.records import ALONE, RunResult


def pace_alone(records: Iterable[RunResult]) -> float | None:
    """Return the tokens per second that a run of an entry has without others; None if it was not timed."""
    return next((pace for record in records if (pace := record.costs.get(ALONE))), None)


def costs_alone(record: RunResult, pace: float | None) -> dict[str, Any]:
    """Return a record's costs; if it shared its device, training takes the time that its tokens take at this pace."""
    costs = {name: value for name, value in record.costs.items() if name != ALONE}
    seconds, beside = costs.get("train_seconds"), costs.get("tokens_per_second")
    if not record.beside:
        return costs
    if pace and seconds and beside:
        return {**costs, "train_seconds": seconds * beside / pace, "tokens_per_second": pace}
    return costs
