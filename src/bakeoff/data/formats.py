"""Reads any data file as rows: chooses the reader by the file's name and first bytes."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bakeoff.data.delimited import delimited_rows
from bakeoff.data.lines import Row, json_rows, jsonl_rows, opened
from bakeoff.data.tables import table_rows
from bakeoff.errors import DataError
from bakeoff.store.paths import is_file, is_folder

Reader = Callable[[Path], Iterator[Row]]


class Table(NamedTuple):
    """The first rows of a file, and the names of all columns in them."""

    columns: list[str]
    rows: list[dict[str, Any]]


def first_rows(files: Sequence[Path], count: int = 200) -> Table:
    """Return up to `count` rows of files of any format; raise DataError if they cannot be read."""
    rows = [row.values for row in islice(read_rows(files), count)]
    return Table(list(dict.fromkeys(name for row in rows for name in row)), rows)


def read_rows(paths: Sequence[Path], columns: Collection[str] | None = None) -> Iterator[Row]:
    """Yield the rows of files of any format, one after the other; of a folder, of all files in the order of names.

    If `columns` are given, only these are read from a table. Raises DataError if a file cannot be read.
    """
    files = [file for path in paths for file in (files_in(path) if is_folder(path) else [path])]
    for file in files:
        reader = reader_of(file)
        for row in table_rows(file, columns) if reader is table_rows else reader(file):
            yield row._replace(shard=file.name) if len(files) > 1 else row


def files_in(folder: Path) -> list[Path]:
    """Return the data files in a folder; raise DataError if there are none."""
    files = data_files(folder)
    if not files:
        raise DataError(f"{folder}: the folder has no data files. Allowed: {', '.join(READERS)}")
    return files


def data_files(folder: Path) -> list[Path]:
    """Return the data files in a folder by name."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in READERS and f.is_file() and f.name[0] not in "._")
    return sorted(f for f in files if f.name not in METADATA and not f.name.startswith("cache-"))


def stays_in_place(path: Path) -> bool:
    """Return whether the rows of a file can be read again from their places: only those of JSONL can."""
    return is_file(path) and reader_of(path) is jsonl_rows


def reader_of(path: Path) -> Reader:
    """Return the reader for a file; a file without a known ending counts as JSONL."""
    ending = path.suffix.lower()
    if ending in FOREIGN:
        raise DataError(f"{path}: {ending} is not a known format. Allowed: {', '.join(READERS)}")
    reader = READERS.get(ending, jsonl_rows)
    if reader is jsonl_rows:  # many a .json holds an object a line, and many a .jsonl a list
        with opened([path]) as (stream,):
            start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        if start.startswith(b"["):
            return json_rows
        if start.partition(b"\n")[0].strip() == b"{":
            raise DataError(
                f"{path}:1: not JSON Lines: an object is spread over several lines. Allowed: one object per line, or "
                f"a list of objects. Try: jq -c . OLD > NEW, or jq -c '.KEY[]' where the list is under a key"
            )
    return reader


READERS: dict[str, Reader] = {
    ".jsonl": jsonl_rows, ".ndjson": jsonl_rows, ".json": jsonl_rows, ".csv": delimited_rows, ".tsv": delimited_rows,
    ".parquet": table_rows, ".arrow": table_rows, ".feather": table_rows,
}  # fmt: skip
METADATA = {"dataset_info.json", "state.json", "dataset_dict.json"}  # beside what `datasets` saves to a disk
FOREIGN = {".xlsx", ".xls", ".ods", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".pkl", ".txt", ".xml", ".db"}
