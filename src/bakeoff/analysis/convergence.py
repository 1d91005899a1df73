"""Whether training had converged: one rule for every entry, from validation losses and the schedule (protocol rule 3).

If the learning rate falls to 0, almost every last validation is the best one, so its step says nothing. What counts is
how much the loss still fell per unit of learning rate in the last stretch, compared with the whole training.
"""

from collections.abc import Sequence
from statistics import fmean

from bakeoff.config.lr_schedule import lr_multiplier
from bakeoff.config.sections import ProtocolConfig
from bakeoff.store.documents import CurveRow

STRETCH = 0.25  # of the steps: as short as still holds a validation where there are three or four
# Midway between a training that no longer learns (0) and one that learns as on its whole way (1).
RESTING_PACE = 0.5


def converged(curves: Sequence[Sequence[CurveRow]], protocol: ProtocolConfig, steps: int) -> bool | None:
    """Return whether an entry's runs had converged at their end, averaged over seeds; None if it is unknown.

    `curves` are the rows of each run's metrics.jsonl, `steps` the maximum number of steps of a run.
    """
    paces = [found for curve in curves if (found := pace(curve, protocol, steps)) is not None]
    return fmean(paces) <= RESTING_PACE if paces else None


def pace(curve: Sequence[CurveRow], protocol: ProtocolConfig, steps: int) -> float | None:
    """Return a run's pace: the fall of its lowest validation loss per unit of learning rate, last stretch over whole.

    The stretch begins with the last validation before the final quarter. Returns None if that is the first validation,
    or if training never improved on its start.
    """
    losses = [(int(row.step), row.validation_loss) for row in curve if row.validation_loss is not None]
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
    spent = [lr_multiplier(step, steps, protocol) for step in range(end)]
    return (lowest_before - lowest) / (first - lowest) * sum(spent) / sum(spent[since:])
