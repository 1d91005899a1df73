"""The folder of an export: it is complete or missing, and replaces nothing but an earlier export.

It is written beside its place, as `.NAME-PROCESS-xxxxxxxx.tmp`, and renamed in the end. A process that was killed
leaves such a folder, which the next export to the same place removes. With --force both folders exchange their names
in one step. Where the system cannot do that, the earlier export is `.NAME-PROCESS-xxxxxxxx.old` for a moment; if the
process is killed then, the next export gives it its name back.
"""

import ctypes
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bakeoff import __version__
from bakeoff.errors import SetupError
from bakeoff.store.checksums import read_mapping
from bakeoff.store.files import write_json
from bakeoff.store.ownership import MADE_BY, refuse_inside
from bakeoff.store.scratch import is_alive

MARK = "export.json"  # in every export: who made it, from what, and which files it has
LEFT = r"-(?P<process>\d+)-[0-9a-f]{8}\.(?P<kind>tmp|old)"
HERE, EXCHANGE = -100, 2  # Linux's AT_FDCWD and RENAME_EXCHANGE


def default_folder(name: str, entry: str, to: str) -> Path:
    """Return the default place of an export."""
    return Path("exports") / f"{name}-{entry}-{to}"


def check_place(place: Path, force: bool) -> None:
    """Raise SetupError if something is at an export's place that may not be replaced, or it is in a run folder.

    What killed processes have left of an export to this place is removed before.
    """
    sweep(place)
    refuse_inside(place, "-o FOLDER, another place")
    if not (place.exists() or place.is_symlink()):
        return
    if not force:
        again = ", or --force, which replaces this export" if is_export(place) else ""
        raise SetupError(f"{place}: exists already. Try: -o FOLDER, another place{again}")
    if not is_export(place):
        raise SetupError(f"{place}: is not an export of bakeoff, so --force does not replace it. Try: -o FOLDER")
    known = {*map(str, read_mapping(place / MARK)["files"]), MARK}
    other = sorted({f.relative_to(place).as_posix() for f in place.rglob("*") if not f.is_dir()} - known)
    if other:
        raise SetupError(f"{place}: contains {other[0]}, which bakeoff did not write. Try: move it, or -o FOLDER")


def is_export(place: Path) -> bool:
    """Return whether bakeoff wrote the folder."""
    if place.is_symlink() or not place.is_dir():
        return False
    mark = read_mapping(place / MARK)
    return mark.get("made_by") == MADE_BY and isinstance(mark.get("files"), list)


@contextmanager
def written(place: Path, force: bool) -> Iterator[Path]:
    """Make an empty folder that takes its place when the block ends, and is removed if it raises."""
    made = [folder for folder in place.parents if not folder.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(place, "tmp")
    try:
        temporary.mkdir()
        yield temporary
        if not force or not place.exists():
            temporary.rename(place)
        elif not exchange(temporary, place):
            replace(temporary, place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # another process may have put something there
            for folder in made:
                folder.rmdir()
        raise
    shutil.rmtree(temporary, ignore_errors=True)


def beside(place: Path, kind: str) -> Path:
    """Return a new name beside an export's place."""
    return place.with_name(f".{place.name}-{os.getpid()}-{secrets.token_hex(4)}.{kind}")


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False if the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0


def replace(temporary: Path, place: Path) -> None:
    """Give a folder the name of another, which is removed."""
    old = beside(place, "old")
    place.rename(old)
    try:
        temporary.rename(place)
    except BaseException:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sweep(place: Path) -> None:
    """Remove what killed processes have left of an export to this place, or give it back its name if it is missing."""
    for other in place.parent.glob(f".{glob_escaped(place.name)}-*"):
        left = re.fullmatch(rf"\.{re.escape(place.name)}{LEFT}", other.name)
        if not left or not other.is_dir() or other.is_symlink() or is_alive(int(left["process"])):
            continue
        if left["kind"] == "old" and not place.exists():
            other.rename(place)
        else:
            shutil.rmtree(other, ignore_errors=True)


def glob_escaped(name: str) -> str:
    """Return a name that a glob pattern takes literally."""
    return re.sub(r"([*?[])", r"[\1]", name)


def mark(folder: Path, facts: dict[str, Any]) -> None:
    """Write who made an export, what is known of it, and which files it has."""
    files = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if not f.is_dir())
    write_json(folder / MARK, {"made_by": MADE_BY, "version": __version__, **facts, "files": files})
