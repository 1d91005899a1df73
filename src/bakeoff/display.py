"""What one sees while runs go on: a live table (`live.py`), plain lines, JSON lines or nothing. On standard error."""

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console

from bakeoff.records import Event, Run, run_names

PLAIN_SECONDS = 10.0


class Display(ABC):
    """A view of the runs. Use as a context manager; `handle` takes every event, `note` a line from the driver."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Show what the event tells."""

    @abstractmethod
    def add(self, run: Run) -> None:
        """Take in a run that was not planned: a trial past the edge of a range."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show one line of news."""


def open_display(kind: str, runs: Sequence[Run], done: Collection[str] = (), console: Console | None = None) -> Display:
    """Return the display called `kind` for `runs`, of which those in `done` were finished before.

    `auto` is live on a terminal that can redraw and is not a CI log, else plain.
    """
    console = console or Console(stderr=True)
    if kind == "auto":
        kind = "live" if console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI") else "plain"
    if kind == "live":
        from bakeoff.live import LiveDisplay

        return LiveDisplay(runs, done, console)
    return {"plain": PlainDisplay, "json": JsonDisplay, "none": NoDisplay}[kind](runs, done)


class NoDisplay(Display):
    """Shows nothing."""

    def __init__(self, runs: Sequence[Run], done: Collection[str] = ()):
        self.runs = runs

    def handle(self, event: Event) -> None:
        """Show nothing."""

    def add(self, run: Run) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


class JsonDisplay(Display):
    """One JSON object a line, for machines."""

    def __init__(self, runs: Sequence[Run], done: Collection[str] = ()):
        self.runs = {run.id: run for run in runs}

    def add(self, run: Run) -> None:
        """Know the run."""
        self.runs[run.id] = run

    def handle(self, event: Event) -> None:
        """Write the event as one line."""
        run = self.runs[event.run]
        trial = {"trial": run.trial} if run.trial else {}
        line = {"run": run.id, "entry": run.entry, **trial, "kind": event.kind, **event.values}
        print(json.dumps(line), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Write the news as one line."""
        print(json.dumps({"kind": "note", "text": text}), file=sys.stderr, flush=True)


class PlainDisplay(Display):
    """A line for each thing worth one, for logs and pipes."""

    def __init__(self, runs: Sequence[Run], done: Collection[str] = (), clock: Callable[[], float] = time.monotonic):
        self.runs = list(runs)
        self.names = run_names(runs)
        self.clock, self.start = clock, clock()
        self.progress_at: dict[str, float] = {}
        self.before = [self.names[run.id] for run in runs if run.id in done]

    def add(self, run: Run) -> None:
        """Name the run."""
        self.runs.append(run)
        self.names = run_names(self.runs)

    def __enter__(self) -> Self:
        if self.before:
            self.note(f"done before: {', '.join(self.before)}")
        return self

    def handle(self, event: Event) -> None:
        """Print state changes, validations, ends, and one progress line in PLAIN_SECONDS."""
        name, values = self.names[event.run], event.values
        if event.kind == "state" and values["state"] != "validating":
            self.note(f"{name}: {values['state']}")
        elif event.kind == "metrics":
            losses = "  ".join(f"{k} {values[k]:.4f}" for k in ("train/loss", "validation/loss") if k in values)
            self.note(f"{name}: epoch {values['epoch']:.2g}  step {values['step']}  {losses}")
        elif event.kind == "progress" and "step" in values:
            if self.clock() - self.progress_at.setdefault(event.run, self.start) >= PLAIN_SECONDS:
                self.progress_at[event.run] = self.clock()
                self.note(
                    f"{name}: step {values['step']}/{values['steps']}  {values['tokens_per_second']:,.0f} tokens/s  "
                    f"{clock_time(values['seconds_left'])} left"
                )
        elif event.kind == "done":
            self.note(f"{name}: done  {scores(values['metrics'])}")
            for check, note in values.get("check_notes", {}).items():
                self.note(f"{name}: check {check} failed: {note}")
        elif event.kind == "failed":
            self.note(f"{name}: FAILED: {values['error']}")

    def note(self, text: str) -> None:
        """Print one line with the time since the start."""
        minutes, seconds = divmod(int(self.clock() - self.start), 60)
        print(f"[{minutes:3d}:{seconds:02d}] {text}", file=sys.stderr, flush=True)


def scores(metrics: dict[str, float]) -> str:
    """Return a finished run's main scores in a few words."""
    named = {"test/loss": "test loss", "test/rougeL": "ROUGE-L"}
    if "test/loss" not in metrics and "test/rougeL" not in metrics:
        named = {"validation/loss": "validation loss"}
    return "  ".join(f"{label} {metrics[name]:.4f}" for name, label in named.items() if name in metrics)


def number(value: float | None, form: str) -> str:
    """Return a formatted number, or nothing where there is none yet."""
    return "" if value is None else format(value, form)


def clock_time(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
