"""Does a bakeoff survive, and is its result then the same? Kills and other faults, tried on real processes.

`soak` runs small bakeoffs, kills their driver, run server or run's process at random moments (`--on ray`: nodes and
their workers), lets the same command resume until all is done, and compares every record, loss, prediction, adapter,
the names of all files and the verdict with those of a bakeoff that nobody touched. `faults` tries each other fault
once. Both add lines to `results/survive.jsonl`, of which `write` makes tables.
"""

import argparse
import json
import random
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from bakeoff.store.files import append_jsonl
from bakeoff.store.records import Run
from faults import FAULTS
from places import PLACES, Local
from processes import LONGEST_WAIT, Kill, Outcome, end_of, finish, make_task, start
from reliability import write_tables

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results/survive.jsonl"


def at_work(output: Path) -> tuple[str, float]:
    """Return the entry that is running, and when what is kept of it was written last."""
    started = max(output.glob("runs/*/run.json"), key=lambda file: file.stat().st_mtime, default=None)
    if started is None:
        return "planning", 0.0
    kept = [started]
    for folder in (output, *output.glob(".slots/*")):  # of a cluster's slots
        of_run = folder / "runs" / started.parent.name
        kept += [*of_run.glob("checkpoints/*.safetensors"), *of_run.glob("result.json")]
    return Run(**json.loads(started.read_text())).entry, max(map(written_at, kept))


def written_at(file: Path) -> float:
    """Return when a file was written; 0 if it is gone meanwhile."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def kill_some(
    place: Local, process: subprocess.Popen[str], output: Path, chosen: random.Random, most: int
) -> list[Kill]:
    """End processes of a bakeoff at random moments until its driver has ended, at most so many."""
    kills: list[Kill] = []
    begun = time.time()
    while process.poll() is None and len(kills) < most:
        wanted = chosen.choices([*place.weights], [*place.weights.values()])[0]
        early = wanted == "driver" and chosen.random() < 0.3  # while it plans, or starts the server
        while process.poll() is None and not early and not place.victims(process.pid)["run"]:
            time.sleep(0.01)
        wait_until = time.monotonic() + chosen.uniform(0, 4.0 if early else 1.5)
        while process.poll() is None and time.monotonic() < wait_until:
            time.sleep(0.01)
        found = place.victims(process.pid)[wanted]
        if process.poll() is not None or not found:
            continue
        entry, kept_at = at_work(output)
        try:
            place.strike(wanted, chosen.choice(found))
        except ProcessLookupError:
            continue
        kills.append(Kill(wanted, entry, max(0.0, time.time() - max(begun, kept_at))))
        place.recover(chosen)
    process.communicate(timeout=10 * LONGEST_WAIT)
    return kills


def soak(place: Local, config: Path, folder: Path, kills: int) -> Outcome:
    """Run one bakeoff under so many kills and compare it with the one that nobody touched.

    What has happened so far is kept beside it, so that a soak that was itself ended resumes with the same bakeoff.
    """
    name = f"soak-{type(place).__name__}"
    chosen, output, state = random.Random(), folder / name, folder / f"{name}.json"
    outcome = Outcome("soak", place.what)
    if state.exists():
        kept = json.loads(state.read_text())
        outcome.kills, outcome.starts = [Kill(**kill) for kill in kept["kills"]], kept["starts"]
    while len(outcome.kills) < kills:
        process = start(config, output, *place.settings)
        outcome.starts += 1
        outcome.kills += kill_some(place, process, output, chosen, kills - len(outcome.kills))
        state.write_text(json.dumps({"starts": outcome.starts, "kills": [vars(kill) for kill in outcome.kills]}))
        if process.returncode == 0:
            break
    end_of(outcome, config, folder, output, *place.settings)
    state.unlink(missing_ok=True)
    return outcome


def reference(folder: Path) -> Path:
    """Return the config of the task in `folder`, whose untouched bakeoff is finished; made anew for other code."""
    config = folder / "soak.yaml"
    newest = max(file.stat().st_mtime for file in (ROOT / "src").rglob("*.py"))
    if not (folder / "reference/results.json").exists() or config.stat().st_mtime < newest:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = make_task(folder)
        ended = finish(config, folder / "reference")
        assert ended.returncode == 0, ended.stdout
    return config


def note(outcome: Outcome) -> None:
    """Add what happened to the results."""
    row = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **{k: v for k, v in vars(outcome).items() if k != "kills"},
        "kills": [vars(kill) for kill in outcome.kills],
    }
    append_jsonl(RESULTS, row)
    print(f"{outcome.what}: {len(outcome.kills)} kills, {outcome.starts} starts,"
          f" survived {outcome.survived}, differences {outcome.differences} {outcome.note}", flush=True)  # fmt: skip


def main() -> None:
    """Try one part, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["soak", "faults", "write"])
    parser.add_argument("--kills", type=int, default=10, help="in each bakeoff")
    parser.add_argument("--on", choices=PLACES, default="local", help="where the runs of a soak are carried out")
    parser.add_argument("--bakeoffs", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="of the faults, counted from 0")
    parser.add_argument("--last", type=int, help="fault that is not tried any more")
    parser.add_argument("--work", type=Path, default=Path("/tmp/bakeoff-survive"), help="folder to work in")
    options = parser.parse_args()
    if options.part == "write":
        rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
        print(write_tables(ROOT / "docs/reliability.md", rows))
        return
    config = reference(options.work.resolve())
    if options.part == "faults":
        for fault in FAULTS[options.first : options.last]:
            note(fault(config, options.work.resolve()))
        return
    with PLACES[options.on]() as place:
        for _ in range(options.bakeoffs):
            note(soak(place, config, options.work.resolve(), options.kills))


if __name__ == "__main__":
    main()
