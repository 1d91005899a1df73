"""A stand-in for Slurm's commands, for PATH: a job is a process that runs its script; states are files of a folder.

`python slurm_commands.py COMMAND [OPTION...]`; the folder is $SLURM_STAND_IN.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")


def start(folder: Path, key: str) -> None:
    """Start a job's process, in a session of its own as under Slurm."""
    number, index = key.split("_")
    restarts = int((folder / f"{key}.starts").read_text()) if (folder / f"{key}.starts").exists() else 0
    (folder / f"{key}.starts").write_text(str(restarts + 1))
    job = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index, "SLURM_CPUS_ON_NODE": "1"}
    words = ["bash", str(folder / f"{number}.script")]
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(
        words, env={**os.environ, **job}, start_new_session=True, stdin=nowhere, stdout=nowhere, stderr=nowhere
    )
    (folder / f"{key}.pid").write_text(str(process.pid))


def lives(process: int) -> bool:
    """Return whether a process runs; one that has ended may wait for somebody to notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def end(folder: Path, key: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to a job's process; after SIGKILL wait for its end."""
    process = int((folder / f"{key}.pid").read_text())
    if lives(process):
        os.kill(process, number)
    while number == signal.SIGKILL and lives(process):
        time.sleep(0.01)


def state(folder: Path, key: str) -> str:
    """Return a job's state."""
    if (folder / f"{key}.cancelled").exists():
        return "CANCELLED"
    if (folder / f"{key}.queued").exists():
        return "PENDING"
    return "RUNNING" if lives(int((folder / f"{key}.pid").read_text())) else "FAILED"


def main(command: str, words: list[str]) -> None:
    """Do what a command of Slurm does."""
    folder = Path(os.environ["SLURM_STAND_IN"])
    options = dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))
    keys = [word for word in words if not word.startswith("--")]
    if command == "sinfo":
        print("main*|up|(null)")
    elif command == "srun":
        (folder / "step.pid").write_text(str(os.getpid()))
        os.environ["SLURM_LAUNCH_NODE_IPADDR"] = "127.0.0.1"
        os.execvp(words[words.index("--") + 1], words[words.index("--") + 1 :])
    elif command == "squeue":
        for file in sorted(folder.glob("*_*.pid")):
            if (folder / f"{file.stem.split('_')[0]}.name").read_text() == options["name"]:
                print(f"{file.stem}|{state(folder, file.stem)}|None")
    elif command == "scontrol":  # requeue KEY
        (folder / f"{keys[-1]}.queued").touch()
        end(folder, keys[-1])
        start(folder, keys[-1])
        (folder / f"{keys[-1]}.queued").unlink()
    elif command == "scancel":
        for key in keys:
            if "signal" in options:
                end(folder, key, signal.Signals[f"SIG{options['signal']}"])
            else:
                end(folder, key)
                (folder / f"{key}.cancelled").touch()
    elif "test-only" not in options:
        number = len([*folder.glob("*.script")]) + 1
        (folder / f"{number}.script").write_text(sys.stdin.read())
        (folder / f"{number}.name").write_text(options["job-name"])
        for index in range(int(options["array"].split("-")[1]) + 1):
            start(folder, f"{number}_{index}")
        print(number)


def install(folder: Path) -> None:
    """Write the commands into a folder that is put on PATH."""
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
