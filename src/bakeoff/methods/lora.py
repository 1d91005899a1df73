"""Low-rank updates of weight matrices."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods.method import Method, register, task_type, with_peft

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register("lora")
class Lora(Method):
    """LoRA: a trained product of two thin matrices is added to chosen frozen weights (Hu et al. 2021)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2106.09685"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-5, 3e-3)}
    starts_as_base: ClassVar[bool] = True

    learning_rate: float = Field(1e-3, gt=0, description="AdamW's peak learning rate")
    r: int = Field(16, ge=1, description="rank of the update")
    lora_alpha: float = Field(32, gt=0, description="the update is scaled by lora_alpha / r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")
    target_modules: list[str] | str = Field(
        "all-linear", description="names of the weights that are updated, or all-linear"
    )

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel whose update starts at zero, so that step 0 equals the base."""
        from peft import LoraConfig
        from transformers.pytorch_utils import Conv1D

        config = LoraConfig(
            task_type=task_type(model),
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.target_modules,
            fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        )
        try:
            return with_peft(model, config)
        except ValueError as error:
            names = sorted(
                {n.rpartition(".")[2] for n, m in model.named_modules() if getattr(m, "weight", None) is not None}
            )
            raise SetupError(
                f"lora: target_modules {self.target_modules}: {str(error).splitlines()[0]} "
                f"This model has: {', '.join(names)}"
            ) from None
