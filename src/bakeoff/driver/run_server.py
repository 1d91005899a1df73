"""A server of runs: a process that waits with its libraries imported, and the environment that it has."""

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from bakeoff.compute.run.rank_host import Elsewhere
from bakeoff.config.config import Config
from bakeoff.store.records import Task

Message: TypeAlias = dict[str, Any]
Inbox: TypeAlias = "queue.SimpleQueue[tuple[Server, Message]]"

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
# Intel's selector without one that it may take takes all: this one leaves out the GPUs of every backend.
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ONEAPI_DEVICE_SELECTOR": "!*:gpu"}
# Lets torch's allocator on GPUs grow its blocks: each batch has another length, and memory in pieces runs out earlier.
GPU_ALLOCATOR = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
OWN_ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}  # what a user may have set


def environment_of(config: Config) -> dict[str, str]:
    """Return the environment of the processes of runs on this machine."""
    return process_environment(config.machine.device)


def process_environment(device: str) -> dict[str, str]:
    """Return the environment of the processes of runs on a device, as `machine.device` names it."""
    if device == "cpu":
        return ALLOCATOR | ATTENTION | dict(os.environ) | NO_GPU
    return ALLOCATOR | ATTENTION | ({} if OWN_ALLOCATOR & os.environ.keys() else GPU_ALLOCATOR) | dict(os.environ)


def gpu_environment(device: str) -> dict[str, str]:
    """Return what of the environment of runs on a device a process can give itself before it imports torch.

    What the user has set stays. `device` is named as in `machine.device`.
    """
    theirs = process_environment(device)
    names = (*ATTENTION, *GPU_ALLOCATOR, *(NO_GPU if device == "cpu" else ()))
    return {name: theirs[name] for name in names if name in theirs}


class Server(Protocol):
    """A server of runs, on this machine or another one. What it says is put into its slot's inbox."""

    def ask(self, folder: Path, task: Task, device: str, beside: int) -> None:
        """Ask for a run on a device, where up to `beside` others may run at the same time."""

    def kill(self, process: int | None, number: int) -> None:
        """Send a signal to the process of a run, or to the server itself; do nothing if it has ended."""

    def ended(self) -> int | None:
        """Return the status with which the process has ended; None if it runs."""

    def close(self) -> None:
        """End the server and the current run."""


class RunServer:
    """A server of runs in a separate process; a thread puts its messages into the inbox, which several may share."""

    def __init__(self, words: list[str], environment: Mapping[str, str], inbox: Inbox) -> None:
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.inbox = inbox
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with suppress(ValueError):  # part of a line, from a process that was killed
                    self.inbox.put((self, json.loads(line)))
        self.inbox.put((self, {"server": self.process.wait()}))

    def ask(self, folder: Path, task: Task, device: str, beside: int, elsewhere: Elsewhere | None = None) -> None:
        """Ask for a run on a device, where up to `beside` others may run at the same time.

        Some of its processes may be `elsewhere`.
        """
        assert self.process.stdin is not None
        request = {
            "folder": str(folder.resolve()), "run": task.run.id, "left": task.left, "device": device, "beside": beside,
            "elsewhere": elsewhere and asdict(elsewhere),
        }  # fmt: skip
        with suppress(BrokenPipeError):  # then the thread says how it ended
            print(json.dumps(request), file=self.process.stdin, flush=True)

    def ended(self) -> int | None:
        """Return the status with which the process has ended; None if it runs."""
        return self.process.poll()

    def kill(self, process: int | None, number: int) -> None:
        """Send a signal to the process of a run, or to the server itself; do nothing if it has ended."""
        with suppress(ProcessLookupError):
            os.kill(process or self.process.pid, number)

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
