"""The live table: one row per run, redrawn in place."""

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from bakeoff.errors import printable
from bakeoff.progress.display import Clock, Display, clock_time, number, short
from bakeoff.progress.eta import Forecast
from bakeoff.progress.lines import Cell, Lines
from bakeoff.store.events import NOT_NEEDED, Ranked, RunEvent
from bakeoff.store.records import Run

WIDE = 110  # columns of the screen; below, names leave out what a trial tries
STATE_WIDTH = 15
WIDEST = 20  # letters of a score's heading
# Each column's width, and from what width of the screen on there is room for it. A column keeps its width, so that
# nothing moves when a cell fills.
COLUMNS = {
    "": (12, 150), "step": (13, 120), "train": (5, 0), "valid": (5, 0), "test": (5, 60), "score": (7, 70),
    "tok/s": (6, 78), "peak": (8, 100), "time": (9, 0),
}  # fmt: skip
REDRAW_SECONDS = 0.25  # at least, and so many that drawing takes at most
REDRAW_SHARE = 0.002  # of a core: runs on a processor need them all
DAY_SECONDS = 86_400  # a time of day tells when something ends that ends sooner
# What is shown first where not all rows fit; every other state is running. What ended says how the work proceeds, so
# that of those that wait only the NEXT few come before it.
ORDER = {"paused": 1, "failed": 2, "done": 2, "waiting": 3, "stopped": 4, "done before": 5, NOT_NEEDED: 6}
NEXT = 3
STYLES = {
    "failed": "red",
    "done": "green",
    **dict.fromkeys(("waiting", "paused", "stopped", "done before", NOT_NEEDED), "dim"),
}


@dataclass
class Row:
    """What is known about one run so far."""

    run: Run
    state: str = "waiting"
    values: dict[str, Any] = field(default_factory=dict)
    started: float | None = None
    spent: float = 0.0  # in parts that have ended, where a trial takes several
    seconds: float | None = None
    ended: float = 0.0
    error: str | None = None
    ranked: Ranked | None = None  # what its entry is ranked by, once it is done

    def take(self, event: RunEvent, now: float) -> None:
        """Update the row from an event."""
        if event.kind == "state" and event.state == NOT_NEEDED:
            self.state = NOT_NEEDED
            return
        self.started = now if self.started is None else self.started
        if event.kind == "state":
            self.state = event.state
            if event.state in ("paused", "stopped"):
                self.spent, self.started = self.spent + now - self.started, None
                self.seconds = self.spent if event.state == "stopped" else None
        elif event.kind == "progress" or event.kind == "metrics":
            self.values |= event.values()
        else:
            self.state, self.seconds, self.ended = event.kind, self.spent + now - self.started, now
            if event.kind == "done":
                self.values |= event.metrics | event.costs
                self.ranked = event.ranked
            else:
                self.error = event.error

    @property
    def share(self) -> tuple[int, int] | None:
        """How many steps, or documents in generation, are done, and of how many; None if nothing is counted."""
        if self.state in ("training", "validating") and "steps" in self.values:
            return self.values["step"], self.values["steps"]
        if self.state == "generating" and "examples_total" in self.values:
            return self.values["examples"], self.values["examples_total"]
        return None


def pace(tokens: float | None) -> str:
    """Return tokens per second in six characters."""
    return number(tokens, ",.0f") if tokens is None or tokens < 99_999.5 else f"{tokens / 1000:,.0f}k"


