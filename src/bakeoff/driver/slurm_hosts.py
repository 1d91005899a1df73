"""The other nodes of a job of Slurm whose runs are over several nodes.

The job's first node is the job itself (`slurm_node`). A step of the job starts this module on each of the others, as
`python -P -m bakeoff.driver.slurm_hosts DEVICE RANKS [PLACE...]`. It is asked once, by a line of its standard input;
then it hosts processes of runs (see `rank_host`) until its input ends, which it does with the job.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from bakeoff.child_process import also_search, command, search_path
from bakeoff.config.sections import Pin
from bakeoff.driver.node import Node
from bakeoff.errors import SetupError

ANSWER_SECONDS = 300.0  # in which all nodes have to answer; the base may be read from a network disk
MOST_LETTERS = 300  # of why a node has no base: srun cuts lines at 1,024 bytes, and mixes the parts of several hosts
END_SECONDS = 5.0  # that a step has to end by itself


class OtherNodes:
    """The other nodes of this job: so many, each with `ranks` processes of each run."""

    def __init__(self, count: int, device: str, ranks: int):
        self.count, self.ranks = count, ranks
        self.words = [*step(count), *command("driver.slurm_hosts", device, str(ranks), *search_path())]
        self.process: subprocess.Popen[str] | None = None

    def start(self, asked: Sequence[Any]) -> str:
        """Start a host on each; return the word that they ask for. `asked` is what `Node.facts` takes."""
        self.end()
        word = secrets.token_hex()
        self.process = subprocess.Popen(
            self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
        )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # then no answer comes
            print(json.dumps({"word": word, "asked": asked}), file=self.process.stdin, flush=True)
        return word

    def answers(self) -> tuple[list[dict[str, Any]], list[tuple[str, int]]]:
        """Return the facts and the place of each host; raise SetupError if one of them does not answer."""
        assert self.process is not None
        assert self.process.stdout is not None
        late = threading.Timer(ANSWER_SECONDS, self.process.kill)
        late.start()
        try:
            answers = [*islice(filter(None, map(answer_in, self.process.stdout)), self.count)]
        finally:
            late.cancel()
        if len(answers) < self.count:
            self.end()
            raise SetupError("srun has not started bakeoff on all nodes of the job")
        return [one["facts"] for one in answers], [tuple(one["place"]) for one in answers]

    def end(self) -> None:
        """End the hosts, and all processes that they have started."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        with self.process:
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process = None


def answer_in(line: str) -> dict[str, Any] | None:
    """Return what a host says in a line; None if it is not a host's, as of a site's TaskProlog; srun may label it."""
    said: Any = None
    with suppress(ValueError, RecursionError):
        said = json.loads(line[line.find("{") :])
    return said if isinstance(said, dict) and "place" in said else None


def step(count: int) -> list[str]:
    """Return the command that runs another one on each node of this job but the first; what it says comes in lines."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")  # srun does not take it from the job
    mine = [f"--cpus-per-task={cores}"] if cores else []
    # SBATCH_EXPORT=NONE would also count for steps. A host that cannot begin ends the others: nobody waits for it.
    every = ["--export=ALL", "--kill-on-bad-exit=1"]
    return ["srun", f"--nodes={count}", f"--ntasks={count}", "--relative=1", *every, *mine, "--"]


def node_for(device: str, ranks: int) -> Node:
    """Return this node's slot, each of whose `ranks` processes has its share of the cores that Slurm has given the job.

    OMP_NUM_THREADS, where a user has set it, counts more.
    """
    cores = int(os.environ.get("SLURM_CPUS_ON_NODE", "1"))
    return Node(device, None if "OMP_NUM_THREADS" in os.environ else max(1, cores // ranks))


def main() -> None:
    """Host processes of runs on one node."""
    device, ranks, *places = sys.argv[1:]
    also_search(places)
    said = json.loads(sys.stdin.readline())
    folder, mark, model, *pin = said["asked"]
    node = node_for(device, int(ranks))
    facts = node.facts(folder, mark, model, Pin(*pin))
    facts["error"] = facts["error"] and facts["error"][:MOST_LETTERS]
    place = node.host_ranks((os.environ["SLURM_LAUNCH_NODE_IPADDR"], 1), said["word"])
    print(json.dumps({"facts": facts, "place": place}), flush=True)
    sys.stdin.read()
    node.leave()


if __name__ == "__main__":
    main()
