"""Looking on while another process runs a bakeoff: its journal, read into a display. Nothing is written."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

from bakeoff.config.config import load_config
from bakeoff.errors import SetupError
from bakeoff.progress.display import Display
from bakeoff.progress.eta import Forecast
from bakeoff.progress.open import open_display
from bakeoff.progress.replay import Replay, earlier_rows, measured_before
from bakeoff.store.event_log import Reader, event_of
from bakeoff.store.lock import is_locked
from bakeoff.store.run_folder import Folder

POLL_SECONDS = 0.5


def watch(folder: Folder, kind: str = "auto") -> None:
    """Show the bakeoff in `folder` as its own terminal would, until its session ends; return at once where none runs.

    One that is being planned is waited for. Raises SetupError where nothing was run here yet.
    """
    wait_for_session(folder, kind)
    folder.plan()
    if not folder.events_file.exists():
        raise SetupError(f"{folder.path}: no bakeoff has run here yet (no events.jsonl). Try: bakeoff run")
    clock = Replay()
    with ExitStack() as stack:
        screen: Display | None = None
        for row in rows_of(folder, clock):
            if row["kind"] == "start":
                stack.close()
                screen = open_screen(folder, row, kind, clock)
                stack.enter_context(screen)
            elif screen is not None:
                show(folder, screen, row)
            elif row["kind"] == "note":
                open_display(kind, []).note(row["text"])


def wait_for_session(folder: Folder, kind: str) -> None:
    """Return once a session has begun, or no process runs here to begin one."""
    reader, last, said = Reader(folder.events_file), "end", False
    while is_locked(folder.lock_file):
        last = [last, *(row["kind"] for row in reader.new_rows())][-1]
        if last != "end" and folder.plan_file.exists():
            return
        if not said:
            before = "the last session has ended: its report is being written, or the next one is "
            open_display(kind, []).note(f"{folder.path}: {before if reader.place else ''}being planned")
            said = True
        time.sleep(POLL_SECONDS)


def rows_of(folder: Folder, clock: Replay, place: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the journal's lines as they come, until nobody writes any more, and a note where some cannot be read.

    They begin at byte `place`, or where the last session did.
    """
    reader = Reader(folder.events_file, place or 0)
    rows = list(reader.new_rows())
    if place is None:
        starts = [i for i, row in enumerate(rows) if row["kind"] == "start"]
        rows = rows[starts[-1] :] if starts else []
    going_on, said = True, 0
    while True:
        for row in rows:
            clock.at = row["time"]
            yield row
            going_on = row["kind"] != "end"
        if reader.unreadable > said:
            said = reader.unreadable
            lines = "1 damaged line" if said == 1 else f"{said:,} damaged lines"
            yield {"kind": "note", "text": f"{reader.file}: {lines} passed over; runs and results do not depend on it"}
        if not (going_on and is_locked(folder.lock_file)):
            return  # the clock stays at the last line
        clock.at = None
        time.sleep(POLL_SECONDS)
        rows = list(reader.new_rows())


def open_screen(folder: Folder, start: dict[str, Any], kind: str, clock: Replay) -> Display:
    """Return a display of a session by its start line, with the plan that it has made.

    What sessions before it measured counts in its forecast.
    """
    protocol, plan, runs = load_config(folder.config_file).protocol, folder.plan(), folder.runs()
    rates = measured_before(earlier_rows(folder.events_file, start), runs, plan, protocol)
    forecast = Forecast(runs, plan, protocol, start["done"], start["steps"], clock, rates, start.get("again"))
    return open_display(kind, runs, start["done"], forecast, clock=clock)


def show(folder: Folder, screen: Display, row: dict[str, Any]) -> None:
    """Pass a line on to the display; a trial that was not planned is read from its folder.

    Of a run that is in no plan any more, because the next session has made another since, nothing is shown.
    """
    if row["kind"] == "note":
        screen.note(row["text"])
    elif row["kind"] != "end":
        if row["run"] not in screen.names:
            with suppress(SetupError):
                run = folder.run(row["run"]).run()
                if run.trial and any(other.trial and other.entry == run.entry for other in screen.runs):
                    screen.add(run)
        if row["run"] in screen.names:
            screen.handle(event_of(row))