def roughly(seconds: float) -> str:
    """Return seconds as m:ss, from one hour on as hours and minutes, from ten hours on as hours."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return clock_time(seconds) if seconds < 3599.5 else f"{hours}h{minutes:02d}" if hours < 10 else f"{hours}h"


class TableDisplay(Display):
    """The current table: one row per run, failures and totals below it. `console` gives its size."""

    def __init__(
        self, runs: Sequence[Run], done: Collection[str], forecast: Forecast | None, clock: Clock, console: Console
    ):
        super().__init__(runs, done, forecast, clock)
        self.console = console
        self.rows = {run.id: Row(run, "done before" if run.id in done else "waiting") for run in runs}

    def add(self, run: Run) -> None:
        """Add a row for the run after the other trials of its entry."""
        with self.lock:
            super().add(run)
            self.rows = {r.id: self.rows.get(r.id) or Row(r) for r in self.runs}

    def show(self, event: RunEvent) -> None:
        """Update the row of the event's run."""
        with self.lock:
            self.rows[event.run].take(event, self.clock())
        # Without the lock: a line is printed by whoever holds the terminal, and the one who redraws waits for the lock.
        for check, note in (event.check_notes if event.kind == "done" else {}).items():
            self.note(f"{self.names[event.run]}: check {check} failed: {note}")

    def render(self) -> RenderableType:
        """Return the current table, failures and totals."""
        with self.lock:
            return self.table()

    def table(self) -> RenderableType:
        """Return what `render` returns, while no other thread changes it."""
        failures = list(self.failures())
        rows = self.visible(self.console.height - 4 - len(failures))
        ranked = next((row.ranked for row in self.rows.values() if row.ranked), Ranked())
        named = {h: printable(ranked.heading)[:WIDEST] if h == "score" else h for h in COLUMNS}
        shown = {h: max(width, len(named[h])) for h, (width, least) in COLUMNS.items() if self.console.width >= least}
        room = self.console.width - STATE_WIDTH - 1 - sum(width + 1 for width in shown.values())
        room = min(max(room, 8), max(map(len, self.labels.values()), default=8))
        headings, widths = ["run", "state", *(named[h] for h in shown)], [room, STATE_WIDTH, *shown.values()]
        labels = self.labels
        lines = []
        for row in rows:
            cells = self.cells(row)
            state = Cell(self.state_of(row), STYLES.get(row.state, ""))
            lines.append([Cell(labels[row.run.id]), state, *(Cell(cells[heading]) for heading in shown)])
        folded = Counter(r.state for r in self.rows.values()) - Counter(r.state for r in rows)
        counts = ", ".join(f"{n} {state}" for state, n in folded.items())
        fold = [Text(printable(f"and {folded.total()} more: {counts}"), style="dim", no_wrap=True)] if folded else []
        return Group(
            Lines(headings, widths, lines, 2),
            *fold,
            *failures,
            Text(self.totals(), style="dim", no_wrap=True, overflow="ellipsis"),
        )

    def failures(self) -> Iterator[Text]:
        """Yield one line per failed run, up to a third of the screen, and then how many more there are."""
        failed = [row for row in self.rows.values() if row.state == "failed"]
        room = max(1, self.console.height // 3 - 1)
        for row in failed[:room]:
            line = f"{self.names[row.run.id]} failed: {row.error}"
            yield Text(printable(line), style="red", no_wrap=True, overflow="ellipsis")
        if len(failed) > room:
            yield Text(f"and {len(failed) - room} more failed", style="red")

    def visible(self, room: int) -> list[Row]:
        """Return the rows that fit, in plan order: running, next, ended (the latest first), and then all others."""
        following = [row for row in self.rows.values() if row.state == "waiting"][:NEXT]
        ranked = sorted(self.rows.values(), key=lambda r: (0 if r in following else ORDER.get(r.state, 0), -r.ended))
        chosen = {row.run.id for row in ranked[: max(3, room)]}
        return [row for row in self.rows.values() if row.run.id in chosen]

    @property
    def labels(self) -> dict[str, str]:
        """The runs' names, without what a trial tries if there is no room for it."""
        if self.console.width >= WIDE:
            return self.names
        return {run_id: name.partition(":")[0] for run_id, name in self.names.items()}

    def state_of(self, row: Row) -> str:
        """Return a run's state, with the share that is done."""
        return f"{row.state} {100 * row.share[0] // row.share[1]:3d}%" if row.share else row.state

    def cells(self, row: Row) -> dict[str, str | ProgressBar]:
        """Return one row's cells by their headings."""
        v = row.values
        return {
            "": ProgressBar(row.share[1], row.share[0], width=COLUMNS[""][0]) if row.share else "",
            "step": f"{v['step']:,}/{v['steps']:,}" if "steps" in v else "",
            "train": short(v.get("train/loss")),
            "valid": short(v.get("validation/loss")),
            "test": short(v.get("test/loss")),
            "score": number(v.get(f"test/{(row.ranked or Ranked()).name}"), ".3f"),
            "tok/s": pace(v.get("tokens_per_second")),
            "peak": f"{v['peak_bytes'] / 2**30:.2f} GiB" if v.get("peak_bytes") else "",
            "time": self.time_of(row),
        }

    def time_of(self, row: Row) -> str:
        """Return how long a run took, or the time left of a running one."""
        if row.seconds is not None:
            return clock_time(row.seconds)
        left = self.forecast.left_of(row.run.id) if self.forecast and row.state not in ORDER else None
        return "" if left is None else f"{roughly(left)} left"

    def totals(self) -> str:
        """Return counts of runs, elapsed time, and the time left once it can be estimated."""
        states = Counter(row.state for row in self.rows.values())
        ended = sum(states[s] for s in ("done", "failed", "stopped", "done before"))
        count = len(self.rows) - states[NOT_NEEDED]
        line = f"{ended} of {count} runs ended"
        if states["failed"]:
            line += f", {states['failed']} failed"
        line += f" · {clock_time(self.clock() - self.start)}"
        left, basis = self.left(), self.basis()
        if left and ended < count:
            line += f" · about {clock_time(left)} left"
            if basis or left < DAY_SECONDS:
                line += f", {basis or f'until {datetime.now() + timedelta(seconds=left):%H:%M}'}"
        return line


class LiveDisplay(TableDisplay):
    """The table on a terminal."""

    def __enter__(self) -> Self:
        self.live = Live(get_renderable=self.render, console=self.console, auto_refresh=False, vertical_overflow="crop")
        self.live.start(refresh=True)
        self.ended = threading.Event()
        self.redrawing = threading.Thread(target=self.redraw, daemon=True)
        self.redrawing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.redrawing.join()
        self.live.stop()

    def redraw(self) -> None:
        """Draw the table again and again."""
        pause = REDRAW_SECONDS
        while not self.ended.wait(pause):
            before = time.thread_time()
            self.live.refresh()
            pause = max(REDRAW_SECONDS, (time.thread_time() - before) / REDRAW_SHARE)

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(printable(text), markup=False, highlight=False)
