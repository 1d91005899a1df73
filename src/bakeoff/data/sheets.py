"""Reads Excel workbooks (.xlsx) row by row. Every value is a text, as in a CSV file that the sheet is saved as."""

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from bakeoff.data.lines import Row
from bakeoff.data.streams import Reading, opened, refuse_bomb
from bakeoff.errors import DataError, did_you_mean, listed

ROWS = 1_048_576  # of a sheet
CELLS = 200_000_000  # that a sheet may have, also empty ones that its file leaves out: they take time, too
BATCH = 1000  # rows that are read at a time
OLD = bytes.fromhex("d0cf11e0")  # begins .xls, and what Excel encrypts


def sheet_rows(path: Path, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a sheet: the one that `reading` names, or the only one with a table.

    The first row with two filled cells names the columns. What is above it, blank rows, and cells outside the named
    columns are left out. Raises DataError if there is no such sheet, or the file is damaged.
    """
    with workbook(path) as book:
        if reading.part is None:
            name = only_table(path, sheets_of(book, path))
        elif reading.part in (there := [sheet.title for sheet in book.worksheets]):
            name = reading.part
        else:
            raise DataError(f"{path}: no sheet '{reading.part}'.{did_you_mean(reading.part, there)}")
        yield from table_of(book[name], path)


def sheets(path: Path) -> list[str]:
    """Return the names of the sheets with a table; raise DataError if the file is damaged."""
    with workbook(path) as book:
        return sheets_of(book, path)


def sheets_of(book: Any, path: Path) -> list[str]:
    """Return the names of the sheets with a table in an open workbook."""
    return [sheet.title for sheet in book.worksheets if next(table_of(sheet, path), None)]


def only_table(path: Path, names: Sequence[str], kind: str = "sheet") -> str:
    """Return the only one of some names; raise DataError if there are more or none."""
    if len(names) != 1:
        several = f"several {kind}s with rows ({listed(names)}). Set data.source to this file, and data.train to one"
        raise DataError(f"{path}: {f'contains {several}' if names else f'contains no {kind} with rows'}")
    return names[0]


def table_of(sheet: Any, path: Path) -> Iterator[Row]:
    """Yield a sheet's rows below the one that names the columns; `number` is the row's number in the sheet."""
    names: list[str] = []
    for number, cells in numbered_rows(sheet, path):
        texts = [text_of_cell(cell) for cell in cells]
        filled = sum(bool(text.strip()) for text in texts)
        if names and filled:
            texts += [""] * (len(names) - len(texts))
            values = {name: text for name, text in zip(names, texts, strict=False) if name}
            yield Row(f"{path} ({sheet.title})", number, values, unit="row ")
        elif filled > 1:
            names = texts
            twice = next((name for name in names if name and names.count(name) > 1), None)
            if twice:
                raise DataError(f"{path} ({sheet.title}): two columns are named '{twice:.60}'. Rename one of them")


def numbered_rows(sheet: Any, path: Path) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield a sheet's rows with their numbers, also those that its file leaves out."""
    sheet.reset_dimensions()  # which may be wrong
    rows, number, seen = sheet.iter_rows(values_only=True), 0, 0
    while True:
        with faults(path):
            batch = list(islice(rows, BATCH))
        if not batch:
            return
        for cells in batch:
            number += 1
            if number > ROWS:
                raise DataError(f"{path} ({sheet.title}): has a row beyond {ROWS:,}, the last that a sheet can have")
            seen += len(cells)
            if seen > CELLS:
                raise DataError(f"{path} ({sheet.title}): more than {CELLS:,} cells. Try: delete the empty columns")
            yield number, cells


def text_of_cell(value: Any) -> str:
    """Return a cell's value as text: what Excel stored for a formula, ISO dates, whole numbers without a point."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime):
        return str(value).removesuffix(" 00:00:00")
    return str(value).replace("_x000D_\n", "\n").replace("_x000D_", "\n")  # how Excel writes a carriage return


@contextmanager
def workbook(path: Path) -> Iterator[Any]:
    """Open a workbook; raise DataError if the file is not a workbook, or unpacks to far more than a text does."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise DataError(
            f"{path}: Excel files need openpyxl. Try: pip install 'bakeoff[excel]', or save the sheet as CSV"
        ) from None
    with opened(path) as stream:
        if stream.read(len(OLD)) == OLD:
            raise DataError(f"{path}: encrypted, or of the old format .xls. Try: save it as .xlsx without a password")
        size = stream.seek(0, 2)
        with faults(path):
            with zipfile.ZipFile(stream) as packed:
                unpacked = sum(entry.file_size for entry in packed.infolist())
            refuse_bomb(path, unpacked, size)
            book = load_workbook(stream, read_only=True, data_only=True, keep_links=False)
        try:
            yield book
        finally:
            book.close()


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turn any error of openpyxl about a damaged file into a DataError; silence its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: not a complete {path.suffix.lower()} file ({reason:.200})") from None
