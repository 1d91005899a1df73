"""The base class of displays, and how they show numbers and times."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Self

from bakeoff.progress.eta import Forecast
from bakeoff.store.events import RunEvent
from bakeoff.store.records import Run
from bakeoff.tuning.labels import run_names

Clock = Callable[[], float]


class Display(ABC):
    """A view of the runs. Use as a context manager; `handle` takes every event, `note` a line from the driver.

    Runs in `done` were finished before. A `forecast` gets every event first.
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

    def handle(self, event: RunEvent) -> None:
        """Take in an event, and show it."""
        if self.forecast:
            with self.lock:
                self.forecast.take(event)
        self.show(event)

    def add(self, run: Run) -> None:
        """Take in a run that was not planned, a trial past the edge of a range, after the other trials of its entry."""
        with self.lock:
            if self.forecast:
                self.forecast.add(run)
            last = max(i for i, other in enumerate(self.runs) if other.entry == run.entry and other.trial)
            self.runs.insert(last + 1, run)
            self.names |= run_names([other for other in self.runs if other.entry == run.entry])

    def left(self) -> float | None:
        """Return the seconds until everything is done, or None if they cannot be estimated yet."""
        return self.forecast.left() if self.forecast else None

    def basis(self) -> str | None:
        """Return in words what the forecast is estimated from, if that is not much."""
        return self.forecast.basis() if self.forecast else None

    @abstractmethod
    def show(self, event: RunEvent) -> None:
        """Show an event."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show a message for the user in one line."""


def number(value: float | None, form: str) -> str:
    """Return a formatted number; empty if there is none yet."""
    return "" if value is None else format(value, form)


def short(value: float | None) -> str:
    """Return a number in at most five characters, as exactly as they allow; empty if there is none yet."""
    shown = [number(value, form) for form in (".3f", ".2f", ".1f", ".0f", ".0e")]
    return next((text for text in shown if len(text) <= 5), shown[-1])


def clock_time(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
