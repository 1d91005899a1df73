"""Methods that turn weights instead of adding to them: products with matrices that keep lengths and angles."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from unittest.mock import patch

from pydantic import Field

from bakeoff.methods.injected import LinearOnly
from bakeoff.methods.method import register

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@register("oft")
class Oft(LinearOnly):
    """OFT: blocks of each weight's inputs are rotated by trained orthogonal matrices (Qiu et al. 2023)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2306.07280"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-5, 3e-3)}
    config_class: ClassVar[str] = "OFTConfig"
    tiny: ClassVar[dict[str, Any]] = {"oft_block_size": 4}

    learning_rate: float = Field(4e-4, gt=0, description="peak learning rate of AdamW")
    oft_block_size: int = Field(32, ge=2, description="inputs in a block; it must divide those of every adapted weight")
    module_dropout: float = Field(0.0, ge=0, lt=1, description="share of the blocks that do not rotate in a step")
    block_share: bool = Field(False, description="one rotation for all blocks of a weight")


@register("boft")
class Boft(LinearOnly):
    """BOFT: OFT whose rotations are products of sparse ones, as in a fast Fourier transform (Liu et al. 2023)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2311.06243"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-2)}
    config_class: ClassVar[str] = "BOFTConfig"
    starts_as_base: ClassVar[bool] = False  # but for rounding: a layer's bias is taken off its output and put back

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    boft_block_size: int = Field(4, ge=2, description="inputs in a block; it must divide those of every adapted weight")
    boft_n_butterfly_factor: int = Field(2, ge=1, description="number of sparse rotations; 1 is OFT")
    boft_dropout: float = Field(0.0, ge=0, lt=1, description="share of the blocks that do not rotate in a step")

    @contextmanager
    def installing(self, model: "PreTrainedModel") -> Iterator[None]:
        """Let PEFT use torch's products: else it compiles a CUDA extension, and where it cannot, it is plain OFT.

        A plan has permutations without values: PEFT fills them in number by number.
        """
        import torch
        from peft.tuners.boft import layer

        layer._FBD_CUDA = Blocks()
        if model.device.type != "meta":
            yield
            return
        empty: Any = {"block_butterfly_perm": lambda _, size, *__: range(size),
                 "perm2mat": lambda _, order: torch.empty(len(order), len(order))}  # fmt: skip
        with patch.multiple(layer.BOFTLayer, **empty):
            yield


class Blocks:
    """What PEFT's CUDA extension for BOFT computes, by torch on any device."""

    def forward(self, blocks: "torch.Tensor") -> "tuple[torch.Tensor]":
        """Return the blocks (rotations, D, H, H) on the diagonals of (rotations, D * H, D * H)."""
        count, side = blocks.shape[1:3]
        whole = blocks.new_zeros(len(blocks), count, side, count, side)
        whole.diagonal(dim1=1, dim2=3).copy_(blocks.movedim(1, -1))
        return (whole.flatten(3, 4).flatten(1, 2),)

    def backward(self, grad: "torch.Tensor", blocks: "torch.Tensor") -> "tuple[torch.Tensor]":
        """Return the gradient of the blocks."""
        count, side = blocks.shape[1:3]
        parts = grad.unflatten(2, (count, side)).unflatten(1, (count, side))
        return (parts.diagonal(dim1=1, dim2=3).movedim(-1, 1),)


@register("hra")
class Hra(LinearOnly):
    """HRA: each weight's inputs are mirrored at trained planes, one after the other (Yuan et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2405.17484"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-2)}
    config_class: ClassVar[str] = "HRAConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    starts_as_base: ClassVar[bool] = False  # but for rounding: pairs of equal mirrors cancel
    tiny: ClassVar[dict[str, Any]] = {"r": 4}

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(8, ge=2, multiple_of=2, description="number of mirrors; even, so that pairs of them can cancel")


@register("psoft")
class Psoft(LinearOnly):
    """PSOFT: a small rotation with trained scales, among each weight's main singular vectors (Wu et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2505.11235"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-2)}
    config_class: ClassVar[str] = "PsoftConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    starts_as_base: ClassVar[bool] = False  # but for rounding: what is rotated is taken off the weight first
    tiny: ClassVar[dict[str, Any]] = {"r": 4, "psoft_alpha": 4}

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(32, ge=2, description="number of singular vectors that are rotated")
    psoft_alpha: int = Field(32, ge=1, description="the rotated part is scaled by psoft_alpha / r")
    psoft_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the rotation")


@register("road")
class Road(LinearOnly):
    """RoAd: pairs of each weight's outputs are rotated and scaled (Liao and Monz 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2409.00119"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-4, 3e-2)}
    config_class: ClassVar[str] = "RoadConfig"
    takes_bits: ClassVar[tuple[int, ...]] = (4, 8)
    tiny: ClassVar[dict[str, Any]] = {"group_size": 4}

    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate of AdamW")
    variant: Literal["road_1", "road_2", "road_4"] = Field(
        "road_1", description="numbers that are trained per output: 1, 2 (own scales) or 4 (own angles as well)"
    )
    group_size: int = Field(
        64,
        ge=2,
        multiple_of=2,
        description="outputs in whose halves the pairs are; it must divide those of every weight",
    )
