"""Metrics that are Python functions of the user: `module:function`, or `file.py:function`.

The module is imported only because the config's `metrics` names it: no other key of a config, and no data, can name
code. It is foreign code and may do anything. So a plan tries it in a separate process (`tried`), and a run, which has
its own process, calls it through `call`, which turns whatever it raises into a MetricError.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import numbers
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from bakeoff.child_process import child
from bakeoff.errors import BakeoffError, ConfigError
from bakeoff.store.documents import LARGEST_SCORE
from bakeoff.store.scratch import scratch

TRY_SECONDS = 300.0  # that a function has for its first score, in a plan: it may have a model to load
SHOWN = 200  # characters of somebody else's message
UNWRAPPED = 20  # layers around a function's code
Columns = Mapping[str, Any]  # of an example
T = TypeVar("T")
_LOADED: dict[str, Callable[..., Any]] = {}  # by name


class MetricError(BakeoffError):
    """A metric did not give a score."""


def label_of(name: str) -> str:
    """Return the name of a function's score: the function's name in the config."""
    return name.rpartition(":")[2]


def load_function(name: str) -> Callable[..., Any]:
    """Return the function, which takes outputs and references; raise ConfigError if it cannot be loaded."""
    module, _, function = name.rpartition(":")
    try:
        loaded = getattr(_module(module), function, None)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # of somebody else's module, which may raise anything, SystemExit too
        raise ConfigError(f"metrics: {name}: cannot be imported ({error_text(error)})") from None
    if not callable(loaded):
        raise ConfigError(f"metrics: {name}: no function '{function}' in {module}")
    _LOADED[name] = loaded
    return loaded


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


def function_scores(
    name: str, outputs: Sequence[str], references: Sequence[Sequence[str]], rows: Sequence[Columns]
) -> list[float]:
    """Return a function's score of each output; raise MetricError if it does not return one for each.

    A function whose first parameter is `outputs` is called once, with lists of all outputs, references and rows.
    `rows` have the columns of each output's example. They are passed on if the third parameter is `row` or `rows`.
    """
    function = load_function(name)
    names = guarded(name, "", lambda: parameters(function))
    with_rows = names[2:3] in (["row"], ["rows"])
    if names[:1] != ["outputs"]:
        given = zip(outputs, references, rows, strict=True)
        return [
            call(name, function, i, o, texts, row if with_rows else None) for i, (o, texts, row) in enumerate(given, 1)
        ]
    lists = [[*outputs], [[*texts] for texts in references], *([deepcopy([*rows])] if with_rows else [])]
    values = guarded(name, "", lambda: [(value, number_of(value)) for value in function(*lists)])
    if len(values) != len(outputs):
        raise MetricError(f"metrics: {name}: returned {len(values)} scores for {len(outputs)} outputs")
    return [checked(name, i, *value) for i, value in enumerate(values, start=1)]


def parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters that are given by place; none if they are not known."""
    try:
        known = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a function in C
        return []
    return [p.name for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def call(
    name: str, function: Callable[..., Any], number: int, output: str, references: Sequence[str],
    row: Columns | None = None,
) -> float:  # fmt: skip
    """Return a function's score of one output; raise MetricError if it returns none, whatever it does instead."""

    def work() -> tuple[Any, float | None]:
        value = function(output, list(references), *(() if row is None else (deepcopy(row),)))
        return value, number_of(value)

    return checked(name, number, *guarded(name, f" for output {number}", work))


def guarded(name: str, of: str, work: Callable[[], T]) -> T:
    """Return what somebody else's code returns; raise MetricError if it raises, and end a process that it forks."""
    process = os.getpid()
    try:
        result = work()
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # which may raise anything, SystemExit too
        if os.getpid() == process:
            kind, _, text = error_text(error).partition(": ")
            raise MetricError(f"metrics: {name}: {kind}{of}{text and f': {text}'}") from None
    if os.getpid() != process:
        os._exit(1)  # a copy of this process, which the function made: there is one run
    return result


def checked(name: str, number: int, value: Any, score: float | None) -> float:
    """Return a score; raise MetricError, which shows the value that a function has returned, if it is none."""
    if score is None:
        plain = type(value) in (float, str, bool, type(None))  # of a class of its own even repr may raise
        shown = f"{value!r:.60}" if plain else type(value).__name__
        allowed = f"a finite number, at most {LARGEST_SCORE:g}"
        raise MetricError(f"metrics: {name}: returned {shown} for output {number}. Expected {allowed}")
    return score


def number_of(value: Any) -> float | None:
    """Return a number of Python, numpy or torch as a float; None if it is not a number, not finite or too large."""
    item = getattr(value, "item", None)
    value = item() if callable(item) else value
    if not isinstance(value, numbers.Real | Decimal):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) <= LARGEST_SCORE else None


