"""Faults other than a kill at a random moment, each tried once on real processes: see `survive.py`."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import LONGEST_WAIT, Outcome, end_of, start, victims

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "with a bit flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
}


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Return what `found` returns as soon as that is something; end the process and raise where it never is."""
    until = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < until and process.poll() is None:
        try:
            if value := found():
                return value
        except OSError:  # a file that has just gone
            continue
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"what was waited for never came: {process.communicate()[0]}")


def checkpoints(output: Path, entry: str = "last_layers") -> list[Path]:
    """Return the checkpoints of an entry's runs, newest first."""
    return sorted(output.glob(f"runs/{entry}-*/checkpoints/*.safetensors"), key=lambda f: -f.stat().st_mtime)


def training(config: Path, output: Path, *settings: str) -> subprocess.Popen[str]:
    """Start a bakeoff and return it when a run of last layers has written two checkpoints."""
    process = start(config, output, *settings)
    wait_for(lambda: len(checkpoints(output)) > 1, process)
    return process


def crash(config: Path, output: Path) -> None:
    """Leave a bakeoff whose driver was killed in the middle of a training."""
    process = training(config, output)
    process.kill()
    process.wait()


def last_line(process: subprocess.Popen[str]) -> str:
    """Wait for a process's end and return what it said last."""
    return process.communicate(timeout=LONGEST_WAIT)[0].strip().splitlines()[-1]


def failures(process: subprocess.Popen[str]) -> str:
    """Wait for a bakeoff's end and return how it says that an entry failed."""
    lines = process.communicate(timeout=LONGEST_WAIT)[0].splitlines()
    return next((line for line in lines if " failed: " in line), f"exit {process.returncode}")


def signalled(number: signal.Signals, times: int = 1) -> Callable[[Path, Path], Outcome]:
    """Return the fault that the driver gets a signal in the middle of a training, and then again."""

    def fault(config: Path, folder: Path) -> Outcome:
        output = folder / "signalled"
        outcome = Outcome("fault", f"{number.name} to the driver{', and another' if times > 1 else ''}")
        process = training(config, output)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.2)
        asked = time.monotonic()
        last_line(process)
        report = "the report written" if (output / "report.html").exists() else "no report"
        kept = "a checkpoint" if checkpoints(output) else "no checkpoint"
        outcome.note = f"exit {process.returncode} after {time.monotonic() - asked:.1f} s, {kept}, {report}"
        end_of(outcome, config, folder, output)
        return outcome

    return fault


def to_run(number: signal.Signals, *settings: str) -> Callable[[Path, Path], Outcome]:
    """Return the fault that a run's process gets a signal in the middle of its training."""

    def fault(config: Path, folder: Path) -> Outcome:
        output = folder / "to-run"
        outcome = Outcome("fault", f"{number.name} to a run's process")
        process = training(config, output, *settings)
        os.kill(wait_for(lambda: victims(process.pid)["run"], process)[0], number)
        outcome.note = failures(process)
        end_of(outcome, config, folder, output, *settings)
        return outcome

    return fault


def starved(config: Path, folder: Path) -> Outcome:
    """Try to run with far too little memory."""
    outcome = Outcome("fault", "memory for a run's process limited to 350 MB")
    output = folder / "starved"
    outcome.note = failures(start(config, output, "safety.memory_limit=350MB"))
    end_of(outcome, config, folder, output)
    return outcome


def damaged_checkpoint(kind: str) -> Callable[[Path, Path], Outcome]:
    """Return the fault that the newest checkpoint of an interrupted training is damaged."""

    def fault(config: Path, folder: Path) -> Outcome:
        output = folder / "checkpoint"
        outcome = Outcome("fault", f"newest checkpoint {kind}")
        crash(config, output)
        newest, before = checkpoints(output)[:2]
        newest.write_bytes(DAMAGE[kind](newest.read_bytes()))
        process = start(config, output)
        log = before.parent.parent / "log.txt"
        wait_for(lambda: "not used (damaged)" in log.read_text(), process)
        damaged, taken = (int(file.name.partition("-")[0]) for file in (newest, before))
        outcome.note = f"that of step {damaged} not used, that of step {taken} taken"
        process.communicate(timeout=LONGEST_WAIT)
        end_of(outcome, config, folder, output)
        return outcome

    return fault


