"""Soft prompts: trained vectors that stand before the text."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bakeoff.methods.method import Method, register, task_type, with_peft

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register("prompt_tuning")
class PromptTuning(Method):
    """Prompt tuning: virtual tokens' embeddings are trained, the model is frozen (Lester et al. 2021)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2104.08691"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1.0)}

    learning_rate: float = Field(0.05, gt=0, description="AdamW's peak learning rate")
    num_virtual_tokens: int = Field(6, ge=1, description="how many vectors are trained")
    prompt_tuning_init_text: str = Field(
        "[SUMMARIZE]",
        min_length=1,
        description="the vectors start as this text's embeddings, repeated or cut to length",
    )

    @property
    def virtual_tokens(self) -> int:
        """How many positions of the context the prompt takes."""
        return self.num_virtual_tokens

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel whose prompt starts as the embedded text.

        The start is written here and not by PEFT's TEXT initialisation, which loads a tokenizer by name again.
        """
        import torch
        from peft import PromptTuningConfig

        config = PromptTuningConfig(
            task_type=task_type(model), num_virtual_tokens=self.num_virtual_tokens, num_transformer_submodules=1
        )
        adapted = with_peft(model, config)
        if tokenizer is not None:
            ids = tokenizer(self.prompt_tuning_init_text, add_special_tokens=False)["input_ids"]
            ids = (ids * self.num_virtual_tokens)[: self.num_virtual_tokens]
            words = model.get_input_embeddings().weight
            prompt = adapted.prompt_encoder[adapted.active_adapter].embedding
            prompt.weight.data = words.data[torch.tensor(ids, device=words.device)].float().clone()
        return adapted
