"""The files of a slot of a cluster: its runs write into a folder of their own, and only the driver writes into runs/.

A node that is cut off from the cluster, and sees the disk, carries its run on for a while, beside the attempt that
continues it elsewhere. What it still writes lies where nobody reads any more. No clock, lease or check before a write
is needed for that, so a driver, a node or a disk may pause for as long as it likes.

Files that are never written again are shared as links, so a checkpoint of gigabytes is not copied.
"""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bakeoff.driver.parcel import NAMES, RUN_ID
from bakeoff.errors import SetupError
from bakeoff.store.checksums import read_mapping, sync
from bakeoff.store.files import write_json
from bakeoff.store.run_folder import SLOT, Folder

GROWING = ("metrics.jsonl", "log.txt")  # are appended to
UNFINISHED = re.compile(r"checkpoints/.+|metrics\.jsonl|log\.txt")  # what counts of a run that has left no record


class SlotFolder:
    """What a slot's node writes. The run that is lent to it is named in a file that only the driver writes."""

    def __init__(self, folder: Folder, name: str | None = None):
        name = name or secrets.token_hex(8)
        self.folder, self.own = folder, Folder(folder.slots / name)
        self.lent_file = folder.slots / f"{name}.json"

    def lend(self, run_id: str, adopts: str | None) -> Path:
        """Let the slot have the files of a run, and of the trial that it adopts; return where it finds them."""
        shutil.rmtree(self.own.runs_folder, ignore_errors=True)
        for name in filter(None, (run_id, adopts)):
            source, target = self.folder.run(name).path, self.own.run(name).path
            share(source, target, files_of(source))
        write_json(self.lent_file, {"run": run_id})
        return self.own.place

    def take_back(self) -> None:
        """Make the lent run's folder what the slot has made of it; do nothing if none is lent.

        Its record comes last. After a crash in between this can be done again.
        """
        run_id = read_mapping(self.lent_file).get("run")
        if not isinstance(run_id, str) or not re.fullmatch(RUN_ID, run_id):
            return
        theirs, ours = self.own.run(run_id), self.folder.run(run_id)
        record, made = theirs.result(), files_of(theirs.path)
        if record:  # a network disk may list files late, but not those whose name is known
            made |= {name for name in record.files if NAMES.fullmatch(f"runs/{run_id}/{name}")}
        else:
            made = {name for name in made if UNFINISHED.fullmatch(name)}
        share(theirs.path, ours.path, made)
        newer = any(name.startswith("checkpoints/") for name in made)
        for name in files_of(ours.path) - made:
            of_layout = NAMES.fullmatch(f"runs/{run_id}/{name}")
            if of_layout and (record or (newer and name.startswith("checkpoints/"))):
                (ours.path / name).unlink(missing_ok=True)
        self.lent_file.unlink()
        shutil.rmtree(self.own.place, ignore_errors=True)


def files_of(place: Path) -> set[str]:
    """Return the names of the files below a run's folder that are there as a whole."""
    there = (file for file in place.rglob("*") if file.suffix != ".tmp" and not file.is_symlink() and file.is_file())
    return {file.relative_to(place).as_posix() for file in there}


def share(source: Path, target: Path, names: Iterable[str]) -> None:
    """Let files of one folder be in another one, too, each as a whole.

    Those that are gone meanwhile are passed over, and so are links, folders and pipes, whoever has put them there.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted(names, key=lambda name: (name == "result.json", name)):
        one, other = source / name, target / name
        other.parent.mkdir(parents=True, exist_ok=True)
        temporary = other.with_name(f".{other.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(one.lstat().st_mode) or (other.exists() and one.samefile(other)):
                continue
            if name in GROWING:
                shutil.copy2(one, temporary)
            else:
                link(one, temporary)
            temporary.replace(other)
    sync(target)


def link(one: Path, other: Path) -> None:
    """Give a file another name, or copy it where the disk has no second names."""
    try:
        os.link(one, other, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(one, other)


def tidy(folder: Folder) -> None:
    """Remove what slots have left, unless a run is still lent: then the next session does."""
    if not any(folder.slots.glob("*.json")):
        shutil.rmtree(folder.slots, ignore_errors=True)


def take_back_all(folder: Folder) -> None:
    """Take back what a driver that was killed has lent, and remove what slots have left.

    Raises SetupError if they are not in a folder.
    """
    if not folder.slots.exists():
        return
    if not folder.slots.is_dir():
        raise SetupError(f"{folder.slots}: is not a folder. Try: remove it")
    for file in folder.slots.glob("*.json"):
        if re.fullmatch(SLOT, file.stem) and file.is_file() and not file.is_symlink():
            SlotFolder(folder, file.stem).take_back()
    shutil.rmtree(folder.slots, ignore_errors=True)
