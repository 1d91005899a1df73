"""What a bakeoff's earlier sessions tell of the time that it takes: their part of the journal, read once more."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import SetupError
from bakeoff.progress.eta import Forecast
from bakeoff.progress.throughput import Rates
from bakeoff.store.event_log import Reader, event_of
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


def earlier_rows(file: Path, start: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Yield a journal's lines before the session that begins with `start`, all where there is none yet.

    What comes after damage tells nothing more: a forecast is no reason to stop a bakeoff.
    """
    reader = Reader(file)
    with suppress(SetupError):
        for row in reader.new_rows():
            if row == start or reader.unreadable:
                return
            yield row


def measured_before(
    rows: Iterable[dict[str, Any]], runs: Sequence[Run], plan: Mapping[str, Any], protocol: ProtocolConfig
) -> Rates:
    """Return the rates of the sessions in a journal's `rows`; runs that are planned no more tell nothing."""
    clock = Replay()
    forecast = Forecast(runs, plan, protocol, clock=clock)
    for row in rows:
        clock.at = row["time"]
        if row["kind"] == "start":
            forecast.begin()
            clock.latest = 0.0  # each session counts by its own clock
        elif row.get("run") in forecast.parts:
            forecast.take(event_of(row))
    return forecast.rates
