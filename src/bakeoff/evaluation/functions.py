"""Metrics that are Python functions of the user's: `module:function`, or `file.py:function`.

The module is imported because the config's `metrics` names it, and for nothing else: no other key of a config, and no
data, can name code.
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bakeoff.errors import ConfigError

# What the code of a module or function may well raise; all other errors are no matter of one metric.
FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip


def load_function(name: str) -> Callable[..., Any]:
    """Return the function; raise ConfigError where it cannot be had. It takes an output and a list of references."""
    module, _, function = name.rpartition(":")
    try:
        found = getattr(_module(module), function, None)
    except FAULTS as error:
        raise ConfigError(f"metrics: {name}: cannot be imported ({type(error).__name__}: {error})") from None
    if not callable(found):
        raise ConfigError(f"metrics: {name}: no function '{function}' in {module}")
    return found


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    own = f"bakeoff_metric_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(own, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError("no such file. Paths are relative to the config file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module
    spec.loader.exec_module(module)
    return module


def code_identity(name: str) -> str:
    """Return a hash of the file that a function stands in: with other code it gives other scores."""
    code = load_function(name).__code__.co_filename if hasattr(load_function(name), "__code__") else ""
    return hashlib.sha256(Path(code).read_bytes()).hexdigest()[:16] if code and Path(code).is_file() else ""
