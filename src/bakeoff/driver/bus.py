"""What happens in a bakeoff is passed on to whoever wants to know: the event log, a display."""

from typing import Protocol

from bakeoff.store.events import Event, RunEvent
from bakeoff.store.records import Run


class Subscriber(Protocol):
    """Whoever wants to know."""

    def handle(self, event: RunEvent) -> None:
        """Take in an event of a run."""

    def note(self, text: str) -> None:
        """Take in a line of news."""

    def add(self, run: Run) -> None:
        """Take in a run that was not planned, before its first event."""


class Bus:
    """Passes events, notes and new runs on to every subscriber, in their order."""

    def __init__(self, *subscribers: Subscriber):
        self.subscribers = subscribers
        self.noted: set[str] = set()

    def handle(self, event: Event) -> None:
        """Pass an event on; a run's note is of the base, so that every run has it, and is passed on once."""
        if isinstance(event, RunEvent):
            for subscriber in self.subscribers:
                subscriber.handle(event)
        elif event.kind == "note" and event.text not in self.noted:
            self.noted.add(event.text)
            self.note(event.text)

    def note(self, text: str) -> None:
        """Pass on a line of news."""
        for subscriber in self.subscribers:
            subscriber.note(text)

    def add(self, run: Run) -> None:
        """Pass on a run that was not planned."""
        for subscriber in self.subscribers:
            subscriber.add(run)
