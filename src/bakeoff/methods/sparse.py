"""Methods that train a few single numbers of each weight, whose places are fixed at the start."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from bakeoff.methods.injected import LinearOnly
from bakeoff.methods.method import register
from bakeoff.methods.twins import TWIN, with_twins

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register("shira")
class Shira(LinearOnly):
    """SHiRA: as many numbers of each weight as a LoRA has are trained, at random places (Bhardwaj et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2406.13175"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-5, 3e-3)}
    config_class: ClassVar[str] = "ShiraConfig"
    tiny: ClassVar[dict[str, Any]] = {"r": 4}

    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    r: int = Field(32, ge=1, description="rank of a LoRA with as many trained numbers")
    random_seed: int = Field(0, ge=0, description="random seed that chooses the places")

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel."""
        import torch

        torch.sparse.check_sparse_tensor_invariants.disable()  # torch's default, of which it else warns
        return super().adapt(model, tokenizer)

    def peft_config(self, model: "PreTrainedModel") -> "PeftConfig":
        """Return PEFT's config with places that are drawn on the CPU, where a plan can count them."""
        config: Any = super().peft_config(model)
        config.mask_fn = on_cpu(config.mask_fn)
        return config


def on_cpu(mask: "Callable[..., torch.Tensor]") -> "Callable[..., torch.Tensor]":
    """Return PEFT's function for the mask of a layer, computed on the CPU and put where the layer is, if it can be."""
    import torch
    from torch import nn

    def drawn(layer: "nn.Linear", r: int, **how: Any) -> torch.Tensor:
        with torch.device("cpu"):
            places = mask(nn.Linear(layer.in_features, layer.out_features, bias=False), r, **how)
        return places if layer.weight.device.type == "meta" else places.to(layer.weight.device)

    return drawn


@register("supertuning")
class Supertuning(LinearOnly):
    """Super-Tuning: the numbers of each weight that are largest, or smallest, in size are trained (PEFT, 2026)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2607.09287"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 3e-2)}
    config_class: ClassVar[str] = "SupertuningConfig"
    tiny: ClassVar[dict[str, Any]] = {"sparsity": 0.9}

    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    sparsity: float = Field(0.99, ge=0, lt=1, description="share of each weight's numbers that stay frozen")
    select_top: bool = Field(True, description="train the largest numbers; false: the smallest")
    r: int | None = Field(None, ge=1, description="rank of a LoRA that is trained beside them; null: none")
    lora_alpha: float | None = Field(None, gt=0, description="the LoRA is scaled by lora_alpha / r; null: 2 r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the LoRA")

    @model_validator(mode="after")
    def _lora_is_there(self) -> "Supertuning":
        if self.r is None and (self.lora_alpha is not None or self.lora_dropout):
            raise ValueError("lora_alpha and lora_dropout have no effect without r. Try: r: 8")
        return self

    def prepared(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """Return the model with twins that have weights of their own: PEFT merges into a copy of a view."""
        for layer in with_twins(model).modules():
            if hasattr(layer, TWIN):
                weight: Any = layer.weight
                weight.data = weight.data.contiguous()
        return model
