"""The thread that owns the engine, and the way from the event loop to it and back.

The event loop puts calls into a queue; the thread carries them out between two steps, and hands what a step did to the
event loop.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from bakeoff.compute.serving.engine import Engine
    from bakeoff.compute.serving.request import Event, Request

T = TypeVar("T")
GIVE_UP = 3  # steps that fail one after the other, before the server says that it is not well
log = logging.getLogger("bakeoff.serving")


class Output:
    """The events of one request, in the event loop, as they come."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> "Event":
        """Return the next event; none comes after one that is `finished`."""
        return await self.events.get()


class Worker:
    """Runs an engine in a thread of its own.

    `on_step` is called in that thread after each step, with the number of rows that it had.
    """

    def __init__(self, engine: "Engine", on_step: Callable[[int], None] = lambda rows: None):
        self.engine, self.on_step = engine, on_step
        self.calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.rows: dict[Output, int] = {}  # the engine's thread alone uses these two
        self.outputs: dict[int, Output] = {}
        self.running = self.waiting = self.failed_steps = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self._run, name="bakeoff-engine", daemon=True)

    @property
    def well(self) -> bool:
        """Whether the engine does what it is asked."""
        return self.thread.is_alive() and self.failed_steps < GIVE_UP

    @property
    def busy(self) -> bool:
        """Whether a step is due: for outputs, or for cancelled rows, whose places a step frees."""
        return bool(self.outputs or (self.engine.running and not self.failed_steps))

    def start(self) -> None:
        """Start the thread; the event loop that calls this is the one that gets the outputs."""
        self.loop = asyncio.get_running_loop()
        self.thread.start()

    def stop(self) -> None:
        """Let the thread end after its step; its outputs get nothing more."""
        self.calls.put(None)
        if self.thread.ident is not None:
            self.thread.join(timeout=60)

    async def ask(self, call: Callable[["Engine"], T]) -> T:
        """Return what `call` returns for the engine, between two steps; raise what it raises."""
        assert self.loop is not None  # only a started worker is asked
        answer: asyncio.Future[T] = self.loop.create_future()

        def carry_out() -> None:
            try:
                result = call(self.engine)
            except Exception as error:
                self._post(unless_done(answer, partial(answer.set_exception, error)))
            else:
                self._post(unless_done(answer, partial(answer.set_result, result)))

        self.calls.put(carry_out)
        return await answer

    async def submit(self, name: str | None, request: "Request") -> Output:
        """Hand a request to the engine; raise BakeoffError if it cannot be taken."""
        output = Output()

        def take(engine: "Engine") -> None:
            row = engine.submit(name, request)
            self.rows[output], self.outputs[row] = row, output

        try:
            await self.ask(take)
        except BaseException:  # also of whoever waits: then nobody is left to cancel the row
            self.cancel(output)
            raise
        return output

    def cancel(self, output: Output) -> None:
        """Free the row of an output, if it has not ended."""

        def free() -> None:
            if (row := self.rows.pop(output, None)) is not None:
                del self.outputs[row]
                self.engine.cancel(row)

        self.calls.put(free)

    def _run(self) -> None:
        while True:
            call = self._next_call()
            while call is not None:
                call()
                try:
                    call = self.calls.get_nowait()
                except Empty:
                    break
            else:
                return
            if self.busy:
                self._step()
            self.running, self.waiting = self.engine.running, self.engine.waiting

    def _next_call(self) -> Callable[[], None] | None:
        """Return the next call, which is waited for only while nothing is to be written."""
        try:
            return self.calls.get(block=not self.busy)
        except Empty:
            return lambda: None

    def _step(self) -> None:
        try:
            events = self.engine.step()
        except Exception as error:
            self.failed_steps += 1
            log.error("a step of the engine failed: %s", type(error).__name__)  # its text could have a prompt's
            events = [self._failed(row) for row in [*self.outputs]]
            for event in events:
                self.engine.cancel(event.row)
        else:
            self.failed_steps = 0
            self.on_step(self.engine.running)
        found = [(self.outputs[event.row], event) for event in events if event.row in self.outputs]
        for output, event in found:
            if event.finished:
                del self.rows[output], self.outputs[event.row]

        def hand_over() -> None:
            for output, event in found:
                output.events.put_nowait(event)

        self._post(hand_over)

    @staticmethod
    def _failed(row: int) -> "Event":
        from bakeoff.compute.serving.request import Event

        return Event(row, None, "failed")

    def _post(self, call: Callable[[], Any]) -> None:
        """Let the event loop call something; a loop that has ended needs nothing more."""
        assert self.loop is not None
        if not self.loop.is_closed():
            try:
                self.loop.call_soon_threadsafe(call)
            except RuntimeError:
                log.debug("the event loop ended before the engine")


def unless_done(answer: "asyncio.Future[Any]", settle: Callable[[], None]) -> Callable[[], None]:
    """Return a call that settles an answer, if whoever waits for it has not given up."""

    def call() -> None:
        if not answer.done():
            settle()

    return call
