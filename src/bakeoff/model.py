"""The base model: where it comes from, what it weighs, how it is adapted.

Knows nothing of data sets, losses or optimizers.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.activations import NewGELUActivation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from bakeoff.config import Config
from bakeoff.errors import SetupError
from bakeoff.hub import base_identity, explained, resolve
from bakeoff.methods import Method, build_method
from bakeoff.records import write_json

# GPT-2's shape is public knowledge and never changes: a plan needs no network for it.
KNOWN_SHAPES = {"gpt2": GPT2Config, "openai-community/gpt2": GPT2Config}


@dataclass
class Base:
    """A loaded base model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: Any
    device: torch.device
    precision: str  # "fp32" or "bf16"

    @property
    def pad(self) -> int:
        """An id to fill up rows with; nothing is ever read at its places, so any id will do."""
        return self.tokenizer.eos_token_id

    @property
    def decoder_start(self) -> int | None:
        """The id that an encoder-decoder's decoder starts from; None for a causal model."""
        return self.model.config.decoder_start_token_id if self.model.config.is_encoder_decoder else None


def load_base(name: str, precision: str = "auto") -> Base:
    """Return the base model in eval mode with its tokenizer; raise SetupError where it cannot be had.

    `precision` bf16 stores the frozen weights in bf16; what a method trains is made fp32 by `prepare`.
    """
    device = default_device()
    chosen = choose_precision(precision, device)
    dtype = torch.bfloat16 if chosen == "bf16" else torch.float32
    source = resolve(name)
    with explained(name), no_progress_bar():
        family = model_class(AutoConfig.from_pretrained(source))
        model = family.from_pretrained(source, dtype=dtype)
    fuse_activations(model)
    if not model.config.is_encoder_decoder:
        model.config.pad_token_id = None  # else transformers warns of ids without a mask, which right padding needs not
    return Base(model.to(device).eval(), load_tokenizer(name), device, chosen)


def load_tokenizer(name: str, local_files_only: bool = False) -> Any:
    """Return the base's tokenizer; raise SetupError where it cannot be had."""
    with explained(name):
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), local_files_only=local_files_only)
    if not tokenizer("text", add_special_tokens=False)["input_ids"]:
        raise SetupError(f"model: {name}: has no tokenizer files. Copy them from where the weights came from")
    if tokenizer.eos_token_id is None:
        raise SetupError(f"model: {name}: its tokenizer has no end-of-text token, so outputs could never end")
    return tokenizer


def fuse_activations(model: nn.Module) -> None:
    """Replace GPT-2's tanh approximation of GELU, written out in eight passes over memory, by torch's one kernel."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Within, transformers draws no bar: a run's log and the live display have no room for one."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def default_device() -> torch.device:
    """Return the device that runs use."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(asked: str, device: torch.device) -> str:
    """Return fp32 or bf16; auto takes bf16 where the hardware multiplies it natively (protocol rule 4)."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "fp32"


def shape_only(name: str) -> PreTrainedModel:
    """Return the model on the meta device: every shape, no weight, and no network for the shapes known here."""
    source = resolve(name)
    with explained(name), torch.device("meta"):
        config = KNOWN_SHAPES[source]() if source in KNOWN_SHAPES else AutoConfig.from_pretrained(source)
        return model_class(config).from_config(config)


def model_class(config: PreTrainedConfig) -> Any:
    """Return transformers' class for a config's family: causal or encoder-decoder."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def adapt(base: Base, method: Method, gradient_checkpointing: bool = False) -> nn.Module:
    """Return the base adapted by `method` and made ready to train: trained weights fp32, frozen parts in eval mode."""
    base_modules = set(base.model.modules())
    adapted = method.adapt(base.model, base.tokenizer).to(base.device)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    set_modes(base.model, base_modules)
    if gradient_checkpointing:
        base.model.activation_checkpointing_enable({"use_reentrant": False})
        for module in base.model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # only such blocks recompute; what is inside them keeps its mode
    return adapted


def set_modes(module: nn.Module, base_modules: set[nn.Module]) -> None:
    """Put what is trained in train mode and the rest in eval: trained are added modules, and base parts as a whole.

    A frozen part with dropout would make the loss noisy for nothing, and cost its random numbers (protocol rule 4).
    """
    weights = list(module.parameters())
    if module not in base_modules or (weights and all(p.requires_grad for p in weights)):
        module.train()
        return
    module.training = False
    for child in module.children():
        set_modes(child, base_modules)


def for_decoding(base: Base, adapted: nn.Module, precision: str) -> Base:
    """Return the base as greedy decoding calls it, its weights made fp32 in place unless `precision` is bf16.

    A bf16 product rounds by the shape of its batch, and one flipped near tie changes all that follows: on the
    docstring task 2 outputs of 24 differed between batches of 1 and 16.
    """
    if precision == "fp32":
        adapted.float()
    return replace(base, precision=precision)


def trainable(adapted: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters to be trained by name."""
    return {name: p for name, p in adapted.named_parameters() if p.requires_grad}


def count_parameters(adapted: nn.Module) -> tuple[int, int]:
    """Return (trainable, total) parameters; a weight that two modules share counts once."""
    return sum(p.numel() for p in trainable(adapted).values()), sum(p.numel() for p in adapted.parameters())


def inner(adapted: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside, with whatever the method has injected into it."""
    return adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted  # type: ignore[operator]


def save_adapter(folder: Path, adapted: nn.Module, method: Method, config: Config) -> None:
    """Write the adapter, and beside it what `load_adapter` needs: method, settings, base, template."""
    folder.mkdir(parents=True, exist_ok=True)
    method.save(adapted, folder)
    manifest = {
        "method": method.name,
        "settings": method.model_dump(),
        "model": config.model,
        "model_identity": base_identity(config.model),
        "template": config.template,
    }
    write_json(folder / "bakeoff.json", manifest)


def load_adapter(base: Base, folder: Path) -> nn.Module:
    """Return the base with the adapter in `folder` on it, frozen and in eval mode."""
    manifest = json.loads((folder / "bakeoff.json").read_text(encoding="utf-8"))
    method = build_method(manifest["method"], {"method": manifest["method"], **manifest["settings"]})
    return method.load(base.model, folder).to(base.device).requires_grad_(False).eval()
