"""Methods that work with the singular vectors of each weight, or with a basis that weights share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch

from pydantic import Field

from bakeoff.methods.injected import Injected, LinearOnly
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register("osf")
class Osf(LinearOnly):
    """OSF: the smaller singular values of each weight are trained, orthogonal to the others (Nayak et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2504.07097"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-5, 1e-3)}
    config_class: ClassVar[str] = "OSFConfig"
    starts_as_base: ClassVar[bool] = False  # but for rounding: what is trained is taken off the weight first

    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    effective_rank: float = Field(
        0.5, gt=0, lt=1, description="share of each weight's singular values, the largest, that stay frozen"
    )


@register("tinylora")
class TinyLora(Injected):
    """TinyLoRA: a short trained vector moves each weight between its main singular vectors (Morris et al. 2026)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2602.04118"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1e-1)}
    config_class: ClassVar[str] = "TinyLoraConfig"
    ranks: ClassVar[tuple[str, ...]] = ("r",)
    starts_as_base: ClassVar[bool] = False
    takes_bits: ClassVar[tuple[int, ...]] = ()

    learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of AdamW")
    r: int = Field(2, ge=1, description="number of singular vectors")
    u: int = Field(64, ge=1, description="numbers that are trained per weight, or per group of weights")
    weight_tying: float = Field(0.0, ge=0, le=1, description="0: a vector per weight; 1: one for all; between: groups")
    projection_seed: int = Field(42, ge=0, description="random seed of the frozen projections")
    tinylora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")


@register("frod")
class Frod(Injected):
    """FRoD: layers of a kind share a frozen basis; its scales and a sparse mixing of it are trained (AAAI 2026)."""

    paper: ClassVar[str] = "https://doi.org/10.1609/aaai.v40i31.39813"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-5, 1e-3)}
    config_class: ClassVar[str] = "FrodConfig"
    fixed: ClassVar[dict[str, Any]] = {"progressbar": False}
    starts_as_base: ClassVar[bool] = False  # but for rounding: the weight is taken apart and put together again
    takes_bits: ClassVar[tuple[int, ...]] = ()

    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    sparse_rate: float = Field(0.01, ge=0, le=1, description="share of the mixing's numbers that are trained")
    regularization_alpha: float = Field(1e-3, gt=0, description="ridge that keeps the basis of similar layers stable")
    projection_prng_key: int = Field(0, ge=0, description="random seed that chooses the mixing's places")
    frod_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of adapted weights")

    @contextmanager
    def installing(self, model: "PreTrainedModel") -> Iterator[None]:
        """Let PEFT take weights apart; a plan has none, and gets a basis of the right shape without values."""
        import torch
        from peft.tuners.frod.layer import FrodLayer
        from peft.tuners.frod.model import FrodModel

        if model.device.type != "meta":
            yield
            return
        with (
            torch.device("cpu"), patch.object(FrodModel, "_init_frod_projections", shapes_of_basis),
            patch.object(FrodLayer, "_calculate_frod_u_and_lambda", lambda _, v, w: (empty(*w.shape), empty(len(v)))),
        ):  # fmt: skip
            yield

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel."""
        import torch
        from torch import nn

        torch.sparse.check_sparse_tensor_invariants.disable()  # torch's default, of which it else warns
        place = model.device
        return nn.Module.to(super().adapt(model, tokenizer), place)


def empty(*shape: int, dtype: Any = None) -> Any:
    """Return a tensor of zeros on the CPU that takes the memory of one number."""
    import torch

    return torch.zeros(1, dtype=dtype).expand(*shape)


def shapes_of_basis(tuner: Any, config: Any, adapter: str) -> None:
    """Give FRoD's tuner what `_init_frod_projections` does, for layers without values."""
    import torch
    from peft.tuners._buffer_dict import BufferDict
    from peft.tuners.frod.model import _category_from_key
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if not hasattr(tuner, "frod_V"):
        tuner.frod_V, tuner.frod_s_indices, tuner.frod_s_size = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
    config = _maybe_include_all_linear_layers(
        tuner._prepare_adapter_config(config, tuner.get_model_config(tuner.model)), tuner.model
    )
    for key, layer in tuner.model.named_modules():
        if not isinstance(layer, nn.Linear | Conv1D) or not tuner._check_target_module_exists(config, key):
            continue
        side = layer.weight.shape[isinstance(layer, nn.Linear)]
        mixed = min(int(side * side * config.sparse_rate), side * side - side)
        mixed = max(1, mixed) if config.sparse_rate and side > 1 else mixed
        kind = _category_from_key(key)
        tuner.frod_V[kind] = BufferDict({adapter: empty(side, side)}, persistent=True)
        tuner.frod_s_indices[kind] = BufferDict({adapter: empty(2, mixed, dtype=torch.long)}, persistent=True)
        tuner.frod_s_size[kind] = BufferDict({adapter: torch.tensor([side, side])}, persistent=True)
