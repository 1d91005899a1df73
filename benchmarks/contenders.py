"""The contenders of the race: `python benchmarks/contenders.py NAME METHOD FOLDER STEPS` runs one, in its own process.

All train the same model on the same examples with AdamW at batch size 8 and print one JSON line: seconds of each
step, real tokens and target tokens of each, peak bytes. The peers are used as their own documentation has it.
"""

import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bakeoff.compute.model.base import adapt, load_base, load_tokenizer
from bakeoff.compute.model.device import choose, native_precision, peak_bytes, reset_peak, wait
from bakeoff.compute.training.batches import epoch_batches
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.trunk_cache import open_trunk
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens, load_tokens
from bakeoff.methods import Method, build_method

DEVICE = choose("auto")
BATCH_SIZE = 8
MAX_TOKENS = 512
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "r": 128, "lora_alpha": 32, "target_modules": ["c_attn"], "learning_rate": 5e-5},
    "prompt_tuning": {"method": "prompt_tuning", "num_virtual_tokens": 6, "learning_rate": 5e-5},
    "last_layers": {"method": "last_layers", "blocks": 1, "head": True, "learning_rate": 5e-5},
}
DROPOUTS = ("attn_pdrop", "embd_pdrop", "resid_pdrop")


def bakeoff(method: Method, folder: Path, steps: int, rows: Sequence[Tokens]) -> dict[str, Any]:
    """bakeoff's own loop; for last layers with the trunk stored, as from the second epoch on."""
    base = load_base(str(folder), native_precision(DEVICE), device=DEVICE)
    for module in base.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # as the peers: what is trained of the base would have it, what is frozen has none anyway
    adapted = adapt(base, method)
    trunk = open_trunk(base, adapted, rows, folder / "trunk/train", None, 2 * BATCH_SIZE)
    marks: list[float] = []

    def report(kind: str, _: dict[str, Any]) -> None:
        if kind == "progress":
            marks.append(time.perf_counter())

    protocol = ProtocolConfig(epochs=1, batch_size=BATCH_SIZE)
    trainer = Trainer(base, adapted, method, protocol, 0, report, {"train": trunk.serving} if trunk else {})
    reset_peak(DEVICE)
    trainer.train(rows, rows[:1])
    batches = epoch_batches([len(row) for row in rows], BATCH_SIZE, 0, 0)
    tokens = [sum(len(rows[i]) for i in members) for members in batches]
    return {"seconds": [b - a for a, b in pairwise(marks)], "tokens": tokens[1:], "peak_bytes": peak_bytes(DEVICE)}


def hugging_face(method: Method, folder: Path, steps: int, rows: Sequence[Tokens], plain: bool) -> dict[str, Any]:
    """HF Trainer with PEFT: at its best, or (`plain`) the study's way: fp32, padded to 512, dropout on, all logits."""
    from transformers import Trainer as HFTrainer
    from transformers import TrainingArguments

    model, tokenizer = peer_model(method, folder, dropout=plain)
    best = {} if plain else {"train_sampling_strategy": "group_by_length", "bf16": native_bf16()}
    arguments = TrainingArguments(**peer_arguments(folder, steps), **best)
    data = [{"input_ids": r.prompt + r.target, "labels": [-100] * len(r.prompt) + r.target} for r in rows]

    def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = MAX_TOKENS if plain else max(len(e["input_ids"]) for e in examples)
        fills = {"input_ids": tokenizer.eos_token_id, "labels": -100}
        batch = {k: [e[k] + [fill] * (width - len(e[k])) for e in examples] for k, fill in fills.items()}
        masks = [[1] * len(e["input_ids"]) + [0] * (width - len(e["input_ids"])) for e in examples]
        return {k: torch.tensor(v) for k, v in (batch | {"attention_mask": masks}).items()}

    trainer = HFTrainer(model=model, args=arguments, train_dataset=data, data_collator=collate)
    return timed(trainer)


def trl(method: Method, folder: Path, steps: int, rows: Sequence[Tokens]) -> dict[str, Any]:
    """TRL's SFTTrainer with its defaults, on prompt and completion texts."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = peer_model(method, folder, dropout=False)
    texts = [
        {"prompt": tokenizer.decode(r.prompt), "completion": tokenizer.decode(r.target, skip_special_tokens=True)}
        for r in rows
    ]
    arguments = SFTConfig(**peer_arguments(folder, steps), max_length=MAX_TOKENS, bf16=native_bf16())
    data = Dataset.from_list(texts)
    return timed(SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer))


def peer_arguments(folder: Path, steps: int) -> dict[str, Any]:
    """Return what a fair race needs of a peer's settings: batch size and steps, and nothing written or shown."""
    return {
        "output_dir": str(folder / "peer"), "per_device_train_batch_size": BATCH_SIZE, "max_steps": steps,
        "learning_rate": 5e-5, "save_strategy": "no", "logging_strategy": "no", "report_to": "none",
        "use_cpu": DEVICE.type == "cpu", "disable_tqdm": True,
    }  # fmt: skip


def timed(trainer: Any) -> dict[str, Any]:
    """Train with a peer's trainer and return seconds and real tokens of each step, and the peak."""
    from transformers import TrainerCallback

    seconds: list[float] = []
    tokens: list[int] = []

    class Timer(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            wait(DEVICE)
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(DEVICE)
            seconds.append(time.perf_counter() - self.start)

    collate = trainer.data_collator

    def counted(examples: list[Any]) -> Any:
        batch = collate(examples)
        tokens.append(int(batch["attention_mask"].sum()))
        return batch

    trainer.data_collator = counted
    trainer.add_callback(Timer())
    reset_peak(DEVICE)
    trainer.train()
    return {"seconds": seconds, "tokens": tokens[: len(seconds)], "peak_bytes": peak_bytes(DEVICE)}


def peer_model(method: Method, folder: Path, dropout: bool) -> tuple[torch.nn.Module, Any]:
    """Return the adapted model in fp32, as the peers' users have it, and its tokenizer."""
    silent = {} if dropout else dict.fromkeys(DROPOUTS, 0.0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **silent)
    tokenizer = load_tokenizer(str(folder))
    tokenizer.pad_token = tokenizer.eos_token
    return method.adapt(model, tokenizer), tokenizer


def native_bf16() -> bool:
    """Return whether the hardware multiplies bf16."""
    return native_precision(DEVICE) == "bf16"


def main() -> None:
    """Run one contender and print its figures."""
    name, kind, folder, steps = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    rows = load_tokens(folder / "race.tokens.bin")[: steps * BATCH_SIZE]
    method = build_method(kind, METHOD_SETTINGS[kind])
    torch.manual_seed(0)
    if name == "bakeoff":
        figures = bakeoff(method, folder, steps, rows)
    elif name == "trl":
        figures = trl(method, folder, steps, rows)
    else:
        figures = hugging_face(method, folder, steps, rows, plain=name == "study")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
