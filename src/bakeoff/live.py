"""The live table: a row a run, redrawn in place."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bakeoff.display import Display, clock_time, number
from bakeoff.records import Event, Run, run_names


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
