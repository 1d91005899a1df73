"""A run that is being carried out in its own process: what its server says, stalls, and being asked to stop."""

import signal
import time
from collections.abc import Callable, Iterator

from bakeoff.driver.run_server import Message, Server
from bakeoff.errors import SetupError
from bakeoff.store.events import Event, Failed, RunEvent, State, event_of
from bakeoff.store.records import Cause, RunResult, Task
from bakeoff.store.run_folder import Folder

POLL_SECONDS = 0.2
# What a run that is asked to stop has at least, from its last sign of life on, until it begins to write its checkpoint;
# more where steps, with the validations and checkpoints after them, have been seen to take longer.
GRACE_SECONDS = 20.0
KILLED = ". Out of memory? Try a smaller protocol.batch_size, or fewer runs at a time (machine.workers)"
UNSAVED = ("training", "validating", "saving")  # states in which there is something to save


class Attempt:
    """One running run, in its own process.

    `reserve` is called when its server says that it carries out runs itself: it may end with any of them. `take_back`
    is called when its process has ended, before its record is looked for.
    """

    def __init__(
        self, server: Server, folder: Folder, task: Task, stall_seconds: float,
        reserve: Callable[[], object] = bool, take_back: Callable[[], object] = bool,
    ):  # fmt: skip
        self.server, self.folder, self.task = server, folder, task
        self.reserve, self.take_back = reserve, take_back
        self.run, self.stall_seconds = task.run, stall_seconds
        self.process: int | None = None
        self.state = self.metric = ""
        self.stepped_at = self.longest_step = 0.0  # in seconds, with what comes between it and the next
        self.silent = 0.0  # seconds
        self.server_ended: int | None = None  # its status, once it was found to have ended
        self.stalled = self.stop_requested = self.given_up = False
        self.grace_left = 0.0  # seconds, from when it was asked to stop
        self.status: int | None = None  # of its process, once that has ended
        self.lost = False  # whether the machine that it ran on is gone
        self.saved = False  # whether it was asked to save before, and has

    @property
    def over(self) -> bool:
        """Whether nothing is waited for any more."""
        return self.given_up or self.status is not None

    def take(self, message: Message | None, passed: float, stopping: bool) -> Iterator[Event]:
        """Take in what was said, or that nothing was said for the seconds that `passed`; yield the run's events.

        If its process has ended without a record, one is written and yielded. A run that is `stopping` and takes too
        long is given up.
        """
        message = message or self.end_of_server(passed)
        self.silent = 0.0 if message else self.silent + passed
        if self.silent >= self.stall_seconds:
            self.end()
            self.silent = 0.0
        event = event_of(message["event"]) if message and "event" in message else None
        if isinstance(event, RunEvent):
            self.hear(event)
        if stopping:
            begins = not self.stop_requested
            if begins:
                yield State(run=self.run.id, state="stopping")
                self.ask_to_stop()
            self.grace_left = self.grace() if begins or message else self.grace_left - passed
            if self.grace_left <= 0:
                self.given_up = True
                return
        if event:
            if event.values():  # not a sign of life alone
                yield event
        elif message:
            if "alone" in message:
                self.reserve()
            self.process = message.get("started", self.process)
            self.status = message.get("exit", self.status_of_server(message))
        self.lost, self.saved = bool(message and "lost" in message), bool(message and message.get("saved"))
        if self.status is not None:
            self.take_back()
        if self.status is None or self.stop_requested or self.lost:
            return
        if self.folder.run(self.run.id).result() is None:
            yield self.ended(self.status)

    def end_of_server(self, passed: float) -> Message | None:
        """Return how the server has ended, if it has, and has said nothing since then for a moment.

        The end is noticed even if a process that it has left behind keeps its channel open.
        """
        if self.server_ended is None:
            self.server_ended = self.server.ended()
            return None
        return {"server": self.server_ended} if self.silent + passed >= POLL_SECONDS else None

    def hear(self, event: RunEvent) -> None:
        """Note what the run is doing, and how long its steps take."""
        if event.kind == "state":
            self.state, self.metric = event.state, event.metric or ""
        if event.kind == "progress" and event.step is not None:
            now = time.monotonic()
            self.longest_step = max(self.longest_step, now - (self.stepped_at or now))
            self.stepped_at = now

    def ask_to_stop(self) -> None:
        """Ask the run to save and end."""
        self.stop_requested = True
        if self.process is not None:
            self.server.kill(self.process, signal.SIGTERM)

    def grace(self) -> float:
        """Return how many seconds a run that is to stop has from now on; 0 if there is nothing to save.

        A run that is writing its checkpoint, however large, has as many as a run that reports no progress.
        """
        if self.process is None or self.state not in UNSAVED:
            return 0.0
        return self.stall_seconds if self.state == "saving" else max(GRACE_SECONDS, 2 * self.longest_step)

    def end(self) -> None:
        """End the run's process, or the server if even that hangs."""
        self.server.kill(None if self.stalled else self.process, signal.SIGKILL)
        self.stalled = True

    def status_of_server(self, message: Message) -> int | None:
        """Return how the server ended, if it has; raise SetupError if it could not start, or refuses runs."""
        if "refused" in message:
            raise SetupError(message["refused"])
        if "server" not in message:
            return None
        if self.process is None and message["server"] > 0:
            raise SetupError(f"the run server stopped with status {message['server']}. Its last messages are above")
        return message["server"]

    def ended(self, status: int) -> Failed:
        """Write and return the failure of a run whose process ended without a record."""
        cause: Cause = "stalled" if self.stalled else "ended"
        if self.stalled:
            doing = f" while the metric {self.metric} scored" if self.metric else ""
            limit = f"{self.stall_seconds:g} seconds (safety.stall_seconds)"
            error = f"no progress for {limit}{doing}, so its process was ended"
        else:
            name = signal.Signals(-status).name if status < 0 else f"status {status}"
            error = f"its process ended with {name}{KILLED if status == -signal.SIGKILL else ''}"
        self.folder.run(self.run.id).write_result(RunResult(self.run, "failed", error=error, cause=cause))
        return Failed(run=self.run.id, error=error)
