"""Chooses the display."""

import os
import time
from collections.abc import Collection, Sequence

from rich.console import Console

from bakeoff.progress.display import Clock, Display
from bakeoff.progress.eta import Forecast
from bakeoff.progress.plain import JsonDisplay, NoDisplay, PlainDisplay
from bakeoff.store.records import Run


def open_display(
    kind: str,
    runs: Sequence[Run],
    done: Collection[str] = (),
    forecast: Forecast | None = None,
    console: Console | None = None,
    clock: Clock = time.monotonic,
) -> Display:
    """Return the display called `kind`.

    `auto` is a table in a notebook and on a terminal that can redraw and is not a CI log, else plain lines.
    """
    console = console or Console(stderr=True)
    if kind == "auto":
        redraws = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")
        kind = "live" if redraws or console.is_jupyter else "plain"
    if kind == "live":
        from bakeoff.progress.live import LiveDisplay
        from bakeoff.progress.notebook import NotebookDisplay

        if console.is_jupyter:
            return NotebookDisplay(runs, done, forecast, clock)
        return LiveDisplay(runs, done, forecast, clock, console)
    kinds: dict[str, type[PlainDisplay | JsonDisplay | NoDisplay]]
    kinds = {"plain": PlainDisplay, "json": JsonDisplay, "none": NoDisplay}
    return kinds[kind](runs, done, forecast, clock)
