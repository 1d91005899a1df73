"""Paths as a person writes them."""

import os
from pathlib import Path


def at_home(path: str) -> Path:
    """Return the path with a leading ~ replaced by the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no such user


def is_folder(path: str | Path) -> bool:
    """Return whether a path is a folder; a path that the system does not allow (too long, say) is not."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises there


def is_file(path: str | Path) -> bool:
    """Return whether a path is a file; a path that the system does not allow (too long, say) is not."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises there
