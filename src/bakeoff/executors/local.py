"""Runs on this machine, each in a process of its own, one at a time."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from bakeoff.errors import SetupError
from bakeoff.records import Event, Folder, Run, RunResult, write_json

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


def run_local(path: Path, runs: Iterable[Run]) -> Iterator[Event]:
    """Carry out `runs` of the bakeoff in folder `path` and yield their events.

    A process that dies without a word leaves a failed record that says how. Closing the iterator ends everything.
    """
    environment = ALLOCATOR | dict(os.environ)
    server = subprocess.Popen(
        [sys.executable, "-m", "bakeoff.executors.server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        for run in runs:
            print(json.dumps({"folder": str(path.resolve()), "run": run.id}), file=server.stdin, flush=True)
            for line in server.stdout:
                message = json.loads(line)
                if "exit" in message:
                    if Folder(path).run(run.id).result() is None:
                        yield died(path, run, message["exit"])
                    break
                yield Event(run.id, message["kind"], message["values"])
            else:
                raise SetupError(f"the run server stopped with status {server.wait()}. Its last words stand above")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        server.stdin.close()
        server.stdout.close()


def died(path: Path, run: Run, status: int) -> Event:
    """Write and return the failure of a run whose process ended without a record."""
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    hint = ". Out of memory? Try a smaller protocol.batch_size" if status == -signal.SIGKILL else ""
    error = f"its process ended with {name}{hint}"
    write_json(Folder(path).run(run.id).result_file, asdict(RunResult(run, "failed", error=error)))
    return Event(run.id, "failed", {"error": error})
