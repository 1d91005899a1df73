"""Whether training had come to rest at its end: one rule for every entry, from validation losses and the schedule.

A learning rate that falls to 0 makes almost every last validation the best one, so that alone tells nothing. What
tells is the loss that each unit of learning rate still took off in the last stretch, against the whole training.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bakeoff.config.lr_schedule import rate_factor
from bakeoff.config.sections import ProtocolConfig

STRETCH = 0.25  # of the steps: as short as still holds a validation where there are three or four
# Midway between a training that no longer learns (0) and one that learns as on its whole way (1).
RESTING_PACE = 0.5


def converged(curves: Sequence[Sequence[dict[str, Any]]], protocol: ProtocolConfig, steps: int) -> bool | None:
    """Return whether the pace at the end of an entry's runs, over its seeds, is a resting one; None if nothing tells.

    `curves` are the rows of each run's metrics.jsonl, `steps` what a run takes at most.
    """
    paces = [found for curve in curves if (found := pace(curve, protocol, steps)) is not None]
    return fmean(paces) <= RESTING_PACE if paces else None


def pace(curve: Sequence[dict[str, Any]], protocol: ProtocolConfig, steps: int) -> float | None:
    """Return the fall of a run's lowest validation loss by the learning rate spent on it, last stretch over whole run.

    The stretch begins with the last validation before the final quarter. None where that is the first one, or where
    training never improved on its start.
    """
    losses = [(int(row["step"]), float(row["validation/loss"])) for row in curve if "validation/loss" in row]
    if not losses:
        return None  # its curve is gone
    end = losses[-1][0]
    before = [(step, loss) for step, loss in losses if step <= (1 - STRETCH) * end]
    if not before:
        return None
    since, first = before[-1][0], losses[0][1]
    lowest_before, lowest = min(loss for _, loss in before), min(loss for _, loss in losses)
    if since == 0 or lowest == first:
        return None
    spent = [rate_factor(step, steps, protocol) for step in range(end)]
    return (lowest_before - lowest) / (first - lowest) * sum(spent) / sum(spent[since:])
