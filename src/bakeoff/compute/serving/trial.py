"""Tries whether an entry's rows are in a lane what they are in the decoder of evaluation; if not, it gets another."""

from collections.abc import Sequence
from typing import Any

import torch

from bakeoff.compute.decoding.batch import decoding
from bakeoff.compute.decoding.conformance import far, rows_for
from bakeoff.compute.model.forward import autocast
from bakeoff.compute.serving.lane import Lane
from bakeoff.compute.serving.request import Request, Row
from bakeoff.library_errors import one_line

TOKENS = 2  # that are written
PART = 12  # tokens of a prompt that are read at once, so that it is read in parts
COMPANY = 5  # tokens of the prompt of the other row


@torch.no_grad()
def equals_evaluation(lane: Lane, entry: Any, company: Any) -> bool:
    """Return whether a row of an entry, beside a row of another, has the logits that evaluation has for it alone.

    An entry has `base`, `adapted`, `past` and `tried`, which keeps what the row of the company is compared with. Raises
    SetupError where the lane cannot be called.
    """
    first, second = (list(row.prompt) for row in rows_for(entry.base))
    prompts = {entry: first, company: second[:COMPANY]}
    tokens = second[-TOKENS:]
    found: dict[Any, list[torch.Tensor]] = {key: [] for key in prompts}

    def choose(rows: Sequence[Row], logits: torch.Tensor) -> list[int | None]:
        for row, own in zip(rows, logits, strict=True):
            found[row.entry].append(own)
            row.written.append(tokens[len(row.written)])
        return [None if len(row.written) == TOKENS else row.written[-1] for row in rows]

    with one_line("engine: rows cannot share a batch"), autocast(entry.base):
        for key, prompt in prompts.items():
            lane.admit(Row(0, key, Request(prompt, TOKENS, frozenset()), 0))
        while lane.running:
            lane.decode(choose)
            lane.read(choose, PART)
        for key, logits in found.items():
            if key.tried is None or key is entry:
                key.tried = evaluated(key, prompts[key], tokens)
            if any(far(key.base, own, wanted) for own, wanted in zip(logits, key.tried, strict=True)):
                return False
    return True


def evaluated(entry: Any, prompt: list[int], tokens: list[int]) -> list[torch.Tensor]:
    """Return the logits that evaluation has for an entry's row before each of these tokens."""
    batch, found = decoding(entry.base, entry.adapted, [prompt], len(tokens)), []
    for token in tokens:
        found.append(batch.next_logits()[0])
        batch.append(torch.tensor([token], device=entry.base.device))
    return found
