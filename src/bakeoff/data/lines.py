"""Text files row by row: JSONL, JSON, CSV and TSV, with the line of whatever cannot be read. Nothing is held but a row.

The standard library reads them, because only then does every complaint name its line, and a text stays a text.
"""

import codecs
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bakeoff.errors import DataError

BLOCK = 1 << 16  # bytes of a JSON list that are decoded at a time


class Row(NamedTuple):
    """A row of a file: its columns by name. `number` is the line that it begins on, or counts rows of a table from 1.

    `place` is where a line of JSONL begins, in bytes from the file's start.
    """

    file: str
    number: int
    values: dict[str, Any]
    place: int = 0
    unit: str = ""  # "row " where the file has no lines

    def __str__(self) -> str:
        return f"{self.file}: {self.unit}{self.number}" if self.unit else f"{self.file}:{self.number}"


@contextmanager
def opened(files: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Within, the files are open; raise DataError where one cannot be read."""
    path = files[0]
    try:
        with ExitStack() as stack:
            streams: list[BinaryIO] = []
            for path in files:
                streams.append(stack.enter_context(path.open("rb")))
            yield streams
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Paths are relative to the config file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def json_object(where: str, content: bytes) -> dict[str, Any]:
    """Return the JSON object in a line; raise DataError, which says `where`, where it holds none."""
    try:
        row = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: {no_utf8(error)}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}). Expected one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object a line; blank lines are passed over."""
    with opened([path]) as (stream,):
        place = 0
        for number, content in enumerate(stream, start=1):
            mark = len(codecs.BOM_UTF8) if number == 1 and content.startswith(codecs.BOM_UTF8) else 0
            if content[mark:].strip():
                values = json_object(f"{path}:{number}", content[mark:])
                yield Row(str(path), number, values, place + mark)
            place += len(content)


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file that is one JSON list of objects, an object at a time."""
    decoder, buffer, number, at = json.JSONDecoder(), "", 1, 0
    blocks = decoded_blocks(path)
    wanted = "["  # what stands before the next object
    while True:
        at, number = pass_space(buffer, at, number)
        if at == len(buffer):
            buffer, at = next(blocks, ""), 0
            if not buffer:
                raise DataError(f"{path}:{number}: not JSON (the list is not closed)")
            continue
        if wanted and buffer[at] not in wanted:
            raise DataError(f"{path}:{number}: not JSON (expected '{wanted[0]}', got {buffer[at]!r})")
        if buffer[at] == "]":
            break
        if wanted:
            at, wanted = at + 1, ""
            continue
        try:
            value, end = decoder.raw_decode(buffer, at)
        except (ValueError, RecursionError) as error:
            more = next(blocks, "") if not_whole(error, len(buffer)) else ""
            if not more:
                line = number + buffer.count("\n", at, getattr(error, "pos", at))
                raise DataError(f"{path}:{line}: not JSON ({getattr(error, 'msg', error)})") from None
            buffer, at = buffer[at:] + more, 0
            continue
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, got {type(value).__name__}")
        yield Row(str(path), number, value)
        number += buffer.count("\n", at, end)
        at, wanted = end, ",]"
    if any(text.strip() for text in (buffer[at + 1 :], *blocks)):
        raise DataError(f"{path}:{number}: not JSON (something follows the list)")


def not_whole(error: Exception, length: int) -> bool:
    """Return whether what the decoder stumbled over may be the end of what was read so far."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= length - 16 or error.msg.startswith("Unterminated")


def pass_space(text: str, at: int, number: int) -> tuple[int, int]:
    """Return the place and line of the next character that is no white space."""
    start = at
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at, number + text.count("\n", start, at)


def decoded_blocks(path: Path) -> Iterator[str]:
    """Yield a file's text a block at a time."""
    decoder, lines = codecs.getincrementaldecoder("utf-8-sig")(), 1
    with opened([path]) as (stream,):
        while True:
            block = stream.read(BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line = lines + error.object[: error.start].count(b"\n")
                raise DataError(f"{path}:{line}: {no_utf8(error)}") from None
            if text:
                yield text
            if not block:
                return
            lines += block.count(b"\n")


def no_utf8(error: UnicodeDecodeError) -> str:
    """Return in words that a text is not UTF-8."""
    return f"not UTF-8 text ({error.reason}). Try: iconv -t UTF-8"


def delimited_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file whose first row names the columns; every value is a text.

    A CSV's columns are parted by whichever of comma, semicolon and tab its first line has most of.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses a field of 131,072 characters
    with opened([path]) as (stream,):
        first = stream.readline()
        stream.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=lambda c: first.count(c.encode()))
        reader = csv.reader(decoded_lines(path, stream), delimiter=delimiter, strict=True)
        names: list[str] | None = None
        begins = 1
        try:
            for cells in reader:
                if not cells:
                    pass  # a blank line
                elif names is None:
                    names = cells
                    twice = [name for name in names if names.count(name) > 1]
                    if twice:
                        raise DataError(f"{path}:1: two columns are named '{twice[0]}'. Rename one of them")
                elif len(cells) != len(names):
                    raise DataError(
                        f"{path}:{begins}: {len(cells)} fields, but the first row names {len(names)} columns. "
                        f"Put texts that hold '{delimiter}' or a line break in double quotes"
                    )
                else:
                    yield Row(str(path), begins, dict(zip(names, cells, strict=True)))
                begins = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{begins}: not CSV ({error}). Is a double quote opened and never closed?") from None


def decoded_lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    """Yield a file's lines as text, without a byte order mark."""
    for number, content in enumerate(stream, start=1):
        try:
            yield content.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: {no_utf8(error)}") from None
