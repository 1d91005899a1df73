"""Variants of LoRA of which only parts of the factors are trained, or are kept."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bakeoff.methods.from_start import take_best
from bakeoff.methods.lora import Lora
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Endings of the names of layers that put a block's result back into the residual stream.
BACK = {"o", "wo", "o_proj", "out_proj", "c_proj", "down_proj", "fc2", "dense", "dense_4h_to_h"}


@register("lora_fa")
class LoraFA(Lora):
    """LoRA-FA: LoRA whose first factor stays frozen as it was drawn (Zhang et al. 2023)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2308.03303"

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel with frozen first factors."""
        adapted = super().adapt(model, tokenizer)
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
        return adapted


@register("mica")
class Mica(Lora):
    """MiCA: LoRA whose frozen second factor is each weight's smallest singular vectors (PEFT, 2026)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2604.01694"
    fixed: ClassVar[dict[str, Any]] = {"init_lora_weights": "mica"}
    takes_bits: ClassVar[tuple[int, ...]] = ()


@register("bd_lora")
class BdLora(Lora):
    """BD-LoRA: one factor of each LoRA has blocks on its diagonal only, to be served in shards (Wang et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2510.23346"
    takes_bits: ClassVar[tuple[int, ...]] = ()
    takes_transposed: ClassVar[bool] = False

    nblocks: int = Field(2, ge=1, description="blocks on the diagonal; it must divide r and both sides of every weight")

    def peft_config(self, model: "PreTrainedModel") -> "PeftConfig":
        """Return PEFT's config: the first factor has blocks where a layer ends a part of a block, else the second."""
        from peft.tuners.lora.config import BdLoraConfig
        from torch import nn

        config: Any = super().peft_config(model)
        names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        first = [name for name in names if name.rpartition(".")[2] in BACK]
        config.use_bdlora = BdLoraConfig(
            target_modules_bd_a=first, target_modules_bd_b=sorted({*names} - {*first}), nblocks=self.nblocks
        )
        return config


@register("wise_lora")
class WiseLora(Lora):
    """WiSE-FT of LoRA: its update is scaled down at the end as is best in validation (Wortsman et al. 2021).

    The share of the update that is kept is one of 1/mixtures, 2/mixtures, ... 1.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2109.01903"

    mixtures: int = Field(5, ge=2, description="number of shares that are tried, of which the last is the whole update")

    def finish(self, adapted: "nn.Module", validation_loss: "Callable[[], float]") -> bool:
        """Scale the update, which mixes the adapted weights with those of the base, as gives the lowest loss."""
        import torch
        from peft.tuners.lora import LoraLayer

        factors = [layer.lora_B["default"].weight for layer in adapted.modules() if isinstance(layer, LoraLayer)]
        ends = [factor.detach().clone() for factor in factors]

        def mix(share: float) -> None:
            with torch.no_grad():
                for factor, end in zip(factors, ends, strict=True):
                    factor.copy_(share * end)

        return take_best(mix, validation_loss, self.mixtures)
