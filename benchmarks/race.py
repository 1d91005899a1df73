"""The race: bakeoff beside its peers on the same examples, `make race` (or `python benchmarks/race.py --json`).

Every contender runs in a process of its own, one after the other, round after round; a ratio is the median over
rounds of the pairs of one round, so that a machine's slow minutes fall on both sides. A contender whose library is not
installed (`pip install bakeoff[race]`) is left out and named.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from bakeoff.config import DataConfig
from bakeoff.data.sources import load_examples
from bakeoff.data.tokens import encode, save_tokens
from bakeoff.data.tokens import statistics as token_statistics
from bakeoff.environment import environment
from bakeoff.executors.local import ALLOCATOR
from bakeoff.hub import EMBEDDED
from bakeoff.model import choose_precision, default_device
from contenders import BATCH_SIZE, MAX_TOKENS

SHARED = Path(__file__).parent.parent.parent / "shared"
SHAPES = {"gpt2": {}, "tiny": {"n_embd": 64, "n_layer": 2, "n_head": 2}}
CONTENDERS = ("bakeoff", "trainer", "trl", "study")
METHODS = ("lora", "prompt_tuning", "last_layers")
PACKAGES = ("torch", "transformers", "peft", "trl")
WARM_UP_STEPS = 2
TEMPLATE = "{{ document }}\nTL;DR:"


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
    rows = encode(examples, tokenizer, TEMPLATE, MAX_TOKENS, 64, "race")
    save_tokens(folder / "race.tokens.npz", rows)
    return {"data": "dialogsum" if dialogues.exists() else "docstrings", **token_statistics(rows)}


def run(contender: str, method: str, folder: Path, steps: int) -> dict[str, Any] | None:
    """Return a contender's figures, or None where it failed (its last words go to standard error)."""
    command = [sys.executable, str(Path(__file__).parent / "contenders.py"), contender, method, str(folder), str(steps)]
    extra = ALLOCATOR if contender == "bakeoff" else {}  # part of our engine; peers start as their users start them
    done = subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{contender} {method}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def matrix_peak() -> float:
    """Return the FLOP/s of 2048-cubes in the precision that runs use here."""
    dtype = torch.bfloat16 if choose_precision("auto", default_device()) == "bf16" else torch.float32
    a, b = (torch.randn(2048, 2048, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start))
    return best


def race(shape: str, steps: int, rounds: int, methods: list[str], contenders: list[str]) -> dict[str, Any]:
    """Return every contender's figures by method, and their ratios to bakeoff's."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        examples = prepare(folder, shape, steps)
        results: dict[str, list[dict[str, Any]]] = {}
        for number in range(rounds):
            for method in methods:
                for contender in contenders:
                    figures = run(contender, method, folder, steps)
                    if figures:
                        seconds = statistics.median(figures["seconds"][WARM_UP_STEPS:])
                        row = {"step_seconds": seconds, "peak_bytes": figures["peak_bytes"], "round": number}
                        results.setdefault(f"{method}/{contender}", []).append(row)
                        print(
                            f"round {number}: {method} {contender}: {seconds:.3f} s/step", file=sys.stderr, flush=True
                        )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "shape": shape,
        "examples": examples,
        "environment": environment(),
        "versions": {name: installed(name) for name in PACKAGES},
        "matrix_peak_flops": matrix_peak(),
        "table": table(results),
        "rounds": results,
    }


def table(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row a method and contender: medians, and how many times bakeoff's the same rounds took."""
    rows = []
    for key, measured in results.items():
        method, contender = key.split("/")
        ours = {r["round"]: r for r in results.get(f"{method}/bakeoff", [])}
        row: dict[str, Any] = {"method": method, "contender": contender}
        for figure in ("step_seconds", "peak_bytes"):
            row[figure] = statistics.median(r[figure] for r in measured)
            pairs = [r[figure] / ours[r["round"]][figure] for r in measured if r["round"] in ours]
            row[f"{figure}_ratio"] = statistics.median(pairs) if pairs else None
        rows.append(row)
    return rows


def installed(name: str) -> str | None:
    """Return a package's version, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def show(results: dict[str, Any]) -> None:
    """Print the table as Markdown."""
    where, examples = results["environment"], results["examples"]
    hardware = f"{where['processor']}, {where['cores']} cores, {results['matrix_peak_flops'] / 1e9:,.0f} GFLOP/s"
    versions = ", ".join(f"{name} {number or 'not installed'}" for name, number in results["versions"].items())
    print(f"{results['date']}, {hardware}; {results['shape']} shape on {examples['data']}; {versions}\n")
    print("| method | contender | s/step | times bakeoff's | peak MB | times bakeoff's |")
    print("|---|---|---:|---:|---:|---:|")
    for row in results["table"]:
        cells = (row["method"], row["contender"], f"{row['step_seconds']:.3f}", f"{row['step_seconds_ratio']:.2f}",
                 f"{row['peak_bytes'] / 1e6:,.0f}", f"{row['peak_bytes_ratio']:.2f}")  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Race and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chosen = [c for c in arguments.contenders if c != "trl" or installed("trl")]
    results = race(arguments.shape, arguments.steps, arguments.rounds, arguments.methods, chosen)
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)


if __name__ == "__main__":
    main()
