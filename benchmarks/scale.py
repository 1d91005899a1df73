"""What many runs and many slots cost, for docs/scale.md. Only `workers` and `ray` train; else records are made up.

python benchmarks/scale.py plan       # seconds of a plan of 1,000 runs
python benchmarks/scale.py views      # seconds of `show` and `report` of 300 finished runs, and the page's size
python benchmarks/scale.py driver     # a driver's share of a core: 1,000 planned runs, eight of them at work
python benchmarks/scale.py workers    # two whole bakeoffs, each by one worker with all cores and by one for each core
python benchmarks/scale.py ray        # seconds that one more run costs here, and on a Ray cluster of one node
python benchmarks/scale.py simulate   # 10,000 runs on 256 slots, and again with nodes and runs that fail
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bakeoff
from bakeoff.compute.model.loading import load_tokenizer
from bakeoff.data.sources import load_or_count
from bakeoff.driver.bus import Bus
from bakeoff.driver.environment import processor
from bakeoff.driver.plan import make_plan
from bakeoff.driver.ready import ReadySet
from bakeoff.driver.resume import left_to_do, prepare
from bakeoff.driver.scheduler import Scheduler
from bakeoff.store.event_log import EventLog
from bakeoff.store.ownership import owned
from bakeoff.store.records import Task
from bakeoff.store.run_folder import Folder
from made_up import AtOnce, Cluster, Faults, carried_out_by, config

METHODS = ["lora", "last_layers", "prompt_tuning", "ia3"]
RECORDED = Path(__file__).parent / "results/2026-11-30-run-seconds.json"
HOUR = 3600.0
LOADING = 60.0  # seconds, of the simulation
MEMORY = Path("/dev/shm")  # the simulation leaves 100,000 small files, which would wait for the disk
FAULTS = (Faults(), Faults(node_lives=24 * HOUR, run_fails=0.01))


def plan_seconds(folder: Path) -> dict[str, Any]:
    """Return how long a plan of 1,000 runs takes, with libraries and base in memory, and reading the data alone."""
    given = config(folder, entries=25, trials=8, seeds=32, documents=100, methods=METHODS)
    bakeoff.plan(config(folder, entries=4, trials=4, seeds=1, documents=100, methods=METHODS))
    start, cpu = time.perf_counter(), time.process_time()
    planned = bakeoff.plan(given)
    whole, cpu = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    read = bakeoff.load_config(given)
    load_or_count(read.data, read.prompt, read.target, must_read=True)
    reading = time.perf_counter() - start
    return {"runs": len(planned["runs"]), "seconds": whole, "processor seconds": cpu, "of which reading": reading}


def view_seconds(folder: Path) -> dict[str, Any]:
    """Return how long the table and the report of 300 finished runs take as commands, and the page's bytes."""
    given = config(folder, entries=20, trials=0, seeds=15, documents=200, methods=METHODS)
    for entry in given["entries"].values():
        entry["learning_rate"] = 0.001
    with carried_out_by(AtOnce()):
        bakeoff.run(given, display="none")
    out, found = given["output"], dict[str, Any]()
    for view in ("show", "report"):
        start, cpu = time.perf_counter(), processor_seconds()
        subprocess.run([sys.executable, "-m", "bakeoff", view, out], check=True, stdout=subprocess.DEVNULL)
        found[f"{view}, seconds"] = time.perf_counter() - start
        found[f"{view}, processor seconds"] = processor_seconds() - cpu
    return {**found, "report, MB": (Path(out) / "report.html").stat().st_size / 1e6}


