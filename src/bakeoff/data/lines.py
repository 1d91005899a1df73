"""Text files row by row: JSONL and JSON, with the line of whatever cannot be read. Nothing is held but a row.

The standard library reads them, because only then does every complaint name its line, and a text stays a text.
"""

import codecs
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bakeoff.errors import DataError

BLOCK = 1 << 16  # bytes of a JSON list that are decoded at a time


class Row(NamedTuple):
    """A row of a file: its columns by name. `number` is the line that it begins on, or counts rows of a table from 1.

    `place` is where a line of JSONL begins, in bytes from the file's start. A row that cannot be read has a `fault`:
    what is wrong in few words, and in full.
    """

    file: str
    number: int
    values: dict[str, Any]
    place: int = 0
    unit: str = ""  # "row " where the file has no lines
    fault: tuple[str, str] | None = None

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


def json_row(file: str, number: int, content: bytes, place: int = 0) -> Row:
    """Return the row in a line of JSONL."""
    try:
        values = json.loads(content.decode())
    except UnicodeDecodeError as error:
        return Row(file, number, {}, place, fault=("not UTF-8", no_utf8(error)))
    except (ValueError, RecursionError) as error:
        return Row(file, number, {}, place, fault=("not JSON", f"not JSON ({error}). Expected one JSON object a line"))
    if not isinstance(values, dict):
        fault = ("no JSON object", f"expected a JSON object, got {type(values).__name__}")
        return Row(file, number, {}, place, fault=fault)
    return Row(file, number, values, place)


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object a line; blank lines are passed over."""
    with opened([path]) as (stream,):
        place = 0
        for number, content in enumerate(stream, start=1):
            mark = len(codecs.BOM_UTF8) if number == 1 and content.startswith(codecs.BOM_UTF8) else 0
            if content[mark:].strip():
                yield json_row(str(path), number, content[mark:], place + mark)
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
        fault = ("no JSON object", f"expected a JSON object, got {type(value).__name__}")
        yield Row(str(path), number, value) if isinstance(value, dict) else Row(str(path), number, {}, fault=fault)
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
