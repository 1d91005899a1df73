"""The processes of runs that share a base: one process loads and tries it, holds it, and forks those of the runs.

They share its memory until they write, and none of them changes what the next one sees. One base is held at a time. For
another one, the process that holds it ends, and a new one is forked from the server, which has no base in its memory.
So a run's memory is that of its libraries, its base and its own work, whatever ran before it.
"""

import json
import os
import traceback
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TextIO

import torch

from bakeoff.child_process import end_with_parent
from bakeoff.compute.run.handover import Given, Handover
from bakeoff.compute.run.request import carry_out, forked, log_to, say
from bakeoff.compute.run.resident import Wanted, load, wanted_by
from bakeoff.config.planned import planned_config
from bakeoff.store.events import State
from bakeoff.store.run_folder import Folder


def asked_for(line: str) -> Wanted | None:
    """Return the base that a request's run wants; None also if it cannot be read, which the run then reports."""
    with suppress(Exception):
        request = json.loads(line)
        folder = Folder(Path(request["folder"]))
        plan = folder.plan()
        return wanted_by(planned_config(folder, plan), plan, folder.run(request["run"]).run())
    return None


def serve_from_base(requests: Iterable[str], events: TextIO) -> None:
    """Carry out requests one after the other, each in processes forked from one that holds the base it wants."""
    holder, unheld = None, set[Wanted | None]()
    for line in requests:
        wanted = asked_for(line)
        if holder is None or not holder.serves(wanted):
            if holder:
                holder.end()
            holder = Holder(None if wanted in unheld else wanted, line, events)
            if holder.status is not None:  # the run then loads the base itself, and reports what is wrong with it
                unheld.add(wanted)
                holder.end()
                holder = Holder(None, line, events)
        say(events, exit=holder.carry_out(line))
    if holder:
        holder.end()


class Holder:
    """A process that holds a base, or none, and forks those of runs."""

    def __init__(self, wanted: Wanted | None, line: str, events: TextIO):
        """Fork it, and wait until it holds the base, or has ended. `line` is the first request."""
        self.wanted = wanted
        self.status: int | None = None
        if wanted:
            say(events, event=State(run=json.loads(line)["run"], state="loading").row())
        asked, asking = os.pipe()
        told, telling = os.pipe()
        server = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            end_with_parent(server)
            os.close(asking)
            os.close(told)
            os._exit(hold(wanted, line, asked, telling, events))
        os.close(asked)
        os.close(telling)
        self.requests, self.statuses = os.fdopen(asking, "w"), os.fdopen(told)
        self.hear()

    def serves(self, wanted: Wanted | None) -> bool:
        """Return whether a run that wants this base can be forked from it; None: a run that wants no base."""
        return self.status is None and wanted in (None, self.wanted)

    def carry_out(self, line: str) -> int:
        """Carry out a request, and return the exit status: of the run, or of the process that holds the base."""
        with suppress(BrokenPipeError):  # it has ended, as its status says
            print(line.rstrip("\n"), file=self.requests, flush=True)
        said = self.hear()
        return self.status or 0 if said is None else said

    def hear(self) -> int | None:
        """Return the next number that it sends; None if it has ended."""
        line = self.statuses.readline()
        if line:
            return int(line)
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return None

    def end(self) -> None:
        """End it if it has not ended, and wait for that."""
        with suppress(BrokenPipeError):
            self.requests.close()
        if self.status is None:
            self.hear()
        self.statuses.close()


def hold(wanted: Wanted | None, first: str, asked: int, telling: int, events: TextIO) -> int:
    """Load a base, send 0 when that is done, then carry out requests and send their exit statuses; return its own.

    `asked` and `telling` are the pipes' descriptors. What libraries print while they load is in the log of the `first`
    run. If the base cannot be loaded, that run tries it again, so that its own record and log have the reason.
    """
    threads = torch.get_num_threads()
    try:
        if wanted:
            request = json.loads(first)
            log_to(Folder(request["folder"]), request["run"])
        resident = load(wanted) if wanted else None
    except Exception:
        return 1
    os.write(telling, b"0\n")
    try:
        for line in os.fdopen(asked):
            handover = Handover()
            carry = partial(carried_out, line, events, Given(resident, handover), threads, telling)
            status = forked(carry)
            if status == 0 and handover.left():
                status = forked(carry)
            if resident and (loss := handover.told()) is not None:
                resident.base_losses[json.loads(line)["folder"]] = loss
            os.write(telling, f"{status}\n".encode())
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def carried_out(line: str, events: TextIO, given: Given, threads: int, telling: int) -> int:
    """Carry out a request in this process, with as many threads as torch had at first; return the exit status."""
    os.close(telling)  # what a run leaves behind must not keep it open
    torch.set_num_threads(threads)
    return carry_out(line, events, given)
