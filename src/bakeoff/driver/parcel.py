"""Files of a run folder in parcels: a machine that does not see the folder gets some, and sends back what changes.

A parcel is a mapping of paths below the run folder to contents. Whoever unpacks one takes only names that the layout
has, so that a parcel writes nowhere else.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from bakeoff.errors import SetupError
from bakeoff.store.files import replacing
from bakeoff.store.run_folder import CHECKPOINT, Folder

Parcel: TypeAlias = dict[str, bytes]
RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*"
NAMES = re.compile(
    r"(plan\.json|config\.yaml|environment\.json|\.bakeoff|data/\w+(\.tokens\.bin|\.jsonl?)"
    rf"|runs/{RUN_ID}/(\w+\.(json|jsonl|txt)|checkpoints/({CHECKPOINT})|adapter/\w[\w.-]*))"
)


def shared_by_runs(folder: Folder) -> Parcel:
    """Return what every run reads: plan, config, examples and tokens."""
    named = (folder.plan_file, folder.config_file, folder.environment_file, folder.tag_file)
    return packed(folder, [*named, *(folder.path / "data").glob("*")])


def of_run(folder: Folder, run_ids: Iterable[str]) -> Parcel:
    """Return all files of some runs."""
    return packed(folder, [file for run_id in run_ids for file in folder.run(run_id).path.rglob("*")])


def packed(folder: Folder, files: Iterable[Path]) -> Parcel:
    """Return those of some files that are there and that a parcel may have."""
    parcel = {}
    for file in files:
        name = file.relative_to(folder.path).as_posix()
        if file.is_file() and not file.is_symlink() and NAMES.fullmatch(name) and not name.endswith(".tmp"):
            parcel[name] = file.read_bytes()
    return parcel


def unpack(folder: Folder, parcel: Parcel, below: str = "") -> None:
    """Write a parcel's files into a folder, each as a whole.

    Raises SetupError if a name is none of the layout, or is not `below` the part of it that the sender may change.
    """
    for name, content in parcel.items():
        if not NAMES.fullmatch(name) or ".." in name.split("/") or not name.startswith(below):
            raise SetupError(f"{folder.path}: a machine has sent {name!r:.80}, which is no file of a run")
        with replacing(folder.path / name, "wb") as file:
            file.write(content)


class Changes:
    """What has changed in a run's folder since it was looked at last."""

    def __init__(self, folder: Folder, run_id: str):
        self.folder, self.files = folder, folder.run(run_id)
        self.seen = self.stamps()

    def stamps(self) -> dict[Path, tuple[int, int]]:
        """Return size and time of every file that is there."""
        found = {}
        for file in self.files.path.rglob("*"):
            try:
                facts = file.stat()
            except FileNotFoundError:  # a checkpoint that was replaced just now
                continue
            found[file] = (facts.st_size, facts.st_mtime_ns)
        return found

    def take(self, ended: bool) -> tuple[Parcel, list[str]]:
        """Return the files that are new or other than before, and the names of all checkpoints that are there.

        An adapter is taken when its run has `ended`: while it is saved there are files beside it that do not stay.
        """
        now = {file: s for file, s in self.stamps().items() if ended or self.files.adapter not in file.parents}
        changed = [file for file, stamp in now.items() if self.seen.get(file) != stamp]
        self.seen |= now
        there = [file.name for file in now if file.parent == self.files.checkpoints]
        return packed(self.folder, changed), there
