"""Who owns a folder and its files: bakeoff does not replace or remove files that it did not write.

A run folder is marked by its tag, which is written into an empty folder first. While a plan is made, bakeoff owns only
its tokens; from then on it owns all names of the layout (`run_folder.Folder`), and no other name. Folders of versions
without a tag are recognised by their plan and the manifest of their tokens.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bakeoff.errors import SetupError
from bakeoff.store.checksums import read_mapping
from bakeoff.store.files import write_json
from bakeoff.store.lock import locked
from bakeoff.store.run_folder import SPLITS, Folder
from bakeoff.store.scratch import is_alive

MADE_BY = "bakeoff"
TRACKERS = ("trackers.log", "tensorboard", "wandb")
# What a process that was killed leaves of a file that it was replacing.
LEFT = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)(-[0-9a-f]{8})?\.tmp")


def is_ours(folder: Folder) -> bool:
    """Return whether a bakeoff made this folder."""
    return stage(folder) is not None or (folder.planned() and bool(folder.made()))


def stage(folder: Folder) -> str | None:
    """Return what the folder's tag says: planning, or made; None if there is no tag."""
    tag = read_mapping(folder.tag_file)
    return tag.get("stage") if tag.get("made_by") == MADE_BY and tag.get("stage") in ("planning", "made") else None


def begin(folder: Folder) -> None:
    """Make the folder, or turn an existing empty folder into a run folder."""
    existed = folder.path.is_dir()
    folder.path.mkdir(parents=True, exist_ok=True)
    if not is_ours(folder):
        write_json(folder.tag_file, {"made_by": MADE_BY, "stage": "planning", "found": existed})


@contextmanager
def owned(folder: Folder) -> Iterator[str | None]:
    """Keep all other processes from running in the folder; leave nothing there if no plan was made.

    Yields a line if the last owner died without releasing the folder, else None.
    """
    above = [place for place in folder.path.parents if not place.exists()]
    begin(folder)
    with locked(folder.lock_file) as took_over:
        try:
            begin(folder)  # again, where another process has removed the folder between these lines
            sweep(folder)
            yield took_over
        finally:
            if not folder.plan_file.exists():
                discard(folder)
                for place in above:
                    with suppress(OSError):  # not empty, or gone with the folder
                        place.rmdir()


def claim(folder: Folder, signature: str | None, before: str | None = None) -> None:
    """Take all names of the layout, now that there is a plan.

    `signature` is that of the config of this plan, `before` that of the config which is still in the folder. Raises
    SetupError if somebody has put another file there meanwhile.
    """
    refuse_foreign(folder)
    existed = read_mapping(folder.tag_file).get("found", True)
    tag = {"made_by": MADE_BY, "stage": "made", "found": existed, "signature": signature, "signature_before": before}
    write_json(folder.tag_file, tag)


def refuse_foreign(folder: Folder) -> None:
    """Raise SetupError if a folder without a plan of bakeoff contains files that bakeoff did not write."""
    at = stage(folder)
    if at == "made" or (at is None and is_ours(folder)):
        return
    own = {folder.tag_file, folder.lock_file, *token_files(folder)} if at else set()
    other = next(strangers(folder, own), None)
    if other is None:
        return
    untagged = {folder.lock_file, folder.config_file, folder.environment_file, folder.made_file, *data_files(folder)}
    if at is None and folder.lock_file.exists() and next(strangers(folder, untagged), None) is None:
        raise SetupError(
            f"{folder.path}: contains files that an older version of bakeoff leaves when it is killed before it has a "
            f"plan, or files of another program with these names ({other.name}). Try: remove them, or -s output=FOLDER"
        )
    raise SetupError(f"{folder.path}: contains other files ({other.name}). Try: another name, or -s output=FOLDER")


