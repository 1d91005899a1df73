"""Shows a bakeoff that another process runs, by reading its event log. Writes nothing."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from bakeoff.errors import SetupError
from bakeoff.progress.display import Display
from bakeoff.progress.open import open_display
from bakeoff.progress.session import Session
from bakeoff.store.event_log import EventClock, Reader
from bakeoff.store.events import Event, Note, Start
from bakeoff.store.lock import is_locked, owned_since
from bakeoff.store.run_folder import Folder

POLL_SECONDS = 0.5


def watch(folder: Folder, kind: str = "auto") -> None:
    """Show the bakeoff in `folder` as its own terminal would, until its session ends; return at once if none runs.

    Waits for a bakeoff that is being planned. Raises SetupError if no bakeoff has run here yet.
    """
    wait_for_session(folder, kind)
    folder.plan()
    if not folder.events_file.exists():
        raise SetupError(f"{folder.path}: no bakeoff has run here yet (no events.jsonl). Try: bakeoff run")
    clock = EventClock()
    with ExitStack() as stack:
        screen: Display | None = None
        for event in events_of(folder, clock):
            if event.kind == "start":
                stack.close()
                screen = open_screen(folder, event, kind, clock)
                if screen:
                    stack.enter_context(screen)
            elif screen is not None:
                show(folder, screen, event)
            elif event.kind == "note":
                open_display(kind, []).note(event.text)


def wait_for_session(folder: Folder, kind: str) -> None:
    """Return once the session of the process that runs here has begun, or none runs here to begin one."""
    reader, last, began, said = Reader(folder.events_file), "end", 0.0, False
    while is_locked(folder.lock_file):
        for event in reader.new_events():
            last, began = event.kind, (event.time or 0.0) if event.kind == "start" else began
        # One that was killed has no end line; what it began is older than the process that runs now.
        if last != "end" and folder.plan_file.exists() and began >= owned_since(folder.lock_file):
            return
        if not said:
            before = "the last session has ended: its report is being written, or the next one is "
            open_display(kind, []).note(f"{folder.path}: {before if reader.place else ''}being planned")
            said = True
        time.sleep(POLL_SECONDS)


def events_of(folder: Folder, clock: EventClock, place: int | None = None) -> Iterator[Event]:
    """Yield the events of the log as they come, until nobody writes any more, and a note if some cannot be read.

    They begin at byte `place`, or at the last session.
    """
    reader = Reader(folder.events_file, place or 0)
    events = list(reader.new_events())
    if place is None:
        starts = [i for i, event in enumerate(events) if event.kind == "start"]
        events = events[starts[-1] :] if starts else []
    going_on, said = True, 0
    while True:
        for event in events:
            clock.at = event.time
            yield event
            going_on = event.kind != "end"
        if reader.unreadable > said:
            said = reader.unreadable
            lines = "1 damaged line" if said == 1 else f"{said:,} damaged lines"
            yield Note(text=f"{reader.file}: {lines} ignored; runs and results do not depend on it")
        if not (going_on and is_locked(folder.lock_file)):
            return  # the clock stays at the last line
        clock.at = None
        time.sleep(POLL_SECONDS)
        events = list(reader.new_events())


def open_screen(folder: Folder, start: Start, kind: str, clock: EventClock) -> Display | None:
    """Return a display of a session by its start line; None if the next session has made its plan already."""
    session = Session.begun(folder, start)
    return session.display(kind, clock) if session else None


def show(folder: Folder, screen: Display, event: Event) -> None:
    """Pass an event on to the display; a trial that was not planned is read from its folder.

    Nothing is shown of a run that is in no plan any more, because the next session has made another plan.
    """
    if event.kind == "note":
        screen.note(event.text)
    elif event.kind != "start" and event.kind != "end":
        if event.run not in screen.names:
            with suppress(SetupError):
                run = folder.run(event.run).run()
                if run.trial and any(other.trial and other.entry == run.entry for other in screen.runs):
                    screen.add(run)
        if event.run in screen.names:
            screen.handle(event)
