"""Continuous batching: one base, many adapters, and rows that join and leave between tokens."""

import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from bakeoff.compute.model.adapter_files import load_adapter
from bakeoff.compute.model.base import Base, context_of, in_fp32
from bakeoff.compute.model.device import out_of_memory
from bakeoff.compute.model.forward import autocast
from bakeoff.compute.serving.entries import Entry, Lanes
from bakeoff.compute.serving.forms import CannotMixError
from bakeoff.compute.serving.norms import keep_norms
from bakeoff.compute.serving.request import Event, Finished, Request, Row
from bakeoff.compute.serving.sampling import choose
from bakeoff.compute.serving.twins import Twin, dtypes_of
from bakeoff.errors import DataError, SetupError, did_you_mean


class Engine:
    """Decodes rows of many entries that share one base; not thread-safe: one thread owns it.

    `base` is a base as `conforming` returns it, and the engine's from now on. `precision` is that of decoding, as
    `for_decoding` has it; None: the base's. At most `max_rows` rows have keys and values at a time, others wait. A step
    reads at most `chunk_tokens` of prompts, so that running rows do not wait for long ones.
    """

    def __init__(self, base: Base, max_rows: int = 16, chunk_tokens: int = 256, precision: str | None = None):
        self.max_rows, self.chunk_tokens = max_rows, chunk_tokens
        self.dtypes, self.loaded = dtypes_of(base.model), base
        self.precision = precision or base.precision
        if self.precision == "fp32":
            in_fp32(base.model)
        self.lanes = Lanes(replace(base, precision=self.precision))
        self.entries: dict[str | None, Entry] = {None: self.lanes.base}
        self.leaving: list[Entry] = []  # unloaded, with rows that have not ended
        self.rows: dict[int, Row] = {}
        self.queue: deque[Row] = deque()  # without a place
        self.ids, self.turn, self.events = count(1), count(), list[Event]()
        self.context = context_of(base)

    @property
    def running(self) -> int:
        """How many rows have a place."""
        return sum(lane.running for lane in self.all_lanes())

    @property
    def waiting(self) -> int:
        """How many rows wait for a place."""
        return sum(not row.cancelled for row in self.queue)

    @property
    def memory_bytes(self) -> int:
        """The memory that keys and values of running rows take, but for rows that run in cohorts."""
        return sum(lane.bytes for lane in self.all_lanes())

    @property
    def names(self) -> list[str]:
        """The names of the adapters that take requests."""
        return [name for name in self.entries if name is not None]

    def all_lanes(self) -> list[Any]:
        """Return the lanes of all entries in memory, with those that only finish their rows."""
        entries = [*self.entries.values(), *self.leaving]
        return list({id(entry.lane): entry.lane for entry in entries}.values())

    def load(self, name: str, adapter: Path, expected: Mapping[str, Any] | None = None) -> None:
        """Put the adapter in a folder beside the others; `expected` is what `made_by` returns for its run.

        Raises SetupError if the name is taken, or the folder does not hold an adapter of this base; then nothing is
        left of it.
        """
        if name in self.entries:
            raise SetupError(f"{name}: an adapter of this name is loaded. Try: unload it first, or another name")
        twin = Twin(self.loaded.model, self.dtypes)
        base = replace(self.loaded, model=twin.model)
        adapted = load_adapter(base, adapter, {"quantize": base.quantize, **(expected or {})})
        if self.precision == "fp32":
            in_fp32(adapted)
        twin.share_again()
        keep_norms(adapted)
        entry = Entry(name, replace(base, precision=self.precision), adapted)
        self.lanes.give(entry)
        self.entries[name] = entry

    def unload(self, name: str) -> None:
        """Refuse further requests for an adapter; its memory is free when its last row has ended.

        The name can be used for another adapter at once. Raises SetupError if there is no such adapter.
        """
        if name not in self.entries:
            raise SetupError(f"{name}: no adapter of this name is loaded.{did_you_mean(name, self.names)}")
        self.leaving.append(self.entries.pop(name))
        self.forget()

    def submit(self, name: str | None, request: Request) -> int:
        """Let a request wait for an adapter, or for the base if `name` is None; return its row's number.

        Raises SetupError if there is no such adapter, and DataError if the request is not one that it can take.
        """
        if name not in self.entries:
            raise SetupError(f"{name}: no adapter of this name is loaded.{did_you_mean(str(name), self.names)}")
        entry = self.entries[name]
        self.check(entry, request)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        row = Row(next(self.ids), entry, request, seed)
        self.rows[row.id] = row
        self.queue.append(row)
        return row.id

    def check(self, entry: Entry, request: Request) -> None:
        """Raise DataError if an entry cannot take a request."""
        if not request.prompt:
            raise DataError("prompt: expected one or more tokens, got none")
        if request.max_tokens < 1:
            raise DataError(f"max_tokens: expected at least 1, got {request.max_tokens}")
        apart = entry.base.decoder_start is not None
        parts = [entry.virtual + len(request.prompt), request.max_tokens]
        most = max(parts) if apart else sum(parts)
        if self.context and most > self.context:
            raise DataError(
                f"prompt: {parts[0]:,} tokens and {parts[1]:,} to write are more than the {self.context:,} positions "
                "of the base. Try: a shorter prompt, or a smaller max_tokens"
            )

    def cancel(self, row: int) -> None:
        """Let a row end without a further event; its place is free at the next step. An ended row may be cancelled."""
        if found := self.rows.pop(row, None):
            found.cancelled = True

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Write one token of every running row and read a part of waiting prompts; return what happened."""
        self.events = []
        lanes = self.all_lanes()
        for lane in lanes:
            lane.drop_cancelled()
        self.admit()
        turn = next(self.turn) % len(lanes)  # whose prompts are read first
        lanes = lanes[turn:] + lanes[:turn]
        for lane in lanes:
            self.within_memory(lane, lane.decode, self.choose)
        reading = [lane for lane in lanes if lane.reading]
        for lane in reading:
            self.within_memory(lane, lane.read, self.choose, max(1, self.chunk_tokens // len(reading)))
        self.forget()
        return self.events

    def admit(self) -> None:
        """Give places to rows in the order in which they came."""
        places = self.max_rows - self.running
        while self.queue and places > 0:
            row = self.queue.popleft()
            if not row.cancelled:
                row.entry.lane.admit(row)
                places -= 1

    def within_memory(self, lane: Any, work: Callable[..., None], *given: Any) -> None:
        """Let a lane work; its rows fail, which frees what they had, if memory runs out or they cannot share a call."""
        try:
            with autocast(lane.base):
                work(*given)
        except (RuntimeError, CannotMixError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            for row in [row for row in self.rows.values() if row.entry.lane is lane and row not in self.queue]:
                self.fail(row)
            lane.drop_cancelled()

    def fail(self, row: Row) -> None:
        """End a row whose tokens cannot be computed."""
        row.cancelled = True
        self.events.append(Event(row.id, None, "failed"))
        self.rows.pop(row.id, None)

    def choose(self, rows: Sequence[Row], logits: torch.Tensor) -> list[int | None]:
        """Write each row's next token and note the event; return the tokens of rows that continue."""
        return [self.write(row, token) for row, token in zip(rows, choose(rows, logits), strict=True)]

    def write(self, row: Row, token: int | None) -> int | None:
        """Write a row's next token and note the event; return it if the row continues."""
        if token is None:  # its logits are no numbers
            row.failed = True
            self.fail(row)
            return None
        request = row.request
        finished: Finished | None = "stop" if token in request.ends else None
        if finished is None:
            row.written.append(token)
            finished = "length" if len(row.written) == request.max_tokens else None
        self.events.append(Event(row.id, None if finished == "stop" else token, finished))
        if finished:
            del self.rows[row.id]
        return None if finished else token

    def forget(self) -> None:
        """Drop unloaded adapters whose rows have ended."""
        busy = {row.entry for row in self.rows.values()}
        for entry in self.leaving:
            if entry not in busy:
                self.lanes.drop(entry)
        self.leaving = [entry for entry in self.leaving if entry in busy]
