"""Runs on this machine, one at a time, each in its own process."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from bakeoff.child_process import command, search_path
from bakeoff.config.config import Config
from bakeoff.config.planned import planned_config
from bakeoff.errors import SetupError
from bakeoff.store.events import Event, Failed, RunEvent, State, event_of
from bakeoff.store.records import Cause, RunResult, Step, Task
from bakeoff.store.run_folder import Folder

# glibc returns large blocks to the kernel at every training step; keeping them saves 10 to 25 % of its time. oneDNN
# keeps a thousand compiled products, one a batch shape: 32, with 64 MiB of padding instead of 256, took the demo's last
# layers from 2.0 to 1.4 GiB at the same speed.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "TOKENIZERS_PARALLELISM": "false",
}


# Torch's attention takes cuDNN last: it makes a plan for each new length, and nearly every batch has one.
ATTENTION = {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}
# Hides GPUs from runs on the processor: bitsandbytes and optimizers look at every one that they find.
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
# Lets torch's allocator on GPUs grow its blocks: each batch has another length, and memory in pieces runs out earlier.
GPU_ALLOCATOR = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
OWN_ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}  # what a user may have set


def environment_of(config: Config) -> dict[str, str]:
    """Return the environment of the processes of runs."""
    if config.machine.device == "cpu":
        return ALLOCATOR | ATTENTION | dict(os.environ) | NO_GPU
    return ALLOCATOR | ATTENTION | ({} if OWN_ALLOCATOR & os.environ.keys() else GPU_ALLOCATOR) | dict(os.environ)


POLL_SECONDS = 0.2
# What a run that is asked to stop has at least, from its last sign of life on, until it begins to write its checkpoint;
# more where steps, with the validations and checkpoints after them, have been seen to take longer.
GRACE_SECONDS = 20.0
UNSAVED = ("training", "validating", "saving")  # states in which there is something to save


class LocalExecutor:
    """Carries out runs on this machine, with one server for runs that need a model, and one for runs that only score.

    On an accelerator, or if `alone` is set, a server of runs that need a model does not fork: it carries them out
    itself, and ends when one fails. Meanwhile a spare server is started, and waits to replace it.
    """

    def __init__(self, config: Config, alone: bool = False) -> None:
        options = ["--alone"] if alone else []
        self.words = {
            "model": command("compute.run.process", *options, config.machine.device, *search_path()),
            "score": command("compute.run.scorer", *search_path()),
        }
        self.environment = environment_of(config)
        self.servers: dict[str, RunServer] = {}
        self.spare: RunServer | None = None

    def start(self, kind: str) -> "RunServer":
        """Start a server."""
        return RunServer(self.words[kind], self.environment)

    def start_early(self) -> None:
        """Start the server of runs that need a model: its imports take seconds, while a plan is made."""
        self.server("train")

    def reserve(self) -> None:
        """Start a spare server of runs that need a model: the one there is may end with any run."""
        if self.spare is None:
            self.spare = self.start("model")

    def server(self, left: Step) -> "RunServer":
        """Return the server of runs for which this is left to do; start it if it is not there, or has ended.

        A spare one that was started before takes its place at once.
        """
        kind = "score" if left == "score" else "model"
        server = self.servers.get(kind)
        while server is None or server.process.poll() is not None:
            if server:
                server.close()
            spare, self.spare = (self.spare, None) if kind == "model" else (None, self.spare)
            server = self.servers[kind] = spare or self.start(kind)
        return server

    def close(self) -> None:
        """End all servers, and the current run."""
        for server in filter(None, (*self.servers.values(), self.spare)):
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, path: Path, tasks: Iterable[Task], stop: Callable[[], bool] = bool) -> Iterator[Event]:
        """Carry out `tasks` of the bakeoff in folder `path` and yield their events.

        If a process dies silently, or makes no progress for `safety.stall_seconds`, a failed record says so, and the
        next run starts. Once `stop` is true, the current run writes a checkpoint and KeyboardInterrupt is raised.
        Closing the iterator ends everything.
        """
        stall = planned_config(Folder(path), Folder(path).plan()).safety.stall_seconds
        try:
            for task in tasks:
                server = self.server(task.left)
                yield from Attempt(server, Folder(path), task, self.reserve).events(stall, stop)
                if stop():  # before another run is chosen: this one may have left no record
                    raise KeyboardInterrupt
        finally:
            self.close()


class RunServer:
    """A server of runs in a separate process; a thread reads its messages."""

    def __init__(self, words: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with suppress(ValueError):  # part of a line, from a process that was killed
                    self.messages.put(json.loads(line))
        self.messages.put({"server": self.process.wait()})

    def ask(self, folder: Path, task: Task) -> None:
        """Ask for a run."""
        assert self.process.stdin is not None
        asked = {"folder": str(folder.resolve()), "run": task.run.id, "left": task.left}
        with suppress(BrokenPipeError):  # then the thread says how it ended
            print(json.dumps(asked), file=self.process.stdin, flush=True)

    def hear(self) -> dict[str, Any] | None:
        """Return the next message, or None if none comes for a moment.

        The end of the process is one, even if a process that it has left behind keeps its channel open.
        """
        ended = self.process.poll()  # asked first: what it said has arrived
        try:
            return self.messages.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return None if ended is None else {"server": ended}

    def close(self) -> None:
        """End the server and the current run. Do nothing a second time: their process ids may be others' now."""
        assert self.process.stdin is not None
        if self.process.stdin.closed:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()


