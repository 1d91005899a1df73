"""Reads any data file as rows: chooses the reader by the file's name and first bytes."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bakeoff.data.databases import database_rows, tables_in
from bakeoff.data.delimited import delimited_rows
from bakeoff.data.json_documents import is_document, json_rows
from bakeoff.data.lines import Row, jsonl_rows
from bakeoff.data.sheets import sheet_rows, sheets
from bakeoff.data.streams import PACKED, UTF8, Reading, ending_of
from bakeoff.data.tables import table_rows
from bakeoff.errors import DataError
from bakeoff.store.paths import is_file, is_folder

Reader = Callable[[Path, Reading], Iterator[Row]]
ALL = Reading()


class Table(NamedTuple):
    """The first rows of a file, and the names of all columns in them."""

    columns: list[str]
    rows: list[dict[str, Any]]


def first_rows(files: Sequence[Path], count: int = 200, reading: Reading = ALL) -> Table:
    """Return up to `count` rows of files of any format; raise DataError if they cannot be read."""
    rows = [row.values for row in islice(read_rows(files, reading), count)]
    return Table(list(dict.fromkeys(name for row in rows for name in row)), rows)


def read_rows(paths: Sequence[Path], reading: Reading = ALL) -> Iterator[Row]:
    """Yield the rows of files of any format, one after the other; of a folder, of all files in the order of names.

    Raises DataError if a file cannot be read.
    """
    files = [file for path in paths for file in (files_in(path) if is_folder(path) else [path])]
    for file in files:
        for row in reader_of(file, reading.encoding)(file, reading):
            yield row._replace(shard=file.name) if len(files) > 1 else row


def files_in(folder: Path) -> list[Path]:
    """Return the data files in a folder; raise DataError if there are none."""
    files = data_files(folder)
    if not files:
        raise DataError(f"{folder}: the folder has no data files. Allowed: {ALLOWED}")
    return files


def data_files(folder: Path) -> list[Path]:
    """Return the data files in a folder by name; databases are not among them, because they are splits' source."""
    readable = {ending for ending, reader in READERS.items() if reader is not database_rows}
    files = (f for f in folder.iterdir() if ending_of(f) in readable and f.is_file() and f.name[0] not in "._~")
    return sorted(f for f in files if f.name not in METADATA and not f.name.startswith("cache-"))


def stem_of(path: Path) -> str:
    """Return a file's name without the endings that say its format; that of a folder whole."""
    if is_folder(path):
        return path.name
    stem = Path(path.stem) if path.suffix.lower() in PACKED else path
    return stem.stem if stem.suffix.lower() in READERS else path.stem


def stays_in_place(path: Path, encoding: str = UTF8) -> bool:
    """Return whether the rows of a file can be read again from their places: only those of plain JSONL can."""
    plain = encoding == UTF8 and path.suffix.lower() not in PACKED
    return plain and is_file(path) and reader_of(path, encoding) is jsonl_rows


def reader_of(path: Path, encoding: str) -> Reader:
    """Return the reader for a file; a file without a known ending counts as JSONL."""
    ending, packed = ending_of(path), path.suffix.lower() in PACKED
    if ending in FOREIGN or (packed and READERS.get(ending) not in (*TEXTS, None)):
        raise DataError(f"{path}: {''.join(path.suffixes[-1 - packed :])} is not a known format. Allowed: {ALLOWED}")
    reader = READERS.get(ending, jsonl_rows)
    # Many a .json holds an object per line, and many a .jsonl a list.
    return json_rows if reader is jsonl_rows and is_document(path, encoding) else reader


def is_text(path: Path) -> bool:
    """Return whether a file's format is text, so that it has an encoding."""
    return is_file(path) and READERS.get(ending_of(path), jsonl_rows) in TEXTS


def has_parts(path: Path) -> bool:
    """Return whether a file may contain several tables: a workbook or a database."""
    return is_file(path) and READERS.get(ending_of(path)) in PARTS and path.suffix.lower() not in PACKED


def parts_of(path: Path) -> list[str]:
    """Return the names of a workbook's sheets, or a database's tables and views; raise DataError if it is damaged."""
    return PARTS[READERS[ending_of(path)]](path)


TEXTS = (jsonl_rows, delimited_rows)
PARTS: dict[Reader, Callable[[Path], list[str]]] = {sheet_rows: sheets, database_rows: tables_in}
READERS: dict[str, Reader] = {
    ".jsonl": jsonl_rows, ".ndjson": jsonl_rows, ".json": jsonl_rows, ".csv": delimited_rows, ".tsv": delimited_rows,
    ".parquet": table_rows, ".arrow": table_rows, ".feather": table_rows, ".xlsx": sheet_rows, ".xlsm": sheet_rows,
    **dict.fromkeys((".sqlite", ".sqlite3", ".db", ".duckdb"), database_rows),
}  # fmt: skip
ALLOWED = f"{', '.join(READERS)}; text also compressed ({', '.join(PACKED)})"
METADATA = {"dataset_info.json", "state.json", "dataset_dict.json"}  # beside what `datasets` saves to a disk
FOREIGN = {".xls", ".xlsb", ".ods", ".xz", ".zip", ".tar", ".tgz", ".pkl", ".txt", ".xml", *PACKED}
