"""The race: bakeoff beside its peers on the same examples, `make race` (or `python benchmarks/race.py --json`).

Every contender runs in a process of its own, one after the other, round after round; a ratio is the median over
rounds of the pairs of one round, so that a machine's slow minutes fall on both sides. A contender whose library is not
installed (`pip install bakeoff[race]`) is left out and named. `--keep FILE` notes every measurement as it is made: the
same command resumes after an interrupt, and measures nothing twice.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import bakeoff
from bakeoff.config.sections import DataConfig
from bakeoff.data.prompt_format import make_form
from bakeoff.data.sources import load_examples
from bakeoff.data.tokens import encode, load_tokens, save_tokens
from bakeoff.data.tokens import statistics as token_statistics
from bakeoff.driver.environment import environment
from bakeoff.driver.executor import ALLOCATOR
from bakeoff.hub import EMBEDDED
from bakeoff.store.files import append_jsonl, json_object, read_jsonl
from contenders import BATCH_SIZE, MAX_TOKENS, METHOD_SETTINGS
from useful import matrix_peak, useful_flops
from whole import race_whole

SHARED = Path(__file__).parent.parent.parent / "shared"
SHAPES = {"gpt2": {}, "tiny": {"n_embd": 64, "n_layer": 2, "n_head": 2}}
CONTENDERS = ("bakeoff", "trainer", "trl", "study")
PARTS = ("training", "decoding", "fixed", "whole")
PACKAGES = ("torch", "transformers", "peft", "trl")
WARM_UP_STEPS = 1


class Kept:
    """Measurements by name, noted in a file of JSON lines where there is one, and not taken again.

    A name holds for one `setting`, which is all that measurements must share to stand in one table.
    """

    def __init__(self, path: Path | None, setting: str):
        self.path, self.setting = path, setting
        rows = read_jsonl(path, json_object) if path and path.exists() else ()
        self.found = {row["name"]: row["figures"] for row in rows if row["setting"] == setting}

    def take(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what was measured under this name before, or measure now; None, a failure, is not kept."""
        if name not in self.found:
            figures = measure()
            if figures is None:
                return None
            self.found[name] = figures
            if self.path:
                append_jsonl(self.path, {"setting": self.setting, "name": name, "figures": figures})
        return self.found[name]


def prepare(folder: Path, shape: str, steps: int) -> dict[str, Any]:
    """Write a seeded random model of the shape, its tokenizer and the examples' ids; return the examples' facts."""
    gpt2 = SHARED / "models/gpt2-tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(gpt2 if gpt2.exists() else EMBEDDED)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), **SHAPES[shape])
    config.bos_token_id = config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    GPT2LMHeadModel(config).save_pretrained(folder)
    dialogues = SHARED / "data/dialogsum"
    limit = steps * BATCH_SIZE
    if dialogues.exists():
        files = {s: str(dialogues / f"{s}.jsonl") for s in ("train", "validation", "test")}
        data = DataConfig(**files, train_limit=limit)
    else:
        data = DataConfig(source="docstrings", train_limit=limit)
    examples = load_examples(data)[0]["train"]
    save_tokens(folder / "race.tokens.bin", encode(examples, make_form(tokenizer, None, False), MAX_TOKENS, 64, "race"))
    lengths = load_tokens(folder / "race.tokens.bin").lengths
    return {"data": "dialogsum" if dialogues.exists() else "docstrings", **token_statistics(lengths)}


def run(script: str, arguments: list[str], ours: bool) -> dict[str, Any] | None:
    """Return a contender's figures, or None where it failed (its last words go to standard error)."""
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    extra = ALLOCATOR if ours else {}  # part of our engine; peers start as their users start them
    done = subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{script} {' '.join(arguments[:2])}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def race_training(
    folder: Path, steps: int, rounds: int, methods: list[str], contenders: list[str], kept: Kept
) -> dict[str, list[dict[str, Any]]]:
    """Return every round's figures by method and contender: seconds a step of mean size, and peak bytes.

    Contenders make other batches of the same examples, so that seconds are compared by the real tokens in them.
    """
    rows = load_tokens(folder / "race.tokens.bin")
    step_tokens = BATCH_SIZE * sum(len(row) for row in rows) / len(rows)
    results: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for method in methods:
            for contender in contenders:
                command = [contender, method, str(folder), str(steps)]
                take = partial(run, "contenders.py", command, contender == "bakeoff")
                figures = kept.take(f"training {number} {method} {contender}", take)
                if figures:
                    pairs = list(zip(figures["seconds"], figures["tokens"], strict=True))[WARM_UP_STEPS:]
                    seconds = step_tokens * sum(s for s, _ in pairs) / sum(t for _, t in pairs)
                    row = {"step_seconds": seconds, "peak_bytes": figures["peak_bytes"], "round": number}
                    results.setdefault(f"{method}/{contender}", []).append(row)
                    print(f"round {number}: {method} {contender}: {seconds:.3f} s/step", file=sys.stderr, flush=True)
    return results


