"""Rows that are decoded by the batches of evaluation: those that are admitted together stay together.

It is right for every base, also for those whose rows cannot join a running batch: encoder-decoders, recurrent states,
models that are decoded without a cache.
"""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import nn

from bakeoff.compute.decoding.batch import Causal, EncoderDecoder, Whole, decoding
from bakeoff.compute.decoding.greedy import one_length
from bakeoff.compute.model.base import Base
from bakeoff.compute.serving.request import Row

# Chooses each row's next token, given its logits (rows, vocabulary); None for a row that has ended.
Choose = Callable[[Sequence[Row], torch.Tensor], list[int | None]]


class Cohort:
    """Rows that were admitted together, and their batch."""

    def __init__(self, rows: list[Row], batch: Causal | Whole | EncoderDecoder):
        self.rows, self.batch = rows, batch

    def step(self, choose: Choose) -> None:
        """Write a token of every row; rows that end leave."""
        tokens = choose(self.rows, self.batch.next_logits())
        alive = [place for place, token in enumerate(tokens) if token is not None]
        self.keep(alive)
        if alive:
            chosen = [tokens[place] for place in alive]
            self.batch.append(torch.tensor(chosen, device=self.batch.base.device))

    def keep(self, alive: list[int]) -> None:
        """Continue with only the rows at these places."""
        if len(alive) < len(self.rows):
            self.rows = [self.rows[place] for place in alive]
            if alive:
                self.batch.keep(torch.tensor(alive, device=self.batch.base.device))


class Cohorts:
    """The rows of one entry: running in cohorts, or waiting."""

    def __init__(self, base: Base, adapted: nn.Module):
        self.base, self.adapted = base, adapted
        self.waiting: deque[Row] = deque()
        self.cohorts: list[Cohort] = []

    @property
    def running(self) -> int:
        """How many rows have a place."""
        return sum(len(cohort.rows) for cohort in self.cohorts)

    def add(self, row: Row) -> None:
        """Let a row wait for its turn."""
        self.waiting.append(row)

    def step(self, choose: Choose, places: int, tokens: int) -> None:
        """Write a token of every running row, then admit at most so many rows and `tokens` of prompts, but one row."""
        self.drop_cancelled()
        for cohort in self.cohorts:
            cohort.step(choose)
        if places > 0 and (rows := self.next_rows(places, tokens)):
            room = max(row.request.max_tokens for row in rows)
            batch = decoding(self.base, self.adapted, [row.request.prompt for row in rows], room)
            self.cohorts.append(Cohort(rows, batch))
            self.cohorts[-1].step(choose)
        self.cohorts = [cohort for cohort in self.cohorts if cohort.rows]

    def drop_cancelled(self) -> None:
        """Let cancelled rows leave."""
        self.waiting = deque(row for row in self.waiting if not row.cancelled)
        for cohort in self.cohorts:
            cohort.keep([place for place, row in enumerate(cohort.rows) if not row.cancelled])
        self.cohorts = [cohort for cohort in self.cohorts if cohort.rows]

    def next_rows(self, places: int, tokens: int) -> list[Row]:
        """Take the rows that are admitted next, in their order; recurrent states have no padding: of one length."""
        rows: list[Row] = []
        while self.waiting and len(rows) < places:
            length = len(self.waiting[0].request.prompt)
            other = rows and one_length(self.base) and length != len(rows[0].request.prompt)
            if rows and (length > tokens or other):
                break
            tokens -= length
            rows.append(self.waiting.popleft())
        return rows
