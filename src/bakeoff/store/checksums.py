"""Checksums that show whether files are still as they were written, and writes that are on disk when they return."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from bakeoff.errors import SetupError

SEAL = "sha256"
# What the system says of a file that may be whole.
UNREADABLE = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT}
LARGEST = 64 * 2**20  # bytes of a document that is read as a whole, or of one line of another


def open_file(path: Path) -> BufferedReader:
    """Return a file that is open for reading.

    Raises OSError if it cannot be opened, and for pipes and devices: reading those may never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))


def open_regular(path: Path) -> BufferedReader:
    """Return a file of a run folder, open for reading.

    Raises OSError if it does not exist, and SetupError if it is a pipe or device, or may not be read.
    """
    try:
        return open_file(path)
    except PermissionError:
        raise SetupError(f"{path}: permission denied. Try: ask its owner for permission to read it") from None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EINVAL):
            raise
        raise SetupError(f"{path}: is not a regular file. Try: remove it, and bakeoff run again") from None


def read_whole(path: Path) -> bytes:
    """Return a document's bytes; raise SetupError if it is too large for a document, or cannot be read."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise SetupError(f"{path}: larger than {LARGEST >> 20} MiB. Try: remove it, and bakeoff run again")
        return file.read(LARGEST)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, files: Iterable[Path], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of files by their paths below `folder`. Each file is synced to the disk first.

    The hashes of files that are `known` are taken from there.
    """
    hashes = dict(known or {})
    for path in sorted(files):
        name = path.relative_to(folder).as_posix()
        if name not in hashes:
            sync(path)
            hashes[name] = digest(path)
    return hashes


def damaged(folder: Path, expected: dict[str, str]) -> Path | None:
    """Return the first file below `folder` that is missing or whose SHA-256 differs, or None if all are complete.

    Raises SetupError if a file cannot be read at the moment: it may be complete, and must not be made again.
    """
    for name, stated in expected.items():
        path = folder / name
        try:
            if digest(path) != stated:
                return path
        except OSError as error:
            if error.errno in UNREADABLE:
                raise SetupError(unreadable(path, error)) from None
            return path
    return None


def unreadable(file: Path, error: OSError) -> str:
    """Return the line that reports a file which exists and cannot be read."""
    return f"{file}: cannot be read ({os.strerror(error.errno or 0)}). Try: run again, as a user who may read it"


def fault_of(file: Path) -> str:
    """Return what is wrong with a file that `damaged` has returned."""
    try:
        with file.open("rb"):
            return "damaged or missing. Try: bakeoff run again"
    except FileNotFoundError:
        return "damaged or missing. Try: bakeoff run again"
    except OSError as error:
        return f"cannot be read ({error.strerror}). Try: run as a user who may read it"


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_mapping(file: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, or an empty one if the file is missing or damaged.

    Raises SetupError if the file may not be read, or is not a regular file.
    """
    try:
        value = json.loads(read_whole(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON document with its own SHA-256 in it."""
    return {SEAL: _mark(document), **document}


def unsealed(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document that was sealed; raise ValueError if it has changed since."""
    content = {key: value for key, value in document.items() if key != SEAL}
    try:
        whole = document.get(SEAL) == _mark(content)
    except RecursionError:  # so deep that it could be read and not be written
        whole = False
    if not whole:
        raise ValueError("its checksum differs")
    return content


def _mark(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
