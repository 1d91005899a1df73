"""Updates with shared or random matrices, of which only a few numbers are trained."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from bakeoff.methods.injected import Injected
from bakeoff.methods.method import register


@register("vera")
class Vera(Injected):
    """VeRA: one frozen random pair of factors for all weights, with trained scales (Kopiczko et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2310.11454"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1e-1)}
    config_class: ClassVar[str] = "VeraConfig"

    learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of AdamW")
    r: int = Field(256, ge=1, description="rank of the frozen factors")
    vera_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")
    d_initial: float = Field(0.1, gt=0, description="initial value of the scales of the first factor")
    projection_prng_key: int = Field(0, ge=0, description="seed of the frozen factors")


@register("pvera")
class Pvera(Injected):
    """PVeRA: VeRA whose inner values are drawn around a trained mean while it trains (Fillioux et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2512.07703"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1e-1)}
    config_class: ClassVar[str] = "PveraConfig"

    learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of AdamW")
    r: int = Field(256, ge=1, description="rank of the frozen factors")
    pvera_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")
    d_initial: float = Field(0.1, gt=0, description="initial value of the scales of the first factor")
    projection_prng_key: int = Field(0, ge=0, description="random seed of the frozen factors")


@register("randlora")
class RandLora(Injected):
    """RandLoRA: sums of frozen random bases of full rank, with trained scales (Albert et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2502.00987"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-2)}
    config_class: ClassVar[str] = "RandLoraConfig"

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    r: int = Field(32, ge=1, description="rank of each random base: a smaller one trains more parameters")
    randlora_alpha: int = Field(640, gt=0, description="the update is scaled by randlora_alpha / r")
    randlora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")
    projection_prng_key: int = Field(0, ge=0, description="random seed of the frozen bases")


@register("vblora")
class VBLora(Injected):
    """VB-LoRA: factors are mixed from the vectors of one trained bank, shared by all weights (Li et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2405.15179"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1e-1)}
    config_class: ClassVar[str] = "VBLoRAConfig"
    starts_as_base: ClassVar[bool] = False
    tiny: ClassVar[dict[str, Any]] = {"vector_length": 8, "num_vectors": 16}

    learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of AdamW")
    r: int = Field(4, ge=1, description="rank of the update")
    num_vectors: int = Field(256, ge=2, description="number of vectors in the bank")
    vector_length: int = Field(
        256, ge=1, description="length of the bank's vectors; it must divide both sides of every adapted weight"
    )
    topk: int = Field(2, ge=1, description="number of the bank's vectors that are mixed at each place")
    vblora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")

    @model_validator(mode="after")
    def _enough_vectors(self) -> "VBLora":
        if self.topk > self.num_vectors:
            raise ValueError(f"topk ({self.topk}) must be at most num_vectors ({self.num_vectors})")
        return self


@register("fourierft")
class FourierFT(Injected):
    """FourierFT: a few trained coefficients of each update's two-dimensional Fourier transform (Gao et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2405.03003"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1e-1)}
    config_class: ClassVar[str] = "FourierFTConfig"
    fixed: ClassVar[dict[str, Any]] = {"init_weights": True}  # coefficients start at zero
    tiny: ClassVar[dict[str, Any]] = {"n_frequency": 50}

    learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of AdamW")
    n_frequency: int = Field(1000, ge=1, description="number of trained coefficients per weight")
    scaling: float = Field(150.0, gt=0, description="the update is scaled by this number")
    random_loc_seed: int = Field(777, ge=0, description="seed that chooses the places of the coefficients")


@register("waveft")
class WaveFT(Injected):
    """WaveFT: a few trained coefficients of each update's wavelet transform (Bilican et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2505.12532"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 3e-2)}
    config_class: ClassVar[str] = "WaveFTConfig"
    takes_bits: ClassVar[tuple[int, ...]] = ()
    tiny: ClassVar[dict[str, Any]] = {"n_frequency": 50}

    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate of AdamW")
    n_frequency: int = Field(2592, ge=1, description="number of trained coefficients per weight")
    scaling: float = Field(25.0, gt=0, description="the update is scaled by this number")
    wavelet_family: str = Field(
        "db1", min_length=1, description="name of the wavelet in PyWavelets, such as db1 or sym2"
    )
    random_loc_seed: int = Field(777, ge=0, description="seed that chooses the places of the coefficients")
