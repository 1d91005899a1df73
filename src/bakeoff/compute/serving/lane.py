"""Rows that join and leave one running batch of a causal model, and prompts that are read a part at a time."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from bakeoff.compute.model.base import Base
from bakeoff.compute.model.head import only_rows
from bakeoff.compute.model.kv_cache import RoomyCache
from bakeoff.compute.serving.open_cache import OpenCache
from bakeoff.compute.serving.request import Choose, Row
from bakeoff.compute.training.batches import padded, parts
from bakeoff.compute.training.loss import part_tokens

# Makes the context in which the model is called for these rows, which are the running batch if the flag says so; it
# lets each row have its own adapter.
Serve = Callable[[Sequence[Row], bool], AbstractContextManager[None]]


def alike(rows: Sequence[Row], running: bool) -> AbstractContextManager[None]:
    """Change nothing: the model is that of all rows."""
    return nullcontext()


@dataclass(eq=False)
class Reading:
    """A row whose prompt is being read: so many tokens are `done`, and their keys and values are in the cache."""

    row: Row
    cache: RoomyCache | None = None
    done: int = 0

    @property
    def left(self) -> int:
        """How many tokens of the prompt are left to read."""
        return len(self.row.request.prompt) - self.done


class Lane:
    """A running batch of one model; `serve` lets rows of several entries share it.

    `past` of a row's entry are keys and values, in a cache of one row, that its text continues.
    """

    def __init__(self, base: Base, model: PreTrainedModel, serve: Serve = alike):
        self.base, self.model, self.serve = base, model, serve
        self.cache = OpenCache(model.config)
        self.rows: list[Row] = []
        self.readings: list[Reading] = []

    @property
    def running(self) -> int:
        """How many rows have a place."""
        return len(self.rows) + len(self.readings)

    @property
    def reading(self) -> int:
        """How many prompts are left to read."""
        return len(self.readings)

    @property
    def bytes(self) -> int:
        """The memory that keys and values of running rows take."""
        return self.cache.bytes

    def admit(self, row: Row) -> None:
        """Give a row a place: its prompt is read in the next steps."""
        self.readings.append(Reading(row))

    def drop_cancelled(self) -> None:
        """Let cancelled rows leave."""
        self.readings = [reading for reading in self.readings if not reading.row.cancelled]
        self.leave([place for place, row in enumerate(self.rows) if row.cancelled])

    def leave(self, places: Sequence[int]) -> None:
        """Let the rows at these places leave, given in rising order; each time the last row takes the place."""
        for place in reversed(places):
            if self.rows[place].failed:
                self.cache.clear(place)
            self.cache.leave(place)
            last = self.rows.pop()
            if place < len(self.rows):
                self.rows[place] = last

    def decode(self, choose: Choose) -> None:
        """Write a token of every running row; rows that end leave."""
        if not self.rows:
            return
        self.cache.make_room()
        lengths, width = self.cache.lengths, self.cache.columns.width
        real = torch.tensor(lengths, device=self.base.device)[:, None]
        mask = None
        if min(lengths) < width:
            mask = (torch.arange(width + 1, 0, -1, device=self.base.device) <= real + 1).long()
        with self.serve(self.rows, True):
            logits = self.model(
                input_ids=torch.tensor([[row.written[-1]] for row in self.rows], device=self.base.device),
                attention_mask=mask,
                position_ids=real,
                past_key_values=self.cache,
                use_cache=True,
            ).logits[:, -1]
        self.cache.advance()
        tokens = choose(self.rows, logits)
        self.leave([place for place, token in enumerate(tokens) if token is None])

    def read(self, choose: Choose, tokens: int) -> None:
        """Read at most so many tokens of prompts, but one; rows whose prompts are read write their first token.

        The row that has waited longest is read first if it is alone. Else it has half of the tokens, and short prompts
        have the other half, so that nobody waits for the end of a long prompt.
        """
        if not self.readings:
            return
        oldest, *others = self.readings
        left = tokens // 2 if others else tokens
        whole = []
        for reading in sorted(others, key=lambda reading: reading.left):
            if not reading.done and reading.left <= left:
                whole.append(reading)
                left -= reading.left
        left += tokens - tokens // 2 if others else 0
        if not oldest.done and oldest.left <= left:
            whole.append(oldest)
        else:
            self.read_on(oldest, max(1, left), choose)
        for group in by_past(whole):
            lengths = [reading.left for reading in group]
            for part in parts(lengths, len(lengths), part_tokens(self.base)):
                self.read_whole(group[part], choose)

    def read_whole(self, group: Sequence[Reading], choose: Choose) -> None:
        """Read whole prompts that continue the same keys and values."""
        past = group[0].row.entry.past
        cache = RoomyCache(self.model.config, 0, past)
        ids = padded([reading.row.request.prompt for reading in group], self.base.pad).to(self.base.device)
        last = torch.tensor([reading.left - 1 for reading in group], device=ids.device)
        logits = self.call(group, ids, cache, torch.arange(len(ids), device=ids.device) * ids.shape[1] + last)
        before = past.get_seq_length() if past else 0
        self.start(group, cache, [before + reading.left for reading in group], logits, choose)

    def read_on(self, reading: Reading, tokens: int, choose: Choose) -> None:
        """Read the next tokens of one prompt."""
        past, prompt = reading.row.entry.past, reading.row.request.prompt
        end = min(len(prompt), reading.done + tokens)
        if reading.cache is None:
            reading.cache = RoomyCache(self.model.config, len(prompt) - end, past)
        ids = torch.tensor([[*prompt[reading.done : end]]], device=self.base.device)
        logits = self.call([reading], ids, reading.cache, torch.tensor([ids.shape[1] - 1], device=ids.device))
        reading.done = end
        if not reading.left:
            before = past.get_seq_length() if past else 0
            self.start([reading], reading.cache, [before + len(prompt)], logits, choose)

    def call(self, group: Sequence[Reading], ids: torch.Tensor, cache: RoomyCache, last: torch.Tensor) -> torch.Tensor:
        """Return the logits (rows, vocabulary) at the flattened places `last`, and fill the cache."""
        inputs: dict[str, Any] = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
        with self.serve([reading.row for reading in group], False), only_rows(self.model, last):
            return self.model(**inputs).logits.view(len(group), -1)

    def start(
        self, group: Sequence[Reading], cache: RoomyCache, lengths: list[int], logits: torch.Tensor, choose: Choose
    ) -> None:
        """Write the first token of rows whose prompts are read; those that have not ended join the running batch."""
        tokens = choose([reading.row for reading in group], logits)
        for place, (reading, token, length) in enumerate(zip(group, tokens, lengths, strict=True)):
            self.readings.remove(reading)
            if token is not None:
                self.cache.join(cache, place, length)
                self.rows.append(reading.row)


def by_past(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Return readings in groups that continue the same keys and values."""
    groups: dict[int, list[Reading]] = {}
    for reading in readings:
        past: Cache | None = reading.row.entry.past
        groups.setdefault(id(past), []).append(reading)
    return [*groups.values()]
