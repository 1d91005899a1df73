"""Processes that share one run, for tests: forked from this one, so that they have its libraries at once."""

import os
import pickle
import signal
import time
import traceback
import warnings
from pathlib import Path

import torch
from torch import distributed

from bakeoff.compute.model.device import CPU
from bakeoff.compute.model.team import Team


def together(folder: Path, size: int, sharded: bool, work):
    """Return what `work(team)` returns in each of `size` processes; raise what it raises in any."""
    children = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            os._exit(one(folder, Team(rank, size, sharded), work))
        children.append(pid)
    statuses, left = [0] * size, set(children)
    while left:
        time.sleep(0.01)
        for pid in [*left]:  # not any child: other tests have some, too
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            statuses[children.index(pid)] = status
            left.discard(pid)
            if status:  # the others wait for it
                for other in left:
                    os.kill(other, signal.SIGKILL)
    found = [(folder / f"rank-{rank}") for rank in range(size)]
    errors = [file.read_text() for file, status in zip(found, statuses, strict=True) if status and file.exists()]
    assert not any(statuses), "\n".join(errors) or statuses
    return [pickle.loads(file.read_bytes()) for file in found]


def one(folder: Path, team: Team, work) -> int:
    """Do the work of one process."""
    out = folder / f"rank-{team.rank}"
    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.set_num_threads(1)
        warnings.simplefilter("error")
        team.join(distributed.FileStore(str(folder / "store"), team.size), CPU)
        out.write_bytes(pickle.dumps(work(team)))
        team.leave()
    except BaseException:
        out.write_text(f"rank {team.rank}: {traceback.format_exc()}")
        return 1
    return 0