def damaged_records(config: Path, folder: Path) -> Outcome:
    """Damage files of finished runs, of every kind and in both ways."""
    outcome = Outcome("fault", "results, predictions, adapters, tokens, plan and config of a finished bakeoff damaged")
    output = folder / "records"
    start(config, output).communicate(timeout=LONGEST_WAIT)
    before = {file: file.stat().st_mtime_ns for file in output.glob("runs/*/result.json")}
    wanted = ("lora-*/result.json", "lead-1-*/predictions.jsonl", "prompt_tuning-*/adapter/*.safetensors")
    files = [sorted(output.glob(f"runs/{pattern}"))[-1] for pattern in wanted]
    files += [
        output / "data/train.tokens.bin",
        output / "data/test.jsonl",
        output / "plan.json",
        output / "config.yaml",
    ]
    for i, file in enumerate(files):
        file.write_bytes(list(DAMAGE.values())[i % 2](file.read_bytes()))
    start(config, output).communicate(timeout=LONGEST_WAIT)
    after = {file: file.stat().st_mtime_ns for file in output.glob("runs/*/result.json")}
    again = sum(after[file] != before.get(file) for file in after)
    outcome.note = f"{len(files)} files damaged; {again} of {len(after)} runs made again"
    end_of(outcome, config, folder, output)
    return outcome


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """Within, a disk of its own is mounted in the folder."""
    place = folder / "disk"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, option: str) -> None:
    """Change a mounted disk."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


def refusing(what: str, size: str, cure: str, spoil: Callable[[Path, Path], Any]) -> Callable[[Path, Path], Outcome]:
    """Return the fault that a disk refuses to be written to, which `cure` mends; `spoil` is done to it before."""

    def fault(config: Path, folder: Path) -> Outcome:
        outcome = Outcome("fault", what)
        with disk(folder, size) as place:
            spoil(config, place)
            process = start(config, place / "out")
            outcome.note = f"'{last_line(process)}', exit {process.returncode}"
            remount(place, cure)
            end_of(outcome, config, folder, place / "out")
        return outcome

    return fault


def make_read_only(config: Path, place: Path) -> None:
    """Crash in the middle on a disk that can only be read from then on."""
    crash(config, place / "out")
    time.sleep(1)  # until its run has ended too, which has files open
    remount(place, "ro")


def clock_jumps(config: Path, folder: Path) -> Outcome:
    """Go on where all files seem to be of other years, some past and some to come."""
    outcome = Outcome("fault", "clock wrong by years, ahead and back, between two parts")
    output = folder / "clock"
    crash(config, output)
    for i, file in enumerate(output.rglob("*")):
        then = time.time() + (365 if i % 2 else -365) * 86400
        os.utime(file, (then, then))
    end_of(outcome, config, folder, output)
    return outcome


def changed_data(config: Path, folder: Path) -> Outcome:
    """Change a data file between two parts, finish, and change it back."""
    outcome = Outcome("fault", "data file changed between two parts, and changed back")
    output, file = folder / "data", config.parent / "train.jsonl"
    crash(config, output)
    content = file.read_text()
    try:
        file.write_text("".join(content.splitlines(keepends=True)[1:]))
        start(config, output).communicate(timeout=LONGEST_WAIT)
        first = {run.name for run in (folder / "reference").glob("runs/*")}
        other = {run.name for run in output.glob("runs/*")} - first
    finally:
        file.write_text(content)
    end_of(outcome, config, folder, output)
    stay = tuple(f"file runs/{run}" for run in other)  # those of the other data stay on disk
    outcome.differences = [key for key in outcome.differences if not key.startswith(stay)]
    outcome.note = f"{len(other)} runs with the other data, then those of the first: none mixed"
    return outcome


FAULTS: list[Callable[[Path, Path], Outcome]] = [
    signalled(signal.SIGINT),
    signalled(signal.SIGINT, times=2),
    signalled(signal.SIGTERM),
    to_run(signal.SIGSEGV),
    to_run(signal.SIGSTOP, "safety.stall_seconds=30"),
    starved,
    *(damaged_checkpoint(kind) for kind in DAMAGE),
    damaged_records,
    refusing("disk full in the middle", "1500k", "size=200m", lambda *_: None),
    refusing("folder read-only", "200m", "rw", make_read_only),
    clock_jumps,
    changed_data,
]
