"""The processes that share one run: its own, which is rank 0, starts the others, and none outlives another.

`python -P -m bakeoff.compute.run.members` is one of the others. It reads what to do from standard input, does all that
rank 0 does but writing and reporting, and says on standard output why it has failed, if it has. On another machine a
host starts it (see `rank_host`).
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, get_args

from bakeoff.child_process import also_search, child, limit, search_path
from bakeoff.compute.model.device import nth, out_of_memory, use
from bakeoff.compute.model.team import Team
from bakeoff.compute.run.handover import Given
from bakeoff.compute.run.rank_host import LOST, SILENT_SECONDS, RemoteProcess
from bakeoff.compute.run.reasons import explained
from bakeoff.compute.run.rendezvous import found, meet, opened
from bakeoff.compute.run.timing import timed_alone
from bakeoff.compute.run.worker import work_on
from bakeoff.config.planned import planned_config
from bakeoff.errors import BakeoffError, MemberError
from bakeoff.interrupts import MachineLost, Stopped
from bakeoff.scoring.baselines import takes_model
from bakeoff.store.events import Emit, Event, Failed
from bakeoff.store.records import Cause, Run, RunResult, Step
from bakeoff.store.run_folder import Folder
from bakeoff.store.scratch import scratch

T = TypeVar("T")
SETTLE_SECONDS = 2.0  # that other processes have to say what they failed by, once one has
GRACE_SECONDS = 10.0  # that rank 0 has to notice by itself that another one has failed
GONE = "gone"  # the cause, in no record, of a process whose machine is gone
# What a process fails by if another one is gone: of two reasons it is the worse one.
CONSEQUENCE = ("closed by peer", "gloo", "nccl", "xccl", "process group", "store")


@dataclass(frozen=True)
class Request:
    """What one process is to do."""

    folder: str
    run: str
    left: Step
    device: str
    store: str  # where all meet
    size: int
    sharded: bool
    rank: int = 0
    number: int = 0  # of its device on its machine
    address: str = ""  # of its machine; empty if all are on one
    places: list[str] = field(default_factory=list)  # where it looks for a user's modules


def in_team(work: Callable[[Given], T], folder: Folder, run: Run, left: Step, emit: Emit, given: Given) -> T:
    """Do the work of a run together with as many processes as `machine.shards` says; return what rank 0 returns.

    Raises what rank 0 raises, or MemberError with the reason of another one. Where rank 0 cannot even notice that
    another process has failed, the record of the run's failure is written and this process ends.
    """
    machine = planned_config(folder, folder.plan()).machine
    if machine.shards == 1 or (run.kind == "baseline" and not takes_model(run.method)):
        return work(given)
    device, size, elsewhere = given.device or machine.device, machine.shards, given.elsewhere
    address = elsewhere.address if elsewhere else ""
    use(nth(device, 0))
    with scratch() as place:
        store, name = opened(address, size, place)
        members = Members(folder, run, emit)
        asked = Request(str(folder.place.resolve()), run.id, left, device, name, size, machine.shard_weights)
        try:
            for rank in range(1, size):
                turn, number = divmod(rank, elsewhere.ranks if elsewhere else size)
                request = replace(asked, rank=rank, number=number)
                if elsewhere and turn:
                    host = elsewhere.hosts[turn - 1]
                    there = replace(request, address=host[0])
                    members.add(RemoteProcess(host, elsewhere.word, asdict(there)), rank)
                else:
                    members.add(LocalProcess(replace(request, address=address)), rank)
            team, given = Team(0, size, machine.shard_weights), replace(given, device=device)
            return lead(work, members, team, partial(meet, team, store, device, address), given)
        finally:
            members.end()


def lead(work: Callable[[Given], T], members: "Members", team: Team, meet: Callable[[], None], given: Given) -> T:
    """Do rank 0's work; raise the reason of another process where that has failed first."""
    try:
        meet()
        result = work(replace(given, team=team, resident=None, handover=None, lender=None))
        team.leave()
        return result
    except Exception as error:
        team.give_up()
        # A check of a base turns all that is raised in it into a BakeoffError, also that another process is gone.
        own = isinstance(error, BakeoffError) and not is_consequence(error)
        if own or (isinstance(error, RuntimeError) and out_of_memory(error)):
            raise
        reason = members.reason()
        if reason is None or (is_consequence(reason) and not is_consequence(error)):
            raise
        if reason.cause == GONE:
            raise MachineLost from error
        raise reason from error


class Process(Protocol):
    """Another process of a run."""

    def outcome(self) -> tuple[str, int | None, str]:
        """Wait until it ends; return what it has said, its status, and what it has printed to no log of the run.

        The status is None if its machine is gone.
        """

    def end(self, until: float) -> None:
        """Wait for its end until a time of the clock that counts evenly, then kill it."""


