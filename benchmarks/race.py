"""The race: bakeoff beside its peers on the same examples, `make race` (or `python benchmarks/race.py --json`).

Every contender runs in a process of its own, one after the other, round after round; a ratio is the median over
rounds of the pairs of one round, so that a machine's slow minutes fall on both sides. A contender whose library is not
installed (`pip install bakeoff[race]`) is left out and named. `--keep FILE` notes every measurement as it is made: the
same command resumes after an interrupt, and measures nothing twice.
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, PreTrainedConfig, Qwen3Config

import bakeoff
from bakeoff.compute.model.device import choose
from bakeoff.config.data import DataConfig
from bakeoff.data.prompt_format import make_form
from bakeoff.data.sources import load_examples
from bakeoff.data.token_file import load_tokens, save_tokens
from bakeoff.data.tokens import encode
from bakeoff.data.tokens import statistics as token_statistics
from bakeoff.driver.environment import environment
from bakeoff.hub import EMBEDDED
from contenders import BATCH_SIZE, MAX_TOKENS, METHOD_SETTINGS, settings_of
from decoding import FULL, race_decoding, show_decoding
from measured import Kept, apart, run
from one_document import one_document
from useful import matrix_peak, useful_flops
from whole import race_whole

SHARED = Path(__file__).parent.parent.parent / "shared"
SHAPES: dict[str, dict[str, int]] = {
    "gpt2": {},
    "tiny": {"n_embd": 64, "n_layer": 2, "n_head": 2},
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 151936},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
    "tiny Qwen3": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "head_dim": 16},
}  # fmt: skip
CONTENDERS = {"bakeoff": None, "trainer": None, "trl": "trl", "trl_best": "trl", "unsloth": "unsloth", "study": None}
PARTS = ("training", "decoding", "fixed", "document", "whole")
PACKAGES = ("torch", "transformers", "peft", "trl", "liger-kernel", "unsloth")
WARM_UP_STEPS = 1


def prepare(folder: Path, shape: str, steps: int) -> dict[str, Any]:
    """Write a seeded random model of the shape, its tokenizer and the examples' ids; return the examples' facts."""
    gpt2 = SHARED / "models/gpt2-tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(gpt2 if gpt2.exists() else EMBEDDED)
    tokenizer.save_pretrained(folder)
    kind = Qwen3Config if "head_dim" in SHAPES[shape] else GPT2Config
    config = kind(**{"vocab_size": len(tokenizer), **SHAPES[shape]})
    config.bos_token_id = config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    # As checkpoints of that size are: in bf16.
    apart(save_random, folder, config, torch.float32 if kind is GPT2Config else torch.bfloat16)
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


def save_random(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Save a seeded random model, made on the device that is used."""
    torch.manual_seed(0)
    with torch.device(choose("auto")):
        AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)


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
    config = AutoConfig.from_pretrained(folder)
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
        row["share_of_peak"] = (
            useful_flops(settings_of(method, folder), config, rows) / steps / row["step_seconds"] / peak
        )
        table.append(row)
    return table


def fixed_cost(folder: Path, model: str) -> float:
    """Return the seconds that one more run costs beside its own work: by bakeoffs of 2 and of 10 runs on one example.

    Its work is what its clocks call training, evaluation and generation; starting, loading, checks, saving and
    loading again are not.
    """
    example = json.dumps({"document": "One two three four five six.", "summary": "One two."}) + "\n"
    (folder / "one.jsonl").write_text(example)
    settings = settings_of("lora", EMBEDDED if model == "base" else Path(model))
    seconds = []
    for seeds in (2, 10):
        config = {
            "model": model, "data": dict.fromkeys(("train", "validation", "test"), str(folder / "one.jsonl")),
            "entries": {"lora": settings}, "output": str(folder / f"fixed-{Path(model).name}-{seeds}"),
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
    if "decoding" in results:
        print("Decoding, batch 16, fp32; HF's time is given as times bakeoff's\n")
        show_decoding(results["decoding"])
    if whole := results.get("whole"):
        print(f"A whole bakeoff on the embedded base: {whole['bakeoff_seconds']:.0f} s, {whole['scripts']} scripts "
              f"{whole['scripts_seconds']:.0f} s: {whole['ratio']:.2f} times")  # fmt: skip
    for name, cost in results.get("fixed_seconds", {}).items():
        print(f"One more run on {name} costs {cost:.2f} s beside its own work")
    for name, row in results.get("document", {}).items():
        print(f"One document on {name} takes bakeoff generate {row['bakeoff_seconds']:.1f} s, a script "
              f"{row['script_seconds']:.1f} s: {row['ratio']:.2f} times; outputs equal: {row['equal']}")  # fmt: skip


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
    contenders = [c for c in arguments.contenders if CONTENDERS[c] is None or installed(CONTENDERS[c])]
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
            "matrix_peak_flops": kept.take("matrix peak", partial(apart, matrix_peak)),
        }
        models = {"the embedded base": "base", f"the {arguments.shape} shape": str(folder)}
        if "training" in arguments.parts:
            measured = race_training(folder, arguments.steps, arguments.rounds, arguments.methods, contenders, kept)
            results["rounds"] = measured
            results["training"] = training_table(folder, measured, results["matrix_peak_flops"])
        bases = {**models, **{Path(base).name: base for base in arguments.base}}
        if "decoding" in arguments.parts:
            results["decoding"] = race_decoding(folder, bases, arguments.rounds, kept, FULL)
        if "fixed" in arguments.parts:
            results["fixed_seconds"] = {
                name: kept.take(f"fixed {name}", partial(fixed_cost, folder, model)) for name, model in models.items()
            }
        if "document" in arguments.parts:
            results["document"] = {
                name: kept.take(f"document {name}", partial(one_document, folder, model, arguments.rounds))
                for name, model in bases.items()
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
        "--base",
        action="append",
        default=[],
        metavar="FOLDER",
        help="also decode, and write one document, with this base",
    )
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
