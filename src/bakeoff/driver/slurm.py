"""Slurm's own commands (sbatch, squeue, scancel, sinfo), which must be on PATH, with one-line errors."""

import getpass
import math
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bakeoff.child_process import command
from bakeoff.config.machine import MachineConfig, SlurmConfig
from bakeoff.errors import SetupError
from bakeoff.store.content_hash import hash_of
from bakeoff.store.run_folder import Folder

ANSWER_SECONDS = 60.0  # that Slurm may take to answer a command
# States in which a job has no process any more, and gets none; GONE is ours, for one that Slurm has forgotten.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "GONE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip
SETTINGS = {  # of which setting a refusal is, by a word in it; the first that fits
    "account": "machine.slurm.account", "partition": "machine.slurm.partition", "time": "machine.slurm.hours",
    "gres": "machine.resources", "generic resource": "machine.resources", "configuration": "machine.resources",
    "memory": "machine.resources", "cpu": "machine.resources", "option": "machine.slurm.options",
}  # fmt: skip


class JobState(NamedTuple):
    """What Slurm says of a job: its state, and why it waits."""

    state: str
    reason: str


GONE = JobState("GONE", "")


def asked(*words: str, stdin: str | None = None) -> str:
    """Return what a command of Slurm answers; raise SetupError with its own words if it fails."""
    try:
        done = subprocess.run(
            words, input=stdin or "", capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except FileNotFoundError:
        raise SetupError(
            f"machine.executor: {words[0]} is not on this machine. Try: a login node of a Slurm cluster, or --executor "
            "local"
        ) from None
    except subprocess.TimeoutExpired:
        raise SetupError(f"{words[0]} has not answered for {ANSWER_SECONDS:g} seconds. Try: sinfo") from None
    if done.returncode:
        said = (line.removeprefix(f"{words[0]}: ") for line in done.stderr.splitlines() if line)
        lines = [line.removeprefix("error: ") for line in said]
        raise SetupError("; ".join(lines)[:300] or f"{words[0]} ended with status {done.returncode}")
    return done.stdout


def job_name(folder: Folder) -> str:
    """Return the name of all jobs of a run folder, and of no others: neither a forged file nor a copy ends theirs."""
    return f"bakeoff-{hash_of(str(folder.path.resolve()))}"


def states(folder: Folder) -> dict[str, JobState]:
    """Return the state of each of a run folder's jobs that Slurm knows, by ARRAY_INDEX; jobs long ended are missing."""
    mine = (f"--user={getpass.getuser()}", f"--name={job_name(folder)}")
    rows = asked("squeue", "--noheader", "--array", "--states=all", *mine, "--format=%F_%K|%T|%r").splitlines()
    parts = (row.strip().split("|", 2) for row in rows)
    return {found[0]: JobState(found[1], found[2]) for found in parts if len(found) == 3}


def cancel(keys: Sequence[str]) -> None:
    """End jobs, and take those that wait from the queue; those that have ended already are no error."""
    if keys:
        asked("scancel", "--quiet", *keys)


def has_gpus(partition: str | None) -> bool:
    """Return whether there are GPUs in a partition, or in Slurm's default one.

    Raises SetupError if it is not up, or Slurm does not answer at all.
    """
    try:
        answer = asked("sinfo", "--noheader", "--format=%P|%a|%G")
    except SetupError as error:
        if "Try: " in str(error):
            raise
        raise SetupError(
            f"machine.executor: Slurm does not answer ({error}). Try: sinfo, on a login node of its cluster, or "
            "--executor local"
        ) from None
    rows = [row.split("|") for row in answer.splitlines()]
    mine = [row for row in rows if (row[0].rstrip("*") == partition if partition else row[0].endswith("*"))]
    if mine and all(row[1] != "up" for row in mine):
        up = ", ".join(sorted({row[0].rstrip("*") for row in rows if row[1] == "up"})) or "none"
        name = mine[0][0].rstrip("*")
        raise SetupError(f"machine.slurm.partition: {name} is {mine[0][1]}, so no job would start. Try: {up}")
    return any("gpu" in row[2] for row in mine)


def options_of(folder: Folder, machine: MachineConfig, resources: Mapping[str, float]) -> list[str]:
    """Return sbatch's options of one job of a run folder; raise SetupError if Slurm has no such resources.

    Slurm is told what a job takes of each of its nodes.
    """
    settings = machine.slurm or SlurmConfig()
    nodes = settings.nodes
    given = [f"--job-name={job_name(folder)}", "--requeue", f"--signal=B:USR1@{settings.save_seconds}"]
    given += [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    given += [f"--{name}={value}" for name in ("partition", "account") if (value := getattr(settings, name))]
    if settings.hours:
        given.append(f"--time={math.ceil(settings.hours * 60)}")
    gres = []
    for name, amount in resources.items():
        if name == "memory":
            given.append(f"--mem={math.ceil(amount / nodes / 2**20)}M")
            continue
        if amount % nodes:
            on = f" on each of {nodes} nodes" if nodes > 1 else ""
            raise SetupError(
                f"machine.resources: Slurm gives whole numbers of {name}{on}, got {amount:g}. Try: {name}: {nodes}"
            )
        if name == "CPU":
            given.append(f"--cpus-per-task={int(amount / nodes)}")
        else:
            gres.append(f"{'gpu' if name == 'GPU' else name}:{int(amount / nodes)}")
    return [*given, *([f"--gres={','.join(gres)}"] if gres else []), *settings.options]


def script(folder: Folder, words: Sequence[str]) -> str:
    """Return the script of a job, which becomes a node of a bakeoff; what it says in the shell goes into its log."""
    node = shlex.join(command("driver.slurm_node", str(folder.path.resolve()), *words))
    log = f"{shlex.quote(str(folder.jobs.resolve()))}/${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}.log"
    return f"#!/bin/bash\nexec {node} >>{log} 2>&1\n"


def submit(options: Sequence[str], text: str, count: int, test: bool = False) -> list[str]:
    """Submit an array of `count` jobs and return their keys, ARRAY_INDEX; with `test`, only ask whether Slurm takes it.

    Raises SetupError, which names the setting at fault, if Slurm refuses it.
    """
    kind = ["--test-only"] if test else ["--parsable"]
    try:
        answer = asked("sbatch", *kind, *options, f"--array=0-{count - 1}", "--output=/dev/null", stdin=text)
    except SetupError as error:
        said = str(error)
        if "machine." in said or "has not answered" in said:
            raise
        key = next((key for word, key in SETTINGS.items() if re.search(rf"\b{word}\b", said.lower())), "machine.slurm")
        raise SetupError(f"{key}: Slurm refuses the jobs ({said}). Try: sinfo, which lists what there is") from None
    number = answer.strip().partition(";")[0]
    return [f"{number}_{index}" for index in range(count)]
