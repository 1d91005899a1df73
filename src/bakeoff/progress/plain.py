"""Plain lines for logs and pipes, JSON lines for programs, or nothing. All on standard error."""

import json
import sys
from collections.abc import Mapping
from typing import Any, Self

from bakeoff.errors import printable
from bakeoff.progress.display import Display, clock_time
from bakeoff.store.events import NOT_NEEDED, Progress, Ranked, RunEvent
from bakeoff.store.records import Run

PLAIN_SECONDS = 10.0  # between two lines of progress of a run, ...
PLAIN_SHARE = 1 / 60  # ... and as bakeoffs get longer, this share of the time they have taken


class NoDisplay(Display):
    """Shows nothing."""

    def show(self, event: RunEvent) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


class JsonDisplay(Display):
    """One JSON object per line, for programs: the runs, every event, and the time left if it is known."""

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

    def show(self, event: RunEvent) -> None:
        """Write the event as one line."""
        run = self.by_id[event.run]
        trial = {"trial": run.trial} if run.trial else {}
        line = {"run": run.id, "entry": run.entry, **trial, "kind": event.kind, **event.values()}
        left, basis = self.left(), self.basis()
        if left is not None:
            line["bakeoff_seconds_left"] = round(left, 1)
            line |= {"bakeoff_seconds_left_note": basis} if basis else {}
        self.write(line)

    def note(self, text: str) -> None:
        """Write a message for the user as one line."""
        self.write({"kind": "note", "text": text})

    def write(self, row: dict[str, Any]) -> None:
        """Write one line."""
        write_line(json.dumps(row))


class PlainDisplay(Display):
    """One line for each thing that matters, for logs and pipes."""

    progress_at: dict[str, float]
    states: dict[str, str]

    def __enter__(self) -> Self:
        self.progress_at, self.states = {}, {}
        before = [self.names[run.id] for run in self.runs if run.id in self.done]
        if before:
            self.note(f"done before: {', '.join(before)}")
        return self

    def show(self, event: RunEvent) -> None:
        """Print state changes, validations, ends, and now and then a line of progress."""
        name = self.names[event.run]
        if event.kind == "state" and event.state in (NOT_NEEDED, "validating"):
            return  # the line on the look says so of all at once; a validation has a line of its own
        if event.kind == "state":
            if event.state != self.states.get(event.run):
                self.note(f"{name}: {event.state}")
            self.states[event.run] = event.state
        elif event.kind == "metrics":
            losses = {"train/loss": event.train_loss, "validation/loss": event.validation_loss}
            known = "  ".join(f"{label} {loss:.4f}" for label, loss in losses.items() if loss is not None)
            self.note(f"{name}: epoch {event.epoch:.2g}  step {event.step}  {known}")
        elif event.kind == "progress" and (event.step is not None or event.examples):
            self.progress(event)
        elif event.kind == "done":
            self.note(f"{name}: done  {scores(event.metrics, event.ranked)}")
            for check, note in event.check_notes.items():
                self.note(f"{name}: check {check} failed: {note}")
        elif event.kind == "failed":
            self.note(f"{name}: FAILED: {event.error}")

    def progress(self, event: Progress) -> None:
        """Print a line of progress, unless the last one was printed just now."""
        now = self.clock()
        pause = max(PLAIN_SECONDS, PLAIN_SHARE * (now - self.start))
        if now - self.progress_at.setdefault(event.run, self.start) < pause:
            return
        self.progress_at[event.run] = now
        line, left = f"{self.names[event.run]}: ", self.forecast.left_of(event.run) if self.forecast else None
        if event.step is not None:
            line += f"step {event.step}/{event.steps}  {event.tokens_per_second:,.0f} tokens/s"
            line += f"  {clock_time(event.seconds_left or 0)} of training left" if left is None else ""
        else:
            line += f"{event.examples}/{event.examples_total} documents"
        line += "" if left is None else f"  {clock_time(left)} left"
        whole, basis = self.left(), self.basis()
        line += "" if whole is None else f", about {clock_time(whole)} for all"
        self.note(f"{line} ({basis})" if basis and whole is not None else line)

    def note(self, text: str) -> None:
        """Print one line with the time since the start."""
        minutes, seconds = divmod(int(self.clock() - self.start), 60)
        write_line(f"[{minutes:3d}:{seconds:02d}] {text}")


def write_line(line: str) -> None:
    """Write a line on standard error, made printable. If its disk is full, the bakeoff continues."""
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def scores(metrics: Mapping[str, float | None], ranked: Ranked) -> str:
    """Return a finished run's main scores in a few words: losses, and the score that entries are `ranked` by."""
    score = f"test/{ranked.name}"
    named = {"test/loss": "test loss", score: ranked.heading}
    if "test/loss" not in metrics and score not in metrics:
        named = {"validation/loss": "validation loss"}
    return "  ".join(f"{label} {metrics[name]:.4f}" for name, label in named.items() if name in metrics)
