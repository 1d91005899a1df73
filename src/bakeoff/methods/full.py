"""Full fine-tuning."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bakeoff.methods.base_weights import BaseWeights
from bakeoff.methods.method import register
from bakeoff.methods.packed import bits_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@register("full")
class Full(BaseWeights):
    """Full fine-tuning: every weight is trained; a tied head stays tied (Howard and Ruder 2018)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/1801.06146"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-6, 3e-4)}
    exact_in_half: ClassVar[bool] = False

    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")

    def chosen(self, model: "PreTrainedModel") -> "Iterable[nn.Parameter]":
        """Return all weights but the fixed ones of the architecture, such as Pegasus' sinusoidal positions."""
        return [p for p in model.parameters() if p.requires_grad or bits_of(p)]
