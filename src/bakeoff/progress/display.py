"""What one sees while runs go on: a live table (`live.py`), plain lines, JSON lines or nothing. On standard error."""

import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from bakeoff.errors import printable
from bakeoff.progress.eta import Forecast
from bakeoff.store.run_folder import Event, Run
from bakeoff.tuning.labels import run_names

RANKED = {"name": "rougeL", "heading": "ROUGE-L"}  # what entries are ranked by, until a done event says
PLAIN_SECONDS = 10.0  # between two lines of progress of a run, ...
PLAIN_SHARE = 1 / 60  # ... and as bakeoffs get longer, this share of the time they have taken
Clock = Callable[[], float]


class Display(ABC):
    """A view of the runs. Use as a context manager; `handle` takes every event, `note` a line from the driver.

    Runs in `done` were finished before. `forecast`, where there is one, hears every event first.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        done: Collection[str] = (),
        forecast: Forecast | None = None,
        clock: Clock = time.monotonic,
    ):
        self.runs, self.done, self.forecast = list(runs), done, forecast
        self.names = run_names(runs)
        self.clock, self.start = clock, clock()
        self.lock = threading.RLock()  # of all that events change: a table is redrawn by a thread of its own

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def handle(self, event: Event) -> None:
        """Take an event in, and show what it tells."""
        if self.forecast:
            with self.lock:
                self.forecast.take(event)
        self.show(event)

    def add(self, run: Run) -> None:
        """Take in a run that was not planned, a trial past the edge of a range: after its entry's other trials."""
        with self.lock:
            if self.forecast:
                self.forecast.add(run)
            last = max(i for i, other in enumerate(self.runs) if other.entry == run.entry and other.trial)
            self.runs.insert(last + 1, run)
            self.names |= run_names([other for other in self.runs if other.entry == run.entry])

    def left(self) -> float | None:
        """Return the seconds until all is done; None as long as nothing tells."""
        return self.forecast.left() if self.forecast else None

    def basis(self) -> str | None:
        """Return in words what the forecast is estimated from, where that says little."""
        return self.forecast.basis() if self.forecast else None

    @abstractmethod
    def show(self, event: Event) -> None:
        """Show what the event tells."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show one line of news."""


def open_display(
    kind: str,
    runs: Sequence[Run],
    done: Collection[str] = (),
    forecast: Forecast | None = None,
    console: Console | None = None,
    clock: Clock = time.monotonic,
) -> Display:
    """Return the display called `kind`.

    `auto` is a table in a notebook and on a terminal that can redraw and is not a CI log, else plain lines.
    """
    console = console or Console(stderr=True)
    if kind == "auto":
        redraws = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")
        kind = "live" if redraws or console.is_jupyter else "plain"
    if kind == "live":
        from bakeoff.progress.live import LiveDisplay
        from bakeoff.progress.notebook import NotebookDisplay

        if console.is_jupyter:
            return NotebookDisplay(runs, done, forecast, clock)
        return LiveDisplay(runs, done, forecast, clock, console)
    kinds: dict[str, type[PlainDisplay | JsonDisplay | NoDisplay]]
    kinds = {"plain": PlainDisplay, "json": JsonDisplay, "none": NoDisplay}
    return kinds[kind](runs, done, forecast, clock)


class NoDisplay(Display):
    """Shows nothing."""

    def show(self, event: Event) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


class JsonDisplay(Display):
    """One JSON object a line, for machines: the runs, every event, and how long is left where that is known."""

    by_id: dict[str, Run]

    def __enter__(self) -> Self:
        rows = [{"run": r.id, "entry": r.entry, "kind": r.kind, "trial": r.trial, "steps": r.steps} for r in self.runs]
        self.write({"kind": "start", "runs": rows, "done": sorted(self.done)})
        self.by_id = {run.id: run for run in self.runs}
        return self

    def add(self, run: Run) -> None:
        """Take in a run that was not planned."""
        super().add(run)
        self.by_id[run.id] = run

    def show(self, event: Event) -> None:
        """Write the event as one line."""
        run = self.by_id[event.run]
        trial = {"trial": run.trial} if run.trial else {}
        line = {"run": run.id, "entry": run.entry, **trial, "kind": event.kind, **event.values}
        left, basis = self.left(), self.basis()
        if left is not None:
            line["bakeoff_seconds_left"] = round(left, 1)
            line |= {"bakeoff_seconds_left_note": basis} if basis else {}
        self.write(line)

    def note(self, text: str) -> None:
        """Write the news as one line."""
        self.write({"kind": "note", "text": text})

    def write(self, row: dict[str, Any]) -> None:
        """Write one line."""
        tell(json.dumps(row))


