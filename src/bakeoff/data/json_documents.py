"""Reads files that are one JSON list of objects, or one object of objects, one inner object at a time."""

import codecs
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from bakeoff.data.lines import LONGEST, TOO_LONG, Row, lines_of
from bakeoff.data.streams import BLOCK, OTHER_ENCODING, Reading, ending_of, opened
from bakeoff.errors import DataError, kind_of, no_utf8

OBJECT = re.compile(rb'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')  # begins an object whose first value is an object
BEGINNING = 4096  # bytes
KEY = "key"  # the column with an inner object's key, unless the object has such a column itself


class Cursor:
    """A place in a JSON text of which one block after the other is in memory; `line` is its line."""

    def __init__(self, path: Path, blocks: Iterator[str]):
        self.path, self.blocks, self.decoder = path, blocks, json.JSONDecoder()
        self.buffer, self.at, self.line, self.whole = "", 0, 1, "list"

    def fault(self, reason: object, line: int | None = None) -> DataError:
        """Return the error that the text is not JSON."""
        return DataError(f"{self.path}:{line or self.line}: not JSON ({reason})")

    def peek(self) -> str:
        """Return the next character that is not white space, without passing it; empty at the text's end."""
        while True:
            start = self.at
            while self.at < len(self.buffer) and self.buffer[self.at] in " \t\r\n":
                self.at += 1
            self.line += self.buffer.count("\n", start, self.at)
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            self.buffer, self.at = next(self.blocks, ""), 0
            if not self.buffer:
                return ""

    def take(self, allowed: str) -> str:
        """Pass the next character, one of those `allowed`, and return it."""
        sign = self.peek()
        if not sign:
            raise self.fault(f"the {self.whole} is not closed")
        if sign not in allowed:
            raise self.fault(f"expected '{allowed[0]}', got {sign!r}")
        self.at += 1
        return sign

    def value(self) -> Any:
        """Pass the next value, and return it."""
        if not self.peek():
            raise self.fault(f"the {self.whole} is not closed")
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
            except (ValueError, RecursionError) as error:
                more = ""
                if not_whole(error, len(self.buffer)):  # as much again, so that no object is gone through too often
                    more = "".join(islice(self.blocks, 1 + (len(self.buffer) - self.at) // BLOCK))
                if not more or len(self.buffer) - self.at > LONGEST:
                    line = self.line + self.buffer.count("\n", self.at, getattr(error, "pos", self.at))
                    reason = f"an object {TOO_LONG}" if more else getattr(error, "msg", error)
                    raise self.fault(reason, line) from None
                self.buffer, self.at = self.buffer[self.at :] + more, 0
                continue
            self.line += self.buffer.count("\n", self.at, end)
            self.at = end
            return value


def json_rows(path: Path, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a file that is one JSON list of objects, or one object of objects."""
    text = Cursor(path, decoded_blocks(path, reading.encoding))
    of_keys = text.take("[{") == "{"
    text.whole, close = ("object", "}") if of_keys else ("list", "]")
    last, item = 0, 1  # the line that the last object began on, and how many of them did
    while text.peek() != close:
        number, values = text.line, {}
        if of_keys:
            values = {KEY: text.value()}
            text.take(":")
        value = text.value()
        last, item = number, item + 1 if last == number else 1
        row = Row(str(path), number, values | value if isinstance(value, dict) else {}, item=item)
        fault = ("no JSON object", f"expected a JSON object, got {kind_of(value)}")
        yield row if isinstance(value, dict) else row._replace(fault=fault)
        if text.peek() != close:
            text.take(f",{close}")
    text.take(close)
    if text.peek():
        raise text.fault(f"something follows the {text.whole}")


def is_document(path: Path, encoding: str) -> bool:
    """Return whether a file is one JSON document, and not an object per line.

    Raises DataError if it is an object of anything but objects, over several lines.
    """
    with opened(path, encoding) as stream:
        start = beginning(stream)
        if start.startswith(b"["):
            return True
        if not OBJECT.match(start):
            if start.partition(b"\n")[0].strip() == b"{":
                raise DataError(
                    f"{path}:1: not JSON Lines: an object is spread over several lines. Allowed: one object per line, "
                    f"a list of objects, or an object of objects. Try: jq -c . OLD > NEW, or jq -c '.KEY[]' where the "
                    f"list is under a key"
                )
            return False
        stream.seek(0)
        lines = (line.removeprefix(codecs.BOM_UTF8) for line in lines_of(stream))
        filled = (line for line in lines if line.strip())
        try:
            first = json.loads(next(filled))
        except (ValueError, RecursionError):
            return True
        alone = ending_of(path) == ".json" and next(filled, None) is None
        return alone and all(isinstance(value, dict) for value in first.values())


def beginning(stream: BinaryIO) -> bytes:
    """Return some of a stream's first bytes that are not white space."""
    start = stream.read(BEGINNING).removeprefix(codecs.BOM_UTF8).lstrip()
    while not start and (block := stream.read(BEGINNING)):
        start = block.lstrip()
    return start + stream.read(BEGINNING - len(start))


def not_whole(error: Exception, length: int) -> bool:
    """Return whether the decoder's error may be at the end of what was read so far, so that more must be read."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= length - 16 or error.msg.startswith("Unterminated")


def decoded_blocks(path: Path, encoding: str) -> Iterator[str]:
    """Yield a file's text, one block at a time."""
    decoder, lines = codecs.getincrementaldecoder("utf-8-sig")(), 1
    with opened(path, encoding) as stream:
        while True:
            block = stream.read(BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line = lines + error.object[: error.start].count(b"\n")
                raise DataError(f"{path}:{line}: {no_utf8(error, OTHER_ENCODING)}") from None
            if text:
                yield text
            if not block:
                return
            lines += block.count(b"\n")
