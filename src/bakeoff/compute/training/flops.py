"""Counts, from shapes, the multiplications of a forward pass of the base and of a training step of a method.

A product needs one multiplication per weight and token; its gradient by the input needs as many, and so does its
gradient by the weight. Attention's own products, which are few in short texts, are not counted.
"""

from collections.abc import Collection, Iterable

from torch import nn
from transformers import PreTrainedModel

from bakeoff.compute.model.base import inner
from bakeoff.compute.model.forward import soft_prompt_config
from bakeoff.compute.training.trunk_cache import find_trunk, stores_trunk
from bakeoff.config.sections import ProtocolConfig
from bakeoff.methods import Method

Products = dict[str, int]  # of every token of a prompt, of every token of a target, and once an example


def forward_products(model: PreTrainedModel) -> Products:
    """Return what a forward pass of the base multiplies; the head is asked at targets only."""
    prompt, target = by_side(model, matrices(model))
    return {"prompt": prompt, "target": target + size(head_of(model)), "example": 0}


def step_products(adapted: nn.Module, method: Method, protocol: ProtocolConfig) -> Products:
    """Return what a training step of an adapted model multiplies: forward, by its inputs, by its trained weights.

    Nothing runs backward below the lowest trained block, nor forward in blocks whose outputs are stored.
    """
    model = inner(adapted)
    body, head = matrices(model), head_of(model)
    above = body - trunk_of(adapted)
    forward = above if stores_trunk(method, protocol) else body
    again = [above] if protocol.gradient_checkpointing else []
    passes = [by_side(model, part) for part in (forward, above, trained(body), *again)]
    prompt, target = (sum(side) for side in zip(*passes, strict=True))
    config = soft_prompt_config(adapted)
    virtual = config.num_virtual_tokens if config else 0
    return {
        "prompt": prompt,
        "target": target + 2 * size(head) + size(trained(head)),
        "example": virtual * prompt,
    }


def trunk_products(adapted: nn.Module, method: Method, protocol: ProtocolConfig) -> Products:
    """Return what a forward pass multiplies in the blocks whose outputs are stored; 0 if there are none."""
    model = inner(adapted)
    prompt, target = by_side(model, trunk_of(adapted) & matrices(model) if stores_trunk(method, protocol) else set())
    return {"prompt": prompt, "target": target, "example": 0}


def trunk_of(adapted: nn.Module) -> set[nn.Parameter]:
    """Return the weights of the blocks below the lowest trained one."""
    return {p for block in find_trunk(adapted)[1] for p in block.parameters()}


def by_side(model: PreTrainedModel, weights: Collection[nn.Parameter]) -> tuple[int, int]:
    """Return how many weights are multiplied with prompt and with target tokens: in a causal model both are all."""
    if not model.config.is_encoder_decoder:
        return size(weights), size(weights)
    encoder = {*model.get_encoder().parameters()}
    inside = size(p for p in weights if p in encoder)
    return inside, size(weights) - inside


def matrices(model: PreTrainedModel) -> set[nn.Parameter]:
    """Return the weights that tokens are multiplied with, without the head; embeddings are only looked up."""
    looked_up = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return {p for p in model.parameters() if p.dim() > 1} - looked_up - head_of(model)


def head_of(model: PreTrainedModel) -> set[nn.Parameter]:
    """Return the weights of the head."""
    return {p for p in model.get_output_embeddings().parameters() if p.dim() > 1}


def trained(weights: Iterable[nn.Parameter]) -> set[nn.Parameter]:
    """Return the weights that train."""
    return {p for p in weights if p.requires_grad}


def size(weights: Iterable[nn.Parameter]) -> int:
    """Return how many numbers the weights have together."""
    return sum(p.numel() for p in weights)
