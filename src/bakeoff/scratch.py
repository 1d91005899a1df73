"""Temporary files, and what is said where their disk is full."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from bakeoff.errors import SetupError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def room(what: str) -> Iterator[None]:
    """Within, a temporary file that its disk refuses is a SetupError which names that disk."""
    try:
        yield
    except FileNotFoundError:  # tempfile's own: no folder can be written
        raise SetupError(f"{what}: no temporary folder can be written. Set TMPDIR to one with room") from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        folder = os.environ.get("TMPDIR") or gettempdir()
        raise SetupError(f"{what}: {error.strerror} in {folder}. Set TMPDIR to a folder with room") from None


@contextmanager
def scratch() -> Iterator[Path]:
    """Within, there is a temporary folder; raise SetupError where its disk is full."""
    with room("a temporary folder"), TemporaryDirectory(prefix="bakeoff-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
