"""Full-rank updates with few parameters: products of small matrices, elementwise or Kronecker."""

from typing import ClassVar

from pydantic import Field

from bakeoff.methods.injected import LinearOnly
from bakeoff.methods.method import register


@register("loha")
class LoHa(LinearOnly):
    """LoHa: the update is the elementwise product of two low-rank ones (Hyeon-Woo et al. 2022)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2108.06098"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-2)}
    config_class: ClassVar[str] = "LoHaConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    takes_bits: ClassVar[tuple[int, ...]] = (8,)

    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(8, ge=1, description="rank of each of the two updates")
    alpha: float = Field(16, gt=0, description="the update is scaled by alpha / r")


@register("lokr")
class LoKr(LinearOnly):
    """LoKr: the update is the Kronecker product of a small matrix and a low-rank one (Yeh et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2309.14859"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-2)}
    config_class: ClassVar[str] = "LoKrConfig"
    takes_bits: ClassVar[tuple[int, ...]] = (8,)

    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(
        8,
        ge=1,
        description="rank of the larger factor; from half of that factor's longer side on, it is whole, and r only "
        "divides alpha",
    )
    alpha: float = Field(16, gt=0, description="the update is scaled by alpha / r")
    decompose_factor: int = Field(
        -1, ge=-1, description="size of the small factor; -1: both factors as square as possible"
    )
