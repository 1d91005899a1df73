"""Starts child processes of bakeoff, so that they end with their parent and import nothing from the working folder.

`python -m` alone puts the working folder first on the path. A random.py or peft.py there, of a user or downloaded,
would be imported instead of the real module.

`python -P -m bakeoff.child_process PARENT MODULE [ARGUMENT...]` runs a module of ours that ends with its parent. The
kernel is asked for that before the module imports its libraries: it takes seconds, and a parent that is killed
meanwhile has already said what is to be done.
"""

import ctypes
import os
import resource
import runpy
import signal
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of ours, isolated from the working folder; PYTHONPATH still counts."""
    return [sys.executable, "-P", "-m", f"bakeoff.{module}", *arguments]


def child(module: str, *arguments: str) -> list[str]:
    """Return such a command line for a process that this one starts, and that ends with it."""
    return command("child_process", str(os.getpid()), module, *arguments)


def search_path() -> list[str]:
    """Return where this process looks for modules: other processes, too, must find a user's metric."""
    return [str(Path(place).resolve()) for place in sys.path]


def also_search(places: list[str]) -> None:
    """Look for modules in these places, too, after all others, so that they cannot hide an installed module."""
    sys.path += [place for place in places if place not in sys.path]


def end_with_parent(parent: int | None = None) -> None:
    """Let the kernel end this process when its parent ends, for any reason (Linux; elsewhere it is not told).

    `parent` is the process that started this one: if it has ended before, this one ends at once.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def limit(memory_bytes: int | None) -> None:
    """Limit this process's memory, and make it the first that the kernel ends if memory runs out."""
    with suppress(OSError):  # no Linux, or no right to
        Path("/proc/self/oom_score_adj").write_text("500")
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    name, sys.argv = f"bakeoff.{sys.argv[2]}", sys.argv[2:]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
