"""Greedy decoding of trained entries raced: `python benchmarks/decoding.py [--short] [--bases FOLDER ...]`.

bakeoff, HF generate on the adapter as PEFT loads it, and HF generate on the adapter merged into its base decode the
same prompts in fp32 and batches of 16, sorted by length, each in a process of its own, one after the other, round after
round. Every entry is trained for some steps first, so that its outputs end where an adapter's do. Outputs are compared.
`decoding.py CONTENDER JOB` is one contender; JOB is a folder with job.json, tokens and the adapter.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import adapt, for_decoding, load_base, load_tokenizer
from bakeoff.compute.model.device import choose, native_precision, peak_bytes, reset_peak, wait
from bakeoff.compute.training.loop import Trainer
from bakeoff.config.data import DataConfig
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.prompt_format import make_form
from bakeoff.data.sources import load_examples
from bakeoff.data.token_file import load_tokens, save_tokens
from bakeoff.data.tokens import encode
from bakeoff.hub import model_folder
from bakeoff.methods import Method, build_method
from measured import Kept, apart, run

BATCH_SIZE = 16
CONTENDERS = ("bakeoff", "generate", "merged")
ENTRIES: dict[str, dict[str, Any]] = {
    "lora": {"r": 16, "learning_rate": 1e-3},
    "ia3": {"learning_rate": 1e-2},
    "prompt_tuning": {"num_virtual_tokens": 20, "learning_rate": 0.3},
    "last_layers": {"blocks": 2, "head": False, "learning_rate": 1e-3},
}
MERGED = ("lora", "ia3")
FULL = {"steps": 16, "prompts": 48, "new_tokens": 60, "max_tokens": 448}  # the embedded base has 512 positions
SHORT = {"steps": 4, "prompts": 16, "new_tokens": 24, "max_tokens": 192}
DIALOGUES = Path(__file__).parent.parent.parent / "shared/data/dialogsum"


def hf_greedy(model: Any, prompts: list[list[int]], end: int, new_tokens: int) -> list[list[int]]:
    """Return HF generate's greedy outputs as its documentation has it: left padding with a mask, its own cache."""
    outputs = []
    for start in range(0, len(prompts), BATCH_SIZE):
        rows = prompts[start : start + BATCH_SIZE]
        width = max(len(row) for row in rows)
        ids = torch.tensor([[end] * (width - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        with torch.no_grad():
            grown = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, pad_token_id=end,
                use_cache=True,  # the embedded base's own generation config turns it off
            )  # fmt: skip
        # PEFT's soft prompts make generate return new tokens only
        outputs += (grown[:, width:] if grown.shape[1] > new_tokens else grown).tolist()
    return outputs


def method_of(entry: str) -> Method:
    """Return the method of an entry."""
    return build_method(entry, {"method": entry, **ENTRIES[entry]})


def prepare(job: Path, model: str, entry: str, sizes: dict[str, int]) -> None:
    """Write a job: train the entry on a base for some steps, and store its adapter and the prompts to decode."""
    job.mkdir(parents=True)
    device, limit = choose("auto"), sizes["steps"] * 8
    base = load_base(model, native_precision(device), device=device)
    files = {split: str(DIALOGUES / f"{split}.jsonl") for split in ("train", "validation", "test")}
    here = model != "base" and DIALOGUES.exists()  # the embedded base knows docstrings
    data = DataConfig(**(files if here else {"source": "docstrings"}), train_limit=limit, test_limit=sizes["prompts"])
    examples, form = load_examples(data)[0], make_form(base.tokenizer, None, False)
    split = {s: encode(examples[s], form, sizes["max_tokens"], 64, s) for s in ("train", "test")}
    save_tokens(job / "train.bin", split["train"])
    save_tokens(job / "prompts.bin", split["test"])
    train, method = load_tokens(job / "train.bin"), method_of(entry)
    torch.manual_seed(0)
    adapted = adapt(base, method)
    protocol = ProtocolConfig(epochs=1, batch_size=8, trunk_cache="off")
    Trainer(base, adapted, method, protocol, 0, lambda *_: None).train(train, train[:8])
    method.save(adapted, job / "adapter")
    (job / "job.json").write_text(json.dumps({"model": model, "entry": entry, **sizes}))


def contend(name: str, job: Path) -> dict[str, Any]:
    """Decode a job's prompts: once a few to warm up, once all on the clock."""
    facts = json.loads((job / "job.json").read_text())
    device, new_tokens, method = choose("auto"), facts["new_tokens"], method_of(facts["entry"])
    prompts = sorted((row.prompt for row in load_tokens(job / "prompts.bin")), key=len, reverse=True)
    if name == "bakeoff":
        base = load_base(facts["model"], "fp32", device=device)
        end, model = base.tokenizer.eos_token_id, method.load(base.model, job / "adapter").to(device).eval()
        base = for_decoding(base, model, "fp32")
        decode = partial(generate, base, model, max_new_tokens=new_tokens, batch_size=BATCH_SIZE)
    else:
        end, folder = load_tokenizer(facts["model"]).eos_token_id, model_folder(facts["model"])
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
        model = method.load(plain, job / "adapter").to(device).eval()
        model = model.merge_and_unload() if name == "merged" else model
        decode = partial(hf_greedy, model, end=end, new_tokens=new_tokens)
    decode([row[:8] for row in prompts[:2]])
    reset_peak(device)
    wait(device)
    start = time.perf_counter()
    outputs = [row[: row.index(end)] if end in row else row for row in decode(prompts)]
    wait(device)
    seconds = time.perf_counter() - start
    tokens = sum(len(output) for output in outputs)
    return {"seconds": seconds, "tokens": tokens, "peak_bytes": peak_bytes(device), "outputs": outputs}


def measure(name: str, job: Path, model: str, entry: str, sizes: dict[str, int]) -> dict[str, Any] | None:
    """Return a contender's figures on a job, which is prepared for the first one."""
    if not job.exists():
        apart(prepare, job, model, entry, sizes)
    return run("decoding.py", [name, str(job)], name == "bakeoff")


def race_decoding(
    place: Path,
    bases: dict[str, str],
    rounds: int,
    kept: Kept,
    sizes: dict[str, int],
    entries: Sequence[str] = (*ENTRIES,),
) -> list[dict[str, Any]]:
    """Return a row per base and entry: bakeoff's tokens a second, how many times its time others take, equal ones."""
    table = []
    for base, model in bases.items():
        for entry in entries:
            job = place / f"{base} {entry}"
            names = [name for name in CONTENDERS if name != "merged" or entry in MERGED]
            found: dict[str, list[Any]] = {name: [] for name in names}
            for round_ in range(rounds):
                for name in names:
                    take = partial(measure, name, job, model, entry, sizes)
                    found[name].append(kept.take(f"decoding {round_} {base} {entry} {name}", take))
            if any(None in rows for rows in found.values()):
                continue
            table.append({"base": base, "entry": entry, **figures(found)})
            print(f"decoding: {base}, {entry}: {table[-1]['times']}", file=sys.stderr, flush=True)
    return table


def figures(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return what the rounds of all contenders say together."""
    ours = found["bakeoff"]
    outputs = ours[0]["outputs"]
    times = {
        name: statistics.median(t["seconds"] / o["seconds"] for o, t in zip(ours, rows, strict=True))
        for name, rows in found.items()
    }
    same = {
        name: sum(a == b for a, b in zip(outputs, rows[0]["outputs"], strict=True)) / len(outputs)
        for name, rows in found.items()
    }
    return {
        "tokens_per_second": statistics.median(row["tokens"] / row["seconds"] for row in ours),
        "tokens_per_output": ours[0]["tokens"] / len(outputs),
        "times": {name: round(ratio, 2) for name, ratio in times.items() if name != "bakeoff"},
        "equal_outputs": {name: round(share, 3) for name, share in same.items() if name != "bakeoff"},
        "peak_bytes": {name: rows[0]["peak_bytes"] for name, rows in found.items()},
    }


def show_decoding(table: list[dict[str, Any]]) -> None:
    """Print the table as Markdown."""
    print("| base | entry | tokens/s | tokens per output | HF generate | HF generate, merged | equal outputs |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for row in table:
        times = [f"{row['times'][name]:.2f} x" if name in row["times"] else "-" for name in CONTENDERS[1:]]
        speed, length = f"{row['tokens_per_second']:.0f}", f"{row['tokens_per_output']:.0f}"
        cells = [row["base"], row["entry"], speed, length, *times, f"{min(row['equal_outputs'].values()):.0%}"]
        print("| " + " | ".join(cells) + " |")
    print()


def main() -> None:
    """Race and print a table, or be one contender and print one JSON line."""
    if sys.argv[1:2] and sys.argv[1] in CONTENDERS:
        print(json.dumps(contend(sys.argv[1], Path(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bases", nargs="+", default=["base"], metavar="FOLDER", help="`base` is the embedded one")
    parser.add_argument("--entries", nargs="+", choices=ENTRIES, default=[*ENTRIES])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--short", action="store_true", help="16 prompts, 24 tokens: a minute per entry and base")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write measurements to this file, and resume from it")
    asked = parser.parse_args()
    sizes = SHORT if asked.short else FULL
    bases = {"the embedded base" if base == "base" else Path(base).name: base for base in asked.bases}
    with tempfile.TemporaryDirectory() as place:
        kept = Kept(asked.keep, f"decoding {sizes}")
        show_decoding(race_decoding(Path(place), bases, asked.rounds, kept, sizes, asked.entries))


if __name__ == "__main__":
    main()
