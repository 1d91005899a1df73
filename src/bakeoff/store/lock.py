"""One process per run folder: a lock that names its owner, and that ends when the owner's process ends.

The kernel's file lock ends with its process. It is on the folder itself, which nobody removes by mistake, and on a file
in it, which names the owner, and whose lock network disks pass on to other machines. Some network disks do not, so the
owner also touches the file regularly: before the lock of another machine is taken over, it is watched for touches.
"""

import fcntl
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bakeoff.errors import SetupError
from bakeoff.store.files import detach

TOUCH_SECONDS = 2.0
WATCH_SECONDS = 10.0  # long enough that a living owner touches its lock meanwhile
PATIENCE_SECONDS = 1.0  # for one who only looks whether the lock is held, or who is just leaving
RETRY_SECONDS = 0.02


@contextmanager
def locked(file: Path) -> Iterator[str | None]:
    """Own the folder of the lock `file`; create both if they are missing.

    Yields a line if the last owner died without releasing the lock, else None. Raises SetupError, which names the
    owner, if another process runs here.
    """
    with ExitStack() as stack:
        lock = taken(file, stack)
        last = read_owner(lock)
        if last.get("host", socket.gethostname()) != socket.gethostname() and is_touched(file):
            raise busy(file, last)
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(this_process()).encode(), 0)
        ended = threading.Event()
        toucher = threading.Thread(target=touch, args=(lock, ended), daemon=True)
        toucher.start()
        try:
            yield f"resumes after {described(last)}, which ended unexpectedly" if last else None
        finally:
            ended.set()
            toucher.join()
            os.ftruncate(lock, 0)


def taken(file: Path, stack: ExitStack) -> int:
    """Return the descriptor of the lock file, locked together with its folder until `stack` ends.

    Raises SetupError if another process has the lock.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        make(file.parent)
        with ExitStack() as attempt, suppress(BlockingIOError, FileNotFoundError):
            take(file.parent, os.O_RDONLY | os.O_DIRECTORY, attempt)
            detach(file)
            lock = take(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, attempt)
            stack.push(attempt.pop_all())
            return lock
        if time.monotonic() >= until:
            raise busy(file, owner_of(file))
        time.sleep(RETRY_SECONDS)


@contextmanager
def in_turn(folder: Path, patience: float) -> Iterator[None]:
    """Wait for a turn to write, as all processes do here, but at most `patience` seconds for one that hangs."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    until = time.monotonic() + patience
    try:
        while time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(RETRY_SECONDS)
            except OSError:  # there may be disks that lock files only
                break
        yield
    finally:
        os.close(descriptor)


def make(folder: Path) -> None:
    """Make a folder. If another process removes it at the same moment, leave it to the next attempt."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(folder.lstat().st_mode):
                raise


def take(path: Path, flags: int, stack: ExitStack) -> int:
    """Return a descriptor of what is at `path`, locked until `stack` ends.

    Raises BlockingIOError if another process has the lock, and FileNotFoundError if the path was removed or replaced
    meanwhile: then the lock would be on a file that nobody else finds.
    """
    descriptor = os.open(path, flags, 0o666)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError) or not flags & os.O_DIRECTORY:
            raise  # there may be disks that lock files only
    if not os.path.samestat(os.fstat(descriptor), path.stat()):
        raise FileNotFoundError(path)
    return descriptor


def is_locked(file: Path) -> bool:
    """Return whether a process owns the folder of the lock `file`. Writes nothing."""
    return is_held(file.parent) or is_held(file)


def is_held(path: Path) -> bool:
    """Return whether a process holds a lock on a file or folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)
    return False


def busy(file: Path, owner: dict[str, Any]) -> SetupError:
    """Return the error that names the process which runs here."""
    return SetupError(
        f"{file.parent}: another bakeoff is running in this folder: {described(owner)}. Wait for it, or end it"
    )


def this_process() -> dict[str, Any]:
    """Return what a lock file contains about its owner."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}


def owner_of(file: Path) -> dict[str, Any]:
    """Return the owner that a lock file names, or an empty mapping if it names nobody."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        return read_owner(descriptor)
    finally:
        os.close(descriptor)


def owned_since(file: Path) -> float:
    """Return since when its owner has a lock, in seconds since 1970 by the owner's clock; 0 where that is not known."""
    try:
        return datetime.fromisoformat(str(owner_of(file).get("since"))).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def read_owner(lock: int) -> dict[str, Any]:
    """Return the owner that an open lock file names, or an empty mapping if it names nobody."""
    try:
        owner = json.loads(os.pread(lock, 1000, 0))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def described(owner: dict[str, Any]) -> str:
    """Return an owner in words."""
    if not owner:
        return "an unknown process"
    return f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')}"


def touch(file: Path | int, ended: threading.Event) -> None:
    """Touch the lock, by its path or descriptor, as long as its owner runs."""
    while not ended.wait(TOUCH_SECONDS):
        with suppress(OSError):
            os.utime(file)


def is_touched(file: Path) -> bool:
    """Return whether the lock is touched while this process watches it. Clocks of other machines are not used."""
    before = file.stat().st_mtime_ns
    time.sleep(WATCH_SECONDS)
    return file.stat().st_mtime_ns != before
