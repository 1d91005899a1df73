"""Trained tokens that attention reads beside the text's, through a gate."""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bakeoff.errors import SetupError, listed
from bakeoff.methods.injected import Injected
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


@register("adaption_prompt")
class AdaptionPrompt(Injected):
    """LLaMA-Adapter: the attention of the top blocks also reads trained tokens, through a gate (Zhang et al. 2023)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2303.16199"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1.0)}
    config_class: ClassVar[str] = "AdaptionPromptConfig"
    takes_bits: ClassVar[tuple[int, ...]] = ()
    tiny: ClassVar[dict[str, Any]] = {"adapter_len": 3}

    learning_rate: float = Field(5e-3, gt=0, description="peak learning rate of AdamW")
    target_modules: None = Field(None, description="always null: PEFT's choice, the attention of each block")
    adapter_len: int = Field(10, ge=1, description="number of trained tokens per block")
    adapter_layers: int | None = Field(None, ge=1, description="number of blocks at the top; null: all")

    def peft_config(self, model: "PreTrainedModel") -> "PeftConfig":
        """Return PEFT's config with the number of blocks; raise SetupError if PEFT does not know the attention."""
        from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG

        kind = model.config.model_type
        if kind not in TRANSFORMERS_MODEL_CONFIG:
            raise SetupError(
                f"{self.name}: PEFT has it for {listed(sorted(TRANSFORMERS_MODEL_CONFIG))}, not for {kind}. "
                "Try: prefix_tuning"
            )
        config: Any = super().peft_config(model)
        config.adapter_layers = self.adapter_layers or model.config.num_hidden_layers
        return config
