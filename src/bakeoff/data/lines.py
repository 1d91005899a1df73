"""Reads JSONL and JSON files row by row, and names the line of each row that it cannot read. Keeps one row in memory.

It uses the standard library, because then every error names its line, and every text stays unchanged.
"""

import codecs
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bakeoff.errors import DataError, kind_of, no_utf8
from bakeoff.store.checksums import open_file

BLOCK = 1 << 16  # bytes of a JSON list that are decoded at a time
LONGEST = 1 << 25  # bytes or characters of a row
TOO_LONG = f"longer than {LONGEST:,} bytes, so it is not a document"
LFS = b"version https://git-lfs."  # begins the note that stands for a file's contents


class Row(NamedTuple):
    """A row of a file: its columns by name. `number` is the line where it begins; rows of a table are counted from 1.

    `item` counts the rows that begin on one line. `shard` is the file's name if a split has several files. `place` is
    where a line of JSONL begins, in bytes from the file's start. A row that cannot be read has a `fault`: what is wrong
    in few words, and in full.
    """

    file: str
    number: int
    values: dict[str, Any]
    place: int = 0
    unit: str = ""  # "row " where the file has no lines
    fault: tuple[str, str] | None = None
    item: int = 1
    shard: str = ""

    @property
    def name(self) -> str:
        """The name of the row if no column names it: its file, its line, and its number among the rows of that line."""
        shard = f"{self.shard}:" if self.shard else ""
        return f"{shard}{self.number}{f'.{self.item}' if self.item > 1 else ''}"

    def __str__(self) -> str:
        where = f"{self.file}: {self.unit}{self.number}" if self.unit else f"{self.file}:{self.number}"
        return f"{where} (item {self.item})" if self.item > 1 else where


@contextmanager
def opened(files: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Open the files; raise DataError if one cannot be read."""
    path = files[0]
    try:
        with ExitStack() as stack:
            streams: list[BinaryIO] = []
            for path in files:
                streams.append(stack.enter_context(open_file(path)))
                if streams[-1].read(len(LFS)) == LFS:
                    raise DataError(f"{path}: a git-lfs pointer, not the file itself. Try: git lfs pull in its folder")
                streams[-1].seek(0)
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
        return Row(
            file, number, {}, place, fault=("not JSON", f"not JSON ({error}). Expected one JSON object per line")
        )
    if not isinstance(values, dict):
        fault = ("no JSON object", f"expected a JSON object, got {kind_of(values)}")
        return Row(file, number, {}, place, fault=fault)
    return Row(file, number, values, place)


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object per line; blank lines are skipped."""
    with opened([path]) as (stream,):
        place = 0
        for number, content in enumerate(lines_of(stream), start=1):
            mark = 0
            if number == 1:
                mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
                refuse_wide(path, content)
            if len(content) > LONGEST:
                yield Row(str(path), number, {}, place, fault=("too long", TOO_LONG))
            elif content[mark:].strip():
                yield json_row(str(path), number, content[mark:], place + mark)
            place = stream.tell()


def lines_of(stream: BinaryIO) -> Iterator[bytes]:
    """Yield a file's lines; of a line longer than LONGEST, only the beginning, which is longer than LONGEST, too."""
    while content := stream.readline(LONGEST + 1):
        rest = content
        while len(rest) > LONGEST and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST + 1)
        yield content


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file that is one JSON list of objects, reading one object at a time."""
    decoder, buffer, number, at = json.JSONDecoder(), "", 1, 0
    last, item = 0, 1  # the line that the last object began on, and how many of them did
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
            more = ""
            if not_whole(error, len(buffer)):  # as much again, so that no object is gone through too often
                more = "".join(islice(blocks, 1 + (len(buffer) - at) // BLOCK))
            if not more or len(buffer) - at > LONGEST:
                line = number + buffer.count("\n", at, getattr(error, "pos", at))
                reason = f"an object {TOO_LONG}" if more else getattr(error, "msg", error)
                raise DataError(f"{path}:{line}: not JSON ({reason})") from None
            buffer, at = buffer[at:] + more, 0
            continue
        last, item = number, item + 1 if last == number else 1
        row = Row(str(path), number, value if isinstance(value, dict) else {}, item=item)
        fault = ("no JSON object", f"expected a JSON object, got {kind_of(value)}")
        yield row if isinstance(value, dict) else row._replace(fault=fault)
        number += buffer.count("\n", at, end)
        at, wanted = end, ",]"
    if any(text.strip() for text in (buffer[at + 1 :], *blocks)):
        raise DataError(f"{path}:{number}: not JSON (something follows the list)")


def not_whole(error: Exception, length: int) -> bool:
    """Return whether the decoder's error may be at the end of what was read so far, so that more must be read."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= length - 16 or error.msg.startswith("Unterminated")


def pass_space(text: str, at: int, number: int) -> tuple[int, int]:
    """Return the place and line of the next character that is not white space."""
    start = at
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at, number + text.count("\n", start, at)


def decoded_blocks(path: Path) -> Iterator[str]:
    """Yield a file's text, one block at a time."""
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


def refuse_wide(path: Path, start: bytes) -> None:
    """Raise DataError if a file begins like text with two bytes per character."""
    zeros = [sum(byte == 0 for byte in start[first:200:2]) for first in (0, 1)]
    name = "UTF-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
    if not name and max(zeros) > 0.9 * len(start[:200:2]) and not min(zeros):
        name = "UTF-16BE" if zeros[0] else "UTF-16LE"
    if name:
        raise DataError(f"{path}:1: not UTF-8 text, but {name}. Try: iconv -f {name} -t UTF-8 OLD > NEW")