def training_table(folder: Path, results: dict[str, list[dict[str, Any]]], peak: float) -> list[dict[str, Any]]:
    """Return a row a method and contender: medians, how many times bakeoff's in the same rounds, useful work."""
    rows = load_tokens(folder / "race.tokens.bin")
    config = GPT2Config.from_pretrained(folder)
    steps = len(rows) / BATCH_SIZE
    targets = sum(len(row.target) for row in rows) / steps
    table = []
    for key, measured in results.items():
        method, contender = key.split("/")
        ours = {r["round"]: r for r in results.get(f"{method}/bakeoff", [])}
        row: dict[str, Any] = {"method": method, "contender": contender}
        for figure in ("step_seconds", "peak_bytes"):
            row[figure] = statistics.median(r[figure] for r in measured)
            pairs = [r[figure] / ours[r["round"]][figure] for r in measured if r["round"] in ours]
            row[f"{figure}_ratio"] = statistics.median(pairs) if pairs else None
        row["target_tokens_per_second"] = targets / row["step_seconds"]
        row["share_of_peak"] = useful_flops(METHOD_SETTINGS[method], config, rows) / steps / row["step_seconds"] / peak
        table.append(row)
    return table


def race_decoding(folder: Path, rounds: int, kept: Kept) -> dict[str, Any] | None:
    """Return tokens a second and peaks of both decoders, and the share of equal outputs; None where one failed."""
    measured: dict[str, list[dict[str, Any]]] = {"bakeoff": [], "generate": []}
    for number in range(rounds):
        for name, figures in measured.items():
            take = partial(run, "decoding.py", [name, str(folder)], name == "bakeoff")
            figures.append(kept.take(f"decoding {number} {name}", take))
    ours, theirs = measured.values()
    if None in (*ours, *theirs):
        return None
    speeds = {n: statistics.median(f["tokens"] / f["seconds"] for f in figures) for n, figures in measured.items()}
    pairs = list(zip(ours[0]["outputs"], theirs[0]["outputs"], strict=True))
    return {
        "tokens_per_second": speeds,
        "ratio": statistics.median(t["seconds"] / o["seconds"] for o, t in zip(ours, theirs, strict=True)),
        "peak_bytes": {n: figures[0]["peak_bytes"] for n, figures in measured.items()},
        "equal_outputs": sum(a == b for a, b in pairs) / len(pairs),
    }


def fixed_cost(folder: Path, model: str) -> float:
    """Return the seconds that one more run costs beside its own work: by bakeoffs of 2 and of 10 runs on one example.

    Its work is what its clocks call training, evaluation and generation; starting, loading, checks, saving and
    loading again are not.
    """
    example = json.dumps({"document": "One two three four five six.", "summary": "One two."}) + "\n"
    (folder / "one.jsonl").write_text(example)
    seconds = []
    for seeds in (2, 10):
        config = {
            "model": model, "data": dict.fromkeys(("train", "validation", "test"), str(folder / "one.jsonl")),
            "entries": {"lora": METHOD_SETTINGS["lora"]}, "output": str(folder / f"fixed-{Path(model).name}-{seeds}"),
            "tune": "off", "protocol": {"epochs": 1, "seeds": seeds}, "generation": {"max_new_tokens": 1},
            "baselines": ["base"],
        }  # fmt: skip
        start = time.perf_counter()
        costs = bakeoff.run(config, display="none").entries["lora"].costs
        work = seeds * sum(costs[f"{phase}_seconds"] for phase in ("train", "evaluation", "generation"))
        seconds.append(time.perf_counter() - start - work)
    return (seconds[1] - seconds[0]) / 8


