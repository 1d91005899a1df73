"""What a person sees while runs are going on: a live table, plain lines, JSON lines or nothing. On standard error."""

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bakeoff.records import Event, Run, run_names

PLAIN_SECONDS = 10.0


@dataclass
class Row:
    """What is known of one run so far."""

    run: Run
    state: str = "waiting"
    values: dict[str, Any] = field(default_factory=dict)
    started: float | None = None
    spent: float = 0.0  # in parts that have ended, where a trial takes several
    seconds: float | None = None
    error: str | None = None


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


class LiveDisplay(Display):
    """A table that is redrawn in place: a row a run, failures and totals below it."""

    def __init__(
        self,
        runs: Sequence[Run],
        done: Collection[str],
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.names = run_names(runs)
        self.rows = {run.id: Row(run, "done before" if run.id in done else "waiting") for run in runs}
        self.console, self.clock, self.start = console, clock, clock()
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def add(self, run: Run) -> None:
        """Put the run's row after its entry's other trials."""
        last = max(i for i, row in enumerate(self.rows.values()) if row.run.entry == run.entry and row.run.trial)
        rows = list(self.rows.items())
        self.rows = dict([*rows[: last + 1], (run.id, Row(run)), *rows[last + 1 :]])
        self.names = run_names([row.run for row in self.rows.values()])

    def handle(self, event: Event) -> None:
        """Take the event into its run's row; the timer redraws."""
        row = self.rows[event.run]
        row.started = self.clock() if row.started is None else row.started
        if event.values.get("state") in ("paused", "stopped"):
            row.state, row.spent, row.started = event.values["state"], row.spent + self.clock() - row.started, None
            row.seconds = row.spent if row.state == "stopped" else None
        elif event.kind in ("done", "failed"):
            row.state, row.seconds = event.kind, row.spent + self.clock() - row.started
            row.error = event.values.get("error")
            for check, note in event.values.get("check_notes", {}).items():
                self.note(f"{self.names[event.run]}: check {check} failed: {note}")
            row.values |= event.values.get("metrics", {}) | event.values.get("costs", {})
        elif event.kind == "state":
            row.state = event.values["state"]
        else:
            row.values |= event.values

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, markup=False, highlight=False)

    def render(self) -> RenderableType:
        """Return the table, the failures and the totals as they stand now."""
        wide = self.console.width >= 100
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("run", no_wrap=True)
        table.add_column("state", no_wrap=True, min_width=14)
        for heading in ("train", "valid", "test", "ROUGE-L", "tok/s", *(("peak",) if wide else ()), "time"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.visible():
            table.add_row(*self.cells(row, wide))
        parts: list[RenderableType] = [table]
        folded = len(self.rows) - len(self.visible())
        if folded:
            parts.append(Text(f"and {folded} more runs", style="dim"))
        failed = [r for r in self.rows.values() if r.state == "failed"]
        parts += [Text(f"{self.names[r.run.id]} failed: {r.error}", style="red") for r in failed]
        parts.append(Text(self.totals(), style="dim"))
        return Group(*parts)

    def visible(self) -> list[Row]:
        """Return the rows that fit: what goes on, then what comes next, then what has ended, in plan order."""
        room = max(3, self.console.height - 5 - sum(r.state == "failed" for r in self.rows.values()))
        rank = {"paused": 1, "waiting": 2, "failed": 3, "done": 4, "stopped": 5, "done before": 6}
        chosen = sorted(self.rows.values(), key=lambda r: rank.get(r.state, 0))[:room]
        return [row for row in self.rows.values() if row in chosen]

    def cells(self, row: Row, wide: bool) -> list[RenderableType]:
        """Return one row's cells."""
        v = row.values
        styles = {
            "failed": "red",
            "done": "green",
            **dict.fromkeys(("waiting", "paused", "stopped", "done before"), "dim"),
        }
        style = styles.get(row.state, "")
        state = row.state
        if state in ("training", "validating") and "steps" in v:
            state = f"{state} {100 * v['step'] // v['steps']:3d} %"
        elif state == "generating" and "examples_total" in v:
            state = f"{state} {100 * v['examples'] // v['examples_total']:3d} %"
        took = "" if row.seconds is None else clock_time(row.seconds)
        if row.state in ("training", "validating") and "seconds_left" in v:
            took = f"{clock_time(v['seconds_left'])} left"
        cells: list[RenderableType] = [
            self.names[row.run.id],
            Text(state, style=style),
            number(v.get("train/loss"), ".3f"),
            number(v.get("validation/loss"), ".3f"),
            number(v.get("test/loss"), ".3f"),
            number(v.get("test/rougeL"), ".3f"),
            number(v.get("tokens_per_second"), ",.0f"),
        ]
        if wide:
            peak = v.get("peak_bytes")
            cells.append(f"{peak / 2**30:.2f} GiB" if peak else "")
        return [*cells, took]

    def totals(self) -> str:
        """Return done, failed and total counts, elapsed time, and time left once there is a basis for it."""
        rows = list(self.rows.values())
        ended = [r for r in rows if r.state in ("done", "failed", "stopped", "done before")]
        line = f"{len(ended)} of {len(rows)} runs ended · {clock_time(self.clock() - self.start)}"
        left = 0.0
        for kind in ("trial", "entry"):
            known = [r.seconds for r in ended if r.seconds is not None and r.state != "failed" and r.run.kind == kind]
            open_rows = [r for r in rows if r not in ended and r.run.kind == kind]
            if open_rows and not known:
                return line
            if open_rows:
                spent = sum(r.spent + (self.clock() - r.started if r.started is not None else 0.0) for r in open_rows)
                left += max(0.0, sum(known) / len(known) * len(open_rows) - spent)
        if left:
            line += f" · about {clock_time(left)} left"
        return line


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
