"""Output of the command line: printable text without control characters, and standard streams that always exist."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bakeoff.errors import LINES, BakeoffError, printable

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 160  # a file or pipe has no width of its own; the table then holds every column
NO_OUTPUT = "bakeoff: standard output: {reason}. Try: > FILE, on a disk with free space"


def say(text: Any, keep: str = LINES) -> None:
    """Print text on standard output, made printable; line breaks and tabs stay unless `keep` says otherwise."""
    click.echo(printable(text, keep))


def whisper(text: Any) -> None:
    """Print a line on standard error, made printable. If it cannot be written, it is lost; the command continues."""
    with suppress(OSError):
        click.echo(printable(text), err=True)


def open_console() -> "Console":
    """Return the console for standard output."""
    from rich.console import Console

    class PipedConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # for `streams`, as everywhere else

    return PipedConsole(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def say_line(console: "Console", text: str, style: str = "") -> None:
    """Print one line on the console, made printable, and not read as markup."""
    console.print(printable(text), style=style, markup=False, highlight=False)


@contextmanager
def streams() -> Iterator[None]:
    """Make sure that the standard streams exist; if output cannot be written, report it and end the process.

    The exit code is 141, without a message, if the reader has closed the pipe; it is 2 if the disk is full or standard
    output is closed. A closed stream is replaced: otherwise the next opened file would get its number, and the output
    of child processes would go into that file.
    """
    gone = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in gone:
        number = ("stdin", "stdout", "stderr").index(name)
        place = os.open(os.devnull, os.O_RDWR)
        if place != number:
            os.dup2(place, number)
            os.close(place)
        setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a character shows a question mark
    if "stdout" in gone:
        whisper(NO_OUTPUT.format(reason="is closed"))
        sys.exit(2)
    try:
        yield
    except BrokenPipeError:  # whoever read the output has seen enough
        close_output()
        sys.exit(141)
    except OSError as error:
        if error.filename is not None or not stuck():
            raise
        close_output()
        whisper(NO_OUTPUT.format(reason=f"cannot be written ({error.strerror or error})"))
        sys.exit(2)


def stuck() -> bool:
    """Return whether standard output accepts nothing more; if it does, a traceback will begin on a new line."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        return True
    return False


def close_output() -> None:
    """Discard what is still buffered for standard output: at its end Python would try again to write it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn_of_plug_ins() -> None:
    """Report on standard error which other packages' methods could not be loaded, if they were looked for."""
    methods = sys.modules.get("bakeoff.methods")
    if methods and methods.unloaded():
        whisper(f"bakeoff: warning:{methods.unloaded()}")


def check_working_folder() -> None:
    """Raise BakeoffError if the working folder was removed: no library expects that."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise BakeoffError("the working folder does not exist any more. Try: cd to another folder") from None
