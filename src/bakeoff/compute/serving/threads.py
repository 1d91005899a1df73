"""How many threads the engine computes with, on a processor."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch

from bakeoff.compute.serving.engine import Engine
from bakeoff.compute.serving.request import Request

ROWS, STEPS = 4, 6
LONG_STEP = 0.2  # seconds after which products are most of a step, which all cores share well
WORTH = 1.25  # times as fast that the last core must make a step


@contextmanager
def core_left(engine: Engine) -> Iterator[int]:
    """Let torch compute with one thread less than it would, unless steps are much slower then; yields how many.

    The event loop needs a core, too. Where it has none of its own, it takes that of a computing thread, for which the
    others then wait at the end of each product. Afterwards torch has all its threads again.
    """
    most = torch.get_num_threads()
    try:
        if most > 1 and engine.loaded.device.type == "cpu":
            torch.set_num_threads(best_threads(engine, most))
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(most)


def best_threads(engine: Engine, most: int) -> int:
    """Return with how many threads the engine is to compute: `most`, or one less."""
    taken = {}
    for threads in (most, most - 1):
        torch.set_num_threads(threads)
        seconds = [*step_seconds(engine)]
        if seconds[-1] > LONG_STEP:
            return most
        taken[threads] = median(seconds)
    return most if WORTH * taken[most] < taken[most - 1] else most - 1


def step_seconds(engine: Engine) -> Iterator[float]:
    """Yield the seconds of some decoding steps of the base; it ends after a long one."""
    rows = [engine.submit(None, Request([0] * 8, STEPS + 2, frozenset(), seed=0)) for _ in range(ROWS)]
    engine.step()  # reads the prompts
    for _ in range(STEPS):
        start = time.perf_counter()
        engine.step()
        yield (seconds := time.perf_counter() - start)
        if seconds > LONG_STEP:
            break
    for row in rows:
        engine.cancel(row)
    engine.step()
