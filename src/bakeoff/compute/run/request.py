"""A request for one run, carried out in a process of its own; the two servers of runs share this. It loads no torch.

A server reads lines of {"folder", "run", "left", "device", "beside", "elsewhere"} from standard input. The process of a
run says {"started": pid} and its events, as JSON lines on standard output; a server that has forked it says
{"exit": status} when it has ended.
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from bakeoff.child_process import also_search, end_with_parent, limit
from bakeoff.compute.run.execution import execute
from bakeoff.compute.run.handover import NOTHING, Given
from bakeoff.compute.run.rank_host import LOST, Elsewhere
from bakeoff.config.planned import planned_config
from bakeoff.interrupts import MachineLost, Stopped
from bakeoff.store.events import Event
from bakeoff.store.files import opened
from bakeoff.store.records import Step
from bakeoff.store.run_folder import Folder

STOPPED = 128 + signal.SIGTERM  # exit status of a run that was asked to stop and has saved


def open_channel(places: list[str]) -> TextIO:
    """Make this process a server, and return where it answers: its standard output, which others then cannot reach.

    It looks for modules (a user's metric) in `places` too, after all others.
    """
    also_search(places)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


def serve(requests: TextIO, events: TextIO, prepare: Callable[[Folder], object]) -> None:
    """Fork a process for each request, one after the other, until the requests end; call `prepare` before each."""
    for line in requests:
        prepare(Folder(json.loads(line)["folder"]))
        say(events, exit=forked(partial(carry_out, line, events)))


def forked(carry: Callable[[], int]) -> int:
    """Do something in a forked process, which ends with this one; return its exit status, -N if signal N ended it."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        end_with_parent(parent)
        os._exit(carry())
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def say(events: TextIO, **message: Any) -> None:
    """Say something to who asks for runs, on a line of its own: a process that was killed may have left part of one."""
    print(f"\n{json.dumps(message)}", file=events, flush=True)


def carry_out(line: str, events: TextIO, given: Given = NOTHING) -> int:
    """Carry out a request and return the exit status, whatever happens."""
    try:
        request = json.loads(line)
        elsewhere = Elsewhere(**request["elsewhere"]) if request.get("elsewhere") else None
        given = replace(given, device=request.get("device"), beside=request.get("beside", 0), elsewhere=elsewhere)
        return run(Path(request["folder"]), request["run"], request["left"], events, given)
    except BaseException:  # before the run's own record begins, or after it: the log says why
        traceback.print_exc()
        sys.stderr.flush()
        return 1


def log_to(folder: Folder, run_id: str) -> None:
    """Make a run's log file this process's standard output and error."""
    log_file = folder.run(run_id).log_file
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log = opened(log_file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def run(folder: Path, run_id: str, left: Step, events: TextIO, given: Given = NOTHING) -> int:
    """Carry out one run with its own log file as standard output and error; return the exit status."""
    stop_requested = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop_requested.set())
    print(json.dumps({"started": os.getpid()}), file=events, flush=True)
    log_to(Folder(folder), run_id)
    limit(planned_config(Folder(folder), Folder(folder).plan()).safety.memory_limit)

    def emit(event: Event) -> None:
        print(json.dumps({"event": event.row()}), file=events, flush=True)

    try:
        result = execute(folder, run_id, left, emit, stop_requested.is_set, given)
    except Stopped:
        return STOPPED
    except MachineLost:
        return LOST
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0 if result is None or result.status == "done" else 1
