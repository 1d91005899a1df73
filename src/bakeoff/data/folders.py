"""Which files of a folder are which split, by their names: single files, shards, a clone of a hub dataset."""

import re
from collections.abc import Iterable
from pathlib import Path

from bakeoff.data.formats import data_files, parts_of, stem_of
from bakeoff.data.sheets import only_table
from bakeoff.errors import DataError, listed

SPLITS = {"train": ("train", "training", "trn"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
# A name's word says its split alone or as in trainset; testimonials says none.
WORDS = {
    word + end: split for split, words in SPLITS.items() for word in words for end in ("", "s", "set", "data", "split")
}
SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)")


def words_of(name: str) -> list[str]:
    """Return the words of a name, and last the whole name; fullText and full_text have two words."""
    parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    return [*parts, "".join(parts)]


def split_of(name: str) -> str | None:
    """Return the split in a file's name, or None: the one that it begins with, or the only one in it."""
    words = words_of(name)
    splits = {WORDS[word] for word in words if word in WORDS}
    return WORDS.get(words[0]) or (splits.pop() if len(splits) == 1 else None)


def splits_in(folder: Path) -> dict[str, list[Path]]:
    """Return the files and folders of each split in a folder; empty if no name contains a split."""
    files = data_files(folder)
    by_split: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        split = split_of(stem_of(path)) if path in files or is_part(path) else None
        if split:
            by_split.setdefault(split, []).append(path)
    return by_split


def is_part(path: Path) -> bool:
    """Return whether a path is a folder that may contain data: it is not hidden."""
    return path.is_dir() and path.name[0] not in "._"


def place_of(folder: Path, config: str | None) -> Path:
    """Return the folder that contains the splits: the one named, or the only one, as in a clone of a hub dataset.

    Raises DataError if the named config does not exist, or there are several.
    """
    below = [path for path in (*sorted(folder.iterdir()), *sorted((folder / "data").glob("*"))) if is_part(path)]
    if config is not None:
        candidates = [path for path in below if path.name == config]
        if not candidates:
            raise DataError(f"{folder}: data.config: it has no folder '{config}'. {folders_listed(below)}")
        return candidates[0]
    if splits_in(folder) or data_files(folder):
        return folder
    candidates = [path for path in below if splits_in(path)]
    if len(candidates) > 1:
        raise DataError(f"{folder}: several of its folders have splits. Set data.config. {folders_listed(candidates)}")
    return candidates[0] if candidates else folder


def folders_listed(paths: Iterable[Path]) -> str:
    """Return the names of the first of some paths, as text."""
    names = [path.name for path in paths]
    return f"Allowed: {', '.join(names[:10]) or 'none'}{', ...' if len(names) > 10 else ''}"


def split_in_folder(folder: Path, split: str, name: str | None = None, config: str | None = None) -> list[Path] | None:
    """Return the files of a split in a folder: the one of that `name`, or those whose names contain the split.

    A folder without such names is all training examples. Raises DataError if it is unclear.
    """
    place = place_of(folder, config)
    if name is not None:
        return [place / name]
    splits = splits_in(place)
    if split == "train" and not splits:
        return [place]
    if split == "train" and split not in splits:
        raise DataError(f"{place}: no file has train in its name. Rename one, or set data.train")
    return one_of(place, split, splits[split]) if split in splits else None


def part_of_file(path: Path, split: str, name: str | None) -> str | None:
    """Return the sheet or table of a split: the one of that `name`, or the one whose name contains the split.

    A file without such names is all training examples. Raises DataError if it is unclear.
    """
    if name is not None:
        return name
    splits: dict[str | None, list[str]] = {}
    for part in parts_of(path):
        splits.setdefault(split_of(part), []).append(part)
    named = splits.get(split, [])
    if len(named) > 1:
        raise DataError(f"{path}: several sheets or tables for this split ({listed(named)}). Set data.{split} to one")
    if named or split != "train":
        return named[0] if named else None
    if len(splits.keys() - {None}):
        raise DataError(f"{path}: no sheet or table has train in its name. Set data.train to one")
    return only_table(path, splits.get(None, []), "sheet or table")


def one_of(folder: Path, split: str, paths: list[Path]) -> list[Path]:
    """Return the paths of a split if they are one file, or all shards of one; raise DataError otherwise."""
    shards = [SHARD.fullmatch(stem_of(path)) for path in paths]
    if len({(shard[1], shard[3]) if shard else path for shard, path in zip(shards, paths, strict=True)}) > 1:
        names = ", ".join(path.name for path in paths[:3])
        raise DataError(
            f"{folder}: several files for this split ({names}). Put them into a folder {split}/, or set data.{split}"
        )
    if shards[0] and len(paths) != int(shards[0][3]):
        raise DataError(
            f"{folder}: {len(paths)} of {int(shards[0][3])} shards of {shards[0][1]}. Try: copy the missing ones"
        )
    return paths
