"""Full-rank updates with few parameters: products of small matrices, elementwise or Kronecker."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods.injected import Injected
from bakeoff.methods.method import register
from bakeoff.methods.packed import bits_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class FullRank(Injected):
    """A method whose update has the shape of the weight itself, which four bits hide from PEFT."""

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel; raise SetupError if weights are in four bits."""
        if any(bits_of(p) == 4 for p in model.parameters()):
            raise SetupError(f"{self.name}: PEFT cannot add it to weights in four bits. Try: quantize: int8, or lora")
        return super().adapt(model, tokenizer)


@register("loha")
class LoHa(FullRank):
    """LoHa: the update is the elementwise product of two low-rank ones (Hyeon-Woo et al. 2022)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2108.06098"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-2)}
    config_class: ClassVar[str] = "LoHaConfig"

    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(8, ge=1, description="rank of each of the two updates")
    alpha: float = Field(16, gt=0, description="the update is scaled by alpha / r")


@register("lokr")
class LoKr(FullRank):
    """LoKr: the update is the Kronecker product of a small matrix and a low-rank one (Yeh et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2309.14859"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-2)}
    config_class: ClassVar[str] = "LoKrConfig"

    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(8, ge=1, description="rank of the larger factor")
    alpha: float = Field(16, gt=0, description="the update is scaled by alpha / r")
    decompose_factor: int = Field(
        -1, ge=-1, description="size of the small factor; -1: both factors as square as possible"
    )
