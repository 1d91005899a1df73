"""SHA-256 of files. A file is read once, and again only if its size or time of change differs."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

Stamped = tuple[str, int, int]  # a file's path, size and time of change in nanoseconds
_KNOWN: dict[Stamped, str] = {}


def file_hashes(files: Iterable[Stamped]) -> dict[str, str]:
    """Return the SHA-256 of files by name."""
    hashes = {}
    for file in files:
        path = Path(file[0])
        if file not in _KNOWN:
            with path.open("rb") as stream:
                _KNOWN[file] = hashlib.file_digest(stream, "sha256").hexdigest()
        hashes[path.name] = _KNOWN[file]
    return hashes


def remember(files: Iterable[Stamped], stamps: Mapping[str, Sequence[int]], hashes: Mapping[str, str]) -> None:
    """Take earlier `hashes` of files by name, for those whose size and time are still their `stamps` of then.

    Runs of a large base would otherwise hash it again, each a second a gigabyte.
    """
    for file in files:
        name = Path(file[0]).name
        if name in hashes and list(stamps.get(name, ())) == list(file[1:]):
            _KNOWN[file] = hashes[name]
