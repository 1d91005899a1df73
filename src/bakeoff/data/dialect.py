"""How a CSV or TSV file is written: its delimiter, where its header is, and whether quotes are marks or text.

`csv.Sniffer` finds delimiters, too, but can take half a minute for 60 KB of hostile text, and takes spaces in texts for
spaces between fields. It does not know titles above a header, or quotes that belong to texts.
"""

import csv
import re
from collections.abc import Iterable
from contextlib import suppress
from io import StringIO
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from bakeoff.data.lines import lines_of

DELIMITERS = ",;\t|"
SAMPLE = 1 << 20  # bytes that tell
ROWS = 20  # in them
ABOVE = 0.25  # how much a row above the header counts against a delimiter, where one below that does not fit counts 1
SEP = re.compile(r'\ufeff?"?sep=([,;\t|])"?\r?\n')  # a first line that Excel reads
WHOLE = re.compile(rb'"[^"]*(?:""[^"]*)*"')  # a field between quotes, those in it written twice
OPENED = re.compile(rb'"[^"]*(?:""[^"]*)*')


class Dialect(NamedTuple):
    """How a file is written. `skipped` rows are above the header; `quoted` says that double quotes enclose fields."""

    delimiter: str
    skipped: int = 0
    blanks: bool = False  # between a delimiter and a quote
    quoted: bool = True

    @property
    def format(self) -> dict[str, Any]:
        """The options for the csv module's reader."""
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return {"delimiter": self.delimiter, "skipinitialspace": self.blanks, "quoting": quoting}


def dialect_of(stream: BinaryIO, tsv: bool) -> Dialect:
    """Return how a file is written, from its first rows; with tabs, from all rows that contain a quote."""
    text = stream.read(SAMPLE).decode("utf-8", errors="replace")
    stream.seek(0)
    lines = list(StringIO(text, newline="\n"))
    named = SEP.match(text)
    candidates = "\t" if tsv else named[1] if named else DELIMITERS
    fits = [fit for delimiter in candidates if (fit := fit_of(lines, delimiter))]
    best = max(fits, key=lambda fit: fit[0])[1] if fits else Dialect(candidates[0])
    if best.delimiter == "\t":
        best = best._replace(quoted=quotes_are_marks(stream, best.skipped))
        stream.seek(0)
    return best


def fit_of(lines: list[str], delimiter: str) -> tuple[tuple[bool, float, int, int], Dialect] | None:
    """Return how well a delimiter fits, with its dialect; None if it separates no row into named columns.

    It fits best if with it all rows are a CSV by the letter, with as many fields as the header. Otherwise it fits
    better the more rows have as many fields as the header, without a quote that is separated from its other, and the
    fewer rows are above the header: otherwise any late row with the delimiter in a text would be a header that fits.
    """
    rows = parsed(lines, delimiter)
    blanks = any(re.match(' +"', cell) for row in rows for cell in row)
    opens = re.compile(rf'{re.escape(delimiter)} +"(?=[^"\r\n{re.escape(delimiter)}])')  # else it ends a field
    blanks = blanks and any(opens.search(line) for line in lines)
    if blanks:
        rows = parsed(lines, delimiter, blanks)
    header = next((i for i, row in enumerate(rows) if sum(bool(cell.strip()) for cell in row) > 1), None)
    if header is None:
        return None
    width, below = len(rows[header]), rows[header + 1 :] or rows[header:]
    by_letter = parsed(lines, delimiter, blanks, strict=True)[header:]
    whole = len(by_letter) == len(rows) - header > 1 and all(len(row) == width for row in by_letter)
    fitting = [len(row) == width and not any(cell.count('"') % 2 for cell in row) for row in below]
    return (whole, sum(fitting) / (len(fitting) + ABOVE * header), -header, width), Dialect(delimiter, header, blanks)


def parsed(lines: Iterable[str], delimiter: str, blanks: bool = False, strict: bool = False) -> list[list[str]]:
    """Return the first rows that are not blank, up to the first that cannot be read; `strict`: by the letter."""
    rows: list[list[str]] = []
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=blanks, strict=strict)
    with suppress(csv.Error):
        rows.extend(islice(filter(None, reader), ROWS))
    return rows


def quotes_are_marks(stream: BinaryIO, skipped: int) -> bool:
    """Return whether double quotes in a file with tabs enclose fields, as in a CSV, or belong to the texts.

    They enclose fields if every name in the header has them, if a quote within them is doubled, if only they hold a row
    together, if they are around all of a column, or if they are around everything with a comma, as Excel writes it. If
    text follows the second quote of two, they do not.
    """
    width, bare, around, open_end = 0, False, False, False
    rows = (line.rstrip(b"\r\n").split(b"\t") for line in lines_of(stream) if line.strip())
    columns: set[int] = set()  # between quotes up to here
    for number, cells in enumerate(rows):
        whole = {i for i, cell in enumerate(cells) if WHOLE.fullmatch(cell)}
        if number == skipped:
            width, columns = len(cells), {*range(len(cells))}
            if len(whole) == width:
                return True
        elif number > skipped:
            columns &= whole
        if open_end and len(cells) != width and cells[0].endswith(b'"'):
            return True  # the end of a field that began at the end of a row
        inside = open_end and b'"' not in cells[0]
        open_end = inside or (cells[-1].startswith(b'"') and len(cells) - 1 not in whole)
        for i, cell in enumerate(cells):
            if i in whole:
                if b'""' in cell[1:-1]:
                    return True
                around = around or b"," in cell
            elif cell.startswith(b'"'):
                if not OPENED.fullmatch(cell):
                    return False
                if len(cells) != width:
                    return True
            else:
                bare = bare or b"," in cell
    return bool(columns) or (around and not bare)