class LocalProcess:
    """Another process of a run on this machine; what libraries print there is in the run's log."""

    def __init__(self, request: Request):
        words = child("compute.run.members")
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # its status says how it has ended
            self.process.stdin.write(json.dumps(asdict(replace(request, places=search_path()))))
            self.process.stdin.close()

    def outcome(self) -> tuple[str, int | None, str]:
        """Wait until it ends; return what it has said, and its status."""
        assert self.process.stdout is not None
        with self.process.stdout as told:
            said = told.read()
        return said, self.process.wait(), ""

    def end(self, until: float) -> None:
        """Wait for its end until a time of the clock that counts evenly, then kill it."""
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Members:
    """The other processes of a run, and a thread for each that waits until it ends."""

    def __init__(self, folder: Folder, run: Run, emit: Emit):
        self.folder, self.run, self.emit = folder, run, emit
        self.processes: list[Process] = []
        self.failures: list[MemberError] = []
        self.failed, self.over = threading.Event(), threading.Event()

    def add(self, process: Process, rank: int) -> None:
        """Take in a process that was started."""
        self.processes.append(process)
        threading.Thread(target=self.watch, args=(process, rank), daemon=True).start()

    def watch(self, process: Process, rank: int) -> None:
        """Wait until a process ends; if it has failed, give rank 0 time to notice, then end the run."""
        said, status, printed = process.outcome()
        if status == 0 or self.over.is_set():
            return
        print(printed, file=sys.stderr, end="")
        self.failures.append(failure(rank, said, status))
        self.failed.set()
        if self.over.wait(GRACE_SECONDS):
            return
        reason = self.reason()
        assert reason is not None
        if reason.cause == GONE:
            self.end()
            os._exit(LOST)
        self.folder.run(self.run.id).write_result(RunResult(self.run, "failed", error=str(reason), cause=reason.cause))
        self.emit(Failed(run=self.run.id, error=str(reason)))
        self.end()
        os._exit(1)

    def reason(self) -> MemberError | None:
        """Return why another process has failed, if one has, rather than that it has lost another one."""
        far = any(isinstance(process, RemoteProcess) for process in self.processes)
        if not self.failed.wait(SILENT_SECONDS if far else SETTLE_SECONDS):
            return None
        time.sleep(SETTLE_SECONDS)
        return min(self.failures, key=is_consequence)

    def end(self) -> None:
        """End all processes that have not ended; those that have done their work get a moment for it."""
        self.over.set()
        until = time.monotonic() + SETTLE_SECONDS
        for process in self.processes:
            process.end(until)


def is_consequence(error: Exception) -> bool:
    """Return whether a process seems to have failed because another one is gone."""
    return any(word in str(error).lower() for word in CONSEQUENCE)


def failure(rank: int, said: str, status: int | None) -> MemberError:
    """Return the error for a process that has ended: what it said, how it was ended, or that its machine is gone."""
    if status is None:
        return MemberError(f"the machine of rank {rank} does not answer", GONE)
    with suppress(ValueError, KeyError, IndexError):
        row = json.loads(said.splitlines()[-1])
        cause = row["cause"] if row["cause"] in get_args(Cause) else "error"
        return MemberError(f"{row['error']} (in the process of rank {rank})", cause)
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    hint = ". Out of memory? Try more machine.shards, or a smaller protocol.batch_size" if status == -9 else ""
    return MemberError(f"the process of rank {rank} ended with {name}{hint}", "ended")


def silent(event: Event) -> None:
    """Report nothing: rank 0 does."""


def carry_out(request: Request) -> None:
    """Do the part of one process."""
    folder = Folder(Path(request.folder))
    limit(planned_config(folder, folder.plan()).safety.memory_limit)
    run, team = folder.run(request.run).run(), Team(request.rank, request.size, request.sharded, request.number)
    meet(team, found(request.store, request.size), request.device, request.address)
    given = Given(device=request.device, team=team)
    if request.left == "time":
        timed_alone(folder, run, silent, bool, given)
    else:
        work_on(folder, run, request.left, silent, bool, given)
    team.leave()


def main() -> int:
    """Do what standard input asks for, and return the exit status."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for number in (signal.SIGTERM, signal.SIGINT):  # rank 0 is asked to stop, and all stop at the same step
        signal.signal(number, signal.SIG_IGN)
    asked: dict[str, Any] = json.loads(sys.stdin.read())
    request = Request(**asked)
    also_search(request.places)
    try:
        carry_out(request)
    except Stopped:
        return 0
    except BaseException as error:
        traceback.print_exc()
        reason, cause = explained(cast("Exception", error))
        print(json.dumps({"error": reason, "cause": cause}), file=channel, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # nothing is taken down in order
