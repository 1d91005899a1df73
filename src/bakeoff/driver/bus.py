"""Passes on what happens in a bakeoff to its subscribers: the event log and a display."""

from typing import Protocol

from bakeoff.store.events import Event, RunEvent
from bakeoff.store.records import Run


class Subscriber(Protocol):
    """An object that receives everything that happens in a bakeoff."""

    def handle(self, event: RunEvent) -> None:
        """Receive an event of a run."""

    def note(self, text: str) -> None:
        """Receive a message for the user."""

    def add(self, run: Run) -> None:
        """Receive a run that was not planned, before its first event."""


class Bus:
    """Passes events, messages and new runs on to every subscriber, in their order."""

    def __init__(self, *subscribers: Subscriber):
        self.subscribers = subscribers
        self.noted: set[str] = set()

    def handle(self, event: Event) -> None:
        """Pass an event on. A run's note is about the base, so every run repeats it; it is passed on once."""
        if isinstance(event, RunEvent):
            for subscriber in self.subscribers:
                subscriber.handle(event)
        elif event.kind == "note" and event.text not in self.noted:
            self.noted.add(event.text)
            self.note(event.text)

    def note(self, text: str) -> None:
        """Pass on a message for the user."""
        for subscriber in self.subscribers:
            subscriber.note(text)

    def add(self, run: Run) -> None:
        """Pass on a run that was not planned."""
        for subscriber in self.subscribers:
            subscriber.add(run)
