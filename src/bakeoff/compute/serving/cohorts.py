"""Rows that are decoded by the batches of evaluation: those that are admitted together stay together.

It is right for every base, also for those whose rows cannot join a running batch: encoder-decoders, recurrent states,
models that are decoded without a cache.
"""

from collections import deque

import torch
from torch import nn

from bakeoff.compute.decoding.batch import Causal, EncoderDecoder, Whole, decoding
from bakeoff.compute.decoding.greedy import one_length
from bakeoff.compute.model.base import Base
from bakeoff.compute.serving.request import Choose, Row


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
    """The rows of one entry, in cohorts; a lane like others, but prompts are read whole."""

    def __init__(self, base: Base, adapted: nn.Module):
        self.base, self.adapted = base, adapted
        self.admitted: deque[Row] = deque()
        self.cohorts: list[Cohort] = []

    @property
    def running(self) -> int:
        """How many rows have a place."""
        return len(self.admitted) + sum(len(cohort.rows) for cohort in self.cohorts)

    @property
    def reading(self) -> int:
        """How many prompts are left to read."""
        return len(self.admitted)

    @property
    def bytes(self) -> int:
        """Not known: evaluation's batches are of several kinds."""
        return 0

    def admit(self, row: Row) -> None:
        """Give a row a place: its prompt is read in the next steps."""
        self.admitted.append(row)

    def drop_cancelled(self) -> None:
        """Let cancelled rows leave."""
        self.admitted = deque(row for row in self.admitted if not row.cancelled)
        for cohort in self.cohorts:
            cohort.keep([place for place, row in enumerate(cohort.rows) if not row.cancelled])
        self.cohorts = [cohort for cohort in self.cohorts if cohort.rows]

    def decode(self, choose: Choose) -> None:
        """Write a token of every running row; rows that end leave."""
        for cohort in self.cohorts:
            cohort.step(choose)
        self.cohorts = [cohort for cohort in self.cohorts if cohort.rows]

    def read(self, choose: Choose, tokens: int) -> None:
        """Read at most so many tokens of prompts, but one prompt; these rows write their first token."""
        if rows := self.next_rows(tokens):
            room = max(row.request.max_tokens for row in rows)
            batch = decoding(self.base, self.adapted, [row.request.prompt for row in rows], room)
            cohort = Cohort(rows, batch)
            cohort.step(choose)
            self.cohorts += [cohort] if cohort.rows else []

    def next_rows(self, tokens: int) -> list[Row]:
        """Take the rows that are read next, in their order; recurrent states have no padding: of one length."""
        rows: list[Row] = []
        while self.admitted:
            length = len(self.admitted[0].request.prompt)
            other = rows and one_length(self.base) and length != len(rows[0].request.prompt)
            if rows and (length > tokens or other):
                break
            tokens -= length
            rows.append(self.admitted.popleft())
        return rows
