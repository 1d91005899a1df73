"""The contenders of the race: `python benchmarks/contenders.py NAME METHOD FOLDER STEPS` runs one, in its own process.

All train the same model on the same examples with AdamW at batch size 8 and print one JSON line: seconds of each
step, real tokens and target tokens of each, peak bytes. The peers are used as their own documentation has it.
"""

import json
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bakeoff.compute.model.base import adapt, load_base, load_tokenizer
from bakeoff.compute.model.device import choose, native_precision, peak_bytes, reset_peak, wait
from bakeoff.compute.training.batches import epoch_batches
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.trunk_cache import open_trunk
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.token_file import load_tokens
from bakeoff.data.tokens import Tokens
from bakeoff.methods import Method, build_method

DEVICE = choose("auto")
BATCH_SIZE = 8
MAX_TOKENS = 512
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "r": 128, "lora_alpha": 32, "target_modules": ["c_attn"], "learning_rate": 5e-5},
    "prompt_tuning": {"method": "prompt_tuning", "num_virtual_tokens": 6, "learning_rate": 5e-5},
    "last_layers": {"method": "last_layers", "blocks": 1, "head": True, "learning_rate": 5e-5},
}
ATTENTION_INPUTS = ["q_proj", "k_proj", "v_proj"]  # of Qwen3, what c_attn is of GPT-2
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


def trl(method: Method, folder: Path, steps: int, rows: Sequence[Tokens], best: bool) -> dict[str, Any]:
    """TRL's SFTTrainer on prompt and completion texts: with its defaults, or (`best`) packed, with Liger's kernels."""
    model, tokenizer = peer_model(method, folder, dropout=False)
    faster = {"packing": True, "use_liger_kernel": find_spec("liger_kernel") is not None} if best else {}
    return sft(model, tokenizer, folder, steps, rows, faster)


def unsloth(method: Method, folder: Path, steps: int, rows: Sequence[Tokens]) -> dict[str, Any]:
    """Unsloth's LoRA as its documentation has it; it needs a GPU, and knows no other of the race's methods."""
    from unsloth import FastLanguageModel

    settings = method.model_dump()
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=MAX_TOKENS, load_in_4bit=False, dtype=None
    )
    lora = {name: settings[name] for name in ("r", "lora_alpha", "target_modules")}
    model = FastLanguageModel.get_peft_model(model, **lora, lora_dropout=0, bias="none")
    tokenizer.pad_token = tokenizer.eos_token
    return sft(model, tokenizer, folder, steps, rows, {})


def sft(
    model: Any, tokenizer: Any, folder: Path, steps: int, rows: Sequence[Tokens], faster: dict[str, Any]
) -> dict[str, Any]:
    """Train with TRL's SFTTrainer."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    texts = [
        {"prompt": tokenizer.decode(r.prompt), "completion": tokenizer.decode(r.target, skip_special_tokens=True)}
        for r in rows
    ]
    arguments = SFTConfig(**peer_arguments(folder, steps), max_length=MAX_TOKENS, bf16=native_bf16(), **faster)
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
        mask = batch.get("attention_mask")  # there is none of rows that are packed
        tokens.append(int(batch["input_ids"].numel() if mask is None else mask.sum()))
        return batch

    trainer.data_collator = counted
    trainer.add_callback(Timer())
    reset_peak(DEVICE)
    trainer.train()
    return {"seconds": seconds, "tokens": tokens[: len(seconds)], "peak_bytes": peak_bytes(DEVICE)}


def peer_model(method: Method, folder: Path, dropout: bool) -> tuple[torch.nn.Module, Any]:
    """Return the adapted model and its tokenizer: in fp32, as the peers' users have it; on a GPU as it is stored."""
    config = AutoConfig.from_pretrained(folder)
    silent = {} if dropout else {name: 0.0 for name in DROPOUTS if hasattr(config, name)}
    dtype = torch.float32 if DEVICE.type == "cpu" else "auto"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **silent)
    tokenizer = load_tokenizer(str(folder))
    tokenizer.pad_token = tokenizer.eos_token
    return method.adapt(model, tokenizer), tokenizer


def native_bf16() -> bool:
    """Return whether the hardware multiplies bf16 fastest."""
    return native_precision(DEVICE) == "bf16"


def settings_of(kind: str, folder: Path) -> dict[str, Any]:
    """Return the settings of one of the race's methods for a model's architecture."""
    settings = METHOD_SETTINGS[kind]
    gpt2 = AutoConfig.from_pretrained(folder).model_type == "gpt2"
    return settings | {"target_modules": ATTENTION_INPUTS} if kind == "lora" and not gpt2 else settings


def main() -> None:
    """Run one contender and print its figures."""
    name, kind, folder, steps = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    rows = load_tokens(folder / "race.tokens.bin")[: steps * BATCH_SIZE]
    method = build_method(kind, settings_of(kind, folder))
    torch.manual_seed(0)
    if name == "bakeoff":
        figures = bakeoff(method, folder, steps, rows)
    elif name in ("trl", "trl_best"):
        figures = trl(method, folder, steps, rows, best=name == "trl_best")
    elif name == "unsloth":
        figures = unsloth(method, folder, steps, rows)
    else:
        figures = hugging_face(method, folder, steps, rows, plain=name == "study")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
