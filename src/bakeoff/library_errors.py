"""Turns errors of libraries that read foreign files (models, tokenizers, adapters) into one line.

Nobody can list what a damaged file makes foreign code raise, so this module catches everything. It must not be used for
bakeoff's own code, whose mistakes should be visible.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bakeoff.errors import BakeoffError, SetupError

LONGEST = 300  # characters of a foreign message: some quote a whole file
# As torch's allocators, GPU drivers, bitsandbytes, cuBLAS (CUBLAS_STATUS_ALLOC_FAILED), cuDNN and SYCL word it.
NO_MEMORY = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "status_alloc_failed",
    "device_allocation_failed", "host_allocation_failed", "out_of_device_memory", "out_of_host_memory",
)  # fmt: skip


@contextmanager
def one_line(where: str, hint: str = "") -> Iterator[None]:
    """Turn whatever a library raises into a SetupError: where, its message, and a hint.

    Running out of memory stays as it is: its cause is the machine, not the file.
    """
    try:
        yield
    except (BakeoffError, MemoryError):
        raise
    except BaseException as error:
        # A library in Rust panics with what is no Exception.
        foreign = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if not foreign or no_memory(error):
            raise
        raise SetupError(f"{where} ({in_short(error)}).{f' {hint}' if hint else ''}") from error


@contextmanager
def enough_memory(what: str, cure: str) -> Iterator[None]:
    """Turn an error that says that memory ran out into a SetupError: what took it, and what to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not no_memory(error):
            raise
        raise SetupError(f"{what}: not enough memory ({in_short(error)}). Try: {cure}") from None


def no_memory(error: BaseException) -> bool:
    """Return whether an error says, as a library words it, that the machine or its accelerator has no more memory."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY)


class HangsError(BaseException):
    """Another package's code did not return. It is not an Exception, so that this code's handlers let it pass."""


@contextmanager
def contained(seconds: float) -> Iterator[None]:
    """Raise SystemExit if code ends this process with `os._exit`, and HangsError after so many seconds.

    HangsError is raised only in the main thread, where a signal can interrupt it. Code in C escapes both.
    """
    process, leave = os.getpid(), os._exit

    def stay(status: int) -> Any:
        if os.getpid() != process:  # a copy of this process, which that code has made
            leave(status)
        raise SystemExit(f"os._exit({status})")

    def interrupt(*_: Any) -> None:
        raise HangsError(f"not done after {seconds:g} seconds")

    in_main = threading.current_thread() is threading.main_thread()
    vars(os)["_exit"] = stay
    before = signal.signal(signal.SIGALRM, interrupt) if in_main else None
    try:
        if in_main:
            signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        yield
    finally:
        if in_main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        vars(os)["_exit"] = leave


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def in_short(error: BaseException) -> str:
    """Return an error's message in one short line, with its type if the message alone says little."""
    words = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, (KeyError, IndexError, AttributeError, TypeError, AssertionError)) or not words:
        words = f"{type(error).__name__}{': ' if words else ''}{words}"
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 4]} ..."
