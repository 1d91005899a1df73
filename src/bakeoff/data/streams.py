"""Opens data files as bytes: unpacks compressed ones, and turns text in another encoding into UTF-8, block by block."""

import codecs
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from bakeoff.errors import DataError
from bakeoff.store.checksums import open_file

BLOCK = 1 << 16  # bytes that are read at a time
LFS = b"version https://git-lfs."  # begins the note that stands for a file's contents
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
RATIO = 200  # how many times its size a compressed file may unpack to; texts shrink to a third or a tenth
SMALL = 100 << 20  # bytes that any file may unpack to
UTF8 = "utf-8"
OTHER_ENCODING = "Set data.encoding to the file's own encoding, for example cp1252 (Windows, Western Europe)"


@dataclass(frozen=True)
class Reading:
    """How data files are read: the `encoding` of text, the `part` (a sheet, a table or a query), the `columns` needed.

    Where a format allows it, other columns are not read; None: all are.
    """

    encoding: str = UTF8
    part: str | None = None
    columns: frozenset[str] | None = None


def ending_of(path: Path) -> str:
    """Return the ending that says a file's format, in small letters; for a compressed file, that of the file in it."""
    return Path(path.stem if path.suffix.lower() in PACKED else path.name).suffix.lower()


@contextmanager
def opened(path: Path, encoding: str = UTF8) -> Iterator[BinaryIO]:
    """Open a file; compressed ones are unpacked, and text in another encoding is read as UTF-8.

    The stream can return to its start. Raises DataError if the file cannot be read.
    """
    try:
        with open_file(path) as file:
            if file.read(len(LFS)) == LFS:
                raise DataError(f"{path}: a git-lfs pointer, not the file itself. Try: git lfs pull in its folder")
            file.seek(0)
            if path.suffix.lower() not in PACKED and encoding == UTF8:
                yield file
                return
        with io.BufferedReader(Blocks(lambda: blocks_of(path, encoding))) as stream:
            yield cast(BinaryIO, stream)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Paths are relative to the config file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


class Blocks(io.RawIOBase):
    """A stream of the bytes that `make` gives block by block. Seeking back begins again."""

    def __init__(self, make: Callable[[], Iterator[bytes]]):
        self.make, self.place = make, 0
        self.source, self.held = make(), b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the number of bytes before the place."""
        return self.place

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, counted from the start or from here, and return it; raise OSError if that is not possible."""
        place += self.place if whence == os.SEEK_CUR else 0
        if whence == os.SEEK_END or place < 0:
            raise io.UnsupportedOperation("the end of such a stream is not known")
        if place < self.place:
            self.source.close()  # type: ignore[attr-defined]  # a generator
            self.source, self.held, self.place = self.make(), b"", 0
        while self.place < place and self.readinto(bytearray(min(BLOCK, place - self.place))):
            pass
        return self.place

    def readinto(self, target: Any) -> int:
        """Put the next bytes into a buffer; return how many there were, 0 at the end."""
        while not self.held:
            block = next(self.source, None)
            if block is None:
                return 0
            self.held = block
        count = min(len(target), len(self.held))
        target[:count], self.held = self.held[:count], self.held[count:]
        self.place += count
        return count

    def close(self) -> None:
        """Close the file."""
        self.source.close()  # type: ignore[attr-defined]
        super().close()


def blocks_of(path: Path, encoding: str) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked and as UTF-8."""
    packing = PACKED.get(path.suffix.lower())
    blocks = unpacked(path, packing) if packing else as_they_are(path)
    return blocks if encoding == UTF8 else recoded(path, blocks, encoding)


def as_they_are(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes."""
    with open_file(path) as file:
        while block := file.read(BLOCK):
            yield block


def unpacked(path: Path, packing: str) -> Iterator[bytes]:
    """Yield what is in a compressed file; raise DataError if it is damaged, or unpacks to far more than a text does."""
    import pyarrow

    with open_file(path) as file:
        size, made = os.fstat(file.fileno()).st_size, 0
        try:
            stream = pyarrow.CompressedInputStream(file, packing)
            while block := stream.read(BLOCK):
                made += len(block)
                refuse_bomb(path, made, size)
                yield block
        except (OSError, pyarrow.ArrowException, MemoryError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{path}: not a complete {path.suffix} file ({reason})") from None


def refuse_bomb(path: Path, unpacked: int, size: int) -> None:
    """Raise DataError if a file of `size` bytes unpacks to more than a text does."""
    if unpacked > max(SMALL, RATIO * size):
        raise DataError(
            f"{path}: unpacks to more than {max(SMALL, RATIO * size) >> 20:,} MiB, far more than a text does. If you "
            f"trust it, unpack it yourself, and name the unpacked file"
        )


def recoded(path: Path, blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield text as UTF-8; raise DataError with the line of the first byte that is not in the encoding."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    for block in chain(blocks, [b""]):
        before = decoder.getstate()
        try:
            text = decoder.decode(block, final=not block)
            yield text.encode()
        except UnicodeError as error:
            decoder.setstate(before)
            line += lines_before_fault(decoder, block)
            reason = getattr(error, "reason", error)
            raise DataError(
                f"{path}:{line}: not text in the encoding {encoding} ({reason}). Set data.encoding to the file's own"
            ) from None
        line += text.count("\n")


def lines_before_fault(decoder: codecs.IncrementalDecoder, block: bytes) -> int:
    """Return the number of line breaks before the first byte of a block that cannot be decoded."""
    count = 0
    with suppress(UnicodeError):
        for place in range(len(block)):
            count += decoder.decode(block[place : place + 1]).count("\n")
    return count
