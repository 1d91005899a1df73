"""A tokenizer for several threads, and the threads that make prompts: long texts do not hold up short ones."""

import asyncio
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
LONG = 2**16  # characters of a request, about a tenth of a second of tokenizing


class PerThread:
    """A tokenizer of which threads can have a copy of their own: none can be used by two at the same time."""

    def __init__(self, tokenizer: Any):
        self._original, self._own = tokenizer, threading.local()

    def _of_thread(self) -> Any:
        return getattr(self._own, "tokenizer", self._original)

    def thread(self, name: str) -> ThreadPoolExecutor:
        """Return a thread with a copy of its own; the original is not used at the moment."""
        own = copy.deepcopy(self._original)
        return ThreadPoolExecutor(1, name, partial(setattr, self._own, "tokenizer", own))

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """Encode texts."""
        return self._of_thread()(*texts, **options)

    def __len__(self) -> int:
        """Return the size of the vocabulary."""
        return len(self._of_thread())

    def __getattr__(self, name: str) -> Any:
        """Return what the thread's tokenizer has of this name."""
        return getattr(self._of_thread(), name)


class Threads:
    """Two threads for calls that use the tokenizer or the disk: a slow call waits only for other slow ones."""

    def __init__(self, tokenizer: PerThread):
        self.usual, self.slow = (tokenizer.thread(f"bakeoff-{name}") for name in ("tokenizer", "slow-tokenizer"))

    async def run(self, call: Callable[..., T], *given: Any, slow: bool) -> T:
        """Return what a call returns."""
        thread = self.slow if slow else self.usual
        return await asyncio.get_running_loop().run_in_executor(thread, partial(call, *given))

    def stop(self) -> None:
        """End both threads after their calls; calls that wait are dropped."""
        for thread in (self.usual, self.slow):
            thread.shutdown(cancel_futures=True)
