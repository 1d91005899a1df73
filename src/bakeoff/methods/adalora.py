"""AdaLoRA: during training, ranks move to the weights that need them."""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from bakeoff.methods.injected import Injected
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GATHERED = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # PEFT's names of each weight's importance and its averages


@register("adalora")
class AdaLora(Injected):
    """AdaLoRA: LoRA as a singular value decomposition whose least important ranks are cut (Zhang et al. 2023)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2303.10512"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-4, 3e-2)}
    config_class: ClassVar[str] = "AdaLoraConfig"
    ranks: ClassVar[tuple[str, ...]] = ("init_r",)
    fixed: ClassVar[dict[str, Any]] = {"total_step": 1}  # the schedule is set at the first step, which knows it
    tiny: ClassVar[dict[str, Any]] = {"init_r": 6, "target_r": 4}
    moving: ClassVar[frozenset[str]] = frozenset({"total_step", "tinit", "tfinal"})

    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    init_r: int = Field(12, ge=2, description="rank of each update at the start")
    target_r: int = Field(8, ge=1, description="mean rank of the updates at the end")
    lora_alpha: float = Field(32, gt=0, description="the update is scaled by lora_alpha / init_r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")
    tinit_share: float = Field(0.1, ge=0, lt=1, description="share of the steps before ranks are first reduced")
    tfinal_share: float = Field(0.3, ge=0, lt=1, description="share of the steps after ranks are last reduced")
    orth_reg_weight: float = Field(0.5, ge=0, description="weight of the penalty that keeps the factors orthogonal")

    @model_validator(mode="after")
    def _ranks_fall(self) -> "AdaLora":
        if self.target_r >= self.init_r or self.tinit_share + self.tfinal_share >= 1:
            raise ValueError("target_r must be below init_r, and tinit_share + tfinal_share below 1")
        return self

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel."""
        return with_fixed_ranks(super().adapt(model, tokenizer))

    def before_step(self, adapted: "nn.Module") -> None:
        """Add the gradient of the penalty: how far the factors are, on average, from orthogonal ones."""
        import torch

        factors = [p if "lora_A" in n else p.T for n, p in adapted.named_parameters() if "lora_A" in n or "lora_B" in n]
        distances = [torch.linalg.norm(f @ f.T - torch.eye(len(f), device=f.device)) for f in factors]
        (self.orth_reg_weight * torch.stack(distances).mean()).backward()

    def after_step(self, adapted: "nn.Module", step: int, steps: int) -> None:
        """Weigh the ranks by this step's gradients and cut the least important ones, as the schedule says."""
        schedule: Any = adapted.peft_config["default"]  # type: ignore[index]
        schedule.total_step = steps
        schedule.tinit, schedule.tfinal = int(self.tinit_share * steps), int(self.tfinal_share * steps)
        adapted.base_model.update_and_allocate(step)  # type: ignore[operator, union-attr]

    def may_stay_unchanged(self, name: str) -> bool:
        """Return whether a weight may end as it started: singular values may, if their ranks are cut."""
        return "lora_E" in name

    def state(self, adapted: "nn.Module") -> "dict[str, torch.Tensor]":
        """Return importances, and which ranks are left."""
        import torch

        allocator: Any = adapted.base_model.rankallocator  # type: ignore[union-attr]
        kept = allocator.peft_config.rank_pattern or {}
        averages = {f"{part}/{name}": t for part in GATHERED for name, t in getattr(allocator, part).items()}
        return averages | {f"kept/{name}": torch.tensor(ranks) for name, ranks in kept.items()}

    def restore(self, adapted: "nn.Module", state: "dict[str, torch.Tensor]") -> None:
        """Put back what `state` returned."""
        allocator: Any = adapted.base_model.rankallocator  # type: ignore[union-attr]
        device = next(adapted.parameters()).device
        shapes = {name: p.shape for name, p in adapted.get_base_model().named_parameters()}  # type: ignore[operator]
        for key, tensor in state.items():
            part, _, name = key.partition("/")
            if part != "kept" and (part not in GATHERED or shapes.get(name) != tensor.shape):
                raise ValueError(f"{key} is not the importance of a weight of this model")
        kept = {}
        for key, tensor in state.items():
            part, _, name = key.partition("/")
            if part == "kept":
                kept[name] = tensor.tolist()
            else:
                getattr(allocator, part)[name] = tensor.to(device)
        allocator.peft_config.rank_pattern = kept or None

    def save(self, adapted: "nn.Module", folder: "Path") -> None:
        """Write all ranks, cut ones as zeros: the kept checkpoint may be from a step before the last cut."""
        adapted.peft_config["default"].rank_pattern = None  # type: ignore[index, union-attr]
        super().save(adapted, folder)


def with_fixed_ranks(adapted: "nn.Module") -> "nn.Module":
    """Return the model with the divisor of updates frozen, in fp32; over a bf16 base PEFT would train it."""
    for name, parameter in adapted.named_parameters():
        if "ranknum" in name:
            parameter.requires_grad_(False).data = parameter.data.float()
    return adapted
