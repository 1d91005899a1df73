"""One process a run folder: a lock that names its owner, and that no dead owner holds.

The kernel's file lock ends with its process. Where a folder is shared between machines it may not reach the others,
so the owner also touches the file again and again: a lock of another machine is watched before it is taken over.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bakeoff.errors import SetupError

TOUCH_SECONDS = 2.0
WATCH_SECONDS = 10.0  # long enough that a living owner touches its lock meanwhile


@contextmanager
def locked(file: Path) -> Iterator[str | None]:
    """Within, this process owns the lock; yield a line where its last owner died without leaving it, else None.

    Raises SetupError, which names the owner, where another process is at work.
    """
    with file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy(file, read_owner(file)) from None
        last = read_owner(file)
        if last.get("host", socket.gethostname()) != socket.gethostname() and is_touched(file):
            raise busy(file, last)
        lock.truncate(0)
        json.dump(this_process(), lock)
        lock.flush()
        ended = threading.Event()
        toucher = threading.Thread(target=touch, args=(file, ended), daemon=True)
        toucher.start()
        try:
            yield f"going on after {described(last)}, which ended without a word" if last else None
        finally:
            ended.set()
            toucher.join()
            lock.truncate(0)


def busy(file: Path, owner: dict[str, Any]) -> SetupError:
    """Return the error that says who is at work."""
    return SetupError(f"{file.parent}: another bakeoff run is at work here: {described(owner)}. Wait for it, or end it")


def this_process() -> dict[str, Any]:
    """Return what a lock says of its owner."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}


def read_owner(file: Path) -> dict[str, Any]:
    """Return the owner that a lock names, or an empty mapping where it names none."""
    try:
        owner = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def described(owner: dict[str, Any]) -> str:
    """Return an owner in words."""
    if not owner:
        return "a process that has not said which it is"
    return f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')}"


def touch(file: Path, ended: threading.Event) -> None:
    """Touch the lock until its owner ends."""
    while not ended.wait(TOUCH_SECONDS):
        with suppress(OSError):
            os.utime(file)


def is_touched(file: Path) -> bool:
    """Return whether somebody touches the lock while one looks; no clock of another machine is trusted."""
    before = file.stat().st_mtime_ns
    time.sleep(WATCH_SECONDS)
    return file.stat().st_mtime_ns != before
