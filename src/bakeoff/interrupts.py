"""Stopping: the first Ctrl-C, or a SIGTERM, lets a bakeoff save its work; a second one ends it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class EndAtOnce(KeyboardInterrupt):
    """A second request to stop: nothing more is written."""


class Stopped(BaseException):
    """A run was asked to stop; its checkpoint is written."""


class MachineLost(BaseException):
    """A machine with processes of a run is gone; the run can continue elsewhere from its checkpoint."""


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether this process was asked to stop; a second request raises EndAtOnce.

    Signals reach only the main thread: in other threads nothing is ever asked.
    """
    stop_requested = threading.Event()

    def handle(*_: Any) -> None:
        if stop_requested.is_set():
            raise EndAtOnce
        stop_requested.set()

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield stop_requested.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
