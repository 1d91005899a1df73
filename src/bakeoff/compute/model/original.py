"""A loaded model as it was: what its modules and weights had of their own, to which it can be put back.

This undoes whatever was done to the model, and no method needs to know how: what was injected, wrapped, hooked or
exchanged goes, and what was there comes back. Values that were changed where they lie are not put back; hashes tell.
"""

from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

CONTAINERS = (dict, list, set)


def copied(attributes: dict[str, Any], how: Callable[[Any], Any] = copy) -> dict[str, Any]:
    """Return the attributes of a thing with copies of the containers among them."""
    return {name: how(value) if isinstance(value, CONTAINERS) else value for name, value in attributes.items()}


def configs_in(model: nn.Module) -> list[Any]:
    """Return every config that a module of the model has, and the configs within it."""
    found: dict[int, Any] = {}
    left = [value for module in model.modules() for value in vars(module).values()]
    while left:
        value = left.pop()
        if isinstance(value, PreTrainedConfig | GenerationConfig) and id(value) not in found:
            found[id(value)] = value
            left += vars(value).values()
    return list(found.values())


def replace_attributes(thing: Any, attributes: dict[str, Any]) -> None:
    """Let a thing have these attributes and no others."""
    vars(thing).clear()
    vars(thing).update(attributes)


class Original:
    """What a model was when this was made; it holds the model's tensors while others take their place."""

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.modules = [(module, type(module), copied(vars(module))) for module in model.modules()]
        self.weights = [(p, p.data, p.requires_grad, copied(vars(p))) for p in model.parameters()]
        self.configs = [(config, copied(vars(config), deepcopy)) for config in configs_in(model)]

    def put_back(self) -> PreTrainedModel:
        """Make the model what it was, except for values that were changed where they lie, and return it."""
        for module, kind, attributes in self.modules:
            module.__class__ = kind
            replace_attributes(module, copied(attributes))
        for weight, data, trains, attributes in self.weights:
            weight.grad = weight._backward_hooks = None
            weight.requires_grad_(False).data = data
            weight.requires_grad_(trains)
            replace_attributes(weight, dict(attributes))
        for config, attributes in self.configs:
            replace_attributes(config, copied(attributes, deepcopy))
        return self.model

    def beside(self, adapted: nn.Module) -> int:
        """Return the bytes of the tensors that an adapted model does not use any more, and that are held here."""
        used = {place_of(tensor) for tensor in (*adapted.parameters(), *adapted.buffers())}
        return sum(data.nbytes for _, data, *_ in self.weights if place_of(data) not in used)


def place_of(tensor: torch.Tensor) -> int:
    """Return where the memory of a tensor begins."""
    return tensor.untyped_storage().data_ptr()
