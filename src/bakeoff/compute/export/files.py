"""Writes what others load: a whole model with its tokenizer, an adapter in PEFT's format, or a plain LoRA."""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bakeoff.compute.export.low_rank import Factors
from bakeoff.compute.export.merging import as_architecture
from bakeoff.compute.export.source import Source
from bakeoff.compute.model.adapter_files import no_card
from bakeoff.compute.model.base import DTYPES, Base
from bakeoff.compute.model.loading import model_class, quiet, read_config
from bakeoff.errors import SetupError
from bakeoff.hub import model_folder, on_hub
from bakeoff.methods.method import quiet_peft, task_type
from bakeoff.methods.saved import read_mapping
from bakeoff.store.files import give_rights, write_json

# Files of a tokenizer and of its chat template, in every form that transformers reads. They are copied byte for byte.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "chat_template.json", "chat_template.jinja", "*.model",
)  # fmt: skip
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def write_model(source: Source, base: Base, model: PreTrainedModel, dtype: str | None, folder: Path) -> str:
    """Write a whole model in `dtype`, by default that of the base's own files, with its tokenizer; return the dtype."""
    config = source.config
    own = read_config(config.model, config.pin, model_folder(config.model, config.pin, ask_hub=False))
    dtype = dtype or SHORT.get(str(own.dtype).removeprefix("torch."), "fp32")
    vars(model.config)["pad_token_id"] = own.pad_token_id  # runs need none, and others may
    model.generation_config = generation_config(source, base)
    with quiet():
        nn.Module.to(as_architecture(model), DTYPES[dtype])
        check_finite(model, dtype)
        model.config.dtype = DTYPES[dtype]
        model.save_pretrained(folder)
    write_tokenizer(source, folder)
    give_rights(folder)
    return dtype


def check_finite(model: nn.Module, dtype: str) -> None:
    """Raise SetupError if a weight has left the range of its dtype."""
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise SetupError(f"export: {name} has values outside the range of {dtype}. Try: --dtype fp32, or bf16")


def generation_config(source: Source, base: Base) -> GenerationConfig:
    """Return how evaluation decoded, as transformers' `generate` reads it: greedy, with the same end and length."""
    end, ends = base.tokenizer.eos_token_id, sorted(base.ends)
    return GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=ends if ends[1:] else end, pad_token_id=end,
        bos_token_id=base.tokenizer.bos_token_id,
        decoder_start_token_id=base.decoder_start, max_new_tokens=source.output_tokens,
    )  # fmt: skip


def write_tokenizer(source: Source, folder: Path) -> None:
    """Copy the base's tokenizer with its chat template, if it has one."""
    there = model_folder(source.config.model, source.config.pin, ask_hub=False)
    for file in sorted({file for pattern in TOKENIZER_FILES for file in there.glob(pattern)}):
        shutil.copyfile(file, folder / file.name)


def write_adapter(source: Source, base: Base, folder: Path) -> None:
    """Write the run's adapter in PEFT's format, with tokenizer and generation config, but no folder of this machine."""
    folder.mkdir(exist_ok=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(source.adapter / name, folder / name)
    complete(source, base, folder)


def write_lora(source: Source, base: Base, factors: Factors, folder: Path) -> None:
    """Write factors of weights' changes as a plain LoRA, with tokenizer and generation config."""
    names = [*factors.of]
    layers = dict(base.model.named_modules())
    config = LoraConfig(
        r=factors.rank, lora_alpha=factors.rank, target_modules=shortest(names, [*layers]), lora_dropout=0.0,
        task_type=task_type(base.model), inference_mode=True,
        fan_in_fan_out=any(isinstance(layers[name], Conv1D) for name in names),
    )  # fmt: skip
    with quiet_peft():
        adapted: Any = get_peft_model(base.model, config)
        for name, (a, b) in factors.of.items():
            layer = adapted.get_base_model().get_submodule(name)
            layer.lora_A["default"].weight.data = a
            layer.lora_B["default"].weight.data = b
        with no_card():
            adapted.save_pretrained(str(folder), save_embedding_layers=False)
    complete(source, base, folder)


def shortest(names: list[str], every: list[str]) -> list[str]:
    """Return the last parts of modules' names, if no other module has one of them; else the names themselves."""
    last = {name.rpartition(".")[2] for name in names}
    return sorted(last) if {n for n in every if n.rpartition(".")[2] in last} == {*names} else sorted(names)


def complete(source: Source, base: Base, folder: Path) -> None:
    """Add to an adapter what is needed to load it, and remove the base's folder on this machine from its config."""
    write_tokenizer(source, folder)
    generation_config(source, base).save_pretrained(folder)
    file, name = folder / "adapter_config.json", source.config.model
    named = name if on_hub(name) else Path(name).name
    write_json(file, read_mapping(file) | {"base_model_name_or_path": named, "revision": source.config.revision})
    give_rights(folder)


def plain_base(source: Source) -> PreTrainedModel:
    """Return the base as others load it for an adapter: by transformers alone, in fp32 or packed as in the run."""
    from bakeoff.compute.model.quantization import packing

    config, quantize = source.config, source.run.quantize
    folder = model_folder(config.model, config.pin, ask_hub=False)
    own = read_config(config.model, config.pin, folder)
    how: dict[str, Any] = {"dtype": torch.float32}
    if quantize != "none":
        how = {"quantization_config": packing(quantize, torch.float32)}
    return model_class(own).from_pretrained(folder, **how)
