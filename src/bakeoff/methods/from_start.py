"""Full fine-tuning that remembers where it started from."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bakeoff.methods.full import Full
from bakeoff.methods.method import register

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

START = "bakeoff_start"  # set on the adapted model: its weights as they were, by name


class FromStart(Full):
    """A full fine-tuning with a copy of the base's weights beside the trained ones."""

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return `model` itself, unfrozen, with copies of its weights."""
        adapted = super().adapt(model, tokenizer)
        start = {name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad}
        vars(adapted)[START] = start
        return adapted


def beside(start: "torch.Tensor", weight: "nn.Parameter") -> "torch.Tensor":
    """Return where a weight started as the weight itself lies: on its device, and shared out over several as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(weight, DTensor):
        return distribute_tensor(start, weight.device_mesh, weight.placements, src_data_rank=None)
    return start.to(weight)


@register("l2_sp")
class L2SP(FromStart):
    """L2-SP: full fine-tuning with a penalty on the distance from the base's weights (Li et al. 2018)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/1802.01483"

    alpha: float = Field(0.01, gt=0, description="the loss gets alpha / 2 times the squared distance from the start")

    def before_step(self, adapted: "nn.Module") -> None:
        """Add the gradient of the penalty."""
        start = vars(adapted)[START]
        for name, weight in adapted.named_parameters():
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - beside(start[name], weight), alpha=self.alpha)


@register("wise_ft")
class WiseFT(FromStart):
    """WiSE-FT: full fine-tuning, mixed at the end with the base as is best in validation (Wortsman et al. 2021).

    The share of the fine-tuned weights is one of 1/mixtures, 2/mixtures, ... 1.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2109.01903"
    tiny: ClassVar[dict[str, Any]] = {"mixtures": 2}

    mixtures: int = Field(
        5, ge=2, description="number of mixtures that are tried, of which the last is without the base"
    )

    def finish(self, adapted: "nn.Module", validation_loss: "Callable[[], float]") -> bool:
        """Mix the weights with those of the start, as gives the lowest loss."""
        import torch

        start = vars(adapted)[START]
        weights = {name: weight for name, weight in adapted.named_parameters() if name in start}
        ends = {name: weight.detach().clone() for name, weight in weights.items()}

        def mix(share: float) -> None:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(
                        torch.lerp(beside(start[name], weight), ends[name], share) if share < 1 else ends[name]
                    )

        return take_best(mix, validation_loss, self.mixtures)


def take_best(mix: "Callable[[float], None]", validation_loss: "Callable[[], float]", mixtures: int) -> bool:
    """Mix with the share that has the lowest loss of 1/mixtures, 2/mixtures, ... 1; return whether it is below 1.

    `mix(share)` sets the model's weights to so much of the trained ones, and the rest of the base's.
    """
    losses = {}
    for part in range(1, mixtures + 1):
        mix(part / mixtures)
        losses[part] = validation_loss()
    best = min(losses, key=losses.__getitem__)
    mix(best / mixtures)
    return best < mixtures
