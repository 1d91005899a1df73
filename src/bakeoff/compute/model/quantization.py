"""Bases whose weight matrices are stored in few bits: how they are loaded, and what shapes tell of them.

bitsandbytes packs a base while it is loaded (`quantize: nf4` or `int8`), tensor by tensor, so that it is never whole in
memory. A checkpoint that is quantised already is loaded as transformers loads it.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, FineGrainedFP8Config, PreTrainedConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer, HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from bakeoff.config.sections import Quantize
from bakeoff.errors import SetupError
from bakeoff.library_errors import one_line
from bakeoff.methods.packed import bits_of

# Checkpoints that are quantised already, by transformers' word, and the packages that read them.
READ_BY = {"bitsandbytes": ("bitsandbytes",), "gptq": ("optimum", "gptqmodel"), "awq": ("gptqmodel",), "fp8": ()}
BLOCK, BLOCKS = 64, 256  # weights with one scale of eight bits, and scales with one scale of 32 bits: bitsandbytes' own
HOW = "Try: quantize: none, or a checkpoint that is not quantised"


def own_config(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a checkpoint's config says about its quantisation; empty if it is not quantised."""
    found = getattr(config, "quantization_config", None) or {}
    return found if isinstance(found, dict) else found.to_dict()


def stored_as(config: PreTrainedConfig) -> str | None:
    """Return transformers' name for a checkpoint's quantisation; None if it is not quantised."""
    found = own_config(config)
    if found.get("load_in_8bit") or found.get("load_in_4bit"):
        return "bitsandbytes"
    return str(getattr(found.get("quant_method"), "value", found.get("quant_method"))) if found else None


def check(name: str, config: PreTrainedConfig, quantize: Quantize = "none") -> None:
    """Raise SetupError if a base cannot be loaded as its checkpoint, or `quantize`, has it on this machine."""
    kind = stored_as(config)
    if kind is not None and quantize != "none":
        raise SetupError(f"quantize: {quantize}: {name} is quantised already ({kind}). {HOW}")
    if kind is not None and kind not in READ_BY:
        raise SetupError(
            f"model: {name}: is quantised by '{kind:.40}', which bakeoff does not load. Allowed: a checkpoint that is "
            "not quantised, or is by bitsandbytes, GPTQ, AWQ or in FP8"
        )
    missing = [package for package in READ_BY.get(kind or "", ()) if find_spec(package) is None]
    if missing:
        raise SetupError(
            f"model: {name}: is quantised ({kind}), which takes {' and '.join(missing)} to load. Try: pip install "
            f"{' '.join(missing)}"
        )
    if quantize != "none" and find_spec("bitsandbytes") is None:
        raise SetupError(f"quantize: {quantize}: needs bitsandbytes. Try: pip install 'bakeoff[quantize]'")


def loading_options(config: PreTrainedConfig, quantize: Quantize, dtype: torch.dtype) -> dict[str, Any]:
    """Return what `from_pretrained` is given to load a base so; FP8 becomes `dtype`, since nothing trains over it."""
    if stored_as(config) == "fp8":
        return {"quantization_config": FineGrainedFP8Config(dequantize=True)}
    return {} if quantize == "none" else {"quantization_config": packing(quantize, dtype)}


def packing(quantize: Quantize, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return transformers' config of a base that bitsandbytes packs; products are in `dtype`."""
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def settle(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make a loaded model's packed layers compute as a comparison needs it.

    On a CPU the other weights lie in the mapped file. As copies they let it go, with what was packed out of it.
    """
    weights = [*model.parameters()]
    if any(map(bits_of, weights)):
        from bakeoff.compute.model import packed_layers

        packed_layers.settle(model, dtype)
        for weight in weights:
            if not bits_of(weight) and weight.device.type == "cpu":
                weight.data = weight.data.clone()


def shape_in(model: PreTrainedModel, quantize: Quantize) -> PreTrainedModel:
    """Return a model on the meta device with the layers that it has once it is loaded with `quantize`.

    Raises SetupError if nothing of it would be quantised.
    """
    kind, config = stored_as(model.config), own_config(model.config)
    if kind in ("gptq", "awq"):
        return marked(model, config)
    if kind != "bitsandbytes" and quantize == "none":
        return model
    from bakeoff.compute.model import packed_layers

    how = packing(quantize, torch.float32) if kind is None else config
    with one_line(f"model: {type(model).__name__}: its quantization_config cannot be used", HOW):
        quantizer = AutoHfQuantizer.from_config(how, pre_quantized=False)
        quantizer.preprocess_model(model, device_map=None)
        quantizer.postprocess_model(model)  # by which PEFT knows which of its layers to take
    packed_layers.without_values(model)
    if not any(map(bits_of, model.parameters())):
        raise SetupError(
            f"quantize: {quantize}: {type(model).__name__} has no weight that bitsandbytes can pack (a linear layer)"
        )
    return model


def marked(model: PreTrainedModel, config: dict[str, Any]) -> PreTrainedModel:
    """Return a model on the meta device whose linear layers say that they are packed; only a GPU's library has them."""
    kept = HfQuantizer.get_modules_to_not_convert(model, config.get("modules_to_not_convert"), add_default_skips=True)
    for name, layer in model.named_modules():
        if type(layer) is nn.Linear and should_convert_module(name, kept):
            vars(layer.weight)["bits"] = config.get("bits", 4)
    return model


def packed_size(model: nn.Module) -> tuple[int, int]:
    """Return how many weights of a model on the meta device are packed, and their bytes with those of their scales."""
    weights, size = 0, 0.0
    for p in model.parameters():
        bits, count = bits_of(p), p.numel()
        if bits:
            weights += count
            size += count * bits / 8 + (4 * len(p) if bits == 8 else count / BLOCK + 4 * count / BLOCK / BLOCKS)
    return weights, round(size)


def scales(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what a model's packed weights are multiplied with, by name: it is in no parameter or buffer."""
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or not bits_of(weight):
            continue
        state: Any = getattr(weight, "quant_state", None)
        if state is not None:
            yield from ((f"{name}.weight.{key}", tensor) for key, tensor in state.as_dict(packed=True).items())
        else:
            from bakeoff.compute.model.packed_layers import scales_of

            yield f"{name}.weight.SCB", scales_of(module)


def packed_parts(model: nn.Module) -> dict[int, Any]:
    """Return what a deep copy shares with its original, by id: packed weights, and the states that unpack them.

    Their classes do not copy all of themselves, and no method changes them.
    """
    packed = [p for p in model.parameters() if type(p) is not nn.Parameter or bits_of(p)]
    states = [state for module in model.modules() if (state := getattr(module, "state", None)) is not None]
    return {id(part): part for part in (*packed, *states)}
