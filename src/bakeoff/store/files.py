"""Writes text and JSON files completely or not at all."""

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from bakeoff.errors import SetupError
from bakeoff.store.checksums import LARGEST, open_regular, sync

Line = TypeVar("Line")
ASSETS = Path(__file__).parent.parent / "assets"  # what the package ships beside its code


def give_rights(folder: Path) -> None:
    """Give the files of a folder the permissions of the umask: safetensors gives them only to the owner."""
    mask = os.umask(0o077)
    os.umask(mask)
    for file in folder.iterdir():
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~mask)


def opened(path: Path, flags: int) -> int:
    """Return the descriptor of a file opened for writing, with the permissions of the umask.

    A file that has another name too (a hard link) is first replaced by a copy, so that the other name keeps its
    content. Raises SetupError if the path is a link, or not a regular file.
    """
    detach(path)
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SetupError(f"{path}: is a link, so a file elsewhere would be changed. Try: remove the link") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SetupError(f"{path}: is not a regular file. Try: remove it")
    return descriptor


def detach(path: Path) -> None:
    """Replace a file that has another name (a hard link) by a copy, so that the other name keeps its content."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(there.st_mode) and there.st_nlink > 1:
        with replacing(path, "wb") as copy, path.open("rb") as original:
            os.fchmod(copy.fileno(), stat.S_IMODE(there.st_mode))
            shutil.copyfileobj(original, copy)


@contextmanager
def replacing(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file that replaces `path` at the end: readers and crashes see the old or the new file, never a part.

    If the block raises, the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    descriptor = opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, mode, encoding="utf-8" if mode == "w" else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, atomically."""
    with replacing(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused, because JSON does not have it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON objects, one per line, atomically."""
    with replacing(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append a JSON object as a line. It replaces a last line that a crash has left incomplete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def remove_named(folder: Path, names: str) -> None:
    """Delete the files of a folder whose whole name matches, and the folder if it is empty then."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for file in folder.iterdir():
        if re.fullmatch(names, file.name) and (file.is_symlink() or not file.is_dir()):
            file.unlink(missing_ok=True)
    with suppress(OSError):  # somebody else's files are in it
        folder.rmdir()


def read_jsonl(path: Path, read: Callable[[bytes], Line], torn: bool = True) -> Iterator[Line]:
    """Yield what `read` makes of each line of a JSONL file.

    Raises SetupError if there is no file, or `read` raises ValueError. A last line that a crash has left incomplete is
    ignored unless `torn` is False.
    """
    try:
        file = open_regular(path)
    except OSError:
        raise SetupError(f"{path}: missing. Try: bakeoff run again") from None
    with file:
        number = 0
        while line := file.readline(LARGEST + 1):
            number += 1
            if line.endswith(b"\n") or not torn or len(line) > LARGEST:
                try:
                    if len(line) > LARGEST:
                        raise ValueError("too long")
                    row = read(line)
                except (ValueError, RecursionError):
                    raise SetupError(f"{path}:{number}: damaged. Try: bakeoff run again") from None
                yield row


def json_object(line: bytes) -> dict[str, Any]:
    """Return the object in a line of JSON; raise ValueError if it holds something else."""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


@contextmanager
def writing(path: Path, hint: str = "-s output=FOLDER, another folder") -> Iterator[None]:
    """Turn errors of the system (no permission, a full disk) into a one-line SetupError with this hint."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        where = Path(error.filename2 or error.filename or path)  # of a file that is renamed, what is in its way
        where = where.parent if where.suffix == ".tmp" else where  # a file that is written whole, and then renamed
        raise SetupError(f"{where}: {error.strerror or error}. Try: {hint}") from None
