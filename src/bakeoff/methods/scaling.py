"""Methods that scale activations."""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bakeoff.errors import SetupError, listed
from bakeoff.methods.injected import Injected
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAME_BLOCKS = {"pegasus": "bart", "granite": "llama"}  # architectures that PEFT has no lists for, and which fit them


@register("ia3")
class IA3(Injected):
    """IA3: trained vectors scale keys, values and the inner activations of the feed-forward part (Liu et al. 2022)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2205.05638"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1e-1)}
    config_class: ClassVar[str] = "IA3Config"

    learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of AdamW")
    target_modules: list[str] | str | None = Field(
        None, description="names of the weights whose outputs are scaled; null: PEFT's list for the architecture"
    )
    feedforward_modules: list[str] | None = Field(
        None,
        description="names of those target modules whose inputs are scaled instead; null: PEFT's list for the "
        "architecture",
    )

    def peft_config(self, model: "PreTrainedModel") -> "PeftConfig":
        """Return PEFT's config; for an architecture without PEFT's lists, with those of one with the same blocks."""
        from peft.utils import constants

        config: Any = super().peft_config(model)
        like = SAME_BLOCKS.get(model.config.model_type)
        if like and config.target_modules is None:
            config.target_modules = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[like]
        if like and config.feedforward_modules is None:
            config.feedforward_modules = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[like]
        return config

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel; raise SetupError if a name in `feedforward_modules` is not that of a scaled weight."""
        adapted = super().adapt(model, tokenizer)
        scaled = [n for n, m in adapted.named_modules() if hasattr(m, "is_feedforward")]
        for name in self.feedforward_modules or ():
            if not any(n.endswith(name) for n in scaled):
                known = listed(sorted({n.rpartition(".")[2] for n in scaled}))
                raise SetupError(f"ia3: feedforward_modules: no scaled weight is called '{name}'. Scaled: {known}")
        return adapted
