"""events.jsonl: what happens in a bakeoff, one event per line with its time. `watch` reads it at the same time.

Each session (a bakeoff that was resumed has several) begins with a `start` line and, unless it was killed, ends with an
`end` line. Progress is written at most every PROGRESS_SECONDS; everything else is written.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bakeoff.errors import SetupError
from bakeoff.store.checksums import LARGEST, open_regular
from bakeoff.store.events import End, Event, Note, RunEvent, Start, event_of
from bakeoff.store.files import append_jsonl
from bakeoff.store.records import Run

PROGRESS_SECONDS = 2.0


def even_clock() -> Callable[[], float]:
    """Return a clock of seconds since 1970 that runs evenly, even if somebody sets the machine's clock."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


class EventClock:
    """A clock at the time of the event that is read, and afterwards at the machine's time. It never goes back."""

    at: float | None = None
    latest = 0.0

    def __call__(self) -> float:
        """Return seconds since 1970."""
        self.latest = max(self.latest, time.time() if self.at is None else self.at)
        return self.latest


class EventLog:
    """Writes a bakeoff's events."""

    def __init__(self, file: Path, clock: Callable[[], float] | None = None):
        self.file, self.clock = file, clock or even_clock()
        self.progress_at: dict[str, float] = {}

    @contextmanager
    def session(self, start: Start) -> Iterator[None]:
        """Write a session's start line, and its end line on the way out."""
        self.write(start)
        try:
            yield
        except KeyboardInterrupt:
            self.note("interrupted")
            raise
        finally:
            self.write(End())

    def handle(self, event: RunEvent) -> None:
        """Write an event, unless it is progress that comes too soon after the last."""
        if event.kind == "progress":
            now = self.clock()
            if now - self.progress_at.get(event.run, 0.0) < PROGRESS_SECONDS:
                return
            self.progress_at[event.run] = now
        else:
            self.progress_at.pop(event.run, None)
        self.write(event)

    def add(self, run: Run) -> None:
        """Write nothing: a reader finds a run that was not planned in the folder."""

    def note(self, text: str) -> None:
        """Write a message for the user."""
        self.write(Note(text=text))

    def write(self, event: Event) -> None:
        """Append an event with its time, in seconds since 1970."""
        append_jsonl(self.file, {"time": round(self.clock(), 2), **event.row()})


class Growing:
    """A file of lines that is still being written: its complete lines, each once."""

    def __init__(self, file: Path, place: int = 0):
        self.file, self.place = file, place  # in bytes

    def new_lines(self) -> Iterator[bytes]:
        """Yield the lines since the last call; one longer than LARGEST comes in parts. Raises OSError if it cannot."""
        with open_regular(self.file) as stream:
            stream.seek(self.place)
            while line := stream.readline(LARGEST):
                if not line.endswith(b"\n") and len(line) < LARGEST:
                    return
                self.place += len(line)
                yield line


class Reader(Growing):
    """Reads an event log that is still being written. Counts damaged lines."""

    def __init__(self, file: Path, place: int = 0):
        super().__init__(file, place)
        self.unreadable = 0  # lines that were passed over

    def new_events(self) -> Iterator[Event]:
        """Yield the events since the last call."""
        if not self.file.exists():
            return
        for line in self.new_lines():
            event: Event | None = None
            with suppress(ValueError, RecursionError):
                event = event_of(json.loads(line))
            if event and event.time is not None:
                yield event
            else:
                self.unreadable += line.endswith(b"\n")  # not each part of a line that is too long


def earlier_events(file: Path, start: Start | None = None) -> Iterator[Event]:
    """Yield the events before the session that begins with `start` (or all events), up to the first damaged line."""
    reader = Reader(file)
    with suppress(SetupError):  # no display is worth stopping a bakeoff for
        for event in reader.new_events():
            if event == start or reader.unreadable:
                return
            yield event
