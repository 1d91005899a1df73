"""How often this user's bakeoffs have scored a test split: a list of runs per split, beside the key of signatures.

The correction for many pairs counts the entries of one table, not those that were tried on the same documents before.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bakeoff.errors import SetupError
from bakeoff.store.checksums import read_whole
from bakeoff.store.run_folder import Folder
from bakeoff.store.signature import state_folder


def file_of(folder: Folder) -> Path | None:
    """Return the file that lists the runs on a bakeoff's test split; None if the split is not known.

    Raises OSError if the user has no place for it.
    """
    split = folder.made().get("files", {}).get(folder.examples_file("test").relative_to(folder.path).as_posix())
    if not isinstance(split, str) or not re.fullmatch(r"[0-9a-f]{64}", split):
        return None
    return state_folder() / "test-splits" / split


def scored_runs(folder: Folder) -> list[str]:
    """Return the ids of the final runs that are done."""
    return [run.id for run in folder.runs() if run.kind == "entry" and folder.run(run.id).done()]


def listed_runs(file: Path) -> set[str]:
    """Return the ids of the runs in a list."""
    with suppress(OSError, SetupError):  # SetupError: not a regular file, or a huge one
        return set(read_whole(file).decode(errors="replace").split())
    return set()


def earlier_uses(folder: Folder, runs: Iterable[str]) -> int:
    """Return how many runs besides these have been scored on the test split of a bakeoff."""
    with suppress(OSError):
        if file := file_of(folder):
            return len(listed_runs(file) - set(runs))
    return 0


def note_uses(folder: Folder, runs: Iterable[str]) -> None:
    """List runs that were scored on the test split; nothing is listed twice, or where there is no place for it."""
    with suppress(OSError):
        file = file_of(folder)
        new = sorted(set(runs) - listed_runs(file)) if file else []
        if file and new:
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as lines:
                lines.write("".join(f"{run}\n" for run in new))


def reuse_note(folder: Folder, runs: Iterable[str]) -> list[str]:
    """Return a line on the earlier uses of a bakeoff's test split, if there were any."""
    count = earlier_uses(folder, runs)
    if not count:
        return []
    return [
        f"{count:,} final runs of other bakeoffs or settings were scored on this test split before: the verdict's 5 % "
        "count only the entries of one table. Try: test data that nothing was chosen by, for a last comparison"
    ]
