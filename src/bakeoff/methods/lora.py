"""Low-rank updates of weight matrices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch

from pydantic import Field

from bakeoff.methods.injected import Injected
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@register("lora")
class Lora(Injected):
    """LoRA: a trained product of two thin matrices is added to chosen frozen weights (Hu et al. 2021)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2106.09685"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-5, 3e-3)}
    config_class: ClassVar[str] = "LoraConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    tiny: ClassVar[dict[str, Any]] = {"r": 4}

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(16, ge=1, description="rank of the update")
    lora_alpha: float = Field(32, gt=0, description="the update is scaled by lora_alpha / r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")


@register("rslora")
class RankStabilizedLora(Lora):
    """rsLoRA: LoRA scaled by the root of its rank, so that large ranks learn as fast (Kalajdzievski 2023)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2312.03732"
    fixed: ClassVar[dict[str, Any]] = {"use_rslora": True}

    lora_alpha: float = Field(8, gt=0, description="the update is scaled by lora_alpha / sqrt(r)")


@register("dora")
class Dora(Lora):
    """DoRA: LoRA for the direction of each weight's columns, a trained scale for their length (Liu et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2402.09353"
    fixed: ClassVar[dict[str, Any]] = {"use_dora": True}
    exact_in_half: ClassVar[bool] = False  # the product of scale and direction is rounded once more

    def as_saved(self, model: "PreTrainedModel") -> "nn.Module":
        """Return a PeftModel whose scales have no values yet: they would start as the norms of whole matrices."""
        with scales_without_values():
            return super().as_saved(model)


@contextmanager
def scales_without_values() -> Iterator[None]:
    """Let PEFT add DoRA to linear layers without computing the scales that it starts with."""
    from peft.tuners.lora.dora import DoraLinearLayer
    from torch import nn

    start = DoraLinearLayer.update_layer

    def empty(layer: Any, *, lora_B: Any, **given: Any) -> None:  # noqa: N803
        if type(layer) is not DoraLinearLayer:
            start(layer, lora_B=lora_B, **given)
            return
        layer.weight = nn.Parameter(lora_B.new_empty(len(lora_B)))

    with patch.object(DoraLinearLayer, "update_layer", empty):
        yield


@register("lora_plus")
class LoraPlus(Lora):
    """LoRA+: LoRA whose second factor has a larger learning rate (Hayou et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2402.12354"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-5, 1e-3)}

    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW for the first factor")
    loraplus_lr_ratio: float = Field(
        16, ge=1, description="learning rate of the second factor divided by that of the first"
    )

    def lr_scale(self, name: str) -> float:
        """Return the ratio for the second factor."""
        return self.loraplus_lr_ratio if "lora_B" in name else 1.0
