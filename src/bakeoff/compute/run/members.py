"""The processes that share one run: its own, which is rank 0, starts the others, and none outlives another.

`python -P -m bakeoff.compute.run.members` is one of the others. It reads what to do from standard input, does all that
rank 0 does but writing and reporting, and says on standard output why it has failed, if it has.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from torch import distributed

from bakeoff.child_process import also_search, command, end_with_parent, limit, search_path
from bakeoff.compute.model.device import nth, out_of_memory, use
from bakeoff.compute.model.team import Team
from bakeoff.compute.run.handover import Given
from bakeoff.compute.run.reasons import explained
from bakeoff.compute.run.timing import timed_alone
from bakeoff.compute.run.worker import work_on
from bakeoff.config.planned import planned_config
from bakeoff.errors import BakeoffError, MemberError
from bakeoff.interrupts import Stopped
from bakeoff.scoring.baselines import takes_model
from bakeoff.store.events import Emit, Event, Failed
from bakeoff.store.records import Cause, Run, RunResult, Step
from bakeoff.store.run_folder import Folder
from bakeoff.store.scratch import scratch

T = TypeVar("T")
SETTLE_SECONDS = 2.0  # that other processes have to say what they failed by, once one has
GRACE_SECONDS = 10.0  # that rank 0 has to notice by itself that another one has failed
# What a process fails by if another one is gone: of two reasons it is the worse one.
CONSEQUENCE = ("closed by peer", "gloo", "nccl", "xccl", "process group", "store")


@dataclass(frozen=True)
class Request:
    """What one process is to do."""

    folder: str
    run: str
    left: Step
    device: str
    store: str
    rank: int
    size: int
    sharded: bool
    parent: int
    places: list[str]  # where it looks for a user's modules


def in_team(work: Callable[[Given], T], folder: Folder, run: Run, left: Step, emit: Emit, given: Given) -> T:
    """Do the work of a run together with as many processes as `machine.shards` says; return what rank 0 returns.

    Raises what rank 0 raises, or MemberError with the reason of another one. Where rank 0 cannot even notice that
    another process has failed, the record of the run's failure is written and this process ends.
    """
    machine = planned_config(folder, folder.plan()).machine
    if machine.shards == 1 or (run.kind == "baseline" and not takes_model(run.method)):
        return work(given)
    device, size = given.device or machine.device, machine.shards
    use(nth(device, 0))
    with scratch() as place:
        store = str(place / "store")
        members = Members(folder, run, emit)
        try:
            for rank in range(1, size):
                request = Request(
                    str(folder.path.resolve()), run.id, left, device, store, rank, size, machine.shard_weights,
                    os.getpid(), search_path(),
                )  # fmt: skip
                members.start(request)
            return lead(work, members, Team(0, size, machine.shard_weights), store, replace(given, device=device))
        finally:
            members.end()


def lead(work: Callable[[Given], T], members: "Members", team: Team, store: str, given: Given) -> T:
    """Do rank 0's work; raise the reason of another process where that has failed first."""
    try:
        meet(team, store, given.device or "auto")
        result = work(replace(given, team=team, resident=None, handover=None, lender=None))
        team.leave()
        return result
    except Exception as error:
        team.give_up()
        if isinstance(error, BakeoffError) or (isinstance(error, RuntimeError) and out_of_memory(error)):
            raise
        if reason := members.reason():
            raise reason from error
        raise


def meet(team: Team, store: str, device: str) -> None:
    """Meet the other processes, on one machine; each has the device of its number."""
    own = nth(device, team.rank)
    use(own)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    team.join(distributed.FileStore(store, team.size), own)


class Members:
    """The other processes of a run, and a thread for each that waits until it ends."""

    def __init__(self, folder: Folder, run: Run, emit: Emit):
        self.folder, self.run, self.emit = folder, run, emit
        self.processes: list[subprocess.Popen[str]] = []
        self.failures: list[MemberError] = []
        self.failed, self.over = threading.Event(), threading.Event()

    def start(self, request: Request) -> None:
        """Start a process; what libraries print there is in the run's log."""
        words = command("compute.run.members")
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # its thread says how it has ended
            process.stdin.write(json.dumps(asdict(request)))
            process.stdin.close()
        self.processes.append(process)
        threading.Thread(target=self.watch, args=(process, request.rank), daemon=True).start()

    def watch(self, process: "subprocess.Popen[str]", rank: int) -> None:
        """Wait until a process ends; if it has failed, give rank 0 time to notice, then end the run."""
        assert process.stdout is not None
        with process.stdout as told:
            said = told.read()
        status = process.wait()
        if status == 0 or self.over.is_set():
            return
        self.failures.append(failure(rank, said, status))
        self.failed.set()
        if self.over.wait(GRACE_SECONDS):
            return
        reason = self.reason()
        assert reason is not None
        self.folder.run(self.run.id).write_result(RunResult(self.run, "failed", error=str(reason), cause=reason.cause))
        self.emit(Failed(run=self.run.id, error=str(reason)))
        self.end()
        os._exit(1)

    def reason(self) -> MemberError | None:
        """Return why another process has failed, if one has, rather than that it has lost another one."""
        if not self.failed.wait(SETTLE_SECONDS):
            return None
        time.sleep(SETTLE_SECONDS)
        return min(self.failures, key=lambda e: any(word in str(e).lower() for word in CONSEQUENCE))

    def end(self) -> None:
        """End all processes that have not ended; those that have done their work get a moment for it."""
        self.over.set()
        until = time.monotonic() + SETTLE_SECONDS
        for process in self.processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def failure(rank: int, said: str, status: int) -> MemberError:
    """Return the error for a process that has ended: what it said, or how it was ended."""
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
    run, team = folder.run(request.run).run(), Team(request.rank, request.size, request.sharded)
    meet(team, request.store, request.device)
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
    end_with_parent(request.parent)
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