def processor_seconds() -> float:
    """Return the processor seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def driver_share(folder: Path, display: str) -> dict[str, Any]:
    """Return what share of a core the driver of 1,000 planned runs takes, with eight at work and a display."""
    screen = {"TTY_COMPATIBLE": "1", "COLUMNS": "160", "LINES": "50"}
    words = [sys.executable, str(Path(__file__).with_name("talking.py")), display, str(folder)]
    done = subprocess.run(
        words, env={**os.environ, **screen}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def simulation(folder: Path, faults: Faults, entries: int, slots: int) -> dict[str, Any]:
    """Return how the runs of some entries, 50 each, fare on slots; lengths are drawn from recorded ones.

    They are scaled to half an hour for a final run, on average.

    After the first session, others try again what has failed. The driver's own processor time is the rest of this
    process's, after what writing records takes, which the processes of runs do.
    """
    lengths = json.loads(RECORDED.read_text())["seconds"]
    scale = HOUR / 2 / (sum(lengths["entry"]) / len(lengths["entry"]))

    given = bakeoff.load_config(config(folder, entries=entries, trials=20, seeds=30, documents=2, methods=["ia3"]))
    there = Folder(given.folder)
    with owned(there):
        planned = make_plan(given, load_tokenizer(given.model, given.pin), there)
        prepare(there, given, planned, {})
    rungs = planned.document.rungs

    def seconds(task: Task) -> float:
        run = task.run
        drawn = random.Random(f"{run.entry} {run.seed} {run.trial}").choice(lengths[run.kind])
        ends = [0, *rungs, run.steps or 0]
        last = ends.index(run.until or run.steps) if run.kind == "trial" else 0
        return drawn * scale * ((ends[last] - ends[last - 1]) / ends[-1] if last else 1)

    cluster = Cluster(slots, seconds, LOADING, faults, random.Random(1))
    sessions, failed = 0, -1
    while cluster.failed > failed:
        sessions, failed = sessions + 1, cluster.failed
        bus, left = Bus(EventLog(there.events_file)), left_to_do(there, planned.document)
        for event in cluster.run(there.path, ReadySet(Scheduler(there, planned, bus, left).work())):
            bus.handle(event)
    ideal, count = cluster.work / slots, len(planned.runs)
    return {
        "runs": count, "slots": slots, "sessions": sessions, "nodes lost": cluster.deaths,
        "runs failed": cluster.failed, "makespan, hours": cluster.now / HOUR, "all slots busy, hours": ideal / HOUR,
        "ratio": cluster.now / ideal, "work lost, percent": 100 * cluster.lost / cluster.work,
        "driver's processor seconds per run": cluster.driver_cpu / count,
    }  # fmt: skip


def workers_seconds(folder: Path, trials: int, epochs: int, turns: int) -> dict[str, Any]:
    """Return the median seconds of a whole bakeoff of the embedded base by one worker, and by one for each core.

    With the seconds that the machine's cores worked, and that the runs spent in each of their parts, of the last.
    """
    counts, seconds, found = (1, os.cpu_count() or 1), dict[int, list[float]](), dict[str, Any]()
    for turn in range(turns):
        for workers in counts:
            output = folder / f"{turn}-{workers}"
            config = {
                "model": "base", "data": {"source": "docstrings", "train_limit": 96, "validation_limit": 24,
                                          "test_limit": 40},
                "entries": ["lora", "ia3", "prompt_tuning"], "tune": {"trials": trials}, "output": str(output),
                "protocol": {"epochs": epochs, "batch_size": 8, "max_tokens": 128, "seeds": 3},
                "generation": {"max_new_tokens": 24}, "machine": {"workers": workers},
            }  # fmt: skip
            start, busy = time.perf_counter(), busy_seconds()
            bakeoff.run(config, display="none")
            seconds.setdefault(workers, []).append(time.perf_counter() - start)
            found[f"with {workers}"] = {
                "seconds": statistics.median(seconds[workers]),
                "busy seconds of all cores": busy_seconds() - busy, **parts(output),
            }  # fmt: skip
    one, more = (of["seconds"] for of in found.values())
    return {"trials": trials, "epochs": epochs} | found | {"ratio": one / more}


def busy_seconds() -> float:
    """Return the seconds that all cores of this machine have worked since it began, for whomever."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def parts(folder: Path) -> dict[str, float]:
    """Return the seconds that all finished runs of a bakeoff spent in each of their parts."""
    total: dict[str, float] = {}
    for file in folder.glob("runs/*/result.json"):
        for name, value in seconds_of(json.loads(file.read_text())).items():
            total[name] = total.get(name, 0.0) + value
    return total


