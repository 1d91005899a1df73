"""Temporary files, and the error if their disk is full."""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from bakeoff.errors import SetupError

# What a plan, its probes, the trial of a metric and processes that meet write, by the folder below their temporary one.
LEFT = {"data": r"\w+\.tokens\.bin", "": r"config\.yaml|answer\.json(\.part)?|log\.txt|store"}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def room(what: str) -> Iterator[None]:
    """Turn a full disk of temporary files into a SetupError that names the disk."""
    try:
        yield
    except FileNotFoundError:  # tempfile's own: no folder can be written
        raise SetupError(f"{what}: no temporary folder is writable. Set TMPDIR to a folder with free space") from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        folder = os.environ.get("TMPDIR") or gettempdir()
        raise SetupError(f"{what}: {error.strerror} in {folder}. Set TMPDIR to a folder with free space") from None


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a temporary folder; raise SetupError if its disk is full.

    First remove the temporary folders of processes that were killed.
    """
    prefix = f"bakeoff-{os.getpid()}-"
    with room("a temporary folder"), TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        own = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(own, fcntl.LOCK_SH)
            for other in Path(folder).parent.glob("bakeoff-*-*"):
                with suppress(OSError):  # in use, or another user's
                    clear(other)
            yield Path(folder)
        finally:
            os.close(own)


def clear(folder: Path) -> None:
    """Remove the files of a killed process, and then their folder; raise OSError if the process is alive."""
    name = re.fullmatch(r"bakeoff-(\d+)-\w{8}", folder.name)
    if name is None or is_alive(int(name[1])):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of a process that this machine's numbers do not tell
        for below, names in LEFT.items():
            for file in (folder / below).glob("*"):
                if re.fullmatch(rf"({names})|\.({names})\.[\w-]+\.tmp", file.name):
                    file.unlink()
        for place in (folder / "data", folder):
            if place.exists():
                place.rmdir()
    finally:
        os.close(descriptor)


def is_alive(process: int) -> bool:
    """Return whether a process of this machine has this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
