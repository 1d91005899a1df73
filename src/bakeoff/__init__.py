"""bakeoff finds out which way of adapting a language model is worth its cost on your task."""

import sys

# `python -m bakeoff` puts the working folder first on the path, whose random.py would be taken for Python's.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[0] != __file__.rpartition("/bakeoff/")[0]:
    del sys.path[0]

from importlib.metadata import version
from logging import ERROR, getLogger
from typing import Any

# PEFT imports it wherever it is installed; on AVX-512 it then warns of a hub's kernel, which nobody here asked for.
getLogger("bitsandbytes.backends.cpu.ops").setLevel(ERROR)

__version__ = version("bakeoff")
__all__ = [
    "BakeoffError",
    "Method",
    "Results",
    "judge",
    "load_config",
    "load_entries",
    "load_results",
    "over_tasks",
    "plan",
    "register",
    "run",
    "run_grid",
    "serve",
    "taste",
    "write_report",
]

_HOMES = {
    "BakeoffError": "errors",
    "Method": "methods",
    "Results": "results",
    "judge": "api",
    "load_config": "config.loading",
    "load_entries": "api",
    "load_results": "results",
    "over_tasks": "reporting",
    "plan": "api",
    "register": "methods",
    "run": "api",
    "run_grid": "grids",
    "serve": "api",
    "taste": "api",
    "write_report": "report.writing",
}


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `bakeoff --help` loads none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bakeoff' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"bakeoff.{_HOMES[name]}"), name)