def strangers(folder: Folder, own: set[Path]) -> Iterator[Path]:
    """Yield the files of a folder that are not among its `own`."""
    for file in folder.path.rglob("*"):
        left = LEFT.fullmatch(file.name)  # a process was killed as it wrote that one, the tag itself maybe
        mine = file.with_name(left["name"]) in {folder.tag_file, *own} if left else file in own
        if not mine and (file.is_symlink() or not file.is_dir()):
            yield file


def refuse_inside(place: Path, hint: str) -> None:
    """Raise SetupError if a file or folder that somebody wants to write would be in a run folder.

    Of a link, which a file replaces and a folder is written through, both ends count.
    """
    ends = [Path(os.path.realpath(place))]  # Path.resolve raises where links lead in a circle
    if place.is_symlink():
        ends.append(Path(os.path.realpath(place.parent), place.name))
    for above in (parent for end in ends for parent in end.parents):
        if is_ours(Folder(above)):
            raise SetupError(f"{place}: is inside a run folder, {above}, which has bakeoff's files only. Try: {hint}")


def refuse_links(folder: Folder) -> None:
    """Raise SetupError if a name of the layout is a link: it would be written through, to another place."""
    for path in layout(folder):
        if path.is_symlink():
            raise SetupError(f"{path}: is a link, so files elsewhere would be replaced. Try: remove the link")


def layout(folder: Folder) -> Iterator[Path]:
    """Yield everything at a name of the layout, and below its folders."""
    yield from (folder.path / name for name in TRACKERS)
    for place in vars(folder).values():
        if place != folder.path:
            yield place
    for top in (folder.made_file.parent, folder.figures, folder.runs_folder, folder.trunk, folder.slots):
        yield top
        for place, folders, files in os.walk(top):
            yield from (Path(place, name) for name in (*folders, *files))


def sweep(folder: Folder) -> None:
    """Remove the temporary files of killed processes. The caller holds the folder's lock."""
    tops = [folder.path, folder.made_file.parent, folder.figures]
    names = re.compile("|".join(re.escape(place.name) for place in vars(folder).values()) + r"|.+\.(svg|csv)")
    data = re.compile(rf"made\.json|({'|'.join(SPLITS)})\.(jsonl|tokens\.bin)")
    runs = re.compile(r"\w+\.json|(metrics|predictions)\.jsonl|README\.md|log\.txt|[\w-]+\.safetensors")
    places = dict(zip(tops, (names, data, names), strict=True))
    of_runs = (path for glob in ("*", "*/adapter", "*/checkpoints") for path in folder.runs_folder.glob(glob))
    places |= dict.fromkeys(of_runs, runs)
    for place, pattern in places.items():
        for file in place.glob(".*.tmp"):
            left = LEFT.fullmatch(file.name)
            if left and pattern.fullmatch(left["name"]) and file.is_file() and not is_alive(int(left["process"])):
                file.unlink(missing_ok=True)


def discard(folder: Folder) -> None:
    """Remove what a bakeoff without a plan has left: its own files, and folders that are empty then.

    If there are runs, it had a plan, which is lost: everything stays for the bakeoff that the runs belong to.
    """
    at, tag = stage(folder), read_mapping(folder.tag_file)
    if at is None or folder.runs_folder.exists():
        return
    sweep(folder)
    made = [folder.config_file, folder.environment_file, folder.made_file, *data_files(folder)]
    for file in made if at == "made" else token_files(folder):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        folder.made_file.parent.rmdir()
    if {file.name for file in folder.path.iterdir()} <= {folder.lock_file.name, folder.tag_file.name}:
        for file in (folder.tag_file, folder.lock_file):
            file.unlink(missing_ok=True)
        if not tag.get("found"):
            with suppress(OSError):  # another process has just begun here
                folder.path.rmdir()


def token_files(folder: Folder) -> list[Path]:
    """Return the files that are written while a plan is made."""
    return [folder.tokens_file(split) for split in SPLITS]


def data_files(folder: Folder) -> list[Path]:
    """Return the files of examples and tokens that every run reads."""
    return [*(folder.examples_file(split) for split in SPLITS), *token_files(folder)]
