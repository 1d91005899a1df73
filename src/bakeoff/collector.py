"""Python's collector of cycles, paused where it costs more than it frees."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the collector while a library is imported or a tokenizer is read.

    These make a million objects that all stay, at which the collector would look again and again (design/LOG.md).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
