"""Continuous batching: one base, many adapters, and rows that join and leave between tokens."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bakeoff.compute.model.adapter_files import load_adapter
from bakeoff.compute.model.base import Base, in_fp32
from bakeoff.compute.model.forward import autocast
from bakeoff.compute.serving.cohorts import Cohorts
from bakeoff.compute.serving.request import Event, Finished, Request, Row
from bakeoff.compute.serving.sampling import choose
from bakeoff.compute.serving.twins import Twin, dtypes_of
from bakeoff.errors import DataError, SetupError, did_you_mean


@dataclass(eq=False)
class Entry:
    """An adapter in memory, or the base."""

    name: str | None
    base: Base
    adapted: nn.Module
    rows: Cohorts


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
        decoder = replace(base, precision=self.precision)
        self.entries: dict[str | None, Entry] = {}
        self.add(None, decoder, base.model)
        self.leaving: list[Entry] = []  # unloaded, with rows that have not ended
        self.rows: dict[int, Row] = {}
        self.ids, self.events = count(1), list[Event]()

    def add(self, name: str | None, base: Base, adapted: nn.Module) -> None:
        """Let an adapted model take rows."""
        self.entries[name] = Entry(name, base, adapted, Cohorts(base, adapted))

    @property
    def running(self) -> int:
        """How many rows have a place."""
        return sum(entry.rows.running for entry in self.all_entries())

    @property
    def waiting(self) -> int:
        """How many rows wait for a place."""
        return len(self.rows) - self.running

    @property
    def names(self) -> list[str]:
        """The names of the adapters that take requests."""
        return [name for name in self.entries if name is not None]

    def all_entries(self) -> list[Entry]:
        """Return the entries in memory, with those that only finish their rows."""
        return [*self.entries.values(), *self.leaving]

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
        self.add(name, replace(base, precision=self.precision), adapted)

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
        self.check(request)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        row = Row(next(self.ids), entry, request, seed)
        self.rows[row.id] = row
        entry.rows.add(row)
        return row.id

    def check(self, request: Request) -> None:
        """Raise DataError if a request cannot be taken."""
        if not request.prompt:
            raise DataError("prompt: expected one or more tokens, got none")
        if request.max_tokens < 1:
            raise DataError(f"max_tokens: expected at least 1, got {request.max_tokens}")

    def cancel(self, row: int) -> None:
        """Let a row end without a further event; its place is free at the next step. An ended row may be cancelled."""
        if found := self.rows.pop(row, None):
            found.cancelled = True

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Write one token of every running row and read a part of waiting prompts; return what happened."""
        self.events = []
        for entry in self.all_entries():
            with autocast(entry.base):
                entry.rows.step(self.choose, self.max_rows - self.running, self.chunk_tokens)
        self.forget()
        return self.events

    def choose(self, rows: Sequence[Row], logits: torch.Tensor) -> list[int | None]:
        """Write each row's next token and note the event; return the tokens of rows that continue."""
        return [self.write(row, token) for row, token in zip(rows, choose(rows, logits), strict=True)]

    def write(self, row: Row, token: int) -> int | None:
        """Write a row's next token and note the event; return it if the row continues."""
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
        self.leaving = [entry for entry in self.leaving if entry.rows.running or entry.rows.waiting]
