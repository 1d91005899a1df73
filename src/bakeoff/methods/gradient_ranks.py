"""LoRA whose ranks follow the gradients of the weights that it adapts."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bakeoff.methods.lora import Lora
from bakeoff.methods.method import quiet_peft, register
from bakeoff.methods.saved import load_peft, read_mapping, refuse

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LEAST, MOST = 0.5, 4  # of r: the smallest and the largest rank


@register("gradient_ranks")
class GradientRanks(Lora):
    """LoRA with larger ranks for weights with larger gradients, as in GoRA (He et al. 2025), and as many in all.

    The importance of a weight is the mean of |W * dL/dW| over its numbers and over training examples; its rank is in
    proportion to that, divided by the root of the numbers that a rank takes. GoRA takes the mean of the gradients
    first, which needs room for all of them, and lets the sum of the numbers follow; here it is exactly that of equal
    ranks, so a plan counts it. GoRA's start from the gradients is left out: the factors start as those of LoRA, and
    the scale of every update stays lora_alpha / r.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2502.12171"

    r: int = Field(16, ge=1, description="mean rank of the updates, weighted by the numbers that a rank takes")
    gradient_examples: int = Field(
        64, ge=1, le=100_000, description="training examples whose gradients decide on the ranks, before the first step"
    )

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel with equal ranks, as a plan counts them."""
        adapted = super().adapt(model, tokenizer)
        self.note(adapted, dict.fromkeys(layers_of(adapted), self.r))
        return adapted

    def note(self, adapted: "nn.Module", ranks: Mapping[str, int]) -> Any:
        """Return PEFT's config with the rank of each adapted weight, and the alpha that keeps its scale."""
        config: Any = adapted.peft_config["default"]  # type: ignore[index]
        config.rank_pattern = dict(ranks)
        config.alpha_pattern = {name: self.lora_alpha * rank / self.r for name, rank in ranks.items()}
        return config

    def start(self, adapted: "nn.Module", batches: Sequence[Any], forward: "Callable[[nn.Module, Any], Any]") -> None:
        """Allot the ranks, by one example after another."""
        examples = itertools.islice(itertools.chain.from_iterable(batches), self.gradient_examples)
        layers = layers_of(adapted)
        found = importances(adapted, layers, ([int(example)] for example in examples), forward)
        sizes = [(layer.in_features, layer.out_features) for layer in layers.values()]
        self.set_ranks(adapted, dict(zip(layers, allotted(found, sizes, self.r), strict=True)))

    def set_ranks(self, adapted: "nn.Module", ranks: Mapping[str, int]) -> None:
        """Give each adapted weight new factors of its rank, untrained, and tell PEFT's config."""
        config = self.note(adapted, ranks)
        for name, layer in layers_of(adapted).items():
            layer.update_layer("default", ranks[name], lora_alpha=config.alpha_pattern[name], config=config)
            for factor in (layer.lora_A, layer.lora_B):
                factor["default"].weight.data = factor["default"].weight.data.float()  # PEFT has the base's precision

    def load(self, model: "PreTrainedModel", folder: Path) -> "nn.Module":
        """Return `model` with the adapter in `folder` on it, frozen, with the ranks that its config has."""
        adapted: Any = self.as_saved(model)
        layers, file = layers_of(adapted), folder / "adapter_config.json"
        ranks = read_mapping(file).get("rank_pattern")
        if not isinstance(ranks, dict) or ranks.keys() != layers.keys():
            raise refuse(file, "rank_pattern does not have a rank for each weight that the run's settings adapt")
        tops = {name: top(layer.in_features, layer.out_features, self.r) for name, layer in layers.items()}
        if not all(type(rank) is int and 1 <= rank <= tops[name] for name, rank in ranks.items()):
            raise refuse(file, f"rank_pattern has a rank that is not from 1 to {MOST * self.r}")
        with quiet_peft():
            self.set_ranks(adapted, ranks)
            return load_peft(adapted, folder, self.moving).requires_grad_(False)


def layers_of(adapted: "nn.Module") -> dict[str, Any]:
    """Return PEFT's layers by the names that their weights have in the base."""
    from peft.tuners.lora import LoraLayer

    inside: Any = adapted.base_model.model  # type: ignore[union-attr]
    return {name: layer for name, layer in inside.named_modules() if isinstance(layer, LoraLayer)}


def importances(
    adapted: "nn.Module", layers: Mapping[str, Any], examples: Any, forward: "Callable[[nn.Module, Any], torch.Tensor]"
) -> list[float]:
    """Return for each layer the mean of |W * dL/dW| over the numbers of its weight, summed over examples.

    A gradient exists for one weight at a time: it is made where the gradient of the layer's output arrives.
    """
    import torch
    from peft.utils.integrations import dequantize_module_weight

    found = dict.fromkeys(layers, 0.0)

    def listen(name: str) -> Callable[..., None]:
        def forwarded(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
            x = inputs[0].detach()

            def backward(gradient: Any) -> None:
                weight = dequantize_module_weight(layer.get_base_layer()).detach().float()
                product = gradient.flatten(0, -2).float().T @ x.flatten(0, -2).float()  # (outputs, inputs)
                weight = weight.T if layer.fan_in_fan_out else weight
                found[name] += float((weight * product).abs().mean())

            output.register_hook(backward)

        return forwarded

    hooks = [layer.register_forward_hook(listen(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            for example in examples:
                forward(adapted, example).sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
    adapted.zero_grad()
    return [*found.values()]


def top(inputs: int, outputs: int, rank: int) -> int:
    """Return the largest rank that a weight can have: its smaller side, where that allows more than equal ranks."""
    return max(rank, min(MOST * rank, inputs, outputs))


def allotted(importance: Sequence[float], sizes: Sequence[tuple[int, int]], rank: int) -> list[int]:
    """Return a rank for each weight of `sizes` (inputs, outputs), together as many numbers as with equal ranks.

    From equal ranks on, weights exchange ranks, always as many numbers as they get, as long as the squared distances
    from the ranks in proportion to importance become smaller. So the numbers stay as many, exactly.
    """
    import numpy

    cost = numpy.array([inputs + outputs for inputs, outputs in sizes])
    share = numpy.array(importance) / numpy.sqrt(cost)
    ranks = numpy.full(len(cost), rank)
    if not (numpy.isfinite(share).all() and share.sum() > 0):
        return ranks.tolist()
    least = max(1, math.ceil(LEAST * rank))
    most = numpy.array([top(*size, rank) for size in sizes])
    target = numpy.clip(share * rank * cost.sum() / (share * cost).sum(), least, most)
    target += 1e-3 * share / share.max()  # of two at a limit, the more important one comes first
    kinds = numpy.unique(cost).tolist()
    while True:
        best, giver, taker, given, taken = 1e-9, 0, 0, 0, 0
        for gives, takes in itertools.product(kinds, kinds):
            numbers = math.lcm(gives, takes)
            down, up = numbers // gives, numbers // takes
            less = numpy.where((cost == gives) & (ranks - down >= least), 2 * (ranks - target) - down, -math.inf)
            more = numpy.where((cost == takes) & (ranks + up <= most), 2 * (target - ranks) - up, -math.inf)
            gain = numbers * (less.max() + more.max())
            if gain > best:
                best, giver, taker, given, taken = float(gain), int(less.argmax()), int(more.argmax()), down, up
        if not given:
            return ranks.tolist()
        ranks[giver] -= given
        ranks[taker] += taken
