"""Whether files are what was written: checksums, and writes that are on the disk when they are said to be."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SEAL = "sha256"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by their paths below `folder`, each of them synced to the disk."""
    found = {}
    for path in sorted(files):
        sync(path)
        found[path.relative_to(folder).as_posix()] = digest(path)
    return found


def damaged(folder: Path, expected: dict[str, str]) -> Path | None:
    """Return the first file below `folder` that is missing or not what its SHA-256 says; None where all are whole."""
    for name, stated in expected.items():
        path = folder / name
        try:
            if digest(path) != stated:
                return path
        except OSError:
            return path
    return None


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_mapping(file: Path) -> dict[str, Any]:
    """Return a JSON file's mapping, or an empty one where there is none that can be read."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON document with its own SHA-256 in it."""
    return {SEAL: _mark(document), **document}


def unsealed(document: dict[str, Any]) -> dict[str, Any]:
    """Return what was sealed; raise ValueError where it has changed since."""
    content = {key: value for key, value in document.items() if key != SEAL}
    if document.get(SEAL) != _mark(content):
        raise ValueError("its checksum is another")
    return content


def _mark(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
