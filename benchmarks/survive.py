"""Does a bakeoff survive, and is its result then the same? Kills and other faults, tried on real processes.

`soak` runs small bakeoffs, kills their driver, run server or run's process at random moments, lets the same command go
on until all is done, and compares every record, loss, prediction, adapter, the names of all files and the verdict with
those of a bakeoff that nobody touched. `faults` tries each other fault once. Both add lines to `results/survive.jsonl`,
of which `write` makes tables.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from bakeoff.store.files import append_jsonl
from bakeoff.store.run_folder import Folder, Run, RunFolder
from reliability import write_tables

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results/survive.jsonl"
LONGEST_WAIT = 120.0  # seconds for a driver to do what it is expected to
CONFIG: dict[str, Any] = {
    "name": "soak",
    "entries": {
        "lora": {"r": 4, "lora_dropout": 0.1},
        "last_layers": {"learning_rate": 0.01},
        "prompt_tuning": {"num_virtual_tokens": 4, "learning_rate": 0.05},
    },
    "baselines": ["base", "lead-1"],
    "tune": {"trials": 2},
    "protocol": {"epochs": 4, "max_tokens": 96, "seeds": 2, "evaluate_every": 20, "precision": "fp32"},
    "generation": {"max_new_tokens": 8},
    "safety": {"checkpoint_seconds": 0.3},
}


@dataclass
class Kill:
    """One process that was ended at a random moment."""

    victim: str  # driver, server or run
    state: str  # the entry that was at work, or "planning"
    lost_seconds: float  # since what is kept on disk was written


@dataclass
class Outcome:
    """What became of one bakeoff."""

    kind: str
    what: str
    kills: list[Kill] = field(default_factory=list)
    starts: int = 0
    survived: bool = False
    differences: list[str] = field(default_factory=list)
    note: str = ""


def make_task(folder: Path) -> Path:
    """Write a tiny base with the embedded tokenizer, data that can be learnt, and the config; return the config."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from bakeoff.hub import EMBEDDED

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=3, n_head=2, bos_token_id=end, eos_token_id=end
    )
    GPT2LMHeadModel(shape).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    words = [a + b for a in ("ka", "lo", "mi", "nu", "re") for b in ("sa", "to", "vi", "zu")]
    chosen = random.Random(0)
    for split, rows in (("train", 240), ("validation", 24), ("test", 24)):
        lines = [chosen.choices(words, k=chosen.randint(8, 20)) for _ in range(rows)]
        text = [json.dumps({"document": " ".join(line), "summary": " ".join(line[:2])}) for line in lines]
        (folder / f"{split}.jsonl").write_text("\n".join(text) + "\n")
    data = {split: f"{split}.jsonl" for split in ("train", "validation", "test")}
    file = folder / "soak.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, "model": "base_folder", "data": data}).replace("base_folder", "./base"))
    return file


