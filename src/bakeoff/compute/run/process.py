"""The fork server: imports the heavy libraries once, then forks a new process for every run.

`python -P -m bakeoff.compute.run.process [PLACE...]` reads {"folder", "run"} lines from standard input. It searches the
PLACEs for modules, too (for a user's metric), after all other places. It answers with {"started": pid}. The process of
the run writes its events as JSON lines to standard output; when it has ended, the server adds {"exit": status}. It is a
program of its own and does not use `multiprocessing`, whose children import the user's main script again and use
pickles.
"""

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TextIO

import peft
import torch
import transformers

from bakeoff.child_process import also_search, end_with_parent, limit
from bakeoff.compute.run.worker import execute
from bakeoff.compute.training.checkpoint import Stopped
from bakeoff.config.config import load_config
from bakeoff.store.events import Event
from bakeoff.store.files import opened
from bakeoff.store.run_folder import Folder

PRELOADED = (peft, torch, transformers)
STOPPED = 128 + signal.SIGTERM  # exit status of a run that was asked to stop and has saved


def serve(requests: TextIO, events: TextIO) -> None:
    """Fork a process for each request, one after the other, until the requests end."""
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            end_with_parent()
            try:
                status = run(Path(request["folder"]), request["run"], events)
            except BaseException:  # before the run's own record begins, or after it: the log says why
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        end = json.dumps({"exit": os.waitstatus_to_exitcode(status)})
        print(f"\n{end}", file=events, flush=True)  # a process that was killed may have left part of a line


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
    limit(load_config(Folder(folder).config_file).safety.memory_limit)

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


if __name__ == "__main__":
    end_with_parent()
    also_search(sys.argv[1:])
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, channel)
