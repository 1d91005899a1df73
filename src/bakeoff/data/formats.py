"""Any data file as rows: which reader a file's name and first bytes ask for."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bakeoff.data.delimited import delimited_rows
from bakeoff.data.lines import Row, json_rows, jsonl_rows, opened
from bakeoff.errors import DataError

BATCH = 1000  # rows of a table that are Python objects at a time
Reader = Callable[[Path], Iterator[Row]]


class Table(NamedTuple):
    """The first rows of a file, and the names of all columns in them."""

    columns: list[str]
    rows: list[dict[str, Any]]


def first_rows(path: Path, count: int = 200) -> Table:
    """Return up to `count` rows of a file of any format; raise DataError where they cannot be read."""
    rows = [row.values for row in islice(read_rows(path), count)]
    return Table(list(dict.fromkeys(name for row in rows for name in row)), rows)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of any format, or of all files in a folder in the order of their names.

    Raises DataError where one cannot be read.
    """
    if not path.is_dir():
        yield from reader_of(path)(path)
        return
    files = data_files(path)
    if not files:
        raise DataError(f"{path}: is a folder without data files. Allowed: {', '.join(READERS)}")
    for file in files:
        yield from reader_of(file)(file)


def data_files(folder: Path) -> list[Path]:
    """Return the data files in a folder by name."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in READERS and f.is_file() and f.name[0] not in "._")
    return sorted(f for f in files if f.name not in METADATA and not f.name.startswith("cache-"))


def stays_in_place(path: Path) -> bool:
    """Return whether the rows of a file can be read again one by one from their places: it is JSONL."""
    return path.is_file() and reader_of(path) is jsonl_rows


def reader_of(path: Path) -> Reader:
    """Return the reader for a file; one without a known ending is taken for JSONL."""
    ending = path.suffix.lower()
    if ending in FOREIGN:
        raise DataError(f"{path}: {ending} is not read. Allowed: {', '.join(READERS)}")
    if ending == ".json":
        with opened([path]) as (stream,):
            start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        return json_rows if start.startswith(b"[") else jsonl_rows  # many a .json holds an object a line
    return READERS.get(ending, jsonl_rows)


def table_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet or Arrow file, some at a time."""
    import pyarrow
    from pyarrow import ipc, parquet

    number = 0
    with opened([path]) as (stream,):
        try:
            if path.suffix.lower() == ".parquet":
                batches = parquet.ParquetFile(stream).iter_batches(BATCH)
            else:
                whole = stream.read(6) == b"ARROW1"  # else a stream, as `datasets` writes it
                stream.seek(0)
                opener = ipc.open_file if whole else ipc.open_stream
                source = opener(stream)
                batches = map(source.get_batch, range(source.num_record_batches)) if whole else iter(source)
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH):
                    for values in batch.slice(start, BATCH).to_pylist():
                        number += 1
                        yield Row(str(path), number, values, unit="row ")
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{path}: not a whole {path.suffix.lower()[1:]} file ({reason})") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error})") from None


READERS: dict[str, Reader] = {
    ".jsonl": jsonl_rows, ".ndjson": jsonl_rows, ".json": jsonl_rows, ".csv": delimited_rows, ".tsv": delimited_rows,
    ".parquet": table_rows, ".arrow": table_rows, ".feather": table_rows,
}  # fmt: skip
METADATA = {"dataset_info.json", "state.json", "dataset_dict.json"}  # beside what `datasets` saves to a disk
FOREIGN = {".xlsx", ".xls", ".ods", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".pkl", ".txt", ".xml", ".db"}