def start(config: Path, output: Path, *settings: str) -> subprocess.Popen[str]:
    """Start `bakeoff run` as a process of its own."""
    changes = [f"output={output}", *settings]
    command = [sys.executable, "-m", "bakeoff", "run", str(config), "--display", "none"]
    command += [word for change in changes for word in ("-s", change)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(config: Path, output: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run the bakeoff to its end and return how it ended."""
    process = start(config, output, *settings)
    text, _ = process.communicate(timeout=10 * LONGEST_WAIT)
    return subprocess.CompletedProcess(process.args, process.returncode, text)


def children(pid: int) -> list[int]:
    """Return the processes that any thread of `pid` has started."""
    try:
        return [int(c) for f in Path(f"/proc/{pid}/task").glob("*/children") for c in f.read_text().split()]
    except OSError:
        return []


def victims(driver: int) -> dict[str, int]:
    """Return the processes of a bakeoff by what they are."""
    found = {"driver": driver}
    for server in children(driver):
        found["server"] = server
        for run in children(server):
            found["run"] = run
    return found


def at_work(output: Path) -> tuple[str, float]:
    """Return the entry whose run is at work, and when what is kept of it was written last."""
    started = max(output.glob("runs/*/run.json"), key=lambda file: file.stat().st_mtime, default=None)
    if started is None:
        return "planning", 0.0
    kept = [started, *started.parent.glob("checkpoints/*.safetensors"), *started.parent.glob("result.json")]
    return Run(**json.loads(started.read_text())).entry, max(file.stat().st_mtime for file in kept)


def kill_some(process: subprocess.Popen[str], output: Path, chosen: random.Random, most: int) -> list[Kill]:
    """End processes of a bakeoff at random moments until its driver has ended, at most so many."""
    kills: list[Kill] = []
    begun = time.time()
    while process.poll() is None and len(kills) < most:
        wanted = chosen.choices(["run", "driver", "server"], [8, 2, 1])[0]
        early = wanted == "driver" and chosen.random() < 0.3  # while it plans, or starts the server
        while process.poll() is None and not early and "run" not in victims(process.pid):
            time.sleep(0.01)
        wait_until = time.monotonic() + chosen.uniform(0, 4.0 if early else 1.5)
        while process.poll() is None and time.monotonic() < wait_until:
            time.sleep(0.01)
        pid = victims(process.pid).get(wanted)
        if process.poll() is not None or pid is None:
            continue
        entry, kept_at = at_work(output)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        kills.append(Kill(wanted, entry, max(0.0, time.time() - max(begun, kept_at))))
    process.communicate(timeout=10 * LONGEST_WAIT)
    return kills


def soak(config: Path, folder: Path, kills: int) -> Outcome:
    """Run one bakeoff under so many kills and compare it with the one that nobody touched.

    What has happened so far is kept beside it, so that a soak that was ended itself goes on with the same bakeoff.
    """
    chosen, output, state = random.Random(), folder / "soak", folder / "soak.json"
    outcome = Outcome("soak", "processes killed at random moments")
    if state.exists():
        kept = json.loads(state.read_text())
        outcome.kills, outcome.starts = [Kill(**kill) for kill in kept["kills"]], kept["starts"]
    while len(outcome.kills) < kills:
        process = start(config, output)
        outcome.starts += 1
        outcome.kills += kill_some(process, output, chosen, kills - len(outcome.kills))
        state.write_text(json.dumps({"starts": outcome.starts, "kills": [vars(kill) for kill in outcome.kills]}))
        if process.returncode == 0:
            break
    end_of(outcome, config, folder, output)
    state.unlink(missing_ok=True)
    return outcome


def end_of(outcome: Outcome, config: Path, folder: Path, output: Path, *settings: str) -> None:
    """Let the same command go on to the end, and note whether the result is the untouched one's."""
    for _ in range(2):  # a run that was ended leaves a failed record, and the next start mends it
        ended = finish(config, output, *settings)
        outcome.starts += 1
        if ended.returncode == 0:
            break
    outcome.survived = ended.returncode == 0
    outcome.note = outcome.note.replace(str(folder), "")
    if not outcome.survived:
        outcome.note += f" ended with {ended.returncode}: {ended.stdout.strip().splitlines()[-1:]}"
    else:
        outcome.differences = differences(folder / "reference", output)
        if outcome.differences:
            outcome.note += f"; a metric differs by {distance(folder / 'reference', output):.1e} at most"
        shutil.rmtree(output)


def differences(one: Path, other: Path) -> list[str]:
    """Return in what two finished bakeoffs differ, of all that does not hold times or memory."""
    first, second = content(Folder(one)), content(Folder(other))
    return sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))


def distance(one: Path, other: Path) -> float:
    """Return by how much a metric of two finished bakeoffs differs at most."""
    first, second = (json.loads(Folder(path).results_file.read_text())["entries"] for path in (one, other))
    pairs = (
        (v["mean"], second[n]["metrics"][m]["mean"]) for n, row in first.items() for m, v in row["metrics"].items()
    )
    return max(abs(a - b) for a, b in pairs)


def content(folder: Folder) -> dict[str, Any]:
    """Return every record, curve, choice, prediction and adapter of a bakeoff, its verdict, and its files' names."""
    document = json.loads(folder.results_file.read_text())
    verdict = document["verdict"]
    found: dict[str, Any] = {"verdict": [verdict["text"], verdict["best"], verdict["tied_with_best"]]}
    for name, row in (document["entries"] | document["baselines"]).items():
        chosen = row["tuning"] and {k: row["tuning"][k] for k in ("chosen", "edge", "extended")}
        facts = ("status", "metrics", "checks", "learning_rate", "steps", "best_step", "seeds", "runs")
        found[name] = [chosen, *(row[fact] for fact in facts)]
        trials = row["tuning"]["trials"] if row["tuning"] else []
        found[f"{name} trials"] = trials
        for run in (*row["runs"], *(trial["run"] for trial in trials)):
            files = folder.run(run)
            found[f"{run} record"], found[f"{run} curve"] = record(files), curve(files)
            for file in (files.predictions_file, *files.adapter.rglob("*.safetensors")):
                found[f"{run} {file.name}"] = file.read_bytes() if file.exists() else None
    names = [file.relative_to(folder.path).as_posix() for file in folder.path.rglob("*")]
    return found | {f"file {name}": True for name in names}


def record(files: RunFolder) -> dict[str, Any]:
    """Return all of a run's record but times, memory and the sums of files that hold times."""
    result = files.result()
    assert result is not None
    measured = {k: v for k, v in result.costs.items() if not k.endswith(("_seconds", "peak_bytes", "per_second"))}
    return asdict(result) | {"costs": measured, "files": sorted(result.files)}


def curve(files: RunFolder) -> list[dict[str, float]]:
    """Return a run's losses without their times."""
    return [{**row, "seconds": 0} for row in files.curve()]


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
        from faults import FAULTS

        for fault in FAULTS[options.first : options.last]:
            note(fault(config, options.work.resolve()))
        return
    for _ in range(options.bakeoffs):
        note(soak(config, options.work.resolve(), options.kills))


if __name__ == "__main__":
    main()
