"""Linear twins of GPT-2's transposed layers, for tuners of PEFT that know linear layers only."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

TWIN = "transposed_twin"  # set on a linear layer that stands in for a transposed one


def with_twins(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return the model, changed in place: a linear layer for each layer that stores its weight (inputs, outputs).

    The twin's weight is another view of the same numbers, so that no memory is needed and products are the same, bit
    for bit. Names of weights stay.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for name, layer in [*model.named_modules()]:
        if isinstance(layer, Conv1D):
            inputs, outputs = layer.weight.shape
            twin = nn.Linear(inputs, outputs, device="meta")
            twin.weight = nn.Parameter(layer.weight.detach().T, requires_grad=layer.weight.requires_grad)
            twin.bias = layer.bias
            setattr(twin, TWIN, True)
            model.set_submodule(name, twin.train(layer.training))
    return model


def has_twins(model: "nn.Module") -> bool:
    """Return whether some of the model's layers are linear twins, which nobody else has who loads the base."""
    return any(hasattr(layer, TWIN) for layer in model.modules())


def without_twins(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return the model, changed in place, with layers as GPT-2 has them in place of their linear twins."""
    for name, layer in [*model.named_modules()]:
        if hasattr(layer, TWIN):
            model.set_submodule(name, transposed(layer))
    return model


def transposed(layer: "nn.Linear") -> "nn.Module":
    """Return a frozen layer that stores a linear layer's weight (inputs, outputs), as GPT-2's architecture has it."""
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        twin = Conv1D(layer.out_features, layer.in_features)
    twin.weight = nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=False)
    twin.bias = layer.bias
    return twin.eval()