def seconds_of(row: dict[str, Any]) -> dict[str, float]:
    """Return the seconds that a run spent in each of its parts, from its record."""
    return {name: value for name, value in row["costs"].items() if name.endswith("_seconds") and value}


def ray_seconds(folder: Path) -> dict[str, Any]:
    """Return the seconds that one more run costs, all in all, by a local worker and by one on a Ray cluster.

    Each by bakeoffs of two and of ten runs that train on one example.
    """
    (folder / "one.jsonl").write_text(json.dumps({"document": "One two three.", "summary": "One."}) + "\n")
    found = {}
    for executor in ("local", "ray"):
        seconds = []
        for seeds in (2, 10):
            config = {
                "model": "base", "data": dict.fromkeys(("train", "validation", "test"), str(folder / "one.jsonl")),
                "entries": ["ia3"], "tune": None, "baselines": ["base"], "generation": {"max_new_tokens": 1},
                "protocol": {"epochs": 1, "seeds": seeds}, "output": str(folder / f"{executor}-{seeds}"),
                "machine": {"executor": executor, "workers": 1},
            }  # fmt: skip
            start = time.perf_counter()
            bakeoff.run(config, display="none")
            seconds.append(time.perf_counter() - start)
        found[f"seconds per run, {executor}"] = (seconds[1] - seconds[0]) / 8
    return found


def recorded(folder: Path) -> dict[str, Any]:
    """Return the seconds of each run of a finished bakeoff by its kind, from its records."""
    seconds: dict[str, list[float]] = {}
    for file in sorted(folder.glob("runs/*/result.json")):
        row = json.loads(file.read_text())
        if row["status"] == "done":
            seconds.setdefault(row["run"]["kind"], []).append(round(sum(seconds_of(row).values()), 3))
    return {"machine": f"{os.cpu_count()} cores of an {processor()}", "seconds": seconds}


def main() -> None:
    """Measure what is asked for, and print it as a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["plan", "views", "driver", "workers", "ray", "simulate", "record"])
    parser.add_argument("folder", nargs="?", type=Path, help="a finished bakeoff, for `record`")
    parser.add_argument("--entries", type=int, default=200, help="of the simulation, with 50 runs each")
    parser.add_argument("--slots", type=int, default=256, help="of the simulation, eight on each node")
    asked = parser.parse_args()
    if asked.what == "record":
        RECORDED.write_text(json.dumps(recorded(asked.folder)) + "\n")
        return
    measures: dict[str, list[Any]] = {
        "plan": [plan_seconds],
        "views": [view_seconds],
        "driver": [partial(driver_share, display=display) for display in ("none", "plain", "live")],
        "workers": [
            partial(workers_seconds, trials=2, epochs=1, turns=2),
            partial(workers_seconds, trials=4, epochs=4, turns=1),
        ],
        "ray": [ray_seconds],
        "simulate": [partial(simulation, faults=faults, entries=asked.entries, slots=asked.slots) for faults in FAULTS],
    }
    for measure in measures[asked.what]:
        with TemporaryDirectory(dir=MEMORY if asked.what == "simulate" and MEMORY.is_dir() else None) as folder:
            found = measure(Path(folder))
        head = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": f"{os.cpu_count()} cores of an {processor()}"}
        print(json.dumps(head | rounded(found)))


def rounded(found: dict[str, Any]) -> dict[str, Any]:
    """Return figures, and those in groups of them, with four decimals."""
    return {
        k: rounded(v) if isinstance(v, dict) else round(v, 4) if isinstance(v, float) else v for k, v in found.items()
    }


if __name__ == "__main__":
    main()