class Attempt:
    """One running run, in its own process."""

    def __init__(self, server: RunServer, folder: Folder, task: Task, reserve: Callable[[], None] = lambda: None):
        self.server, self.folder, self.task, self.reserve = server, folder, task, reserve
        self.run = task.run
        self.process: int | None = None
        self.state = self.metric = ""
        self.stepped_at = self.longest_step = 0.0  # in seconds, with what comes between it and the next
        self.stalled = self.stop_requested = False

    def events(self, stall_seconds: float, stop: Callable[[], bool]) -> Iterator[Event]:
        """Start the run and yield its events; if its process leaves no record, write one and yield that."""
        self.server.ask(self.folder.path, self.task)
        silent = left = 0.0
        status = None
        while status is None:
            before = time.monotonic()
            message = self.server.hear()
            # What is longer than a poll is no silence: this process, and maybe the run's too, was itself at rest.
            passed = min(time.monotonic() - before, 2 * POLL_SECONDS)
            silent = 0.0 if message else silent + passed
            if silent >= stall_seconds:
                self.end(stall_seconds)
                silent = 0.0
            event = event_of(message["event"]) if message and "event" in message else None
            if isinstance(event, RunEvent):
                self.hear(event)
            if stop():
                begins = not self.stop_requested
                if begins:
                    yield State(run=self.run.id, state="stopping")
                    self.ask_to_stop()
                left = self.grace(stall_seconds) if begins or message else left - passed
                if left <= 0:
                    raise KeyboardInterrupt
            if event:
                if event.values():  # not a sign of life alone
                    yield event
            elif message:
                if "alone" in message:
                    self.reserve()
                self.process = message.get("started", self.process)
                status = message.get("exit", self.status_of_server(message))
        if not self.stop_requested and self.folder.run(self.run.id).result() is None:
            yield self.ended(status, stall_seconds)

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
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGTERM)

    def grace(self, stall_seconds: float) -> float:
        """Return how many seconds a run that is to stop has from now on; 0 if there is nothing to save.

        A run that is writing its checkpoint, however large, has as many as a run that reports no progress.
        """
        if self.process is None or self.state not in UNSAVED:
            return 0.0
        return stall_seconds if self.state == "saving" else max(GRACE_SECONDS, 2 * self.longest_step)

    def end(self, stall_seconds: float) -> None:
        """End the run's process, or the server if even that hangs."""
        with suppress(ProcessLookupError):
            os.kill(self.server.process.pid if self.stalled or not self.process else self.process, signal.SIGKILL)
        self.stalled = True

    def status_of_server(self, message: dict[str, Any]) -> int | None:
        """Return how the server ended, if it has; raise SetupError if it could not start, or refuses runs."""
        if "refused" in message:
            raise SetupError(message["refused"])
        if "server" not in message:
            return None
        if self.process is None and message["server"] > 0:
            raise SetupError(f"the run server stopped with status {message['server']}. Its last messages are above")
        return message["server"]

    def ended(self, status: int, stall_seconds: float) -> Failed:
        """Write and return the failure of a run whose process ended without a record."""
        cause: Cause = "stalled" if self.stalled else "ended"
        if self.stalled:
            doing = f" while the metric {self.metric} scored" if self.metric else ""
            error = f"no progress for {stall_seconds:g} seconds (safety.stall_seconds){doing}, so its process was ended"
        else:
            name = signal.Signals(-status).name if status < 0 else f"status {status}"
            hint = ". Out of memory? Try a smaller protocol.batch_size" if status == -signal.SIGKILL else ""
            error = f"its process ended with {name}{hint}"
        self.folder.run(self.run.id).write_result(RunResult(self.run, "failed", error=error, cause=cause))
        return Failed(run=self.run.id, error=error)