class PlainDisplay(Display):
    """A line for each thing worth one, for logs and pipes."""

    progress_at: dict[str, float]

    def __enter__(self) -> Self:
        self.progress_at = {}
        before = [self.names[run.id] for run in self.runs if run.id in self.done]
        if before:
            self.note(f"done before: {', '.join(before)}")
        return self

    def show(self, event: Event) -> None:
        """Print state changes, validations, ends, and now and then a line of progress."""
        name, values = self.names[event.run], event.values
        if event.kind == "state" and values["state"] != "validating":
            self.note(f"{name}: {values['state']}")
        elif event.kind == "metrics":
            losses = "  ".join(f"{k} {values[k]:.4f}" for k in ("train/loss", "validation/loss") if k in values)
            self.note(f"{name}: epoch {values['epoch']:.2g}  step {values['step']}  {losses}")
        elif event.kind == "progress" and ("step" in values or values.get("examples")):
            self.progress(event.run, values)
        elif event.kind == "done":
            self.note(f"{name}: done  {scores(values['metrics'], values.get('ranked', RANKED))}")
            for check, note in values.get("check_notes", {}).items():
                self.note(f"{name}: check {check} failed: {note}")
        elif event.kind == "failed":
            self.note(f"{name}: FAILED: {values['error']}")

    def progress(self, run_id: str, values: dict[str, Any]) -> None:
        """Print a line of progress, unless the last one is too young."""
        now = self.clock()
        pause = max(PLAIN_SECONDS, PLAIN_SHARE * (now - self.start))
        if now - self.progress_at.setdefault(run_id, self.start) < pause:
            return
        self.progress_at[run_id] = now
        line, left = f"{self.names[run_id]}: ", self.forecast.left_of(run_id) if self.forecast else None
        if "step" in values:
            line += f"step {values['step']}/{values['steps']}  {values['tokens_per_second']:,.0f} tokens/s"
            line += f"  {clock_time(values['seconds_left'])} of training left" if left is None else ""
        else:
            line += f"{values['examples']}/{values['examples_total']} documents"
        line += "" if left is None else f"  {clock_time(left)} left"
        whole, basis = self.left(), self.basis()
        line += "" if whole is None else f", about {clock_time(whole)} for all"
        self.note(f"{line} ({basis})" if basis and whole is not None else line)

    def note(self, text: str) -> None:
        """Print one line with the time since the start."""
        minutes, seconds = divmod(int(self.clock() - self.start), 60)
        tell(f"[{minutes:3d}:{seconds:02d}] {text}")


def tell(line: str) -> None:
    """Write a line on standard error, made printable; a full disk behind it ends no bakeoff."""
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def scores(metrics: dict[str, float], ranked: dict[str, str]) -> str:
    """Return a finished run's main scores in a few words: losses, and what entries are `ranked` by."""
    score = f"test/{ranked['name']}"
    named = {"test/loss": "test loss", score: ranked["heading"]}
    if "test/loss" not in metrics and score not in metrics:
        named = {"validation/loss": "validation loss"}
    return "  ".join(f"{label} {metrics[name]:.4f}" for name, label in named.items() if name in metrics)


def number(value: float | None, form: str) -> str:
    """Return a formatted number, or nothing where there is none yet."""
    return "" if value is None else format(value, form)


def short(value: float | None) -> str:
    """Return a number in five characters at most, as exact as they allow; nothing where there is none yet."""
    shown = [number(value, form) for form in (".3f", ".2f", ".1f", ".0f", ".0e")]
    return next((text for text in shown if len(text) <= 5), shown[-1])


def clock_time(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
