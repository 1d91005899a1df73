"""The folder of a grid: a list of its cells, each a run folder below it, and what they say together."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bakeoff.errors import SetupError
from bakeoff.store.checksums import read_mapping
from bakeoff.store.files import write_json
from bakeoff.store.lock import locked
from bakeoff.store.ownership import refuse_inside
from bakeoff.store.run_folder import Folder

MADE_BY = "bakeoff"


class GridFolder:
    """Names of the files of a grid."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.grid_file = self.path / "grid.json"
        self.lock_file = self.path / ".lock"
        self.page = self.path / "report.html"

    def is_grid(self) -> bool:
        """Return whether a grid was made here."""
        return read_mapping(self.grid_file).get("made_by") == MADE_BY

    @contextmanager
    def owned(self, cells: Mapping[str, tuple[str, str]]) -> Iterator[None]:
        """Keep all other processes from running a grid here; write task and base of each cell by its folder's name."""
        self.check_free()
        with locked(self.lock_file):
            rows = [{"folder": name, "task": task, "base": base} for name, (task, base) in cells.items()]
            write_json(self.grid_file, {"made_by": MADE_BY, "cells": rows})
            yield

    def check_free(self) -> None:
        """Raise SetupError if the folder is none, a link, inside a run folder, or has files of another kind."""
        refuse_inside(self.path, "-s output=FOLDER, another place")
        if self.path.exists() and not self.path.is_dir():
            raise SetupError(f"{self.path}: is a file, expected a folder. Try: another name, or -s output=FOLDER")
        if self.path.is_symlink() or self.grid_file.is_symlink():
            raise SetupError(f"{self.path}: is a link, or grid.json in it is. Try: another name, or -s output=FOLDER")
        if self.path.exists() and not self.is_grid() and set(self.path.iterdir()) - {self.lock_file}:
            raise SetupError(f"{self.path}: contains other files. Try: another name, or -s output=FOLDER")

    def cells(self) -> dict[Path, tuple[str, str]]:
        """Return the task and base of each cell's folder that has a plan; raise SetupError if the list is damaged."""
        rows, found = read_mapping(self.grid_file).get("cells"), {}
        for row in rows if isinstance(rows, list) else [None]:
            texts = [row.get(key) for key in ("folder", "task", "base")] if isinstance(row, dict) else [None]
            if not all(isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) for text in texts):
                raise SetupError(f"{self.grid_file}: damaged. Try: bakeoff run of the grid's config again")
            name, task, base = map(str, texts)
            if Folder(self.path / name).planned():
                found[self.path / name] = (task, base)
        if not found:
            raise SetupError(f"{self.path}: none of its bakeoffs has begun. Try: bakeoff run of the grid's config")
        return found