def error_text(error: BaseException) -> str:
    """Return an error's type and text, on one line."""
    text = traceback.format_exception_only(error)[-1].strip()
    kind, _, rest = text.partition(": ")
    return f"{kind.rpartition('.')[2]}: {rest}"[:SHOWN] if rest else kind.rpartition(".")[2][:SHOWN]


def code_identity(name: str) -> str:
    """Return a hash of a function's code: its module's file, and the file of the function itself if that is another.

    The files are read now, but a module that this process has imported is not imported again. It does not matter in
    which folder the files are. Empty if there is no file, as for a function in C.
    """
    function = _LOADED[name] if name in _LOADED else load_function(name)
    module, _, _ = name.rpartition(":")
    named = module if module.endswith(".py") else getattr(sys.modules[module], "__file__", None)
    files = dict.fromkeys(Path(file) for file in (named, code_file(function)) if file and Path(file).is_file())
    if not files:
        return ""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def code_file(function: Any) -> str | None:
    """Return the file of a function's code, also for a partial, a method, a callable instance or a cached function."""
    for _ in range(UNWRAPPED):
        if hasattr(function, "__code__"):
            return function.__code__.co_filename
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.ismethod(function):
            function = function.__func__
        elif isinstance(function, type):
            return getattr(sys.modules.get(function.__module__), "__file__", None)
        else:
            function = getattr(type(function), "__call__")  # noqa: B004, B009  # of an instance that is called
    return None


def tried(name: str, output: str, references: Sequence[str], row: Columns | None = None) -> str:
    """Return a function's `code_identity`, after it has scored an output in a separate process.

    Raises ConfigError or MetricError if it does not return a score, whatever it does: it may print, exit, hang, fork,
    or close open files.
    """
    return first_score("scoring.custom", name, output, references, row)


def first_score(module: str, name: str, output: str, references: Sequence[str], row: Columns | None = None) -> str:
    """Return what a module of this package says of a metric that has scored an output in a process of its own.

    The module calls `answer`. Raises ConfigError or MetricError where there is no score, whatever the process does.
    """
    with scratch() as temporary:
        written, log = temporary / "answer.json", temporary / "log.txt"
        with log.open("wb") as said:
            process = subprocess.Popen(
                child(module, str(written)),
                stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip
            try:
                asked = json.dumps({"name": name, "output": output, "references": list(references), "row": row or {}})
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(asked.encode(), timeout=TRY_SECONDS)
            finally:
                running = process.poll() is None
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)  # and what it started
                process.wait()
        if written.is_file():
            given = json.loads(written.read_text(encoding="utf-8"))
            if "error" in given:
                raise {"ConfigError": ConfigError}.get(given["kind"], MetricError)(given["error"])
            return given["identity"]
        if running:
            raise MetricError(f"metrics: {name}: no score after {TRY_SECONDS:g} seconds, so its process was ended")
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"])[-1]
        raise MetricError(f"metrics: {name}: its process ended without a score ({last[:SHOWN]})")


def answer(score: Callable[[dict[str, Any]], str]) -> None:
    """Answer from the separate process: with the identity that `score` returns, or its error; then end the process."""
    try:
        given = {"identity": score(json.loads(sys.stdin.read()))}
    except BakeoffError as error:
        given = {"kind": type(error).__name__, "error": str(error)}
    partial = Path(f"{sys.argv[1]}.part")
    partial.write_text(json.dumps(given), encoding="utf-8")
    partial.rename(sys.argv[1])
    os._exit(0)  # threads that a metric has left do not keep the process


def score(asked: dict[str, Any]) -> str:
    """Score an output in the separate process, and return the identity of the function's code."""
    function_scores(asked["name"], [asked["output"]], [asked["references"]], [asked["row"]])
    return code_identity(asked["name"])


if __name__ == "__main__":
    answer(score)
