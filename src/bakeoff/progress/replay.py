"""Measures how long work took in a bakeoff's earlier sessions, by reading their part of the event log again."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import SetupError
from bakeoff.progress.eta import Forecast
from bakeoff.progress.throughput import Rates
from bakeoff.store.event_log import Reader
from bakeoff.store.events import Event, RunEvent, Start
from bakeoff.store.records import Run


class Replay:
    """A clock that stands at the line of the journal that is being read, and goes on by itself after the last.

    It never goes back, though the machine's may be set back meanwhile.
    """

    def __init__(self) -> None:
        self.at: float | None = None
        self.latest = 0.0

    def __call__(self) -> float:
        """Return seconds since 1970."""
        self.latest = max(self.latest, time.time() if self.at is None else self.at)
        return self.latest


def earlier_events(file: Path, start: Start | None = None) -> Iterator[Event]:
    """Yield a journal's events before the session that begins with `start`, all where there is none yet.

    What comes after damage tells nothing more: a forecast is no reason to stop a bakeoff.
    """
    reader = Reader(file)
    with suppress(SetupError):
        for event in reader.new_events():
            if event == start or reader.unreadable:
                return
            yield event


def measured_before(
    events: Iterable[Event], runs: Sequence[Run], plan: Mapping[str, Any], protocol: ProtocolConfig
) -> Rates:
    """Return the rates of the sessions in a journal's `events`; runs that are planned no more tell nothing."""
    clock = Replay()
    forecast = Forecast(runs, plan, protocol, clock=clock)
    for event in events:
        clock.at = event.time
        if event.kind == "start":
            forecast.begin()
            clock.latest = 0.0  # each session counts by its own clock
        elif isinstance(event, RunEvent) and event.run in forecast.parts:
            forecast.take(event)
    return forecast.rates
