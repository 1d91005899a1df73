"""Chooses the next token of each row: the likeliest, or one that is drawn."""

import math
from collections.abc import Sequence

import numpy
import torch

from bakeoff.compute.serving.request import Row


def choose(rows: Sequence[Row], logits: torch.Tensor) -> list[int | None]:
    """Return the next id of each row, given its logits (rows, vocabulary); None where they are not numbers."""
    most, likeliest = logits.max(-1)
    chosen: list[int | None] = [*likeliest.tolist()]
    for place, largest in enumerate(most.tolist()):
        if math.isnan(largest):
            chosen[place] = None
        elif rows[place].request.temperature > 0:
            chosen[place] = draw(rows[place], logits[place])
    return chosen


def draw(row: Row, logits: torch.Tensor) -> int:
    """Return an id drawn with the request's temperature from the likeliest ids that have `top_p` together.

    The number that decides comes from the row's seed and the token's place alone.
    """
    scores = (logits.cpu() if logits.device.type == "mps" else logits).double()  # MPS has no such numbers
    probabilities = torch.softmax((scores - scores.max()) / row.request.temperature, 0)  # no temperature is too small
    ordered, ids = probabilities.sort(descending=True, stable=True)
    total = ordered.cumsum(0)
    kept = int((total - ordered < row.request.top_p).sum())  # the likeliest always
    number = numpy.random.default_rng((row.seed % 2**64, len(row.written))).random()  # numpy takes none below 0
    place = int(torch.searchsorted(total[:kept], number * total[kept - 1], right=True))
    return int(ids[min(place, kept - 1)])
