"""The live table: a row a run, redrawn in place."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bakeoff.display import RANKED, Clock, Display, clock_time, number
from bakeoff.forecast import Forecast
from bakeoff.records import Event, Run

WIDE = 100  # columns; below, a table leaves out steps, peak and what a trial tries
REDRAW_SECONDS = 0.25
# What is shown first where not all rows fit; every other state is a run at work.
ORDER = {"paused": 1, "waiting": 2, "failed": 3, "done": 4, "stopped": 5, "done before": 6}
STYLES = {"failed": "red", "done": "green", **dict.fromkeys(("waiting", "paused", "stopped", "done before"), "dim")}


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

    def take(self, event: Event, now: float) -> None:
        """Take in what the event tells."""
        self.started = now if self.started is None else self.started
        state = event.values.get("state")
        if state in ("paused", "stopped"):
            self.state, self.spent, self.started = state, self.spent + now - self.started, None
            self.seconds = self.spent if state == "stopped" else None
        elif event.kind in ("done", "failed"):
            self.state, self.seconds = event.kind, self.spent + now - self.started
            self.error = event.values.get("error")
            self.values |= event.values.get("metrics", {}) | event.values.get("costs", {})
            self.values["ranked"] = event.values.get("ranked", RANKED)
        elif event.kind == "state":
            self.state = event.values["state"]
        else:
            self.values |= event.values

    @property
    def share(self) -> tuple[int, int] | None:
        """How many of how many steps, or documents in generation, are done; None where nothing is counted."""
        if self.state in ("training", "validating") and "steps" in self.values:
            return self.values["step"], self.values["steps"]
        if self.state == "generating" and "examples_total" in self.values:
            return self.values["examples"], self.values["examples_total"]
        return None


class TableDisplay(Display):
    """The table as it stands: a row a run, failures and totals below it. `console` gives its size."""

    def __init__(
        self, runs: Sequence[Run], done: Collection[str], forecast: Forecast | None, clock: Clock, console: Console
    ):
        super().__init__(runs, done, forecast, clock)
        self.console = console
        self.rows = {run.id: Row(run, "done before" if run.id in done else "waiting") for run in runs}

    def add(self, run: Run) -> None:
        """Give the run a row after its entry's other trials."""
        super().add(run)
        self.rows = {r.id: self.rows.get(r.id) or Row(r) for r in self.runs}

    def show(self, event: Event) -> None:
        """Take the event into its run's row."""
        self.rows[event.run].take(event, self.clock())
        for check, note in event.values.get("check_notes", {}).items():
            self.note(f"{self.names[event.run]}: check {check} failed: {note}")

    def render(self) -> RenderableType:
        """Return the table, the failures and the totals as they stand now."""
        wide = self.console.width >= WIDE
        failures = list(self.failures())
        rows = self.visible(self.console.height - 4 - len(failures))
        ranked = next((row.values["ranked"] for row in self.rows.values() if "ranked" in row.values), RANKED)
        table = Table(box=None, pad_edge=False, padding=(0, 1 + wide, 0, 0))
        table.add_column("run", no_wrap=True, overflow="ellipsis", max_width=self.console.width // 3)
        table.add_column("state", no_wrap=True, min_width=0 if wide else 15)
        if wide:
            table.add_column("", min_width=12)
        for heading in (*(("step",) if wide else ()), "train", "valid", "test", ranked["heading"], "tok/s"):
            table.add_column(heading, justify="right", no_wrap=True)
        for heading in (*(("peak",) if wide else ()), "time"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*self.cells(row, wide))
        folded = Counter(r.state for r in self.rows.values()) - Counter(r.state for r in rows)
        counts = ", ".join(f"{n} {state}" for state, n in folded.items())
        fold = [Text(f"and {folded.total()} more: {counts}", style="dim", no_wrap=True)] if folded else []
        return Group(table, *fold, *failures, Text(self.totals(), style="dim", no_wrap=True, overflow="ellipsis"))

    def failures(self) -> Iterator[Text]:
        """Yield a line a failed run, as far as a third of the screen goes, and then how many more there are."""
        failed = [row for row in self.rows.values() if row.state == "failed"]
        room = max(1, self.console.height // 3 - 1)
        for row in failed[:room]:
            line = f"{self.names[row.run.id]} failed: {row.error}"
            yield Text(line, style="red", no_wrap=True, overflow="ellipsis")
        if len(failed) > room:
            yield Text(f"and {len(failed) - room} more failed", style="red")

    def visible(self, room: int) -> list[Row]:
        """Return the rows that fit: what goes on, then what comes next, then what has ended, in plan order."""
        chosen = sorted(self.rows.values(), key=lambda r: ORDER.get(r.state, 0))[: max(3, room)]
        return [row for row in self.rows.values() if row in chosen]

    def cells(self, row: Row, wide: bool) -> list[RenderableType]:
        """Return one row's cells."""
        v, share, state = row.values, row.share, row.state
        if share and not wide:
            state = f"{state} {100 * share[0] // share[1]:3d}%"
        name = self.names[row.run.id]
        cells: list[RenderableType] = [
            name if wide else name.partition(":")[0],
            Text(state, style=STYLES.get(state, "")),
        ]
        if wide:
            cells.append(ProgressBar(share[1], share[0], width=12) if share else "")
            cells.append(f"{v['step']:,}/{v['steps']:,}" if "steps" in v else "")
        cells += [number(v.get(f"{split}/loss"), ".3f") for split in ("train", "validation", "test")]
        cells += [
            number(v.get(f"test/{v.get('ranked', RANKED)['name']}"), ".3f"),
            number(v.get("tokens_per_second"), ",.0f"),
        ]
        if wide:
            peak = v.get("peak_bytes")
            cells.append(f"{peak / 2**30:.2f} GiB" if peak else "")
        return [*cells, self.time_of(row)]

    def time_of(self, row: Row) -> str:
        """Return how long a run took, or what is left of one at work."""
        if row.seconds is not None:
            return clock_time(row.seconds)
        left = self.forecast.left_of(row.run.id) if self.forecast and row.state not in ORDER else None
        return "" if left is None else f"{clock_time(left)} left"

    def totals(self) -> str:
        """Return counts of runs, elapsed time, and what is left once there is a basis for it."""
        states = Counter(row.state for row in self.rows.values())
        ended = sum(states[s] for s in ("done", "failed", "stopped", "done before"))
        line = f"{ended} of {len(self.rows)} runs ended"
        if states["failed"]:
            line += f", {states['failed']} failed"
        line += f" · {clock_time(self.clock() - self.start)}"
        left = self.left()
        if left and ended < len(self.rows):
            line += f" · about {clock_time(left)} left, until {datetime.now() + timedelta(seconds=left):%H:%M}"
        return line


class LiveDisplay(TableDisplay):
    """The table on a terminal."""

    def __enter__(self) -> Self:
        self.live = Live(
            get_renderable=self.render, console=self.console, refresh_per_second=1 / REDRAW_SECONDS,
            vertical_overflow="crop",
        )  # fmt: skip
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, markup=False, highlight=False)
