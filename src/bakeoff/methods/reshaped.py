"""Updates of weight matrices that are built in other ways than as one product of two thin factors."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from bakeoff.methods.injected import Injected, LinearOnly
from bakeoff.methods.method import register


@register("hira")
class Hira(Injected):
    """HiRA: a low-rank matrix is multiplied with the weight, number by number, and added to it (Huang et al. 2025)."""

    paper: ClassVar[str] = "https://openreview.net/forum?id=TwJrTz9cRS"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-4, 3e-2)}
    config_class: ClassVar[str] = "HiraConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    tiny: ClassVar[dict[str, Any]] = {"r": 4}

    learning_rate: float = Field(4e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(32, ge=1, description="rank of the matrix")
    hira_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")


@register("gralora")
class Gralora(Injected):
    """GraLoRA: the weight is cut into a grid of blocks, each with a LoRA of its own (Jung et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2505.20355"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-5, 3e-3)}
    config_class: ClassVar[str] = "GraloraConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r", "hybrid_r")
    takes_bits: ClassVar[tuple[int, ...]] = ()
    tiny: ClassVar[dict[str, Any]] = {"r": 4, "alpha": 8}

    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate of AdamW")
    r: int = Field(32, ge=1, description="rank of a LoRA with as many numbers; gralora_k must divide it")
    alpha: int = Field(64, gt=0, description="the update is scaled by alpha / (r + hybrid_r)")
    gralora_k: int = Field(
        2, ge=1, description="blocks on each side of the grid; it must divide both sides of a weight"
    )
    hybrid_r: int = Field(0, ge=0, description="rank of a plain LoRA beside the blocks")
    gralora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")


@register("miss")
class Miss(LinearOnly):
    """MiSS: one trained matrix, whose rows shards of the inputs share, makes the update (Kang and Yin 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2409.15371"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-5, 3e-3)}
    config_class: ClassVar[str] = "MissConfig"
    tiny: ClassVar[dict[str, Any]] = {"r": 4}

    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    r: int = Field(64, ge=1, description="number of rows of the trained matrix")
    miss_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")


@register("delora")
class Delora(LinearOnly):
    """DeLoRA: the update's directions and its size are trained apart from each other (Bini et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2503.18225"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-2)}
    config_class: ClassVar[str] = "DeloraConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    tiny: ClassVar[dict[str, Any]] = {"r": 4}

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(32, ge=1, description="rank of the update")
    delora_lambda: int = Field(15, gt=0, description="initial bound of the update's size")
    module_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")


@register("deft")
class Deft(Injected):
    """DEFT: a learnt subspace of each weight is replaced by a trained low-rank part (Kumar et al. 2025)."""

    paper: ClassVar[str] = (
        "https://proceedings.neurips.cc/paper_files/paper/2025/hash/"
        "93a34a7138bdad95e874018d5f491cc6-Abstract-Conference.html"
    )
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-5, 3e-3)}
    config_class: ClassVar[str] = "DeftConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    starts_as_base: ClassVar[bool] = False  # but for rounding: what is taken away is put back
    takes_bits: ClassVar[tuple[int, ...]] = ()
    tiny: ClassVar[dict[str, Any]] = {"r": 4}

    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate of AdamW")
    r: int = Field(32, ge=1, description="dimensions of the subspace")
    decomposition_method: Literal["relu", "qr"] = Field("relu", description="how the subspace is taken from its factor")
    deft_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")


@register("c3a")
class C3A(LinearOnly):
    """C3A: blocks of the weight get an update that is a circular convolution (Chen et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2407.19342"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-2, 1.0)}
    config_class: ClassVar[str] = "C3AConfig"
    fixed: ClassVar[dict[str, Any]] = {"init_weights": True}  # kernels start at zero
    tiny: ClassVar[dict[str, Any]] = {"block_size": 4}

    learning_rate: float = Field(0.1, gt=0, description="peak learning rate of AdamW")
    block_size: int = Field(64, ge=1, description="side of a block; it must divide both sides of every adapted weight")


@register("glora")
class Glora(LinearOnly):
    """GLoRA: each weight and bias is scaled and shifted along several trained paths (Chavan et al. 2023)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2306.07967"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-5, 3e-3)}
    config_class: ClassVar[str] = "GloraConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    tiny: ClassVar[dict[str, Any]] = {"r": 4}

    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    r: int = Field(8, ge=1, description="rank of the paths that are of low rank")
    config_A_B: Literal["lora", "vector", "constant", "none"] = Field(  # noqa: N815
        "lora", description="the path that scales the weight, and the one that is added to it"
    )
    config_C: Literal["lora", "vector", "none"] = Field(  # noqa: N815
        "lora", description="the path from the weight to the bias"
    )
    config_D_E: Literal["vector", "constant", "none"] = Field(  # noqa: N815
        "constant", description="the paths that scale the bias and add to it"
    )

    def may_stay_unchanged(self, name: str) -> bool:
        """Return whether a weight may end as it started: what changes a bias may.

        A bias may be zero; what is added to all keys alike cancels in attention; one number for all outputs cancels in
        a layer norm.
        """
        return any(path in name for path in ("glora_C", "glora_D", "glora_E"))


@register("peanut")
class Peanut(LinearOnly):
    """PEANuT: a small trained network of the weight makes its update, which may be nonlinear (Zhong et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2410.01870"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (3e-5, 3e-3)}
    config_class: ClassVar[str] = "PeanutConfig"
    tiny: ClassVar[dict[str, Any]] = {"r": 4}

    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    r: int = Field(32, ge=1, description="width of the network")
    depth: int = Field(0, ge=0, description="pairs of layers between the network's first and last one")
    act_fn: str = Field("relu", min_length=1, description="transformers' name of the function between its layers")
    scaling: float = Field(1.0, gt=0, description="the update is multiplied by this number")
