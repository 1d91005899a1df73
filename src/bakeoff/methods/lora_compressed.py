"""LoRA that is trained with more ranks than it keeps."""

from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from bakeoff.methods.lora import RankStabilizedLora
from bakeoff.methods.method import register

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


@register("lora_compressed")
class LoraCompressed(RankStabilizedLora):
    """rsLoRA of a large rank, cut at the end to the largest singular values of each update (PEFT, 2026).

    The cut is that of PEFT's conversion to LoRA. What is validated, scored and saved is the smaller adapter.
    """

    paper: ClassVar[str] = "https://huggingface.co/docs/peft/package_reference/lora_conversion"
    tiny: ClassVar[dict[str, Any]] = {"r": 4, "saved_r": 4}

    r: int = Field(64, ge=1, description="rank of the update while it is trained")
    saved_r: int = Field(32, ge=1, description="rank of the update that is kept; at most r")

    @model_validator(mode="after")
    def _smaller(self) -> "LoraCompressed":
        if self.saved_r > self.r:
            raise ValueError(f"saved_r ({self.saved_r}) must be at most r ({self.r})")
        return self

    def finish(self, adapted: "nn.Module", validation_loss: "Callable[[], float]") -> bool:
        """Cut each update to the rank that is kept; the other ranks become zeros."""
        import torch
        from peft.tuners.lora import LoraLayer

        for layer in adapted.modules():
            if isinstance(layer, LoraLayer):
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                with torch.no_grad():
                    for factor, kept, axis in zip((a, b), largest(a, b, self.saved_r), (0, 1), strict=True):
                        factor.zero_().narrow(axis, 0, kept.shape[axis]).copy_(kept)
        return self.saved_r < self.r

    def as_saved(self, model: "PreTrainedModel") -> "nn.Module":
        """Return a PeftModel with the rank that is kept."""
        kept = self.model_copy(update={"r": self.saved_r, "lora_alpha": self.saved_alpha()})
        return super(LoraCompressed, kept).adapt(model, None)

    def saved_alpha(self) -> float:
        """Return the value by which the smaller adapter has the scale of the larger one."""
        return self.lora_alpha * (self.saved_r / self.r) ** 0.5

    def save(self, adapted: "nn.Module", folder: Path) -> None:
        """Write the ranks that are kept as an rsLoRA of this rank."""
        configs: Any = adapted.peft_config
        whole, configs["default"] = configs["default"], copy(configs["default"])
        configs["default"].r, configs["default"].lora_alpha = self.saved_r, self.saved_alpha()
        factors = {
            name: weight.narrow(0 if "lora_A" in name else 1, 0, self.saved_r)
            for name, weight in adapted.named_parameters()
            if "lora_" in name
        }
        try:
            adapted.save_pretrained(str(folder), state_dict=factors, save_embedding_layers=False)  # type: ignore[operator]
        finally:
            configs["default"] = whole


def largest(a: "torch.Tensor", b: "torch.Tensor", rank: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the product of factors a (r, inputs) and b (outputs, r) by its `rank` largest singular values, as factors.

    The decomposition is of a matrix (r, r) between orthogonal ones, which is far smaller than the product.
    """
    import torch

    left, inner_left = torch.linalg.qr(b.float())
    right, inner_right = torch.linalg.qr(a.float().T)
    u, s, v = torch.linalg.svd(inner_left @ inner_right.T)
    root = s[:rank].sqrt()
    return (root[:, None] * v[:rank]) @ right.T, left @ (u[:, :rank] * root)
