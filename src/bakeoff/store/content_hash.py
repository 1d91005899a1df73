"""SHA-256 of files and plain data. A file is read once, and again only if its size or modification time has changed."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Stamped = tuple[str, int, int]  # a file's path, size and time of change in nanoseconds
_KNOWN: dict[Stamped, str] = {}


def stamped(files: Iterable[Path]) -> tuple[Stamped, ...]:
    """Return path, size and time of each file, sorted: where they are the same, so is the content."""
    return tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(files))


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
    """Keep earlier `hashes` of files by name, if their size and time are still those in `stamps`.

    Otherwise each run of a large base would hash it again, which takes a second per gigabyte.
    """
    for file in files:
        name = Path(file[0]).name
        if name in hashes and list(stamps.get(name, ())) == list(file[1:]):
            _KNOWN[file] = hashes[name]


def hash_of(content: Any) -> str:
    """Return a short hash of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
