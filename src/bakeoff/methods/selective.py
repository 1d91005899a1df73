"""Methods that train one kind of small weight in the whole model."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods.base_weights import BaseWeights
from bakeoff.methods.injected import LinearOnly
from bakeoff.methods.method import Method, beside_text, passes_text, register, task_type, with_peft

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register("bias")
class Bias(BaseWeights):
    """Bias only (BitFit): every bias is trained, also those of normalisations (Ben Zaken et al. 2022)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2106.10199"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-1)}

    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate of AdamW")

    def chosen(self, model: "PreTrainedModel") -> "Iterable[nn.Parameter]":
        """Return all biases. Some families, such as Llama and T5, do not have any."""
        biases = [p for n, p in model.named_parameters() if n.endswith(".bias")]
        if not biases:
            raise SetupError(f"bias: {type(model).__name__} has no biases")
        for norm in normalisations(model).values():
            norm.float()  # its kernel takes a scale and a shift of one precision only
        return biases


@register("layer_norm")
class LayerNorm(Method):
    """Layer norm: a copy of every normalisation's scale and shift is trained (Zhao et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2312.11420"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-1)}
    starts_as_base: ClassVar[bool] = True

    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate of AdamW")

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel. PEFT's lists of normalisations are incomplete, so they are found by their class."""
        from peft import LNTuningConfig

        beside = beside_text(model)
        chosen = [name for name in normalisations(model) if passes_text(name, beside)]
        return with_peft(model, LNTuningConfig(task_type=task_type(model), target_modules=chosen))


def normalisations(model: "nn.Module") -> "dict[str, nn.Module]":
    """Return the model's normalisations by name; each architecture has its own class for them."""
    return {n: m for n, m in model.named_modules() if "norm" in type(m).__name__.lower() and hasattr(m, "weight")}


@register("beft")
class Beft(LinearOnly):
    """BEFT: a bias is added to each value projection, and only these are trained (Huang et al. 2025)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2509.15974"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-4, 1e-1)}
    config_class: ClassVar[str] = "BeftConfig"

    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate of AdamW")
    target_modules: list[str] | str | None = Field(
        None, description="names of the weights whose outputs get a bias; null: PEFT's list of value projections"
    )
