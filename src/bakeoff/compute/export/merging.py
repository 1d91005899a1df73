"""Merges an adapter into its base for an export. `compute/model/merging.py` merges for faster decoding."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bakeoff.compute.model.base import Base
from bakeoff.compute.model.forward import prompt_config
from bakeoff.errors import SetupError
from bakeoff.library_errors import one_line
from bakeoff.methods.method import quiet_peft
from bakeoff.methods.packed import bits_of
from bakeoff.methods.twins import transposed, without_twins


def cannot_merge(base: Base, adapted: nn.Module) -> str | None:
    """Return why an adapter cannot become weights of its base, or None if it can."""
    if adapted is base.model:
        return None
    if prompt_config(adapted) is not None:
        return "its virtual tokens are not weights of the base"
    return None if hasattr(adapted, "merge_and_unload") else "PEFT cannot merge it"


@torch.no_grad()
def merged(base: Base, adapted: nn.Module) -> PreTrainedModel:
    """Return the base's model, changed in place, with the adapter in its weights, in the precision that they have.

    Raises SetupError if the adapter cannot be merged, or if the base's weights are packed in few bits.
    """
    if why := cannot_merge(base, adapted):
        raise SetupError(f"{why}, so the adapter cannot be merged")
    if any(map(bits_of, base.model.parameters())):
        raise SetupError("the base's weights are packed in few bits, so no adapter can be merged into them")
    if adapted is base.model:
        return base.model
    with quiet_peft(), one_line("PEFT cannot merge the adapter into this base"):
        return without_twins(adapted.merge_and_unload(safe_merge=True))  # type: ignore[operator]


def unpack(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model, changed in place, with plain linear layers of the same weights, in fp32, for packed ones.

    An adapter that was trained over packed layers fits these. `as_architecture` makes what other programs load.
    """
    from peft.utils.integrations import dequantize_module_weight

    for parent in [*model.modules()]:
        for name, layer in [*parent.named_children()]:
            weight: Any = layer._parameters.get("weight")
            if weight is None or not bits_of(weight):
                continue
            packed: Any = layer
            plain = nn.Linear(packed.in_features, packed.out_features, packed.bias is not None, device="meta")
            plain.weight = nn.Parameter(dequantize_module_weight(layer).detach().float().clone(), requires_grad=False)
            plain.bias = packed.bias
            setattr(parent, name, plain.eval())
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    vars(model).update(hf_quantizer=None, is_loaded_in_4bit=False, is_loaded_in_8bit=False, is_quantized=False)
    return model


def as_architecture(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model, changed in place, with GPT-2's transposed layers where packing had put linear ones."""
    with torch.device("meta"):
        own = dict(type(model)(model.config).named_modules())
    for name, layer in [*model.named_modules()]:
        if type(layer) is nn.Linear and isinstance(own.get(name), Conv1D):
            model.set_submodule(name, transposed(layer))
    return model
