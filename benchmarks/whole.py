"""A whole small bakeoff raced against a script per run: 3 methods x (4 trials + 3 seeds) on the embedded base.

`race_whole` runs both and returns seconds. `python benchmarks/whole.py METHOD RATE SEED FOLDER [test]` is the script
that people write today: it imports, loads, trains with HF Trainer at its best and validates every epoch; for a final
run it also tests, generates with HF generate, scores and saves. Both sides are given the same examples and settings.
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

EPOCHS = 2
MAX_TOKENS = 192
OUTPUT_TOKENS = 24
SIZES = {"train": 100, "validation": 30, "test": 30}
TRIALS, SEEDS = 4, 3
ENTRIES: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"num_virtual_tokens": 20},
    "last_layers": {"blocks": 2, "head": False, "final_norm": True},
    "lora": {"r": 16, "lora_alpha": 32},
}


def race_whole(folder: Path) -> dict[str, Any] | None:
    """Return the seconds that a bakeoff and a script per run take for the same runs; None, and why, where one fails."""
    try:
        return race_both(folder)
    except subprocess.CalledProcessError as error:
        print(f"whole: {error}", file=sys.stderr)
        return None


def race_both(folder: Path) -> dict[str, Any]:
    """Return these seconds; raise CalledProcessError where a command fails."""
    config = {
        "name": "whole",
        "data": {"source": "docstrings", **{f"{split}_limit": size for split, size in SIZES.items()}},
        "entries": ENTRIES,
        "tune": {"trials": TRIALS},
        "protocol": {"epochs": EPOCHS, "max_tokens": MAX_TOKENS, "seeds": SEEDS},
        "generation": {"max_new_tokens": OUTPUT_TOKENS},
        "output": str(folder / "whole"),
    }
    file = folder / "whole.yaml"
    file.write_text(json.dumps(config))
    start = time.perf_counter()
    bakeoff = [sys.executable, "-m", "bakeoff", "run", str(file), "--display", "none"]
    subprocess.run(bakeoff, check=True, stdout=subprocess.DEVNULL)
    ours = time.perf_counter() - start

    points = {
        name: entry["trial_points"]
        for name, entry in json.loads((folder / "whole/plan.json").read_text())["entries"].items()
    }
    start = time.perf_counter()
    for name, tried in points.items():
        for settings in tried:
            script(name, settings["learning_rate"], 0, folder, [])
        for seed in range(SEEDS):
            script(name, tried[len(tried) // 2]["learning_rate"], seed, folder, ["test"])
    theirs = time.perf_counter() - start
    return {
        "bakeoff_seconds": ours,
        "scripts_seconds": theirs,
        "ratio": theirs / ours,
        "scripts": len(points) * (TRIALS + SEEDS),
    }


def script(method: str, rate: float, seed: int, folder: Path, extra: list[str]) -> None:
    """Run one script."""
    command = [sys.executable, __file__, method, str(rate), str(seed), str(folder), *extra]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))


def collate(end: int, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Return a batch padded on the right to its longest example."""
    width = max(len(e["input_ids"]) for e in examples)
    rows = [width - len(e["input_ids"]) for e in examples]
    return {
        "input_ids": torch.tensor([e["input_ids"] + [end] * n for e, n in zip(examples, rows, strict=True)]),
        "labels": torch.tensor([e["labels"] + [-100] * n for e, n in zip(examples, rows, strict=True)]),
        "attention_mask": torch.tensor([[1] * (width - n) + [0] * n for n in rows]),
    }


def main() -> None:
    """Train, validate and, for a final run, test one method with HF Trainer."""
    from rouge_score.rouge_scorer import RougeScorer
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    from bakeoff.hub import EMBEDDED
    from bakeoff.methods import build_method
    from bakeoff.store.files import json_object, read_jsonl
    from contenders import DEVICE, DROPOUTS, native_bf16
    from decoding import hf_greedy

    name, rate, seed, folder = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    end = tokenizer.eos_token_id
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32, **dict.fromkeys(DROPOUTS, 0.0))
    model = build_method(name, {"method": name, "learning_rate": rate, **ENTRIES[name]}).adapt(base, tokenizer)

    def encode(row: dict[str, str]) -> dict[str, list[int]]:
        target = [*tokenizer(" " + row["summary"])["input_ids"], end]
        tail = tokenizer("\nTL;DR:")["input_ids"]
        prompt = (
            tokenizer(row["document"])["input_ids"][: MAX_TOKENS - len(tail) - max(len(target), OUTPUT_TOKENS)] + tail
        )
        return {"input_ids": prompt + target, "labels": [-100] * len(prompt) + target, "prompt": prompt}

    raw = {split: list(read_jsonl(folder / f"whole/data/{split}.jsonl", json_object)) for split in SIZES}
    data = {split: [encode(row) for row in rows] for split, rows in raw.items()}
    arguments = TrainingArguments(
        output_dir=str(folder / "script"), per_device_train_batch_size=8, per_device_eval_batch_size=16, seed=seed,
        num_train_epochs=EPOCHS, learning_rate=rate, eval_strategy="epoch", save_strategy="no", report_to="none",
        train_sampling_strategy="group_by_length", bf16=native_bf16(), use_cpu=DEVICE.type == "cpu",
        disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    splits = {"train_dataset": data["train"], "eval_dataset": data["validation"]}
    trainer = Trainer(model=model, args=arguments, data_collator=partial(collate, end), **splits)
    trainer.train()
    if sys.argv[5:] != ["test"]:
        return
    print(trainer.evaluate(data["test"]))
    model.eval()
    ids = hf_greedy(model, [row["prompt"] for row in data["test"]], end, OUTPUT_TOKENS)
    outputs = tokenizer.batch_decode(ids, skip_special_tokens=True)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    print([scorer.score(row["summary"], output) for row, output in zip(raw["test"], outputs, strict=True)][:1])
    if name != "last_layers":
        model.save_pretrained(folder / f"script/{name}-{seed}")


if __name__ == "__main__":
    main()
