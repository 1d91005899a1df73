"""A small bakeoff in processes of its own, and whether what it left is what an undisturbed one leaves."""

import json
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from bakeoff.store.records import ALONE
from bakeoff.store.run_folder import Folder, RunFolder

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

    victim: str  # driver, server or run; with Ray also worker or node
    state: str  # the entry that was running, or "planning"
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


Victims: TypeAlias = defaultdict[str, list[int]]


def victims(driver: int) -> Victims:
    """Return the processes of a bakeoff on this machine by what they are."""
    found = Victims(list, driver=[driver])
    for server in children(driver):
        of_server(found, server)
    return found


def of_server(found: Victims, server: int) -> None:
    """Add a run server's processes by what they are."""
    found["server"].append(server)
    for holder in children(server):
        found["holder"].append(holder)
        found["run"] += children(holder)


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
    """Return all of a run's record but times, memory, sums of files that hold times, and how many runs were beside."""
    result = files.result()
    assert result is not None
    varying = ("_seconds", "peak_bytes", "per_second", ALONE)
    measured = {k: v for k, v in result.costs.items() if not k.endswith(varying)}
    return asdict(result) | {"costs": measured, "files": sorted(result.files), "beside": 0}


def curve(files: RunFolder) -> list[dict[str, float]]:
    """Return a run's losses without their times."""
    return [row.row() | {"seconds": 0} for row in files.curve()]
