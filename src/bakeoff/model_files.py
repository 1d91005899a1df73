"""The files of a base model in its folder: that they can be read, are whole, and lie nowhere else."""

import json
import os
import stat
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bakeoff.errors import SetupError
from bakeoff.library_errors import first_line

READ = {".safetensors", ".json", ".txt", ".model", ".jinja"}  # what a base is made of, by suffix


def check_kinds(name: str, folder: Path) -> None:
    """Raise SetupError if what has the name of a base's file is no file: a pipe never answers, a device never ends."""
    try:
        for file in folder.iterdir():
            if file.suffix in READ | {".py"} and not stat.S_ISREG(file.stat().st_mode):
                raise SetupError(f"model: {name}: {file.name} is not a regular file. Try: the file itself in its place")
    except OSError as error:
        file = Path(error.filename or folder)
        raise SetupError(f"model: {name}: {file.name} cannot be read ({error.strerror}). Try: a copy of it") from None


def check_links(name: str, folder: Path) -> None:
    """Raise SetupError if a link leads out of a base's folder; the hub's cache has its contents in `blobs` above."""
    here = Path(os.path.realpath(folder))  # Path.resolve raises where links lead in a circle
    inside = [here, here.parent.parent / "blobs"]
    for file in folder.rglob("*"):
        target = Path(os.path.realpath(file))
        if file.is_symlink() and not any(target.is_relative_to(place) for place in inside):
            raise SetupError(
                f"model: {name}: {file.name} is a link to a file outside of the folder. Try: a copy of the file there"
            )


def weight_files(name: str, folder: Path) -> list[Path]:
    """Return the files of a base's weights; raise SetupError if its index names one that does not exist."""
    index = folder / "model.safetensors.index.json"
    if not (folder / "model.safetensors").exists() and index.exists():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            elsewhere = [shard for shard in shards if Path(shard).name != shard]
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise SetupError(f"model: {name}: {index.name} is damaged. Remove it, and run again") from None
        if elsewhere:
            raise SetupError(
                f"model: {name}: {index.name} names files outside of the model's folder, so it is not used"
            )
        lacking = [shard for shard in shards if not (folder / shard).exists()]
        if lacking:
            raise SetupError(
                f"model: {name}: {len(lacking)} of {len(shards)} weight files are missing ({lacking[0]} first)"
            )
        return [folder / shard for shard in shards]
    return sorted(folder.glob("*.safetensors"))


def check_weights(name: str, file: Path) -> None:
    """Raise SetupError if a weight file is incomplete."""
    with file.open("rb") as stream:
        if stream.read(24) == b"version https://git-lfs.":
            raise SetupError(
                f"model: {name}: {file.name} is a git-lfs pointer, not the file itself. Try: git lfs pull in its folder"
            )
    try:
        with safe_open(file, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise SetupError(
            f"model: {name}: {file.name} is damaged ({first_line(error)}). Remove it, and run again"
        ) from None


def end_ids(file: Path) -> list[int]:
    """Return the ids of `eos_token_id` in a config; an empty list if it is missing or holds none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    ids = found if isinstance(found, list) else [found]
    return [i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0]