def installed(name: str) -> str | None:
    """Return a package's version, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def show(results: dict[str, Any]) -> None:
    """Print the tables as Markdown."""
    where, examples = results["environment"], results["examples"]
    hardware = f"{where['gpu'] or where['processor']}, {where['cores']} cores, {results['precision']}"
    versions = ", ".join(f"{name} {number or 'not installed'}" for name, number in results["versions"].items())
    print(f"{results['date']}; {hardware}, matrix peak {results['matrix_peak_flops'] / 1e9:,.0f} GFLOP/s; {versions};")
    print(f"{results['shape']} shape on {examples['examples']} examples of {examples['data']}, batch {BATCH_SIZE}\n")
    if "training" in results:
        show_training(results["training"])
    if decoding := results.get("decoding"):
        speeds = decoding["tokens_per_second"]
        print(f"Decoding, batch 16, fp32: {speeds['bakeoff']:.0f} tokens/s, HF generate {speeds['generate']:.0f}: "
              f"{decoding['ratio']:.2f} times; equal outputs {decoding['equal_outputs']:.0%}")  # fmt: skip
    if whole := results.get("whole"):
        print(f"A whole bakeoff on the embedded base: {whole['bakeoff_seconds']:.0f} s, {whole['scripts']} scripts "
              f"{whole['scripts_seconds']:.0f} s: {whole['ratio']:.2f} times")  # fmt: skip
    for name, cost in results.get("fixed_seconds", {}).items():
        print(f"One more run on {name} costs {cost:.2f} s beside its own work")


def show_training(rows: list[dict[str, Any]]) -> None:
    """Print the training steps' table; a ratio where bakeoff's own figure is missing is a dash."""
    print("| method | contender | s/step | times bakeoff's | target tokens/s | of peak | peak MB | times bakeoff's |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        times, peaks = (f"{row[key]:.2f}" if row[key] else "-" for key in ("step_seconds_ratio", "peak_bytes_ratio"))
        cells = (row["method"], row["contender"], f"{row['step_seconds']:.3f}", times,
                 f"{row['target_tokens_per_second']:.0f}", f"{row['share_of_peak']:.0%}",
                 f"{row['peak_bytes'] / 1e6:,.0f}", peaks)  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    print()


def race(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all results that were asked for."""
    where = environment()
    precision = where["native_precision"]
    hardware = f"{where['gpu'] or where['processor']}, {where['cores']} cores"
    kept = Kept(arguments.keep, f"{hardware}, {precision}, {arguments.shape}, {arguments.steps} steps")
    contenders = [c for c in arguments.contenders if c != "trl" or installed("trl")]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        examples = prepare(folder, arguments.shape, arguments.steps)
        results: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d"),
            "shape": arguments.shape,
            "examples": examples,
            "environment": where,
            "precision": precision,
            "versions": {name: installed(name) for name in PACKAGES},
            "matrix_peak_flops": kept.take("matrix peak", matrix_peak),
        }
        if "training" in arguments.parts:
            measured = race_training(folder, arguments.steps, arguments.rounds, arguments.methods, contenders, kept)
            results["rounds"] = measured
            results["training"] = training_table(folder, measured, results["matrix_peak_flops"])
        if "decoding" in arguments.parts:
            results["decoding"] = race_decoding(folder, arguments.rounds, kept)
        if "fixed" in arguments.parts:
            models = {"the embedded base": "base", f"the {arguments.shape} shape": str(folder)}
            results["fixed_seconds"] = {
                name: kept.take(f"fixed {name}", partial(fixed_cost, folder, model)) for name, model in models.items()
            }
        if "whole" in arguments.parts:
            results["whole"] = kept.take("whole", partial(race_whole, folder))
    return results


def main() -> None:
    """Race and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--steps", type=int, default=4, help="of which one or two warm up (default: 4)")
    parser.add_argument("--rounds", type=int, default=2, help="of training and decoding (default: 2)")
    parser.add_argument("--methods", nargs="+", choices=METHOD_SETTINGS, default=list(METHOD_SETTINGS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="write every measurement to this file, and resume from it"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.steps < 3:
        parser.error("--steps: at least 3, because one or two warm up")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a running contender ends with the race
    results = race(arguments)
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)


if __name__ == "__main__":
    main()
