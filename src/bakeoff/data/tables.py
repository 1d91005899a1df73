"""Reads Parquet and Arrow files row by row, and only the columns that are needed."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bakeoff.data.lines import Row
from bakeoff.data.streams import Reading, opened
from bakeoff.errors import DataError

BATCH = 50  # rows that are unpacked at a time: a file of a megabyte can hold gigabytes
# What pyarrow raises over values that Python has no like of: years beyond 9999, time zones that nobody knows.
NO_VALUE = (ArithmeticError, ValueError, LookupError, TypeError)


def table_rows(path: Path, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a Parquet or Arrow file with these columns, or with all that Python can represent.

    Raises DataError if the file is damaged, or if a needed column appears twice or cannot be represented.
    """
    import pyarrow

    number = 0
    with opened(path) as stream:
        batches = read_batches(stream, path.suffix.lower() == ".parquet", reading.columns)
        while True:
            try:
                batch = next(batches, None)
            except (pyarrow.ArrowException, MemoryError, *NO_VALUE) as error:  # a damaged length may be anything
                reason = str(error).partition("\n")[0]
                raise DataError(f"{path}: not a complete {path.suffix.lower()[1:]} file ({reason})") from None
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error})") from None
            if batch is None:
                return
            for values in python_rows(batch, str(path), reading.columns):
                number += 1
                yield Row(str(path), number, values, unit="row ")


def read_batches(stream: BinaryIO, of_parquet: bool, columns: Collection[str] | None) -> Iterator[Any]:
    """Yield a file's rows, some at a time."""
    from pyarrow import ipc, parquet

    if of_parquet:
        file = parquet.ParquetFile(stream)
        wanted = set(columns or ())
        named = [name for name in file.schema_arrow.names if name in wanted]
        absent = wanted > {*named}  # then a message lists the columns that there are
        yield from file.iter_batches(BATCH, columns=None if columns is None or absent else named)
        return
    whole = stream.read(6) == b"ARROW1"  # else a stream, as `datasets` writes it
    stream.seek(0)
    source = ipc.open_file(stream) if whole else ipc.open_stream(stream)
    batches = map(source.get_batch, range(source.num_record_batches)) if whole else iter(source)
    for batch in batches:
        batch.validate()  # of a damaged one the number of rows may be anything
        yield from (batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH))


def python_rows(table: Any, where: str, columns: Collection[str] | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a part of a table; a column that is not needed has a name, but no value."""
    import pyarrow

    read: dict[str, list[Any]] = {}
    for name, column in zip(table.schema.names, table.columns, strict=True):
        if columns is not None and name not in columns:
            read[name] = [None] * table.num_rows
            continue
        if columns is not None and table.schema.names.count(name) > 1:
            raise DataError(f"{where}: two columns are named '{name}'. Rename one of them")
        try:
            column.validate(full=True)  # a damaged one ends the process else
            read[name] = column.to_pylist()
        except (pyarrow.ArrowException, *NO_VALUE) as error:
            if columns is not None:
                reason = str(error).partition("\n")[0]
                raise DataError(f"{where}: column '{name}' of type {column.type}: cannot be read ({reason})") from None
    yield from (dict(zip(read, values, strict=True)) for values in zip(*read.values(), strict=True))
