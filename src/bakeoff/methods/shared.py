"""Updates whose numbers come from one store that all adapted weights share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods.injected import Injected
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register("unilora")
class UniLora(Injected):
    """Uni-LoRA: every number of all LoRA factors is one of a trained vector's, by a fixed draw (Li et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2506.00799"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-4, 1e-1)}
    config_class: ClassVar[str] = "UniLoraConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    starts_as_base: ClassVar[bool] = False
    takes_bits: ClassVar[tuple[int, ...]] = ()
    tiny: ClassVar[dict[str, Any]] = {"theta_d_length": 200}

    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(4, ge=1, description="rank of the update")
    theta_d_length: int = Field(16_384, ge=1, description="length of the trained vector")
    unilora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")
    init_theta_d_bound: float = Field(0.02, gt=0, description="largest number of the vector at the start")
    proj_seed: int = Field(42, ge=0, description="random seed of the draw")

    @contextmanager
    def installing(self, model: "PreTrainedModel") -> Iterator[None]:
        """Let PEFT count on the CPU how often each number is drawn; a plan has no values to count."""
        import torch

        with torch.device("cpu" if model.device.type == "meta" else model.device):
            yield

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel; raise SetupError if the vector is longer than all factors together."""
        from peft.tuners.unilora.layer import UniLoraLayer
        from torch import nn

        place = model.device
        adapted = nn.Module.to(super().adapt(model, tokenizer), place)
        layers = [layer for layer in adapted.modules() if isinstance(layer, UniLoraLayer)]
        drawn = sum(self.r * (layer.in_features + layer.out_features) for layer in layers)
        if self.theta_d_length > drawn:
            raise SetupError(
                f"{self.name}: theta_d_length: {self.theta_d_length} is more than the {drawn} numbers of all factors, "
                f"so that some would never be used. Try: theta_d_length: {drawn} or less"
            )
        return adapted
