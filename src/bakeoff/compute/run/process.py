"""The run server: imports the heavy libraries before it is asked for a run, and gives every run a process of its own.

`python -P -m bakeoff.compute.run.process [--once] DEVICE [PLACE...]` reads {"folder", "run"} lines from standard input.
It searches the PLACEs for modules, too (for a user's metric), after all other places. Where torch finds no accelerator
it forks a process for each line, which shares the libraries' memory, and says {"exit": status} when that has ended.
Elsewhere, or with --once, it says {"once": true}, carries out the one run itself, and ends: after an accelerator was
touched, which bitsandbytes does when it is imported, no forked process can use it.

The process of a run says {"started": pid} and its events, as JSON lines on standard output. A server that can carry out
no run says {"refused": reason}. It is a program of its own and does not use `multiprocessing`, whose children import
the user's main script again and use pickles.
"""

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

import peft
import torch
import transformers

from bakeoff.child_process import also_search, end_with_parent, limit
from bakeoff.compute.model.device import choose, initialized, visible
from bakeoff.compute.run.worker import execute
from bakeoff.compute.training.checkpoint import Stopped
from bakeoff.config.planned import planned_config
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.store.events import Event
from bakeoff.store.files import opened
from bakeoff.store.run_folder import Folder

PRELOADED = (peft, torch, transformers)
STOPPED = 128 + signal.SIGTERM  # exit status of a run that was asked to stop and has saved


def forks(device: str) -> bool:
    """Return whether runs on this device are forked: on the processor, where torch finds no accelerator.

    Where it finds one, optimizers ask it for its stream at every step, whatever they train on.
    """
    return choose(device).type == "cpu" and not visible()


def serve(requests: TextIO, events: TextIO) -> None:
    """Fork a process for each request, one after the other, until the requests end.

    Raises SetupError where an accelerator was touched: a forked process could not use it.
    """
    for line in requests:
        if initialized():
            raise SetupError(
                "machine.device: a library has used the GPU while it was imported, so no run can be started on the "
                "processor. Try: CUDA_VISIBLE_DEVICES= in front of the command, which hides the GPU"
            )
        pid = os.fork()
        if pid == 0:
            end_with_parent()
            os._exit(carry_out(line, events))
        _, status = os.waitpid(pid, 0)
        say(events, exit=os.waitstatus_to_exitcode(status))


def serve_once(requests: TextIO, events: TextIO) -> int:
    """Wait for one request, carry it out in this process, and return its exit status."""
    line = requests.readline()
    if not line:
        return 0
    say(events, once=True)
    return carry_out(line, events)


def say(events: TextIO, **message: Any) -> None:
    """Say something to who asks for runs, on a line of its own: a process that was killed may have left part of one."""
    print(f"\n{json.dumps(message)}", file=events, flush=True)


def carry_out(line: str, events: TextIO) -> int:
    """Carry out a request and return the exit status, whatever happens."""
    try:
        request = json.loads(line)
        return run(Path(request["folder"]), request["run"], events)
    except BaseException:  # before the run's own record begins, or after it: the log says why
        traceback.print_exc()
        sys.stderr.flush()
        return 1


def run(folder: Path, run_id: str, events: TextIO) -> int:
    """Carry out one run with its own log file as standard output and error; return the exit status."""
    stop_requested = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop_requested.set())
    print(json.dumps({"started": os.getpid()}), file=events, flush=True)
    log_file = Folder(folder).run(run_id).log_file
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log = opened(log_file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    limit(planned_config(Folder(folder), Folder(folder).plan()).safety.memory_limit)

    def emit(event: Event) -> None:
        print(json.dumps({"event": event.row()}), file=events, flush=True)

    try:
        result = execute(folder, run_id, emit, stop_requested.is_set)
    except Stopped:
        return STOPPED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0 if result.status == "done" else 1


def main() -> None:
    """Carry out the runs that standard input asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--once", action="store_true")
    parser.add_argument("device")
    parser.add_argument("places", nargs="*")
    asked = parser.parse_args()
    end_with_parent()
    also_search(asked.places)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        if forks(asked.device) and not asked.once:
            serve(sys.stdin, channel)
        else:
            os._exit(serve_once(sys.stdin, channel))  # as a forked process: nothing is taken down in order
    except BakeoffError as error:
        say(channel, refused=str(error))


if __name__ == "__main__":
    main()
